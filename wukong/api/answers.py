"""Response bodies: the four shapes of http-api.md 2.5, and errors of 2.6."""

from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from wukong.service.replica import Pace

JSON_TYPE = "application/json; charset=utf-8"

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "POST, OPTIONS, GET, PUT,DELETE,PATCH",
    "Access-Control-Allow-Headers": (
        "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, accept, origin, Cache-Control, "
        "X-Requested-With, token, accept, Origin, appid, noncestr, sign, timestamp"
    ),
}

_JSON_HEADERS = CIMultiDict({**CORS_HEADERS, "Content-Type": JSON_TYPE})
_TEXT_HEADERS = CIMultiDict({**CORS_HEADERS, "Content-Type": "text/plain"})

_encode = msgspec.json.Encoder().encode
_OK = b'{"status":200}'


def encoded(body: bytes, status: int = 200) -> web.Response:
    """JSON that is encoded already."""
    return web.Response(body=body, status=status, headers=_JSON_HEADERS)


def ok() -> web.Response:
    return encoded(_OK)


def ok_with(data: Any) -> web.Response:
    """Any: whatever msgspec can encode."""
    return encoded(_encode({"data": data, "status": 200}))


def bare(value: Any, status: int = 200) -> web.Response:
    """A query's answer, without an envelope."""
    return encoded(_encode(value), status)


def status(number: int) -> web.Response:
    """A soft failure: HTTP 200 with another number in the body."""
    return encoded(_encode({"status": number}))


def refused(text: str, *, http_status: int = 400, code: int | None = None) -> web.Response:
    """code: the number in the body, if it is not the HTTP status."""
    return encoded(_encode({"msg": text, "status": http_status if code is None else code}), http_status)


def not_found() -> web.Response:
    return web.Response(body=b"404 page not found", status=404, headers=_TEXT_HEADERS)


def text(body: bytes, content_type: str) -> web.Response:
    return web.Response(body=body, headers={**CORS_HEADERS, "Content-Type": content_type})


async def raw_list(items: list[Any]) -> list[msgspec.Raw]:
    """Items encoded one by one, in slices of time: long answers must not hold the loop."""
    pace = Pace()
    found = []
    for item in items:
        found.append(msgspec.Raw(_encode(item)))
        await pace.step()
    return found
