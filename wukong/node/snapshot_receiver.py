"""The follower's side of copying a slot: rows are pulled into a staged generation, and the log is asked to flip to it.

The current generation is never touched before the flip, which is one synced batch; so wherever the process ends, the
slot is whole. A stage is never taken up again after a restart: the view it came from cannot be trusted to be there.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from wukong.clock import Clock
from wukong.node.node import APPLIED_KEY, read_applied
from wukong.node.snapshot_messages import Chunk, Done, Gone, Message, Offer, Pull, Rows, checksum, encode
from wukong.node.snapshot_options import Progress, SnapshotOptions
from wukong.node.snapshot_sender import Send
from wukong.raft.log import Snapshot
from wukong.store.generations import Generations, slot_prefix
from wukong.store.interface import Store

logger = logging.getLogger(__name__)

_TICK_S = 0.25
# One batch of rows stays below this, but for a larger row.
_WRITE_BYTES = 128 * 1024
# While memtables are flushed too slowly RocksDB makes writes wait, on the loop; then the copy steps back.
_PAUSE_MAX_S = 1.0
# A chunk that is being written and one that came meanwhile.
_CHUNKS_IN_HAND = 2

Install = Callable[[int, int, int, Snapshot, Callable[[], None]], Awaitable[bool]]
"""(slot, from node, leader's term, snapshot, flip) -> whether it took the place of the state here."""


class _Pending(NamedTuple):
    """A chunk's rows that are to be written from a position on."""

    rows: Rows
    first: int


class _Incoming:
    """One slot on its way here."""

    __slots__ = (
        *("applied", "bytes", "complete", "from_node", "generation", "heard_at", "install", "key", "offer", "pending"),
        *("prefix", "progressed_at", "pull_at", "retry_s", "rows", "slot", "started", "waiting", "written_at"),
    )

    def __init__(self, slot: int, from_node: int, offer: Offer, generation: int, now: float, retry_s: float) -> None:
        self.slot = slot
        self.from_node = from_node
        self.offer = offer
        self.generation = generation
        self.prefix = slot_prefix(slot, generation)
        self.key = b""
        """The last key that came: what is pulled lies behind it."""
        self.waiting = False
        """A pull is not answered."""
        self.pull_at = now
        self.retry_s = retry_s
        self.pending: deque[_Pending] = deque()
        self.complete = False
        self.applied: bytes | None = None
        self.written_at = 0
        """Number of the turn that wrote for it last."""
        self.install: asyncio.Task[None] | None = None
        self.started = self.heard_at = self.progressed_at = now
        self.rows = self.bytes = 0


class SnapshotReceiver:
    """Takes offers, pulls the rows, and has complete snapshots installed.

    generations: of this store; stages left by a crash are dropped here. install: see `Install`; it calls flip, which
    blocks, beside the loop, and raises when the log ends. applied_index: of a slot, here.
    """

    def __init__(
        self,
        store: Store,
        generations: Generations,
        send: Send,
        install: Install,
        applied_index: Callable[[int], int],
        clock: Clock,
        options: SnapshotOptions,
    ) -> None:
        self._store = store
        self._generations = generations
        self._send = send
        self._install = install
        self._applied_index = applied_index
        self._clock = clock
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._incoming: dict[int, _Incoming] = {}
        self._refused: dict[int, float] = {}  # slot -> until when; one at most per slot
        self._turns = 0
        self._resume_at = 0.0  # until then nothing is written: the disk is behind
        self._worker: asyncio.Handle | None = None
        self._ticker: asyncio.Handle | None = None
        self.installed = 0
        self.abandoned = 0
        self.wrong = 0
        """Chunks with a wrong checksum, rows out of order, or no end."""
        for slot in generations.staged_slots():
            stage = generations.staged(slot)
            assert stage is not None
            generations.drop(slot, stage)

    # -- life

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more. An installation under way is not cut short: it ends by itself or with the log, and is
        waited for."""
        self._loop = None
        for handle in (self._worker, self._ticker):
            if handle is not None:
                handle.cancel()
        installs = [each.install for each in self._incoming.values() if each.install is not None]
        if installs:
            await asyncio.wait(installs, timeout=timeout_s)
        self._incoming.clear()

    def progress(self) -> list[Progress]:
        return [
            Progress(each.slot, each.from_node, False, each.offer.snapshot.index, each.rows, each.bytes, each.started)
            for each in self._incoming.values()
        ]

    # -- what leaders say

    def connected(self, node: int) -> None:
        """The link to a node is up: what was asked before may be lost."""
        for each in self._incoming.values():
            if each.from_node == node and each.waiting:
                each.retry_s = self._options.retry_s
                self._pull(each)

    def offered(self, node: int, slot: int, offer: Offer) -> None:
        if self._loop is None:
            return
        now = self._clock.monotonic()
        current = self._incoming.get(slot)
        if current is not None:
            if current.install is not None or not self._gives_way(current, node, offer, now):
                return
            self._abandon(current, "another snapshot is offered")
        if offer.snapshot.index <= self._applied_index(slot):
            self._tell(node, slot, Done(offer.id, offer.term))
            return
        if len(self._incoming) >= self._options.receive_limit or self._refused.get(slot, now) > now:
            return
        try:
            generation = self._generations.stage(slot)
        except OSError as error:
            logger.error("slot %d: no rows can be staged: %s", slot, error)
            return
        incoming = _Incoming(slot, node, offer, generation, now, self._options.retry_s)
        self._incoming[slot] = incoming
        logger.info("slot %d: taking a snapshot at %d from node %d", slot, offer.snapshot.index, node)
        self._pull(incoming)
        self._arm()

    def _gives_way(self, current: _Incoming, node: int, offer: Offer, now: float) -> bool:
        if offer.term != current.offer.term:
            return offer.term > current.offer.term
        if node == current.from_node:
            return offer.id != current.offer.id  # it has closed the view before
        return now - current.heard_at >= self._options.live_s

    def gone(self, node: int, slot: int, gone: Gone) -> None:
        current = self._named(node, slot, gone)
        if current is not None:
            self._abandon(current, "the leader has closed it")

    def received(self, node: int, slot: int, chunk: Chunk) -> None:
        current = self._named(node, slot, chunk)
        if current is None or not current.waiting or chunk.after != current.key:
            return
        now = self._clock.monotonic()
        current.heard_at = current.progressed_at = now
        size = sum([len(key) + len(value) for key, value in chunk.rows])
        fault = self._fault(current, chunk, size)
        if fault:
            self.wrong += 1
            self._refused[slot] = now + self._options.refused_s
            self._abandon(current, fault)
            return
        current.waiting = False
        current.retry_s = self._options.retry_s
        current.complete = chunk.last
        if chunk.rows:
            current.key = chunk.rows[-1][0]
            current.rows += len(chunk.rows)
            current.bytes += size
        current.pending.append(_Pending(chunk.rows, 0))
        if not chunk.last and len(current.pending) < _CHUNKS_IN_HAND:
            self._pull(current)
        self._wake(0.0)

    def _named(self, node: int, slot: int, message: Gone | Chunk) -> _Incoming | None:
        """The transfer a message belongs to, if it still waits for messages."""
        current = self._incoming.get(slot)
        if current is None or current.install is not None or current.complete or current.from_node != node:
            return None
        return current if (current.offer.id, current.offer.term) == (message.id, message.term) else None

    def _fault(self, current: _Incoming, chunk: Chunk, size: int) -> str:
        """What is wrong with a chunk of so many bytes; "" if nothing is."""
        rows = chunk.rows
        if checksum(rows) != chunk.crc:
            return "a chunk with a wrong checksum"
        if not rows:
            return "" if chunk.last else "an empty chunk that is not the last"
        before = current.key
        for key, _ in rows:
            if key <= before:
                return "rows out of order"
            before = key
        if current.bytes + size > self._options.receive_bytes:
            return f"more than {self._options.receive_bytes} bytes of rows"
        return ""

    # -- pulling and writing

    def _pull(self, incoming: _Incoming) -> None:
        incoming.waiting = True
        incoming.pull_at = self._clock.monotonic()
        offer = incoming.offer
        self._tell(incoming.from_node, incoming.slot, Pull(offer.id, offer.term, incoming.key))

    def _wake(self, delay_s: float) -> None:
        if self._worker is None and self._loop is not None:
            if delay_s > 0:
                self._worker = self._loop.call_later(delay_s, self._turn)
            else:
                self._worker = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Write one slice of one slot that has something to write."""
        self._worker = None
        now = self._clock.monotonic()
        writing = [each for each in self._incoming.values() if each.pending]
        if not writing:
            return
        if now < self._resume_at:
            self._wake(self._resume_at - now)
            return
        incoming = min(writing, key=lambda each: each.written_at)
        try:
            self._write(incoming)
        except OSError as error:
            logger.error("slot %d: rows of a snapshot cannot be written: %s", incoming.slot, error)
            self._abandon(incoming, "the store failed")
            self._wake(0.0)
            return
        done = self._clock.monotonic()
        took = done - now
        incoming.progressed_at = done
        self._turns += 1
        incoming.written_at = self._turns
        if took > self._options.slow_write_s:
            self._resume_at = done + min(5 * took, _PAUSE_MAX_S)
        if incoming.complete and not incoming.pending:
            self._finish(incoming)
        elif not incoming.complete and not incoming.waiting and len(incoming.pending) < _CHUNKS_IN_HAND:
            self._pull(incoming)
        self._wake(0.0)

    def _write(self, incoming: _Incoming) -> None:
        rows, first = incoming.pending.popleft()
        batch: dict[bytes, bytes | None] = {}
        size, place = 0, first
        while place < len(rows) and len(batch) < self._options.slice_rows and size < _WRITE_BYTES:
            key, value = rows[place]
            batch[incoming.prefix + key] = value
            size += len(key) + len(value)
            place += 1
            if key == APPLIED_KEY:
                incoming.applied = value
        if batch:
            self._store.write(batch)
        if place < len(rows):
            incoming.pending.appendleft(_Pending(rows, place))

    # -- the end of a transfer

    def _finish(self, incoming: _Incoming) -> None:
        snapshot = incoming.offer.snapshot
        if incoming.applied is None or read_applied(incoming.applied) != (snapshot.index, snapshot.term):
            self.wrong += 1
            self._refused[incoming.slot] = self._clock.monotonic() + self._options.refused_s
            self._abandon(incoming, "rows of another index than was offered")
            return
        assert self._loop is not None
        incoming.install = self._loop.create_task(self._install_rows(incoming))

    async def _install_rows(self, incoming: _Incoming) -> None:
        """Owned by the receiver, ends with `install`; nobody may cancel it while the log runs."""
        slot, generation, offer = incoming.slot, incoming.generation, incoming.offer
        before = self._generations.current(slot)
        try:
            await self._install(
                slot,
                incoming.from_node,
                offer.term,
                offer.snapshot,
                lambda: self._generations.flip(slot, generation),
            )
        except Exception as error:
            # The log has ended, or ends the process for this; the next start finds one generation or the other.
            logger.warning("slot %d: the snapshot at %d was not installed: %r", slot, offer.snapshot.index, error)
            return
        finally:
            self._incoming.pop(slot, None)
        if self._loop is None:
            return  # stopped meanwhile; what is not current is dropped at the next start
        flipped = self._generations.current(slot) == generation
        if flipped:
            self.installed += 1
            logger.info("slot %d: snapshot at %d installed, %d rows", slot, offer.snapshot.index, incoming.rows)
        self._drop(slot, before if flipped else generation)
        self._tell(incoming.from_node, slot, Done(offer.id, offer.term))

    def _abandon(self, incoming: _Incoming, why: str) -> None:
        self.abandoned += 1
        logger.info("slot %d: snapshot from node %d given up: %s", incoming.slot, incoming.from_node, why)
        del self._incoming[incoming.slot]
        self._drop(incoming.slot, incoming.generation)
        self._tell(incoming.from_node, incoming.slot, Done(incoming.offer.id, incoming.offer.term))

    def _drop(self, slot: int, generation: int) -> None:
        """One range tombstone: about 0.1 ms."""
        try:
            self._generations.drop(slot, generation)
        except OSError as error:
            logger.error("slot %d: generation %d cannot be dropped: %s", slot, generation, error)

    def _arm(self) -> None:
        if self._ticker is None and self._incoming and self._loop is not None:
            self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Repeat pulls that were not answered; give up what does not move."""
        self._ticker = None
        now = self._clock.monotonic()
        for incoming in list(self._incoming.values()):
            if incoming.install is not None:
                continue
            if now - incoming.progressed_at >= self._options.give_up_s:
                self._abandon(incoming, "nothing has come for too long")
            elif incoming.offer.snapshot.index <= self._applied_index(incoming.slot):
                self._abandon(incoming, "the log has got here by itself")
            elif incoming.waiting and now - incoming.pull_at >= incoming.retry_s:
                incoming.retry_s = min(2 * incoming.retry_s, self._options.retry_max_s)
                self._pull(incoming)
        self._arm()

    def _tell(self, node: int, slot: int, message: Message) -> None:
        self._send(node, slot, encode(message))
