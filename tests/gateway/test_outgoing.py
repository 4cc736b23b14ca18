"""What leaves: order, batches, the pause after the CONNACK, slow readers, kicks. On both transports."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.client import Client, Closed
from tests.gateway.conftest import World
from wukong.gateway.tcp import TcpEndpoint
from wukong.gateway.websocket import WebSocketEndpoint
from wukong.protocol.codec import encode
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import RED_DOT, Connack, Connect, Disconnect, Event, Ping, Pong, Recv, Sendack
from wukong.protocol.recv_frame import RecvView, SharedRecv

Make = Callable[..., Any]


def a_view(number: int, payload: bytes = b"hi", setting: int = 0, client_msg_no: str = "m") -> RecvView:
    shared = SharedRecv(
        message_id=5000 + number,
        message_seq=number,
        client_msg_no=client_msg_no,
        timestamp=1_700_000_000,
        payload=payload,
        setting=setting,
    )
    return shared.view("bob", "bob", 1, RED_DOT)


def watch_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Session number -> how many frames each write to its socket had, from now on."""
    writes: dict[int, list[int]] = {}
    endpoint = {"tcp": TcpEndpoint, "ws": WebSocketEndpoint}[world.kind]
    write, write_many = endpoint._write, endpoint._write_many

    def one(self: Any, frame: bytes) -> None:
        writes.setdefault(self.number, []).append(1)
        write(self, frame)

    def many(self: Any, frames: list[bytes]) -> None:
        writes.setdefault(self.number, []).append(len(frames))
        write_many(self, frames)

    monkeypatch.setattr(endpoint, "_write", one)
    monkeypatch.setattr(endpoint, "_write_many", many)
    return writes


async def a_client(world: World, uid: str = "alice", *, version: int = 5) -> Client:
    """Logged in, with the pause behind its CONNACK over. Sessions are numbered from 1."""
    client = await world.logged_in(uid, version=version)
    number = next(number for number, login in world.sessions.logins.items() if login.uid == uid)
    world.gateway.deliver(a_view(0, b"first"), [number])
    assert (await client.recv()).payload == b"first"
    return client


async def test_a_message_is_sealed_for_every_receiver(world: World) -> None:
    clients = [await a_client(world, f"u{index}", version=version) for index, version in enumerate((1, 2, 3, 4, 5))]
    world.gateway.deliver(a_view(1, b"to all", setting=0x82), [1, 2, 3, 4, 5])
    for client in clients:
        recv = await client.recv()
        assert recv.payload == b"to all"
        assert (recv.message_id, recv.message_seq, recv.from_uid, recv.flags) == (5001, 1, "bob", RED_DOT)
        assert recv.setting == (0x82 if client.version >= 5 else 0x80)
    info = world.gateway.info(5)
    assert info is not None
    assert info.out_messages == 2
    assert world.gateway.counters.out_messages == 10


async def test_a_lone_message_is_written_in_the_same_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await a_client(world)
    writes = watch_writes(world, monkeypatch)
    world.gateway.deliver(a_view(1), [1])
    assert writes == {1: [1]}
    assert (await client.recv()).message_seq == 1


