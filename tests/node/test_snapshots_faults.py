"""What goes wrong while a slot is copied: the process ends, power is lost, data is wrong, views become useless."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.node.snapshot_world import MEMBERS, Side, World, applied_row, fill, rows_of, run
from wukong.node.node import APPLIED_KEY
from wukong.node.snapshot_messages import Chunk, Done, Gone, Message, Offer, Pull, checksum, encode
from wukong.raft.log import Snapshot
from wukong.store.generations import META_PREFIX, Generations, slot_prefix
from wukong.store.memory import MemoryStore

SMALL: dict[str, Any] = {"chunk_bytes": 4096, "chunk_rows": 64, "slice_rows": 16, "bytes_per_s": 0}


def pair(world: World, stores: tuple[MemoryStore, MemoryStore] | None = None, **options: Any) -> tuple[Side, Side]:
    """Node 1 leads and has rows of slot 1 that node 2 lacks."""
    source, target = stores or (MemoryStore(), MemoryStore())
    leader = world.side(1, source, **{**SMALL, **options})
    follower = world.side(2, target, **{**SMALL, **options})
    for side in (leader, follower):
        side.snapshots.start()
    if not leader.applied[1]:
        fill(leader, 1, 1000)
        leader.base[1] = leader.applied[1]
    return leader, follower


def views(side: Side) -> int:
    return len(side.snapshots.sender._views)


# --- the process ends, the power goes


class Ended(Exception):
    """The process ended here."""


class EndingStore(MemoryStore):
    """Ends in front of a batch; a flush does not reach the disk, so every suffix can be lost."""

    batches_left = 1 << 30
    ended = False
    flushes: Callable[[], None] = staticmethod(lambda: None)

    def flush(self) -> None:
        self.flushes()

    def write(self, changes: Any) -> None:
        self._count()
        super().write(changes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._count()
        super().delete_range(start, end)

    def _count(self) -> None:
        if self.batches_left == 0:
            self.ended = True
            raise Ended
        self.batches_left -= 1


OLD = {APPLIED_KEY: applied_row(2, 1), b"old": b"row"}


def old_store() -> EndingStore:
    return EndingStore(
        {**{slot_prefix(1, 0) + key: value for key, value in OLD.items()}, slot_prefix(2, 0) + b"x": b"y"}
    )


def copy_until_it_ends(batches: int) -> tuple[EndingStore, dict[bytes, bytes], bool]:
    """The follower's store after so many batches, what the leader has, and whether it came to its end before."""
    store = old_store()
    store.batches_left = batches
    copied: list[dict[bytes, bytes]] = []

    async def scenario(world: World) -> None:
        leader = world.side(1, MemoryStore(), **SMALL)
        leader.snapshots.start()
        fill(leader, 1, 300)
        leader.base[1] = leader.applied[1]
        copied.append(dict(leader.model[1]))
        try:
            follower = world.side(2, store, **SMALL)
        except Ended:
            return
        follower.applied[1] = 2
        follower.snapshots.start()
        world.beat(leader, follower)
        await world.until(lambda: store.ended or (bool(follower.installs) and not follower.snapshots.progress()))
        follower.alive = False
        world.loop.failures = [each for each in world.loop.failures if not isinstance(each, Ended)]
        if store.ended:
            follower.snapshots.receiver._incoming.clear()

    run(scenario)
    return store, copied[0], not store.ended


