"""Taking a backup from servers that break off, change bytes, forget and refuse."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.service.stack import Stack
from wukong.api.backup import BackupRoutes
from wukong.api.server import ApiOptions, build_app
from wukong.backup.manifest import Backup, chain, list_backups, read_part
from wukong.backup.verify import verify
from wukong.channel.ids import GROUP, ChannelId
from wukong.cli.backup import fetch
from wukong.cli.backup.fetch import Fetch
from wukong.client.errors import ApiRefused, ApiUnavailable
from wukong.errors import DataError, ProtocolError
from wukong.raft.log import REGULAR, GroupLog
from wukong.service.backup import BackupOptions, Backups
from wukong.store.overlay import prefix_end

CHAT = ChannelId(GROUP, "g")


class Server:
    """A replica with its /backup. harm: changes the frames of an answer; it gets the number of the answer and they."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.logs = [GroupLog(slot) for slot in range(stack.node.slot_count)]
        for log in self.logs:
            log._rebase(0, 0)
        self.backups = Backups(
            node=stack.node,
            store=stack.store,
            logs=self.logs,
            cluster=1,
            version="0",
            clock=stack.clock,
            options=BackupOptions(slice_rows=4, frame_bytes=300),
        )
        self.answers = 0
        self.harm: Callable[[int, AsyncIterator[bytes]], AsyncIterator[bytes]] | None = None
        for name in ("rows", "entries"):
            setattr(self.backups, name, self._harmed(getattr(self.backups, name)))
        app = build_app(stack.use_cases, ApiOptions(), more_routes=BackupRoutes(self.backups).routes())
        self.server = TestServer(app)

    def _harmed(self, whole: Any) -> Any:
        def call(*arguments: Any) -> AsyncIterator[bytes]:
            self.answers += 1
            frames = whole(*arguments)
            return frames if self.harm is None else self.harm(self.answers, frames)

        return call

    async def take(self, directory: Path, base: Backup | None = None) -> Backup:
        async with Fetch(str(self.server.make_url("")).rstrip("/"), "", lambda slots, size: None) as taking:
            return await taking.take(directory, base)

    async def send(self, count: int) -> None:
        for number in range(count):
            await self.stack.client_sends(CHAT, "alice", b"%d" % number * 20)
        for log in self.logs:
            for entry in self.stack.log.entries:
                if entry.group == log.group and entry.index == log.last_index + 1:
                    log.add(bytes((REGULAR,)) + entry.data, entry.index, entry.term)
        self.stack.clock.ms += 1

    def check(self, backup: Backup) -> None:
        """Its rows are those of the replica, which was not written to since."""
        for part in backup.manifest.slots:
            prefix = self.stack.node.generations.prefix(part.slot)
            rows = [(key[6:], value) for key, value in self.stack.store.scan(prefix, prefix_end(prefix))]
            assert [pair for some in read_part(backup.path / part.file, part) for pair in some] == rows


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(fetch, "PAUSES_S", (0.0, 0.0, 0.0))
    stack = await Stack(slot_count=3).start()
    await stack.use_cases.channels.add_members(CHAT, ["alice"], reset=False)
    found = Server(stack)
    await found.send(30)
    await found.server.start_server()
    yield found
    await found.server.close()
    found.backups.stop()


async def cut(number: int, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Two of three answers end behind their second frame."""
    count = 0
    async for frame in frames:
        count += 1
        if number % 3 and count == 3:
            return
        yield frame


async def never_whole(number: int, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for frame in frames:
        if any(frame[:4]):
            yield frame


async def flipped(number: int, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for frame in frames:
        yield frame[:-1] + bytes((frame[-1] ^ 1,))


async def test_a_backup_is_what_the_node_has(server: Server, tmp_path: Path) -> None:
    made = await server.take(tmp_path / "new" / "backups")
    server.check(made)
    assert made.manifest.pairs > 40
    assert server.backups._session is None, "it was ended"


async def test_an_answer_that_breaks_off_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.harm = cut
    made = await server.take(tmp_path)
    assert server.answers > 3
    server.check(made)


@pytest.mark.parametrize(("harm", "error"), [(never_whole, ApiUnavailable), (flipped, ProtocolError)])
async def test_a_server_that_never_gives_a_whole_answer_leaves_nothing_behind(
    server: Server, tmp_path: Path, harm: Any, error: type[Exception]
) -> None:
    server.harm = harm
    with pytest.raises(error):
        await server.take(tmp_path)
    assert list_backups(tmp_path) == []
    server.harm = None
    server.check(await server.take(tmp_path))


async def test_a_backup_that_the_server_gives_up_is_told(server: Server, tmp_path: Path) -> None:
    def given_up(number: int, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if number == 2:
            server.backups.stop()
        return frames

    server.harm = given_up
    with pytest.raises(ApiRefused, match="begin another"):
        await server.take(tmp_path)
    assert list_backups(tmp_path) == []


async def test_an_incremental_one_has_the_entries_since_its_base(server: Server, tmp_path: Path) -> None:
    first = await server.take(tmp_path)
    await server.send(5)
    server.harm = cut
    second = await server.take(tmp_path, first)
    assert [part.kind for part in second.manifest.slots] == ["entries"] * 3
    assert second.manifest.base == first.manifest.id
    assert second.manifest.pairs == 5
    assert verify(chain(second)) == []


async def test_a_slot_whose_log_is_trimmed_meanwhile_is_taken_in_full(server: Server, tmp_path: Path) -> None:
    first = await server.take(tmp_path)
    await server.send(40)
    slot = server.stack.node.slot("g")

    async def trimmed(number: int, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            yield frame
            log = server.logs[slot]
            if log.base_index < log.last_index - 1:
                log.trim(log.last_index - 1)

    server.harm = trimmed
    second = await server.take(tmp_path, first)
    assert [part.kind for part in second.manifest.slots] == ["entries" if each != slot else "rows" for each in range(3)]
    names = sorted(path.name for path in second.path.iterdir())
    assert names == sorted(["manifest.json", *(part.file for part in second.manifest.slots)])
    assert verify(chain(second)) == []


async def test_where_nothing_is_left_of_the_log_an_incremental_one_is_a_full_one(
    server: Server, tmp_path: Path
) -> None:
    first = await server.take(tmp_path)
    await server.send(2)
    for log in server.logs:
        log._rebase(log.last_index + 1, 1)
    second = await server.take(tmp_path, first)
    assert second.manifest.base == ""
    server.check(second)


async def test_a_clock_that_went_back_does_not_overwrite_a_backup(server: Server, tmp_path: Path) -> None:
    made = await server.take(tmp_path)
    with pytest.raises(DataError, match="clock"):
        await server.take(tmp_path)
    assert [each.backup for each in list_backups(tmp_path)] == [made]
    # Not begun for nothing: the next one may begin at once.
    server.stack.clock.ms += 1
    await server.take(tmp_path)


async def test_no_server_is_told(tmp_path: Path) -> None:
    async with Fetch("http://127.0.0.1:1", "", lambda slots, size: None) as taking:
        with pytest.raises(ApiUnavailable):
            await taking.take(tmp_path / "new", None)
    assert not (tmp_path / "new").exists()
