"""Appending and reading messages: seqs, ids, times, duplicates, who finds what. behaviour.md 5.4, 7, 8, 12."""

import msgspec
import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel.commands import Append, PutChannel, PutSettings, RemoveMembers, Reply
from wukong.channel.conversations import pending_commands
from wukong.channel.effects import FanOut, Message
from wukong.channel.ids import ChannelId
from wukong.channel.messages import (
    SNOWFLAKE_EPOCH_MS,
    last_seq,
    message_by_id,
    message_by_number,
    messages_between,
    own_last_seq,
)
from wukong.channel.state import Settings, channel_part, encode

GROUP = ChannelId(2, "g")
PART = channel_part(GROUP)
NO_PERSIST = 1


def group_slot(slot: int = 1, **settings: object) -> Slot:
    made = Slot(slot, **settings)
    made.do(PutChannel(GROUP, None, ["u", "v"]))
    return made


def say(slot: Slot, text: str = "hi", number: str = "", *, uid: str = "u", **fields: object) -> Reply:
    is_cmd = bool(fields.pop("is_cmd", False))
    return slot.do(Append(GROUP, is_cmd, uid, text.encode(), number, **fields))  # type: ignore[arg-type]


def test_seqs_count_from_1_and_separately_in_the_command_twin() -> None:
    slot = group_slot()
    seqs = [say(slot, is_cmd=is_cmd).message_seq for is_cmd in (False, True, False, True, True)]
    assert seqs == [1, 1, 2, 2, 3]
    assert (last_seq(slot.state, GROUP), last_seq(slot.state, GROUP, is_cmd=True)) == (2, 3)
    assert last_seq(slot.state, ChannelId(2, "unknown")) == 0


def test_a_channel_whose_id_ends_like_a_command_twin_is_another_channel() -> None:
    slot = group_slot()
    twin = ChannelId(2, "g____cmd")
    slot.do(PutChannel(twin, None, ["u"]))
    assert say(slot, "command", is_cmd=True).message_seq == 1
    assert slot.do(Append(twin, False, "u", b"chat")).message_seq == 1
    assert (slot.texts(GROUP, is_cmd=True), slot.texts(twin)) == (["command"], ["chat"])


def test_refused_and_unstored_messages_leave_no_hole() -> None:
    slot = group_slot()
    replies = [say(slot), say(slot, uid="stranger"), say(slot, flags=NO_PERSIST), say(slot)]
    assert [(r.reason, r.message_seq) for r in replies] == [(1, 1), (3, 0), (1, 0), (1, 2)]


def test_ids_rise_in_a_slot_carry_it_and_the_time() -> None:
    slot = group_slot(slot=1_000)
    ids = []
    for tick_ms in (0, 0, 5, -50, 0, 3):
        slot.now_ms += tick_ms
        ids += [say(slot).message_id, say(slot, uid="stranger").message_id]
    assert ids == sorted(set(ids))
    assert {message_id >> 12 & 1023 for message_id in ids} == {1_000}
    assert ids[0] >> 22 == START_MS - SNOWFLAKE_EPOCH_MS
    # The clock went back by 50 ms; ids go on where they were.
    assert ids[-1] >> 22 == START_MS + 5 - SNOWFLAKE_EPOCH_MS


def test_more_ids_than_a_millisecond_has_run_ahead_of_the_clock() -> None:
    slot = group_slot()
    ids = [say(slot, uid="stranger").message_id for _ in range(4_097)]
    assert ids == sorted(set(ids))
    assert [ids[4_095] & 4_095, ids[4_096] & 4_095] == [4_095, 0]
    assert (ids[4_096] >> 22) - (ids[0] >> 22) == 1
    slot.now_ms += 1
    assert say(slot).message_id > ids[-1]


def test_ids_go_on_after_a_restart() -> None:
    slot = group_slot()
    before = say(slot).message_id
    slot.restart()
    slot.now_ms -= 10_000
    assert say(slot).message_id > before


