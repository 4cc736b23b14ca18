"""The last quarter of an hour of a node's figures, for a console that has no Prometheus behind it.

A sample every five seconds, 180 of them, newest last; what lies between two samples is told as a rate or as quantiles
of what happened in between. About 20 KB, whatever the load.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from wukong.clock import Clock
from wukong.histogram import Histogram, quantile

log = logging.getLogger(__name__)

INTERVAL_S = 5
SAMPLES = 180

RATES = ("send_per_s", "recv_per_s")
QUANTILES = (
    ("ack_p50_ms", "ack", 0.5),
    ("ack_p99_ms", "ack", 0.99),
    ("recv_p50_ms", "recv", 0.5),
    ("recv_p99_ms", "recv", 0.99),
    ("fsync_p99_ms", "fsync", 0.99),
)
GAUGES = ("sessions", "lag_entries", "loop_lag_ms", "webhook_backlog")
SERIES = (*RATES, *(name for name, _, _ in QUANTILES), *GAUGES)

Number = float | int | None


class Reading(NamedTuple):
    """What the node has counted so far, and figures of the moment.

    sends: messages that came in here, from clients and by API. recvs: RECVs written to clients. lag_entries: what this
    node lacks of the logs, as far as it knows. loop_lag_ms: the longest delay of a timer since the last reading."""

    sends: int
    recvs: int
    sessions: int
    lag_entries: int
    loop_lag_ms: float
    webhook_backlog: int


class HistoryShape(msgspec.Struct, frozen=True):
    """The answer of GET /history. now_ms: unix ms of the newest sample. series: equally long lists, newest last, at
    most SAMPLES numbers; null where nothing happened."""

    interval_s: int
    now_ms: int
    series: dict[str, list[Number]]


class History:
    """latencies: `ack` (SEND to SENDACK), `recv` (SEND to RECV written) and `fsync`, in seconds."""

    def __init__(self, read: Callable[[], Reading], latencies: Mapping[str, Histogram], clock: Clock) -> None:
        self._read = read
        self._latencies = latencies
        self._clock = clock
        self._samples: deque[tuple[Number, ...]] = deque(maxlen=SAMPLES)
        self._now_ms = clock.now_ms()
        self._at = clock.monotonic()
        self._last = read()
        self._counted = self._counts()

    def _counts(self) -> dict[str, list[int]]:
        return {name: list(histogram.counts) for name, histogram in self._latencies.items()}

    async def run(self) -> None:
        """Take samples until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                self.sample()
            except Exception:
                log.exception("figures could not be read")

    def sample(self) -> None:
        """Add what happened since the last sample."""
        at, reading, counted = self._clock.monotonic(), self._read(), self._counts()
        passed_s = max(at - self._at, 0.001)
        fresh = {
            name: [now - then for now, then in zip(counts, self._counted[name], strict=True)]
            for name, counts in counted.items()
        }
        last = self._last
        values: list[Number] = [
            round((reading.sends - last.sends) / passed_s, 1),
            round((reading.recvs - last.recvs) / passed_s, 1),
            *(self._quantile_ms(which, fresh[which], share) for _, which, share in QUANTILES),
            reading.sessions,
            reading.lag_entries,
            round(reading.loop_lag_ms, 1),
            reading.webhook_backlog,
        ]
        self._samples.append(tuple(values))
        self._at, self._last, self._counted = at, reading, counted
        self._now_ms = self._clock.now_ms()

    def _quantile_ms(self, which: str, counts: Sequence[int], share: float) -> Number:
        found_s = quantile(self._latencies[which].bounds, counts, share)
        return None if found_s is None else round(found_s * 1000, 3)

    def shape(self) -> HistoryShape:
        columns = zip(*self._samples, strict=True) if self._samples else ((),) * len(SERIES)
        series = {name: list(column) for name, column in zip(SERIES, columns, strict=True)}
        return HistoryShape(INTERVAL_S, self._now_ms, series)
