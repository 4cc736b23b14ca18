"""The store on disk: one RocksDB database per node.

Every write goes to RocksDB's write-ahead log with sync=false and from there to the page cache in the same call, so a
killed process loses nothing. `flush` syncs the log. There is one column family, therefore one log and one order: after
a power loss recovery ends at the first torn record and the store holds a prefix of the batches written.

Checked with strace on rocksdict 0.3.29 (RocksDB 9.8.4): `flush_wal(sync=True)` calls fdatasync on every log file whose
memtable is not yet in a synced SST file (also those closed since the last call) and fsync on the directory.

What holds the GIL: `write` and a checkpoint. What releases it: `flush`, the flush of memtables, `compact`,
`close`.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Env,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
)

from wukong.errors import DataError

# A slowdown sleeps and a stop waits inside `write`, on the event loop and with the GIL held. So the step from
# "compaction is late" (alarm on level0_files) to a slowdown is wide, and a stop is far behind: at 100 files of a write
# buffer each the disk has been failing for minutes. Every file costs a miss one more filter probe (about 0.1 µs).
LEVEL0_COMPACTION_FILES = 4
LEVEL0_SLOWDOWN_FILES = 40
LEVEL0_STOP_FILES = 100

METADATA_BLOCK_BYTES = 16 * 1024

_INT_PROPERTIES = {
    "level0_files": "rocksdb.num-files-at-level0",
    "immutable_memtables": "rocksdb.num-immutable-mem-table",
    "memtable_bytes": "rocksdb.cur-size-all-mem-tables",
    "block_cache_bytes": "rocksdb.block-cache-usage",
    "table_reader_bytes": "rocksdb.estimate-table-readers-mem",
    "sst_bytes": "rocksdb.total-sst-files-size",
    "estimated_keys": "rocksdb.estimate-num-keys",
    "pending_compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
    "running_compactions": "rocksdb.num-running-compactions",
    "running_flushes": "rocksdb.num-running-flushes",
    "delayed_write_bytes_per_second": "rocksdb.actual-delayed-write-rate",
    "write_stopped": "rocksdb.is-write-stopped",
    "background_errors": "rocksdb.background-errors",
}
_STALL_PROPERTY = "rocksdb.cf-write-stall-stats"


class RocksStore:
    """`Store` (interface.py) over RocksDB.

    path: directory of the database, made if missing. block_cache_bytes: bound of cached blocks, indexes and filters.
    write_buffer_bytes, write_buffers: size and number of memtables; their product bounds the memory of unflushed
    writes, the size of the log and so the time of recovery. open_files_limit: SST files kept open (at least 16).
    background_jobs: flush and compaction threads together (one each by default, compaction at nice 19, so that
    the event loop keeps its core).

    Raises DataError when the path cannot be opened: locked, damaged, not a database, not permitted.
    Errors of reads: DataError (damage) or OSError. Of writes and flushes: OSError, after which every write and flush
    raises again. After close every call raises RuntimeError, except a second close, which does nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        block_cache_bytes: int = 128 << 20,
        write_buffer_bytes: int = 32 << 20,
        write_buffers: int = 4,
        open_files_limit: int = 512,
        background_jobs: int = 2,
    ) -> None:
        self.path = os.fspath(path)
        self._failure: OSError | None = None
        self._compacting = threading.Lock()
        options = _options(
            block_cache_bytes=block_cache_bytes,
            write_buffer_bytes=write_buffer_bytes,
            write_buffers=write_buffers,
            open_files_limit=open_files_limit,
            background_jobs=background_jobs,
        )
        self._db = _open(self.path, options)
        # In raw mode keys and values are bytes and nothing else, which rocksdict's own types do not say.
        raw = cast(Any, self._db)
        self._get: Callable[[bytes], bytes | None] = raw.get
        self._get_list: Callable[[list[bytes]], list[bytes | None]] = raw.get
        self._cursor: Callable[[ReadOptions], RdictIter] = raw.iter
        self._views: weakref.WeakSet[RocksView] = weakref.WeakSet()

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._get(key)
        except Exception as error:
            self._read_failed(error)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            return self._get_list(keys)
        except Exception as error:
            self._read_failed(error)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """As in `Store`. Without a limit the whole range is built in memory: for ranges known to be small."""
        if start >= end or (limit is not None and limit <= 0):
            return []
        # The bound keeps RocksDB from walking over the deleted rows of a neighbour's range.
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        rows: list[tuple[bytes, bytes]] = []
        try:
            cursor = self._cursor(bounds)
            key, value = cursor.key, cursor.value
            if reverse:
                # No lower bound: in rocksdict 0.3.29 `set_iterate_lower_bound` sets the upper one.
                cursor.seek_for_prev(end)
                step = cursor.prev
            else:
                cursor.seek(start)
                step = cursor.next
            while (row := key()) is not None and row >= start:
                rows.append((row, value()))
                if len(rows) == limit:
                    return rows
                step()
            # A cursor stops at a damaged block as at the end of the data; `items()` of rocksdict would hide that.
            cursor.status()
            return rows
        except Exception as error:
            self._read_failed(error)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        if self._failure is not None:
            raise self._failure
        try:
            self._db.write(batch)
        except Exception as error:
            self._write_failed(error)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """As in `Store`. A range tombstone: cheap to write, read through until compaction; for rare, large ranges."""
        # RocksDB logs a reversed range before it refuses it, and refuses every write from then on.
        if start >= end:
            return
        if self._failure is not None:
            raise self._failure
        try:
            self._db.delete_range(start, end)
        except Exception as error:
            self._write_failed(error)

    def compact(self, start: bytes, end: bytes) -> None:
        """As in `Store`. What an open view still reads stays until it is closed. One at a time; closing ends it."""
        if start >= end:
            return
        with self._compacting:
            if self._failure is not None:
                raise self._failure
            try:
                # Writes the memtables out first, and releases the GIL.
                self._db.compact_range(start, end)
            except Exception as error:
                self._read_failed(error)

    def snapshot(self, end: bytes) -> "RocksView":
        """As in `Store`. About 3 µs; closing one that outlived memtables up to 4 ms."""
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        # Files that only the view still held are deleted by a thread of RocksDB, not by whoever closes the view.
        bounds.set_background_purge_on_iterator_cleanup(True)
        # What is copied once must not push out of the block cache what is read often. (The stub lacks the argument.)
        cast(Any, bounds).fill_cache(False)
        try:
            view = RocksView(self._cursor(bounds), end, self._read_failed)
        except Exception as error:
            self._read_failed(error)
        self._views.add(view)
        return view

    def flush(self) -> None:
        """As in `Store`. What is written by another thread while it runs may or may not be covered."""
        if self._failure is not None:
            raise self._failure
        try:
            self._db.flush_wal(True)
        except Exception as error:
            self._write_failed(error)

    def checkpoint(self, path: str) -> None:
        """As in `Store`. Raises FileExistsError when the path exists, OSError when the copy cannot be made there.

        The path should be on the same file system: elsewhere RocksDB copies the files instead of linking them.
        """
        if os.path.lexists(path):
            raise FileExistsError(f"{path}: a checkpoint needs a path that does not exist yet")
        if self._failure is not None:
            raise self._failure
        try:
            # Creating a checkpoint flushes the memtable with the GIL held, for 30 ms and more. Flushed before, with the
            # GIL released, some 2 ms remain.
            self._db.flush()
        except Exception as error:
            self._write_failed(error)
        try:
            Checkpoint(self._db).create_checkpoint(path)
        except Exception as error:
            # The copy failed (no such directory, no space); the store itself has lost nothing and goes on.
            self._read_failed(error)

    def stats(self) -> dict[str, float]:
        """Gauges for metrics, names with their units; `write_stalls` counts slowdowns and stops since the open.

        About 11 µs; no statistics are switched on for it, so reads and writes cost nothing more.
        """
        try:
            values = {name: float(self._db.property_int_value(key) or 0) for name, key in _INT_PROPERTIES.items()}
            stalls = self._db.property_value(_STALL_PROPERTY) or ""
        except Exception as error:
            self._read_failed(error)
        values["write_stalls"] = float(_total_stalls(stalls))
        values["level0_slowdown_files"] = float(LEVEL0_SLOWDOWN_FILES)
        values["level0_stop_files"] = float(LEVEL0_STOP_FILES)
        return values

    def close(self) -> None:
        """Sync, flush the memtables and give up the lock. Blocks. Raises OSError if that did not reach the disk."""
        # An open cursor would keep the database open and its lock held.
        for view in list(self._views):
            view.close()
        try:
            if self._failure is None:
                self._db.flush_wal(True)
            if self._compacting.acquire(blocking=False):
                self._close()
            else:
                # rocksdict closes no database that a thread is in. Then the memtables stay in the log, synced above.
                self._db.cancel_all_background(False)
                self._compacting.acquire()
                with contextlib.suppress(Exception):
                    self._close()
        except DbClosedError:
            return
        except Exception as error:
            self._write_failed(error)

    def _close(self) -> None:
        try:
            self._db.close()
        finally:
            self._compacting.release()

    def _read_failed(self, error: Exception) -> NoReturn:
        self._refuse_misuse(error)
        if "Corruption" in str(error):
            raise DataError(f"{self.path}: {error}. {_REPAIR}") from error
        raise OSError(f"{self.path}: {error}") from error

    def _write_failed(self, error: Exception) -> NoReturn:
        self._refuse_misuse(error)
        # Kept: after a failed sync the page cache may count lost pages as clean, so a second try would lie.
        self._failure = OSError(f"{self.path}: {error}")
        raise self._failure from error

    def _refuse_misuse(self, error: Exception) -> None:
        if isinstance(error, DbClosedError):
            raise RuntimeError(f"{self.path}: the store is closed") from error
        if isinstance(error, TypeError):
            raise error


