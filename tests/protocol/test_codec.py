from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.cases import VERSIONS, packet_of, packets, rows, type_of, vectors
from wukong.errors import ProtocolError
from wukong.protocol.codec import (
    BODY_LIMIT_BYTES,
    EncodeError,
    decode,
    decode_recvack,
    decode_send,
    encode,
    encode_length,
    encode_sendack,
    text_field,
)
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import (
    Connack,
    Connect,
    Disconnect,
    Event,
    Packet,
    PacketType,
    Recv,
    Recvack,
    Send,
    Sendack,
)

ROWS = rows()
IDS = [row["id"] for row in ROWS]


def read(frame: bytes, version: int) -> Packet:
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    read = decoder.next_frame()
    assert read is not None
    assert decoder.next_frame() is None
    assert decoder.buffered_bytes == 0
    return decode(read.frame_type, read.flags, read.body, version)


# Vectors -------------------------------------------------------------------------------------------------------------


def test_the_vectors_file_is_the_one_we_know() -> None:
    assert len(ROWS) == 295
    assert {row["packet"] for row in ROWS} == {kind.name for kind in PacketType}


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_frame_of_another_codec_is_read_field_by_field(row: dict[str, Any]) -> None:
    assert read(bytes.fromhex(row["hex"]), row["version"]) == packet_of(row)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_packet_is_written_byte_for_byte_as_another_codec_writes_it(row: dict[str, Any]) -> None:
    assert encode(packet_of(row), row["version"]).hex() == row["hex"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_body_cut_short_anywhere_is_an_error_or_a_shorter_rest_but_never_anything_else(row: dict[str, Any]) -> None:
    frame = bytes.fromhex(row["hex"])
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    whole = decoder.next_frame()
    assert whole is not None
    packet = decode(whole.frame_type, whole.flags, whole.body, row["version"])
    rest_bytes = len(getattr(packet, "payload", getattr(packet, "data", b"")))
    appended_bytes = 2 + len(packet.client_msg_no) if isinstance(packet, Sendack) and packet.client_msg_no else 0
    for cut in range(1, len(whole.body) + 1):
        body = whole.body[: len(whole.body) - cut]
        if cut <= max(rest_bytes, appended_bytes):
            decode(whole.frame_type, whole.flags, body, row["version"])
        else:
            with pytest.raises(ProtocolError):
                decode(whole.frame_type, whole.flags, body, row["version"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if type_of(row) not in (PacketType.SENDACK,)], ids=lambda r: r["id"]
)
def test_bytes_behind_the_last_field_are_ignored(row: dict[str, Any]) -> None:
    packet = packet_of(row)
    if isinstance(packet, Send | Recv | Event):
        return  # their last field is whatever is left
    frame = bytes.fromhex(row["hex"])
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    whole = decoder.next_frame()
    assert whole is not None
    assert decode(whole.frame_type, whole.flags, whole.body + b"\x09\x09", row["version"]) == packet


@pytest.mark.parametrize("row", [row for row in ROWS if row["packet"] == "SEND"], ids=lambda r: r["id"])
def test_the_short_way_to_a_send_gives_the_same_packet(row: dict[str, Any]) -> None:
    decoder = FrameDecoder()
    decoder.receive_data(bytes.fromhex(row["hex"]))
    frame = decoder.next_frame()
    assert frame is not None
    assert decode_send(frame.flags, frame.body, row["version"]) == packet_of(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row["packet"] == "RECVACK"], ids=lambda r: r["id"])
def test_the_short_way_to_a_recvack_gives_the_same_packet(row: dict[str, Any]) -> None:
    decoder = FrameDecoder()
    decoder.receive_data(bytes.fromhex(row["hex"]))
    frame = decoder.next_frame()
    assert frame is not None
    assert decode_recvack(frame.flags, frame.body, row["version"]) == packet_of(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row["packet"] == "SENDACK"], ids=lambda r: r["id"])
