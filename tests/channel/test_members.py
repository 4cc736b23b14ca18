"""Channel records, members and their intervals, lists. behaviour.md 9; D-10, D-11, D-12, D-15."""

import pytest

from tests.channel.slot import Slot
from tests.channel.world import UIDS
from wukong.channel.commands import (
    AdvanceCommands,
    Append,
    ChannelInfo,
    Command,
    Disband,
    PutChannel,
    RemoveAllMembers,
    RemoveMembers,
    StageMembers,
    UpdateChat,
    UpdateList,
)
from wukong.channel.conversations import conversation, pending_commands
from wukong.channel.effects import MembersChanged
from wukong.channel.ids import ChannelId
from wukong.channel.members import list_uids, member_page, member_uids
from wukong.channel.state import Interval, UserRow, channel_part

GROUP = ChannelId(2, "g")
LIVE = ChannelId(9, "g")
PART = channel_part(GROUP)
DENY, ALLOW = 0, 1
ADD, REMOVE, SET, CLEAR = 0, 1, 2, 3
CLEAR_UNREAD, SET_UNREAD, DELETE = 0, 1, 2


def add(*uids: str, reset: bool = False, staged: int = 0, parts: int = 0) -> Command:
    return PutChannel(GROUP, None, list(uids), reset, staged, True, parts)


def stage(number: int, part: int, *uids: str) -> Command:
    return StageMembers(GROUP, number, list(uids), part)


def remove(*uids: str) -> Command:
    return RemoveMembers(GROUP, list(uids))


def say(text: str = "hi", uid: str = "____system") -> Command:
    return Append(GROUP, False, uid, text.encode(), trusted=True)


def tell(text: str) -> Command:
    """A command to all members."""
    return Append(GROUP, True, "____system", text.encode(), trusted=True)


def slot_after(*commands: Command) -> Slot:
    slot = Slot()
    for command in commands:
        slot.do(command)
    return slot


def row(slot: Slot, uid: str = "u") -> UserRow | None:
    return slot.state.user(PART, uid)


def told(slot: Slot, uid: str = "u") -> list[str]:
    return [m.payload.decode() for _, found in pending_commands(slot.state, uid, limit=100) for m in found]


def shown(slot: Slot, uid: str = "u", channel: ChannelId = GROUP) -> tuple[int, int, list[int]] | None:
    """(unread, read position, seqs newest first) of the conversation."""
    found = conversation(slot.state, channel, uid, after_seq=0, unread_only=False, count=100)
    return None if found is None else (found.unread, found.read_seq, [m.message_seq for m in found.messages])


# -- intervals: D-15 --


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([add("u"), tell("1"), tell("2")], ["1", "2"]),
        ([tell("1"), add("u"), tell("2")], ["2"]),
        ([add("u"), tell("1"), remove("u"), tell("2")], ["1"]),
        ([add("u"), remove("u"), tell("1")], []),
        ([add("u"), tell("1"), remove("u"), tell("2"), add("u"), tell("3")], ["1", "3"]),
        ([add("u"), remove("u"), add("u"), tell("1")], ["1"]),
        ([add("u"), tell("1"), add("u"), tell("2")], ["1", "2"]),
        ([add("u"), tell("1"), add("v", reset=True), tell("2")], ["1"]),
        ([add("u"), tell("1"), add("u", "v", reset=True), tell("2")], ["1", "2"]),
        ([add("u"), tell("1"), add(reset=True), tell("2"), add("u"), tell("3")], ["1", "3"]),
        ([add("u"), tell("1"), RemoveAllMembers(GROUP), tell("2")], ["1"]),
        ([add("u"), tell("1"), AdvanceCommands(GROUP, "u", 1), tell("2")], ["2"]),
        ([add("u"), tell("1"), tell("2"), AdvanceCommands(GROUP, "u", 1), remove("u")], ["2"]),
        ([add("u"), tell("1"), remove("u"), AdvanceCommands(GROUP, "u", 1)], []),
        ([add("u"), tell("1"), remove("u"), tell("2"), AdvanceCommands(GROUP, "u", 2), add("u"), tell("3")], ["3"]),
        ([add("u"), tell("1"), AdvanceCommands(GROUP, "u", 1_000), tell("2")], ["2"]),
        ([add("u"), tell("1"), tell("2"), AdvanceCommands(GROUP, "u", 2), AdvanceCommands(GROUP, "u", 1)], []),
        ([add("u"), tell("1"), UpdateList(GROUP, DENY, ADD, ["u"]), tell("2")], ["1", "2"]),
        ([add("u"), tell("1"), Disband(GROUP), tell("2")], ["1", "2"]),
    ],
)
def test_commands_are_for_who_was_a_member_at_their_position(commands: list[Command], expected: list[str]) -> None:
    slot = slot_after(*commands)
    assert told(slot) == expected
    slot.restart()
    assert told(slot) == expected


