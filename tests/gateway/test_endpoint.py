"""One suite for both transports: what a client may say, and what it hears. wkproto.md, sections 7 to 11 and 15."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.client import Client, Closed, upgrade_request, websocket_frame
from tests.gateway.conftest import World
from wukong.protocol.codec import PONG_FRAME, encode
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import (
    DUP,
    NO_PERSIST,
    RED_DOT,
    SYNC_ONCE,
    Connack,
    Connect,
    Disconnect,
    Event,
    Ping,
    Pong,
    Recvack,
    Send,
    Sendack,
    Sub,
    Suback,
)
from wukong.protocol.recv_frame import RecvView, SharedRecv

PLAIN = {"encryption": False}

Make = Callable[..., Any]


def a_view(number: int = 1, payload: bytes = b"hi") -> RecvView:
    shared = SharedRecv(
        message_id=5000 + number,
        message_seq=number,
        client_msg_no=f"m{number}",
        timestamp=1_700_000_000,
        payload=payload,
    )
    return shared.view("bob", "bob", 1, RED_DOT)


async def hears_nothing_but_the_end(client: Client, code: int) -> None:
    """Closed, and no byte of the client's protocol before it. code: what a WebSocket says."""
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == (None if client.kind == "tcp" else code)


# Login ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 255])
async def test_every_version_gets_a_connack_in_its_own_layout(world: World, version: int) -> None:
    client = await world.open()
    connack = await client.login(version=version)
    assert connack.reason_code == 1
    assert connack.server_version == (min(version, 5) if version >= 4 else None)
    assert connack.node_id == (7 if version >= 4 else 0)
    # The client's clock said 0.
    assert connack.time_diff == world.clock.now_ms()
    client.send_bytes(client.message(1))
    assert (await client.packet()) == Sendack(2, 1001, 1, 1, 1)
    login = world.sessions.logins[1]
    assert (login.version, login.via_json, login.uid, login.device_id) == (min(version, 5), False, "alice", "d1")
    assert login.peer[0] == "127.0.0.1"


async def test_every_connection_has_keys_of_its_own(world: World) -> None:
    first, second = await world.open(), await world.open()
    one, two = await first.login("alice"), await second.login("bob")
    assert len(one.salt) == 16
    assert one.salt != two.salt
    assert one.server_key != two.server_key


async def test_without_encryption_keys_are_empty_and_payloads_plain(make_world: Make) -> None:
    world = await make_world(protocol=PLAIN)
    client = await world.open()
    connack = await client.login()
    assert (connack.server_key, connack.salt) == ("", "")
    client.send_bytes(client.message(1, b"in clear"))
    await client.packet()
    assert world.sessions.sends[0][2].payload == b"in clear"


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("reason", [2, 19])
async def test_a_refused_login_hears_why_and_is_closed(world: World, version: int, reason: int) -> None:
    world.sessions.refusals["mallory"] = reason
    client = await world.open()
    connack = await client.login("mallory", version=version)
    assert connack.reason_code == reason
    assert connack.server_version == (5 if version == 5 else None)
    assert connack.node_id == (7 if version == 5 else 0)
    await hears_nothing_but_the_end(client, 1008)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "mallory")])
    assert world.gateway.counters.refused_logins == 1
    assert world.gateway.counters.login_refusals == {reason: 1}


@pytest.mark.parametrize(("key", "reason"), [("", 21), ("not base64", 2), ("c2hvcnQ=", 2), ("A" * 43 + "=", 2)])
async def test_a_client_key_that_cannot_be_used_is_refused_without_a_login(world: World, key: str, reason: int) -> None:
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, key))
    connack = await client.packet()
    assert isinstance(connack, Connack)
    assert connack.reason_code == reason
    await hears_nothing_but_the_end(client, 1008)
    assert world.sessions.logins == {}


