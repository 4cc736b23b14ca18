"""Everything at once, at random: adds, removes, resets, messages, logins and logouts. Scenario S42 without failures."""

import asyncio
import random
from dataclasses import dataclass, field

from tests.scenarios.conftest import Clients, Deployment
from tests.scenarios.judge import Sent, now
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api
from tests.support.wire import Client, Kind, fence, unique

STEPS = 100
ROOMS = 3
RECEIVERS = 12
KINDS = list(Kind)


@dataclass
class Receiver:
    """Comes and goes, never sends. stays: when he was connected for certain, with all that came before the end."""

    uid: str
    kind: Kind
    client: Client | None = None
    since: float = 0.0
    stays: list[tuple[float, float]] = field(default_factory=list)
    got: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def was_here(self, message: Sent) -> bool:
        return any(came < message.sent and message.acked < left for came, left in self.stays)


async def come(receiver: Receiver, clients: Clients) -> None:
    receiver.client = await clients.connect(receiver.uid, receiver.kind)
    receiver.since = now()


async def go(receiver: Receiver, api: Api, *, abruptly: bool) -> None:
    client, receiver.client = receiver.client, None
    assert client is not None
    if abruptly:
        # What was on its way is not his; what has come must have been for him all the same.
        client.abort()
    else:
        until = now()
        await fence(api, [client])
        receiver.stays.append((receiver.since, until))
        await client.close()
    for message in client.received:
        seqs = receiver.got.setdefault(message.channel_id, {})
        assert message.message_seq not in seqs, f"{receiver.uid} got {message} on two connections"
        seqs[message.message_seq] = message.payload


async def test_s42_any_interleaving_agrees_with_the_times(api: Api, clients: Clients, deployment: Deployment) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    senders = await asyncio.gather(*(clients.connect(unique("a"), kind) for kind in KINDS))
    receivers = [Receiver(unique("u"), KINDS[number % len(KINDS)]) for number in range(RECEIVERS)]
    rooms = [Room(api) for _ in range(ROOMS)]
    for room in rooms:
        await room.create([sender.uid for sender in senders])
    stop = asyncio.Event()
    sending = [
        asyncio.create_task(room.keep_sending(sender, stop, per_second=30)) for room in rooms for sender in senders
    ]

    async def keep_changing(room: Room) -> None:
        fixed = [sender.uid for sender in senders]
        for _ in range(deployment.scaled(STEPS)):
            some = [each.uid for each in rng.sample(receivers, rng.randint(1, 4))]
            draw = rng.random()
            if draw < 0.45:
                await room.add(*some)
            elif draw < 0.9:
                await room.remove(*some)
            else:
                await room.reset(*fixed, *some)

    async def keep_moving(receiver: Receiver) -> None:
        while not stop.is_set():
            await come(receiver, clients)
            await asyncio.sleep(rng.expovariate(8))
            await go(receiver, api, abruptly=rng.random() < 0.3)
            await asyncio.sleep(rng.expovariate(30))

    moving = [asyncio.create_task(keep_moving(receiver)) for receiver in receivers]
    # Two hands on every room: their changes overlap.
    await asyncio.gather(*(keep_changing(room) for room in rooms for _ in range(2)))
    stop.set()
    await asyncio.gather(*sending, *moving)
    faults = [fault for room in rooms for receiver in receivers for fault in judge(room, receiver)]
    assert not faults, f"{len(faults)} faults: {faults[:10]}"
    for room in rooms:
        assert not room.refused
        await check_ends(api, room, receivers)
        await room.audit(senders)
    print(
        sum(len(room.chat.messages) for room in rooms), "messages", sum(len(each.stays) for each in receivers), "stays"
    )


def judge(room: Room, receiver: Receiver) -> list[str]:
    got = receiver.got.get(room.id, {})
    # While he was away, or on the move, a message could miss him; what came must have been for him in any case.
    away = [message.seq for message in room.chat.messages if not receiver.was_here(message) and message.seq not in got]
    return room.chat.judge(receiver.uid, got, skip=away)


async def check_ends(api: Api, room: Room, receivers: list[Receiver]) -> None:
    """Whoever is a member in the end finds as unread what came since his last join, up to the end, without a hole."""
    listed = set(await api.members(room.id))
    last = max(message.seq for message in room.chat.messages)
    for receiver in receivers:
        if receiver.uid not in listed:
            continue
        unread = await unread_seqs(api, receiver.uid, room.id)
        assert unread == list(range(last - len(unread) + 1, last + 1))
        # Overlapping changes may have been made in any order, but the last join was not after this.
        joined = max(change.ok for joins, change in room.chat.changes_of(receiver.uid) if joins)
        missing = {message.seq for message in room.chat.messages if message.sent > joined} - set(unread)
        assert not missing, f"{receiver.uid} does not find {sorted(missing)[:5]} in {room.id}"
