"""Nodes that copy slots to one another, in virtual time: one loop, a network with faults, a stand-in for the log."""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import msgpack

from wukong.node.node import APPLIED_KEY
from wukong.node.snapshot_options import SnapshotOptions
from wukong.node.snapshots import Snapshots
from wukong.raft.log import Member, Snapshot
from wukong.store.generations import Generations, slot_prefix
from wukong.store.interface import Store
from wukong.store.overlay import prefix_end

SLOT_COUNT = 8
MEMBERS = (Member(1, 11, True), Member(2, 1 << 63, True), Member(3, 33, False))

Rows = dict[bytes, bytes]


class _NoWaiting(selectors.SelectSelector):
    """Never waits: the time goes on instead."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for something that will never happen"
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Ends waiting by moving its own time. turns: rounds of the loop so far."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        self.failures: list[BaseException] = []
        selector = _NoWaiting()
        selector.loop = self
        super().__init__(selector)
        self.set_exception_handler(lambda _, context: self.failures.append(context["exception"]))

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self.turns += 1
        super()._run_once()  # type: ignore[misc]


class LoopClock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return int(self._loop.now * 1000)

    def monotonic(self) -> float:
        return self._loop.now


def rows_of(store: Store, slot: int, generation: int) -> Rows:
    prefix = slot_prefix(slot, generation)
    return {key[len(prefix) :]: value for key, value in store.scan(prefix, prefix_end(prefix))}


def applied_row(index: int, term: int) -> bytes:
    return index.to_bytes(8, "big") + term.to_bytes(8, "big")


class Side:
    """A node: its store, its two ways of copying, and what its log would know."""

    def __init__(self, world: "World", node: int, store: Store, options: SnapshotOptions) -> None:
        self.node = node
        self.world = world
        self.store = store
        self.alive = True
        self.term = 1
        self.terms: dict[int, int] = {}  # index -> term, of all slots
        self.base = [0] * SLOT_COUNT
        self.applied = [0] * SLOT_COUNT
        self.install_s = 0.05
        self.refuses = False
        self.keeps_history = True
        self.installs: list[tuple[int, int, int, Snapshot]] = []
        self.history: dict[tuple[int, int], Rows] = {}  # (slot, index) -> rows then; of slot 1
        self.model: list[Rows] = [{} for _ in range(SLOT_COUNT)]
        self.generations = Generations(store)
        self.snapshots = Snapshots(
            slot_count=SLOT_COUNT,
            store=store,
            generations=self.generations,
            send=lambda to, slot, body: world.send(node, to, slot, body),
            install=self.install,
            snapshot_at=self.snapshot_at,
            term_of=lambda slot: self.term,
            applied_index=lambda slot: self.applied[slot],
            clock=world.clock,
            options=options,
        )
        world.sides[node] = self

    def snapshot_at(self, slot: int, index: int) -> Snapshot:
        if not self.base[slot] <= index <= self.applied[slot]:
            raise ValueError("the log does not reach there")
        return Snapshot(index, self.terms[index], MEMBERS)

    async def install(self, slot: int, from_node: int, term: int, snapshot: Snapshot, flip: Callable[[], None]) -> bool:
        await asyncio.sleep(self.install_s)
        if self.refuses:
            return False
        flip()
        self.installs.append((slot, from_node, term, snapshot))
        self.applied[slot] = snapshot.index
        return True

    def apply(self, slot: int, changes: dict[bytes, bytes | None]) -> None:
        """One entry: its rows and the applied index in one batch."""
        prefix, model = self.generations.prefix(slot), self.model[slot]
        self.applied[slot] += 1
        index = self.applied[slot]
        self.terms[index] = self.term
        changes = {**changes, APPLIED_KEY: applied_row(index, self.term)}
        self.store.write({prefix + key: value for key, value in changes.items()})
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        if slot == 1 and self.keeps_history:
            self.history[slot, index] = dict(model)

    def current(self, slot: int) -> Rows:
        return rows_of(self.store, slot, self.generations.current(slot))


class World:
    """chance: decides about the faults of the network.

    drop, double: probabilities. delay_s: between nothing and this, so messages overtake one another; one at a time over
    a link otherwise. cut: pairs (from, to) that carry nothing. sent: everything that was, with its time.
    """

    def __init__(self, loop: VirtualLoop, seed: int = 0) -> None:
        self.loop = loop
        self.clock = LoopClock(loop)
        self.chance = random.Random(seed)
        self.drop = self.double = self.delay_s = 0.0
        self.cut: set[tuple[int, int]] = set()
        self.sides: dict[int, Side] = {}
        self.sent: list[tuple[float, int, int, int, dict[str, Any]]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.on_send: Callable[[int, int, int, dict[str, Any]], None] = lambda *message: None

    def side(self, node: int, store: Store, **options: Any) -> Side:
        return Side(self, node, store, SnapshotOptions(**options))

    def send(self, origin: int, to: int, slot: int, body: dict[str, object]) -> bool:
        if not self.sides[origin].alive:
            return False
        carried = msgpack.unpackb(msgpack.packb(body))
        self.sent.append((self.loop.now, origin, to, slot, carried))
        self.on_send(origin, to, slot, carried)
        if (origin, to) in self.cut:
            return False
        for _ in range(2 if self.chance.random() < self.double else 1):
            if self.chance.random() >= self.drop:
                self.loop.call_later(
                    0.001 + self.chance.random() * self.delay_s, self._deliver, origin, to, slot, carried
                )
        return True

    def _deliver(self, origin: int, to: int, slot: int, body: dict[str, Any]) -> None:
        if (origin, to) not in self.cut and self.sides[to].alive:
            self.sides[to].snapshots.received(origin, slot, body)

    def chunks(self, slot: int = 1) -> list[dict[str, Any]]:
        return [body for *_, at, body in self.sent if at == slot and body["op"] == "chunk"]

    def count(self, op: str) -> int:
        return sum(body["op"] == op for *_, body in self.sent)

    async def until(self, condition: Callable[[], bool], limit_s: float = 600.0) -> None:
        end = self.loop.now + limit_s
        while not condition():
            assert self.loop.now < end, f"not within {limit_s} s"
            await asyncio.sleep(0.01)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(self.loop.create_task(work))
        return self.tasks[-1]

    def beat(self, leader: Side, follower: Side, slots: tuple[int, ...] = (1,)) -> asyncio.Task[None]:
        return self.spawn(self.heartbeat(leader, follower, slots))

    async def heartbeat(self, leader: Side, follower: Side, slots: tuple[int, ...] = (1,)) -> None:
        """What the leader's log does while a follower lacks entries that were trimmed."""
        while True:
            for slot in slots:
                if leader.alive and follower.applied[slot] < leader.base[slot]:
                    leader.snapshots.needed(slot, follower.node)
            await asyncio.sleep(0.1)


def run(scenario: Callable[[World], Coroutine[Any, Any, None]], seed: int = 0) -> None:
    """Run a scenario in a world of its own; tasks it leaves are ended, failures of callbacks are raised."""
    loop = VirtualLoop()
    world = World(loop, seed)

    async def whole() -> None:
        try:
            await scenario(world)
        finally:
            for task in world.tasks:
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)
            for side in world.sides.values():
                await side.snapshots.stop()

    try:
        loop.run_until_complete(whole())
        if loop.failures:
            raise loop.failures[0]
    finally:
        loop.close()


def fill(side: Side, slot: int, count: int, value_bytes: int = 100, tag: bytes = b"") -> None:
    """Some hundred entries of many rows each; keys in no order of time."""
    per_entry = max(1, count // 100)
    for first in range(0, count, per_entry):
        numbers = range(first, min(first + per_entry, count))
        side.apply(
            slot,
            {b"k%08d" % (number * 7919 % 1_000_003): tag + b"v%d" % number * (value_bytes // 8) for number in numbers},
        )
