"""Where a slot's rows live: under a prefix of slot and generation, so that a snapshot is built beside the old state.

Key prefix: slot (u16) and generation (u32), big endian, 6 bytes. Slot 0xFFFF is the store's own range: `META_PREFIX`
is its only generation. In it, this module owns the rows
    META_PREFIX "g" slot (u16)  -> current generation (u32); no row means 0
    META_PREFIX "s" slot (u16)  -> generation being staged (u32); no row means none
    META_PREFIX "n" slot (u16)  -> highest generation ever staged (u32); no row means none
and every other first byte is free for whoever keeps facts about the whole store (applied indexes, node id).

Because batches reach the disk in order, a power loss at any moment leaves the slot in one whole generation: the flip
is one batch, it comes after all rows of the new generation, and the old one is dropped after the flip was synced.
"""

import struct
from collections.abc import Mapping
from typing import Final

from wukong.store.interface import Store
from wukong.store.overlay import prefix_end

META_SLOT: Final = 0xFFFF
SLOT_LIMIT: Final = META_SLOT
GENERATION_LIMIT: Final = 0xFFFF_FFFF

_PREFIX: Final = struct.Struct(">HI")
_SLOT: Final = struct.Struct(">H")
_GENERATION: Final = struct.Struct(">I")

META_PREFIX: Final = _PREFIX.pack(META_SLOT, 0)


def slot_prefix(slot: int, generation: int) -> bytes:
    """The 6 bytes in front of every key of one generation of a slot."""
    if not 0 <= slot < SLOT_LIMIT:
        raise ValueError(f"slot {slot} is not in 0..{SLOT_LIMIT - 1}")
    if not 0 <= generation <= GENERATION_LIMIT:
        raise ValueError(f"generation {generation} of slot {slot} is not in 0..{GENERATION_LIMIT}")
    return _PREFIX.pack(slot, generation)


class Generations:
    """Which generation of each slot counts. One per open store; calls for one slot must not overlap, but for `current`
    and `prefix`, which may be asked while a flip runs in another thread and tell the generation before or after it.

    Opening it removes every generation that is neither current nor staged: what a crash left between flip and drop.
    A number is never given out twice, so a late writer of an abandoned stage can harm nothing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._current = self._read_rows(b"g")
        self._staged = self._read_rows(b"s")
        self._highest = self._read_rows(b"n")
        self._prefixes: dict[int, bytes] = {}
        for slot, generation in self._stored():
            if generation not in (self.current(slot), self._staged.get(slot)):
                self._delete(slot, generation)

    def current(self, slot: int) -> int:
        """The generation that counts; 0 for a slot that never had a snapshot installed."""
        return self._current.get(slot, 0)

    def staged(self, slot: int) -> int | None:
        """The generation being built beside the current one, also after a restart."""
        return self._staged.get(slot)

    def staged_slots(self) -> list[int]:
        """Slots with a generation being built, also those a crash left."""
        return sorted(self._staged)

    def prefix(self, slot: int) -> bytes:
        """Key prefix of the current generation. Ask again after a flip."""
        prefix = self._prefixes.get(slot)
        if prefix is None:
            # A flip in another thread may end between these two: what it has put there stays.
            prefix = self._prefixes.setdefault(slot, slot_prefix(slot, self.current(slot)))
        return prefix

    def stage(self, slot: int) -> int:
        """Begin a new, empty generation; its rows go under `slot_prefix(slot, generation)`. Drops an unfinished one."""
        generation = self._highest.get(slot, 0) + 1
        slot_prefix(slot, generation)  # refuses a number or slot out of range before anything is written
        abandoned = self._staged.get(slot)
        if abandoned is not None:
            self._delete(slot, abandoned)
        number = _GENERATION.pack(generation)
        self._store.write({_row(b"s", slot): number, _row(b"n", slot): number})
        self._staged[slot] = self._highest[slot] = generation
        return generation

    def flip(self, slot: int, generation: int, extra: Mapping[bytes, bytes | None] | None = None) -> None:
        """Make the staged generation current, with `extra` (full keys, such as the applied index) in the same batch.

        Synced when it returns: blocks, so call it in a worker thread while nothing is applied to the slot. The old
        generation stays until `drop`. Raises ValueError if that generation is not staged, OSError as `Store.flush`.
        """
        if self._staged.get(slot) != generation:
            raise ValueError(f"generation {generation} of slot {slot} is not staged")
        changes: dict[bytes, bytes | None] = dict(extra or {})
        changes[_row(b"g", slot)] = _GENERATION.pack(generation)
        changes[_row(b"s", slot)] = None
        self._store.write(changes)
        self._store.flush()
        self._current[slot] = generation
        self._prefixes[slot] = slot_prefix(slot, generation)
        del self._staged[slot]

    def drop(self, slot: int, generation: int) -> None:
        """Delete a generation that does not count: the old one after a flip, or a stage given up.

        Raises ValueError for the current one.
        """
        if generation == self.current(slot):
            raise ValueError(f"generation {generation} of slot {slot} is current")
        self._delete(slot, generation)
        if self._staged.get(slot) == generation:
            self._store.write({_row(b"s", slot): None})
            del self._staged[slot]

    def _delete(self, slot: int, generation: int) -> None:
        prefix = slot_prefix(slot, generation)
        self._store.delete_range(prefix, prefix_end(prefix))

    def _read_rows(self, kind: bytes) -> dict[int, int]:
        prefix = META_PREFIX + kind
        return {
            _SLOT.unpack(key[len(prefix) :])[0]: _GENERATION.unpack(value)[0]
            for key, value in self._store.scan(prefix, prefix_end(prefix))
        }

    def _stored(self) -> list[tuple[int, int]]:
        """(slot, generation) of every generation that has a row. One seek each."""
        found: list[tuple[int, int]] = []
        start = b""
        while rows := self._store.scan(start, META_PREFIX, limit=1):
            prefix = rows[0][0][: _PREFIX.size]
            slot, generation = _PREFIX.unpack(prefix)
            found.append((slot, generation))
            start = prefix_end(prefix)
        return found


def _row(kind: bytes, slot: int) -> bytes:
    return META_PREFIX + kind + _SLOT.pack(slot)
