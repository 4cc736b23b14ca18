"""apply never raises for anything that can be decoded.

An entry is committed on every node before anybody applies it; an exception would stop them all, at every start again.
So commands are generated from their types alone: every number may be negative or huge, every text empty or too long,
every byte string anything, and nothing fits together.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.channel.test_machine import Slot
from tests.channel.world import START_MS
from wukong.channel import commands
from wukong.channel.bounds import FITS
from wukong.channel.commands import (
    AdvanceCommands,
    Append,
    CloseSession,
    Command,
    Disband,
    ForgetOutbox,
    OpenSession,
    Pack,
    PutChannel,
    PutCopy,
    PutSettings,
    QuitDevices,
    RememberSync,
    Reply,
    SetToken,
    StageMembers,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.copies import COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS, COPY_USER, owed, system_uids
from wukong.channel.ids import ChannelId
from wukong.channel.machine import _RULES
from wukong.channel.members import member_page
from wukong.channel.messages import message_by_id, message_by_number, messages_between
from wukong.channel.presence import sessions_of
from wukong.channel.state import Settings, channel_part, encode

OUT_OF_BOUNDS = Reply(15)

NUMBERS = st.one_of(
    st.integers(-2, 20),
    st.sampled_from(
        [127, 128, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    ),
    st.sampled_from([-128, -(1 << 31), -(1 << 63)]),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "a", "a@b", "@", "a@", "@b", "a@b@c", "a|b", "|", "____system", "x\x00", "é"]),
    st.sampled_from(["y" * 32_767, "y" * 32_768, "用" * 30_000, "z" * 70_000]),
    st.text(max_size=3),
)
VALUES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from([b"\x00", b"\x03", encode(["a", "b"]), encode([1]), encode("a"), b"\x81"]),
    st.builds(
        lambda *fields: encode(msgspec.structs.replace(Settings(), **dict(fields))),  # type: ignore[call-arg]
        st.tuples(st.just("idempotency_retention_ms"), NUMBERS),
        st.tuples(st.just("no_persist_idempotency_retention_ms"), NUMBERS),
        st.tuples(st.sampled_from(["system_uid", "visitors_suffix"]), TEXTS),
        st.tuples(st.just("token_auth_on"), st.booleans()),
    ),
    st.just(encode({"idempotency_retention_ms": "soon"})),
)


def anything(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Whatever decoding lets through for this type."""
    match kind:
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType():
            return NUMBERS
        case msgspec.inspect.StrType():
            return TEXTS
        case msgspec.inspect.BytesType():
            return VALUES
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.ListType():
            return st.lists(anything(kind.item_type), max_size=4)
        case msgspec.inspect.TupleType():
            return st.tuples(*map(anything, kind.item_types))
        case msgspec.inspect.UnionType():
            return st.one_of(*map(anything, kind.types))
        case msgspec.inspect.StructType():
            return st.builds(kind.cls, *(anything(field.type) for field in kind.fields))
    raise AssertionError(f"no values for {kind}")


COMMANDS = anything(msgspec.inspect.type_info(Command))
PACKS = st.builds(
    Pack,
    st.one_of(st.sampled_from([1, 1, 1, 2]), NUMBERS),
    st.one_of(st.sampled_from([5, 5, 5, 6]), NUMBERS),
    st.one_of(st.integers(1, 6), NUMBERS),
    st.one_of(st.integers(0, 3), NUMBERS),
    st.one_of(st.just(START_MS), NUMBERS),
    st.lists(COMMANDS, max_size=4),
)


def entry(pack: Pack) -> bytes:
    encoded = [encode_command(command) for command in pack.commands]
    return encode_entry([encode_pack(pack.node, pack.incarnation, pack.first, pack.done, pack.now_ms, encoded)])


def read_everything(slot: Slot, channel: ChannelId, uid: str, number: int) -> None:
    """Readers must not stumble over what was written, whatever the request names."""
    state = slot.state
    part = channel_part(channel)
    conversations_of(state, uid)
    pending_commands(state, uid, limit=number)
    sessions_of(state, uid)
    conversation(state, channel, uid, after_seq=number, unread_only=True, count=3)
    conversation(state, channel, uid, after_seq=0, unread_only=False, count=number, hidden=True)
    message_by_number(state, part, uid)
    message_by_id(state, part, number)
    messages_between(state, part, is_cmd=False, first=number, last=3, limit=2)
    messages_between(state, part, is_cmd=True, first=1, last=number, limit=2, newest=True)
    member_page(state, part, cursor=uid, limit=1)
    owed(state)
    system_uids(state)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(PACKS, min_size=1, max_size=5), NUMBERS)
