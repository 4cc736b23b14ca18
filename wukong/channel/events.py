"""Events of a message that is answered piece by piece: lanes, their states and their texts. http-api.md section 10.

A message (channel, client_msg_no; it need not exist) has lanes, each with the state of its last stored event and with
its content: a text to which deltas are appended, or a snapshot in JSON, kept as bytes. A delta writes one piece of the
text, never the text so far; 32 pieces become one, 32 of those again, so a text is written about log32(pieces) times and
its pieces are found by arithmetic. A lane that takes deltas is in a queue by the time it was last used; whatever ends
that (a terminal event, ten minutes, too many lanes) joins its pieces, and nothing that can be read changes.
"""

from collections.abc import Iterator

import msgspec

from wukong import limits
from wukong.channel.commands import (
    EVENT_CANCEL,
    EVENT_CLOSE,
    EVENT_DELTA,
    EVENT_ERROR,
    EVENT_FINISH,
    EVENT_LATE,
    EVENT_OPEN,
    EVENT_SNAPSHOT,
    EVENT_TOO_LONG,
    EVENT_TOO_MANY_LANES,
    PostedEvent,
    PostEvent,
    Reply,
)
from wukong.channel.effects import EventPush
from wukong.channel.messages import message_by_number
from wukong.channel.state import State, after, channel_part, encode, part, read_channel_part, seq_part

MAIN_LANE = "main"
FINISH_LANE = "__finish__"

OPEN = "open"
_TERMINAL = {EVENT_CLOSE: "closed", EVENT_ERROR: "error", EVENT_CANCEL: "cancelled", EVENT_FINISH: "closed"}
_ENDED = frozenset(_TERMINAL.values())

# Pieces that become one.
_FAN = 32
# A lane moves to the end of the queue at most this often, so it stays there for 10 to 12 minutes after its last use.
_QUEUE_GRAIN_MS = limits.MINUTE_MS
_EXPIRED_PER_EVENT = 2


class Thread(msgspec.Struct, array_like=True, gc=False):
    """All events of one message. seq: of the last stored one. from_uid, message_id: what events without them get."""

    seq: int = 0
    lanes: int = 0
    finished: bool = False
    from_uid: str = ""
    message_id: int = 0


class Lane(msgspec.Struct, array_like=True, gc=False):
    """status: open after a delta, closed, error or cancelled after a terminal event, "" before any of them. Everything
    but the status is of the last stored event; seq 0: there was none. shape: what a text's snapshot has besides its
    text (a JSON object), empty for only that."""

    status: str = ""
    seq: int = 0
    event_id: str = ""
    event_type: str = ""
    visibility: str = ""
    occurred_at: int = 0
    end_reason: int = 0
    error: str = ""
    shape: bytes = b""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


class Tail(msgspec.Struct, array_like=True, gc=False):
    """What changes with each delta. pieces: written so far; some are one by now. queued_ms: under which time the lane
    is in the queue, 0 for not at all."""

    is_text: bool = True
    pieces: int = 0
    bytes: int = 0
    queued_ms: int = 0


class Content(msgspec.Struct, frozen=True, gc=False):
    """A snapshot: the text with its shape (see Lane), or other JSON."""

    is_text: bool
    data: bytes
    shape: bytes = b""


class LaneView(msgspec.Struct, frozen=True, gc=False):
    """content None: the lane has none, or it was not asked for. content_bytes: its size in any case."""

    key: str
    lane: Lane
    content_bytes: int
    content: Content | None


class EventMeta(msgspec.Struct, frozen=True, gc=False):
    """The lanes of a message in the order of their keys, without the one of stream.finish; finished: it has that."""

    seq: int
    finished: bool
    lanes: list[LaneView]


_decode_thread = msgspec.msgpack.Decoder(Thread).decode
_decode_lane = msgspec.msgpack.Decoder(Lane).decode
_decode_tail = msgspec.msgpack.Decoder(Tail).decode

_NO_TAIL = encode(Tail())


