"""JSON objects out of a byte stream that has nothing between them but blanks (wkproto.md, 10.1).

Only strings and brackets are looked at, just enough to find where a value ends; whether it is JSON is the reader's
question (jsonrpc.py). What usually comes, an object of at most three levels in one piece, is found by one regular
expression; where it does not suffice, the same expression still steps over such objects. The place that the search has
got to is kept, so that every byte is looked at a fixed number of times however the stream is cut.
"""

import re
from typing import Final

from wukong.errors import FrameTooLarge, ProtocolError

NESTING_LIMIT_COUNT: Final = 128
"""Nesting that is always accepted. In one piece a few levels more may pass, the ones that are stepped over."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _content(opening: bytes, closing: bytes, levels: int) -> bytes:
    """Anything up to a bracket, with whole strings and whole values of so many levels. Possessive: never goes back."""
    plain = rb'[^"' + opening + closing + rb"]++|" + _STRING
    if not levels:
        return rb"(?:" + plain + rb")*+"
    inner = opening + _content(opening, closing, levels - 1) + closing
    return rb"(?:" + plain + rb"|" + inner + rb")*+"


_THREE_LEVELS = re.compile(rb"\{" + _content(rb"\{", rb"\}", 2) + rb"\}", re.DOTALL)
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_INSIDE_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# By what the value began with: only brackets of that kind tell where it ends.
_OUTSIDE_STRING = {
    0x7B: re.compile(_content(rb"\{", rb"\}", 3), re.DOTALL),
    0x5B: re.compile(_content(rb"\[", rb"\]", 3), re.DOTALL),
}
_PLAUSIBLE_START = re.compile(rb'\{[ \t\r\n]*+(?:["}]|\Z)|\[')

_START_BYTES: Final = 64
_QUOTE: Final = 0x22


class JsonSplitter:
    """`receive_data` what arrived, then call `next_text` until it has none. Every ProtocolError is final.

    limit_bytes: largest value accepted, the blanks in it included. It may be changed between values.
    """

    __slots__ = ("_at", "_data", "_depth", "_in_string", "_searched", "limit_bytes")

    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._data: bytes | bytearray = b""
        # The value being looked for begins at _at; after the first _searched bytes of it the search stands at _depth.
        self._at = 0
        self._searched = 0
        self._depth = 0
        self._in_string = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes received that have not left in a value."""
        return len(self._data) - self._at

    def receive_data(self, data: bytes) -> None:
        at = self._at
        held = self._data
        if at == len(held):
            self._data = data
        elif isinstance(held, bytearray):
            del held[:at]
            held += data
        else:
            self._data = bytearray(held[at:]) + data
        self._at = 0

    def next_text(self) -> bytes | None:
        """The next whole object or array, or None if more bytes are needed. Values before a bad one still come out.

        Raises ProtocolError for what cannot become an object or an array, FrameTooLarge for one over the limit.
        """
        data = self._data
        at = self._at
        if self._searched:
            end = self._find_end()
        else:
            at = self._at = _end(_BLANKS, data, at)
            if at == len(data):
                self._data = b""
                self._at = 0
                return None
            small = _THREE_LEVELS.match(data, at)
            end = small.end() if small else self._find_end()
        value_bytes = (end or len(data)) - at
        # Before the rest arrives: a peer must not make us hold what we are going to refuse.
        if value_bytes > self.limit_bytes:
            raise FrameTooLarge(value_bytes, self.limit_bytes)
        if end:
            self._at = end
            self._searched = 0
            return bytes(data[at:end])
        if not isinstance(data, bytearray):
            self._data = bytearray(data[at:])
            self._at = 0
        return None

    def _find_end(self) -> int:
        """Where the value at _at ends, or 0 when its end has not come. Goes on where it stopped before."""
        data = self._data
        start = self._at
        if self._searched < _START_BYTES and not _PLAUSIBLE_START.match(data, start):
            raise ProtocolError("text is not a JSON object")
        opening = data[start]
        closing = opening + 2  # in ASCII, for both kinds
        outside = _OUTSIDE_STRING[opening]
        size = len(data)
        if self._searched:
            at, depth, in_string = start + self._searched, self._depth, self._in_string
        else:
            at, depth, in_string = start + 1, 1, False
        while True:
            at = _end(_INSIDE_STRING if in_string else outside, data, at)
            if at == size:
                break
            byte = data[at]
            if byte == _QUOTE:
                in_string = not in_string
            elif in_string:
                break  # a backslash whose second half has not come
            elif byte == opening:
                depth += 1
                if depth > NESTING_LIMIT_COUNT:
                    raise ProtocolError(f"text is nested more than {NESTING_LIMIT_COUNT} levels deep")
            elif byte == closing:
                depth -= 1
                if depth == 0:
                    return at + 1
            at += 1
        self._searched = at - start
        self._depth = depth
        self._in_string = in_string
        return 0


def _end(pattern: re.Pattern[bytes], data: bytes | bytearray, at: int) -> int:
    """Where a pattern that matches everywhere, if only nothing, stops matching."""
    match = pattern.match(data, at)
    assert match is not None
    return match.end()
