"""One store fixture for every test of the interface: the real one, the real one with tiny buffers, and the twin."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.rocks import RocksStore


class Backend(Protocol):
    """One kind of store and its place; `store` is the open one."""

    store: Store

    def reopen(self) -> Store:
        """The store as the next process finds it after a clean end."""
        ...

    def checkpoint_path(self) -> str: ...

    def open_checkpoint(self, path: str) -> Store: ...

    def close(self) -> None: ...


class RocksBackend:
    def __init__(self, directory: Path, **options: int) -> None:
        self._directory = directory
        self._options = options
        self._copies: list[RocksStore] = []
        self.store: Store = RocksStore(directory / "db", **options)

    def reopen(self) -> Store:
        self.store.close()
        self.store = RocksStore(self._directory / "db", **self._options)
        return self.store

    def checkpoint_path(self) -> str:
        return str(self._directory / "copy")

    def open_checkpoint(self, path: str) -> Store:
        self._copies.append(RocksStore(path, **self._options))
        return self._copies[-1]

    def close(self) -> None:
        for store in (self.store, *self._copies):
            store.close()


class MemoryBackend:
    def __init__(self) -> None:
        self.store: Store = MemoryStore()

    def reopen(self) -> Store:
        assert isinstance(self.store, MemoryStore)
        self.store = self.store.reopen()
        return self.store

    def checkpoint_path(self) -> str:
        return "copy"

    def open_checkpoint(self, path: str) -> Store:
        assert isinstance(self.store, MemoryStore)
        return self.store.checkpoints[path]

    def close(self) -> None:
        self.store.close()


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda path: MemoryBackend(),
    "rocks": RocksBackend,
    # The smallest buffers RocksDB takes: rows move through memtables, SST files and compaction within a test.
    "rocks-small": lambda path: RocksBackend(path, write_buffer_bytes=64 << 10, block_cache_bytes=64 << 10),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
