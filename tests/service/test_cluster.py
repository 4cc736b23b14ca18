"""What operators see of the cluster and want of it."""

import asyncio
import random
from typing import Any, cast

import msgspec
import pytest

from tests.cluster.control_fakes import FakeClock, FakeFacts, FakeGroups, FakeLinks, FakeReplica, row, voters
from wukong.channel.commands import Command, PutSettings, Reply
from wukong.channel.nodes import MAX_NODES
from wukong.channel.state import Settings, State
from wukong.cluster.controller import Controller
from wukong.cluster.membership import OwnRow
from wukong.errors import RequestRefused, Unavailable
from wukong.raft.log import Member
from wukong.service.cluster import ASKED, EVERY_SLOT, ClusterAdmin
from wukong.service.replica import Replica


class FakeWay:
    """wukong.service.replica.Replica over the fake."""

    def __init__(self, replica: FakeReplica) -> None:
        self.replica = replica
        self.caught_up: list[int] = []

    async def change_slot(self, slot: int, command: Command) -> Reply:
        return await self.replica.execute(slot, command)

    async def catch_up_slot(self, slot: int) -> None:
        await self.replica.barrier([slot])
        self.caught_up.append(slot)

    def slot_now(self, slot: int) -> State:
        return self.replica.states[slot]


