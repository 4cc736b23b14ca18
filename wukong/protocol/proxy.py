"""The PROXY header a load balancer puts in front of a connection, versions 1 and 2 (wkproto.md, 11).

Anybody can write one, so the caller decides beforehand whether the peer may: only for listed proxies is it read at all.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import msgspec

from wukong.errors import ProtocolError

HEADER_LIMIT_BYTES: Final = 4096
"""Largest version 2 header accepted, TLVs included."""

_V1_START: Final = b"PROXY "
_V1_LIMIT_BYTES: Final = 107
_V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_V2_ADDRESS_BYTES: Final = {1: 4, 2: 16}  # per address, IPv4 and IPv6


class ProxyAddress(msgspec.Struct, frozen=True):
    """The client's own address. host: IPv4, or IPv6 without brackets."""

    host: str
    port: int


class ProxyHeader(msgspec.Struct, frozen=True):
    """size_bytes: where the connection's own data begins. source: None for LOCAL (a health check), UNKNOWN and
    families without a port."""

    size_bytes: int
    source: ProxyAddress | None


def may_be_header(data: bytes) -> bool:
    """Whether the data is the start of a header, or could become one with more bytes. True for no data."""
    return any(data.startswith(start) or start.startswith(data) for start in (_V1_START, _V2_START))


def read_header(data: bytes) -> ProxyHeader | None:
    """The header that data begins with, or None if it is not complete. Call it when `may_be_header`.

    Raises ProtocolError when it is broken, or longer than its limit (107 bytes for version 1, 4096 for version 2).
    """
    return _read_v2(data) if data.startswith(_V2_START[:1]) else _read_v1(data)


def _read_v1(data: bytes) -> ProxyHeader | None:
    line_end = data.find(b"\n", 0, _V1_LIMIT_BYTES)
    if line_end < 0:
        if len(data) >= _V1_LIMIT_BYTES:
            raise ProtocolError(f"PROXY header without an end in {_V1_LIMIT_BYTES} bytes")
        return None
    if data[line_end - 1 : line_end] != b"\r":
        raise ProtocolError("PROXY header does not end with CR LF")
    words = data[: line_end - 1].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(line_end + 1, None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProtocolError("PROXY header without family, two addresses and two ports")
    family = IPv4Address if words[1] == "TCP4" else IPv6Address
    try:
        source, _ = family(words[2]), family(words[3])
    except ValueError as fault:
        raise ProtocolError(f"PROXY header with a bad address: {fault}") from None
    port, _ = _port(words[4]), _port(words[5])
    return ProxyHeader(line_end + 1, ProxyAddress(str(source), port))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ProtocolError("PROXY header with a bad port")
    return int(text)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    version, command = data[12] >> 4, data[12] & 0x0F
    if version != 2 or command > 1:
        raise ProtocolError(f"PROXY header with version {version} and command {command}")
    size_bytes = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if size_bytes > HEADER_LIMIT_BYTES:
        raise ProtocolError(f"PROXY header of {size_bytes} bytes is over the limit of {HEADER_LIMIT_BYTES}")
    if len(data) < size_bytes:
        return None
    address_bytes = _V2_ADDRESS_BYTES.get(data[13] >> 4)
    # LOCAL: the proxy itself speaks; whatever address is there means nothing.
    if command == 0 or address_bytes is None:
        return ProxyHeader(size_bytes, None)
    ports_at = _V2_FIXED_BYTES + 2 * address_bytes
    if size_bytes < ports_at + 4:
        raise ProtocolError("PROXY header is too short for its addresses")
    source = ip_address(data[_V2_FIXED_BYTES : _V2_FIXED_BYTES + address_bytes])
    return ProxyHeader(size_bytes, ProxyAddress(str(source), int.from_bytes(data[ports_at : ports_at + 2], "big")))