def post_event(state: State, command: PostEvent) -> Reply:
    _settle_expired(state)
    message = channel_part(command.channel) + part(command.client_msg_no)
    thread_key = b"v" + message
    row = state.get(thread_key)
    thread = Thread() if row is None else _decode_thread(row)
    entry = _Entry(state, message, command.event_key)
    lane = entry.lane
    is_delta = command.kind == EVENT_DELTA
    if is_delta and (thread.finished or lane.ended):
        return Reply(EVENT_LATE)
    is_counted = entry.is_new and command.event_key != FINISH_LANE
    if is_counted and thread.lanes >= limits.MAX_EVENT_LANES:
        return Reply(EVENT_TOO_MANY_LANES)
    repeated = not is_delta and (lane.ended or (lane.seq > 0 and lane.event_id == command.event_id))
    if not repeated:
        if not entry.take_content(command):
            return Reply(EVENT_TOO_LONG)
        _take_status(state, command, thread, lane)
        thread.lanes += is_counted
        entry.write(is_open=is_delta or (entry.tail.queued_ms > 0 and not lane.ended))
    from_uid, message_id = _author(state, command, thread)
    if (written := encode(thread)) != row:
        state.put(thread_key, written)
    state.effects.append(
        EventPush(
            command.channel,
            command.shown_id,
            command.client_msg_no,
            command.event_key,
            command.event_id,
            command.event_type,
            from_uid,
            message_id,
            lane.seq,
            lane.status,
            command.visibility,
            command.occurred_at,
            command.payload,
        )
    )
    return Reply(duplicate=repeated, event=PostedEvent(lane.seq, lane.status, from_uid, message_id))


def _take_status(state: State, command: PostEvent, thread: Thread, lane: Lane) -> None:
    if command.kind == EVENT_DELTA:
        lane.status = OPEN
        return
    thread.seq += 1
    lane.seq = thread.seq
    lane.event_id = command.event_id
    lane.event_type = command.event_type.strip().lower()
    lane.visibility = command.visibility
    lane.occurred_at = command.occurred_at or state.now_ms
    if command.kind == EVENT_OPEN:
        lane.status = OPEN
    elif command.kind in _TERMINAL:
        lane.status = _TERMINAL[command.kind]
        lane.end_reason, lane.error = command.end_reason, command.error
        thread.finished = thread.finished or command.kind == EVENT_FINISH


def _author(state: State, command: PostEvent, thread: Thread) -> tuple[str, int]:
    """As given, as given before, of the stored message with this number; else the system account and 0."""
    thread.from_uid = command.from_uid or thread.from_uid
    thread.message_id = command.message_id or thread.message_id
    if not (thread.from_uid and thread.message_id):
        message = message_by_number(state, channel_part(command.channel), command.client_msg_no)
        if message is not None:
            thread.from_uid = thread.from_uid or message.from_uid
            thread.message_id = thread.message_id or message.message_id
    return thread.from_uid or state.settings.system_uid, thread.message_id


# -- one lane --


def _live_pieces(pieces: int) -> Iterator[int]:
    """Numbers of the rows that hold the text after so many pieces: a row has the number of its last piece."""
    size = _FAN**4
    at = 0
    while size:
        while at + size <= pieces:
            at += size
            yield at
        size //= _FAN


