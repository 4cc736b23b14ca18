"""The conversation list: arithmetic, order, pages, limits. http-api.md section 11."""

import asyncio
from typing import Any

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import CHAT_OP_CLEAR, Append, UpdateChat
from wukong.channel.ids import ChannelId, stored_channel
from wukong.errors import RequestRefused
from wukong.service import conversations
from wukong.service.channels import DENYLIST
from wukong.service.replica import Pace
from wukong.service.shapes import ConversationShape
from wukong.store.memory import MemoryStore

GROUP = ChannelId(2, "g")


async def group(stack: Stack, channel_id: str = "g", *members: str, kind: int = 2) -> ChannelId:
    channel = ChannelId(kind, channel_id)
    await stack.use_cases.channels.add_members(channel, list(members) or ["a", "b"], reset=False)
    return channel


async def write(stack: Stack, senders: str, channel_id: str = "g", kind: int = 2) -> None:
    """One message per letter, by the member of that name."""
    for sender in senders:
        await stack.client_sends(stored_channel(channel_id, kind, sender), sender)


async def sync(stack: Stack, uid: str = "b", msg_count: int = 10, **options: Any) -> list[ConversationShape]:
    return await stack.use_cases.conversations.sync(uid, msg_count=msg_count, **options)


async def only(stack: Stack, uid: str = "b", **options: Any) -> ConversationShape:
    [shape] = await sync(stack, uid, **options)
    return shape


# -- unread and read positions --

SEQUENCES = [
    # senders, reader -> unread, read
    ("a", "b", 1, 0),
    ("aaa", "b", 3, 0),
    ("aaa", "a", 0, 3),
    ("aab", "b", 0, 3),
    ("aaba", "b", 1, 3),
    ("abaa", "b", 2, 2),
    ("ba", "b", 1, 1),
    ("bab", "a", 1, 2),
]


@pytest.mark.parametrize(("senders", "reader", "unread", "read"), SEQUENCES)
async def test_unread_counts_from_the_read_position_or_from_ones_own_last_message(
    stack: Stack, senders: str, reader: str, unread: int, read: int
) -> None:
    await group(stack)
    await write(stack, senders)
    shape = await only(stack, reader)
    assert (shape.unread, shape.readed_to_msg_seq, shape.last_msg_seq) == (unread, read, len(senders))


CHANGES = [
    # steps: c = clear, a digit = set_unread, D = delete, a/b = a message -> unread, read, recents
    ("aaac", 0, 3, [3, 2, 1]),
    ("aaaca", 1, 3, [4, 3, 2, 1]),
    ("aaaaa2", 2, 3, [5, 4, 3, 2, 1]),
    ("aaaaa24", 2, 3, [5, 4, 3, 2, 1]),
    ("aaaaa20", 0, 5, [5, 4, 3, 2, 1]),
    ("aaa9", 1, 2, [3, 2, 1]),
    ("aaaDa", 4, 0, [4]),
    ("aaacDa", 1, 3, [4]),
    ("3aa", 2, 0, [2, 1]),
    ("caa", 2, 0, [2, 1]),
]


@pytest.mark.parametrize(("steps", "unread", "read", "recents"), CHANGES)
async def test_what_the_back_end_changes_moves_positions_only_forward(
    stack: Stack, steps: str, unread: int, read: int, recents: list[int]
) -> None:
    await group(stack)
    conversations = stack.use_cases.conversations
    for step in steps:
        if step == "c":
            await conversations.clear_unread("b", "g", 2)
        elif step == "D":
            await conversations.delete("b", "g", 2)
        elif step.isdigit():
            await conversations.set_unread("b", "g", 2, int(step))
        else:
            await write(stack, step)
    shape = await only(stack)
    assert (shape.unread, shape.readed_to_msg_seq) == (unread, read)
    assert [message.message_seq for message in shape.recents] == recents


async def test_a_negative_unread_leaves_one_unread(stack: Stack) -> None:
    await group(stack)
    await write(stack, "aaa")
    await stack.use_cases.conversations.set_unread("b", "g", 2, -5)
    assert (await only(stack)).unread == 1


