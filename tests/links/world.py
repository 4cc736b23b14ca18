"""Nodes on loopback, a wire between them that can be tampered with, and raw peers that follow no rule."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wukong.links import handshake
from wukong.links.frames import Opener, Sealer, encode_message, frame, join_messages, split_messages
from wukong.links.handshake import Answering, Dialing
from wukong.links.links import Links
from wukong.links.options import LinkOptions

SECRET = "correct horse battery staple"
HOST = "127.0.0.1"
LIMIT_S = 30.0

FAST: dict[str, Any] = {
    "tick_ms": 10,
    "ping_ms": 50,
    "silence_ms": 2_000,
    "handshake_timeout_ms": 2_000,
    "backoff_min_ms": 2,
    "backoff_max_ms": 20,
}


async def eventually(true: Callable[[], object]) -> None:
    """Waits for what no event tells of."""
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.002)


class Node:
    """Links and what their handler was told, in order."""

    def __init__(self, node: int, secret: str, options: dict[str, Any]) -> None:
        self.node = node
        self.events: list[tuple[Any, ...]] = []
        self.on_event: Callable[[tuple[Any, ...]], None] = lambda event: None
        self.is_known: Callable[[object], bool] = lambda facts: True
        self.port = 0
        self.links = Links(
            node_id=node,
            secret=secret,
            handler=self,
            options=LinkOptions(**{**FAST, **options}),
            rng=random.Random(node),
        )

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self.on_event(event)

    def connected(self, node: int) -> None:
        self._note("connected", node)

    def disconnected(self, node: int) -> None:
        self._note("disconnected", node)

    def facts(self, node: int, facts: object) -> bool:
        self._note("facts", node, facts)
        return self.is_known(facts)

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        self._note("received", node, kind, group, body)

    def bodies(self, node: int | None = None) -> list[Any]:
        return [event[4] for event in self.events if event[0] == "received" and node in (None, event[1])]

    async def saw(self, *event: Any, times: int = 1) -> None:
        await eventually(lambda: self.events.count(event) >= times)

    async def got(self, count: int, node: int | None = None) -> list[Any]:
        await eventually(lambda: len(self.bodies(node)) >= count)
        return self.bodies(node)


class Peer:
    """The far end of one connection, played by the test. Frames it does not seal itself it can send as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sealer: Sealer
        self.opener: Opener

    async def read_frame(self) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))

    async def read_messages(self) -> list[Any]:
        """Of the next frame that is not a ping."""
        while True:
            if messages := split_messages(self.opener.open(await self.read_frame())):
                return messages

    def sealed(self, *messages: tuple[int, int, Any]) -> bytes:
        return b"".join(self.sealer.seal(join_messages([encode_message(*message) for message in messages])))

    def send(self, *messages: tuple[int, int, Any]) -> None:
        self.writer.write(self.sealed(*messages))

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Nothing more will be said; the other end may have hung up already."""
        with suppress(RuntimeError, OSError):
            self.writer.write_eof()

    async def is_closed(self) -> None:
        """Waits until the other end has hung up."""
        async with asyncio.timeout(LIMIT_S):
            with suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass

    def close(self) -> None:
        self.writer.transport.abort()


class World:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.peers: list[Peer] = []
        self.servers: list[asyncio.Server] = []
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(context))

    async def node(self, node: int, *, secret: str = SECRET, **options: Any) -> Node:
        made = Node(node, secret, options)
        self.nodes.append(made)
        made.port = await made.links.listen(HOST, 0)
        return made

    async def pair(self, **options: Any) -> tuple[Node, Node]:
        """Nodes 1 and 2, each with a link to the other."""
        one, two = await self.node(1, **options), await self.node(2, **options)
        self.introduce(one, two)
        await one.saw("connected", 2)
        await two.saw("connected", 1)
        await self.settled(one, two)
        return one, two

    async def settled(self, *nodes: Node) -> None:
        for node in nodes:
            await eventually(lambda node=node: all(s.outgoing and s.incoming for s in node.links.status()))  # type: ignore[misc]

    def introduce(self, *nodes: Node) -> None:
        for node in nodes:
            node.links.set_peers({other.node: (HOST, other.port) for other in nodes})

    async def bare(self, port: int) -> Peer:
        """A connection on which nothing has been said."""
        peer = Peer(*await asyncio.open_connection(HOST, port))
        self.peers.append(peer)
        return peer

    async def dial(self, port: int, node: int, target: int, secret: str = SECRET) -> Peer:
        """A connection as an honest dialer makes it, up to the keys."""
        peer = await self.bare(port)
        dialing = Dialing(secret=secret.encode(), node=node, target=target, nonce=random.randbytes(32))
        peer.writer.write(frame(dialing.hello))
        while dialing.keys is None:
            if answer := dialing.receive(await peer.read_frame()):
                peer.writer.write(frame(answer))
        peer.sealer, peer.opener = Sealer(dialing.keys.dialer), Opener(dialing.keys.listener)
        return peer

    def hello(self, *, node: int, target: int) -> bytes:
        return frame(Dialing(secret=b"", node=node, target=target, nonce=random.randbytes(32)).hello)

    async def dial_without_secret(self, port: int, node: int, target: int) -> Peer:
        """The first two steps, and a proof that is none."""
        peer = await self.bare(port)
        dialing = Dialing(secret=b"guess", node=node, target=target, nonce=random.randbytes(32))
        peer.writer.write(frame(dialing.hello))
        peer.writer.write(frame(dialing.receive(await peer.read_frame())))
        return peer

    async def serve(self, talk: Callable[[Peer], Any]) -> int:
        """A port where every connection is handed to a coroutine function."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = Peer(reader, writer)
            self.peers.append(peer)
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await talk(peer)

        server = await asyncio.start_server(accept, HOST, 0)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        for node in self.nodes:
            await node.links.stop()
        # One that was accepted just now becomes a peer a few turns of the loop later.
        for _ in range(10):
            for peer in self.peers:
                # Whoever does not read would keep a transport that waits to be emptied.
                peer.writer.transport.abort()
            await asyncio.sleep(0)


