"""An import between an old server made from a seed and our API over a replica in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.api.calls import Api
from tests.compat import old_server
from tests.compat.old_server import OldData, Size, make
from tests.service.stack import Stack
from wukong.api.server import ApiOptions
from wukong.channel.commands import Append
from wukong.channel.effects import FanOut
from wukong.channel.ids import ChannelId
from wukong.cli.import_v2 import calls, transfer
from wukong.cli.import_v2.book import Book, Given
from wukong.cli.import_v2.calls import Server
from wukong.cli.import_v2.old_server import OldServer
from wukong.cli.import_v2.transfer import Report, Transfer
from wukong.client.errors import ApiRefused, ApiUnavailable

TINY = Size(24, 80, 700, 30)
SEED = 5


class Counting:
    """Counts written messages, and ends the import after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.copied = 0
        self.stages: list[str] = []
        self._left = stop_after

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append(name)

    def step(self, count: int = 1) -> None:
        self._count()

    def messages(self, count: int) -> None:
        self.copied += count
        self._count()

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Stopped


class Stopped(Exception):
    """Somebody pulled the plug."""


class Sides:
    """The new side; `run` is one call of the import."""

    def __init__(self, api: Api, directory: Path) -> None:
        self.api = api
        self.directory = directory

    @property
    def url(self) -> str:
        return str(self.api._client.make_url("")).rstrip("/")

    async def run(
        self,
        old: old_server.OldServer,
        progress: Counting | None = None,
        *,
        users: list[str] | None = None,
        given: list[Given] | None = None,
        state: str = "state",
    ) -> Report:
        book = Book(self.directory / state, source="old")
        source, target = Server(old.url, ""), Server(self.url, "")
        try:
            book.add_users(old.data.talks if users is None else users)
            book.add_given(given or [])
            return await Transfer(OldServer(source), target, book, progress or Counting()).run()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            book.close()
            await source.close()
            await target.close()


@pytest.fixture
async def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sides]:
    monkeypatch.setattr(calls, "PAUSES_S", (0.001, 0.001))
    async with Api(await Stack().start()) as api:
        yield Sides(api, tmp_path)


@contextlib.asynccontextmanager
async def another(tmp_path: Path) -> AsyncIterator[Sides]:
    async with Api(await Stack().start()) as api:
        yield Sides(api, tmp_path)


async def same_unread(sides: Sides, data: OldData) -> None:
    """By /conversation/sync on both sides."""
    async with old_server.OldServer(data) as old:
        source = Server(old.url, "")
        for uid in data.talks:
            body = {"uid": uid, "msg_count": 1}
            there = await source.post(list[dict[str, object]], "/conversation/sync", body)
            here = await sides.api.post("/conversation/sync", body)
            fields = ("channel_id", "channel_type", "unread", "last_msg_seq", "last_client_msg_no", "timestamp")
            rows = [sorted([each[field] for field in fields] for each in side) for side in (here, there)]
            assert rows[0] == rows[1], uid
        await source.close()


async def test_everything_arrives_and_both_sides_are_equal(sides: Sides) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data, fail_every=23) as old:
        report = await sides.run(old)
    assert report.is_equal, [each for each in report.channels if not each.is_equal] + report.differences
    assert sum(each.new_messages for each in report.channels) == sum(
        len(log) for (kind, _), log in data.log.items() if kind != old_server.AGENT
    )
    await same_unread(sides, data)
    effects = sides.api.stack.effects
    assert not [effect for effect in effects if isinstance(effect, FanOut)], "nobody is told"


@pytest.mark.parametrize("seed", range(4))
async def test_an_import_that_ends_anywhere_goes_on(sides: Sides, seed: int) -> None:
    data = make(TINY, SEED)
    random = Random(seed)
    ends = 0
    async with old_server.OldServer(data) as old:
        while True:
            try:
                report = await sides.run(old, Counting(random.randrange(60)) if ends < 12 else Counting())
                break
            except Stopped:
                ends += 1
    assert ends > 3, f"seed {seed}"
    assert report.is_equal, f"seed {seed}: {report}"
    await same_unread(sides, data)


async def test_a_second_pass_fetches_only_what_came_since(sides: Sides) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data) as old:
        await sides.run(old)
        key = next(key for key in data.members if data.log.get(key) and data.members[key])
        for n in range(3):
            data.append(
                key, data.members[key][0], b"late", number=f"late-{n}", second=1_800_000_000, message_id=1 << 60
            )
        progress = Counting()
        report = await sides.run(old, progress)
    assert report.is_equal
    assert progress.copied == 3
    await same_unread(sides, data)


