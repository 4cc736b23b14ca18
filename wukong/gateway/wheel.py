"""Timers of many connections without one timer each: a wheel of buckets, looked at tick by tick. Pure.

An entry lies in the bucket of the tick in which it wants to be looked at; one that is due later than a turn of the
wheel is looked at once a turn. What happens on every read (an idle limit that starts again) does not touch the wheel at
all: the entry is looked at when it would have been due, and says then when it really is.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final, Protocol

_BUCKETS: Final = 512


class Entry(Protocol):
    wheel_bucket: int
    """Owned by the wheel."""

    def check(self, now: float) -> float | None:
        """Act if something is due. Returns when to be looked at again, or None to leave the wheel."""
        ...


class Wheel:
    """tick_s: how late an entry may be looked at. Times are seconds of one monotonic clock."""

    def __init__(self, *, tick_s: float, now: float) -> None:
        self._tick_s = tick_s
        self._tick = int(now / tick_s)
        self._buckets: list[set[Entry]] = [set() for _ in range(_BUCKETS)]
        self._count = 0
        # Entries of passed ticks that have not been looked at yet.
        self._due: list[Entry] = []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All entries. Do not change the wheel meanwhile."""
        for bucket in self._buckets:
            yield from bucket

    def entries(self) -> list[Entry]:
        """All entries as of now, quicker than by iteration."""
        return list(chain.from_iterable(self._buckets))

    def add(self, entry: Entry, due: float) -> None:
        """An entry is in one wheel at most once."""
        # Never the bucket of the running tick: that one has been emptied.
        ahead = min(max(int(due / self._tick_s) + 1 - self._tick, 1), _BUCKETS - 1)
        entry.wheel_bucket = bucket = (self._tick + ahead) % _BUCKETS
        self._buckets[bucket].add(entry)
        self._count += 1

    def remove(self, entry: Entry) -> None:
        """Nothing happens if the entry is not here."""
        bucket = self._buckets[entry.wheel_bucket]
        if entry in bucket:
            bucket.remove(entry)
            self._count -= 1

    def move(self, entry: Entry, due: float) -> None:
        self.remove(entry)
        self.add(entry, due)

    def advance(self, now: float, limit_count: int) -> bool:
        """Check what has come due, at most limit_count entries. Returns whether some are left for another call."""
        last = int(now / self._tick_s)
        due = self._due
        while self._tick < last or due:
            if not due:
                # After a jump of the clock one turn sees every entry.
                self._tick = max(self._tick + 1, last - _BUCKETS + 1)
                due += self._buckets[self._tick % _BUCKETS]
            while due:
                if limit_count == 0:
                    return True
                limit_count -= 1
                self._check(due.pop(), now)
        return False

    def _check(self, entry: Entry, now: float) -> None:
        # It may have left, or moved, since its tick passed.
        if entry.wheel_bucket != self._tick % _BUCKETS or entry not in self._buckets[entry.wheel_bucket]:
            return
        due = entry.check(now)
        if due is None:
            self.remove(entry)
        else:
            self.move(entry, due)