def test_apply_takes_every_pack_that_can_be_decoded(packs: list[Pack], number: int) -> None:
    slot = Slot()
    for pack in packs:
        (decoded,) = decode_entry(entry(pack))
        outcome = slot.apply(decoded)
        encode(outcome.replies)
        for effect in slot.state.effects:
            encode(effect)
    assert_usable(slot, number)


@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(COMMANDS, min_size=1, max_size=8), NUMBERS)
def test_apply_takes_every_command_that_can_be_decoded(given_commands: list[Command], number: int) -> None:
    slot = Slot()
    (decoded,) = decode_entry(entry(Pack(1, 5, 1, 0, START_MS, given_commands)))
    assert len(slot.apply(decoded).replies) == len(given_commands)
    assert_usable(slot, number)


def assert_usable(slot: Slot, number: int) -> None:
    """The slot reads, restarts and goes on."""
    for channel in (ChannelId(1, "a@b"), ChannelId(2, "a"), ChannelId(3, "a|b")):
        read_everything(slot, channel, "a", number)
    slot.restart()
    channel = ChannelId(4, "afterwards")
    slot.state.effects.clear()
    incarnation = 1 + max((stream.incarnation for stream in slot.state.streams.values()), default=0)
    if incarnation < 1 << 63:
        message = Append(channel, False, "a", b"hi", "n", trusted=True)
        replies = slot.apply(Pack(3, incarnation, 1, 0, START_MS, [PutChannel(channel), message, message])).replies
        assert [(r.reason, r.message_seq, r.duplicate) for r in replies[1:]] == [(1, 1, False), (1, 1, True)]


def test_every_command_has_a_rule_and_bounds() -> None:
    known = set(commands.Command.__args__)
    assert set(_RULES) == set(FITS) == known


CHANNEL = ChannelId(2, "g")
LONG = "y" * 32_768
LONGEST = "用" * 10_922  # 32,766 bytes
GOOD_PAIR = ["a@b", "a", ""]


@pytest.mark.parametrize(
    "command",
    [
        Append(ChannelId(256, "g"), False, "u", b""),
        Append(ChannelId(-1, "g"), False, "u", b""),
        Append(ChannelId(2, LONG), False, "u", b""),
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
        PutSettings(encode(Settings(no_persist_idempotency_retention_ms=1 << 62))),
        UpdateSystemUids(2, ["a"]),
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
    ],
)
def test_a_command_out_of_bounds_is_answered_with_reason_15_and_changes_nothing(command: Command) -> None:
    slot = Slot()
    slot.apply(Pack(1, 5, 1, 0, START_MS, [PutChannel(CHANNEL, None, ["a"])]))
    slot.state.effects.clear()
    before = dict(slot.state.view.scan(b""))
    assert slot.apply(Pack(1, 5, 2, 0, START_MS, [command])).replies == [OUT_OF_BOUNDS]
    assert not slot.state.effects
    after = dict(slot.state.view.scan(b""))
    assert {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)} == {b"S\x00\x01"}


@pytest.mark.parametrize(
    "command",
    [
        Append(
            ChannelId(255, LONGEST), True, LONGEST, b"", LONGEST, 15, 255, (1 << 32) - 1, LONGEST, (1 << 63) - 1, True
        ),
        Append(CHANNEL, False, "", b"", recipients=[LONGEST, ""], trusted=True),
        PutChannel(ChannelId(0, ""), None, [LONGEST], True, (1 << 63) - 1),
        SetToken(LONGEST, 255, b"x" * 300, 255),
        OpenSession(LONGEST, (1 << 63) - 1, 255, LONGEST, b""),
        UpdateChat(CHANNEL, LONGEST, 2, -(1 << 63)),
        AdvanceCommands(CHANNEL, LONGEST, (1 << 63) - 1),
        PutCopy(COPY_PAIR, (1 << 63) - 1, [LONGEST, LONGEST, LONGEST], b"\xff"),
    ],
)
def test_a_command_at_its_bounds_is_done(command: Command) -> None:
    slot = Slot()
    (reply,) = slot.apply(Pack(0xFFFF, (1 << 63) - 1, 1, 0, START_MS, [command])).replies
    assert reply.reason == 1
    slot.restart()
    read_everything(slot, ChannelId(255, LONGEST), LONGEST, 1)


@pytest.mark.parametrize(
    ("node", "incarnation", "first"), [(-1, 1, 1), (65_536, 1, 1), (1, -1, 1), (1, 1 << 63, 1), (1, 1, 0), (1, 1, -5)]
)
def test_a_pack_out_of_bounds_is_fenced_and_changes_nothing(node: int, incarnation: int, first: int) -> None:
    slot = Slot()
    before = slot.state.view.scan(b"")
    outcome = slot.apply(Pack(node, incarnation, first, 0, START_MS, [PutChannel(CHANNEL)]))
    assert outcome.fenced and not outcome.replies
    assert slot.state.view.scan(b"") == before and not slot.state.streams
