"""WebSocket frames, fed whole, byte by byte, and cut at every place. RFC 6455."""

import random

import pytest

from tests.gateway.client import websocket_frame as frame
from wukong.gateway.frames import BINARY, TEXT, FrameReader, close_frame, frame_header, unmask

LIMIT = 100_000


def read(data: bytes, *sizes: int) -> tuple[bytes, bytes, bool, int | None]:
    """(stream, replies, closed, fault) after data in pieces of these sizes, the last size for the rest."""
    reader = FrameReader(limit_bytes=LIMIT)
    stream = b""
    at = 0
    for size in sizes[:-1]:
        stream += reader.receive_data(data[at : at + size])
        at += size
    step = sizes[-1] if sizes else len(data) or 1
    while at < len(data):
        stream += reader.receive_data(data[at : at + step])
        at += step
    return stream, reader.replies, reader.is_closed, reader.fault


GOOD = [
    pytest.param(frame(b"hello"), b"hello", b"", id="binary"),
    pytest.param(frame("héllo".encode(), 0x81), "héllo".encode(), b"", id="text"),
    pytest.param(frame(b""), b"", b"", id="empty"),
    pytest.param(frame(b"x" * 125), b"x" * 125, b"", id="largest short length"),
    pytest.param(frame(b"x" * 126), b"x" * 126, b"", id="smallest 16-bit length"),
    pytest.param(frame(b"x" * 65_535), b"x" * 65_535, b"", id="largest 16-bit length"),
    pytest.param(frame(b"x" * 65_536), b"x" * 65_536, b"", id="smallest 64-bit length"),
    pytest.param(frame(b"x" * LIMIT), b"x" * LIMIT, b"", id="at the limit"),
    pytest.param(frame(b"one") + frame(b"two", 0x81) + frame(b"three"), b"onetwothree", b"", id="several"),
    pytest.param(frame(b"a", 0x02) + frame(b"b", 0x00) + frame(b"c", 0x80), b"abc", b"", id="fragments"),
    pytest.param(
        # Each half of the letter alone is not UTF-8.
        frame(b"\xc3", 0x01) + frame(b"\xa9", 0x80),
        b"\xc3\xa9",
        b"",
        id="text fragments",
    ),
    pytest.param(
        frame(b"a", 0x02) + frame(b"p", 0x89) + frame(b"", 0x8A) + frame(b"b", 0x80),
        b"ab",
        b"\x8a\x01p",
        id="control frames between fragments",
    ),
    pytest.param(frame(b"", 0x89) + frame(b"x" * 125, 0x89), b"", b"\x8a\x00\x8a\x7d" + b"x" * 125, id="pings"),
]


@pytest.mark.parametrize(("data", "stream", "replies"), GOOD)
def test_messages_become_one_stream_however_they_come(data: bytes, stream: bytes, replies: bytes) -> None:
    expected = (stream, replies, False, None)
    assert read(data) == expected
    if len(data) < 1_000:
        assert read(data, 1) == expected
    for at in {*range(min(20, len(data))), *range(max(0, len(data) - 20), len(data))}:
        assert read(data, at, len(data)) == expected, at


