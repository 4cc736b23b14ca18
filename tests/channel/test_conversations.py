"""Conversations and commands as derived from the log. behaviour.md 10.2 to 10.4, 12; D-13 to D-16."""

from typing import Any

import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel.commands import (
    AdvanceCommands,
    Append,
    Command,
    PutChannel,
    RememberSync,
    TakeSync,
    UpdateChat,
    UpdateList,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.ids import ChannelId, person_id

GROUP = ChannelId(2, "g")
CLEAR_UNREAD, SET_UNREAD, DELETE = 0, 1, 2


def say(uid: str, channel: ChannelId = GROUP, **fields: Any) -> Command:
    return Append(channel, False, uid, b"hi", trusted=True, **fields)


def says(*uids: str) -> list[Command]:
    return [say(uid) for uid in uids]


def change(op: int, unread: int = 0, uid: str = "u") -> Command:
    return UpdateChat(GROUP, uid, op, unread)


def slot_after(*commands: Command, **settings: Any) -> Slot:
    slot = Slot(**settings)
    for command in commands:
        slot.do(command)
    return slot


def shown(slot: Slot, uid: str = "u", channel: ChannelId = GROUP, **fields: Any) -> tuple[int, int, list[int]] | None:
    """(unread, read position, seqs newest first)."""
    parameters = {"after_seq": 0, "unread_only": False, "count": 100, **fields}
    found = conversation(slot.state, channel, uid, **parameters)
    return None if found is None else (found.unread, found.read_seq, [m.message_seq for m in found.messages])


JOIN = PutChannel(GROUP, None, ["u", "v"])


@pytest.mark.parametrize(
    ("commands", "unread", "read"),
    [
        # unread = last - read
        (says("v", "v", "v"), 3, 0),
        # his own message in the middle: what is behind it
        (says("v", "u", "v"), 1, 2),
        (says("v", "u", "v", "v", "v"), 3, 2),
        # the newest of several
        (says("u", "v", "u", "v"), 1, 3),
        # his own last
        (says("v", "v", "u"), 0, 3),
        (says("u"), 0, 1),
        # his own message behind the read position only
        ([*says("u", "v", "v"), change(CLEAR_UNREAD), *says("v")], 1, 3),
        ([*says("v", "v", "u", "v"), change(SET_UNREAD, 3)], 1, 3),
        # read positions only rise
        ([*says("v", "v", "v"), change(CLEAR_UNREAD)], 0, 3),
        ([*says("v", "v", "v"), change(CLEAR_UNREAD), *says("v")], 1, 3),
        ([*says("v", "v", "v"), change(SET_UNREAD, 1)], 1, 2),
        ([*says("v", "v", "v"), change(SET_UNREAD, 3)], 3, 0),
        ([*says("v", "v", "v"), change(SET_UNREAD, 0)], 0, 3),
        ([*says("v", "v", "v"), change(SET_UNREAD, 1), change(SET_UNREAD, 2)], 1, 2),
        ([*says("v", "v", "v"), change(CLEAR_UNREAD), change(SET_UNREAD, 2)], 0, 3),
        # more than there are, and nonsense, leave one
        ([*says("v", "v", "v"), change(SET_UNREAD, 10)], 1, 2),
        ([*says("v", "v", "v"), change(SET_UNREAD, -1)], 1, 2),
        # an empty channel: nothing happens, and what comes counts
        ([change(CLEAR_UNREAD), *says("v", "v")], 2, 0),
        ([change(SET_UNREAD, 3), *says("v", "v")], 2, 0),
        # red dot or not, every stored message counts; an unstored one does not
        ([say("v", flags=2), say("v")], 2, 0),
        ([say("v"), say("v", flags=1)], 1, 0),
        # deletion leaves the read position
        ([*says("v", "v"), change(DELETE), *says("v")], 3, 0),
        ([*says("v", "v"), change(CLEAR_UNREAD), change(DELETE), *says("v")], 1, 2),
    ],
)
def test_unread_and_read_position(commands: list[Command], unread: int, read: int) -> None:
    found = shown(slot_after(JOIN, *commands))
    assert found is not None and found[:2] == (unread, read)


def test_a_deleted_conversation_shows_only_what_is_newer() -> None:
    slot = slot_after(JOIN, *says("v", "v", "v"), change(DELETE))
    assert shown(slot) == (3, 0, [])
    slot.do(say("v"))
    assert shown(slot) == (4, 0, [4])


def test_deleting_what_does_not_exist_makes_nothing() -> None:
    slot = slot_after(say("v"), change(DELETE))
    assert shown(slot) is None and slot.state.channels_of("u") == []


@pytest.mark.parametrize(
    ("parameters", "seqs"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"count": 2}, [5, 4]),
        ({"count": 0}, []),
        ({"after_seq": 3}, [5, 4]),
        ({"after_seq": 5}, []),
        ({"after_seq": 9}, []),
        ({"after_seq": 1, "count": 2}, [5, 4]),
        ({"unread_only": True}, [5, 4, 3]),
        ({"unread_only": True, "count": 1}, [5]),
        # the client's position goes before the read position
        ({"unread_only": True, "after_seq": 1}, [5, 4, 3, 2]),
    ],
)
def test_recents(parameters: dict[str, Any], seqs: list[int]) -> None:
    slot = slot_after(JOIN, *says("v", "v", "v", "v", "v"), change(SET_UNREAD, 3))
    found = shown(slot, **parameters)
    assert found is not None and found[2] == seqs


