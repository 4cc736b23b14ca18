"""Looking through everything that is stored. http-api.md 13.3 and 13.4."""

import asyncio
import random

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import ChannelInfo, OpenSession, PutChannel, SetToken
from wukong.channel.ids import GROUP, PERSON, ChannelId
from wukong.errors import RequestRefused, Unavailable
from wukong.service import browse
from wukong.service.browse import Browse, MessageQuery


@pytest.fixture
async def stack() -> Stack:
    return await Stack(slot_count=4).start()


def group(name: str) -> ChannelId:
    return ChannelId(GROUP, name)


async def make(stack: Stack, *names: str) -> None:
    for name in names:
        stack.clock.ms += 5
        await stack.run(name, PutChannel(group(name), ChannelInfo(), ["m"]))


# -- channels --


async def names(stack: Stack, **options: object) -> tuple[list[str], bool]:
    found, more = await stack.use_cases.browse.channels(**options)  # type: ignore[arg-type]
    return [entry.channel.id for entry in found], more


async def test_channels_are_paged_from_the_newest_to_the_oldest_and_back(stack: Stack) -> None:
    wanted = [f"g{number}" for number in range(7)]
    await make(stack, *wanted)
    wanted.reverse()
    seen: list[str] = []
    offset = 0
    more = True
    while more:
        page, more = await stack.use_cases.browse.channels(limit=3, offset=offset)
        seen += [entry.channel.id for entry in page]
        offset = page[-1].order
    assert seen == wanted
    assert await names(stack, limit=3, offset=offset, back=True) == (["g3", "g2", "g1"], True)
    assert await names(stack, limit=6, offset=offset, back=True) == (wanted[:6], False)


async def test_channels_made_in_the_same_moment_are_all_on_one_page_or_the_next(stack: Stack) -> None:
    for number in range(40):
        await stack.run(f"g{number}", PutChannel(group(f"g{number}"), ChannelInfo()))
    seen: list[str] = []
    offset = 0
    more = True
    while more:
        page, more = await stack.use_cases.browse.channels(limit=7, offset=offset)
        seen += [entry.channel.id for entry in page]
        offset = page[-1].order
    assert sorted(seen) == sorted(f"g{number}" for number in range(40))


async def test_channels_are_found_by_id_and_type(stack: Stack) -> None:
    await make(stack, "g", "h")
    await stack.run("g", PutChannel(ChannelId(7, "g")))
    await stack.client_sends(ChannelId(PERSON, "a@b"), "a")
    assert sorted((await names(stack, channel_id="g"))[0]) == ["g", "g"]
    assert await names(stack, channel_id="g", channel_type=7) == (["g"], False)
    assert await names(stack, channel_type=PERSON) == (["a@b"], False)
    assert await names(stack, channel_id="nothing") == ([], False)
    head = await stack.use_cases.browse.head(group("g"))
    assert head is not None
    assert head.members == 1
    assert await stack.use_cases.browse.head(group("nothing")) is None


# -- users --


async def test_users_and_devices_are_paged_by_uid_each_once(stack: Stack) -> None:
    uids = [f"u{number}" for number in range(9)]
    for uid in uids:
        if uid != "u4":
            await stack.run(uid, SetToken(uid, 0, b"h", 1))
        await stack.run(uid, OpenSession(uid, 1, 1, "d", b""))
    await stack.run("u5", OpenSession("u5", 2, 0, "e", b""))
    seen: list[str] = []
    more = True
    while more:
        page, more = await stack.use_cases.browse.users(limit=2, behind=seen[-1] if seen else "")
        seen += [entry.uid for entry in page]
    assert seen == uids
    (entry,), _ = await stack.use_cases.browse.users(uid="u5")
    assert (entry.devices, entry.online_devices, entry.sessions) == (2, 2, 2)
    (entry,), _ = await stack.use_cases.browse.users(uid="u4")
    assert (entry.devices, entry.sessions) == (1, 1)
    assert await stack.use_cases.browse.users(uid="nobody") == ([], False)
    devices, more = await stack.use_cases.browse.devices(limit=5)
    assert ([entry.device.uid for entry in devices], more) == (["u0", "u1", "u2", "u3", "u5"], True)
    rest, more = await stack.use_cases.browse.devices(limit=5, behind="u5")
    assert ([entry.device.uid for entry in rest], more) == (["u6", "u7", "u8"], False)
    assert [entry.sessions for entry in devices] == [0, 0, 0, 0, 1]
    assert (await stack.use_cases.browse.devices(device_flag=1))[0] == []
    assert len((await stack.use_cases.browse.devices(uid="u1", device_flag=0))[0]) == 1


# -- conversations --


async def test_conversations_of_a_user_come_newest_first_with_what_is_unread(stack: Stack) -> None:
    await make(stack, "g1", "g2", "g3")
    for name in ("g2", "g1", "g1"):
        stack.clock.ms += 2_000
        await stack.run(name, PutChannel(group(name), None, ["other"]))
        await stack.client_sends(group(name), "other")
    found, total = await stack.use_cases.browse.chats(uid="m")
    assert [(entry.channel.id, entry.view.unread) for entry in found] == [("g1", 2), ("g2", 1), ("g3", 0)]
    assert total == 3
    found, total = await stack.use_cases.browse.chats(uid="m", limit=2, page=2)
    assert ([entry.channel.id for entry in found], total) == (["g3"], 3)
    seen = [
        (entry.uid, entry.channel.id)
        for page in range(1, 5)
        for entry in (await stack.use_cases.browse.chats(limit=2, page=page))[0]
    ]
    everybody = {("m", "g1"), ("m", "g2"), ("m", "g3"), ("other", "g1"), ("other", "g2")}
    assert (len(seen), set(seen)) == (5, everybody)


