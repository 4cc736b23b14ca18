"""Nodes and slots as WuKongIM's console sees them. http-api.md 13.1 and 13.2."""

from typing import Any

import msgspec
import pytest

from tests.service.test_cluster import REPORT, World
from wukong.errors import RequestRefused
from wukong.raft.log import Member
from wukong.service.console import Console


def shown(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


@pytest.fixture
def world() -> World:
    """Node 2 answers, node 3 is gone."""
    world = World()
    world.answer(2, {**REPORT, "uptime_s": 3_723})
    world.controller.disconnected(3)
    return world


@pytest.fixture
def console(world: World) -> Console:
    return Console(world.admin)


async def test_nodes_are_shown_with_what_is_zero_left_out(console: Console) -> None:
    one, two, three = shown(await console.nodes())
    joined = {"role": 0, "allow_vote": 1, "status": 3, "status_format": "已加入", "slot_count": 3, "term": 1}
    assert (
        one.items() >= {**joined, "id": 1, "is_leader": 1, "online": 1, "slot_leader_count": 2, "uptime": "0s"}.items()
    )
    assert two == {
        **joined,
        "id": 2,
        "cluster_addr": two["cluster_addr"],
        "online": 1,
        "slot_leader_count": 1,
        "uptime": "1h2m3s",
        "app_version": "0.9",
        "config_version": 1_000,
    }
    assert three == {**joined, "id": 3, "cluster_addr": three["cluster_addr"]}
    assert shown(await console.node()) == one
    simple = shown(await console.simple_nodes())
    assert [node["id"] for node in simple] == [1, 2, 3]
    assert "uptime" not in simple[1]
    assert [await console.online(node) for node in (1, 2, 3)] == [True, True, False]
    with pytest.raises(RequestRefused, match="node not found"):
        await console.online(9)


async def test_a_node_that_comes_may_not_vote_yet(world: World, console: Console) -> None:
    world.groups[1].members = tuple(Member(node, 10 * node, node != 2) for node in (1, 2, 3))
    world.groups[2].members = tuple(Member(node, 10 * node, True) for node in (1, 2))
    _, learner, joining = await console.nodes()
    assert (learner.allow_vote, learner.status) == (0, 3)
    assert (joining.allow_vote, joining.status, joining.slot_count) == (0, 2, 2)


async def test_slots_are_shown(world: World, console: Console) -> None:
    world.groups[2].leader = None
    found = shown(await console.slots())
    assert found[1] == {
        "id": 1,
        "leader_id": 2,
        "term": 1,
        "replicas": [1, 2, 3],
        "channel_count": 0,
        "log_index": 1_200,
        "status": 0,
        "status_format": "正常",
    }
    assert (found[2]["leader_id"], found[2]["status"], found[2]["log_index"]) == (0, 1, 1_000)
    assert [slot.id for slot in await console.slots([2, 0, 99])] == [0, 2]
    assert await console.slots([]) == []


async def test_one_slot_is_shown_with_how_far_its_log_is(console: Console) -> None:
    assert shown(await console.slot_config(1)) == {
        "id": 1,
        "leader_id": 2,
        "term": 1,
        "replicas": [1, 2, 3],
        "log_max_index": 1_000,
        "leader_log_max_index": 1_200,
        "applied_index": 1_000,
    }
    here, leader = shown(await console.replicas(1))
    assert (here["replica_id"], here["role"], here["last_log_seq"]) == (1, 1, 1_000)
    assert (leader["replica_id"], leader["role"], leader["last_log_seq"]) == (2, 3, 1_200)
    assert (leader["applied_index"], leader["committed_index"], leader["term"]) == (1_180, 1_190, 4)
    local = shown(await console.local_replica(1))
    assert local == {name: here[name] for name in local}
    assert here.keys() - local.keys() == {"role", "role_format", "last_log_time_format"}
    page = await console.logs(2, 1)
    assert (page.applied, page.last, page.logs) == (1_180, 1_200, [])


@pytest.mark.parametrize("slot", [-1, 3, 10**9])
async def test_an_unknown_slot_is_refused(console: Console, slot: int) -> None:
    for asked in (
        console.slot_config(slot),
        console.replicas(slot),
        console.local_replica(slot),
        console.logs(1, slot),
    ):
        with pytest.raises(RequestRefused, match="slot not found"):
            await asked


async def test_the_log_of_a_node_that_is_gone_is_refused(console: Console) -> None:
    with pytest.raises(RequestRefused, match="node offline"):
        await console.logs(3, 0)
    with pytest.raises(RequestRefused, match="node not found"):
        await console.logs(9, 0)


async def test_the_configuration_has_upstream_s_keys_and_no_zeros(console: Console) -> None:
    found = shown(await console.info())
    assert found.keys() == {"version", "slotCount", "slotReplicaCount", "channelReplicaCount", "term", "nodes", "slots"}
    assert found["slots"][0] == {"leader": 1, "term": 1, "replicas": [1, 2, 3]}
    assert found["nodes"][2] == {
        "id": 3,
        "clusterAddr": found["nodes"][2]["clusterAddr"],
        "allowVote": True,
        "status": 3,
    }
