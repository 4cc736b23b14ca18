"""What the connections of one gateway share: the way to the use cases, sessions by number, limits, timers, counters."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from wukong.clock import Clock
from wukong.gateway.admission import Admission
from wukong.gateway.options import GatewayOptions
from wukong.gateway.outbox import Outbox
from wukong.gateway.proxies import TrustedProxies
from wukong.gateway.statistics import Counters
from wukong.gateway.wheel import Wheel
from wukong.protocol.connection import ConnectionOptions
from wukong.protocol.packets import Recvack, Send
from wukong.service.sessions import Login

if TYPE_CHECKING:
    from wukong.gateway.endpoint import Endpoint

log = logging.getLogger(__name__)

_CHECKS_PER_TURN = 1_000
_DROPS_PER_TURN = 100
_CONGESTED_DROP_PAUSE_S = 0.01


class SessionService(Protocol):
    """What the gateway asks of the use cases; fulfilled by wukong.service.sessions.Sessions, documented there."""

    def new_number(self) -> int: ...

    async def login(self, number: int, login: Login) -> int: ...

    def logout(self, number: int, uid: str) -> None: ...

    def send(self, number: int, uid: str, packet: Send, received_at: float) -> None: ...

    def recvack(self, number: int, uid: str, packet: Recvack) -> None: ...

    @property
    def congested(self) -> bool: ...

    def when_relieved(self, callback: Callable[[], None]) -> None: ...


def nobody_asks(number: int, why: str) -> None:
    """Why sessions end is of no interest."""


class Hub:
    """Made inside the running loop, which is the only thread that may use it."""

    def __init__(
        self,
        *,
        node_id: int,
        sessions: SessionService,
        clock: Clock,
        connection_options: ConnectionOptions,
        options: GatewayOptions,
        trusted_proxies: TrustedProxies,
        on_end: Callable[[int, str], None] = nobody_asks,
    ) -> None:
        self.node_id = node_id
        self.on_end = on_end
        """Told the number of each session that is over, before its logout, and why."""
        self.sessions = sessions
        self.clock = clock
        self.monotonic = clock.monotonic
        self.connection_options = connection_options
        self.options = options
        self.trusted_proxies = trusted_proxies
        self.counters = Counters()
        self.loop = asyncio.get_running_loop()
        self.by_number: dict[int, Endpoint] = {}
        # Sessions that were told to go and whose socket is still open; nothing is pushed to them.
        self.leaving: dict[int, Endpoint] = {}
        # Sessions that are over all at once: nothing is said to them, and their sockets are closed little by little.
        self.condemned: dict[int, Endpoint] = {}
        self.epoch = 0
        """An endpoint of an earlier epoch is to be closed before anything else happens on it."""
        self._to_drop: deque[Endpoint] = deque()
        self._is_dropping = False
        self.wheel = Wheel(tick_s=options.tick_ms / 1000, now=clock.monotonic())
        self.admission = Admission(
            in_progress_limit=options.logins_in_progress_limit, waiting_limit=options.logins_waiting_limit
        )
        self.outbox = Outbox(
            loop=self.loop,
            clock=clock,
            slice_s=options.slice_ms / 1000,
            sessions_limit=options.slice_sessions_limit,
            direct_limit=options.direct_writes_limit,
        )
        self.is_stopping = False
        # New sockets are closed unanswered: this node cannot serve them now.
        self.is_refusing = False
        # Set while the last connection is gone; stop waits for it.
        self.empty = asyncio.Event()
        self.empty.set()
        self._slice_s = options.slice_ms / 1000
        # Sessions that have just got their CONNACK, oldest first, with the time of their first push.
        self._starting: deque[tuple[float, Endpoint]] = deque()
        # Sessions whose SENDs wait until the log is no longer congested, in order.
        self._congested: dict[Endpoint, None] = {}
        self._awaits_relief = False
        # Ids for SENDs that never reach the log: unique, and far below every real message id.
        self._last_refusal = clock.now_ms() * 1000

    def next_refusal_id(self) -> int:
        self._last_refusal += 1
        return self._last_refusal

    # Timers ----------------------------------------------------------------------------------------------------------

    def start_timers(self) -> None:
        self._ticker = self.loop.call_later(self.options.tick_ms / 1000, self._tick)

    def stop_timers(self) -> None:
        self._ticker.cancel()

    def _tick(self) -> None:
        more = self.wheel.advance(self.monotonic(), _CHECKS_PER_TURN)
        self._ticker = self.loop.call_later(0 if more else self.options.tick_ms / 1000, self._tick)

    def push_later(self, endpoint: "Endpoint") -> None:
        """Let its pushes begin after push_delay_ms."""
        delay_s = self.options.push_delay_ms / 1000
        if not self._starting:
            self.loop.call_later(delay_s, self._start_pushes)
        self._starting.append((self.loop.time() + delay_s, endpoint))

    def _start_pushes(self) -> None:
        starting = self._starting
        now = self.loop.time()
        while starting and starting[0][0] <= now:
            starting.popleft()[1].start_pushes()
        if starting:
            self.loop.call_later(starting[0][0] - now, self._start_pushes)

    # Letting go ------------------------------------------------------------------------------------------------------

    def condemn_all(self) -> None:
        """From now on nothing is pushed or answered to whoever is connected, nothing of theirs is taken, and no login
        under way comes to an end. Their sockets are closed in slices."""
        self.epoch += 1
        self.admission.end_all()
        if self.condemned:
            self.condemned.update(self.by_number)
            self.by_number = {}
        else:
            self.condemned, self.by_number = self.by_number, self.condemned
        self.condemned.update(self.leaving)
        self.leaving.clear()
        self._to_drop = deque(cast("list[Endpoint]", self.wheel.entries()))
        self._begin_dropping()

    def drop_some(self, count: int) -> int:
        """Close so many sockets in slices, none that is closing already. Returns how many will be: none while earlier
        ones still wait for their turn."""
        if self._to_drop:
            return 0
        open_ones = (entry for entry in cast("Iterable[Endpoint]", self.wheel) if not entry.is_closing)
        self._to_drop.extend(islice(open_ones, count))
        chosen = len(self._to_drop)
        self._begin_dropping()
        return chosen

    def _begin_dropping(self) -> None:
        if not self._is_dropping:
            self._is_dropping = True
            self._drop_slice()

    def _drop_slice(self) -> None:
        """Each close asks for a logout in the next turn, so a slice costs about twice its time."""
        waiting = self._to_drop
        end = self.monotonic() + self._slice_s
        for _ in range(min(_DROPS_PER_TURN, len(waiting))):
            try:
                waiting.popleft().drop()
            except Exception:
                # One broken socket must not keep the others connected.
                log.exception("a client's socket could not be closed")
            if self.monotonic() >= end:
                break
        if not waiting:
            self._is_dropping = False
        elif self.sessions.congested:
            # Logouts must not crowd out what clients that come back want of the log.
            self.loop.call_later(_CONGESTED_DROP_PAUSE_S, self._drop_slice)
        else:
            self.loop.call_soon(self._drop_slice)

    # Congestion ------------------------------------------------------------------------------------------------------

    def wait_for_relief(self, endpoint: "Endpoint") -> None:
        """Call its `go_on` when the log takes SENDs again. Call this while `sessions.congested`."""
        self._congested[endpoint] = None
        self._await_relief()

    def _await_relief(self) -> None:
        if not self._awaits_relief:
            self._awaits_relief = True
            self.sessions.when_relieved(self._relieved)

    def _relieved(self) -> None:
        # Called from the middle of an apply; what follows proposes again, so not here.
        self._awaits_relief = False
        self.loop.call_soon(self._resume_congested)

    def _resume_congested(self) -> None:
        """In slices, the longest waiting first, until there is congestion again."""
        waiting = self._congested
        end = self.monotonic() + self._slice_s
        while waiting and not self.sessions.congested:
            if self.monotonic() >= end:
                self.loop.call_soon(self._resume_congested)
                return
            endpoint = next(iter(waiting))
            del waiting[endpoint]
            endpoint.go_on()
        if waiting:
            self._await_relief()
