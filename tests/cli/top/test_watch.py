from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.cli.cluster.worlds import node, three
from wukong.cli.cluster.status import ClusterStatus
from wukong.cli.top.watch import Watch
from wukong.client.errors import ApiRefused, ApiUnavailable


class SmallApi:
    """One node's API. is_up: answers with figures, else with 503."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.status: ClusterStatus = three()
        self.is_up = True
        self.token = ""
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics), web.get("/cluster/status", self._status)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.token and request.headers.get("token") != self.token:
            return web.Response(status=401)
        return None if self.is_up else web.json_response({"msg": "stopping"}, status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = f'wukong_info{{node_id="{self.number}",version="1"}} 1\nwukong_serving 1\nwukong_sends_total 5\n'
        return self._refusal(request) or web.Response(text=text)

    async def _status(self, request: web.Request) -> web.Response:
        body: Any = msgspec.json.encode(self.status)
        return self._refusal(request) or web.Response(body=body, content_type="application/json")


@pytest.fixture
async def apis() -> AsyncIterator[list[SmallApi]]:
    made = [SmallApi(number) for number in (1001, 1002, 1003)]
    for api in made:
        await api.start()
    nodes = [node(api.number, api_url=f"{api.url}/") for api in made]
    for api in made:
        api.status = msgspec.structs.replace(three(), nodes=nodes)
    yield made
    for api in made:
        await api.stop()


async def test_one_address_is_enough_to_find_the_others(apis: list[SmallApi]) -> None:
    async with Watch([apis[0].url], "") as watch:
        await watch.look()
        found, _ = await watch.look()
    assert [(row.node, row.state, row.version) for row in found] == [(n, "ok", "1") for n in (1001, 1002, 1003)]


async def test_a_node_that_goes_and_comes_back_is_told(apis: list[SmallApi]) -> None:
    async with Watch([api.url for api in apis], "") as watch:
        await watch.look()
        apis[2].is_up = False
        found, news = await watch.look()
        assert found[2].state == "down"
        assert news == ["node 1003: down: 503 stopping"]
        apis[2].is_up = True
        assert (await watch.look())[1] == ["node 1003: ok, was down"]


async def test_the_first_node_may_be_down_later(apis: list[SmallApi]) -> None:
    async with Watch([apis[0].url], "") as watch:
        await watch.look()
        apis[0].is_up = False
        found, _ = await watch.look()
        assert [row.state for row in found] == ["down", "ok", "ok"]
        for api in apis:
            api.is_up = False
        assert [row.state for row in (await watch.look())[0]] == ["down"] * 3


async def test_nobody_at_the_first_look_and_a_missing_token_are_errors(apis: list[SmallApi]) -> None:
    for api in apis:
        api.is_up = False
    async with Watch([apis[0].url], "") as watch:
        with pytest.raises(ApiUnavailable):
            await watch.look()
    apis[1].token = "t"
    apis[1].is_up = True
    async with Watch([apis[1].url], "") as watch:
        with pytest.raises(ApiRefused):
            await watch.look()
    async with Watch([apis[1].url], "t") as watch:
        await watch.look()


async def test_the_view_of_most_nodes_counts(apis: list[SmallApi]) -> None:
    alone = [node(1001), node(1002, connected=False), node(1003, connected=False)]
    apis[0].status = msgspec.structs.replace(three(), node=1001, nodes=alone)
    async with Watch([api.url for api in apis], "") as watch:
        await watch.look()
        assert watch.status is not None
        assert all(each.connected for each in watch.status.nodes)


def test_without_an_address_there_is_nothing_to_watch() -> None:
    with pytest.raises(ValueError):
        Watch([], "")