async def test_a_deleted_conversation_is_gone_until_its_next_message(stack: Stack) -> None:
    await group(stack)
    await write(stack, "aaa")
    await stack.use_cases.conversations.delete("b", "g", 2)
    assert await sync(stack) == []
    assert len(await sync(stack, "a")) == 1


async def test_a_conversation_tells_of_its_newest_message(stack: Stack) -> None:
    await group(stack)
    await stack.client_sends(GROUP, "a", b"1", "first")
    stack.clock.ms += 5_000
    await stack.client_sends(GROUP, "a", b"2", "second")
    shape = await only(stack)
    seconds = stack.clock.ms // 1000
    assert (shape.timestamp, shape.version) == (seconds, seconds * 10**9)
    assert (shape.last_client_msg_no, shape.last_msg_seq, shape.offset_msg_seq) == ("second", 2, 0)


# -- which messages, which conversations --


@pytest.mark.parametrize(
    ("options", "recents"),
    [
        ({"msg_count": 2}, [5, 4]),
        ({"unread_only": True}, [5, 4]),
        ({"unread_only": True, "msg_count": 1}, [5]),
        ({"last_seqs": {("g", 2): 2}}, [5, 4, 3]),
        ({"last_seqs": {("g", 2): 4}, "unread_only": True}, [5]),
        ({"last_seqs": {("g", 2): 1}, "unread_only": True}, [5, 4, 3, 2]),
        ({"last_seqs": {("g", 2): 0}, "unread_only": True}, [5, 4]),
        ({"last_seqs": {("g", 4): 4, ("h", 2): 4}}, [5, 4, 3, 2, 1]),
    ],
)
async def test_recents_begin_above_what_the_client_has_or_has_read(
    stack: Stack, options: dict[str, Any], recents: list[int]
) -> None:
    await group(stack)
    await write(stack, "aaaaa")
    await stack.use_cases.conversations.set_unread("b", "g", 2, 2)
    shape = await only(stack, **options)
    assert [message.message_seq for message in shape.recents] == recents
    assert (shape.unread, shape.last_msg_seq) == (2, 5)


@pytest.mark.parametrize("has", [3, 4, 2**63])
async def test_a_conversation_with_nothing_new_for_the_client_is_left_out(stack: Stack, has: int) -> None:
    await group(stack)
    await write(stack, "aaa")
    assert await sync(stack, last_seqs={("g", 2): has}) == []


@pytest.mark.parametrize("msg_count", [0, -1])
async def test_without_a_count_of_messages_the_answer_is_empty(stack: Stack, msg_count: int) -> None:
    await group(stack)
    await write(stack, "a")
    assert await sync(stack, msg_count=msg_count) == []


async def test_a_person_is_named_by_the_other_uid_for_both_sides(stack: Stack) -> None:
    await write(stack, "a", "b", 1)
    assert [(await only(stack, uid)).channel_id for uid in ("a", "b")] == ["b", "a"]
    assert await sync(stack, last_seqs={("a", 1): 1}) == []


async def test_the_conversation_with_the_system_account_is_left_out(stack: Stack) -> None:
    messages = stack.use_cases.messages
    await messages.send(channel_id="b", channel_type=1, from_uid="____system", payload=b"hi", flags=0)
    assert await sync(stack) == []


async def test_excluded_types_are_left_out_unless_the_client_names_the_channel(stack: Stack) -> None:
    await group(stack)
    await group(stack, "c", kind=4)
    await write(stack, "a")
    await write(stack, "a", "c", 4)
    assert [shape.channel_id for shape in await sync(stack, exclude_types=[2])] == ["c"]
    named = await sync(stack, exclude_types=[2], last_seqs={("g", 2): 0})
    assert sorted(shape.channel_id for shape in named) == ["c", "g"]