class RocksView:
    """`StoreView` over one open cursor, which keeps the memtables and files of the moment it was made.

    Not over `Rdict.snapshot()`: in rocksdict 0.3.29 only its look-ups read the snapshot, its iterators the present.
    """

    def __init__(self, cursor: RdictIter, end: bytes, failed: Callable[[Exception], NoReturn]) -> None:
        self._cursor: RdictIter | None = cursor
        self._end = end
        self._failed = failed
        self._next: bytes | None = None  # the start of a scan for which the cursor stands at the right place already

    def get(self, key: bytes) -> bytes | None:
        rows = self.scan(key, key + b"\0", limit=1)
        return rows[0][1] if rows else None

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, limit_bytes: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """As in `StoreView`."""
        cursor = self._cursor
        if cursor is None:
            raise RuntimeError("the view is closed")
        end = min(end, self._end)
        if start >= end or (limit is not None and limit <= 0):
            return []
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        key, value, step = cursor.key, cursor.value, cursor.next
        try:
            if start != self._next:
                cursor.seek(start)
            while (row := key()) is not None and row < end and len(rows) != limit:
                content = value()
                size += len(row) + len(content)
                if rows and limit_bytes is not None and size > limit_bytes:
                    break
                rows.append((row, content))
                step()
            # As in `RocksStore.scan`: only the status tells damage from the end.
            cursor.status()
        except Exception as error:
            self._next = None
            self._failed(error)
        self._next = rows[-1][0] + b"\0" if rows else start
        return rows

    def close(self) -> None:
        self._cursor = None