async def test_without_its_state_an_import_compares_what_is_there(sides: Sides) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data) as old:
        await sides.run(old)
        report = await sides.run(old, state="another")
    assert report.is_equal


async def test_another_data_directory_is_filled_from_the_beginning(sides: Sides, tmp_path: Path) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data) as old:
        await sides.run(old)
        async with another(tmp_path) as fresh:
            assert (await fresh.run(old)).is_equal


async def test_a_channel_in_use_is_refused_and_the_others_arrive(sides: Sides) -> None:
    data = make(TINY, SEED)
    kind, channel_id = key = next(key for key in data.members if data.log.get(key))
    await sides.api.stack.use_cases.messages.send(
        channel_id=channel_id, channel_type=kind, from_uid="boss", payload=b"ours", flags=0
    )
    async with old_server.OldServer(data) as old:
        report = await sides.run(old)
    (fault,) = [each for each in report.channels if not each.is_equal]
    assert fault.channel == ChannelId(*key)
    assert "another message 1 of its own" in fault.fault
    assert fault.new_messages == 1


async def test_a_difference_that_came_later_is_found(sides: Sides) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data) as old:
        await sides.run(old)
        (first, second, *_) = [key for key in data.members if data.log.get(key)]
        await sides.api.stack.use_cases.messages.send(
            channel_id=first[1], channel_type=first[0], from_uid="boss", payload=b"new", flags=0
        )
        stack = sides.api.stack
        await stack.use_cases.channels.remove_members(ChannelId(*second), data.members[second][:1])
        report = await sides.run(old)
    faults = {each.channel: each.fault for each in report.channels if not each.is_equal}
    if ChannelId(*first) in faults:
        assert "messages there" in faults[ChannelId(*first)] or "of its own" in faults[ChannelId(*first)]
    assert ChannelId(*first) in faults
    assert ChannelId(*second) not in faults, "who is missing is added again"
    assert any(each.channel == ChannelId(*first) for each in report.differences), "unread counts differ"


async def test_members_nobody_tells_are_asked_for(sides: Sides) -> None:
    data = make(TINY, SEED)
    async with old_server.OldServer(data, cluster=False) as old:
        report = await sides.run(old)
        unknown = [each for each in report.channels if not each.is_equal]
        assert {each.fault.split(":")[0] for each in unknown} == {"members not known"}
        assert all(each.new_members == 0 for each in unknown), "nobody is guessed to be a member"
        given = [
            Given(each.channel.id, each.channel.type, subscribers=data.members[each.channel.type, each.channel.id])
            for each in unknown
        ]
        report = await sides.run(old, given=given)
    assert report.is_equal, report


async def test_lists_flags_and_system_accounts_come_too(sides: Sides) -> None:
    data = make(TINY, SEED)
    group = next(key for key in data.members if key[0] == 2)
    data.denied[group], data.allowed[group] = ["eve"], ["mallory"]
    data.banned = {group}
    async with old_server.OldServer(data) as old:
        report = await sides.run(old, given=[Given("u3", 1, send_ban=True)])
    assert report.is_equal, report
    stack = sides.api.stack
    for key, which, listed in [(group, 0, ["eve"]), (group, 1, ["mallory"])]:
        assert [each.uid for each in await stack.use_cases.channels.list_entries(ChannelId(*key), which)] == listed
    for key, uids in data.denied.items():
        entries = await stack.use_cases.channels.list_entries(ChannelId(*key), 0)
        assert {each.uid for each in entries} == set(uids)
    assert await stack.use_cases.users.system_uids() == ["robot"]
    refused = await sides.api.refused(
        "/message/send", {"channel_id": group[1], "channel_type": 2, "from_uid": "u1", "payload": "aGk="}
    )
    assert "banned" in refused
    reply = await stack.run("x", Append(ChannelId(1, "u3@x"), False, "u3", b""))
    assert reply.reason == 25


async def test_a_server_that_goes_away_ends_the_import_in_time(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FAILURES_IN_A_ROW", 3)
    data = make(TINY, SEED)
    async with old_server.OldServer(data) as old:
        task = asyncio.create_task(sides.run(old))
        while not old.calls.get("/channel/messagesync"):
            await asyncio.sleep(0)
    with pytest.raises(ApiUnavailable):
        await task


async def test_the_wrong_token_ends_it_at_once(tmp_path: Path) -> None:
    async with (
        Api(await Stack().start(), ApiOptions(manager_token="secret")) as api,
        old_server.OldServer(make(TINY, SEED)) as old,
    ):
        with pytest.raises(ApiRefused, match="401"):
            await Sides(api, tmp_path).run(old)
