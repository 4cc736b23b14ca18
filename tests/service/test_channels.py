"""Members and lists: long lists, replacements, what stays consistent meanwhile."""

import asyncio

from tests.service.stack import Stack
from wukong.channel.commands import ChannelInfo, PutChannel, StageMembers, UpdateList
from wukong.channel.effects import MembersChanged
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings, channel_part
from wukong.service.channels import ALLOWLIST, DENYLIST
from wukong.service.usecases import UseCases

GROUP = ChannelId(2, "g")
NO_FLAGS = ChannelInfo()


async def all_members(use_cases: UseCases, channel: ChannelId = GROUP, limit: int = 1000) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        page, cursor = await use_cases.channels.members(channel, cursor=cursor, limit=limit)
        found += page
        if not cursor:
            return found


async def small_commands() -> Stack:
    return await Stack().start(Settings(members_per_command=10))


def uids(first: int, count: int) -> list[str]:
    return [f"u{n:03}" for n in range(first, first + count)]


async def test_an_addition_longer_than_a_command_becomes_several_and_adds_everybody_once() -> None:
    stack = await small_commands()
    before = stack.commands(PutChannel)
    await stack.use_cases.channels.add_members(GROUP, [*uids(0, 35), *uids(0, 5), "", " "], reset=False)
    assert stack.commands(PutChannel) - before == 4
    assert await all_members(stack.use_cases) == uids(0, 35)


async def test_flags_are_written_once_when_the_addition_takes_several_commands() -> None:
    stack = await small_commands()
    await stack.use_cases.channels.put(GROUP, ChannelInfo(ban=True), uids(0, 35), reset=False)
    head = stack.node.state_of("g").head(channel_part(GROUP))
    assert head is not None
    assert (head.ban, head.members) == (True, 35)


async def test_a_replacement_longer_than_a_command_takes_effect_in_one_step() -> None:
    stack = await small_commands()
    channels = stack.use_cases.channels
    await channels.add_members(GROUP, uids(0, 30), reset=False)
    stack.effects.clear()
    await channels.add_members(GROUP, uids(20, 35), reset=True)
    assert stack.commands(StageMembers) == 3
    changes = [effect for effect in stack.effects if isinstance(effect, MembersChanged)]
    assert len(changes) == 1
    assert sorted(changes[0].removed) == uids(0, 20)
    assert sorted(changes[0].added) == uids(30, 25)
    assert await all_members(stack.use_cases) == uids(20, 35)


async def test_a_replacement_by_nobody_empties_the_channel() -> None:
    stack = await small_commands()
    await stack.use_cases.channels.add_members(GROUP, uids(0, 30), reset=False)
    await stack.use_cases.channels.put(GROUP, NO_FLAGS, [], reset=True)
    assert await all_members(stack.use_cases) == []


async def test_two_replacements_at_once_leave_one_of_the_two_lists_whole() -> None:
    stack = await small_commands()
    channels = stack.use_cases.channels
    await asyncio.gather(
        channels.add_members(GROUP, uids(0, 95), reset=True), channels.add_members(GROUP, uids(100, 15), reset=True)
    )
    # The shorter one would be done before the longer one has sent all its parts.
    assert await all_members(stack.use_cases) in (uids(0, 95), uids(100, 15))


async def test_replacements_of_later_incarnations_use_higher_numbers() -> None:
    stack = await small_commands()
    for _ in range(5):
        await stack.use_cases.channels.add_members(GROUP, uids(0, 25), reset=True)
    first = staged_numbers(stack)
    again = await Stack(store=stack.store.reopen()).start()
    await again.use_cases.channels.add_members(GROUP, uids(50, 25), reset=True)
    assert max(first) < min(staged_numbers(again))
    assert await all_members(again.use_cases) == uids(50, 25)


