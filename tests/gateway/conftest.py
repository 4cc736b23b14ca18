"""A gateway on loopback with stand-ins around it, on the loop the server runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop

from tests.gateway.client import Client
from tests.gateway.fakes import FakeClock, FakeSessions
from wukong.gateway.gateway import ClientGateway
from wukong.gateway.options import GatewayOptions
from wukong.protocol.connection import ConnectionOptions

TICK_MS = 10


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class World:
    """One gateway, listening for TCP and WebSocket, and its clients."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = FakeClock()
        self.sessions = FakeSessions()
        self.gateway: ClientGateway
        self.ports: dict[str, int] = {}
        self.clients: list[Client] = []

    async def start(
        self,
        *,
        protocol: dict[str, Any] | None = None,
        trusted: Iterable[str] = (),
        **options: Any,
    ) -> None:
        """protocol: of ConnectionOptions; options: of GatewayOptions."""
        options.setdefault("tick_ms", TICK_MS)
        self.gateway = ClientGateway(
            node_id=7,
            sessions=self.sessions,
            clock=self.clock,
            connection_options=ConnectionOptions(**(protocol or {})),
            options=GatewayOptions(**options),
            trusted_proxies=[ip_network(text) for text in trusted],
        )
        self.sessions.gateway = self.gateway
        self.ports["tcp"] = await self.gateway.listen_tcp("127.0.0.1", 0)
        self.ports["ws"] = await self.gateway.listen_websocket("127.0.0.1", 0)

    async def open(self, **how: Any) -> Client:
        client = await Client.open(self.kind, self.ports[self.kind], **how)
        self.clients.append(client)
        return client

    async def logged_in(self, uid: str = "alice", **login: Any) -> Client:
        client = await self.open()
        await client.login(uid, **login)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            client.abort()
        await self.gateway.stop()


@pytest.fixture(params=["tcp", "ws"])
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
async def make_world(kind: str) -> AsyncIterator[Callable[..., Any]]:
    worlds: list[World] = []

    async def make(**options: Any) -> World:
        world = World(kind)
        await world.start(**options)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        with suppress(Exception):
            await world.stop()


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> World:
    made: World = await make_world()
    return made
