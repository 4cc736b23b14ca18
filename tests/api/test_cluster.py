"""/cluster over HTTP: which request becomes which wish, and what is answered."""

from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.api.calls import OK, Answer, Api
from tests.service.stack import Stack
from wukong.api.request import Handler
from wukong.api.server import ApiOptions, build_app
from wukong.errors import RequestRefused, Unavailable
from wukong.service.cluster import (
    ASKED,
    ClusterAdmin,
    MemberShape,
    NodeShape,
    Report,
    SlotReport,
    SlotShape,
    StatusShape,
)

STATUS = StatusShape(
    "c0ffee",
    1001,
    [
        NodeShape(1001, "10.0.0.1:11110", "http://one", "a1", "voter", True, 1, 0, "0.1.0"),
        NodeShape(1002, "", "", "0", "joining", False, 0, 17),
    ],
    [SlotShape(0, 1001, 3, [MemberShape(1001, "a1", True, 40), MemberShape(1002, "b2", False)], 40, 39)],
    ["token_auth_on"],
    ["slot 0 to node 1002"],
    "node 1002 is joining",
)

SHOWN = {
    "cluster": "c0ffee",
    "node": 1001,
    "nodes": [
        {
            "id": 1001,
            "addr": "10.0.0.1:11110",
            "api_url": "http://one",
            "disk": "a1",
            "state": "voter",
            "connected": True,
            "leads": 1,
            "lag_entries": 0,
            "version": "0.1.0",
        },
        {
            "id": 1002,
            "addr": "",
            "api_url": "",
            "disk": "0",
            "state": "joining",
            "connected": False,
            "leads": 0,
            "lag_entries": 17,
        },
    ],
    "slots": [
        {
            "id": 0,
            "leader": 1001,
            "term": 3,
            "members": [
                {"node": 1001, "disk": "a1", "voter": True, "match": 40},
                {"node": 1002, "disk": "b2", "voter": False},
            ],
            "commit": 40,
            "applied": 39,
        }
    ],
    "settings_differ": ["token_auth_on"],
    "snapshots": ["slot 0 to node 1002"],
    "job": "node 1002 is joining",
}


class FakeAdmin:
    """What was wanted is in `wishes`; error: what every wish meets."""

    node_id, slot_count = 1001, 1

    def __init__(self, error: Exception | None = None) -> None:
        self.wishes: list[tuple[Any, ...]] = []
        self.error = error

    def _note(self, *wish: Any) -> None:
        self.wishes.append(wish)
        if self.error is not None:
            raise self.error

    async def status(self) -> StatusShape:
        return STATUS

    async def reports(self) -> dict[int, Report]:
        return {1001: Report("0.1.0", [SlotReport(3, 40, 39, 41, True, [])], [], [], ("ok", ""), 7)}

    def last_index(self, slot: int) -> int:
        return 41

    def applied_index(self, slot: int) -> int:
        return 39

    async def add(self, node: int, addr: str, api_url: str) -> None:
        self._note("add", node, addr, api_url)

    async def remove(self, node: int) -> None:
        self._note("remove", node)

    async def replace(self, node: int, by: int, addr: str) -> None:
        self._note("replace", node, by, addr)

    def transfer(self, slot: int, node: int) -> str:
        self._note("transfer", slot, node)
        return ASKED if slot else ""

    async def adopt_settings(self) -> None:
        self._note("adopt")


JSON = {"Content-Type": "application/json"}


class ClusterApi(Api):
    """Calls as the command line tool does. asker: whose address the server sees."""

    def __init__(self, stack: Stack, admin: FakeAdmin | None, *, asker: str = "", **options: Any) -> None:
        self.stack = stack
        app = build_app(stack.use_cases, ApiOptions(**options), cluster=cast("ClusterAdmin | None", admin))
        if asker:
            app.middlewares.insert(0, seen_from(asker))
        self._client = TestClient(TestServer(app))

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        return await super().call(method, path, body, raw=raw, headers={**JSON, **(headers or {})})


def seen_from(address: str) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(remote=address))

    return middleware


async def serving(admin: FakeAdmin | None, **options: Any) -> ClusterApi:
    return ClusterApi(await Stack().start(), admin, **options)


async def test_the_status_is_shown() -> None:
    async with await serving(FakeAdmin()) as api:
        assert await api.get("/cluster/status") == SHOWN


@pytest.mark.parametrize(
    ("path", "body", "wish"),
    [
        (
            "member/add",
            {"node": 4, "addr": "h:1", "api_url": "http://four"},
            ("add", 4, "h:1", "http://four"),
        ),
        ("member/add", {"node": 4, "addr": "h:1"}, ("add", 4, "h:1", "")),
        ("member/remove", {"node": 3}, ("remove", 3)),
        ("member/replace", {"node": 3, "by": 4, "addr": "h:1"}, ("replace", 3, 4, "h:1")),
        ("transfer", {"slot": 0, "node": 2}, ("transfer", 0, 2)),
        ("settings/adopt", None, ("adopt",)),
    ],
)
async def test_a_request_becomes_a_wish(path: str, body: object, wish: tuple[object, ...]) -> None:
    admin = FakeAdmin()
    async with await serving(admin) as api:
        assert await api.post(f"/cluster/{path}", body) == OK
    assert admin.wishes == [wish]


