"""Backups of a replica in memory: one moment, writes go on, limits hold."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.service.stack import NODE_ID, Stack
from wukong.backup.rows import FrameDecoder, Pair, decode_pairs, read_entry
from wukong.channel.ids import GROUP, ChannelId
from wukong.errors import RequestRefused
from wukong.node.node import APPLIED_KEY
from wukong.raft.log import REGULAR, GroupLog
from wukong.service.backup import BackupOptions, Backups, Trimmed
from wukong.store.overlay import prefix_end

GROUP_OF_ALL = ChannelId(GROUP, "g")
CLUSTER = 0xC1


class World:
    def __init__(self, stack: Stack, **options: int) -> None:
        self.stack = stack
        self.logs = [GroupLog(slot) for slot in range(stack.node.slot_count)]
        for log in self.logs:
            # The stack's log has no first entry of its own.
            log._rebase(0, 0)
        self.backups = Backups(
            node=stack.node,
            store=stack.store,
            logs=self.logs,
            cluster=CLUSTER,
            version="0",
            clock=stack.clock,
            options=BackupOptions(**options),
        )

    def rows(self, slot: int) -> list[Pair]:
        """As they are now."""
        prefix = self.stack.node.generations.prefix(slot)
        return [(key[6:], value) for key, value in self.stack.store.scan(prefix, prefix_end(prefix))]

    def write_logs(self) -> None:
        """What was committed, as the log has it."""
        for log in self.logs:
            for entry in self.stack.log.entries:
                if entry.group == log.group and entry.index == log.last_index + 1:
                    log.add(bytes((REGULAR,)) + entry.data, entry.index, entry.term)

    async def send(self, count: int) -> None:
        for number in range(count):
            await self.stack.client_sends(GROUP_OF_ALL, "alice", b"payload %d" % number)


@pytest.fixture
async def world(stack: Stack) -> AsyncIterator[World]:
    await stack.use_cases.channels.add_members(GROUP_OF_ALL, ["alice", "bob"], reset=False)
    world = World(stack, slice_rows=3, frame_bytes=200)
    await world.send(10)
    yield world
    world.backups.stop()


async def read(frames: AsyncIterator[bytes]) -> list[Pair]:
    """All pairs of an answer that came to its end."""
    decoder, found = FrameDecoder(), []
    async for frame in frames:
        decoder.receive(frame)
        while (data := decoder.next_frame()) is not None:
            found += decode_pairs(data)
    assert decoder.done
    return found


async def test_rows_are_those_of_the_moment_it_began_whatever_is_written_behind_it(world: World) -> None:
    slots = range(world.stack.node.slot_count)
    before = [world.rows(slot) for slot in slots]
    begun = await world.backups.begin()
    for slot in slots:
        await world.send(3)
        assert await read(world.backups.rows(begun.id, slot, b"")) == before[slot]
    assert [world.rows(slot) for slot in slots] != before
    assert (begun.node, begun.cluster) == (NODE_ID, "c1")
    for head, rows in zip(begun.slots, before, strict=True):
        assert dict(rows)[APPLIED_KEY] == head.index.to_bytes(8, "big") + head.term.to_bytes(8, "big")


async def test_reading_goes_on_behind_any_row(world: World) -> None:
    begun = await world.backups.begin()
    slot = world.stack.node.slot("g")
    rows = world.rows(slot)
    for at, (key, _) in enumerate(rows):
        assert await read(world.backups.rows(begun.id, slot, key)) == rows[at + 1 :]


async def test_a_second_backup_is_refused_until_the_first_is_over(world: World) -> None:
    first = await world.backups.begin()
    with pytest.raises(RequestRefused, match="under way"):
        await world.backups.begin()
    world.backups.end("another")
    with pytest.raises(RequestRefused, match="under way"):
        await world.backups.begin()
    world.backups.end(first.id)
    second = await world.backups.begin()
    with pytest.raises(RequestRefused, match="over"):
        world.backups.rows(first.id, 0, b"")
    with pytest.raises(RequestRefused, match="no slot"):
        world.backups.rows(second.id, 99, b"")


async def test_two_that_begin_at_once_do_not_both(world: World) -> None:
    outcomes = await asyncio.gather(world.backups.begin(), world.backups.begin(), return_exceptions=True)
    assert sum(isinstance(each, RequestRefused) for each in outcomes) == 1


@pytest.mark.parametrize(("limits", "passed_ms"), [({"idle_ms": 40}, 50), ({"idle_ms": 40, "view_ms": 20}, 30)])
async def test_one_that_nobody_reads_or_that_is_too_old_is_given_up(
    stack: Stack, limits: dict[str, int], passed_ms: int
) -> None:
    world = World(stack, **limits)
    begun = await world.backups.begin()
    stack.clock.ms += passed_ms
    async with asyncio.timeout(5):
        while world.backups._session is not None:
            await asyncio.sleep(0.005)
    with pytest.raises(RequestRefused, match="over"):
        world.backups.rows(begun.id, 0, b"")
    await world.backups.begin()
    world.backups.stop()


async def test_who_asks_again_takes_the_place_of_an_answer_nobody_listens_to(world: World) -> None:
    begun = await world.backups.begin()
    slot = world.stack.node.slot("g")
    left = world.backups.rows(begun.id, slot, b"")
    first = await anext(left)
    whole = await read(world.backups.rows(begun.id, slot, b""))
    decoder = FrameDecoder()
    decoder.receive(first)
    async for frame in left:
        decoder.receive(frame)
    while decoder.next_frame() is not None:
        pass
    assert not decoder.done
    assert whole == world.rows(slot)


async def test_an_answer_ends_early_when_the_backup_is_over(world: World) -> None:
    begun = await world.backups.begin()
    frames = world.backups.rows(begun.id, world.stack.node.slot("g"), b"")
    await anext(frames)
    world.backups.stop()
    assert [frame async for frame in frames if not any(frame[:4])] == []


async def test_an_answer_to_a_backup_that_ended_before_it_began_is_empty(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    begun = await world.backups.begin()
    frames = world.backups.rows(begun.id, world.stack.node.slot("g"), b"")
    world.backups.end(begun.id)
    assert [frame async for frame in frames] == []
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


async def test_no_turn_of_the_loop_reads_more_than_a_slice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = await world.backups.begin()
    session = world.backups._session
    assert session is not None
    scan, turn, seen = session.view.scan, 0, []

    def counted(*args: object, **options: object) -> list[Pair]:
        found = scan(*args, **options)  # type: ignore[arg-type]
        seen.append((turn, len(found)))
        return found

    monkeypatch.setattr(session.view, "scan", counted)
    reading = asyncio.create_task(read(world.backups.rows(begun.id, world.stack.node.slot("g"), b"")))
    while not reading.done():
        turn += 1
        await asyncio.sleep(0)
    assert max(rows for _, rows in seen) == 3
    turns = [number for number, _ in seen]
    assert len(turns) - len(set(turns)) <= 1, "the last, empty scan may share a turn"


async def test_the_rate_is_kept(stack: Stack) -> None:
    world = World(stack, bytes_per_s=50_000, frame_bytes=1_000)
    await stack.use_cases.channels.add_members(GROUP_OF_ALL, ["alice"], reset=False)
    for number in range(10):
        await stack.client_sends(GROUP_OF_ALL, "alice", bytes(1_000), str(number))
    begun = await world.backups.begin()
    began = asyncio.get_running_loop().time()
    found = await read(world.backups.rows(begun.id, stack.node.slot("g"), b""))
    size = sum(len(key) + len(value) for key, value in found)
    assert size > 10_000
    assert asyncio.get_running_loop().time() - began > 0.8 * size / 50_000
    world.backups.stop()


# -- incremental --


async def test_the_log_gives_what_came_since_the_base(world: World) -> None:
    world.write_logs()
    first = await world.backups.begin()
    world.backups.end(first.id)
    await world.send(4)
    world.write_logs()
    base = [(head.index, head.term) for head in first.slots]
    second = await world.backups.begin(base, "c1")
    await world.send(2)
    world.write_logs()
    assert [head.from_log for head in second.slots] == [True] * len(base)
    for slot, head in enumerate(second.slots):
        found = [read_entry(pair) for pair in await read(world.backups.entries(second.id, slot, 0))]
        log = world.logs[slot]
        assert [index for index, _, _ in found] == [*range(base[slot][0] + 1, head.index + 1)]
        assert found == [
            (index, term, command) for command, index, term in log[1:] if base[slot][0] < index <= head.index
        ]
        if found:
            again = await read(world.backups.entries(second.id, slot, found[0][0]))
            assert [read_entry(pair) for pair in again] == found[1:]


async def test_a_slot_whose_log_was_trimmed_or_is_another_is_to_be_read_in_full(world: World) -> None:
    world.write_logs()
    first = await world.backups.begin()
    world.backups.end(first.id)
    base = [(head.index, head.term) for head in first.slots]
    slot = world.stack.node.slot("g")
    await world.send(3)
    world.write_logs()
    world.logs[slot].trim(base[slot][0] + 1)
    base[0] = base[0][0], 9
    second = await world.backups.begin(base, "c1")
    assert [at for at, head in enumerate(second.slots) if not head.from_log] == sorted({slot, 0})
    with pytest.raises(RequestRefused, match="no longer reaches") as caught:
        world.backups.entries(second.id, slot, 0)
    assert caught.value.status == 410
    assert await read(world.backups.rows(second.id, slot, b"")) == world.rows(slot)


async def test_a_log_that_is_trimmed_while_it_is_read_ends_the_answer_early(world: World) -> None:
    world.write_logs()
    first = await world.backups.begin()
    world.backups.end(first.id)
    slot = world.stack.node.slot("g")
    await world.send(20)
    world.write_logs()
    second = await world.backups.begin([(head.index, head.term) for head in first.slots], "c1")
    frames = world.backups.entries(second.id, slot, 0)
    await anext(frames)
    world.logs[slot].trim(world.logs[slot].last_index)
    with pytest.raises(Trimmed):
        async for _ in frames:
            pass
    with pytest.raises(RequestRefused, match="no longer reaches"):
        world.backups.entries(second.id, slot, 0)


async def test_a_base_of_another_cluster_is_refused(world: World) -> None:
    for base, cluster in (([(1, 1)], "c1"), ([(1, 1)] * 16, "c2")):
        with pytest.raises(RequestRefused, match="another cluster"):
            await world.backups.begin(base, cluster)
    full = await world.backups.begin()
    with pytest.raises(RequestRefused, match="no longer reaches"):
        world.backups.entries(full.id, 0, 0)
