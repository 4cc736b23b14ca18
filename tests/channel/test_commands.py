"""The bytes of the log: read as they were written; damage and newer formats are refused; old bytes stay readable."""

from typing import Any

import msgspec
import pytest

from tests.channel import golden
from wukong.channel.commands import (
    FORMAT_VERSION,
    Append,
    Command,
    Hello,
    NodeRow,
    Pack,
    PutChannel,
    Reply,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.conversations import conversation, pending_commands
from wukong.channel.copies import owed
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.machine import apply_pack
from wukong.channel.members import list_uids, member_uids
from wukong.channel.messages import message_by_number, messages_between
from wukong.channel.presence import SessionRow, TokenRow, sessions_of
from wukong.channel.state import Head, SlotRow, State, Stream, UserRow, channel_part, encode

_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def encoded(node: int, incarnation: int, first: int, done: int, now_ms: int, commands: list[Command]) -> bytes:
    return encode_pack(node, incarnation, first, done, now_ms, [encode_command(command) for command in commands])


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 70_000])
def test_a_pack_written_from_encoded_commands_is_read_as_the_pack(count: int) -> None:
    commands: list[Command] = [Hello()] * count
    (pack,) = decode_entry(encode_entry([encoded(3, 1 << 40, 1 << 33, 7, 1_700_000_000_000, commands)]))
    assert pack == Pack(3, 1 << 40, 1 << 33, 7, 1_700_000_000_000, commands)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_an_entry_holds_any_number_of_packs(count: int) -> None:
    packs = [encoded(n % 5, 1, n, 0, n, []) for n in range(count)]
    assert [pack.now_ms for pack in decode_entry(encode_entry(packs))] == list(range(count))


def test_a_commands_defaults_are_read_when_its_end_is_missing() -> None:
    """Bytes of a version that did not know the later fields."""
    short = msgspec.msgpack.encode([1, [2, "g"], False, "u", b"hi"])
    (pack,) = decode_entry(encode_entry([encode_pack(1, 1, 1, 0, 5, [short])]))
    assert pack.commands == [Append(ChannelId(2, "g"), False, "u", b"hi")]


def test_fields_of_a_later_version_are_passed_over() -> None:
    long = [*msgspec.msgpack.decode(encode_command(PutChannel(ChannelId(2, "g")))), "later", 5]
    (pack,) = decode_entry(encode_entry([encode_pack(1, 1, 1, 0, 5, [msgspec.msgpack.encode(long)])]))
    assert pack.commands == [PutChannel(ChannelId(2, "g"))]


GOOD = encode_entry([encoded(1, 1, 1, 0, 5, [PutChannel(ChannelId(2, "g"), None, ["u"])])])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" + GOOD[1:],
        bytes((FORMAT_VERSION + 1,)) + GOOD[1:],
        GOOD[:1],
        GOOD[:-1],
        GOOD + b"\x00",
        b"\x01\xc1",
        b"\x01\x01",
        encode_entry([encode_pack(1, 1, 1, 0, 5, [msgspec.msgpack.encode([99, []])])]),
        encode_entry([encode_pack(1, 1, 1, 0, 5, [msgspec.msgpack.encode([2, [2, 5]])])]),
        encode_entry([encode_pack(1, 1, 1, 0, 5, [msgspec.msgpack.encode([2, [2, "g"], None, [b"u"]])])]),
        # A lone surrogate, as UTF-8 does not have it: no key could be made of it.
        encode_entry([encode_pack(1, 1, 1, 0, 5, [b"\x92\x10\xa3\xed\xa0\x80"])]),
    ],
)
def test_damaged_and_newer_entries_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_entry(data)


def test_any_cut_of_an_entry_is_refused() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(ValueError):
            decode_entry(GOOD[:size])


# -- old bytes --


def test_the_golden_files_have_every_kind_of_command() -> None:
    kinds = {type(command) for chapter in golden.CHAPTERS.values() for commands in chapter for command in commands}
    assert kinds == set(Command.__args__)


