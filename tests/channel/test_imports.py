"""What another server had, taken over: rows as if it had happened here, and nobody is told."""

from collections.abc import Callable

import msgspec
import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel.commands import (
    Append,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    PutChannel,
    RemoveMembers,
    Reply,
)
from wukong.channel.conversations import conversation, pending_commands
from wukong.channel.effects import FanOut, MembersChanged, Message
from wukong.channel.ids import ChannelId
from wukong.channel.imports import DIFFERS, FIRST_DIGEST, GAP, digest_of
from wukong.channel.members import member_uids
from wukong.channel.messages import (
    SNOWFLAKE_EPOCH_MS,
    message_by_id,
    message_by_number,
    messages_between,
    own_last_seq,
)
from wukong.channel.state import channel_part

GROUP = ChannelId(2, "old")
PAIR = ChannelId(1, "bob@alice")
PART = channel_part(GROUP)
NODE = 1_001 << 12


def message(seq: int, uid: str = "alice", text: str = "", *, milliseconds: int = 0, number: str = "") -> Message:
    """milliseconds: of its id, after the log's present."""
    message_id = (START_MS - SNOWFLAKE_EPOCH_MS + milliseconds) << 22 | NODE | seq % 4_096
    second = START_MS // 1000 - 1_000 + seq % 1_000
    return Message(message_id, seq, 2, 0x80, uid, number, second, (text or f"m{seq}").encode(), 60, "topic")


def imported(count: int = 5, channel: ChannelId = GROUP) -> Slot:
    slot = Slot()
    assert slot.do(ImportMessages(channel, False, [message(seq) for seq in range(1, count + 1)])).message_seq == count
    return slot


def read(slot: Slot, channel: ChannelId = GROUP) -> list[Message]:
    return messages_between(slot.state, channel_part(channel), is_cmd=False, first=1, last=1_000, limit=1_000)


# -- messages --


def test_messages_keep_seq_id_time_number_and_all_else() -> None:
    slot = Slot()
    messages = [message(1, number="n1"), message(2, "bob", number="n2")]
    assert slot.do(ImportMessages(GROUP, False, messages)) == Reply(message_seq=2)
    assert read(slot) == messages
    assert not slot.effects()


def test_they_go_on_where_the_log_ends() -> None:
    slot = imported(3)
    assert slot.do(ImportMessages(GROUP, False, [message(4), message(5)])) == Reply(message_seq=5)
    assert read(slot) == [message(seq) for seq in range(1, 6)]


@pytest.mark.parametrize("first", [5, 6, 1 << 62])
def test_a_gap_is_refused_and_changes_nothing(first: int) -> None:
    slot = imported(3)
    before = slot.rows()
    assert slot.do(ImportMessages(GROUP, False, [message(first)])) == Reply(GAP, message_seq=3)
    assert kept(slot) == without_stream(before)


def kept(slot: Slot) -> dict[bytes, bytes]:
    return without_stream(slot.rows())


def without_stream(rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: value for key, value in rows.items() if key[:1] not in b"Sz"}


@pytest.mark.parametrize("first", [1, 2, 5])
def test_what_is_there_may_come_again(first: int) -> None:
    slot = imported(5)
    before = slot.rows()
    assert slot.do(ImportMessages(GROUP, False, [message(seq) for seq in range(first, 6)])) == Reply(message_seq=5)
    assert kept(slot) == without_stream(before)
    overlapping = [message(seq) for seq in range(first, 8)]
    assert slot.do(ImportMessages(GROUP, False, overlapping)) == Reply(message_seq=7)
    assert read(slot) == [message(seq) for seq in range(1, 8)]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, payload=b"another"),
        lambda m: msgspec.structs.replace(m, message_id=m.message_id + 1),
        lambda m: msgspec.structs.replace(m, from_uid="mallory"),
        lambda m: msgspec.structs.replace(m, timestamp=m.timestamp + 1),
        lambda m: msgspec.structs.replace(m, flags=0),
    ],
)
def test_another_message_under_a_seq_is_refused_and_nothing_of_the_command_is_done(
    change: Callable[[Message], Message],
) -> None:
    slot = imported(3)
    before = slot.rows()
    messages = [message(1), change(message(2)), message(3), message(4)]
    assert slot.do(ImportMessages(GROUP, False, messages)) == Reply(DIFFERS, message_seq=2)
    assert kept(slot) == without_stream(before)


def test_a_channel_with_messages_of_its_own_is_refused() -> None:
    slot = Slot()
    slot.do(Append(GROUP, False, "alice", b"ours", trusted=True))
    before = slot.rows()
    assert slot.do(ImportMessages(GROUP, False, [message(1)])) == Reply(DIFFERS, message_seq=1)
    assert slot.do(ImportMessages(GROUP, False, [message(2)])) == Reply(DIFFERS, message_seq=1)
    assert kept(slot) == without_stream(before)


