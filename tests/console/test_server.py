"""The console's door: who gets in, with what cookie, what he may do then, and what the pages may load."""

import json
from http.cookies import Morsel
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from tests.api.test_auth import BOSS, CLERK, logins
from tests.api.test_cluster import FakeAdmin, seen_from
from tests.service.stack import NODE_ID, Stack
from wukong.api.manager import build_manager_app
from wukong.api.server import ApiOptions
from wukong.config.keys import GUEST
from wukong.console import server as server_module
from wukong.console.feed import Feed, NodeFigures
from wukong.console.server import ACTION, ACTION_HEADER, LOCAL_ONLY, ConsoleServer, Tokens, _served
from wukong.console.sessions import FAILURES_LIMIT_COUNT, LIFE_S
from wukong.service.cluster import ClusterAdmin
from wukong.service.other_nodes import NoOtherNodes

TOKEN = "s3cret"
READONLY = "l00k"
OURS = {ACTION_HEADER: ACTION}
NEW_CHANNEL = {"channel_id": "lunch", "channel_type": 2, "subscribers": ["a"]}


class Visit:
    """A browser, as far as cookies go. asker: the address it seems to come from."""

    def __init__(self, stack: Stack, *, token: str = TOKEN, readonly: str = READONLY, asker: str = "") -> None:
        self.stack = stack
        self.admin = FakeAdmin()
        admin = cast("ClusterAdmin", self.admin)
        nodes = NoOtherNodes(NODE_ID)
        known = logins(GUEST, BOSS, CLERK)
        self.console = ConsoleServer(
            stack.use_cases,
            tokens=Tokens(token, readonly),
            account=known.account,
            feed=Feed(own=NodeFigures, own_history=dict, cluster=admin, nodes=nodes, clock=stack.clock),
            clock=stack.clock,
        )
        app = build_manager_app(
            stack.use_cases,
            ApiOptions(manager_token=token),
            cluster=admin,
            nodes=nodes,
            logins=known,
            registry=CollectorRegistry(),
            console=self.console,
        )
        if asker:
            app.middlewares.insert(0, seen_from(asker))
        self.client = TestClient(TestServer(app))

    async def __aenter__(self) -> "Visit":
        await self.client.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def status(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        data = None if body is None else json.dumps(body).encode()
        more = {"Content-Type": "application/json"} if body is not None else {}
        async with self.client.request(
            method, path, data=data, headers={**more, **headers}, allow_redirects=False
        ) as answer:
            self.headers = answer.headers
            self.body = await answer.read()
            return answer.status

    async def login(self, **body: str) -> int:
        return await self.status("POST", "/web/login", body, **OURS)

    @property
    def cookie(self) -> "Morsel[str]":
        return next(iter(self.client.session.cookie_jar))

    async def role(self) -> str | None:
        assert await self.status("GET", "/web/session") == 200
        return cast("str | None", json.loads(self.body)["role"])


async def visiting(**options: Any) -> Visit:
    return Visit(await Stack().start(), **options)


# -- login --


async def test_the_manager_token_logs_in_an_admin_and_the_second_one_a_reader() -> None:
    for token, role in ((TOKEN, "admin"), (READONLY, "reader")):
        async with await visiting() as visit:
            assert await visit.role() is None
            assert await visit.login(token=token) == 200
            assert await visit.role() == role


@pytest.mark.parametrize(
    ("host", "status"), [("10.0.0.1", 200), ("localhost:5300", 200), ("page.example", 401), ("[", 401)]
)
async def test_no_page_logs_in_with_the_password_that_everybody_knows(host: str, status: int) -> None:
    async with await visiting() as visit:
        body = {"username": "guest", "password": "guest"}
        own = {"Host": host, "Origin": f"http://{host}"} if host != "[" else {"Host": host}
        assert await visit.status("POST", "/web/login", body, **OURS, **own) == status
        assert await visit.status("POST", "/web/login", body, **OURS, Origin="http://[") == 403


async def test_a_wrong_token_or_password_is_refused() -> None:
    async with await visiting() as visit:
        for body in (
            {"token": "wrong"},
            {"token": ""},
            {},
            {"token": TOKEN[:-1]},
            {"username": "boss", "password": "wrong"},
            {"username": "nobody", "password": "", "token": TOKEN},
        ):
            assert await visit.login(**body) == 401
        assert await visit.status("POST", "/web/login", [1], **OURS) == 400
        assert await visit.role() is None
        assert TOKEN.encode() not in visit.body


async def test_without_a_second_token_nobody_logs_in_with_an_empty_one() -> None:
    async with await visiting(readonly="") as visit:
        assert await visit.login(token="") == 401


async def test_an_account_with_every_right_is_an_admin_and_every_other_one_a_reader() -> None:
    for name, role in (("boss", "admin"), ("clerk", "reader")):
        async with await visiting() as visit:
            assert await visit.login(username=name, password=f"{name[0]}-password") == 200
            assert await visit.role() == role


async def test_the_cookie_is_for_this_site_alone_and_hidden_from_scripts() -> None:
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        text = visit.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in text.split(";")}
        assert "Secure" not in text
        assert TOKEN not in text
        assert str(visit.client.port) in visit.cookie.key, "nodes on one machine would log each other out"


