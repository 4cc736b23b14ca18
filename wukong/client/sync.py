"""Where a client finds what it missed: the interface, and one over the HTTP API.

The binary protocol has no history; a client asks its back end. HttpSyncProvider asks the server's own HTTP API, which
is right for bots, tools and back ends; an application whose users may not reach that API brings a provider of its own.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from wukong.client.admin import AdminClient
from wukong.client.errors import ApiRefused, SyncRefused
from wukong.client.message import Message
from wukong.protocol.packets import ChannelType

SYSTEM_UID: Final = "____system"
CMD_SUFFIX: Final = "____cmd"


class ChannelHead(NamedTuple):
    """last_seq: newest message. start_seq: where a client begins that knows nothing of the channel, if it wants what
    the user has not read."""

    channel_id: str
    channel_type: int
    last_seq: int
    start_seq: int = 0


class SyncProvider(Protocol):
    """Raises SyncRefused when asking again is of no use; any other ClientError, OSError, TimeoutError or
    aiohttp.ClientError is taken as "later", with back-off. Other exceptions end the client: they are faults."""

    async def channels(self) -> Sequence[ChannelHead]:
        """The user's channels that have messages. Channel ids as the user sees them (persons: the other uid)."""
        ...

    async def pull(self, channel_id: str, channel_type: int, after_seq: int, limit: int) -> Sequence[Message]:
        """Messages with a seq over after_seq, ascending, at most limit; fewer only if there are no more."""
        ...


class CommandProvider(Protocol):
    """Commands (sync_once) the user has not confirmed. Errors as in SyncProvider."""

    async def commands(self, limit: int) -> Sequence[Message]:
        """At most limit, ascending in each channel, channel ids without the command suffix."""
        ...

    async def commands_taken(self, last_seq: int) -> None:
        """The application has what the last call of `commands` gave; last_seq: the highest of it."""
        ...


class HttpSyncProvider:
    """SyncProvider and CommandProvider over the HTTP API. The AdminClient stays the caller's.

    Messages of the system account come with an empty channel_id (wkproto.md, 7.4) and their conversation is not listed
    by the server, so it is asked for by itself.
    """

    def __init__(self, admin: AdminClient, uid: str) -> None:
        self._admin = admin
        self._uid = uid

    async def channels(self) -> list[ChannelHead]:
        try:
            conversations = await self._admin.conversations(self._uid, msg_count=1)
        except ApiRefused as fault:
            raise SyncRefused(str(fault)) from fault
        heads = [
            ChannelHead(
                each.channel_id, each.channel_type, each.last_msg_seq, min(each.readed_to_msg_seq, each.last_msg_seq)
            )
            for each in conversations
        ]
        heads.append(ChannelHead("", ChannelType.PERSON, await self._last_system_seq()))
        return heads

    async def _last_system_seq(self) -> int:
        try:
            return await self._admin.max_message_seq(SYSTEM_UID, ChannelType.PERSON, login_uid=self._uid)
        except ApiRefused:
            # WuKongIM refuses the question for a channel nobody has written to.
            return 0

    async def pull(self, channel_id: str, channel_type: int, after_seq: int, limit: int) -> list[Message]:
        is_system = channel_type == ChannelType.PERSON and not channel_id
        try:
            page = await self._admin.sync_messages(
                self._uid,
                SYSTEM_UID if is_system else channel_id,
                channel_type,
                start_message_seq=after_seq + 1,
                limit=limit,
                newer=True,
            )
        except ApiRefused as fault:
            raise SyncRefused(str(fault)) from fault
        # Rows of a person channel name the receiver of the message, not the other person (http-api.md, 3.5).
        return [replace(row, channel_id=channel_id, channel_type=channel_type, synced=True) for row in page.messages]

    async def commands(self, limit: int) -> list[Message]:
        try:
            rows = await self._admin.sync_commands(self._uid, limit=limit)
        except ApiRefused as fault:
            raise SyncRefused(str(fault)) from fault
        return [replace(row, channel_id=self._seen_by_user(row), synced=True) for row in rows]

    async def commands_taken(self, last_seq: int) -> None:
        try:
            await self._admin.ack_commands(self._uid, last_seq)
        except ApiRefused as fault:
            raise SyncRefused(str(fault)) from fault

    def _seen_by_user(self, row: Message) -> str:
        channel_id = row.channel_id.removesuffix(CMD_SUFFIX)
        if row.channel_type == ChannelType.PERSON and channel_id == self._uid:
            return row.from_uid
        return channel_id