def test_nothing_is_put_behind_messages_that_followed_an_import() -> None:
    slot = imported(2)
    slot.do(Append(GROUP, False, "alice", b"ours", trusted=True))
    assert slot.do(ImportMessages(GROUP, False, [message(2), message(3)])) == Reply(DIFFERS, message_seq=3)
    assert slot.do(ImportMessages(GROUP, False, [message(4)])) == Reply(DIFFERS, message_seq=3)
    assert slot.do(ImportMessages(GROUP, False, [message(1), message(2)])) == Reply(message_seq=3)


def test_chat_and_commands_are_two_logs() -> None:
    slot = imported(2)
    assert slot.do(ImportMessages(GROUP, True, [message(1, text="do")])) == Reply(message_seq=1)
    assert slot.texts(GROUP) == ["m1", "m2"]
    assert slot.texts(GROUP, is_cmd=True) == ["do"]


def test_no_back_end_is_told() -> None:
    slot = Slot(webhook_on=True)
    slot.do(ImportMessages(GROUP, False, [message(1), message(2)]))
    slot.do(ImportMessages(GROUP, True, [message(1)]))
    slot.do(ImportMembers(GROUP, ["alice"]))
    slot.do(ImportChats(GROUP, [ImportedChat("alice", 1)]))
    assert not [key for key in slot.rows() if key[:1] == b"w"]
    assert slot.effects() == [MembersChanged(GROUP, ["alice"], [])]
    slot.do(Append(GROUP, False, "alice", b"new"))
    assert [key for key in slot.rows() if key[:1] == b"w"], "one sent here has a record"


# -- ids, times, numbers --


def test_ids_that_do_not_rise_are_found_and_so_are_those_that_follow() -> None:
    slot = Slot()
    ahead = [message(1, milliseconds=900), message(2, milliseconds=100), message(3, milliseconds=500)]
    slot.do(ImportMessages(GROUP, False, ahead))
    ours = [slot.do(Append(GROUP, False, "alice", b"ours", trusted=True)) for _ in range(4)]
    slot.restart()
    for each in [*ahead, *read(slot)]:
        assert message_by_id(slot.state, PART, each.message_id) == each
    assert [r.message_seq for r in ours] == [4, 5, 6, 7]
    for unknown in (1, ahead[0].message_id + 1, ours[-1].message_id + 1, (1 << 63) - 1, 1 << 64):
        assert message_by_id(slot.state, PART, unknown) is None


@pytest.mark.parametrize("milliseconds", [-1_000_000, 0, 5_000_000])
def test_new_ids_are_above_the_imported_ones_of_the_slot(milliseconds: int) -> None:
    slot = Slot()
    slot.do(Append(ChannelId(2, "other"), False, "alice", b"before", trusted=True))
    slot.do(ImportMessages(GROUP, False, [message(1, milliseconds=milliseconds), message(2)]))
    newest = max(each.message_id for each in read(slot))
    slot.restart()
    for channel in (GROUP, ChannelId(2, "other")):
        reply = slot.do(Append(channel, False, "alice", b"ours", trusted=True))
        assert reply.message_id > newest
        newest = reply.message_id


