"""Pairs as they travel: every cut of the bytes, every flipped one."""

import random

import pytest

from wukong.backup.rows import (
    END_FRAME,
    FRAME_LIMIT_BYTES,
    FrameDecoder,
    decode_pairs,
    encode_frame,
    encode_pairs,
    entry_pair,
    read_entry,
)
from wukong.errors import DataError, ProtocolError

PAIRS = [(b"key", b"value"), (b"", b""), (b"\0" * 300, b"x"), (b"k", b"")]


def test_pairs_come_back_as_they_were() -> None:
    assert decode_pairs(encode_pairs(PAIRS)) == PAIRS
    assert decode_pairs(b"") == []


def test_pairs_that_were_cut_are_refused_wherever_the_cut_is() -> None:
    data = encode_pairs(PAIRS)
    borders = {len(encode_pairs(PAIRS[:count])) for count in range(len(PAIRS) + 1)}
    for end in range(len(data)):
        if end in borders:
            continue
        with pytest.raises(DataError):
            decode_pairs(data[:end])


def test_an_entry_has_index_and_term() -> None:
    assert read_entry(entry_pair(7, 3, b"\0x")) == (7, 3, b"\0x")
    with pytest.raises(DataError):
        read_entry((b"short", b""))


@pytest.mark.parametrize("seed", range(5))
def test_frames_come_out_however_the_bytes_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    sent = [PAIRS[:count] for count in (1, 4, 2)]
    stream = b"".join(map(encode_frame, sent)) + END_FRAME
    decoder, found = FrameDecoder(), []
    while stream:
        size = rng.randrange(1, 40)
        decoder.receive(stream[:size])
        stream = stream[size:]
        while (data := decoder.next_frame()) is not None:
            found.append(decode_pairs(data))
    assert found == sent
    assert decoder.done


def test_an_answer_without_its_last_frame_is_not_done() -> None:
    decoder = FrameDecoder()
    decoder.receive(encode_frame(PAIRS))
    assert decoder.next_frame() is not None
    assert decoder.next_frame() is None
    assert not decoder.done


def test_changed_bytes_a_frame_too_large_and_a_tail_are_refused() -> None:
    frame = bytearray(encode_frame(PAIRS))
    frame[-1] ^= 1
    for stream in (
        bytes(frame),
        (FRAME_LIMIT_BYTES + 1).to_bytes(4, "little") + bytes(4),
        END_FRAME + b"x",
    ):
        decoder = FrameDecoder()
        decoder.receive(stream)
        with pytest.raises(ProtocolError):
            decoder.next_frame()
