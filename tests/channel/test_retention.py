"""Messages that go: what goes with them, what stays, how much at once. docs/retention.md."""

import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel import retention
from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    Erase,
    ImportMessages,
    PostEvent,
    PutChannel,
    PutRetention,
    Reply,
    RetentionPolicy,
    Retire,
    UpdateChat,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.effects import Freed, Message
from wukong.channel.events import meta_of
from wukong.channel.ids import ChannelId
from wukong.channel.messages import (
    ERASED_PAYLOAD,
    SNOWFLAKE_EPOCH_MS,
    message_by_id,
    message_by_number,
    messages_between,
    stored_message,
)
from wukong.channel.retention import MESSAGES_PER_COMMAND, first_seq, policies, policy_of
from wukong.channel.state import channel_part
from wukong.channel.webhooks import NOTIFY, pending

GROUP = ChannelId(2, "g")
PART = channel_part(GROUP)
ALL = 1 << 62


@pytest.fixture
def slot() -> Slot:
    slot = Slot()
    slot.do(PutChannel(GROUP, None, ["alice", "bob"]))
    return slot


def say(slot: Slot, text: str, number: str = "", *, uid: str = "alice", **more: object) -> Reply:
    reply = slot.do(Append(GROUP, more.pop("is_cmd", False), uid, text.encode(), number, trusted=True, **more))  # type: ignore[arg-type]
    assert reply.reason == 1
    return reply


def fill(slot: Slot, count: int) -> list[Reply]:
    return [say(slot, f"m{n}", f"n{n}", uid=("bob", "alice")[n % 2]) for n in range(1, count + 1)]


def rows_with(slot: Slot, letters: bytes) -> list[bytes]:
    return [key for key in slot.rows() if key[:1] in {bytes((letter,)) for letter in letters}]


def chat(slot: Slot, uid: str, count: int = 9) -> tuple[int, int, int, list[int]]:
    found = conversation(slot.state, GROUP, uid, after_seq=0, unread_only=False, count=count)
    assert found is not None
    return found.unread, found.read_seq, found.last_seq, [message.message_seq for message in found.messages]


# -- retiring --


def test_the_oldest_go_and_seqs_go_on_where_they_were(slot: Slot) -> None:
    fill(slot, 5)
    assert slot.do(Retire(GROUP, False, 3)).message_seq == 3
    assert slot.texts(GROUP) == ["m4", "m5"]
    assert first_seq(slot.state.head(PART)) == 4
    assert say(slot, "next").message_seq == 6


def test_nothing_is_left_that_only_the_retired_needed() -> None:
    bare, used = Slot(), Slot()
    for slot in (bare, used):
        slot.do(PutChannel(GROUP, None, ["alice", "bob"]))
    fill(used, 5)
    say(used, "for some", "c1", is_cmd=True, recipients=["alice", "dave"])
    say(used, "for all", "c2", is_cmd=True)
    used.do(PostEvent(GROUP, "n2", "main", "e", "stream.delta", 2, "g", text="so far"))
    used.do(PostEvent(GROUP, "n2", "log", "f", "stream.close", 4, "g", payload=b"{}"))
    used.do(Retire(GROUP, False, ALL))
    used.do(Retire(GROUP, True, ALL))
    assert used.rows().keys() == bare.rows().keys()
    assert used.state.slot_row.open_lanes == 0


def test_a_log_never_begins_earlier_again(slot: Slot) -> None:
    fill(slot, 5)
    slot.do(Retire(GROUP, False, 3))
    before = slot.rows()
    for upto in (0, 1, 3):
        assert slot.do(Retire(GROUP, False, upto)).message_seq == 3
    after = slot.rows()
    assert {key for key in before if before[key] != after[key]} <= {b"z", b"S\x00\x01"}


def test_no_message_that_is_not_there_yet_is_retired(slot: Slot) -> None:
    fill(slot, 2)
    assert [slot.do(Retire(GROUP, False, ALL)).message_seq for _ in range(2)] == [2, 2]
    assert say(slot, "later").message_seq == 3
    assert slot.texts(GROUP) == ["later"]


def test_a_channel_nobody_wrote_to_stays_unknown() -> None:
    slot = Slot()
    assert slot.do(Retire(GROUP, False, 9)) == Reply()
    assert slot.state.head(PART) is None


