"""The control of one node as a whole, and what two of them say to each other."""

import asyncio
import random
from typing import Any

import pytest

from tests.cluster.control_fakes import FakeClock, FakeFacts, FakeGroups, FakeLinks, FakeReplica, row, voters
from wukong.channel.commands import NodeRow
from wukong.cluster.clocks import Clocks
from wukong.cluster.controller import Controller, ControllerOptions
from wukong.cluster.health import SHED, HealthOptions
from wukong.cluster.membership import OwnRow
from wukong.links.kinds import CONTROL


class World:
    """Node 1 of three, which leads both slots; `links` holds what it said."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups(1, 2, voters(1, 2, 3))
        self.replica = FakeReplica(2)
        self.links = FakeLinks(2, 3)
        self.closed: list[int] = []
        self.clients = 0
        self.tables: list[dict[int, NodeRow]] = []
        self.controller = Controller(
            node_id=1,
            cluster=77,
            own=OwnRow("10.0.0.1:11110", 10, ""),
            groups=self.groups,
            replica=self.replica,
            send=self.links,
            clock=self.clock,
            rng=random.Random(5),
            close_some=self.closed.append,
            clients=lambda: self.clients,
            differing=lambda: ["token_auth_on"],
            members_changed=self.tables.append,
            **options,
        )
        self.linked = {2, 3}
        for node in (1, 2, 3):
            self.replica.put_row(node, row(node))
        for node in (2, 3):
            self.controller.connected(node)
            self.controller.told(node, FakeFacts(10 * node, addr=f"10.0.0.{node}:11110"))

    async def run(self, seconds: float) -> None:
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            for node in self.linked:
                self.controller.heard(node)
            self.controller.step()
            await asyncio.sleep(0)
            self.clock.seconds += 0.2


@pytest.fixture(autouse=True)
def time_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the machine's own time while the test's clock runs."""
    monkeypatch.setattr("wukong.cluster.balance._LOOK_EVERY_S", 0)


async def test_a_part_that_fails_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken on purpose")

    world.replica.put_row(4, row(4))
    monkeypatch.setattr("wukong.cluster.membership.plan", broken)
    await world.run(2)
    assert "broken on purpose" in caplog.text
    assert world.links.of("progress")


async def test_whoever_dials_is_told_a_new_table_once() -> None:
    world = World()
    await world.run(2)
    world.replica.put_row(4, row(4, disk=0))
    await world.run(2)
    assert [sorted(table) for table in world.tables] == [[1, 2, 3], [1, 2, 3, 4]]


async def test_progress_is_told_every_second_to_everybody_whom_a_link_leads_to() -> None:
    world = World()
    world.linked = {2}
    world.groups[1].leader = 2
    await world.run(10)
    told = world.links.of("progress")
    assert 9 <= len([1 for node, _ in told if node == 2]) <= 11
    assert 9 <= len([1 for node, _ in told if node == 3]) <= 11, "two that wait for each other to speak stay silent"
    world.controller.disconnected(3)
    await world.run(3)
    assert [node for node, _ in world.links.sent[-2:]] == [2, 2]
    clock_ms = told[-1][1].pop("clock_ms")
    assert isinstance(clock_ms, int)
    assert told[-1][1] == {"op": "progress", "commits": [[0, 1_000]], "well": True}


async def test_a_node_that_stops_says_first_that_it_takes_nothing_more_and_then_hands_over() -> None:
    world = World()
    await world.run(3)
    assert world.links.of("progress")[-1][1]["well"] is True
    world.links.sent.clear()
    leaders_when_told = []
    send = world.links.__call__

    def listening(node: int, kind: int, group: int, body: object) -> bool:
        leaders_when_told.append([group.leader for group in world.groups.groups])
        return send(node, kind, group, body)

    world.controller.control._send = listening
    assert await world.controller.hand_over_all(5.0) == 0
    assert [(node, body["well"]) for node, body in world.links.of("progress")] == [(2, False), (3, False)]
    assert leaders_when_told == [[1, 1], [1, 1]]
    await world.run(3)
    assert {body["well"] for _, body in world.links.of("progress")} == {False}


