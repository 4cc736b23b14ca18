"""One node's data directory: the real write-ahead log in real files, and a store in memory, that both forget on demand.

`os` of wukong.raft.wal is replaced by a stand-in that notes what was synced, instead of waiting for a disk. A killed
process leaves what it had written; a power loss takes the log back to what was synced plus a torn, perhaps flipped,
piece of the rest, and undoes any number of the store's batches since its last flush.
"""

import asyncio
import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.simulation.loop import ProcessLoop, Scheduler
from wukong.histogram import Histogram
from wukong.raft import wal as wal_module
from wukong.raft.wal import Batch, Wal
from wukong.store.datadir import Formation
from wukong.store.memory import MemoryStore

# A record of the log is longer than this, so flips in so many last bytes damage the last one only.
_FLIP_BYTES = 20


class PowerCut(BaseException):
    """The machine stops in the middle of a write."""


class _Os:
    """os, as the write-ahead log of the disk that is at work sees it."""

    def __init__(self) -> None:
        self.disk: Disk | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        disk = self.disk
        if disk is not None:
            if disk.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            if disk.calls_left is not None:
                if disk.calls_left == 0:
                    os.write(fd, data[: disk.rng.randint(0, len(data))])
                    raise PowerCut
                disk.calls_left -= 1
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        if self.disk is None:
            os.fsync(fd)  # nobody's disk: tests beside these, which may have replaced it
        else:
            self._sync(self.disk, fd)

    def fdatasync(self, fd: int) -> None:
        if self.disk is None:
            os.fdatasync(fd)
        else:
            self._sync(self.disk, fd)

    def _sync(self, disk: "Disk", fd: int) -> None:
        if disk.calls_left is not None:
            if disk.calls_left == 0:
                raise PowerCut
            disk.calls_left -= 1
        status = os.fstat(fd)
        disk.synced[status.st_ino] = status.st_size


_os = _Os()
wal_module.os = _os  # type: ignore[attr-defined]


class Disk:
    """Outlives the processes of its node. sync_s: (least, most) seconds of a write; flush_s the same of a flush."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, directory: Path, number: int) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.directory = directory
        self.number = number
        self.starts = 0
        self.formation: Formation | None = None  # what node.json keeps
        self.store = MemoryStore()
        self.sync_s = (0.0005, 0.004)
        self.flush_s = (0.001, 0.02)
        self.is_full = False
        self.calls_left: int | None = None
        self.synced: dict[int, int] = {}
        self.writer: DiskWriter | None = None
        self.wal: Wal | None = None

    # -- a process begins and ends

    def open(self, *, node_id: int, group_count: int, segment_bytes: int, rewrite_bytes: int) -> Wal:
        _os.disk = self
        try:
            self.wal = Wal.open(
                self.directory / "wal",
                node_id=node_id,
                group_count=group_count,
                segment_bytes=segment_bytes,
                rewrite_bytes=rewrite_bytes,
            )
        finally:
            _os.disk = None
        self.store = self.store.reopen()
        self.store.flush = self._flush  # type: ignore[method-assign]
        return self.wal

    def _flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        MemoryStore.flush(self.store)

    def killed(self, *, power_lost: bool) -> None:
        """The process is gone, perhaps in the middle of a write."""
        rng, wal = self.rng, self.wal
        writer, self.writer, self.wal = self.writer, None, None
        if writer is not None and writer.batch is not None and wal is not None:
            self.calls_left = rng.choice((0, 0, 1, 2, 3, 100))
            _os.disk = self
            try:
                wal.write(writer.batch)
            except (PowerCut, OSError):
                pass
            finally:
                _os.disk, self.calls_left = None, None
            writer.batch = None
        if wal is not None:
            wal.close()
        if power_lost:
            self.store.lose(rng.randint(0, self.store.unflushed))
            for path in sorted(self.directory.glob("wal/*")):
                self._forget(path)

    def _forget(self, path: Path) -> None:
        """Back to what was synced, and an unfinished piece of the rest."""
        rng = self.rng
        status = path.stat()
        synced = self.synced.get(status.st_ino, 0)
        if status.st_size <= synced:
            return
        size = synced + rng.choice((0, rng.randint(0, status.st_size - synced), status.st_size - synced))
        with path.open("r+b") as file:
            file.truncate(size)
            flips = min(_FLIP_BYTES, size - synced)
            if flips > 0 and rng.random() < 0.4:
                file.seek(size - 1 - rng.randrange(flips))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes((byte[0] ^ (1 << rng.randrange(8)),)))

    def form(self, formation: Formation) -> None:
        self.formation = formation

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- what the runtime is given

    def thread(self, wal: Wal, clock: object, loop: Any, done: Callable[[BaseException | None], None]) -> "DiskWriter":
        self.writer = DiskWriter(self, wal, loop, done)
        return self.writer

    def run_blocking(self, loop: ProcessLoop) -> Callable[[Callable[[], Any]], Any]:
        async def run(work: Callable[[], Any]) -> Any:
            """Happens at one moment, as seen from outside, between two waits."""
            done: asyncio.Future[Any] = loop.create_future()
            before_s = self.rng.uniform(*self.flush_s)
            after_s = self.rng.choice((0.0, self.rng.uniform(*self.flush_s)))

            def act() -> None:
                if loop.state == "dead" or done.done():
                    return
                try:
                    result = work()
                except BaseException as error:
                    self.scheduler.at(self.scheduler.now + after_s, _fail, done, error, loop=loop)
                else:
                    self.scheduler.at(self.scheduler.now + after_s, _succeed, done, result, loop=loop)

            self.scheduler.after(before_s, act)
            return await done

        return run


def _succeed(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class DiskWriter:
    """In the place of the thread that writes the log: a batch is on disk some time after it was handed over."""

    def __init__(self, disk: Disk, wal: Wal, loop: ProcessLoop, done: Callable[[BaseException | None], None]) -> None:
        self.busy_seconds = 0.0
        self.write_s = Histogram()
        self.batch: Batch | None = None
        self._disk = disk
        self._wal = wal
        self._loop = loop
        self._done = done

    def submit(self, batch: Batch) -> None:
        assert self.batch is None, "two batches at once"
        self.batch = batch
        disk = self._disk
        disk.scheduler.after(disk.rng.uniform(*disk.sync_s), self._write)

    def stop(self, timeout_s: float) -> bool:
        if self.batch is not None:
            self._write()
        return True

    def _write(self) -> None:
        batch = self.batch
        if batch is None or self._disk.writer is not self:
            return
        self.batch = None
        error: BaseException | None = None
        _os.disk = self._disk
        try:
            self._wal.write(batch)
        except OSError as caught:
            error = caught
        finally:
            _os.disk = None
        self._loop.call_soon(self._done, error)