async def test_what_becomes_ready_together_leaves_in_one_write(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(direct_writes_limit=0)
    first, second = await a_client(world, "alice"), await a_client(world, "bob")
    writes = watch_writes(world, monkeypatch)
    for number in range(1, 31):
        world.gateway.deliver(a_view(number), [1, 2])
        world.gateway.sendack(2, Sendack(0, 7000 + number, number, number, 1))
    assert [(await first.recv()).message_seq for _ in range(30)] == list(range(1, 31))
    packets = [await second.packet() for _ in range(60)]
    assert [type(packet) for packet in packets] == [Recv, Sendack] * 30
    assert writes == {1: [30], 2: [60]}


async def test_order_is_the_order_of_calls_whether_written_at_once_or_queued(make_world: Make) -> None:
    world = await make_world(direct_writes_limit=3)
    client = await a_client(world)
    for number in range(1, 1001):
        if number % 3:
            world.gateway.deliver(a_view(number), [1])
        else:
            world.gateway.sendack(1, Sendack(0, 1, 1, number, 1))
        if number % 7 == 0:
            await asyncio.sleep(0)
    seqs = []
    for _ in range(1000):
        packet = await client.packet()
        assert isinstance(packet, Recv | Sendack)
        seqs.append(packet.message_seq)
    assert seqs == list(range(1, 1001))


async def test_a_fan_out_to_many_comes_to_all(make_world: Make) -> None:
    world = await make_world(slice_sessions_limit=7)
    clients = [await a_client(world, f"u{index}") for index in range(60)]
    for number in range(1, 6):
        world.gateway.deliver(a_view(number), list(range(1, 61)))
    for client in clients:
        assert [(await client.recv()).message_seq for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_pushes_before_the_connack_wait_and_never_share_its_segment(make_world: Make) -> None:
    world = await make_world(protocol={"encryption": False}, push_delay_ms=50)
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1"))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    for number in (1, 2, 3):
        world.gateway.deliver(a_view(number), [1])
    world.sessions.gate.set()
    connack = await client.read()
    size = len(encode(Connack(1, server_version=5, node_id=7), 5))
    assert len(connack) == size + (2 if world.kind == "ws" else 0)
    # Meanwhile answers are not held up.
    client.send_packet(Ping())
    world.gateway.deliver(a_view(4), [1])
    packets = [await client.packet() for _ in range(5)]
    assert Pong() in packets
    assert [packet.message_seq for packet in packets if isinstance(packet, Recv)] == [1, 2, 3, 4]


async def test_the_first_push_comes_no_sooner_than_its_pause(make_world: Make) -> None:
    world = await make_world(push_delay_ms=200)
    client = await world.logged_in()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    world.gateway.deliver(a_view(1), [1])
    await client.recv()
    # The clocks of both sides are one; they are read some milliseconds apart.
    assert loop.time() - begin > 0.15


async def test_a_push_never_overtakes_those_that_waited_for_the_socket(world: World) -> None:
    client = await a_client(world)
    endpoint = world.gateway._hub.by_number[1]
    endpoint.pause_writing()
    world.gateway.deliver(a_view(1), [1])
    world.gateway.sendack(1, Sendack(0, 1, 1, 2, 1))
    endpoint.resume_writing()
    world.gateway.deliver(a_view(3), [1])
    world.gateway.sendack(1, Sendack(0, 1, 1, 4, 1))
    packets = [await client.packet() for _ in range(4)]
    assert [packet.message_seq for packet in packets if isinstance(packet, Recv | Sendack)] == [1, 2, 3, 4]


async def test_what_waits_is_counted_until_it_is_written(world: World) -> None:
    client = await a_client(world)
    endpoint = world.gateway._hub.by_number[1]
    assert endpoint.pending_bytes == 0
    endpoint.pause_writing()
    for number in range(100):
        world.gateway.deliver(a_view(number, bytes(300)), [1])
    whole = endpoint.pending_bytes
    assert whole > 100 * 400
    endpoint._flowing = True
    assert endpoint.flush(60)
    assert endpoint.pending_bytes == whole * 40 // 100
    assert not endpoint.flush(60)
    assert endpoint.pending_bytes == 0
    assert [(await client.recv()).message_seq for _ in range(100)] == list(range(100))


async def test_a_send_right_after_the_connack_is_answered_before_pushes_begin(make_world: Make) -> None:
    world = await make_world(push_delay_ms=10_000)
    client = await world.logged_in()
    client.send_bytes(client.message(1))
    assert isinstance(await client.packet(), Sendack)


async def test_who_does_not_read_is_closed_and_the_others_get_everything(make_world: Make) -> None:
    world = await make_world(outbound_limit_bytes=300_000)
    slow, fast = await a_client(world, "slow"), await a_client(world, "fast")
    slow.stop_reading()
    got = 0
    for number in range(1, 2000):
        world.gateway.deliver(a_view(number, bytes(10_000)), [1, 2])
        assert (await fast.recv()).message_seq == number
        got = number
        if world.gateway.counters.slow_closed:
            break
    assert world.gateway.counters.slow_closed == 1
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "slow")])
    world.gateway.deliver(a_view(got + 1), [1, 2])
    assert (await fast.recv()).message_seq == got + 1
    # What the socket had taken still comes, in order, and then the end.
    slow.read_on()
    seqs = []
    with pytest.raises(Closed) as closed:
        while True:
            seqs.append((await slow.recv()).message_seq)
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) < got
    assert closed.value.code == (1013 if world.kind == "ws" else None)


async def test_a_reader_that_stops_for_a_while_misses_nothing(make_world: Make) -> None:
    world = await make_world(outbound_limit_bytes=50_000_000)
    client = await a_client(world)
    client.stop_reading()
    number = 0
    while world.gateway.info(1).pending_bytes < 2_000_000:
        number += 1
        world.gateway.deliver(a_view(number, bytes(20_000)), [1])
        await asyncio.sleep(0)
    client.read_on()
    assert [(await client.recv()).message_seq for _ in range(number)] == list(range(1, number + 1))
    assert world.gateway.info(1).pending_bytes == 0


async def test_pongs_for_who_does_not_read_are_limited_too(make_world: Make) -> None:
    world = await make_world(outbound_limit_bytes=200_000, protocol={"encryption": False})
    client = await world.logged_in("slow")
    client.stop_reading()

    async def fill() -> None:
        number = 0
        while not world.gateway.counters.slow_closed:
            number += 1
            client.send_bytes(encode(Ping(), 5) * 100)
            world.gateway.sendack(1, Sendack(0, 1, 1, number, 1))
            world.gateway.deliver_event(SharedEvent(Event("e", "t", 1, bytes(1000))), [1])
            await asyncio.sleep(0)

    await asyncio.wait_for(fill(), 20)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "slow")])