@pytest.mark.parametrize("slot", [1, -1])
async def test_whoever_asks_another_node_is_told_that_it_was_asked(slot: int) -> None:
    async with await serving(FakeAdmin()) as api:
        assert await api.post("/cluster/transfer", {"slot": slot, "node": 2}) == {"msg": "asked", "status": 200}


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("member/add", {"addr": "h:1"}, "node is missing"),
        ("member/remove", {}, "node is missing"),
        ("member/replace", {"node": 3}, "node and by are needed"),
        ("member/replace", {"by": 3}, "node and by are needed"),
        ("transfer", {"slot": 1}, "node is missing"),
        ("transfer", {"node": 1}, "slot is missing"),
    ],
)
async def test_what_is_missing_is_named(path: str, body: object, text: str) -> None:
    admin = FakeAdmin()
    async with await serving(admin) as api:
        assert text in await api.refused(f"/cluster/{path}", body)
    assert admin.wishes == []


@pytest.mark.parametrize("path", ["member/add", "member/remove", "member/replace", "transfer"])
@pytest.mark.parametrize("raw", [b"", b"{", b'{"node":"1"}', b'{"node":-1}', b'{"node":1.5}'])
async def test_a_malformed_body_is_refused(path: str, raw: bytes) -> None:
    admin = FakeAdmin()
    async with await serving(admin) as api:
        await api.refused(f"/cluster/{path}", raw=raw)
    assert admin.wishes == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(RequestRefused("node 9 is not in the cluster"), 400), (Unavailable("slot 0 has no leader now"), 503)],
)
async def test_a_wish_that_is_not_granted_says_why(error: Exception, status: int) -> None:
    async with await serving(FakeAdmin(error)) as api:
        for path, body in (
            ("member/remove", {"node": 9}),
            ("transfer", {"slot": 0, "node": 9}),
            ("settings/adopt", None),
        ):
            answer = await api.call("POST", f"/cluster/{path}", body)
            assert (answer.status, answer.body) == (status, {"msg": str(error), "status": status})


async def test_the_manager_token_guards_all_of_it() -> None:
    admin = FakeAdmin()
    async with await serving(admin, manager_token="s3cret") as api:
        for method, path in (("GET", "status"), ("POST", "member/remove"), ("POST", "settings/adopt")):
            answer = await api.call(method, f"/cluster/{path}", {"node": 3} if method == "POST" else None)
            assert answer.status == 401
        assert admin.wishes == []
        answer = await api.call("POST", "/cluster/settings/adopt", headers={"token": "s3cret"})
        assert answer.body == OK


WISHES = ["member/add", "member/remove", "member/replace", "transfer", "settings/adopt"]
COMPLETE = {"node": 3, "by": 4, "addr": "h:1", "slot": 0}


@pytest.mark.parametrize("path", WISHES)
@pytest.mark.parametrize("asker", ["10.1.2.3", "192.168.0.9", "2001:db8::1", "::ffff:10.1.2.3", "", "unix"])
async def test_without_a_manager_token_nobody_elsewhere_changes_the_cluster(path: str, asker: str) -> None:
    admin = FakeAdmin()
    async with await serving(admin, asker=asker or "?") as api:
        answer = await api.call("POST", f"/cluster/{path}", COMPLETE)
        assert answer.status == 403
        assert "set managerToken" in answer.body["msg"]
        assert await api.get("/cluster/status") == SHOWN
    assert admin.wishes == []


@pytest.mark.parametrize("asker", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_without_a_manager_token_the_node_s_own_machine_does(asker: str) -> None:
    admin = FakeAdmin()
    async with await serving(admin, asker=asker) as api:
        assert await api.post("/cluster/member/remove", {"node": 3}) == OK
    assert admin.wishes == [("remove", 3)]


@pytest.mark.parametrize("path", WISHES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; application/json"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"X-Forwarded-For": "10.1.2.3"},
        {"X-Real-IP": "10.1.2.3"},
    ],
)
async def test_a_web_page_on_the_node_s_own_machine_changes_nothing(path: str, headers: dict[str, str]) -> None:
    admin = FakeAdmin()
    async with await serving(admin) as api:
        answer = await api.call("POST", f"/cluster/{path}", COMPLETE, headers=headers)
        assert answer.status == 403
    assert admin.wishes == []


async def test_with_the_manager_token_it_is_changed_from_anywhere() -> None:
    admin = FakeAdmin()
    async with await serving(admin, asker="10.1.2.3", manager_token="s3cret") as api:
        headers = {"token": "s3cret", "Content-Type": "text/plain"}
        assert (await api.call("POST", "/cluster/member/remove", {"node": 3}, headers=headers)).body == OK
    assert admin.wishes == [("remove", 3)]


async def test_no_page_of_another_origin_may_read_or_ask() -> None:
    async with await serving(FakeAdmin()) as api:
        for method, path in [("GET", "status"), ("OPTIONS", "member/remove"), ("POST", "member/remove"), ("GET", "x")]:
            answer = await api.call(method, f"/cluster/{path}", {} if method == "POST" else None)
            assert not [name for name in answer.headers if name.startswith("access-control-")], (method, path)
        assert (await api.call("GET", "/health")).headers["access-control-allow-origin"] == "*"


async def test_a_node_without_a_cluster_has_no_such_routes() -> None:
    async with await serving(None) as api:
        answer = await api.call("GET", "/cluster/status")
        assert answer.status == 404
