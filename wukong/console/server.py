"""The web console: its files, login and logout, live figures, and the few look-ups that the API has no route for.

Everything else the pages ask from the routes beside it on the manager's port, with the cookie of the login. The cookie
is HttpOnly and SameSite=Strict, and a request that changes something has to carry the header ACTION_HEADER, which no
form and no page of another origin can send. Without a manager token the console answers this machine only, under an
address.
"""

import asyncio
import contextlib
import gzip
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from wukong.channel.ids import ChannelId
from wukong.clock import Clock
from wukong.config import Account
from wukong.config.keys import GUEST
from wukong.console.feed import INTERVAL_S, Feed
from wukong.console.members import members_since
from wukong.console.sessions import Failures, Sessions, Visitor
from wukong.errors import RequestRefused
from wukong.origin import is_by_address, is_from_here, is_same_origin
from wukong.service.usecases import UseCases

PREFIX = "/web"
ACTION_HEADER = "X-Wukong-Console"
COOKIE = "wukong_console"
ACTION = "1"

STREAMS_LIMIT_COUNT = 32
"""Pages that are told live figures at once; a further one gets 503 and tries again."""
STREAM_LIFE_S = 3600.0
"""Then a stream ends, and the browser opens the next one."""
BODY_TIMEOUT_S = 10.0
BODY_LIMIT_BYTES = 4_096

LOCAL_ONLY = (
    "without managerToken the console answers this machine only, under 127.0.0.1 or localhost; set managerToken"
)
WRONG = "the token, or the name and password, are wrong"
TOO_MANY = "too many failed logins; wait a minute"
NOT_LOGGED_IN = "log in"
NOT_OURS = f"this needs the header {ACTION_HEADER}: {ACTION}, and no page of another origin may ask for it"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_OPERATOR = "operator"
_READER = "reader"
_LOCAL = "local"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LoginBody(msgspec.Struct):
    """Either the token, or an account of auth.users; neither on this machine without a manager token."""

    token: str = ""
    username: str = ""
    password: str = ""


class Tokens(NamedTuple):
    """manager: an admin's; readonly: a reader's. Blank: there is none."""

    manager: str = ""
    readonly: str = ""


class _File(NamedTuple):
    body: bytes
    packed: bytes
    content_type: str
    tag: str