async def test_a_clock_ahead_of_both_others_is_corrected_by_what_they_tell_each_second() -> None:
    wall = FakeClock()
    wall.seconds = 1_700_000_000
    clocks, right = Clocks(wall), wall.now_ms() - 3_600_000
    world = World(clocks=clocks)
    for node in (2, 3):
        world.controller.received(node, {"op": "progress", "commits": [], "well": True, "clock_ms": right})
    assert clocks.now_ms() == right
    world.controller.disconnected(3)
    assert clocks.now_ms() == right, "the last word of a node that is away counts"


async def test_a_node_that_gets_nothing_of_a_log_sheds_when_another_says_that_it_is_well() -> None:
    world = World()
    world.groups[1].leader = 2
    for commit in range(2_000, 2_020):
        world.controller.received(2, {"op": "progress", "commits": [[1, commit]], "well": True})
        await world.run(1)
    assert world.controller.health.verdict.state == SHED
    assert not world.controller.health.serving
    assert sum(world.closed) > 1_000


async def test_a_lagging_node_keeps_its_clients_when_the_others_lag_as_well() -> None:
    world = World()
    world.groups[1].leader = 2
    for commit in range(2_000, 2_020):
        world.controller.received(2, {"op": "progress", "commits": [[1, commit]], "well": False})
        await world.run(1)
    assert world.controller.health.serving
    assert world.closed == []
    for _ in range(10):
        world.controller.received(2, {"op": "progress", "commits": [], "well": True})
        await world.run(0.2)
        world.controller.received(2, {"op": "progress", "commits": [], "well": False})
        await world.run(0.2)
    await world.run(4)
    assert world.controller.health.serving, "what it said first is void"


async def test_a_node_that_hears_no_leader_sheds_and_comes_back() -> None:
    world = World(options=ControllerOptions(health=HealthOptions(well_s=2.0)))
    for group in world.groups.groups:
        group.leader = None
    await world.run(4)
    assert not world.controller.health.serving
    assert world.controller.health.why_not() == "2 of 2 slots: no leader with a majority is heard"
    world.clients = 50_000
    await world.run(12)
    assert sum(world.closed) >= 50_000
    for group in world.groups.groups:
        group.leader = 2
    await world.run(3)
    assert world.controller.health.serving


async def test_a_node_that_is_not_live_yet_is_not_judged_and_promises_nothing() -> None:
    world = World()
    world.replica.live = False
    for group in world.groups.groups:
        group.leader = None
    await world.run(10)
    assert world.links.of("progress")[-1][1]["well"] is False
    world.replica.live = True
    for group in world.groups.groups:
        group.leader = 2
    await world.run(0.4)
    assert world.controller.health.serving


async def test_leaders_go_to_nodes_that_have_been_well_for_a_while_and_away_from_a_sick_one() -> None:
    world = World()
    for _ in range(30):
        world.controller.received(3, {"op": "progress", "commits": [], "well": True})
        await world.run(1)
    assert [group.leader for group in world.groups.groups] == [1, 3], "node 2 never said that it is well"
    for _ in range(30):
        for group in world.groups.groups:
            group.commit += 1
        for node in (2, 3):
            world.controller.received(node, {"op": "progress", "commits": [], "well": True})
        await world.run(1)
    assert [group.leader for group in world.groups.groups] == [3, 3]


async def test_a_leader_moves_a_slot_when_another_node_asks_and_tells_the_next_leader() -> None:
    world = World()
    await world.run(1)
    world.controller.received(2, {"op": "transfer", "slot": 1, "to": 3})
    await world.run(0.4)
    assert world.groups[1].leader == 3
    assert world.links.of("pin") == [(3, {"op": "pin", "slot": 1})]


