"""The links of a node, seen from the cluster: who is connected, who belongs to us, and where what they send goes.

Only nodes of the same cluster are heard; what others send, but for their facts, is dropped. A node counts as connected
when our link to it is up and it has told us that it belongs to our cluster. A number is that of the process which was
heard last under it, until that one has been silent for TWIN_SILENCE_S: another one with another disk is not let in.
One with the same disk is a restart, which comes when the process before it is gone; else it is a copy of the data
directory, and two that vote as one are worse than none.

Where a node is: as this node's configuration says, if it names the node, until an operator enters another address;
else as the newest word has it, the node's own or its row's. docs/design/links.md.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from wukong.channel.nodes import MAX_NODES
from wukong.clock import Clock
from wukong.cluster.formation import Facts, Forming, read_facts
from wukong.links.addresses import split_address
from wukong.links.kinds import CONTROL, FORWARD, RAFT, SNAPSHOT
from wukong.store.datadir import Formation

log = logging.getLogger(__name__)

TWIN_SILENCE_S = 10.0
"""So long a node keeps its number against one with another disk: a second process under it, or the same node that has
lost its disk."""
_COPY_SILENCE_S = 3.0
"""So long a process without a broken link was silent before another one with the same disk is taken for its next."""
_COMPLAINT_PAUSE_S = 10.0


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
    """A links handler (wukong.links). own: what this node tells of itself. addresses: of the nodes that this node's
    configuration names, initNodes and seed, node -> host:port.

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
        self._named = frozenset(addresses)
        self._configured = dict(addresses)  # without those for which an operator has entered another address
        self._addresses = dict(addresses)
        self._rows: dict[int, tuple[str, int]] = {}  # node -> address and disk in the table
        self._up: dict[int, float] = {}  # our link to the node is up since
        self._connected: dict[int, float] = {}
        self._ours: set[int] = set()  # nodes of our cluster, by their last facts
        self._heard_at: dict[int, float] = {}
        self._said: dict[int, str] = {}  # node -> what is wrong with its facts, as the log has it
        self._twin_said_at: dict[int, float] = {}
        self._link_broke: set[int] = set()  # since the node was last taken for the process that it is
        self._suspected: dict[int, tuple[int, float]] = {}  # node -> another boot that was refused, and when first
        self._copied: dict[int, tuple[int, float]] = {}  # node with a copy -> the boot heard last, and since when

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

    def learn(self, addresses: Mapping[int, str], disks: Mapping[int, int] | None = None) -> None:
        """Addresses and disks of nodes, from the replicated table; whenever it has changed. Addresses of this node's
        configuration count more, since it may have a way of its own to a node; but not against an operator who enters
        another one while this process runs. An operator's row has disk 0 until its node comes."""
        before, first = self._addresses, not self._rows
        self._addresses = dict(before)
        for node, addr in addresses.items():
            row = addr, (disks or {}).get(node, -1)
            old = self._rows.get(node, ("", -1))
            self._rows[node] = row
            if node == self.node_id or row == old:
                continue
            # Directories of old versions have disk 0: such a row may be its node's own.
            facts = self.facts_of.get(node)
            by_operator = row[1] == 0 and not first and not (facts is not None and facts.disk == 0)
            if node in self._configured:
                if not by_operator or addr == self._configured[node]:
                    continue
                log.warning(
                    "node %d is dialed at %s from now on, as an operator entered it, and no longer at %s; change this "
                    "node's configuration too (cluster.initNodes, cluster.seed), which counts at the next start",
                    *(node, addr, self._configured.pop(node)),
                )
            elif addr == old[0] and not by_operator:
                continue  # what the node has said of itself since is newer
            self._addresses[node] = addr
        if self._addresses != before:
            self._dial()
            self._tell()

    def forget(self, node: int) -> None:
        """A node was removed from the cluster: it is neither dialed nor heard."""
        self._rows.pop(node, None)
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
        self._look_for_formation(node)
        self._look(node)
        self.on_heard()

    def disconnected(self, node: int) -> None:
        self._up.pop(node, None)
        self._link_broke.add(node)
        if self.forming is not None:
            self.forming.lost(node)
        self._look(node)

    def facts(self, node: int, facts: object) -> bool:
        """False: they are not taken for those of the node with this number, and changed nothing."""
        read = read_facts(node, facts)
        if read is None:
            self._say(node, logging.WARNING, "told facts that cannot be read; is it of another version?")
            return False
        if self._is_twin(read) or self._is_copy(read):
            return False
        known = self.facts_of.get(node)
        if known is not None and known.cluster and not read.cluster and known.disk == read.disk:
            return True  # told before the last ones, on a slower link: a directory does not leave its cluster
        self._link_broke.discard(node)
        self._heard_at[node] = self._clock.monotonic()
        self.facts_of[node] = read
        is_foreign = bool(self.own.cluster and read.cluster) and read.cluster != self.own.cluster
        if is_foreign:
            self._say(node, logging.ERROR, "belongs to another cluster; nothing it sends is taken")
        elif read.cluster and self.own.cluster and read.slots != self.own.slots:
            text = f"has {read.slots} slots, this cluster {self.own.slots}; nothing it sends is taken"
            self._say(node, logging.ERROR, text)
        else:
            self._said.pop(node, None)
        self._take_address(read)
        self._look_for_formation(node)
        if self._is_ours(read):
            self._ours.add(node)
            if self._replica is not None:
                self._replica.facts(node, read)
        else:
            self._ours.discard(node)
        self._look(node)
        self.on_heard()
        return True

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        if node not in self._ours:
            return
        self._heard_at[node] = self._clock.monotonic()
        replica = self._replica
        if replica is None:
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

    def _is_twin(self, facts: Facts) -> bool:
        """Whether somebody else was heard under this number a moment ago. Who has the disk of the table is always let
        in: the other one may have come while it was away."""
        node, known = facts.node, self.facts_of.get(facts.node)
        _, disk = self._rows.get(node, ("", 0))
        if known is None or node not in self._ours or facts.disk in (known.disk, disk or known.disk):
            return False
        silent_s = self._clock.monotonic() - self._heard_at[node]
        if silent_s >= TWIN_SILENCE_S:
            return False
        self._complain(
            node,
            f"a node {node} tells disk {facts.disk:x}, but disk {known.disk:x} was heard under that id {silent_s:.0f} "
            f"s ago: if two processes run with nodeId {node}, stop one of them; else it is let in when the old one was "
            f"silent for {TWIN_SILENCE_S:.0f} s",
        )
        return True

    def _is_copy(self, facts: Facts) -> bool:
        """Whether somebody else runs on a copy of the data directory of the node that is heard. Directories count
        their starts: the next process has a higher number, and comes when the one before is gone. One with a lower
        number was there all the time, if it goes on telling facts; then neither is heard, until only one of them has
        told facts for TWIN_SILENCE_S."""
        node, known = facts.node, self.facts_of.get(facts.node)
        if known is None or not facts.boot or not known.boot or facts.disk != known.disk:
            return False
        now = self._clock.monotonic()
        if node in self._copied:
            boot, since = self._copied[node]
            if boot == facts.boot and now - since >= TWIN_SILENCE_S:
                del self._copied[node]
                return False
            if boot != facts.boot:
                self._copied[node] = facts.boot, now
        elif facts.boot == known.boot:
            return False
        else:
            is_next = facts.starts > known.starts
            if is_next and (node in self._link_broke or now - self._heard_at[node] >= _COPY_SILENCE_S):
                self._suspected.pop(node, None)
                return False
            # What a dead process has said may be read late, and nobody may have told of its end.
            boot, since = self._suspected.get(node, (0, now))
            if boot != facts.boot:
                self._suspected[node] = facts.boot, now
            if boot != facts.boot or now - since < _COPY_SILENCE_S:
                return True
            if not is_next:
                self._copied[node] = facts.boot, now
                self._ours.discard(node)
                self._look(node)
        self._complain(
            node,
            f"two processes run as node {node} with the same data directory (disk {facts.disk:x}), which must never "
            "happen: stop the one that is a copy, and start it with an empty data directory and a nodeId of its own",
        )
        return True

    def _complain(self, node: int, text: str) -> None:
        now = self._clock.monotonic()
        if now - self._twin_said_at.get(node, -_COMPLAINT_PAUSE_S) >= _COMPLAINT_PAUSE_S:
            self._twin_said_at[node] = now
            log.error("%s", text)

    def _take_address(self, facts: Facts) -> None:
        """Where a node says that it is. It knows best, and may have been moved."""
        node, addr = facts.node, facts.addr
        if not addr or node in self._configured or facts.cluster not in (0, self.own.cluster):
            return
        # A newcomer cannot be answered but by a link of our own. More than the table holds are not taken in anyway.
        is_wanted = node in self._addresses or (facts.join and len(self._addresses) < MAX_NODES)
        if is_wanted and self._addresses.get(node) != addr:
            self._addresses[node] = addr
            self._dial()

    def _look_for_formation(self, node: int) -> None:
        """Who has no cluster counts only while our link to it is up: behind one that is gone may be another disk."""
        facts = self.facts_of.get(node)
        if self.forming is None or facts is None or not (facts.cluster or node in self._up):
            return
        is_named = node in self._named
        self.forming.heard(node, facts, named=is_named)
        if is_named and facts.cluster:
            self._addresses = {**facts.nodes, **self._addresses}
            self._addresses.pop(self.node_id, None)
            self._dial()

    def _say(self, node: int, level: int, text: str) -> None:
        """Once, until it changes: a node tells its facts whenever it connects."""
        if self._said.get(node) != text:
            self._said[node] = text
            log.log(level, "node %d %s", node, text)

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
