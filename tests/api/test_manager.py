"""Who gets in at the manager's port, and what is served there. http-api.md 2.1, 2.2 and 12.2."""

from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from tests.api.calls import OK, Answer, Api
from tests.api.test_auth import BOSS, CLERK, logins, signed
from tests.api.test_cluster import FakeAdmin, seen_from
from tests.service.stack import NODE_ID, Stack
from wukong.api.manager import FROM_ELSEWHERE, NOT_OURS, build_manager_app
from wukong.api.server import ApiOptions
from wukong.config.keys import GUEST
from wukong.histogram import Histogram
from wukong.service.cluster import ClusterAdmin
from wukong.service.history import SERIES, History, Reading
from wukong.service.other_nodes import NoOtherNodes

TOKEN = "s3cret"
WITH_TOKEN = {"token": TOKEN}
JSON = {"Content-Type": "application/json"}
KICK = {"uid": "u", "conn_id": 1}
FORBIDDEN = {"msg": "没有权限", "status": 403}


class ManagerApi(Api):
    def __init__(
        self,
        stack: Stack,
        admin: FakeAdmin | None = None,
        *,
        asker: str = "",
        token: str = TOKEN,
        history: History | None = None,
    ) -> None:
        self.stack = stack
        app = build_manager_app(
            stack.use_cases,
            ApiOptions(manager_token=token),
            cluster=cast("ClusterAdmin | None", admin),
            nodes=NoOtherNodes(NODE_ID),
            logins=logins(GUEST, BOSS, CLERK),
            registry=CollectorRegistry(),
            history=history,
        )
        if asker:
            app.middlewares.insert(0, seen_from(asker))
        self._client = TestClient(TestServer(app))


async def serving(admin: FakeAdmin | None = None, **options: Any) -> ManagerApi:
    return ManagerApi(await Stack().start(), admin, **options)


def by(username: str, **more: str) -> dict[str, str]:
    """Headers of a login, as a console sends them."""
    return {"Authorization": f"Bearer {signed(username=username)}", **JSON, **more}


def is_turned_away(answer: Answer) -> bool:
    return answer.status == 401 and answer.body.keys() == {"error"}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
@pytest.mark.parametrize(
    "path", ["/connz", "/cluster/nodes", "/conn/kick", "/nope", "/", "/metricsx", "/webx", "/manager"]
)
@pytest.mark.parametrize("headers", [{}, {"token": ""}, {"token": "wrong"}, {"Authorization": "Bearer a.b.c"}])
async def test_nobody_gets_in_without_token_or_login(method: str, path: str, headers: dict[str, str]) -> None:
    for token in (TOKEN, ""):
        async with await serving(token=token) as api:
            assert is_turned_away(await api.call(method, path, headers=headers))


async def test_logins_and_figures_are_open_and_a_console_s_place_is_kept_free() -> None:
    async with await serving() as api:
        assert (await api.call("GET", "/metrics")).status == 200
        for name in ("app", "cluster", "system"):
            assert await api.get(f"/metrics/{name}") == []
        found = await api.post("/manager/login", {"username": "boss", "password": "b-password"})
        header = {"Authorization": f"Bearer {found['token']}"}
        assert (await api.call("GET", "/connz", headers=header)).status == 200
        for path in ("/web", "/web/index.html", "/metrics/other"):
            assert (await api.call("GET", path)).status == 404


@pytest.mark.parametrize("headers", [WITH_TOKEN, by("boss"), by("guest")], ids=["token", "boss", "guest"])
async def test_whoever_is_in_reads_what_operators_read(headers: dict[str, str]) -> None:
    async with await serving() as api:
        for path in ("/connz", "/varz", "/varz/setting", "/tags", "/cluster/channels", "/cluster/users", "/plugins"):
            assert (await api.call("GET", path, headers=headers)).status == 200, path
        for path in ("/health", "/route", "/user/systemuids", "/docs", "/channel/whitelist"):
            assert (await api.call("GET", path, headers=headers)).status == 404, path
        for path in ("/message/send", "/channel", "/user/token"):
            assert (await api.call("POST", path, {}, headers=by("boss"))).status == 404, path


