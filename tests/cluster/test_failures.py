"""One failure each, where it hurts most, on three nodes. Scenarios S10, S11, S12, S17, S20, S26, S33 and S41."""

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.scenarios.conftest import Clients, open_clients
from tests.scenarios.room import Room, unread_seqs
from tests.scenarios.test_s08_placement import lead, room_in_slot
from tests.support.cluster import ClusterProcesses, NodeProcess, running_cluster
from tests.support.http import NO_ANSWER, Api, ApiError, open_api
from tests.support.wire import PERSON, SUCCESS, Client, Unanswered, fence, unique
from wukong.limits import MIB
from wukong.store.generations import Generations
from wukong.store.overlay import prefix_end
from wukong.store.rocks import RocksStore

SETTINGS: dict[str, Any] = {"cluster": {"reqTimeout": "3s"}, "wukong": {"membersPerCommand": 100}}
WITHIN_S = 20.0
# More than the log keeps for somebody who is away.
LARGE_BYTES, LARGE_COUNT = 30_000, 2_600


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), settings=SETTINGS) as cluster:
        yield cluster
        assert cluster.complaints() == []


@pytest.fixture
async def cluster(running: ClusterProcesses) -> AsyncIterator[ClusterProcesses]:
    """Whole at the beginning of every test."""
    yield running
    running.links.heal()
    for node in running:
        node.resume()
        if not node.is_running:
            node.launch()
    await asyncio.to_thread(running.wait_healthy)
    await asyncio.to_thread(running.wait_leaders)


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with open_clients() as opened:
        yield opened


@contextlib.asynccontextmanager
async def api_of(cluster: ClusterProcesses, *nodes: NodeProcess) -> AsyncIterator[Api]:
    """Of these nodes, in turns; by default of all."""
    urls = [node.http_url for node in nodes or cluster]
    async with open_api(*urls, fence_slots=cluster.slot_count) as api:
        yield api


async def again(cluster: ClusterProcesses, *nodes: NodeProcess) -> None:
    """Start what was killed, and wait until all is well."""
    for node in nodes:
        node.launch()
    await asyncio.to_thread(cluster.wait_healthy)
    await asyncio.to_thread(cluster.wait_leaders)


@pytest.mark.parametrize("killed", ["the node that answered", "the leader", "all nodes"])
async def test_s26_who_was_added_right_before_a_kill_gets_the_next_message(
    cluster: ClusterProcesses, clients: Clients, killed: str
) -> None:
    answering, leading, other = cluster
    async with api_of(cluster, answering) as api, api_of(cluster, other) as elsewhere:
        room = room_in_slot(cluster, api, 0)
        await lead(cluster, 0, leading.node_id)
        await room.create(["a"])
        receiver = await clients.connect(unique("u"), to=other)
        await room.add(receiver.uid)
        gone = {"the node that answered": [answering], "the leader": [leading]}.get(killed, list(cluster))
        receiver.leaving = other in gone
        for node in gone:
            await asyncio.to_thread(node.kill)
        if other in gone:
            await again(cluster, *gone)
            receiver = await clients.connect(receiver.uid, to=other)
        payload = unique("after").encode()
        await until_it_works(lambda: elsewhere.send("a", room.id, payload, client_msg_no="after-the-kill"))
        await receiver.until_received(1, WITHIN_S)
        assert [each.payload for each in receiver.received] == [payload]
        if other not in gone:
            await again(cluster, *gone)
        for node in cluster:
            async with api_of(cluster, node) as asked:
                assert set(await asked.members(room.id)) == {"a", receiver.uid}


async def test_s11_a_kill_right_behind_the_sendack_takes_the_message_from_nobody(
    cluster: ClusterProcesses, clients: Clients
) -> None:
    for turn in range(4):
        killed, *left = random.sample(list(cluster), 3)
        async with api_of(cluster, left[0]) as api:
            room = room_in_slot(cluster, api, turn % cluster.slot_count)
            await lead(cluster, turn % cluster.slot_count, killed.node_id)
            sender = await clients.connect(unique("a"), to=killed)
            receivers = [await clients.connect(unique("u"), to=node) for node in left]
            offline = unique("offline")
            await room.create([sender.uid, offline, *(each.uid for each in receivers)])
            sender.leaving = True
            ack = await room.send(sender)
            killed.kill()
            assert ack.reason_code == SUCCESS
            for receiver in receivers:
                await receiver.until_received(1, WITHIN_S)
            await again(cluster, killed)
            assert await unread_seqs(api, offline, room.id) == [1]
            await fence(api, receivers)
            assert [room.faults_of(each) for each in receivers] == [[], []]
            for receiver in receivers:
                await receiver.close()