async def test_a_slot_that_came_on_purpose_is_kept() -> None:
    world = World()
    world.controller.received(2, {"op": "pin", "slot": 1})
    for _ in range(30):
        world.controller.received(2, {"op": "progress", "commits": [], "well": True})
        await world.run(1)
    assert world.groups[1].leader == 1, "else node 2 would lead it"


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"bytes",
        {},
        {"op": 7},
        {"op": ["ask"]},
        {"op": "unknown"},
        {"op": "transfer"},
        {"op": "transfer", "slot": "1", "to": 2},
        {"op": "transfer", "slot": 10_000, "to": 2},
        {"op": "transfer", "slot": -1, "to": 2},
        {"op": "pin", "slot": True},
        {"op": "pin", "slot": 1 << 70},
        {"op": "progress", "commits": 3, "well": True},
        {"op": "progress", "commits": [[1]], "well": True},
        {"op": "progress", "commits": [["a", "b"], [99, 1]], "well": True},
        {"op": "progress"},
        {"op": "ask"},
        {"op": "told", "id": 1},
        {"op": "told", "id": 1, "report": []},
    ],
)
async def test_a_malformed_message_changes_nothing(body: object) -> None:
    world = World()
    await world.run(1)
    world.controller.received(2, body)
    await world.run(1)
    assert [group.leader for group in world.groups.groups] == [1, 1]
    assert world.controller.health.is_well


async def test_reports_of_the_others_come_with_the_own_one() -> None:
    worlds = {node: World() for node in (1, 2)}
    one, two = worlds[1].controller, worlds[2].controller

    def to_two(node: int, kind: int, group: int, body: object) -> bool:
        assert kind == CONTROL
        if node == 2:
            asyncio.get_running_loop().call_soon(two.received, 1, body)
        return node == 2

    def to_one(node: int, kind: int, group: int, body: object) -> bool:
        asyncio.get_running_loop().call_soon(one.received, 2, body)
        return True

    one.control._send, two.control._send = to_two, to_one
    reports = await one.reports(5.0)
    assert sorted(reports) == [1, 2]
    assert reports[2]["differ"] == ["token_auth_on"]
    assert reports[2]["slots"][0] == [1, 1_000, 1_000, 1_000, 1, [[1, 1_000], [2, 1_000], [3, 1_000]]]
    assert one.control._waiting == {}


async def test_who_does_not_answer_in_time_is_left_out() -> None:
    world = World()
    assert sorted(await world.controller.reports(0.01)) == [1]
    assert [node for node, _ in world.links.of("ask")] == [2, 3]
    assert world.controller.control._waiting == {}


async def test_an_answer_of_somebody_else_is_no_answer() -> None:
    world = World()
    asking = asyncio.create_task(world.controller.reports(0.05))
    await asyncio.sleep(0)
    (asked,) = [body["id"] for node, body in world.links.of("ask") if node == 2]
    world.controller.received(3, {"op": "told", "id": asked, "report": {"from": "three"}})
    assert sorted(await asking) == [1]


async def test_the_task_looks_at_once_and_ends_with_stop() -> None:
    world = World()
    world.controller.start()
    await asyncio.sleep(0)
    assert world.tables
    await world.controller.stop()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("cluster-")] == []


async def test_a_node_whose_disk_hangs_sheds_though_it_hears_everybody() -> None:
    world = World()
    await world.run(1)
    world.groups.disk_hangs_s = 60.0
    await world.run(5)
    assert world.controller.health.verdict.state == SHED
    assert "disk" in world.controller.health.why_not()
    world.groups.disk_hangs_s = 0.0
    await world.run(5)
    assert world.controller.health.serving


async def test_a_node_that_hears_its_leader_and_cannot_speak_to_it_sheds() -> None:
    world = World()
    world.groups[1].leader = 2
    await world.run(1)
    world.controller.disconnected(2)
    await world.run(5)
    assert world.controller.health.verdict.state == SHED
