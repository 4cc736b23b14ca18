"""Health, addresses, process and connections over HTTP. http-api.md sections 5 and 7."""

from typing import Any

import pytest

from tests.api.calls import Api
from tests.service.stack import NODE_ID, Stack
from wukong.api.server import ApiOptions
from wukong.api.system import Addresses

ADDRESSES = Addresses("203.0.113.7:5100", "ws://203.0.113.7:5200", "", "10.0.0.7:5100", "http://203.0.113.7:5001", "")
OUTSIDE = {"tcp_addr": "203.0.113.7:5100", "ws_addr": "ws://203.0.113.7:5200", "wss_addr": ""}
INSIDE = {"tcp_addr": "10.0.0.7:5100", "ws_addr": "", "wss_addr": ""}

VARZ = {
    "server_id": str,
    "server_name": str,
    "version": str,
    "connections": int,
    "user_handler_count": int,
    "user_handler_conn_count": int,
    "uptime": str,
    "goroutine": int,
    "mem": int,
    "cpu": float,
    "in_msgs": int,
    "out_msgs": int,
    "in_bytes": int,
    "out_bytes": int,
    "slow_clients": int,
    "retry_queue": int,
    "tcp_addr": str,
    "ws_addr": str,
    "wss_addr": str,
    "manager_addr": str,
    "manager_on": int,
    "commit": str,
    "commit_date": str,
    "tree_state": str,
    "api_url": str,
    "manager_uid": str,
    "manager_token_on": int,
    "conversation_cache_count": int,
}


async def serving(**options: Any) -> Api:
    return Api(await Stack().start(), ApiOptions(addresses=ADDRESSES, **options))


async def test_a_serving_node_is_healthy(api: Api) -> None:
    assert await api.get("/health") == {"status": "ok"}


async def test_a_node_that_does_not_serve_says_why_with_500() -> None:
    async with await serving(health=lambda: "slot leader not found") as api:
        answer = await api.call("GET", "/health")
        assert (answer.status, answer.body) == (500, {"message": "slot leader not found", "status": "error"})


@pytest.mark.parametrize(
    ("query", "addresses"),
    [("", OUTSIDE), ("?uid=u", OUTSIDE), ("?intranet=0", OUTSIDE), ("?intranet=x", OUTSIDE), ("?intranet=1", INSIDE)],
)
async def test_clients_are_sent_to_the_configured_addresses(query: str, addresses: dict[str, str]) -> None:
    async with await serving() as api:
        assert await api.get(f"/route{query}") == addresses
        assert await api.post(f"/route/batch{query}", ["u1", "u2"]) == [{**addresses, "uids": ["u1", "u2"]}]


@pytest.mark.parametrize(("raw", "uids"), [(b"[]", []), (b"null", None)])
async def test_a_batch_of_nobody_is_answered_as_it_was_asked(raw: bytes, uids: list[str] | None) -> None:
    async with await serving() as api:
        assert await api.post("/route/batch", raw=raw) == [{**OUTSIDE, "uids": uids}]


@pytest.mark.parametrize("raw", [b"{", b"{}", b"[1]", b""])
async def test_a_malformed_batch_is_refused(api: Api, raw: bytes) -> None:
    assert await api.refused("/route/batch", raw=raw) == "数据格式有误！"


async def test_fixed_answers_of_upstream(api: Api) -> None:
    assert await api.get("/migrate/result") == {"status": "running", "step": "", "last_err": None, "try_count": 0}
    assert await api.get("/varz/setting") == {
        "logger": {"trace_on": 0, "loki_on": 0},
        "prometheus_on": 0,
        "stress_on": 0,
    }


async def test_varz_has_exactly_the_documented_fields() -> None:
    async with await serving(manager_on=True, manager_uid="boss") as api:
        found = await api.get("/varz")
        assert {key: type(value) for key, value in found.items()} == VARZ
        assert (found["server_id"], found["server_name"]) == (str(NODE_ID), "WuKongIM")
        assert (found["manager_on"], found["manager_uid"], found["manager_token_on"]) == (1, "boss", 0)
        assert (found["tcp_addr"], found["api_url"]) == ("203.0.113.7:5100", "http://203.0.113.7:5001")


async def test_varz_can_show_connections(api: Api) -> None:
    await api.stack.connect("u", 1)
    await api.stack.connect("v", 2)
    assert len((await api.get("/varz?show=conn"))["conns"]) == 2
    assert len((await api.get("/varz?show=conn&conn_limit=1"))["conns"]) == 1


@pytest.mark.parametrize(("path", "text"), [("/varz", "node not found"), ("/connz", "节点不存在！")])
async def test_another_node_is_unknown(api: Api, path: str, text: str) -> None:
    assert await api.refused(f"{path}?node_id=7", method="GET") == text
    for same in (str(NODE_ID), "0", "x"):
        await api.get(f"{path}?node_id={same}")
