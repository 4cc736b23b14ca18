"""A backup of a running node: the rows of every slot as of one moment, read in slices off one view of the store.

`begin` waits until every slot has applied what was answered anywhere before, and takes one view of all slots in one
turn of the loop; writes go on behind it. What follows reads from that view, slot by slot, or for an incremental backup
from the log, which may have been trimmed meanwhile: then the slot is read in full. docs/backup.md.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from wukong.backup.rows import END_FRAME, Pair, encode_frame, entry_pair
from wukong.clock import Clock
from wukong.errors import DataError, RequestRefused, Unavailable
from wukong.limits import HOUR_MS, KIB, SECOND_MS
from wukong.node.node import APPLIED_KEY, Node, read_applied
from wukong.raft.log import FIRST_INDEX, GroupLog
from wukong.store.generations import META_PREFIX
from wukong.store.interface import Store, StoreView
from wukong.store.overlay import prefix_end

log = logging.getLogger(__name__)

GONE: Final = 410
CONFLICT: Final = 409
_BARRIER_TIMEOUT_S: Final = 10.0
# Look-ups in a view in one turn of the loop.
_HEADS_PER_TURN: Final = 32


class BackupOptions(msgspec.Struct, frozen=True, kw_only=True):
    """bytes_per_s: read for backups; 0 is no limit. frame_bytes: of one frame; a larger row goes alone. slice_rows,
    slice_bytes: read in one turn of the loop. idle_ms: a backup that nobody reads from for so long is over. view_ms:
    and one this old in any case: it keeps the files of its moment."""

    bytes_per_s: int = 0
    frame_bytes: int = 256 * KIB
    slice_rows: int = 256
    slice_bytes: int = 256 * KIB
    idle_ms: int = 30 * SECOND_MS
    view_ms: int = 6 * HOUR_MS


class SlotHead(msgspec.Struct, frozen=True):
    """The slot stands at index of its log. from_log: the log still has what follows the base that was named."""

    index: int
    term: int
    from_log: bool = False


class Begun(msgspec.Struct, frozen=True):
    """id: to be named in what follows. at_ms: wall clock of this node when the view was taken."""

    id: str
    cluster: str
    node: int
    version: str
    began_ms: int
    at_ms: int
    slots: list[SlotHead]


class _Session:
    """The one backup under way."""

    __slots__ = ("base", "heads", "id", "opened", "prefixes", "reader", "touched", "view")

    def __init__(self, view: StoreView, prefixes: list[bytes], now: float) -> None:
        self.id = secrets.token_hex(8)
        self.view = view
        self.prefixes = prefixes
        self.heads: list[SlotHead] = []
        self.base: Sequence[tuple[int, int]] = ()
        self.opened = self.touched = now
        self.reader = 0
        """Number of the answer that may read: who asks again takes the place of an answer nobody listens to."""


class Backups:
    """One backup at a time. logs: of every slot. cluster: its number. `stop` ends what is under way."""

    def __init__(
        self,
        *,
        node: Node,
        store: Store,
        logs: Sequence[GroupLog],
        cluster: int,
        version: str,
        clock: Clock,
        options: BackupOptions | None = None,
    ) -> None:
        self._node = node
        self._store = store
        self._logs = logs
        self._cluster = f"{cluster:x}"
        self._version = version
        self._clock = clock
        self._options = options or BackupOptions()
        # At a low rate small frames: a second's worth, or whoever reads would take the wait for the end.
        rate = self._options.bytes_per_s or self._options.frame_bytes
        self._frame_bytes = min(self._options.frame_bytes, rate)
        self._slice_bytes = min(self._options.slice_bytes, rate)
        self._session: _Session | None = None
        self._beginning = False
        self._ticker: asyncio.TimerHandle | None = None
        self._free_at = 0.0

    # -- life

    def stop(self) -> None:
        if self._session is not None:
            self._close(self._session)

    async def begin(self, base: Sequence[tuple[int, int]] = (), cluster: str = "") -> Begun:
        """Take the view. base: (index, term) of every slot in the backup that this one is to build on, and cluster the
        number it names. Raises RequestRefused (another one is under way, a base of another cluster), Unavailable."""
        if base and (len(base) != self._node.slot_count or cluster != self._cluster):
            raise RequestRefused("the base is of another cluster; take a full backup", status=CONFLICT)
        if self._beginning or self._session is not None:
            raise RequestRefused(
                "another backup of this node is under way; it is over when nobody has read for "
                f"{self._options.idle_ms // 1000} s",
                status=CONFLICT,
            )
        self._beginning = True
        try:
            began_ms = self._clock.now_ms()
            await self._node.barrier(range(self._node.slot_count), _BARRIER_TIMEOUT_S)
            session = self._open()
            try:
                await self._read_heads(session, base)
            except BaseException:
                self._close(session)
                raise
        finally:
            self._beginning = False
        log.info("backup %s: begun, %d slots", session.id, len(session.heads))
        return Begun(
            session.id,
            self._cluster,
            self._node.node_id,
            self._version,
            began_ms,
            self._clock.now_ms(),
            session.heads,
        )

    def end(self, backup_id: str) -> None:
        """It is done, or given up. Nothing happens if it is over."""
        session = self._session
        if session is not None and session.id == backup_id:
            log.info("backup %s: ended after %.1f s", session.id, self._clock.monotonic() - session.opened)
            self._close(session)

    def _open(self) -> _Session:
        # The prefixes first: were a snapshot installed by another thread in between, the old rows are still there.
        prefixes = [self._node.generations.prefix(slot) for slot in range(self._node.slot_count)]
        view = self._store.snapshot(META_PREFIX)
        session = self._session = _Session(view, prefixes, self._clock.monotonic())
        self._arm()
        return session

    async def _read_heads(self, session: _Session, base: Sequence[tuple[int, int]]) -> None:
        for slot, prefix in enumerate(session.prefixes):
            row = session.view.get(prefix + APPLIED_KEY)
            if row is None:
                raise Unavailable(f"slot {slot} has no rows yet; try again in a moment")
            index, term = read_applied(row)
            from_log = bool(base) and self._reaches(slot, *base[slot], index)
            session.heads.append(SlotHead(index, term, from_log))
            if slot % _HEADS_PER_TURN == _HEADS_PER_TURN - 1:
                await asyncio.sleep(0)
        session.base = base

    def _reaches(self, slot: int, index: int, term: int, until: int) -> bool:
        """Whether the log has all entries behind (index, term) up to one."""
        return FIRST_INDEX <= index <= until and self._logs[slot].term_at(index) == term

    def _close(self, session: _Session) -> None:
        session.view.close()
        if self._session is session:
            self._session = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _arm(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(self._options.idle_ms / 4_000, self._tick)

    def _tick(self) -> None:
        session, now = self._session, self._clock.monotonic()
        if session is None:
            return
        idle, age = (now - session.touched) * 1000, (now - session.opened) * 1000
        if idle < self._options.idle_ms and age < self._options.view_ms:
            self._arm()
            return
        log.warning("backup %s: given up, %s", session.id, "it is too old" if age > idle else "nobody reads from it")
        self._close(session)

    # -- reading

    def rows(self, backup_id: str, slot: int, after: bytes) -> AsyncIterator[bytes]:
        """Frames with the rows of a slot behind a key (of this slot alone; empty: from the start), and END_FRAME. The
        iterator ends without it when the backup is over or another one reads. Raises RequestRefused."""
        session = self._running(backup_id, slot)
        return self._frames(session, self._row_slices(session, slot, after))

    def entries(self, backup_id: str, slot: int, after: int) -> AsyncIterator[bytes]:
        """The same with the entries of the log from the base, or behind an index, to where the view stands. Raises
        RequestRefused; with GONE when they were trimmed: then the slot is to be read in full."""
        session = self._running(backup_id, slot)
        head = session.heads[slot]
        index, term = session.base[slot] if session.base else (0, 0)
        if not head.from_log or not self._reaches(slot, index, term, head.index):
            raise RequestRefused(f"the log of slot {slot} no longer reaches back to the base", status=GONE)
        return self._frames(session, self._entry_slices(slot, max(index, after) + 1, head.index))

    def _running(self, backup_id: str, slot: int) -> _Session:
        session = self._session
        if session is None or session.id != backup_id or self._beginning:
            raise RequestRefused("this backup is over; begin another one", status=GONE)
        if not 0 <= slot < len(session.heads):
            raise RequestRefused(f"there is no slot {slot}")
        return session

    async def _frames(self, session: _Session, slices: AsyncIterator[list[Pair]]) -> AsyncIterator[bytes]:
        if self._session is not session:
            return  # it ended before the first frame was asked for
        session.reader += 1
        reader = session.reader
        pairs: list[Pair] = []
        size = 0
        async for some in slices:
            pairs += some
            size += sum([len(key) + len(value) for key, value in some])
            if size >= self._frame_bytes:
                yield encode_frame(pairs)
                await self._pay(size)
                pairs, size = [], 0
            else:
                await asyncio.sleep(0)
            # The first line behind every wait: what was read before may be over.
            if session.reader != reader or self._session is not session:
                return
            session.touched = self._clock.monotonic()
        if pairs:
            yield encode_frame(pairs)
            await self._pay(size)
        if session.reader == reader and self._session is session:
            session.touched = self._clock.monotonic()
            yield END_FRAME

    async def _pay(self, size: int) -> None:
        """Wait until the rate allows the next frame."""
        await asyncio.sleep(0)
        if self._options.bytes_per_s:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now) + size / self._options.bytes_per_s
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)

    async def _row_slices(self, session: _Session, slot: int, after: bytes) -> AsyncIterator[list[Pair]]:
        prefix, options = session.prefixes[slot], self._options
        cut, end = len(prefix), prefix_end(prefix)
        start = prefix + after + b"\0" if after else prefix
        while True:
            try:
                found = session.view.scan(start, end, limit=options.slice_rows, limit_bytes=self._slice_bytes)
            except (OSError, DataError, RuntimeError) as error:
                log.error("backup %s: slot %d cannot be read: %s", session.id, slot, error)
                self._close(session)
                return
            if not found:
                return
            start = found[-1][0] + b"\0"
            yield [(key[cut:], value) for key, value in found]

    async def _entry_slices(self, slot: int, start: int, until: int) -> AsyncIterator[list[Pair]]:
        group, options = self._logs[slot], self._options
        while start <= until:
            if group.term_at(start) is None or start <= group.base_index:
                log.warning("the log of slot %d was trimmed while it was backed up", slot)
                # Without an end frame: who reads asks again and is told.
                raise Trimmed
            found = group.entries_from(start, self._slice_bytes)[: min(options.slice_rows, until - start + 1)]
            start = found[-1][1] + 1
            yield [entry_pair(index, term, command) for command, index, term in found]


class Trimmed(Exception):
    """Entries went while they were read."""
