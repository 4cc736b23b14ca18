"""Byte stream to frames, frames to messages, and what proves that a frame is the next one of its sender.

    frame     length (4 bytes, big endian, of what follows) | body
    sealed    AES-256-GCM of a msgpack array of messages; the nonce is the number of the frame in its direction
    message   array: kind, group, body

The frame's number is on neither side's wire: a frame that was left out, repeated, moved, altered, or sealed for another
connection or direction does not open. The key is of one connection and direction, so a nonce is never used twice.
An empty array is a ping.
"""

import struct
from typing import Annotated, Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wukong.errors import FrameTooLarge, ProtocolError

HEADER_BYTES = 4
TAG_BYTES = 16
ARRAY_HEADER_BYTES = 5
OVERHEAD_BYTES = TAG_BYTES + ARRAY_HEADER_BYTES
"""What a frame with one message has beside it, its header not counted."""

_NONCE_BYTES = 12
_MANY_CHUNKS = 1024

Message = tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)], Any]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


class Unauthentic(ProtocolError):
    """A frame that is not the next one of its sender. Final for the connection."""


class Malformed(ProtocolError):
    """An authentic frame that holds something else than messages. Final for the connection."""


class FrameReader:
    """Byte stream to frame bodies. Never reads a socket, waits or logs.

    limit_bytes: largest body accepted, may be changed between two frames. A larger one raises FrameTooLarge as soon as
    its length is complete; that is final, the caller closes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._data: memoryview = memoryview(b"")  # joined and not yet given out
        self._chunks: list[bytes] = []  # behind it
        self._chunk_bytes = 0
        self._needed_bytes = HEADER_BYTES

    @property
    def awaited_bytes(self) -> int:
        """Length of the frame that has begun and is not complete, as far as it is known."""
        return self._needed_bytes

    def receive(self, data: bytes) -> None:
        if not self._data and not self._chunks:
            self._data = memoryview(data)
            return
        self._chunks.append(data)
        self._chunk_bytes += len(data)
        if len(self._chunks) >= _MANY_CHUNKS:
            self._join()

    def next_frame(self) -> memoryview | None:
        """The next whole body, or None if more bytes are needed. It may keep what was received alive."""
        while len(self._data) + self._chunk_bytes >= self._needed_bytes:
            if len(self._data) < self._needed_bytes:
                self._join()
            length = int.from_bytes(self._data[:HEADER_BYTES], "big")
            # Before the body arrives: a peer must not make us hold what we are going to refuse.
            if length > self.limit_bytes:
                raise FrameTooLarge(length, self.limit_bytes)
            end = HEADER_BYTES + length
            if len(self._data) >= end:
                body = self._data[HEADER_BYTES:end]
                self._data = self._data[end:]
                self._needed_bytes = HEADER_BYTES
                return body
            self._needed_bytes = end
        return None

    def _join(self) -> None:
        self._data = memoryview(b"".join((self._data, *self._chunks)))
        self._chunks.clear()
        self._chunk_bytes = 0


def frame(body: bytes) -> bytes:
    """A body with its length before it."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Sealer:
    """Bodies to frames, in one direction of one connection. key: 32 bytes, used for nothing else."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def seal(self, body: bytes) -> tuple[bytes, bytes]:
        """The frame's header and its sealed body, in this order on the wire."""
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        self._count += 1
        sealed = self._cipher.encrypt(nonce, body, None)
        return len(sealed).to_bytes(HEADER_BYTES, "big"), sealed


class Opener:
    """The other end of a Sealer with the same key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Raises Unauthentic; that is final."""
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        self._count += 1
        if len(sealed) < TAG_BYTES:
            raise Unauthentic("frame is shorter than its tag")
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise Unauthentic("frame is not the next one of its sender") from None


def encode_message(kind: int, group: int, body: object) -> bytes:
    """Raises TypeError for a body that msgpack cannot carry."""
    return _encoder.encode((kind, group, body))


def join_messages(messages: list[bytes]) -> bytes:
    """The body of a frame with these encoded messages; at most ARRAY_HEADER_BYTES longer than they are together."""
    count = len(messages)
    if count < 16:
        header = bytes((0x90 | count,))
    elif count < 1 << 16:
        header = struct.pack(">BH", 0xDC, count)
    else:
        header = struct.pack(">BI", 0xDD, count)
    return b"".join((header, *messages))


def split_messages(body: bytes) -> list[Message]:
    """(kind, group, body) of every message. Bytes stay bytes. Raises Malformed."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as fault:
        raise Malformed(f"frame holds no messages: {fault}") from None