def test_an_interval_has_position_and_seqs_at_both_ends() -> None:
    slot = slot_after(say(), tell("0"), add("u"))
    found = row(slot)
    assert found is not None and found.member
    assert found.intervals == [Interval(3, 1, 1)]
    for command in (say(), tell("1"), tell("2"), remove("u")):
        slot.do(command)
    found = row(slot)
    assert found is not None and not found.member
    assert found.intervals == [Interval(3, 1, 1, 7, 2, 3)]


def test_intervals_go_when_their_commands_are_confirmed_or_there_were_none() -> None:
    slot = slot_after(add("u"), tell("1"), remove("u"))
    for _ in range(5):
        slot.do(add("u"))
        slot.do(remove("u"))
    found = row(slot)
    assert found is not None and len(found.intervals) == 1
    slot.do(AdvanceCommands(GROUP, "u", 1))
    assert row(slot) is None
    assert slot.state.channels_of("u") == []


def test_a_removed_member_without_commands_leaves_no_row() -> None:
    slot = slot_after(add("u"), say(), remove("u"))
    assert row(slot) is None and slot.state.channels_of("u") == []


def test_an_implicit_member_keeps_finding_commands_after_a_removal() -> None:
    """D-8: he is one by the id, whatever becomes of his subscription or his conversation."""
    channel = ChannelId(3, "u|desk")
    slot = slot_after(Append(channel, True, "agent", b"1"), Append(channel, False, "agent", b"chat"))
    slot.do(UpdateList(channel, DENY, ADD, ["u"]))
    assert told(slot) == ["1"] and shown(slot, channel=channel) is None
    slot.do(PutChannel(channel, None, ["u"]))
    slot.do(RemoveMembers(channel, ["u"]))
    slot.do(Append(channel, True, "agent", b"2"))
    assert told(slot) == ["1", "2"]


# -- adding: D-10 --


def test_adding_again_changes_nothing() -> None:
    slot = slot_after(add("u"), say(), say())
    before = row(slot)
    slot.now_ms += 5_000
    slot.effects()
    slot.do(add("u", "u"))
    assert row(slot) == before and shown(slot) == (2, 0, [2, 1])
    assert slot.effects() == []


def test_blanks_and_repeats_are_left_out() -> None:
    slot = slot_after(add("u", "", " ", "\t", "u", "v"))
    assert member_uids(slot.state, PART) == ["u", "v"]
    head = slot.state.head(PART)
    assert head is not None and head.members == 2
    assert slot.effects() == [MembersChanged(GROUP, ["u", "v"], [])]


def test_a_new_member_starts_read() -> None:
    slot = slot_after(say(), say(), add("u"))
    assert shown(slot) == (0, 2, [2, 1])
    slot.do(say())
    assert shown(slot) == (1, 2, [3, 2, 1])


def test_live_channels_make_no_conversation() -> None:
    slot = slot_after(PutChannel(LIVE, None, ["u"]), Append(LIVE, False, "u", b"hi"))
    assert slot.state.is_member(channel_part(LIVE), "u")
    assert shown(slot, channel=LIVE) is None


def test_members_can_be_added_without_a_conversation() -> None:
    """Recipients of a temporary channel."""
    temporary = ChannelId(8, "t")
    slot = slot_after(PutChannel(temporary, None, ["u"], True, 0, False), Append(temporary, False, "u", b"1"))
    assert slot.state.is_member(channel_part(temporary), "u")
    assert shown(slot, channel=temporary) is None
    slot.do(UpdateChat(temporary, "u", CLEAR_UNREAD))
    slot.do(PutChannel(temporary, None, [], True, 0, False))
    slot.do(Append(temporary, False, "v", b"2", trusted=True))
    assert shown(slot, channel=temporary) == (0, 1, [1])
    slot.do(PutChannel(temporary, None, ["u"], True, 0, False))
    assert shown(slot, channel=temporary) == (1, 1, [2, 1])


