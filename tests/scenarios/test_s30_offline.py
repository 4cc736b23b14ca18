"""Who is not connected finds everything when he comes; who comes meanwhile too. Scenarios S30 and S31."""

import asyncio

from tests.scenarios.conftest import Clients
from tests.scenarios.judge import History, now
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api
from tests.support.wire import Kind, fence, unique


async def test_s30_who_was_added_offline_and_connects_later_finds_the_message_once(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    sender = await clients.connect(unique("a"), any_kind)

    async def play(room: Room) -> None:
        uid = unique("u")
        await room.create([sender.uid])
        await room.send(sender)
        await room.add(uid)
        await room.send(sender)
        late = await clients.connect(uid, any_kind)
        assert await unread_seqs(api, uid, room.id) == [2]
        await room.send(sender)
        await fence(api, [late])
        assert [each.message_seq for each in late.received] == [3]

    for _ in range(5):
        await asyncio.gather(*(play(Room(api)) for _ in range(10)))


async def test_s30_who_connects_while_messages_flow_has_them_all_by_push_or_pull(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    await room.create([sender.uid])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=300))
    await room.send(sender)
    came: list[tuple[str, float, set[int]]] = []

    async def come() -> None:
        uid = unique("u")
        await room.add(uid)
        client = await clients.connect(uid, any_kind)
        # First connected, then pulled: nothing can fall between, and what comes both ways has one seq.
        pulled = await unread_seqs(api, uid, room.id)
        until = now()
        await fence(api, [client])
        came.append((uid, until, {*pulled, *(each.message_seq for each in client.of(room.id))}))
        await client.close()

    for _ in range(6):
        await asyncio.gather(*(come() for _ in range(5)))
    stop.set()
    await sending
    for uid, until, seqs in came:
        meanwhile = History(room.chat.changes, [each for each in room.chat.messages if each.acked < until])
        assert meanwhile.messages
        assert meanwhile.judge(uid, seqs & {each.seq for each in meanwhile.messages}) == []


async def test_s31_the_join_point_is_the_last_message_before_the_add(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    uid = unique("u")
    await room.create([sender.uid])
    for _ in range(5):
        await room.send(sender)
    await room.add(uid)
    conversation = (await api.conversations(uid))[room.id]
    assert (conversation["unread"], conversation["readed_to_msg_seq"], conversation["last_msg_seq"]) == (0, 5, 5)
    for _ in range(3):
        await room.send(sender)
    conversation = (await api.conversations(uid))[room.id]
    assert (conversation["unread"], conversation["readed_to_msg_seq"], conversation["last_msg_seq"]) == (3, 5, 8)


async def test_s31_in_a_channel_without_messages_the_first_ones_are_unread(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    uid = unique("u")
    await room.create([sender.uid])
    await room.add(uid)
    assert await unread_seqs(api, uid, room.id) == []
    for _ in range(3):
        await room.send(sender)
    assert await unread_seqs(api, uid, room.id) == [1, 2, 3]
