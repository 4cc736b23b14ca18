"""Who asks: the manager token, the accounts of the configuration, and their logins. http-api.md 2.2, 12, and 21, no 44
to 46.

A login is a JWT, signed with HS256. It travels in a header (or the query), never in a cookie, so no page of another
origin has it. It names an account; what that one may do is looked up in the configuration whenever it is used.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.backup import PREFIX as BACKUP_PREFIX
from wukong.api.cluster import CHANGE_NOTHING, PREFIX, why_refused
from wukong.api.explain import PATH as EXPLAIN_PATH
from wukong.api.imports import PREFIX as IMPORT_PREFIX
from wukong.api.request import POST, read, refuse_if, route
from wukong.api.retention import ERASE
from wukong.api.retention import PREFIX as RETENTION_PREFIX
from wukong.clock import Clock
from wukong.config import Account
from wukong.config.keys import GUEST
from wukong.errors import RequestRefused
from wukong.origin import is_by_address, is_from_here, is_same_origin

ALGORITHM = "HS256"
ALL = "*"
READ_WRITE = "rw"
LOGIN_PATH = "/manager/login"
# Routes of this server alone, with which everything can be changed.
_OURS = (PREFIX, IMPORT_PREFIX, BACKUP_PREFIX, RETENTION_PREFIX, ERASE)

_WRONG = "用户名或密码错误"
_GUEST_ELSEWHERE = "guest logs in under an address of this server only, and from no other page; set auth.users"
_TOO_MANY = "too many failed logins; wait a minute"

SECRET_FILE = "jwt.secret"
SECRET_BYTES = 32
_CLOCK_LEEWAY_S = 30
_MAX_TOKEN_CHARS = 4_096

FAILURES_LIMIT_COUNT = 30
"""Failed logins of one address within FAILURES_S; further ones are refused unread."""
FAILURES_S = 60.0
FAILING_ADDRESSES_LIMIT_COUNT = 1_024
"""Addresses that are remembered for failed logins; for one more the oldest is forgotten."""


class User(NamedTuple):
    """permissions: (resource, "r", "w" or "rw"), the resource `*` being all of them."""

    name: str
    permissions: tuple[tuple[str, str], ...]

    def may_write(self, resource: str) -> bool:
        return any("w" in actions for named, actions in self.permissions if named in (ALL, resource))

    @property
    def may_write_something(self) -> bool:
        return any("w" in actions for _, actions in self.permissions)


class Login(msgspec.Struct, frozen=True):
    """exp: unix seconds."""

    username: str
    token: str
    exp: int
    permissions: str


class LoginBody(msgspec.Struct):
    username: str = ""
    password: str = ""


class Logins:
    """key: signs and checks, see `signing_key`; expire_ms: life of a login."""

    def __init__(self, accounts: Iterable[Account], *, key: bytes, issuer: str, expire_ms: int, clock: Clock) -> None:
        self._accounts = list(accounts)
        # HMAC itself fills a short key up with zeros, so the signature is the same; the library warns of short ones,
        # and whoever chose it has been warned by the configuration.
        self._key = key.ljust(SECRET_BYTES, b"\0")
        self._issuer = issuer
        self._expire_s = expire_ms // 1000
        self.clock = clock

    def account(self, username: str, password: str) -> Account | None:
        """The account with this name and password. All are compared, so that time tells nothing."""
        found = None
        for account in self._accounts:
            same_name = hmac.compare_digest(account.username.encode(), username.encode())
            if hmac.compare_digest(account.password.encode(), password.encode()) and same_name:
                found = account
        return found

    def login(self, account: Account) -> Login:
        now = self.clock.now_ms() // 1000
        until = now + self._expire_s
        claims = {"iss": self._issuer, "iat": now, "exp": until, "username": account.username}
        token = jwt.encode(claims, self._key, algorithm=ALGORITHM)
        return Login(account.username, token, until, _show(account))

    def user_of(self, request: web.Request) -> User | None:
        """The user whose valid login the request carries; a missing or invalid one is none."""
        text = request.headers.get("Authorization") or request.query.get("Authorization") or ""
        token = text.removeprefix("Bearer ").strip()
        if not token or len(token) > _MAX_TOKEN_CHARS:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                leeway=_CLOCK_LEEWAY_S,
                options={"require": ["exp", "iss"]},
            )
        except (jwt.InvalidTokenError, UnicodeEncodeError):
            # The second: bytes that are no UTF-8.
            return None
        name = claims.get("username")
        return next((User(*account[::2]) for account in self._accounts if account.username == name), None)


def _show(account: Account) -> str:
    def actions(resource: str, actions: str) -> str:
        return ALL if (resource, actions) == (ALL, READ_WRITE) else actions

    return ",".join(f"{resource}:{actions(resource, each)}" for resource, each in account.permissions)


class LoginRoutes:
    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._clock = logins.clock
        self._failures: dict[str, tuple[int, float]] = {}  # address -> how many, since when

    def routes(self) -> list[web.RouteDef]:
        return [route(POST, LOGIN_PATH, self.login)]

    async def login(self, request: web.Request) -> web.Response:
        body = await read(request, LoginBody)
        refuse_if(not body.password, "密码不能为空")
        refuse_if(not body.username, "用户名不能为空")
        asker = request.remote or ""
        count, since = self._failures.get(asker, (0, self._clock.monotonic()))
        if self._clock.monotonic() - since > FAILURES_S:
            count, since = 0, self._clock.monotonic()
        refuse_if(count >= FAILURES_LIMIT_COUNT, _TOO_MANY)
        account = self._logins.account(body.username, body.password)
        if account is None:
            self._failures.pop(asker, None)
            if len(self._failures) >= FAILING_ADDRESSES_LIMIT_COUNT:
                del self._failures[next(iter(self._failures))]
            self._failures[asker] = count + 1, since
            raise RequestRefused(_WRONG)
        # A page anywhere knows this password and could try it in the browser of whoever can reach this server.
        refuse_if(account == GUEST and not (is_by_address(request) and is_same_origin(request)), _GUEST_ELSEWHERE)
        return answers.bare(self._logins.login(account))


# -- requests --


def has_token(request: web.Request, token: bytes) -> bool:
    given = request.headers.get("token", "").encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, token)


def route_of(request: web.Request) -> str:
    """The route as it was registered, "" for an unknown path."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def is_change(request: web.Request) -> bool:
    """Whether it may change something; routes that only look like it are told by name."""
    return request.method not in ("GET", "HEAD", "OPTIONS") and route_of(request) not in CHANGE_NOTHING


