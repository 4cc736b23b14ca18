"""/retention and /erase: how long messages are kept, and messages of a user made unreadable. docs/retention.md.

Routes of this server alone; they are protected as /cluster is. Channels are named by their stored ids. The bodies come
from our own tool and from operators, so they are read strictly.
"""

from typing import TypeVar

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.request import (
    CHANNEL_ID_MISSING,
    CHANNEL_TYPE_ZERO,
    GET,
    POST,
    body_of,
    query_text,
    query_type,
    refuse_if,
    route,
)
from wukong.channel.commands import RetentionPolicy
from wukong.channel.ids import ChannelId
from wukong.errors import RequestRefused
from wukong.limits import MAX_CHANNEL_TYPE
from wukong.service.retention import Retention

PREFIX = "/retention"
ERASE = "/erase"

T = TypeVar("T")


class LimitsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """0: no limit. All 0: everything is kept, whatever the channel's type says."""

    channel_type: int
    days: int = 0
    count: int = 0
    bytes: int = 0

    @property
    def policy(self) -> RetentionPolicy:
        return RetentionPolicy(self.days, self.count, self.bytes)


class SetBody(LimitsBody, kw_only=True, forbid_unknown_fields=True):
    channel_id: str


class ClearBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    channel_id: str
    channel_type: int


class ClearDefaultBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    channel_type: int


class RunBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Without channel_id: all channels. cursor: of the answer before, empty to begin."""

    channel_id: str = ""
    channel_type: int = 0
    cursor: str = ""


class EraseBody(RunBody, kw_only=True, forbid_unknown_fields=True):
    uid: str


class PolicyShape(msgspec.Struct, frozen=True):
    days: int
    count: int
    bytes: int


class ListedShape(msgspec.Struct, frozen=True):
    """channel_id "": of all channels of the type."""

    channel_id: str
    channel_type: int
    days: int
    count: int
    bytes: int


class ListShape(msgspec.Struct, frozen=True):
    policies: list[ListedShape]
    more: bool


class StandingShape(msgspec.Struct, frozen=True):
    """policy: what counts; own: whether it is the channel's own."""

    channel_id: str
    channel_type: int
    policy: PolicyShape | None
    own: bool
    first_seq: int
    last_seq: int
    first_command_seq: int
    last_command_seq: int


class RetiredShape(msgspec.Struct, frozen=True):
    """cursor: ask again with it; empty when all is done."""

    retired: int
    cursor: str


class ErasedShape(msgspec.Struct, frozen=True):
    erased: int
    cursor: str


class RetentionRoutes:
    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/retention", self.show),
            (POST, "/retention/set", self.set),
            (POST, "/retention/clear", self.clear),
            (POST, "/retention/default/set", self.set_default),
            (POST, "/retention/default/clear", self.clear_default),
            (POST, "/retention/run", self.run),
            (POST, "/erase", self.erase),
        ]
        return [route(*entry) for entry in table]

    async def show(self, request: web.Request) -> web.Response:
        channel_id, channel_type = query_text(request, "channel_id"), query_type(request)
        if not channel_id:
            found, more = await self._retention.policies()
            listed = [ListedShape(each.id, each.type, *msgspec.structs.astuple(policy)) for each, policy in found]
            return answers.bare(ListShape(listed, more))
        refuse_if(channel_type == 0, CHANNEL_TYPE_ZERO)
        standing = await self._retention.standing(ChannelId(channel_type, channel_id))
        policy = standing.of_type if standing.own is None else standing.own
        shape = StandingShape(
            channel_id,
            channel_type,
            None if policy is None else PolicyShape(*msgspec.structs.astuple(policy)),
            standing.own is not None,
            standing.first_seq,
            standing.last_seq,
            standing.first_command,
            standing.last_command,
        )
        return answers.bare(shape)

    async def set(self, request: web.Request) -> web.Response:
        body = await _read(request, SetBody)
        await self._retention.set(_channel(body.channel_id, body.channel_type), body.policy)
        return answers.ok()

    async def clear(self, request: web.Request) -> web.Response:
        body = await _read(request, ClearBody)
        await self._retention.set(_channel(body.channel_id, body.channel_type), None)
        return answers.ok()

    async def set_default(self, request: web.Request) -> web.Response:
        body = await _read(request, LimitsBody)
        await self._retention.set_default(_type(body.channel_type), body.policy)
        return answers.ok()

    async def clear_default(self, request: web.Request) -> web.Response:
        body = await _read(request, ClearDefaultBody)
        await self._retention.set_default(_type(body.channel_type), None)
        return answers.ok()

    async def run(self, request: web.Request) -> web.Response:
        body = await _read(request, RunBody)
        done = await self._retention.run(_one_or_all(body), cursor=body.cursor)
        return answers.bare(RetiredShape(done.messages, done.cursor))

    async def erase(self, request: web.Request) -> web.Response:
        body = await _read(request, EraseBody)
        done = await self._retention.erase(body.uid, _one_or_all(body), cursor=body.cursor)
        return answers.bare(ErasedShape(done.messages, done.cursor))


def _type(channel_type: int) -> int:
    refuse_if(channel_type == 0, CHANNEL_TYPE_ZERO)
    refuse_if(not 0 < channel_type <= MAX_CHANNEL_TYPE, "channel_type is no byte")
    return channel_type


def _channel(channel_id: str, channel_type: int) -> ChannelId:
    refuse_if(not channel_id.strip(), CHANNEL_ID_MISSING)
    return ChannelId(_type(channel_type), channel_id)


def _one_or_all(body: RunBody) -> ChannelId | None:
    # A type alone is half a name: it must not count as all channels.
    refuse_if(not body.channel_id and body.channel_type != 0, CHANNEL_ID_MISSING)
    return _channel(body.channel_id, body.channel_type) if body.channel_id else None


async def _read(request: web.Request, into: type[T]) -> T:
    try:
        return msgspec.json.decode(await body_of(request), type=into)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestRefused(str(error)) from None
