"""Every connection of a user, wherever it is; large payloads; slow readers; implicit members; named recipients.

Scenarios S22, S29, S34, S35, S36 and S38.
"""

import asyncio
import base64

import pytest

from tests.scenarios.conftest import Clients, Deployment
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api, payload_of
from tests.support.wire import PERSON, SUCCESS, Client, Kind, fence, unique
from wukong.channel.ids import AGENT, CUSTOMER_SERVICE, VISITORS

PAYLOAD_ERROR = 9
MAX_PAYLOAD_BYTES = 32_767


async def test_s29_every_connection_of_a_user_gets_it_once(api: Api, clients: Clients, room: Room) -> None:
    # Spread over nodes where there are several, and of all kinds; three device flags, and two devices of one flag.
    uid, sender_uid = unique("u"), unique("a")
    of_user = [
        await clients.connect(uid, kind, device_flag=flag)
        for kind, flag in ((Kind.TCP, 0), (Kind.WS, 1), (Kind.JSON, 2), (Kind.TCP, 1))
    ]
    sender, other = [await clients.connect(sender_uid, kind, device_flag=flag) for flag, kind in enumerate(Kind)][:2]
    await room.create([sender_uid])
    await room.add(uid)
    acks = [await room.send(sender) for _ in range(20)]
    # The fence is for users: every connection has to have it.
    await fence(api, [*of_user, other])
    seqs = [ack.message_seq for ack in acks]
    for client in (*of_user, other):
        assert [each.message_seq for each in client.of(room.id)] == seqs, f"{client.uid} {client.device_flag}"
    assert sender.of(room.id) == []


async def test_s35_a_payload_is_refused_or_reaches_everybody(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    sender, *others = await clients.connect_all([unique("a"), *(unique("u") for _ in range(5))], any_kind)
    await room.create([sender.uid, *(client.uid for client in others)])
    # Encryption of the binary protocol needs room of its own inside the limit of a string.
    largest = MAX_PAYLOAD_BYTES if any_kind is Kind.JSON else 24_000
    assert (await room.send(sender, b"x" * largest)).reason_code == SUCCESS
    assert (await room.send(sender, b"x" * 40_960)).reason_code == PAYLOAD_ERROR
    assert (await room.send(sender, b"after")).reason_code == SUCCESS
    await room.check([sender, *others])


async def test_s36_a_member_who_does_not_read_holds_up_nobody_and_finds_everything_later(
    api: Api, clients: Clients, room: Room
) -> None:
    sender, *others = await clients.connect_all([unique("a"), *(unique("u") for _ in range(5))])
    slow = await clients.connect(unique("slow"))
    await room.create([sender.uid, slow.uid, *(client.uid for client in others)])
    slow.leaving = True
    slow.stop_reading()
    # More than the sockets and the server hold for one connection.
    for _ in range(40):
        await asyncio.gather(*(room.send(sender, b"x" * 24_000) for _ in range(10)))
    assert not room.refused
    await fence(api, others)
    assert [fault for client in others for fault in room.faults_of(client)] == []
    assert await unread_seqs(api, slow.uid, room.id) == list(range(1, 401))
    # The connection was given up; the next one is as good as any.
    again = await clients.connect(slow.uid)
    await room.send(sender)
    await fence(api, [again])
    assert [each.message_seq for each in again.of(room.id)] == [401]
    slow.abort()
    await room.check([sender, *others])


@pytest.mark.parametrize("channel_type", [CUSTOMER_SERVICE, VISITORS, AGENT])
async def test_s38_implicit_members_belong_to_it_and_explicit_ones_from_their_add_on(
    api: Api, clients: Clients, any_kind: Kind, channel_type: int
) -> None:
    visitor, agent, back_end = await clients.connect_all([unique("v"), unique("agent"), unique("b")], any_kind)
    listed = {CUSTOMER_SERVICE: f"{visitor.uid}|shop", VISITORS: visitor.uid, AGENT: agent.uid}[channel_type]
    if channel_type == AGENT:
        # Both are implicit, each under the name of the other; nobody can be added.
        for sender, named in ((visitor, agent.uid), (agent, f"{visitor.uid}@{agent.uid}")):
            assert (await sender.send(named, b"hello", kind=AGENT)).reason_code == SUCCESS
        await fence(api, [visitor, agent])
        assert [each.payload for each in agent.received] == [b"hello"]
        assert [each.payload for each in visitor.received] == [b"hello"]
        return
    await api.create(listed, [back_end.uid], kind=channel_type)
    await api.send(back_end.uid, listed, b"first", kind=channel_type)
    await api.send(back_end.uid, listed, b"first command", kind=channel_type, sync_once=True)
    await api.add(listed, [agent.uid], kind=channel_type)
    await api.send(back_end.uid, listed, b"second", kind=channel_type)
    await api.send(back_end.uid, listed, b"second command", kind=channel_type, sync_once=True)
    await fence(api, [visitor, agent, back_end])

    def got(client: Client) -> list[bytes]:
        return [each.payload for each in client.received]

    assert got(visitor) == [b"first", b"first command", b"second", b"second command"]
    assert got(agent) == [b"second", b"second command"]


async def test_s22_named_recipients_get_each_message_once_and_find_it_later(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    here, also_here = await clients.connect_all([unique("u"), unique("u")], any_kind)
    offline = unique("offline")
    uids = [here.uid, also_here.uid, offline]

    async def send_to(payload: bytes, *, no_persist: bool) -> None:
        await api.post(
            "/message/send",
            {
                "header": {"sync_once": 1, "no_persist": int(no_persist)},
                "from_uid": unique("caller"),
                "subscribers": uids,
                "payload": base64.b64encode(payload).decode(),
            },
        )

    payloads = [b"stored %d" % number for number in range(10)]
    passing = [b"passing %d" % number for number in range(10)]
    await asyncio.gather(
        *(send_to(payload, no_persist=False) for payload in payloads),
        *(send_to(payload, no_persist=True) for payload in passing),
    )
    await fence(api, [here, also_here])
    for client in (here, also_here):
        assert sorted(each.payload for each in client.received) == sorted([*payloads, *passing])
    assert sorted(payload_of(each) for each in await api.commands(offline)) == sorted(payloads)


async def test_s34_a_message_in_the_oldest_of_many_conversations_is_shown(
    api: Api, clients: Clients, deployment: Deployment
) -> None:
    sender, uid = await clients.connect(unique("a")), unique("u")
    count = deployment.scaled(1_500)
    peers = [unique("peer") for _ in range(count)]
    lanes = asyncio.Semaphore(20)

    async def write(peer: str) -> None:
        async with lanes:
            await api.send(peer, uid, b"hello", kind=PERSON)

    await write(peers[0])
    await asyncio.gather(*(write(peer) for peer in peers[1:]))
    assert (await sender.send(uid, b"of another", kind=PERSON)).reason_code == SUCCESS
    await api.send(peers[0], uid, b"again", kind=PERSON)
    conversations = await api.conversations(uid, msg_count=1)
    assert conversations[peers[0]]["unread"] == 2
    assert sender.uid in conversations