@pytest.mark.parametrize("how", ["isolated", "paused"])
async def test_s12_nobody_stays_connected_and_deaf(cluster: ClusterProcesses, clients: Clients, how: str) -> None:
    away, *left = random.sample(list(cluster), 3)
    async with api_of(cluster, *left) as api, api_of(cluster) as everywhere:
        room = Room(api)
        sender = await clients.connect(unique("a"), to=left[0])
        here = [await clients.connect(unique("here"), to=node) for node in left]
        there = [await clients.connect(unique("there"), to=away) for _ in range(6)]
        await room.create([sender.uid, *(client.uid for client in (*here, *there))])
        assert (await room.send(sender)).reason_code == SUCCESS
        for client in there:
            client.leaving = True  # closing it is right
        if how == "isolated":
            cluster.links.block(cluster.links.around(away.node_id))
        else:
            away.pause()
        stop = asyncio.Event()
        # Whoever is not cut off goes on writing meanwhile.
        await until_it_works(lambda: api.members(room.id))
        sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=20))
        if how == "isolated":
            # It notices, says so, and sends its clients away.
            async with asyncio.timeout(WITHIN_S):
                for client in there:
                    await client.closed.wait()
            assert "no leader with a majority" in await asyncio.to_thread(away.why_unhealthy)
        else:
            await asyncio.sleep(6)
        stop.set()
        await sending
        cluster.links.heal()
        away.resume()
        await asyncio.to_thread(cluster.wait_healthy)
        await room.send(sender)
        open_still = [client for client in there if client.is_open]
        print(f"{how}: {len(open_still)} of {len(there)} clients still connected")
        try:
            await fence(everywhere, open_still)
        except Unanswered:
            # Closed a moment later: right as well.
            open_still = [client for client in open_still if client.is_open]
            await fence(everywhere, open_still)
        await fence(everywhere, here)
        faults = [fault for client in (*here, *open_still) for fault in room.faults_of(client)]
        assert not faults, f"{len(faults)} faults: {faults[:5]}"
        # They are taken again, and get what comes.
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(ConnectionError):
                    back = await clients.connect(there[0].uid, to=away)
                    break
                await asyncio.sleep(0.05)
        await room.send(sender)
        await back.until_received(1, WITHIN_S)
        # The sessions that it closed are over for everybody.
        connected = sum(client.is_open for client in (*there, back))
        async with asyncio.timeout(WITHIN_S):
            while len(await api.online([client.uid for client in there])) != connected:
                await asyncio.sleep(0.1)


async def test_s17_a_kill_in_the_middle_of_a_reset_leaves_one_list_on_all_nodes(cluster: ClusterProcesses) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    common = [unique("both") for _ in range(100)]
    lists = [[*common, *(unique(side) for _ in range(1_900))] for side in ("old", "new")]
    current, outcomes = 0, []
    async with api_of(cluster) as api:
        room_id = unique("room")
        await api.create(room_id, lists[0])
    for _ in range(4):
        asked, killed = rng.sample(list(cluster), 2)
        if rng.random() < 0.5:
            killed = cluster[await asyncio.to_thread(cluster.leader_of, room_id)]
        wanted = 1 - current
        async with api_of(cluster, asked) as api:
            reset = asyncio.create_task(api.add(room_id, lists[wanted], reset=True))
            await asyncio.wait([reset], timeout=rng.uniform(0.0, 0.3))
            await asyncio.to_thread(killed.kill)
            with contextlib.suppress(*NO_ANSWER, ApiError):
                await reset
        answered = reset.exception() is None
        await again(cluster, killed)
        listed = []
        for node in cluster:
            async with api_of(cluster, node) as api:
                listed.append(set(await api.members(room_id)))
        assert listed[0] == listed[1] == listed[2]
        assert listed[0] in (set(lists[0]), set(lists[1])), (
            f"{len(listed[0])} members: neither the old nor the new list"
        )
        is_new = listed[0] == set(lists[wanted])
        assert is_new or not answered, "the answered reset is undone"
        current = wanted if is_new else current
        outcomes.append("answered" if answered else "done" if is_new else "undone")
    print(outcomes)


async def test_s20_a_follower_that_catches_up_in_one_batch_has_the_same_list_and_leads_with_it(
    cluster: ClusterProcesses, clients: Clients
) -> None:
    first, second, late = cluster
    async with api_of(cluster, first, second) as api:
        room = room_in_slot(cluster, api, 1)
        uids = [unique("u") for _ in range(60)]
        await room.create(uids[:20])
        await asyncio.to_thread(late.kill)
        await until_it_works(lambda: api.members(room.id))
        for start in range(0, 60, 10):
            await room.add(*uids[start : start + 20])
            await room.remove_all()
            await room.add(*uids[start : start + 10])
            await api.send("back-end", room.id, b"between")
            await room.reset(*uids[start : start + 5], uids[-1])
        await again(cluster, late)
        await lead(cluster, 1, late.node_id)
        sender = await clients.connect(unique("a"), to=first)
        watching = [await clients.connect(uid, to=late) for uid in (uids[0], uids[50], uids[-1])]
        await room.add(sender.uid)
        await room.send(sender)
        await room.check([sender, *watching], members=[*uids[50:55], uids[-1], sender.uid])


