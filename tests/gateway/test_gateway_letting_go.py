"""A node that cannot serve its clients lets go of them, and takes them again later."""

import asyncio
from contextlib import suppress

import pytest

from tests.gateway.client import Closed
from tests.gateway.conftest import World
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import Connect


async def test_all_clients_are_let_go_without_a_disconnect_and_hear_nothing_more(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(5)]
    world.gateway.close_all()
    assert world.gateway.sessions == 0
    for client in clients:
        with pytest.raises(Closed) as closed:
            await client.next_message()
        assert closed.value.code == (1013 if world.kind == "ws" else None)
        client.close()
    await world.sessions.until(lambda: len(world.sessions.logouts) == 5)
    again = await world.logged_in("u0")
    again.close()


async def test_logins_under_way_are_let_go_too(world: World) -> None:
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    world.gateway.close_all()
    with pytest.raises(Closed):
        await client.next_message()
    client.close()
    await world.sessions.until(lambda: bool(world.sessions.logouts))


async def test_some_clients_are_let_go_at_a_time(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(6)]
    world.gateway.close_some(2)
    assert world.gateway.sessions == 4
    world.gateway.close_some(100)
    assert world.gateway.sessions == 0
    for client in clients:
        client.close()


async def test_while_it_refuses_new_sockets_are_closed_unanswered(world: World) -> None:
    stays = await world.logged_in("alice")
    world.gateway.refuse_new(True)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[world.kind])
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert world.gateway.sessions == 1
    world.gateway.refuse_new(False)
    taken = await world.logged_in("bob")
    for client in (stays, taken):
        client.close()
