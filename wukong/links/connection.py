"""One TCP connection between two nodes: handshake, then sealed frames both ways, pings, and an end.

A connection knows no other; what has to be decided among all of them is its owner's. The dialer's connection carries
messages, the listener writes nothing to it but pings and facts.
"""

import asyncio
import logging
import secrets
from collections import deque
from typing import NamedTuple, Protocol, cast

from wukong.errors import FrameTooLarge
from wukong.links import handshake
from wukong.links.counters import LinkCounters
from wukong.links.frames import (
    OVERHEAD_BYTES,
    FrameReader,
    Malformed,
    Message,
    Opener,
    Sealer,
    Unauthentic,
    frame,
    join_messages,
    split_messages,
)
from wukong.links.handshake import Answering, Dialing, HandshakeRefused, Reason
from wukong.links.notices import Notices
from wukong.links.options import LinkOptions

_PING = join_messages([])
_REFUSED_COUNTERS = {
    Reason.MALFORMED: "refused_malformed",
    Reason.VERSION: "refused_version",
    Reason.IDENTITY: "refused_identity",
    Reason.PROOF: "refused_proof",
    Reason.STRANGER: "refused_stranger",
}


class Shared(NamedTuple):
    """What all connections of one node have in common."""

    node_id: int
    secret: bytes
    options: LinkOptions
    counters: LinkCounters
    notices: Notices