@pytest.mark.timeout(300)
async def test_a_node_that_was_away_for_longer_than_the_log_reaches_back_gets_everything(
    cluster: ClusterProcesses, clients: Clients
) -> None:
    late, *left = random.sample(list(cluster), 3)
    async with api_of(cluster, *left) as api:
        room = room_in_slot(cluster, api, 3)
        waiting = await clients.connect(unique("u"), to=left[0])
        await room.create(["a", waiting.uid])
        await asyncio.to_thread(late.kill)
        await until_it_works(lambda: api.members(room.id))
        gate = asyncio.Semaphore(16)

        async def write(number: int) -> None:
            async with gate:
                payload = number.to_bytes(4, "big") * (LARGE_BYTES // 4)
                await until_it_works(lambda: api.send("a", room.id, payload, client_msg_no=f"large-{number}"))

        await asyncio.gather(*(write(number) for number in range(LARGE_COUNT)))
        added = unique("added")
        await room.add(added)
        await again(cluster, late)
        async with api_of(cluster, late) as asked:
            assert set(await asked.members(room.id)) == {"a", waiting.uid, added}
            stored = await asked.history(waiting.uid, room.id)
            assert [each["message_seq"] for each in stored] == list(range(1, LARGE_COUNT + 1))
        # It leads with it, too.
        await lead(cluster, 3, late.node_id)
        receiver = await clients.connect(added, to=late)
        await api.send("a", room.id, b"after the snapshot")
        await receiver.until_received(1, WITHIN_S)
        await waiting.until_received(LARGE_COUNT + 1, WITHIN_S)
        receiver.leaving = True
        await asyncio.to_thread(late.kill)
        assert generation(late, 3) > 0, "the log reached back, so nothing was shown"
        await again(cluster, late)


@pytest.mark.timeout(180)
async def test_a_node_that_lost_its_disk_is_taken_in_again(cluster: ClusterProcesses, clients: Clients) -> None:
    lost, *left = random.sample(list(cluster), 3)
    async with api_of(cluster, *left) as api:
        room = Room(api)
        receiver = await clients.connect(unique("u"), to=left[0])
        await room.create(["a", receiver.uid])
        await api.send("a", room.id, b"before")
        disk = lost.disk()
        await asyncio.to_thread(lost.kill)
        await asyncio.to_thread(shutil.rmtree, lost.data_dir)
        lost.launch()
        # Meanwhile the others go on.
        await until_it_works(lambda: api.send("a", room.id, b"meanwhile"))
        await again(cluster)
        await asyncio.to_thread(cluster.wait_taken_in, lost, disk)
        slot = cluster.slot(room.id)
        await lead(cluster, slot, lost.node_id)
        there = await clients.connect(unique("there"), to=lost)
        async with api_of(cluster, lost) as asked:
            await asked.add(room.id, [there.uid])
            await asked.send("a", room.id, b"after")
        await there.until_received(1, WITHIN_S)
        await receiver.until_received(3, WITHIN_S)
        assert [each.payload for each in receiver.received] == [b"before", b"meanwhile", b"after"]


async def test_s33_both_sides_keep_the_conversation_of_a_first_message_before_all_are_killed(
    cluster: ClusterProcesses, clients: Clients
) -> None:
    a, b = unique("a"), unique("b")
    sender = await clients.connect(a, to=cluster[2])
    ack = await sender.send(b, b"first", kind=PERSON)
    sender.leaving = True
    await asyncio.to_thread(cluster.kill)
    await again(cluster, *cluster)
    for node in cluster:
        async with api_of(cluster, node) as api:
            mine, theirs = (await api.conversations(a))[b], (await api.conversations(b))[a]
            assert (mine["unread"], theirs["unread"]) == (0, 1)
            assert mine["last_msg_seq"] == theirs["last_msg_seq"] == ack.message_seq == 1


async def test_s41_a_node_without_a_majority_promises_nothing(cluster: ClusterProcesses, clients: Clients) -> None:
    alone, *left = random.sample(list(cluster), 3)
    async with api_of(cluster, alone) as apart, api_of(cluster, *left) as api:
        room = room_in_slot(cluster, api, 2)
        # Even as the leader: it has to ask.
        await lead(cluster, 2, alone.node_id)
        await room.create(["a"])
        cluster.links.block(cluster.links.around(alone.node_id))
        uids = [unique("u") for _ in range(8)]
        outcomes = await asyncio.gather(
            *(room_add(apart, room.id, uid) for uid in uids), apart.members(room.id), return_exceptions=True
        )
        assert all(isinstance(each, BaseException) for each in outcomes), f"an answer without a majority: {outcomes}"
        receivers: list[Client] = [await clients.connect(uid, to=left[0]) for uid in uids]
        certain = await clients.connect(unique("certain"), to=left[1])
        await until_it_works(lambda: api.add(room.id, [certain.uid]))
        await api.send("a", room.id, b"of the majority")
        await certain.until_received(1, WITHIN_S)
        cluster.links.heal()
        await asyncio.to_thread(cluster.wait_healthy)
        await fence(api, [*receivers, certain])
        # Whether those adds happened in the end is open, but all agree on it, and on when.
        listed = []
        for node in cluster:
            async with api_of(cluster, node) as asked:
                listed.append(set(await asked.members(room.id)))
        assert listed[0] == listed[1] == listed[2]
        await api.send("a", room.id, b"of all")
        await fence(api, [*receivers, certain])
        for receiver in receivers:
            got = [each.payload for each in receiver.received]
            assert got in ([[], [b"of all"], [b"of the majority", b"of all"]])
            assert bool(got) is (receiver.uid in listed[0])
        assert [each.payload for each in certain.received] == [b"of the majority", b"of all"]


async def until_it_works(call: Callable[[], Awaitable[Any]]) -> None:
    """What a client does while leaders change."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await call()
                return
            except (*NO_ANSWER, ApiError):
                await asyncio.sleep(0.05)


async def room_add(api: Api, room_id: str, uid: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        await api.add(room_id, [uid])


async def test_a_stop_in_good_order_sends_clients_away_and_leaves_no_session(
    cluster: ClusterProcesses, clients: Clients
) -> None:
    stopped, *left = random.sample(list(cluster), 3)
    there = [await clients.connect(unique("u"), to=stopped) for _ in range(10)]
    for client in there:
        client.leaving = True
    uids = [client.uid for client in there]
    async with api_of(cluster, *left) as api:
        assert len(await api.online(uids)) == 10
        assert await asyncio.to_thread(stopped.stop) == 0
        for client in there:
            await asyncio.wait_for(client.closed.wait(), 5)
            assert client.kicked is None
        began = time.monotonic()
        while listed := await api.online(uids):
            assert time.monotonic() - began < WITHIN_S, f"ghosts: {listed}"
            await asyncio.sleep(0.1)
        print(f"no ghost {time.monotonic() - began:.1f} s after the stop")


async def test_the_same_rows_are_on_all_nodes_in_the_end(running: ClusterProcesses, cluster: ClusterProcesses) -> None:
    """After all that was done to them: byte for byte. The last test here, for it stops the cluster."""
    async with aiohttp.ClientSession() as http:
        for node in cluster:
            # Behind a barrier of every slot.
            await Api(node.http_url, http).conversations("nobody")
    # Nobody is connected and nothing goes on, so what is applied now is the end.
    await asyncio.to_thread(wait_for_equal_indexes, cluster)
    for node in cluster:
        node.pause()
    cluster.kill()
    rows = [slot_rows(node.data_dir / "store", cluster.slot_count) for node in cluster]
    assert len(rows[0]) > 20
    for other in rows[1:]:
        differing = {key for key in rows[0].keys() | other.keys() if rows[0].get(key) != other.get(key)}
        assert not differing, f"{len(differing)} rows differ: {sorted(differing)[:5]}"
    await again(cluster, *cluster)


def wait_for_equal_indexes(cluster: ClusterProcesses) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        nodes = cluster[1].ask("/cluster/status")["nodes"]
        if all(each["lag_entries"] == 0 for each in nodes):
            return
        time.sleep(0.1)
    raise AssertionError(f"a node still lags: {nodes}")


def generation(node: NodeProcess, slot: int) -> int:
    """How many snapshots of a slot a node has taken; it must not run."""
    store = RocksStore(str(node.data_dir / "store"), block_cache_bytes=MIB)
    try:
        return Generations(store).current(slot)
    finally:
        store.close()


def slot_rows(path: Path, slot_count: int) -> dict[tuple[int, bytes], bytes]:
    """Of the current generation of every slot, which may have another number on each node."""
    store = RocksStore(str(path), block_cache_bytes=MIB)
    try:
        generations = Generations(store)
        prefixes = [(slot, generations.prefix(slot)) for slot in range(slot_count)]
        return {
            (slot, key[len(prefix) :]): value
            for slot, prefix in prefixes
            for key, value in store.scan(prefix, prefix_end(prefix))
        }
    finally:
        store.close()
