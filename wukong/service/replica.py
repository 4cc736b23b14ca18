"""The way of the use cases to the replica: one command with a time limit, one consistent read.

An answer comes after the change is applied here, its copies everywhere; a read sees everything that was answered
before it began, on whatever node (architecture.md, sections 3 and 5).
"""

import asyncio

from wukong.channel.commands import Command, Reply
from wukong.channel.permissions import SYSTEM_ERROR
from wukong.channel.state import Settings, State
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import MAX_STRING_BYTES, SECOND_MS
from wukong.node.node import Node

DEFAULT_TIMEOUT_MS = 10 * SECOND_MS

# What no command may be larger than, ids alone; the log takes entries of some MiB.
COMMAND_IDS_BYTES = 256 * 1024

SLICE_S = 0.004

# So many characters fit, whatever they are: UTF-8 has at most four bytes for one.
_SURELY_SHORT = MAX_STRING_BYTES // 4


class Replica:
    """timeout_ms: from a proposal to its reply, per command; beyond it the outcome is unknown (Unavailable)."""

    def __init__(self, node: Node, *, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        self._node = node
        self._timeout_s = timeout_ms / 1000

    @property
    def node_id(self) -> int:
        return self._node.node_id

    @property
    def incarnation(self) -> int:
        return self._node.incarnation

    @property
    def slot_count(self) -> int:
        return self._node.slot_count

    @property
    def now_ms(self) -> int:
        """What a command that is proposed now says of the time."""
        return self._node.now_ms

    def leads(self, slot: int) -> bool:
        """Whether this node leads a slot, as far as it knows."""
        return self._node.leads(slot)

    @property
    def settings(self) -> Settings:
        """The cluster settings as this node applied them last."""
        return self._node.states[0].settings

    async def change(self, routing_key: str, command: Command) -> Reply:
        """Carry out a command in the slot of a key. Raises Unavailable, and RequestRefused for what no slot holds."""
        return await self.change_slot(self._node.slot(routing_key), command)

    async def change_slot(self, slot: int, command: Command) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._node.execute(slot, command)
                if reply.version:
                    await self._node.copied(slot, reply.version)
        except TimeoutError:
            raise Unavailable("the change was not confirmed in time; its outcome is not known") from None
        if reply.reason == SYSTEM_ERROR:
            raise RequestRefused("a value is out of bounds; nothing was changed")
        return reply

    async def read(self, routing_key: str) -> State:
        """The state of a key's slot, up to date as of this call. Valid until the next await. Raises Unavailable."""
        await self.catch_up([routing_key])
        return self._node.state_of(routing_key)

    async def catch_up(self, routing_keys: list[str]) -> None:
        """Let the slots of these keys catch up with everything answered so far."""
        await self._node.barrier({self._node.slot(key) for key in routing_keys}, self._timeout_s)

    async def catch_up_slot(self, slot: int) -> None:
        await self._node.barrier([slot], self._timeout_s)

    async def read_all(self) -> list[State]:
        """All slots, up to date as of this call."""
        await self._node.barrier(range(self._node.slot_count), self._timeout_s)
        return self._node.states

    def now(self, routing_key: str) -> State:
        """The state of a key's slot as it is now, for going on after an await with what `read` began."""
        return self._node.state_of(routing_key)

    def slot_now(self, slot: int) -> State:
        return self._node.states[slot]


class Pace:
    """Cuts long work into slices: `await pace.step()` between pieces gives the loop its turn every few milliseconds."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._now = asyncio.get_running_loop().time
        self._slice_s = slice_s
        self._end = self._now() + slice_s

    async def step(self) -> None:
        if self._now() >= self._end:
            await asyncio.sleep(0)
            self._end = self._now() + self._slice_s


def check_id(text: str) -> str:
    """An id that rows and packets have room for. Raises RequestRefused."""
    if len(text) > _SURELY_SHORT and len(text.encode()) > MAX_STRING_BYTES:
        raise RequestRefused(f"an id of {len(text.encode())} bytes; the limit is {MAX_STRING_BYTES}")
    return text


async def distinct(uids: list[str]) -> list[str]:
    """Without blanks and repeats, in order. Raises RequestRefused for a uid that is too long."""
    pace = Pace()
    found: dict[str, None] = {}
    for start in range(0, len(uids), 1000):
        found.update(dict.fromkeys(check_id(uid) for uid in uids[start : start + 1000] if uid.strip()))
        await pace.step()
    return list(found)


def chunks(uids: list[str], limit: int) -> list[list[str]]:
    """In order, cut so that each part fits one command: at most limit of them, and COMMAND_IDS_BYTES."""
    parts: list[list[str]] = []
    start = size_bytes = 0
    for at, uid in enumerate(uids):
        uid_bytes = 5 + (len(uid) if uid.isascii() else 4 * len(uid))
        if at > start and (size_bytes + uid_bytes > COMMAND_IDS_BYTES or at - start >= limit):
            parts.append(uids[start:at])
            start, size_bytes = at, 0
        size_bytes += uid_bytes
    if start < len(uids):
        parts.append(uids[start:])
    return parts
