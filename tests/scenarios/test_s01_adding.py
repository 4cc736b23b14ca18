"""Members added while a channel is in use. Scenarios S1 to S5, S7 and S40.

The promise: success of the add before the SEND means that the added one gets the message; and nobody else suffers.
"""

import asyncio
import random

from tests.scenarios.conftest import Clients, Deployment
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api
from tests.support.wire import SUCCESS, Kind, fence, unique

ROOMS = 1_000
LANES = 10


async def test_s1_a_member_added_just_before_the_message_gets_it(
    api: Api, clients: Clients, any_kind: Kind, deployment: Deployment
) -> None:
    count = deployment.scaled(ROOMS)
    sender, added = await clients.connect_all([unique("a"), unique("b")], any_kind)

    async def lane(count: int) -> list[Room]:
        rooms = []
        for _ in range(count):
            room = Room(api)
            await room.create([sender.uid])
            await room.add(added.uid)
            assert (await room.send(sender)).reason_code == SUCCESS
            rooms.append(room)
        return rooms

    rooms = [room for some in await asyncio.gather(*(lane(count // LANES) for _ in range(LANES))) for room in some]
    await fence(api, [added])
    by_room: dict[str, dict[int, bytes]] = {}
    for message in added.received:
        by_room.setdefault(message.channel_id, {})[message.message_seq] = message.payload
    faults = [fault for room in rooms for fault in room.chat.judge(added.uid, by_room.get(room.id, {}))]
    assert not faults, f"{len(faults)} of {count}: {faults[:5]}"
    assert len(added.received) == count
    for room in rooms[:: count // 20]:
        await room.audit([sender, added], members=[sender.uid, added.uid])


async def test_s2_members_added_one_by_one_get_all_that_follows(
    api: Api, clients: Clients, room: Room, kind: Kind, deployment: Deployment
) -> None:
    uids = [unique("u") for _ in range(deployment.scaled(500))]
    old = [unique("old") for _ in range(5)]
    sender = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all([*old, *uids[::10]], kind)
    await room.create([sender.uid, *old])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=deployment.scaled(200)))
    for uid in uids:
        await room.add(uid)
    stop.set()
    await sending
    await room.send(sender)
    assert not room.refused
    await room.check([*watching, sender], members=[sender.uid, *old, *uids])
    await check_unread(api, room, uids[5::10])


async def check_unread(api: Api, room: Room, uids: list[str]) -> None:
    """Whoever was not connected finds as unread exactly what he would have got."""
    unread = await asyncio.gather(*(unread_seqs(api, uid, room.id) for uid in uids))
    faults = [fault for uid, seqs in zip(uids, unread, strict=True) for fault in room.chat.judge(uid, seqs)]
    assert not faults, f"{len(faults)} faults: {faults[:5]}"


async def test_s3_parallel_adds_to_an_active_channel_lose_nobody(
    api: Api, clients: Clients, any_kind: Kind, deployment: Deployment
) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    for _ in range(deployment.scaled(5)):
        room = Room(api)
        batches = [[unique("u") for _ in range(8)] for _ in range(32)]
        watching = await clients.connect_all([batch[0] for batch in batches], any_kind)
        await room.create([sender.uid])
        stop = asyncio.Event()
        sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=deployment.scaled(500)))
        await asyncio.gather(*(room.add(*batch) for batch in batches))
        await room.send(sender)
        stop.set()
        await sending
        everybody = [uid for batch in batches for uid in batch]
        await room.check([*watching, sender], members=[sender.uid, *everybody])
        await check_unread(api, room, [uid for batch in batches for uid in batch[1:]])
        await asyncio.gather(*(client.close() for client in watching))


async def test_s4_parallel_adds_with_repeats_and_blanks_count_everybody_once(
    api: Api, clients: Clients, any_kind: Kind, deployment: Deployment
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    uids = [unique("u") for _ in range(40)]
    sender = await clients.connect(unique("a"), any_kind)
    watching = await clients.connect_all(uids[::2], any_kind)
    for _ in range(deployment.scaled(5)):
        room = Room(api)
        await room.create([sender.uid, sender.uid, "", " "])
        stop = asyncio.Event()
        sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=deployment.scaled(500)))
        # Every uid is in several requests, and twice in some; blanks are dropped.
        requests = [[*rng.choices(uids, k=12), "", "  "] for _ in range(28)] + [uids[i::4] * 2 for i in range(4)]
        rng.shuffle(requests)
        await asyncio.gather(*(room.add(*request) for request in requests))
        await room.send(sender)
        stop.set()
        await sending
        await room.check([*watching, sender], members=[sender.uid, *uids])


