"""Log lines about peers and strangers, each reason at a limited rate: whoever can connect must not fill a disk."""

import logging
from collections.abc import Callable

log = logging.getLogger("wukong.links")


class Notices:
    """One line per key and interval.

    clock: seconds from any start. Keys are (reason, node), with node 0 for whoever has proven nothing: their number is
    limited by reasons and node numbers.
    """

    def __init__(self, clock: Callable[[], float], interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._said: dict[tuple[str, int], float] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def say(self, level: int, key: tuple[str, int], text: str, error: BaseException | None = None) -> bool:
        """Logs the text, or counts it if the same key was logged within the interval. True: logged."""
        now = self._clock()
        last = self._said.get(key)
        if last is not None and now - last < self._interval_s:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return False
        self._said[key] = now
        if left_out := self._left_out.pop(key, 0):
            text = f"{text} ({left_out} more since the last such line)"
        log.log(level, "%s", text, exc_info=error)
        return True
