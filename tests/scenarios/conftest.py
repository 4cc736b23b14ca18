"""A server per test process, clients that must end without faults, and servers of their own for tests that kill."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.scenarios.room import AUDITED, Room
from tests.support.http import Api, open_api
from tests.support.server import ServerProcess
from tests.support.wire import Client, Kind
from wukong.channel.ids import ChannelId
from wukong.channel.members import member_uids
from wukong.channel.state import channel_part
from wukong.clock import SystemClock
from wukong.config import load_config
from wukong.limits import MIB
from wukong.node.node import Node
from wukong.store.rocks import RocksStore

# Logins at once: the server refuses none of them, but a test process has to keep up too.
_LOGINS_AT_ONCE = 50


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests of this process that leave it alive. It must end well and without complaints."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    process.start()
    yield process
    assert process.is_running, f"the server died\n{process.log_tail()}"
    assert process.stop() == 0, process.log_tail()
    assert process.complaints() == []
    check_rows(process, AUDITED.get(process.http_url, {}))


def check_rows(process: ServerProcess, audited: dict[ChannelId, set[str]]) -> None:
    """The rows that a stopped server left behind say the same as its API did."""
    config, _ = load_config(process.directory / "wk.yaml", {}, embedded=False)
    store = RocksStore(str(config.data_dir / "store"), block_cache_bytes=MIB)
    try:
        node = Node(
            node_id=config.cluster.node_id,
            slot_count=config.wukong.slot_count,
            store=store,
            clock=SystemClock(),
            effects_sink=lambda effects: None,
        )
        for channel, members in audited.items():
            assert set(member_uids(node.state_of(channel.id), channel_part(channel))) == members, channel
    finally:
        store.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Makes servers that belong to the test alone; what still runs at its end is killed."""
    made: list[ServerProcess] = []

    def make(name: str = "node", **settings: Any) -> ServerProcess:
        process = ServerProcess(tmp_path / name, settings)
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()
        assert process.complaints() == []


@pytest.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with open_api(server.http_url) as opened:
        yield opened


class Clients:
    """Makes clients and, at the end, closes them and holds their faults against the test."""

    def __init__(self, server: ServerProcess | None, http: aiohttp.ClientSession) -> None:
        self._server = server
        self._http = http
        self._made: list[Client] = []
        self._logins = asyncio.Semaphore(_LOGINS_AT_ONCE)

    async def connect(
        self, uid: str, kind: Kind = Kind.TCP, *, to: ServerProcess | None = None, **options: Any
    ) -> Client:
        client = Client(uid, kind, **options)
        server = to or self._server
        assert server is not None
        async with self._logins:
            await client.open("127.0.0.1", server.tcp_port if kind is Kind.TCP else server.ws_port, self._http)
        self._made.append(client)
        return client

    async def connect_all(self, uids: Sequence[str], kind: Kind = Kind.TCP, **options: Any) -> list[Client]:
        return await asyncio.gather(*(self.connect(uid, kind, **options) for uid in uids))

    async def finish(self) -> list[str]:
        faults = [f"{client.uid} ({client.kind}): {fault}" for client in self._made for fault in client.faults]
        faults += [
            f"{client.uid} ({client.kind}): the server closed the connection"
            for client in self._made
            if client.closed.is_set() and not client.leaving and client.kicked is None
        ]
        await asyncio.gather(*(client.close() for client in self._made))
        return faults


@contextlib.asynccontextmanager
async def open_clients(server: ServerProcess | None) -> AsyncIterator[Clients]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        clients = Clients(server, http)
        yield clients
        faults = await clients.finish()
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])


@pytest.fixture
async def clients(server: ServerProcess) -> AsyncIterator[Clients]:
    """Log in at the shared server."""
    async with open_clients(server) as opened:
        yield opened


@pytest.fixture
async def own_clients() -> AsyncIterator[Clients]:
    """Log in at servers of the test's own."""
    async with open_clients(None) as opened:
        yield opened


@pytest.fixture(params=[Kind.TCP, Kind.WS], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """How the clients of a scenario connect."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture(params=[Kind.TCP, Kind.WS, Kind.JSON], ids=str)
def any_kind(request: pytest.FixtureRequest) -> Kind:
    """The same with JSON-RPC, for scenarios that cost little."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def room(api: Api) -> Room:
    return Room(api)