def test_wherever_a_copy_ends_and_whatever_is_lost_the_slot_is_whole_and_the_next_copy_succeeds() -> None:
    batches, finished, seen = 0, False, set[str]()
    while not finished:
        _, _, finished = copy_until_it_ends(batches)
        for lost in range(0, batches + 1, 1 if batches < 8 or finished else 5):
            store, new, _ = copy_until_it_ends(batches)
            if lost > store.unflushed:
                continue
            store.lose(lost)
            after = store.reopen()
            generations = Generations(after)
            state = rows_of(after, 1, generations.current(1))
            assert state in (OLD, new), f"{batches} batches written, {lost} lost"
            seen.add("old" if state == OLD else "new")
            if state == OLD:
                take_another_copy(after, new)
            generations = Generations(after)
            assert rows_of(after, 1, generations.current(1)) == new
            assert set(after.scan(slot_prefix(1, 0), slot_prefix(2, 0))) == {
                (slot_prefix(1, generations.current(1)) + key, value) for key, value in new.items()
            }, "nothing else is left of the slot"
            assert rows_of(after, 2, 0) == {b"x": b"y"}
        batches += 1
    assert seen == {"old", "new"}
    assert batches > 20


def take_another_copy(store: MemoryStore, expected: dict[bytes, bytes]) -> None:
    async def scenario(world: World) -> None:
        source = MemoryStore({slot_prefix(1, 0) + key: value for key, value in expected.items()})
        leader = world.side(1, source, **SMALL)
        follower = world.side(2, store, **SMALL)
        assert follower.generations.staged(1) is None, "the stage of the life before is given up"
        index = int.from_bytes(expected[APPLIED_KEY][:8], "big")
        leader.applied[1] = leader.base[1] = index
        leader.terms[index] = 1
        leader.snapshots.start()
        follower.snapshots.start()
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs) and not follower.snapshots.progress())

    run(scenario)


def test_the_rows_are_on_the_disk_when_the_flip_has_returned() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        assert isinstance(follower.store, MemoryStore)
        left: list[int] = []
        install = follower.install

        async def watched(*call: Any) -> bool:
            done = await install(*call)
            left.append(follower.store.unflushed)  # type: ignore[attr-defined]
            return done

        follower.snapshots.receiver._install = watched
        world.beat(leader, follower)
        await world.until(lambda: bool(left))
        assert left == [0]

    run(scenario)


def test_a_stop_waits_for_the_installation_and_leaves_the_rest() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        follower.install_s = 2.0
        world.beat(leader, follower)
        await world.until(lambda: any(each.install for each in follower.snapshots.receiver._incoming.values()))
        before = world.loop.now
        await follower.snapshots.stop(timeout_s=5.0)
        assert 1.9 < world.loop.now - before < 2.1
        assert follower.generations.current(1) == 1
        sent = len(world.sent)
        follower.snapshots.received(1, 1, encode(Offer(9, 9, Snapshot(10**6, 1, MEMBERS))))
        assert [each for each in world.sent[sent:] if each[1] == 2] == []

    run(scenario)


def test_when_the_log_fails_while_installing_the_store_is_left_alone() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)

        async def fail(*call: Any) -> bool:
            raise OSError("the disk is gone")

        follower.snapshots.receiver._install = fail
        beat = world.beat(leader, follower)
        await world.until(lambda: follower.generations.staged(1) is not None)
        await world.until(lambda: not follower.snapshots.progress())
        beat.cancel()
        assert follower.generations.staged(1) == 1
        assert len(rows_of(follower.store, 1, 1)) == 1001

    run(scenario)


# --- the leader's views


def test_a_view_that_nobody_pulls_from_is_closed() -> None:
    async def scenario(world: World) -> None:
        leader, _ = pair(world)
        world.cut = {(1, 2), (2, 1)}
        leader.snapshots.needed(1, 2)
        index = leader.applied[1]
        leader.apply(1, {b"more": b""})
        assert leader.snapshots.pinned_index(1) == index
        assert leader.snapshots.pinned_index(2) is None
        await asyncio.sleep(29)
        assert views(leader) == 1
        await asyncio.sleep(2)
        assert views(leader) == 0
        assert leader.snapshots.pinned_index(1) is None

    run(scenario)


