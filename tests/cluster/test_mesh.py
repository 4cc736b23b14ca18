"""Who counts as connected, and whose messages are taken."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from wukong.channel.nodes import MAX_NODES
from wukong.cluster.formation import Facts, Forming
from wukong.cluster.mesh import TWIN_SILENCE_S, Mesh
from wukong.links.kinds import CONTROL, FORWARD, RAFT, SNAPSHOT
from wukong.store.datadir import Formation

OURS = Formation(77, ((1, 11), (2, 12)))


class StillClock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.seconds = 5.0

    def now_ms(self) -> int:
        return 5

    def monotonic(self) -> float:
        return self.seconds


class FakeLinks:
    def __init__(self) -> None:
        self.peers: dict[int, tuple[str, int]] = {}
        self.told: list[Any] = []
        self.sent: list[tuple[int, int, int, object]] = []

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        self.peers = dict(peers)

    def set_facts(self, facts: object) -> None:
        self.told.append(facts)

    def send(self, node: int, kind: int, group: int, body: object) -> bool:
        self.sent.append((node, kind, group, body))
        return True


class FakeReplica:
    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def connected(self, node: int) -> None:
        self.events.append(("connected", node))

    def disconnected(self, node: int) -> None:
        self.events.append(("disconnected", node))

    def raft(self, node: int, group: int, body: dict[str, object]) -> None:
        self.events.append(("raft", node, group, body))

    def forward(self, node: int, group: int, body: object) -> None:
        self.events.append(("forward", node, group, body))

    def snapshot(self, node: int, group: int, body: object) -> None:
        self.events.append(("snapshot", node, group, body))

    def control(self, node: int, body: object) -> None:
        self.events.append(("control", node, body))

    def facts(self, node: int, facts: Facts) -> None:
        self.events.append(("facts", node, facts.cluster))


def wire(facts: Facts) -> object:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(facts)))


THEIRS = wire(Facts(12, 16, 77, OURS.members, "127.0.0.1:2"))


def serving(clock: StillClock | None = None) -> tuple[Mesh, FakeLinks, FakeReplica]:
    mesh, links, replica = (
        Mesh(1, clock or StillClock(), Facts(11, 16, addr="127.0.0.1:1"), {2: "127.0.0.1:2"}),
        FakeLinks(),
        FakeReplica(),
    )
    mesh.start(links)
    mesh.join(OURS)
    mesh.serve(replica)
    return mesh, links, replica


def test_a_node_is_connected_when_its_link_is_up_and_it_said_that_it_is_ours() -> None:
    mesh, _, replica = serving()
    mesh.connected(2)
    assert replica.events == []
    mesh.facts(2, THEIRS)
    assert replica.events == [("facts", 2, 77), ("connected", 2)]
    assert mesh.connected_nodes == {2}
    mesh.disconnected(2)
    assert replica.events[-1] == ("disconnected", 2)
    assert mesh.connected_since(2) is None


def test_nothing_but_facts_is_taken_from_a_node_that_is_not_ours() -> None:
    mesh, _, replica = serving()
    for facts in (wire(Facts(12, 16)), wire(Facts(12, 16, 78, OURS.members))):
        mesh.connected(2)
        mesh.facts(2, facts)
        for kind in (RAFT, FORWARD, SNAPSHOT, CONTROL):
            mesh.received(2, kind, 0, {})
        assert replica.events == []
        assert not mesh.send_control(2, {})


def test_a_node_that_changes_to_another_cluster_is_disconnected() -> None:
    mesh, _, replica = serving()
    mesh.connected(2)
    mesh.facts(2, THEIRS)
    mesh.facts(2, wire(Facts(12, 16, 78, OURS.members)))
    assert replica.events[-1] == ("disconnected", 2)


def test_what_was_heard_before_the_log_ran_counts_when_it_runs() -> None:
    mesh, links, replica = Mesh(1, StillClock(), Facts(11, 16), {2: "127.0.0.1:2"}), FakeLinks(), FakeReplica()
    mesh.start(links)
    mesh.connected(2)
    mesh.facts(2, THEIRS)
    mesh.join(OURS)
    mesh.received(2, RAFT, 0, {})
    mesh.serve(replica)
    assert replica.events == [("facts", 2, 77), ("connected", 2)]


def test_messages_go_to_the_part_they_are_for() -> None:
    mesh, links, replica = serving()
    mesh.connected(2)
    mesh.facts(2, THEIRS)
    replica.events.clear()
    mesh.received(2, RAFT, 3, {"type": "x"})
    mesh.received(2, RAFT, 3, "not a message")
    mesh.received(2, FORWARD, 4, b"pack")
    mesh.received(2, SNAPSHOT, 5, {})
    mesh.received(2, CONTROL, 0, {})
    mesh.received(2, 99, 0, {})
    assert [event[0] for event in replica.events] == ["raft", "forward", "snapshot", "control"]
    mesh.send_raft(3, 2, {"type": "y"})
    assert mesh.send_forward(2, 4, b"p")
    assert [sent[1] for sent in links.sent] == [RAFT, FORWARD]


def test_a_stranger_that_tells_its_address_is_dialed_back() -> None:
    mesh, links, _ = serving()
    mesh.facts(9, wire(Facts(19, 16, join=True, addr="127.0.0.1:9")))
    assert links.peers[9] == ("127.0.0.1", 9)


def test_a_blank_node_learns_all_addresses_from_its_seed() -> None:
    mesh, links = Mesh(4, StillClock(), Facts(14, 16, join=True), {1: "127.0.0.1:1"}), FakeLinks()
    mesh.start(links)
    mesh.forming = Forming(4, 14, 16, frozenset())
    nodes = {1: "x:1", 2: "127.0.0.1:2", 4: "127.0.0.1:4"}
    mesh.facts(1, wire(Facts(11, 16, 77, OURS.members, nodes=nodes)))
    assert links.peers == {1: ("127.0.0.1", 1), 2: ("127.0.0.1", 2)}
    assert mesh.forming.decide(1) == OURS


def test_a_node_asks_to_join_until_it_is_told_to_stop() -> None:
    mesh, links = Mesh(1, StillClock(), Facts(99, 16, join=True), {}), FakeLinks()
    mesh.start(links)
    mesh.join(OURS)
    assert links.told[-1]["join"] is True
    mesh.ask_to_join(False)
    assert links.told[-1]["join"] is False


def test_malformed_facts_change_nothing() -> None:
    mesh, links, replica = serving()
    for facts in (None, 3, {"disk": "x"}, {"disk": 1, "nodes": {"a": 1}}):
        mesh.facts(9, facts)
    assert 9 not in links.peers
    assert replica.events == []


def test_the_configuration_counts_more_than_the_table_and_a_removed_node_is_dialed_no_more() -> None:
    mesh, links, _ = serving()
    mesh.learn({2: "127.0.0.1:22", 3: "127.0.0.1:33"})
    mesh.learn({3: "127.0.0.1:3"})
    assert links.peers == {2: ("127.0.0.1", 2), 3: ("127.0.0.1", 3)}
    mesh.forget(3)
    assert 3 not in links.peers


def test_a_node_of_our_cluster_with_another_number_of_slots_is_not_heard() -> None:
    mesh, _, replica = serving()
    mesh.connected(2)
    mesh.facts(2, wire(Facts(12, 64, 77, OURS.members)))
    mesh.received(2, RAFT, 0, {})
    assert replica.events == []
    assert mesh.connected_nodes == set()


# -- where a node is


def test_a_node_that_comes_back_elsewhere_is_dialed_there() -> None:
    mesh, links, _ = serving()
    mesh.learn({4: "old:4"}, {4: 14})
    mesh.facts(4, wire(Facts(14, 16, 77, OURS.members, addr="new:4")))
    assert links.peers[4] == ("new", 4)
    mesh.learn({4: "old:4", 5: "h:5"}, {4: 14, 5: 15})
    assert links.peers[4] == ("new", 4), "its row has not changed, its own word is newer"
    mesh.learn({4: "newer:4", 5: "h:5"}, {4: 14, 5: 15})
    assert links.peers[4] == ("newer", 4)


def test_a_node_that_lost_its_disk_and_its_address_is_dialed_where_it_says_to_be() -> None:
    mesh, links, _ = serving()
    mesh.learn({4: "old:4"}, {4: 14})
    mesh.facts(4, wire(Facts(99, 16, join=True, addr="new:4")))
    assert links.peers[4] == ("new", 4)


def test_a_node_that_the_configuration_names_is_dialed_nowhere_else_whatever_it_says() -> None:
    mesh, links, _ = serving()
    mesh.facts(2, wire(Facts(12, 16, 77, OURS.members, addr="direct:2")))
    mesh.learn({2: "direct:2"}, {2: 12})
    assert links.peers[2] == ("127.0.0.1", 2)


def test_an_operators_new_address_counts_more_than_the_configuration(caplog: pytest.LogCaptureFixture) -> None:
    mesh, links, _ = serving()
    mesh.learn({2: "direct:2"}, {2: 12})
    mesh.facts(2, THEIRS)
    mesh.learn({2: "moved:2"}, {2: 0})
    assert links.peers[2] == ("moved", 2)
    assert "cluster.initNodes" in caplog.text
    # It comes, and says where it is; from now on it is a node like all others.
    mesh.learn({2: "moved:2"}, {2: 12})
    mesh.facts(2, wire(Facts(12, 16, 77, OURS.members, addr="again:2")))
    assert links.peers[2] == ("again", 2)


def test_a_row_without_a_disk_at_the_start_or_of_an_old_directory_is_no_operators_word() -> None:
    mesh, links, _ = serving()
    mesh.learn({2: "direct:2"}, {2: 0})
    assert links.peers[2] == ("127.0.0.1", 2)
    mesh, links, _ = serving()
    mesh.learn({3: "h:3"}, {3: 13})
    mesh.facts(2, wire(Facts(0, 16, 77, OURS.members, addr="direct:2")))
    mesh.learn({2: "direct:2", 3: "h:3"}, {2: 0, 3: 13})
    assert links.peers[2] == ("127.0.0.1", 2)


def test_a_node_of_another_cluster_is_not_followed_to_its_address() -> None:
    mesh, links, _ = serving()
    mesh.learn({4: "h:4"}, {4: 14})
    for node in (4, 9):
        mesh.facts(node, wire(Facts(99, 16, 78, OURS.members, addr="theirs:9", join=True)))
    assert links.peers == {2: ("127.0.0.1", 2), 4: ("h", 4)}


def test_more_newcomers_than_a_table_holds_are_not_dialed() -> None:
    mesh, links, _ = serving()
    for node in range(100, 300):
        mesh.facts(node, wire(Facts(node, 16, join=True, addr=f"h:{node}")))
    assert len(links.peers) == MAX_NODES


# -- two processes with one number


def test_a_second_process_with_another_disk_is_not_let_in_while_the_node_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = StillClock()
    mesh, links, replica = serving(clock)
    mesh.learn({4: "h:4"}, {4: 14})
    ours = wire(Facts(14, 16, 77, OURS.members, addr="h:4"))
    assert mesh.facts(4, ours)
    mesh.connected(4)
    events = list(replica.events)
    for _ in range(30):
        clock.seconds += 1
        mesh.received(4, CONTROL, 0, {})
        for twin in (Facts(99, 16, addr="twin:4", join=True), Facts(98, 16, 78, OURS.members, addr="twin:4")):
            assert not mesh.facts(4, wire(twin))
    assert [event for event in replica.events if event[0] != "control"] == events
    assert links.peers[4] == ("h", 4)
    assert mesh.facts(4, ours), "a restart is let in at once"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3, "one in 10 s"
    assert "node 4 tells disk 63, but disk e was heard under that id 0 s ago" in errors[0]


def test_a_node_with_a_new_disk_is_let_in_when_the_old_one_was_silent_for_long() -> None:
    clock = StillClock()
    mesh, _, replica = serving(clock)
    mesh.facts(2, THEIRS)
    mesh.connected(2)
    clock.seconds += 4
    mesh.received(2, RAFT, 0, {})
    clock.seconds += TWIN_SILENCE_S - 0.1
    assert not mesh.facts(2, wire(Facts(99, 16, 77, OURS.members)))
    clock.seconds += 0.1
    assert mesh.facts(2, wire(Facts(99, 16, 77, OURS.members)))
    assert mesh.facts_of[2].disk == 99
    assert replica.events[-1] == ("facts", 2, 77)


def process(boot: int) -> object:
    """Facts of node 2, told by one of its processes."""
    return wire(Facts(12, 16, 77, OURS.members, "127.0.0.1:2", boot=boot + 100, starts=boot))


def test_a_restarted_node_is_let_in_at_once_when_the_link_to_its_last_process_broke() -> None:
    mesh, _, _ = serving()
    for boot in (1, 2, 3):
        mesh.connected(2)
        assert mesh.facts(2, process(boot))
        assert mesh.connected_nodes == {2}
        mesh.disconnected(2)


def test_a_copy_of_a_data_directory_is_not_let_in_beside_the_node_that_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = StillClock()
    mesh, _, _ = serving(clock)
    mesh.connected(2)
    assert mesh.facts(2, process(1))
    for _ in range(15):
        clock.seconds += 1
        mesh.received(2, CONTROL, 0, {})
        assert not mesh.facts(2, process(2))
        assert mesh.facts(2, process(1))
    assert mesh.connected_nodes == {2}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2, "one in 10 s"
    assert "two processes run as node 2 with the same data directory" in errors[0]


def test_a_node_that_hung_is_followed_by_its_next_process() -> None:
    clock = StillClock()
    mesh, _, _ = serving(clock)
    mesh.connected(2)
    mesh.facts(2, process(1))
    clock.seconds += 3
    assert mesh.facts(2, process(2)), "its machine is gone and nobody closed its connections"


def test_what_a_dead_process_said_late_does_not_shut_the_living_one_out() -> None:
    mesh, _, _ = serving()
    mesh.connected(2)
    mesh.facts(2, process(2))
    mesh.disconnected(2)
    assert not mesh.facts(2, process(1)), "of its last life, read late"
    mesh.connected(2)
    assert mesh.facts(2, process(2))
    assert mesh.connected_nodes == {2}


def test_who_was_heard_late_only_gives_way_to_the_living_one() -> None:
    clock = StillClock()
    mesh, _, _ = serving(clock)
    assert mesh.facts(2, process(1)), "of its last life, and nobody knows better"
    assert not mesh.facts(2, process(2))
    clock.seconds += 3
    assert mesh.facts(2, process(2))


def test_of_two_copies_that_take_turns_neither_is_heard_until_one_is_stopped() -> None:
    clock = StillClock()
    mesh, _, replica = serving(clock)
    mesh.connected(2)
    mesh.facts(2, process(1))
    mesh.disconnected(2)
    mesh.connected(2)
    assert mesh.facts(2, process(2)), "it looks like a restart"
    assert not mesh.facts(2, process(1)), "but this may be late"
    assert mesh.connected_nodes == {2}
    clock.seconds += 3
    mesh.received(2, CONTROL, 0, {})
    assert not mesh.facts(2, process(1)), "no, the first one is still there"
    assert mesh.connected_nodes == set()
    mesh.received(2, RAFT, 0, {})
    assert ("raft", 2, 0, {}) not in replica.events
    for boot in (2, 1, 2, 1):
        clock.seconds += 4
        assert not mesh.facts(2, process(boot))
    clock.seconds += 9.9
    assert not mesh.facts(2, process(1))
    clock.seconds += 0.2
    assert mesh.facts(2, process(1)), "the other one has been stopped"
    assert mesh.connected_nodes == {2}


def test_the_node_of_the_table_takes_its_number_back_at_once() -> None:
    clock = StillClock()
    mesh, _, _ = serving(clock)
    mesh.learn({2: "h:2"}, {2: 12})
    mesh.facts(2, wire(Facts(99, 16, 77, OURS.members)))
    assert mesh.facts(2, THEIRS)
    assert not mesh.facts(2, wire(Facts(99, 16, 77, OURS.members)))


def test_facts_that_a_slower_link_brings_late_do_not_make_a_node_blank_again() -> None:
    mesh, _, _ = serving()
    mesh.facts(2, THEIRS)
    mesh.connected(2)
    assert mesh.facts(2, wire(Facts(12, 16, join=True)))
    assert mesh.connected_nodes == {2}


# -- what a node says of itself


@pytest.mark.parametrize(
    "broken",
    [
        {"addr": "host:²"},
        {"addr": "h" * 60_000 + ":1"},
        {"api_url": "u" * 60_000},
        {"nodes": {0: "h:1"}},
        {"nodes": {70_000: "h:1"}},
        {"members": [[1, 1]] * 65},
        {"disk": -1},
        {"slots": 100_000},
    ],
)
def test_facts_that_could_poison_a_node_are_refused_and_it_goes_on(broken: dict[str, object]) -> None:
    mesh, links, replica = serving()
    facts = {"disk": 19, "slots": 16, "join": True, "addr": "h:9", **broken}
    assert not mesh.facts(9, facts)
    mesh.forming = Forming(1, 11, 16, frozenset((1, 2)))
    assert not mesh.facts(2, facts)
    mesh.learn({5: "h:5"})
    assert links.peers == {2: ("127.0.0.1", 2), 5: ("h", 5)}
    assert replica.events == []


def test_what_is_wrong_with_a_nodes_facts_is_said_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mesh, _, _ = serving()
    for _ in range(3):
        mesh.facts(2, wire(Facts(12, 64, 77, OURS.members)))
    for _ in range(3):
        mesh.facts(9, wire(Facts(19, 64, 78, OURS.members)))
    for _ in range(3):
        mesh.facts(8, "nonsense")
    said = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert said == [
        "node 2 has 64 slots, this cluster 16",
        "node 9 belongs to another cluster",
        "node 8 told facts that cannot be read",
    ]
    mesh.facts(2, THEIRS)
    mesh.facts(2, wire(Facts(12, 64, 77, OURS.members)))
    assert len(caplog.records) == 4


def test_a_node_that_comes_to_be_formed_and_one_that_is_blank_do_not_argue_about_slots(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh(1, StillClock(), Facts(11, 16), {2: "h:2"})
    mesh.start(FakeLinks())
    mesh.facts(9, wire(Facts(19, 64)))
    assert caplog.records == []


# -- forming


def blank(node: int, *, wanted: frozenset[int] = frozenset((1, 2))) -> tuple[Mesh, Forming]:
    mesh = Mesh(node, StillClock(), Facts(10 + node, 16), {other: f"h:{other}" for other in wanted - {node}})
    mesh.start(FakeLinks())
    mesh.forming = Forming(node, 10 + node, 16, wanted)
    return mesh, mesh.forming


def test_a_link_that_comes_back_needs_no_new_facts() -> None:
    mesh, forming = blank(1)
    mesh.facts(2, wire(Facts(12, 16)))
    mesh.connected(2)
    mesh.disconnected(2)
    assert forming.missing == [2]
    mesh.connected(2)
    assert forming.missing == []


def test_a_blank_node_counts_only_while_our_link_to_it_is_up() -> None:
    mesh, forming = blank(1)
    mesh.facts(2, wire(Facts(12, 16)))
    assert forming.missing == [2]
    mesh.connected(2)
    assert forming.decide(77) == OURS


def test_a_formation_is_taken_over_only_from_nodes_that_the_configuration_names() -> None:
    mesh, forming = blank(1)
    mesh.facts(7, wire(Facts(70, 16, 666, ((7, 70), (8, 80)), "x:1", nodes={2: "theirs:2", 8: "theirs:8"})))
    assert forming.decide(1) is None
    assert set(mesh.addresses) == {2}
    mesh.facts(2, wire(Facts(12, 16, 77, OURS.members, nodes={3: "h:3"})))
    assert forming.decide(1) == OURS
    assert set(mesh.addresses) == {2, 3}