async def test_a_login_of_unknown_outcome_is_closed_without_a_connack(world: World) -> None:
    world.sessions.is_unavailable = True
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await hears_nothing_but_the_end(client, 1013)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    assert world.gateway.counters.unanswered_logins == 1


async def test_a_login_that_fails_for_a_bug_of_ours_is_closed_without_a_connack(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(number: int, login: object) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr(world.sessions, "login", broken)
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await hears_nothing_but_the_end(client, 1013)


@pytest.mark.parametrize("uid", ["", "   ", "a@b", "a#b", "a&b"])
async def test_a_bad_uid_is_closed_without_a_word(world: World, uid: str) -> None:
    client = await world.open()
    client.send_packet(Connect(5, uid, "", "d1", 0, 0, ClientHandshake().client_key))
    await hears_nothing_but_the_end(client, 1002)
    assert world.sessions.logins == {}


async def test_any_other_first_packet_is_closed_without_a_word(world: World) -> None:
    client = await world.open()
    client.send_packet(Ping())
    await hears_nothing_but_the_end(client, 1002)


async def test_frames_behind_a_connect_are_handled_after_its_connack(make_world: Make) -> None:
    world = await make_world(protocol=PLAIN)
    world.sessions.gate.clear()
    client = await world.open()
    client.send_bytes(encode(Connect(5, "alice", "", "d1"), 5) + client.message(1)[:7])
    client.send_bytes(client.message(1)[7:] + client.message(2) + encode(Ping(), 5))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    assert world.sessions.sends == []
    world.sessions.gate.set()
    assert isinstance(await client.packet(), Connack)
    rest = [await client.packet() for _ in range(3)]
    assert rest[0] == Pong()
    assert [packet.client_seq for packet in rest[1:] if isinstance(packet, Sendack)] == [1, 2]


async def test_a_socket_that_goes_during_its_login_ends_the_login(world: World) -> None:
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    client.abort()
    await world.sessions.until(lambda: world.sessions.cancelled == [1] and world.sessions.logouts == [(1, "alice")])
    assert world.gateway.sessions == 0
    while world.gateway.logins_in_progress:
        await asyncio.sleep(0)


async def test_a_socket_that_goes_ends_its_session_once(world: World) -> None:
    client = await world.logged_in()
    client.close()
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    await world.gateway.stop()
    assert world.sessions.logouts == [(1, "alice")]


async def test_logins_beyond_the_limit_wait_for_their_turn(make_world: Make) -> None:
    world = await make_world(logins_in_progress_limit=3)
    world.sessions.gate.clear()
    clients = [await world.open() for _ in range(10)]
    logins = [asyncio.create_task(client.login(f"u{index}")) for index, client in enumerate(clients)]
    await world.sessions.until(lambda: len(world.sessions.logins) == 3)
    while world.gateway.logins_waiting < 7:
        await asyncio.sleep(0)
    clients[9].abort()
    world.sessions.gate.set()
    assert [(await login).reason_code for login in logins[:9]] == [1] * 9
    with pytest.raises((Closed, ConnectionError)):
        await logins[9]
    assert world.sessions.most_in_progress == 3


async def test_a_login_too_many_is_closed_without_an_answer(make_world: Make) -> None:
    world = await make_world(logins_in_progress_limit=1, logins_waiting_limit=1)
    world.sessions.gate.clear()
    first, second, third = [await world.open() for _ in range(3)]
    kept = []
    for client in (first, second):
        kept.append(asyncio.create_task(client.login()))
        count = len(kept)
        while world.gateway.logins_in_progress + world.gateway.logins_waiting < count:
            await asyncio.sleep(0)
    third.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await hears_nothing_but_the_end(third, 1013)
    world.sessions.gate.set()
    assert [(await login).reason_code for login in kept] == [1, 1]


async def test_two_thousand_connects_at_concurrency_fifty_are_all_answered(make_world: Make) -> None:
    world = await make_world(logins_in_progress_limit=20)
    turns = asyncio.Semaphore(50)

    async def connect(index: int) -> int:
        async with turns:
            client = await Client.open(world.kind, world.ports[world.kind])
            connack = await client.login(f"u{index}")
            client.abort()
            return connack.reason_code

    assert await asyncio.gather(*map(connect, range(2000))) == [1] * 2000
    assert world.sessions.most_in_progress <= 20
    await world.sessions.until(lambda: len(world.sessions.logouts) == 2000)
    assert world.gateway.sessions == 0


# Bytes in -------------------------------------------------------------------------------------------------------------


async def test_a_conversation_may_be_cut_at_every_byte(make_world: Make) -> None:
    world = await make_world(protocol=PLAIN)
    client = await world.open()
    script = encode(Connect(5, "alice", "", "d1"), 5) + client.message(1) + encode(Ping(), 5) + client.message(2)
    for at in range(1, len(script)):
        client = await world.open()
        client.send_bytes(script[:at])
        await asyncio.sleep(0)
        client.send_bytes(script[at:])
        packets = [await client.packet() for _ in range(4)]
        assert sorted(type(packet).__name__ for packet in packets) == ["Connack", "Pong", "Sendack", "Sendack"], at
        client.abort()


async def test_a_conversation_may_come_byte_by_byte(make_world: Make) -> None:
    world = await make_world(protocol=PLAIN)
    client = await world.open()
    for byte in encode(Connect(5, "alice", "", "d1"), 5) + client.message(1) + encode(Ping(), 5):
        client.send_bytes(bytes((byte,)))
        await client.writer.drain()
        await asyncio.sleep(0)
    packets = [await client.packet() for _ in range(3)]
    assert sorted(type(packet).__name__ for packet in packets) == ["Connack", "Pong", "Sendack"]


async def test_every_ping_is_answered_at_once(world: World) -> None:
    client = await world.logged_in()
    client.send_bytes(encode(Ping(), 5) * 3 + b"\x7f")
    if world.kind == "tcp":
        assert await client.read() == PONG_FRAME * 4
    else:
        assert [await client.packet() for _ in range(4)] == [Pong()] * 4


async def test_a_send_reaches_the_use_cases_in_clear_and_its_flags_come_back(world: World) -> None:
    client = await world.logged_in()
    flags = NO_PERSIST | SYNC_ONCE | DUP
    send = Send(flags, 0x88, 9, "no-9", "group", 2, expire=60, topic="t", payload="你好".encode())
    client.send_bytes(client.seal(send))
    assert await client.packet() == Sendack(flags, 1001, 9, 1, 1)
    number, uid, packet = world.sessions.sends[0]
    assert (number, uid) == (1, "alice")
    assert packet == send
    info = world.gateway.info(1)
    assert info is not None
    assert (info.in_messages, info.in_message_bytes, info.sends_in_flight) == (1, 6, 0)


async def test_a_recvack_reaches_the_use_cases(world: World) -> None:
    client = await world.logged_in()
    client.send_packet(Recvack(RED_DOT, 77, 3))
    await world.sessions.until(lambda: world.sessions.recvacks == [(1, "alice", Recvack(RED_DOT, 77, 3))])


async def test_a_send_with_a_wrong_key_is_refused_and_the_next_one_works(world: World) -> None:
    client = await world.logged_in()
    bad = bytearray(client.message(1, flags=RED_DOT | DUP))
    bad[-1] ^= 1
    client.send_bytes(bytes(bad))
    refusal = await client.packet()
    assert isinstance(refusal, Sendack)
    assert (refusal.flags, refusal.client_seq, refusal.reason_code, refusal.message_seq) == (RED_DOT | DUP, 1, 9, 0)
    assert refusal.message_id != 0
    client.send_bytes(client.message(2))
    assert await client.packet() == Sendack(2, 1001, 2, 1, 1)
    client.send_bytes(client.message(3, bytes(40_000)))
    too_large = await client.packet()
    assert isinstance(too_large, Sendack)
    assert (too_large.client_seq, too_large.reason_code) == (3, 9)
    assert too_large.message_id not in (0, refusal.message_id)
    assert len(world.sessions.sends) == 1
    assert world.gateway.counters.refused_sends == 2
    assert sum(world.gateway.counters.send_refusals.values()) == 2


async def test_frames_that_only_servers_send_and_those_without_a_meaning_are_ignored(world: World) -> None:
    client = await world.logged_in()
    for packet in (
        Connack(1, server_version=5),
        Sendack(0, 1, 1, 1, 1),
        Pong(),
        Suback("s", "g", 2, 0, 1),
        Sub(0, "s", "g", 2, 0, ""),
        Disconnect(0, "bye"),
        Event("1", "t", 1, b"{}"),
        Connect(5, "carol", "", "d9", 0, 0, ClientHandshake().client_key),
        a_view().packet(),
    ):
        client.send_packet(packet)
    client.send_packet(Ping())
    assert await client.packet() == Pong()
    assert len(world.sessions.logins) == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\x00\x01\x00", 1002),
        (b"\xd0\x01\x00", 1002),
        (b"\xf0\x01\x00", 1002),
        (b"\x30\x00", 1002),
        (b"\x30\xff\xff\xff\xff\x01", 1002),
        (b"\x60\x05\x00\x00\x00\x00\x00", 1002),
        # One byte over 1 MiB: refused with its header, the body never comes.
        (b"\x30\x81\x80\x40", 1009),
    ],
)
async def test_a_frame_that_cannot_be_read_ends_the_connection(world: World, bad: bytes, code: int) -> None:
    client = await world.logged_in()
    client.send_bytes(encode(Ping(), 5) + bad)
    assert await client.packet() == Pong()
    await hears_nothing_but_the_end(client, code)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    assert world.gateway.counters.protocol_errors == 1


