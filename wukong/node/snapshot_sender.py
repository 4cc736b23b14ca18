"""The leader's side of copying a slot: one view of the store per slot, read in slices as followers pull.

Nothing is pushed: the leader holds the view and where in it the follower stands is said in each pull. Everything runs
on one loop; a turn of it scans one slice at most.
"""

import asyncio
import logging
from collections.abc import Callable

from wukong.clock import Clock
from wukong.errors import DataError
from wukong.node.node import APPLIED_KEY, read_applied
from wukong.node.snapshot_messages import Chunk, Done, Gone, Message, Offer, Pull, checksum, encode
from wukong.node.snapshot_options import Progress, SnapshotOptions
from wukong.raft.log import Snapshot
from wukong.store.interface import Store, StoreView
from wukong.store.overlay import prefix_end

logger = logging.getLogger(__name__)

_TICK_S = 0.25
# Timers of the loop are this coarse: a wait that is shorter is over.
_GRAIN_S = 0.001

Send = Callable[[int, int, dict[str, object]], bool]
"""(node, slot, body): put a message on the link to a node; False if it is lost already."""


class _Receiver:
    """A follower that a view was offered to."""

    __slots__ = ("bytes", "place", "rows", "started", "touched")

    def __init__(self, now: float) -> None:
        self.started = self.touched = now
        self.place: bytes | None = None
        """Behind which key it pulled last; None before the first pull."""
        self.rows = self.bytes = 0


class _View:
    """The rows of a slot at one index, and who takes them."""

    __slots__ = ("end", "id", "opened", "prefix", "receivers", "rows", "slot", "snapshot", "term", "touched")

    def __init__(
        self, slot: int, number: int, term: int, snapshot: Snapshot, prefix: bytes, rows: StoreView, now: float
    ) -> None:
        self.slot = slot
        self.id = number
        self.term = term
        self.snapshot = snapshot
        self.prefix = prefix
        self.end = prefix_end(prefix)
        self.rows = rows
        self.opened = self.touched = now
        self.receivers: dict[int, _Receiver] = {}


class _Job:
    """A chunk being put together; bytes: of its rows."""

    __slots__ = ("after", "bytes", "rows", "view")

    def __init__(self, view: _View, after: bytes) -> None:
        self.view = view
        self.after = after
        self.rows: list[tuple[bytes, bytes]] = []
        self.bytes = 0