async def test_s5_adding_all_members_again_disturbs_nobody(api: Api, clients: Clients, room: Room, kind: Kind) -> None:
    uids = [unique("u") for _ in range(1_000)]
    sender = await clients.connect(unique("a"), kind)
    watching = await clients.connect_all(uids[:30], kind)
    reader, offline = uids[-1], uids[-2]
    await room.create([sender.uid, *uids])
    for _ in range(5):
        await room.send(sender)
    await api.post("/conversations/clearUnread", {"uid": reader, "channel_id": room.id, "channel_type": 2})
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=300))
    while len(room.chat.messages) < 300:
        await room.add(*uids)
    stop.set()
    await sending
    last = len(room.chat.messages)
    assert await unread_seqs(api, reader, room.id) == list(range(6, last + 1))
    assert await unread_seqs(api, offline, room.id) == list(range(1, last + 1))
    await room.check([*watching, sender], members=[sender.uid, *uids])


async def test_s7_a_channel_that_never_rests_takes_members_like_any_other(
    clients: Clients, room: Room, kind: Kind
) -> None:
    sender, old, added = await clients.connect_all([unique("a"), unique("old"), unique("u")], kind)
    await room.create([sender.uid, old.uid])
    stop = asyncio.Event()
    sending = asyncio.create_task(room.keep_sending(sender, stop, per_second=1_000))
    await old.until_received(2_000)
    await room.add(added.uid)
    await room.send(sender)
    stop.set()
    await sending
    await room.check([sender, old, added], members=[sender.uid, old.uid, added.uid])


async def test_s40_creating_adding_and_the_first_message_at_once_make_one_channel(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    sender, added = await clients.connect_all([unique("a"), unique("b")], any_kind)
    rooms = [Room(api) for _ in range(100)]

    async def begin(room: Room) -> None:
        await asyncio.gather(room.create([sender.uid]), room.add(added.uid), room.send(sender))
        assert (await room.send(sender)).reason_code == SUCCESS

    for start in range(0, len(rooms), 10):
        await asyncio.gather(*(begin(room) for room in rooms[start : start + 10]))
    await fence(api, [sender, added])
    for room in rooms:
        # The first message came before its sender was a member, or not: then it is refused with 3.
        assert {ack.reason_code for ack in room.refused} <= {3}
        assert room.faults_of(added) == []
        assert sorted(await api.members(room.id)) == sorted([sender.uid, added.uid])
    for room in rooms[::10]:
        await room.audit([sender, added], members=[sender.uid, added.uid])


async def test_s25_a_new_member_may_speak_at_once(clients: Clients, any_kind: Kind, api: Api) -> None:
    speaker, listener = await clients.connect_all([unique("u"), unique("a")], any_kind)

    async def join(room: Room) -> None:
        await room.create([listener.uid])
        assert (await room.send(speaker)).reason_code == 3
        await room.add(speaker.uid)
        assert (await room.send(speaker)).reason_code == SUCCESS

    rooms = [Room(api) for _ in range(200)]
    for start in range(0, len(rooms), 10):
        await asyncio.gather(*(join(room) for room in rooms[start : start + 10]))
    await fence(api, [listener])
    assert len(listener.received) == len(rooms)
    assert [fault for room in rooms for fault in room.faults_of(listener)] == []
