"""Values that no row has room for: answered with reason 15, everything at the limit is done."""

import msgspec
import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel.bounds import FITS
from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    CloseSession,
    Command,
    Disband,
    DropNode,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    NodeGone,
    NodeRow,
    OpenSession,
    Pack,
    PutChannel,
    PutCopy,
    PutNode,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    SetToken,
    StageMembers,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.copies import COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS, COPY_USER
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.machine import _RULES
from wukong.channel.messages import LAST_MS, SNOWFLAKE_EPOCH_MS
from wukong.channel.state import Settings, encode

OUT_OF_BOUNDS = Reply(15)


def test_every_command_has_a_rule_and_bounds() -> None:
    assert set(_RULES) == set(FITS) == set(Command.__args__)


CHANNEL = ChannelId(2, "g")
LONG = "y" * 32_768
LONGEST = "用" * 10_922  # 32,766 bytes
PAIR = f"{LONGEST}@{LONGEST}"
GOOD_PAIR = ["a@b", "a", ""]
GOOD_MESSAGE = Message(1 << 40, 1, 0, 0, "a", "n", 1_600_000_000, b"")
LARGEST_ID = (LAST_MS - SNOWFLAKE_EPOCH_MS) << 22
LARGEST_MESSAGE = Message(
    LARGEST_ID, 1, 14, 255, LONGEST, LONGEST, LAST_MS // 1000, b"x" * 40_000, (1 << 32) - 1, LONGEST
)


