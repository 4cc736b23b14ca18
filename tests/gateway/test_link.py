"""Deadlines and closing, on both transports. wkproto.md, section 8."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.client import Client, Closed
from tests.gateway.conftest import World
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import Connect, Ping, Pong, Sendack

Make = Callable[..., Any]


async def bare(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket on which nothing has been said."""
    streams = await asyncio.open_connection("127.0.0.1", world.ports[world.kind])
    while world.gateway.connections == 0:
        await asyncio.sleep(0)
    return streams


async def some_ticks() -> None:
    await asyncio.sleep(0.06)


async def test_a_socket_without_a_byte_is_closed_after_two_seconds(world: World) -> None:
    reader, writer = await bare(world)
    world.clock.advance(1.8)
    await some_ticks()
    assert world.gateway.connections == 1
    world.clock.advance(0.3)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert world.gateway.counters.timeouts == 1
    writer.close()


async def test_a_connect_that_does_not_come_to_its_end_is_closed_after_four_seconds(world: World) -> None:
    reader, writer = await bare(world)
    writer.write(b"\x10" if world.kind == "tcp" else b"GET / HTTP")
    await some_ticks()
    world.clock.advance(3.7)
    await some_ticks()
    writer.write(b"\x20" if world.kind == "tcp" else b"/1.1\r\n")
    await some_ticks()
    # Every byte does not start the time again.
    assert world.gateway.connections == 1
    world.clock.advance(0.4)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert world.gateway.counters.timeouts == 1
    writer.close()


async def test_a_login_that_takes_too_long_is_closed_without_a_connack(world: World) -> None:
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    world.clock.advance(4.2)
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == (1013 if world.kind == "ws" else None)
    await world.sessions.until(lambda: world.sessions.cancelled == [1] and world.sessions.logouts == [(1, "alice")])
    assert world.gateway.counters.unanswered_logins == 1


async def test_an_idle_client_is_closed_after_its_limit(make_world: Make) -> None:
    world = await make_world(idle_timeout_ms=180_000)
    client = await world.logged_in()
    world.clock.advance(179)
    await some_ticks()
    assert world.gateway.sessions == 1
    world.clock.advance(2)
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == (1000 if world.kind == "ws" else None)
    assert world.gateway.counters.timeouts == 1


async def test_a_ping_keeps_a_client_alive(make_world: Make) -> None:
    world = await make_world(idle_timeout_ms=180_000)
    client = await world.logged_in()
    for _ in range(5):
        world.clock.advance(100)
        await some_ticks()
        client.send_packet(Ping())
        assert await client.packet() == Pong()


async def test_being_written_to_does_not_keep_a_client_alive(make_world: Make) -> None:
    world = await make_world(idle_timeout_ms=180_000)
    client = await world.logged_in()
    for number in (1, 2):
        world.clock.advance(89)
        await some_ticks()
        world.gateway.sendack(1, Sendack(0, number, 1, 1, 1))
        assert isinstance(await client.packet(), Sendack)
    world.clock.advance(3)
    with pytest.raises(Closed):
        await client.next_message()


async def test_who_is_not_read_is_not_idle(make_world: Make) -> None:
    world = await make_world(idle_timeout_ms=180_000, sends_in_flight_limit=1)
    world.sessions.answers_at_once = False
    client = await world.logged_in()
    client.send_bytes(client.message(1) + client.message(2))
    await world.sessions.until(lambda: len(world.sessions.sends) == 1)
    for _ in range(5):
        world.clock.advance(100)
        await some_ticks()
    assert world.gateway.sessions == 1
    world.sessions.answers_at_once = True
    world.sessions.answer(1)
    await client.packet()
    await client.packet()


async def test_a_client_that_takes_nothing_is_cut_off_after_the_linger_time(make_world: Make) -> None:
    world = await make_world(handshake_timeout_ms=1_000_000_000)
    client = await world.logged_in()
    client.stop_reading()
    # More than the kernel takes for a reader that does not read.
    endpoint = world.gateway._hub.by_number[1]
    endpoint._transport.write(bytes(20_000_000))
    world.gateway.drop(1)
    await some_ticks()
    assert world.gateway.connections == 1
    world.clock.advance(2.1)
    while world.gateway.connections:
        await asyncio.sleep(0.001)


async def test_a_jump_of_the_clock_closes_many_in_slices(world: World) -> None:
    clients: list[Client] = [await world.logged_in(f"u{index}") for index in range(50)]
    world.clock.advance(1_000)
    for client in clients:
        with pytest.raises(Closed):
            await client.next_message()
    assert world.gateway.counters.timeouts == 50
