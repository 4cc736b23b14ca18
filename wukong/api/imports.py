"""/import: what `wukong import` writes and compares. Routes of this server alone; they are protected as /cluster is.

Channels are named by their stored ids (http-api.md 3.3), messages are objects of http-api.md 3.5. The bodies come from
our own tool, so they are read strictly.
"""

from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.request import CHANNEL_ID_MISSING, CHANNEL_TYPE_ZERO, POST, body_of, refuse_if, route
from wukong.channel.commands import ChannelInfo, ImportedChat
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.errors import RequestRefused
from wukong.limits import MAX_CHANNEL_TYPE
from wukong.service.imports import MAX_COMPARED, Imports
from wukong.service.messages import RED_DOT, SYNC_ONCE, Twin

PREFIX = "/import/"

T = TypeVar("T", bound="ChannelBody")

# Beyond it no command could hold the number.
Int63 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ChannelBody(msgspec.Struct, kw_only=True):
    channel_id: str
    channel_type: int
    commands: bool = False

    @property
    def channel(self) -> ChannelId:
        return ChannelId(self.channel_type, self.channel_id)

    @property
    def twin(self) -> Twin:
        return Twin(self.channel, self.commands)


class HeaderBody(msgspec.Struct, frozen=True):
    red_dot: int = 0
    sync_once: int = 0


class MessageBody(msgspec.Struct, kw_only=True):
    message_id: Int63
    message_seq: Int63
    from_uid: str = ""
    client_msg_no: str = ""
    timestamp: Int63 = 0
    payload: bytes = b""
    header: HeaderBody = HeaderBody()
    setting: Int63 = 0
    expire: Int63 = 0
    topic: str = ""

    @property
    def message(self) -> Message:
        header = self.header
        return Message(
            self.message_id,
            self.message_seq,
            (RED_DOT if header.red_dot == 1 else 0) | (SYNC_ONCE if header.sync_once == 1 else 0),
            self.setting,
            self.from_uid,
            self.client_msg_no,
            self.timestamp,
            self.payload,
            self.expire,
            self.topic,
        )


class MessagesBody(ChannelBody, kw_only=True):
    messages: list[MessageBody]


class FlagsBody(msgspec.Struct):
    large: bool = False
    ban: bool = False
    disband: bool = False
    send_ban: bool = False
    allow_stranger: bool = False


class PutBody(ChannelBody, kw_only=True):
    """flags, denied, allowed: null leaves them as they are."""

    flags: FlagsBody | None = None
    members: list[str] = []
    denied: list[str] | None = None
    allowed: list[str] | None = None


class ChatBody(msgspec.Struct):
    uid: str
    read_seq: Int63 = 0
    deleted_seq: Int63 = 0


class ChatsBody(ChannelBody, kw_only=True):
    chats: list[ChatBody]


class CompareBody(ChannelBody, kw_only=True):
    """digest: of the log up to after_seq, in hex; "" with 0. members: say something of them as well."""

    after_seq: int = 0
    digest: str = ""
    limit: int = MAX_COMPARED
    members: bool = False


class ComparedShape(msgspec.Struct, frozen=True):
    last_seq: int
    seq: int
    digest: str
    members: int | msgspec.UnsetType = msgspec.UNSET
    members_digest: str | msgspec.UnsetType = msgspec.UNSET


class ImportRoutes:
    def __init__(self, imports: Imports) -> None:
        self._imports = imports

    def routes(self) -> list[web.RouteDef]:
        table = [
            (POST, "/import/messages", self.messages),
            (POST, "/import/channel", self.channel),
            (POST, "/import/chats", self.chats),
            (POST, "/import/compare", self.compare),
        ]
        return [route(*entry) for entry in table]

    async def messages(self, request: web.Request) -> web.Response:
        body = await _read(request, MessagesBody)
        last = await self._imports.add_messages(body.twin, [each.message for each in body.messages])
        return answers.bare({"last_seq": last})

    async def channel(self, request: web.Request) -> web.Response:
        body = await _read(request, PutBody)
        flags = body.flags
        info = None if flags is None else ChannelInfo(*msgspec.structs.astuple(flags))
        await self._imports.put_channel(
            body.channel, info=info, members=body.members, denied=body.denied, allowed=body.allowed
        )
        return answers.ok()

    async def chats(self, request: web.Request) -> web.Response:
        body = await _read(request, ChatsBody)
        chats = [ImportedChat(each.uid, each.read_seq, each.deleted_seq) for each in body.chats]
        await self._imports.put_chats(body.channel, chats)
        return answers.ok()

    async def compare(self, request: web.Request) -> web.Response:
        body = await _read(request, CompareBody)
        try:
            digest = bytes.fromhex(body.digest)
        except ValueError:
            raise RequestRefused("digest is no hex") from None
        refuse_if(body.after_seq < 0, "after_seq is below 0")
        found = await self._imports.compare(body.twin, after_seq=body.after_seq, digest=digest, limit=body.limit)
        shape = ComparedShape(found.last_seq, found.seq, found.digest.hex())
        if body.members:
            members = await self._imports.members(body.channel)
            shape = msgspec.structs.replace(shape, members=members.total, members_digest=members.digest.hex())
        return answers.bare(shape)


async def _read(request: web.Request, into: type[T]) -> T:
    try:
        body = msgspec.json.decode(await body_of(request), type=into)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestRefused(str(error)) from None
    refuse_if(not body.channel_id.strip(), CHANNEL_ID_MISSING)
    refuse_if(body.channel_type == 0, CHANNEL_TYPE_ZERO)
    refuse_if(not 0 < body.channel_type <= MAX_CHANNEL_TYPE, "channel_type is no byte")
    return body