def test_an_add_creates_the_channel_and_leaves_an_old_one_alone() -> None:
    slot = slot_after(add("u"))
    head = slot.state.head(PART)
    assert head is not None and head.known and not head.ban
    slot.do(PutChannel(GROUP, ChannelInfo(large=True, ban=True, allow_stranger=True)))
    slot.do(add("v"))
    head = slot.state.head(PART)
    assert head is not None and (head.large, head.ban, head.allow_stranger) == (True, True, True)
    slot.do(PutChannel(GROUP, ChannelInfo()))
    head = slot.state.head(PART)
    assert head is not None and (head.large, head.ban, head.allow_stranger) == (False, False, False)


def test_dissolving_an_unknown_channel_leaves_it_unknown() -> None:
    slot = slot_after(Disband(GROUP))
    assert slot.state.head(PART) is None
    slot.do(say())
    slot.do(Disband(GROUP))
    head = slot.state.head(PART)
    assert head is not None and not head.known and not head.disband


# -- reset: D-12 --


def test_a_reset_replaces_in_one_step_and_keeps_who_is_in_both() -> None:
    slot = slot_after(add("u", "v", "w"), say())
    slot.effects()
    kept = row(slot, "v")
    slot.do(add("v", "x", reset=True))
    assert member_uids(slot.state, PART) == ["v", "x"]
    assert row(slot, "v") == kept
    assert slot.effects() == [MembersChanged(GROUP, ["x"], ["u", "w"])]
    head = slot.state.head(PART)
    assert head is not None and head.members == 2


def test_a_reset_to_nobody_empties() -> None:
    slot = slot_after(add("u", "v"), add(reset=True))
    assert member_uids(slot.state, PART) == []


def test_a_large_reset_takes_what_was_staged_and_shows_nothing_before() -> None:
    slot = slot_after(add("a", "b"), StageMembers(GROUP, 7, ["c", "", "d"]), StageMembers(GROUP, 7, ["e", "c"]))
    assert member_uids(slot.state, PART) == ["a", "b"]
    slot.do(add("f", "b", reset=True, staged=7))
    assert member_uids(slot.state, PART) == ["b", "c", "d", "e", "f"]
    assert not [key for key in slot.rows() if key[:1] == b"g"]


def test_a_reset_takes_its_own_stage_and_sweeps_older_ones() -> None:
    slot = slot_after(*(StageMembers(GROUP, n, [f"of {n}"]) for n in (1, 2, 3)))
    other = ChannelId(2, "h")
    slot.do(StageMembers(other, 1, ["x"]))
    slot.do(add(reset=True, staged=2))
    assert member_uids(slot.state, PART) == ["of 2"]
    slot.do(add(reset=True, staged=1))
    assert member_uids(slot.state, PART) == []
    slot.do(add(reset=True, staged=3))
    assert member_uids(slot.state, PART) == ["of 3"]
    slot.do(PutChannel(other, None, [], True, 1))
    assert member_uids(slot.state, channel_part(other)) == ["x"]


def staged_rows(slot: Slot) -> list[bytes]:
    return [key for key in slot.rows() if key[:1] in (b"g", b"G")]


def test_a_reset_with_all_of_its_parts_is_done_and_leaves_none_of_them() -> None:
    slot = slot_after(add("a", "b"), stage(7, 1, "c"), stage(7, 2), stage(7, 3, "d", "b"))
    slot.restart()
    assert slot.do(add("e", reset=True, staged=7, parts=3)).reason == 1
    assert member_uids(slot.state, PART) == ["b", "c", "d", "e"]
    assert staged_rows(slot) == []


@pytest.mark.parametrize("there", [(), (1,), (2,), (1, 3), (1, 2, 3), (0,), (0, 0), (0, 2)], ids=str)
def test_a_reset_that_lacks_a_part_or_has_another_changes_nothing_and_drops_what_there_is(
    there: tuple[int, ...],
) -> None:
    slot = slot_after(add("a", "b"), stage(6, 1, "older"), stage(8, 1, "newer"))
    slot.effects()
    before = slot.rows()
    for part in there:
        slot.do(stage(7, part, f"of {part}"))
    info = ChannelInfo(large=True)
    assert slot.do(PutChannel(GROUP, info, ["e"], True, 7, True, 2)).reason == 15
    rows = slot.rows()
    assert {key for key in rows.keys() | before.keys() if rows.get(key) != before.get(key)} <= {b"S\x00\x01", b"z"}
    assert not slot.effects()
    assert slot.do(add("f", reset=True, staged=8, parts=1)).reason == 1, "another number is another reset"
    assert member_uids(slot.state, PART) == ["f", "newer"]


