"""/backup: what `wukong backup` reads. Routes of this server alone; all are POST and protected as changes of /cluster
are, because what they give out is everything there is."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.request import POST, body_of, route
from wukong.errors import RequestRefused
from wukong.service.backup import Backups, Trimmed

log = logging.getLogger(__name__)

PREFIX = "/backup/"

# A caller that takes nothing for so long is gone.
SEND_TIMEOUT_S = 30.0

T = TypeVar("T")


class BeginBody(msgspec.Struct):
    """base: (index, term) per slot of the backup to build on; empty: a full one. cluster: as that one names it."""

    base: list[tuple[int, int]] = []
    cluster: str = ""


class RowsBody(msgspec.Struct):
    """after: base64 of the key behind which to go on."""

    id: str
    slot: int
    after: bytes = b""


class EntriesBody(msgspec.Struct):
    """after: the index behind which to go on."""

    id: str
    slot: int
    after: int = 0


class EndBody(msgspec.Struct):
    id: str


class BackupRoutes:
    def __init__(self, backups: Backups) -> None:
        self._backups = backups

    def routes(self) -> list[web.RouteDef]:
        table = [
            (POST, "/backup/begin", self.begin),
            (POST, "/backup/rows", self.rows),
            (POST, "/backup/entries", self.entries),
            (POST, "/backup/end", self.end),
        ]
        return [route(*entry) for entry in table]

    async def begin(self, request: web.Request) -> web.Response:
        body = await _read(request, BeginBody)
        return answers.bare(await self._backups.begin(body.base, body.cluster))

    async def rows(self, request: web.Request) -> web.StreamResponse:
        body = await _read(request, RowsBody)
        return await _stream(request, self._backups.rows(body.id, body.slot, body.after))

    async def entries(self, request: web.Request) -> web.StreamResponse:
        body = await _read(request, EntriesBody)
        return await _stream(request, self._backups.entries(body.id, body.slot, body.after))

    async def end(self, request: web.Request) -> web.Response:
        self._backups.end((await _read(request, EndBody)).id)
        return answers.ok()


async def _stream(request: web.Request, frames: AsyncIterator[bytes]) -> web.StreamResponse:
    """The frames as they come. An answer that ends without the last frame was cut short; the caller asks again."""
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    try:
        async for frame in frames:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await response.write(frame)
        await response.write_eof()
    except (Trimmed, TimeoutError, ConnectionError) as error:
        log.info("an answer with rows ends early: %s", type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response


async def _read(request: web.Request, into: type[T]) -> T:
    try:
        return msgspec.json.decode(await body_of(request), type=into)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestRefused(str(error)) from None
