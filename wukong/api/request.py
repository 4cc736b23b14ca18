"""What handlers read from a request besides its body, and the checks many of them share. http-api.md 2.4 and 2.6."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from wukong.api.body import BodyError, read_body
from wukong.channel.ids import has_special
from wukong.errors import RequestRefused

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GET = "GET"
POST = "POST"

BAD_FORMAT = "数据格式有误！"
CHANNEL_ID_EMPTY = "频道ID不能为空！"
CHANNEL_ID_MISSING = "channel_id不能为空！"
CHANNEL_ID_SPECIAL = "频道ID不能包含特殊字符！"
CHANNEL_TYPE_ZERO = "频道类型不能为0！"
UIDS_EMPTY = "uids不能为空！"
SUBSCRIBERS_EMPTY = "订阅者不能为空！"

# A caller that sends slowly must not hold one of the places for requests for ever.
BODY_TIMEOUT_S = 30.0

_MAX_BYTE = 255


def route(method: str, path: str, handler: Handler) -> web.RouteDef:
    """One route. GET does not answer HEAD as well (http-api.md 2.6: another method is another path)."""
    return web.get(path, handler, allow_head=False) if method == GET else web.route(method, path, handler)


def require(value: str, text: str) -> None:
    """Refuse a blank value."""
    if not value.strip():
        raise RequestRefused(text)


def require_some(uids: list[str], text: str) -> None:
    """Refuse a list without any uid that is not blank."""
    if not any(uid.strip() for uid in uids):
        raise RequestRefused(text)


def forbid_special(value: str, text: str) -> None:
    if has_special(value):
        raise RequestRefused(text)


def refuse_if(condition: bool, text: str) -> None:
    if condition:
        raise RequestRefused(text)


def query_int(request: web.Request, name: str, default: int = 0) -> int:
    """A number from the query; 0 for one that is none, the default when it is absent."""
    text = request.query.get(name)
    if not text:
        return default
    try:
        return int(text) if len(text) < 20 and text.isascii() and "_" not in text else 0
    except ValueError:
        return 0


def query_type(request: web.Request) -> int:
    """channel_type from the query; 0 for what is no byte."""
    value = query_int(request, "channel_type")
    return value if 0 <= value <= _MAX_BYTE else 0


def query_text(request: web.Request, name: str) -> str:
    """A value from the query; bytes that are no UTF-8 become U+FFFD, as in bodies."""
    value = request.query.get(name, "")
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


async def body_of(request: web.Request) -> bytes:
    """The bytes of the body. Raises RequestRefused when they do not come within BODY_TIMEOUT_S."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise RequestRefused(f"the body did not come within {BODY_TIMEOUT_S:.0f} s", status=408) from None


async def read(request: web.Request, into: type[T]) -> T:
    """The body; a bad one is refused with the decoder's own text."""
    return read_body(await body_of(request), into)


async def read_or(request: web.Request, into: type[T], text: str) -> T:
    """The body; a bad one is refused with this text."""
    try:
        return read_body(await body_of(request), into)
    except BodyError:
        raise RequestRefused(text) from None


async def read_explained(request: web.Request, into: type[T]) -> T:
    """The body; a bad one is refused with BAD_FORMAT and the decoder's text."""
    try:
        return read_body(await body_of(request), into)
    except BodyError as error:
        raise RequestRefused(f"{BAD_FORMAT}: {error.text}") from None