# -- messages --


async def test_messages_are_paged_in_the_order_of_their_ids_as_a_plain_list_would_be(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six channels are sorted in four pieces.
    monkeypatch.setattr(browse, "_RUN", 2)
    chance = random.Random(5)
    channels = [f"g{number}" for number in range(6)]
    for name in channels:
        await stack.run(name, PutChannel(group(name), None, ["a", "b"]))
    ids: list[tuple[int, str]] = []
    for _ in range(60):
        stack.clock.ms += chance.choice([0, 1, 700])
        name = chance.choice(channels)
        reply = await stack.client_sends(group(name), chance.choice("ab"))
        ids.append((reply.message_id, name))
    ids.sort(reverse=True)

    async def page(limit: int, **query: int) -> list[int]:
        options = {**query, "newest": "after_id" not in query}
        found, _ = await stack.use_cases.browse.messages(MessageQuery(**options), limit=limit)  # type: ignore[arg-type]
        return [each.message.message_id for each in found]

    every = [message_id for message_id, _ in ids]
    for limit in (1, 5, 100):
        assert await page(limit) == every[:limit]
        for at in (0, 7, 30, 59):
            assert await page(limit, before_id=every[at]) == every[at + 1 : at + 1 + limit]
            assert await page(limit, after_id=every[at]) == every[max(0, at - limit) : at]
    _, total = await stack.use_cases.browse.messages(MessageQuery())
    assert total == 60


async def test_messages_are_found_by_what_is_known_of_them(stack: Stack) -> None:
    await stack.run("g", PutChannel(group("g"), None, ["a", "b"]))
    await stack.run("h", PutChannel(group("h"), None, ["a"]))
    first = await stack.client_sends(group("g"), "a", b"one", "n1")
    second = await stack.client_sends(group("g"), "b", b"two", "n2")
    third = await stack.client_sends(group("h"), "a", b"three", "n1")

    async def ids(**query: object) -> set[int]:
        found, _ = await stack.use_cases.browse.messages(MessageQuery(**query))  # type: ignore[arg-type]
        return {each.message.message_id for each in found}

    assert await ids(message_id=second.message_id) == {second.message_id}
    assert await ids(message_id=5) == set()
    assert await ids(from_uid="a") == {first.message_id, third.message_id}
    assert await ids(client_msg_no="n1") == {first.message_id, third.message_id}
    assert await ids(client_msg_no="n1", channel=group("g")) == {first.message_id}
    assert await ids(payload=b"hre") == {third.message_id}
    assert await ids(payload=b"o", from_uid="b") == {second.message_id}
    assert await ids(channel=group("g"), before_seq=2) == {first.message_id}
    assert await ids(channel=group("g"), after_seq=1, newest=False) == {second.message_id}
    assert await ids(channel=group("nothing")) == set()


async def test_a_search_reads_so_many_messages_and_no_more(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await stack.run("g", PutChannel(group("g"), None, ["a"]))
    await stack.client_sends(group("g"), "a", b"needle")
    for _ in range(600):
        await stack.client_sends(group("g"), "a", b"hay")
    found, _ = await stack.use_cases.browse.messages(MessageQuery(payload=b"needle"))
    assert len(found) == 1
    monkeypatch.setattr(browse, "MESSAGES_LIMIT_COUNT", 300)
    found, _ = await stack.use_cases.browse.messages(MessageQuery(payload=b"needle"))
    assert found == []


# -- limits --


async def test_pages_have_a_limit(stack: Stack) -> None:
    assert [browse.limit_of(limit) for limit in (0, -1, 5, 10**9)] == [20, 20, 5, browse.MAX_LIMIT]


async def test_too_many_rows_are_refused_unless_one_is_named(stack: Stack) -> None:
    narrow = Browse(stack.use_cases.replica, rows_limit=256)
    for number in range(600):
        # All in one slot: the types of a few ids.
        name = f"g{number // 200}"
        await stack.run(name, PutChannel(ChannelId(2 + number % 200, name), None, ["m"]))
    assert len({stack.node.slot(f"g{number}") for number in range(3)}) < 3
    with pytest.raises(RequestRefused, match="name what you look for"):
        await narrow.channels()
    assert (await narrow.channels(channel_id="g1", channel_type=2))[0]


async def test_channels_can_be_filtered_by_what_their_head_says(stack: Stack) -> None:
    await make(stack, "g", "h")
    await stack.run("h", PutChannel(group("h"), ChannelInfo(ban=True), ["a", "b"]))
    assert await names(stack, fits=lambda head: head.ban) == (["h"], False)
    assert await names(stack, fits=lambda head: head.members < 2) == (["g"], False)


async def test_one_look_through_at_a_time_and_not_for_ever(stack: Stack) -> None:
    hasty = Browse(stack.use_cases.replica, timeout_s=0.02)
    async with hasty._turn:
        with pytest.raises(Unavailable, match="takes longer"):
            await hasty.channels()
    hasty._timeout_s = 60.0
    assert await hasty.channels() == ([], False)


async def test_only_so_many_wait_for_their_turn(stack: Stack) -> None:
    patient = Browse(stack.use_cases.replica)
    async with patient._turn:
        asking = [asyncio.create_task(patient.channels()) for _ in range(browse.ASKED_LIMIT_COUNT)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many"):
            await patient.channels()
    assert await asyncio.gather(*asking) == [([], False)] * browse.ASKED_LIMIT_COUNT
    assert await patient.channels() == ([], False)
