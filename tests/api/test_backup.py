"""/backup: what travels, and who gets it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.calls import Api
from tests.service.stack import Stack
from wukong.api.backup import BackupRoutes
from wukong.api.server import ApiOptions
from wukong.backup.rows import FrameDecoder, Pair, decode_pairs
from wukong.raft.log import GroupLog
from wukong.service.backup import BackupOptions, Backups

JSON = {"Content-Type": "application/json"}


async def serving(token: str = "") -> Api:
    stack = await Stack().start()
    backups = Backups(
        node=stack.node,
        store=stack.store,
        logs=[GroupLog(slot) for slot in range(stack.node.slot_count)],
        cluster=7,
        version="0",
        clock=stack.clock,
        options=BackupOptions(slice_rows=2, frame_bytes=100),
    )
    return Api(stack, ApiOptions(manager_token=token), more_routes=BackupRoutes(backups).routes())


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with await serving() as found:
        yield found


async def begin(api: Api, body: Any = None) -> Any:
    answer = await api.call("POST", "/backup/begin", body or {}, headers=JSON)
    assert answer.status == 200, answer
    return answer.body


async def stream(api: Api, path: str, body: dict[str, Any]) -> list[Pair]:
    async with api._client.post(path, data=json.dumps(body), headers=JSON) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/octet-stream"
        decoder = FrameDecoder()
        decoder.receive(await answer.read())
    found: list[Pair] = []
    while (data := decoder.next_frame()) is not None:
        found += decode_pairs(data)
    assert decoder.done
    return found


async def test_every_slot_can_be_read_and_the_backup_ended(api: Api) -> None:
    begun = await begin(api)
    assert begun["cluster"] == "7"
    assert begun["slots"][3] == {"index": 1, "term": 1, "from_log": False}
    rows = [await stream(api, "/backup/rows", {"id": begun["id"], "slot": slot}) for slot in range(16)]
    assert all(rows)
    behind = {"id": begun["id"], "slot": 0, "after": "AGFwcGxpZWQ="}
    assert await stream(api, "/backup/rows", behind) == rows[0][1:]
    answer = await api.call("POST", "/backup/end", {"id": begun["id"]}, headers=JSON)
    assert answer.body == {"status": 200}
    over = await api.call("POST", "/backup/rows", {"id": begun["id"], "slot": 0}, headers=JSON)
    assert (over.status, over.body["status"]) == (410, 410)


async def test_entries_come_from_a_log_that_reaches_back(api: Api) -> None:
    first = await begin(api)
    await api.call("POST", "/backup/end", {"id": first["id"]}, headers=JSON)
    base = [[head["index"], 0] for head in first["slots"]]
    second = await begin(api, {"base": base, "cluster": "7"})
    assert all(head["from_log"] for head in second["slots"])
    assert await stream(api, "/backup/entries", {"id": second["id"], "slot": 5}) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/backup/rows", {"id": 5, "slot": 0}),
        ("/backup/rows", {"slot": 0}),
        ("/backup/rows", {"id": "x", "slot": 0, "after": "§"}),
        ("/backup/entries", {"id": "x", "slot": "0"}),
        ("/backup/begin", {"base": [[1]]}),
        ("/backup/end", []),
    ],
)
async def test_bodies_are_read_strictly(api: Api, path: str, body: Any) -> None:
    assert (await api.call("POST", path, body, headers=JSON)).status == 400


async def test_a_second_one_is_refused_while_the_first_is_under_way(api: Api) -> None:
    await begin(api)
    answer = await api.call("POST", "/backup/begin", {}, headers=JSON)
    assert (answer.status, "under way" in answer.body["msg"]) == (409, True)


@pytest.mark.parametrize("path", ["begin", "rows", "entries", "end"])
async def test_without_a_manager_token_only_this_machine_and_no_web_page_may_ask(api: Api, path: str) -> None:
    for headers in (
        {"Content-Type": "text/plain"},
        {**JSON, "Origin": "http://evil.example"},
        {**JSON, "X-Forwarded-For": "203.0.113.9"},
    ):
        answer = await api.call("POST", f"/backup/{path}", {}, headers=headers)
        assert answer.status == 403, (headers, answer)
        assert "access-control-allow-origin" not in answer.headers
    assert (await api.call("GET", f"/backup/{path}")).status == 404


async def test_with_a_manager_token_it_is_needed() -> None:
    async with await serving("secret") as api:
        assert (await api.call("POST", "/backup/begin", {}, headers=JSON)).status == 401
        assert (await api.call("POST", "/backup/begin", {}, headers={"token": "secret"})).status == 200
