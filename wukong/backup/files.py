"""The file of one slot in a backup: a head, chunks of pairs, and a tail that says how many there were.

Every part carries a BLAKE2b over itself and the digest of the part before it, so a changed, missing, doubled or
exchanged part is found where it is, and a file that was cut is told from a whole one. Numbers are little endian.

    head    magic `wukongBK`, version u32, slot u32, kind u32 (1 rows, 2 entries of the log); 16 bytes of digest
    chunk   magic `CHNK`, stored bytes u32, bytes u32, pairs u32, codec u32 (0 none, 1 zlib); 16 bytes of digest; data
    tail    the same with magic `TAIL` and no codec; data: pairs and bytes of the whole file (two u64)
"""

import os
import struct
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from wukong.backup.rows import FRAME_LIMIT_BYTES, Pair, decode_pairs
from wukong.errors import DataError

VERSION: Final = 1
ROWS: Final = 1
ENTRIES: Final = 2

_MAGIC: Final = b"wukongBK"
_CHUNK: Final = b"CHNK"
_TAIL: Final = b"TAIL"
_HEAD: Final = struct.Struct("<8sIII")
_PART: Final = struct.Struct("<4sIIII")
_TOTALS: Final = struct.Struct("<QQ")
_DIGEST_BYTES: Final = 16
_PLAIN, _ZLIB = 0, 1
# Rows are mostly JSON and msgpack: level 1 takes half of them off, higher ones little more for a multiple of the time.
_LEVEL: Final = 1

ADVICE: Final = "Take another backup that is whole (`wukong backup list` names them), or another copy of this one"


class Written(NamedTuple):
    """What a file holds: pairs and their bytes; size_bytes and digest (BLAKE2b, hex) of the file."""

    pairs: int
    bytes: int
    size_bytes: int
    digest: str


def _digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


class SlotWriter:
    """Writes one file. `close` makes it whole and durable; without it the file is none. Blocks."""

    def __init__(self, path: Path, slot: int, kind: int) -> None:
        self._file: BinaryIO = path.open("wb")
        self._whole = blake2b(digest_size=32)
        self._size = self._pairs = self._bytes = 0
        head = _HEAD.pack(_MAGIC, VERSION, slot, kind)
        self._last = _digest(head)
        self._write(head + self._last)

    def add(self, data: bytes, pairs: int) -> None:
        """One chunk: encoded pairs, and how many."""
        packed = zlib.compress(data, _LEVEL)
        codec, stored = (_ZLIB, packed) if len(packed) < len(data) else (_PLAIN, data)
        self._part(_PART.pack(_CHUNK, len(stored), len(data), pairs, codec), stored)
        self._pairs += pairs
        self._bytes += len(data)

    def _part(self, head: bytes, stored: bytes) -> None:
        self._last = _digest(self._last, head, stored)
        self._write(head + self._last + stored)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._whole.update(data)
        self._size += len(data)

    def close(self) -> Written:
        totals = _TOTALS.pack(self._pairs, self._bytes)
        self._part(_PART.pack(_TAIL, len(totals), len(totals), 0, _PLAIN), totals)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Written(self._pairs, self._bytes, self._size, self._whole.hexdigest())

    def abandon(self) -> None:
        self._file.close()


def read_slot(path: Path, slot: int, kind: int, expected: Written | None = None) -> Iterator[list[Pair]]:
    """The chunks of a file, each checked before it is given. Ends only behind a tail whose totals are right, at the end
    of the file; expected: what the manifest says of it. Raises DataError that names file, offset and what to do."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {ADVICE}") from None
    with file:
        yield from _Reader(path, file).chunks(slot, kind, expected)


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._at = 0
        self._whole = blake2b(digest_size=32)

    def _fail(self, at: int, what: str) -> DataError:
        return DataError(f"{self._path}: byte {at}: {what}. {ADVICE}")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise self._fail(self._at + len(data), "the file ends here, in the middle of a part: it was cut")
        self._whole.update(data)
        self._at += count
        return data

    def chunks(self, slot: int, kind: int, expected: Written | None) -> Iterator[list[Pair]]:
        head = self._read(_HEAD.size)
        last = self._read(_DIGEST_BYTES)
        magic, version, own_slot, own_kind = _HEAD.unpack(head)
        if magic != _MAGIC or last != _digest(head):
            raise self._fail(0, "the head is damaged, or this is no file of a backup")
        if version != VERSION:
            raise self._fail(8, f"format {version}; this program knows format {VERSION}. Upgrade wukong")
        if (own_slot, own_kind) != (slot, kind):
            raise self._fail(12, f"this is the file of slot {own_slot} (kind {own_kind}), not of {slot} (kind {kind})")
        total_pairs = total_bytes = 0
        while True:
            at = self._at
            head = self._read(_PART.size)
            digest = self._read(_DIGEST_BYTES)
            magic, stored_bytes, raw_bytes, pairs, codec = _PART.unpack(head)
            if magic not in (_CHUNK, _TAIL) or max(stored_bytes, raw_bytes) > FRAME_LIMIT_BYTES:
                raise self._fail(at, "the head of a part is damaged")
            stored = self._read(stored_bytes)
            if _digest(last, head, stored) != digest:
                raise self._fail(at, f"a part of {_PART.size + _DIGEST_BYTES + stored_bytes} bytes is damaged")
            last = digest
            if magic == _TAIL:
                break
            try:
                raw = zlib.decompress(stored) if codec == _ZLIB else stored
                found = decode_pairs(raw)
            except (zlib.error, DataError) as error:
                raise self._fail(at, f"a part cannot be read: {error}") from error
            if (len(raw), len(found)) != (raw_bytes, pairs):
                raise self._fail(at, f"a part has {len(found)} rows instead of {pairs}")
            total_pairs += pairs
            total_bytes += raw_bytes
            yield found
        if stored != _TOTALS.pack(total_pairs, total_bytes):
            raise self._fail(at, "parts are missing")
        if self._file.read(1):
            raise self._fail(self._at, "the file goes on behind its end")
        written = Written(total_pairs, total_bytes, self._at, self._whole.hexdigest())
        if expected is not None and written != expected:
            raise DataError(f"{self._path} is whole, but not the file that the manifest names. {ADVICE}")
