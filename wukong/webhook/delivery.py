"""Brings requests to a back end: again and again until it takes them, at growing intervals.

At least once: what is not known to be taken is sent again, under the same id, signed anew.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

from wukong.clock import Clock
from wukong.webhook.payloads import request_id
from wukong.webhook.signature import headers
from wukong.webhook.transport import DeliveryFailed, Transport

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_LIMIT_S = 30.0
# The same trouble is told again after so long.
TELL_AGAIN_S = 60.0


class Totals:
    """By event: events delivered, requests repeated, events dropped; since the start of this node. last_error: the
    newest failure, "" for none, and its time in unix ms."""

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.retried: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.last_error = ""
        self.last_error_ms = 0


class Courier:
    """Of one transport. retry_limit: tries after which events are dropped, 0 for no limit."""

    def __init__(
        self,
        transport: Transport,
        *,
        secret: str,
        retry_limit: int,
        clock: Clock,
        rng: random.Random,
        totals: Totals,
    ) -> None:
        self._transport = transport
        self._secret = secret
        self._retry_limit = retry_limit
        self._clock = clock
        self._rng = rng
        self._totals = totals
        self._told: dict[str, float] = {}  # event -> when its trouble was told, until it is over

    async def deliver(
        self,
        event: str,
        records: Sequence[tuple[int, int]],
        body: bytes,
        *,
        count: int,
        wanted: Callable[[], bool] = lambda: True,
        refusals_limit: int = 0,
    ) -> bool:
        """Return true when the request is taken, given up at the limit, or no longer wanted; false when it was refused
        so often (0: never). records: (slot, id) of what it tells of. count: events in it. Cancelling it leaves open
        whether it was taken."""
        name = request_id(event, records, body)
        tries = refusals = 0
        if self._retry_limit:
            # What is refused goes on in pieces before any of it is dropped.
            refusals_limit = min(refusals_limit, self._retry_limit)
        while True:
            signed = headers(self._secret, self._clock.now_ms() // 1000, name, body)
            try:
                await self._transport.post(event, body, signed)
            except DeliveryFailed as failure:
                self._failed(event, str(failure))
                refusals += failure.refused
                if 0 < refusals_limit <= refusals:
                    return False
            except Exception as error:
                # Of a library, such as one for a host's name that is none. It is as good as not taken: whoever gave it
                # up would read the same events again at once.
                self._failed(event, type(error).__name__)
            else:
                self._totals.delivered[event] += count
                if self._told.pop(event, None) is not None:
                    log.info("%s takes %s again", self._transport.name, event)
                return True
            tries += 1
            if 0 < self._retry_limit <= tries:
                self._totals.dropped[event] += count
                log.error(
                    "%d events %s are dropped: %s did not take them in %d tries (webhook.msgNotifyEventRetryMaxCount)",
                    count,
                    event,
                    self._transport.name,
                    tries,
                )
                return True
            await asyncio.sleep(retry_delay_s(tries, self._rng))
            if not wanted():
                return True
            self._totals.retried[event] += 1

    def _failed(self, event: str, failure: str) -> None:
        self._totals.last_error = f"{self._transport.name}: {event}: {failure}"
        self._totals.last_error_ms = self._clock.now_ms()
        now = self._clock.monotonic()
        if now - self._told.get(event, float("-inf")) >= TELL_AGAIN_S:
            self._told[event] = now
            log.warning("%s does not take %s (%s); it is sent again", self._transport.name, event, failure)


def retry_delay_s(tries: int, rng: random.Random) -> float:
    """Between half of and the whole interval, so that nodes and requests do not come all at once."""
    whole: float = min(RETRY_FIRST_S * 2 ** min(tries - 1, 10), RETRY_LIMIT_S)
    return whole * (0.5 + 0.5 * rng.random())


class Budget:
    """Bytes that may be held at once. Who takes more than the limit waits until nothing is held. One taker
    at a time."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def take(self, size_bytes: int) -> None:
        while self._held_bytes and self._held_bytes + size_bytes > self._limit_bytes:
            self._changed.clear()
            await self._changed.wait()
        self._held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes
        self._changed.set()


class Pace:
    """For long work on the loop: rest now and then, so that no turn is long."""

    def __init__(self, slice_s: float = 0.002) -> None:
        self._slice_s = slice_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def rest(self) -> None:
        if self._loop.time() - self._began >= self._slice_s:
            await asyncio.sleep(0)
            self._began = self._loop.time()
