"""Messages and conversations as back ends and SDKs read them in JSON. http-api.md 3.5 and 3.6.

Here stored channels get the ids under which the outside knows them.
"""

import msgspec

from wukong.channel.effects import Message
from wukong.channel.events import MAIN_LANE, OPEN, Content, EventMeta
from wukong.channel.ids import PERSON, ChannelId
from wukong.channel.state import Settings

_NO_PERSIST = 1
_RED_DOT = 2
_SYNC_ONCE = 4


class HeaderShape(msgspec.Struct, frozen=True, gc=False):
    no_persist: int
    red_dot: int
    sync_once: int


_HEADERS = [
    HeaderShape(flags & _NO_PERSIST, (flags & _RED_DOT) >> 1, (flags & _SYNC_ONCE) >> 2)
    for flags in range((_NO_PERSIST | _RED_DOT | _SYNC_ONCE) + 1)
]


class LaneShape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    event_key: str
    status: str
    last_msg_event_seq: int = 0
    snapshot: msgspec.Raw | None = None
    end_reason: int = 0
    error: str = ""


class EventMetaShape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """completed: after stream.finish. Empty and zero members are left out (http-api.md 10.3)."""

    has_events: bool
    completed: bool
    event_version: int = 0
    last_msg_event_seq: int = 0
    event_count: int = 0
    open_event_count: int = 0
    events: list[LaneShape] = []


class EventSyncHint(msgspec.Struct, frozen=True, gc=False):
    client_msg_no: str
    from_msg_event_seq: int = 0


class MessageFields(msgspec.Struct, frozen=True, gc=False):
    """What messages have in common wherever they are shown."""

    header: HeaderShape
    setting: int
    message_id: int
    message_idstr: str
    client_msg_no: str
    message_seq: int
    from_uid: str
    channel_id: str
    channel_type: int
    topic: str | msgspec.UnsetType
    expire: int
    timestamp: int
    payload: bytes


class MessageShape(MessageFields, frozen=True, gc=False):
    """timestamp in seconds, expire in seconds; payload becomes base64. The rest: its streamed lanes, if it has any."""

    event_meta: EventMetaShape | msgspec.UnsetType = msgspec.UNSET
    event_sync_hint: EventSyncHint | msgspec.UnsetType = msgspec.UNSET
    stream_data: bytes | msgspec.UnsetType = msgspec.UNSET
    end: int | msgspec.UnsetType = msgspec.UNSET
    end_reason: int | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class ConversationShape(msgspec.Struct, frozen=True, gc=False):
    """recents: newest first. version: the newest message's second in nanoseconds, or when the record changed."""

    channel_id: str
    channel_type: int
    unread: int
    timestamp: int
    last_msg_seq: int
    last_client_msg_no: str
    offset_msg_seq: int
    readed_to_msg_seq: int
    version: int
    recents: list[MessageShape]


class RecentsShape(msgspec.Struct, frozen=True, gc=False):
    """Messages of a stored channel and the newest seq that the asking user sent there. messages: null for none."""

    channel_id: str
    channel_type: int
    messages: list[MessageShape] | None
    user_last_msg_seq: int


def content_json(content: Content) -> bytes:
    """A snapshot as it is shown: a text with what else its snapshot had, or the JSON that was sent."""
    if not content.is_text:
        return content.data
    shown = msgspec.json.decode(content.shape) if content.shape else {"kind": "text"}
    return msgspec.json.encode({**shown, "text": content.data.decode()})


def with_events(shape: MessageShape, meta: EventMeta | None, *, snapshots: bool = True) -> MessageShape:
    """The message with its lanes, snapshots: and their contents; and with the fields of an older form that show the
    main one."""
    lanes = [] if meta is None else meta.lanes
    seq = 0 if meta is None else meta.seq
    events = [
        LaneShape(
            view.key,
            view.lane.status,
            view.lane.seq,
            msgspec.Raw(content_json(view.content)) if snapshots and view.content else None,
            view.lane.end_reason,
            view.lane.error,
        )
        for view in lanes
    ]
    shown = EventMetaShape(
        meta is not None,
        meta is not None and meta.finished,
        seq,
        seq,
        len(lanes),
        sum(view.lane.status == OPEN for view in lanes),
        events,
    )
    main = next((view for view in lanes if view.key == MAIN_LANE), None)
    text = main.content.data if main is not None and main.content is not None and main.content.is_text else b""
    return msgspec.structs.replace(
        shape,
        event_meta=shown,
        event_sync_hint=EventSyncHint(shape.client_msg_no),
        stream_data=text or msgspec.UNSET,
        end=1 if main is not None and main.lane.ended else msgspec.UNSET,
        end_reason=(main.lane.end_reason if main is not None else 0) or msgspec.UNSET,
        error=(main.lane.error if main is not None else "") or msgspec.UNSET,
    )


def shape_message(channel: ChannelId, message: Message, settings: Settings, *, is_cmd: bool = False) -> MessageShape:
    from_uid = "" if message.from_uid == settings.system_uid else message.from_uid
    return MessageShape(
        _HEADERS[message.flags & (_NO_PERSIST | _RED_DOT | _SYNC_ONCE)],
        message.setting,
        message.message_id,
        str(message.message_id),
        message.client_msg_no,
        message.message_seq,
        from_uid,
        _channel_id(channel, from_uid, settings.cmd_suffix if is_cmd else ""),
        channel.type,
        message.topic or msgspec.UNSET,
        message.expire,
        message.timestamp,
        message.payload,
    )


def _channel_id(channel: ChannelId, from_uid: str, suffix: str) -> str:
    """Of two persons the last part of the stored id that is not the shown sender: the same for every viewer, so who
    received it finds himself here, and a command to a person always names the second one (http-api.md 21, no 25)."""
    stored = channel.id + suffix
    if channel.type != PERSON:
        return stored
    first, at, second = stored.partition("@")
    if not at or first == second == from_uid:
        return stored
    return first if second == from_uid else second
