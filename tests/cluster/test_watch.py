"""Who is gone, and who says so."""

from tests.cluster.control_fakes import FakeClock, FakeGroups, FakeReplica, voters
from wukong.channel.commands import NodeGone
from wukong.cluster.leads import Leads
from wukong.cluster.peers import Peers
from wukong.cluster.proposer import Proposer
from wukong.cluster.watch import Watch, WatchOptions


class World:
    """Node 1 leads two slots of three nodes; everybody has said hello in both."""

    def __init__(self, *, linked: tuple[int, ...] = (2, 3)) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups(1, 2, voters(1, 2, 3))
        self.replica = FakeReplica(2)
        self.peers = Peers(1, self.clock)
        self.leads = Leads(self.groups, self.clock)
        self.watch = Watch(
            groups=self.groups,
            replica=self.replica,
            peers=self.peers,
            leads=self.leads,
            proposer=Proposer(self.replica, self.clock),
            clock=self.clock,
            options=WatchOptions(node_gone_after_ms=10_000),
        )
        for node in (2, 3):
            self.replica.hello(node, 5)
        self.linked = set(linked)
        for node in linked:
            self.peers.connected(node)
            self.peers.heard(node)

    def run(self, seconds: float, *, heard: set[int] | None = None) -> None:
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            for node in self.linked if heard is None else heard:
                self.peers.heard(node)
            self.leads.look()
            self.watch.step()
            self.clock.seconds += 0.2

    @property
    def gone(self) -> list[tuple[int, object]]:
        return [(slot, command) for slot, command in self.replica.proposed if type(command) is NodeGone]


def test_nobody_is_gone_while_everybody_is_heard() -> None:
    world = World()
    world.run(60)
    assert world.gone == []


def test_a_silent_node_is_gone_once_per_slot_although_its_link_is_up() -> None:
    world = World()
    world.run(20)
    world.run(9.5, heard={2})
    assert world.gone == []
    world.run(30, heard={2})
    assert sorted(world.gone) == [(0, NodeGone(3, 5)), (1, NodeGone(3, 5))]
    assert world.replica.states[0].streams[3].ended


def test_a_node_that_nothing_can_be_sent_to_is_gone_although_it_is_heard() -> None:
    world = World()
    world.run(20)
    world.peers.disconnected(3)
    world.run(9.5)
    assert world.gone == []
    world.run(1)
    assert len(world.gone) == 2


def test_a_link_that_breaks_for_a_moment_is_no_silence() -> None:
    world = World()
    for _ in range(10):
        world.run(8)
        world.peers.disconnected(3)
        world.run(2)
        world.peers.connected(3)
    assert world.gone == []


def test_a_new_leader_watches_for_the_whole_time_itself() -> None:
    world = World(linked=(2,))
    world.groups[0].leader = world.groups[1].leader = 2
    world.run(60)
    world.groups[0].leader = 1
    world.groups[0].term = 2
    world.run(9.5)
    assert world.gone == []
    world.run(1)
    assert world.gone == [(0, NodeGone(3, 5))]


def test_a_leadership_won_again_is_a_new_one() -> None:
    world = World(linked=(2,))
    for term in range(2, 8):
        world.run(8)
        for group in world.groups.groups:
            group.term = term
    assert world.gone == []


def test_who_hears_no_majority_judges_nobody() -> None:
    world = World()
    for group in world.groups.groups:
        group.heard_s = 1.2
    world.run(60, heard=set())
    assert world.gone == []


def test_a_node_whose_stream_has_ended_or_never_began_is_left_alone() -> None:
    world = World(linked=(2,))
    for slot in world.replica.slots:
        slot.do(NodeGone(3, 5))
    world.run(60)
    assert world.gone == []


def test_a_node_that_left_the_cluster_is_gone_too() -> None:
    world = World(linked=(2,))
    world.replica.hello(9, 7)
    world.run(12)
    assert (0, NodeGone(9, 7)) in world.gone


def test_a_node_that_comes_back_although_we_cannot_reach_it_is_not_fenced_again_at_once() -> None:
    world = World()
    world.run(20)
    world.peers.disconnected(3)
    world.run(10.5)
    assert len(world.gone) == 2
    world.replica.hello(3, 6)
    world.run(9)
    assert len(world.gone) == 2
    world.run(2)
    assert (0, NodeGone(3, 6)) in world.gone


def test_while_the_node_itself_is_not_live_nobody_is_judged() -> None:
    world = World(linked=(2,))
    world.replica.live = False
    world.run(60)
    world.replica.live = True
    world.run(9.5)
    assert world.gone == []


def test_a_process_that_was_frozen_watches_anew() -> None:
    world = World()
    world.run(60)
    world.clock.seconds += 60
    world.run(9.5, heard={2})
    assert world.gone == []
    world.run(1, heard={2})
    assert len(world.gone) == 2


def test_a_command_whose_outcome_is_open_is_not_repeated() -> None:
    world = World()
    world.run(20)
    world.replica.hold = True
    world.run(60, heard={2})
    assert len(world.gone) == 2
