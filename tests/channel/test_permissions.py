"""Who may send: every row of behaviour.md 5.1 to 5.3 alone, and every combination for their order."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from tests.channel.slot import Slot
from wukong.channel.commands import (
    Append,
    ChannelInfo,
    Disband,
    PutChannel,
    PutSettings,
    RemoveMembers,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.state import Settings, channel_part, encode

DENY, ALLOW = 0, 1
ADD, REMOVE, SET, CLEAR = 0, 1, 2, 3

# Rows of the tables in their order: what makes the row hold for "u" in a channel where he would be a member.
ROWS: dict[str, tuple[int, Callable[[Slot, ChannelId], object]]] = {
    "sender has send_ban": (25, lambda s, c: s.do(PutChannel(ChannelId(1, "u"), ChannelInfo(send_ban=True)))),
    "channel is banned": (19, lambda s, c: flag(s, c, ban=True)),
    "channel is dissolved": (24, lambda s, c: flag(s, c, disband=True)),
    "channel has send_ban": (25, lambda s, c: flag(s, c, send_ban=True)),
    "sender is denied": (4, lambda s, c: s.do(UpdateList(c, DENY, ADD, ["u"]))),
    "sender is no member": (3, lambda s, c: s.do(RemoveMembers(c, ["u"]))),
    "sender is not on the allow list": (13, lambda s, c: s.do(UpdateList(c, ALLOW, ADD, ["somebody"]))),
}


def subsets(rows: dict[str, Any]) -> list[tuple[str, ...]]:
    return [some for size in range(len(rows) + 1) for some in combinations(rows, size)]


SUBSETS = subsets(ROWS)
# Types without a rule of their own: group, community, topic, data, temporary, live, agent group.
PLAIN_TYPES = (2, 4, 5, 7, 8, 9, 12)


def flag(slot: Slot, channel: ChannelId, **flags: bool) -> None:
    """One more flag on top of those that are set."""
    head = slot.state.head(channel_part(channel))
    assert head is not None
    before = {"ban": head.ban, "disband": head.disband, "send_ban": head.send_ban}
    slot.do(PutChannel(channel, ChannelInfo(**{**before, **flags})))


def slot_with(channel: ChannelId, rows: tuple[str, ...]) -> Slot:
    slot = Slot()
    slot.do(PutChannel(channel, None, ["u", "other"]))
    for row in rows:
        ROWS[row][1](slot, channel)
    slot.deliver()
    return slot


def reason(slot: Slot, channel: ChannelId, uid: str = "u", *, is_cmd: bool = False, trusted: bool = False) -> int:
    return slot.do(Append(channel, is_cmd, uid, b"hi", trusted=trusted)).reason


def first_of(rows: tuple[str, ...], *passed: str) -> int:
    """The code of the first row that holds and is not passed over."""
    return next((code for row, (code, _) in ROWS.items() if row in rows and row not in passed), 1)


CHANNEL_ROWS = ("channel is banned", "channel is dissolved", "channel has send_ban")
LIST_ROWS = ("sender is denied", "sender is no member", "sender is not on the allow list")


@pytest.mark.parametrize("rows", SUBSETS, ids=", ".join)
def test_the_first_row_that_holds_decides(rows: tuple[str, ...]) -> None:
    channel = ChannelId(2, "g")
    slot = slot_with(channel, rows)
    assert reason(slot, channel) == first_of(rows)
    # A command twin has no record, so no flag of it applies (http-api.md 8.11); the lists are the channel's.
    assert reason(slot, channel, is_cmd=True) == first_of(rows, *CHANNEL_ROWS)
    # From the back end: only ban and disband of the channel (behaviour.md 6).
    assert reason(slot, channel, trusted=True) == first_of(
        rows, "sender has send_ban", "channel has send_ban", *LIST_ROWS
    )
    assert reason(slot, channel, is_cmd=True, trusted=True) == 1


@pytest.mark.parametrize("rows", SUBSETS, ids=", ".join)
def test_a_system_account_passes_what_the_back_end_passes_but_its_own_send_ban(rows: tuple[str, ...]) -> None:
    channel = ChannelId(2, "g")
    slot = slot_with(channel, rows)
    slot.do(UpdateSystemUids(0, ["u"]))
    slot.deliver()
    assert reason(slot, channel) == first_of(rows, "channel has send_ban", *LIST_ROWS)


@pytest.mark.parametrize("kind", PLAIN_TYPES)
@pytest.mark.parametrize("row", ROWS)
def test_every_row_holds_for_every_plain_type(kind: int, row: str) -> None:
    channel = ChannelId(kind, "c")
    assert reason(slot_with(channel, (row,)), channel) == ROWS[row][0]


@pytest.mark.parametrize("kind", [3, 6])
@pytest.mark.parametrize("rows", SUBSETS, ids=", ".join)
def test_anybody_may_write_to_customer_service_and_info(kind: int, rows: tuple[str, ...]) -> None:
    channel = ChannelId(kind, "c")
    assert reason(slot_with(channel, rows), channel) == first_of(rows, *CHANNEL_ROWS, *LIST_ROWS)


@pytest.mark.parametrize("channel", [ChannelId(10, "visitor"), ChannelId(11, "visitor@agent")])
@pytest.mark.parametrize("rows", SUBSETS, ids=", ".join)
def test_visitors_and_agent_channels_have_lists_but_no_flags(channel: ChannelId, rows: tuple[str, ...]) -> None:
    slot = slot_with(channel, rows)
    assert reason(slot, channel) == first_of(rows, *CHANNEL_ROWS)
    assert reason(slot, channel, "visitor") == 1


def test_both_sides_of_an_agent_channel_may_write_and_nobody_else() -> None:
    channel = ChannelId(11, "alice@agent")
    slot = Slot()
    assert [reason(slot, channel, uid) for uid in ("alice", "agent", "stranger")] == [1, 1, 3]


def test_nobody_is_a_member_of_an_unknown_channel() -> None:
    assert reason(Slot(), ChannelId(2, "unknown")) == 3


def test_a_refusal_has_a_message_id_and_no_seq_and_leaves_nothing() -> None:
    """behaviour.md 5.4."""
    slot = Slot()
    channel = ChannelId(2, "unknown")
    reply = slot.do(Append(channel, False, "u", b"hi", "n1"))
    assert reply.message_id > 0 and (reply.reason, reply.message_seq) == (3, 0)
    assert not slot.effects() and slot.texts(channel) == []
    slot.do(PutChannel(channel, None, ["u"]))
    again = slot.do(Append(channel, False, "u", b"hi", "n1"))
    assert (again.reason, again.duplicate, again.message_seq) == (1, False, 1), "a refusal is not remembered"


# -- effect at once --


def test_a_member_may_send_in_the_same_pack_that_adds_him() -> None:
    """S25: no negative answer outlives the add."""
    slot = Slot()
    channel = ChannelId(2, "g")
    assert reason(slot, channel) == 3
    slot.do(PutChannel(channel, None, ["u"]))
    assert reason(slot, channel) == 1
    slot.do(RemoveMembers(channel, ["u"]))
    assert reason(slot, channel) == 3


def test_an_allow_list_binds_while_it_has_an_entry() -> None:
    """S24."""
    slot = Slot()
    channel = ChannelId(2, "g")
    slot.do(PutChannel(channel, None, ["u", "other"]))
    steps = [
        (UpdateList(channel, ALLOW, ADD, ["other"]), 13),
        (UpdateList(channel, ALLOW, ADD, ["u"]), 1),
        (UpdateList(channel, ALLOW, REMOVE, ["u"]), 13),
        (UpdateList(channel, ALLOW, REMOVE, ["other"]), 1),
        (UpdateList(channel, ALLOW, SET, ["other"]), 13),
        (UpdateList(channel, ALLOW, SET, []), 1),
        (UpdateList(channel, ALLOW, SET, ["other"]), 13),
        (UpdateList(channel, ALLOW, CLEAR), 1),
    ]
    for step, expected in steps:
        slot.do(step)
        assert reason(slot, channel) == expected, step


def test_creating_a_dissolved_channel_again_revives_it_and_seqs_go_on() -> None:
    """behaviour.md 21, check 14."""
    slot = Slot()
    channel = ChannelId(2, "g")
    slot.do(PutChannel(channel, None, ["u"]))
    assert slot.do(Append(channel, False, "u", b"1")).message_seq == 1
    slot.do(Disband(channel))
    assert reason(slot, channel) == 24
    slot.do(PutChannel(channel, None, ["v"]))
    assert reason(slot, channel) == 24, "adding a member does not revive"
    slot.do(PutChannel(channel, ChannelInfo()))
    assert slot.do(Append(channel, False, "u", b"2")).message_seq == 2


# -- persons --

PAIR = ChannelId(1, "bob@alice")
PERSON_ROWS: dict[str, tuple[int, Callable[[Slot], object]]] = {
    "sender has send_ban": (25, lambda s: s.do(PutChannel(ChannelId(1, "alice"), ChannelInfo(send_ban=True)))),
    "receiver is a system account": (1, lambda s: s.do(UpdateSystemUids(0, ["bob"]))),
    "receiver denies the sender": (4, lambda s: s.do(UpdateList(ChannelId(1, "bob"), DENY, ADD, ["alice"]))),
    "strangers are off": (13, lambda s: s.do(PutSettings(encode(Settings(whitelist_off_of_person=False))))),
}


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("rows", subsets(PERSON_ROWS), ids=", ".join)
def test_a_person_asks_the_receivers_lists(rows: tuple[str, ...], allowed: bool) -> None:
    slot = Slot()
    for row in rows:
        PERSON_ROWS[row][1](slot)
    if allowed:
        slot.do(UpdateList(ChannelId(1, "bob"), ALLOW, ADD, ["alice"]))
    slot.deliver()
    passed = ("strangers are off",) if allowed else ()
    expected = next((code for row, (code, _) in PERSON_ROWS.items() if row in rows and row not in passed), 1)
    assert reason(slot, PAIR, "alice") == expected
    assert reason(slot, PAIR, "alice", is_cmd=True) == expected
    assert reason(slot, PAIR, "alice", trusted=True) == 1


def test_the_lists_of_the_sender_do_not_bind_himself() -> None:
    slot = Slot()
    slot.do(UpdateList(ChannelId(1, "bob"), DENY, ADD, ["alice"]))
    slot.deliver()
    assert (reason(slot, PAIR, "alice"), reason(slot, PAIR, "bob")) == (4, 1)


def test_the_ban_of_a_receiver_does_not_stop_messages_to_him() -> None:
    """behaviour.md 5.3: it stops his login and his token."""
    slot = Slot()
    slot.do(PutChannel(ChannelId(1, "bob"), ChannelInfo(ban=True, disband=True)))
    slot.deliver()
    assert reason(slot, PAIR, "alice") == reason(slot, PAIR, "bob") == 1


def test_the_system_account_writes_to_whom_denies_it() -> None:
    slot = Slot(whitelist_off_of_person=False)
    channel = ChannelId(1, "u1@____system")
    slot.do(UpdateList(ChannelId(1, "u1"), DENY, ADD, ["____system"]))
    slot.deliver()
    assert reason(slot, channel, "____system") == reason(slot, channel, "u1") == 1


def test_uids_of_equal_crc_have_lists_of_their_own() -> None:
    slot = Slot()
    slot.do(UpdateList(ChannelId(1, "u"), DENY, ADD, ["plumless"]))
    slot.deliver()
    denied = {uid: reason(slot, ChannelId(1, person_id("u", uid)), uid) for uid in ("plumless", "buckeroo")}
    assert denied == {"plumless": 4, "buckeroo": 1}
