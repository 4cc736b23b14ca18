"""The frames that leave on one client's socket: queued in order, sealed late, many in one write (outbox.py).

What waits is kept as it came: a push is shared between all its receivers, and is sealed for this one only when the
socket takes bytes. So a client that does not read costs no AES, and little memory until its limit.
"""

import logging
from typing import Final

from wukong.dispatch.deliveries import SLOW
from wukong.gateway.frames import CloseCode
from wukong.gateway.hub import Hub
from wukong.gateway.link import LEAVING, OPEN, Link
from wukong.gateway.options import TRANSPORT_BUFFER_BYTES
from wukong.protocol.codec import EncodeError
from wukong.protocol.connection import Connection
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.recv_frame import RecvView

log = logging.getLogger(__name__)

Push = RecvView | SharedEvent
_Item = bytes | Push

_ITEM_BYTES: Final = 64  # what an entry of a queue costs besides its content
_FRAME_BYTES: Final = 128  # what a frame has besides its payload


def push_bytes(push: Push) -> int:
    """What a push takes on the wire and in a queue, about."""
    if type(push) is RecvView:
        return len(push.message.payload) * 4 // 3 + _FRAME_BYTES + _ITEM_BYTES
    assert type(push) is SharedEvent
    return len(push.packet.data) + _FRAME_BYTES + _ITEM_BYTES


def _item_bytes(item: _Item) -> int:
    return len(item) + _ITEM_BYTES if isinstance(item, bytes) else push_bytes(item)


class Outgoing(Link):
    __slots__ = (
        "_connection",
        "_flowing",
        "_is_marked",
        "_out",
        "_out_bytes",
        "_out_message_bytes",
        "_out_messages",
        "_out_packet_bytes",
        "_out_packets",
        "_pushing",
        "_uid",
    )

    _connection: Connection

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._uid = ""
        # Not written yet: nothing, one item, or several, oldest first. One is what a message to thousands leaves on
        # each of them: a list for each would cost time, and set the garbage collector going.
        self._out: _Item | list[_Item] | None = None
        self._out_bytes = 0
        # The outbox knows that there is something to write.
        self._is_marked = False
        # Pushes begin some milliseconds after the CONNACK. Flowing: what is queued may be written.
        self._pushing = False
        self._flowing = False
        self._out_messages = self._out_message_bytes = self._out_packets = self._out_packet_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """Queued, and not taken by the socket; about."""
        return self._out_bytes + self._transport.get_write_buffer_size()

    # Frames to the queue or to the socket ----------------------------------------------------------------------------

    def push(self, push: Push, size_bytes: int) -> None:
        """A RECV or an EVENT. size_bytes: `push_bytes` of it."""
        if self._flowing and self._out is None:
            outbox = self._hub.outbox
            if outbox.direct_left > 0:
                outbox.direct_left -= 1
                frame = self._seal(push)
                if frame is not None:
                    self._send(frame)
            else:
                # As _enqueue, without its calls: a message to thousands comes here for each of them.
                self._out = push
                self._out_bytes = size_bytes
                if not self._is_marked:
                    self._is_marked = True
                    outbox.mark(self)
            return
        self._enqueue(push, size_bytes)

    def _answer(self, frame: bytes) -> None:
        """The answer to a SEND: behind what is queued, together with what becomes ready in this turn."""
        outbox = self._hub.outbox
        if self._out is None and outbox.direct_left > 0 and not self._write_paused:
            outbox.direct_left -= 1
            self._send(frame)
        else:
            self._enqueue(frame, len(frame) + _ITEM_BYTES)

    def _reply(self, frames: list[bytes]) -> None:
        """Answers that need no log: behind what is queued, if anything is, else at once."""
        if self._out is None and not self._write_paused:
            if len(frames) == 1:
                self._send(frames[0])
            else:
                self._send_many(frames)
        else:
            for frame in frames:
                self._enqueue(frame, len(frame) + _ITEM_BYTES)

    def _enqueue(self, item: _Item, size_bytes: int) -> None:
        out = self._out
        self._out_bytes += size_bytes
        if out is None:
            self._out = item
            self._mark()
            return
        if isinstance(out, list):
            out.append(item)
        else:
            self._out = [out, item]
        limit_bytes = self._hub.options.outbound_limit_bytes
        if self._out_bytes + TRANSPORT_BUFFER_BYTES > limit_bytes and self.pending_bytes > limit_bytes:
            self._hub.counters.slow_closed += 1
            log.info("closing %s of %s: %d bytes wait to be read", self.peer, self._uid, self.pending_bytes)
            self.close(CloseCode.TRY_AGAIN, SLOW)

    # The queue to the socket -----------------------------------------------------------------------------------------

    def start_pushes(self) -> None:
        self._pushing = True
        self._update_flow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._flowing = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_flow()

    def _update_flow(self) -> None:
        self._flowing = self._pushing and not self._write_paused and (self._phase is OPEN or self._phase is LEAVING)
        self._mark()

    def _mark(self) -> None:
        if self._flowing and self._out is not None and not self._is_marked:
            self._is_marked = True
            self._hub.outbox.mark(self)

    def flush(self, limit_count: int) -> bool:
        """For the outbox."""
        self._is_marked = False
        out = self._out
        if out is None or not self._flowing or self.is_condemned:
            return False
        if isinstance(out, list) and len(out) > limit_count:
            batch = out[:limit_count]
            del out[:limit_count]
            self._out_bytes -= sum(map(_item_bytes, batch))
        else:
            batch = out if isinstance(out, list) else [out]
            self._drop_queue()
        frames = []
        for item in batch:
            frame = item if isinstance(item, bytes) else self._seal(item)
            if frame is not None:
                frames.append(frame)
        if len(frames) == 1:
            self._send(frames[0])
        elif frames:
            self._send_many(frames)
        # The write may have filled the socket.
        self._is_marked = self._flowing and self._out is not None
        return self._is_marked

    def _seal(self, push: Push) -> bytes | None:
        """None: this client cannot get it."""
        try:
            if type(push) is RecvView:
                frame = self._connection.recv(push)
                self._hub.counters.out_messages += 1
                self._out_messages += 1
                self._out_message_bytes += len(frame)
                return frame
            assert type(push) is SharedEvent
            return self._connection.event(push)
        except EncodeError as fault:
            self._hub.counters.unwritable += 1
            log.warning("a message for %s cannot be written: %s", self._uid, fault)
            return None

    def _send(self, frame: bytes) -> None:
        size = len(frame)
        self._out_packets += 1
        self._out_packet_bytes += size
        counters = self._hub.counters
        counters.out_packets += 1
        counters.out_bytes += size
        self._write(frame)

    def _send_many(self, frames: list[bytes]) -> None:
        size = sum(map(len, frames))
        self._out_packets += len(frames)
        self._out_packet_bytes += size
        counters = self._hub.counters
        counters.out_packets += len(frames)
        counters.out_bytes += size
        self._write_many(frames)

    def _drop_queue(self) -> None:
        self._out = None
        self._out_bytes = 0

    def _forget(self) -> None:
        self._flowing = False
        self._drop_queue()