def test_one_command_takes_a_limited_number_of_messages(slot: Slot) -> None:
    count = MESSAGES_PER_COMMAND + 7
    fill(slot, count)
    assert slot.do(Retire(GROUP, False, ALL)).message_seq == MESSAGES_PER_COMMAND
    assert slot.do(Retire(GROUP, False, ALL)).message_seq == count


def test_one_command_deletes_a_limited_number_of_rows(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_COMMAND", 100)
    for n in range(3):
        say(slot, f"{n}", is_cmd=True, recipients=[f"u{at}" for at in range(100)])
    # Always one, however much belongs to it.
    assert [slot.do(Retire(GROUP, True, ALL)).message_seq for _ in range(3)] == [1, 2, 3]
    assert rows_with(slot, b"er") == []


def test_chat_and_commands_are_retired_by_themselves(slot: Slot) -> None:
    fill(slot, 2)
    say(slot, "do", is_cmd=True)
    slot.do(Retire(GROUP, True, ALL))
    assert (slot.texts(GROUP), slot.texts(GROUP, is_cmd=True)) == (["m1", "m2"], [])


def test_a_retired_message_is_found_by_nothing(slot: Slot) -> None:
    replies = fill(slot, 9)
    slot.do(Retire(GROUP, False, 6))
    state = slot.state
    assert stored_message(state, PART, False, 6) is None
    assert messages_between(state, PART, is_cmd=False, first=1, last=6, limit=9) == []
    for n, reply in enumerate(replies, 1):
        kept = stored_message(state, PART, False, n)
        assert (kept is not None) == (n > 6)
        assert message_by_id(state, PART, reply.message_id) == kept
        assert message_by_number(state, PART, f"n{n}") == kept


def test_no_reader_passes_by_what_was_retired(slot: Slot) -> None:
    fill(slot, 9)
    slot.do(Retire(GROUP, False, 6))
    starts = []
    scan = slot.state.scan

    def watched(start: bytes, *args: object, **more: object) -> list[tuple[bytes, bytes]]:
        starts.append(start)
        return scan(start, *args, **more)  # type: ignore[arg-type]

    slot.state.scan = watched
    messages_between(slot.state, PART, is_cmd=False, first=1, last=9, limit=99, newest=True)
    message_by_id(slot.state, PART, 12345)
    chat(slot, "bob")
    assert starts and all(start[-8:] >= (7).to_bytes(8, "big") for start in starts)


def test_a_number_of_a_retired_message_may_be_used_again(slot: Slot) -> None:
    say(slot, "hi", "n")
    slot.do(Retire(GROUP, False, 1))
    again = say(slot, "hi", "n")
    assert (again.message_seq, again.duplicate) == (2, False)


def test_a_number_that_a_newer_message_has_as_well_leads_to_that_one(slot: Slot) -> None:
    say(slot, "one", "n")
    say(slot, "two", "n")
    slot.do(PostEvent(GROUP, "n", "main", "e", "stream.delta", 2, "g", text="so far"))
    slot.do(Retire(GROUP, False, 1))
    assert say(slot, "two", "n").duplicate
    assert meta_of(slot.state, PART, "n") is not None
    slot.do(Retire(GROUP, False, 2))
    assert meta_of(slot.state, PART, "n") is None


def test_the_reply_of_an_unstored_message_outlives_the_stored_one_with_its_number(slot: Slot) -> None:
    say(slot, "stored", "n")
    unstored = say(slot, "passing", "n", flags=1)
    slot.do(Retire(GROUP, False, 1))
    again = say(slot, "passing", "n", flags=1)
    assert again.duplicate and again.message_id == unstored.message_id
    assert message_by_number(slot.state, PART, "n") is None
    slot.now_ms += 20 * 60_000
    for n in range(2):
        say(slot, "another", f"x{n}", flags=1)
    assert not [key for key in rows_with(slot, b"i") if key.endswith(b"\x00\x01nalice")], "the queue takes it"


def test_a_late_retirement_takes_what_the_queue_has_passed_by(slot: Slot) -> None:
    say(slot, "stored", "n")
    say(slot, "passing", "n", flags=1)
    slot.now_ms += 20 * 60_000
    for n in range(2):
        say(slot, "another", f"x{n}", flags=1)
    slot.do(Retire(GROUP, False, 1))
    assert not [key for key in rows_with(slot, b"i") if key.endswith(b"\x00\x01nalice")]


# -- what users see --


def test_unread_and_read_stay_while_the_unread_are_there(slot: Slot) -> None:
    for n in range(10):
        say(slot, f"m{n}")
    slot.do(UpdateChat(GROUP, "bob", 1, 4))
    assert chat(slot, "bob") == (4, 6, 10, [10, 9, 8, 7, 6, 5, 4, 3, 2])
    slot.do(Retire(GROUP, False, 6))
    assert chat(slot, "bob") == (4, 6, 10, [10, 9, 8, 7])


def test_what_is_gone_is_not_unread(slot: Slot) -> None:
    for n in range(10):
        say(slot, f"m{n}")
    slot.do(Retire(GROUP, False, 7))
    assert chat(slot, "bob") == (3, 7, 10, [10, 9, 8])
    slot.do(Retire(GROUP, False, 10))
    assert chat(slot, "bob") == (0, 10, 10, [])
    assert [channel for _, channel in conversations_of(slot.state, "bob")] == [GROUP]
    say(slot, "news")
    assert chat(slot, "bob") == (1, 10, 11, [11])


def test_a_senders_own_last_message_counts_as_read_when_it_is_gone_too(slot: Slot) -> None:
    say(slot, "mine", uid="bob")
    say(slot, "yours")
    say(slot, "yours too")
    slot.do(Retire(GROUP, False, 1))
    assert chat(slot, "bob", 0) == (2, 1, 3, [])
    slot.do(Retire(GROUP, False, 2))
    assert chat(slot, "bob", 0) == (1, 2, 3, [])


def test_a_command_that_is_gone_is_for_nobody_and_holds_up_none(slot: Slot) -> None:
    say(slot, "for all", is_cmd=True)
    say(slot, "for bob", is_cmd=True, recipients=["bob"])
    say(slot, "for bob again", is_cmd=True, recipients=["bob"])
    slot.do(Retire(GROUP, True, 2))
    texts = [[m.payload for m in found] for _, found in pending_commands(slot.state, "bob", limit=9)]
    assert texts == [[b"for bob again"]]
    slot.do(AdvanceCommands(GROUP, "bob", 3, contiguous=True))
    assert pending_commands(slot.state, "bob", limit=9) == []
    assert rows_with(slot, b"er") == []


def test_a_command_behind_retired_ones_is_the_next(slot: Slot) -> None:
    for text in ("one", "two", "three"):
        say(slot, text, is_cmd=True)
    slot.do(AdvanceCommands(GROUP, "bob", 2, contiguous=True))
    assert [len(found) for _, found in pending_commands(slot.state, "bob", limit=9)] == [3], "the first is open"
    slot.do(Retire(GROUP, True, 1))
    slot.do(AdvanceCommands(GROUP, "bob", 2, contiguous=True))
    [(_, found)] = pending_commands(slot.state, "bob", limit=9)
    assert [message.payload for message in found] == [b"three"]


def test_a_webhook_record_of_a_retired_message_has_none() -> None:
    slot = Slot(webhook_on=True)
    slot.do(PutChannel(GROUP, None, ["alice", "bob"]))
    fill(slot, 2)
    slot.do(Retire(GROUP, False, 1))
    assert [record.message is None for record in pending(slot.state, NOTIFY, limit=9)] == [True, False]
    slot.do(AdvanceWebhooks(NOTIFY, 2))
    assert pending(slot.state, NOTIFY, limit=9) == []


# -- imports --


def imported(seq: int, text: str = "old") -> Message:
    # Ids that do not rise.
    message_id = (START_MS - SNOWFLAKE_EPOCH_MS - 9_000 + (-1) ** seq * seq) << 22
    return Message(message_id, seq, 2, 0, "alice", f"o{seq}", START_MS // 1000 - 9, text.encode())


def test_imported_messages_go_with_their_index_and_an_import_may_come_again() -> None:
    slot = Slot()
    messages = [imported(seq) for seq in range(1, 6)]
    slot.do(ImportMessages(GROUP, False, messages))
    slot.do(Retire(GROUP, False, 3))
    assert len(rows_with(slot, b"j")) == 1 + 2
    for message in messages:
        found = message_by_id(slot.state, PART, message.message_id)
        assert found == (message if message.message_seq > 3 else None)
    assert slot.do(ImportMessages(GROUP, False, messages)) == Reply(message_seq=5)
    assert slot.texts(GROUP) == ["old", "old"]
    assert slot.do(ImportMessages(GROUP, False, [imported(6)])).reason == 1


def test_an_import_does_not_bring_back_what_was_erased() -> None:
    slot = Slot()
    messages = [imported(seq) for seq in range(1, 4)]
    slot.do(ImportMessages(GROUP, False, messages))
    slot.do(Erase(GROUP, False, "alice", [2]))
    assert slot.do(ImportMessages(GROUP, False, messages)) == Reply(message_seq=3)
    assert slot.texts(GROUP) == ["old", ERASED_PAYLOAD.decode(), "old"]


# -- erasing --


def test_an_erased_message_says_nothing_and_keeps_its_place(slot: Slot) -> None:
    reply = say(slot, "secret", "n", setting=0x88, topic="topic", expire=60, flags=2)
    slot.do(PostEvent(GROUP, "n", "main", "e", "stream.delta", 2, "g", text="secret too"))
    assert slot.do(Erase(GROUP, False, "alice", [1])).message_seq == 1
    found = stored_message(slot.state, PART, False, 1)
    assert found == Message(reply.message_id, 1, 0x12, 0, "alice", "", reply.timestamp, b'{"type":0}', 60, "")
    everything = b"".join(key + value for key, value in slot.rows().items() if key[:1] != b"S")
    assert b"secret" not in everything and b"topic" not in everything
    assert message_by_number(slot.state, PART, "n") is None and meta_of(slot.state, PART, "n") is None
    assert message_by_id(slot.state, PART, reply.message_id) == found


def test_only_what_the_user_sent_is_erased_and_only_once(slot: Slot) -> None:
    fill(slot, 4)
    assert slot.do(Erase(GROUP, False, "alice", [4, 3, 3, 2, 1, 99])).message_seq == 2
    assert slot.do(Erase(GROUP, False, "alice", [1, 2, 3, 4])).message_seq == 0
    assert slot.texts(GROUP) == ['{"type":0}', "m2", '{"type":0}', "m4"]


def test_unread_is_the_same_after_an_erasure(slot: Slot) -> None:
    fill(slot, 5)
    before = chat(slot, "alice"), chat(slot, "bob")
    slot.do(Erase(GROUP, False, "alice", [1, 3, 5]))
    assert (chat(slot, "alice"), chat(slot, "bob")) == before


def test_an_erased_command_is_still_a_command(slot: Slot) -> None:
    say(slot, "secret", is_cmd=True, recipients=["bob"])
    slot.do(Erase(GROUP, True, "alice", [1]))
    [(_, [command])] = pending_commands(slot.state, "bob", limit=9)
    assert (command.payload, command.recipients) == (ERASED_PAYLOAD, ["bob"])


def test_an_erasure_has_a_limit(slot: Slot) -> None:
    assert slot.do(Erase(GROUP, False, "alice", list(range(1, MESSAGES_PER_COMMAND + 1)))).reason == 1
    assert slot.do(Erase(GROUP, False, "alice", list(range(1, MESSAGES_PER_COMMAND + 2)))).reason == 15


# -- effects --


def test_what_was_freed_is_told(slot: Slot) -> None:
    say(slot, "12345", "n")
    say(slot, "123", uid="bob")
    slot.effects()
    slot.do(Erase(GROUP, False, "bob", [2]))
    slot.do(Retire(GROUP, False, 1))
    slot.do(Retire(GROUP, False, 1))
    slot.do(Erase(GROUP, False, "bob", [2]))
    assert slot.effects() == [Freed(GROUP, False, 2, 2, 6, True), Freed(GROUP, False, 1, 1, 11)]


# -- policies --


def test_a_policy_is_kept_until_it_is_taken_back(slot: Slot) -> None:
    assert policy_of(slot.state, GROUP) is None
    slot.do(PutRetention(GROUP, RetentionPolicy(1, 2, 3)))
    slot.do(PutRetention(ChannelId(2, ""), RetentionPolicy()))
    slot.restart()
    assert policy_of(slot.state, GROUP) == RetentionPolicy(1, 2, 3)
    assert policy_of(slot.state, ChannelId(2, "")) == RetentionPolicy()
    page, rest = policies(slot.state, limit=1)
    assert page == [(ChannelId(2, ""), RetentionPolicy())]
    assert policies(slot.state, start=rest, limit=2) == ([(GROUP, RetentionPolicy(1, 2, 3))], b"")
    slot.do(PutRetention(GROUP))
    slot.do(PutRetention(GROUP))
    assert policy_of(slot.state, GROUP) is None
