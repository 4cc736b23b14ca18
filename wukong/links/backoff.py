"""How long to wait before the next attempt."""

import random


class Backoff:
    """Doubles from min_s to max_s; of each pause the upper half is drawn, so that nodes do not dial in step."""

    def __init__(self, min_s: float, max_s: float, rng: random.Random) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._rng = rng
        self._next_s = min_s

    def next_s(self) -> float:
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._max_s)
        return self._rng.uniform(pause_s / 2, pause_s)

    def reset(self) -> None:
        self._next_s = self._min_s
