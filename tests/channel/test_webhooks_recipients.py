"""Of whom msg.offline tells: the members at the message's position, whenever asked. behaviour.md 8.1, 13.2; R0."""

import pytest

from tests.channel.slot import Slot
from wukong.channel import webhooks
from wukong.channel.commands import (
    AdvanceWebhooks,
    Append,
    Command,
    ImportMembers,
    PutChannel,
    PutSettings,
    RemoveAllMembers,
    RemoveMembers,
    UpdateList,
)
from wukong.channel.ids import ChannelId
from wukong.channel.state import KEPT, Settings, encode
from wukong.channel.webhooks import NOTIFY, OFFLINE, pending, recipients

GROUP = ChannelId(2, "g")
UNSTORED = 1
SYSTEM = "____system"


def message(
    text: str,
    channel: ChannelId = GROUP,
    uid: str = SYSTEM,
    *,
    is_cmd: bool = False,
    flags: int = 0,
    recipients: list[str] | None = None,
) -> Append:
    return Append(channel, is_cmd, uid, text.encode(), flags=flags, trusted=True, recipients=recipients)


def told(slot: Slot, *, limit: int = 100) -> dict[str, list[str]]:
    """Message -> recipients, of all records that wait."""
    found = {}
    for record in pending(slot.state, OFFLINE, limit=1_000):
        assert record.message is not None
        uids: list[str] = []
        start = ""
        while True:
            page, start = recipients(slot.state, record, start=start, limit=limit)
            assert len(page) <= limit + 2
            uids += page
            if not start:
                break
        assert len(uids) == len(set(uids)), "each once"
        found[record.message.payload.decode()] = sorted(uids, key=str.encode)
    return found


def slot_after(*commands: Command, **settings: object) -> Slot:
    slot = Slot(1, **{"webhook_on": True, **settings})
    for command in commands:
        slot.do(command)
    return slot


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("flags", [0, UNSTORED])
@pytest.mark.parametrize("is_cmd", [False, True])
def test_members_at_the_position_are_told(is_cmd: bool, flags: int, limit: int) -> None:
    slot = slot_after(
        message("nobody", is_cmd=is_cmd, flags=flags),
        PutChannel(GROUP, None, ["a"]),
        message("a", is_cmd=is_cmd, flags=flags),
        PutChannel(GROUP, None, ["b", "c"]),
        message("a b c", is_cmd=is_cmd, flags=flags),
        RemoveMembers(GROUP, ["a", "c"]),
        message("b", is_cmd=is_cmd, flags=flags),
        PutChannel(GROUP, None, ["a"]),
        message("a b", is_cmd=is_cmd, flags=flags),
        RemoveAllMembers(GROUP),
        message("none", is_cmd=is_cmd, flags=flags),
        PutChannel(GROUP, None, ["c", "d"]),
        PutChannel(GROUP, None, ["d", "e"], reset=True),
        message("d e", is_cmd=is_cmd, flags=flags),
    )
    assert told(slot, limit=limit) == {
        "nobody": [],
        "a": ["a"],
        "a b c": ["a", "b", "c"],
        "b": ["b"],
        "a b": ["a", "b"],
        "none": [],
        "d e": ["d", "e"],
    }


@pytest.mark.parametrize("flags", [0, UNSTORED])
@pytest.mark.parametrize("is_cmd", [False, True])
def test_the_order_inside_one_entry_counts(is_cmd: bool, flags: int) -> None:
    """There all commands have the same log index, and messages that are not stored no seq."""
    slot = Slot(webhook_on=True)
    slot.do(PutChannel(GROUP, None, ["a"]))
    index = slot.index
    for command in (
        message("before", is_cmd=is_cmd, flags=flags),
        PutChannel(GROUP, None, ["b"]),
        message("between", is_cmd=is_cmd, flags=flags),
        RemoveMembers(GROUP, ["a"]),
        message("after", is_cmd=is_cmd, flags=flags),
    ):
        slot.index = index
        slot.do(command)
    assert told(slot) == {"before": ["a"], "between": ["a", "b"], "after": ["b"]}


