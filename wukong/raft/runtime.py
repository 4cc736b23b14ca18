"""The one step loop of a node: all its groups, one write-ahead log, one machine.

    collect -> propose -> one write and fdatasync for all groups, in a thread -> commit -> apply in slices

While the disk is busy nothing is collected: what arrives meanwhile becomes the next entry. There is no timer to tune,
and a lone proposal waits for nothing but its own fdatasync. A turn of the loop is one call of `_turn`; everything in
it happens between two awaits of everybody else. Whatever goes wrong in the core, in apply or on disk ends the runtime
for good and is handed to `on_fatal`, which has to end the process: recovery from the log is the only way on.
"""

import asyncio
import heapq
import logging
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from wukong.clock import Clock
from wukong.errors import Unavailable
from wukong.histogram import Histogram
from wukong.raft.config import RaftConfig
from wukong.raft.filter import Message
from wukong.raft.log import Change, Member, Snapshot
from wukong.raft.rawnode import RawNode
from wukong.raft.statemachine import Committed, Machine
from wukong.raft.wal import Batch, Wal

logger = logging.getLogger(__name__)


class Stats(NamedTuple):
    """Figures of the moment, for metrics. Bytes are those of records, not of blocks."""

    groups_led: int
    wal_bytes: int
    wal_segments: int
    written_bytes: int
    """Since start, the same as sync_count and sync_seconds."""
    sync_count: int
    sync_seconds: float
    queued_entries: int
    """Committed and not applied."""
    queued_bytes: int
    log_entries: int
    """Of all groups, in memory."""
    malformed_messages: int


SendMessage = Callable[[int, int, Message], None]
"""(group, node, message): put a message on the link to a node; lose it if there is none."""

_FIRST_SLICE_BYTES = 16 << 10
_MIN_SLICE_BYTES = 4 << 10
_MAX_SLICE_BYTES = 4 << 20
_SLICE_ENTRY_COUNT = 4096
_ENTRY_OVERHEAD_BYTES = 64
_ASK_AGAIN_S = 0.1
_TRIM_ENTRY_COUNT = 10_000
"""Forgotten in one turn of the loop."""
_RETURN_S = 60.0
"""A member whose link broke is waited for so long."""


class Disk(Protocol):
    """What writes the log: one batch at a time, in order; each is reported on the loop."""

    busy_seconds: float
    write_s: Histogram
    """Write and fdatasync of a batch."""

    def submit(self, batch: Batch) -> None: ...

    def stop(self, timeout_s: float) -> bool: ...


DiskFactory = Callable[[Wal, Clock, asyncio.AbstractEventLoop, Callable[[BaseException | None], None]], Disk]