async def test_a_frame_of_one_mebibyte_is_read(world: World) -> None:
    client = await world.logged_in()
    largest = Event("1", "t", 1, bytes((1 << 20) - 14))
    client.send_packet(largest)
    client.send_packet(Ping())
    assert await client.packet() == Pong()


# Backpressure ---------------------------------------------------------------------------------------------------------


async def test_sends_in_flight_are_limited_and_none_is_lost(make_world: Make) -> None:
    world = await make_world(sends_in_flight_limit=4)
    sessions = world.sessions
    sessions.answers_at_once = False
    client = await world.logged_in()
    client.send_bytes(b"".join(client.message(seq) for seq in range(1, 31)))
    answered = 0
    while answered < 30:
        expected = min(4, 30 - answered)
        await sessions.until(lambda expected=expected, answered=answered: len(sessions.sends) >= answered + expected)
        for _ in range(20):
            await asyncio.sleep(0)
        info = world.gateway.info(1)
        assert info is not None
        assert info.sends_in_flight <= 4
        assert len(sessions.sends) <= answered + 4
        sessions.answer(expected)
        answered += expected
    acks = [await client.packet() for _ in range(30)]
    assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == list(range(1, 31))
    assert [packet.client_seq for _, _, packet in sessions.sends] == list(range(1, 31))
    client.send_packet(Ping())
    assert await client.packet() == Pong()


