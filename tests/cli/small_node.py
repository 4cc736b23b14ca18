"""The client tests' small server with the routes a demo needs, in a thread of its own, for commands that run a loop."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.client.small_server import GROUP, SmallServer


class SmallNode:
    """forgetful: an added member is known to the deliveries only after the channel's next message, as with a recipient
    cache that nobody told. doubling: everything is pushed twice."""

    def __init__(self, *, forgetful: bool = False, doubling: bool = False) -> None:
        self.server = SmallServer()
        self.url = ""
        self._forgetful = forgetful
        self._doubling = doubling
        self._late: dict[str, set[str]] = {}

    async def start(self) -> None:
        fan_out = self.server.fan_out

        async def wrong(channel: Any, stored: Any, origin: Any = None) -> None:
            await fan_out(channel, stored, origin)
            if self._doubling:
                await fan_out(channel, stored, origin)
            channel.members |= self._late.pop(channel.channel_id, set())

        self.server.fan_out = wrong  # type: ignore[method-assign]
        await self.server.start()
        app = web.Application()
        app.add_routes(
            [
                web.get("/route", self._route),
                web.get("/health", self._health),
                web.post("/channel", self._create),
                web.post("/channel/subscriber_add", self._add),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self.server.stop()

    async def _route(self, request: web.Request) -> web.Response:
        return web.json_response({"tcp_addr": self.server.tcp, "ws_addr": self.server.ws, "wss_addr": ""})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.server.channel(body["channel_id"], GROUP).members.update(body["subscribers"])
        return web.json_response({"status": 200})

    async def _add(self, request: web.Request) -> web.Response:
        body = await request.json()
        channel = self.server.channel(body["channel_id"], GROUP)
        if self._forgetful:
            self._late.setdefault(channel.channel_id, set()).update(body["subscribers"])
        else:
            channel.members.update(body["subscribers"])
        return web.json_response({"status": 200})


@contextlib.contextmanager
def small_node(*, forgetful: bool = False, doubling: bool = False) -> Iterator[SmallNode]:
    node = SmallNode(forgetful=forgetful, doubling=doubling)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(node.start(), loop).result(30)
        yield node
    finally:
        asyncio.run_coroutine_threadsafe(_end(node), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _end(node: SmallNode) -> None:
    await node.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
