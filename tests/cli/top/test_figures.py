import msgspec
import pytest

from tests.cli.cluster.worlds import node, three
from wukong.cli.cluster.status import ClusterStatus
from wukong.cli.top.figures import Look, Reading, Row, events, read_metrics, rows

A, B, C = "http://a", "http://b", "http://c"

METRICS = """\
# TYPE wukong_sessions gauge
wukong_sessions 7.0
# TYPE wukong_sends counter
wukong_sends_total 100.0
# TYPE wukong_info gauge
wukong_info{node_id="1001",version="0.1.0"} 1.0
# TYPE wukong_wal_sync_duration_seconds histogram
wukong_wal_sync_duration_seconds_bucket{le="0.001"} 3.0
wukong_wal_sync_duration_seconds_bucket{le="0.002"} 5.0
wukong_wal_sync_duration_seconds_bucket{le="+Inf"} 5.0
wukong_wal_sync_duration_seconds_count 5.0
wukong_wal_sync_duration_seconds_sum 0.01
# TYPE wukong_webhook_dropped counter
wukong_webhook_dropped_total{event="msg.notify"} 9.0
"""


def reading(number: int, at_s: float = 0.0, syncs: dict[float, float] | None = None, **values: float) -> Reading:
    named = {f"wukong_{name}": value for name, value in {"serving": 1.0, **values}.items()}
    return Reading(at_s=at_s, node=number, version="1", values=named, syncs=syncs or {})


def states(found: list[Row]) -> dict[int, str]:
    return {row.node: row.state for row in found}


def test_metrics_are_read_with_who_tells_them() -> None:
    found = read_metrics(METRICS, 5.0)
    assert (found.node, found.version, found.at_s) == (1001, "0.1.0", 5.0)
    assert found.value("wukong_sessions") == 7
    assert found.value("wukong_sends_total") == 100
    assert found.value("wukong_webhook_dropped_total") is None
    assert found.syncs == {0.001: 3, 0.002: 5, float("inf"): 5}


def test_what_is_no_metrics_is_refused() -> None:
    with pytest.raises(ValueError):
        read_metrics("<html>no</html> {", 0.0)


def test_rates_are_what_was_counted_between_two_looks() -> None:
    before = Look(readings={A: reading(1001, 10.0, sends_total=100, api_messages_total=5, recvs_written_total=50)})
    now = Look(readings={A: reading(1001, 12.0, sends_total=140, api_messages_total=7, recvs_written_total=50)})
    (row,) = rows(now, before, {})
    assert (row.send_per_s, row.recv_per_s) == (21.0, 0.0)


def test_there_is_no_rate_at_first_and_none_over_a_restart() -> None:
    now = Look(readings={A: reading(1001, 12.0, sends_total=3)})
    assert rows(now, Look(), {})[0].send_per_s is None
    before = Look(readings={A: reading(1001, 10.0, sends_total=100)})
    assert rows(now, before, {})[0].send_per_s is None


def test_the_slow_end_of_durable_writes_is_of_those_since_the_last_look() -> None:
    before = Look(readings={A: reading(1001, 1.0, {0.001: 1000, 0.1: 1000, float("inf"): 1000})})
    now = Look(readings={A: reading(1001, 2.0, {0.001: 1000, 0.1: 1100, float("inf"): 1100})})
    (row,) = rows(now, before, {})
    assert row.fsync_p99_ms == pytest.approx(99.0, abs=0.2)
    assert rows(before, before, {})[0].fsync_p99_ms is None, "no time passed and nothing was written"


def test_a_node_that_does_not_answer_is_down_under_its_number() -> None:
    now = Look(status=three(), readings={A: reading(1001)}, faults={B: "connection refused"})
    found = rows(now, Look(), {B: 1002})
    assert states(found) == {1001: "ok", 1002: "down", 1003: "ok"}
    assert found[1].why == "connection refused"


def test_nodes_that_only_the_others_tell_of_are_shown_too() -> None:
    status = three()
    away = [*status.nodes[:2], node(1003, connected=False), node(1004, state="unknown")]
    found = rows(Look(status=msgspec.structs.replace(status, nodes=away)), Look(), {})
    assert states(found) == {1001: "ok", 1002: "ok", 1003: "down"}


def test_a_node_that_serves_nobody_or_joins_is_not_ok() -> None:
    status = three()
    nodes = [node(1001, health="no majority"), node(1002, state="joining"), node(1003)]
    look = Look(
        status=msgspec.structs.replace(status, nodes=nodes),
        readings={A: reading(1001, serving=0.0), B: reading(1002), C: reading(1003)},
    )
    found = rows(look, Look(), {})
    assert states(found) == {1001: "ill", 1002: "joining", 1003: "ok"}
    assert [row.why for row in found] == ["no majority", "", ""]


def test_one_node_under_two_addresses_is_one_row_and_the_answer_counts() -> None:
    look = Look(readings={A: reading(1001)}, faults={B: "no way"})
    assert states(rows(look, Look(), {B: 1001})) == {1001: "ok"}


def test_an_address_whose_node_is_not_known_is_shown_by_itself() -> None:
    (row,) = rows(Look(faults={A: "connection refused"}), Look(), {})
    assert (row.node, row.url, row.state) == (0, A, "down")


# -- events


def led(leaders: list[int]) -> ClusterStatus:
    status = three(len(leaders))
    pairs = zip(status.slots, leaders, strict=True)
    return msgspec.structs.replace(status, slots=[msgspec.structs.replace(slot, leader=to) for slot, to in pairs])


def test_leaders_that_changed_are_told_together() -> None:
    before, now = led([1, 1, 1, 2]), led([2, 3, 2, 0])
    assert events(Look(status=now), Look(status=before), [], []) == [
        "node 2 leads slots 0, 2, was node 1",
        "node 3 leads slot 1, was node 1",
        "no leader: slot 3, was node 2",
    ]


def test_many_slots_are_counted_instead_of_named() -> None:
    assert events(Look(status=led([2] * 9)), Look(status=led([0] * 9)), [], []) == ["node 2 leads 9 slots"]


def test_nodes_that_come_go_fall_ill_and_change_their_version_are_told() -> None:
    def row(number: int, state: str = "ok", why: str = "", version: str = "1") -> Row:
        return Row(node=number, url="", state=state, why=why, version=version)

    last = [row(1), row(2), row(3), row(4)]
    now = [row(1), row(2, "down", "refused"), row(3, version="2"), row(5)]
    assert events(Look(), Look(), now, last) == [
        "node 2: down: refused",
        "node 3 runs 2, was 1",
        "node 5 is new",
        "node 4 left the cluster",
    ]
    assert events(Look(), Look(), now, []) == [], "the first look has no news"
