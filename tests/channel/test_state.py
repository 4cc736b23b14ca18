"""Rows, keys and the working set."""

import pytest

from tests.channel.slot import Slot
from tests.channel.world import CHANNELS, UIDS
from wukong.channel.commands import Append, PutChannel
from wukong.channel.ids import ChannelId
from wukong.channel.state import Head, State, after, channel_part, encode, part, read_channel_part, seq_part
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"a\x00", b"a\x01"), (b"a\xfe", b"a\xff")],
)
def test_the_key_after_a_prefix_is_the_first_behind_all_that_begin_with_it(prefix: bytes, expected: bytes) -> None:
    assert after(prefix) == expected
    assert prefix + b"\xff" * 9 < after(prefix)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_is_read_back_from_the_middle_of_a_key(channel: ChannelId) -> None:
    key = b"before" + channel_part(channel) + b"behind"
    assert read_channel_part(key, 6) == (channel, len(key) - 6)


def test_parts_of_different_ids_are_never_prefixes_of_one_another() -> None:
    parts = {part(uid) for uid in UIDS} | {channel_part(channel) for channel in CHANNELS}
    assert not [(a, b) for a in parts for b in parts if a != b and b.startswith(a)]


def test_seqs_sort_as_numbers() -> None:
    seqs = [0, 1, 9, 10, 255, 256, 65_536, 1 << 32, (1 << 64) - 1]
    assert sorted(map(seq_part, seqs)) == list(map(seq_part, seqs))


def channels_of(slot: Slot, uid: str) -> list[str]:
    return [channel.id for channel in slot.state.channels_of(uid)]


def test_channels_of_a_user_in_slices() -> None:
    slot = Slot()
    names = [f"g{n}" for n in range(7)]
    for name in names:
        slot.do(PutChannel(ChannelId(2, name), None, ["u", "ux"]))
    found: list[ChannelId] = []
    start = b""
    while page := slot.state.channels_of("u", start=start, limit=3):
        found += page
        start = channel_part(page[-1]) + b"\x00"
    assert [channel.id for channel in found] == names == channels_of(slot, "ux")
    assert channels_of(slot, "") == channels_of(slot, "v") == []


def heads(limit: int) -> tuple[State, list[bytes]]:
    overlay = Overlay(MemoryStore())
    state = State(1, overlay.view(b"x"), head_limit=limit)
    parts = [channel_part(ChannelId(2, f"g{n}")) for n in range(5)]
    for at, part_ in enumerate(parts):
        state.put_head(part_, Head(last_seq=at))
    return state, parts


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
def test_the_working_set_keeps_its_limit_and_changes_nothing(limit: int) -> None:
    state, parts = heads(limit)
    for part_ in parts * 2:
        head = state.head(part_)
        assert head is not None
        head.last_seq += 10
        state.put_head(part_, head)
    assert len(state._heads) == min(limit, 5)
    assert [state.head(part_).last_seq for part_ in parts] == [20, 21, 22, 23, 24]  # type: ignore[union-attr]
    state.reload()
    assert [state.head(part_).last_seq for part_ in parts] == [20, 21, 22, 23, 24]  # type: ignore[union-attr]


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_a_head_written_over_one_in_memory_is_the_one_that_is_read(limit: int) -> None:
    state, parts = heads(limit)
    old = state.head(parts[0])
    state.head(parts[1])
    state.head(parts[0])
    state.put_head(parts[0], Head(last_seq=99))
    found = state.head(parts[0])
    assert found is not None and found.last_seq == 99 and found is not old


def test_a_slot_writes_no_row_for_a_refused_message() -> None:
    slot = Slot()
    slot.do(PutChannel(ChannelId(2, "g"), None, ["u"]))
    before = slot.rows()
    slot.do(Append(ChannelId(2, "g"), False, "stranger", b"hi", "n1"))
    after_ = slot.rows()
    assert {key[:1] for key in before.keys() | after_.keys() if before.get(key) != after_.get(key)} == {b"S", b"z"}


def test_a_head_that_is_only_looked_at_pushes_no_other_out() -> None:
    state, parts = heads(1)
    state.put_head(parts[0], Head(last_seq=3))
    kept = state.head(parts[0])
    state.put(b"h" + parts[1], encode(Head(last_seq=5)))
    found = state.peek_head(parts[1])
    assert found is not None and found.last_seq == 5
    assert state.peek_head(channel_part(ChannelId(2, "unknown"))) is None
    assert state.head(parts[0]) is state.peek_head(parts[0]) is kept
