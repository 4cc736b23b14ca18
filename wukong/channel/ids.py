"""Identifiers of the replicated state. A channel is a structure (type, id, is_cmd), never a string with a suffix.

Joined person ids and the command suffix exist only where text from outside is read or written; `alice` and
`bob____cmd` therefore cannot collide with the command twin of `alice@bob`. Rules: behaviour.md section 2.
"""

from zlib import crc32

import msgspec

PERSON = 1
GROUP = 2
CUSTOMER_SERVICE = 3
COMMUNITY = 4
COMMUNITY_TOPIC = 5
INFO = 6
DATA = 7
TEMP = 8
LIVE = 9
VISITORS = 10
AGENT = 11
AGENT_GROUP = 12

SPECIAL_CHARACTERS = "@#&"


class ChannelId(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """Stored identity of a channel: for type 1 the joined id of both uids, for type 11 `uid@agent`."""

    type: int
    id: str


def has_special(text: str) -> bool:
    return "@" in text or "#" in text or "&" in text


def person_id(a: str, b: str) -> str:
    """The joined id of two persons: the uid with the larger CRC-32 (IEEE) first; equal CRCs: the larger text first.
    Symmetric. behaviour.md section 2."""
    ca, cb = crc32(a.encode()), crc32(b.encode())
    if ca > cb or (ca == cb and a >= b):
        return f"{a}@{b}"
    return f"{b}@{a}"


def split_pair(stored_id: str) -> tuple[str, str]:
    """Both parts of a joined id (uids cannot contain `@`)."""
    first, _, second = stored_id.partition("@")
    return first, second


def peer_of(stored_id: str, uid: str) -> str:
    """The other person of a joined id, as uid sees it; uid itself in a chat with oneself."""
    first, second = split_pair(stored_id)
    return second if first == uid else first


def stored_channel(channel_id: str, channel_type: int, uid: str) -> ChannelId:
    """The stored channel for an id as uid names it. http-api.md 3.3."""
    if channel_type == PERSON:
        return ChannelId(PERSON, person_id(uid, channel_id))
    if channel_type == AGENT:
        return ChannelId(AGENT, f"{uid}@{channel_id}")
    return ChannelId(channel_type, channel_id)


def shown_id(channel: ChannelId, uid: str) -> str:
    """The channel id as a user sees it: the peer's uid for persons, the agent's uid for agent channels."""
    if channel.type == PERSON:
        return peer_of(channel.id, uid)
    if channel.type == AGENT:
        return split_pair(channel.id)[1]
    return channel.id


def implicit_members(channel: ChannelId) -> tuple[str, ...]:
    """Members that follow from the id alone. behaviour.md 8.1."""
    if channel.type in (PERSON, AGENT):
        first, second = split_pair(channel.id)
        return (first,) if first == second else (first, second)
    if channel.type == CUSTOMER_SERVICE:
        visitor, bar, _ = channel.id.partition("|")
        return (visitor,) if bar and visitor else ()
    if channel.type == VISITORS:
        return (channel.id,)
    return ()


def slot_of(routing_key: str, slot_count: int) -> int:
    """Slot of a channel's stored id or of a uid."""
    return crc32(routing_key.encode()) % slot_count