@pytest.mark.parametrize("chapter", golden.CHAPTERS)
def test_entries_of_format_1_are_read_as_what_they_meant(chapter: str) -> None:
    assert FORMAT_VERSION == 1
    read = [decode_entry(bytes.fromhex(data)) for data in golden.load(chapter)["entries"]]
    assert read == [[pack] for pack in golden.packs(chapter).values()]


@pytest.mark.parametrize("chapter", golden.CHAPTERS)
def test_entries_of_format_1_still_lead_to_the_same_replies_effects_and_rows(chapter: str) -> None:
    """A rule that changes an outcome raises FORMAT_VERSION; a node that applied the old entry must not differ from one
    that applies it today. Fields that were appended since do not count."""
    written = golden.load(chapter)
    state = golden.state_after(golden.before(chapter))
    entries = [decode_entry(bytes.fromhex(data)) for data in written["entries"]]
    replies = [
        apply_pack(state, index, pack).replies for index, (pack,) in zip(golden.packs(chapter), entries, strict=True)
    ]
    assert replies == [[_decode_reply(bytes.fromhex(reply)) for reply in some] for some in written["replies"]]
    for effect, data in zip(state.effects, written["effects"], strict=True):
        assert msgspec.msgpack.decode(encode(effect)).items() >= msgspec.msgpack.decode(bytes.fromhex(data)).items()
    assert readable(state) == readable(golden.state_after(chapter))


_ROW_TYPES: dict[bytes, Any] = {
    b"h": Head,
    b"m": UserRow,
    b"M": Message,
    b"K": Message,
    b"z": SlotRow,
    b"t": TokenRow,
    b"s": SessionRow,
    b"N": NodeRow,
}


def readable(state: State) -> dict[bytes, Any]:
    """The rows as today's program reads them."""
    found: dict[bytes, Any] = {}
    for key, value in state.scan(b""):
        kind = _ROW_TYPES.get(key[:1])
        if key[:1] == b"S":
            stream = msgspec.msgpack.decode(value, type=Stream)
            replies = list(map(_decode_reply, stream.replies))
            found[key] = (stream.incarnation, stream.last, stream.done, replies, stream.ended)
        else:
            found[key] = value if kind is None else msgspec.to_builtins(msgspec.msgpack.decode(value, type=kind))
    return found


def test_rows_of_format_1_are_read_as_what_they_meant() -> None:
    state = golden.state_after("golden_v1.json")
    group, pair = channel_part(golden.GROUP), channel_part(golden.PAIR)
    assert state.settings.token_auth_on and state.settings.idempotency_retention_ms == 60_000
    assert state.system_uids == {"robot"}
    assert member_uids(state, group) == ["alice", "bob"]
    assert (list_uids(state, group, 0), list_uids(state, group, 1)) == (["bob"], ["alice"])
    log = messages_between(state, group, is_cmd=False, first=1, last=9, limit=9)
    assert [(m.message_seq, m.payload, m.client_msg_no, m.expire) for m in log] == [
        (1, b"hello", "", 0),
        (2, b"again", "no-1", 60),
    ]
    assert [m.payload for m in messages_between(state, pair, is_cmd=False, first=1, last=9, limit=9)] == [b"hi bob"]
    assert message_by_number(state, group, "no-1") == log[1]
    found = conversation(state, golden.GROUP, "bob", after_seq=0, unread_only=False, count=5)
    assert found is None, "denied"
    found = conversation(state, golden.GROUP, "alice", after_seq=0, unread_only=False, count=5)
    assert found is not None and (found.unread, found.read_seq, found.last_seq) == (0, 2, 2)
    pending = {channel.id: [m.payload for m in some] for channel, some in pending_commands(state, "alice", limit=9)}
    assert pending == {"g": [b"after the removal"], "42": [b"for some"]}
    assert [channel.id for channel, _ in pending_commands(state, "dave", limit=9)] == ["42"]
    assert [(s.session, s.level) for s in sessions_of(state, "alice")] == [(7, 1)]
    assert [(record.version, record.target) for record in owed(state)] == [(2, ""), (3, "bob@alice"), (4, "")]
    assert state.streams[1].last == sum(map(len, golden.CHAPTERS["golden_v1.json"]))
    assert not state.streams[1].ended, "a field that came later"