async def test_who_may_only_read_changes_nothing() -> None:
    async with await serving() as api:
        await api.stack.connect("u", 1)
        for path in ("/conn/kick", "/conn/remove", "/tag/remove"):
            answer = await api.call("POST", path, KICK, headers=by("guest"))
            assert (answer.status, answer.body) == (400, FORBIDDEN)
        assert api.stack.connections.told == []
        for headers in (WITH_TOKEN, by("boss"), by("clerk")):
            assert (await api.call("POST", "/conn/kick", KICK, headers=headers)).body == OK
        assert len(api.stack.connections.told) == 3
        # It only asks.
        asked = await api.call("POST", "/cluster/channel/status", {"channels": []}, headers=by("guest"))
        assert asked.body == []


@pytest.mark.parametrize(
    "more",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "http://page.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
async def test_a_page_of_another_origin_changes_nothing_with_a_login(more: dict[str, str]) -> None:
    async with await serving() as api:
        await api.stack.connect("u", 1)
        answer = await api.call("POST", "/conn/kick", KICK, headers={**by("boss"), **more})
        assert (answer.status, answer.body["msg"]) == (403, NOT_OURS)
        assert api.stack.connections.told == []
        own = {"Host": "console.example:5300", "Origin": "http://console.example:5300"}
        assert (await api.call("POST", "/conn/kick", KICK, headers={**by("boss"), **own})).body == OK


async def test_no_answer_is_for_pages_of_other_origins() -> None:
    async with await serving() as api:
        for path in ("/connz", "/metrics", "/nope", "/cluster/channels"):
            for headers in (WITH_TOKEN, {}):
                answer = await api.call("GET", path, headers={**headers, "Origin": "http://page.example"})
                assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("path", "resource_owner"), [("/cluster/slots/0/election", "clerk"), ("/cluster/channels/g/2/stop", "")]
)
async def test_the_token_may_everything_here_and_a_login_what_its_account_may(path: str, resource_owner: str) -> None:
    async with await serving(FakeAdmin()) as api:
        for headers, permitted in ((WITH_TOKEN, True), (by("boss"), True), (by("clerk"), resource_owner == "clerk")):
            answer = await api.call("POST", path, {}, headers=headers)
            assert answer.status == 400
            assert (answer.body != FORBIDDEN) == permitted, answer


MEMBERS = ("/cluster/member/remove", {"node": 3})


@pytest.mark.parametrize("asker", ["10.1.2.3", "2001:db8::1"])
async def test_with_a_login_the_cluster_is_not_changed_from_elsewhere(asker: str) -> None:
    admin = FakeAdmin()
    async with await serving(admin, asker=asker) as api:
        for user in ("boss", "clerk"):
            answer = await api.call("POST", *MEMBERS, headers=by(user))
            assert (answer.status, answer.body["msg"]) == (403, FROM_ELSEWHERE)
        assert admin.wishes == []
        assert (await api.call("POST", *MEMBERS, headers=WITH_TOKEN)).body == OK
    assert admin.wishes == [("remove", 3)]


async def test_from_this_machine_the_cluster_is_changed_by_who_may_write_it() -> None:
    admin = FakeAdmin()
    async with await serving(admin, asker="127.0.0.1") as api:
        assert (await api.call("POST", *MEMBERS, headers=by("guest"))).body == FORBIDDEN
        assert (await api.call("POST", *MEMBERS, headers=by("clerk"))).status == 403
        far = {**by("boss"), "X-Forwarded-For": "10.1.2.3"}
        assert (await api.call("POST", *MEMBERS, headers=far)).status == 403
        assert admin.wishes == []
        assert (await api.call("POST", *MEMBERS, headers=by("boss"))).body == OK
    assert admin.wishes == [("remove", 3)]


async def test_the_last_quarter_of_an_hour_is_shown_to_who_may_read() -> None:
    stack = await Stack().start()
    latencies = {name: Histogram() for name in ("ack", "recv", "fsync")}
    history = History(lambda: Reading(0, 0, 2, 0, 0.5, 0), latencies, stack.clock)
    stack.clock.ms += 5_000
    history.sample()
    async with ManagerApi(stack, history=history) as api:
        assert is_turned_away(await api.call("GET", "/history"))
        for headers in (WITH_TOKEN, by("guest")):
            answer = await api.call("GET", "/history", headers=headers)
            assert answer.status == 200
            assert (answer.body["interval_s"], answer.body["now_ms"]) == (5, stack.clock.ms)
            assert set(answer.body["series"]) == set(SERIES)
            assert answer.body["series"]["sessions"] == [2]
            assert answer.body["series"]["ack_p99_ms"] == [None]