def test_the_time_of_a_message_is_the_origins_and_never_goes_back() -> None:
    slot = group_slot()
    times = []
    for tick_ms in (0, 5_000, -3_000, 10_000):
        slot.now_ms += tick_ms
        times.append(say(slot).timestamp - START_MS // 1000)
    assert times == [0, 5, 5, 12]


def test_a_fan_out_has_the_message_as_stored_and_the_sending_session() -> None:
    slot = group_slot()
    slot.effects()
    reply = say(slot, "hi", "n1", flags=6, setting=0x88, expire=60, topic="t", session=9)
    (effect,) = slot.effects()
    message = Message(
        reply.message_id, 1, 6, 0x88, "u", "n1", START_MS // 1000, b"hi", expire=60, topic="t", recipients=None
    )
    assert effect == FanOut(GROUP, False, message, 1, 9)
    assert messages_between(slot.state, PART, is_cmd=False, first=1, last=1, limit=1) == [message]


# -- duplicates: D-7 --


@pytest.mark.parametrize("flags", [0, NO_PERSIST])
@pytest.mark.parametrize("is_cmd", [False, True])
def test_the_same_number_and_payload_gets_the_first_result_and_no_second_delivery(flags: int, is_cmd: bool) -> None:
    slot = group_slot()
    first = say(slot, "hi", "n1", flags=flags, is_cmd=is_cmd)
    slot.effects()
    slot.now_ms += 1_500
    again = say(slot, "hi", "n1", flags=flags, is_cmd=is_cmd)
    assert again == Reply(1, first.message_id, first.message_seq, first.timestamp, duplicate=True), (
        "id, seq and time of the first"
    )
    assert not slot.effects()
    assert len(slot.texts(GROUP, is_cmd=is_cmd)) == (0 if flags else 1)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Append(GROUP, False, "u", b"else", "n1"), "payload"),
        (Append(GROUP, False, "v", b"hi", "n1"), "sender"),
        (Append(GROUP, False, "u", b"hi", "n2"), "number"),
        (Append(GROUP, False, "u", b"hi", ""), "no number"),
        (Append(GROUP, True, "u", b"hi", "n1"), "twin"),
        (Append(ChannelId(4, "g"), False, "u", b"hi", "n1"), "type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_message_is_no_duplicate(other: Append, why: str) -> None:
    slot = group_slot()
    slot.do(PutChannel(ChannelId(4, "g"), None, ["u"]))
    first = say(slot, "hi", "n1")
    reply = slot.do(other)
    assert not reply.duplicate and reply.message_id != first.message_id


def test_an_empty_number_is_never_a_duplicate() -> None:
    slot = group_slot()
    assert [say(slot, "hi").message_seq for _ in range(3)] == [1, 2, 3]


def test_a_duplicate_is_looked_up_before_permission() -> None:
    """The first answer may have been lost on its way to somebody who was removed meanwhile."""
    slot = group_slot()
    first = say(slot, "hi", "n1")
    slot.do(RemoveMembers(GROUP, ["u"]))
    assert say(slot, "hi", "n1").message_id == first.message_id
    assert say(slot, "hi", "n2").reason == 3


def test_the_newest_payload_under_a_number_is_the_one_that_counts() -> None:
    slot = group_slot()
    for text, seq, duplicate in (("a", 1, False), ("b", 2, False), ("b", 2, True), ("a", 3, False)):
        reply = say(slot, text, "n1")
        assert (reply.message_seq, reply.duplicate) == (seq, duplicate)


@pytest.mark.parametrize(
    ("flags", "age_ms", "duplicate"),
    [(0, 60_000, True), (0, 60_001, False), (NO_PERSIST, 9_999, True), (NO_PERSIST, 10_000, False)],
)
def test_a_number_is_remembered_for_its_retention_by_the_logs_time(flags: int, age_ms: int, duplicate: bool) -> None:
    slot = group_slot(idempotency_retention_ms=60_000, no_persist_idempotency_retention_ms=10_000)
    say(slot, "hi", "n1", flags=flags)
    slot.now_ms += age_ms
    assert say(slot, "hi", "n1", flags=flags).duplicate is duplicate


def test_duplicates_are_known_after_a_restart() -> None:
    slot = group_slot()
    stored, unstored = say(slot, "a", "n1"), say(slot, "b", "n2", flags=NO_PERSIST)
    slot.restart()
    assert say(slot, "a", "n1").message_id == stored.message_id
    assert say(slot, "b", "n2", flags=NO_PERSIST).message_id == unstored.message_id


def test_numbers_of_unstored_messages_do_not_pile_up() -> None:
    slot = group_slot(no_persist_idempotency_retention_ms=10_000)

    def remembered() -> int:
        return sum(key[:1] in (b"q", b"i") for key in slot.rows())

    for n in range(100):
        say(slot, "hi", f"n{n}", flags=NO_PERSIST)
    assert remembered() == 200
    slot.now_ms += 20_000
    for n in range(60):
        say(slot, "hi", f"m{n}", flags=NO_PERSIST)
        slot.now_ms += 1
    assert remembered() == 120, "two leave for each that comes"


def test_a_message_that_was_not_stored_answers_none_that_is_to_be_stored() -> None:
    slot = group_slot()
    unstored = say(slot, "hi", "n", flags=1)
    assert say(slot, "hi", "n", flags=1) == msgspec.structs.replace(unstored, duplicate=True)
    stored = say(slot, "hi", "n")
    assert (stored.message_seq, stored.duplicate) == (1, False)
    assert say(slot, "hi", "n", flags=1) == say(slot, "hi", "n") == msgspec.structs.replace(stored, duplicate=True)


def test_an_unstored_message_does_not_hide_the_stored_one_with_its_number() -> None:
    slot = group_slot(no_persist_idempotency_retention_ms=10_000)
    say(slot, "stored", "n1")
    say(slot, "unstored", "n1", flags=NO_PERSIST)
    for _ in range(3):
        found = message_by_number(slot.state, PART, "n1")
        assert found is not None and found.payload == b"stored"
        slot.now_ms += 20_000
        say(slot, "x", f"other {slot.now_ms}", flags=NO_PERSIST)


# -- recipients: behaviour.md 6, 8.1, 12 --


def by_name(slot: Slot, uid: str) -> dict[str, list[bytes]]:
    return {channel.id: [m.payload for m in found] for channel, found in pending_commands(slot.state, uid, limit=100)}


def test_a_command_with_recipients_is_for_exactly_them() -> None:
    slot = group_slot()
    say(slot, "for x and v", is_cmd=True, recipients=["x", "v"])
    say(slot, "for all", is_cmd=True)
    assert by_name(slot, "u") == {"g": [b"for all"]}
    assert by_name(slot, "x") == {"g": [b"for x and v"]}
    assert by_name(slot, "v") == {"g": [b"for x and v", b"for all"]}
    assert by_name(slot, "stranger") == {}


def test_two_callers_with_the_same_list_do_not_mix() -> None:
    """S22: one temporary channel for the same list of uids."""
    slot = Slot()
    temporary = ChannelId(8, "4711")
    for text in (b"one", b"two"):
        slot.do(Append(temporary, True, "____system", text, trusted=True, recipients=["a", "b"]))
    slot.do(Append(temporary, True, "____system", b"live", flags=NO_PERSIST, trusted=True, recipients=["a"]))
    assert by_name(slot, "a") == by_name(slot, "b") == {"4711": [b"one", b"two"]}
    lists = [effect.message.recipients for effect in slot.effects() if isinstance(effect, FanOut)]
    assert lists == [["a", "b"], ["a", "b"], ["a"]]


def test_an_ordinary_message_with_recipients_is_no_command() -> None:
    slot = Slot()
    temporary = ChannelId(8, "4711")
    slot.do(Append(temporary, True, "____system", b"command", trusted=True, recipients=["a"]))
    slot.do(Append(temporary, False, "____system", b"chat", trusted=True, recipients=["b"]))
    assert by_name(slot, "b") == {}


@pytest.mark.parametrize("first_has_recipients", [False, True])
@pytest.mark.parametrize(
    "channel", [ChannelId(1, "bob@alice"), ChannelId(3, "bob|desk"), ChannelId(10, "bob"), ChannelId(11, "bob@agent")]
)
def test_implicit_members_find_commands_they_were_offline_for(channel: ChannelId, first_has_recipients: bool) -> None:
    """D-8, S38: also when the first message of the channel went to somebody else by name."""
    slot = Slot()
    recipients = ["x"] if first_has_recipients else None
    slot.do(Append(channel, True, "____system", b"1", trusted=True, recipients=recipients))
    slot.do(Append(channel, True, "____system", b"2", trusted=True))
    assert by_name(slot, "bob") == {channel.id: [b"2"] if first_has_recipients else [b"1", b"2"]}


# -- reading --


@pytest.mark.parametrize(
    ("first", "last", "limit", "newest", "seqs"),
    [
        (1, 9, 100, False, [1, 2, 3, 4, 5]),
        (1, 9, 100, True, [1, 2, 3, 4, 5]),
        (2, 4, 2, False, [2, 3]),
        (2, 4, 2, True, [3, 4]),
        (0, 1, 5, False, [1]),
        (-5, 2, 5, False, [1, 2]),
        (5, 5, 1, True, [5]),
        (6, 9, 5, False, []),
        (4, 3, 5, False, []),
        (1, 5, 0, False, []),
        (1, 5, -1, True, []),
        (-9, -1, 5, False, []),
        (1, 1 << 70, 1, True, [5]),
        (1 << 70, 1 << 71, 5, False, []),
    ],
)
def test_messages_between(first: int, last: int, limit: int, newest: bool, seqs: list[int]) -> None:
    slot = group_slot()
    for n in range(5):
        say(slot, str(n))
    found = messages_between(slot.state, PART, is_cmd=False, first=first, last=last, limit=limit, newest=newest)
    assert [message.message_seq for message in found] == seqs


def test_reads_of_one_channel_end_where_it_ends() -> None:
    """Channels whose ids begin alike lie next to each other."""
    slot = group_slot()
    for channel in (ChannelId(2, "g"), ChannelId(2, "ga"), ChannelId(2, "g\x00"), ChannelId(2, ""), ChannelId(3, "g")):
        slot.do(Append(channel, False, "____system", channel.id.encode(), "n", trusted=True))
    for channel in (ChannelId(2, "g"), ChannelId(2, "ga"), ChannelId(2, "g\x00"), ChannelId(2, ""), ChannelId(3, "g")):
        assert slot.texts(channel) == [channel.id]
        found = message_by_number(slot.state, channel_part(channel), "n")
        assert found is not None and found.payload == channel.id.encode()


def test_a_message_is_found_by_its_id_in_its_own_channel_only() -> None:
    slot = group_slot()
    replies = []
    for n in range(17):
        replies.append(say(slot, str(n)))
        slot.do(Append(ChannelId(2, "other"), False, "____system", b"", trusted=True))
        say(slot, "c", is_cmd=True)
    for reply in replies:
        found = message_by_id(slot.state, PART, reply.message_id)
        assert found is not None and found.message_seq == reply.message_seq
        assert message_by_id(slot.state, PART, reply.message_id, is_cmd=True) is None
        assert message_by_id(slot.state, channel_part(ChannelId(2, "other")), reply.message_id) is None
    for unknown in (0, -1, 1, 1 << 80):
        assert message_by_id(slot.state, PART, unknown) is None


def test_the_newest_message_with_a_number_is_found_whoever_sent_it() -> None:
    slot = group_slot()
    say(slot, "1", "n", uid="v")
    say(slot, "2", "n", uid="u")
    say(slot, "3", "nn", uid="v")
    found = message_by_number(slot.state, PART, "n")
    assert found is not None and found.payload == b"2"
    assert message_by_number(slot.state, PART, "unknown") is None
    assert message_by_number(slot.state, PART, "") is None


def test_a_senders_own_last_seq_counts_the_chat_only() -> None:
    slot = group_slot()
    say(slot, uid="u")
    say(slot, uid="v")
    say(slot, uid="u", is_cmd=True)
    assert [own_last_seq(slot.state, PART, uid) for uid in ("u", "v", "w")] == [1, 2, 0]


@pytest.mark.parametrize(("flags", "duplicate"), [(0, False), (NO_PERSIST, True)])
def test_a_changed_retention_applies_to_stored_messages_at_once_and_to_others_from_now_on(
    flags: int, duplicate: bool
) -> None:
    slot = group_slot(idempotency_retention_ms=60_000, no_persist_idempotency_retention_ms=60_000)
    say(slot, "hi", "n1", flags=flags)
    shorter = Settings(idempotency_retention_ms=1_000, no_persist_idempotency_retention_ms=1_000)
    slot.do(PutSettings(encode(shorter)))
    slot.deliver()
    slot.now_ms += 5_000
    assert say(slot, "hi", "n1", flags=flags).duplicate is duplicate
