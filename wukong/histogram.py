"""How often something took how long, for whoever counts on a hot path: one list of numbers, no objects, no labels."""

from bisect import bisect_left
from collections.abc import Sequence

LATENCY_S = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
"""Seconds; about two steps between a value and its double, where answers usually lie."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Histogram:
    """bounds: upper ends, inclusive and rising; a larger value counts beyond the last. counts: one number for each of
    them and one for what is beyond; they only grow. total: the sum of all values. Only one thread may add."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value that so large a share does not exceed, taken as spread evenly inside its step, like PromQL's
    histogram_quantile. What is beyond the last bound counts as this bound. None without any values."""
    rank = share * sum(counts)
    if not rank:
        return None
    below = 0.0
    for index, bound in enumerate(bounds):
        if below + counts[index] >= rank:
            low = bounds[index - 1] if index else 0.0
            return low + (bound - low) * (rank - below) / counts[index]
        below += counts[index]
    return float(bounds[-1])
