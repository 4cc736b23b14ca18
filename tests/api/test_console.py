"""WuKongIM's routes about nodes and slots. http-api.md 13.1 to 13.3."""

from typing import Any, cast

import pytest

from tests.api.calls import Api
from tests.api.test_auth import BOSS, CLERK, logins, signed
from tests.api.test_cluster import FakeAdmin
from tests.service.stack import Stack
from wukong.service.cluster import ClusterAdmin

CHANNEL = "/cluster/channels/g/2"
SLOT = "/cluster/slots/0"
FORBIDDEN = {"msg": "没有权限", "status": 403}


async def serving() -> Api:
    parts: dict[str, Any] = {"cluster": cast("ClusterAdmin", FakeAdmin()), "logins": logins(BOSS, CLERK)}
    return Api(await Stack().start(), **parts)


async def test_nodes_are_shown() -> None:
    async with await serving() as api:
        found = await api.get("/cluster/nodes")
        assert (found["total"], [node["id"] for node in found["data"]]) == (2, [1001, 1002])
        assert found["data"][0].items() >= {"is_leader": 1, "online": 1, "uptime": "7s", "allow_vote": 1}.items()
        assert found["data"][1].items() >= {"allow_vote": 0, "status": 2, "cluster_addr": ""}.items()
        assert "online" not in found["data"][1]
        assert (await api.get("/cluster/simpleNodes"))["total"] == 2
        assert (await api.get("/cluster/node"))["id"] == 1001
        assert (await api.get("/cluster/info"))["slotCount"] == 1


async def test_slots_are_shown() -> None:
    async with await serving() as api:
        found = await api.get("/cluster/allslot")
        assert (found["total"], found["data"][0]["log_index"]) == (1, 41)
        assert await api.get("/cluster/slots?ids=0") == found["data"]
        for query in ("", "?ids=", "?ids=x", "?ids=9", "?ids=-1", "?ids=" + "9" * 30):
            assert await api.get(f"/cluster/slots{query}") == []
        assert (await api.get(f"{SLOT}/config"))["leader_log_max_index"] == 41
        assert [each["replica_id"] for each in await api.get(f"{SLOT}/replicas")] == [1001]
        assert (await api.get(f"{SLOT}/localReplica"))["applied_index"] == 39
        assert (await api.call("GET", "/cluster/devtools/checkLogConflict")).body == ""


async def test_how_far_a_log_is_can_be_seen() -> None:
    async with await serving() as api:
        wanted = {"next": 0, "pre": 0, "applied": 39, "last": 41, "more": 0, "logs": []}
        for query in ("", "&log_type=1&slot=7", "&log_type=2&slot=0"):
            assert await api.get(f"/cluster/logs?node_id=1001{query}") == wanted


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/cluster/logs", "node not found"),
        ("/cluster/logs?node_id=9", "node not found"),
        ("/cluster/logs?node_id=1002", "node offline"),
        ("/cluster/logs?node_id=1001&log_type=2&slot=7", "slot not found"),
        ("/cluster/slots/7/config", "slot not found"),
        ("/cluster/slots/7/replicas", "slot not found"),
        ("/cluster/slots/x/config", "invalid syntax"),
        ("/cluster/slots/-1/localReplica", "invalid syntax"),
        ("/cluster/nodes/9/channels", "node not found"),
        ("/cluster/nodes/1002/channels", "node offline"),
        ("/cluster/channels?node_id=9", "node not found"),
    ],
)
async def test_what_is_unknown_is_refused_with_a_text(path: str, text: str) -> None:
    async with await serving() as api:
        assert text in await api.refused(path, method="GET")


@pytest.mark.parametrize(
    ("path", "user", "instead"),
    [
        (f"{SLOT}/migrate", "boss", "/cluster/member/replace"),
        (f"{SLOT}/election", "boss", "/cluster/transfer"),
        (f"{SLOT}/election", "clerk", "/cluster/transfer"),
        (f"{CHANNEL}/start", "boss", "no group of their own"),
        (f"{CHANNEL}/stop", "boss", "no group of their own"),
        (f"{CHANNEL}/migrate", "boss", "no group of their own"),
        (f"{CHANNEL}/migrate", "", "no group of their own"),
    ],
)
async def test_who_may_is_told_how_it_is_done_here(path: str, user: str, instead: str) -> None:
    async with await serving() as api:
        headers = {"Authorization": f"Bearer {signed(username=user)}"} if user else {}
        answer = await api.call("POST", path, {"migrate_from": 1, "migrate_to": 2}, headers=headers)
        assert (answer.status, answer.body["status"]) == (400, 400)
        assert instead in answer.body["msg"]


@pytest.mark.parametrize(
    ("path", "user"),
    [
        (f"{SLOT}/migrate", ""),
        (f"{SLOT}/migrate", "clerk"),
        (f"{SLOT}/election", ""),
        (f"{SLOT}/election", "nobody"),
        (f"{CHANNEL}/start", "clerk"),
        (f"{CHANNEL}/stop", ""),
        ("/cluster/slots/x/election", ""),
    ],
)
async def test_who_may_not_is_told_so_first(path: str, user: str) -> None:
    async with await serving() as api:
        headers = {"Authorization": f"Bearer {signed(username=user)}"} if user else {}
        answer = await api.call("POST", path, headers=headers)
        assert (answer.status, answer.body) == (400, FORBIDDEN)


async def test_an_unknown_slot_is_told_to_who_may() -> None:
    async with await serving() as api:
        headers = {"Authorization": f"Bearer {signed()}"}
        answer = await api.call("POST", "/cluster/slots/9/election", headers=headers)
        assert answer.body["msg"] == "slot not found"
