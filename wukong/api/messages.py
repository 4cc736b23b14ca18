"""/message, /messages and the history of a channel. http-api.md section 9."""

from typing import Any

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Int64, Uint8, Uint32, Uint64
from wukong.api.request import (
    BAD_FORMAT,
    CHANNEL_ID_MISSING,
    GET,
    POST,
    query_text,
    query_type,
    read,
    read_or,
    refuse_if,
    require,
    route,
)
from wukong.channel.effects import Message
from wukong.channel.ids import PERSON
from wukong.service.command_sync import CommandSync
from wukong.service.events import BASIC, Enricher
from wukong.service.messages import (
    NO_PERSIST,
    RED_DOT,
    STREAM_SETTING,
    SYNC_ONCE,
    Messages,
    Twin,
)
from wukong.service.replica import Replica
from wukong.service.shapes import MessageShape, shape_message

TRACE_HEADER = "X-Wukong-Trace"
"""1, or the query trace=1: the answer tells when the message reached its stages."""

_NEWER = 1
_CANNOT_SEND = "无法处理发送消息请求！"
_PAYLOAD_EMPTY = "payload不能为空！"
_LOGIN_UID_EMPTY = "login_uid不能为空！"
_NOT_THERE = 404


class HeaderBody(msgspec.Struct, frozen=True):
    no_persist: Int = 0
    red_dot: Int = 0
    sync_once: Int = 0

    @property
    def flags(self) -> int:
        """Only 1 is on."""
        return (
            (NO_PERSIST if self.no_persist == 1 else 0)
            | (RED_DOT if self.red_dot == 1 else 0)
            | (SYNC_ONCE if self.sync_once == 1 else 0)
        )


_NO_HEADER = HeaderBody()


class SendBody(msgspec.Struct):
    header: HeaderBody = _NO_HEADER
    client_msg_no: str = ""
    is_stream: Int = 0
    from_uid: str = ""
    channel_id: str = ""
    channel_type: Uint8 = 0
    subscribers: list[str] = []
    expire: Uint32 = 0
    payload: bytes = b""
    tag_key: str = ""


class BatchBody(msgspec.Struct):
    header: HeaderBody = _NO_HEADER
    from_uid: str = ""
    subscribers: list[str] = []
    payload: bytes = b""


class SyncBody(msgspec.Struct):
    uid: str = ""
    message_seq: Uint32 = 0
    limit: Int = 0


class SyncAckBody(msgspec.Struct):
    uid: str = ""
    last_message_seq: Uint32 = 0


class FindBody(msgspec.Struct):
    login_uid: str = ""
    channel_id: str = ""
    channel_type: Uint8 = 0
    message_seqs: list[Uint32] = []
    message_ids: list[Int64] = []
    client_msg_nos: list[str] = []


class FindOneBody(msgspec.Struct):
    login_uid: str = ""
    channel_id: str = ""
    channel_type: Uint8 = 0
    message_id: Int64 = 0
    client_msg_no: str = ""


class HistoryBody(msgspec.Struct):
    login_uid: str = ""
    channel_id: str = ""
    channel_type: Uint8 = 0
    start_message_seq: Uint64 = 0
    end_message_seq: Uint64 = 0
    limit: Int = 0
    pull_mode: Int = 0
    event_summary_mode: str = ""


class PageShape(msgspec.Struct, frozen=True):
    start_message_seq: int
    end_message_seq: int
    more: int
    messages: list[msgspec.Raw]


