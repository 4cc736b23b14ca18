"""Events of messages that are answered piece by piece: posting them, and reading their lanes. http-api.md section 10,
behaviour.md section 15; what is kept and why: docs/design/events.md.

What a payload means is read here, once, where the request arrived; the log gets texts and JSON as bytes.
"""

from typing import Any, NamedTuple

import msgspec

from wukong.channel.commands import (
    EVENT_CANCEL,
    EVENT_CLOSE,
    EVENT_DELTA,
    EVENT_ERROR,
    EVENT_FINISH,
    EVENT_LATE,
    EVENT_OPEN,
    EVENT_OTHER,
    EVENT_SNAPSHOT,
    EVENT_TOO_LONG,
    EVENT_TOO_MANY_LANES,
    PostedEvent,
    PostEvent,
)
from wukong.channel.effects import Message
from wukong.channel.events import FINISH_LANE, MAIN_LANE, LaneView, meta_of, stored_lanes
from wukong.channel.ids import AGENT, PERSON, ChannelId, stored_channel
from wukong.channel.messages import message_by_number
from wukong.channel.state import State, channel_part
from wukong.errors import RequestRefused
from wukong.limits import MAX_EVENT_LANE_BYTES, MAX_EVENT_LANES, MAX_EVENT_PAYLOAD_BYTES, MAX_EVENT_SYNC_EVENTS, MIB
from wukong.service.messages import STREAM_SETTING, without_suffix
from wukong.service.replica import Pace, Replica, check_id
from wukong.service.shapes import MessageShape, content_json, with_events

DEFAULT_SYNC_EVENTS = 200
# What `event_summary_mode` says for lanes without their contents.
BASIC = "basic"
# Contents of lanes in one answer; beyond it messages come without them, as in basic mode. Those of one message are read
# in one piece.
ANSWER_CONTENT_BYTES = 32 * MIB
MESSAGE_CONTENT_BYTES = 4 * MIB

_KINDS = {
    "stream.open": EVENT_OPEN,
    "stream.delta": EVENT_DELTA,
    "stream.snapshot": EVENT_SNAPSHOT,
    "stream.close": EVENT_CLOSE,
    "stream.error": EVENT_ERROR,
    "stream.cancel": EVENT_CANCEL,
    "stream.finish": EVENT_FINISH,
}
_REFUSALS = {
    EVENT_LATE: "stream closed",
    EVENT_TOO_LONG: f"a stream's content has {MAX_EVENT_LANE_BYTES} bytes at most",
    EVENT_TOO_MANY_LANES: f"a message has {MAX_EVENT_LANES} streams at most",
}
_TEXT_SHAPE = {"kind": "text"}

# Chats of a person looked through between two looks at his list.
_SLICE = 256


class Meaning(NamedTuple):
    """What apply needs to know of a payload; the fields of PostEvent."""

    text: str | None = None
    content: bytes = b""
    end_reason: int = 0
    error: str = ""


def kind_of(event_type: str) -> int:
    return _KINDS.get(event_type.strip().lower(), EVENT_OTHER)


def meaning_of(kind: int, payload: bytes) -> Meaning:
    """payload: JSON, or empty."""
    try:
        value = msgspec.json.decode(payload) if payload else None
    except (msgspec.DecodeError, RecursionError):
        return Meaning()
    if not isinstance(value, dict):
        return Meaning()
    if kind == EVENT_DELTA:
        delta = value.get("delta")
        return Meaning(delta) if value.get("kind") == "text" and isinstance(delta, str) else Meaning()
    if kind == EVENT_SNAPSHOT:
        return _snapshot(value, as_given=True)
    if kind not in (EVENT_CLOSE, EVENT_ERROR, EVENT_CANCEL, EVENT_FINISH):
        return Meaning()
    error = value.get("error")
    own = value.get("snapshot")
    meaning = Meaning() if own is None else _snapshot(own, as_given=False)
    return meaning._replace(end_reason=_byte(value.get("end_reason")), error=error if isinstance(error, str) else "")


def _snapshot(value: Any, *, as_given: bool) -> Meaning:
    """as_given: the payload itself is the snapshot."""
    if isinstance(value, dict) and value.get("kind") == "text" and isinstance(value.get("text"), str):
        shape = {key: item for key, item in value.items() if key != "text"}
        # Without its shape, an empty text would be no content at all.
        is_plain = shape == _TEXT_SHAPE and value["text"] != ""
        return Meaning(value["text"], b"" if is_plain else msgspec.json.encode(shape))
    return Meaning(content=b"" if as_given else msgspec.json.encode(value))