def test_recents_have_both_bounds_the_clients_and_the_deletion() -> None:
    slot = slot_after(JOIN, *says("v", "v", "v"), change(DELETE), *says("v", "v"))
    assert [shown(slot, after_seq=n) for n in (1, 4)] == [(5, 0, [5, 4]), (5, 0, [5])]


def test_a_conversation_can_be_asked_for_that_is_not_there() -> None:
    """behaviour.md 10.3: syncByChannels; the deletion is not looked at."""
    slot = slot_after(say("v"), say("v"))
    assert shown(slot) is None
    assert shown(slot, hidden=True) == (2, 0, [2, 1])
    assert shown(slot, channel=ChannelId(2, "unknown"), hidden=True) == (0, 0, [])
    slot.do(change(CLEAR_UNREAD))
    slot.do(change(DELETE))
    assert shown(slot) == (0, 2, [])
    assert shown(slot, hidden=True) == (0, 2, [2, 1])


# -- how conversations come into being: behaviour.md 10.1 --

PAIR = ChannelId(1, "bob@alice")


def test_the_first_message_makes_both_persons_conversations() -> None:
    slot = slot_after(say("alice", PAIR))
    assert shown(slot, "alice", PAIR) == (0, 1, [1])
    assert shown(slot, "bob", PAIR) == (1, 0, [1])


def test_a_command_or_an_unstored_message_makes_none() -> None:
    slot = slot_after(Append(PAIR, True, "alice", b"x"), say("alice", PAIR, flags=1))
    assert shown(slot, "alice", PAIR) is shown(slot, "bob", PAIR) is None
    assert conversations_of(slot.state, "bob") == []
    slot.do(say("alice", PAIR))
    assert shown(slot, "bob", PAIR) == (1, 0, [1])


def test_without_strangers_the_allow_list_makes_them() -> None:
    slot = slot_after(say("alice", PAIR), whitelist_off_of_person=False)
    assert shown(slot, "bob", PAIR) is None
    slot.do(UpdateList(ChannelId(1, "bob"), 1, 0, ["alice"]))
    slot.deliver()
    assert shown(slot, "alice", PAIR) == (0, 1, [1])
    assert shown(slot, "bob", PAIR) is None


def test_a_chat_with_oneself_is_one_conversation_with_nothing_unread() -> None:
    slot = slot_after(say("u", ChannelId(1, "u@u")))
    assert shown(slot, "u", ChannelId(1, "u@u")) == (0, 1, [1])
    assert len(conversations_of(slot.state, "u")) == 1


def test_the_system_account_has_no_conversations_by_messages() -> None:
    channel = ChannelId(1, person_id("u", "____system"))
    slot = slot_after(say("____system", channel))
    assert shown(slot, "u", channel) == (1, 0, [1])
    assert conversations_of(slot.state, "____system") == []


