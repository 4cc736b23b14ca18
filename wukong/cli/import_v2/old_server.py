"""What a WuKongIM v2.2.5 server tells over its HTTP API. http-api.md: 3.5, 6.4, 8, 9.8, 11, 13, and the trap list.

Lists may be null, a flag may be a number, the first message of a page has a zeroed header, and the administrative
routes may not be there at all: then they answer None.
"""

from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from wukong.channel.ids import AGENT, PERSON, ChannelId, person_id, split_pair
from wukong.cli.import_v2.calls import Server
from wukong.client.errors import ApiRefused
from wukong.errors import WukongError

PAGE_MESSAGES: Final = 250
PAGE_ROWS: Final = 500
# Newest messages asked for with each conversation; a deletion marker below them is not seen.
RECENTS: Final = 10
# conversation.userMaxCount of a server with defaults: what one answer holds.
MAX_CONVERSATIONS: Final = 1_000
SYSTEM_UID: Final = "____system"
# Any login will do for channels of several people.
_LOGIN: Final = "____manager"

T = TypeVar("T")


class OldServerFault(WukongError):
    """The old server's data cannot be copied as they are; the text says why."""


class Header(msgspec.Struct, frozen=True):
    red_dot: int = 0
    sync_once: int = 0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the old server shows it. from_uid "": the built-in system account."""

    message_id: int = 0
    message_seq: int = 0
    from_uid: str = ""
    client_msg_no: str = ""
    timestamp: int = 0
    payload: bytes | None = None
    header: Header | None = None
    setting: int = 0
    expire: int = 0
    topic: str = ""


class _Page(msgspec.Struct, frozen=True):
    messages: list[Row] | None = None


class _Conversation(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: str = ""
    channel_type: int = 0
    unread: int = 0
    readed_to_msg_seq: int = 0
    recents: list[Row] | None = None


class _Key(msgspec.Struct, frozen=True):
    channel_id: str = ""
    channel_type: int = 0


class Flags(msgspec.Struct, frozen=True):
    """Of a channel's record, as far as a route tells."""

    ban: bool = False
    disband: bool = False


class _ChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: str = ""
    channel_type: int = 0
    ban: int | bool | None = 0
    disband: int | bool | None = 0
    created_at: int = 0


class _UserRow(msgspec.Struct, frozen=True, kw_only=True):
    uid: str = ""
    created_at: int = 0


class _Listing(msgspec.Struct, frozen=True):
    # any: rows of either kind.
    data: list[dict[str, Any]] | None = None


class Chat(NamedTuple):
    """A conversation. unread: as its list shows it; None for one that the list hides or that is empty."""

    channel: ChannelId
    read_seq: int
    deleted_seq: int
    unread: int | None


