"""The store's twin in memory, for tests and simulations: same interface, and on demand it forgets like a disk.

Values are in a dict; scans use a sorted list of the keys, brought up to date when a scan or a deletion needs it.
Every batch since the last flush keeps what it replaced, so the newest can be undone.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping

from wukong.store.keylist import add_keys


class MemoryStore:
    """`Store` (interface.py) in memory. What undoes the batches grows until the next flush, without a bound: for tests.

    checkpoints: path -> the copy made there. A crash of the process is `reopen()`; a power loss is `lose(n)` for some
    n <= unflushed, then `reopen()`.
    """

    def __init__(self, values: Mapping[bytes, bytes] | None = None) -> None:
        self._values: dict[bytes, bytes] = dict(values or {})
        self._keys: list[bytes] = sorted(self._values)
        self._fresh: list[bytes] = []
        self._undo: list[dict[bytes, bytes | None]] = []
        self._closed = False
        self.checkpoints: dict[str, MemoryStore] = {}

    @property
    def unflushed(self) -> int:
        """Batches (a `delete_range` is one too) written since the last flush."""
        return len(self._undo)

    def lose(self, count: int) -> None:
        """Undo the newest `count` batches, at most `unflushed`: what a power loss may do."""
        assert 0 <= count <= len(self._undo), f"{count} of {len(self._undo)} unflushed batches"
        for _ in range(count):
            self._apply(self._undo.pop())

    def reopen(self) -> "MemoryStore":
        """This store as the next process finds it: same content, same unflushed batches. This object is then closed."""
        other = MemoryStore(self._values)
        other._undo = self._undo
        other.checkpoints = self.checkpoints
        self._closed = True
        return other

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self._check_open()
        return [self._values.get(key) for key in keys]

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        self._check_open()
        first, last = self._range(start, end)
        if limit is not None:
            limit = max(limit, 0)
            first, last = (max(first, last - limit), last) if reverse else (first, min(last, first + limit))
        keys = self._keys[first:last]
        if reverse:
            keys.reverse()
        values = self._values
        return [(key, values[key]) for key in keys]

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        self._check_open()
        self._undo.append(self._apply(changes))

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._check_open()
        first, last = self._range(start, end)
        if first < last:
            self._undo.append(self._apply(dict.fromkeys(self._keys[first:last])))

    def compact(self, start: bytes, end: bytes) -> None:
        """Nothing is held that was deleted."""
        self._check_open()

    def snapshot(self, end: bytes) -> "MemoryView":
        self._check_open()
        self._settle()
        keys = self._keys[: bisect_left(self._keys, end)]
        return MemoryView(keys, {key: self._values[key] for key in keys}, lambda: self._closed)

    def flush(self) -> None:
        self._check_open()
        self._undo = []

    def checkpoint(self, path: str) -> None:
        self._check_open()
        if path in self.checkpoints:
            raise FileExistsError(f"{path}: a checkpoint needs a path that does not exist yet")
        self.checkpoints[path] = MemoryStore(self._values)

    def close(self) -> None:
        if not self._closed:
            self._undo = []
            self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the store is closed")

    def _apply(self, changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Do the changes and return those that undo them."""
        values, fresh = self._values, self._fresh
        undo: dict[bytes, bytes | None] = {}
        gone: list[bytes] = []
        for key, value in changes.items():
            old = values.get(key)
            undo[key] = old
            if value is not None:
                values[key] = value
                if old is None:
                    fresh.append(key)
            elif old is not None:
                del values[key]
                gone.append(key)
        if gone:
            self._remove(gone)
        return undo

    def _remove(self, gone: list[bytes]) -> None:
        self._settle()
        keys = self._keys
        if len(gone) > 64:
            dead = set(gone)
            self._keys = [key for key in keys if key not in dead]
        else:
            for key in gone:
                del keys[bisect_left(keys, key)]

    def _settle(self) -> None:
        if self._fresh:
            add_keys(self._keys, self._fresh)
            self._fresh.clear()

    def _range(self, start: bytes, end: bytes) -> tuple[int, int]:
        """Positions of the keys with start <= key < end."""
        self._settle()
        first = bisect_left(self._keys, start)
        return first, max(first, bisect_left(self._keys, end))


class MemoryView:
    """`StoreView`: a copy."""

    def __init__(self, keys: list[bytes], values: dict[bytes, bytes], store_closed: Callable[[], bool]) -> None:
        self._keys = keys
        self._values = values
        self._store_closed = store_closed
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, limit_bytes: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        self._check_open()
        first = bisect_left(self._keys, start)
        last = bisect_left(self._keys, end)
        if limit is not None:
            last = min(last, first + max(limit, 0))
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        for key in self._keys[first:last]:
            value = self._values[key]
            size += len(key) + len(value)
            if rows and limit_bytes is not None and size > limit_bytes:
                break
            rows.append((key, value))
        return rows

    def close(self) -> None:
        self._closed = True
        self._keys, self._values = [], {}

    def _check_open(self) -> None:
        if self._closed or self._store_closed():
            raise RuntimeError("the view is closed")
