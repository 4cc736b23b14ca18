"""CONTROL messages: what the control of one node says to that of another. Hints and questions only; what must hold is
in the log, so each of them may be lost, repeated or late.

Bodies are maps with an `op`:
  progress   commits: [[slot, commit index]] of slots led by the sender; well: whether clients are well served there
  transfer   slot, to: let this voter lead, if you lead the slot
  pin        slot: it comes to you on purpose, keep it for a while
  ask        id: tell me your report      told   id, report
  call, called   of wukong.service.other_nodes
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from wukong.cluster.interfaces import Send
from wukong.links.kinds import CONTROL

log = logging.getLogger(__name__)

Body = dict[str, Any]
"""Any: as it came over the link; every field is checked where it is read."""

ASKS_LIMIT_COUNT = 1_000
"""Questions to other nodes without an answer; a further one is not asked."""


class Control:
    """send: Links.send. ops: op -> what to do with (node, body); `ask` and `told` are done here.

    report: what `ask` is answered with, a value that msgpack can carry."""

    def __init__(
        self, *, send: Send, report: Callable[[], Body], ops: dict[str, Callable[[int, Body], None]], first_id: int = 1
    ) -> None:
        self._send = send
        self._report = report
        self._ops = {**ops, "ask": self._answer, "told": self._told}
        self._next_id = first_id
        self._waiting: dict[tuple[int, int], asyncio.Future[Body]] = {}

    def register(self, op: str, act: Callable[[int, Body], None]) -> None:
        """One more op, of a part that is made later; its messages are its own."""
        self._ops[op] = act

    def send(self, node: int, op: str, **fields: object) -> bool:
        """False: there is no link, or it is full."""
        return self._send(node, CONTROL, 0, {"op": op, **fields})

    def received(self, node: int, body: object) -> None:
        """A CONTROL message of an authenticated node. A malformed one is dropped: it may be of another version."""
        try:
            if isinstance(body, dict):
                self._ops[body["op"]](node, body)
        except (KeyError, TypeError, ValueError) as error:
            log.debug("node %d sent a control message that cannot be read: %r", node, error)

    async def ask(self, nodes: Iterable[int], timeout_s: float) -> dict[int, Body]:
        """The reports of other nodes, as far as they come within timeout_s."""
        asked: dict[tuple[int, int], asyncio.Future[Body]] = {}
        for node in nodes:
            self._next_id += 1
            key = node, self._next_id
            if len(self._waiting) < ASKS_LIMIT_COUNT:
                self._waiting[key] = asyncio.get_running_loop().create_future()
                if self.send(node, "ask", id=self._next_id):
                    asked[key] = self._waiting[key]
                else:
                    del self._waiting[key]
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=timeout_s)
            return {node: future.result() for (node, _), future in asked.items() if future.done()}
        finally:
            for key in asked:
                del self._waiting[key]

    def _answer(self, node: int, body: Body) -> None:
        self.send(node, "told", id=number(body, "id"), report=self._report())

    def _told(self, node: int, body: Body) -> None:
        future = self._waiting.get((node, number(body, "id")))
        report = body["report"]
        if future is not None and not future.done() and isinstance(report, dict):
            future.set_result(report)


def number(body: Body, name: str) -> int:
    """A whole number of a message. Raises KeyError, ValueError."""
    value = body[name]
    if type(value) is not int:
        raise ValueError(f"{name} is no number")
    return value
