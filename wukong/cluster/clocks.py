"""This node's wall clock against those of the others, so that one wrong clock does not move the time of the log.

The log's time is the largest clock of all packs and never goes back, so a clock far ahead would stop it until the real
time has caught up. A node whose clock is ahead of the majority's by more than the limit goes by the majority's.
"""

from wukong.clock import Clock

LIMIT_MS = 10_000


class Clocks:
    """The clock that packs carry. Wall clocks of other nodes come with their messages, late by the way they took, which
    is far below the limit."""

    def __init__(self, clock: Clock, limit_ms: int = LIMIT_MS) -> None:
        self._clock = clock
        self._limit_ms = limit_ms
        self._ahead: dict[int, int] = {}  # node -> by how much this node is ahead of it
        self._correction_ms = 0

    def heard(self, node: int, their_ms: int) -> None:
        self._ahead[node] = self._clock.now_ms() - their_ms
        self._judge()

    def forget(self, node: int) -> None:
        if self._ahead.pop(node, None) is not None:
            self._judge()

    def _judge(self) -> None:
        # With its own place at 0 the lower median is what a majority agrees on at least.
        places = sorted([0, *self._ahead.values()])
        ahead = places[(len(places) - 1) // 2]
        self._correction_ms = ahead if ahead > self._limit_ms else 0

    @property
    def ahead_ms(self) -> int:
        """How far this node's clock is ahead of the majority's; 0 within the limit."""
        return self._correction_ms

    # -- wukong.clock.Clock

    def now_ms(self) -> int:
        return self._clock.now_ms() - self._correction_ms

    def monotonic(self) -> float:
        return self._clock.monotonic()
