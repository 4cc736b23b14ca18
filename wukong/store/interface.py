"""The one small interface between the replica and its database.

RocksDB (`rocks.py`) and a twin in memory (`memory.py`) fulfil it; one conformance suite runs over both. Batches are
atomic and ordered. `write` does not wait for the disk: after a crash of the process all written batches are there,
after a power loss the store holds some prefix of them that includes everything before the last `flush`.
"""

from collections.abc import Mapping
from typing import Protocol


class StoreView(Protocol):
    """The rows of one moment. For the thread that took it; for minutes, not for ever (see `Store.snapshot`)."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, limit_bytes: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Rows with start <= key < end in byte order, at most limit of them, keys and values together of at most
        limit_bytes; but the first row comes whatever its size. Going on behind the last row of the scan before
        (start = its key + 00) costs no search."""
        ...

    def close(self) -> None:
        """Gives up what the view holds. Closing it twice does nothing; reading it then raises RuntimeError."""
        ...


class Store(Protocol):
    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""
        ...

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Rows with start <= key < end in byte order (descending when reverse), at most limit of them."""
        ...

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Apply all changes as one atomic batch; None deletes. Fast, unsynced, called on the loop."""
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete every key with start <= key < end."""
        ...

    def compact(self, start: bytes, end: bytes) -> None:
        """Give back the disk of what was deleted or written over from start to end. Takes as long as the rows around
        it need to be written anew; blocks, call it in a worker thread."""
        ...

    def snapshot(self, end: bytes) -> StoreView:
        """The rows below end as they are now, whatever is written, deleted or compacted later. Cheap to take.

        While it lives the disk keeps the files of this moment too, at most the size of the store once more. Closing the
        store closes its views."""
        ...

    def flush(self) -> None:
        """Blocks until everything written so far survives a power loss. Call it in a worker thread.
        Raises OSError; after that the store must not be used."""
        ...

    def checkpoint(self, path: str) -> None:
        """A consistent copy (hard links) under a path that does not exist yet. Blocks; call in a worker thread."""
        ...

    def close(self) -> None: ...