class _Entry:
    """A lane with its rows, for one command."""

    def __init__(self, state: State, message: bytes, key: str) -> None:
        self._state = state
        self._lane_key = b"v" + message + key.encode()
        self._pieces = b"T" + message + part(key)
        self._queue_suffix = message + key.encode()
        self._lane_row, self._tail_row = state.get_many([self._lane_key, self._pieces])
        self.is_new = self._lane_row is None
        self.lane = Lane() if self._lane_row is None else _decode_lane(self._lane_row)
        self.tail = Tail() if self._tail_row is None else _decode_tail(self._tail_row)

    def take_content(self, command: PostEvent) -> bool:
        """Change the content as the event says. False: it would be too long, and nothing is changed."""
        kind, text, tail = command.kind, command.text, self.tail
        data = command.content
        if kind == EVENT_DELTA and text is not None and (tail.is_text or not text):
            return self._append(text.encode())
        if kind == EVENT_DELTA and text is None and tail.is_text and tail.bytes:
            # What a model tells besides what it writes must not cost what it wrote.
            return True
        if kind in (EVENT_DELTA, EVENT_SNAPSHOT):
            data = data or command.payload
        elif kind not in _TERMINAL or self.content_bytes:
            return True
        if text is not None:
            return self._replace(text.encode(), is_text=True, shape=command.content)
        return not data or self._replace(data, is_text=False)

    def _append(self, data: bytes) -> bool:
        tail = self.tail
        if tail.bytes + len(data) > limits.MAX_EVENT_LANE_BYTES:
            return False
        if not data:
            return True
        before = tail.pieces
        tail.pieces = number = before + 1
        tail.bytes += len(data)
        size = _FAN
        while number % (size * _FAN) == 0:
            size *= _FAN
        if number % size == 0:
            rows = [self._piece_key(piece) for piece in _live_pieces(before) if piece > number - size]
            data = self._joined(rows) + data
            for row in rows:
                self._state.delete(row)
        self._state.put(self._piece_key(number), data)
        return True

    def _replace(self, data: bytes, *, is_text: bool, shape: bytes = b"") -> bool:
        if len(data) + len(shape) > limits.MAX_EVENT_LANE_BYTES:
            return False
        for row in self._rows():
            self._state.delete(row)
        tail = self.tail
        tail.is_text, tail.pieces, tail.bytes = is_text, 1 if data else 0, len(data)
        self.lane.shape = shape
        if data:
            self._state.put(self._piece_key(1), data)
        return True

    def write(self, *, is_open: bool) -> None:
        """Write the rows; an open lane is in the queue, of another one the pieces are joined."""
        if is_open:
            self._queue()
        else:
            self._settle()
        row = encode(self.lane)
        if row != self._lane_row:
            self._state.put(self._lane_key, row)
        row = encode(self.tail)
        if row != (self._tail_row or _NO_TAIL):
            self._state.put(self._pieces, row)

    def _queue(self) -> None:
        state, tail = self._state, self.tail
        if tail.queued_ms and state.now_ms - tail.queued_ms < _QUEUE_GRAIN_MS:
            return
        if tail.queued_ms:
            state.delete(self._queue_key())
        else:
            if state.slot_row.open_lanes >= limits.MAX_OPEN_EVENT_LANES:
                _settle_longest_unused(state)
            state.slot_row.open_lanes += 1
        tail.queued_ms = state.now_ms
        state.put(self._queue_key(), b"")

    def _settle(self) -> None:
        """It takes no deltas any more, or none for long: one row is enough."""
        state, tail = self._state, self.tail
        if tail.queued_ms:
            state.delete(self._queue_key())
            state.slot_row.open_lanes -= 1
            tail.queued_ms = 0
        if tail.pieces > 1:
            rows = self._rows()
            data = self._joined(rows)
            for row in rows:
                state.delete(row)
            tail.pieces = 1
            state.put(self._piece_key(1), data)

    def drop(self) -> int:
        """Delete the content, and the place in the queue; returns how many rows went."""
        keys = self._rows()
        if self._tail_row is not None:
            keys.append(self._pieces)
        if self.tail.queued_ms:
            keys.append(self._queue_key())
            self._state.slot_row.open_lanes -= 1
        for key in keys:
            self._state.delete(key)
        return len(keys)

    @property
    def content_bytes(self) -> int:
        return self.tail.bytes + len(self.lane.shape)

    def content(self) -> Content | None:
        if not self.content_bytes:
            return None
        return Content(self.tail.is_text, self._joined(self._rows()), self.lane.shape)

    def _queue_key(self) -> bytes:
        return b"E" + seq_part(self.tail.queued_ms) + self._queue_suffix

    def _piece_key(self, number: int) -> bytes:
        return self._pieces + number.to_bytes(4, "big")

    def _rows(self) -> list[bytes]:
        return [self._piece_key(number) for number in _live_pieces(self.tail.pieces)]

    def _joined(self, rows: list[bytes]) -> bytes:
        return b"".join(row for row in self._state.get_many(rows) if row is not None)


def has_thread(state: State, part_: bytes, client_msg_no: str) -> bool:
    return state.get(b"v" + part_ + part(client_msg_no)) is not None