@pytest.mark.parametrize(
    ("channel", "made"),
    [
        (ChannelId(3, "u|desk"), True),
        (ChannelId(10, "u"), False),
        (ChannelId(11, "u@agent"), False),
        (ChannelId(2, "g"), False),
        (ChannelId(8, "t"), False),
    ],
)
def test_a_message_alone_makes_one_only_in_types_1_and_3(channel: ChannelId, made: bool) -> None:
    slot = slot_after(say("agent", channel))
    assert (shown(slot, "u", channel) is not None) is made


def test_an_unread_call_makes_the_conversation_of_a_stranger() -> None:
    slot = slot_after(*says("v", "v", "v"), change(CLEAR_UNREAD))
    assert shown(slot) == (0, 3, [3, 2, 1])
    slot = slot_after(*says("v", "v", "v"), change(SET_UNREAD, 1))
    assert shown(slot) == (1, 2, [3, 2, 1])


# -- lists of conversations: D-13 --


def test_conversations_are_listed_with_the_second_of_their_last_message() -> None:
    slot = Slot()
    for at, name in enumerate(("a", "b", "c")):
        slot.now_ms = START_MS + at * 1_000
        slot.do(PutChannel(ChannelId(2, name), None, ["u"]))
    slot.now_ms += 5_000
    slot.do(say("v", ChannelId(2, "a")))
    second = START_MS // 1000
    assert conversations_of(slot.state, "u") == [
        (second + 7, ChannelId(2, "a")),
        (second + 1, ChannelId(2, "b")),
        (second + 2, ChannelId(2, "c")),
    ]


def test_every_one_of_1500_conversations_is_listed() -> None:
    """S34."""
    slot = Slot()
    for n in range(1_500):
        slot.do(PutChannel(ChannelId(2, f"g{n}"), None, ["u"]))
    slot.now_ms += 60_000
    slot.do(say("v", ChannelId(2, "g0")))
    found = conversations_of(slot.state, "u")
    assert len(found) == 1_500
    assert max(found)[1] == ChannelId(2, "g0")


# -- commands: D-15, D-16 --


def tell(text: str, channel: ChannelId = GROUP) -> Command:
    return Append(channel, True, "v", text.encode(), trusted=True)


def fetch(slot: Slot, limit: int, uid: str = "u") -> list[str]:
    """One /message/sync and its /message/syncack."""
    found = pending_commands(slot.state, uid, limit=limit)
    slot.do(RememberSync(uid, [(channel, messages[-1].message_seq) for channel, messages in found]))
    for channel, seq in slot.do(TakeSync(uid)).positions or []:
        slot.do(AdvanceCommands(channel, uid, seq))
    return [message.payload.decode() for _, messages in found for message in messages]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_a_limit_smaller_than_the_backlog_skips_and_repeats_nothing(limit: int) -> None:
    """behaviour.md 21, check 12: several channels, membership and names mixed in one of them."""
    channels = [ChannelId(2, "a"), ChannelId(2, "b"), ChannelId(3, "u|desk"), ChannelId(8, "t")]
    slot = Slot()
    for channel in channels[:2]:
        slot.do(PutChannel(channel, None, ["u"]))
    sent = []
    for n in range(4):
        for channel in channels[:3]:
            sent.append(f"{channel.id} {n}")
            slot.do(tell(sent[-1], channel))
        for channel in (channels[0], channels[3]):
            sent.append(f"{channel.id} by name {n}")
            slot.do(Append(channel, True, "v", sent[-1].encode(), trusted=True, recipients=["u"]))
            slot.do(Append(channel, True, "v", b"for somebody else", trusted=True, recipients=["w"]))
    got: list[str] = []
    while page := fetch(slot, limit):
        assert len(page) <= limit
        got += page
    assert sorted(got) == sorted(sent)
    for channel in channels:
        mine = [text for text in got if text.startswith(channel.id)]
        assert mine == [text for text in sent if text.startswith(channel.id)], "ascending inside a channel"


def test_250_offline_members_find_one_command() -> None:
    """S32."""
    uids = [f"u{n}" for n in range(250)]
    slot = slot_after(PutChannel(GROUP, None, uids), tell("x"))
    assert [fetch(slot, 200, uid) for uid in uids] == [["x"]] * 250
    assert [fetch(slot, 200, uid) for uid in uids] == [[]] * 250


