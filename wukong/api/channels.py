"""/channel and its lists. http-api.md section 8; the order of the checks is part of the contract."""

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Uint8
from wukong.api.request import (
    BAD_FORMAT,
    CHANNEL_ID_EMPTY,
    CHANNEL_ID_MISSING,
    CHANNEL_ID_SPECIAL,
    CHANNEL_TYPE_ZERO,
    GET,
    POST,
    SUBSCRIBERS_EMPTY,
    UIDS_EMPTY,
    forbid_special,
    query_int,
    query_text,
    query_type,
    read,
    read_explained,
    read_or,
    refuse_if,
    require,
    require_some,
    route,
)
from wukong.channel.commands import ChannelInfo
from wukong.channel.ids import GROUP, PERSON, ChannelId
from wukong.service.channels import ALLOWLIST, DENYLIST, PAGE_LIMIT, Channels
from wukong.service.messages import fnv1a_64
from wukong.service.overview import format_time

_NO_SUBSCRIBERS_FOR_PERSONS = "个人频道不支持添加订阅者！"


class ChannelBody(msgspec.Struct):
    channel_id: str = ""
    channel_type: Uint8 = 0

    @property
    def channel(self) -> ChannelId:
        return ChannelId(self.channel_type, self.channel_id)


class InfoBody(ChannelBody):
    large: Int = 0
    ban: Int = 0
    disband: Int = 0
    send_ban: Int = 0
    allow_stranger: Int = 0

    @property
    def info(self) -> ChannelInfo:
        """Absent flags are off; only 1 is on."""
        return ChannelInfo(
            self.large == 1, self.ban == 1, self.disband == 1, self.send_ban == 1, self.allow_stranger == 1
        )


class CreateBody(InfoBody):
    reset: Int = 0
    subscribers: list[str] = []


class SubscribersBody(ChannelBody):
    reset: Int = 0
    temp_subscriber: Int = 0
    subscribers: list[str] = []


class ListBody(ChannelBody):
    uids: list[str] = []


class TemporaryBody(msgspec.Struct):
    channel_id: str = ""
    uids: list[str] = []


class AllowedShape(msgspec.Struct, frozen=True):
    """An entry of GET /channel/whitelist; id is a hash of the uid, as upstream's row number is."""

    id: int
    uid: str
    created_at: str
    updated_at: str