BAD = [
    pytest.param(frame(b"hello", masked=False), 1002, id="not masked"),
    pytest.param(frame(b"hello", 0xC2), 1002, id="reserved bit"),
    pytest.param(frame(b"hello", 0x83), 1002, id="unknown opcode"),
    pytest.param(frame(b"", 0x09), 1002, id="fragmented ping"),
    pytest.param(frame(b"x" * 126, 0x89), 1002, id="long ping"),
    pytest.param(frame(b"x", 0x80), 1002, id="continuation of nothing"),
    pytest.param(frame(b"x", 0x02) + frame(b"y"), 1002, id="message inside a message"),
    pytest.param(frame(b"x", 0x02) + frame(b"y", 0x81), 1002, id="text inside a message"),
    pytest.param(b"\x82\xfe\x00\x7d" + bytes(4 + 125), 1002, id="16-bit length for a short one"),
    pytest.param(b"\x82\xff" + (65_535).to_bytes(8, "big"), 1002, id="64-bit length for a short one"),
    pytest.param(b"\x82\xff" + ((1 << 63) + 70_000).to_bytes(8, "big"), 1009, id="highest bit of the length"),
    pytest.param(b"\x82\xff" + (LIMIT + 1).to_bytes(8, "big"), 1009, id="over the limit, header only"),
    pytest.param(frame(b"x" * 60_000, 0x02) + frame(b"y" * 60_000, 0x80)[:10], 1009, id="fragments over the limit"),
    pytest.param(frame(b"\xff", 0x81), 1007, id="text that is not UTF-8"),
    pytest.param(frame(b"\xc3", 0x01) + frame(b"x", 0x80), 1007, id="fragmented text that is not UTF-8"),
    pytest.param(frame(b"\x03", 0x88), 1002, id="close with half a code"),
    pytest.param(frame((999).to_bytes(2, "big"), 0x88), 1002, id="close code below 1000"),
    pytest.param(frame((1005).to_bytes(2, "big"), 0x88), 1002, id="close code that may not travel"),
    pytest.param(frame((1016).to_bytes(2, "big"), 0x88), 1002, id="close code without a meaning"),
    pytest.param(frame(b"\x03\xe8\xff", 0x88), 1007, id="close reason that is not UTF-8"),
]


@pytest.mark.parametrize(("bad", "code"), BAD)
def test_bad_frames_end_with_a_code_and_what_came_before_counts(bad: bytes, code: int) -> None:
    data = frame(b"good") + frame(b"p", 0x89) + bad + frame(b"never seen")
    for sizes in ((), (1,), (7, 11)):
        stream, replies, is_closed, fault = read(data, *sizes)
        assert (stream, replies, is_closed, fault) == (b"good", b"\x8a\x01p", True, code)


@pytest.mark.parametrize("body", [b"", (1000).to_bytes(2, "big"), (4999).to_bytes(2, "big") + "bye é".encode()])
def test_a_close_is_answered_with_its_code_and_ends_the_stream(body: bytes) -> None:
    data = frame(b"good") + frame(body, 0x88) + frame(b"never seen")
    expected = (b"good", bytes((0x88, len(body[:2]))) + body[:2], True, None)
    assert read(data) == expected
    assert read(data, 1) == expected


def test_an_idle_reader_holds_no_buffer() -> None:
    reader = FrameReader(limit_bytes=LIMIT)
    data = frame(b"x" * 50_000, 0x02) + frame(b"y", 0x80)
    reader.receive_data(data[:-3])
    assert reader.buffered_bytes > 50_000
    assert reader.receive_data(data[-3:]) == b"x" * 50_000 + b"y"
    assert reader.buffered_bytes == 0


def test_random_cuts_give_the_same_stream() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(200):
        bodies = [chance.randbytes(chance.choice((0, 1, 5, 125, 126, 300, 2000))) for _ in range(6)]
        data = b"".join(map(frame, bodies))
        sizes = [chance.randrange(1, 400) for _ in range(40)]
        assert read(data, *sizes) == (b"".join(bodies), b"", False, None)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 1000])
def test_unmasking_twice_gives_the_same_bytes(size: int) -> None:
    body = random.Random(size).randbytes(size)
    mask = b"\x01\x80\xff\x7e"
    masked = unmask(mask, body)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))
    assert unmask(mask, masked) == body


@pytest.mark.parametrize(
    ("first", "size", "header"),
    [
        (BINARY, 0, "8200"),
        (TEXT, 125, "817d"),
        (BINARY, 126, "827e007e"),
        (BINARY, 65_535, "827effff"),
        (TEXT, 65_536, "817f0000000000010000"),
    ],
)
def test_headers_have_the_shortest_length(first: int, size: int, header: str) -> None:
    assert frame_header(first, size).hex() == header


def test_a_close_frame_carries_its_code() -> None:
    assert close_frame(1013).hex() == "880203f5"