async def test_a_denied_member_loses_the_conversation_and_gets_it_back_read(stack: Stack) -> None:
    await group(stack)
    await write(stack, "aa")
    await stack.use_cases.channels.add_to_list(GROUP, DENYLIST, ["b"])
    assert await sync(stack) == []
    await stack.use_cases.channels.remove_from_list(GROUP, DENYLIST, ["b"])
    assert (await only(stack)).unread == 0


# -- order, pages, limits --


async def in_order(stack: Stack, count: int) -> list[str]:
    """Groups of b, the one with the newest message first."""
    ids = [f"g{n:03}" for n in range(count)]
    for channel_id in ids:
        await group(stack, channel_id)
    for channel_id in ids:
        stack.clock.ms += 1_000
        await write(stack, "a", channel_id)
    return ids[::-1]


async def test_the_newest_message_decides_the_order(stack: Stack) -> None:
    ids = await in_order(stack, 12)
    stack.clock.ms += 1_000
    await write(stack, "a", ids[-1])
    assert [shape.channel_id for shape in await sync(stack)] == [ids[-1], *ids[:-1]]


@pytest.mark.parametrize(
    ("page", "page_size", "first", "last"), [(1, 5, 0, 5), (2, 5, 5, 10), (3, 5, 10, 12), (4, 5, 12, 12), (1, 0, 0, 12)]
)
async def test_pages_cut_the_ordered_list(stack: Stack, page: int, page_size: int, first: int, last: int) -> None:
    ids = await in_order(stack, 12)
    shapes = await sync(stack, page=page, page_size=page_size)
    assert [shape.channel_id for shape in shapes] == ids[first:last]


async def test_what_shows_nothing_takes_no_place_on_a_page(stack: Stack) -> None:
    ids = await in_order(stack, 6)
    deleted = ids.pop(0), ids.pop(2)
    for channel_id in deleted:
        await stack.use_cases.conversations.delete("b", channel_id, 2)
    stack.clock.ms += 1_000
    for n in range(10):
        await group(stack, f"empty{n}")
    assert [shape.channel_id for shape in await sync(stack, page=1, page_size=4)] == ids


async def test_an_answer_without_pages_has_the_newest_up_to_the_configured_number() -> None:
    stack = await Stack(conversation_max_count=5).start()
    ids = await in_order(stack, 12)
    assert [shape.channel_id for shape in await sync(stack)] == ids[:5]
    assert [channel.id for channel in await stack.use_cases.conversations.channels("b")] == ids[:5]
    assert len(await sync(stack, page=1, page_size=12)) == 12


async def test_ten_thousand_conversations_come_in_pages(stack: Stack) -> None:
    channels = [ChannelId(6, f"news{n}") for n in range(10_000)]
    for start in range(0, len(channels), 2_000):
        for channel in channels[start : start + 2_000]:
            slot = stack.node.slot(channel.id)
            stack.node.propose(slot, Append(channel, False, "a", b"hi"), None)
            stack.node.propose(slot, UpdateChat(channel, "b", CHAT_OP_CLEAR), None)
        await stack.client_sends(channels[0], "a")
    found = [shape.channel_id for page in (1, 2, 20) for shape in await sync(stack, page=page, page_size=500)]
    assert len(found) == len(set(found)) == 1_500
    assert await sync(stack, page=21, page_size=500) == []
    assert len(await sync(stack)) == 1_000


async def test_what_is_not_asked_for_takes_no_place_among_the_newest_or_on_a_page() -> None:
    stack = await Stack(conversation_max_count=2).start()
    for channel_id, senders in [("old", "a"), ("read", "ab"), ("also-read", "ab"), ("read-too", "ab")]:
        await group(stack, channel_id)
        await write(stack, senders, channel_id)
        stack.clock.ms += 1_000
    for channel_id in ("read", "also-read", "read-too"):
        await stack.use_cases.conversations.clear_unread("b", channel_id, 2)
    for options in ({}, {"page": 1, "page_size": 1}):
        assert [shape.channel_id for shape in await sync(stack, unread_only=True, **options)] == ["old"]
    await stack.client_sends(stored_channel("b", 1, "c"), "c")
    assert [shape.channel_id for shape in await sync(stack, exclude_types=[2])] == ["c"]
    has = {("c", 1): 1, ("read", 2): 2, ("also-read", 2): 2, ("read-too", 2): 2}
    assert [shape.channel_id for shape in await sync(stack, last_seqs=has)] == ["old"]