class Owner(Protocol):
    """Who decides about connections. Called on the loop, in the order of events of each connection."""

    def opened(self, connection: "Connection") -> None: ...
    def admits(self, connection: "Incoming") -> bool:
        """Whether a proven node may be let in."""
        ...

    def up(self, connection: "Connection") -> None: ...
    def heard(self, connection: "Connection", messages: list[Message]) -> None: ...
    def lost(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """What both sides share.

    node: who is at the other end; proven once `is_up`. is_closed: nothing more is read, queued or written, except what
    `end` has left to write.
    """

    def __init__(self, shared: Shared, owner: Owner, node: int) -> None:
        self.node = node
        self.is_up = False
        self.was_up = False
        self.is_closed = False
        self.queued_bytes = 0
        self.lost = asyncio.Event()
        self._shared = shared
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(handshake.FRAME_LIMIT_BYTES)
        self._sealer: Sealer
        self._opener: Opener
        self._queue: deque[bytes] = deque()
        self._is_paused = False
        self._is_due = False
        self._is_ending = False
        self._age_ticks = 0
        self._silent_ticks = 0
        self._idle_ticks = 0

    # --- for the owner ---------------------------------------------------------------------------------------------

    def allow_messages(self, on: bool) -> None:
        """Whether the other end may send as much as a peer, or only as much as facts need."""
        options = self._shared.options
        payload = options.message_limit_bytes if on else max(options.facts_limit_bytes, options.frame_bytes)
        self._reader.limit_bytes = payload + OVERHEAD_BYTES

    def queue(self, message: bytes) -> bool:
        """An encoded message, written with all others of this turn. False: over the limit, not queued."""
        size = len(message)
        if self.queued_bytes + size > self._shared.options.queue_limit_bytes:
            return False
        self._queue.append(message)
        self.queued_bytes += size
        if not self._is_due and not self._is_paused:
            self._is_due = True
            self._loop.call_soon(self._pump)
        return True

    def end(self) -> None:
        """Close as soon as what is queued is written; who waits longer than he likes calls `abort`."""
        if self.is_closed or not self.is_up:
            self.abort()
            return
        self._is_ending = True
        if not self._is_paused:
            self._pump()

    def abort(self) -> None:
        """Close now; what is queued is lost."""
        self._close()
        if self._transport is not None:
            self._transport.abort()

    def violate(self, counter: str, text: str, level: int = logging.WARNING) -> None:
        """Counts, says and closes. The text goes on after "link from node 3"."""
        self._count(counter)
        self._say(level, counter, text)
        self.abort()

    def tick(self) -> None:
        options = self._shared.options
        self._age_ticks += 1
        if self.is_closed:
            self.abort()  # a refusal that could not be written within a tick
        elif not self.is_up:
            if self._age_ticks > options.ticks(options.handshake_timeout_ms):
                self.violate("handshake_timeouts", "did not finish its handshake in time", logging.INFO)
        else:
            # Ticks instead of time: while this process did not run nobody was silent.
            self._silent_ticks += 1
            self._idle_ticks += 1
            frame_ms = 1_000 * self._reader.awaited_bytes // options.slowest_bytes_per_s
            if self._silent_ticks > options.ticks(options.silence_ms + frame_ms):
                self.violate("silent", f"had no whole frame for {options.silence_ms + frame_ms} ms")
            elif self._idle_ticks >= options.ticks(options.ping_ms) and not self._is_paused and not self._is_ending:
                self._write(_PING, 0)

    # --- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._shared.options.transport_bytes)
        if self.is_closed:
            self._transport.abort()
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self._reader.receive(data)
        try:
            while not self.is_closed and (body := self._reader.next_frame()) is not None:
                if self.is_up:
                    self._receive(body)
                else:
                    self._shake(bytes(body))
        except FrameTooLarge as fault:
            self.violate("oversized", f"sent too much: {fault}")
        except Unauthentic as fault:
            self.violate("unauthentic", f"was tampered with: {fault}")
        except Malformed as fault:
            self.violate("malformed", f"sent nonsense: {fault}")
        except HandshakeRefused as refused:
            self._refuse(refused)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if not self._is_due and (self._queue or self._is_ending):
            self._is_due = True
            self._loop.call_soon(self._pump)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()
        self._transport = None
        self.lost.set()
        self._owner.lost(self)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _shake(self, body: bytes) -> None:
        raise NotImplementedError

    def _come_up(self, sealer: Sealer, opener: Opener) -> None:
        self._sealer, self._opener = sealer, opener
        self.is_up = self.was_up = True
        self._owner.up(self)

    def _receive(self, body: memoryview) -> None:
        counters = self._shared.counters
        counters.in_frames += 1
        counters.in_bytes += len(body) + 4
        messages = split_messages(self._opener.open(body))
        # Only now: a length changed on the way would keep a link that is deaf alive with bytes that fill nothing.
        self._silent_ticks = 0
        counters.in_messages += len(messages)
        if messages:
            self._owner.heard(self, messages)

    def _pump(self) -> None:
        """Seal and write what is queued, as much as one turn may and the socket takes."""
        self._is_due = False
        sealed_bytes = 0
        while self._queue and not self._is_paused and sealed_bytes < self._shared.options.slice_bytes:
            messages, size = self._cut()
            sealed_bytes += size
            self._write(join_messages(messages), len(messages))
        if self._queue:
            if not self._is_paused:
                self._is_due = True
                self._loop.call_soon(self._pump)
        elif self._is_ending and not self.is_closed:
            self._close()
            if self._transport is not None:
                # Not `close`: with a ping or facts unread here that resets the connection, and the other end loses what
                # it has not read. It closes when it has.
                self._transport.write_eof()

    def _cut(self) -> tuple[list[bytes], int]:
        """The messages of the next frame and their bytes."""
        limit_bytes = self._shared.options.frame_bytes
        queue = self._queue
        if self.queued_bytes <= limit_bytes:
            messages, size = list(queue), self.queued_bytes
            queue.clear()
        else:
            messages = [queue.popleft()]
            size = len(messages[0])
            while queue and size + len(queue[0]) <= limit_bytes:
                size += len(queue[0])
                messages.append(queue.popleft())
        self.queued_bytes -= size
        return messages, size

    def _write(self, body: bytes, message_count: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        header, sealed = self._sealer.seal(body)
        self._transport.writelines((header, sealed))
        self._idle_ticks = 0
        counters = self._shared.counters
        counters.out_frames += 1
        counters.out_messages += message_count
        counters.out_bytes += len(header) + len(sealed)

    def _write_plain(self, body: bytes) -> None:
        if body and self._transport is not None:
            self._transport.write(frame(body))

    def _refuse(self, refused: HandshakeRefused) -> None:
        self._count("refused_by_peer" if refused.by_peer else _REFUSED_COUNTERS[refused.reason])
        # Anybody can cause MALFORMED; the others are an operator's to mend.
        level = logging.INFO if refused.reason is Reason.MALFORMED else logging.WARNING
        self._say(level, f"refused {refused.reason.name}", f"is refused: {refused}")
        self._write_plain(refused.answer)
        self._close()
        if self._transport is not None:
            self._transport.close()

    def _say(self, level: int, reason: str, text: str) -> None:
        raise NotImplementedError

    def _count(self, counter: str) -> None:
        setattr(self._shared.counters, counter, getattr(self._shared.counters, counter) + 1)

    def _close(self) -> None:
        self.is_closed = True
        self.is_up = False
        self._queue.clear()
        self.queued_bytes = 0
        self._reader = FrameReader(0)


class Outgoing(Connection):
    """The dialer's side: carries this node's messages to `node`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.is_closed:
            return
        self._dialing = Dialing(
            secret=self._shared.secret,
            node=self._shared.node_id,
            target=self.node,
            nonce=secrets.token_bytes(handshake.NONCE_BYTES),
        )
        self._write_plain(self._dialing.hello)

    def _shake(self, body: bytes) -> None:
        self._write_plain(self._dialing.receive(body))
        if (keys := self._dialing.keys) is not None:
            self._come_up(Sealer(keys.dialer), Opener(keys.listener))

    def _say(self, level: int, reason: str, text: str) -> None:
        self._shared.notices.say(level, (f"to {reason}", self.node), f"link to node {self.node} {text}")


class Incoming(Connection):
    """The listener's side; `node` is 0 until it has proven itself."""

    def __init__(self, shared: Shared, owner: Owner) -> None:
        super().__init__(shared, owner, 0)
        self._answering = Answering(
            secret=shared.secret, node=shared.node_id, nonce=secrets.token_bytes(handshake.NONCE_BYTES)
        )

    def _shake(self, body: bytes) -> None:
        answering = self._answering
        self._write_plain(answering.receive(body))
        if (keys := answering.keys) is None:
            return
        self.node = answering.peer
        if not self._owner.admits(self):
            text = f"node {self.node} is not known here"
            raise HandshakeRefused(Reason.STRANGER, text, answer=handshake.refusal(Reason.STRANGER))
        self._write_plain(answering.welcome)
        self._come_up(Sealer(keys.listener), Opener(keys.dialer))

    def _say(self, level: int, reason: str, text: str) -> None:
        where = self._transport.get_extra_info("peername") if self._transport is not None else None
        who = f"node {self.node}" if self.node else "a stranger"
        # An address is not part of the key: whoever connects chooses his port.
        self._shared.notices.say(level, (f"from {reason}", self.node), f"link from {who} at {where} {text}")