class World:
    """Node 1 of three leads slots 0 and 2, node 2 leads slot 1. Nobody answers questions."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups(1, 3, voters(1, 2, 3))
        self.groups[1].leader = 2
        self.replica = FakeReplica(3)
        self.links = FakeLinks(2, 3)
        self.way = FakeWay(self.replica)
        self.controller = Controller(
            node_id=1,
            cluster=0xC0FFEE,
            own=OwnRow("10.0.0.1:11110", 10, ""),
            groups=self.groups,
            replica=self.replica,
            send=self.links,
            clock=self.clock,
            rng=random.Random(5),
            differing=lambda: ["token_auth_on"],
            snapshots=lambda: ["slot 2 to node 3: 40 %"],
        )
        self.admin = ClusterAdmin(
            replica=cast("Replica", self.way),
            controller=self.controller,
            groups=self.groups,
            wanted=Settings(token_auth_on=True),
        )
        for node in (1, 2, 3):
            self.replica.put_row(node, row(node))
        for node in (2, 3):
            self.controller.connected(node)
            self.controller.told(node, FakeFacts(10 * node))

    async def status(self) -> dict[str, Any]:
        shape: dict[str, Any] = msgspec.to_builtins(await self.admin.status())
        return shape

    def answer(self, node: int, report: dict[str, Any]) -> None:
        """Let a node answer every question from now on."""
        send = self.links.__call__

        def answering(to: int, kind: int, group: int, body: object) -> bool:
            if isinstance(body, dict) and body["op"] == "ask":
                if to == node:
                    self.controller.control._told(node, {"id": body["id"], "report": report})
                return to == node
            return send(to, kind, group, body)

        self.controller.control._send = answering


REPORT = {
    "version": "0.9",
    "slots": [
        [1, 1_000, 1_000, 1_000, 0, []],
        [4, 1_190, 1_180, 1_200, 1, [[1, 1_199], [2, 1_200], [3, 700]]],
        [1, 1_000, 1_000, 1_000, 0, []],
    ],
    "differ": ["webhook_on"],
    "snapshots": [],
    "health": ["ok", ""],
}


async def test_the_status_shows_nodes_and_slots() -> None:
    world = World()
    world.answer(2, REPORT)
    world.controller.disconnected(3)
    shown = await world.status()
    assert shown["cluster"] == "c0ffee"
    assert shown["node"] == 1
    assert [node["id"] for node in shown["nodes"]] == [1, 2, 3]
    one, two, three = shown["nodes"]
    assert (one["state"], one["connected"], one["leads"], one["lag_entries"]) == ("voter", True, 2, 1)
    assert (two["state"], two["connected"], two["leads"], two["version"]) == ("voter", True, 1, "0.9")
    assert (three["state"], three["connected"], three["leads"], three["lag_entries"]) == ("voter", False, 0, 500)
    assert "version" not in three
    assert one["addr"] == "10.0.0.1:11110"
    assert one["disk"] == f"{10:x}"
    slot = shown["slots"][1]
    assert (slot["id"], slot["leader"], slot["commit"], slot["applied"]) == (1, 2, 1_190, 1_180)
    assert slot["members"][2] == {"node": 3, "disk": f"{30:x}", "voter": True, "match": 700}
    assert shown["settings_differ"] == ["2:webhook_on", "token_auth_on"]
    assert shown["snapshots"] == ["slot 2 to node 3: 40 %"]
    assert shown["job"] == ""


@pytest.mark.parametrize(
    "report",
    [
        {},
        {**REPORT, "slots": []},
        {**REPORT, "slots": [[1, 2]] * 3},
        {**REPORT, "slots": "x"},
        {**REPORT, "differ": [[]]},
    ],
)
async def test_a_report_that_cannot_be_read_is_left_out(report: dict[str, Any]) -> None:
    world = World()
    world.answer(2, report)
    shown = await world.status()
    assert "version" not in shown["nodes"][1]
    assert shown["slots"][1]["members"][0] == {"node": 1, "disk": "a", "voter": True}


async def test_the_status_says_what_a_node_is() -> None:
    world = World()
    world.answer(2, REPORT)
    for node in (4, 5, 6):
        world.replica.put_row(node, row(node))
    world.replica.put_row(3, row(3, leaving=True))
    for group in world.groups.groups:
        group.members = (*group.members, Member(4, 40, False), Member(6, 61, True))
    world.groups[0].members = (*voters(1, 2, 3), Member(4, 40, True), Member(8, 80, True))
    world.controller.told(9, FakeFacts(90))
    shown = await world.status()
    states = {node["id"]: node["state"] for node in shown["nodes"]}
    assert states[4] == "learner"
    assert states[5] == "joining"
    assert states[6] == "joining", "what is there has another disk"
    assert states[9] == "unknown"
    world.clock.seconds += 61
    assert 9 not in [node["id"] for node in (await world.status())["nodes"]]
    assert "node 5 is joining" in shown["job"]


async def test_callers_at_the_same_time_share_one_round_of_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.answer(2, REPORT)
    rounds = 0
    reports = world.controller.reports

    async def counting(timeout_s: float) -> dict[int, dict[str, Any]]:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0)
        return await reports(timeout_s)

    monkeypatch.setattr(world.controller, "reports", counting)
    first, *others = [asyncio.create_task(world.status()) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    shown = await asyncio.gather(*others)
    assert {each["nodes"][1]["version"] for each in shown} == {"0.9"}
    assert rounds == 1
    await world.admin.add(4, "10.0.0.4:11110")
    assert [node["id"] for node in (await world.status())["nodes"]] == [1, 2, 3, 4]
    assert rounds == 2, "whoever changes something asks anew"
    monkeypatch.setattr("wukong.service.cluster.ROUND_S", -1.0)
    await world.status()
    assert rounds == 3, "what was said goes out of date"


# -- members


async def test_a_node_is_added_before_it_has_ever_been_seen() -> None:
    world = World()
    await world.admin.add(4, "10.0.0.4:11110", "http://four")
    added = world.replica.table[4]
    assert (added.addr, added.disk, added.api_url, added.leaving) == ("10.0.0.4:11110", 0, "http://four", False)
    assert world.way.caught_up == [0]
    proposed = len(world.replica.proposed)
    await world.admin.add(4, "10.0.0.4:11110", "http://four")
    assert len(world.replica.proposed) == proposed, "nothing is left to do"


async def test_adding_a_member_again_keeps_its_disk_and_takes_back_its_removal() -> None:
    world = World()
    await world.admin.add(3, "10.9.9.9:1")
    assert world.replica.table[3].disk == 30
    await world.admin.remove(3)
    assert world.replica.table[3].leaving
    await world.admin.add(3, "10.0.0.3:11110")
    assert not world.replica.table[3].leaving


@pytest.mark.parametrize("node", [0, -1, 1_024, 1 << 40])
async def test_a_node_id_out_of_range_is_refused(node: int) -> None:
    with pytest.raises(RequestRefused, match="node ids are"):
        await World().admin.add(node, "10.0.0.4:11110")


@pytest.mark.parametrize("addr", ["", "host", ":1", "host:", "host:0", "host:65536", "host:x", "h" * 300 + ":1"])
async def test_an_address_that_nobody_could_dial_is_refused(addr: str) -> None:
    world = World()
    with pytest.raises(RequestRefused, match="host:port"):
        await world.admin.add(4, addr)
    with pytest.raises(RequestRefused, match="host:port"):
        await world.admin.replace(3, 4, addr)
    assert not world.replica.table[3].leaving


async def test_one_node_too_many_is_refused() -> None:
    world = World()
    for node in range(100, 100 + MAX_NODES - 3):
        world.replica.put_row(node, row(node))
    with pytest.raises(RequestRefused, match="remove one first"):
        await world.admin.add(4, "10.0.0.4:11110")


async def test_removing_marks_the_row_and_is_said_in_the_job() -> None:
    world = World()
    await world.admin.remove(3)
    assert world.replica.table[3].leaving
    await world.admin.remove(3)
    assert "node 3 is leaving: still in 3 of 3 slots" in world.controller.job()


async def test_an_unknown_node_is_not_removed_or_replaced() -> None:
    world = World()
    with pytest.raises(RequestRefused, match="node 9 is not in the cluster"):
        await world.admin.remove(9)
    with pytest.raises(RequestRefused, match="node 9 is not in the cluster"):
        await world.admin.replace(9, 4, "10.0.0.4:11110")
    assert sorted(world.replica.table) == [1, 2, 3]


async def test_the_last_node_is_not_removed() -> None:
    world = World()
    await world.admin.remove(1)
    await world.admin.remove(2)
    with pytest.raises(RequestRefused, match="the last one"):
        await world.admin.remove(3)
    assert not world.replica.table[3].leaving


async def test_a_member_without_a_row_can_be_removed() -> None:
    world = World()
    for group in world.groups.groups:
        group.members = voters(1, 2, 3, 8)
    await world.admin.remove(8)
    assert world.replica.table[8].leaving
    assert world.replica.table[8].disk == 80


async def test_a_replacement_comes_before_the_old_one_goes() -> None:
    world = World()
    await world.admin.replace(3, 4, "10.0.0.4:11110")
    kinds = [type(command).__name__ for _, command in world.replica.proposed]
    assert kinds == ["PutNode", "DropNode"]
    assert world.replica.table[4].addr == "10.0.0.4:11110"
    assert world.replica.table[3].leaving
    with pytest.raises(RequestRefused, match="cannot replace itself"):
        await world.admin.replace(2, 2, "10.0.0.2:11110")


async def test_without_a_majority_nothing_is_changed() -> None:
    world = World()
    world.replica.behind = True
    with pytest.raises(Unavailable):
        await world.admin.remove(3)
    assert world.replica.proposed == []


# -- leaders


async def test_a_slot_led_here_is_given_away() -> None:
    world = World()
    assert world.admin.transfer(2, 3) == ASKED
    await world.controller.stop()
    assert world.links.of("pin") == [(3, {"op": "pin", "slot": 2})]


async def test_the_leader_elsewhere_is_asked() -> None:
    world = World()
    assert world.admin.transfer(1, 3) == ASKED
    assert world.links.of("transfer") == [(2, {"op": "transfer", "slot": 1, "to": 3})]


async def test_who_leads_already_is_not_asked() -> None:
    world = World()
    assert world.admin.transfer(1, 2) == ""
    assert world.links.sent == []


async def test_all_slots_are_asked_for_at_once() -> None:
    world = World()
    world.groups[0].leader = 3
    assert world.admin.transfer(EVERY_SLOT, 1) == ASKED
    assert sorted((node, body["slot"]) for node, body in world.links.of("transfer")) == [(2, 1), (3, 0)]


async def test_a_transfer_that_cannot_be_is_refused_with_the_reason() -> None:
    world = World()
    with pytest.raises(RequestRefused, match="no slot 3"):
        world.admin.transfer(3, 2)
    with pytest.raises(RequestRefused, match="node 9 is not a member"):
        world.admin.transfer(0, 9)
    world.groups[0].members = (*voters(1, 2, 3), Member(4, 40, False))
    with pytest.raises(RequestRefused, match="node 4 is no voter yet"):
        world.admin.transfer(0, 4)


async def test_a_transfer_that_is_not_possible_now_is_unavailable_with_the_reason() -> None:
    world = World()
    world.groups[0].match[3] = 1
    with pytest.raises(Unavailable, match="has not caught up"):
        world.admin.transfer(0, 3)
    world.groups[0].leader = None
    with pytest.raises(Unavailable, match="no leader now"):
        world.admin.transfer(0, 3)
    world.links.up.clear()
    with pytest.raises(Unavailable, match="its leader, node 2, cannot be reached"):
        world.admin.transfer(1, 3)


# -- settings


async def test_the_settings_of_this_node_s_file_are_adopted() -> None:
    world = World()
    await world.admin.adopt_settings()
    ((slot, command),) = world.replica.proposed
    assert slot == 0
    assert isinstance(command, PutSettings)
    assert not command.initial
    assert msgspec.msgpack.decode(command.settings, type=Settings) == Settings(token_auth_on=True)
