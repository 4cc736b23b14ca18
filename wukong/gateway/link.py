"""The life of one client's socket: phases, deadlines, closing, pausing. What is said on it: endpoint.py.

    OPENING    no byte has come
    HANDSHAKE  until the CONNACK
    OPEN       logged in
    LEAVING    told to go; closes at its deadline
    CLOSING    what is written drains; aborted at the deadline
    GONE

A link is the asyncio protocol itself, has slots, and no task and no buffer while idle: a client may cost 10 KiB.
"""

import asyncio
import logging
from enum import Enum, auto
from typing import Final, cast

from wukong.dispatch.deliveries import CLIENT_CLOSED, CONNECTION_LOST, FENCED, IDLE, KICKED, LET_GO
from wukong.gateway.frames import CloseCode
from wukong.gateway.hub import Hub
from wukong.gateway.options import TRANSPORT_BUFFER_BYTES
from wukong.gateway.proxies import Peer

log = logging.getLogger(__name__)


class Phase(Enum):
    OPENING = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    LEAVING = auto()
    CLOSING = auto()
    GONE = auto()


# Looked at for every read and write, so without the way through the class.
OPENING: Final = Phase.OPENING
HANDSHAKE: Final = Phase.HANDSHAKE
OPEN: Final = Phase.OPEN
LEAVING: Final = Phase.LEAVING
CLOSING: Final = Phase.CLOSING
GONE: Final = Phase.GONE


class Link(asyncio.Protocol):
    """wheel_bucket: owned by the wheel. peer: the client's own address, as the socket or a trusted proxy tells it."""

    __slots__ = (
        "_connected_at",
        "_deadline",
        "_epoch",
        "_hub",
        "_last_read_at",
        "_phase",
        "_reading_paused",
        "_transport",
        "_why",
        "_write_paused",
        "peer",
        "wheel_bucket",
    )

    kind: str = ""
    """tcp, ws or wss."""

    _transport: asyncio.Transport

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._epoch = hub.epoch
        self._phase = OPENING
        self.peer: Peer = ("", 0)
        self.wheel_bucket = 0
        self._connected_at = self._last_read_at = self._deadline = 0.0
        self._reading_paused = False
        self._write_paused = False
        self._why = ""

    # The transport's calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        hub = self._hub
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        # A TLS handshake may have taken its time.
        self._epoch = hub.epoch
        hub.counters.accepted += 1
        if hub.is_stopping or hub.is_refusing or len(hub.wheel) >= hub.options.connections_limit:
            hub.counters.rejected += 1
            self._phase = GONE
            transport.abort()
            return
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = peer[0], peer[1]
        transport.set_write_buffer_limits(high=TRANSPORT_BUFFER_BYTES)
        now = hub.monotonic()
        self._connected_at = self._last_read_at = now
        self._deadline = now + hub.options.first_byte_timeout_ms / 1000
        hub.wheel.add(self, self._deadline)
        hub.empty.clear()
        self._begin(from_proxy=hub.trusted_proxies.trusts(self.peer[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is GONE:
            return
        self._why = self._why or (CONNECTION_LOST if exc else CLIENT_CLOSED)
        self._leave()
        self._forget()
        self._phase = GONE
        wheel = self._hub.wheel
        wheel.remove(self)
        if not len(wheel):
            self._hub.empty.set()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False

    # What is said above ----------------------------------------------------------------------------------------------

    def _begin(self, *, from_proxy: bool) -> None:
        """The socket is there. from_proxy: a PROXY header of this peer counts."""
        raise NotImplementedError

    def _leave(self) -> None:
        """The session is over. May be called again."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of all that waits to be read or written."""
        raise NotImplementedError

    def _is_deciding(self) -> bool:
        """A CONNECT has come and waits for its answer."""
        raise NotImplementedError

    # What is done below, by TCP and WebSocket ------------------------------------------------------------------------

    def _write(self, frame: bytes) -> None:
        raise NotImplementedError

    def _write_many(self, frames: list[bytes]) -> None:
        """In one write."""
        raise NotImplementedError

    def _hang_up(self, code: CloseCode) -> None:
        """Close the socket when what was written is out. Called once."""
        raise NotImplementedError

    # Deadlines -------------------------------------------------------------------------------------------------------

    def _first_byte(self) -> None:
        if self._phase is OPENING:
            self._phase = HANDSHAKE
            self._set_deadline(self._hub.options.handshake_timeout_ms)

    def _set_deadline(self, after_ms: int) -> None:
        hub = self._hub
        self._deadline = hub.monotonic() + after_ms / 1000
        hub.wheel.move(self, self._deadline)

    def check(self, now: float) -> float | None:
        """For the wheel."""
        due = self._deadline
        if self._phase is OPEN:
            # Whom we do not read from cannot prove that he is alive.
            last_at = now if self._reading_paused else self._last_read_at
            due = last_at + self._hub.options.idle_timeout_ms / 1000
        if now < due:
            return due
        self._expire()
        return None if self._phase is GONE else self._deadline

    def _expire(self) -> None:
        phase = self._phase
        if phase is CLOSING:
            self._transport.abort()
        elif phase is LEAVING:
            self.close(CloseCode.NORMAL, KICKED)
        elif phase is HANDSHAKE and self._is_deciding():
            self._close_unanswered()
        else:
            self._hub.counters.timeouts += 1
            self.close(CloseCode.NORMAL if phase is OPEN else CloseCode.POLICY, IDLE)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _stop_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._hub.counters.paused += 1
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    # The end ---------------------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._phase is CLOSING or self._phase is GONE

    @property
    def is_condemned(self) -> bool:
        """All clients of its time are let go: its turn comes soon, and until then nothing may leave or be taken."""
        return self._epoch != self._hub.epoch

    def close(self, code: CloseCode, why: str) -> None:
        """Close the socket; what has been written still leaves, what is queued does not. code: for WebSocket. why: for
        whoever asks later; the first reason counts."""
        if self.is_closing:
            return
        self._why = self._why or why
        self._leave()
        self._forget()
        self._phase = CLOSING
        self._set_deadline(self._hub.options.linger_ms)
        self._hang_up(code)

    def drop(self) -> None:
        """Close in a way that makes SDKs come again."""
        if not self.is_closing:
            self._hub.counters.dropped += 1
            self.close(CloseCode.TRY_AGAIN, FENCED if self.is_condemned else LET_GO)

    def abort(self) -> None:
        """Close the socket at once; what is written may be lost."""
        if self._phase is not GONE:
            self._transport.abort()

    def _close_unanswered(self) -> None:
        """A login without a CONNACK, because SDKs take a refusal as final."""
        if self._phase is HANDSHAKE:
            self._hub.counters.unanswered_logins += 1
            self.close(CloseCode.TRY_AGAIN, LET_GO)
