"""What GET /metrics shows of a node. What each figure means to an operator, and what to do: docs/operating.md.

Everything is read when it is asked for; what counts on a hot path counts in plain numbers and lists of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from wukong import __version__
from wukong.api.metrics import COUNTER, GAUGE, HISTOGRAM, Figure
from wukong.cluster.controller import Controller
from wukong.cluster.mesh import Mesh
from wukong.config import WEBHOOK_EVENTS
from wukong.dispatch.dispatcher import Dispatcher
from wukong.gateway.gateway import ClientGateway
from wukong.histogram import Histogram
from wukong.links.links import Links
from wukong.node.node import Node
from wukong.node.snapshots import Snapshots
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.service.audit import Audit
from wukong.service.messages import Messages
from wukong.service.sessions import Sessions
from wukong.session.registry import Registry
from wukong.store.rocks import RocksStore
from wukong.webhook.sender import Sender

Labelled = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is looked at. is_serving: whether clients are taken. loop_lag_s: the delay of the last timer."""

    node: Node
    runtime: Runtime
    wal: Wal
    store: RocksStore
    snapshots: Snapshots
    mesh: Mesh
    links: Links | None
    controller: Controller
    registry: Registry
    gateway: ClientGateway
    sessions: Sessions
    dispatcher: Dispatcher
    messages: Messages
    audit: Audit
    webhooks: Sender
    is_serving: Callable[[], bool]
    loop_lag_s: Callable[[], float]


def figures(parts: Parts) -> Iterator[Figure]:
    yield from _of_clients(parts)
    yield from _of_deliveries(parts)
    yield from _of_the_log(parts)
    yield from _of_the_cluster(parts)
    yield from _of_webhooks(parts.webhooks)
    yield _gauge("wukong_loop_lag_seconds", "Delay of a timer.", parts.loop_lag_s)
    store = parts.store
    yield _gauge("wukong_store", "The database's own figures.", lambda: _by_name(store.stats()), "figure")


def _gauge(name: str, help_: str, read: Callable[[], float | Labelled], *labels: str) -> Figure:
    return Figure(name, help_, GAUGE, read, labels)


def _counter(name: str, help_: str, read: Callable[[], float | Labelled], *labels: str) -> Figure:
    return Figure(name, help_, COUNTER, read, labels)


def _histogram(name: str, help_: str, histogram: Histogram) -> Figure:
    return Figure(name, help_, HISTOGRAM, lambda: histogram)


def _by_name(values: Mapping[str, float]) -> Labelled:
    return {(name,): value for name, value in values.items()}


def _by_reason(*counts: Mapping[int, int]) -> Labelled:
    total: Counter[tuple[str, ...]] = Counter()
    for each in counts:
        for reason, count in each.items():
            total[str(reason),] += count
    return total


def _of_clients(parts: Parts) -> Iterator[Figure]:
    """Sockets, logins and what is sent."""
    gateway, sessions, registry = parts.gateway, parts.sessions, parts.registry
    counters, messages, probes = gateway.counters, parts.messages, parts.dispatcher.probes
    yield _gauge("wukong_sessions", "Clients logged in here.", lambda: len(registry))
    yield _gauge("wukong_connections", "Client sockets.", lambda: gateway.connections)
    yield _counter("wukong_logins", "Logins that were let in.", lambda: counters.logins)
    yield _counter(
        "wukong_logins_refused",
        "Logins answered with another reason than 1.",
        lambda: _by_reason(counters.login_refusals),
        "reason",
    )
    yield _gauge("wukong_logins_in_progress", "Logins under way.", lambda: gateway.logins_in_progress)
    yield _gauge("wukong_logins_waiting", "Logins that wait for their turn.", lambda: gateway.logins_waiting)
    yield _counter(
        "wukong_connections_ended",
        "Sockets closed by this node: rejected (at the limit, or not serving), unanswered (a login), timeout, protocol "
        "(broken packets), dropped (so that the client comes again).",
        lambda: _by_name(
            {
                "rejected": counters.rejected,
                "unanswered": counters.unanswered_logins,
                "timeout": counters.timeouts,
                "protocol": counters.protocol_errors,
                "dropped": counters.dropped,
            }
        ),
        "why",
    )
    yield _counter("wukong_slow_sessions_closed", "Clients that did not read.", lambda: counters.slow_closed)
    yield _counter("wukong_reads_paused", "Times a socket was not read for a limit's sake.", lambda: counters.paused)
    yield _counter("wukong_sends", "SENDs of clients.", lambda: counters.in_messages)
    yield _counter(
        "wukong_sends_refused",
        "SENDs answered with another reason than 1.",
        lambda: _by_reason(sessions.send_refusals, counters.send_refusals),
        "reason",
    )
    yield _counter("wukong_api_messages", "Messages appended for the back end.", lambda: messages.sent)
    yield _histogram(
        "wukong_send_duration_seconds",
        "From the read of a SEND to its SENDACK; of one in 32, and of the first in 50 ms.",
        probes.send_s,
    )
    yield _histogram(
        "wukong_delivery_duration_seconds",
        "From the read of a SEND to the write of its last RECV on this node; of the same ones.",
        probes.delivery_s,
    )


