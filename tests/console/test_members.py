"""Members with the position since which they get messages."""

from tests.service.stack import Stack
from wukong.channel.ids import ChannelId
from wukong.console.members import Since, members_since

CHANNEL = ChannelId(2, "lunch")


async def test_each_member_is_shown_with_the_first_message_that_is_for_him() -> None:
    stack = await Stack().start()
    channels = stack.use_cases.channels
    await channels.add_members(CHANNEL, ["a", "b"], reset=False)
    for number in range(3):
        await stack.client_sends(CHANNEL, "a", number=str(number))
    await channels.add_members(CHANNEL, ["c"], reset=False)
    await channels.remove_members(CHANNEL, ["b"])
    await channels.add_members(CHANNEL, ["b"], reset=False)
    found, cursor = await members_since(stack.use_cases.replica, CHANNEL)
    assert cursor == ""
    assert [(each.uid, each.since_seq) for each in found] == [("a", 1), ("b", 4), ("c", 4)]
    assert found[0].since_index < found[2].since_index < found[1].since_index


async def test_pages_follow_each_other_without_a_gap() -> None:
    stack = await Stack().start()
    uids = [f"u{n:02}" for n in range(7)]
    await stack.use_cases.channels.add_members(CHANNEL, uids, reset=False)
    seen: list[Since] = []
    cursor = ""
    while True:
        page, cursor = await members_since(stack.use_cases.replica, CHANNEL, cursor=cursor, limit=3)
        seen += page
        if not cursor:
            break
    assert [each.uid for each in seen] == uids


async def test_an_unknown_channel_has_none() -> None:
    stack = await Stack().start()
    assert await members_since(stack.use_cases.replica, CHANNEL) == ([], "")
