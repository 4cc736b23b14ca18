"""A slot goes from one node to another: whole, exactly as of its index, over any network."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.snapshot_world import MEMBERS, SLOT_COUNT, Side, World, fill, rows_of, run
from wukong.errors import ConfigError
from wukong.node.node import APPLIED_KEY
from wukong.node.snapshot_options import SnapshotOptions
from wukong.raft.log import Snapshot
from wukong.store.interface import Store, StoreView
from wukong.store.memory import MemoryStore
from wukong.store.rocks import RocksStore

SMALL: dict[str, Any] = {"chunk_bytes": 4096, "chunk_rows": 64, "slice_rows": 16, "bytes_per_s": 0}


@pytest.fixture(params=["memory", "rocks"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Store]]:
    made: list[Store] = [
        MemoryStore() if request.param == "memory" else RocksStore(tmp_path / str(number)) for number in range(3)
    ]
    yield made
    for store in made:
        store.close()


def leader_and_follower(world: World, stores: list[Store], **options: Any) -> tuple[Side, Side]:
    leader = world.side(1, stores[0], **{**SMALL, **options})
    follower = world.side(2, stores[1], **{**SMALL, **options})
    for side in (leader, follower):
        side.snapshots.start()
    return leader, follower


def lead(leader: Side, slot: int = 1) -> None:
    """What is applied is all that the log still knows."""
    leader.base[slot] = leader.applied[slot]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_a_slot_is_copied_byte_for_byte_and_its_neighbours_are_left_alone(stores: list[Store], count: int) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        for slot in (0, 1, 2):
            fill(leader, slot, max(count, 1) if slot != 1 else count, tag=b"leader's ")
            fill(follower, slot, 50, tag=b"follower's ")
        leader.applied[1] = max(leader.applied[1], 60)
        leader.apply(1, {b"\x00": b"", b"\xff" * 9: b"last"})
        lead(leader)
        neighbours = {slot: follower.current(slot) for slot in (0, 2)}
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        await world.until(lambda: not follower.snapshots.progress())
        assert follower.current(1) == leader.current(1) == leader.model[1]
        assert follower.generations.current(1) == 1
        assert rows_of(follower.store, 1, 0) == {}, "the old generation is dropped"
        assert {slot: follower.current(slot) for slot in (0, 2)} == neighbours
        index = leader.applied[1]
        assert follower.installs == [(1, 1, 1, Snapshot(index, 1, MEMBERS))]
        await world.until(lambda: not leader.snapshots.sender._views, 1.0)

    run(scenario)


def test_a_slot_that_changes_while_it_is_copied_arrives_as_it_was_at_the_index(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        fill(leader, 1, 2000)
        lead(leader)

        async def write() -> None:
            while True:
                keys = world.chance.sample(sorted(leader.model[1]), 20)
                changes: dict[bytes, bytes | None] = {
                    key: None if world.chance.random() < 0.5 else b"new" for key in keys if key != APPLIED_KEY
                }
                leader.apply(1, {**changes, b"k%d" % world.chance.randrange(10**9): b"added"})
                await asyncio.sleep(0.002)

        world.spawn(write())
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        index = follower.installs[0][3].index
        assert index < leader.applied[1] - 10, "nothing was written meanwhile"
        assert follower.current(1) == leader.history[1, index]

    run(scenario)


@pytest.mark.parametrize("seed", range(12))
def test_it_arrives_over_a_network_that_loses_doubles_delays_and_reorders(seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    stores: list[Store] = [MemoryStore(), MemoryStore()]

    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        fill(leader, 1, 1500)
        lead(leader)
        world.drop = world.chance.choice((0.0, 0.1, 0.3))
        world.double = world.chance.choice((0.0, 0.3))
        world.delay_s = world.chance.choice((0.0, 0.05, 1.5))

        async def write() -> None:
            while True:
                leader.apply(1, {b"k%d" % world.chance.randrange(2000): b"%d" % leader.applied[1]})
                await asyncio.sleep(0.05)

        world.spawn(write())
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs), 3000)
        assert follower.current(1) == leader.history[1, follower.installs[0][3].index]
        assert follower.snapshots.receiver.wrong == 0

    run(scenario, seed)


def test_a_link_that_breaks_in_the_middle_costs_one_chunk(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        fill(leader, 1, 2000)
        lead(leader)

        def cut(origin: int, to: int, slot: int, body: dict[str, Any]) -> None:
            if body["op"] == "chunk" and len(world.chunks()) == 20:
                world.cut = {(1, 2), (2, 1)}

        world.on_send = cut
        world.beat(leader, follower)
        await world.until(lambda: bool(world.cut))
        await asyncio.sleep(12)
        world.on_send = lambda *message: None
        world.cut = set()
        before = world.loop.now
        follower.snapshots.connected(1)
        await world.until(lambda: bool(follower.installs))
        assert world.loop.now - before < 1, "it does not wait for the time of the next try"
        afters = [body["after"] for body in world.chunks()]
        assert len(afters) - len(set(afters)) == 1
        assert follower.current(1) == leader.current(1)

    run(scenario)


def test_another_leader_takes_over_in_the_middle(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        third = world.side(3, stores[2], **SMALL)
        third.snapshots.start()
        fill(leader, 1, 2000, tag=b"first ")
        fill(third, 1, 1000, tag=b"third ")
        third.term = 2
        third.apply(1, {b"by": b"the new leader"})
        lead(leader)
        lead(third)
        beats = world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 10)
        leader.term = follower.term = 2
        beats.cancel()
        world.beat(third, follower)
        await world.until(lambda: bool(follower.installs))
        await world.until(lambda: not follower.snapshots.progress())
        assert follower.installs == [(1, 3, 2, Snapshot(third.applied[1], 2, MEMBERS))]
        assert follower.current(1) == third.current(1)
        assert follower.generations.staged(1) is None
        assert (rows_of(follower.store, 1, 0), rows_of(follower.store, 1, 1)) == ({}, {})
        await world.until(lambda: not leader.snapshots.sender._views, 1.0)

    run(scenario)


def test_an_offer_of_an_older_term_does_not_disturb(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        old = world.side(3, stores[2], **SMALL)
        old.snapshots.start()
        leader.term = 5
        fill(leader, 1, 1000)
        fill(old, 1, 1000)
        lead(leader)
        lead(old)
        world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 3)
        world.beat(old, follower)
        await world.until(lambda: bool(follower.installs))
        assert [each[1] for each in follower.installs] == [1]
        assert follower.snapshots.receiver.abandoned == 0

    run(scenario)


class CountingStore(MemoryStore):
    """Notes how many rows each turn of the loop read from views and wrote; views: how many were taken."""

    def __init__(self, loop: Any) -> None:
        super().__init__()
        self.loop = loop
        self.views = 0
        self.scanned: dict[int, int] = {}
        self.written: dict[int, int] = {}

    def snapshot(self, end: bytes) -> Any:
        self.views += 1
        view: StoreView = super().snapshot(end)
        scan = view.scan

        def counted(start: bytes, end: bytes, **limits: Any) -> list[tuple[bytes, bytes]]:
            rows = scan(start, end, **limits)
            self.scanned[self.loop.turns] = self.scanned.get(self.loop.turns, 0) + len(rows)
            return rows

        view.scan = counted  # type: ignore[method-assign]
        return view

    def write(self, changes: Any) -> None:
        self.written[self.loop.turns] = self.written.get(self.loop.turns, 0) + len(changes)
        super().write(changes)


def test_200_000_rows_never_hold_the_loop_for_more_than_one_slice() -> None:
    async def scenario(world: World) -> None:
        stores: list[Store] = [CountingStore(world.loop), CountingStore(world.loop)]
        leader = world.side(1, stores[0])
        follower = world.side(2, stores[1])
        leader.snapshots.start()
        follower.snapshots.start()
        leader.keeps_history = False
        fill(leader, 1, 200_000)
        lead(leader)
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        assert follower.current(1) == leader.model[1]
        source, target = stores
        assert isinstance(source, CountingStore)
        assert isinstance(target, CountingStore)
        options = SnapshotOptions()
        assert max(source.scanned.values()) == options.slice_rows
        assert sum(source.scanned.values()) <= 200_100 + len(world.chunks())
        assert max(target.written.values()) == options.slice_rows
        assert max(len(body["rows"]) for body in world.chunks()) <= options.chunk_rows
        sizes = [sum(len(key) + len(value) for key, value in body["rows"]) for body in world.chunks()]
        assert max(sizes) <= options.chunk_bytes

    run(scenario)


def test_a_row_larger_than_a_chunk_goes_alone(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        big = random.Random(1).randbytes(3 << 20)
        leader.apply(1, {b"a": b"small", b"b": big, b"c": b"small", b"d": big[: 1 << 20]})
        lead(leader)
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        assert follower.current(1) == leader.current(1)
        assert [[key for key, _ in body["rows"]] for body in world.chunks()] == [
            [APPLIED_KEY, b"a"],
            [b"b"],
            [b"c"],
            [b"d"],
            [],
        ]

    run(scenario)


def test_followers_share_one_view(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        source = CountingStore(world.loop)
        leader, follower = leader_and_follower(world, [source, stores[1]])
        third = world.side(3, stores[2], **SMALL)
        third.snapshots.start()
        fill(leader, 1, 2000)
        lead(leader)
        world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 10)
        world.beat(leader, third)
        leader.apply(1, {b"later": b"not in the view"})
        await world.until(lambda: bool(follower.installs) and bool(third.installs))
        assert source.views == 1
        assert follower.current(1) == third.current(1) == leader.history[1, leader.base[1]]

    run(scenario)


def test_only_so_many_slots_are_copied_at_once_and_all_have_their_turn(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores, view_limit=3, receive_limit=2)
        slots = tuple(range(SLOT_COUNT))
        for slot in slots:
            fill(leader, slot, 300)
            lead(leader, slot)
        world.beat(leader, follower, slots)
        most_views = most_receiving = 0

        def look(*message: Any) -> None:
            nonlocal most_views, most_receiving
            most_views = max(most_views, len(leader.snapshots.sender._views))
            most_receiving = max(most_receiving, len(follower.snapshots.receiver.progress()))

        world.on_send = look
        await world.until(lambda: len(follower.installs) == SLOT_COUNT)
        assert (most_views, most_receiving) == (3, 2)
        assert [follower.current(slot) for slot in slots] == leader.model

    run(scenario)


def test_the_rate_holds_over_all_followers(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        rate = 50_000
        leader, follower = leader_and_follower(world, stores, bytes_per_s=rate)
        third = world.side(3, stores[2], **SMALL)
        third.snapshots.start()
        fill(leader, 1, 3000)
        lead(leader)
        world.beat(leader, follower)
        world.beat(leader, third)
        await world.until(lambda: bool(follower.installs) and bool(third.installs))
        sent = [
            (at, sum(len(k) + len(v) for k, v in body["rows"])) for at, *_, body in world.sent if body["op"] == "chunk"
        ]
        total = sum(size for _, size in sent)
        took = sent[-1][0] - sent[0][0]
        assert total > 300_000
        assert rate * took * 0.9 < total <= rate * took + 4096

    run(scenario)


def test_progress_is_shown_on_both_sides(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        fill(leader, 1, 2000)
        lead(leader)
        assert leader.snapshots.progress() == follower.snapshots.progress() == []
        world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) > 20)
        [there] = leader.snapshots.progress()
        [here] = follower.snapshots.progress()
        assert (there.slot, there.node, there.sending, there.index) == (1, 2, True, leader.base[1])
        assert (here.slot, here.node, here.sending, here.index) == (1, 1, False, leader.base[1])
        assert there.rows >= here.rows > 500
        assert there.bytes >= here.bytes > 500 * 100
        await world.until(lambda: not follower.snapshots.progress())
        assert leader.snapshots.sender.sent_rows == 2001

    run(scenario)


def test_without_anything_to_copy_nothing_wakes_up(stores: list[Store]) -> None:
    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, stores)
        fill(leader, 1, 100)
        lead(leader)
        beats = world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        beats.cancel()
        await asyncio.sleep(1)
        turns = world.loop.turns
        await asyncio.sleep(1000)
        assert world.loop.turns - turns < 5

    run(scenario)


def test_the_same_seed_is_the_same_run() -> None:
    runs = []

    async def scenario(world: World) -> None:
        leader, follower = leader_and_follower(world, [MemoryStore(), MemoryStore()])
        fill(leader, 1, 500)
        lead(leader)
        world.drop, world.double, world.delay_s = 0.2, 0.2, 0.5
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        runs.append(world.sent)

    run(scenario, 5)
    run(scenario, 5)
    assert runs[0] == runs[1]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="chunk_bytes: must be above 0"):
        SnapshotOptions(chunk_bytes=0)
    with pytest.raises(ConfigError, match="bytes_per_s"):
        SnapshotOptions(bytes_per_s=-1)
    with pytest.raises(ConfigError, match="retry_max_s: must be below idle_s"):
        SnapshotOptions(retry_max_s=30.0)
