"""Who does what where: adder, sender, receiver and the channel's leader on any node. Scenarios S8, S9 and S10."""

import asyncio
from itertools import product

import aiohttp
import pytest

from tests.scenarios.conftest import Clients, open_clients
from tests.scenarios.room import Room
from tests.support.cluster import ClusterProcesses
from tests.support.http import Api, open_api
from tests.support.wire import SUCCESS, Client, Kind, fence, unique

LANES = 8


def room_in_slot(cluster: ClusterProcesses, api: Api, slot: int) -> Room:
    while cluster.slot((room := Room(api)).id) != slot:
        pass
    return room


async def lead(cluster: ClusterProcesses, slot: int, node: int) -> None:
    """Have a node lead a slot."""
    # Asked again: a leader that cannot hand over in this moment does not remember it.
    async with asyncio.timeout(30), open_api(cluster[1].http_url) as api:
        while (await asyncio.to_thread(cluster.leaders, asked=node))[slot] != node:
            await api.post("/cluster/transfer", {"slot": slot, "node": node})
            for _ in range(20):
                await asyncio.sleep(0.05)
                if (await asyncio.to_thread(cluster.leaders, asked=node))[slot] == node:
                    return


@pytest.fixture
async def placed(cluster: ClusterProcesses) -> Clients:
    """Clients that name their node."""
    async with open_clients() as opened:
        yield opened


@pytest.mark.parametrize("leader", [1, 2, 3])
async def test_s8_wherever_adder_sender_and_receiver_are_the_receiver_gets_it(
    cluster: ClusterProcesses, placed: Clients, leader: int
) -> None:
    slot = leader - 1
    await lead(cluster, slot, leader)
    kinds = list(Kind)
    senders = {node: await placed.connect(unique("a"), kinds[node - 1], to=cluster[node]) for node in cluster.nodes}
    receivers = {node: await placed.connect(unique("u"), kinds[-node], to=cluster[node]) for node in cluster.nodes}
    async with aiohttp.ClientSession() as http:
        apis = {node.node_id: Api(node.http_url, http, fence_slots=cluster.slot_count) for node in cluster}
        rooms: list[tuple[Room, Client]] = []
        lanes = asyncio.Semaphore(LANES)

        async def play(adder: int, sender: int, receiver: int) -> None:
            async with lanes:
                room = room_in_slot(cluster, apis[adder], slot)
                await room.create([senders[sender].uid])
                await room.add(receivers[receiver].uid)
                assert (await room.send(senders[sender])).reason_code == SUCCESS
                rooms.append((room, receivers[receiver]))

        # Every placement several times: what a race decides is decided anew.
        placements = [*product(cluster.nodes, repeat=3)] * 5
        await asyncio.gather(*(play(*placement) for placement in placements))
        await fence(apis[1], receivers.values())
        assert len(rooms) == 27 * 5
        faults = [fault for room, receiver in rooms for fault in room.faults_of(receiver)]
        assert not faults, f"{len(faults)} faults: {faults[:5]}"
        assert sum(len(receiver.received) for receiver in receivers.values()) == len(rooms)


async def test_s9_after_a_leader_moves_members_can_be_added_on_every_node(
    cluster: ClusterProcesses, placed: Clients
) -> None:
    sender = await placed.connect(unique("a"), to=cluster[1])
    async with open_api(cluster.http_url, fence_slots=cluster.slot_count) as api:
        room = Room(api)
        slot = cluster.slot(room.id)
        await room.create([sender.uid])
        watching: list[Client] = []
        for leader in (2, 3, 1, 3):
            await lead(cluster, slot, leader)
            for node in cluster:
                added = await placed.connect(unique("u"), to=cluster[node.node_id % 3 + 1])
                watching.append(added)
                async with open_api(node.http_url) as other:
                    room.api = other
                    await room.add(added.uid)
                    room.api = api
                assert (await room.send(sender)).reason_code == SUCCESS
        await room.check([sender, *watching])


async def test_s10_a_leader_that_moves_while_messages_flow_takes_nothing_from_anybody(
    cluster: ClusterProcesses, placed: Clients
) -> None:
    uids = [unique("u") for _ in range(36)]
    senders = [await placed.connect(unique("a"), to=node) for node in cluster]
    watching = [await placed.connect(uid, to=cluster[number % 3 + 1]) for number, uid in enumerate(uids)]
    async with open_api(*(node.http_url for node in cluster), fence_slots=cluster.slot_count) as api:
        room = Room(api)
        slot = cluster.slot(room.id)
        await room.create([sender.uid for sender in senders])
        stop = asyncio.Event()
        sending = [asyncio.create_task(room.keep_sending(sender, stop, per_second=50)) for sender in senders]

        async def keep_adding() -> None:
            for uid in uids:
                await room.add(uid)

        adding = asyncio.create_task(keep_adding())
        moves = 0
        while not adding.done() or moves < 6:
            await lead(cluster, slot, moves % 3 + 1)
            moves += 1
        await adding
        stop.set()
        await asyncio.gather(*sending)
        assert not room.refused
        await room.send(senders[0])
        await room.check([*senders, *watching], members=[*(sender.uid for sender in senders), *uids])
