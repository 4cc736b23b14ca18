"""This node's streams of commands into the slots: one per slot, with a contiguous counter (architecture.md, 3).

A command gets its counter when it is packed, in the order in which it was proposed, so commands of one connection keep
their order. Until its reply is applied here, a command stays in flight and can be sent again under the same counter.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice

from wukong.channel.commands import Reply, encode_pack

PACK_COMMANDS = 256

Done = Callable[[Reply | None], None]


class SlotStream:
    """One slot. in_flight: (encoded command, who waits) of counters done+1 .. done+len, oldest first; the first
    `packed` of them are on their way."""

    __slots__ = ("done", "in_flight", "packed")

    def __init__(self) -> None:
        self.done = 0
        self.packed = 0
        self.in_flight: deque[tuple[bytes, Done | None]] = deque()

    @property
    def waits(self) -> bool:
        """Whether commands wait to be packed."""
        return self.packed < len(self.in_flight)

    def cut(self, node: int, incarnation: int, now_ms: int, limit_bytes: int) -> bytes | None:
        """The next pack with what is waiting, or None: at most PACK_COMMANDS, and limit_bytes of them (one command may
        be larger). A pack is applied in one turn of the loop."""
        if not self.waits:
            return None
        commands: list[bytes] = []
        size = 0
        for encoded, _ in islice(self.in_flight, self.packed, self.packed + PACK_COMMANDS):
            size += len(encoded)
            if commands and size > limit_bytes:
                break
            commands.append(encoded)
        first = self.done + self.packed + 1
        self.packed += len(commands)
        return encode_pack(node, incarnation, first, self.done, now_ms, commands)

    def settle(self, first: int, replies: list[Reply], into: list[tuple[Done, Reply | None]]) -> tuple[int, int]:
        """Take the replies of counters from `first` on; waiting callers and their replies go to `into`, to be called
        when the whole step is visible. Returns how many commands, and bytes of them, this settled. Repeats are
        ignored."""
        settled = settled_bytes = 0
        for offset, reply in enumerate(replies):
            if first + offset != self.done + 1:
                continue
            encoded, done = self.in_flight.popleft()
            self.done += 1
            # A gap may have put it back although it was on its way all the time.
            self.packed = max(0, self.packed - 1)
            settled += 1
            settled_bytes += len(encoded)
            if done is not None:
                # Reason 0: applied long ago, and the answer is not kept any more.
                into.append((done, reply if reply.reason else None))
        return settled, settled_bytes

    def resend(self, counter: int) -> None:
        """The slot lacks everything from this counter on."""
        self.packed = max(0, min(self.packed, counter - self.done - 1))

    def resend_all(self) -> None:
        """Nobody knows what arrived: everything not applied goes again, under its number."""
        self.packed = 0

    def fail(self) -> list[Done]:
        """Give up everything in flight: the outcome is unknown. The next incarnation counts from 1 again."""
        waiting = [done for _, done in self.in_flight if done is not None]
        self.in_flight.clear()
        self.packed = self.done = 0
        return waiting
