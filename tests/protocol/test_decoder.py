import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.cases import rows, vectors
from wukong.errors import FrameTooLarge, ProtocolError
from wukong.protocol.codec import decode, encode
from wukong.protocol.decoder import FRAME_LIMIT_BYTES, Frame, FrameDecoder
from wukong.protocol.packets import Ping, Recvack, Send

FRAMES = [bytes.fromhex(row["hex"]) for row in rows()]


def frames_of(*reads: bytes) -> list[Frame]:
    decoder = FrameDecoder()
    frames = []
    for data in reads:
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    return frames


def one(frame: bytes) -> Frame:
    (read,) = frames_of(frame)
    return read


@pytest.mark.parametrize("frame", FRAMES, ids=[row["id"] for row in rows()])
def test_a_frame_comes_out_the_same_whole_cut_anywhere_and_byte_by_byte(frame: bytes) -> None:
    whole = one(frame)
    assert (whole.frame_type, whole.flags) == (frame[0] >> 4, frame[0] & 0x0F)
    assert frame.endswith(whole.body)
    for cut in range(1, len(frame)):
        assert frames_of(frame[:cut], frame[cut:]) == [whole]
    assert frames_of(*(frame[at : at + 1] for at in range(len(frame)))) == [whole]


def test_all_frames_in_one_read_come_out_in_order() -> None:
    assert frames_of(b"".join(FRAMES)) == [one(frame) for frame in FRAMES]


