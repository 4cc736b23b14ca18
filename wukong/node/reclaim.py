"""Gives back the disk of messages that are gone. docs/retention.md.

A deleted row stays in the store's files until a compaction comes by, which for old messages may be never. So each node
adds up what its slots have let go, and has the range compacted where it is worth it, one at a time, in a thread.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from wukong.channel.effects import Freed
from wukong.channel.state import channel_part, seq_part
from wukong.errors import DataError
from wukong.limits import MIB

log = logging.getLogger(__name__)

# Less is left until there is more of it, or until RocksDB comes by itself.
WORTH_BYTES: Final = 4 * MIB
# From the first message that goes to the compaction: a run lets many go.
QUIET_S: Final = 2.0
RETRY_S: Final = 60.0


class _Range:
    """From the first to the last key, in the slot."""

    def __init__(self, first: bytes, last: bytes, size: int, is_erased: bool) -> None:
        self.first = first
        self.last = last
        self.bytes = size
        self.is_erased = is_erased

    def include(self, other: "_Range") -> None:
        """Nothing happens for itself."""
        if other is self:
            return
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.bytes += other.bytes
        self.is_erased |= other.is_erased


class Reclaimer:
    """compact: blocks, raises OSError, DataError. prefix: of a slot's present generation. What is added up is in
    memory: after a restart it begins anew."""

    def __init__(
        self,
        compact: Callable[[bytes, bytes], None],
        prefix: Callable[[int], bytes],
        *,
        quiet_s: float = QUIET_S,
        worth_bytes: int = WORTH_BYTES,
    ) -> None:
        self._compact = compact
        self._prefix = prefix
        self._quiet_s = quiet_s
        self._worth_bytes = worth_bytes
        # One range per slot and log, so at most two per slot.
        self._ranges: dict[tuple[int, bool], _Range] = {}
        self._due = asyncio.Event()
        self.compactions = 0

    def freed(self, slot: int, effect: Freed) -> None:
        part = (b"K" if effect.is_cmd else b"M") + channel_part(effect.channel)
        first, last = part + seq_part(effect.first), part + seq_part(effect.last)
        fresh = _Range(first, last, effect.bytes, effect.is_erased)
        found = self._ranges.setdefault((slot, effect.is_cmd), fresh)
        found.include(fresh)
        if self._is_due(found):
            self._due.set()

    def _is_due(self, found: _Range) -> bool:
        # What was erased is to be gone, however little it is.
        return found.is_erased or found.bytes >= self._worth_bytes

    async def run(self) -> None:
        """Until it is cancelled; a compaction under way goes on to its end."""
        while True:
            await self._due.wait()
            await asyncio.sleep(self._quiet_s)
            self._due.clear()
            for key in [key for key, found in self._ranges.items() if self._is_due(found)]:
                slot, _ = key
                found = self._ranges.pop(key)
                prefix = self._prefix(slot)
                try:
                    await asyncio.to_thread(self._compact, prefix + found.first, prefix + found.last + b"\x00")
                except (OSError, DataError) as fault:
                    log.error("the disk of deleted messages could not be given back: %s", fault)
                    await asyncio.sleep(RETRY_S)
                    # More of the same log may have gone meanwhile.
                    self._ranges.setdefault(key, found).include(found)
                    self._due.set()
                else:
                    self.compactions += 1
