"""One committed log for several nodes in one process, moved by hand: who leads, what is lost, who is behind."""

import asyncio
from collections.abc import Iterable

from wukong.channel.effects import Effect
from wukong.clock import Clock
from wukong.node.node import Node
from wukong.raft.statemachine import Committed
from wukong.store.memory import MemoryStore


class _Port:
    """The log as one node sees it."""

    def __init__(self, cluster: "SharedLog", node_id: int) -> None:
        self._cluster = cluster
        self._node_id = node_id

    def wake(self) -> None:
        self._cluster.wake()

    def accepts(self, group: int) -> bool:
        return self._cluster.leader == self._node_id

    async def barrier(self, groups: Iterable[int], timeout_s: float) -> None:
        await asyncio.sleep(0)


class SharedLog:
    """nodes by number; leader of every slot (None: nobody). cut: (from, to) pairs between which forwarded packs are
    lost. paused: nodes that apply nothing. effects: what each node was asked for. breaks: why each closed its clients.
    """

    def __init__(self, clock: Clock, node_ids: Iterable[int] = (1, 2, 3), *, slots: int = 2) -> None:
        self.clock = clock
        self.slots = slots
        self.entries: list[Committed] = []
        self.leader: int | None = None
        self.cut: set[tuple[int, int]] = set()
        self.paused: set[int] = set()
        self.forwarded = 0
        self.nodes: dict[int, Node] = {}
        self.stores: dict[int, MemoryStore] = {}
        self.effects: dict[int, list[Effect]] = {}
        self.breaks: dict[int, list[str]] = {}
        self._positions: dict[int, int] = {}
        self._due = False
        for node_id in node_ids:
            self.open(node_id, MemoryStore())

    def open(self, node_id: int, store: MemoryStore) -> Node:
        """A node, new or come back with its store. It applies from where the store stands."""
        effects = self.effects[node_id] = []
        breaks = self.breaks[node_id] = []

        def forward(leader: int, slot: int, pack: bytes) -> bool:
            self.forwarded += 1
            if (node_id, leader) not in self.cut and leader in self.nodes:
                self.nodes[leader].receive_forward(slot, node_id, pack)
            return True

        node = Node(
            node_id=node_id,
            slot_count=self.slots,
            store=store,
            clock=self.clock,
            effects_sink=effects.extend,
            forward=forward,
            on_break=breaks.append,
        )
        node.attach(_Port(self, node_id))
        self.nodes[node_id], self.stores[node_id] = node, store
        applied = node.applied()
        self._positions[node_id] = sum(
            1 for entry in self.entries if entry.index <= applied.get(entry.group, (0, 0))[0]
        )
        for slot in range(self.slots):
            node.leadership(slot, self.leader, 1)
        return node

    def elect(self, leader: int | None) -> None:
        self.leader = leader
        for node in self.nodes.values():
            for slot in range(self.slots):
                node.leadership(slot, leader, len(self.entries) + 1)

    def wake(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.step)

    def step(self) -> None:
        self._due = False
        if self.leader is not None and self.leader in self.nodes:
            for group, data in self.nodes[self.leader].collect():
                # One order for all groups, so an index names an entry.
                self.entries.append(Committed(group, len(self.entries) + 1, 1, data))
                self.wake()
        for node_id, node in list(self.nodes.items()):
            behind = self.entries[self._positions[node_id] :]
            if behind and node_id not in self.paused:
                self._positions[node_id] = len(self.entries)
                node.apply(behind)

    def resume(self, node_id: int) -> None:
        self.paused.discard(node_id)
        self.wake()

    async def go_live(self) -> None:
        await asyncio.gather(*(node.go_live() for node in self.nodes.values()))

    def shut(self) -> None:
        for node in self.nodes.values():
            node.shut()