def test_an_unknown_channel_stays_unknown_when_its_reset_is_refused() -> None:
    slot = slot_after(add("a", reset=True, staged=7, parts=1))
    assert slot.state.head(PART) is None


def test_a_part_that_came_twice_counts_once() -> None:
    slot = slot_after(stage(7, 1, "c"), stage(7, 2, "d"), stage(7, 1, "c"))
    assert slot.do(add("e", reset=True, staged=7, parts=2)).reason == 1
    assert member_uids(slot.state, PART) == ["c", "d", "e"]


def test_a_reset_that_came_twice_is_not_done_with_its_last_part_alone() -> None:
    slot = slot_after(stage(7, 1, "c"), stage(7, 2, "d"), add("e", reset=True, staged=7, parts=2))
    assert slot.do(add("e", reset=True, staged=7, parts=2)).reason == 15
    assert member_uids(slot.state, PART) == ["c", "d", "e"]


def test_of_two_nodes_that_reset_a_channel_at_once_nobodys_half_is_left() -> None:
    """The later number drops what the earlier one has staged; what that stages afterwards is not enough."""
    slot = slot_after(add("a"))
    slot.do(stage(100, 1, "c1"), node=1)
    slot.do(stage(200, 1, "d1"), node=2)
    slot.do(stage(100, 2, "c2"), node=1)
    assert slot.do(add("d2", reset=True, staged=200, parts=1), node=2).reason == 1
    slot.do(stage(100, 3, "c3"), node=1)
    assert slot.do(add("c4", reset=True, staged=100, parts=3), node=1).reason == 15
    assert member_uids(slot.state, PART) == ["d1", "d2"]
    assert staged_rows(slot) == []


def test_of_two_nodes_that_reset_a_channel_the_lower_number_may_come_first() -> None:
    slot = slot_after(add("a"))
    slot.do(stage(100, 1, "c1"), node=1)
    slot.do(stage(200, 1, "d1"), node=2)
    assert slot.do(add("c2", reset=True, staged=100, parts=1), node=1).reason == 1
    assert member_uids(slot.state, PART) == ["c1", "c2"]
    assert slot.do(add("d2", reset=True, staged=200, parts=1), node=2).reason == 1
    assert member_uids(slot.state, PART) == ["d1", "d2"]


# -- leaving --


@pytest.mark.parametrize(
    ("leave", "kept"), [(remove("u"), False), (RemoveAllMembers(GROUP), True), (add("v", reset=True), True)]
)
def test_a_removal_takes_the_conversation_and_a_reset_leaves_it_as_it_was(leave: Command, kept: bool) -> None:
    """behaviour.md 9; S19: no fresh entry, no newer message."""
    slot = slot_after(add("u"), say(), leave, say())
    assert shown(slot) == ((1, 0, [1]) if kept else None)
    slot.do(UpdateChat(GROUP, "u", DELETE))
    assert shown(slot) == ((1, 0, []) if kept else None)


def test_a_conversation_that_ended_before_the_first_message_stays_empty() -> None:
    slot = slot_after(add("u"), RemoveAllMembers(GROUP), say())
    assert shown(slot) == (0, 0, [])


def test_a_kept_conversation_goes_on_when_the_user_is_back() -> None:
    slot = slot_after(add("u"), say(), RemoveAllMembers(GROUP), say(), add("u"), say())
    assert shown(slot) == (1, 2, [3, 2, 1])


@pytest.mark.parametrize("command_between", [False, True])
def test_what_a_later_conversation_shows_does_not_depend_on_commands(command_between: bool) -> None:
    """A row may outlive its conversation because of commands; the positions must not."""
    slot = slot_after(add("u"), say(), UpdateChat(GROUP, "u", CLEAR_UNREAD), UpdateChat(GROUP, "u", DELETE))
    if command_between:
        slot.do(tell("x"))
    slot.do(remove("u"))
    slot.do(say())
    slot.do(UpdateChat(GROUP, "u", SET_UNREAD, 1))
    assert shown(slot) == (1, 1, [2, 1])
    slot.do(remove("u"))
    slot.do(add("u"))
    assert shown(slot) == (0, 2, [2, 1])


