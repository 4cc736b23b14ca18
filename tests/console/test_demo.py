"""The chat demo's routes: what they let demo users do, and that they let nobody do more."""

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.service.stack import Stack
from wukong.channel.ids import GROUP, PERSON
from wukong.console import demo as demo_module
from wukong.console.demo import ACTION, ACTION_HEADER, MEMBERS_LIMIT_COUNT, PREFIX, DemoServer
from wukong.protocol.packets import RED_DOT

OURS = {ACTION_HEADER: ACTION}
WS = "ws://127.0.0.1:5200"
Answer = tuple[int, Any]


class Visit:
    """A browser at the demo's port of one node."""

    def __init__(self, stack: Stack, *, local_only: bool = True) -> None:
        self.stack = stack
        server = DemoServer(stack.use_cases, addresses=[WS, ""], local_only=local_only)
        self.client = TestClient(TestServer(server.application()))

    async def __aenter__(self) -> "Visit":
        await self.client.start_server()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()

    async def ask(self, path: str, **body: Any) -> Answer:
        async with self.client.post(f"{PREFIX}/{path}", json=body, headers=OURS) as response:
            return response.status, await response.json()

    async def log_in(self, uid: str) -> dict[str, Any]:
        status, answer = await self.ask("session", uid=uid)
        assert status == 200
        return {"uid": uid, "token": answer["token"]}


async def test_the_pages_policy_allows_its_own_files_and_the_node_and_nothing_else() -> None:
    async with Visit(await Stack().start()) as visit:
        async with visit.client.get("/?users=a,b") as response:
            assert response.url.path_qs == f"{PREFIX}/?users=a,b"
            policy = response.headers["Content-Security-Policy"]
            assert f"connect-src 'self' {WS};" in policy
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            page = await response.text()
        assert "<script>" not in page
        for name in ("chat.js", "text.js", "wukong-client.js", "style.css", "icon.svg"):
            async with visit.client.get(f"{PREFIX}/{name}") as response:
                assert response.status == 200, name
        async with visit.client.get(f"{PREFIX}/..%2fdemo.py") as response:
            assert response.status == 404


@pytest.mark.parametrize("uid", ["alice", "demo-", "demo-a@b", "demo-" + "x" * 25, "____system", "demo-a\n"])
async def test_only_names_of_the_demo_can_log_in(uid: str) -> None:
    async with Visit(await Stack().start()) as visit:
        assert (await visit.ask("session", uid=uid))[0] == 400


async def test_a_request_of_another_page_is_refused() -> None:
    async with Visit(await Stack().start()) as visit:
        for headers in ({}, OURS | {"Origin": "http://elsewhere.example"}):
            async with visit.client.post(f"{PREFIX}/session", json={"uid": "demo-a"}, headers=headers) as response:
                assert response.status == 403


async def test_under_a_name_that_may_be_somebody_elses_it_does_not_answer() -> None:
    for local_only, status in ((True, 403), (False, 200)):
        async with (
            Visit(await Stack().start(), local_only=local_only) as visit,
            visit.client.get(f"{PREFIX}/", headers={"Host": "chat.example"}) as response,
        ):
            assert response.status == status


async def test_who_has_no_token_of_this_server_gets_nothing() -> None:
    async with Visit(await Stack().start()) as visit:
        alice = await visit.log_in("demo-alice")
        for route in ("conversations", "history", "read", "group", "members"):
            status, _ = await visit.ask(
                route, **(alice | {"uid": "demo-bob"}), channel_id="demo-lunch", channel_type=GROUP
            )
            assert status == 401, route


async def test_a_group_is_for_its_members_and_history_comes_by_pages() -> None:
    async with Visit(await Stack().start()) as visit:
        alice, carol = await visit.log_in("demo-alice"), await visit.log_in("demo-carol")
        lunch = {"channel_id": "demo-lunch", "channel_type": GROUP}
        assert (await visit.ask("group", **alice, channel_id="demo-lunch", members=["demo-bob"]))[0] == 200
        for number in range(5):
            await visit.stack.use_cases.messages.send(
                channel_id="demo-lunch", channel_type=GROUP, from_uid="demo-bob", payload=b"%d" % number, flags=RED_DOT
            )
        for route in ("history", "read", "members"):
            assert (await visit.ask(route, **carol, **lunch))[0] == 403
        assert (await visit.ask("group", **carol, channel_id="demo-lunch"))[0] == 409
        status, answer = await visit.ask("members", **alice, **lunch, members=["demo-carol"])
        assert (status, answer) == (200, {"members": ["demo-alice", "demo-bob", "demo-carol"]})

        async def seqs(**range_: int) -> list[int]:
            _, page = await visit.ask("history", **carol, **lunch, **range_)
            return [message["message_seq"] for message in page["messages"]]

        assert await seqs(limit=2) == [4, 5]
        assert await seqs(below=4, limit=2) == [2, 3]
        assert await seqs(below=2, limit=2) == [1]
        assert await seqs(below=1, limit=2) == []
        assert await seqs(above=0, limit=2) == [1, 2]
        assert await seqs(above=4) == [5]

        _, found = await visit.ask("conversations", **alice)
        assert [(each["channel_id"], each["unread"]) for each in found] == [("demo-lunch", 5)]
        assert (await visit.ask("read", **alice, **lunch))[0] == 200
        assert (await visit.ask("conversations", **alice))[1][0]["unread"] == 0


async def test_users_and_groups_from_outside_the_demo_are_out_of_reach() -> None:
    async with Visit(await Stack().start()) as visit:
        alice = await visit.log_in("demo-alice")
        assert (await visit.ask("group", **alice, channel_id="lunch"))[0] == 400
        assert (await visit.ask("group", **alice, channel_id="demo-lunch", members=["boss"]))[0] == 400
        assert (await visit.ask("history", **alice, channel_id="boss", channel_type=PERSON))[0] == 400
        assert (await visit.ask("history", **alice, channel_id="demo-x", channel_type=5))[0] == 403


async def test_its_limits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Visit(await Stack().start()) as visit:
        alice = await visit.log_in("demo-alice")
        many = [f"demo-{number}" for number in range(MEMBERS_LIMIT_COUNT)]
        assert (await visit.ask("group", **alice, channel_id="demo-lunch", members=many))[0] == 400
        monkeypatch.setattr(demo_module, "USERS_LIMIT_COUNT", 1)
        assert (await visit.ask("session", uid="demo-bob"))[0] == 429
        assert (await visit.ask("session", uid="demo-alice"))[0] == 200
        assert (await visit.ask("session", uid="demo-" + "x" * 20_000))[0] == 413


def test_every_text_is_there_in_both_languages() -> None:
    source = (Path(demo_module.__file__).parent / "demo" / "text.js").read_text()
    english, _, chinese = source.partition("const ZH")
    keys = [set(re.findall(r"(?:[{,]|^)\s*(\w+): \"", part, re.MULTILINE)) for part in (english, chinese)]
    assert len(keys[0]) > 30
    assert keys[0] - keys[1] == set()