_REPAIR = (
    "The database is damaged. If the other nodes hold the data, move the whole data directory (the one above this) "
    "away and start the node, which then joins again and takes everything from them; otherwise restore a backup"
)


def _options(
    *, block_cache_bytes: int, write_buffer_bytes: int, write_buffers: int, open_files_limit: int, background_jobs: int
) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(block_cache_bytes))
    # In the cache, so that the one bound holds for indexes and filters too; pinned where every read needs them.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_pin_top_level_index_and_filter(True)
    table.set_bloom_filter(10, False)
    # In pieces: the cache is divided into shards, and an index or filter larger than a shard is never kept, but read
    # and unpacked for every look-up (150 µs instead of 1; seen from a million well compressed messages on).
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(METADATA_BLOCK_BYTES)

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)

    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(write_buffers)
    options.set_max_bytes_for_level_base(LEVEL0_COMPACTION_FILES * write_buffer_bytes)
    # A filter over the memtable: a miss costs 0.2 µs instead of 1.8 µs. One writer at a time, so the memtable need not
    # pay for concurrent ones.
    options.set_memtable_prefix_bloom_ratio(0.02)
    options.set_memtable_whole_key_filtering(True)
    options.set_allow_concurrent_memtable_write(False)

    options.set_level_zero_file_num_compaction_trigger(LEVEL0_COMPACTION_FILES)
    options.set_level_zero_slowdown_writes_trigger(LEVEL0_SLOWDOWN_FILES)
    options.set_level_zero_stop_writes_trigger(LEVEL0_STOP_FILES)
    options.set_max_background_jobs(background_jobs)
    background = Env()
    background.lower_thread_pool_cpu_priority()
    options.set_env(background)
    # Compaction writes out in small pieces instead of one burst in front of which the Raft log's fdatasync would wait.
    options.set_bytes_per_sync(1 << 20)

    options.set_max_open_files(open_files_limit)
    # A prefix of what was written, up to the first torn record: what the interface promises after a power loss.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())

    # RocksDB's own text log: four files of a megabyte, no periodic dump of statistics into it.
    options.set_max_log_file_size(1 << 20)
    options.set_keep_log_file_num(4)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _open(path: str, options: Options) -> Rdict:
    try:
        os.makedirs(path, exist_ok=True)
        names = os.listdir(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be used as the database directory: {error}") from error
    if "CURRENT" not in names:
        # RocksDB would make an empty database beside files it does not know, and the node start without its data.
        if any(name.endswith((".sst", ".log")) for name in names):
            raise DataError(f"{path}/CURRENT is missing beside database files. {_REPAIR}")
        if any(not _left_by_first_open(name) for name in names):
            raise DataError(f"{path}: is not empty and not a database. Name another directory, or empty this one")
    try:
        return Rdict(path, options)
    except Exception as error:
        raise DataError(f"{path}: {_reason(str(error))}") from error


def _left_by_first_open(name: str) -> bool:
    """Files of a first open that was cut short. CURRENT comes before the first log and table, so they hold no rows."""
    known = ("LOG", "LOCK", "IDENTITY", "OPTIONS-", "MANIFEST-", "rocksdict-config.json", "lost+found")
    return name.startswith(known) or name.endswith(".dbtmp")


def _reason(text: str) -> str:
    lowered = text.lower()
    if "lock hold by current process" in lowered:
        return "the database is already open in this process"
    if "while lock file" in lowered and "permission" not in lowered:
        return "the database is open in another process. Stop that one first; a directory serves one node at a time"
    if "permission denied" in lowered:
        return f"no permission ({text}). The directory and its files must belong to the user that runs the node"
    if "no space left" in lowered:
        return f"the disk is full ({text})"
    if "corruption" in lowered or "invalid argument" in lowered or "no such file" in lowered:
        return f"{text}. {_REPAIR}"
    return f"cannot be opened: {text}"


def _total_stalls(stalls: str) -> int:
    """Sum of total-delays and total-stops in RocksDB's line of counters ("name: count, name: count")."""
    counters: dict[str, str] = {}
    for part in stalls.partition("): ")[2].split(","):
        name, _, count = part.strip().partition(": ")
        counters[name] = count
    return sum(int(counters.get(name, "0")) for name in ("total-delays", "total-stops"))