def test_seconds_of_a_channel_do_not_run_back_behind_an_import() -> None:
    slot = Slot()
    later = msgspec.structs.replace(message(1), timestamp=START_MS // 1000 + 50)
    slot.do(ImportMessages(GROUP, False, [later, message(2)]))
    assert slot.do(Append(GROUP, False, "alice", b"ours", trusted=True)).timestamp == START_MS // 1000 + 50


def test_an_imported_number_is_found_and_a_repeated_send_is_recognised() -> None:
    slot = Slot()
    slot.do(ImportMessages(GROUP, False, [message(1, number="n"), message(2, "bob", number="n")]))
    assert message_by_number(slot.state, PART, "n") == message(2, "bob", number="n")
    again = slot.do(Append(GROUP, False, "alice", b"m1", "n", trusted=True))
    assert (again.message_seq, again.duplicate) == (1, True)
    assert slot.do(Append(GROUP, False, "alice", b"else", "n", trusted=True)).message_seq == 3


def test_the_last_seq_of_each_sender_is_kept() -> None:
    slot = Slot()
    slot.do(ImportMessages(GROUP, False, [message(1), message(2, "bob"), message(3), message(4, "bob")]))
    assert [own_last_seq(slot.state, PART, uid) for uid in ("alice", "bob", "carol")] == [3, 4, 0]


# -- members and conversations --


def test_members_are_told_to_the_audience_and_get_what_follows() -> None:
    slot = imported()
    slot.do(ImportMembers(GROUP, ["alice", "bob", "", "alice"]))
    assert slot.effects() == [MembersChanged(GROUP, ["alice", "bob"], [])]
    assert member_uids(slot.state, PART) == ["alice", "bob"]
    row = slot.state.user(PART, "bob")
    assert row is not None and not row.chat
    assert (row.intervals[0].from_seq, row.intervals[0].from_cmd) == (0, 0), "it covers the imported past"
    assert slot.do(Append(GROUP, False, "alice", b"new")).reason == 1
    assert any(isinstance(effect, FanOut) for effect in slot.effects())


def test_members_may_come_again() -> None:
    slot = imported()
    slot.do(ImportMembers(GROUP, ["alice"]))
    slot.do(ImportChats(GROUP, [ImportedChat("alice", 2)]))
    before = slot.state.user(PART, "alice")
    slot.effects()
    slot.do(ImportMembers(GROUP, ["alice"]))
    assert slot.state.user(PART, "alice") == before
    assert not slot.effects()


def test_commands_of_the_past_do_not_come_again_and_later_ones_do() -> None:
    slot = Slot()
    slot.do(ImportMessages(GROUP, True, [message(1), message(2)]))
    slot.do(ImportMembers(GROUP, ["alice"]))
    assert pending_commands(slot.state, "alice", limit=9) == []
    slot.do(Append(GROUP, True, "bob", b"do", trusted=True))
    ((channel, found),) = pending_commands(slot.state, "alice", limit=9)
    assert (channel, [each.message_seq for each in found]) == (GROUP, [3])
    slot.do(RemoveMembers(GROUP, ["alice"]))
    assert len(pending_commands(slot.state, "alice", limit=9)) == 1


def unread(slot: Slot, channel: ChannelId, uid: str) -> int | None:
    found = conversation(slot.state, channel, uid, after_seq=0, unread_only=False, count=1)
    return None if found is None else found.unread


def test_an_import_of_messages_makes_no_conversation() -> None:
    slot = imported(3, PAIR)
    assert [unread(slot, PAIR, uid) for uid in ("alice", "bob")] == [None, None]
    slot.do(Append(PAIR, False, "alice", b"new"))
    assert unread(slot, PAIR, "bob") is None, "as there: only the first message makes one"


def test_persons_find_commands_in_an_imported_channel() -> None:
    slot = imported(3, PAIR)
    slot.do(Append(PAIR, True, "alice", b"do", trusted=True))
    assert [found[0] for found in pending_commands(slot.state, "bob", limit=9)] == [PAIR]


@pytest.mark.parametrize(("read_seq", "expected"), [(0, 5), (3, 2), (5, 0), (1_000, 0), ((1 << 63) - 1, 0)], ids=str)
def test_a_conversation_has_the_unread_messages_it_had(read_seq: int, expected: int) -> None:
    slot = imported(5)
    slot.do(ImportMembers(GROUP, ["bob"]))
    slot.do(ImportChats(GROUP, [ImportedChat("bob", read_seq)]))
    assert unread(slot, GROUP, "bob") == expected


def test_own_messages_count_as_read_behind_an_import() -> None:
    slot = imported(5)
    slot.do(ImportChats(GROUP, [ImportedChat("alice", 1)]))
    assert unread(slot, GROUP, "alice") == 0


def test_a_deleted_conversation_shows_nothing_until_the_next_message() -> None:
    slot = imported(5)
    slot.do(ImportMembers(GROUP, ["bob"]))
    slot.do(ImportChats(GROUP, [ImportedChat("bob", 2, 5)]))
    found = conversation(slot.state, GROUP, "bob", after_seq=0, unread_only=False, count=9)
    assert found is not None and found.messages == []
    slot.do(Append(GROUP, False, "alice", b"new", trusted=True))
    found = conversation(slot.state, GROUP, "bob", after_seq=0, unread_only=False, count=9)
    assert found is not None and [each.message_seq for each in found.messages] == [6]


def test_positions_never_move_back() -> None:
    slot = imported(5)
    slot.do(ImportMembers(GROUP, ["bob"]))
    slot.do(ImportChats(GROUP, [ImportedChat("bob", 4, 2)]))
    slot.do(ImportChats(GROUP, [ImportedChat("bob", 1, 1)]))
    row = slot.state.user(PART, "bob")
    assert row is not None and (row.read_seq, row.deleted_seq) == (4, 2)


def test_the_conversation_of_somebody_who_left_ends_with_the_import() -> None:
    slot = imported(5)
    slot.do(ImportChats(GROUP, [ImportedChat("gone", 3)]))
    slot.do(Append(GROUP, False, "alice", b"new", trusted=True))
    found = conversation(slot.state, GROUP, "gone", after_seq=0, unread_only=False, count=1)
    assert found is not None and (found.unread, found.last_seq) == (2, 5)
    slot.do(PutChannel(GROUP, None, ["gone"]))
    assert unread(slot, GROUP, "gone") == 0


# -- comparing --


def test_a_digest_may_be_taken_in_pieces_and_tells_every_difference() -> None:
    rows = [(1, 11, "alice", b"hi"), (2, 12, "", b""), (3, 13, "用户", b"\x00")]
    whole = digest_of(rows)
    assert digest_of(rows[2:], digest_of(rows[:2])) == whole
    assert digest_of([]) == FIRST_DIGEST
    others = [
        rows[:2],
        [rows[1], rows[0], rows[2]],
        [(1, 11, "alic", b"ehi"), *rows[1:]],
        [(1, 12, "alice", b"hi"), *rows[1:]],
        [(2, 11, "alice", b"hi"), *rows[1:]],
        [*rows[:2], (3, 13, "用户", b"\x01")],
    ]
    assert whole not in [digest_of(other) for other in others]
