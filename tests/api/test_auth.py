"""Accounts, logins, and who gets in at the API's port. http-api.md 2.2, 12; trap list 44 to 46."""

import base64
import hashlib
import hmac
import json
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jwt
import pytest
from aiohttp import web

from tests.api.calls import Api
from tests.service.stack import Stack
from wukong.api.auth import FAILURES_LIMIT_COUNT, SECRET_FILE, Logins, signing_key
from wukong.api.server import ApiOptions
from wukong.clock import SystemClock
from wukong.config import Account
from wukong.config.keys import GUEST

KEY = b"a key that is long enough for every algorithm that a test may try"
BOSS = Account("boss", "b-password", (("*", "rw"),))
CLERK = Account("clerk", "c-password", (("slotElection", "w"), ("*", "r")))
ISSUER = "wukongim"
BIND = "/plugin/bind"


class LateClock(SystemClock):
    """skip_s: how much later it is than it was."""

    skip_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skip_s


def logins(*accounts: Account, key: bytes = KEY, clock: SystemClock | None = None, expire_ms: int = 60_000) -> Logins:
    return Logins(
        accounts or (GUEST, BOSS, CLERK), key=key, issuer=ISSUER, expire_ms=expire_ms, clock=clock or SystemClock()
    )


async def serving(found: Logins | None = None, **options: Any) -> Api:
    return Api(await Stack().start(), ApiOptions(**options), logins=found or logins())


async def login(api: Api, username: str, password: str) -> Any:
    return await api.post("/manager/login", {"username": username, "password": password})


async def may_bind(api: Api, token: str) -> bool:
    """Whether this login passes a check for write permission."""
    answer = await api.call("POST", BIND, {"plugin_no": "p", "uid": "u"}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 400
    return answer.body != {"msg": "没有权限", "status": 403}


def signed(key: bytes = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    whole = {"iss": ISSUER, "exp": time.time() + 3600, "iat": time.time(), "username": "boss", **claims}
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, key, algorithm=algorithm)


async def test_an_account_logs_in_and_is_told_what_it_may() -> None:
    async with await serving() as api:
        for account, permissions in ((GUEST, "*:r"), (BOSS, "*:*"), (CLERK, "slotElection:w,*:r")):
            before = int(time.time())
            found = await login(api, account.username, account.password)
            assert found.keys() == {"username", "token", "exp", "permissions"}
            assert (found["username"], found["permissions"]) == (account.username, permissions)
            assert before + 60 <= found["exp"] <= before + 61
            claims = jwt.decode(found["token"], KEY, algorithms=["HS256"], issuer=ISSUER)
            assert claims.keys() == {"iss", "iat", "exp", "username"}
            assert claims["exp"] == found["exp"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "密码不能为空"),
        ({"username": "boss"}, "密码不能为空"),
        ({"password": "x"}, "用户名不能为空"),
        ({"username": "boss", "password": "x"}, "用户名或密码错误"),
        ({"username": "nobody", "password": "b-password"}, "用户名或密码错误"),
        ({"username": "guest", "password": "b-password"}, "用户名或密码错误"),
    ],
)
async def test_a_wrong_login_is_refused(body: dict[str, str], text: str) -> None:
    async with await serving() as api:
        assert await api.refused("/manager/login", body) == text
        assert await api.refused("/manager/login", raw=b"{") == "unexpected EOF"


async def test_only_a_login_that_was_signed_here_and_is_not_over_is_anybody_s() -> None:
    async with await serving() as api:
        assert await may_bind(api, signed())
        part = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
        for token in (
            signed(key=KEY[::-1]),
            signed(exp=time.time() - 60),
            signed(exp=None),
            signed(iss="somebody"),
            signed(iss=None),
            signed(username="nobody"),
            signed(username="guest"),
            signed(username=None),
            signed(username=["boss"]),
            signed(algorithm="HS512"),
            f"{part}.{signed().split('.')[1]}.",
            signed()[:-2],
            "x" * 5_000,
            "é",
            "",
        ):
            assert not await may_bind(api, token), token


