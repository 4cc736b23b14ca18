"""A TCP proxy between nodes that can be told to cut, stall, swallow, reset and delay; one process for a whole cluster.

Every directed pair of nodes has a way of its own: the dialer's configuration names the way's port instead of the other
node's. A connection has two flows, and a fault belongs to a flow by the nodes it leads from and to, whoever dialed:
what stops from node 1 to node 2 stops on the connections of both.

    pass     bytes go through, after `delay_s` if that is set
    stall    bytes are held back until the flow passes again, as when packets are lost and sent again
    swallow  bytes vanish; the connection is reset as soon as its flow passes again, for a stream has no holes

`python -m tests.support.proxy` takes commands as JSON lines on stdin and answers each with one on stdout; `LinkProxy`
speaks with it.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

PASS, STALL, SWALLOW = "pass", "stall", "swallow"
Pair = tuple[int, int]

_ROOT = Path(__file__).parents[2]
_CHUNK_BYTES = 64 << 10
# What a delayed flow holds in its chunks; then it is not read, as a full network buffer would have it.
_DELAYED_CHUNKS = 256
_DIAL_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 5.0


# -- the process


class Flow:
    """From one node to another. mode, delay_s: see above."""

    def __init__(self) -> None:
        self.mode = PASS
        self.delay_s = 0.0
        self.carried_bytes = 0
        self.open = asyncio.Event()
        self.open.set()

    def set(self, mode: str, delay_s: float) -> None:
        self.mode = mode
        self.delay_s = delay_s
        if mode == PASS:
            self.open.set()
        else:
            self.open.clear()


class Connection:
    """One connection through a way. is_torn: bytes of it were swallowed."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.is_torn = False

    def reset(self) -> None:
        for writer in (self.near, self.far):
            writer.transport.abort()


class Way:
    """How `dialer` reaches `listener`. refused: connections are closed as they come."""

    def __init__(self, dialer: int, listener: int, port: int, flows: dict[Pair, Flow]) -> None:
        self.pair = (dialer, listener)
        self.port = port
        self.refused = False
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forth = flows[dialer, listener]
        self._back = flows[listener, dialer]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refused:
            writer.transport.abort()
            return
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        connection = Connection(writer, far_writer)
        if self.refused:
            connection.reset()
            return
        self.connections.add(connection)
        pumps = [
            asyncio.create_task(_pump(connection, reader, far_writer, self._forth)),
            asyncio.create_task(_pump(connection, far_reader, writer, self._back)),
        ]
        try:
            # The first end ends both: nodes do not half-close.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.connections.discard(connection)
            connection.reset()


async def _pump(connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
    """Until one side ends. The end of a connection is news too: a flow that does not pass does not tell it."""
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_DELAYED_CHUNKS)

    async def deliver() -> None:
        while True:
            due, data = await held.get()
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if flow.mode == SWALLOW:
                connection.is_torn = True
                continue
            await flow.open.wait()
            if not data:
                return
            flow.carried_bytes += len(data)
            writer.write(data)
            await writer.drain()

    async def read() -> None:
        while True:
            try:
                data = await reader.read(_CHUNK_BYTES)
            except ConnectionError:
                data = b""
            await held.put((loop.time() + flow.delay_s, data))
            if not data:
                return

    reading = asyncio.create_task(read())
    try:
        with contextlib.suppress(ConnectionError):
            await deliver()
    finally:
        reading.cancel()