def staged_numbers(stack: Stack) -> set[int]:
    from wukong.channel.commands import decode_entry

    return {
        command.staged
        for entry in stack.log.entries
        for pack in decode_entry(entry.data)
        for command in pack.commands
        if isinstance(command, StageMembers)
    }


async def test_members_leave_in_several_commands() -> None:
    stack = await small_commands()
    await stack.use_cases.channels.add_members(GROUP, uids(0, 40), reset=False)
    await stack.use_cases.channels.remove_members(GROUP, uids(0, 35))
    assert await all_members(stack.use_cases) == uids(35, 5)


async def test_members_are_listed_in_pages_by_uid(stack: Stack) -> None:
    await stack.use_cases.channels.add_members(GROUP, uids(0, 25), reset=False)
    page, cursor = await stack.use_cases.channels.members(GROUP, cursor="", limit=10)
    assert (page, cursor) == (uids(0, 10), "u009")
    assert await all_members(stack.use_cases, limit=7) == uids(0, 25)


async def test_recipients_of_a_temporary_channel_replace_those_before_and_make_no_conversation(stack: Stack) -> None:
    channels = stack.use_cases.channels
    await channels.set_recipients("t", ["a", "b"])
    await channels.set_recipients("t", ["b", "c"])
    assert await all_members(stack.use_cases, ChannelId(8, "t")) == ["b", "c"]
    await stack.client_sends(ChannelId(8, "t"), "b")
    assert await stack.use_cases.conversations.channels("c") == []


async def test_a_long_list_is_set_by_replacing_first_and_adding_the_rest() -> None:
    stack = await small_commands()
    channels = stack.use_cases.channels
    await channels.add_to_list(GROUP, DENYLIST, ["old"])
    before = stack.commands(UpdateList)
    await channels.set_list(GROUP, DENYLIST, uids(0, 35))
    assert stack.commands(UpdateList) - before == 4
    assert [entry.uid for entry in await channels.list_entries(GROUP, DENYLIST)] == uids(0, 35)


async def test_setting_an_empty_list_lifts_it(stack: Stack) -> None:
    channels = stack.use_cases.channels
    await channels.add_to_list(GROUP, ALLOWLIST, ["a", "b"])
    await channels.set_list(GROUP, ALLOWLIST, [])
    assert await channels.list_entries(GROUP, ALLOWLIST) == []


async def test_a_list_says_since_when_somebody_is_on_it(stack: Stack) -> None:
    channels = stack.use_cases.channels
    await channels.add_to_list(GROUP, ALLOWLIST, ["a"])
    first_ms = stack.clock.ms
    stack.clock.ms += 60_000
    await channels.add_to_list(GROUP, ALLOWLIST, ["b"])
    entries = await channels.list_entries(GROUP, ALLOWLIST)
    assert [(entry.uid, entry.created_ms) for entry in entries] == [("a", first_ms), ("b", stack.clock.ms)]


async def test_a_list_of_more_than_a_page_comes_whole(stack: Stack) -> None:
    wanted = [f"u{n:05}" for n in range(2_345)]
    await stack.use_cases.channels.add_to_list(GROUP, DENYLIST, wanted)
    assert [entry.uid for entry in await stack.use_cases.channels.list_entries(GROUP, DENYLIST)] == wanted


async def test_a_persons_deny_list_is_in_force_when_the_call_returns(stack: Stack) -> None:
    await stack.use_cases.channels.add_to_list(ChannelId(1, "bob"), DENYLIST, ["eve"])
    assert (await stack.client_sends(stack.use_cases.messages.named("bob", 1, "eve").channel, "eve")).reason == 4


async def test_a_users_send_ban_is_in_force_in_every_slot_when_the_call_returns(stack: Stack) -> None:
    await stack.use_cases.channels.put_info(ChannelId(1, "eve"), ChannelInfo(send_ban=True))
    reasons = {(await stack.client_sends(ChannelId(6, f"news{n}"), "eve")).reason for n in range(40)}
    assert reasons == {25}
