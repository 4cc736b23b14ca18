"""/message/event and /message/eventsync. http-api.md section 10."""

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Int64, Json, Texts, Uint8, Uint64
from wukong.api.request import CHANNEL_ID_MISSING, POST, read, refuse_if, require, route
from wukong.service.events import Events

_NUMBER_EMPTY = "client_msg_no不能为空！"
_NO_TEXTS: dict[str, str] = {}


class EventBody(msgspec.Struct):
    """headers are read and passed over: no answer shows them."""

    channel_id: str = ""
    channel_type: Uint8 = 0
    client_msg_no: str = ""
    event_id: str = ""
    event_type: str = ""
    event_key: str = ""
    from_uid: str = ""
    message_id: Int64 = 0
    visibility: str = ""
    occurred_at: Int64 = 0
    payload: Json = b""
    headers: Texts = _NO_TEXTS


class EventSyncBody(msgspec.Struct):
    channel_id: str = ""
    channel_type: Uint8 = 0
    from_uid: str = ""
    client_msg_no: str = ""
    event_key: str = ""
    from_msg_event_seq: Uint64 = 0
    limit: Int = 0
    include_private: Int = 0


class EventRoutes:
    def __init__(self, events: Events) -> None:
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        return [
            route(POST, "/message/event", self.post),
            route(POST, "/message/eventsync", self.sync),
        ]

    async def post(self, request: web.Request) -> web.Response:
        body = await read(request, EventBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        require(body.client_msg_no, _NUMBER_EMPTY)
        require(body.event_id, "event_id不能为空！")
        require(body.event_type, "event_type不能为空！")
        key, event = await self._events.post(
            channel_id=body.channel_id,
            channel_type=body.channel_type,
            client_msg_no=body.client_msg_no,
            event_id=body.event_id,
            event_type=body.event_type,
            event_key=body.event_key,
            from_uid=body.from_uid,
            message_id=body.message_id,
            visibility=body.visibility,
            occurred_at=body.occurred_at,
            payload=body.payload,
        )
        return answers.ok_with(
            {
                "client_msg_no": body.client_msg_no,
                "event_key": key,
                "event_id": body.event_id,
                "msg_event_seq": event.seq,
                "stream_status": event.status,
                "channel_id": body.channel_id,
                "channel_type": body.channel_type,
                "from_uid": event.from_uid,
            }
        )

    async def sync(self, request: web.Request) -> web.Response:
        body = await read(request, EventSyncBody)
        require(body.channel_id, CHANNEL_ID_MISSING)
        require(body.client_msg_no, _NUMBER_EMPTY)
        refuse_if(body.limit < 0, "limit不能为负数！")
        page = await self._events.sync(
            channel_id=body.channel_id,
            channel_type=body.channel_type,
            client_msg_no=body.client_msg_no,
            from_uid=body.from_uid,
            event_key=body.event_key,
            after_seq=body.from_msg_event_seq,
            limit=body.limit,
            include_private=body.include_private == 1,
        )
        return answers.ok_with(
            {
                "client_msg_no": body.client_msg_no,
                "from_msg_event_seq": body.from_msg_event_seq,
                "next_msg_event_seq": page.next_seq,
                "more": int(page.more),
                "events": page.events,
                "filtered_by_event_key": body.event_key,
            }
        )
