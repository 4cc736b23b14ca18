"""The use cases of an import: requests cut into commands, lists without conversations, comparisons in pieces."""

import pytest

from tests.service.stack import START_MS, Stack
from wukong.channel.commands import ChannelInfo, ImportedChat, ImportMessages
from wukong.channel.effects import FanOut, Message
from wukong.channel.ids import ChannelId
from wukong.channel.imports import digest_of
from wukong.channel.messages import SNOWFLAKE_EPOCH_MS
from wukong.errors import RequestRefused
from wukong.service.imports import COMMAND_MESSAGES, MAX_CHATS, MAX_MESSAGES
from wukong.service.messages import Twin

GROUP = ChannelId(2, "old")
LOG = Twin(GROUP, False)


def messages(count: int, *, first: int = 1, payload: bytes = b"hi", uid: str = "alice") -> list[Message]:
    base = (START_MS - SNOWFLAKE_EPOCH_MS - 1_000_000) << 22
    return [
        Message(base + (seq << 22), seq, 2, 0, uid, f"n{seq}", START_MS // 1000 - 1_000, payload)
        for seq in range(first, first + count)
    ]


async def test_a_long_request_becomes_several_commands(stack: Stack) -> None:
    assert await stack.use_cases.imports.add_messages(LOG, messages(250)) == 250
    assert stack.commands(ImportMessages) == 3
    assert COMMAND_MESSAGES == 100
    assert await stack.use_cases.messages.last_seq(LOG) == 250
    assert not [effect for effect in stack.effects if isinstance(effect, FanOut)]


async def test_large_payloads_are_cut_by_their_bytes(stack: Stack) -> None:
    await stack.use_cases.imports.add_messages(LOG, messages(40, payload=b"x" * 32_767))
    assert stack.commands(ImportMessages) == 6


async def test_a_request_may_come_again_and_overlap(stack: Stack) -> None:
    await stack.use_cases.imports.add_messages(LOG, messages(150))
    assert await stack.use_cases.imports.add_messages(LOG, messages(150)) == 150
    assert await stack.use_cases.imports.add_messages(LOG, messages(100, first=120)) == 219


@pytest.mark.parametrize("first", [2, 10])
async def test_a_gap_is_refused_in_words(stack: Stack, first: int) -> None:
    with pytest.raises(RequestRefused, match="does not follow: the log ends with 0") as refusal:
        await stack.use_cases.imports.add_messages(LOG, messages(1, first=first))
    assert refusal.value.status == 409


async def test_a_channel_in_use_is_refused_in_words(stack: Stack) -> None:
    await stack.use_cases.messages.send(channel_id="old", channel_type=2, from_uid="bob", payload=b"ours", flags=0)
    with pytest.raises(RequestRefused, match="another message 1 of its own") as refusal:
        await stack.use_cases.imports.add_messages(LOG, messages(3))
    assert refusal.value.status == 409
    assert await stack.use_cases.messages.last_seq(LOG) == 1


@pytest.mark.parametrize("count", [0, MAX_MESSAGES + 1])
async def test_a_request_has_a_limit(stack: Stack, count: int) -> None:
    with pytest.raises(RequestRefused, match="a request has 1 to 1000"):
        await stack.use_cases.imports.add_messages(LOG, messages(count))


async def test_what_no_client_could_receive_is_refused(stack: Stack) -> None:
    with pytest.raises(RequestRefused, match="message 1 has a payload of 32768 bytes"):
        await stack.use_cases.imports.add_messages(LOG, messages(1, payload=b"x" * 32_768))
    with pytest.raises(RequestRefused, match="an id of"):
        await stack.use_cases.imports.add_messages(LOG, messages(1, uid="x" * 32_768))


async def test_a_message_without_sender_is_of_the_system_account(stack: Stack) -> None:
    await stack.use_cases.imports.add_messages(LOG, messages(1, uid=""))
    last = await stack.use_cases.messages.last_message(LOG)
    assert last is not None and last.from_uid == "____system"


async def test_lists_and_flags_make_no_conversations(stack: Stack) -> None:
    imports = stack.use_cases.imports
    await imports.add_messages(LOG, messages(3))
    info = ChannelInfo(ban=True)
    await imports.put_channel(GROUP, info=info, members=["alice", "bob"], denied=["eve"], allowed=["alice"])
    record = ChannelId(1, "alice")
    await imports.put_channel(record, info=None, members=[], denied=["eve"], allowed=["bob"])
    assert [each.uid for each in await stack.use_cases.channels.list_entries(GROUP, 0)] == ["eve"]
    assert [each.uid for each in await stack.use_cases.channels.list_entries(record, 1)] == ["bob"]
    for uid in ("alice", "bob", "eve"):
        assert await stack.use_cases.conversations.channels(uid) == []
    with pytest.raises(RequestRefused, match="banned"):
        await stack.use_cases.messages.send(channel_id="old", channel_type=2, from_uid="bob", payload=b"", flags=0)


async def test_what_is_not_said_stays(stack: Stack) -> None:
    imports = stack.use_cases.imports
    await imports.put_channel(GROUP, info=ChannelInfo(ban=True), members=["alice"], denied=["eve"], allowed=None)
    await imports.put_channel(GROUP, info=None, members=["bob"], denied=None, allowed=None)
    assert (await stack.use_cases.channels.members(GROUP, cursor="", limit=9))[0] == ["alice", "bob"]
    assert [each.uid for each in await stack.use_cases.channels.list_entries(GROUP, 0)] == ["eve"]


async def test_conversations_have_their_unread_counts(stack: Stack) -> None:
    imports = stack.use_cases.imports
    await imports.add_messages(LOG, messages(5))
    people = [f"u{n}" for n in range(450)]
    await imports.put_channel(GROUP, info=None, members=people, denied=None, allowed=None)
    await imports.put_chats(GROUP, [ImportedChat(uid, n % 6) for n, uid in enumerate(people)])
    for n in (0, 3, 205, 449):
        (shape,) = await stack.use_cases.conversations.sync(f"u{n}", msg_count=1)
        assert (shape.unread, shape.readed_to_msg_seq) == (5 - n % 6, n % 6)
    with pytest.raises(RequestRefused, match="at most 1000"):
        await imports.put_chats(GROUP, [ImportedChat("u", 0)] * (MAX_CHATS + 1))


@pytest.mark.parametrize("limit", [1, 7, 10_000])
async def test_a_log_is_compared_in_pieces(stack: Stack, limit: int) -> None:
    imports = stack.use_cases.imports
    stored = messages(20, uid="")
    await imports.add_messages(LOG, stored)
    seq, digest = 0, b""
    while True:
        found = await imports.compare(LOG, after_seq=seq, digest=digest, limit=limit)
        seq, digest = found.seq, found.digest
        if seq >= found.last_seq:
            break
    assert (seq, digest) == (20, digest_of([(m.message_seq, m.message_id, "", m.payload) for m in stored]))


async def test_an_unknown_channel_compares_as_empty(stack: Stack) -> None:
    assert (await stack.use_cases.imports.compare(LOG, after_seq=0, digest=b"", limit=9))[:2] == (0, 0)
    assert (await stack.use_cases.imports.members(GROUP)).total == 0
    with pytest.raises(RequestRefused, match="16 bytes"):
        await stack.use_cases.imports.compare(LOG, after_seq=0, digest=b"short", limit=9)


async def test_members_are_told_by_count_and_digest(stack: Stack) -> None:
    imports = stack.use_cases.imports
    other = ChannelId(2, "other")
    people = [f"u{n}" for n in range(2_500)]
    await imports.put_channel(GROUP, info=None, members=people, denied=None, allowed=None)
    await imports.put_channel(other, info=None, members=people[::-1], denied=None, allowed=None)
    assert await imports.members(GROUP) == await imports.members(other)
    await stack.use_cases.channels.remove_members(other, ["u7"])
    found = await imports.members(other)
    assert found.total == 2_499 and found.digest != (await imports.members(GROUP)).digest
