"""One step's uncommitted changes over a store: what the state machine reads and writes while it applies.

One overlay serves all slots of a step. A view adds a slot's key prefix and takes it off again, so the machine of a slot
can neither see nor touch another slot. Gets and scans alike see the step's own writes; `commit` makes them one batch.
Any splitting of the same operations into commits gives the same reads and the same store.
"""

import sys
from bisect import bisect_left
from itertools import islice
from typing import Final, cast

from wukong.store.interface import Store
from wukong.store.keylist import add_keys

# Rows a scan asks for when pending deletions ate the first ones it got: one more trip, not one per row.
_REFILL_ROWS: Final = 16


class _Missing:
    """The type of "not in this overlay", which None (deleted in it) is not."""


_MISSING: Final = _Missing()


class Overlay:
    """Pending changes over a store.

    changes: full key -> value, or None for a deletion. Read it, or add rows by assignment; never remove a key from it
    (the sorted keys are read off its order). Its size is the step's; the caller commits before it grows too large.
    Not for use by two threads at once.
    """

    __slots__ = ("_sorted", "changes", "store")

    def __init__(self, store: Store) -> None:
        self.store: Final = store
        self.changes: Final[dict[bytes, bytes | None]] = {}
        self._sorted: list[bytes] = []

    def view(self, prefix: bytes) -> "View":
        """The rows under a prefix. It stays valid over commits: make it once per slot, not once per step.

        Raises ValueError for a prefix after which no key follows (empty, or all bytes 0xFF).
        """
        return View(self, prefix)

    def commit(self) -> None:
        """Write the changes as one batch. Nothing is written when there are none. If the store raises, they stay."""
        if self.changes:
            self.store.write(self.changes)
            self.discard()

    def discard(self) -> None:
        self.changes.clear()
        self._sorted.clear()

    def sorted_keys(self) -> list[bytes]:
        """Keys of the changes in byte order. Owned by the overlay, valid until the next change."""
        new = len(self.changes) - len(self._sorted)
        if new:
            # A dict keeps the order of first insertion, so what the list lacks is at its end.
            add_keys(self._sorted, list(islice(reversed(self.changes), new)))
        return self._sorted


class View:
    """The rows under one prefix, by keys without it: the key-value store a slot's state machine works on."""

    __slots__ = ("_changes", "_end", "_overlay", "_pending", "_prefix", "_stored")

    def __init__(self, overlay: Overlay, prefix: bytes) -> None:
        self._overlay = overlay
        self._prefix = prefix
        self._end = prefix_end(prefix)
        # Bound once: get and put are called tens of times per message.
        self._changes = overlay.changes
        self._pending = overlay.changes.get
        self._stored = overlay.store.get

    def get(self, key: bytes) -> bytes | None:
        key = self._prefix + key
        value = self._pending(key, _MISSING)
        return self._stored(key) if value is _MISSING else value  # type: ignore[return-value]

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""
        prefix, pending = self._prefix, self._pending
        full = [prefix + key for key in keys]
        values = [pending(key, _MISSING) for key in full]
        missing = [key for key, value in zip(full, values, strict=True) if value is _MISSING]
        if missing:
            stored = iter(self._overlay.store.get_many(missing))
            values = [next(stored) if value is _MISSING else value for value in values]
        return cast("list[bytes | None]", values)

    def put(self, key: bytes, value: bytes) -> None:
        self._changes[self._prefix + key] = value

    def delete(self, key: bytes) -> None:
        """Without a row of that key nothing happens."""
        self._changes[self._prefix + key] = None

    def scan(
        self, start: bytes = b"", end: bytes | None = None, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Rows with start <= key < end in byte order (descending when reverse), at most limit of them.

        end None: to the last key of the prefix.
        """
        prefix = self._prefix
        start = prefix + start
        end = self._end if end is None else prefix + end
        if start >= end or (limit is not None and limit <= 0):
            return []
        if self._changes:
            keys = self._overlay.sorted_keys()
            first, last = bisect_left(keys, start), bisect_left(keys, end)
            if first != last:
                return self._merged(start, end, limit, reverse, keys, first, last)
        cut = len(prefix)
        return [(key[cut:], value) for key, value in self._overlay.store.scan(start, end, limit=limit, reverse=reverse)]

    def _merged(
        self, start: bytes, end: bytes, limit: int | None, reverse: bool, keys: list[bytes], first: int, last: int
    ) -> list[tuple[bytes, bytes]]:
        """The store's rows and the pending ones keys[first:last] as one sequence; the pending ones win."""
        changes, scan, cut = self._changes, self._overlay.store.scan, len(self._prefix)
        place, stop, step = (last - 1, first - 1, -1) if reverse else (first, last, 1)
        enough = sys.maxsize if limit is None else limit
        wanted = limit
        rows: list[tuple[bytes, bytes]] = []
        while True:
            stored = scan(start, end, limit=wanted, reverse=reverse)
            for key, value in stored:
                winner: bytes | None = value
                while place != stop:
                    pending = keys[place]
                    if pending == key:
                        winner = changes[pending]
                        place += step
                        break
                    if (pending > key) is not reverse:
                        break
                    added = changes[pending]
                    place += step
                    if added is not None:
                        rows.append((pending[cut:], added))
                        if len(rows) == enough:
                            return rows
                if winner is not None:
                    rows.append((key[cut:], winner))
                    if len(rows) == enough:
                        return rows
            if wanted is None or len(stored) < wanted:
                break
            if reverse:
                end = stored[-1][0]
            else:
                start = stored[-1][0] + b"\0"
            wanted = max(enough - len(rows), _REFILL_ROWS)
        while place != stop and len(rows) < enough:
            pending = keys[place]
            place += step
            added = changes[pending]
            if added is not None:
                rows.append((pending[cut:], added))
        return rows


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above all keys that begin with prefix. Raises ValueError if there is none."""
    head = prefix.rstrip(b"\xff")
    if not head:
        raise ValueError("no key follows the keys of this prefix")
    return head[:-1] + bytes((head[-1] + 1,))