async def test_events_go_to_version_5_and_to_json_only(world: World) -> None:
    old, new = await a_client(world, "old", version=4), await a_client(world, "new", version=5)
    browser = await world.open()
    browser.send_json({"method": "connect", "id": "c", "params": {"uid": "web", "deviceFlag": 1}})
    await browser.json()
    event = Event("e1", "stream.delta", 1_700_000_000_123, b'{"a":1}')
    world.gateway.deliver_event(SharedEvent(event), [1, 2, 3])
    world.gateway.deliver(a_view(1), [1])
    assert await new.packet() == event
    notification = await browser.json()
    assert (notification["method"], notification["params"]["data"]) == ("event", '{"a":1}')
    assert (await old.recv()).message_seq == 1


async def test_json_gets_the_payload_as_it_sends_it(world: World) -> None:
    client = await world.open()
    client.send_json({"method": "connect", "id": "c", "params": {"uid": "web", "deviceFlag": 1}})
    await client.json()
    world.gateway.deliver(a_view(1, b'{"n":1}'), [1])
    assert (await client.json())["params"]["payload"] == "eyJuIjoxfQ=="
    client.send_json(
        {"method": "send", "id": "s", "params": {"channelId": "bob", "channelType": 1, "payload": {"own": "object"}}}
    )
    await client.json()
    world.gateway.deliver(a_view(2, b'{"n":2}'), [1])
    assert (await client.json())["params"]["payload"] == {"n": 2}


async def test_a_message_that_does_not_fit_the_wire_is_passed_over(world: World) -> None:
    client = await a_client(world)
    world.gateway.deliver(a_view(1, client_msg_no="x" * 40_000), [1])
    world.gateway.deliver(a_view(2), [1])
    assert (await client.recv()).message_seq == 2
    assert world.gateway.counters.unwritable == 1


# The end of sessions --------------------------------------------------------------------------------------------------


async def test_a_kick_says_why_then_closes_after_its_delay(make_world: Make) -> None:
    world = await make_world(direct_writes_limit=0)
    client = await a_client(world)
    world.gateway.deliver(a_view(1), [1])
    world.gateway.end(1, reason=12, text="login in other device", close_after_ms=2000)
    world.gateway.deliver(a_view(2), [1])
    world.gateway.sendack(1, Sendack(0, 1, 1, 1, 1))
    assert (await client.recv()).message_seq == 1
    assert await client.packet() == Disconnect(12, "login in other device")
    # Mute, but there until the delay is over, and logged out with the socket.
    client.send_packet(Ping())
    client.send_bytes(client.message(1))
    world.clock.advance(1.5)
    await asyncio.sleep(0.05)
    assert world.gateway.connections == 1
    assert world.sessions.logouts == []
    world.clock.advance(0.6)
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == (1000 if world.kind == "ws" else None)
    assert world.sessions.sends == []
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])


async def test_a_session_that_leaves_may_be_told_again_but_never_stays_longer(world: World) -> None:
    client = await a_client(world)
    world.gateway.end(1, reason=12, text="first", close_after_ms=10_000)
    world.gateway.end(1, reason=12, text="second", close_after_ms=2_000)
    world.gateway.end(1, reason=0, text="", close_after_ms=60_000)
    assert [await client.packet() for _ in range(2)] == [Disconnect(12, "first"), Disconnect(12, "second")]
    world.clock.advance(2.1)
    with pytest.raises(Closed):
        await client.next_message()
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    world.gateway.end(1, reason=12, text="gone", close_after_ms=0)


async def test_a_session_may_end_without_a_word(world: World) -> None:
    client = await a_client(world)
    world.gateway.end(1, reason=0, text="", close_after_ms=2000)
    world.gateway.deliver(a_view(2), [1])
    world.clock.advance(2.1)
    with pytest.raises(Closed):
        await client.next_message()


async def test_a_kick_without_delay(world: World) -> None:
    client = await a_client(world)
    world.gateway.end(1, reason=12, text="", close_after_ms=0)
    assert await client.packet() == Disconnect(12, "")
    assert await client.closed() == (1000 if world.kind == "ws" else None)


async def test_a_kick_during_the_login_comes_instead_of_the_connack(world: World) -> None:
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    world.gateway.deliver(a_view(1), [1])
    world.gateway.end(1, reason=12, text="login in other device", close_after_ms=2000)
    world.sessions.gate.set()
    assert await client.packet() == Disconnect(12, "login in other device")
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    world.clock.advance(2.1)
    with pytest.raises(Closed):
        await client.next_message()


async def test_dropped_sessions_are_closed_without_a_frame_so_that_their_clients_come_back(world: World) -> None:
    client = await a_client(world)
    world.gateway.drop(1)
    world.gateway.drop(1)
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == (1013 if world.kind == "ws" else None)
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    assert world.gateway.counters.dropped == 1


async def test_unknown_sessions_are_ignored(world: World) -> None:
    world.gateway.deliver(a_view(1), [77])
    world.gateway.sendack(77, Sendack(0, 1, 1, 1, 1))
    world.gateway.end(77, reason=12, text="", close_after_ms=0)
    world.gateway.drop(77)
    assert world.gateway.info(77) is None


async def test_a_logout_never_happens_inside_a_call_of_the_dispatcher(world: World) -> None:
    await a_client(world)
    world.gateway.drop(1)
    assert world.sessions.logouts == []
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
