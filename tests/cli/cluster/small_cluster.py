"""A server with the cluster's routes, in a thread of its own, whose cluster gets one step further at every look."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from tests.cli.cluster.worlds import node, slot, three
from wukong.cli.cluster.status import ClusterStatus

SLOTS = 4


class SmallCluster:
    """asked: what was posted, in order. refusal: said no to every change. stuck: a change makes no step. away: so many
    looks are answered with 503 first. token: needed if it is not empty."""

    def __init__(self, status: ClusterStatus | None = None, *, refusal: str = "", stuck: bool = False) -> None:
        self.status = status or three(SLOTS)
        self.refusal = refusal
        self.stuck = stuck
        self.away = 0
        self.token = ""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.looks = 0
        self.url = ""
        self.looked = threading.Event()
        self._coming = 0
        self._going = 0
        self._leader = 0

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/cluster/status", self._status), web.post("/cluster/{verb:.+}", self._ask)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _status(self, request: web.Request) -> web.Response:
        if self.token and request.headers.get("token") != self.token:
            return web.Response(status=401)
        self.looks += 1
        self.looked.set()
        if self.away:
            self.away -= 1
            return web.json_response({"msg": "electing", "status": 503}, status=503)
        if not self.stuck:
            self._step()
        return web.Response(body=msgspec.json.encode(self.status), content_type="application/json")

    async def _ask(self, request: web.Request) -> web.Response:
        verb, body = request.match_info["verb"], await request.json()
        self.asked.append((verb, body))
        if self.refusal:
            return web.json_response({"msg": self.refusal, "status": 400}, status=400)
        if verb in ("member/add", "member/replace"):
            self._coming = body["by"] if verb == "member/replace" else body["node"]
            nodes = [*self.status.nodes, node(self._coming, state="joining")]
            self.status = msgspec.structs.replace(self.status, nodes=nodes)
        if verb in ("member/remove", "member/replace"):
            self._going = body["node"]
        if verb == "transfer":
            self._leader = body["node"]
        return web.json_response({"status": 200})

    def _step(self) -> None:
        """One slot gets one change further: a learner comes, becomes a voter, the old one leaves, another leads."""
        slots = list(self.status.slots)
        for number, each in enumerate(slots):
            voters = [member.node for member in each.members if member.voter]
            learners = [member.node for member in each.members if not member.voter]
            leader = each.leader
            if self._coming and self._coming in learners:
                voters, learners = [*voters, self._coming], []
            elif self._coming and self._coming not in voters:
                learners = [self._coming]
            elif self._going and self._going in voters:
                voters.remove(self._going)
                leader = voters[0]
            elif self._leader and leader != self._leader:
                leader = self._leader
            else:
                continue
            slots[number] = slot(each.id, leader, voters, learners)
            break
        self.status = msgspec.structs.replace(self.status, slots=slots)


@contextlib.contextmanager
def small_cluster(status: ClusterStatus | None = None, **options: Any) -> Iterator[SmallCluster]:  # any: as above
    cluster = SmallCluster(status, **options)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(cluster.start(), loop).result(30)
        yield cluster
    finally:
        asyncio.run_coroutine_threadsafe(cluster.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
