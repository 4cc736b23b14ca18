"""Who counts as connected, and whose messages are taken."""

from collections.abc import Mapping
from typing import Any

import msgspec

from wukong.cluster.formation import Facts, Forming
from wukong.cluster.mesh import Mesh
from wukong.links.kinds import CONTROL, FORWARD, RAFT, SNAPSHOT
from wukong.store.datadir import Formation

OURS = Formation(77, ((1, 11), (2, 12)))


class StillClock:
    def now_ms(self) -> int:
        return 5

    def monotonic(self) -> float:
        return 5.0


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


def serving() -> tuple[Mesh, FakeLinks, FakeReplica]:
    mesh, links, replica = (
        Mesh(1, StillClock(), Facts(11, 16, addr="127.0.0.1:1"), {2: "127.0.0.1:2"}),
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
