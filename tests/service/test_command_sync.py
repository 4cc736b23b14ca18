"""Unconfirmed commands: nothing is skipped, nothing comes twice after its confirmation. behaviour.md section 12."""

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import AdvanceCommands, TakeSync
from wukong.channel.ids import ChannelId
from wukong.service.messages import NO_PERSIST, SYNC_ONCE

GROUPS = ["g", "h", "i"]


async def commands(stack: Stack, count: int = 3, *groups: str) -> None:
    """count commands in each group, of which a and b are members."""
    for channel_id in groups or GROUPS:
        await stack.use_cases.channels.add_members(ChannelId(2, channel_id), ["a", "b"], reset=False)
        for n in range(count):
            await send(stack, channel_id, f"{channel_id}{n + 1}")


async def send(stack: Stack, channel_id: str, payload: str, flags: int = SYNC_ONCE) -> None:
    await stack.use_cases.messages.send(
        channel_id=channel_id, channel_type=2, from_uid="a", payload=payload.encode(), flags=flags
    )


async def sync(stack: Stack, uid: str = "b", limit: int = 0) -> list[str]:
    pending = await stack.use_cases.command_sync.sync(uid, limit=limit)
    return [message.payload.decode() for _, messages in pending for message in messages]


async def test_commands_ascend_within_a_channel(stack: Stack) -> None:
    await commands(stack)
    found = await sync(stack)
    assert sorted(found) == [f"{group}{n}" for group in GROUPS for n in (1, 2, 3)]
    for group in GROUPS:
        assert [text for text in found if text.startswith(group)] == [f"{group}{n}" for n in (1, 2, 3)]


async def test_the_same_comes_again_until_it_is_confirmed(stack: Stack) -> None:
    await commands(stack)
    first = await sync(stack)
    assert await sync(stack) == first
    await stack.use_cases.command_sync.acknowledge("b")
    assert await sync(stack) == []
    assert len(await sync(stack, "a")) == 9


async def test_a_confirmation_covers_only_what_the_last_sync_handed_out(stack: Stack) -> None:
    await commands(stack)
    await sync(stack)
    await send(stack, "g", "g4")
    await stack.use_cases.command_sync.acknowledge("b")
    assert await sync(stack) == ["g4"]


@pytest.mark.parametrize("limit", range(1, 10))
async def test_with_any_limit_repeated_syncs_and_confirmations_hand_out_everything_once(limit: int) -> None:
    stack = await Stack().start()
    await commands(stack)
    found: list[str] = []
    while page := await sync(stack, limit=limit):
        assert len(page) <= limit
        found += page
        await stack.use_cases.command_sync.acknowledge("b")
    assert sorted(found) == [f"{group}{n}" for group in GROUPS for n in (1, 2, 3)]


async def test_a_confirmation_without_a_sync_before_changes_nothing(stack: Stack) -> None:
    await commands(stack)
    await stack.use_cases.command_sync.acknowledge("b")
    assert len(await sync(stack)) == 9


async def test_a_second_confirmation_does_nothing(stack: Stack) -> None:
    await commands(stack, 1, "g")
    await sync(stack)
    await stack.use_cases.command_sync.acknowledge("b")
    await send(stack, "g", "new")
    await stack.use_cases.command_sync.acknowledge("b")
    assert await sync(stack) == ["new"]


async def test_an_empty_sync_forgets_what_an_earlier_one_handed_out(stack: Stack) -> None:
    await commands(stack, 1, "g")
    await sync(stack)
    # As a master's RECVACK does.
    await stack.run("g", AdvanceCommands(ChannelId(2, "g"), "b", 1))
    assert await sync(stack) == []
    assert (await stack.run("b", TakeSync("b"))).positions == []


async def test_an_empty_sync_with_nothing_to_forget_writes_nothing(stack: Stack) -> None:
    before = len(stack.log.entries)
    assert await sync(stack) == []
    assert len(stack.log.entries) == before


async def test_who_joined_later_gets_only_what_came_since(stack: Stack) -> None:
    await commands(stack, 2, "g")
    await stack.use_cases.channels.add_members(ChannelId(2, "g"), ["c"], reset=False)
    await send(stack, "g", "new")
    assert await sync(stack, "c") == ["new"]


async def test_who_left_gets_what_came_before(stack: Stack) -> None:
    await commands(stack, 2, "g")
    await stack.use_cases.channels.remove_members(ChannelId(2, "g"), ["b"])
    await send(stack, "g", "new")
    assert await sync(stack) == ["g1", "g2"]


async def test_unstored_and_ordinary_messages_are_not_among_commands(stack: Stack) -> None:
    await commands(stack, 1, "g")
    await send(stack, "g", "unstored", SYNC_ONCE | NO_PERSIST)
    await send(stack, "g", "ordinary", 0)
    assert await sync(stack) == ["g1"]


async def test_without_a_limit_two_hundred_come(stack: Stack) -> None:
    await commands(stack, 210, "g")
    assert len(await sync(stack)) == 200


async def test_an_answer_ends_at_its_limit_of_bytes_and_the_rest_comes_next(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wukong.service.command_sync.ANSWER_BYTES", 1)
    await commands(stack, 1, *(f"g{n}" for n in range(20)))
    found: list[str] = []
    while page := await sync(stack):
        found += page
        await stack.use_cases.command_sync.acknowledge("b")
    assert len(found) == len(set(found)) == 20
