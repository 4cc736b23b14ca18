"""System accounts from the back end: asked for, kept, refreshed. http-api.md section 17."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.service.stack import Stack
from wukong.channel.commands import UpdateSystemUids
from wukong.errors import RequestRefused
from wukong.service import datasource
from wukong.service.datasource import Datasource, DatasourceFailed, ask

WAIT_S = 5.0


class BackEnd:
    """Answers every question with `answer`, after `status`; what was asked is in `asked`."""

    def __init__(self) -> None:
        self.answer = b"[]"
        self.status = 200
        self.asked: list[Any] = []
        self.heard = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        assert request.headers["Content-Type"] == "application/json"
        self.asked.append(json.loads(await request.read()))
        self.heard.set()
        return web.Response(body=self.answer, status=self.status, headers={"Location": "/elsewhere"})

    async def next_question(self) -> None:
        self.heard.clear()
        async with asyncio.timeout(WAIT_S):
            await self.heard.wait()


@pytest.fixture
async def back_end() -> AsyncIterator[BackEnd]:
    found = BackEnd()
    app = web.Application()
    app.router.add_post("/v1/datasource", found.handle)
    async with TestServer(app) as server:
        found.url = str(server.make_url("/v1/datasource"))
        yield found


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasource, "RETRY_S", 0.01)
    monkeypatch.setattr(datasource, "LEAD_POLL_S", 0.01)


@asynccontextmanager
async def asking(
    stack: Stack, back_end: BackEnd, *, leads: Callable[[], bool] = lambda: True, refresh_s: float = 0.02
) -> AsyncIterator[Datasource]:
    found = Datasource(stack.use_cases.users, back_end.url, leads=leads, refresh_s=refresh_s)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def everywhere(stack: Stack, uids: set[str]) -> Callable[[], bool]:
    return lambda: all(state.system_uids == uids for state in stack.node.states)


# -- asking --


async def test_the_question_is_the_documented_one(back_end: BackEnd, session: aiohttp.ClientSession) -> None:
    back_end.answer = b'["u1","\xe7\x94\xa8"]'
    assert await ask(session, back_end.url) == ["u1", "用"]
    assert back_end.asked == [{"cmd": "getSystemUIDs", "data": {}}]


@pytest.mark.parametrize("answer", [b"null", b"[]", b" [ ] "])
async def test_nobody_may_be_named(back_end: BackEnd, session: aiohttp.ClientSession, answer: bytes) -> None:
    back_end.answer = answer
    assert await ask(session, back_end.url) == []


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"data":["u"]}', b"[1]", b"[null]", b"[[]]", b'"u"', b"\xff", b"[]x"])
async def test_what_is_no_array_of_uids_is_no_answer(
    back_end: BackEnd, session: aiohttp.ClientSession, answer: bytes
) -> None:
    back_end.answer = answer
    with pytest.raises(DatasourceFailed, match="array of uids"):
        await ask(session, back_end.url)


@pytest.mark.parametrize("status", [201, 204, 301, 307, 400, 404, 500, 503])
async def test_only_status_200_is_an_answer(back_end: BackEnd, session: aiohttp.ClientSession, status: int) -> None:
    back_end.status = status
    with pytest.raises(DatasourceFailed, match=f"HTTP {status}"):
        await ask(session, back_end.url)
    assert len(back_end.asked) == 1


async def test_an_answer_over_the_limit_is_none(
    back_end: BackEnd, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasource, "ANSWER_BYTES", 10)
    back_end.answer = b'["12345"] '
    assert await ask(session, back_end.url) == ["12345"]
    back_end.answer = b'["12345"]  '
    with pytest.raises(DatasourceFailed, match="more than 10 bytes"):
        await ask(session, back_end.url)


async def test_nobody_there_is_no_answer(back_end: BackEnd, session: aiohttp.ClientSession) -> None:
    with pytest.raises(DatasourceFailed, match="cannot be asked"):
        await ask(session, "http://127.0.0.1:1/")


# -- keeping --


async def test_what_is_named_comes_into_force_in_every_slot_and_is_not_listed(back_end: BackEnd) -> None:
    stack = await Stack().start()
    await stack.use_cases.users.add_system_uids(["added"])
    back_end.answer = b'["a","b","a",""]'
    async with asking(stack, back_end):
        await until(everywhere(stack, {"added", "a", "b"}))
    assert await stack.use_cases.users.system_uids() == ["added"]


async def test_what_is_no_longer_named_goes_and_what_was_added_stays(back_end: BackEnd) -> None:
    stack = await Stack().start()
    await stack.use_cases.users.add_system_uids(["added", "both"])
    back_end.answer = b'["both","a"]'
    async with asking(stack, back_end):
        await until(everywhere(stack, {"added", "both", "a"}))
        back_end.answer = b"[]"
        await until(everywhere(stack, {"added", "both"}))
        await stack.use_cases.users.remove_system_uids(["both"])
        await until(everywhere(stack, {"added"}))


async def test_an_answer_that_says_nothing_new_costs_no_command(back_end: BackEnd) -> None:
    stack = await Stack().start()
    back_end.answer = b'["a","b"]'
    async with asking(stack, back_end) as found:
        await until(lambda: found.answers > 0)
        back_end.answer = b'["b","a","b"]'
        before = len(back_end.asked)
        await until(lambda: len(back_end.asked) > before + 3)
    assert stack.commands(UpdateSystemUids) == 1


async def test_without_an_answer_the_last_one_counts_and_the_log_says_so_once(
    back_end: BackEnd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stack = await Stack().start()
    back_end.answer = b'["a"]'
    async with asking(stack, back_end) as found:
        await until(everywhere(stack, {"a"}))
        back_end.status = 500
        await until(lambda: found.failures > 3)
        assert everywhere(stack, {"a"})()
        back_end.status, back_end.answer = 200, b'["b"]'
        await until(everywhere(stack, {"b"}))
        await until(lambda: "names 1 system accounts" in caplog.records[-1].getMessage())
    assert caplog.text.count("HTTP 500") == 1


async def test_a_log_that_is_not_available_is_tried_again(back_end: BackEnd) -> None:
    stack = await Stack(timeout_ms=20).start()
    back_end.answer = b'["a"]'
    stack.log.hold = True
    async with asking(stack, back_end) as found:
        await until(lambda: found.failures > 0)
        stack.log.release()
        stack.log.hold = False
        await until(everywhere(stack, {"a"}))


async def test_failures_are_followed_by_longer_and_longer_waits_up_to_the_refresh(
    back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    async def note(self: Datasource, condition: Callable[[], bool], limit_s: float | None = None) -> None:
        waits.append(limit_s)
        await asyncio.sleep(0)

    monkeypatch.setattr(Datasource, "_until", note)
    monkeypatch.setattr(datasource, "RETRY_S", 1.0)
    back_end.status = 500
    stack = await Stack().start()
    async with asking(stack, back_end, refresh_s=7.0):
        await until(lambda: len(waits) > 5)
        back_end.status = 200
        seen = len(waits)
        await until(lambda: len(waits) > seen + 2)
    assert waits[:6] == [None, 1.0, 2.0, 4.0, 7.0, 7.0]
    assert waits[-1] == 7.0


async def test_only_the_node_that_leads_asks_and_a_new_leader_asks_at_once(back_end: BackEnd) -> None:
    stack = await Stack().start()
    leader = 2
    back_end.answer = b'["a"]'
    async with (
        asking(stack, back_end, leads=lambda: leader == 1, refresh_s=60) as one,
        asking(stack, back_end, leads=lambda: leader == 2, refresh_s=60) as two,
    ):
        await until(lambda: two.answers == 1)
        await asyncio.sleep(0.05)
        assert (one.answers, two.answers) == (0, 1)
        leader = 1
        await until(lambda: one.answers == 1)
        assert two.answers == 1


async def test_more_uids_than_a_command_holds_are_refused_as_a_whole() -> None:
    stack = await Stack().start()
    await stack.use_cases.users.name_system_uids(["a"])
    with pytest.raises(RequestRefused, match="256 KiB"):
        await stack.use_cases.users.name_system_uids([f"{n:01000}" for n in range(300)])
    assert everywhere(stack, {"a"})()