def is_local(request: web.Request) -> bool:
    """Asked on this machine, by no web page of another origin, under whatever name."""
    return is_from_here(request) and is_same_origin(request) and is_by_address(request)


NOT_LOCAL = "without managerToken this is answered on the node's own machine only; set managerToken"


class ApiDoor:
    """Who gets in at the API's port. http-api.md 2.2: the manager token for everything, if there is one; the routes of
    section 12.2 need a login besides. Our own routes that change the cluster, or show
    who gets what, need the token, or this machine."""

    def __init__(self, token: str, logins: Logins) -> None:
        self._token = token.strip().encode()
        self._logins = logins

    def refusal(self, request: web.Request) -> web.Response | None:
        if self._token and not has_token(request, self._token):
            return web.Response(status=401)
        if not self._token and request.path.startswith(_OURS) and is_change(request) and (text := why_refused(request)):
            return answers.refused(text, http_status=403)
        if not self._token and request.path == EXPLAIN_PATH and not is_local(request):
            return answers.refused(NOT_LOCAL, http_status=403)
        return None

    def permits(self, request: web.Request, resource: str) -> bool:
        """Whether who asks may write a resource of http-api.md 12.2; the manager token alone is nobody (21, no 46)."""
        user = self._logins.user_of(request)
        return user is not None and user.may_write(resource)

    def shows_to_all(self, request: web.Request) -> bool:
        """Whether pages of other origins may read the answer."""
        return not request.path.startswith((*_OURS, EXPLAIN_PATH, LOGIN_PATH))


# -- the key --


def signing_key(configured: str, cluster_secret: str, directory: Path) -> bytes:
    """What logins are signed with: the configured secret; else one that all nodes with the same cluster secret derive,
    so that a login of one node is good at every other; else a random one that is kept in the directory.

    Blocks for some 50 ms. Raises OSError."""
    if configured:
        return configured.encode()
    if cluster_secret:
        # Whoever has a login could try secrets; so each try is made to cost.
        return hashlib.scrypt(cluster_secret.encode(), salt=b"wukong console logins 1", n=2**14, r=8, p=1, dklen=32)
    path = directory / SECRET_FILE
    with contextlib.suppress(FileNotFoundError):
        found = path.read_bytes()
        if len(found) == 2 * SECRET_BYTES:
            path.chmod(0o600)
            return found
        path.unlink()
    made = secrets.token_hex(SECRET_BYTES).encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(made)
    return made
