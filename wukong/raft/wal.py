"""The write-ahead log: one sequence of files for all groups of a node.

A segment is a header and a sequence of records, each with its own CRC. It begins with what must be known about every
group before it (term, vote, base, members), so the segments before it can be dropped once no group needs their
entries. The event loop collects records (`append`, `take`) and one worker thread puts them on disk (`write`), one batch
at a time: one write and one fdatasync for everything that came together. A batch that fails is the last one.

Recovery reads the segments in order. At the end of the last one it cuts off what a power loss left of a batch that was
never acknowledged, and only that: if a valid record lies behind the damage, the file is not merely torn, and opening
it is refused. Layout and reasons: docs/design/raft.md.
"""

import logging
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from wukong.errors import DataError
from wukong.raft.log import ENTRY, RECORD_KINDS, GroupLog, Record

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<8sIIQQ")  # magic, format version, group count, node id, segment number; then the CRC
_SEGMENT_MAGIC = b"wukongWL"
_FORMAT_VERSION = 1
_HEADER_BYTES = _HEADER.size + 4

_RECORD = struct.Struct("<HBBHIQQ")  # magic, kind, zero, group, data length, index, term; then the CRC, then the data
_RECORD_MAGIC = 0x57F1
_RECORD_BYTES = _RECORD.size + 4
_RECORD_START = re.compile(re.escape(_RECORD_MAGIC.to_bytes(2, "little")) + b"[\x01-\x07]\x00", re.DOTALL)

_MAX_GROUPS = 1 << 16
_SEGMENT_NAME = re.compile(r"^(\d{12})\.wal$")

DEFAULT_SEGMENT_BYTES = 64 << 20


def encode_records(records: Iterable[Record]) -> list[bytes]:
    """Records as they stand in a segment, in pieces to be joined."""
    parts: list[bytes] = []
    crc32, pack = zlib.crc32, _RECORD.pack
    for kind, group, index, term, data in records:
        head = pack(_RECORD_MAGIC, kind, 0, group, len(data), index, term)
        parts += (head, crc32(data, crc32(head)).to_bytes(4, "little"), data)
    return parts