def _byte(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 256:
        return 0
    return int(value)


class EventShape(msgspec.Struct, frozen=True):
    """An entry of eventsync: a lane with its last stored event; payload is its content."""

    msg_event_seq: int
    event_id: str
    event_key: str
    event_type: str
    visibility: str
    occurred_at: int
    payload: msgspec.Raw


class EventPage(NamedTuple):
    next_seq: int
    more: bool
    events: list[EventShape]


class Events:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    # -- posting --

    async def post(
        self,
        *,
        channel_id: str,
        channel_type: int,
        client_msg_no: str,
        event_id: str,
        event_type: str,
        event_key: str = "",
        from_uid: str = "",
        message_id: int = 0,
        visibility: str = "",
        occurred_at: int = 0,
        payload: bytes = b"",
    ) -> tuple[str, PostedEvent]:
        """(key of the lane, what became of it). Raises RequestRefused: a delta behind the lane's end, a limit."""
        if len(payload) > MAX_EVENT_PAYLOAD_BYTES:
            raise RequestRefused(f"a payload of {len(payload)} bytes; the limit is {MAX_EVENT_PAYLOAD_BYTES}")
        for text in (channel_id, client_msg_no, event_id, event_type, event_key, from_uid, visibility):
            check_id(text)
        kind = kind_of(event_type)
        key = FINISH_LANE if kind == EVENT_FINISH else event_key.strip() or MAIN_LANE
        from_uid = from_uid if from_uid.strip() else ""
        channel = await self._channel(channel_id, channel_type, from_uid, client_msg_no)
        reply = await self._replica.change(
            channel.id,
            PostEvent(
                channel,
                client_msg_no,
                key,
                event_id,
                event_type,
                kind,
                channel_id,
                from_uid,
                message_id,
                visibility,
                occurred_at,
                payload,
                *meaning_of(kind, payload),
            ),
        )
        if reply.event is None:
            raise RequestRefused(_REFUSALS.get(reply.reason, f"the event was refused (reason {reply.reason})"))
        return key, reply.event

    async def _channel(self, channel_id: str, channel_type: int, from_uid: str, client_msg_no: str) -> ChannelId:
        """An id with an @ is a stored one already. The other one of two persons may be left out: then he is who sent
        the message."""
        if channel_type not in (PERSON, AGENT) or "@" in channel_id:
            plain, _ = without_suffix(channel_id, channel_type, self._replica.settings.cmd_suffix)
            return ChannelId(channel_type, plain)
        uid = from_uid or await self._sender_to(channel_id, channel_type, client_msg_no)
        channel = stored_channel(channel_id, channel_type, uid)
        check_id(channel.id)
        return channel

    async def _sender_to(self, uid: str, channel_type: int, client_msg_no: str) -> str:
        """Who sent the newest message with this number to the person; the system account when nobody did. Looked for
        in all his chats, each time: what a node remembered of it another one might not."""
        slot_count = len(await self._replica.read_all())
        # The system account has no row of its own in a chat, the person has.
        newest: Message | None = None
        pace = Pace()
        for slot in range(slot_count):
            start = b""
            while True:
                state = self._replica.slot_now(slot)
                channels = state.channels_of(uid, start=start, limit=_SLICE)
                for channel in channels:
                    if channel.type == channel_type:
                        message = message_by_number(state, channel_part(channel), client_msg_no)
                        if message is not None and (newest is None or newest.message_id < message.message_id):
                            newest = message
                        await pace.step()
                        state = self._replica.slot_now(slot)
                if len(channels) < _SLICE:
                    break
                start = channel_part(channels[-1]) + b"\x00"
        return self._replica.settings.system_uid if newest is None else newest.from_uid

    # -- reading --

    async def sync(
        self,
        *,
        channel_id: str,
        channel_type: int,
        client_msg_no: str,
        from_uid: str = "",
        event_key: str = "",
        after_seq: int = 0,
        limit: int = 0,
        include_private: bool = False,
    ) -> EventPage:
        """Lanes whose last stored event is above after_seq, in its order. limit 0: DEFAULT_SYNC_EVENTS; at most
        MAX_EVENT_SYNC_EVENTS. A page may end earlier, with `more`, for its size."""
        for text in (channel_id, client_msg_no, from_uid):
            check_id(text)
        channel = await self._channel(channel_id, channel_type, from_uid, client_msg_no)
        state = await self._replica.read(channel.id)
        views, more = stored_lanes(
            state,
            channel_part(channel),
            client_msg_no,
            after_seq=after_seq,
            key=event_key.strip(),
            include_private=include_private,
            limit=min(limit, MAX_EVENT_SYNC_EVENTS) or DEFAULT_SYNC_EVENTS,
        )
        events = [_shape(view) for view in views]
        return EventPage(events[-1].msg_event_seq if events else after_seq, more, events)


def _shape(view: LaneView) -> EventShape:
    lane = view.lane
    payload = (
        content_json(view.content)
        if view.content is not None
        else msgspec.json.encode({"end_reason": lane.end_reason, "status": lane.status})
    )
    return EventShape(
        lane.seq, lane.event_id, view.key, lane.event_type, lane.visibility, lane.occurred_at, msgspec.Raw(payload)
    )


class Enricher:
    """Adds lanes to the messages of one answer: http-api.md 10.3. full: with contents, while the answer has room."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._left = ANSWER_CONTENT_BYTES

    def enrich(self, state: State, part: bytes, shape: MessageShape) -> MessageShape:
        """Reads the state as it is at this moment."""
        if not shape.setting & STREAM_SETTING or not shape.client_msg_no:
            return shape
        meta = meta_of(
            state,
            part,
            shape.client_msg_no,
            self._full,
            content_limit_bytes=min(self._left, MESSAGE_CONTENT_BYTES),
        )
        if meta is not None:
            self._left -= sum(view.content_bytes for view in meta.lanes if view.content is not None)
        return with_events(shape, meta, snapshots=self._full)

    async def enrich_all(self, replica: Replica, channel: ChannelId, shapes: list[MessageShape]) -> list[MessageShape]:
        """Of one channel, in slices of time."""
        part, pace, found = channel_part(channel), Pace(), []
        for shape in shapes:
            found.append(self.enrich(replica.now(channel.id), part, shape))
            await pace.step()
        return found
