"""Leaders are spread, carefully, and handed over before a stop."""

import asyncio
import math
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from tests.cluster.control_fakes import FakeClock, FakeGroups, FakeReplica, row, voters
from wukong.channel.commands import DropNode
from wukong.cluster import balance
from wukong.cluster.balance import Balance, BalanceOptions, preference, preferred
from wukong.cluster.leads import Leads
from wukong.cluster.peers import Peers
from wukong.raft.log import Member


@pytest.mark.parametrize("node_ids", [(7,), (1, 2), (1001, 1002, 1003), (1, 2, 3, 4), (5, 4, 3, 2, 1)])
@pytest.mark.parametrize("slot_count", [1, 16, 64, 255])
def test_every_voter_is_preferred_by_as_many_slots(node_ids: tuple[int, ...], slot_count: int) -> None:
    counts = Counter(preferred(slot, node_ids) for slot in range(slot_count))
    assert max(counts.values()) - min((counts[node] for node in node_ids), default=0) <= 1


@pytest.mark.parametrize("slot_count", [4, 16, 64])
@pytest.mark.parametrize(("count", "away"), [(3, 1), (4, 1), (5, 1), (5, 2)])
def test_the_slots_of_nodes_that_are_away_are_shared_by_the_others(count: int, away: int, slot_count: int) -> None:
    everybody = range(1, count + 1)
    for gone in combinations(everybody, away):
        there = [node for node in everybody if node not in gone]
        orders = [preference(slot, everybody) for slot in range(slot_count)]
        counts = Counter(next(node for node in order if node in there) for order in orders)
        assert max(counts.values()) - min(counts[node] for node in there) <= 1, gone


def test_preference_depends_on_slot_and_voters_alone() -> None:
    for slot in range(64):
        order = preference(slot, (3, 1, 2))
        assert order == preference(slot, [2, 3, 1])
        assert sorted(order) == [1, 2, 3]


