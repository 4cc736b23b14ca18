"""Which messages are beyond a policy, runs that go on where they stopped, and erasures. docs/retention.md."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.service.stack import START_MS, Stack
from wukong.channel.commands import Erase, ImportMessages, RetentionPolicy, Retire
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.messages import SNOWFLAKE_EPOCH_MS, messages_between
from wukong.channel.retention import MESSAGES_PER_COMMAND, size_bytes
from wukong.errors import RequestRefused
from wukong.limits import DAY_MS
from wukong.service.browse import MessageQuery
from wukong.service.messages import Twin
from wukong.service.retention import Done, Place, Retention, Standing, read_place

GROUP = ChannelId(2, "g")
OTHER = ChannelId(2, "other")
CHAT, COMMANDS = Twin(GROUP, False), Twin(GROUP, True)


@pytest.fixture
def retention(stack: Stack) -> Retention:
    return stack.use_cases.retention


async def write(stack: Stack, count: int, *, uid: str = "alice", channel: ChannelId = GROUP, flags: int = 0) -> None:
    send = stack.use_cases.messages.send
    for n in range(count):
        await send(channel_id=channel.id, channel_type=channel.type, from_uid=uid, payload=b"%03d" % n, flags=flags)


async def seqs(stack: Stack, twin: Twin = CHAT) -> list[int]:
    page = await stack.use_cases.messages.history(twin, start=0, end=0, limit=1_000, newer=False)
    return [message.message_seq for message in page.messages]


async def run_all(retention: Retention, channel: ChannelId | None = None, limit_s: float = 3.0) -> tuple[int, int]:
    """Messages, and in how many requests."""
    total, requests, cursor = 0, 0, ""
    while True:
        done = await retention.run(channel, cursor=cursor, limit_s=limit_s)
        total, requests, cursor = total + done.messages, requests + 1, done.cursor
        if not cursor:
            return total, requests


# -- what is beyond a policy --


async def test_the_newest_stay_up_to_a_number(stack: Stack, retention: Retention) -> None:
    await write(stack, 10)
    await retention.set(GROUP, RetentionPolicy(count=3))
    assert await retention.run(GROUP) == Done(7, "")
    assert await seqs(stack) == [8, 9, 10]
    assert await retention.run(GROUP) == Done(0, "")


async def test_each_log_has_the_limits_for_itself(stack: Stack, retention: Retention) -> None:
    await write(stack, 4)
    await write(stack, 5, flags=4)
    await retention.set(GROUP, RetentionPolicy(count=3))
    assert (await retention.run(GROUP)).messages == 3
    assert (await seqs(stack), await seqs(stack, COMMANDS)) == ([2, 3, 4], [3, 4, 5])


@pytest.mark.parametrize(("spare", "kept"), [(0, [4, 5, 6]), (-1, [5, 6]), (1, [4, 5, 6])])
async def test_the_newest_stay_up_to_a_size(stack: Stack, retention: Retention, spare: int, kept: list[int]) -> None:
    await write(stack, 6)
    [message] = await stack.use_cases.messages.find(CHAT, seqs=[6], message_ids=[], client_msg_nos=[])
    await retention.set(GROUP, RetentionPolicy(bytes=3 * size_bytes(message) + spare))
    await retention.run(GROUP)
    assert await seqs(stack) == kept


async def test_a_log_within_its_size_is_measured_again_when_there_is_more(stack: Stack, retention: Retention) -> None:
    await write(stack, 2)
    [message] = await stack.use_cases.messages.find(CHAT, seqs=[1], message_ids=[], client_msg_nos=[])
    await retention.set(GROUP, RetentionPolicy(bytes=2 * size_bytes(message)))
    assert (await retention.run(GROUP)).messages == 0
    await write(stack, 1)
    assert (await retention.run(GROUP)).messages == 1
    await retention.set(GROUP, RetentionPolicy(bytes=size_bytes(message)))
    assert (await retention.run(GROUP)).messages == 1


async def test_what_is_too_old_goes_though_nothing_happens_in_the_slot(stack: Stack, retention: Retention) -> None:
    await write(stack, 3)
    stack.clock.ms += DAY_MS
    await write(stack, 2)
    await retention.set(GROUP, RetentionPolicy(days=2))
    stack.clock.ms += DAY_MS
    assert (await retention.run(GROUP)).messages == 0
    stack.clock.ms += 1_000
    assert (await retention.run(GROUP)).messages == 3
    stack.clock.ms += DAY_MS
    assert (await retention.run(GROUP)).messages == 2
    assert await seqs(stack) == []


async def test_age_is_looked_at_from_the_oldest_on(stack: Stack, retention: Retention) -> None:
    """Seconds of imported messages may go back: one that is young enough keeps those behind it."""
    base = (START_MS - SNOWFLAKE_EPOCH_MS - 1_000_000) << 22
    ages = [9, 8, 1, 9, 0]
    messages = [
        Message(base + (seq << 22), seq, 0, 0, "alice", "", START_MS // 1000 - age * 86_400, b"old")
        for seq, age in enumerate(ages, 1)
    ]
    await stack.run("g", ImportMessages(GROUP, False, messages))
    await retention.set(GROUP, RetentionPolicy(days=5))
    await retention.run(GROUP)
    assert await seqs(stack) == [3, 4, 5]


async def test_long_logs_take_several_commands(stack: Stack, retention: Retention) -> None:
    count = 3 * MESSAGES_PER_COMMAND
    await write(stack, count + 1)
    await retention.set(GROUP, RetentionPolicy(count=1))
    assert (await retention.run(GROUP)).messages == count
    assert stack.commands(Retire) == 3
    stack.clock.ms += 2 * DAY_MS
    await write(stack, count)
    await retention.set(GROUP, RetentionPolicy(days=1))
    stack.clock.ms += 2 * DAY_MS
    assert (await retention.run(GROUP)).messages == count + 1
    assert stack.commands(Retire) == 3 + 4


# -- which policy counts --


async def test_a_channels_own_policy_counts_instead_of_that_of_its_type(stack: Stack, retention: Retention) -> None:
    for channel in (GROUP, OTHER):
        await write(stack, 5, channel=channel)
    await retention.set_default(2, RetentionPolicy(count=2))
    await retention.set(GROUP, RetentionPolicy())
    await run_all(retention)
    assert (await seqs(stack), await seqs(stack, Twin(OTHER, False))) == ([1, 2, 3, 4, 5], [4, 5])
    await retention.set(GROUP, None)
    await run_all(retention)
    assert await seqs(stack) == [4, 5]
    await retention.set_default(2, None)
    await write(stack, 5)
    assert await run_all(retention) == (0, 1)


async def test_a_policy_of_another_type_does_not_count(stack: Stack, retention: Retention) -> None:
    await write(stack, 5)
    await retention.set_default(4, RetentionPolicy(count=2))
    await retention.set(ChannelId(4, "g"), RetentionPolicy(count=1))
    assert await run_all(retention) == (0, 1)


async def test_two_persons_are_named_in_any_order(stack: Stack, retention: Retention) -> None:
    stored = person_id("alice", "bob")
    swapped = "@".join(reversed(stored.split("@")))
    await retention.set(ChannelId(1, swapped), RetentionPolicy(days=1))
    assert (await retention.standing(ChannelId(1, stored))).own == RetentionPolicy(days=1)
    with pytest.raises(RequestRefused, match="named by both"):
        await retention.set(ChannelId(1, "alice"), RetentionPolicy(days=1))


@pytest.mark.parametrize("policy", [RetentionPolicy(days=-1), RetentionPolicy(days=36_501), RetentionPolicy(count=-1)])
async def test_limits_that_cannot_be_are_refused(retention: Retention, policy: RetentionPolicy) -> None:
    with pytest.raises(RequestRefused):
        await retention.set(GROUP, policy)
    with pytest.raises(RequestRefused):
        await retention.set_default(2, policy)


async def test_a_standing_tells_policies_and_where_the_logs_are(stack: Stack, retention: Retention) -> None:
    assert await retention.standing(GROUP) == Standing(None, None, 1, 0, 1, 0)
    await write(stack, 3)
    await write(stack, 1, flags=4)
    await retention.set_default(2, RetentionPolicy(count=1))
    await retention.run(GROUP)
    assert await retention.standing(GROUP) == Standing(None, RetentionPolicy(count=1), 3, 3, 1, 1)


async def test_all_policies_are_listed(retention: Retention) -> None:
    channels = [ChannelId(2, f"g{n}") for n in range(150)]
    for channel in channels:
        await retention.set(channel, RetentionPolicy(days=1))
    await retention.set_default(9, RetentionPolicy(days=2))
    found, more = await retention.policies()
    assert (found[0], more) == ((ChannelId(9, ""), RetentionPolicy(days=2)), False)
    assert {channel for channel, _ in found[1:]} == set(channels)


async def test_a_long_list_is_cut(retention: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wukong.service.retention.LISTED_LIMIT_COUNT", 3)
    for n in range(4):
        await retention.set(ChannelId(2, f"g{n}"), RetentionPolicy(days=1))
    found, more = await retention.policies()
    assert (len(found), more) == (3, True)


# -- runs --


@pytest.mark.parametrize("by_type", [False, True])
async def test_a_run_stops_after_its_time_and_goes_on_with_the_cursor(
    stack: Stack, retention: Retention, by_type: bool
) -> None:
    channels = [ChannelId(2, f"g{n}") for n in range(20)]
    for channel in channels:
        await write(stack, 3, channel=channel)
        if not by_type:
            await retention.set(channel, RetentionPolicy(count=1))
    if by_type:
        await retention.set_default(2, RetentionPolicy(count=1))
    # One of its own requests takes longer than this; what is begun is ended.
    total, requests = 0, 0
    cursor = ""
    while True:
        done = await retention.run(None, cursor=cursor, limit_s=0.002)
        total, requests, cursor = total + done.messages, requests + 1, done.cursor
        if not cursor:
            break
    assert total == 40 and requests > 1
    for channel in channels:
        assert await seqs(stack, Twin(channel, False)) == [3]


async def test_a_run_without_any_time_does_a_piece_and_says_where_to_go_on(stack: Stack, retention: Retention) -> None:
    await write(stack, 2 * MESSAGES_PER_COMMAND)
    await retention.set(GROUP, RetentionPolicy(count=1))
    assert await retention.run(GROUP, limit_s=0) == Done(MESSAGES_PER_COMMAND, "0..0.0")
    assert await run_all(retention, GROUP, 0) == (MESSAGES_PER_COMMAND - 1, 1)
    assert await retention.erase("alice", None, limit_s=0) == Done(0, "1..0.0")


@pytest.mark.parametrize("cursor", ["x", "1.2", "1.zz.0.0", "-1..0.0", "0..0.-3", "0..0.x"])
async def test_a_cursor_that_nobody_gave_is_refused(retention: Retention, cursor: str) -> None:
    with pytest.raises(RequestRefused, match="cursor"):
        await retention.run(None, cursor=cursor)


def test_a_place_is_read_as_it_was_written() -> None:
    for place in (Place(), Place(3, b"\x02\x00\x01g", True, 77)):
        assert read_place(str(place)) == place
    assert read_place("") == Place()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_policies_are_carried_out_where_the_slot_is_led(stack: Stack, retention: Retention) -> None:
    await write(stack, 5)
    await write(stack, 5, channel=OTHER)
    await retention.set_default(2, RetentionPolicy(count=1))
    slots = {channel: stack.node.slot(channel.id) for channel in (GROUP, OTHER)}
    assert slots[GROUP] != slots[OTHER]
    leads = stack.node.leads
    stack.node.leads = lambda slot: slot != slots[OTHER] and leads(slot)  # type: ignore[method-assign]
    work = asyncio.create_task(retention.keep_running(0.01))
    try:
        await until(lambda: stack.commands(Retire) > 0)
        assert (await seqs(stack), len(await seqs(stack, Twin(OTHER, False)))) == ([5], 5)
        stack.node.leads = leads  # type: ignore[method-assign]
        await until(lambda: stack.commands(Retire) > 1)
    finally:
        work.cancel()
    assert await seqs(stack, Twin(OTHER, False)) == [5]


async def test_a_fault_in_one_slot_does_not_end_the_work(
    stack: Stack, retention: Retention, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await write(stack, 5)
    await retention.set(GROUP, RetentionPolicy(count=1))
    whole = retention._retire_slot
    broken = (stack.node.slot("g") - 1) % stack.node.slot_count

    async def sometimes(slot: int, *rest: object) -> object:
        if slot == broken:
            raise RuntimeError("boom")
        return await whole(slot, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "_retire_slot", sometimes)
    work = asyncio.create_task(retention.keep_running(0.01))
    try:
        await until(lambda: stack.commands(Retire) > 0 and "boom" in caplog.text)
    finally:
        work.cancel()


# -- erasing --


async def test_what_a_user_wrote_in_a_channel_is_erased(stack: Stack, retention: Retention) -> None:
    await write(stack, 3)
    await write(stack, 3, uid="bob")
    await write(stack, 2, flags=4)
    await write(stack, 3, channel=OTHER)
    assert await retention.erase("alice", GROUP) == Done(5, "")
    assert await retention.erase("alice", GROUP) == Done(0, "")
    assert stack.commands(Erase) == 2, "what is erased already is not asked for again"
    texts = await payloads(stack, CHAT)
    assert texts == [b'{"type":0}'] * 3 + [b"000", b"001", b"002"]
    assert await payloads(stack, COMMANDS) == [b'{"type":0}'] * 2
    assert await payloads(stack, Twin(OTHER, False)) == [b"000", b"001", b"002"]


async def payloads(stack: Stack, twin: Twin) -> list[bytes]:
    page = await stack.use_cases.messages.history(twin, start=0, end=0, limit=1_000, newer=False)
    return [message.payload for message in page.messages]


@pytest.mark.parametrize("limit_s", [3.0, 0.002])
async def test_what_a_user_wrote_anywhere_is_erased(stack: Stack, retention: Retention, limit_s: float) -> None:
    channels = [ChannelId(2, f"g{n}") for n in range(80)]
    for channel in channels:
        await write(stack, 1, channel=channel)
        await write(stack, 1, uid="bob", channel=channel)
    await write(stack, 3 * MESSAGES_PER_COMMAND, channel=channels[0])
    pair = ChannelId(1, person_id("alice", "bob"))
    await stack.client_sends(pair, "alice")
    total, cursor = 0, ""
    while True:
        done = await retention.erase("alice", None, cursor=cursor, limit_s=limit_s)
        total, cursor = total + done.messages, done.cursor
        if not cursor:
            break
    assert total == 81 + 3 * MESSAGES_PER_COMMAND
    for channel in channels[1:]:
        assert await payloads(stack, Twin(channel, False)) == [b'{"type":0}', b"000"]
    assert await payloads(stack, Twin(pair, False)) == [b'{"type":0}']


async def test_a_users_messages_are_looked_for_where_he_wrote(stack: Stack, retention: Retention) -> None:
    await write(stack, 1)
    await write(stack, 5 * MESSAGES_PER_COMMAND, uid="bob")
    await retention.erase("alice", None)
    assert stack.commands(Erase) == 1


@pytest.mark.parametrize("uid", ["", " "])
async def test_nobody_is_not_erased(retention: Retention, uid: str) -> None:
    with pytest.raises(RequestRefused, match="uid"):
        await retention.erase(uid, None)


# -- what a run costs --


async def test_a_channel_within_its_policy_is_passed_by_with_a_look_at_its_oldest_message(
    stack: Stack, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(stack, 5)
    await retention.set(GROUP, RetentionPolicy(days=1, count=1_000))
    read: list[int] = []

    def counting(*args: Any, **options: Any) -> list[Message]:
        found = messages_between(*args, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr("wukong.service.retention.messages_between", counting)
    assert await run_all(retention) == (0, 1)
    assert sum(read) == 1


async def test_a_run_does_not_push_out_the_heads_that_apply_works_on(stack: Stack, retention: Retention) -> None:
    await write(stack, 5)
    await retention.set_default(GROUP.type, RetentionPolicy(days=1, count=1_000, bytes=1 << 30))
    state = stack.node.state_of(GROUP.id)
    state._heads.clear()
    assert await run_all(retention) == (0, 1)
    assert not state._heads


# -- what readers see --


async def test_what_is_gone_is_in_no_list(stack: Stack, retention: Retention) -> None:
    await stack.use_cases.channels.add_members(GROUP, ["alice", "bob"], reset=False)
    await write(stack, 5)
    conversations, browse = stack.use_cases.conversations, stack.use_cases.browse
    await retention.set(GROUP, RetentionPolicy(count=2))
    await retention.run(GROUP)
    [chat] = await conversations.sync("bob", msg_count=9)
    assert (chat.unread, [message.message_seq for message in chat.recents or ()]) == (2, [5, 4])
    for query in (MessageQuery(channel=GROUP), MessageQuery()):
        found, total = await browse.messages(query)
        assert ([each.message.message_seq for each in found], total) == ([5, 4], 2)
    await retention.set(GROUP, RetentionPolicy(bytes=1))
    await retention.run(GROUP)
    assert await conversations.sync("bob", msg_count=9) == []
    assert await conversations.channels("bob") == [GROUP]
    assert await browse.messages(MessageQuery()) == ([], 0)
    await write(stack, 1)
    [chat] = await conversations.sync("bob", msg_count=9)
    assert (chat.unread, chat.last_msg_seq) == (1, 6)