class CountingStore(MemoryStore):
    reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)


async def test_the_loop_gets_its_turn_while_a_long_list_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rows read between two turns of the loop, where every pause that is offered is taken."""
    store = CountingStore()
    stack = await Stack(slot_count=1, store=store).start()
    for number in range(1_000):
        channel = ChannelId(6, f"news{number}")
        for command in (Append(channel, False, "a", b"hi"), UpdateChat(channel, "b", CHAT_OP_CLEAR)):
            stack.node.propose(stack.node.slot(channel.id), command, None)
    await stack.client_sends(GROUP, "a")
    monkeypatch.setattr(conversations, "Pace", lambda: Pace(slice_s=-1.0))
    most_reads = turns = 0
    done = False

    async def watch() -> None:
        nonlocal most_reads, turns
        while not done:
            store.reads = 0
            await asyncio.sleep(0)
            most_reads = max(most_reads, store.reads)
            turns += 1

    watching = asyncio.create_task(watch())
    use_cases = stack.use_cases.conversations
    assert len(await sync(stack)) == len(await use_cases.channels("b")) == 1_000
    assert len(await sync(stack, page=2, page_size=400)) == 400
    assert len(await use_cases.of_channels("b", [(f"news{n}", 6) for n in range(1_000)], msg_count=1)) == 1_000
    done = True
    await watching
    assert turns > 1_000 and 0 < most_reads <= 256


async def test_beyond_the_limit_of_bytes_further_conversations_have_one_message(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wukong.service.conversations.ANSWER_BYTES", 6)
    for channel_id in ("g1", "g2", "g3"):
        await group(stack, channel_id)
        await write(stack, "aaa", channel_id)
    assert [len(shape.recents) for shape in await sync(stack)] == [3, 1, 1]


# -- by channels, channels --


async def test_asked_by_channels_each_gets_an_answer_also_where_there_is_none(stack: Stack) -> None:
    await group(stack)
    await write(stack, "aaa")
    await write(stack, "a", "b", 1)
    await stack.use_cases.conversations.delete("b", "g", 2)
    wanted = [("none", 2), ("g", 2), ("a", 1)]
    none, deleted, person = await stack.use_cases.conversations.of_channels("b", wanted, msg_count=2)
    assert none == ConversationShape("none", 2, 0, 0, 0, "", 0, 0, 0, [])
    assert [message.message_seq for message in deleted.recents] == [3, 2]
    assert (person.channel_id, person.unread) == ("a", 1)


async def test_asked_by_channels_without_a_count_fifteen_messages_come(stack: Stack) -> None:
    await group(stack)
    await write(stack, "a" * 20)
    [shape] = await stack.use_cases.conversations.of_channels("b", [("g", 2)], msg_count=0)
    assert len(shape.recents) == 15


async def test_asking_for_too_many_channels_is_refused(stack: Stack) -> None:
    with pytest.raises(RequestRefused, match="10000"):
        await stack.use_cases.conversations.of_channels("b", [("g", 2)] * 10_001, msg_count=1)


async def test_channels_are_listed_by_their_stored_ids(stack: Stack) -> None:
    await group(stack)
    await write(stack, "a", "b", 1)
    found = await stack.use_cases.conversations.channels("b")
    assert sorted(found) == sorted([GROUP, stored_channel("b", 1, "a")])


async def test_clearing_makes_a_conversation_only_where_there_are_messages(stack: Stack) -> None:
    conversations = stack.use_cases.conversations
    await group(stack, "g", "a")
    await conversations.clear_unread("c", "g", 2)
    assert await conversations.channels("c") == []
    await write(stack, "a")
    await conversations.clear_unread("c", "g", 2)
    assert await conversations.channels("c") == [GROUP]
