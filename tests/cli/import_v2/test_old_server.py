"""Reading a WuKongIM v2.2.5 server, with everything that is odd about its answers."""

from collections.abc import AsyncIterator

import pytest

from tests.compat import old_server
from wukong.channel.ids import ChannelId
from wukong.cli.import_v2 import calls
from wukong.cli.import_v2.calls import Server
from wukong.cli.import_v2.old_server import PAGE_MESSAGES, RECENTS, Chat, Flags, OldServer, OldServerFault
from wukong.client.errors import ApiRefused, ApiUnavailable

GROUP = (2, "g")
ID = ChannelId(2, "g")


def with_log(count: int, key: tuple[int, str] = GROUP) -> old_server.OldData:
    data = old_server.OldData()
    for seq in range(1, count + 1):
        data.append(key, "a", b"m%d" % seq, number=f"n{seq}", second=1_760_000_000 + seq, message_id=(1 << 50) + seq)
    data.talks = {"a": {}, "b": {}}
    return data


_opened: list[Server] = []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    while _opened:
        await _opened.pop().close()


def reader(fixture: old_server.OldServer, token: str = "") -> OldServer:
    _opened.append(Server(fixture.url, token))
    return OldServer(_opened[-1])


async def all_messages(old: OldServer, channel: ChannelId) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    while rows := await old.messages_after(channel, found[-1][0] if found else 0):
        found += [(row.message_seq, row.header.red_dot if row.header else 0, row.payload or b"") for row in rows]
    return found


@pytest.mark.parametrize("count", [0, 1, 2, PAGE_MESSAGES - 1, PAGE_MESSAGES, PAGE_MESSAGES + 1, 2 * PAGE_MESSAGES + 1])
async def test_pages_hold_every_message_once_with_its_header(count: int) -> None:
    """Only the first message of all has lost its header for good (trap 24)."""
    async with old_server.OldServer(with_log(count)) as fixture:
        found = await all_messages(reader(fixture), ID)
    assert found == [(seq, int(seq > 1), b"m%d" % seq) for seq in range(1, count + 1)]


@pytest.mark.parametrize("stored", ["bob@alice", "u2@u1", "u1@u1", "u1@____system"])
async def test_a_channel_of_two_persons_is_read_by_its_stored_id(stored: str) -> None:
    async with old_server.OldServer(with_log(3, (1, stored))) as fixture:
        assert len(await all_messages(reader(fixture), ChannelId(1, stored))) == 3


async def test_a_hole_in_the_log_is_a_fault_in_words() -> None:
    data = with_log(5)
    del data.log[GROUP][2]
    async with old_server.OldServer(data) as fixture:
        with pytest.raises(OldServerFault, match="no message 3, but has 4"):
            await all_messages(reader(fixture), ID)


async def test_conversations_tell_position_unread_and_what_was_deleted() -> None:
    data = with_log(30)
    data.append((2, "h"), "b", b"x", number="x", second=1, message_id=5)
    data.append((1, "b@____system"), "", b"x", number="x", second=1, message_id=6)
    data.members = {(2, "h"): []}
    data.talks["b"] = {
        GROUP: old_server.Talk(10),
        (2, "h"): old_server.Talk(0),
        (2, "empty"): old_server.Talk((1 << 64) - 1),
        (1, "b"): old_server.Talk(0),
        (1, "b@____system"): old_server.Talk(0),
    }
    async with old_server.OldServer(data) as fixture:
        found = await reader(fixture).conversations("b")
        assert sorted(found) == [
            Chat(ChannelId(1, "b@____system"), 0, 0, None),
            Chat(ChannelId(2, "empty"), 0xFFFF_FFFF, 0, None),
            Chat(ChannelId(2, "g"), 10, 0, 20),
            # His own last message counts as read.
            Chat(ChannelId(2, "h"), 1, 0, 0),
        ]
        for deleted, seen in [(30, None), (29, 29), (30 - RECENTS + 1, 30 - RECENTS + 1), (30 - RECENTS, 0)]:
            data.talks["b"] = {GROUP: old_server.Talk(10, deleted)}
            (chat,) = await reader(fixture).conversations("b")
            assert chat == Chat(ID, 10, 30 if seen is None else seen, None if seen is None else 20), deleted


async def test_empty_lists_may_be_null() -> None:
    data = with_log(0)
    async with old_server.OldServer(data) as fixture:
        old = reader(fixture)
        assert await old.conversations("nobody") == []
        assert await old.system_uids() == []
        assert await old.all_channels() == {}
        assert await old.members(ID) == []


async def test_lists_and_flags_come_from_the_administrative_routes() -> None:
    data = with_log(1)
    odd = (2, "group 7/群?#")
    data.members = {GROUP: ["a", "b"], odd: ["c"]}
    data.denied, data.allowed = {GROUP: ["eve"]}, {(1, "a"): ["b"]}
    data.banned = {odd, (1, "b")}
    async with old_server.OldServer(data) as fixture:
        old = reader(fixture)
        assert await old.members(ID) == ["a", "b"]
        assert await old.members(ChannelId(*odd)) == ["c"]
        assert await old.denied(ID) == ["eve"]
        assert await old.allowed(ChannelId(1, "a")) == ["b"]
        assert await old.all_channels() == {
            ID: Flags(),
            ChannelId(*odd): Flags(ban=True),
            ChannelId(1, "b"): Flags(ban=True),
        }
        assert await old.all_users() == ["a", "b"]


async def test_long_listings_come_in_pages() -> None:
    data = with_log(0)
    data.talks = {f"u{n}": {} for n in range(1_234)}
    async with old_server.OldServer(data) as fixture:
        assert len(await reader(fixture).all_users()) == 1_234


async def test_a_server_without_administrative_routes_says_nothing_of_members() -> None:
    data = with_log(1)
    data.members = {GROUP: ["a"]}
    async with old_server.OldServer(data, cluster=False) as fixture:
        old = reader(fixture)
        assert await old.all_users() == []
        assert await old.members(ID) is None
        assert await old.denied(ID) is None
        assert sum(path.startswith("/cluster/") for path in fixture.calls) == 1, "asked once"


async def test_a_call_is_repeated_when_the_server_fails_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSES_S", (0.001, 0.001))
    async with old_server.OldServer(with_log(600), fail_every=2) as fixture:
        assert len(await all_messages(reader(fixture), ID)) == 600
    async with old_server.OldServer(with_log(1), fail_every=1) as fixture:
        with pytest.raises(ApiUnavailable, match="500"):
            await all_messages(reader(fixture), ID)


async def test_a_wrong_token_is_final() -> None:
    async with old_server.OldServer(with_log(1), token="secret") as fixture:
        with pytest.raises(ApiRefused, match="401"):
            await reader(fixture, "wrong").health()
        await reader(fixture, "secret").health()
