"""Members that leave, come back, or are replaced. Scenarios S15 to S19."""

import asyncio
import random

from tests.scenarios.conftest import Clients, Deployment
from tests.scenarios.room import Room, commands_of, unread_seqs
from tests.support.http import Api
from tests.support.wire import SUCCESS, Kind, fence, unique


async def test_s16_a_reset_while_messages_flow_never_empties_the_channel(
    api: Api, clients: Clients, room: Room, kind: Kind, deployment: Deployment
) -> None:
    sender = await clients.connect(unique("a"), kind)
    both = await clients.connect_all([unique("both") for _ in range(5)], kind)
    old = await clients.connect_all([unique("old") for _ in range(5)], kind)
    new = await clients.connect_all([unique("new") for _ in range(5)], kind)
    common = [sender.uid, *(client.uid for client in both)]
    lists = [[*common, *(client.uid for client in side)] for side in (old, new)]
    await room.create(lists[0])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=deployment.scaled(300)))

    async def look() -> int:
        looks = 0
        while not stop.is_set():
            assert set(await api.members(room.id)) in (set(lists[0]), set(lists[1]))
            looks += 1
        return looks

    looking = asyncio.create_task(look())
    for turn in range(deployment.scaled(100) // 2 * 2):
        await room.reset(*lists[(turn + 1) % 2])
    stop.set()
    await sending
    assert await looking > deployment.scaled(20)
    assert not room.refused, "the sender is in both lists"
    await room.check([sender, *both, *old, *new], members=lists[0])


async def test_s18_removed_and_added_again_a_member_gets_what_follows(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    sender, member = await clients.connect_all([unique("a"), unique("u")], any_kind)
    offline = unique("offline")

    async def play(room: Room) -> None:
        await room.create([sender.uid, member.uid, offline])
        await room.send(sender)
        await room.remove(member.uid, offline)
        await room.send(sender)
        await room.add(member.uid, offline)
        await room.send(sender)

    rooms = [Room(api) for _ in range(50)]
    for start in range(0, len(rooms), 10):
        await asyncio.gather(*(play(room) for room in rooms[start : start + 10]))
    await fence(api, [sender, member])
    for room in rooms:
        assert [each.message_seq for each in member.of(room.id)] == [1, 3]
        assert await unread_seqs(api, offline, room.id) == [3]
    await rooms[-1].check([sender, member], members=[sender.uid, member.uid, offline])


async def test_s18_adds_and_removes_in_quick_succession_and_in_parallel_end_as_the_last_ok_says(
    api: Api, clients: Clients, room: Room, kind: Kind
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    sender = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all([unique("u") for _ in range(12)], kind)
    uids = [client.uid for client in watching]
    await room.create([sender.uid])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=300))

    async def quarrel(worker: int) -> None:
        for _ in range(40):
            # The first six uids are fought over by all workers, each other one belongs to a single worker.
            some = [*rng.sample(uids[:6], 2), uids[6 + worker]]
            await (room.add(*some) if rng.random() < 0.5 else room.remove(*some))

    await asyncio.gather(*(quarrel(worker) for worker in range(6)))
    last_in = set(rng.sample(uids, 6))
    await room.add(*last_in)
    await room.remove(*(uid for uid in uids if uid not in last_in))
    await room.send(sender)
    stop.set()
    await sending
    await room.check([sender, *watching], members=[sender.uid, *last_in])


async def test_s18_everybody_removed_and_some_added_again(clients: Clients, room: Room, any_kind: Kind) -> None:
    sender, back, gone = await clients.connect_all([unique("a"), unique("back"), unique("gone")], any_kind)
    await room.create([sender.uid, back.uid, gone.uid])
    await room.send(sender)
    await room.remove_all()
    assert (await room.send(sender)).reason_code == 3
    await room.add(sender.uid, back.uid)
    assert (await room.send(sender)).reason_code == SUCCESS
    await room.check([sender, back, gone], members=[sender.uid, back.uid])


async def test_s19_who_was_removed_gets_neither_message_nor_command_nor_a_conversation(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    sender, removed = await clients.connect_all([unique("a"), unique("u")], any_kind)
    offline = unique("offline")

    async def play(room: Room) -> None:
        await room.create([sender.uid, removed.uid, offline])
        await room.send(sender)
        await room.command(sender.uid, b"before")
        await room.remove(removed.uid, offline)
        await room.send(sender)
        await room.command(sender.uid, b"after")

    rooms = [Room(api) for _ in range(30)]
    for start in range(0, len(rooms), 10):
        await asyncio.gather(*(play(room) for room in rooms[start : start + 10]))
    await fence(api, [sender, removed])
    for room in rooms:
        assert [each.message_seq for each in removed.received if each.channel_id == room.id] == [1, 1]
        assert await commands_of(api, offline, room.id) == {1: b"before"}
    assert await api.conversations(removed.uid) == {}
    assert await api.conversations(offline) == {}
    await rooms[-1].check([sender, removed], members=[sender.uid])
