"""A node over a disk that stops in the middle of a write, and what a power loss may leave of it.

The disk is stopped at a batch of the log: the batches before are synced, this one is on its way, and the node has
applied and answered all it may. A power loss then keeps the synced part, any beginning of the batch, and any beginning
of what the store was given since its last flush. From that a second node is built, which has to hold a state that some
beginning of the log makes, with everything acknowledged in it.
"""

import asyncio
import itertools
import random
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wukong.channel.commands import (
    LIST_ALLOW,
    LIST_DENY,
    OP_ADD,
    OP_REMOVE,
    AdvanceCommands,
    Append,
    Command,
    OpenSession,
    PutChannel,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    UpdateChat,
    UpdateList,
)
from wukong.channel.effects import Effect
from wukong.channel.ids import ChannelId, person_id
from wukong.clock import SystemClock
from wukong.node.node import Node
from wukong.raft.config import RaftConfig
from wukong.raft.log import ENTRY, REGULAR
from wukong.raft.runtime import Runtime
from wukong.raft.statemachine import Committed
from wukong.raft.wal import Batch, Wal, decode_records
from wukong.store.generations import slot_prefix
from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import prefix_end

NODE_ID = 1
SLOT_COUNT = 4
SEGMENT_BYTES = 10 << 10
TRIM_BYTES = 6 << 10
APPLIED_KEY = b"\x00applied"
STORES = 8