class ChannelRoutes:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def routes(self) -> list[web.RouteDef]:
        table = [
            (POST, "/channel", self.create),
            (POST, "/channel/info", self.info),
            (POST, "/channel/delete", self.delete),
            (POST, "/channel/subscriber_add", self.add_subscribers),
            (POST, "/channel/subscriber_remove", self.remove_subscribers),
            (POST, "/channel/subscriber_remove_all", self.remove_all_subscribers),
            (GET, "/channel/subscribers", self.subscribers),
            (POST, "/tmpchannel/subscriber_set", self.set_temporary),
            (POST, "/channel/blacklist_add", self.deny),
            (POST, "/channel/blacklist_set", self.set_denied),
            (POST, "/channel/blacklist_remove", self.undeny),
            (POST, "/channel/blacklist_remove_all", self.undeny_all),
            (POST, "/channel/whitelist_add", self.allow),
            (POST, "/channel/whitelist_set", self.set_allowed),
            (POST, "/channel/whitelist_remove", self.unallow),
            (POST, "/channel/whitelist_remove_all", self.unallow_all),
            (GET, "/channel/whitelist", self.allowed),
        ]
        return [route(*entry) for entry in table]

    # -- record and members --

    async def create(self, request: web.Request) -> web.Response:
        body = await read_explained(request, CreateBody)
        require(body.channel_id, CHANNEL_ID_EMPTY)
        refuse_if(body.channel_type == 0, "频道类型错误！")
        forbid_special(body.channel_id, CHANNEL_ID_SPECIAL)
        refuse_if(body.channel_type == PERSON and bool(body.subscribers), "不支持个人频道添加订阅者！")
        await self._channels.put(body.channel, body.info, body.subscribers, reset=body.reset == 1)
        return answers.ok()

    async def info(self, request: web.Request) -> web.Response:
        body = await read_or(request, InfoBody, BAD_FORMAT)
        await self._channels.put_info(body.channel, body.info)
        return answers.ok()

    async def delete(self, request: web.Request) -> web.Response:
        body = await read_explained(request, ChannelBody)
        refuse_if(body.channel_type == PERSON, _NO_SUBSCRIBERS_FOR_PERSONS)
        await self._channels.disband(body.channel)
        return answers.ok()

    async def add_subscribers(self, request: web.Request) -> web.Response:
        body = await self._subscribers_body(request)
        refuse_if(body.temp_subscriber == 1, "新版本临时订阅者已不支持！")
        channel = ChannelId(body.channel_type or GROUP, body.channel_id)
        await self._channels.add_members(channel, body.subscribers, reset=body.reset == 1)
        return answers.ok()

    async def remove_subscribers(self, request: web.Request) -> web.Response:
        # Unlike the call above this one has no default type (http-api.md 21, no 12).
        body = await self._subscribers_body(request)
        await self._channels.remove_members(body.channel, body.subscribers)
        return answers.ok()

    async def _subscribers_body(self, request: web.Request) -> SubscribersBody:
        body = await read_explained(request, SubscribersBody)
        require(body.channel_id, CHANNEL_ID_EMPTY)
        forbid_special(body.channel_id, CHANNEL_ID_SPECIAL)
        require_some(body.subscribers, SUBSCRIBERS_EMPTY)
        refuse_if(body.channel_type == PERSON, _NO_SUBSCRIBERS_FOR_PERSONS)
        return body

    async def remove_all_subscribers(self, request: web.Request) -> web.Response:
        body = await read_explained(request, ChannelBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        refuse_if(body.channel_type == 0, CHANNEL_TYPE_ZERO)
        refuse_if(body.channel_type == PERSON, "个人频道不支持此操作！")
        await self._channels.remove_all_members(body.channel)
        return answers.ok()

    async def subscribers(self, request: web.Request) -> web.Response:
        """Ours: a page of members in uid order. `next` is the cursor of the next one, "" after the last."""
        channel = ChannelId(query_type(request), query_text(request, "channel_id"))
        require(channel.id, CHANNEL_ID_MISSING)
        refuse_if(channel.type == 0, CHANNEL_TYPE_ZERO)
        uids, cursor = await self._channels.members(
            channel, cursor=query_text(request, "cursor"), limit=query_int(request, "limit") or PAGE_LIMIT
        )
        return answers.bare({"subscribers": uids, "next": cursor})

    async def set_temporary(self, request: web.Request) -> web.Response:
        body = await read_explained(request, TemporaryBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        forbid_special(body.channel_id, CHANNEL_ID_SPECIAL)
        refuse_if(not body.uids, UIDS_EMPTY)
        await self._channels.set_recipients(body.channel_id, body.uids)
        return answers.ok()

    # -- deny list --

    async def deny(self, request: web.Request) -> web.Response:
        body = await self._denied_body(request)
        await self._channels.add_to_list(body.channel, DENYLIST, body.uids)
        return answers.ok()

    async def undeny(self, request: web.Request) -> web.Response:
        body = await self._denied_body(request)
        await self._channels.remove_from_list(body.channel, DENYLIST, body.uids)
        return answers.ok()

    async def _denied_body(self, request: web.Request) -> ListBody:
        body = await read(request, ListBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        refuse_if(body.channel_type == 0, CHANNEL_TYPE_ZERO)
        refuse_if(not body.uids, UIDS_EMPTY)
        return body

    async def set_denied(self, request: web.Request) -> web.Response:
        return await self._set_list(request, DENYLIST)

    async def undeny_all(self, request: web.Request) -> web.Response:
        return await self._clear_list(request, DENYLIST)

    # -- allow list --

    async def allow(self, request: web.Request) -> web.Response:
        body = await self._allowed_body(request)
        await self._channels.add_to_list(body.channel, ALLOWLIST, body.uids)
        return answers.ok()

    async def unallow(self, request: web.Request) -> web.Response:
        body = await self._allowed_body(request)
        await self._channels.remove_from_list(body.channel, ALLOWLIST, body.uids)
        return answers.ok()

    async def _allowed_body(self, request: web.Request) -> ListBody:
        body = await read(request, ListBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        forbid_special(body.channel_id, CHANNEL_ID_SPECIAL)
        refuse_if(body.channel_type == 0, CHANNEL_TYPE_ZERO)
        require_some(body.uids, UIDS_EMPTY)
        return body

    async def set_allowed(self, request: web.Request) -> web.Response:
        return await self._set_list(request, ALLOWLIST)

    async def unallow_all(self, request: web.Request) -> web.Response:
        return await self._clear_list(request, ALLOWLIST)

    async def allowed(self, request: web.Request) -> web.Response:
        channel = ChannelId(query_type(request), query_text(request, "channel_id"))
        entries = await self._channels.list_entries(channel, ALLOWLIST)
        shapes = [
            AllowedShape(
                fnv1a_64(entry.uid.encode()), entry.uid, format_time(entry.created_ms), format_time(entry.updated_ms)
            )
            for entry in entries
        ]
        return answers.bare(shapes)

    # -- either --

    async def _set_list(self, request: web.Request, which: int) -> web.Response:
        body = await read(request, ListBody)
        require(body.channel_id, CHANNEL_ID_EMPTY)
        await self._channels.set_list(body.channel, which, body.uids)
        return answers.ok()

    async def _clear_list(self, request: web.Request, which: int) -> web.Response:
        body = await read(request, ListBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        refuse_if(body.channel_type == 0, CHANNEL_TYPE_ZERO)
        await self._channels.clear_list(body.channel, which)
        return answers.ok()
