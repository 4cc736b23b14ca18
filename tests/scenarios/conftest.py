"""A server and a cluster per test process, clients that must end without faults, and servers of a test's own.

A scenario that uses `api`, `clients` or `room` runs on one node, and on three, over which its calls and connections are
spread then. On one node it runs with every kind of connection; on three with one of them, drawn from its name.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from zlib import crc32

import aiohttp
import pytest

from tests.scenarios.room import AUDITED, Room
from tests.support.cluster import ClusterProcesses, running_cluster
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


ONE, THREE = "node", "cluster"
CLUSTER_SETTINGS = {"wukong": {"slotCount": 6}}
CLIENT_KINDS = {"kind": [Kind.TCP, Kind.WS], "any_kind": list(Kind)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [name for name in CLIENT_KINDS if name in metafunc.fixturenames]
    if "deployment" not in metafunc.fixturenames:
        for name in names:
            metafunc.parametrize(name, CLIENT_KINDS[name], ids=str, indirect=True)
        return
    if not names:
        metafunc.parametrize("deployment", [ONE, THREE], indirect=True)
        return
    kinds = CLIENT_KINDS[names[0]]
    drawn = kinds[crc32(metafunc.function.__name__.encode()) % len(kinds)]
    pairs = [*((ONE, kind) for kind in kinds), (THREE, drawn)]
    metafunc.parametrize(
        ("deployment", names[0]), pairs, ids=[f"{kind}" if size == ONE else size for size, kind in pairs], indirect=True
    )


class Deployment(NamedTuple):
    """Where a scenario runs. fence_slots: see Api."""

    nodes: Sequence[ServerProcess]
    fence_slots: int = 1

    def scaled(self, count: int) -> int:
        """How much of it: a change takes longer where several disks and links are waited for."""
        return count if len(self.nodes) == 1 else count // 4


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests of this process that leave it alive. It must end well and without complaints."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    process.start()
    yield process
    assert process.is_running, f"the server died\n{process.log_tail()}"
    check_audit(process)
    assert process.stop() == 0, process.log_tail()
    assert process.complaints() == []
    check_rows(process, AUDITED.get(process.http_url, {}))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """The same with three nodes."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), settings=CLUSTER_SETTINGS, proxied=False) as running:
        yield running
        assert [node.is_running for node in running] == [True] * 3, f"a node died\n{running.log_tails()}"
        for node in running:
            check_audit(node)
        audited = AUDITED.get(running.http_url, {})
        catch_up(running, audited)
        assert running.stop() == [0, 0, 0], running.log_tails()
        assert running.complaints() == []
        for node in running:
            check_rows(node, audited)


def catch_up(cluster: ClusterProcesses, audited: Iterable[ChannelId]) -> None:
    """Until every node has applied what was acknowledged: a list is read behind a barrier of its slot."""
    by_slot = {cluster.slot(channel.id): channel for channel in audited}
    for node in cluster:
        for channel in by_slot.values():
            node.ask("/channel/subscribers?" + urlencode({"channel_id": channel.id, "channel_type": channel.type}))


def check_audit(process: ServerProcess) -> None:
    """All the time the node has compared its audiences with members and sessions, and found no difference."""
    with process.open("/metrics", 10) as answer:
        found = re.findall(r"^wukong_audit_differences_total (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found == ["0.0"], process.log_tail()


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
def deployment(request: pytest.FixtureRequest) -> Deployment:
    if request.param == ONE:
        return Deployment([request.getfixturevalue("server")])
    cluster: ClusterProcesses = request.getfixturevalue("cluster")
    return Deployment(list(cluster), cluster.slot_count)


@pytest.fixture
async def api(deployment: Deployment) -> AsyncIterator[Api]:
    urls = [node.http_url for node in deployment.nodes]
    async with open_api(*urls, fence_slots=deployment.fence_slots) as opened:
        yield opened


class Clients:
    """Makes clients and, at the end, closes them and holds their faults against the test. servers: they get the clients
    in turns."""

    def __init__(self, servers: Sequence[ServerProcess], http: aiohttp.ClientSession) -> None:
        self._servers = itertools.cycle(servers)
        self._http = http
        self._made: list[Client] = []
        self._logins = asyncio.Semaphore(_LOGINS_AT_ONCE)

    async def connect(
        self, uid: str, kind: Kind = Kind.TCP, *, to: ServerProcess | None = None, **options: Any
    ) -> Client:
        client = Client(uid, kind, **options)
        server = to or next(self._servers)
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
async def open_clients(*servers: ServerProcess) -> AsyncIterator[Clients]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        clients = Clients(servers, http)
        yield clients
        faults = await clients.finish()
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])


@pytest.fixture
async def clients(deployment: Deployment) -> AsyncIterator[Clients]:
    """Log in at the shared server, or all over the shared cluster."""
    async with open_clients(*deployment.nodes) as opened:
        yield opened


@pytest.fixture
async def own_clients() -> AsyncIterator[Clients]:
    """Log in at servers of the test's own."""
    async with open_clients() as opened:
        yield opened


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    """How the clients of a scenario connect."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def any_kind(request: pytest.FixtureRequest) -> Kind:
    """The same with JSON-RPC, for scenarios that cost little."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def room(api: Api) -> Room:
    return Room(api)
