"""The members of a channel with the position since which each of them gets its messages."""

from typing import NamedTuple

import msgspec

from wukong.channel.ids import ChannelId
from wukong.channel.members import member_page
from wukong.channel.state import UserRow, channel_part
from wukong.service.replica import Replica

PAGE_LIMIT = 500

_decode_user = msgspec.msgpack.Decoder(UserRow).decode


class Since(NamedTuple):
    """since_seq: the first message that is for this member; since_index: the entry of the slot's log that added him."""

    uid: str
    since_seq: int
    since_index: int


async def members_since(
    replica: Replica, channel: ChannelId, *, cursor: str = "", limit: int = 100
) -> tuple[list[Since], str]:
    """Up to limit members behind cursor in the order of their uids, at most PAGE_LIMIT, and the next cursor, "" behind
    the last. Raises Unavailable."""
    state = await replica.read(channel.id)
    part = channel_part(channel)
    uids, rest = member_page(state, part, cursor=cursor, limit=max(1, min(limit, PAGE_LIMIT)))
    found = []
    for uid in uids:
        row = state.get(b"m" + part + uid.encode())
        assert row is not None  # no await since the page was read
        last = _decode_user(row).intervals[-1]
        found.append(Since(uid, last.from_seq + 1, last.from_index))
    return found, rest
