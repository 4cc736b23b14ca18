"""A log of one process for tests of what stands on it: commits whatever the node collects, in the next turn."""

import asyncio
from collections.abc import Iterable

from wukong.node.node import Node
from wukong.raft.statemachine import Committed


class InProcessLog:
    """hold: while True nothing is committed. entries: everything that was, for replay into another node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._due = False
        self.hold = False
        self.entries: list[Committed] = []
        self._indexes: dict[int, int] = {}
        for slot in range(node.slot_count):
            node.leadership(slot, node.node_id, 1)

    def accepts(self, group: int) -> bool:
        return True

    def wake(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.step)

    def step(self) -> None:
        self._due = False
        if self.hold:
            return
        committed = []
        for group, data in self._node.collect():
            index = self._indexes[group] = self._indexes.get(group, 0) + 1
            committed.append(Committed(group, index, 1, data))
        if committed:
            self.entries += committed
            self._node.apply(committed)
            self.wake()

    def release(self) -> None:
        self.hold = False
        self.wake()

    async def barrier(self, groups: Iterable[int], timeout_s: float) -> None:
        await asyncio.sleep(0)