def test_the_sender_and_the_system_account_are_not_told() -> None:
    slot = slot_after(
        PutChannel(GROUP, None, ["a", "b", SYSTEM]),
        message("from a", uid="a"),
        message("from the system"),
        message("by name", uid="a", recipients=["b", "a", SYSTEM, "", "c", "b"]),
    )
    assert told(slot) == {"from a": ["b"], "from the system": ["a", "b"], "by name": ["b", "c"]}


def test_denied_members_are_told() -> None:
    """The deny list only blocks sending."""
    slot = slot_after(PutChannel(GROUP, None, ["a", "b"]), UpdateList(GROUP, 0, 0, ["a"]), message("x"))
    assert told(slot) == {"x": ["a", "b"]}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_whoever_is_named_is_told_and_nobody_else(limit: int) -> None:
    slot = slot_after(PutChannel(GROUP, None, ["a", "b"]), message("x", recipients=["c", "a", "c", "d", "é"]))
    assert told(slot, limit=limit) == {"x": ["a", "c", "d", "é"]}


@pytest.mark.parametrize(
    ("channel", "uid", "expected"),
    [
        (ChannelId(1, "bob@alice"), "alice", ["bob"]),
        (ChannelId(1, "alice@alice"), "alice", []),
        (ChannelId(3, "visitor|desk"), "visitor", ["agent"]),
        (ChannelId(3, "visitor|desk"), "agent", ["visitor"]),
        (ChannelId(3, "desk"), "visitor", ["agent"]),
        (ChannelId(10, "visitor"), "agent", ["visitor"]),
    ],
)
@pytest.mark.parametrize("limit", [1, 100])
def test_implicit_members_are_told(channel: ChannelId, uid: str, expected: list[str], limit: int) -> None:
    slot = slot_after(message("first", channel, uid))
    if channel.type != 1:
        slot.do(PutChannel(channel, None, ["agent", "visitor"] if "visitor" in channel.id else ["agent"]))
    slot.do(message("second", channel, uid))
    assert told(slot, limit=limit)["second"] == expected


def test_a_uid_that_is_the_beginning_of_another_is_told_once() -> None:
    uids = ["a", "a\x00", "a\x00b", "ab", "é" * 60]
    slot = slot_after(PutChannel(GROUP, None, uids), message("x"))
    for limit in (1, 2, 3):
        assert told(slot, limit=limit) == {"x": sorted(uids, key=str.encode)}


def test_a_page_may_be_without_anybody() -> None:
    """Rows of users who kept a conversation are passed by, a limited number at once."""
    slot = slot_after(
        PutChannel(GROUP, None, [f"u{n}" for n in range(9)]), PutChannel(GROUP, None, ["v"], reset=True), message("x")
    )
    (record,) = pending(slot.state, OFFLINE, limit=5)
    page, start = recipients(slot.state, record, limit=4)
    assert page == [] and start
    assert told(slot, limit=4) == {"x": ["v"]}


def test_no_recipients_are_asked_for_with_a_limit_of_zero() -> None:
    slot = slot_after(PutChannel(GROUP, None, ["a"]), message("x"))
    (record,) = pending(slot.state, OFFLINE, limit=5)
    assert recipients(slot.state, record, limit=0) == ([], "")


def test_imported_members_are_not_told_of_what_was_before() -> None:
    slot = slot_after(
        PutChannel(GROUP, None, ["a"]),
        message("x", flags=UNSTORED),
        ImportMembers(GROUP, ["b"]),
        message("y", flags=UNSTORED),
    )
    assert told(slot) == {"x": ["a"], "y": ["a", "b"]}


# -- rows that are kept --


LEAVING = [
    RemoveMembers(GROUP, ["b", "c"]),
    PutChannel(GROUP, None, ["a"], reset=True),
    RemoveAllMembers(GROUP),
]


def member_rows(slot: Slot) -> list[str]:
    """Uids with a row in the group."""
    return [key[5:].decode() for key in slot.rows() if key[:1] == b"m"]