async def test_behind_tls_the_cookie_is_secure() -> None:
    async with await visiting() as visit:
        body = {"token": TOKEN}
        await visit.status("POST", "/web/login", body, **OURS, **{"X-Forwarded-Proto": "https"})
        assert "Secure" in visit.headers["Set-Cookie"]


async def test_a_login_ends_by_logout_on_the_server_too() -> None:
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        kept = {"Cookie": f"{visit.cookie.key}={visit.cookie.value}"}
        assert await visit.status("POST", "/web/logout", {}) == 403
        assert await visit.status("POST", "/web/logout", {}, **OURS) == 200
        assert await visit.role() is None
        assert await visit.status("GET", "/connz", **kept) == 401


async def test_a_login_ends_by_time() -> None:
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        visit.stack.clock.ms += int(LIFE_S * 1000)
        assert await visit.role() is None
        assert await visit.status("GET", "/connz") == 401


async def test_whoever_fails_often_has_to_wait() -> None:
    async with await visiting() as visit:
        for _ in range(FAILURES_LIMIT_COUNT):
            assert await visit.login(token="wrong") == 401
        assert await visit.login(token=TOKEN) == 429
        visit.stack.clock.ms += 61_000
        assert await visit.login(token=TOKEN) == 200


async def test_a_large_login_is_refused_unread() -> None:
    async with await visiting() as visit:
        assert await visit.login(token="x" * 5_000) == 413


# -- what a login may --


async def test_without_a_login_only_the_login_is_there() -> None:
    async with await visiting() as visit:
        for path in (
            "/connz",
            "/cluster/status",
            "/web/events",
            "/web/history",
            "/web/members?channel_id=a&channel_type=2",
        ):
            assert await visit.status("GET", path) == 401
        assert await visit.status("POST", "/channel", NEW_CHANNEL, **OURS) == 401


async def test_an_admin_reads_and_changes() -> None:
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        for path in ("/connz", "/cluster/status", "/cluster/channels"):
            assert await visit.status("GET", path) == 200
        assert await visit.status("POST", "/channel", NEW_CHANNEL, **OURS) == 200
        assert await visit.status("GET", "/web/members?channel_id=lunch&channel_type=2") == 200
        assert [each["uid"] for each in json.loads(visit.body)["members"]] == ["a"]
        assert await visit.status("POST", "/cluster/member/remove", {"node": 7}, **OURS) == 200
        assert visit.admin.wishes == [("remove", 7)]