class SnapshotSender:
    """Offers snapshots of slots led here and serves the pulls.

    prefix_of: key prefix of a slot's current rows. snapshot_at: the point of a slot's log at an applied index; raises
    ValueError once the log was trimmed behind it. term_of: a slot's present term.
    """

    def __init__(
        self,
        store: Store,
        prefix_of: Callable[[int], bytes],
        snapshot_at: Callable[[int, int], Snapshot],
        term_of: Callable[[int], int],
        send: Send,
        clock: Clock,
        options: SnapshotOptions,
    ) -> None:
        self._store = store
        self._prefix_of = prefix_of
        self._snapshot_at = snapshot_at
        self._term_of = term_of
        self._send = send
        self._clock = clock
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._views: dict[int, _View] = {}
        self._pins: dict[int, tuple[int, float]] = {}  # slot -> (index, kept until)
        self._jobs: dict[tuple[int, int], _Job] = {}  # (slot, node) -> its pull; in the order of arrival
        self._last_id = 0
        self._free_at = 0.0  # from when on the rate allows the next chunk
        self._pump: asyncio.Handle | None = None
        self._ticker: asyncio.Handle | None = None
        self.sent_bytes = 0
        self.sent_rows = 0
        self.overtaken = 0
        """Views given up because the log no longer reached back to them: each is a copy that has to begin again."""

    # -- life

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        self._loop = None
        for handle in (self._pump, self._ticker):
            if handle is not None:
                handle.cancel()
        for view in self._views.values():
            view.rows.close()
        self._views.clear()
        self._pins.clear()
        self._jobs.clear()

    # -- what the log asks and tells

    def needed(self, slot: int, node: int) -> None:
        """A follower needs entries that were trimmed here. To be told at every heartbeat while that is so."""
        if self._loop is None:
            return
        now = self._clock.monotonic()
        view = self._live(slot, now)
        if view is None:
            view = self._open(slot, now)
            if view is None:
                return
        receiver = view.receivers.get(node)
        if receiver is None:
            receiver = view.receivers[node] = _Receiver(now)
        elif now - receiver.touched < self._options.offer_s:
            return
        receiver.touched = now
        self._tell(node, slot, Offer(view.id, view.term, view.snapshot))

    def pinned_index(self, slot: int) -> int | None:
        """The log should be kept behind this index, or who installs the snapshot needs another one. None: no wish."""
        view, pin = self._views.get(slot), self._pins.get(slot)
        indexes = []
        if view is not None:
            indexes.append(view.snapshot.index)
        if pin is not None and pin[1] > self._clock.monotonic():
            indexes.append(pin[0])
        return min(indexes, default=None)

    def progress(self) -> list[Progress]:
        return [
            Progress(slot, node, True, view.snapshot.index, each.rows, each.bytes, each.started)
            for slot, view in self._views.items()
            for node, each in view.receivers.items()
            if each.place is not None
        ]

    # -- what followers say

    def pulled(self, node: int, slot: int, pull: Pull) -> None:
        if self._loop is None:
            return
        now = self._clock.monotonic()
        view = self._live(slot, now)
        receiver = view.receivers.get(node) if view is not None else None
        if view is None or receiver is None or (view.id, view.term) != (pull.id, pull.term):
            self._tell(node, slot, Gone(pull.id, pull.term))
            return
        view.touched = receiver.touched = now
        job = self._jobs.get((slot, node))
        if job is not None and (job.view, job.after) == (view, pull.after):
            return  # asked twice while it waits for its turn
        self._jobs.pop((slot, node), None)
        self._jobs[slot, node] = _Job(view, pull.after)
        self._wake(0.0)

    def done(self, node: int, slot: int, done: Done) -> None:
        view = self._views.get(slot)
        if view is None or (view.id, view.term) != (done.id, done.term) or view.receivers.pop(node, None) is None:
            return
        self._jobs.pop((slot, node), None)
        # What came after the snapshot still has to get there.
        self._pins[slot] = (view.snapshot.index, self._clock.monotonic() + self._options.settle_s)
        if not view.receivers:
            self._close(view)

    # -- views

    def _live(self, slot: int, now: float) -> _View | None:
        """The slot's view, unless it has become useless; then it is closed."""
        view = self._views.get(slot)
        if view is None:
            return None
        options = self._options
        if (
            self._term_of(slot) != view.term
            or now - view.touched >= options.idle_s
            or now - view.opened >= options.view_s
        ):
            self._close(view)
            return None
        try:
            self._snapshot_at(slot, view.snapshot.index)
        except ValueError:
            self.overtaken += 1
            logger.warning(
                "slot %d: the log was trimmed behind the snapshot at %d while it was copied; it begins again",
                slot,
                view.snapshot.index,
            )
            self._close(view)
            return None
        return view

    def _open(self, slot: int, now: float) -> _View | None:
        """A view of the present rows; None if there is no seat for one, or nothing to copy."""
        if len(self._views) >= self._options.view_limit:
            return None
        prefix = self._prefix_of(slot)
        try:
            rows = self._store.snapshot(prefix_end(prefix))
            row = rows.get(prefix + APPLIED_KEY)
        except (OSError, DataError) as error:
            logger.error("slot %d: no snapshot can be taken: %s", slot, error)
            return None
        if row is None:
            rows.close()
            return None
        index, term = read_applied(row)
        try:
            snapshot = self._snapshot_at(slot, index)
        except ValueError as error:
            logger.warning("slot %d: no snapshot at index %d: %s", slot, index, error)
            rows.close()
            return None
        assert snapshot.term == term, f"slot {slot}: rows of term {term} at index {index}, the log says {snapshot.term}"
        self._last_id += 1
        view = _View(slot, self._last_id, self._term_of(slot), snapshot, prefix, rows, now)
        self._views[slot] = view
        self._arm()
        return view

    def _close(self, view: _View) -> None:
        view.rows.close()
        del self._views[view.slot]
        for key in [key for key, job in self._jobs.items() if job.view is view]:
            del self._jobs[key]

    def _arm(self) -> None:
        if self._ticker is None and self._views and self._loop is not None:
            self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        now = self._clock.monotonic()
        for slot in list(self._views):
            self._live(slot, now)
        self._pins = {slot: pin for slot, pin in self._pins.items() if pin[1] > now}
        self._arm()

    # -- chunks

    def _wake(self, delay_s: float) -> None:
        if self._pump is None and self._jobs and self._loop is not None:
            if delay_s >= _GRAIN_S:
                self._pump = self._loop.call_later(delay_s, self._turn)
            else:
                self._pump = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One slice for the pull that has waited longest; its chunk is sent when it is full or the rows end."""
        self._pump = None
        now = self._clock.monotonic()
        if self._free_at - now >= _GRAIN_S:
            self._wake(self._free_at - now)
            return
        for (slot, node), job in self._jobs.items():
            try:
                last = self._extend(job)
            except (OSError, DataError, RuntimeError) as error:
                logger.error("slot %d: its rows cannot be read for a snapshot: %s", slot, error)
                self._close(job.view)
                break
            if last is not None:
                del self._jobs[slot, node]
                self._ship(node, job, last)
            break
        self._wake(self._free_at - now)

    def _extend(self, job: _Job) -> bool | None:
        """Scan one slice. None: the chunk takes more; otherwise it is complete: was it the last one?"""
        view, options = job.view, self._options
        behind = job.rows[-1][0] if job.rows else job.after
        start = view.prefix + behind + b"\0" if behind else view.prefix
        count = min(options.slice_rows, options.chunk_rows - len(job.rows))
        found = view.rows.scan(start, view.end, limit=count, limit_bytes=options.chunk_bytes - job.bytes)
        if not found:
            return True
        cut = len(view.prefix)
        rows = [(key[cut:], value) for key, value in found]
        size = job.bytes + sum([len(key) + len(value) for key, value in rows])
        if job.rows and size > options.chunk_bytes:
            return False  # one row that is larger than the room left; it begins the next chunk
        job.rows.extend(rows)
        job.bytes = size
        return False if size >= options.chunk_bytes or len(job.rows) >= options.chunk_rows else None

    def _ship(self, node: int, job: _Job, last: bool) -> None:
        view, rows = job.view, job.rows
        sent = self._tell(node, view.slot, Chunk(view.id, view.term, job.after, rows, last, checksum(rows)))
        if not sent:
            return  # the follower asks again
        size = job.bytes
        self.sent_bytes += size
        self.sent_rows += len(rows)
        receiver = view.receivers[node]
        if receiver.place is None or job.after > receiver.place:
            receiver.place = job.after
            receiver.rows += len(rows)
            receiver.bytes += size
        if self._options.bytes_per_s:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now) + size / self._options.bytes_per_s

    def _tell(self, node: int, slot: int, message: Message) -> bool:
        return self._send(node, slot, encode(message))