async def test_reading_goes_on_with_a_limit_of_one(make_world: Make) -> None:
    world = await make_world(sends_in_flight_limit=1)
    client = await world.logged_in()
    client.send_bytes(b"".join(client.message(seq) for seq in range(1, 11)))
    acks = [await client.packet() for _ in range(10)]
    assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == list(range(1, 11))


async def test_payloads_in_flight_are_limited_in_bytes(make_world: Make) -> None:
    world = await make_world(sends_in_flight_bytes=50_000)
    sessions = world.sessions
    sessions.answers_at_once = False
    client = await world.logged_in()
    client.send_bytes(b"".join(client.message(seq, bytes(20_000)) for seq in range(1, 11)))
    await sessions.until(lambda: len(sessions.sends) == 3)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(sessions.sends) == 3
    sessions.answers_at_once = True
    sessions.answer(3)
    acks = [await client.packet() for _ in range(10)]
    assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == list(range(1, 11))


async def test_a_flood_that_is_not_answered_is_not_read(make_world: Make) -> None:
    world = await make_world(sends_in_flight_limit=10)
    sessions = world.sessions
    sessions.answers_at_once = False
    client = await world.logged_in()
    flood = b"".join(client.message(seq, bytes(10_000)) for seq in range(1, 1001))
    assert len(flood) > 12_000_000
    for at in range(0, len(flood), 500_000):
        client.send_bytes(flood[at : at + 500_000])
    await sessions.until(lambda: len(sessions.sends) == 10)
    before = -1
    while world.gateway.counters.in_bytes != before:
        before = world.gateway.counters.in_bytes
        await asyncio.sleep(0.05)
    # What one read brings, and the frame or message that was under way.
    assert before < 2_000_000
    assert len(sessions.sends) == 10
    sessions.answers_at_once = True
    sessions.answer(10)
    acks = [await client.packet() for _ in range(1000)]
    assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == list(range(1, 1001))


