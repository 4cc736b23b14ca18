"""Client byte stream to frames. Never reads a socket, waits or logs.

A read usually brings whole frames, so the decoder hands bodies out of the very bytes it was given and buffers only the
start of a frame that is not complete yet. An empty decoder holds no buffer. Source: wkproto.md, 1.2, 1.5 and 8.
"""

from typing import Final

import msgspec

from wukong.errors import FrameTooLarge, ProtocolError

FRAME_LIMIT_BYTES: Final = 1 << 20


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame without its header. frame_type: 1 to 12. flags: low four bits of the first byte."""

    frame_type: int
    flags: int
    body: bytes


class FrameDecoder:
    """`receive_data` what arrived, then call `next_frame` until it has none.

    limit_bytes: largest frame body accepted. A larger one raises FrameTooLarge as soon as its header is complete. It
    may be changed between frames. Every ProtocolError is final: `next_frame` raises it again, the caller closes.
    """

    __slots__ = ("_at", "_chunk", "_needed_bytes", "_partial", "limit_bytes")

    def __init__(self, *, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._chunk = b""
        self._at = 0
        # The start of a frame whose end has not come: at least _needed_bytes are wanted before looking at it again.
        self._partial: bytearray | None = None
        self._needed_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes received that have not left in a frame."""
        return len(self._chunk) - self._at if self._partial is None else len(self._partial)

    def receive_data(self, data: bytes) -> None:
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed_bytes:
                return
            data = bytes(partial)
            self._partial = None
        elif self._at < len(self._chunk):
            data = self._chunk[self._at :] + data
        self._chunk = data
        self._at = 0

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None if more bytes are needed. Frames before a bad one still come out.

        Raises ProtocolError for type 0 and 13 to 15, for a length of more than four bytes, and for length 0 on
        anything but PING and PONG; FrameTooLarge (a ProtocolError) for a body over the limit.
        """
        chunk = self._chunk
        start = self._at
        available = len(chunk)
        if start == available:
            if available:
                self._chunk = b""
                self._at = 0
            return None
        first = chunk[start]
        frame_type = first >> 4
        at = start + 1
        if frame_type == 7 or frame_type == 8:  # PING and PONG have no length
            self._at = at
            return Frame(frame_type, first & 0x0F, b"")
        if frame_type == 0 or frame_type > 12:
            raise ProtocolError(f"packet type {frame_type} does not exist")
        body_bytes = shift = 0
        while True:
            if at == available:
                self._wait(start, available - start + 1)
                return None
            byte = chunk[at]
            at += 1
            body_bytes |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift == 28:
                raise ProtocolError("remaining length has more than four bytes")
        if body_bytes == 0:
            raise ProtocolError(f"packet of type {frame_type} without a body")
        # Before the body arrives: a peer must not make us hold what we are going to refuse.
        if body_bytes > self.limit_bytes:
            raise FrameTooLarge(body_bytes, self.limit_bytes)
        end = at + body_bytes
        if end > available:
            self._wait(start, end - start)
            return None
        self._at = end
        return Frame(frame_type, first & 0x0F, chunk[at:end])

    def _wait(self, start: int, needed_bytes: int) -> None:
        """Keep the incomplete frame only, and let go of the bytes that brought it."""
        self._partial = bytearray(self._chunk[start:])
        self._needed_bytes = needed_bytes
        self._chunk = b""
        self._at = 0