class OldServer:
    def __init__(self, server: Server) -> None:
        self._server = server
        # None until an administrative route was asked for.
        self.has_cluster_routes: bool | None = None

    async def health(self) -> None:
        await self._server.get(dict[str, Any], "/health")

    async def system_uids(self) -> list[str]:
        return await self._server.get(list[str] | None, "/user/systemuids") or []  # type: ignore[arg-type]

    # -- messages --

    async def messages_after(self, channel: ChannelId, seq: int) -> list[Row]:
        """The next messages in order, at most PAGE_MESSAGES; none at the end. Raises OldServerFault for a gap."""
        login, shown = split_pair(channel.id) if channel.type == PERSON else (_LOGIN, channel.id)
        # One that is known is asked for again, for the first of each page has lost its header (trap 24).
        body = {
            "login_uid": login,
            "channel_id": shown,
            "channel_type": channel.type,
            "start_message_seq": max(seq, 1),
            "end_message_seq": 0,
            "limit": PAGE_MESSAGES + 1,
            "pull_mode": 1,
        }
        page = await self._server.post(_Page, "/channel/messagesync", body)
        rows = [row for row in page.messages or () if row.message_seq > seq][:PAGE_MESSAGES]
        for expected, row in enumerate(rows, seq + 1):
            if row.message_seq != expected:
                raise OldServerFault(f"the old server has no message {expected}, but has {row.message_seq}")
        return rows

    # -- conversations --

    async def conversations(self, uid: str) -> list[Chat]:
        """All conversations of a user, also those that his list does not show."""
        keys = await self._server.post(list[_Key] | None, "/conversation/channels", {"uid": uid})  # type: ignore[arg-type]
        body = {"uid": uid, "version": 0, "msg_count": RECENTS}
        shown = await self._server.post(list[_Conversation] | None, "/conversation/sync", body)  # type: ignore[arg-type]
        found: dict[ChannelId, Chat] = {}
        for each in shown or ():
            channel = _stored(each, uid)
            found[channel] = Chat(channel, each.readed_to_msg_seq, _deleted_seq(each.recents or []), each.unread)
        hidden = [ChannelId(key.channel_type, key.channel_id) for key in keys or ()]
        hidden = [channel for channel in hidden if channel not in found and not is_junk(channel)]
        if hidden:
            found.update({chat.channel: chat for chat in await self._by_channels(uid, hidden)})
        return [chat for chat in found.values() if not is_junk(chat.channel)]

    async def _by_channels(self, uid: str, channels: list[ChannelId]) -> list[Chat]:
        """Of conversations that the list hides: deleted up to their last message, or without any."""
        named = [{"channel_id": _shown(channel, uid), "channel_type": channel.type} for channel in channels]
        body = {"uid": uid, "channels": named, "msg_count": 1}
        answer = await self._server.post(list[_Conversation] | None, "/conversation/syncByChannels", body)  # type: ignore[arg-type]
        rows = answer or []
        if len(rows) != len(channels):
            raise OldServerFault(f"{len(channels)} conversations asked for, {len(rows)} answered")
        chats = []
        for channel, row in zip(channels, rows, strict=True):
            # One with the system account is never shown, deleted or not.
            is_deleted = row.recents and _shown(channel, uid) != SYSTEM_UID
            last = row.recents[0].message_seq if row.recents and is_deleted else 0
            chats.append(Chat(channel, row.readed_to_msg_seq, last, None))
        return chats

    # -- administrative routes --

    async def members(self, channel: ChannelId) -> list[str] | None:
        return await self._uids(channel, "subscribers")

    async def denied(self, channel: ChannelId) -> list[str] | None:
        return await self._uids(channel, "denylist")

    async def allowed(self, channel: ChannelId) -> list[str] | None:
        return await self._uids(channel, "allowlist")

    async def _uids(self, channel: ChannelId, what: str) -> list[str] | None:
        path = f"/cluster/channels/{quote(channel.id, safe='')}/{channel.type}/{what}"
        answer = await self._ask(list[str] | None, path)  # type: ignore[arg-type]
        return (answer or []) if self.has_cluster_routes else None

    async def all_users(self) -> list[str]:
        return [row.uid for row in await self._list(_UserRow, "/cluster/users") if row.uid]

    async def all_channels(self) -> dict[ChannelId, Flags]:
        """Channels that have a record: not those of two persons. Type 1 with a uid: what belongs to a user."""
        rows = await self._list(_ChannelRow, "/cluster/channels")
        return {
            ChannelId(row.channel_type, row.channel_id): Flags(bool(row.ban), bool(row.disband))
            for row in rows
            if row.channel_id and row.channel_type
        }

    async def _list(self, kind: type[T], path: str) -> list[T]:
        found: dict[bytes, T] = {}
        offset = 0
        while True:
            query = {"limit": PAGE_ROWS, **({"offset_created_at": offset} if offset else {})}
            page = await self._ask(_Listing, path, **query)
            rows = [] if page is None else page.data or []
            before = len(found)
            for raw in rows:
                row = msgspec.convert(raw, kind, strict=False)
                found[msgspec.json.encode(row)] = row
            # Rows made in the same moment may repeat; nothing new means that was all.
            if len(found) == before or len(rows) < PAGE_ROWS:
                return list(found.values())
            offset = rows[-1].get("created_at") or 0
            if not offset:
                return list(found.values())

    async def _ask(self, into: type[T], path: str, **query: Any) -> T | None:
        if self.has_cluster_routes is False:
            return None
        try:
            answer = await self._server.get(into, path, **query)
        except ApiRefused as refusal:
            if refusal.http_status != 404 or self.has_cluster_routes:
                raise
            self.has_cluster_routes = False
            return None
        self.has_cluster_routes = True
        return answer


def is_junk(channel: ChannelId) -> bool:
    """Conversations that WuKongIM writes by mistake: of a bare uid (trap 14)."""
    return channel.type == PERSON and "@" not in channel.id


def _stored(row: _Conversation, uid: str) -> ChannelId:
    """Lists of conversations name a person's channel by the other one."""
    if row.channel_type == PERSON:
        return ChannelId(PERSON, person_id(uid, row.channel_id))
    if row.channel_type == AGENT and "@" not in row.channel_id:
        return ChannelId(AGENT, f"{uid}@{row.channel_id}")
    return ChannelId(row.channel_type, row.channel_id)


def _shown(channel: ChannelId, uid: str) -> str:
    if channel.type != PERSON:
        return channel.id
    first, second = split_pair(channel.id)
    return second if first == uid else first


def _deleted_seq(recents: list[Row]) -> int:
    """Fewer recents than asked for, and not down to the first message: the rest was deleted."""
    if not recents or len(recents) >= RECENTS:
        return 0
    return max(0, min(row.message_seq for row in recents) - 1)