async def test_sends_wait_while_the_log_is_congested_and_others_do_not(world: World) -> None:
    sessions = world.sessions
    client, other = await world.logged_in("alice"), await world.logged_in("bob")
    sessions.congested = True
    client.send_bytes(client.message(1) + encode(Ping(), 5) + client.message(2) + encode(Recvack(0, 5, 1), 5))
    # A PING that was read is answered whatever waits, and an acknowledgement is taken.
    assert await client.packet() == Pong()
    await sessions.until(lambda: len(sessions.recvacks) == 1)
    other.send_packet(Ping())
    assert await other.packet() == Pong()
    other.send_bytes(other.message(1))
    while world.gateway.counters.paused < 2:
        await asyncio.sleep(0)
    assert sessions.sends == []
    client.send_bytes(client.message(3))
    sessions.relieve()
    acks = [await client.packet() for _ in range(3)]
    assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == [1, 2, 3]
    ack = await other.packet()
    assert isinstance(ack, Sendack)


async def test_congestion_that_comes_back_holds_the_rest_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = world.sessions
    counts = {"alice": 1, "bob": 5, "carol": 3}
    clients = {uid: await world.logged_in(uid) for uid in counts}
    sessions.congested = True
    for paused, (uid, count) in enumerate(counts.items(), 1):
        clients[uid].send_bytes(b"".join(clients[uid].message(seq) for seq in range(1, count + 1)))
        while world.gateway.counters.paused < paused:
            await asyncio.sleep(0)
    send = sessions.send

    def takes_one(number: int, uid: str, packet: Send, received_at: float) -> None:
        send(number, uid, packet, received_at)
        sessions.congested = True

    monkeypatch.setattr(sessions, "send", takes_one)
    for passed in range(1, 10):
        # It asks once, however many wait and however often congestion comes back.
        assert len(sessions.relief) == 1
        sessions.relieve()
        async with asyncio.timeout(10):
            while len(sessions.sends) < passed or not (sessions.relief or passed == 9):
                await asyncio.sleep(0)
        assert len(sessions.sends) == passed
    for uid, count in counts.items():
        acks = [await clients[uid].packet() for _ in range(count)]
        assert [ack.client_seq for ack in acks if isinstance(ack, Sendack)] == list(range(1, count + 1))


async def test_a_send_that_certainly_failed_drops_the_connection(world: World) -> None:
    client = await world.logged_in()
    world.sessions.is_unavailable = True
    client.send_bytes(client.message(1) + client.message(2))
    await hears_nothing_but_the_end(client, 1013)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])


