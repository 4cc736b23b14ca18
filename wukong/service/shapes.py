"""Messages and conversations as back ends and SDKs read them in JSON. http-api.md 3.5 and 3.6.

Here stored channels get the ids under which the outside knows them.
"""

import msgspec

from wukong.channel.effects import Message
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


class MessageShape(msgspec.Struct, frozen=True, gc=False):
    """timestamp in seconds, expire in seconds; payload becomes base64."""

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
