"""The proxy between nodes: what it is told to do to a way happens there, and nowhere else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import STALL, SWALLOW, LinkProxy

TIMEOUT_S = 10.0


class Listener:
    """Stands for a node: repeats in capitals what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.heard += data
                writer.write(data.upper())
                await writer.drain()
        writer.close()


class Dialer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.hear(len(data))

    async def hear(self, count: int, timeout_s: float = TIMEOUT_S) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self.reader.readexactly(count)

    async def hears_nothing(self) -> bool:
        try:
            await self.hear(1, 0.2)
        except TimeoutError:
            return True
        return False

    async def is_gone(self) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True


class Net:
    def __init__(self, proxy: LinkProxy, nodes: dict[int, Listener]) -> None:
        self.proxy = proxy
        self.nodes = nodes
        self.dialers: list[Dialer] = []

    async def dial(self, dialer: int, listener: int) -> Dialer:
        made = Dialer(*await asyncio.open_connection("127.0.0.1", self.proxy.port(dialer, listener)))
        self.dialers.append(made)
        return made


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    nodes = {number: Listener() for number in (1, 2, 3)}
    servers = []
    for node in nodes.values():
        server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
        node.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    proxy = await asyncio.to_thread(LinkProxy, {number: node.port for number, node in nodes.items()})
    made = Net(proxy, nodes)
    yield made
    for dialer in made.dialers:
        dialer.writer.transport.abort()
    await asyncio.to_thread(proxy.close)
    for server in servers:
        server.close()


async def test_without_a_fault_everything_goes_through_both_ways(net: Net) -> None:
    large = b"x" * 500_000
    assert await (await net.dial(1, 2)).ask(large) == large.upper()
    assert net.nodes[2].heard == large and net.nodes[3].heard == b""


async def test_a_stalled_flow_holds_its_bytes_and_delivers_them_at_the_end(net: Net) -> None:
    forth, back, other = await net.dial(1, 2), await net.dial(2, 1), await net.dial(3, 2)
    assert await forth.ask(b"a") == b"A"
    assert await back.ask(b"a") == b"A"
    net.proxy.block([(1, 2)], STALL)
    forth.writer.write(b"b")
    back.writer.write(b"b")
    assert await forth.hears_nothing()
    assert await back.hears_nothing()
    # The other direction of the pair works: the question of node 2 arrived, only the answer did not.
    assert (net.nodes[2].heard, net.nodes[1].heard) == (b"a", b"ab")
    assert await other.ask(b"c") == b"C"
    net.proxy.heal()
    assert await forth.hear(1) == await back.hear(1) == b"B"


async def test_swallowed_bytes_are_lost_and_so_is_their_connection(net: Net) -> None:
    forth, untouched = await net.dial(1, 2), await net.dial(1, 3)
    assert await forth.ask(b"a") == b"A"
    assert await untouched.ask(b"a") == b"A"
    net.proxy.block([(1, 2)], SWALLOW)
    forth.writer.write(b"b")
    assert await forth.hears_nothing()
    net.proxy.heal()
    assert await forth.is_gone()
    assert net.nodes[2].heard == b"a"
    assert await untouched.ask(b"c") == b"C"
    assert await (await net.dial(1, 2)).ask(b"d") == b"D"


async def test_a_cut_way_resets_what_is_there_and_refuses_what_comes(net: Net) -> None:
    cut, other = await net.dial(1, 2), await net.dial(2, 1)
    assert await cut.ask(b"a") == b"A"
    net.proxy.cut([(1, 2)])
    assert await cut.is_gone()
    assert await (await net.dial(1, 2)).is_gone()
    assert await other.ask(b"b") == b"B"
    net.proxy.heal()
    assert await (await net.dial(1, 2)).ask(b"c") == b"C"


async def test_a_reset_ends_connections_once(net: Net) -> None:
    first = await net.dial(1, 2)
    assert await first.ask(b"a") == b"A"
    net.proxy.reset([(1, 2)])
    assert await first.is_gone()
    assert await (await net.dial(1, 2)).ask(b"b") == b"B"


async def test_a_delayed_flow_takes_its_time_and_keeps_its_order(net: Net) -> None:
    dialer = await net.dial(1, 2)
    assert await dialer.ask(b"a") == b"A"
    net.proxy.delay([(1, 2)], 0.3)
    began = asyncio.get_running_loop().time()
    for number in range(10):
        dialer.writer.write(b"%d" % number)
        await asyncio.sleep(0.005)
    assert await dialer.hear(10) == b"0123456789"
    assert 0.25 < asyncio.get_running_loop().time() - began < 3


async def test_an_isolated_node_is_alone_until_it_is_healed(net: Net) -> None:
    alone, others = await net.dial(1, 2), await net.dial(2, 3)
    with net.proxy.isolating(1):
        alone.writer.write(b"a")
        assert await alone.hears_nothing()
        assert await others.ask(b"b") == b"B"
    assert await alone.hear(1) == b"A"


async def test_a_listener_that_is_down_refuses_through_the_proxy_too(net: Net) -> None:
    proxy = await asyncio.to_thread(LinkProxy, {1: 1, 2: 1})
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port(1, 2))
        assert await Dialer(reader, writer).is_gone()
        writer.transport.abort()
    finally:
        await asyncio.to_thread(proxy.close)