@pytest.mark.parametrize(
    "command",
    [
        Append(ChannelId(256, "g"), False, "u", b""),
        Append(ChannelId(-1, "g"), False, "u", b""),
        Append(ChannelId(2, LONG + "@" + LONG), False, "u", b""),
        Append(CHANNEL, False, LONG, b""),
        Append(CHANNEL, False, "u", b"", LONG),
        Append(CHANNEL, False, "u", b"", topic=LONG),
        Append(CHANNEL, False, "u", b"", flags=16),
        Append(CHANNEL, False, "u", b"", setting=256),
        Append(CHANNEL, False, "u", b"", expire=1 << 32),
        Append(CHANNEL, False, "u", b"", expire=-1),
        Append(CHANNEL, False, "u", b"", session=-1),
        Append(CHANNEL, False, "u", b"", recipients=["a", LONG]),
        PutChannel(CHANNEL, None, [LONG]),
        PutChannel(CHANNEL, None, [], True, -1),
        StageMembers(CHANNEL, 0, ["a"]),
        StageMembers(ChannelId(300, "g"), 1, ["a"]),
        StageMembers(CHANNEL, 1, [LONG]),
        RemoveMembers(ChannelId(300, "g"), ["a"]),
        RemoveMembers(CHANNEL, ["a", LONG]),
        RemoveAllMembers(ChannelId(-1, "g")),
        StageMembers(CHANNEL, 1 << 63, ["a"]),
        Disband(ChannelId(300, "g")),
        UpdateList(CHANNEL, 2, 0, ["a"]),
        UpdateList(CHANNEL, 0, 4, ["a"]),
        UpdateList(CHANNEL, 0, -1, ["a"]),
        UpdateChat(CHANNEL, "a", 3),
        AdvanceCommands(CHANNEL, "a", -1),
        AdvanceCommands(CHANNEL, "a", 1 << 63),
        SetToken("a", 256, b"", 0),
        SetToken("a", 0, b"", -1),
        QuitDevices("a", [0, -1]),
        OpenSession("a", -1, 0, "d", b""),
        OpenSession("a", 1, 256, "d", b""),
        CloseSession("a", 1 << 63),
        RememberSync("a", [(ChannelId(-1, "g"), 1)]),
        RememberSync("a", [(CHANNEL, -1)]),
        TakeSync(LONG),
        PutSettings(b""),
        PutSettings(encode({"token_auth_on": 3})),
        PutSettings(encode(Settings(idempotency_retention_ms=-1))),
        PutSettings(encode(Settings(idempotency_retention_ms=3_650 * 24 * 3_600_000 + 1))),
        PutSettings(encode(Settings(no_persist_idempotency_retention_ms=1 << 62))),
        PutSettings(encode(Settings(webhook_backlog_bytes=-1))),
        PutSettings(encode(Settings(webhook_backlog_bytes=1 << 63))),
        AdvanceWebhooks(0, 1),
        AdvanceWebhooks(3, 1),
        AdvanceWebhooks(1, -1),
        AdvanceWebhooks(1, 1 << 63),
        FreezeOffline([0], []),
        FreezeOffline([1 << 63], []),
        FreezeOffline([1], [LONG]),
        FreezeOffline([1] * 1_001, []),
        UpdateSystemUids(2, ["a"]),
        UpdateSystemUids(0, ["a"], True),
        UpdateSystemUids(0, [LONG]),
        PutCopy(0, 1, [], b""),
        PutCopy(5, 1, [], b""),
        PutCopy(COPY_USER, 1, [], b"\x01"),
        PutCopy(COPY_USER, 1, ["a"], b""),
        PutCopy(COPY_USER, -1, ["a"], b"\x01"),
        PutCopy(COPY_PAIR, 1, ["a@b", "a"], b"\x01"),
        PutCopy(COPY_PAIR, 1, GOOD_PAIR, b""),
        PutCopy(COPY_PAIR, 1, GOOD_PAIR, b"\x01\x01"),
        PutCopy(COPY_SETTINGS, 1, [], b"\xc1"),
        PutCopy(COPY_SYSTEM_UIDS, 1, [], encode("a")),
        PutCopy(COPY_SYSTEM_UIDS, 1, [], encode([LONG])),
        ForgetOutbox([1, -1]),
        PutChannel(CHANNEL, None, [], True, 1, True, -1),
        PutChannel(CHANNEL, None, [], True, 1, True, 1 << 32),
        StageMembers(CHANNEL, 1, ["a"], -1),
        StageMembers(CHANNEL, 1, ["a"], 1 << 32),
        PutSettings(b"", True),
        NodeGone(-1, 1),
        NodeGone(65_536, 1),
        NodeGone(1, -1),
        NodeGone(1, 1 << 63),
        PutNode(0, NodeRow("a:1", 1, "")),
        PutNode(1_024, NodeRow("a:1", 1, "")),
        PutNode(1, NodeRow("a:1", -1, "")),
        PutNode(1, NodeRow("y" * 1_025, 1, "")),
        PutNode(1, NodeRow("a:1", 1, "用" * 342)),
        DropNode(0),
        DropNode(1_024),
        ForgetNode(0),
        ForgetNode(1_024),
        ImportMessages(CHANNEL, False, []),
        ImportMessages(ChannelId(256, "g"), False, [GOOD_MESSAGE]),
        *(
            ImportMessages(CHANNEL, False, [msgspec.structs.replace(GOOD_MESSAGE, **{name: value})])
            for name, value in [
                ("message_id", 0),
                ("message_id", 1 << 63),
                ("message_id", ((LAST_MS - SNOWFLAKE_EPOCH_MS) << 22) + 1),
                ("message_seq", 0),
                ("message_seq", 1 << 63),
                ("flags", 1),
                ("flags", 16),
                ("setting", 256),
                ("from_uid", LONG),
                ("client_msg_no", LONG),
                ("topic", LONG),
                ("timestamp", -1),
                ("timestamp", LAST_MS // 1000 + 1),
                ("expire", 1 << 32),
                ("recipients", []),
            ]
        ),
        ImportMessages(CHANNEL, False, [GOOD_MESSAGE, GOOD_MESSAGE]),
        ImportMembers(CHANNEL, ["a", LONG]),
        ImportChats(CHANNEL, [ImportedChat(LONG, 1)]),
        ImportChats(CHANNEL, [ImportedChat("a", -1)]),
        ImportChats(CHANNEL, [ImportedChat("a", 1, 1 << 63)]),
    ],
)
def test_a_command_out_of_bounds_is_answered_with_reason_15_and_changes_nothing(command: Command) -> None:
    slot = Slot()
    slot.apply(Pack(1, 5, 1, 0, START_MS, [PutChannel(CHANNEL, None, ["a"])]))
    slot.state.effects.clear()
    before = slot.rows()
    assert slot.apply(Pack(1, 5, 2, 0, START_MS, [command])).replies == [OUT_OF_BOUNDS]
    assert not slot.state.effects
    after = slot.rows()
    assert {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)} == {b"S\x00\x01"}


