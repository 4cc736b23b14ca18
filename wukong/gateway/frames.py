"""WebSocket frames of a server: client bytes in, their stream of data out, and the bytes to answer with (RFC 6455).

A pure machine. Binary and text messages form one byte stream, whatever the client cuts them into: the protocol inside
is told from its content, never from the opcode (wkproto.md, section 9). Fragments are put together, PING and CLOSE are
answered. An empty reader holds no buffer.

Why not a library: docs/design/gateway.md, "WebSocket".
"""

from enum import IntEnum
from struct import Struct
from typing import Final

BINARY: Final = 0x82
TEXT: Final = 0x81
CLOSE: Final = 0x88
"""First byte of a message in one frame, and of a CLOSE."""

_TEXT_START: Final = 0x01
_CONTINUATION: Final = 0x00
_LAST_CONTINUATION: Final = 0x80
_PING: Final = 0x89
_PONG: Final = 0x8A
# FIN and opcode of every frame there is without an extension.
_KNOWN: Final = frozenset((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, CLOSE, _PING, _PONG))
_CONTROL_LIMIT_BYTES: Final = 125

_SHORT: Final = Struct("!BBH").pack
_LONG: Final = Struct("!BBQ").pack


class CloseCode(IntEnum):
    """Why a server ends a connection. 1012 and 1013 make SDKs come back."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NOT_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    TRY_AGAIN = 1013


def frame_header(first: int, body_bytes: int) -> bytes:
    """What precedes an unmasked body. first: BINARY or TEXT."""
    if body_bytes < 126:
        return bytes((first, body_bytes))
    if body_bytes < 0x10000:
        return _SHORT(first, 126, body_bytes)
    return _LONG(first, 127, body_bytes)


def close_frame(code: int) -> bytes:
    return bytes((CLOSE, 2)) + code.to_bytes(2, "big")


def unmask(mask: bytes, body: bytes) -> bytes:
    """XOR with the repeated mask of 4 bytes. As one number it costs about 3 ns per byte and no loop."""
    size = len(body)
    words = (size + 3) >> 2
    number = int.from_bytes(body, "little") ^ int.from_bytes((mask * words)[:size], "little")
    return number.to_bytes(size, "little")


class _Fault(Exception):
    def __init__(self, code: CloseCode) -> None:
        self.code = code


class FrameReader:
    """`receive_data` what arrived; it returns the data of the messages in it. Then look at `replies` and `is_closed`.

    limit_bytes: largest message, all fragments together. replies: answers to PING and CLOSE, for the caller to write
    and to set back to b"". is_closed: the client closed, or broke the rules; what follows is dropped. fault: None when
    the client closed, else the code to close with: 1009 for a message over the limit as soon as its header is there,
    1007 for text that is not UTF-8, 1002 for all other bad frames. Messages before a bad one still come out.
    """

    __slots__ = (
        "_message",
        "_message_is_text",
        "_needed_bytes",
        "_partial",
        "fault",
        "is_closed",
        "limit_bytes",
        "replies",
    )

    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.replies = b""
        self.is_closed = False
        self.fault: CloseCode | None = None
        # The start of a frame whose end has not come: at least _needed_bytes are wanted before looking at it again.
        self._partial: bytearray | None = None
        self._needed_bytes = 0
        # The fragments so far of a message that is not complete.
        self._message: bytearray | None = None
        self._message_is_text = False

    @property
    def buffered_bytes(self) -> int:
        return len(self._partial or b"") + len(self._message or b"")

    def receive_data(self, data: bytes) -> bytes:
        if self.is_closed:
            return b""
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed_bytes:
                return b""
            data = bytes(partial)
            self._partial = None
        pieces: list[bytes] = []
        try:
            self._read(data, pieces)
        except _Fault as fault:
            self.fault = fault.code
            self._end()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read(self, data: bytes, pieces: list[bytes]) -> None:
        size = len(data)
        at = 0
        while size - at >= 2:
            start = at
            first = data[at]
            body_bytes = data[at + 1]
            if first not in _KNOWN or body_bytes < 0x80:
                raise _Fault(CloseCode.PROTOCOL_ERROR)
            body_bytes &= 0x7F
            at += 2
            if first >= CLOSE:
                if body_bytes > _CONTROL_LIMIT_BYTES:
                    raise _Fault(CloseCode.PROTOCOL_ERROR)
            else:
                if body_bytes > 125:
                    width = 2 if body_bytes == 126 else 8
                    if size - at < width:
                        return self._wait(data, start, width + 2)
                    body_bytes = int.from_bytes(data[at : at + width], "big")
                    at += width
                    if body_bytes < (126 if width == 2 else 0x10000):
                        raise _Fault(CloseCode.PROTOCOL_ERROR)
                # Before the body arrives: a peer must not make us hold what we are going to refuse.
                if body_bytes + (len(self._message) if self._message is not None else 0) > self.limit_bytes:
                    raise _Fault(CloseCode.TOO_BIG)
            end = at + 4 + body_bytes
            if end > size:
                return self._wait(data, start, end - start)
            body = unmask(data[at : at + 4], data[at + 4 : end])
            at = end
            if first == BINARY and self._message is None:
                pieces.append(body)
            elif first < CLOSE:
                self._take(first, body, pieces)
            elif first != _PONG:
                self._answer(first, body)
                if self.is_closed:
                    return None
        return self._wait(data, at, 2) if at < size else None

    def _wait(self, data: bytes, start: int, needed_bytes: int) -> None:
        """Keep the incomplete frame only, and let go of the bytes that brought it."""
        self._partial = bytearray(data[start:])
        self._needed_bytes = needed_bytes

    def _take(self, first: int, body: bytes, pieces: list[bytes]) -> None:
        """A text message, or a fragment."""
        message = self._message
        if first in (_CONTINUATION, _LAST_CONTINUATION):
            if message is None:
                raise _Fault(CloseCode.PROTOCOL_ERROR)
            message += body
            if first == _CONTINUATION:
                return
            body = bytes(message)
            self._message = None
            if self._message_is_text:
                _check_text(body)
            pieces.append(body)
        elif message is not None:
            # A new message in the middle of another.
            raise _Fault(CloseCode.PROTOCOL_ERROR)
        elif first == TEXT:
            _check_text(body)
            pieces.append(body)
        else:
            self._message = bytearray(body)
            self._message_is_text = first == _TEXT_START

    def _answer(self, first: int, body: bytes) -> None:
        if first == _PING:
            self.replies += bytes((_PONG, len(body))) + body
            return
        if len(body) == 1:
            raise _Fault(CloseCode.PROTOCOL_ERROR)
        if body:
            code = int.from_bytes(body[:2], "big")
            if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
                raise _Fault(CloseCode.PROTOCOL_ERROR)
            _check_text(body[2:])
        self.replies += bytes((CLOSE, len(body[:2]))) + body[:2]
        self._end()

    def _end(self) -> None:
        self.is_closed = True
        self._partial = None
        self._message = None


def _check_text(body: bytes) -> None:
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError:
        raise _Fault(CloseCode.NOT_UTF8) from None