def test_a_removed_member_who_clears_his_unread_finds_nothing_later() -> None:
    slot = slot_after(add("u"), say(), remove("u"), UpdateChat(GROUP, "u", CLEAR_UNREAD), say())
    assert shown(slot) == (0, 1, [1])
    slot.do(UpdateChat(GROUP, "u", SET_UNREAD, 1))
    assert shown(slot) == (0, 1, [1])
    slot.do(add("u"))
    assert shown(slot) == (0, 2, [2, 1])


def test_unread_of_a_kept_conversation_counts_from_where_it_ends() -> None:
    slot = slot_after(add("u"), say(), say(), RemoveAllMembers(GROUP), say(), say())
    slot.do(UpdateChat(GROUP, "u", SET_UNREAD, 1))
    assert shown(slot) == (1, 1, [2, 1])


def test_who_is_a_member_by_the_id_keeps_his_conversation_when_his_subscription_ends() -> None:
    channel = ChannelId(3, "u|desk")
    slot = slot_after(PutChannel(channel, None, ["u", "v"]), Append(channel, False, "v", b"1"))
    slot.do(RemoveMembers(channel, ["u", "v"]))
    slot.do(Append(channel, False, "agent", b"2"))
    assert shown(slot, channel=channel) == (2, 0, [2, 1]) and shown(slot, "v", channel) is None


def test_rows_that_differ_leave_and_join_each_on_its_own() -> None:
    slot = slot_after(add("a", "b", "c", "d"), say(), tell("1"), UpdateChat(GROUP, "b", CLEAR_UNREAD))
    slot.do(AdvanceCommands(GROUP, "c", 1))
    slot.do(remove("d"))
    slot.do(PutChannel(GROUP, None, ["e", "a"], reset=True))
    assert [told(slot, uid) for uid in "abcde"] == [["1"], ["1"], [], ["1"], []]
    assert [shown(slot, uid) for uid in "abcde"] == [(1, 0, [1]), (0, 1, [1]), (1, 0, [1]), None, (0, 1, [1])]
    slot.do(remove("a", "b", "c", "e"))
    assert [slot.state.channels_of(uid) for uid in "abcde"] == [[GROUP], [GROUP], [], [GROUP], []]
    slot.do(add("a", "b", "c", "d", "e"))
    assert [told(slot, uid) for uid in "abcde"] == [["1"], ["1"], [], ["1"], []]


def test_removing_strangers_is_fine() -> None:
    slot = slot_after(add("u"))
    slot.effects()
    slot.do(remove("v", "", "v"))
    slot.do(RemoveMembers(ChannelId(2, "unknown"), ["v"]))
    assert member_uids(slot.state, PART) == ["u"] and slot.effects() == []


def test_a_removal_in_a_live_channel_leaves_the_conversation() -> None:
    slot = slot_after(
        PutChannel(LIVE, None, ["u"]),
        Append(LIVE, False, "u", b"1"),
        UpdateChat(LIVE, "u", CLEAR_UNREAD),
        RemoveMembers(LIVE, ["u"]),
        Append(LIVE, False, "v", b"2", trusted=True),
    )
    assert shown(slot, channel=LIVE) == (0, 1, [1])


# -- lists: D-11 --


def test_a_denied_members_conversation_goes_and_comes_back_read() -> None:
    slot = slot_after(add("u"), say(), say(), UpdateList(GROUP, DENY, ADD, ["u"]))
    assert shown(slot) is None
    slot.do(say())
    slot.do(UpdateList(GROUP, DENY, REMOVE, ["u"]))
    assert shown(slot) == (0, 3, [3, 2, 1])


@pytest.mark.parametrize("lift", [UpdateList(GROUP, DENY, CLEAR), UpdateList(GROUP, DENY, SET, [])])
def test_clearing_or_replacing_the_deny_list_gives_conversations_back_as_removing_does(lift: Command) -> None:
    slot = slot_after(add("u"), say(), UpdateList(GROUP, DENY, SET, ["u"]), lift, say())
    assert shown(slot) == (1, 1, [2, 1])


def test_who_is_on_the_new_deny_list_too_stays_denied() -> None:
    slot = slot_after(add("u", "v"), say(), UpdateList(GROUP, DENY, ADD, ["u", "v"]))
    slot.do(UpdateList(GROUP, DENY, SET, ["u", "w"]))
    assert shown(slot) is None and shown(slot, "v") == (0, 1, [1])


