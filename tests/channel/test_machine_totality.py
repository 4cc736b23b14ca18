"""apply never raises for anything that can be decoded.

An entry is committed on every node before anybody applies it; an exception would stop them all, at every start again.
So commands are generated from their types alone: every number may be negative or huge, every text empty or too long,
every byte string anything, and nothing fits together.
"""

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel.commands import (
    Append,
    Command,
    Pack,
    PutChannel,
    Reply,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.copies import owed, system_uids
from wukong.channel.ids import ChannelId
from wukong.channel.members import member_page
from wukong.channel.messages import message_by_id, message_by_number, messages_between
from wukong.channel.presence import sessions_of
from wukong.channel.state import Settings, channel_part, encode
from wukong.channel.webhooks import EVENT_NAMES, backlog, pending, recipients

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
        lambda *fields: encode(msgspec.structs.replace(Settings(), **dict(fields))),
        st.tuples(st.just("idempotency_retention_ms"), NUMBERS),
        st.tuples(st.just("no_persist_idempotency_retention_ms"), NUMBERS),
        st.tuples(st.sampled_from(["system_uid", "visitors_suffix"]), TEXTS),
        st.tuples(st.just("token_auth_on"), st.booleans()),
        st.tuples(st.just("webhook_backlog_bytes"), NUMBERS),
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
    backlog(state)
    for kind in EVENT_NAMES:
        pending(state, kind, after=max(0, number), limit=number)
        for record in pending(state, kind, limit=20):
            start = ""
            while start := recipients(state, record, start=start, limit=1)[1]:
                pass


@settings(max_examples=600, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(PACKS, min_size=1, max_size=5), NUMBERS, st.booleans())
def test_apply_takes_every_pack_that_can_be_decoded(packs: list[Pack], number: int, webhook_on: bool) -> None:
    slot = Slot(webhook_on=webhook_on)
    for pack in packs:
        (decoded,) = decode_entry(entry(pack))
        outcome = slot.apply(decoded)
        encode(outcome.replies)
        for effect in slot.state.effects:
            encode(effect)
    assert_usable(slot, number)


@settings(max_examples=1_500, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(COMMANDS, min_size=1, max_size=8), NUMBERS, st.booleans())
def test_apply_takes_every_command_that_can_be_decoded(
    given_commands: list[Command], number: int, webhook_on: bool
) -> None:
    slot = Slot(webhook_on=webhook_on)
    (decoded,) = decode_entry(entry(Pack(1, 5, 1, 0, START_MS, given_commands)))
    outcome = slot.apply(decoded)
    # By chance a command ends the very incarnation that sends it; what is behind it is then fenced.
    assert len(outcome.replies) == len(given_commands) or outcome.fenced
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