def test_the_short_way_to_write_a_sendack_gives_the_same_frame(row: dict[str, Any]) -> None:
    packet = packet_of(row)
    assert isinstance(packet, Sendack)
    short = encode_sendack(
        packet.flags, packet.message_id, packet.client_seq, packet.message_seq, packet.reason_code, row["version"]
    )
    if packet.client_msg_no:
        # Only v3 servers append it; without it the frame is the same but for the end.
        assert short[2:] == bytes.fromhex(row["hex"])[2 : len(short)]
    else:
        assert short.hex() == row["hex"]


def test_a_negative_time_difference_is_read_signed_where_javascript_reads_it_unsigned() -> None:
    for row in vectors()["disagreements"]:
        if row["packet"] == "CONNACK":
            packet = read(bytes.fromhex(row["hex"]), row["version"])
            assert isinstance(packet, Connack)
            assert packet.time_diff == -57


def test_a_version_5_send_with_the_stream_bit_has_no_stream_field() -> None:
    """The frame of that row promises 7 bytes more than the 1.2.3 encoder writes; what it wrote is read in full."""
    (row,) = (row for row in vectors()["disagreements"] if row["packet"] == "SEND")
    frame = bytes.fromhex(row["hex"])
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    assert decoder.next_frame() is None
    packet = decode_send(0, frame[2:], 5)
    assert (packet.setting, packet.client_seq, packet.client_msg_no, packet.stream_no) == (2, 3, "cmn-4", "")
    assert (packet.channel_id, packet.payload) == ("bob", b"x")
    ours = encode(packet, 5)
    assert ours[1] == len(ours) - 2
    assert ours[2:] == frame[2:]


@pytest.mark.parametrize("producer", ["js-1.0.4", "js-1.3.5"])
def test_primitive_types_have_the_form_the_sdks_write(producer: str) -> None:
    primitives = vectors()["primitives"][producer]
    for case in primitives["remaining_length"]:
        if case["value"]:  # a length of 0 cannot happen
            assert encode_length(case["value"]).hex() == case["hex"]
    for case in primitives["strings"]:
        assert text_field(case["value"]).hex() == case["hex"]
    for case in primitives["int64"]:
        value = int(case["value"])
        frame = encode(Connect(5, "u", client_timestamp=min(value, (1 << 63) - 1)), 5)
        ours = frame[11:19].hex()
        # JavaScript loses everything beyond 2^53; we do not.
        assert ours == (case["hex"] if value < 1 << 53 else "7fffffffffffffff")
    for case in primitives["fixed_header"]:
        bits = {"no_persist": 1, "red_dot": 2, "sync_once": 4, "dup": 8}
        flags = sum(bits[name] for name, on in case["flags"].items() if on)
        assert encode(Sendack(flags, 1, 1, 1, 1), 5)[:1].hex() == case["first_byte_hex"]


@pytest.mark.parametrize("setting", range(256))
def test_every_setting_bit_survives_also_those_that_mean_nothing_to_us(setting: int) -> None:
    for version in VERSIONS:
        send = Send(0, setting, 1, "cmn", "bob", 1, payload=b"x")
        packet = read(encode(send, version), version)
        assert isinstance(packet, Send)
        assert packet.setting == setting
        assert packet.payload == b"x"


# Round trips ---------------------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(VERSIONS))
@settings(max_examples=600, deadline=None)
def test_what_is_written_is_read_back(data: st.DataObject, version: int) -> None:
    packet = data.draw(packets(version))
    assert read(encode(packet, version), version) == packet


@given(st.integers(1, 12), st.integers(0, 15), st.binary(max_size=80), st.sampled_from(VERSIONS))
@settings(max_examples=1500, deadline=None)
def test_any_bytes_are_a_packet_or_a_protocol_error(frame_type: int, flags: int, body: bytes, version: int) -> None:
    try:
        packet = decode(frame_type, flags, body, version)
    except ProtocolError:
        return
    again = read(encode(packet, version), version)
    assert again == packet


@given(st.integers(1, (1 << 28) - 1))
@settings(deadline=None)
def test_a_remaining_length_is_base_128_with_the_least_group_first(value: int) -> None:
    encoded = encode_length(value)
    assert sum((byte & 0x7F) << 7 * index for index, byte in enumerate(encoded)) == value
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80
    assert len(encoded) == 1 or encoded[-1], "the shortest form"


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_type", [0, 13, 14, 15, 16, -1])
def test_types_without_a_meaning_are_refused(frame_type: int) -> None:
    with pytest.raises(ProtocolError, match="does not exist"):
        decode(frame_type, 0, b"\x00", 5)