class ConsoleServer:
    """account: the account with a name and a password, if there is one. Made on the running loop;
    `on_shutdown` ends live streams."""

    def __init__(
        self,
        use_cases: UseCases,
        *,
        tokens: Tokens,
        account: Callable[[str, str], Account | None],
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._use_cases = use_cases
        self._manager = tokens.manager.strip().encode()
        self._readonly = tokens.readonly.strip().encode()
        self._account = account
        self._feed = feed
        self._clock = clock
        self._sessions = Sessions(clock)
        self._failures = Failures(clock)
        self._files = {name: _load(path) for name, path in _served().items()}
        self._streams = 0
        self._stopping = asyncio.Event()

    async def on_shutdown(self, app: web.Application) -> None:
        """As aiohttp's signal of this name: streams are over before handlers are waited for."""
        self._stopping.set()
        await self._feed.stop()

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", PREFIX, self.elsewhere),
            ("GET", f"{PREFIX}/", self.file),
            ("GET", f"{PREFIX}/{{folder:static|vendor}}/{{name:[\\w./-]+}}", self.file),
            ("GET", f"{PREFIX}/session", self.session),
            ("POST", f"{PREFIX}/login", self.login),
            ("POST", f"{PREFIX}/logout", self.logout),
            ("GET", f"{PREFIX}/events", self.events),
            ("GET", f"{PREFIX}/history", self.history),
            ("GET", f"{PREFIX}/members", self.members),
        ]
        return [web.route(method, path, self._guarded(handler)) for method, path, handler in table]

    # -- who asks

    def visitor(self, request: web.Request) -> Visitor | None:
        """Who is logged in with this request's cookie."""
        if self._why_not(request):
            return None
        return self._sessions.find(request.cookies.get(_cookie_name(request), ""))

    def is_own_action(self, request: web.Request) -> bool:
        """Whether a page of this console asks for a change: only it can send the header."""
        return request.headers.get(ACTION_HEADER) == ACTION and is_same_origin(request)

    def _why_not(self, request: web.Request) -> str:
        """Why the console does not answer this request at all; "" if it does."""
        if self._manager or (is_from_here(request) and is_by_address(request)):
            return ""
        return LOCAL_ONLY

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            text = self._why_not(request)
            response = _refused(text, 403) if text else await handler(request)
            if not response.prepared:
                response.headers.update(HEADERS)
                response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guarded

    # -- files

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": f"{PREFIX}/"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        match = request.match_info
        found = self._files.get(f"{match['folder']}/{match['name']}" if match else "static/index.html")
        if found is None:
            return _refused("not found", 404)
        headers = {"Cache-Control": "no-cache", "ETag": found.tag, "Vary": "Accept-Encoding"}
        if request.headers.get("If-None-Match") == found.tag:
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = found.content_type
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=found.body, headers=headers)
        return web.Response(body=found.packed, headers={**headers, "Content-Encoding": "gzip"})

    # -- login

    async def session(self, request: web.Request) -> web.StreamResponse:
        """Who is logged in, and how one logs in here: `open` needs nothing but a click."""
        return _json(self._shown(self.visitor(request)))

    def _shown(self, visitor: Visitor | None) -> dict[str, Any]:
        return {
            "user": None if visitor is None else visitor.name,
            "role": None if visitor is None else "admin" if visitor.may_write else "reader",
            "cluster": visitor is not None and visitor.may_change_cluster,
            "open": not self._manager,
            "node": self._use_cases.overview.node_id,
        }

    async def login(self, request: web.Request) -> web.StreamResponse:
        if not self.is_own_action(request):
            return _refused(NOT_OURS, 403)
        address = request.remote or ""
        if self._failures.are_too_many(address):
            return _refused(TOO_MANY, 429)
        try:
            body = msgspec.json.decode(await _body_of(request), type=LoginBody)
        except msgspec.DecodeError:
            return _refused("the body is no login", 400)
        found = self._who(body, by_address=is_by_address(request), is_local=is_from_here(request))
        if found is None:
            self._failures.note(address)
            return _refused(WRONG, 401)
        self._failures.forgive(address)
        self._sessions.end(request.cookies.get(_cookie_name(request), ""))
        made = self._sessions.begin(found)
        response = _json(self._shown(found))
        response.set_cookie(
            _cookie_name(request), made, path="/", httponly=True, samesite="Strict", secure=_is_over_tls(request)
        )
        return response

    def _who(self, body: LoginBody, *, by_address: bool, is_local: bool) -> Visitor | None:
        """An account changes the cluster from the node's own machine only, as at the API's port."""
        if body.username:
            account = self._account(body.username, body.password)
            # The guest's password is known to every page, and a name can be pointed here by whoever owns it.
            if account is None or (account == GUEST and not by_address):
                return None
            may_write = any(resource == "*" and "w" in actions for resource, actions in account.permissions)
            return Visitor(account.username, may_write, may_write and is_local)
        given = body.token.strip().encode("utf-8", "surrogatepass")
        # Both are compared in any case, so that time tells nothing.
        is_manager = hmac.compare_digest(given, self._manager)
        is_reader = bool(self._readonly) and hmac.compare_digest(given, self._readonly)
        if is_manager:
            return Visitor(_OPERATOR if self._manager else _LOCAL, True, True)
        return Visitor(_READER, False, False) if is_reader else None

    async def logout(self, request: web.Request) -> web.StreamResponse:
        if not self.is_own_action(request):
            return _refused(NOT_OURS, 403)
        self._sessions.end(request.cookies.get(_cookie_name(request), ""))
        response = _json(self._shown(None))
        response.del_cookie(_cookie_name(request), path="/", httponly=True, samesite="Strict")
        return response

    # -- live figures

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events `overview`, one every INTERVAL_S: feed.Overview. Ends with the login."""
        if self.visitor(request) is None:
            return _refused(NOT_LOGGED_IN, 401)
        if self._streams >= STREAMS_LIMIT_COUNT or self._stopping.is_set():
            return _refused("too many pages are open; try again", 503)
        self._streams += 1
        try:
            response = web.StreamResponse(
                headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
            )
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._stream(request, response)
            return response
        finally:
            self._streams -= 1

    async def _stream(self, request: web.Request, response: web.StreamResponse) -> None:
        await response.write(b"retry: 2000\n\n")
        until_s = self._clock.monotonic() + STREAM_LIFE_S
        # Asked again each time: a logout ends the stream as well.
        while self._clock.monotonic() < until_s and self.visitor(request) is not None:
            try:
                text = b"event: overview\ndata: " + await self._feed.current() + b"\n\n"
            except TimeoutError:
                text = b": nothing to tell\n\n"
            await response.write(text)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return

    # -- look-ups

    async def history(self, request: web.Request) -> web.StreamResponse:
        """node_id -> the last 15 minutes of that node, in the shape of /history."""
        if self.visitor(request) is None:
            return _refused(NOT_LOGGED_IN, 401)
        body = await self._feed.history(_number(request.query.get("node_id", "")))
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def members(self, request: web.Request) -> web.StreamResponse:
        """channel_id, channel_type, cursor, limit -> {members: [{uid, since_seq, since_index}], next}."""
        if self.visitor(request) is None:
            return _refused(NOT_LOGGED_IN, 401)
        query = request.query
        kind, limit = _number(query.get("channel_type", "")), _number(query.get("limit", "100"))
        if not query.get("channel_id") or not 0 < kind < 256:
            raise RequestRefused("channel_id and channel_type are needed")
        channel = ChannelId(kind, query["channel_id"])
        found, cursor = await members_since(
            self._use_cases.replica, channel, cursor=query.get("cursor", ""), limit=limit
        )
        return _json({"members": [each._asdict() for each in found], "next": cursor})


# -- requests


def _cookie_name(request: web.Request) -> str:
    """Cookies do not tell ports apart, and several nodes may be on one machine."""
    try:
        port = urlsplit(f"//{request.host}").port
    except ValueError:
        port = None
    return f"{COOKIE}_{port or 0}"


def _is_over_tls(request: web.Request) -> bool:
    """Whoever claims it falsely only keeps his own cookie from plain connections."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