class MessageRoutes:
    """command_sync_off: /message/sync and /message/syncack do nothing, whatever they are asked."""

    def __init__(
        self, messages: Messages, command_sync: CommandSync, replica: Replica, *, command_sync_off: bool = False
    ) -> None:
        self._messages = messages
        self._command_sync = command_sync
        self._replica = replica
        self._command_sync_off = command_sync_off

    def routes(self) -> list[web.RouteDef]:
        table = [
            (POST, "/message/send", self.send),
            (POST, "/message/sendbatch", self.send_batch),
            (POST, "/message/sync", self.sync),
            (POST, "/message/syncack", self.sync_ack),
            (POST, "/messages", self.find),
            (POST, "/message", self.find_one),
            (GET, "/message/byclientmsgno", self.by_client_msg_no),
            (POST, "/channel/messagesync", self.history),
            (GET, "/channel/max_message_seq", self.max_seq),
            (GET, "/channel/last_message", self.last),
        ]
        return [route(*entry) for entry in table]

    # -- sending --

    async def send(self, request: web.Request) -> web.Response:
        body = await read(request, SendBody)
        refuse_if(not body.payload, _PAYLOAD_EMPTY)
        to_channel = bool(body.channel_id.strip())
        flags = body.header.flags
        # Either a channel or recipients, and recipients only for commands.
        refuse_if(to_channel == bool(body.subscribers), _CANNOT_SEND)
        refuse_if(bool(body.subscribers) and not flags & SYNC_ONCE, _CANNOT_SEND)
        from_uid = body.from_uid if body.from_uid.strip() else self._replica.settings.system_uid
        if body.subscribers:
            await self._messages.send_to(
                body.subscribers, from_uid=from_uid, payload=body.payload, flags=flags, expire=body.expire
            )
            return answers.ok()
        sent = await self._messages.send(
            channel_id=body.channel_id,
            channel_type=body.channel_type,
            from_uid=from_uid,
            payload=body.payload,
            flags=flags,
            client_msg_no=body.client_msg_no,
            expire=body.expire,
            setting=STREAM_SETTING if body.is_stream == 1 else 0,
            traced="1" in (request.headers.get(TRACE_HEADER), request.query.get("trace")),
        )
        data: dict[str, Any] = {"client_msg_no": sent.client_msg_no, "message_id": sent.message_id}
        if sent.trace is not None:
            data["trace"] = sent.trace
        return answers.ok_with(data)

    async def send_batch(self, request: web.Request) -> web.Response:
        body = await read(request, BatchBody)
        require(body.from_uid, "from_uid不能为空！")
        refuse_if(not body.subscribers, "subscribers不能为空！")
        refuse_if(not body.payload, _PAYLOAD_EMPTY)
        failures = await self._messages.send_to_each(
            body.subscribers, from_uid=body.from_uid, payload=body.payload, flags=body.header.flags
        )
        return answers.bare(
            {"fail_uids": [failure.uid for failure in failures], "reason": [failure.reason for failure in failures]}
        )

    # -- unconfirmed commands --

    async def sync(self, request: web.Request) -> web.Response:
        if self._command_sync_off:
            return answers.bare([])
        body = await read(request, SyncBody)
        require(body.uid, "用户uid不能为空！")
        refuse_if(body.limit < 0, "limit不能为负数！")
        pending = await self._command_sync.sync(body.uid, limit=body.limit)
        settings = self._replica.settings
        shapes = [
            shape_message(channel, message, settings, is_cmd=True)
            for channel, messages in pending
            for message in messages
        ]
        return answers.bare(await answers.raw_list(shapes))

    async def sync_ack(self, request: web.Request) -> web.Response:
        if self._command_sync_off:
            return answers.ok()
        body = await read(request, SyncAckBody)
        require(body.uid, "用户UID不能为空！")
        refuse_if(body.last_message_seq == 0, "最后一次messageSeq不能为0！")
        await self._command_sync.acknowledge(body.uid)
        return answers.ok()

    # -- single messages --

    async def find(self, request: web.Request) -> web.Response:
        body = await read_or(request, FindBody, BAD_FORMAT)
        require(body.channel_id, CHANNEL_ID_MISSING)
        twin = self._messages.named(body.channel_id, body.channel_type, body.login_uid)
        found = await self._messages.find(
            twin, seqs=body.message_seqs, message_ids=body.message_ids, client_msg_nos=body.client_msg_nos
        )
        return answers.bare(PageShape(0, 0, 0, await self._raw(twin, found)))

    async def find_one(self, request: web.Request) -> web.Response:
        body = await read_or(request, FindOneBody, BAD_FORMAT)
        require(body.channel_id, CHANNEL_ID_MISSING)
        refuse_if(body.channel_type == 0, "channel_type不能为0")
        refuse_if(body.channel_type == PERSON and not body.login_uid.strip(), _LOGIN_UID_EMPTY)
        twin = self._messages.named(body.channel_id, body.channel_type, body.login_uid)
        number = body.client_msg_no
        if body.message_id:
            found = await self._messages.find(twin, seqs=[], message_ids=[body.message_id], client_msg_nos=[])
            # Both keys given: both have to fit.
            found = [message for message in found if not number or message.client_msg_no == number]
        else:
            found = await self._messages.find(twin, seqs=[], message_ids=[], client_msg_nos=[number])
        return self._one(twin, found[0] if found else None)

    async def by_client_msg_no(self, request: web.Request) -> web.Response:
        channel_id, channel_type = query_text(request, "channel_id"), query_type(request)
        number = query_text(request, "client_msg_no")
        refuse_if(not channel_id, "channel_id不能为空")
        refuse_if(channel_type == 0, "channel_type不能为0")
        refuse_if(not number, "client_msg_no不能为空")
        twin = self._messages.stored(channel_id, channel_type)
        found = await self._messages.find(twin, seqs=[], message_ids=[], client_msg_nos=[number])
        return self._one(twin, found[0] if found else None)

    def _one(self, twin: Twin, message: Message | None) -> web.Response:
        return answers.status(_NOT_THERE) if message is None else answers.bare(self._shape(twin, message))

    # -- history --

    async def history(self, request: web.Request) -> web.Response:
        body = await read(request, HistoryBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        require(body.login_uid, _LOGIN_UID_EMPTY)
        refuse_if(body.limit < 0, "limit不能为负数！")
        twin = self._messages.named(body.channel_id, body.channel_type, body.login_uid)
        page = await self._messages.history(
            twin,
            start=body.start_message_seq,
            end=body.end_message_seq,
            limit=body.limit,
            newer=body.pull_mode == _NEWER,
        )
        shapes = [self._shape(twin, message) for message in page.messages]
        if not twin.is_cmd:
            enricher = Enricher(full=body.event_summary_mode != BASIC)
            shapes = await enricher.enrich_all(self._replica, twin.channel, shapes)
        messages = await answers.raw_list(shapes)
        return answers.bare(PageShape(body.start_message_seq, body.end_message_seq, int(page.more), messages))

    async def max_seq(self, request: web.Request) -> web.Response:
        channel_id, channel_type = query_text(request, "channel_id"), query_type(request)
        refuse_if(not channel_id, "channel_id不能为空")
        if channel_type == PERSON and "@" not in channel_id:
            login_uid = query_text(request, "login_uid")
            require(login_uid, "login_uid不能为空")
            twin = self._messages.named(channel_id, channel_type, login_uid)
        else:
            # An id with an @ is a stored one already.
            twin = self._messages.stored(channel_id, channel_type)
        return answers.bare({"message_seq": await self._messages.last_seq(twin)})

    async def last(self, request: web.Request) -> web.Response:
        channel_id, channel_type = query_text(request, "channel_id"), query_type(request)
        login_uid = query_text(request, "login_uid")
        refuse_if(not channel_id, "channel_id不能为空")
        refuse_if(channel_type == PERSON and not login_uid.strip(), "login_uid不能为空")
        twin = self._messages.named(channel_id, channel_type, login_uid)
        return self._one(twin, await self._messages.last_message(twin))

    # -- shapes --

    def _shape(self, twin: Twin, message: Message) -> MessageShape:
        return shape_message(twin.channel, message, self._replica.settings, is_cmd=twin.is_cmd)

    async def _raw(self, twin: Twin, messages: list[Message]) -> list[Any]:
        return await answers.raw_list([self._shape(twin, message) for message in messages])
