"""The frame codec. What is on the wire is written out in wukong/links/frames.py."""

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong.errors import FrameTooLarge
from wukong.links.frames import (
    ARRAY_HEADER_BYTES,
    TAG_BYTES,
    FrameReader,
    Malformed,
    Opener,
    Sealer,
    Unauthentic,
    encode_message,
    frame,
    join_messages,
    split_messages,
)

KEY = bytes(range(32))

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
values = leaves | st.binary(max_size=300)
flat = st.lists(values, max_size=4) | st.dictionaries(st.text() | st.binary(), values, max_size=4)
bodies = values | flat | st.lists(flat, max_size=3) | st.dictionaries(st.text(), flat, max_size=3)
messages = st.tuples(st.integers(0, 255), st.integers(0, 65_535), bodies)


def read_in_pieces(data: bytes, cuts: list[int], limit_bytes: int = 1 << 20) -> list[bytes]:
    reader = FrameReader(limit_bytes)
    found = []
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    start = 0
    for end in ends:
        reader.receive(data[start:end])
        start = end
        while (body := reader.next_frame()) is not None:
            found.append(bytes(body))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(messages, max_size=20), max_size=5), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_messages_survive_sealing_and_any_cutting_of_the_stream(
    frames: list[list[tuple[int, int, Any]]], cuts: list[int]
) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    stream = b"".join(b"".join(sealer.seal(join_messages([encode_message(*m) for m in each]))) for each in frames)
    read = [split_messages(opener.open(body)) for body in read_in_pieces(stream, cuts)]
    assert read == frames


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2_000), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_random_bytes_are_a_frame_too_large_or_more_bytes_needed(data: bytes, cuts: list[int]) -> None:
    try:
        for body in read_in_pieces(data, cuts, 1_000):
            with pytest.raises(Unauthentic):
                Opener(KEY).open(body)
    except FrameTooLarge as fault:
        assert fault.limit_bytes == 1_000 < fault.body_bytes


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | messages.map(msgspec.msgpack.encode))
def test_any_authentic_bytes_are_messages_or_malformed(body: bytes) -> None:
    try:
        found = split_messages(body)
    except Malformed:
        return
    assert all(isinstance(kind, int) and isinstance(group, int) for kind, group, _ in found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90\x90",  # more than one value
        b"\x93\x01\x01\xc0",  # one message instead of an array of them
        b"\x91\x92\x01\x01",
        b"\x91\x93\xff\x01\xc0",  # negative kind
        b"\x91\x93\x01\xd2\xff\xff\xff\xff\xc0",  # negative group
        b"\x91\x93\x01\xd2\x00\x01\x00\x00\xc0",  # group 65536
        b"\x91\x93\x01\x01\xa2\xff\xff",  # a text that is none
        b"\x91\x93\x01\x01\x81\x81\x01\x01\x01",  # a map as the key of a map
        b"\xdd\xff\xff\xff\xff",  # four milliard messages follow
        b"\x91\x93\x01\x01\xdf\xff\xff\xff\xff",
        b"\x91\x93\x01\x01\xc6\xff\xff\xff\xff",
        b"\x91\x93\x01\x01" + b"\x91" * 100_000,  # nested deeply
    ],
)
def test_nonsense_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        split_messages(body)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_any_number_of_messages_shares_a_frame(count: int) -> None:
    body = join_messages([encode_message(1, 2, b"")] * count)
    assert len(body) <= count * len(encode_message(1, 2, b"")) + ARRAY_HEADER_BYTES
    assert split_messages(body) == [(1, 2, b"")] * count


def test_a_frame_with_any_bit_flipped_does_not_open() -> None:
    header, sealed = Sealer(KEY).seal(join_messages([encode_message(1, 2, b"pay 100 to alice")]))
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unauthentic):
            Opener(KEY).open(bytes(flipped))
    assert int.from_bytes(header, "big") == len(sealed)
    assert split_messages(Opener(KEY).open(sealed)) == [(1, 2, b"pay 100 to alice")]


def test_a_frame_cut_short_or_made_longer_does_not_open() -> None:
    _, sealed = Sealer(KEY).seal(b"\x90")
    for wrong in (*(sealed[:end] for end in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(Unauthentic):
            Opener(KEY).open(wrong)


def test_frames_open_once_in_their_order_and_with_their_key_only() -> None:
    sealer = Sealer(KEY)
    first, second, third = (sealer.seal(join_messages([]))[1] for _ in range(3))
    for order in ((first, first), (second,), (first, third), (first, second, second), (first, second, first)):
        opener = Opener(KEY)
        for sealed in order[:-1]:
            opener.open(sealed)
        with pytest.raises(Unauthentic):
            opener.open(order[-1])
    with pytest.raises(Unauthentic):
        Opener(os.urandom(32)).open(first)


def test_equal_bodies_never_look_equal_and_cannot_be_read_on_the_wire() -> None:
    sealer = Sealer(KEY)
    assert len({sealer.seal(b"secret words")[1] for _ in range(100)}) == 100
    assert b"secret" not in sealer.seal(b"secret words" * 100)[1]


def test_a_length_over_the_limit_is_refused_before_the_body_comes() -> None:
    reader = FrameReader(100)
    reader.receive(frame(bytes(100)) + (101).to_bytes(4, "big"))
    body = reader.next_frame()
    assert body is not None and len(body) == 100
    with pytest.raises(FrameTooLarge):
        reader.next_frame()


def test_the_limit_may_change_between_two_frames_of_one_read() -> None:
    reader = FrameReader(10)
    reader.receive(frame(bytes(10)) + frame(bytes(1_000)))
    assert reader.next_frame() == bytes(10)
    reader.limit_bytes = 1_000
    assert reader.next_frame() == bytes(1_000)
    assert reader.next_frame() is None


def test_a_frame_that_trickles_in_is_kept_in_few_pieces() -> None:
    reader = FrameReader(100_000)
    for byte in frame(bytes(20_000)):
        assert reader.next_frame() is None
        reader.receive(bytes([byte]))
        assert len(reader._chunks) < 1_024
    assert reader.next_frame() == bytes(20_000)


def test_a_sealed_frame_is_as_long_as_stated() -> None:
    header, sealed = Sealer(KEY).seal(bytes(50))
    assert len(header) == 4
    assert len(sealed) == 50 + TAG_BYTES