async def _body_of(request: web.Request) -> bytes:
    """Raises RequestRefused for a large one, or one that does not come."""
    if (request.content_length or 0) > BODY_LIMIT_BYTES:
        raise RequestRefused(f"a body of more than {BODY_LIMIT_BYTES} bytes", status=413)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.content.read(BODY_LIMIT_BYTES + 1)
            while len(body) <= BODY_LIMIT_BYTES and (more := await request.content.read(BODY_LIMIT_BYTES + 1)):
                body += more
    except TimeoutError:
        raise RequestRefused(f"the body did not come within {BODY_TIMEOUT_S:.0f} s", status=408) from None
    if len(body) > BODY_LIMIT_BYTES:
        raise RequestRefused(f"a body of more than {BODY_LIMIT_BYTES} bytes", status=413)
    return body


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _json(value: Any, status: int = 200) -> web.Response:
    """Any: whatever msgspec can encode."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


def _refused(text: str, status: int) -> web.Response:
    return _json({"msg": text, "status": status}, status)


# -- files


def _served() -> dict[str, Path]:
    """What the browser gets, by its place below /web."""
    return {
        path.relative_to(_FOLDER).as_posix(): path
        for folder in ("static", "vendor")
        for path in sorted((_FOLDER / folder).rglob("*"))
        if path.suffix in _TYPES
    }


def _load(path: Path) -> _File:
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, gzip.compress(body, 6, mtime=0), _TYPES[path.suffix], tag)