def test_the_log_behind_a_snapshot_is_asked_for_until_a_while_after_it_was_installed() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        beat = world.beat(leader, follower)
        await world.until(lambda: views(leader) == 1)
        index = leader.applied[1]
        leader.apply(1, {b"more": b""})
        await world.until(lambda: bool(follower.installs))
        await world.until(lambda: views(leader) == 0, 1.0)
        beat.cancel()
        assert leader.snapshots.pinned_index(1) == index
        await asyncio.sleep(59)
        assert leader.snapshots.pinned_index(1) == index
        await asyncio.sleep(2)
        assert leader.snapshots.pinned_index(1) is None

    run(scenario)


def test_a_view_of_an_older_term_is_closed_and_the_follower_hears_of_it() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        beat = world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 3)
        beat.cancel()
        leader.term = 2
        await world.until(lambda: not follower.snapshots.progress(), 5.0)
        assert views(leader) == 0
        assert world.count("gone") == 1
        assert follower.generations.staged(1) is None
        assert follower.generations.current(1) == 0

    run(scenario)


def test_a_view_whose_log_was_trimmed_is_closed_and_a_newer_one_succeeds() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 3)
        leader.apply(1, {b"more": b""})
        leader.base[1] = leader.applied[1]
        await world.until(lambda: bool(follower.installs))
        assert leader.snapshots.sender.overtaken == 1
        assert follower.installs[0][3].index == leader.applied[1]
        assert follower.current(1) == leader.current(1)

    run(scenario)


def test_a_slot_in_which_nothing_was_applied_has_no_snapshot() -> None:
    async def scenario(world: World) -> None:
        leader, _ = pair(world)
        leader.snapshots.needed(5, 2)
        assert views(leader) == 0
        assert world.sent == []

    run(scenario)


def test_a_pull_for_a_view_that_is_not_there_is_answered() -> None:
    async def scenario(world: World) -> None:
        leader, _ = pair(world)
        leader.snapshots.needed(1, 2)
        world.sent.clear()
        for pull in (Pull(7, 1, b""), Pull(1, 3, b"")):
            leader.snapshots.received(2, 1, encode(pull))
        leader.snapshots.received(3, 1, encode(Pull(1, 1, b"")))  # it was offered to node 2
        assert [(to, body["op"], body["id"], body["term"]) for _, _, to, _, body in world.sent] == [
            (2, "gone", 7, 1),
            (2, "gone", 1, 3),
            (3, "gone", 1, 1),
        ]

    run(scenario)


def test_offers_are_repeated_only_to_who_does_not_pull() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world, bytes_per_s=20_000)
        world.beat(leader, follower)
        await world.until(lambda: bool(follower.installs))
        assert world.loop.now > 2
        assert world.count("offer") == 1
        follower.alive = False
        follower.applied[1] = 0
        await asyncio.sleep(10)
        assert 9 <= world.count("offer") - 1 <= 11

    run(scenario)


def test_a_store_that_cannot_be_read_closes_the_view() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        beat = world.beat(leader, follower)
        await world.until(lambda: len(world.chunks()) >= 3)
        beat.cancel()
        leader.snapshots.sender._views[1].rows.close()
        await world.until(lambda: views(leader) == 0)
        await world.until(lambda: not follower.snapshots.progress(), 5.0)

    run(scenario)


# --- the follower