def drop_thread(state: State, part_: bytes, client_msg_no: str) -> int:
    """Delete all events of a message; returns how many rows went."""
    message = part_ + part(client_msg_no)
    prefix = b"v" + message
    keys = [key for key, _ in state.scan(prefix, after(prefix))]
    rows = len(keys)
    for key in keys[1:]:
        rows += _Entry(state, message, key[len(prefix) :].decode()).drop()
    for key in keys:
        state.delete(key)
    return rows


# -- the queue of lanes that take deltas --


def _settle_expired(state: State) -> None:
    """Two leave for each event that comes, so the queue shrinks again after a burst. It is looked at once a minute of
    the log's time, from where the last look stopped."""
    unused_since_ms = max(0, state.now_ms - limits.EVENT_LANE_IDLE_MS - _QUEUE_GRAIN_MS)
    end = b"E" + seq_part(unused_since_ms // _QUEUE_GRAIN_MS * _QUEUE_GRAIN_MS)
    row = state.slot_row
    if end <= row.lanes_from:
        return
    expired = state.scan(row.lanes_from, end, limit=_EXPIRED_PER_EVENT)
    for key, _ in expired:
        _settle_queued(state, key)
    row.lanes_from = expired[-1][0] + b"\x00" if len(expired) == _EXPIRED_PER_EVENT else end


def _settle_longest_unused(state: State) -> None:
    row = state.slot_row
    for key, _ in state.scan(row.lanes_from, after(b"E"), limit=1):
        _settle_queued(state, key)
        # Not behind the key itself: what is queued in the same millisecond may have a lower one.
        row.lanes_from = max(row.lanes_from, key[:9])


def _settle_queued(state: State, queue_key: bytes) -> None:
    _, end = read_channel_part(queue_key, 9)
    size = int.from_bytes(queue_key[end : end + 2], "big")
    end += 2 + size
    _Entry(state, queue_key[9:end], queue_key[end:].decode()).write(is_open=False)


# -- reading --


def meta_of(
    state: State, part_: bytes, client_msg_no: str, full: bool = True, *, content_limit_bytes: int = limits.MIB
) -> EventMeta | None:
    """The lanes of a message, None if it has none; with the content of the main one, full: of all, as long as those
    before and it have no more than content_limit_bytes together."""
    message = part_ + part(client_msg_no)
    prefix = b"v" + message
    rows = state.scan(prefix, after(prefix))
    if not rows:
        return None
    thread = _decode_thread(rows[0][1])
    lanes = []
    left = content_limit_bytes
    for key, _ in rows[1:]:
        name = key[len(prefix) :].decode()
        if name != FINISH_LANE:
            lanes.append(view := _view(state, message, name, left if full or name == MAIN_LANE else -1))
            left -= 0 if view.content is None else view.content_bytes
    return EventMeta(thread.seq, thread.finished, lanes)


def stored_lanes(
    state: State,
    part_: bytes,
    client_msg_no: str,
    *,
    after_seq: int,
    key: str = "",
    include_private: bool,
    limit: int,
    content_limit_bytes: int = 4 * limits.MIB,
) -> tuple[list[LaneView], bool]:
    """Lanes with a stored event above after_seq, by its seq, with their contents; of one key, if given. At most limit
    of them, and content_limit_bytes (but one); and whether there are more."""
    message = part_ + part(client_msg_no)
    prefix = b"v" + message
    found = []
    for lane_key, row in state.scan(prefix, after(prefix))[1:]:
        lane = _decode_lane(row)
        name = lane_key[len(prefix) :].decode()
        if lane.seq > after_seq and key in ("", name) and (include_private or lane.visibility not in _HIDDEN):
            found.append((lane.seq, name))
    found.sort()
    views: list[LaneView] = []
    left = content_limit_bytes
    for _, name in found[: max(0, limit)]:
        view = _view(state, message, name, 2 * limits.MAX_EVENT_LANE_BYTES)
        left -= view.content_bytes
        if left < 0 and views:
            break
        views.append(view)
    return views, len(views) < len(found)


_HIDDEN = ("private", "restricted")


def _view(state: State, message: bytes, name: str, left_bytes: int) -> LaneView:
    entry = _Entry(state, message, name)
    wanted = entry.content_bytes <= left_bytes
    return LaneView(name, entry.lane, entry.content_bytes, entry.content() if wanted else None)
