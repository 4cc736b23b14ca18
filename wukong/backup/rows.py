"""Pairs of bytes as they travel from the server and stand in files: rows (key, value), or entries of the log.

pair     key length (u32), value length (u32), key, value      all numbers little endian
frame    bytes of the pairs (u32), CRC-32 of them (u32), the pairs; one without pairs is the last of an answer
entry    as a pair: index and term (two u64, big endian), and the command of the log
"""

import struct
import zlib
from collections.abc import Iterable
from typing import Final

from wukong.errors import DataError, ProtocolError
from wukong.limits import MIB

Pair = tuple[bytes, bytes]

_PAIR: Final = struct.Struct("<II")
_FRAME: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct(">QQ")

# A frame has a few hundred KiB, or one row or entry that is larger; none of those is as large as this.
FRAME_LIMIT_BYTES: Final = 64 * MIB

END_FRAME: Final = _FRAME.pack(0, 0)


def encode_pairs(pairs: Iterable[Pair]) -> bytes:
    parts: list[bytes] = []
    pack = _PAIR.pack
    for key, value in pairs:
        parts += (pack(len(key), len(value)), key, value)
    return b"".join(parts)


def decode_pairs(data: bytes) -> list[Pair]:
    """Raises DataError for bytes that `encode_pairs` did not make."""
    pairs: list[Pair] = []
    at, end = 0, len(data)
    while at < end:
        if at + _PAIR.size > end:
            raise DataError("a row ends in the middle")
        key_bytes, value_bytes = _PAIR.unpack_from(data, at)
        value_at = at + _PAIR.size + key_bytes
        following = value_at + value_bytes
        if following > end:
            raise DataError("a row ends in the middle")
        pairs.append((data[value_at - key_bytes : value_at], data[value_at:following]))
        at = following
    return pairs


def encode_frame(pairs: Iterable[Pair]) -> bytes:
    data = encode_pairs(pairs)
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def entry_pair(index: int, term: int, command: bytes) -> Pair:
    return _ENTRY.pack(index, term), command


def read_entry(pair: Pair) -> tuple[int, int, bytes]:
    """(index, term, command). Raises DataError."""
    if len(pair[0]) != _ENTRY.size:
        raise DataError("an entry of the log without index and term")
    index, term = _ENTRY.unpack(pair[0])
    return index, term, pair[1]


class FrameDecoder:
    """Bytes of an answer to frames. `done`: the last one has come; an answer that ends before was cut short.

    Raises ProtocolError for a frame over FRAME_LIMIT_BYTES, with a wrong CRC, or behind the last one."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.done = False

    def receive(self, data: bytes) -> None:
        if self.done and data:
            raise ProtocolError("the answer goes on behind its end")
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The pairs of the next whole frame, encoded; None if more bytes are needed or all have come."""
        buffer = self._buffer
        if self.done or len(buffer) < _FRAME.size:
            return None
        size, crc = _FRAME.unpack_from(buffer)
        if size > FRAME_LIMIT_BYTES:
            raise ProtocolError(f"a frame of {size} bytes; the limit is {FRAME_LIMIT_BYTES}")
        end = _FRAME.size + size
        if len(buffer) < end:
            return None
        data = bytes(buffer[_FRAME.size : end])
        del buffer[:end]
        if zlib.crc32(data) != crc:
            raise ProtocolError("rows were changed on their way: their CRC is another one")
        if not size:
            self.done = True
            if buffer:
                raise ProtocolError("the answer goes on behind its end")
            return None
        return data