def decode_records(data: bytes, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Records from offset on, each with the offset behind it. Stops at the first byte that is not part of one."""
    crc32, unpack_from = zlib.crc32, _RECORD.unpack_from
    end = len(data)
    while offset + _RECORD_BYTES <= end:
        magic, kind, zero, group, length, index, term = unpack_from(data, offset)
        body = offset + _RECORD_BYTES
        if magic != _RECORD_MAGIC or zero or kind not in RECORD_KINDS or body + length > end:
            return
        payload = data[body : body + length]
        crc = int.from_bytes(data[body - 4 : body], "little")
        if crc32(payload, crc32(data[offset : body - 4])) != crc:
            return
        offset = body + length
        yield Record(kind, group, index, term, payload), offset


def find_record(data: bytes, offset: int) -> int | None:
    """Where the next valid record begins at or behind offset, None if there is none."""
    for match in _RECORD_START.finditer(data, offset):
        for _ in decode_records(data, match.start()):
            return match.start()
    return None


_MANY_SEGMENTS = 4
_REPEATED_PART = 4
"""With more segments than that, up to this part of one, and one group more, is spent on freeing the oldest."""


class Batch(NamedTuple):
    """What one turn of the worker writes. Made on the loop, so that the worker reads nothing the loop changes."""

    data: bytes
    next_segment: "Segment | None"
    """To be started after data is on disk."""
    head: bytes
    """What the next segment begins with."""
    drop: "list[Segment]"
    """No longer needed once this batch is on disk."""


class Examined(NamedTuple):
    """A log that was only looked at. torn_bytes: of an unfinished write at its end, which `open` would cut off."""

    size_bytes: int
    torn_bytes: int


class Segment:
    """One file. `last_index` says which entries of which group it holds; mutable until it is dropped."""

    __slots__ = ("last_index", "number", "path", "size_bytes")

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.size_bytes = 0
        self.last_index: dict[int, int] = {}


class Wal:
    """The open log of a node. `logs[g]` is the log of group g in memory.

    All methods belong to the event loop's thread, except `write`, which belongs to one worker thread.
    """

    def __init__(
        self, directory: Path, *, node_id: int, group_count: int, segment_bytes: int, fsync: bool, rewrite_bytes: int
    ) -> None:
        self.directory = directory
        self.node_id = node_id
        self.logs = [GroupLog(group) for group in range(group_count)]
        self.written_bytes = 0
        """Bytes appended since open, for the trim policy and for metrics."""
        self.sync_count = 0
        self._segment_bytes = segment_bytes
        self._rewrite_bytes = rewrite_bytes
        self._fsync = fsync
        self._segments: list[Segment] = []
        self._parts: list[bytes] = []
        self._fd = -1
        self._failure: BaseException | None = None
        self._only_looks = False
        self._torn_bytes = 0

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        node_id: int,
        group_count: int,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        fsync: bool = True,
        rewrite_bytes: int = 1 << 20,
    ) -> "Wal":
        """Open or create the log. Blocks while it reads everything that is there.

        segment_bytes: a segment is closed when it has grown to this size; batches are not split.
        fsync: False writes without waiting for the disk: for benchmarks, a power loss loses acknowledged data.
        rewrite_bytes: at the start of a segment, groups with few live entries repeat them, so that they do not hold
            older segments; this is the most all of them together may add.
        Raises DataError (damaged, of another node or another group count), OSError.
        """
        if not 1 <= group_count <= _MAX_GROUPS:
            raise ValueError(f"group_count {group_count} is not within 1..{_MAX_GROUPS}")
        wal = cls(
            Path(directory),
            node_id=node_id,
            group_count=group_count,
            segment_bytes=segment_bytes,
            fsync=fsync,
            rewrite_bytes=rewrite_bytes,
        )
        wal._recover()
        return wal

    @classmethod
    def examine(cls, directory: str | os.PathLike[str], *, node_id: int, group_count: int) -> Examined:
        """Read a log that nobody writes as `open` would, and change nothing. Raises as `open`."""
        path = Path(directory)
        wal = cls(path, node_id=node_id, group_count=group_count, segment_bytes=0, fsync=False, rewrite_bytes=0)
        wal._only_looks = True
        wal._read_all()
        return Examined(wal.size_bytes, wal._torn_bytes)

    # -- writing

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments on disk, without what is not written yet."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    @property
    def has_pending(self) -> bool:
        return bool(self._parts)

    def append(self, records: list[Record]) -> None:
        """Collect records for the next batch."""
        self._parts += encode_records(records)
        last_index = self._segments[-1].last_index
        for record in records:
            if record[0] == ENTRY:
                last_index[record[1]] = record[2]

    def take(self) -> Batch | None:
        """Everything appended since the last batch, to be given to `write`; None if there is nothing.

        Call it when the previous batch is written and every record the logs made has been appended: a new segment
        begins with the state of the logs as it is now.
        """
        if not self._parts:
            return None
        data = b"".join(self._parts)
        self._parts = []
        current = self._segments[-1]
        current.size_bytes += len(data)
        self.written_bytes += len(data)
        drop: list[Segment] = []
        if current.size_bytes < self._segment_bytes:
            self._drop_prefix(drop)
            return Batch(data, None, b"", drop)
        following, head = self._next_segment()
        self._drop_prefix(drop)
        return Batch(data, following, head, drop)

    def write(self, batch: Batch) -> None:
        """Put a batch on disk; returns when it is durable. Worker thread only, one call at a time.

        Raises OSError. After that nothing is known about the file, so every further call raises too: the process has
        to stop and recover.
        """
        if self._failure is not None:
            raise OSError("the write-ahead log failed before") from self._failure
        try:
            _write_all(self._fd, batch.data)
            self._sync(self._fd)
            if batch.next_segment is not None:
                fd = self._create(batch.next_segment, batch.head)
                os.close(self._fd)
                self._fd = fd
            for segment in batch.drop:
                segment.path.unlink()
                # Oldest first and for certain: recovery takes a missing segment in the middle for damage.
                self._sync_directory()
        except BaseException as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Close the file. What was not taken and written is lost; stop the runtime first."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _sync(self, fd: int) -> None:
        self.sync_count += 1
        if self._fsync:
            os.fdatasync(fd)

    def _sync_directory(self) -> None:
        if self._fsync:
            _sync_directory(self.directory)

    def _drop_prefix(self, drop: list[Segment]) -> None:
        """Move the oldest segments into drop, as long as every entry in them lies at or below its group's base."""
        segments, logs = self._segments, self.logs
        while len(segments) > 1 and all(index <= logs[g].base_index for g, index in segments[0].last_index.items()):
            drop.append(segments.pop(0))

    def _next_segment(self) -> tuple[Segment, bytes]:
        """Start a segment in the books. Groups with few live entries repeat them in its head."""
        number = self._segments[-1].number + 1
        segment = Segment(number, self._path(number))
        repeated = self._groups_to_repeat()
        records: list[Record] = []
        for log in self.logs:
            records += log.state_records(entries=log.group in repeated)
            if log.group in repeated:
                segment.last_index[log.group] = log.last_index
        for older in self._segments:
            for group in repeated:
                older.last_index.pop(group, None)
        head = self._header(number) + b"".join(encode_records(records))
        segment.size_bytes = len(head)
        self._segments.append(segment)
        return segment, head

    def _groups_to_repeat(self) -> set[int]:
        budget = self._rewrite_bytes
        chosen: set[int] = set()
        for log in sorted(self.logs, key=lambda log: log.entry_bytes):
            budget -= log.entry_bytes + _RECORD_BYTES * len(log)
            if budget < 0:
                break
            chosen.add(log.group)
        if len(self._segments) > _MANY_SEGMENTS:
            # One quiet group with entries that are kept for slow followers would hold everything written since.
            budget = self._segment_bytes // _REPEATED_PART
            oldest = self._segments[0].last_index
            for log in (self.logs[group] for group, index in oldest.items() if index > self.logs[group].base_index):
                if log.group not in chosen and budget > 0:
                    budget -= log.entry_bytes + _RECORD_BYTES * len(log)
                    chosen.add(log.group)
        return chosen

    def _header(self, number: int) -> bytes:
        head = _HEADER.pack(_SEGMENT_MAGIC, _FORMAT_VERSION, len(self.logs), self.node_id, number)
        return head + zlib.crc32(head).to_bytes(4, "little")

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:012d}.wal"

    def _create(self, segment: Segment, head: bytes) -> int:
        """A segment appears under its name only with its whole head on disk."""
        temporary = segment.path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, head)
            self._sync(fd)
            temporary.rename(segment.path)
            self._sync_directory()
        except BaseException:
            os.close(fd)
            raise
        return fd

    # -- recovery

    def _recover(self) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True)
            _sync_directory(self.directory.parent)
        for leftover in self.directory.glob("*.tmp"):
            leftover.unlink()
        self._read_all()
        if not self._segments:
            self._begin()
            return
        current = self._segments[-1]
        self._fd = os.open(current.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        # After a kill, what was read may be in the page cache only; from now on it counts as durable.
        os.fsync(self._fd)

    def _read_all(self) -> None:
        found = sorted(
            (int(match[1]), path) for path in self.directory.iterdir() if (match := _SEGMENT_NAME.match(path.name))
        )
        if not found:
            return
        for position, (number, path) in enumerate(found):
            if number != found[0][0] + position:
                raise DataError(
                    f"{self.directory}: segment {found[0][0] + position:012d}.wal is missing between its neighbours; "
                    "restore the directory from a backup or rebuild this node from the others"
                )
            self._read_segment(Segment(number, path), last=position == len(found) - 1)
        for log in self.logs:
            try:
                log.end_replay()
            except ValueError as error:
                raise DataError(
                    f"{self.directory}: group {log.group}: {error}; "
                    "restore the directory from a backup or rebuild this node from the others"
                ) from error

    def _begin(self) -> None:
        segment = Segment(1, self._path(1))
        head = self._header(1)
        segment.size_bytes = len(head)
        self._fd = self._create(segment, head)
        self._segments.append(segment)

    def _read_segment(self, segment: Segment, *, last: bool) -> None:
        path = segment.path
        data = path.read_bytes()
        self._check_header(path, data, segment.number)
        offset = _HEADER_BYTES
        for record, end in decode_records(data, offset):
            try:
                if record.group >= len(self.logs):
                    raise ValueError(f"group {record.group} of {len(self.logs)}")
                self.logs[record.group].replay(record)
            except ValueError as error:
                raise DataError(f"{path}: record at byte {offset} does not fit: {error}; {_ADVICE}") from error
            if record.kind == ENTRY:
                segment.last_index[record.group] = record.index
            offset = end
        if offset < len(data):
            behind = find_record(data, offset + 1)
            if behind is not None:
                raise DataError(
                    f"{path}: damaged at byte {offset}, but a valid record follows at byte {behind}; {_ADVICE}"
                )
            if not last:
                raise DataError(f"{path}: damaged at byte {offset}, and later segments follow; {_ADVICE}")
            self._torn_bytes = len(data) - offset
            if not self._only_looks:
                logger.warning("%s: cut %d bytes of an unfinished write at byte %d", path, self._torn_bytes, offset)
                _cut_file(path, offset)
        segment.size_bytes = offset
        self._segments.append(segment)

    def _check_header(self, path: Path, data: bytes, number: int) -> None:
        head = data[: _HEADER.size]
        if len(data) < _HEADER_BYTES or zlib.crc32(head).to_bytes(4, "little") != data[_HEADER.size : _HEADER_BYTES]:
            raise DataError(f"{path}: damaged at byte 0: no valid segment header; {_ADVICE}")
        magic, version, group_count, node_id, stored_number = _HEADER.unpack(head)
        if magic != _SEGMENT_MAGIC or version != _FORMAT_VERSION:
            raise DataError(f"{path}: not a segment of format {_FORMAT_VERSION}; use the version that wrote it")
        if node_id != self.node_id:
            raise DataError(f"{path}: belongs to node {node_id}, this is node {self.node_id}; use its own directory")
        if group_count != len(self.logs):
            raise DataError(
                f"{path}: was created with {group_count} groups, {len(self.logs)} are configured; "
                "the number is fixed when the data directory is created, set it back"
            )
        if stored_number != number:
            raise DataError(f"{path}: is segment {stored_number} under another name; rename it back")


_ADVICE = (
    "restore this directory from a backup or rebuild this node from the others; "
    "cutting the file there by hand loses everything behind it"
)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _cut_file(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
