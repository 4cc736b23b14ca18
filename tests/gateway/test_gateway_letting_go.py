"""A node that cannot serve its clients lets go of them, and takes them again later."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.gateway.client import Client, Closed
from tests.gateway.conftest import World
from tests.gateway.test_outgoing import a_client, a_view, watch_writes
from wukong.gateway.tcp import TcpEndpoint
from wukong.gateway.websocket import WebSocketEndpoint
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import Connect


async def end_of(client: Client) -> list[bytes]:
    """Everything up to the close."""
    got = []
    with suppress(Closed):
        while True:
            got.append((await client.next_message())[1])
    client.close()
    return got


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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sockets are closed in one turn of the loop."""
    monkeypatch.setattr("wukong.gateway.hub._DROPS_PER_TURN", 2)


@pytest.mark.usefixtures("slow")
async def test_the_sockets_of_many_are_closed_in_slices_and_each_is_logged_out_once(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(9)]
    world.gateway.close_all()
    assert world.gateway.counters.dropped == 2
    assert world.gateway.sessions == 0
    world.gateway.close_all()
    newcomer = await world.logged_in("new")
    for client in clients:
        await end_of(client)
    await world.sessions.until(lambda: len(world.sessions.logouts) == 9)
    assert sorted(number for number, _ in world.sessions.logouts) == list(range(1, 10))
    assert world.gateway.counters.dropped == 9
    assert world.gateway.sessions == 1
    assert world.gateway._hub.condemned == {}
    newcomer.send_bytes(newcomer.message(1))
    await world.sessions.until(lambda: bool(world.sessions.sends))


@pytest.mark.usefixtures("slow")
async def test_nothing_leaves_from_that_moment_though_a_socket_waits_for_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [await a_client(world, f"u{index}") for index in range(12)]
    numbers = list(range(1, 13))
    world.gateway.deliver(a_view(1), numbers)
    writes = watch_writes(world, monkeypatch)
    world.gateway.close_all()
    world.gateway.deliver(a_view(2), numbers)
    for number in numbers:
        world.gateway.end(number, reason=12, text="", close_after_ms=0)
    for client in clients:
        await end_of(client)
    assert writes == {}, "what was queued before was written after"
    assert world.gateway.counters.dropped == 12


@pytest.mark.usefixtures("slow")
async def test_nothing_is_taken_from_that_moment_though_a_socket_waits_for_its_turn(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(12)]
    for client in clients:
        client.send_bytes(client.message(1))  # is in the socket when they are let go
    world.gateway.close_all()
    for client in clients:
        await end_of(client)
    assert world.sessions.sends == []
    assert world.gateway.counters.dropped == 12


@pytest.mark.usefixtures("slow")
async def test_no_login_comes_to_an_end_though_its_socket_waits_for_its_turn(make_world: Callable[..., Any]) -> None:
    world: World = await make_world(logins_in_progress_limit=3)
    world.sessions.gate.clear()
    clients = [await world.open() for _ in range(6)]
    for index, client in enumerate(clients):
        client.send_packet(Connect(5, f"u{index}", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: len(world.sessions.logins) == 3)
    while world.gateway.logins_waiting < 3:
        await asyncio.sleep(0)
    world.gateway.close_all()
    world.sessions.gate.set()
    for client in clients:
        assert len(await end_of(client)) == 0
    await world.sessions.until(lambda: len(world.sessions.logouts) == 3)
    assert world.sessions.logged_in == []
    assert world.gateway.logins_in_progress == world.gateway.logins_waiting == 0


@pytest.mark.usefixtures("slow")
async def test_letting_go_goes_on_slowly_while_the_log_is_congested(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(6)]
    world.sessions.congested = True
    world.gateway.close_all()
    for client in clients:
        await end_of(client)
    await world.sessions.until(lambda: len(world.sessions.logouts) == 6)


async def test_a_socket_that_is_closing_does_not_count_as_let_go_again(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world: World = await make_world(linger_ms=60_000)
    clients = [await world.logged_in(f"u{index}") for index in range(6)]
    for endpoint in (TcpEndpoint, WebSocketEndpoint):
        # A network that is gone: nobody hears of the close, nobody answers it.
        monkeypatch.setattr(endpoint, "_hang_up", lambda self, code: None)
    assert [world.gateway.close_some(2) for _ in range(4)] == [2, 2, 2, 0]
    assert world.gateway.sessions == 0
    assert world.gateway.counters.dropped == 6
    for client in clients:
        client.abort()


@pytest.mark.usefixtures("slow")
async def test_more_are_let_go_only_when_the_last_have_had_their_turn(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(10)]
    assert world.gateway.close_some(7) == 7
    assert world.gateway.close_some(7) == 0
    await world.sessions.until(lambda: len(world.sessions.logouts) == 7)
    assert world.gateway.close_some(7) == 3
    for client in clients:
        await end_of(client)


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
