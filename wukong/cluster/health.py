"""Whether this node can serve clients, and how it lets go of them when it cannot. docs/design/cluster.md, section 7.

Strategy: the owner feeds a sample of every slot a few times per second; what must last for a while is counted in time
during which somebody looked, so a process that was frozen does not judge by the gap. A node that has lost its majority
sheds its clients in any case: they are deaf here. A node that only lags does so while another node is well, else it
would push its load onto nobody, or everybody onto the last one standing.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from wukong.clock import Clock

OK = "ok"
DEGRADED = "degraded"
SHED = "shed"

_LONGEST_STEP_S = 0.5
_MARKS_LIMIT_COUNT = 64


class HealthOptions(msgspec.Struct, frozen=True, kw_only=True):
    """silent_s: a slot whose leader, or as its leader whose majority, was not heard for so long counts as lost.
    disk_hangs_s: a disk that has not finished a write of the log for so long counts as lost, with every slot.
    behind_s: a slot that has not applied what was known as committed so long ago counts as lagging.
    bad_s, well_s: how long it lasts until clients are shed, until they are taken again.
    close_per_second: sessions closed while shedding; more if a node that has lost its majority would otherwise not be
    rid of all its clients within deaf_s. jitter_s: until the first is closed, drawn from 0 to this."""

    silent_s: float = 1.5
    disk_hangs_s: float = 2.0
    behind_s: float = 3.0
    bad_s: float = 3.0
    well_s: float = 2.0
    close_per_second: int = 500
    deaf_s: float = 10.0
    jitter_s: float = 1.0


class SlotSample(NamedTuple):
    """heard_s: since the leader or, leading, a majority was heard. commit: known as committed, from whomever."""

    has_leader: bool
    heard_s: float
    commit: int
    applied: int


class Verdict(NamedTuple):
    """state: OK; DEGRADED: not well, but clients stay; SHED: no clients here. reason: for people, empty for OK."""

    state: str
    reason: str = ""


class Health:
    """close_some: close about so many client sessions, so that they reconnect elsewhere; called while shedding.
    clients: how many there are."""

    def __init__(
        self,
        clock: Clock,
        options: HealthOptions | None = None,
        *,
        rng: random.Random | None = None,
        close_some: Callable[[int], object] = lambda count: None,
        clients: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock = clock
        self._options = options or HealthOptions()
        self._rng = rng or random.Random()
        self._close_some = close_some
        self._clients = clients
        self._most_clients = 0  # since they are being shed
        self._seen_at: float | None = None
        self._marks: list[deque[tuple[float, int]]] = []
        self._bad_for_s = 0.0
        self._well_for_s = 0.0
        self._close_in_s = 0.0
        self._to_close = 0.0
        self.is_well = True
        """Nothing was wrong in the last sample: other nodes may send their clients here."""
        self.verdict = Verdict(OK)

    @property
    def serving(self) -> bool:
        """Clients may log in."""
        return self.verdict.state != SHED

    def why_not(self) -> str:
        """For /health: empty while this node serves clients."""
        return "" if self.serving else self.verdict.reason

    def feed(self, slots: Sequence[SlotSample], *, other_is_well: bool, disk_busy_s: float = 0.0) -> Verdict:
        """other_is_well: another node says that it is well. disk_busy_s: since when the log's disk has not answered."""
        now = self._clock.monotonic()
        passed_s = 0.0 if self._seen_at is None else min(now - self._seen_at, _LONGEST_STEP_S)
        self._seen_at = now
        lost = self._lost(slots)
        if disk_busy_s > self._options.disk_hangs_s:
            lost = f"the disk has not answered for {disk_busy_s:.0f} s"
        lagging = self._lagging(slots, now)
        self.is_well = not lost and not lagging
        self._decide(lost or (lagging if other_is_well else ""), lost or lagging, passed_s)
        if not self.serving:
            self._close(passed_s, is_deaf=bool(lost))
        return self.verdict

    def _lost(self, slots: Sequence[SlotSample]) -> str:
        silent_s = self._options.silent_s
        lost = [slot for slot, sample in enumerate(slots) if not sample.has_leader or sample.heard_s > silent_s]
        if not lost:
            return ""
        which = f"slot {lost[0]}" if len(lost) == 1 else f"{len(lost)} of {len(slots)} slots"
        return f"{which}: no leader with a majority is heard"

    def _lagging(self, slots: Sequence[SlotSample], now: float) -> str:
        while len(self._marks) < len(slots):
            self._marks.append(deque())
        worst_s, worst = 0.0, 0
        for slot, sample in enumerate(slots):
            marks = self._marks[slot]
            while marks and marks[0][1] <= sample.applied:
                marks.popleft()
            if sample.commit > sample.applied and (not marks or sample.commit > marks[-1][1]):
                if len(marks) >= _MARKS_LIMIT_COUNT:
                    marks.pop()  # the oldest decide
                marks.append((now, sample.commit))
            if marks and now - marks[0][0] > worst_s:
                worst_s, worst = now - marks[0][0], slot
        if worst_s <= self._options.behind_s:
            return ""
        entries = slots[worst].commit - slots[worst].applied
        return f"slot {worst} lags {worst_s:.0f} s behind the log ({entries} entries)"

    def _decide(self, to_shed: str, trouble: str, passed_s: float) -> None:
        """to_shed: why clients should go, if it lasts. trouble: what is wrong at all."""
        if to_shed:
            self._bad_for_s += passed_s
            self._well_for_s = 0.0
        else:
            self._well_for_s += passed_s
            self._bad_for_s = 0.0
        shedding = self.verdict.state == SHED
        if shedding and self._well_for_s < self._options.well_s:
            if to_shed:
                self.verdict = Verdict(SHED, to_shed)
        elif to_shed and self._bad_for_s >= self._options.bad_s:
            self.verdict = Verdict(SHED, to_shed)
            self._close_in_s = self._rng.random() * self._options.jitter_s
            self._to_close = 0.0
            self._most_clients = 0
        else:
            self.verdict = Verdict(DEGRADED, trouble) if trouble else Verdict(OK)

    def _close(self, passed_s: float, *, is_deaf: bool) -> None:
        """is_deaf: clients get nothing here, so they have to be gone soon; others have limits for those who come."""
        self._most_clients = max(self._most_clients, self._clients())
        if self._close_in_s > 0:
            self._close_in_s -= passed_s
            return
        options = self._options
        per_second = max(options.close_per_second, self._most_clients / options.deaf_s if is_deaf else 0)
        # Uneven steps, so that clients of several nodes do not come back in beats.
        self._to_close += per_second * passed_s * (0.5 + self._rng.random())
        count = int(self._to_close)
        if count:
            self._to_close -= count
            self._close_some(count)
