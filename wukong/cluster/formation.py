"""How a cluster begins, once: one node decides, the others take it over (docs/design/cluster.md, 1).

Pure: facts of other nodes go in, a formation comes out when it is certain.
"""

import logging

import msgspec

from wukong.errors import DataError
from wukong.store.datadir import Formation

log = logging.getLogger(__name__)


class Facts(msgspec.Struct, frozen=True):
    """What a node tells every node it is linked with, at connect and when it changes.

    node: its number, as the link has proved it. disk: of its data directory. cluster: 0 while it belongs to none;
    members: (node, disk) pairs the cluster began with. slots: number of its slots, the same on every node.
    addr: host:port where its links listen, as others should dial it. join: it wants to be taken into the cluster.
    nodes: addresses of all nodes it knows. clock_ms: its wall clock when it told this. version: of the program."""

    disk: int
    slots: int = 0
    cluster: int = 0
    members: tuple[tuple[int, int], ...] = ()
    addr: str = ""
    api_url: str = ""
    join: bool = False
    nodes: dict[int, str] = {}
    clock_ms: int = 0
    version: str = ""
    node: int = 0


def read_facts(node: int, value: object) -> Facts | None:
    """Facts of a node as a link carried them; None if they are malformed."""
    try:
        facts = msgspec.convert(value, Facts)
    except (msgspec.ValidationError, ValueError):
        return None
    return msgspec.structs.replace(facts, node=node)


class Forming:
    """A node without a cluster looks for one. wanted: the nodes its configuration names, itself among them; a node that
    only has a `seed` wants nobody and never decides."""

    def __init__(self, node_id: int, disk: int, slots: int, wanted: frozenset[int]) -> None:
        self._node_id = node_id
        self._disk = disk
        self._slots = slots
        self._wanted = wanted
        self._blank: dict[int, int] = {}  # node -> disk
        self._found: Formation | None = None
        self._misfit = ""

    def heard(self, node: int, facts: Facts) -> None:
        """A node told its facts."""
        if facts.slots != self._slots:
            self._blank.pop(node, None)
            if facts.cluster:
                self._misfit = (
                    f"the cluster that node {node} belongs to has {facts.slots} slots, this node's data directory was "
                    f"made with {self._slots}; start it with an empty directory and wukong.slotCount {facts.slots}"
                )
            log.error(
                "node %d was made with %d slots, this node with %d; they form no cluster. Start them with empty "
                "directories and the same wukong.slotCount",
                *(node, facts.slots, self._slots),
            )
            return
        if facts.cluster:
            self._blank.pop(node, None)
            if self._found is None:
                self._found = Formation(facts.cluster, facts.members)
        else:
            self._blank[node] = facts.disk

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
        if self._misfit:
            raise DataError(self._misfit)
        if self._found is not None:
            return self._found
        # One node decides. Two that decide could each see another disk of a third.
        if not self._wanted or self._node_id != min(self._wanted) or self.missing:
            return None
        disks = {**self._blank, self._node_id: self._disk}
        return Formation(new_cluster, tuple((node, disks[node]) for node in sorted(self._wanted)))
