from typing import Any

import pytest

from tests.protocol.cases import vectors
from wukong.errors import ProtocolError
from wukong.protocol.proxy import HEADER_LIMIT_BYTES, ProxyAddress, ProxyHeader, may_be_header, read_header

V2 = b"\r\n\r\n\x00\r\nQUIT\n"

# Where we differ from the recorded parser on purpose (wkproto.md, section 11): LOCAL is accepted, and what is only cut
# off is waited for.
OURS: dict[str, ProxyHeader | None] = {
    "v2 LOCAL, length 0": ProxyHeader(16, None),
    "v1 cut off": None,
    "only the letter P": None,
}


def address_text(address: ProxyAddress | None) -> str:
    if address is None:
        return ""
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


@pytest.mark.parametrize("row", vectors()["proxy_protocol"], ids=lambda row: row["what"])
def test_recorded_headers_are_read_whole_and_waited_for_when_cut(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    for cut in range(1, len(data)):
        assert may_be_header(data[:cut])
    if row["what"] in OURS:
        assert read_header(data) == OURS[row["what"]]
        return
    if row["error"]:
        with pytest.raises(ProtocolError):
            read_header(data)
        return
    header = read_header(data + b"\x10\x20 what follows")
    assert header is not None
    assert header.size_bytes == row["header_bytes"]
    assert address_text(header.source) == row["remote_addr"]
    for cut in range(1, len(data)):
        assert read_header(data[:cut]) is None


@pytest.mark.parametrize("data", [b"\x10", b"{", b"PUT", b"PROXYX", b"\r\n{", b"\r\n\r\n\x00\r\nQUIX"])
def test_other_data_is_not_taken_for_a_header(data: bytes) -> None:
    assert not may_be_header(data)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5100 more\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 5100\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 5100\r\n",
        b"PROXY TCP4 192.0.2.999 198.51.100.2 56324 5100\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 5100\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 5100\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 5100\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 \xb2\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 56324 5100\r\n",
        b"PROXY UNIX /tmp/x\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5100\n",
        b"PROXY " + b"x" * 101,
    ],
)
def test_a_broken_line_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_header(line)


def test_the_longest_line_is_read_and_a_longer_one_refused() -> None:
    longest = b"PROXY UNKNOWN".ljust(105) + b"\r\n"
    assert read_header(longest) == ProxyHeader(107, None)
    with pytest.raises(ProtocolError, match="without an end"):
        read_header(b"PROXY UNKNOWN".ljust(106) + b"\r\n")
    assert read_header(b"PROXY UNKNOWN".ljust(106)) is None


@pytest.mark.parametrize(
    ("what", "rest"),
    [
        ("version 1", "1111000c c0000201c6336402dc0413ec"),
        ("an unknown command", "2211000c c0000201c6336402dc0413ec"),
        ("IPv4 without room for the ports", "2111000a c0000201c6336402dc04"),
        ("IPv6 with IPv4 addresses", "2121000c c0000201c6336402dc0413ec"),
        ("more than the limit", "2111ffff"),
    ],
)
def test_a_broken_binary_header_is_an_error(what: str, rest: str) -> None:
    with pytest.raises(ProtocolError):
        read_header(V2 + bytes.fromhex(rest))


def test_a_local_header_with_an_address_gives_none() -> None:
    assert read_header(V2 + bytes.fromhex("2011000cc0000201c6336402dc0413ec")) == ProxyHeader(28, None)


def test_a_unix_address_is_skipped() -> None:
    assert read_header(V2 + b"\x21\x31" + (216).to_bytes(2, "big") + bytes(216)) == ProxyHeader(232, None)


def test_a_header_of_exactly_the_limit_is_read() -> None:
    body = bytes.fromhex("c0000201c6336402dc0413ec").ljust(HEADER_LIMIT_BYTES - 16, b"\x00")
    header = read_header(V2 + b"\x21\x11" + len(body).to_bytes(2, "big") + body)
    assert header == ProxyHeader(HEADER_LIMIT_BYTES, ProxyAddress("192.0.2.1", 56324))