@given(st.lists(st.sampled_from(FRAMES), max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_the_stream_may_be_cut_anywhere(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    ends = [*cuts, len(stream)]
    reads = [stream[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    assert frames_of(*reads) == [one(frame) for frame in frames]


@given(st.binary(max_size=200), st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_the_same_frames_and_the_same_error_however_they_are_cut(
    stream: bytes, data: st.DataObject
) -> None:
    def outcome(reads: list[bytes]) -> list[Any]:
        decoder = FrameDecoder()
        seen: list[Any] = []
        try:
            for read in reads:
                decoder.receive_data(read)
                while (frame := decoder.next_frame()) is not None:
                    seen.append(frame)
        except ProtocolError as error:
            seen.append(str(error))
        return seen

    cut = data.draw(st.integers(0, len(stream)))
    assert outcome([stream]) == outcome([stream[:cut], stream[cut:]])
    assert outcome([stream]) == outcome([stream[at : at + 1] for at in range(len(stream))])


@pytest.mark.parametrize(
    "row",
    [row for row in vectors()["framing"] if "frames_hex" in row],
    ids=lambda row: f"{row['producer']}-{row['version']}-{row['case']}",
)
def test_frames_come_out_however_websocket_messages_cut_them(row: dict[str, Any]) -> None:
    """Where the old JavaScript SDK loses frames that share a message, we read all of them."""
    reads = [bytes.fromhex(data) for data in row["frames_hex"]]
    frames = frames_of(*reads)
    assert frames == frames_of(b"".join(reads))
    packets = [decode(frame.frame_type, frame.flags, frame.body, row["version"]) for frame in frames]
    assert b"".join(encode(packet, row["version"]) for packet in packets) == b"".join(reads)
    assert len(packets) >= len(set(row["acknowledged_message_ids"]))


# Bad input -----------------------------------------------------------------------------------------------------------

# What the table of wkproto.md, section 8 demands for each row of bad_frames: an error, frames, or waiting.
EXPECTED_OF_BAD_FRAMES: dict[str, str | int] = {
    "type 0": "packet type 0 does not exist",
    "type 13": "packet type 13 does not exist",
    "type 15, body incomplete": "packet type 15 does not exist",
    "RECVACK too short for its fields": "RECVACK cannot be read",
    "RECVACK with trailing bytes": 1,
    "SEND with a string length beyond the frame": "SEND cannot be read",
    "string length with the top bit set (0x8001)": "string of 32769 bytes",
    "remaining length of 4 continuation bytes": "more than four bytes",
    "non-minimal remaining length (0x8c 0x00 for 12)": 1,
    "PING with flag bits": 1,
    "PING PING": 2,
    "first byte only": 0,
    "remaining length 1 MiB + 1, whole body present": "over the limit of 1048576",
    "remaining length 1 MiB + 1, body absent": "over the limit of 1048576",
    "zero remaining length SEND": "without a body",
}


@pytest.mark.parametrize("row", vectors()["bad_frames"], ids=lambda row: row["what"])
def test_bad_frames_close_at_once_and_odd_ones_are_read(row: dict[str, Any]) -> None:
    frame = bytes.fromhex(row["hex"]) if "hex" in row else b"\x30\x81\x80\x40" + bytes((1 << 20) + 1)
    expected = EXPECTED_OF_BAD_FRAMES[row["what"]]
    if isinstance(expected, int):
        assert len([decode(read.frame_type, read.flags, read.body, 5) for read in frames_of(frame)]) == expected
        return
    for reads in ([frame], [frame[at : at + 1] for at in range(min(len(frame), 64))]):
        with pytest.raises(ProtocolError, match=expected):
            for read in frames_of(*reads):
                decode(read.frame_type, read.flags, read.body, 5)


def test_every_bad_row_has_its_expectation() -> None:
    assert {row["what"] for row in vectors()["bad_frames"]} == set(EXPECTED_OF_BAD_FRAMES)


@pytest.mark.parametrize("first", [0x00, 0x0F, 0xD0, 0xE1, 0xFF])
def test_a_type_without_a_meaning_is_refused_at_its_first_byte(first: int) -> None:
    decoder = FrameDecoder()
    decoder.receive_data(bytes((first,)))
    with pytest.raises(ProtocolError, match="does not exist"):
        decoder.next_frame()


@pytest.mark.parametrize("frame_type", [1, 2, 3, 4, 5, 6, 9, 10, 11, 12])
@pytest.mark.parametrize("length", ["00", "8000", "808000", "80808000"])
def test_a_length_of_zero_is_refused_in_any_form(frame_type: int, length: str) -> None:
    with pytest.raises(ProtocolError, match="without a body"):
        frames_of(bytes((frame_type << 4,)) + bytes.fromhex(length))


def test_frames_before_a_bad_one_still_come_out_and_the_error_is_final() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(encode(Recvack(0, 1, 2), 5) + b"\x70" + b"\xd0\x01\x00")
    assert decoder.next_frame() == one(encode(Recvack(0, 1, 2), 5))
    assert decoder.next_frame() == Frame(7, 0, b"")
    for _ in range(2):
        with pytest.raises(ProtocolError):
            decoder.next_frame()


def test_a_frame_over_the_limit_is_refused_when_its_header_is_complete() -> None:
    decoder = FrameDecoder(limit_bytes=300)
    decoder.receive_data(b"\x30\xad")
    assert decoder.next_frame() is None
    decoder.receive_data(b"\x02")
    with pytest.raises(FrameTooLarge) as caught:
        decoder.next_frame()
    assert (caught.value.body_bytes, caught.value.limit_bytes) == (301, 300)


def test_a_frame_of_exactly_the_limit_is_read() -> None:
    body = bytes(FRAME_LIMIT_BYTES)
    frame = b"\x30\x80\x80\x40" + body
    assert one(frame).body == body
    assert frames_of(frame[:100_000], frame[100_000:700_000], frame[700_000:])[0].body == body


def test_the_limit_may_be_raised_between_frames() -> None:
    decoder = FrameDecoder(limit_bytes=10)
    send = encode(Send(0, 0, 1, "cmn", "bob", 1), 5)
    decoder.receive_data(b"\x70" + send)
    assert decoder.next_frame() is not None
    decoder.limit_bytes = 100
    assert decoder.next_frame() == one(send)


# Buffers -------------------------------------------------------------------------------------------------------------


def test_an_empty_decoder_holds_no_buffer() -> None:
    decoder = FrameDecoder()
    before = sys.getsizeof(decoder)
    for data in (FRAMES[0][:5], FRAMES[0][5:] + encode(Ping(), 5)):
        decoder.receive_data(data)
        while decoder.next_frame() is not None:
            pass
    assert decoder.buffered_bytes == 0
    assert (decoder._partial, decoder._chunk) == (None, b"")
    assert sys.getsizeof(decoder) == before < 100


def test_an_incomplete_frame_does_not_keep_the_read_that_brought_it() -> None:
    decoder = FrameDecoder()
    send = encode(Send(0, 0, 1, "cmn", "bob", 1, payload=bytes(1000)), 5)
    decoder.receive_data(send * 50 + send[:10])
    while decoder.next_frame() is not None:
        pass
    assert decoder.buffered_bytes == 10
    assert decoder._chunk == b""


def test_reads_may_come_before_the_earlier_ones_are_drained() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(FRAMES[0] + FRAMES[1][:3])
    decoder.receive_data(FRAMES[1][3:])
    assert decoder.buffered_bytes == len(FRAMES[0] + FRAMES[1])
    assert [decoder.next_frame(), decoder.next_frame()] == [one(FRAMES[0]), one(FRAMES[1])]
    assert decoder.next_frame() is None
