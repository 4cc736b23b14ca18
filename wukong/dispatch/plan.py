"""Who gets a message, and how it looks to them. PURE. behaviour.md sections 8.1-8.3.

Recipients are read at the message's position of the log: explicit ones travel with it, implicit ones follow from the
channel's id, members come from the audience, which apply keeps.
"""

from collections.abc import Iterable

import msgspec

from wukong.channel.effects import EventPush, FanOut
from wukong.channel.ids import (
    AGENT,
    CUSTOMER_SERVICE,
    PERSON,
    VISITORS,
    ChannelId,
    implicit_members,
    peer_of,
    split_pair,
)
from wukong.session.audience import Audience

NO_PERSIST = 1
RED_DOT = 2
SYNC_ONCE = 4

_PUSHED_FLAGS = NO_PERSIST | RED_DOT | SYNC_ONCE


def recipients(effect: FanOut, audience: Audience) -> Iterable[str]:
    """Uids that may have sessions here, each once."""
    explicit = effect.message.recipients
    if explicit is not None:
        return dict.fromkeys(explicit)
    return members_here(effect.channel, audience)


def members_here(channel: ChannelId, audience: Audience) -> Iterable[str]:
    """Members of the channel that may have sessions here, each once."""
    if channel.type in (PERSON, AGENT):
        return implicit_members(channel)
    if channel.type in (CUSTOMER_SERVICE, VISITORS):
        return dict.fromkeys((*audience.uids(channel), *implicit_members(channel)))
    return audience.uids(channel)


def shown_to_others(effect: FanOut, system_uid: str, cmd_suffix: str) -> tuple[str, str, int]:
    """(from_uid, channel_id, flags) of the RECV for everybody but the sender."""
    message, channel = effect.message, effect.channel
    from_uid = "" if message.from_uid == system_uid else message.from_uid
    flags = message.flags & _PUSHED_FLAGS
    if channel.type == PERSON:
        # The receiver sees the sender as the channel; from the system account both are empty.
        return from_uid, from_uid, flags
    if channel.type == AGENT:
        return from_uid, split_pair(channel.id)[1], flags
    if message.recipients is not None and effect.is_cmd:
        return from_uid, channel.id + cmd_suffix, flags
    return from_uid, channel.id, flags


def shown_to_sender(effect: FanOut, system_uid: str, cmd_suffix: str) -> tuple[str, str, int]:
    """The same for the sender's other sessions: the peer's uid, and no red dot."""
    from_uid, channel_id, flags = shown_to_others(effect, system_uid, cmd_suffix)
    if effect.channel.type == PERSON:
        peer = peer_of(effect.channel.id, effect.message.from_uid)
        channel_id = from_uid if peer == effect.message.from_uid else peer
    return from_uid, channel_id, flags & ~RED_DOT


class _EventData(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    client_msg_no: str
    channel_id: str
    channel_type: int
    from_uid: str
    message_id: int
    event_key: str
    msg_event_seq: int
    stream_status: str
    visibility: str = ""
    payload: msgspec.Raw | None = None


_encode_data = msgspec.json.Encoder().encode


def event_data(effect: EventPush) -> bytes:
    """The JSON in an EVENT: wkproto.md 7.7. channel_id is the one of the request, whoever reads it."""
    return _encode_data(
        _EventData(
            effect.client_msg_no,
            effect.shown_id,
            effect.channel.type,
            effect.from_uid,
            effect.message_id,
            effect.event_key,
            effect.seq,
            effect.status,
            effect.visibility,
            msgspec.Raw(effect.payload) if effect.payload else None,
        )
    )
