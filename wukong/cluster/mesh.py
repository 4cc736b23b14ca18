"""The links of a node, seen from the cluster: who is connected, who belongs to us, and where what they send goes.

Only nodes of the same cluster are heard; what others send, but for their facts, is dropped. A node counts as connected
when our link to it is up and it has told us that it belongs to our cluster.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from wukong.clock import Clock
from wukong.cluster.formation import Facts, Forming, read_facts
from wukong.links.kinds import CONTROL, FORWARD, RAFT, SNAPSHOT
from wukong.store.datadir import Formation

log = logging.getLogger(__name__)


class Links(Protocol):
    """What is needed of wukong.links."""

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None: ...

    def set_facts(self, facts: object) -> None: ...

    def send(self, node: int, kind: int, group: int, body: object) -> bool: ...


class Replica(Protocol):
    """Who takes what other nodes send: log, streams, snapshots, controls."""

    def connected(self, node: int) -> None: ...

    def disconnected(self, node: int) -> None: ...

    def raft(self, node: int, group: int, body: dict[str, object]) -> None: ...

    def forward(self, node: int, group: int, body: object) -> None: ...

    def snapshot(self, node: int, group: int, body: object) -> None: ...

    def control(self, node: int, body: object) -> None: ...

    def facts(self, node: int, facts: Facts) -> None: ...


class Mesh:
    """A links handler (wukong.links). own: what this node tells of itself. addresses: nodes to dial, node -> host:port.

    replica is set once this node belongs to a cluster and its log runs; until then only facts are heard."""

    def __init__(self, node_id: int, clock: Clock, own: Facts, addresses: Mapping[int, str]) -> None:
        self.node_id = node_id
        self.own = own
        self.facts_of: dict[int, Facts] = {}
        self.forming: Forming | None = None
        self.on_heard: Callable[[], None] = lambda: None
        """Called after facts or links changed, while a formation is looked for."""
        self._clock = clock
        self._links: Links | None = None
        self._replica: Replica | None = None
        self._configured = dict(addresses)
        self._addresses = dict(addresses)
        self._up: dict[int, float] = {}  # our link to the node is up since
        self._connected: dict[int, float] = {}
        self._ours: set[int] = set()  # nodes of our cluster, by their last facts

    # -- life

    def start(self, links: Links) -> None:
        self._links = links
        self._tell()
        self._dial()

    def join(self, formation: Formation) -> None:
        """This node belongs to a cluster now."""
        self.forming = None
        self.own = msgspec.structs.replace(self.own, cluster=formation.cluster, members=formation.members)
        self._tell()

    def ask_to_join(self, on: bool) -> None:
        """Only a node whose disk never held anything of the cluster asks; one that was removed must not come back by
        itself."""
        if self.own.join != on:
            self.own = msgspec.structs.replace(self.own, join=on)
            self._tell()

    def serve(self, replica: Replica) -> None:
        """The log runs: hand it what comes."""
        self._replica = replica
        for node, facts in self.facts_of.items():
            if self._is_ours(facts):
                self._ours.add(node)
                replica.facts(node, facts)
        for node in list(self._up):
            self._look(node)

    def learn(self, addresses: Mapping[int, str]) -> None:
        """Addresses of nodes, from the replicated table. Those of this node's configuration count more: it may have a
        way of its own to a node."""
        merged = {**self._addresses, **addresses, **self._configured}
        if merged != self._addresses:
            self._addresses = merged
            self._dial()
            self._tell()

    def forget(self, node: int) -> None:
        """A node was removed from the cluster: it is neither dialed nor heard."""
        self._configured.pop(node, None)
        if self._addresses.pop(node, None) is not None:
            self._dial()

    # -- looking

    def connected_since(self, node: int) -> float | None:
        """Since when (monotonic) a node of our cluster is connected without a break; None if it is not."""
        return self._connected.get(node)

    @property
    def connected_nodes(self) -> set[int]:
        return set(self._connected)

    @property
    def addresses(self) -> Mapping[int, str]:
        return self._addresses

    # -- sending

    def send_raft(self, group: int, node: int, message: dict[str, object]) -> None:
        if node in self._connected and self._links is not None:
            self._links.send(node, RAFT, group, message)

    def send_forward(self, node: int, group: int, pack: bytes) -> bool:
        return node in self._connected and self._links is not None and self._links.send(node, FORWARD, group, pack)

    def send_snapshot(self, node: int, group: int, body: object) -> bool:
        return node in self._connected and self._links is not None and self._links.send(node, SNAPSHOT, group, body)

    def send_control(self, node: int, body: object) -> bool:
        return node in self._connected and self._links is not None and self._links.send(node, CONTROL, 0, body)

    # -- wukong.links.LinkHandler

    def connected(self, node: int) -> None:
        self._up[node] = self._clock.monotonic()
        self._look(node)
        self.on_heard()

    def disconnected(self, node: int) -> None:
        self._up.pop(node, None)
        if self.forming is not None:
            self.forming.lost(node)
        self._look(node)

    def facts(self, node: int, facts: object) -> None:
        read = read_facts(node, facts)
        if read is None:
            log.warning("node %d told facts that cannot be read; is it of another version?", node)
            return
        known = self.facts_of.get(node)
        foreign = bool(self.own.cluster and read.cluster) and read.cluster != self.own.cluster
        if foreign and (known is None or known.cluster != read.cluster):
            log.error("node %d belongs to another cluster; nothing it sends is taken", node)
        self.facts_of[node] = read
        if node not in self._addresses and read.addr and read.join:
            # It cannot be answered but by a link of our own.
            self._addresses[node] = read.addr
            self._dial()
        if self.forming is not None:
            self.forming.heard(node, read)
            self._addresses = {**read.nodes, **self._addresses} if read.cluster else self._addresses
            self._addresses.pop(self.node_id, None)
            self._dial()
        if read.cluster == self.own.cluster and read.slots != self.own.slots:
            log.error(
                "node %d has %d slots, this cluster %d; nothing it sends is taken", node, read.slots, self.own.slots
            )
        if self._is_ours(read):
            self._ours.add(node)
            if self._replica is not None:
                self._replica.facts(node, read)
        else:
            self._ours.discard(node)
        self._look(node)
        self.on_heard()

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        replica = self._replica
        if replica is None or node not in self._ours:
            return
        if kind == RAFT:
            if isinstance(body, dict):
                replica.raft(node, group, body)
        elif kind == FORWARD:
            replica.forward(node, group, body)
        elif kind == SNAPSHOT:
            replica.snapshot(node, group, body)
        elif kind == CONTROL:
            replica.control(node, body)

    # -- within

    def _is_ours(self, facts: Facts) -> bool:
        # Channels are spread over slots: with another number of them nothing would be found.
        return bool(facts.cluster) and (facts.cluster, facts.slots) == (self.own.cluster, self.own.slots)

    def _look(self, node: int) -> None:
        """A node is connected, or is not any more."""
        connected = node in self._up and node in self._ours and self._replica is not None
        if connected == (node in self._connected):
            return
        assert self._replica is not None
        if connected:
            self._connected[node] = self._up[node]
            self._replica.connected(node)
        else:
            del self._connected[node]
            self._replica.disconnected(node)

    def _tell(self) -> None:
        if self._links is not None:
            nodes = {**self._addresses, self.node_id: self.own.addr}
            told = msgspec.structs.replace(self.own, nodes=nodes, clock_ms=self._clock.now_ms())
            self._links.set_facts(msgspec.to_builtins(told))

    def _dial(self) -> None:
        if self._links is not None:
            peers = {node: split_address(addr) for node, addr in self._addresses.items() if node != self.node_id}
            self._links.set_peers({node: at for node, at in peers.items() if at is not None})


def split_address(text: str) -> tuple[str, int] | None:
    """host:port or [host]:port; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        return None
    return host.strip("[]"), int(port)