async def test_a_burst_of_many_packets_is_read_in_turns_to_its_end(world: World) -> None:
    client = await world.logged_in()
    client.send_bytes(encode(Ping(), 5) * 3000)
    if world.kind == "tcp":
        data = b""
        while len(data) < 3000:
            data += await client.read()
        assert data == PONG_FRAME * 3000
    else:
        assert [await client.packet() for _ in range(3000)] == [Pong()] * 3000


# JSON-RPC -------------------------------------------------------------------------------------------------------------


async def json_login(world: World, uid: str = "eve") -> Client:
    client = await world.open()
    client.send_json(
        {"method": "connect", "id": "c1", "params": {"uid": uid, "token": "t", "deviceId": "d", "deviceFlag": 1}}
    )
    answer = await client.json()
    assert answer["id"] == "c1"
    assert answer["result"]["reasonCode"] == 1
    assert answer["result"]["nodeId"] == 7
    assert "timeDiff" in answer["result"]
    assert answer["result"]["header"] == {}
    return client


async def test_a_conversation_in_json(world: World) -> None:
    client = await json_login(world)
    login = world.sessions.logins[1]
    assert (login.via_json, login.version, login.device_flag) == (True, 5, 1)
    client.send_json(
        {
            "method": "send",
            "id": "s1",
            "params": {
                "channelId": "bob",
                "channelType": 1,
                "clientMsgNo": "n1",
                "payload": "eyJ4IjoxfQ==",
                "header": {"redDot": True},
            },
        }
    )
    answer = await client.json()
    assert answer["id"] == "s1"
    assert answer["result"] == {"header": {"redDot": True}, "messageId": "1001", "messageSeq": 1, "reasonCode": 1}
    packet = world.sessions.sends[0][2]
    assert (packet.payload, packet.client_msg_no, packet.flags) == (b'{"x":1}', "n1", RED_DOT)
    world.gateway.deliver(a_view(), [1])
    recv = await client.json()
    assert recv["method"] == "recv"
    assert recv["params"]["payload"] == "aGk="
    assert recv["params"]["header"] == {"redDot": True}
    client.send_json(
        {"method": "recvack", "params": {"messageId": "5001", "messageSeq": 1, "header": {"redDot": True}}}
    )
    client.send_json({"method": "ping", "id": "p1"})
    assert await client.json() == {"jsonrpc": "2.0", "id": "p1", "result": {}}
    assert world.sessions.recvacks == [(1, "eve", Recvack(RED_DOT, 5001, 1))]
    world.gateway.end(1, reason=12, text="server kick", close_after_ms=2000)
    kick = await client.json()
    assert (kick["method"], kick["params"]) == ("disconnect", {"reasonCode": 12, "reason": "server kick"})


async def test_json_answers_carry_the_id_of_their_request_in_any_order(world: World) -> None:
    world.sessions.answers_at_once = False
    client = await json_login(world)
    for name in ("x", "y", "z"):
        client.send_json(
            {"method": "send", "id": name, "params": {"channelId": "bob", "channelType": 1, "payload": {"n": name}}}
        )
    await world.sessions.until(lambda: len(world.sessions.sends) == 3)
    packets = [packet for _, _, packet in world.sessions.sends]
    for index in (2, 0, 1):
        packet = packets[index]
        world.gateway.sendack(1, Sendack(packet.flags, 900 + index, packet.client_seq, 0, 3, packet.client_msg_no))
    answers = [await client.json() for _ in range(3)]
    # A refused send is a result with its reason, not an error.
    assert [(answer["id"], answer["result"]["messageId"]) for answer in answers] == [
        ("z", "902"),
        ("x", "900"),
        ("y", "901"),
    ]
    assert {answer["result"]["reasonCode"] for answer in answers} == {3}
    # A client that gives no number gets one, so that its message has one.
    assert len({packet.client_msg_no for packet in packets}) == 3
    assert all(packet.client_msg_no for packet in packets)