def _of_deliveries(parts: Parts) -> Iterator[Figure]:
    """Who gets what, and who confirms it."""
    dispatcher, gateway, audit = parts.dispatcher, parts.gateway, parts.audit
    counters = gateway.counters
    yield _counter("wukong_pushes", "RECVs handed to sessions.", lambda: dispatcher.pushed)
    yield _counter("wukong_event_pushes", "EVENTs handed to sessions.", lambda: dispatcher.events_pushed)
    yield _counter("wukong_recvs_written", "RECVs written, repeated ones too.", lambda: counters.out_messages)
    yield _gauge("wukong_sessions_to_write", "Sessions with frames to write.", lambda: gateway.sessions_to_write)
    yield _counter(
        "wukong_recvacks_expected",
        "First pushes of messages that are to be acknowledged.",
        lambda: dispatcher.pushes_tracked,
    )
    yield _counter(
        "wukong_recvacks",
        "RECVACKs of such pushes: in_time before the message was repeated, late after that.",
        lambda: _by_name({"in_time": dispatcher.acknowledged_first, "late": dispatcher.acknowledged_late}),
        "when",
    )
    yield _counter("wukong_pushes_repeated", "RECVs repeated without a RECVACK.", lambda: dispatcher.retried)
    yield _counter("wukong_retries_dropped", "Retries lost at the limit.", lambda: dispatcher.retries_dropped)
    yield _counter("wukong_audit_channels", "Audiences compared with members and sessions.", lambda: audit.channels)
    yield _counter(
        "wukong_audit_differences", "Users found missing or wrong in an audience: must be 0.", lambda: audit.differences
    )


def _of_the_log(parts: Parts) -> Iterator[Figure]:
    node, runtime, wal = parts.node, parts.runtime, parts.wal
    yield _counter("wukong_commands_applied", "Commands applied.", lambda: node.applied_commands)
    yield _gauge("wukong_commands_in_flight", "Commands proposed, not applied yet.", lambda: node.in_flight)
    yield _histogram("wukong_entry_commands", "Commands in an entry of the log.", node.entry_commands)
    yield _histogram("wukong_apply_duration_seconds", "One turn of applying entries.", runtime.apply_s)
    yield _gauge("wukong_apply_backlog_bytes", "Committed, not applied.", runtime.backlog_bytes)
    yield _counter("wukong_wal_syncs", "Batches of the log put on disk.", lambda: wal.sync_count)
    yield _histogram("wukong_wal_sync_duration_seconds", "Write and fsync of such a batch.", runtime.write_s)
    yield _counter("wukong_wal_written_bytes", "Bytes written to the log.", lambda: wal.written_bytes)
    yield _gauge("wukong_wal_bytes", "Size of the log.", lambda: wal.size_bytes)
    yield _gauge("wukong_log_entries", "Entries of the log in memory.", lambda: runtime.stats().log_entries)


def _of_the_cluster(parts: Parts) -> Iterator[Figure]:
    node, runtime, controller, mesh = parts.node, parts.runtime, parts.controller, parts.mesh
    is_serving, snapshots = parts.is_serving, parts.snapshots
    slots = range(node.slot_count)

    def peer_lags() -> Labelled:
        lags: Counter[tuple[str, ...]] = Counter()
        for slot in slots:
            others = runtime.members(slot) if runtime.is_leader(slot) else ()
            for member in others:
                if member.node != node.node_id:
                    lags[str(member.node),] += runtime.last_index(slot) - runtime.match_index(slot, member.node)
        return lags

    yield _gauge("wukong_info", "Always 1.", lambda: {(__version__, str(node.node_id)): 1}, "version", "node_id")
    yield _gauge("wukong_serving", "1 while this node takes clients.", is_serving)
    yield _gauge("wukong_slots", "Slots of the cluster.", lambda: len(slots))
    yield _gauge("wukong_slots_led", "Slots this node leads.", lambda: sum(map(runtime.is_leader, slots)))
    yield _gauge(
        "wukong_slots_leaderless",
        "Slots of which this node knows no leader.",
        lambda: sum(runtime.leader(slot) is None for slot in slots),
    )
    yield _gauge(
        "wukong_lag_entries",
        "Entries not applied here that this node knows to be committed.",
        lambda: controller.lag_entries,
    )
    yield _gauge(
        "wukong_peer_lag_entries", "Entries that another node is not known to hold, slots led here.", peer_lags, "peer"
    )
    yield _gauge("wukong_nodes_connected", "Other nodes.", lambda: len(mesh.connected_nodes))
    yield _gauge("wukong_snapshots", "Copies of slots under way.", lambda: len(snapshots.progress()))
    if parts.links is not None:
        counters = parts.links.counters
        yield _counter(
            "wukong_links",
            "Links to other nodes: messages, frames, bytes, refusals.",
            lambda: _by_name(msgspec.structs.asdict(counters)),
            "figure",
        )


def _of_webhooks(sender: Sender) -> Iterator[Figure]:
    totals = sender.totals
    yield _gauge("wukong_webhook_backlog_records", "Events waiting, slots led.", sender.backlog_records)
    yield _gauge("wukong_webhook_backlog_bytes", "Bytes of events waiting.", sender.backlog_bytes)
    yield _gauge("wukong_webhook_oldest_seconds", "Age of the oldest event waiting.", sender.oldest_s)

    def by_event(counts: Mapping[str, int]) -> Callable[[], Labelled]:
        return lambda: {(event,): counts[event] for event in WEBHOOK_EVENTS}

    yield _counter("wukong_webhook_delivered", "Events that the back end took.", by_event(totals.delivered), "event")
    yield _counter("wukong_webhook_retried", "Requests sent again.", by_event(totals.retried), "event")
    yield _counter("wukong_webhook_dropped", "Events given up.", by_event(totals.dropped), "event")