RunBlocking = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs something that waits for the disk without holding the loop; one at a time."""


class DiskThread:
    """Writes batches one after the other and reports each to the loop.

    A thread of its own instead of an executor: 25 instead of 40 microseconds for the way there and back.
    """

    def __init__(
        self, wal: Wal, clock: Clock, loop: asyncio.AbstractEventLoop, done: Callable[[BaseException | None], None]
    ) -> None:
        self.busy_seconds = 0.0
        self.write_s = Histogram()
        self._wal = wal
        self._clock = clock
        self._loop = loop
        self._done = done
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raft-wal", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        self._queue.put(batch)

    def stop(self, timeout_s: float) -> bool:
        """Blocks until the thread has ended, at most so long. False if it hangs in the disk."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            error: BaseException | None = None
            started = self._clock.monotonic()
            try:
                self._wal.write(batch)
            except BaseException as caught:
                error = caught
            took_s = self._clock.monotonic() - started
            self.busy_seconds += took_s
            self.write_s.add(took_s)
            try:
                self._loop.call_soon_threadsafe(self._done, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more


class Runtime:
    """All groups of one node. Created stopped; `start`, use, `stop`. Everything runs on the loop of `start`.

    wal: open, owned from here on. members: of groups that are new, as of their first index; later the log knows them.
    disk: the number of this node's data directory (docs/design/cluster.md, 1).
    on_fatal: called once, on the loop, with what broke; must end the process.
    send: where messages to other nodes go; nothing is sent without it.
    snapshot_needed: told (group, node) at every heartbeat while a follower needs entries that were trimmed here.
    pinned: the smallest index of a group that a snapshot under way stands at, None for none: what follows it is kept.
    rng: draws election times. disk_thread, run_blocking: who writes the log, flushes and flips; for the simulation.
    """

    def __init__(
        self,
        *,
        node_id: int,
        wal: Wal,
        machine: Machine,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
        members: tuple[Member, ...] = (),
        disk: int = 0,
        config: RaftConfig | None = None,
        send: SendMessage | None = None,
        snapshot_needed: Callable[[int, int], None] | None = None,
        pinned: Callable[[int], int | None] | None = None,
        rng: random.Random | None = None,
        disk_thread: DiskFactory = DiskThread,
        run_blocking: RunBlocking | None = None,
    ) -> None:
        self.node_id = node_id
        self.group_count = len(wal.logs)
        self._wal = wal
        self._machine = machine
        self._clock = clock
        self._on_fatal = on_fatal
        self._members = members or (Member(node_id, disk, True),)
        self._disk_number = disk
        self._config = config or RaftConfig()
        self._send = send
        self._snapshot_needed = snapshot_needed
        self._pinned = pinned
        self._rng = rng or random.Random()
        self._nodes: list[RawNode] = []
        self._applied: list[int] = []
        self._active: set[int] = set()  # groups that may have something ready
        self._unsynced: dict[int, int] = {}  # group -> seq of records appended to the log and not given to the disk
        self._syncing: dict[int, int] = {}  # the same for what the disk is busy with
        self._disk_busy = False
        self._disk_busy_s = 0.0
        self._ticked_at = 0.0
        self._hindered = False
        self._queue: deque[Committed] = deque()
        self._queue_bytes = 0
        self._slice_bytes = _FIRST_SLICE_BYTES
        self._turn_due = False
        self._collected = False  # the last turn took something from the machine
        self._waiters: dict[int, list[tuple[int, int, asyncio.Future[None]]]] = {}  # heaps by index
        self._waiter_count = 0
        self._asking: dict[int, list[asyncio.Future[None]]] = {}  # reads without a leader, by group
        self._unready: set[int] = set()
        self._ready: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._running = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._trimmed_at_bytes = 0
        self._trim_task: asyncio.Task[None] | None = None
        self._flusher: ThreadPoolExecutor | None = None
        self._run_blocking = run_blocking or self._in_thread
        self._disk_thread = disk_thread
        self._disk: Disk | None = None
        self.apply_s = Histogram()
        """Slices of entries, each applied in one turn of the loop."""
        self._installing: set[int] = set()
        self._round: dict[int, int] = {}  # what was proposed last and is not committed: group -> index
        self._round_timer: asyncio.TimerHandle | None = None
        self._linked: set[int] = set()
        self._unlinked_at: dict[int, float] = {}
        self._durable_waiters: list[tuple[int, int, asyncio.Future[None]]] = []  # (group, seq, who waits)

    # -- life

    def start(self) -> None:
        """Take up the log where the machine's state ends. Raises DataError if they do not belong together.

        Returns at once; `ready` waits until the machine has caught up with the log. The machine may be called from
        within, `leadership` of lone voters for certain.
        """
        self._loop = asyncio.get_running_loop()
        applied = self._machine.applied()
        now = self._clock.monotonic()
        for log in self._wal.logs:
            if not log.members:
                log.set_members(self._members)
            node = RawNode(
                node_id=self.node_id,
                disk=self._disk_number,
                log=log,
                applied=applied.get(log.group, (0, 0)),
                config=self._config,
                rng=self._rng,
                now=now,
            )
            self._nodes.append(node)
            self._applied.append(max(applied.get(log.group, (0, 0))[0], log.base_index))
        self._disk = self._disk_thread(self._wal, self._clock, self._loop, self._persisted)
        self._unready = set(range(self.group_count))
        self._ready = self._loop.create_future()
        self._running = True
        self._active.update(range(self.group_count))
        if any(node.has_peers for node in self._nodes):
            self._keep_ticking()
        self._turn()

    async def ready(self) -> None:
        """Wait until every group has a leader and has applied what was in its log at start.

        Raises Unavailable if the runtime ends."""
        if self._ready is None:
            raise Unavailable("the log is not started")
        await asyncio.shield(self._ready)

    async def stop(self, timeout_s: float = 5.0) -> bool:
        """Finish what the machine wants to propose and what is under way, then close the log.

        Stop whoever feeds the machine first. After timeout_s the rest stays in the log, to be applied at the next
        start, or is not proposed. False: a thread hangs in the disk and may still use log or store; leave both open
        and end the process. A second call does nothing and returns True.
        """
        if self._stopping:
            return True
        self._stopping = True
        if self._running:
            self._idle = self._loop.create_future()
            self.wake()
            try:
                await asyncio.wait_for(self._idle, timeout_s)
            except TimeoutError:
                logger.warning("the log did not come to rest within %.1f s", timeout_s)
        self._halt(Unavailable("the node is stopping"))
        at_rest = True
        if self._trim_task is not None:
            _, pending = await asyncio.wait([self._trim_task], timeout=timeout_s)
            at_rest = not pending
        if self._disk is not None:
            disk = self._disk
            stopped: list[bool] = []
            if at_rest:
                await self._run_blocking(lambda: stopped.append(disk.stop(timeout_s)))
            at_rest = stopped == [True]
        if self._flusher is not None:
            self._flusher.shutdown(wait=False)
        if at_rest:
            self._wal.close()
        else:
            logger.error("the disk did not answer within %.1f s; log and store are left open", timeout_s)
        return at_rest

    def _halt(self, reason: Unavailable) -> None:
        """Nothing happens any more; whoever waits is told."""
        self._running = False
        for timer in (self._timer, self._round_timer):
            if timer is not None:
                timer.cancel()
        for heap in self._waiters.values():
            for _, _, future in heap:
                if not future.done():
                    future.set_exception(reason)
        self._waiters.clear()
        for waiting in self._asking.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(reason)
        self._asking.clear()
        for _, _, future in self._durable_waiters:
            if not future.done():
                future.set_exception(reason)
        self._durable_waiters.clear()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(reason)
            self._ready.exception()  # nobody has to wait for it
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        logger.critical("the log failed: %r", error, exc_info=error)
        self._halt(Unavailable("the log failed"))
        self._on_fatal(error)

    # -- use

    def wake(self) -> None:
        """The machine has something to propose. Cheap; call it as often as you like."""
        if not self._turn_due and self._running:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def applied_index(self, group: int) -> int:
        """Index of the last entry that was applied here."""
        return self._applied[group]

    def is_leader(self, group: int) -> bool:
        return self._nodes[group].is_leader

    def accepts(self, group: int) -> bool:
        """Whether entries for the group may be proposed here: it leads, and is not handing over."""
        raw = self._nodes[group]
        if not raw.is_leader or raw.transferring:
            return False
        # One entry of a group is under way at a time: while others take it, the next one grows.
        return not raw.has_peers or raw.log.last_index - raw.commit_index < self._config.entries_under_way

    def leader(self, group: int) -> int | None:
        """Node id of the group's leader as this node knows it."""
        return self._nodes[group].leader

    def term(self, group: int) -> int:
        return self._nodes[group].term

    def commit_index(self, group: int) -> int:
        return self._nodes[group].commit_index

    def last_index(self, group: int) -> int:
        """Of the log here, committed or not."""
        return self._nodes[group].log.last_index

    def members(self, group: int) -> tuple[Member, ...]:
        """As of the last entry of the log here."""
        return self._nodes[group].members

    def match_index(self, group: int, node: int) -> int:
        """On the leader: up to where a member is known to hold the log; 0 if nothing is known."""
        return self._nodes[group].match_index(node)

    def heard_s(self, group: int) -> float:
        """Seconds since this node heard the group's leader or, leading it, a majority."""
        return max(0.0, self._clock.monotonic() - self._nodes[group].heard_at())

    def disk_busy_s(self) -> float:
        """How long the disk has been busy with what it is writing now, as far as this process ran meanwhile; 0 if it is
        idle. As of the last tick."""
        return self._disk_busy_s if self._disk_busy else 0.0

    def backlog_bytes(self) -> int:
        """Committed and not applied."""
        return self._queue_bytes

    @property
    def write_s(self) -> Histogram:
        """Write and fdatasync of each batch of the log; once started."""
        assert self._disk is not None
        return self._disk.write_s

    def stats(self) -> Stats:
        return Stats(
            groups_led=sum(raw.is_leader for raw in self._nodes),
            wal_bytes=self._wal.size_bytes,
            wal_segments=self._wal.segment_count,
            written_bytes=self._wal.written_bytes,
            sync_count=self._wal.sync_count,
            sync_seconds=self._disk.busy_seconds if self._disk is not None else 0.0,
            queued_entries=len(self._queue),
            queued_bytes=self._queue_bytes,
            log_entries=sum(len(log) - 1 for log in self._wal.logs),
            malformed_messages=sum(raw.malformed_count for raw in self._nodes),
        )

    async def barrier(self, groups: Iterable[int], timeout_s: float) -> None:
        """Wait until everything that was acknowledged in the groups before this call is applied here.

        Raises Unavailable: no leader, no majority, not within timeout_s, or the runtime ends.
        """
        waiting: list[asyncio.Future[None]] = []
        for group in groups:
            future = self._barrier(group)
            if future is not None:
                waiting.append(future)
        if not waiting:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*waiting)
        except TimeoutError:
            raise Unavailable(f"the log did not catch up within {timeout_s} s") from None
        finally:
            for future in waiting:
                future.cancel()

    def _barrier(self, group: int) -> asyncio.Future[None] | None:
        """A future that ends when the group is applied far enough; None if it is already."""
        if not self._running:
            raise Unavailable("the log is not running")
        future: asyncio.Future[None] | None = None
        answers: list[int | None] = []

        def found(index: int | None) -> None:
            if future is None:
                answers.append(index)
            else:
                self._wait_applied(group, index, future)

        self._nodes[group].read_index(found)
        if answers:
            index = answers[0]
            if index is not None and index <= self._applied[group]:
                return None
            future = self._loop.create_future()
            self._wait_applied(group, index, future)
        else:
            future = self._loop.create_future()
            self._active.add(group)
            self.wake()
        return future

    def _ask_later(self, group: int, future: asyncio.Future[None]) -> None:
        """No leader, or it is just changing: ask again until the caller's time is over. One question for all."""
        waiting = self._asking.setdefault(group, [])
        if len(waiting) >= self._config.read_limit_count:
            future.set_exception(Unavailable(f"group {group}: too many reads wait for a leader"))
            return
        waiting.append(future)
        if len(waiting) == 1:
            self._loop.call_later(_ASK_AGAIN_S, self._ask_again, group)

    def _ask_again(self, group: int) -> None:
        waiting = [future for future in self._asking.pop(group, ()) if not future.done()]
        if not waiting or not self._running:
            return

        def found(index: int | None) -> None:
            for future in waiting:
                self._wait_applied(group, index, future)

        self._nodes[group].read_index(found)
        self._active.add(group)
        self.wake()

    def _wait_applied(self, group: int, index: int | None, future: asyncio.Future[None]) -> None:
        if future.done():
            return
        if index is None:
            self._ask_later(group, future)
        elif index <= self._applied[group]:
            future.set_result(None)
        elif len(self._waiters.get(group, ())) >= self._config.read_limit_count:
            future.set_exception(Unavailable(f"group {group}: too many reads wait"))
        else:
            self._waiter_count += 1
            heapq.heappush(self._waiters.setdefault(group, []), (index, self._waiter_count, future))

    # -- other nodes

    def receive(self, group: int, from_node: int, message: Message) -> None:
        """A message from another node's link."""
        if not self._running or not 0 <= group < self.group_count:
            return
        try:
            self._nodes[group].step(from_node, message)
        except Exception as error:
            self._fail(error)
            return
        self._active.add(group)
        self.wake()

    def connected(self, node: int) -> None:
        """A link to a node came up."""
        self._linked.add(node)
        self._on_all(lambda raw: raw.connected(node))

    def disconnected(self, node: int) -> None:
        """A link to a node is gone, with what was under way on it."""
        self._linked.discard(node)
        self._unlinked_at[node] = self._clock.monotonic()
        self._on_all(lambda raw: raw.disconnected(node))

    def _on_all(self, act: Callable[[RawNode], None]) -> None:
        if not self._running:
            return
        try:
            for raw in self._nodes:
                act(raw)
        except Exception as error:
            self._fail(error)
            return
        self._active.update(range(self.group_count))
        self.wake()

    # -- members and leaders

    def change_members(self, group: int, change: Change) -> bool:
        """Append a membership change to a group led here. False: not now (one at a time, see RawNode).
        Raises NotLeader, Unavailable."""
        if not self._running:
            raise Unavailable("the log is not running")
        done = self._nodes[group].change_members(change)
        self._keep_ticking()
        self._active.add(group)
        self.wake()
        return done

    def transfer(self, group: int, node: int) -> bool:
        """Ask a voter to take over a group that is led here, as soon as it has every entry; until then nothing is
        proposed. False: not led here, or the voter cannot be reached or needs a snapshot."""
        if not self._running or not self._nodes[group].is_leader:
            return False
        done = self._nodes[group].transfer(node)
        self._active.add(group)
        self.wake()
        return done

    # -- snapshots

    def snapshot_at(self, group: int, index: int) -> Snapshot:
        """The point of the log that the state at an applied index stands for. Raises ValueError if the log does not
        reach there."""
        return self._nodes[group].snapshot_at(index)

    async def install(
        self, group: int, from_node: int, leader_term: int, snapshot: Snapshot, flip: Callable[[], None]
    ) -> bool:
        """Put a complete snapshot in the place of a group's state and log. flip makes the staged rows current,
        durably; it blocks and is run beside the loop while nothing is applied to the group. False: thrown away, because
        this node has applied as much, or the leader is not the leader any more. Raises Unavailable when the runtime
        ends.
        """
        raw = self._nodes[group]
        if not self._running or group in self._installing or snapshot.index <= self._applied[group]:
            return False
        if not raw.begin_install(from_node, leader_term, snapshot):
            self._active.add(group)
            self.wake()
            return False
        self._installing.add(group)
        try:
            # What was handed out and not applied is part of the snapshot.
            kept = [entry for entry in self._queue if entry.group != group]
            self._queue_bytes -= sum(
                _ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in self._queue if entry.group == group
            )
            self._queue = deque(kept)
            durable: asyncio.Future[None] = self._loop.create_future()
            self._durable_waiters.append((group, raw.log.seq, durable))
            self._active.add(group)
            self.wake()
            await durable
            await self._run_blocking(flip)
            if not self._running:
                raise Unavailable("the log ended while a snapshot was installed")
            raw.finish_install(from_node, snapshot)
            self._applied[group] = snapshot.index
            self._machine.installed(group, snapshot.index, snapshot.term)
            self._release(group)
        except BaseException as error:
            # Half-way there is no way on but recovery: entries were thrown away, and the log has noted its intent.
            if self._running:
                self._fail(error)
            raise
        finally:
            self._installing.discard(group)
        self._active.add(group)
        self.wake()
        return True

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self._flusher is None:
            self._flusher = ThreadPoolExecutor(1, "raft-flush")
        await self._loop.run_in_executor(self._flusher, work)

    def _keep_ticking(self) -> None:
        """Look at the clock from now on. A node alone has no reason to."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._config.tick_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._config.tick_ms / 1000, self._tick)
        self._active.update(group for group, raw in enumerate(self._nodes) if raw.has_peers)
        # A process that was frozen does not blame the disk for it.
        now = self._clock.monotonic()
        self._disk_busy_s += min(now - self._ticked_at, 2 * self._config.tick_ms / 1000)
        self._ticked_at = now
        if not self._hindered and self.disk_busy_s() * 1000 > self._config.quorum_timeout_ms:
            logger.error("the disk has not answered for %.1f s; this node leads no longer", self.disk_busy_s())
            self._hinder(True)
        if self._active and not self._turn_due:
            self._turn()

    def _hinder(self, on: bool) -> None:
        self._hindered = on
        for raw in self._nodes:
            raw.hinder(on)

    # -- the step

    def _turn(self) -> None:
        self._turn_due = False
        if not self._running:
            return
        try:
            self._collect()
            self._settle()
            self._apply_slice()
            if self._trim_task is None and self._wal.written_bytes - self._trimmed_at_bytes >= self._config.trim_bytes:
                self._trimmed_at_bytes = self._wal.written_bytes
                self._trim_task = self._loop.create_task(self._trim(), name="raft-trim")
        except Exception as error:
            self._fail(error)
            return
        if self._queue:
            self.wake()
        elif self._idle is not None and not self._idle.done() and self._is_idle():
            self._idle.set_result(None)

    def _is_idle(self) -> bool:
        return not (self._disk_busy or self._collected or self._active or self._unsynced)

    def _collect(self) -> None:
        """Take proposals, unless the disk is busy or applying has fallen behind."""
        if self._disk_busy or self._queue_bytes >= self._config.apply_queue_bytes or self._round_is_under_way():
            return
        proposals = self._machine.collect()
        self._collected = bool(proposals)
        for group, data in proposals:
            raw = self._nodes[group]
            raw.propose(data)
            self._active.add(group)
            if raw.has_peers:
                self._round[group] = raw.log.last_index

    def _round_is_under_way(self) -> bool:
        """Whether followers are still busy with what was proposed last: what comes meanwhile goes together in the next
        round, with one message to each of them. A group that does not get on holds the others up for round_ms only."""
        if not self._round:
            return False
        nodes = self._nodes
        self._round = {
            group: index
            for group, index in self._round.items()
            if nodes[group].is_leader and nodes[group].commit_index < index
        }
        if not self._round:
            if self._round_timer is not None:
                self._round_timer.cancel()
                self._round_timer = None
            return False
        if self._round_timer is None:
            self._round_timer = self._loop.call_later(self._config.round_ms / 1000, self._round_is_over)
        return True

    def _round_is_over(self) -> None:
        # The timer decides, not the clock it was made by: they need not run alike.
        self._round_timer = None
        self._round = {}
        self.wake()

    def _settle(self) -> None:
        """Carry out what the active groups have ready, and give the disk its next batch."""
        if self._active:
            now = self._clock.monotonic()
            active, self._active = self._active, set()
            for group in sorted(active):
                raw = self._nodes[group]
                raw.tick(now)
                ready = raw.ready()
                if self._timer is None and raw.has_peers:
                    self._keep_ticking()
                if ready.leadership is not None:
                    self._machine.leadership(group, *ready.leadership)
                    if group in self._asking and ready.leadership.leader is not None:
                        self._loop.call_soon(self._ask_again, group)
                if ready.messages and self._send is not None:
                    for node, message in ready.messages:
                        self._send(group, node, message)
                if ready.snapshots and self._snapshot_needed is not None:
                    for node in ready.snapshots:
                        self._snapshot_needed(group, node)
                if ready.records:
                    self._wal.append(ready.records)
                    self._unsynced[group] = ready.seq
                if ready.committed and raw.is_leader and raw.has_peers:
                    self.wake()  # the next entry may go
                if ready.committed and group not in self._installing:
                    self._queue.extend(ready.committed)
                    self._queue_bytes += sum(_ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in ready.committed)
                if group in self._unready:
                    self._check_ready(group)
        if self._unsynced and not self._disk_busy and self._disk is not None:
            batch = self._wal.take()
            if batch is not None:
                self._disk_busy = True
                self._disk_busy_s = 0.0
                self._syncing, self._unsynced = self._unsynced, {}
                self._disk.submit(batch)

    def _persisted(self, error: BaseException | None) -> None:
        """The disk thread is done with a batch."""
        self._disk_busy = False
        if self._hindered:
            logger.info("the disk answers again")
            self._hinder(False)
        if self._failure is not None:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            for group, seq in self._syncing.items():
                self._nodes[group].persisted(seq)
        except Exception as caught:
            self._fail(caught)
            return
        self._active.update(self._syncing)
        self._syncing = {}
        if self._durable_waiters:
            self._tell_durable()
        if not self._turn_due:  # a second chain of turns would never end
            self._turn()

    def _tell_durable(self) -> None:
        waiting, self._durable_waiters = self._durable_waiters, []
        for group, seq, future in waiting:
            if self._nodes[group].log.durable_seq < seq:
                self._durable_waiters.append((group, seq, future))
            elif not future.done():
                future.set_result(None)

    def _apply_slice(self) -> None:
        """Apply as much as fits into a few milliseconds; the size follows the speed of the last slices."""
        queue = self._queue
        if not queue:
            return
        size = 0
        entries: list[Committed] = []
        while queue and size < self._slice_bytes and len(entries) < _SLICE_ENTRY_COUNT:
            entry = queue.popleft()
            size += _ENTRY_OVERHEAD_BYTES + len(entry.data)
            entries.append(entry)
        self._queue_bytes -= size
        started = self._clock.monotonic()
        self._machine.apply(entries)
        took_s = self._clock.monotonic() - started
        self.apply_s.add(took_s)
        self._adapt(size, took_s * 1000)
        applied = self._applied
        for group, index, _, _ in entries:
            applied[group] = index
        if self._waiters or self._unready:
            for group in {entry.group for entry in entries}:
                self._release(group)

    def _adapt(self, size: int, took_ms: float) -> None:
        target = self._config.apply_slice_ms
        if took_ms > target:
            self._slice_bytes = max(_MIN_SLICE_BYTES, int(size * target / took_ms))
        elif size >= self._slice_bytes and took_ms < target / 2:
            self._slice_bytes = min(_MAX_SLICE_BYTES, self._slice_bytes * 2)

    def _release(self, group: int) -> None:
        """Tell who waited for the group's applied index."""
        heap = self._waiters.get(group)
        if heap is not None:
            while heap and heap[0][0] <= self._applied[group]:
                future = heapq.heappop(heap)[2]
                if not future.done():
                    future.set_result(None)
            if not heap:
                del self._waiters[group]
        if group in self._unready:
            self._check_ready(group)

    def _check_ready(self, group: int) -> None:
        # Only an entry of the present leadership tells how much of the log counts. What that leadership truncates,
        # nobody waits for.
        raw, applied = self._nodes[group], self._applied[group]
        if raw.leader is not None and applied >= raw.log.recovered_index and raw.log.term_at(applied) == raw.term:
            self._unready.discard(group)
            if not self._unready and self._ready is not None and not self._ready.done():
                self._ready.set_result(None)

    # -- trimming

    async def _trim(self) -> None:
        """Make the state durable, then forget the log behind it. Owned by the runtime, ends by itself."""
        try:
            applied = self._machine.applied()
            await self._run_blocking(self._machine.flush)
            for group, (index, _) in applied.items():
                raw = self._nodes[group]
                progress = True
                while progress and self._running and group not in self._installing:
                    base = raw.log.base_index
                    raw.trim(min(self._retained(raw, index), base + _TRIM_ENTRY_COUNT))
                    self._active.add(group)
                    progress = raw.log.base_index == base + _TRIM_ENTRY_COUNT
                    await asyncio.sleep(0)
            self.wake()
        except Exception as error:
            self._fail(error)
        finally:
            self._trim_task = None

    def _retained(self, raw: RawNode, index: int) -> int:
        """Where to trim so that followers that were away for a moment still find their entries, and those that are
        behind and connected, or take a snapshot now, do not need another snapshot."""
        if not raw.has_peers:
            return index
        wanted = index
        if raw.is_leader:
            now = self._clock.monotonic()
            for member in raw.members:
                if member.node in self._linked or now - self._unlinked_at.get(member.node, -_RETURN_S) < _RETURN_S:
                    wanted = min(wanted, max(raw.match_index(member.node), 1))
        pinned = self._pinned(raw.group) if self._pinned is not None else None
        if pinned is not None:
            wanted = min(wanted, pinned)
        config, log = self._config, raw.log
        # A slot that is being copied must not be overtaken; few are at a time.
        part = config.pinned_groups if pinned is not None else self.group_count
        most_bytes = max(config.retain_bytes, config.pinned_bytes // part)
        end = base = log.base_index
        kept = log.entry_bytes + _ENTRY_OVERHEAD_BYTES * len(log)
        # From the old end: what is looked at is what goes.
        while end < min(index, base + _TRIM_ENTRY_COUNT) and (
            kept > most_bytes or (kept > config.retain_bytes and end < wanted)
        ):
            end += 1
            kept -= _ENTRY_OVERHEAD_BYTES + len(log[end - base][0])
        return end