async def answer(peer: Peer, node: int, secret: str = SECRET) -> None:
    """What an honest listener does, up to the keys."""
    answering = Answering(secret=secret.encode(), node=node, nonce=random.randbytes(handshake.NONCE_BYTES))
    while answering.keys is None:
        if reply := answering.receive(await peer.read_frame()):
            peer.writer.write(frame(reply))
    peer.writer.write(frame(answering.welcome))
    peer.sealer, peer.opener = Sealer(answering.keys.listener), Opener(answering.keys.dialer)


class Wire:
    """Sits between a dialer and a listener, keeps what passes, and may change it.

    change(number of the connection, from the dialer?, offset in this direction, bytes) -> bytes
    """

    def __init__(self) -> None:
        self.port = 0
        self.passed: list[tuple[bytearray, bytearray]] = []  # from the dialer, from the listener
        self.change: Callable[[int, bool, int, bytes], bytes] = lambda number, dialer, offset, data: data

    @classmethod
    async def open(cls, world: World, port: int) -> "Wire":
        wire = cls()

        async def talk(near: Peer) -> None:
            number = len(wire.passed)
            wire.passed.append((bytearray(), bytearray()))
            far = await world.bare(port)
            await asyncio.gather(
                wire._copy(number, True, near.reader, far.writer), wire._copy(number, False, far.reader, near.writer)
            )

        wire.port = await world.serve(talk)
        return wire

    async def _copy(
        self, number: int, dialer: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kept = self.passed[number][0 if dialer else 1]
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                offset = len(kept)
                kept += data
                writer.write(self.change(number, dialer, offset, data))
        writer.close()
