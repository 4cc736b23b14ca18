"""How a cluster begins, once: one node decides, the others take it over (docs/design/cluster.md, 1).

Pure: facts of other nodes go in, a formation comes out when it is certain.
"""

import logging
from typing import Annotated

import msgspec
from msgspec import Meta

from wukong.channel.nodes import MAX_NODES
from wukong.errors import DataError
from wukong.limits import MAX_NODE_ID, MAX_SLOT_COUNT
from wukong.links.addresses import MAX_ADDRESS_CHARS, split_address
from wukong.store.datadir import Formation

log = logging.getLogger(__name__)

MAX_URL_CHARS = 1_024

NodeId = Annotated[int, Meta(ge=1, le=MAX_NODE_ID)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]
Address = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS)]


class Facts(msgspec.Struct, frozen=True):
    """What a node tells every node it is linked with, at connect and when it changes.

    node: its number, as the link has proved it. disk: of its data directory. cluster: 0 while it belongs to none;
    members: (node, disk) pairs the cluster began with. slots: number of its slots, the same on every node.
    addr: host:port where its links listen, as others should dial it. join: it wants to be taken into the cluster.
    nodes: addresses of all nodes it knows. clock_ms: its wall clock when it told this. version: of the program.
    boot: a number that each process draws anew, 0 for none. starts: how often its data directory was started.

    Limits: MAX_NODES members, twice as many addresses (a table and what a configuration names besides), and what the
    types say."""

    disk: Number
    slots: Annotated[int, Meta(ge=0, le=MAX_SLOT_COUNT)] = 0
    cluster: Number = 0
    members: Annotated[tuple[tuple[NodeId, Number], ...], Meta(max_length=MAX_NODES)] = ()
    addr: Address = ""
    api_url: Annotated[str, Meta(max_length=MAX_URL_CHARS)] = ""
    join: bool = False
    nodes: Annotated[dict[NodeId, Address], Meta(max_length=2 * MAX_NODES)] = {}
    clock_ms: Number = 0
    version: Annotated[str, Meta(max_length=255)] = ""
    boot: Number = 0
    starts: Number = 0
    node: Annotated[int, Meta(ge=0, le=MAX_NODE_ID)] = 0


def read_facts(node: int, value: object) -> Facts | None:
    """Facts of a node as a link carried them; None if they are malformed, over a limit, or give an address that is
    none. Addresses of others that are none are left out."""
    try:
        facts = msgspec.convert(value, Facts)
    except (msgspec.ValidationError, ValueError):
        return None
    if facts.addr and split_address(facts.addr) is None:
        return None
    known = {other: addr for other, addr in facts.nodes.items() if split_address(addr) is not None}
    facts = msgspec.structs.replace(facts, nodes=known)
    return msgspec.structs.replace(facts, node=node)


class Forming:
    """A node without a cluster looks for one. wanted: the nodes its configuration names, itself among them; a node that
    only has a `seed` wants nobody and never decides.

    Anybody who knows the secret may tell facts: another cluster, or what is left of one whose directories were wiped.
    Only nodes that the configuration names are believed, and whoever tells a formation with this node's own disk."""

    def __init__(self, node_id: int, disk: int, slots: int, wanted: frozenset[int]) -> None:
        self._node_id = node_id
        self._disk = disk
        self._slots = slots
        self._wanted = wanted
        self._blank: dict[int, int] = {}  # node -> disk
        self._found: Formation | None = None
        self._misfits: dict[int, str] = {}  # named node -> why this directory does not fit its cluster
        self._said: dict[int, tuple[int, int]] = {}  # node -> its cluster and slots, as the log has them

    def heard(self, node: int, facts: Facts, *, named: bool = True) -> None:
        """A node told its facts. named: this node's configuration names it, in initNodes or as the seed."""
        if not named and (self._node_id, self._disk) not in facts.members:
            if facts.cluster and self._is_news(node, facts):
                log.warning(
                    "node %d says that it belongs to cluster %d; it is not believed, because this node's configuration "
                    "does not name it",
                    *(node, facts.cluster),
                )
            return
        self._blank.pop(node, None)
        self._misfits.pop(node, None)
        if facts.slots != self._slots:
            if facts.cluster:
                self._misfits[node] = (
                    f"the cluster that node {node} belongs to has {facts.slots} slots, this node's data directory was "
                    f"made with {self._slots}; start it with an empty directory and wukong.slotCount {facts.slots}"
                )
            if self._is_news(node, facts):
                log.error(
                    "node %d was made with %d slots, this node with %d; they form no cluster. Start them with empty "
                    "directories and the same wukong.slotCount",
                    *(node, facts.slots, self._slots),
                )
        elif facts.cluster:
            if self._found is None:
                self._found = Formation(facts.cluster, facts.members)
        else:
            self._blank[node] = facts.disk

    def _is_news(self, node: int, facts: Facts) -> bool:
        said = facts.cluster, facts.slots
        if self._said.get(node) == said:
            return False
        self._said[node] = said
        return True

    def lost(self, node: int) -> None:
        """The link to a node is gone, and with it what is known of it."""
        self._blank.pop(node, None)

    @property
    def missing(self) -> list[int]:
        """The nodes that have to be heard before this one can decide."""
        return sorted(self._wanted - {self._node_id} - set(self._blank))

    def decide(self, new_cluster: int) -> Formation | None:
        """The formation this node belongs to from now on, or None: go on waiting. new_cluster: the number to give to a
        cluster that this node forms. Raises DataError for a cluster that this node's directory does not fit."""
        if self._misfits:
            raise DataError(min(self._misfits.items())[1])
        if self._found is not None:
            return self._found
        # One node decides. Two that decide could each see another disk of a third.
        if not self._wanted or self._node_id != min(self._wanted) or self.missing:
            return None
        disks = {**self._blank, self._node_id: self._disk}
        return Formation(new_cluster, tuple((node, disks[node]) for node in sorted(self._wanted)))
