"""Commands go to whoever is a member at their position. Scenarios S13, S14, S15 (commands) and S32."""

import asyncio

import pytest

from tests.scenarios.conftest import Clients
from tests.scenarios.room import Room, commands_of
from tests.support.http import Api, payload_of
from tests.support.wire import Client, Kind, fence, unique


def payloads(client: Client, room: Room) -> list[bytes]:
    return [each.payload for each in client.of(room.id, commands=True)]


async def test_s13_whoever_joins_after_a_passing_command_gets_the_next(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    a, b, late = await clients.connect_all([unique("a"), unique("b"), unique("u")], any_kind)

    async def play(room: Room) -> None:
        await room.create([a.uid, b.uid])
        await api.send(a.uid, room.id, b"first", sync_once=True, no_persist=True)
        await room.add(late.uid)
        await api.send(a.uid, room.id, b"second", sync_once=True, no_persist=True)

    rooms = [Room(api) for _ in range(50)]
    for start in range(0, len(rooms), 10):
        await asyncio.gather(*(play(room) for room in rooms[start : start + 10]))
    await fence(api, [a, b, late])
    for room in rooms:
        assert payloads(b, room) == payloads(a, room) == [b"first", b"second"]
        assert payloads(late, room) == [b"second"]
    assert await api.commands(late.uid) == []


async def test_s14_a_stored_command_is_for_those_who_were_members_when_it_came(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    a, b, late = await clients.connect_all([unique("a"), unique("b"), unique("u")], any_kind)
    offline, offline_late = unique("offline"), unique("offline-late")
    await room.create([a.uid, b.uid, offline])
    await room.send(a)
    assert await room.command(a.uid, b"first") == 1
    await room.add(late.uid, offline_late)
    assert await room.command(a.uid, b"second") == 2
    for uid in (b.uid, offline):
        assert await commands_of(api, uid, room.id) == {1: b"first", 2: b"second"}
    for uid in (late.uid, offline_late):
        assert await commands_of(api, uid, room.id) == {2: b"second"}
    assert payload_of((await api.commands(offline))[0]) == b"first"
    await api.acknowledge_commands(offline, 2)
    assert await api.commands(offline) == []
    await room.check([a, b, late], members=[a.uid, b.uid, late.uid, offline, offline_late])


async def test_s14_a_command_into_a_channel_without_messages_reaches_all_members(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    a, b = await clients.connect_all([unique("a"), unique("b")], any_kind)
    offline = unique("offline")
    await room.create([a.uid, b.uid, offline])
    await room.command(a.uid, b"knock")
    await room.check([a, b], members=[a.uid, b.uid, offline])
    assert payloads(b, room) == [b"knock"]
    assert await commands_of(api, offline, room.id) == {1: b"knock"}


async def test_s14_members_that_come_while_commands_flow_get_all_later_ones(
    api: Api, clients: Clients, room: Room, kind: Kind
) -> None:
    uids = [unique("u") for _ in range(60)]
    first = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all(uids[::3], kind)
    await room.create([first.uid])
    stop = asyncio.Event()

    async def keep_commanding() -> None:
        while not stop.is_set():
            await room.command(first.uid)

    commanding = asyncio.create_task(keep_commanding())
    for uid in uids:
        await room.add(uid)
    stop.set()
    await commanding
    for uid in uids[1::3]:
        found = await commands_of(api, uid, room.id)
        assert room.commands.judge(uid, found) == []
    await room.check([first, *watching], members=[first.uid, *uids])


@pytest.mark.parametrize("by", ["channel", "subscriber_add"])
async def test_s15_after_a_reset_commands_and_messages_go_to_the_new_list_only(
    api: Api, clients: Clients, room: Room, any_kind: Kind, by: str
) -> None:
    stays, goes, comes = await clients.connect_all([unique("stays"), unique("goes"), unique("comes")], any_kind)
    offline_goes, offline_comes = unique("offline-goes"), unique("offline-comes")
    await room.create([stays.uid, goes.uid, offline_goes])
    await room.command(stays.uid, b"before")
    await room.send(stays, b"message before")
    new = [stays.uid, comes.uid, offline_comes]
    if by == "channel":
        await room.create(new, reset=True)
    else:
        await room.reset(*new)
    await room.command(stays.uid, b"after")
    await room.send(stays, b"message after")
    await room.check([stays, goes, comes], members=new)
    assert payloads(goes, room) == [b"before"]
    assert payloads(comes, room) == [b"after"]
    # What came in his time stays to be fetched; nothing of later times does.
    assert await commands_of(api, offline_goes, room.id) == {1: b"before"}
    assert await commands_of(api, offline_comes, room.id) == {2: b"after"}


async def test_s32_all_of_250_offline_members_find_the_command_when_they_come(
    api: Api, clients: Clients, room: Room, kind: Kind
) -> None:
    sender = unique("a")
    uids = [unique("u") for _ in range(250)]
    await room.create([sender, *uids])
    await room.command(sender, b"for all")
    await clients.connect_all(uids, kind)

    async def pull(uid: str) -> None:
        assert await commands_of(api, uid, room.id) == {1: b"for all"}
        await api.acknowledge_commands(uid, 1)
        assert await api.commands(uid) == []

    await asyncio.gather(*(pull(uid) for uid in uids))