def kept(slot: Slot) -> int:
    return sum(key.startswith(KEPT) for key in slot.rows())


@pytest.mark.parametrize("leaving", LEAVING)
def test_who_left_is_told_of_the_messages_of_his_time_and_then_his_row_goes(leaving: Command) -> None:
    slot = slot_after(PutChannel(GROUP, None, ["a", "b", "c"], chats=False), message("x"), message("y", flags=UNSTORED))
    slot.do(leaving)
    slot.restart()
    assert told(slot) == {"x": ["a", "b", "c"], "y": ["a", "b", "c"]}
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    assert told(slot) == {"y": ["a", "b", "c"]}
    stays = [] if isinstance(leaving, RemoveAllMembers) else ["a"]
    slot.do(AdvanceWebhooks(OFFLINE, 2))
    assert member_rows(slot) == stays
    assert kept(slot) == 0
    assert not [key for key in slot.rows() if key[:1] in b"un" and b"b" in key]


@pytest.mark.parametrize("leaving", LEAVING)
def test_nothing_is_kept_when_all_is_delivered(leaving: Command) -> None:
    slot = slot_after(PutChannel(GROUP, None, ["a", "b", "c"], chats=False), message("x"))
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    slot.do(leaving)
    assert kept(slot) == 0
    assert set(member_rows(slot)) <= {"a"}


def test_nothing_is_kept_for_a_time_without_messages() -> None:
    slot = slot_after(message("x"), PutChannel(GROUP, None, ["b"], chats=False), RemoveMembers(GROUP, ["b"]))
    assert member_rows(slot) == [] and kept(slot) == 0
    assert told(slot) == {"x": []}


def test_nothing_is_kept_for_msg_notify() -> None:
    slot = slot_after(
        PutChannel(GROUP, None, ["b"], chats=False),
        message("x"),
        RemoveMembers(GROUP, ["b"]),
        webhook_events=["msg.notify"],
    )
    assert len(pending(slot.state, NOTIFY, limit=5)) == 1
    assert member_rows(slot) == [] and kept(slot) == 0


def test_who_came_back_stays() -> None:
    slot = slot_after(
        PutChannel(GROUP, None, ["b"]),
        message("x"),
        RemoveMembers(GROUP, ["b"]),
        message("y"),
        PutChannel(GROUP, None, ["b"]),
        message("z"),
    )
    assert told(slot) == {"x": ["b"], "y": [], "z": ["b"]}
    slot.do(AdvanceWebhooks(OFFLINE, 2))
    assert told(slot) == {"z": ["b"]}
    assert member_rows(slot) == ["b"] and kept(slot) == 0
    slot.do(AdvanceWebhooks(OFFLINE, 3))
    assert member_rows(slot) == ["b"]


def test_a_conversation_outlives_the_records() -> None:
    slot = slot_after(PutChannel(GROUP, None, ["b"]), message("x"), RemoveAllMembers(GROUP))
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    assert member_rows(slot) == ["b"]


def test_one_command_lets_a_limited_number_of_rows_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "ROWS_PER_COMMAND", 3)
    uids = [f"u{n}" for n in range(8)]
    slot = slot_after(PutChannel(GROUP, None, uids, chats=False), message("x"), RemoveMembers(GROUP, uids))
    left = [len(member_rows(slot))]
    while kept(slot):
        slot.do(AdvanceWebhooks(OFFLINE, 1))
        left.append(len(member_rows(slot)))
    assert left == [8, 5, 2, 0]


def test_rows_kept_when_webhooks_are_switched_off_go_with_their_records() -> None:
    slot = slot_after(PutChannel(GROUP, None, ["b"], chats=False), message("x"), RemoveMembers(GROUP, ["b"]))
    slot.do(PutSettings(encode(Settings())))
    slot.deliver()
    assert member_rows(slot) == ["b"]
    slot.do(AdvanceWebhooks(OFFLINE, 1, dropped=True))
    assert member_rows(slot) == [] and kept(slot) == 0