async def test_a_reader_changes_nothing() -> None:
    async with await visiting() as visit:
        await visit.login(token=READONLY)
        assert await visit.status("GET", "/cluster/status") == 200
        for path, body in (
            ("/channel", NEW_CHANNEL),
            ("/channel/subscriber_add", NEW_CHANNEL),
            ("/channel/subscriber_remove", NEW_CHANNEL),
            ("/user/device_quit", {"uid": "a", "device_flag": -1}),
            ("/conn/kick", {"uid": "a", "conn_id": 1}),
            ("/cluster/member/remove", {"node": 7}),
            ("/cluster/transfer", {"node": 7, "slot": -1}),
        ):
            assert await visit.status("POST", path, body, **OURS) == 400
            assert json.loads(visit.body)["status"] == 403
        assert visit.admin.wishes == []
        assert await visit.status("GET", "/web/members?channel_id=lunch&channel_type=2") == 200
        assert json.loads(visit.body)["members"] == []


async def test_no_other_page_can_use_the_cookie_for_a_change() -> None:
    """A form of another site sends no header, and its script's header is announced by a request of its own."""
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        elsewhere = {"Origin": "http://evil.example"}
        for headers in ({}, elsewhere, {**OURS, **elsewhere}, {ACTION_HEADER: "0"}):
            for path, body in (("/channel", NEW_CHANNEL), ("/cluster/member/remove", {"node": 7})):
                assert await visit.status("POST", path, body, **headers) == 403
        assert await visit.status("POST", "/web/login", {"token": TOKEN}, **OURS, **elsewhere) == 403
        assert visit.admin.wishes == []
        asks = {**elsewhere, "Access-Control-Request-Method": "POST", "Cookie": ""}
        await visit.status("OPTIONS", "/channel", **asks)
        assert not [name for name in visit.headers if name.startswith("Access-Control")]


async def test_an_account_changes_the_cluster_from_this_machine_only() -> None:
    for asker, status in (("127.0.0.1", 200), ("192.0.2.9", 403)):
        async with await visiting(asker=asker) as visit:
            await visit.login(username="boss", password="b-password")
            assert await visit.status("POST", "/channel", NEW_CHANNEL, **OURS) == 200
            assert await visit.status("POST", "/cluster/member/remove", {"node": 7}, **OURS) == status
            assert bool(visit.admin.wishes) == (status == 200)


async def test_the_api_s_changes_beside_the_console_are_not_for_every_account() -> None:
    """Accounts have rights for WuKongIM's own resources; changing channels is none of them."""
    async with await visiting() as visit:
        assert await visit.status("POST", "/manager/login", {"username": "clerk", "password": "c-password"}) == 200
        header = {"Authorization": f"Bearer {json.loads(visit.body)['token']}"}
        await visit.status("POST", "/channel", NEW_CHANNEL, **header)
        assert json.loads(visit.body)["status"] == 403
        assert await visit.status("POST", "/channel", NEW_CHANNEL, token=TOKEN) == 200


# -- without a manager token --


async def test_without_a_token_this_machine_needs_none() -> None:
    async with await visiting(token="", readonly="") as visit:
        assert await visit.status("GET", "/web/") == 200
        assert await visit.role() is None
        assert await visit.login() == 200
        assert await visit.role() == "admin"


@pytest.mark.parametrize("asker", ["192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1"])
async def test_without_a_token_nobody_else_sees_anything(asker: str) -> None:
    async with await visiting(token="", asker=asker) as visit:
        for path in ("/web/", "/web/session", "/web/static/app.js", "/web/events"):
            assert await visit.status("GET", path) == 403
            assert LOCAL_ONLY in visit.body.decode()
        assert await visit.login() == 403


async def test_without_a_token_a_name_that_points_here_and_a_proxy_are_strangers() -> None:
    async with await visiting(token="") as visit:
        for headers in ({"Host": "evil.example"}, {"X-Forwarded-For": "192.0.2.9"}, {"Forwarded": "for=192.0.2.9"}):
            assert await visit.status("POST", "/web/login", {}, **OURS, **headers) == 403
        await visit.login()
        assert await visit.status("GET", "/connz") == 200
        assert await visit.status("GET", "/connz", Host=f"evil.example:{visit.client.port}") == 401


