"""Why a session ended, as the gateway tells whoever keeps it: once per session, before its logout."""

from collections.abc import Callable
from typing import Any

from tests.gateway.client import Client
from tests.gateway.conftest import World
from wukong.dispatch.deliveries import (
    CLIENT_CLOSED,
    CONNECTION_LOST,
    FENCED,
    IDLE,
    KICKED,
    LET_GO,
    PROTOCOL_ERROR,
    REPLACED,
    STOPPED,
)

Make = Callable[..., Any]


async def one_client(world: World) -> tuple[Client, list[tuple[int, str]]]:
    ends: list[tuple[int, str]] = []
    world.gateway._hub.on_end = lambda number, why: ends.append((number, why))
    return await world.logged_in(), ends


async def until_gone(world: World) -> None:
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])


async def test_a_client_that_leaves(world: World) -> None:
    client, ends = await one_client(world)
    client.close()
    await until_gone(world)
    assert ends in ([(1, CLIENT_CLOSED)], [(1, CONNECTION_LOST)])


async def test_a_client_from_which_nothing_comes(make_world: Make) -> None:
    world = await make_world(idle_timeout_ms=60_000)
    _, ends = await one_client(world)
    world.clock.advance(61)
    await until_gone(world)
    assert ends == [(1, IDLE)]


async def test_a_client_that_breaks_the_protocol(world: World) -> None:
    client, ends = await one_client(world)
    client.send_bytes(b"\xf0\x00")
    await until_gone(world)
    assert ends == [(1, PROTOCOL_ERROR)]


async def test_a_kicked_client_and_one_that_is_replaced(make_world: Make) -> None:
    for reason, why in ((12, KICKED), (0, REPLACED)):
        world = await make_world()
        _, ends = await one_client(world)
        world.gateway.end(1, reason=reason, text="", close_after_ms=0)
        await until_gone(world)
        assert ends == [(1, why)]


async def test_a_kick_counts_though_the_socket_is_closed_later(world: World) -> None:
    client, ends = await one_client(world)
    world.gateway.end(1, reason=12, text="go", close_after_ms=2_000)
    client.close()
    await until_gone(world)
    assert ends == [(1, KICKED)]


async def test_a_client_that_is_let_go_and_all_of_them(make_world: Make) -> None:
    world = await make_world()
    _, ends = await one_client(world)
    world.gateway.drop(1)
    await until_gone(world)
    assert ends == [(1, LET_GO)]
    world = await make_world()
    _, ends = await one_client(world)
    world.gateway.close_all()
    await until_gone(world)
    assert ends == [(1, FENCED)]


async def test_a_node_that_is_shut(world: World) -> None:
    _, ends = await one_client(world)
    await world.gateway.stop()
    assert ends == [(1, STOPPED)]