@pytest.mark.parametrize(
    "command",
    [
        Append(
            ChannelId(255, LONGEST), True, LONGEST, b"", LONGEST, 15, 255, (1 << 32) - 1, LONGEST, (1 << 63) - 1, True
        ),
        Append(CHANNEL, False, "", b"", recipients=[LONGEST, ""], trusted=True),
        PutChannel(ChannelId(0, ""), None, [LONGEST], True, (1 << 63) - 1),
        RemoveMembers(CHANNEL, ["y" * 32_767]),
        ForgetOutbox([0, (1 << 63) - 1]),
        RememberSync("a", [(ChannelId(255, PAIR), (1 << 63) - 1), (CHANNEL, 0)]),
        PutSettings(encode(Settings(idempotency_retention_ms=3_650 * 24 * 3_600_000))),
        PutSettings(encode(Settings(idempotency_retention_ms=0, no_persist_idempotency_retention_ms=0))),
        SetToken(LONGEST, 255, b"x" * 300, 255),
        OpenSession(LONGEST, (1 << 63) - 1, 255, LONGEST, b""),
        UpdateChat(CHANNEL, LONGEST, 2, -(1 << 63)),
        AdvanceCommands(CHANNEL, LONGEST, (1 << 63) - 1),
        PutCopy(COPY_PAIR, (1 << 63) - 1, [PAIR, LONGEST, LONGEST], b"\xff"),
        StageMembers(CHANNEL, (1 << 63) - 1, [LONGEST], (1 << 32) - 1),
        PutChannel(CHANNEL, None, [], False, 0, True, (1 << 32) - 1),
        NodeGone(0xFFFF, (1 << 63) - 2),
        NodeGone(0, 0),
        PutNode(1_023, NodeRow("用" * 341, (1 << 64) - 1, "y" * 1_024, True)),
        DropNode(1_023),
        ForgetNode(1),
        ImportMessages(CHANNEL, True, [LARGEST_MESSAGE]),
        ImportMembers(ChannelId(255, PAIR), [LONGEST, "", " "]),
        ImportChats(
            ChannelId(1, "no pair"), [ImportedChat(LONGEST, (1 << 63) - 1, (1 << 63) - 1), ImportedChat("", 0)]
        ),
        AdvanceWebhooks(4, (1 << 63) - 1, True),
        FreezeOffline([(1 << 63) - 1] * 1_000, [LONGEST, ""]),
    ],
)
def test_a_command_at_its_bounds_is_done(command: Command) -> None:
    slot = Slot()
    (reply,) = slot.apply(Pack(0xFFFF, (1 << 63) - 1, 1, 0, START_MS, [command])).replies
    assert reply.reason == 1
    slot.restart()


@pytest.mark.parametrize(
    ("node", "incarnation", "first"), [(-1, 1, 1), (65_536, 1, 1), (1, -1, 1), (1, 1 << 63, 1), (1, 1, 0), (1, 1, -5)]
)
def test_a_pack_out_of_bounds_is_invalid_and_changes_nothing(node: int, incarnation: int, first: int) -> None:
    slot = Slot()
    before = slot.rows()
    outcome = slot.apply(Pack(node, incarnation, first, 0, START_MS, [PutChannel(CHANNEL)]))
    assert outcome.invalid and not outcome.fenced and not outcome.replies
    assert slot.rows() == before and not slot.state.streams