class LoggingStore(MemoryStore):
    """Keeps what it was given since the last flush, so that `lossy_copy` can lose any end of it."""

    def __init__(self, rows: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(rows)
        self._before = dict(rows or {})
        self._lock = threading.Lock()
        self._flushed: list[Mapping[bytes, bytes | None]] = []
        self._batches: list[Mapping[bytes, bytes | None]] = []

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        with self._lock:
            super().write(changes)
            self._batches.append(dict(changes))

    def flush(self) -> None:
        with self._lock:
            super().flush()
            self._flushed += self._batches
            self._batches = []

    def after_power_loss(self, rng: random.Random, *, lose_all: bool | None = None) -> dict[bytes, bytes]:
        """The rows as another process may find them. lose_all: everything since the last flush, or nothing of it."""
        with self._lock:
            copy = MemoryStore(self._before)
            for changes in self._flushed:
                copy.write(changes)
            copy.flush()
            for changes in self._batches:
                copy.write(changes)
        if lose_all is None:
            some = int(rng.expovariate(0.1))
            copy.lose(copy.unflushed if rng.random() < 0.2 else min(copy.unflushed, some))
        elif lose_all:
            copy.lose(copy.unflushed)
        return dict(copy.reopen().scan(b"", b"\xff" * 16))


class StoppableWal(Wal):
    """A log whose disk can be stopped before a batch. stopped: set, on the loop, when a batch is held up."""

    batches: list[Batch]
    held: Batch | None
    stopped: asyncio.Event

    def prepare(self) -> None:
        self.batches = []
        self.held = None
        self.stopped = asyncio.Event()
        self._stop_next = self._stop_at_segment = False
        self._go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def stop_at_next(self, *, segment: bool = False) -> None:
        """segment: at the next batch after which a new segment begins."""
        self._stop_next = True
        self._stop_at_segment = segment

    def go_on(self) -> None:
        self.held = None
        self.stopped.clear()
        self._go_on.set()

    def write(self, batch: Batch) -> None:
        if self._stop_next and (batch.next_segment is not None or not self._stop_at_segment):
            self._stop_next = False
            self._go_on.clear()
            self.held = batch
            self._loop.call_soon_threadsafe(self.stopped.set)
            self._go_on.wait()
        super().write(batch)
        self.batches.append(batch)


class WatchedNode(Node):
    """Notes every entry that is applied."""

    entries: list[Committed]

    def apply(self, entries: list[Committed]) -> None:
        super().apply(entries)
        self.entries += entries


@dataclass
class Acknowledged:
    """A reply that its caller got."""

    command: Command
    reply: Reply


@dataclass
class Moment:
    """What there is while the disk stands still. files: of the log, synced; batch: on its way. synced, applied: the
    last entry with commands of each slot. stores: what several power losses leave of the store."""

    files: dict[str, bytes]
    batch: Batch
    synced: dict[int, int]
    applied: dict[int, int]
    acknowledged: list[Acknowledged]
    stores: list[dict[bytes, bytes]]


@dataclass
class Machine:
    """A running node, its disk, and what it acknowledged."""

    store: LoggingStore
    wal: StoppableWal
    node: WatchedNode
    runtime: Runtime
    proposed: list[Command] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @classmethod
    async def start(cls, directory: Path, rows: Mapping[bytes, bytes] | None = None) -> "Machine":
        """rows: what the store holds already."""
        store = LoggingStore(rows)
        wal = open_wal(StoppableWal, directory)
        assert isinstance(wal, StoppableWal)
        wal.prepare()
        node = make_node(WatchedNode, store)
        assert isinstance(node, WatchedNode)
        node.entries = []
        failures: list[BaseException] = []
        runtime = await run(node, wal, failures)
        machine = cls(store, wal, node, runtime, failures=failures)
        await node.go_live()
        return machine

    def propose(self, command: Command, waiting: list[asyncio.Future[Reply | None]]) -> None:
        slot = self.node.slot(routing_key(command))
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        self.proposed.append(command)

        def done(reply: Reply | None) -> None:
            if reply is not None:
                self.acknowledged.append(Acknowledged(command, reply))
            future.set_result(reply)

        self.node.propose(slot, command, done)

    async def settle(self) -> None:
        """While the disk stands still: until everything synced is applied and answered."""
        synced = self._synced()
        while any(self.node.applied().get(slot, (0, 0))[0] < index for slot, index in synced.items()):
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _synced(self) -> dict[int, int]:
        found = dict.fromkeys(range(SLOT_COUNT), 0)
        for batch in self.wal.batches:
            found |= dict(entries_in(batch.data))
        return found

    def moment(self, rng: random.Random) -> Moment:
        assert self.wal.held is not None
        files = {path.name: path.read_bytes() for path in sorted(self.wal.directory.glob("*.wal"))}
        applied = {slot: index for slot, (index, _) in self.node.applied().items()}
        stores = [self.store.after_power_loss(rng) for _ in range(STORES)]
        return Moment(files, self.wal.held, self._synced(), applied, list(self.acknowledged), stores)

    async def stop(self) -> None:
        self.node.shut()
        assert await self.runtime.stop()
        assert self.failures == []


def open_wal(kind: type[Wal], directory: Path, *, fsync: bool = False) -> Wal:
    # The sync itself is not under test here: the power loss is made by hand.
    return kind.open(directory, node_id=NODE_ID, group_count=SLOT_COUNT, segment_bytes=SEGMENT_BYTES, fsync=fsync)


def make_node(kind: type[Node], store: Store, effects: list[Effect] | None = None) -> Node:
    sink = effects if effects is not None else []
    return kind(
        node_id=NODE_ID, slot_count=SLOT_COUNT, store=store, clock=SystemClock(), effects_sink=sink.extend,
        pack_limit_bytes=600,
    )  # fmt: skip


async def run(node: Node, wal: Wal, failures: list[BaseException]) -> Runtime:
    runtime = Runtime(
        node_id=NODE_ID,
        wal=wal,
        machine=node,
        clock=SystemClock(),
        on_fatal=failures.append,
        config=RaftConfig(trim_bytes=TRIM_BYTES),
    )
    node.attach(runtime)
    runtime.start()
    async with asyncio.timeout(10):
        await runtime.ready()
    return runtime


# -- what a power loss may leave


def remains(moment: Moment, *, cuts: range) -> Iterator[tuple[str, dict[str, bytes], bytes]]:
    """(name of the case, files, what they hold of the batch): the log cut at every byte of the batch, zeros or garbage
    where the file system had made room already, and every stage of beginning a new segment."""
    newest = max(moment.files)
    data = moment.batch.data
    for cut in cuts:
        left = [("cut at", data[:cut])]
        if cut < len(data) and cut % 7 == 0:
            left.append(("zeros from", data[:cut] + bytes(len(data) - cut)))
        if cut < len(data) and cut % 11 == 0:
            left.append(("flipped bit at", data[:cut] + bytes((data[cut] ^ 0x40,))))
        for name, some in left:
            yield f"{name} {cut}", moment.files | {newest: moment.files[newest] + some}, some
    following = moment.batch.next_segment
    if following is None:
        return
    files = moment.files | {newest: moment.files[newest] + data}
    head = moment.batch.head
    for cut in range(0, len(head), 499):
        yield f"new segment cut at {cut}", files | {f"{following.number:012d}.tmp": head[:cut]}, data
    files = files | {following.path.name: head}
    yield "new segment begun", files, data
    for number, dropped in enumerate(moment.batch.drop, start=1):
        files = {name: content for name, content in files.items() if name != dropped.path.name}
        yield f"{number} segments dropped", files, data


def entries_in(data: bytes) -> Iterator[tuple[int, int]]:
    """(group, index) of the entries with commands in a piece of a log."""
    for record, _ in decode_records(data):
        if record.kind == ENTRY and record.data[0] == REGULAR:
            yield record.group, record.index


def lay_out(files: Mapping[str, bytes], directory: Path) -> Path:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


# -- states


class Oracle:
    """The state of a slot after each of its entries, applied one by one to an empty store."""

    def __init__(self, entries: list[Committed]) -> None:
        store = MemoryStore()
        node = make_node(Node, store)
        self._states: dict[int, dict[int, dict[bytes, bytes]]] = {slot: {0: {}} for slot in range(SLOT_COUNT)}
        self.indexes: dict[int, list[int]] = {slot: [] for slot in range(SLOT_COUNT)}
        for entry in entries:
            node.apply([entry])
            self._states[entry.group][entry.index] = rows(store, entry.group)
            self.indexes[entry.group].append(entry.index)

    def state(self, slot: int, index: int) -> dict[bytes, bytes]:
        return self._states[slot][index]


def rows(store: Store, slot: int) -> dict[bytes, bytes]:
    """All rows of a slot without the note of how far it is applied."""
    prefix = slot_prefix(slot, 0)
    found = {key[len(prefix) :]: value for key, value in store.scan(prefix, prefix_end(prefix))}
    found.pop(APPLIED_KEY, None)
    return found


# -- commands

UIDS = [f"u{number}" for number in range(8)]
CHANNELS = [ChannelId(2, f"g{number}") for number in range(6)]


def routing_key(command: Command) -> str:
    if isinstance(command, OpenSession):
        return command.uid
    channel = getattr(command, "channel", None)
    assert isinstance(channel, ChannelId)
    return channel.id


_numbers = itertools.count(1)


def random_command(rng: random.Random) -> Command:
    channel = rng.choice(CHANNELS)
    some = rng.sample(UIDS, rng.randint(1, 4))
    uid = some[0]
    draw = rng.random()
    if draw < 0.5:
        number = f"n{next(_numbers)}"
        payload = rng.randbytes(rng.randint(0, 60))
        if draw < 0.08:
            pair = ChannelId(1, person_id(uid, rng.choice(UIDS)))
            return Append(pair, False, uid, payload, number)
        is_cmd = draw < 0.14
        return Append(channel, is_cmd, uid, payload, number, flags=4 if is_cmd else 2, trusted=rng.random() < 0.5)
    if draw < 0.68:
        return PutChannel(channel, None, some, reset=rng.random() < 0.3)
    if draw < 0.78:
        return RemoveMembers(channel, some)
    if draw < 0.80:
        return RemoveAllMembers(channel)
    if draw < 0.86:
        return UpdateList(channel, rng.choice((LIST_DENY, LIST_ALLOW)), rng.choice((OP_ADD, OP_REMOVE)), some)
    if draw < 0.91:
        return UpdateChat(channel, uid, rng.randrange(3), rng.randrange(4))
    if draw < 0.95:
        return AdvanceCommands(channel, uid, rng.randrange(5))
    return OpenSession(uid, next(_numbers), rng.randrange(3), f"d{rng.randrange(3)}", b"")
