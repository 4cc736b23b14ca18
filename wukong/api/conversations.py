"""/conversation and /conversations. http-api.md section 11."""

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Int64, Uint8, Uint64
from wukong.api.request import BAD_FORMAT, POST, read, read_or, refuse_if, require, route
from wukong.service.conversations import Conversations, Wanted
from wukong.service.events import BASIC
from wukong.service.replica import Pace

_UID_EMPTY = "uid cannot be empty"
_CHANNEL_EMPTY = "channel_id or channel_type cannot be empty"


_PARSE_SLICE = 256


class ConversationSyncBody(msgspec.Struct):
    uid: str = ""
    version: Int64 = 0
    last_msg_seqs: str = ""
    msg_count: Int64 = 0
    only_unread: Int = 0
    # Go reads []uint8 as base64 or as an array, so text is bytes here.
    exclude_channel_types: bytes = b""
    page: Int = 0
    page_size: Int = 0
    event_summary_mode: str = ""


class ChannelKey(msgspec.Struct):
    channel_id: str = ""
    channel_type: Uint8 = 0


class ByChannelsBody(msgspec.Struct):
    uid: str = ""
    channels: list[ChannelKey] = []
    msg_count: Int = 0


class UidBody(msgspec.Struct):
    uid: str = ""


class StoredChannelKey(ChannelKey):
    """channel_id as stored: of persons both uids, of commands with the suffix."""

    last_msg_seq: Uint64 = 0


class SyncMessagesBody(msgspec.Struct):
    uid: str = ""
    channels: list[StoredChannelKey] = []
    msg_count: Int = 0
    order_by_last: Int = 0


class ChangeBody(msgspec.Struct):
    uid: str = ""
    channel_id: str = ""
    channel_type: Uint8 = 0
    unread: Int = 0


async def parse_last_seqs(text: str) -> dict[tuple[str, int], int]:
    """`channel:type:seq` joined with bars. What does not split into three is dropped, what is no number counts as 0."""
    found = {}
    pace = Pace()
    for number, item in enumerate(text.split("|")):
        parts = item.split(":")
        if len(parts) == 3:
            found[parts[0], _number(parts[1])] = _number(parts[2])
        if number % _PARSE_SLICE == 0:
            await pace.step()
    return found


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


class ConversationRoutes:
    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    def routes(self) -> list[web.RouteDef]:
        table = [
            ("/conversation/sync", self.sync),
            ("/conversation/syncByChannels", self.by_channels),
            ("/conversation/channels", self.channels),
            ("/conversation/syncMessages", self.sync_messages),
            ("/conversations/clearUnread", self.clear_unread),
            ("/conversations/setUnread", self.set_unread),
            ("/conversations/delete", self.delete),
        ]
        return [route(POST, path, handler) for path, handler in table]

    async def sync(self, request: web.Request) -> web.Response:
        body = await read(request, ConversationSyncBody)
        require(body.uid, _UID_EMPTY)
        shapes = await self._conversations.sync(
            body.uid,
            msg_count=body.msg_count,
            unread_only=body.version > 0 or body.only_unread == 1,
            last_seqs=await parse_last_seqs(body.last_msg_seqs),
            exclude_types=frozenset(body.exclude_channel_types),
            page=body.page,
            page_size=body.page_size,
            event_contents=body.event_summary_mode != BASIC,
        )
        return answers.bare(await answers.raw_list(shapes))

    async def by_channels(self, request: web.Request) -> web.Response:
        body = await read(request, ByChannelsBody)
        require(body.uid, _UID_EMPTY)
        refuse_if(not body.channels, "channels cannot be empty")
        shapes = await self._conversations.of_channels(
            body.uid, [(key.channel_id, key.channel_type) for key in body.channels], msg_count=body.msg_count
        )
        return answers.bare(await answers.raw_list(shapes))

    async def channels(self, request: web.Request) -> web.Response:
        body = await read(request, UidBody)
        found = await self._conversations.channels(body.uid)
        return answers.bare([{"channel_id": channel.id, "channel_type": channel.type} for channel in found])

    async def sync_messages(self, request: web.Request) -> web.Response:
        """What WuKongIM's nodes ask each other; ours read the log they all have."""
        body = await read_or(request, SyncMessagesBody, BAD_FORMAT)
        shapes = await self._conversations.recents(
            body.uid,
            [Wanted(key.channel_id, key.channel_type, key.last_msg_seq) for key in body.channels],
            msg_count=body.msg_count,
            newest_first=body.order_by_last == 1,
        )
        return answers.bare(await answers.raw_list(shapes))

    async def clear_unread(self, request: web.Request) -> web.Response:
        body = await self._change(request, "uid cannot be empty")
        await self._conversations.clear_unread(body.uid, body.channel_id, body.channel_type)
        return answers.ok()

    async def set_unread(self, request: web.Request) -> web.Response:
        body = await self._change(request, "UID cannot be empty")
        await self._conversations.set_unread(body.uid, body.channel_id, body.channel_type, body.unread)
        return answers.ok()

    async def delete(self, request: web.Request) -> web.Response:
        body = await self._change(request, "Uid cannot be empty")
        await self._conversations.delete(body.uid, body.channel_id, body.channel_type)
        return answers.ok()

    async def _change(self, request: web.Request, uid_empty: str) -> ChangeBody:
        body = await read(request, ChangeBody)
        refuse_if(not body.uid, uid_empty)
        refuse_if(not body.channel_id or body.channel_type == 0, _CHANNEL_EMPTY)
        return body