async def test_a_wrong_request_is_answered_with_an_error_and_the_connection_lives(world: World) -> None:
    client = await json_login(world)
    client.send_json({"method": "nope", "id": "e1", "params": {}})
    answer = await client.json()
    assert answer["id"] == "e1"
    assert "error" in answer
    client.send_json({"method": "ping", "id": "p"})
    assert (await client.json())["id"] == "p"


async def test_a_refused_login_in_json_is_an_error_with_the_reason_as_code(world: World) -> None:
    world.sessions.refusals["eve"] = 2
    client = await world.open()
    client.send_json({"method": "connect", "id": "c", "params": {"uid": "eve", "token": "x", "deviceFlag": 0}})
    answer = await client.json()
    assert answer["error"]["code"] == 2
    await hears_nothing_but_the_end(client, 1008)


async def test_text_that_is_not_json_closes_the_connection(world: World) -> None:
    client = await json_login(world)
    client.writer.write(b"hello" if world.kind == "tcp" else websocket_frame(b"hello", 0x81))
    await hears_nothing_but_the_end(client, 1002)


async def test_json_in_pieces_and_several_in_one_piece(world: World) -> None:
    client = await world.open()
    connect = json.dumps({"method": "connect", "id": "c", "params": {"uid": "eve", "deviceFlag": 0}}).encode()
    ping = json.dumps({"method": "ping", "id": "p"}).encode()
    data = b" \r\n" + connect + b"\n" + ping + ping
    client.send_bytes(data[:20])
    await client.writer.drain()
    client.send_bytes(data[20:])
    assert [(await client.json())["id"] for _ in range(3)] == ["c", "p", "p"]


async def test_json_can_be_switched_off(make_world: Make) -> None:
    world = await make_world(protocol={"jsonrpc": False})
    client = await world.open()
    client.send_json({"method": "connect", "id": "c", "params": {"uid": "eve", "deviceFlag": 0}})
    await hears_nothing_but_the_end(client, 1002)


# Proxies --------------------------------------------------------------------------------------------------------------

PROXY_V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4444 5100\r\n"
PROXY_V2_LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


@pytest.mark.parametrize(("header", "peer"), [(PROXY_V1, ("203.0.113.9", 4444)), (PROXY_V2_LOCAL, None)])
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_trusted_proxy_tells_the_clients_address(
    make_world: Make, header: bytes, peer: tuple[str, int] | None, as_json: bool
) -> None:
    world = await make_world(trusted=["127.0.0.0/8"])
    client = await world.open(before=header)
    if as_json:
        client.send_json({"method": "connect", "id": "c", "params": {"uid": "eve", "deviceFlag": 0}})
        await client.json()
    else:
        await client.login("eve")
    login = world.sessions.logins[1]
    if peer is None:
        assert login.peer[0] == "127.0.0.1"
    else:
        assert login.peer == peer
        info = world.gateway.info(1)
        assert info is not None
        assert (info.ip, info.port) == peer


async def test_a_proxy_header_in_pieces(make_world: Make, kind: str) -> None:
    world = await make_world(trusted=["127.0.0.1"])
    if kind == "ws":
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["ws"])
        writer.write(PROXY_V1[:10])
        await writer.drain()
        writer.write(PROXY_V1[10:])
        client = Client("ws", reader, writer)
        writer.write(upgrade_request())
        await reader.readuntil(b"\r\n\r\n")
    else:
        client = await world.open(before=PROXY_V1[:10])
        await client.writer.drain()
        client.send_bytes(PROXY_V1[10:])
    await client.login("eve")
    assert world.sessions.logins[1].peer == ("203.0.113.9", 4444)
    client.abort()


async def test_a_proxy_header_of_anybody_else_ends_the_connection(make_world: Make) -> None:
    world = await make_world(trusted=["10.0.0.0/8"])
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[world.kind])
    writer.write(PROXY_V1 + upgrade_request())
    data = await asyncio.wait_for(reader.read(), 10)
    assert data.startswith(b"HTTP/1.1 400 ") if world.kind == "ws" else data == b""
    writer.close()
    assert world.sessions.logins == {}
