"""From what nodes count to what is shown: rates, quantiles, and events between two looks. Pure.

Figures are those of GET /metrics (docs/operating.md); one that a node does not have is None, not 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from wukong.cli.cluster.status import ClusterStatus, NodeStatus
from wukong.histogram import quantile

SYNC: Final = "wukong_wal_sync_duration_seconds"
_OKS: Final = {"voter": "ok", "unknown": "ok"}
NAMED_SLOTS: Final = 6
"""So many slots are named in one event; of more only the count."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Of one node. at_s: monotonic seconds when it was read. values: figure -> number, of those without labels. syncs:
    durable writes that took up to so many seconds, counted up, by the upper ends."""

    at_s: float
    node: int = 0
    version: str = ""
    values: Mapping[str, float] = {}
    syncs: Mapping[float, float] = {}

    def value(self, name: str) -> float | None:
        return self.values.get(name)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at everybody. readings: by URL; faults: URL -> why it did not answer. status: of any node."""

    status: ClusterStatus | None = None
    readings: Mapping[str, Reading] = {}
    faults: Mapping[str, str] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One node. state: ok, down, joining, ...; why: what is wrong, "" for nothing. Rates per second since the last
    look. lag: entries of the log it lacks. queue: commands under way; webhooks: events that wait."""

    node: int
    url: str
    state: str
    why: str = ""
    leads: int | None = None
    sessions: int | None = None
    send_per_s: float | None = None
    recv_per_s: float | None = None
    lag: int | None = None
    loop_ms: float | None = None
    fsync_p99_ms: float | None = None
    queue: int | None = None
    apply_backlog_bytes: int | None = None
    webhooks: int | None = None
    version: str = ""

    @property
    def is_well(self) -> bool:
        return not self.why


def read_metrics(text: str, at_s: float) -> Reading:
    """Raises ValueError for what is no metrics."""
    values: dict[str, float] = {}
    syncs: dict[float, float] = {}
    node, version = 0, ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "wukong_info":
                node, version = int(sample.labels.get("node_id", 0)), sample.labels.get("version", "")
            elif sample.name == f"{SYNC}_bucket":
                syncs[float(sample.labels["le"])] = sample.value
            elif not sample.labels:
                values[sample.name] = sample.value
    return Reading(at_s=at_s, node=node, version=version, values=values, syncs=syncs)


# -- rows


def rows(now: Look, before: Look, numbers: Mapping[str, int]) -> list[Row]:
    """numbers: URL -> node, as far as it is known from earlier looks."""
    told = {node.id: node for node in now.status.nodes} if now.status is not None else {}
    found: dict[int, Row] = {}
    strangers = []
    for url in (*now.readings, *now.faults):
        reading = now.readings.get(url)
        node = (reading.node if reading is not None else 0) or numbers.get(url, 0) or _node_at(url, told)
        row = _row(node, url, told.get(node), reading, before.readings.get(url), now.faults.get(url, ""))
        if not node:
            strangers.append(row)
        elif node not in found:  # those that answered come first
            found[node] = row
    for node, status in told.items():
        # One that is in no table is not of this cluster, or no more.
        if node not in found and status.state != "unknown":
            found[node] = _row(node, status.api_url, status, None, None, "")
    return [*(found[node] for node in sorted(found)), *strangers]


def _node_at(url: str, told: Mapping[int, NodeStatus]) -> int:
    return next((node.id for node in told.values() if node.api_url.rstrip("/") == url), 0)


def _row(
    node: int, url: str, status: NodeStatus | None, reading: Reading | None, last: Reading | None, fault: str
) -> Row:
    state, why = _state(status, reading, fault)
    row = Row(
        node=node,
        url=url,
        state=state,
        why=why,
        leads=status.leads if status is not None else None,
        lag=status.lag_entries if status is not None else None,
        version=status.version if status is not None else "",
    )
    if reading is None:
        return row
    loop_lag_s = reading.value("wukong_loop_lag_seconds")
    return msgspec.structs.replace(
        row,
        leads=_whole(reading.value("wukong_slots_led")),
        sessions=_whole(reading.value("wukong_sessions")),
        send_per_s=_rate(reading, last, "wukong_sends_total", "wukong_api_messages_total"),
        recv_per_s=_rate(reading, last, "wukong_recvs_written_total"),
        lag=_whole(reading.value("wukong_lag_entries")),
        loop_ms=None if loop_lag_s is None else 1000 * loop_lag_s,
        fsync_p99_ms=_sync_ms(reading, last),
        queue=_whole(reading.value("wukong_commands_in_flight")),
        apply_backlog_bytes=_whole(reading.value("wukong_apply_backlog_bytes")),
        webhooks=_whole(reading.value("wukong_webhook_backlog_records")),
        version=reading.version,
    )


def _state(status: NodeStatus | None, reading: Reading | None, fault: str) -> tuple[str, str]:
    if fault:
        return "down", fault
    if reading is not None:
        if reading.value("wukong_serving") == 0:
            return "ill", (status.health if status is not None else "") or "serves no clients"
        return (_OKS.get(status.state, status.state) if status is not None else "ok"), ""
    assert status is not None
    if not status.connected:
        return "down", "the others cannot reach it"
    return ("ill", status.health) if status.health else (_OKS.get(status.state, status.state), "")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _rate(now: Reading, last: Reading | None, *names: str) -> float | None:
    """Of counters together; None without an earlier reading, or if the process began anew."""
    if last is None or now.at_s <= last.at_s:
        return None
    pairs = [(now.value(name), last.value(name)) for name in names]
    grown = [new - old for new, old in pairs if new is not None and old is not None]
    if not grown or min(grown) < 0:
        return None
    return sum(grown) / (now.at_s - last.at_s)


def _sync_ms(now: Reading, last: Reading | None) -> float | None:
    """Of writes since the last look; None if there were none."""
    ends = sorted(now.syncs)
    if last is None or not ends or sorted(last.syncs) != ends:
        return None
    below = [now.syncs[end] - last.syncs[end] for end in ends]
    counts = [after - before for before, after in pairwise([0.0, *below])]
    if min(counts) < 0:
        return None
    # The last one is infinity, which quantile wants as a count beyond the bounds.
    found_s = quantile(ends[:-1], [int(count) for count in counts], 0.99)
    return None if found_s is None else 1000 * found_s


# -- events


def events(now: Look, before: Look, now_rows: Sequence[Row], last_rows: Sequence[Row]) -> list[str]:
    """What changed between two looks, for people."""
    found = []
    known = {_key(row): row for row in last_rows}
    for row in now_rows:
        last = known.get(_key(row))
        if last is None:
            if last_rows:
                found.append(f"{_name(row)} is new")
        elif last.state != row.state:
            found.append(f"{_name(row)}: {row.state}" + (f": {row.why}" if row.why else f", was {last.state}"))
        elif last.version and row.version and last.version != row.version:
            found.append(f"{_name(row)} runs {row.version}, was {last.version}")
    gone = known.keys() - {_key(row) for row in now_rows}
    found += [f"{_name(known[key])} left the cluster" for key in sorted(gone, key=str)]
    if now.status is not None and before.status is not None:
        found += _leader_changes(now.status, before.status)
    return found


def _key(row: Row) -> int | str:
    return row.node or row.url


def _name(row: Row) -> str:
    return f"node {row.node}" if row.node else row.url


def _leader_changes(now: ClusterStatus, before: ClusterStatus) -> list[str]:
    last = {slot.id: slot.leader for slot in before.slots}
    moved: dict[tuple[int, int], list[int]] = {}
    for slot in now.slots:
        if slot.id in last and last[slot.id] != slot.leader:
            moved.setdefault((last[slot.id], slot.leader), []).append(slot.id)
    return [
        f"no leader: {_slots(slots)}, was node {old}"
        if not new
        else f"node {new} leads {_slots(slots)}" + (f", was node {old}" if old else "")
        for (old, new), slots in sorted(moved.items())
    ]


def _slots(numbers: Iterable[int]) -> str:
    listed = list(numbers)
    if len(listed) > NAMED_SLOTS:
        return f"{len(listed)} slots"
    return f"slot{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}"