def test_lifting_a_denial_makes_no_conversation_for_a_stranger() -> None:
    slot = slot_after(add("v"), say(), UpdateList(GROUP, DENY, ADD, ["u"]), UpdateList(GROUP, DENY, REMOVE, ["u"]))
    assert shown(slot) is None and row(slot) is None


def test_a_denial_lifted_leaves_other_conversations_as_they_are() -> None:
    slot = slot_after(add("u"), say(), UpdateList(GROUP, DENY, REMOVE, ["u"]))
    assert shown(slot) == (1, 0, [1])


def test_the_visitor_of_customer_service_gets_his_conversation_back() -> None:
    channel = ChannelId(3, "u|desk")
    slot = slot_after(
        Append(channel, True, "agent", b"command"),
        UpdateList(channel, DENY, ADD, ["u"]),
        UpdateList(channel, DENY, REMOVE, ["u"]),
    )
    assert shown(slot, channel=channel) is None, "there was none before the first message"
    slot.do(Append(channel, False, "agent", b"1"))
    assert shown(slot, channel=channel) == (1, 0, [1])
    slot.do(UpdateList(channel, DENY, ADD, ["u"]))
    assert shown(slot, channel=channel) is None
    slot.do(UpdateList(channel, DENY, REMOVE, ["u"]))
    assert shown(slot, channel=channel) == (0, 1, [1])


def test_the_allow_list_leaves_conversations_alone() -> None:
    slot = slot_after(add("u"), say(), UpdateList(GROUP, ALLOW, ADD, ["u"]), UpdateList(GROUP, ALLOW, REMOVE, ["u"]))
    assert shown(slot) == (1, 0, [1])


@pytest.mark.parametrize("which", [DENY, ALLOW])
def test_lists_are_sets_that_are_added_to_removed_from_replaced_and_cleared(which: int) -> None:
    slot = slot_after(add("u"))
    steps = [
        (ADD, ["b", "a", "", "b"], ["a", "b"]),
        (ADD, ["a", "c"], ["a", "b", "c"]),
        (REMOVE, ["b", "unknown", "b"], ["a", "c"]),
        (SET, ["c", "d"], ["c", "d"]),
        (SET, [], []),
        (ADD, ["e"], ["e"]),
        (CLEAR, [], []),
    ]
    for op, uids, expected in steps:
        slot.do(UpdateList(GROUP, which, op, uids))
        assert list_uids(slot.state, PART, which) == expected
        assert list_uids(slot.state, PART, 1 - which) == []
        head = slot.state.head(PART)
        assert head is not None
        assert (head.denied, head.allowed) == ((len(expected), 0) if which == DENY else (0, len(expected)))


def test_lists_exist_without_a_channel() -> None:
    slot = slot_after(UpdateList(GROUP, DENY, ADD, ["u"]))
    head = slot.state.head(PART)
    assert head is not None and not head.known
    assert list_uids(slot.state, PART, DENY) == ["u"]


# -- hard uids, paging --


def test_no_two_hard_uids_collapse() -> None:
    """S39."""
    slot = slot_after(add(*UIDS))
    assert member_uids(slot.state, PART) == sorted(UIDS, key=str.encode)
    for uid in UIDS:
        slot.do(remove(uid))
        assert uid not in member_uids(slot.state, PART)
        slot.do(add(uid))
    assert len(member_uids(slot.state, PART)) == len(UIDS)


@pytest.mark.parametrize("limit", [1, 2, 3, 12, 1_000])
def test_pages_hold_every_member_once_whoever_left_between(limit: int) -> None:
    slot = slot_after(add(*UIDS, *(f"gone {n:02}" for n in range(9))), say())
    slot.do(PutChannel(GROUP, None, list(UIDS), reset=True))
    found: list[str] = []
    cursor = ""
    while True:
        page, cursor = member_page(slot.state, PART, cursor=cursor, limit=limit)
        found += page
        if not cursor:
            break
    assert found == sorted(UIDS, key=str.encode)


def test_one_command_takes_a_thousand_members() -> None:
    slot = slot_after(add(*(f"u{n}" for n in range(1_000))))
    head = slot.state.head(PART)
    assert head is not None and head.members == len(member_uids(slot.state, PART)) == 1_000