class Proxy:
    """nodes: number -> port where it listens for other nodes."""

    def __init__(self, nodes: dict[int, int]) -> None:
        self.flows = {pair: Flow() for pair in permutations(nodes, 2)}
        self.ways = {(a, b): Way(a, b, nodes[b], self.flows) for a, b in permutations(nodes, 2)}

    async def listen(self) -> dict[str, int]:
        """Port of every way, by "dialer-listener"."""
        ports = {}
        for (dialer, listener), way in self.ways.items():
            server = await asyncio.start_server(way.accept, "127.0.0.1", 0)
            ports[f"{dialer}-{listener}"] = server.sockets[0].getsockname()[1]
        return ports

    def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """One fault, or its end; or figures."""
        pairs = [(dialer, listener) for dialer, listener in order.get("pairs", ())]
        match order["do"]:
            case "flow":
                for pair in pairs:
                    self.flows[pair].set(order["mode"], order.get("delay_s", 0.0))
                if order["mode"] != SWALLOW:
                    self._reset_torn()
            case "refuse":
                for pair in pairs:
                    self.ways[pair].refused = order["on"]
                    if order["on"]:
                        self._reset(pair)
            case "reset":
                for pair in pairs:
                    self._reset(pair)
            case "figures":
                return {
                    "connections": sum(len(way.connections) for way in self.ways.values()),
                    "bytes": {f"{a}-{b}": flow.carried_bytes for (a, b), flow in self.flows.items()},
                }
        return {}

    def _reset(self, pair: Pair) -> None:
        for connection in list(self.ways[pair].connections):
            connection.reset()

    def _reset_torn(self) -> None:
        for pair, way in self.ways.items():
            if SWALLOW in (self.flows[pair].mode, self.flows[pair[::-1]].mode):
                continue
            for connection in [each for each in way.connections if each.is_torn]:
                connection.reset()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    proxy: Proxy | None = None
    # The end of stdin is the end of the test process, however it ended.
    while line := await commands.readline():
        order = json.loads(line)
        if order["do"] == "listen":
            proxy = Proxy({int(node): port for node, port in order["nodes"].items()})
            answer: dict[str, Any] = dict(await proxy.listen())
        else:
            assert proxy is not None
            answer = proxy.command(order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


# -- its handle


class LinkProxy:
    """Owns the proxy's process. Methods block for a moment; their effect is there when they return."""

    def __init__(self, nodes: dict[int, int]) -> None:
        """nodes: number -> port where the node listens for other nodes."""
        self._nodes = tuple(nodes)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.proxy"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        answer = self._ask({"do": "listen", "nodes": nodes})
        self._ports = {name: int(port) for name, port in answer.items()}

    def port(self, dialer: int, listener: int) -> int:
        """Where `dialer` reaches `listener`."""
        return self._ports[f"{dialer}-{listener}"]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    # -- faults

    def block(self, pairs: Iterable[Pair], mode: str = STALL) -> None:
        """Nothing gets from the first node of each pair to the second. mode: STALL or SWALLOW."""
        self._ask({"do": "flow", "pairs": list(pairs), "mode": mode})

    def delay(self, pairs: Iterable[Pair], delay_s: float) -> None:
        """Whatever goes from the first node to the second takes so long."""
        self._ask({"do": "flow", "pairs": list(pairs), "mode": PASS, "delay_s": delay_s})

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Connections that the first dialed to the second are reset, and new ones refused."""
        self._ask({"do": "refuse", "pairs": list(pairs), "on": True})

    def reset(self, pairs: Iterable[Pair]) -> None:
        """The same, but new ones are taken."""
        self._ask({"do": "reset", "pairs": list(pairs)})

    def heal(self) -> None:
        """No fault any more."""
        every = self.pairs()
        self._ask({"do": "refuse", "pairs": every, "on": False})
        self._ask({"do": "flow", "pairs": every, "mode": PASS})

    def pairs(self) -> list[Pair]:
        return list(permutations(self._nodes, 2))

    def around(self, node: int) -> list[Pair]:
        """All pairs, in both directions, between a node and the others."""
        return [pair for pair in self.pairs() if node in pair]

    def figures(self) -> dict[str, Any]:
        """connections: through the proxy now; bytes: carried so far, by "from-to"."""
        return self._ask({"do": "figures"})

    @contextlib.contextmanager
    def isolating(self, node: int) -> Iterator[None]:
        """A node that neither hears nor is heard while the block lasts."""
        self.block(self.around(node))
        try:
            yield
        finally:
            self.heal()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the proxy ended with code {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


if __name__ == "__main__":
    asyncio.run(_serve())
