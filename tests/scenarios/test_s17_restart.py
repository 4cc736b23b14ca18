"""A kill right behind an Ok, and in the middle of a change. Scenarios S17, S26 and S33."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tests.scenarios.conftest import Clients
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import NO_ANSWER, Api, open_api
from tests.support.server import ServerProcess
from tests.support.wire import PERSON, Kind, fence, unique

Servers = Callable[..., ServerProcess]


async def test_s26_who_was_added_right_before_a_kill_is_a_member_afterwards(
    own_server: Servers, own_clients: Clients, kind: Kind
) -> None:
    server = own_server()
    await asyncio.to_thread(server.start)
    for _ in range(3):
        async with open_api(server.http_url) as api:
            sender = await own_clients.connect(unique("a"), kind, to=server)
            room = Room(api)
            uids = [unique("u") for _ in range(40)]
            await room.create([sender.uid])
            await room.send(sender)
            adding = [asyncio.create_task(room.add(uid)) for uid in uids]
            # Some are answered, some are under way, some have not begun.
            await asyncio.wait(adding[:20])
            sender.leaving = True
            await asyncio.to_thread(server.kill)
            await asyncio.gather(*adding, return_exceptions=True)
        await asyncio.to_thread(server.start)
        async with open_api(server.http_url) as api:
            room.api = api
            watching = await own_clients.connect_all(uids[::2], kind, to=server)
            again = await own_clients.connect(sender.uid, kind, to=server)
            await room.send(again)
            for uid in uids[1::2]:
                # What was answered is certain, what was under way is as the list says.
                assert room.chat.judge(uid, await unread_seqs(api, uid, room.id)) == []
            await fence(api, watching)
            assert [fault for client in watching for fault in room.faults_of(client)] == []
            await room.audit([again, *watching])
            for client in (again, *watching):
                await client.close()


async def test_s17_a_kill_in_the_middle_of_a_reset_leaves_the_old_list_or_the_new_one(
    own_server: Servers, own_clients: Clients
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    # Small commands: a replacement of 3,000 takes 30 of them, and a kill has many places to hit.
    server = own_server(wukong={"membersPerCommand": 100})
    await asyncio.to_thread(server.start)
    room_id = unique("room")
    common = [unique("both") for _ in range(200)]
    lists = [[*common, *(unique(side) for _ in range(2_800))] for side in ("old", "new")]
    async with open_api(server.http_url) as api:
        await api.create(room_id, lists[0])
    current = 0
    outcomes: list[str] = []
    for _ in range(6):
        wanted = 1 - current
        async with open_api(server.http_url) as api:
            reset = asyncio.create_task(api.add(room_id, lists[wanted], reset=True))
            # Between "nothing has arrived" and "answered long ago".
            await asyncio.wait([reset], timeout=rng.uniform(0.0, 0.15))
            answered = reset.done()
            await asyncio.to_thread(server.kill)
            for error in await asyncio.gather(reset, return_exceptions=True):
                assert error is None or isinstance(error, NO_ANSWER), error
        await asyncio.to_thread(server.start)
        async with open_api(server.http_url) as api:
            listed = set(await api.members(room_id))
            assert listed in (set(lists[0]), set(lists[1])), f"{len(listed)} members: neither the old list nor the new"
            is_new = listed == set(lists[wanted])
            assert is_new or not answered, "the answered reset is undone"
            current = wanted if is_new else current
            outcomes.append("answered" if answered else "done" if is_new else "undone")
            await check_delivery(api, own_clients, server, room_id, lists[current], lists[1 - current])
    print(outcomes)


async def check_delivery(
    api: Api, clients: Clients, server: ServerProcess, room_id: str, members: list[str], others: list[str]
) -> None:
    """A message reaches who is listed and nobody else."""
    strangers = [uid for uid in others if uid not in set(members)]
    inside = await clients.connect_all([members[0], members[-1]], to=server)
    outside = await clients.connect_all([strangers[0], strangers[-1]], to=server)
    room = Room(api, room_id)
    await room.audit([*inside, *outside])
    for client in (*inside, *outside):
        await client.close()


async def test_s26_what_users_have_read_and_confirmed_outlives_a_kill(
    own_server: Servers, own_clients: Clients
) -> None:
    server = own_server()
    await asyncio.to_thread(server.start)
    reader, lazy, denied, gone = users = [unique(name) for name in ("reader", "lazy", "denied", "gone")]
    sender = await own_clients.connect(unique("a"), to=server)
    async with open_api(server.http_url) as api:
        room = Room(api)
        await room.create([sender.uid, *users])
        for _ in range(3):
            await room.send(sender)
            await room.command(sender.uid)
            await sender.send(reader, b"hello", kind=PERSON)
        await api.post("/conversations/clearUnread", {"uid": reader, "channel_id": room.id, "channel_type": 2})
        await room.send(sender)
        await api.post("/conversations/delete", {"uid": lazy, "channel_id": room.id, "channel_type": 2})
        await room.send(sender)
        await api.change_list("blacklist_add", room.id, [denied])
        await room.remove(gone)
        before = await positions(api, users)
        # Handed out before the kill, confirmed after it.
        assert len(await api.commands(reader)) == 3
    sender.leaving = True
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        await api.acknowledge_commands(reader, 3)
        assert await api.commands(reader) == []
        assert len(await api.commands(lazy)) == 3
        assert await positions(api, users) == before
        assert [each[room.id]["unread"] for each in before[:2]] == [2, 5]
        assert [room.id in each for each in before] == [True, True, False, False]


async def positions(api: Api, uids: list[str]) -> list[dict[str, Any]]:
    return [await api.conversations(uid) for uid in uids]


async def test_s33_both_sides_keep_their_conversation_of_a_first_message_before_a_kill(
    own_server: Servers, own_clients: Clients, kind: Kind
) -> None:
    server = own_server()
    await asyncio.to_thread(server.start)
    a, b = unique("a"), unique("b")
    sender = await own_clients.connect(a, kind, to=server)
    ack = await sender.send(b, b"first", kind=PERSON)
    sender.leaving = True
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        mine, theirs = (await api.conversations(a))[b], (await api.conversations(b))[a]
        assert (mine["unread"], theirs["unread"]) == (0, 1)
        assert mine["last_msg_seq"] == theirs["last_msg_seq"] == ack.message_seq == 1
