"""Tokens, forced logouts, presence, system accounts. http-api.md section 6."""

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import ChannelInfo, OpenSession, UpdateSystemUids
from wukong.channel.effects import SessionEnded
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings
from wukong.errors import RequestRefused
from wukong.service.sessions import hash_token
from wukong.service.users import ALL_DEVICES, Online


async def login(stack: Stack, uid: str, token: str, flag: int = 0) -> int:
    return (await stack.run(uid, OpenSession(uid, 1, flag, "d", hash_token(token)))).reason


def kicked(stack: Stack) -> list[int]:
    return [effect.session for effect in stack.effects if isinstance(effect, SessionEnded) and effect.kicked]


async def with_tokens() -> Stack:
    return await Stack().start(Settings(token_auth_on=True))


async def test_a_stored_token_lets_its_device_in() -> None:
    stack = await with_tokens()
    assert await stack.use_cases.users.set_token("u", "t", device_flag=1, level=0) == 1
    assert [await login(stack, "u", "t", flag) for flag in (1, 0)] == [1, 2]
    assert await login(stack, "u", "wrong", 1) == 2


@pytest.mark.parametrize(
    ("info", "reason"),
    [(ChannelInfo(ban=True), 19), (ChannelInfo(disband=True), 24), (ChannelInfo(False, True, True), 19)],
)
async def test_a_banned_users_token_stays_as_it_was(info: ChannelInfo, reason: int) -> None:
    stack = await with_tokens()
    users = stack.use_cases.users
    await users.set_token("u", "old", device_flag=0, level=0)
    await stack.use_cases.channels.put_info(ChannelId(1, "u"), info)
    assert await users.set_token("u", "new", device_flag=0, level=0) == reason
    await stack.use_cases.channels.put_info(ChannelId(1, "u"), ChannelInfo())
    assert [await login(stack, "u", token) for token in ("new", "old")] == [2, 1]


async def test_a_masters_new_token_logs_out_its_flag_only(stack: Stack) -> None:
    await stack.connect("u", 1)
    await stack.connect("u", 2, flag=1)
    await stack.use_cases.users.set_token("u", "t", device_flag=0, level=0)
    assert kicked(stack) == []
    await stack.use_cases.users.set_token("u", "t", device_flag=0, level=1)
    assert kicked(stack) == [1]


@pytest.mark.parametrize(
    ("flag", "gone"), [(0, [1]), (1, [2]), (2, [3]), (ALL_DEVICES, [1, 2, 3]), (99, [4]), (3, []), (-2, []), (256, [])]
)
async def test_a_device_that_quits_is_logged_out_if_it_has_a_token(stack: Stack, flag: int, gone: list[int]) -> None:
    for number, device_flag in enumerate((0, 1, 2, 99), start=1):
        await stack.use_cases.users.set_token("u", "t", device_flag=device_flag, level=0)
        await stack.connect("u", number, flag=device_flag)
    await stack.use_cases.users.quit_devices("u", flag)
    assert kicked(stack) == gone


async def test_a_device_without_a_token_stays(stack: Stack) -> None:
    await stack.connect("u", 1)
    await stack.use_cases.users.quit_devices("u", ALL_DEVICES)
    assert kicked(stack) == []


async def test_each_connection_is_listed_in_the_order_asked(stack: Stack) -> None:
    await stack.connect("u", 1)
    await stack.connect("v", 2, flag=2)
    await stack.connect("u", 3, flag=1)
    found = await stack.use_cases.users.online(["v", "nobody", "u", "v"])
    assert found == [Online("v", 2), Online("u", 0), Online("u", 1), Online("v", 2)]


async def test_many_uids_are_looked_up_in_slices(stack: Stack) -> None:
    await stack.connect("u1234", 1)
    assert await stack.use_cases.users.online([f"u{n}" for n in range(2_000)]) == [Online("u1234", 0)]


async def test_system_accounts_are_listed_as_added_without_the_built_in_one(stack: Stack) -> None:
    users = stack.use_cases.users
    await users.add_system_uids(["b", "a", "____system", "", "b"])
    await users.add_system_uids(["c", "a"])
    assert await users.system_uids() == ["b", "a", "c"]
    await users.remove_system_uids(["a", "unknown", ""])
    assert await users.system_uids() == ["b", "c"]


async def test_a_system_account_counts_everywhere_when_the_call_returns(stack: Stack) -> None:
    groups = [ChannelId(2, f"g{n}") for n in range(40)]
    assert {(await stack.client_sends(group, "bot")).reason for group in groups} == {3}
    await stack.use_cases.users.add_system_uids(["bot"])
    assert {(await stack.client_sends(group, "bot")).reason for group in groups} == {1}
    await stack.use_cases.users.remove_system_uids(["bot"])
    assert {(await stack.client_sends(group, "bot")).reason for group in groups} == {3}


async def test_lists_without_uids_change_nothing(stack: Stack) -> None:
    await stack.use_cases.users.add_system_uids([])
    await stack.use_cases.users.remove_system_uids(["", " "])
    assert stack.commands(UpdateSystemUids) == 0


async def test_removing_who_is_gone_already_waits_until_that_is_in_force(stack: Stack) -> None:
    await stack.use_cases.users.remove_system_uids(["unknown"])
    assert stack.commands(UpdateSystemUids) == 1
    assert await stack.use_cases.users.system_uids() == []


async def test_more_system_accounts_than_a_command_holds_are_refused(stack: Stack) -> None:
    with pytest.raises(RequestRefused, match="256 KiB"):
        await stack.use_cases.users.add_system_uids([f"{n:01000}" for n in range(300)])


async def test_more_system_accounts_than_the_limit_in_total_are_refused(stack: Stack) -> None:
    users = stack.use_cases.users
    with pytest.raises(RequestRefused, match="1024 KiB"):
        for part in range(5):
            await users.add_system_uids([f"{part}-{n:01000}" for n in range(250)])
    assert len(await users.system_uids()) == 1_000