class World:
    """Node 1 leads all of six slots; 0 and 3 are its own, 1 and 4 prefer node 2, 2 and 5 node 3."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, count: int = 6, **options: Any) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups(1, count, voters(1, 2, 3))
        self.replica = FakeReplica(count)
        self.peers = Peers(1, self.clock)
        self.leads = Leads(self.groups, self.clock)
        self.sick: set[int] = set()
        self.told: list[tuple[int, int]] = []
        self.balance = Balance(
            groups=self.groups,
            replica=self.replica,
            peers=self.peers,
            leads=self.leads,
            clock=self.clock,
            options=BalanceOptions(**options),
            told=lambda slot, node: self.told.append((slot, node)),
            fit_s=lambda node: 0.0 if node in self.sick else math.inf,
        )
        self.linked = {2, 3}
        for node in (1, 2, 3):
            self.replica.put_row(node, row(node))
        for node in (2, 3):
            self.peers.connected(node)
            self.peers.heard(node)

        sleep = asyncio.sleep

        async def pass_time(seconds: float) -> None:
            self.clock.seconds += seconds
            for node in self.linked:
                self.peers.heard(node)
            await sleep(0)

        monkeypatch.setattr(balance.asyncio, "sleep", pass_time)
        self._pass_time = pass_time

    async def run(self, seconds: float) -> None:
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            self.leads.look()
            self.balance.step()
            await self._pass_time(0.2)

    @property
    def leaders(self) -> list[int | None]:
        return [group.leader for group in self.groups.groups]


async def test_slots_go_to_their_preferred_voters_after_a_while_one_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    await world.run(9.5)
    assert world.leaders == [1] * 6
    await world.run(1)
    assert world.leaders == [1, 2, 1, 1, 1, 1]
    await world.run(1)
    assert world.leaders == [1, 2, 3, 1, 1, 1]
    await world.run(10)
    assert world.leaders == [1, 2, 3, 1, 2, 3]
    assert world.balance.moved == 4


async def test_a_move_that_does_not_succeed_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, move_s=0.2)
    world.groups[1].takes_over = False
    await world.run(12)
    assert world.groups[1].transfers
    assert world.leaders[2] == 3, "the others are not held up"
    world.groups[1].takes_over = True
    await world.run(8)
    assert world.leaders[1] == 2
    await world.balance.stop()


async def test_a_slot_that_cannot_move_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.groups[1].match[2] = world.groups[4].match[2] = 10
    await world.run(20)
    # While node 2 lacks so much, node 3 is the next in line for slot 1 and this node for slot 4.
    assert world.leaders == [1, 3, 3, 1, 1, 3]


async def test_a_flapping_node_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for _ in range(10):
        await world.run(8)
        world.peers.disconnected(2)
        world.peers.connected(2)
    assert world.leaders == [1, 3, 3, 1, 1, 3]
    await world.run(15)
    assert world.leaders[4] == 2


async def test_a_silent_node_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.linked = {3}
    await world.run(60)
    assert 2 not in world.leaders


async def test_a_young_leadership_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.groups[4].leader = 3
    await world.run(20)
    world.groups[4].leader, world.groups[4].term = 1, 9
    await world.run(4.5)
    assert world.leaders[4] == 1
    await world.run(1.5)
    assert world.leaders[4] == 2


async def test_a_leaving_node_and_a_learner_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.replica.slots[0].do(DropNode(2))
    for group in world.groups.groups:
        group.members = (*group.members, Member(4, 40, False))
    await world.run(30)
    assert 2 not in world.leaders
    assert 4 not in world.leaders
    assert world.leaders.count(3) == 3


async def test_a_slot_that_was_moved_here_on_purpose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, pinned_s=60.0)
    world.balance.pin(1)
    await world.run(30)
    assert world.leaders == [1, 1, 3, 1, 2, 3]
    await world.run(35)
    assert world.leaders[1] == 2


async def test_a_wish_is_carried_out_at_once_and_the_next_leader_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.balance.wish(0, 3)
    await world.run(0.4)
    assert world.leaders[0] == 3
    assert world.told == [(0, 3)]


async def test_a_wish_that_cannot_be_carried_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.groups[1].leader = 2
    world.groups[2].match[3] = 1
    assert not world.balance.wish(1, 3), "not led here"
    assert not world.balance.wish(2, 3), "far behind"
    assert not world.balance.wish(0, 4), "no voter"
    assert not world.balance.wish(0, 1), "that is us"
    assert not world.balance.wish(99, 2), "no slot"
    world.peers.disconnected(2)
    assert not world.balance.wish(0, 2), "cannot be reached"
    assert world.told == []


async def test_before_a_stop_everything_is_handed_over_at_once_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    begun = world.clock.seconds
    assert await world.balance.hand_over_all(5.0) == 0
    assert world.clock.seconds - begun < 0.5
    assert Counter(world.leaders) == {2: 3, 3: 3}
    await world.run(30)
    assert world.balance.moved == 6, "nothing is balanced any more"


async def test_what_nobody_can_take_stays_and_the_stop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.groups[2].takes_over = False
    world.groups[5].match.update({2: 1, 3: 1})
    begun = world.clock.seconds
    assert await world.balance.hand_over_all(0.4) == 2
    assert world.clock.seconds - begun < 0.6
    assert world.leaders == [3, 2, 1, 2, 2, 1]
    world.groups[2].takes_over = True
    await world.run(1)
    assert world.leaders[2] == 3, "what can be taken later goes later"


async def test_a_slot_that_comes_to_a_node_that_stops_is_given_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert await world.balance.hand_over_all(5.0) == 0
    for slot in (0, 3):
        world.groups[slot].leader = 1
    await world.run(0.6)
    assert 1 not in world.leaders


async def test_before_a_stop_slots_go_to_nodes_that_are_well_if_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.sick = {1, 3}
    assert await world.balance.hand_over_all(5.0) == 0
    assert world.leaders == [2] * 6
    world = World(monkeypatch)
    world.sick = {1, 2, 3}
    assert await world.balance.hand_over_all(5.0) == 0
    assert Counter(world.leaders) == {2: 3, 3: 3}


async def test_a_node_alone_stops_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for group in world.groups.groups:
        group.members = voters(1)
    begun = world.clock.seconds
    assert await world.balance.hand_over_all(0.4) == 6
    assert world.clock.seconds == begun
