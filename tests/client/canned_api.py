"""An HTTP server on loopback that records requests and gives prepared answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any  # any: JSON as it came
    token: str


@dataclass
class CannedApi:
    """answers: by path, (HTTP status, body); bodies that are no text become JSON. Unknown paths get 404."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    delay_s: float = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        token = request.headers.get("token", "")
        self.requests.append(Request(request.method, request.raw_path.split("?")[0], dict(request.query), body, token))
        await asyncio.sleep(self.delay_s)
        status, answer = self.answers.get(request.path, (404, "404 page not found"))
        return web.Response(status=status, text=answer if isinstance(answer, str) else json.dumps(answer))


@contextlib.asynccontextmanager
async def canned_api(answers: dict[str, tuple[int, Any]]) -> AsyncIterator[CannedApi]:
    api = CannedApi(answers=answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
