"""Numbers: percentiles, medians of runs, and what /proc says about the server's processes."""

import os
import statistics
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

Figures = dict[str, float | None]
"""Name -> value, units in the names; None where nothing was measured."""

SAMPLES_LIMIT_COUNT: Final = 4_000_000
"""Latencies kept per process and point, 32 MB; later ones are left out of the percentiles."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Samples:
    """Latencies in nanoseconds."""

    def __init__(self) -> None:
        self._values = array("Q")

    def add(self, value_ns: int) -> None:
        if len(self._values) < SAMPLES_LIMIT_COUNT:
            self._values.append(max(0, value_ns))

    def clear(self) -> None:
        self._values = array("Q")

    def to_bytes(self) -> bytes:
        return self._values.tobytes()


def percentiles(prefix: str, parts: Iterable[bytes]) -> Figures:
    """p50 and p99 in milliseconds of the samples of all processes."""
    values = array("Q")
    for part in parts:
        values.frombytes(part)
    ordered = sorted(values)
    return {
        f"{prefix}_p50_ms": _at(ordered, 0.50),
        f"{prefix}_p99_ms": _at(ordered, 0.99),
    }


def _at(ordered: Sequence[int], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6


def median_of(runs: Sequence[Figures]) -> Figures:
    """Per figure the median over the runs that have it."""
    medians: Figures = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run.get(name)) is not None]
        medians[name] = statistics.median(values) if values else None
    return medians


class ServerProcesses:
    """CPU time and memory of the server under test; of none, if no pid was given.

    Raises ValueError for a pid that is not there."""

    def __init__(self, pids: Sequence[int], *, proc: Path = Path("/proc")) -> None:
        self._folders = [proc / str(pid) for pid in pids]
        for folder in self._folders:
            if not (folder / "stat").exists():
                raise ValueError(f"no process {folder.name} on this machine (--pid reads /proc)")

    def cpu_s(self) -> float | None:
        """User and system time so far."""
        if not self._folders:
            return None
        ticks = 0
        for folder in self._folders:
            # The second field is the program's name in parentheses and may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S

    def rss_mib(self) -> float | None:
        if not self._folders:
            return None
        kib = 0
        for folder in self._folders:
            for line in (folder / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    kib += int(line.split()[1])
        return kib / 1024


def per(amount: float | None, count: float, factor: float = 1.0) -> float | None:
    """amount / count * factor, or None if there is neither."""
    if amount is None or not count:
        return None
    return amount / count * factor


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
