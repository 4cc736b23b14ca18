"""The HTTP request that opens a WebSocket, and the answer to it (RFC 6455, section 4.2). Pure.

Any path is taken; subprotocols and extensions are never agreed on, as clients expect (wkproto.md, section 9).
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha1
from typing import Final

import msgspec

REQUEST_LIMIT_BYTES: Final = 16 * 1024
"""Largest request head accepted."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) ([^ ]+) HTTP/1\.([0-9])")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)


class UpgradeRefused(Exception):
    """The request opens no WebSocket. response: what to write before closing."""

    def __init__(self, status: str, text: str, *, headers: str = "") -> None:
        super().__init__(text)
        body = text + "\n"
        self.response = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n{headers}\r\n{body}"
        ).encode()


class UpgradeRequest(msgspec.Struct, frozen=True):
    """A request that may be answered with `accept_response`. size_bytes: where the client's frames begin. headers:
    names in lower case; values of equal names joined by a comma."""

    size_bytes: int
    key: bytes
    headers: dict[str, str]


def read_request(data: bytes) -> UpgradeRequest | None:
    """The request that data begins with, or None if it is not complete. Raises UpgradeRefused."""
    end = data.find(_END, 0, REQUEST_LIMIT_BYTES)
    if end < 0:
        if len(data) >= REQUEST_LIMIT_BYTES:
            raise UpgradeRefused("431 Request Header Fields Too Large", "the request head is too long")
        return None
    first, *lines = data[:end].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise UpgradeRefused("400 Bad Request", "this is not an HTTP/1.1 request")
    headers = _read_headers(lines)
    if line[1] != b"GET" or line[3] == b"0":
        raise UpgradeRefused(
            "405 Method Not Allowed", "a WebSocket is opened with GET and HTTP/1.1", headers="Allow: GET\r\n"
        )
    # Firefox says `keep-alive, Upgrade`.
    if "websocket" not in _tokens(headers, "upgrade") or "upgrade" not in _tokens(headers, "connection"):
        raise UpgradeRefused(
            "426 Upgrade Required",
            "this port speaks WebSocket",
            headers="Upgrade: websocket\r\n",
        )
    if headers.get("sec-websocket-version") != "13":
        raise UpgradeRefused(
            "426 Upgrade Required", "only WebSocket version 13 is spoken", headers="Sec-WebSocket-Version: 13\r\n"
        )
    return UpgradeRequest(end + len(_END), _key(headers), headers)


def accept_response(key: bytes) -> bytes:
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + _END
    )


def _read_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise UpgradeRefused("400 Bad Request", "a header line cannot be read")
        name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tokens(headers: dict[str, str], name: str) -> list[str]:
    return [word.strip().lower() for word in headers.get(name, "").split(",")]


def _key(headers: dict[str, str]) -> bytes:
    text = headers.get("sec-websocket-key", "")
    try:
        if len(b64decode(text, validate=True)) == 16:
            return text.encode("ascii")
    except (Base64Error, ValueError):
        pass
    raise UpgradeRefused("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes in base64")