def test_a_command_into_a_quiet_channel_reaches_all_members() -> None:
    """S14."""
    slot = slot_after(PutChannel(GROUP, None, ["u"]), tell("1"), PutChannel(GROUP, None, ["w"]), tell("2"))
    assert (fetch(slot, 10, "u"), fetch(slot, 10, "w")) == (["1", "2"], ["2"])


def test_an_unstored_command_is_live_only() -> None:
    slot = slot_after(JOIN, Append(GROUP, True, "v", b"x", flags=1))
    assert fetch(slot, 10) == []


def test_a_confirmation_without_a_fetch_confirms_nothing() -> None:
    slot = slot_after(JOIN, tell("1"))
    assert slot.do(TakeSync("u")).positions == []
    assert fetch(slot, 10) == ["1"]
    assert slot.do(TakeSync("u")).positions == [], "taken once"


def test_a_fetch_replaces_what_was_handed_out_before() -> None:
    slot = slot_after(RememberSync("u", [(GROUP, 5)]), RememberSync("u", [(PAIR, 2)]))
    slot.restart()
    assert slot.do(TakeSync("u")).positions == [(PAIR, 2)]
    slot.do(RememberSync("u", [(GROUP, 5)]))
    slot.do(RememberSync("u", []))
    assert slot.do(TakeSync("u")).positions == []


def test_a_position_beyond_the_last_command_confirms_what_there_is() -> None:
    slot = slot_after(JOIN, tell("1"), AdvanceCommands(GROUP, "u", 99), tell("2"))
    assert fetch(slot, 10) == ["2"]


def order(text: str, *named: str) -> Command:
    return Append(GROUP, True, "boss", text.encode(), trusted=True, recipients=list(named) or None)


def confirm_next(seq: int) -> Command:
    return AdvanceCommands(GROUP, "u", seq, contiguous=True)


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        ([JOIN, order("1"), order("2"), confirm_next(2)], ["1", "2"]),
        ([JOIN, order("1"), order("2"), confirm_next(1)], ["2"]),
        ([JOIN, order("1"), order("2"), confirm_next(1), confirm_next(2)], []),
        ([JOIN, order("1", "v"), order("2"), confirm_next(2)], []),
        ([JOIN, order("1", "u"), order("2"), confirm_next(2)], ["1", "2"]),
        ([JOIN, order("1", "u"), order("2"), confirm_next(1), confirm_next(2)], []),
        ([JOIN, order("1"), order("2", "v"), order("3"), confirm_next(3)], ["1", "3"]),
        ([order("1"), JOIN, order("2"), confirm_next(2)], []),
        ([order("1", "u"), order("2", "u"), confirm_next(2)], ["1", "2"]),
        ([order("1", "u"), order("2", "u"), confirm_next(1), confirm_next(2)], []),
    ],
)
def test_a_contiguous_confirmation_passes_by_nothing_that_is_open(commands: list[Command], left: list[str]) -> None:
    slot = slot_after(*commands)
    found = [m.payload.decode() for _, messages in pending_commands(slot.state, "u", limit=100) for m in messages]
    assert found == left


@pytest.mark.parametrize(("between", "confirmed"), [(64, True), (65, False)])
def test_a_contiguous_confirmation_looks_behind_64_commands_at_most(between: int, confirmed: bool) -> None:
    slot = slot_after(JOIN, *(order("for v", "v") for _ in range(between)), order("for all"), confirm_next(between + 1))
    assert bool(pending_commands(slot.state, "u", limit=100)) is not confirmed


def test_commands_of_one_user_are_not_those_of_another() -> None:
    """Uids that are prefixes of one another."""
    slot = slot_after(
        *(
            Append(ChannelId(8, "t"), True, "v", uid.encode(), trusted=True, recipients=[uid])
            for uid in ("a", "ab", "a\x00")
        )
    )
    assert [fetch(slot, 10, uid) for uid in ("a", "ab", "a\x00")] == [["a"], ["ab"], ["a\x00"]]
