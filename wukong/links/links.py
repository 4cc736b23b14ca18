"""Authenticated connections to the other nodes of a cluster; carries opaque bodies, promises nothing but their order.

One TCP connection per direction and peer, for all groups: this node dials for what it sends. A message is lost when its
link is; who needs more sends again. Nothing here knows what is in a body, and nothing a stranger sends raises, blocks
the loop, or grows without a limit. Layout of what is on the wire: frames.py, handshake.py; docs/design/links.md.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from wukong.errors import ConfigError, ListenError
from wukong.limits import MAX_NODE_ID
from wukong.links.addresses import is_loopback, resolve
from wukong.links.backoff import Backoff
from wukong.links.connection import Connection, Incoming, Outgoing, Shared
from wukong.links.counters import LinkCounters
from wukong.links.dialer import Dialer
from wukong.links.frames import Message, encode_message
from wukong.links.kinds import FACTS, KINDS
from wukong.links.notices import Notices
from wukong.links.options import BACKLOG_COUNT, LinkOptions

_ABORT_TIMEOUT_S = 1.0


class LinkHandler(Protocol):
    """Who uses the links. Called on the loop, never from inside `send`; an exception is logged and counted, no more."""

    def connected(self, node: int) -> None:
        """Our outgoing link to a node is up: what is sent from now on is no longer lost. Facts are on it already."""
        ...

    def disconnected(self, node: int) -> None:
        """It is gone, with everything that was under way on it. Once per `connected`, before the next one."""
        ...

    def facts(self, node: int, facts: object) -> bool:
        """A node told its facts (a msgpack value), on every connection of either direction, at connect and whenever
        they change; so the same facts are told again. Its number is authenticated, and a peer's, or a stranger's while
        those are allowed. False: these are not the facts of the node that is meant by this number; the connection on
        which they came is closed, and what is there under this number stays."""
        ...

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        """A message of a peer; body: what msgpack carries (bytes stay bytes)."""
        ...


class LinkStatus(NamedTuple):
    """One peer, as of now. queued_bytes: of messages that wait for the socket."""

    node: int
    outgoing: bool
    incoming: bool
    queued_bytes: int


class Links:
    """All links of one node. Everything runs on the loop of the first `listen` or `set_peers`, until `stop`.

    secret: `cluster.secret`; without one both ends have to be loopback addresses. rng: draws the jitter of pauses.
    """

    def __init__(
        self,
        *,
        node_id: int,
        secret: str,
        handler: LinkHandler,
        options: LinkOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not 0 < node_id <= MAX_NODE_ID:
            raise ValueError(f"{node_id} is no node number")
        self.node_id = node_id
        self.counters = LinkCounters()
        self._handler = handler
        self._options = options = options or LinkOptions()
        self._rng = rng or random.Random()
        self._notices = Notices(time.monotonic, options.notice_interval_ms / 1000)
        self._shared = Shared(node_id, secret.encode(), options, self.counters, self._notices)
        self._servers: list[asyncio.Server] = []
        self._peers: dict[int, tuple[str, int]] = {}
        self._dialers: dict[int, Dialer] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of dialers, also of those that are being cancelled
        self._connections: set[Connection] = set()
        self._half_open: dict[Incoming, None] = {}  # oldest first
        self._outgoing: dict[int, Outgoing] = {}  # up
        self._incoming: dict[int, Incoming] = {}  # up, of peers and strangers
        self._newcomers: dict[int, Incoming] = {}  # up besides one in _incoming; their facts are awaited
        self._strangers_allowed = False
        self._facts: bytes | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._none_left = asyncio.Event()

    # --- use -------------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int) -> int:
        """The port that is listened on; 0 asks for any. Raises ConfigError without a secret on an address that is not
        loopback, ListenError if the address cannot be had."""
        self._start()
        try:
            addresses = await resolve(host, port)
            if not self._shared.secret and not all(map(is_loopback, addresses)):
                text = f"cluster.secret: is needed to listen on {host or '*'}:{port}, which is not a loopback address; "
                raise ConfigError([text + "set the same on every node"])
            loop = asyncio.get_running_loop()
            server = await loop.create_server(self._accept, addresses, port, backlog=BACKLOG_COUNT)
        except OSError as fault:
            raise ListenError("cluster.addr", f"{host}:{port}", fault) from fault
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """node -> (host, port): whom to dial, for ever with back-off, and who is heard. Replaces the last set; both
        directions to a node that is no longer in it are closed. This node itself may be named and is left out.
        Raises ValueError for a node number that cannot be one; nothing is changed then."""
        wanted = {node: (host, port) for node, (host, port) in peers.items() if node != self.node_id}
        for node in wanted:
            if not 0 < node <= MAX_NODE_ID:
                raise ValueError(f"{node} is no node number")
        if self._is_stopped:
            return
        self._start()
        removed = self._peers.keys() - wanted.keys()
        self._peers = wanted
        for node, dialer in list(self._dialers.items()):
            if wanted.get(node) != dialer.address:
                del self._dialers[node]
                dialer.cancel()
        for node, address in wanted.items():
            if node not in self._dialers:
                self._dial(node, address)
        for node in removed:
            self._end_incoming(node)
        for node, link in self._incoming.items():
            if not link.is_closed:
                link.allow_messages(node in wanted)

    def allow_strangers(self, on: bool) -> None:
        """Whether nodes that are not peers may tell facts, and are told ours; they may send nothing else. At first they
        may not. Turning it off closes their connections."""
        self._strangers_allowed = on
        if not on:
            for node in self._incoming.keys() - self._peers.keys():
                self._end_incoming(node)

    def set_facts(self, facts: object) -> None:
        """Told on every connection, of either direction, at connect and now. Raises TypeError for what msgpack cannot
        carry, ValueError over facts_limit_bytes."""
        encoded = encode_message(FACTS, 0, facts)
        if len(encoded) > self._options.facts_limit_bytes:
            raise ValueError(f"facts of {len(encoded)} bytes are over the limit of {self._options.facts_limit_bytes}")
        self._facts = encoded
        for link in (*self._outgoing.values(), *self._incoming.values()):
            self._tell_facts(link)

    def send(self, node: int, kind: int, group: int, body: object) -> bool:
        """Encodes a message now and writes it with all others to this node at the end of this turn of the loop.

        kind: of `KINDS`. group: 0 to 65535. False: no link, or over a limit; the message is lost. True promises
        nothing. Raises TypeError for a body that msgpack cannot carry.
        """
        assert kind in KINDS and 0 <= group <= 0xFFFF, (kind, group)
        link = self._outgoing.get(node)
        if link is None or not link.is_up or self._is_stopped:
            self.counters.unsent_no_link += 1
            return False
        message = encode_message(kind, group, body)
        if len(message) > self._options.message_limit_bytes:
            self.counters.unsent_too_large += 1
            text = f"message of {len(message)} bytes to node {node} is over the limit of "
            self._notices.say(logging.WARNING, ("too large", node), f"{text}{self._options.message_limit_bytes}")
            return False
        if not link.queue(message):
            self.counters.unsent_over_limit += 1
            self._notices.say(logging.WARNING, ("slow", node), f"node {node} is slow: messages to it are dropped")
            return False
        return True

    def status(self) -> list[LinkStatus]:
        """Every peer, by its number."""
        return [
            LinkStatus(
                node,
                node in self._outgoing and self._outgoing[node].is_up,
                node in self._incoming and self._incoming[node].is_up,
                self._outgoing[node].queued_bytes if node in self._outgoing else 0,
            )
            for node in sorted(self._peers)
        ]

    async def stop(self) -> None:
        """Writes what is queued, for at most stop_flush_ms, closes everything, and leaves no task. Again: nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for server in self._servers:
            server.close()
        # What was accepted in this turn gets its connection in the next ones, or nobody would close it.
        for _ in range(3):
            await asyncio.sleep(0)
        for incoming in [link for link in self._connections if isinstance(link, Incoming)]:
            incoming.abort()
        for dialer in self._dialers.values():
            dialer.end()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._options.stop_flush_ms / 1000)
        finally:
            for task in self._tasks:
                task.cancel()
            for link in list(self._connections):
                link.abort()
            if self._ticker is not None:
                self._ticker.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), _ABORT_TIMEOUT_S)

    # --- for connections -------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if not isinstance(connection, Incoming):
            return
        self.counters.accepted += 1
        if self._is_stopped:
            connection.abort()
            return
        self._half_open[connection] = None
        if len(self._half_open) > self._options.half_open_limit:
            # The oldest, not the newest: an honest handshake is over before so many others have come.
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.violate("half_open_evicted", "gave way to newer connections", logging.INFO)

    def admits(self, connection: Incoming) -> bool:
        return connection.node in self._peers or self._strangers_allowed

    def up(self, connection: Connection) -> None:
        node = connection.node
        if isinstance(connection, Incoming):
            self._half_open.pop(connection, None)
            self.counters.incoming_up += 1
            if (present := self._incoming.get(node)) is None or present.is_closed:
                self._let_in(connection)
                return
            # A restart, or a second process with this number? Its first facts tell.
            if (last_newcomer := self._newcomers.get(node)) is not None:
                last_newcomer.abort()
            self._newcomers[node] = connection
            connection.allow_messages(False)
        elif isinstance(connection, Outgoing):
            if (last := self._outgoing.get(node)) is not None:
                self._down(last)  # aborted, and asyncio has not said so yet
            self.counters.outgoing_up += 1
            self._outgoing[node] = connection
            connection.allow_messages(False)
            self._tell_facts(connection)
            self._notices.say(logging.INFO, ("up", node), f"link to node {node} is up")
            try:
                self._handler.connected(node)
            except Exception as fault:
                self._blame(fault)

    def heard(self, connection: Connection, messages: list[Message]) -> None:
        node = connection.node
        handler = self._handler
        may_send = self._may_send(connection)
        for kind, group, body in messages:
            if connection.is_closed:
                return  # the handler's wish, as of the last message
            try:
                if kind == FACTS:
                    self._hear_facts(connection, body)
                    may_send = self._may_send(connection)
                elif not may_send:
                    connection.violate("stranger_violations", f"sent kind {kind}, and may only tell facts")
                elif kind in KINDS:
                    handler.received(node, kind, group, body)
                else:
                    self.counters.unknown_kinds += 1
            except Exception as fault:
                self._blame(fault)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        node = connection.node
        if isinstance(connection, Incoming):
            self._half_open.pop(connection, None)
            if self._newcomers.get(node) is connection:
                del self._newcomers[node]
            if self._incoming.get(node) is connection:
                del self._incoming[node]
                newcomer = self._newcomers.pop(node, None)
                if newcomer is not None and not newcomer.is_closed:
                    self._let_in(newcomer)
        elif self._outgoing.get(node) is connection:
            self._down(connection)
        if self._is_stopped and not self._connections:
            self._none_left.set()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(self._options.tick_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        if not self._is_stopped:
            for connection in list(self._connections):
                connection.tick()
            self._start()

    def _accept(self) -> Incoming:
        return Incoming(self._shared, self)

    def _dial(self, node: int, address: tuple[str, int]) -> None:
        backoff = Backoff(self._options.backoff_min_ms / 1000, self._options.backoff_max_ms / 1000, self._rng)
        dialer = Dialer(node, address, self._shared, lambda node: Outgoing(self._shared, self, node), backoff)
        self._dialers[node] = dialer
        self._tasks.add(dialer.task)
        dialer.task.add_done_callback(self._tasks.discard)

    def _let_in(self, connection: Incoming) -> None:
        """From now on this is the connection of its node."""
        node = connection.node
        replaced = self._incoming.get(node)
        self._incoming[node] = connection
        if replaced is not None:
            self.counters.incoming_replaced += 1
            replaced.abort()
        connection.allow_messages(node in self._peers)
        self._tell_facts(connection)

    def _end_incoming(self, node: int) -> None:
        for links in (self._newcomers, self._incoming):
            if (link := links.get(node)) is not None:
                link.abort()

    def _may_send(self, connection: Connection) -> bool:
        """Whether more than facts is taken from it."""
        return connection.node in self._peers and self._incoming.get(connection.node) is connection

    def _hear_facts(self, connection: Connection, facts: object) -> None:
        node = connection.node
        # Only False refuses: what a handler that raises thinks is not known.
        is_known = self._handler.facts(node, facts) is not False
        if connection.is_closed:
            return
        if not is_known:
            connection.violate("refused_facts", "told facts of another node than is known by this number", logging.INFO)
        elif isinstance(connection, Incoming) and self._newcomers.get(node) is connection:
            del self._newcomers[node]
            self._let_in(connection)

    def _down(self, link: Connection) -> None:
        del self._outgoing[link.node]
        self.counters.outgoing_lost += 1
        self._notices.say(logging.INFO, ("down", link.node), f"link to node {link.node} is down")
        try:
            self._handler.disconnected(link.node)
        except Exception as fault:
            self._blame(fault)

    def _tell_facts(self, link: Connection) -> None:
        """On connections of both directions: nobody here may know where a stranger is, or where a peer is now."""
        if self._facts is None or link.is_closed:
            return
        if not link.queue(self._facts):
            # A peer that missed facts would go by old ones: it gets the new ones when it is back.
            link.abort()

    def _blame(self, fault: Exception) -> None:
        self.counters.handler_errors += 1
        self._notices.say(logging.ERROR, ("handler", 0), f"links: the handler raised {fault!r}", fault)