class HandMade:
    """A leader played by hand against a real follower."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.follower = world.side(2, old_store(), **{**SMALL, **options})
        self.follower.applied[1] = 2
        self.follower.snapshots.start()
        self.before = self.rows()
        world.sides[1] = world.sides[3] = Silent()  # type: ignore[assignment]

    def rows(self) -> list[tuple[bytes, bytes]]:
        return self.follower.store.scan(b"", META_PREFIX)

    def tell(self, message: Message, origin: int = 1) -> None:
        self.follower.snapshots.received(origin, 1, encode(message) | {})

    def offer(self, number: int = 1, term: int = 1, index: int = 10, origin: int = 1) -> None:
        self.tell(Offer(number, term, Snapshot(index, 1, MEMBERS)), origin)

    def chunk(
        self, rows: list[tuple[bytes, bytes]], after: bytes = b"", last: bool = False, crc: int | None = None
    ) -> None:
        body = encode(Chunk(1, 1, after, rows, last, checksum(rows) if crc is None else crc))
        self.follower.snapshots.received(1, 1, body | {"rows": [list(row) for row in rows]})

    def asked(self) -> list[tuple[str, Any]]:
        said = [(body["op"], body.get("after")) for *_, body in self.world.sent]
        self.world.sent.clear()
        return said


class Silent:
    alive = True

    class snapshots:
        received = staticmethod(lambda *message: None)

        @staticmethod
        async def stop() -> None: ...


APPLIED = (APPLIED_KEY, applied_row(10, 1))

WRONG: dict[str, Callable[[HandMade], None]] = {
    "a wrong checksum": lambda leader: leader.chunk([APPLIED, (b"a", b"")], crc=1),
    "rows out of order": lambda leader: leader.chunk([APPLIED, (b"b", b""), (b"a", b"")]),
    "the same key twice": lambda leader: leader.chunk([APPLIED, (b"a", b""), (b"a", b"")]),
    "an empty key": lambda leader: leader.chunk([(b"", b""), APPLIED]),
    "no rows and no end": lambda leader: leader.chunk([]),
    "no applied index": lambda leader: leader.chunk([(b"a", b"")], last=True),
    "nothing at all": lambda leader: leader.chunk([], last=True),
    "another index": lambda leader: leader.chunk([(APPLIED_KEY, applied_row(11, 1)), (b"a", b"")], last=True),
    "another term": lambda leader: leader.chunk([(APPLIED_KEY, applied_row(10, 2)), (b"a", b"")], last=True),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_rows_end_the_copy_and_change_nothing(fault: str) -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.offer()
        assert leader.asked() == [("pull", b"")]
        WRONG[fault](leader)
        await asyncio.sleep(0.1)
        assert leader.asked() == [("done", None)]
        receiver = leader.follower.snapshots.receiver
        assert (receiver.wrong, receiver.abandoned, receiver.installed) == (1, 1, 0)
        assert leader.rows() == leader.before
        assert leader.follower.generations.staged(1) is None
        leader.offer(2)
        assert leader.asked() == [], "not at once again"
        await asyncio.sleep(6)
        leader.offer(3)
        assert leader.asked() == [("pull", b"")]

    run(scenario)


def test_a_sender_that_never_ends_is_stopped_at_the_limit_of_bytes() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world, receive_bytes=10_000)
        leader.offer()
        after, sent = b"", 0
        while leader.follower.snapshots.progress():
            rows = [(b"k%09d" % (sent + number), b"v" * 90) for number in range(20)]
            leader.chunk(rows, after)
            await asyncio.sleep(0.1)
            after, sent = rows[-1][0], sent + 20
            assert sent <= 120
        assert leader.rows() == leader.before
        assert leader.follower.snapshots.receiver.wrong == 1

    run(scenario)


def test_a_chunk_that_was_not_asked_for_is_ignored() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.chunk([APPLIED])
        leader.offer()
        leader.chunk([(b"m", b"")], after=b"elsewhere")
        leader.tell(Chunk(2, 1, b"", [APPLIED], True, checksum([APPLIED])))
        leader.tell(Chunk(1, 2, b"", [APPLIED], True, checksum([APPLIED])))
        leader.chunk([APPLIED, (b"a", b"1")])
        leader.chunk([APPLIED, (b"a", b"1")])  # doubled by the network
        leader.tell(Gone(4, 1))
        leader.chunk([(b"b", b"2")], after=b"a", last=True)
        leader.chunk([(b"c", b"3")], after=b"b", last=True)
        leader.tell(Gone(1, 1))
        await world.until(lambda: bool(leader.follower.installs))
        assert leader.follower.current(1) == {APPLIED_KEY: APPLIED[1], b"a": b"1", b"b": b"2"}

    run(scenario)


def test_the_next_chunk_is_asked_for_while_one_is_written_but_not_a_third() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world, slice_rows=1)
        leader.offer()
        assert leader.asked() == [("pull", b"")]
        leader.chunk([APPLIED, *((b"a%d" % number, b"") for number in range(9))])
        assert leader.asked() == [("pull", b"a8")]
        leader.chunk([(b"b%d" % number, b"") for number in range(9)], after=b"a8")
        assert leader.asked() == []
        leader.chunk([(b"c", b"pushed")], after=b"b8")
        assert len(leader.follower.snapshots.receiver._incoming[1].pending) == 2
        await asyncio.sleep(0.1)
        assert leader.asked() == [("pull", b"b8")]

    run(scenario)


def test_an_unanswered_pull_is_repeated_ever_more_slowly_and_given_up_in_the_end() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.offer()
        await asyncio.sleep(100)
        times = [at for at, *_, body in world.sent if body["op"] == "pull"]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert [round(gap) for gap in gaps[:5]] == [1, 2, 4, 8, 8]
        assert max(times) < 61
        assert leader.follower.snapshots.progress() == []
        assert leader.rows() == leader.before
        leader.asked()
        leader.offer(2)
        assert leader.asked() == [("pull", b"")]

    run(scenario)


def test_a_copy_that_the_log_has_caught_up_with_is_given_up() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.offer(index=10)
        leader.follower.applied[1] = 10
        await asyncio.sleep(0.5)
        assert leader.asked() == [("pull", b""), ("done", None)]
        leader.offer(number=2, index=10)
        assert leader.asked() == [("done", None)], "and the leader hears that there is no need"
        assert leader.rows() == leader.before

    run(scenario)


@pytest.mark.parametrize(
    ("number", "term", "origin", "wait_s", "taken"),
    [
        (1, 1, 1, 0.0, False),  # the same again
        (2, 1, 1, 0.0, True),  # its sender has closed the first
        (1, 2, 3, 0.0, True),  # a later leader
        (1, 1, 3, 5.0, False),
        (1, 1, 3, 11.0, True),  # the first has been silent for long
        (1, 0, 3, 11.0, False),  # an earlier leader
    ],
)
def test_which_offer_takes_the_place_of_one_under_way(
    number: int, term: int, origin: int, wait_s: float, taken: bool
) -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.offer()
        await asyncio.sleep(wait_s)
        leader.asked()
        leader.offer(number, term, origin=origin)
        assert leader.asked() == ([("done", None), ("pull", b"")] if taken else [])
        assert leader.follower.generations.staged(1) == (2 if taken else 1)
        leader.tell(Done(1, 1))

    run(scenario)


def test_a_refused_installation_leaves_the_slot_as_it_was() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.follower.refuses = True
        leader.offer()
        leader.chunk([APPLIED, (b"a", b"1")], last=True)
        await world.until(lambda: not leader.follower.snapshots.progress())
        assert leader.rows() == leader.before
        assert leader.follower.generations.staged(1) is None
        assert leader.asked() == [("pull", b""), ("done", None)]

    run(scenario)


def test_while_it_is_installed_nothing_takes_its_place() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world)
        leader.follower.install_s = 100.0
        leader.offer()
        leader.chunk([APPLIED, (b"a", b"1")], last=True)
        await asyncio.sleep(50)
        leader.offer(2, 9, 99, 3)
        leader.tell(Gone(1, 1))
        await world.until(lambda: bool(leader.follower.installs))
        assert leader.follower.current(1) == {APPLIED_KEY: APPLIED[1], b"a": b"1"}

    run(scenario)


def test_a_slow_disk_gets_pauses() -> None:
    async def scenario(world: World) -> None:
        leader = HandMade(world, slice_rows=1)
        write = leader.follower.store.write

        def slow(changes: Any) -> None:
            world.loop.now += 0.1
            write(changes)

        leader.offer()
        leader.follower.store.write = slow  # type: ignore[method-assign]
        before = world.loop.now
        leader.chunk([APPLIED, *((b"a%d" % number, b"") for number in range(4))], last=True)
        await world.until(lambda: bool(leader.follower.installs))
        assert world.loop.now - before > 5 * 0.1 + 4 * 0.5

    run(scenario)


def test_rows_that_cannot_be_written_end_the_copy_and_not_the_others() -> None:
    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        fill(leader, 3, 200)
        leader.base[3] = leader.applied[3]
        write = follower.store.write

        def failing(changes: Any) -> None:
            if any(key.startswith(b"\x00\x01") for key in changes):
                raise OSError("no space left")
            write(changes)

        follower.store.write = failing  # type: ignore[method-assign]
        world.beat(leader, follower, (1, 3))
        await world.until(lambda: bool(follower.installs))
        assert [each[0] for each in follower.installs] == [3]
        assert follower.current(1) == {}

    run(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_malformed_bodies_are_counted_and_change_nothing(seed: int) -> None:
    print(f"seed {seed}")

    async def scenario(world: World) -> None:
        leader, follower = pair(world)
        world.beat(leader, follower)
        bodies: list[Any] = [
            None,
            3,
            b"x",
            [],
            {},
            {"op": "chunk"},
            {"op": "offer", "id": 1, "term": 1},
            {"op": "pull"},
        ]
        sent = 0
        while not follower.installs:
            for side in (leader, follower):
                sent += 1
                slot = world.chance.choice((1, 1, 1, -1, 8, 1 << 40))
                side.snapshots.received(world.chance.choice((1, 2, 99)), slot, world.chance.choice(bodies))
            await asyncio.sleep(0.001)
        assert leader.snapshots.malformed + follower.snapshots.malformed == sent
        assert follower.current(1) == leader.current(1)

    run(scenario, seed)


def test_chance_of_everything_at_once() -> None:
    """Three nodes, all slots, changing leaders, restarts of the follower, a bad network: copies are exact or absent."""
    for seed in range(6):
        print(f"seed {seed}")

        async def scenario(world: World) -> None:
            chance = world.chance
            leaders = [world.side(number, MemoryStore(), **SMALL) for number in (1, 3)]
            for number, leader in enumerate(leaders):
                leader.term = number + 1
                leader.snapshots.start()
                for slot in range(8):
                    fill(leader, slot, chance.choice((10, 200, 600)), tag=b"%d " % number)
                    leader.base[slot] = leader.applied[slot] + 1
                    leader.apply(slot, {b"made by": b"%d" % leader.node})
            store = MemoryStore()
            follower = world.side(2, store, **SMALL)
            follower.snapshots.start()
            world.drop, world.double, world.delay_s = 0.1, 0.1, 0.05
            beat = world.beat(leaders[0], follower, tuple(range(8)))
            for life in range(4):
                await asyncio.sleep(chance.random())
                follower.alive = False
                follower.snapshots.receiver._loop = None
                beat.cancel()
                applied = follower.applied
                store.lose(chance.randint(0, store.unflushed))
                store = store.reopen()
                follower = world.side(2, store, **SMALL)
                follower.applied = applied
                check(follower, leaders)
                follower.snapshots.start()
                beat = world.beat(leaders[life // 2], follower, tuple(range(8)))
            await world.until(lambda: all(follower.applied[slot] >= leaders[1].base[slot] for slot in range(8)), 3000)
            check(follower, leaders)

        run(scenario, seed)


def check(follower: Side, leaders: list[Side]) -> None:
    for slot in range(8):
        rows = follower.current(slot)
        assert rows == {} if not follower.applied[slot] else rows in [leader.current(slot) for leader in leaders]