@pytest.mark.parametrize(
    ("name", "frame_type", "body"),
    [
        ("CONNECT device_id", 1, "05 00 8000"),
        ("CONNECT uid", 1, "05 00 0000 8000"),
        ("CONNACK server_key", 2, "0000000000000000 01 8000"),
        ("SEND client_msg_no", 3, "00 00000001 8000"),
        ("SEND channel_id", 3, "00 00000001 0000 8000"),
        ("SEND msg_key", 3, "00 00000001 0000 0000 01 00000000 8000"),
        ("SEND topic", 3, "08 00000001 0000 0000 01 00000000 0000 8000"),
        ("RECV msg_key", 5, "00 8000"),
        ("DISCONNECT reason", 9, "0c 8000"),
        ("SUB sub_no", 10, "00 8000"),
        ("SUBACK sub_no", 11, "8000"),
        ("EVENT id", 12, "8000"),
    ],
)
def test_a_string_count_with_the_top_bit_is_refused_even_if_the_bytes_are_there(
    name: str, frame_type: int, body: str
) -> None:
    with pytest.raises(ProtocolError):
        decode(frame_type, 0, bytes.fromhex(body) + b"a" * 0x8000 + bytes(64), 5)


def test_the_longest_string_is_accepted() -> None:
    packet = Send(0, 0, 1, "m" * 32767, "c" * 32767, 1, 0, "k" * 32767)
    assert read(encode(packet, 5), 5) == packet


@pytest.mark.parametrize("version", VERSIONS)
def test_text_that_is_not_utf_8_is_refused(version: int) -> None:
    for packet in (
        Connect(5, "u?"),
        Send(0, 0, 1, "c?", "bob", 1),
        Send(0, 0, 1, "c", "b?b", 1),
        Recv(0, 0, "", "a?", "b", 1, "", 1, 1, 1),
        Disconnect(12, "?"),
        Event("?", "t", 1),
    ):
        frame = encode(packet, version)
        with pytest.raises(ProtocolError, match="cannot be read"):
            read(frame.replace(b"?", b"\xff"), version)


@pytest.mark.parametrize(
    "packet",
    [
        Send(0, 0, 1, "m" * 32768, "bob", 1),
        Send(0, 0, 1, "\u4f60" * 10923, "bob", 1),
        Send(0, 0, 1 << 32, "m", "bob", 1),
        Send(0, 256, 1, "m", "bob", 1),
        Send(16 << 4, 0, 1, "m", "bob", 1),
        Send(0, 0, 1, "\ud800", "bob", 1),
        Send(0, 0, 1, "m", "bob", 1, payload=bytes(BODY_LIMIT_BYTES)),
        Sendack(0, 1 << 63, 1, 1, 1),
        Sendack(0, 1, 1, 1 << 32, 1),
        Recv(0, 0, "", "a", "b", 1, "", 1, 1 << 32, 1),
        Recv(0, 0, "", "a", "b", 1, "", 1, 1, 1 << 31),
        Recv(0, 0, "", "\ud800", "b", 1, "", 1, 1, 1),
        Recvack(0, 1, 1 << 32),
        Connack(300),
    ],
    ids=lambda packet: repr(packet)[:40],
)
def test_a_packet_that_does_not_fit_is_the_callers_error(packet: Packet) -> None:
    with pytest.raises(EncodeError):
        encode(packet, 5)


def test_a_message_seq_beyond_32_bits_fits_from_version_6_on() -> None:
    packet = Sendack(0, 1, 1, 1 << 32, 1)
    assert read(encode(packet, 6), 6) == packet
    assert encode_sendack(0, 1, 1, 1 << 32, 1, 6) == encode(packet, 6)
    with pytest.raises(EncodeError):
        encode_sendack(0, 1, 1, 1 << 32, 1, 5)
    with pytest.raises(EncodeError):
        encode_length(1 << 28)
