"""Links between simulated nodes: what `wukong.links.Links` promises, over virtual time.

Each node dials every peer, so a pair of nodes has two connections, one for each direction of messages. A connection is
a stream: what is sent arrives once, in order, as the bytes it was encoded to; or the connection breaks and loses
everything under way. A cut holds the bytes back, and a connection that is cut for too long breaks, in whichever
direction the cut was, because its answers are missing. A connection that was replaced may still be read to its end.
"""

import random
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from tests.simulation.loop import ProcessLoop, Scheduler

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Trace = Callable[[str, int, int, int], None]
"""(what, from, to, checksum)."""


class Handler(Protocol):
    """As wukong.links.LinkHandler."""

    def connected(self, node: int) -> None: ...

    def disconnected(self, node: int) -> None: ...

    def facts(self, node: int, facts: Any) -> bool: ...

    def received(self, node: int, kind: int, group: int, body: Any) -> None: ...


class Network:
    """What lies between the nodes. delay_s: (least, most) from node to node. break_s: how long a connection may hear
    nothing of the other side before it is given up. late: chance that what a broken connection had under way still
    arrives, as from a socket that is read to its end."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, trace: Trace) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.trace = trace
        self.counts: Counter[str] = Counter()
        self.delay_s = (0.0005, 0.002)
        self.slow: dict[tuple[int, int], tuple[float, float]] = {}
        self.break_s = 1.5
        self.late = 0.0
        self.flaps: dict[tuple[int, int], float] = {}  # directions whose connection breaks so often (mean seconds)
        self.cut: dict[tuple[int, int], float] = {}  # direction -> since when
        self.quick: set[int] = set()  # nodes that are dialed again, and dial, at once
        self.links: dict[int, SimLinks] = {}
        self.connections: dict[tuple[int, int], _Connection] = {}
        self.connection_count = 0

    # -- faults

    def cut_direction(self, source: int, target: int) -> bool:
        """True: it was not cut before."""
        fresh = (source, target) not in self.cut
        if (source, target) not in self.cut:
            self.cut[source, target] = self.scheduler.now
            for key in ((source, target), (target, source)):
                if (connection := self.connections.get(key)) is not None:
                    connection.watch()
        return fresh

    def mend(self, source: int, target: int) -> None:
        self.cut.pop((source, target), None)
        if (connection := self.connections.get((source, target))) is not None:
            connection.go_on()

    def mend_all(self) -> None:
        for source, target in sorted(self.cut):
            self.mend(source, target)

    def reset(self, source: int, target: int) -> None:
        """Break one connection now."""
        if (connection := self.connections.get((source, target))) is not None:
            connection.give_up()

    def is_cut(self, a: int, b: int) -> bool:
        """In either direction."""
        return (a, b) in self.cut or (b, a) in self.cut

    # -- life of nodes

    def died(self, node: int, *, told: bool) -> None:
        """told: the others get a reset at once; else they find out when nothing comes any more."""
        self.links.pop(node, None)
        for key, connection in sorted(self.connections.items()):
            if key[0] == node:
                connection.lose(self.rng.random() < 0.5)  # its kernel may have sent what was written
                self.connections.pop(key, None)
            elif key[1] == node:
                wait_s = self.break_s * self.rng.uniform(0.5, 1.0)
                if told or node in self.quick:
                    wait_s = self.rng.uniform(0.0005, 0.003)
                self.scheduler.after(wait_s, connection.give_up)

    def between(self, source: int, target: int) -> float:
        return self.rng.uniform(*self.slow.get((source, target), self.delay_s))


class _Connection:
    def __init__(self, network: Network, source: "SimLinks", target: "SimLinks") -> None:
        self.network = network
        self.source = source
        self.target = target
        self.key = source.node_id, target.node_id
        network.connection_count += 1
        self.serial = network.connection_count
        self.open = True
        self.refused = False
        self.late = False  # broken, but what is under way still arrives
        self.last_at = 0.0
        self.stuck: deque[tuple[str, bytes]] = deque()
        self.under_way_bytes = 0
        self.watching = False

    def put(self, what: str, data: bytes) -> None:
        network = self.network
        scheduler = network.scheduler
        self.under_way_bytes += len(data)
        at = max(scheduler.now + network.between(*self.key), self.last_at + 1e-6)
        self.last_at = at
        scheduler.at(at, self._arrive, what, data)

    def _arrive(self, what: str, data: bytes) -> None:
        if not self.open and not self.late:
            return
        if self.stuck or self.key in self.network.cut:
            if self.open:
                self.stuck.append((what, data))
                self.watch()
            return
        self.under_way_bytes -= len(data)
        self._hand_over(what, data)

    def go_on(self) -> None:
        """The cut is over: what was held back goes on, in order."""
        stuck, self.stuck = self.stuck, deque()
        at = max(self.network.scheduler.now + self.network.between(*self.key), self.last_at)
        for what, data in stuck:
            at += 1e-6
            self.network.scheduler.at(at, self._arrive, what, data)
        self.last_at = max(self.last_at, at)

    def _hand_over(self, what: str, data: bytes) -> None:
        target = self.target
        if self.network.links.get(target.node_id) is not target:
            return
        self.network.trace(what, *self.key, zlib.crc32(data))
        if not self.open:
            self.network.counts["late message"] += 1
        target.loop.call_soon(target.take, self, what, data)

    def answer_facts(self) -> None:
        """The listener tells its facts to the dialer, on the same connection."""
        if self.target.facts is None:
            return
        scheduler = self.network.scheduler
        data = _encode(self.target.facts)
        at = scheduler.now + self.network.between(self.key[1], self.key[0])
        scheduler.at(at, self._answered, data)

    def _answered(self, data: bytes) -> None:
        if self.open and (self.key[1], self.key[0]) not in self.network.cut:
            self.source.loop.call_soon(self.source.take_answer, self, data)

    def watch(self) -> None:
        """Give up if the cut lasts."""
        if not self.watching:
            self.watching = True
            network = self.network
            network.scheduler.after(network.break_s * network.rng.uniform(0.7, 1.3), self._watched)

    def _watched(self) -> None:
        self.watching = False
        if self.open and (self.network.is_cut(*self.key) or self.target.loop.state != "runs"):
            self.give_up()

    def give_up(self) -> None:
        """The source notices that the connection is gone."""
        if self.open:
            self.lose(self.network.rng.random() < self.network.late)
            if self.network.connections.get(self.key) is self:
                del self.network.connections[self.key]
            self.network.counts["connection broken"] += 1
            self.source.lost(self.key[1])

    def lose(self, late: bool) -> None:
        self.open = False
        self.late = late
        self.stuck.clear()


class SimLinks:
    """One node's end of the network; the interface of wukong.links.Links. handler is set before `set_peers`."""

    def __init__(self, network: Network, node_id: int, loop: ProcessLoop) -> None:
        self.network = network
        self.node_id = node_id
        self.loop = loop
        self.handler: Handler | None = None
        self.peers: dict[int, tuple[str, int]] = {}
        self.strangers = False
        self.facts: Any = None
        self.incoming: dict[int, _Connection] = {}  # the one of each node that is heard
        self.limit_bytes = 8 << 20
        self._dialing: set[int] = set()
        network.links[node_id] = self

    async def listen(self, host: str, port: int) -> int:
        return port

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        gone = self.peers.keys() - peers.keys()
        self.peers = {node: address for node, address in peers.items() if node != self.node_id}
        for node in sorted(gone):
            self.network.reset(self.node_id, node)
        for node in sorted(self.peers):
            self._dial(node)

    def allow_strangers(self, on: bool) -> None:
        self.strangers = on

    def set_facts(self, facts: Any) -> None:
        self.facts = facts
        for (source, target), connection in sorted(self.network.connections.items()):
            if source == self.node_id:
                connection.put("facts", _encode(facts))
            elif target == self.node_id and self.incoming.get(source) is connection:
                connection.answer_facts()

    def send(self, node: int, kind: int, group: int, body: object) -> bool:
        connection = self.network.connections.get((self.node_id, node))
        if connection is None or connection.source is not self:
            return False
        data = _encode((kind, group, body))
        if connection.under_way_bytes + len(data) > self.limit_bytes:
            self.network.counts["link full"] += 1
            return False
        connection.put("message", data)
        return True

    async def stop(self) -> None:
        self.peers = {}
        self.network.died(self.node_id, told=True)

    # -- the network tells

    def lost(self, node: int) -> None:
        if self.network.links.get(self.node_id) is self:
            assert self.handler is not None
            self.loop.call_soon(self.handler.disconnected, node)
            self._dial(node)

    def take(self, connection: _Connection, what: str, data: bytes) -> None:
        """In this node's loop: something has arrived. A newer connection takes the place of the one that is heard when
        its first facts are those of the node with its number."""
        handler, node = self.handler, connection.key[0]
        if handler is None or connection.refused or self.network.links.get(self.node_id) is not self:
            return
        present = self.incoming.get(node)
        if what == "facts":
            if node not in self.peers and not self.strangers:
                return
            if handler.facts(node, _decode(data)) is False:
                self.network.counts["facts refused"] += 1
                connection.refused = True  # closed at this end at once: nothing more is heard on it
                if present is connection:
                    del self.incoming[node]
                self.network.scheduler.after(self.network.between(*connection.key), connection.give_up)
            elif present is not connection and (present is None or present.serial < connection.serial):
                self.incoming[node] = connection
                connection.answer_facts()
        elif node in self.peers and present is connection:
            kind, group, body = _decode(data)
            handler.received(node, kind, group, body)

    def take_answer(self, connection: _Connection, data: bytes) -> None:
        """In this node's loop: the other end of our connection has told its facts."""
        handler = self.handler
        if handler is None or self.network.connections.get(connection.key) is not connection:
            return
        if handler.facts(connection.key[1], _decode(data)) is False:
            self.network.counts["facts refused"] += 1
            connection.give_up()

    def let_in(self, connection: _Connection) -> None:
        """A connection was made to this node."""
        present = self.incoming.get(connection.key[0])
        if present is None or not (present.open or present.late):
            self.incoming[connection.key[0]] = connection
            connection.answer_facts()

    def _dial(self, node: int) -> None:
        if node not in self._dialing and (self.node_id, node) not in self.network.connections:
            self._dialing.add(node)
            most_s = 0.005 if self.network.quick & {node, self.node_id} else 0.3
            self.network.scheduler.after(self.network.rng.uniform(0.001, most_s), self._try, node)

    def _try(self, node: int) -> None:
        self._dialing.discard(node)
        network = self.network
        if network.links.get(self.node_id) is not self or node not in self.peers:
            return
        target = network.links.get(node)
        if (
            target is None
            or target.loop.state != "runs"
            or self.loop.state != "runs"
            or network.is_cut(self.node_id, node)
            or (self.node_id not in target.peers and not target.strangers)
        ):
            self._dialing.add(node)
            most_s = 0.01 if network.quick & {node, self.node_id} else 0.5
            network.scheduler.after(network.rng.uniform(0.005, most_s), self._try, node)
            return
        old = network.connections.get((self.node_id, node))
        if old is not None:
            return
        connection = network.connections[self.node_id, node] = _Connection(network, self, target)
        network.counts["connection made"] += 1
        assert self.handler is not None
        self.loop.call_soon(self.handler.connected, node)
        if self.facts is not None:
            connection.put("facts", _encode(self.facts))
        target.let_in(connection)
        mean_s = network.flaps.get((self.node_id, node))
        if mean_s is not None:
            network.scheduler.after(network.rng.expovariate(1 / mean_s), connection.give_up)