async def test_with_a_token_everybody_may_log_in() -> None:
    async with await visiting(asker="192.0.2.9") as visit:
        assert await visit.login(token=TOKEN) == 200
        assert await visit.status("GET", "/connz") == 200


# -- files --


async def test_every_answer_forbids_what_is_not_ours() -> None:
    async with await visiting() as visit:
        for method, path in (("GET", "/web"), ("GET", "/web/"), ("GET", "/web/session"), ("POST", "/web/login")):
            await visit.status(method, path)
            policy = dict(part.strip().split(" ", 1) for part in visit.headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert visit.headers["X-Content-Type-Options"] == "nosniff"
            assert not [name for name in visit.headers if name.startswith("Access-Control")]


async def test_the_page_is_there_with_everything_it_names() -> None:
    async with await visiting() as visit:
        assert await visit.status("GET", "/web") == 308
        assert visit.headers["Location"] == "/web/"
        for name in _served():
            assert await visit.status("GET", f"/web/{name}") == 200, name
            assert visit.headers["Cache-Control"] == "no-cache"
            tag = visit.headers["ETag"]
            assert await visit.status("GET", f"/web/{name}", **{"If-None-Match": tag}) == 304
        assert await visit.status("GET", "/web/static/app.js", **{"Accept-Encoding": "gzip"}) == 200
        assert visit.headers["Content-Encoding"] == "gzip"


async def test_nothing_else_is_given_out() -> None:
    async with await visiting() as visit:
        for path in (
            "/web/static/../server.py",
            "/web/static/%2e%2e/server.py",
            "/web/static//etc/passwd",
            "/web/vendor/README.md",
            "/web/server.py",
            "/web/nope",
        ):
            assert await visit.status("GET", path) in (401, 404), path


def test_the_files_name_no_address_outside_and_have_nothing_inline() -> None:
    for name, path in _served().items():
        text = path.read_text()
        if name.startswith("static/"):
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").split("// ")[0] or path.suffix == ".js", (
                name
            )
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("httpAddr", ""), name
        if path.suffix == ".html":
            assert "<style" not in text
            assert "style=" not in text
            assert "onclick" not in text
            assert text.count("<script") == text.count('<script type="module" src="static/')


def test_chinese_has_every_text() -> None:
    import re

    folder = Path(server_module.__file__).parent / "static"
    known = set(re.findall(r'^  "(.*?)": "', (folder / "zh.js").read_text(), re.MULTILINE))
    used: set[str] = set()
    for path in folder.rglob("*.js"):
        used |= {match[1] for match in re.finditer(r'\bt\(\s*"((?:[^"\\]|\\.)*)"', path.read_text())}
    assert used - known == set()


# -- live figures --


async def test_live_figures_are_told_until_the_login_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "INTERVAL_S", 0.01)
    async with await visiting() as visit:
        await visit.login(token=READONLY)
        async with visit.client.get("/web/events") as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            lines = [await stream.content.readline() for _ in range(4)]
            assert lines[2] == b"event: overview\n"
            assert json.loads(lines[3].removeprefix(b"data: "))["node"] == NODE_ID
            await visit.status("POST", "/web/logout", {}, **OURS)
            await stream.content.read()  # comes to its end


async def test_a_stream_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STREAMS_LIMIT_COUNT", 1)
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        async with visit.client.get("/web/events") as stream:
            await stream.content.readline()
            assert await visit.status("GET", "/web/events") == 503


async def test_stopping_ends_the_streams() -> None:
    async with await visiting() as visit:
        await visit.login(token=TOKEN)
        async with visit.client.get("/web/events") as stream:
            await stream.content.readline()
            await visit.console.on_shutdown(visit.client.app)
            await stream.content.read()
