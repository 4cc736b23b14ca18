"""Many members: the same rules on both sides of every size. Scenarios S27 and S28."""

import asyncio

import pytest

from tests.scenarios.conftest import Clients
from tests.scenarios.judge import now
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api
from tests.support.wire import SUCCESS, Kind, unique

# What a member of a large channel may wait for a message, on a machine that does other things as well.
DELIVERY_LIMIT_S = 5.0
CONNECTED = 40


@pytest.mark.parametrize("size", [1_000, 10_000])
async def test_s27_one_added_to_many_gets_the_next_message_and_nobody_misses_it(
    api: Api, clients: Clients, room: Room, kind: Kind, size: int
) -> None:
    uids = [unique("u") for _ in range(size)]
    sender, added = await clients.connect_all([unique("a"), unique("added")], kind)
    watching = await clients.connect_all(uids[:: size // CONNECTED], kind)
    await room.create([sender.uid, *uids])
    await room.send(sender)
    await room.add(added.uid)
    sent = now()
    await room.send(sender)
    await added.until_received(1)
    assert added.received[0].at - sent < DELIVERY_LIMIT_S
    for uid in uids[7 :: size // 20]:
        assert room.chat.judge(uid, await unread_seqs(api, uid, room.id)) == []
    await room.check([sender, added, *watching], members=[sender.uid, added.uid, *uids])


async def test_s28_ten_thousand_in_one_request_and_in_pages(api: Api, clients: Clients, kind: Kind) -> None:
    uids = [unique("u") for _ in range(10_000)]
    sender = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all(uids[:: len(uids) // CONNECTED], kind)
    at_once, in_pages = Room(api), Room(api)
    for room in (at_once, in_pages):
        await room.create([sender.uid])
        await room.send(sender)
    await at_once.add(*uids)
    for start in range(0, len(uids), 1_000):
        await in_pages.add(*uids[start : start + 1_000])
        await in_pages.send(sender)
    for room in (at_once, in_pages):
        await room.send(sender)
        await room.check([sender, *watching], members=[sender.uid, *uids])
        for uid in uids[3::1_000]:
            assert room.chat.judge(uid, await unread_seqs(api, uid, room.id)) == []
    # All replaced by half of them, in one call that is larger than one command.
    stay = uids[: len(uids) // 2]
    for room in (at_once, in_pages):
        await room.reset(sender.uid, *stay)
        await room.send(sender)
        await room.check([sender, *watching], members=[sender.uid, *stay])


async def test_s28_a_large_request_while_messages_flow_is_complete_with_its_ok(
    clients: Clients, room: Room, kind: Kind
) -> None:
    uids = [unique("u") for _ in range(5_000)]
    sender = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all(uids[:: len(uids) // 20], kind)
    await room.create([sender.uid])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=500))
    await room.add(*uids)
    await room.send(sender)
    await room.remove(*uids[::2])
    await room.send(sender)
    stop.set()
    await sending
    assert not room.refused
    await room.check([sender, *watching], members=[sender.uid, *uids[1::2]])


async def test_s28_of_large_resets_at_once_one_wins_as_a_whole(api: Api, clients: Clients, any_kind: Kind) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    room = Room(api)
    await room.create([sender.uid])
    lists = [[sender.uid, *(unique(f"list{number}") for number in range(2_500))] for _ in range(6)]
    # Longer than one command, so each comes in parts; one short list and single members between them.
    lists.append([sender.uid, *(unique("short") for _ in range(10))])
    singles = [unique("single") for _ in range(5)]
    await asyncio.gather(*(room.reset(*uids) for uids in lists), *(room.add(uid) for uid in singles))
    listed = set(await api.members(room.id)) - set(singles)
    assert listed in [set(uids) for uids in lists]
    watching = await clients.connect_all([*(uids[-1] for uids in lists), *singles], any_kind)
    await room.audit([sender, *watching])
    await room.reset(*lists[0])
    await room.audit([sender, *watching], members=lists[0])


async def test_s28_five_hundred_members_are_no_threshold_and_large_is_only_a_flag(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    uids = [unique("u") for _ in range(520)]
    sender = await clients.connect(unique("a"), any_kind)
    watching = await clients.connect_all([uids[0], *uids[480::4]], any_kind)
    await room.create([sender.uid, *uids[:480]])
    await room.send(sender)
    for start in range(480, 520, 5):
        await room.add(*uids[start : start + 5])
        assert (await room.send(sender)).reason_code == SUCCESS
    await api.post("/channel/info", {"channel_id": room.id, "channel_type": 2, "large": 1})
    for start in range(480, 520, 5):
        await room.remove(*uids[start : start + 5])
        await room.send(sender)
    await room.add(uids[-1])
    await room.send(sender)
    await room.check([sender, *watching], members=[sender.uid, *uids[:480], uids[-1]])