async def test_bytes_that_are_no_text_are_no_login() -> None:
    # As a server reads them; the clients of tests do not send such bytes.
    request = SimpleNamespace(headers={"Authorization": "Bearer a.b.\udcff"}, query={})
    assert logins().user_of(cast("web.Request", request)) is None


async def test_a_login_may_also_come_in_the_query_as_upstream_reads_it() -> None:
    async with await serving() as api:
        answer = await api.call("POST", f"{BIND}?Authorization={signed()}", {"plugin_no": "p", "uid": "u"})
        assert answer.body["status"] != 403


async def test_what_an_account_may_is_looked_up_when_it_asks() -> None:
    async with await serving(logins(Account("boss", "other", (("*", "r"),)))) as api:
        assert not await may_bind(api, signed())


async def test_the_manager_token_alone_is_nobody_at_this_port() -> None:
    async with await serving(manager_token="s3cret") as api:
        headers = {"token": "s3cret"}
        answer = await api.call("POST", BIND, {"plugin_no": "p", "uid": "u"}, headers=headers)
        assert (answer.status, answer.body) == (400, {"msg": "没有权限", "status": 403})
        headers["Authorization"] = f"Bearer {signed()}"
        assert (await api.call("POST", BIND, {"plugin_no": "p", "uid": "u"}, headers=headers)).body["status"] == 404
        assert (await api.call("POST", "/manager/login", {})).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:5300"}, 200),
        ({"Host": "[::1]:5300"}, 200),
        ({"Host": "10.0.0.1"}, 200),
        ({"Host": "10.0.0.1", "Origin": "http://10.0.0.1"}, 200),
        ({"Host": "page.example"}, 400),
        ({"Host": "page.example", "Origin": "http://page.example"}, 400),
        ({"Origin": "http://page.example"}, 400),
        ({"Origin": "null"}, 400),
        ({"Origin": "http://["}, 400),
        ({"Host": "["}, 400),
    ],
)
async def test_no_page_logs_in_with_the_password_that_everybody_knows(headers: dict[str, str], status: int) -> None:
    async with await serving() as api:
        body = {"username": "guest", "password": "guest"}
        assert (await api.call("POST", "/manager/login", body, headers=headers)).status == status
        body = {"username": "boss", "password": "b-password"}
        answer = await api.call("POST", "/manager/login", body, headers=headers)
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


async def test_passwords_cannot_be_tried_for_long() -> None:
    clock = LateClock()
    async with await serving(logins(clock=clock)) as api:
        wrong = {"username": "boss", "password": "guess"}
        for _ in range(FAILURES_LIMIT_COUNT):
            assert await api.refused("/manager/login", wrong) == "用户名或密码错误"
        right = {"username": "boss", "password": "b-password"}
        assert "wait" in await api.refused("/manager/login", right)
        clock.skip_s = 61
        await login(api, "boss", "b-password")


def test_a_configured_secret_signs_as_it_is() -> None:
    assert signing_key("short", "", Path("/nowhere")) == b"short"
    token = logins(key=b"short").login(BOSS).token
    header, body, signature = token.split(".")
    wanted = hmac.new(b"short", f"{header}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(wanted).decode().rstrip("=") == signature


def test_nodes_with_the_same_cluster_secret_sign_alike(tmp_path: Path) -> None:
    one = signing_key("", "a secret of the cluster", tmp_path / "one")
    assert one == signing_key("", "a secret of the cluster", tmp_path / "two")
    assert one != signing_key("", "another secret of one", tmp_path / "two")
    assert b"secret" not in one


def test_without_secrets_a_random_one_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / SECRET_FILE
    made = signing_key("", "", tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made) == 64
    path.chmod(0o644)
    assert signing_key("", "", tmp_path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert signing_key("", "", other) != made
    # A crash while it was written: nobody has got a login of that one.
    path.write_bytes(made[:10])
    again = signing_key("", "", tmp_path)
    assert len(again) == 64
    assert again != made
    assert signing_key("", "", tmp_path) == again
