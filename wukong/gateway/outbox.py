"""Sealing and writing in slices: sessions with queued frames take turns, and none holds the loop.

A write costs a system call, so frames that become ready together should leave together: they are queued per session
and written in a following turn of the loop. A lone frame must not wait: the first few writes are made at once, as long
as the queue is empty.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from wukong.clock import Clock

log = logging.getLogger(__name__)

_BATCH_FRAMES: Final = 64
"""Frames sealed for one session before the next has its turn."""


class Queue(Protocol):
    def flush(self, limit_count: int) -> bool:
        """Write up to limit_count queued frames in one write. Returns whether more can follow at once."""
        ...


class _Marker:
    """Takes its turn behind those that were ready before it."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def flush(self, limit_count: int) -> bool:
        self._callback()
        return False


class Outbox:
    """slice_s, sessions_limit: how long, and for how many writes, one turn of the loop may be held."""

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, clock: Clock, slice_s: float, sessions_limit: int, direct_limit: int
    ) -> None:
        self._loop = loop
        self._monotonic = clock.monotonic
        self._slice_s = slice_s
        self._sessions_limit = sessions_limit
        self._direct_limit = direct_limit
        self._ready: deque[Queue] = deque()
        # Writes that may still be made at once; restored by the next slice.
        self.direct_left = direct_limit

    def __len__(self) -> int:
        """Sessions with frames to write."""
        return len(self._ready)

    def mark(self, queue: Queue) -> None:
        """It has something to flush. Mark it once until it is flushed."""
        if not self._ready:
            self._loop.call_soon(self._run)
        self._ready.append(queue)

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back when the sessions that are ready now have had a turn; at once if there are none."""
        if self._ready:
            self._ready.append(_Marker(callback))
        else:
            callback()

    def _run(self) -> None:
        ready = self._ready
        end = self._monotonic() + self._slice_s
        for _ in range(self._sessions_limit):
            queue = ready[0]
            try:
                more = queue.flush(_BATCH_FRAMES)
            except Exception:
                # One broken session must not silence the others.
                log.exception("a session's frames could not be written")
                more = False
            # After the flush: while the queue is not empty, `mark` starts no second run.
            ready.popleft()
            if more:
                ready.append(queue)
            if not ready or self._monotonic() >= end:
                break
        if ready:
            self._loop.call_soon(self._run)
        else:
            self.direct_left = self._direct_limit
