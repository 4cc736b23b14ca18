"""The chat demo: a page for trying the server, and the few look-ups it needs besides the client protocol.

It has a port of its own, knows no manager token, and can do little: every user and group it touches begins with
DEMO_PREFIX. Whoever reaches the port may be any of those users, so it is for trying, not for keeping secrets. Groups
are an ordinary channel each, so what the page shows is what any client and back end would see.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from wukong.channel.commands import ChannelInfo
from wukong.channel.ids import GROUP, PERSON, ChannelId
from wukong.channel.permissions import SUCCESS
from wukong.errors import RequestRefused, Unavailable
from wukong.origin import is_by_address, is_same_origin
from wukong.service.shapes import shape_message
from wukong.service.usecases import UseCases

PREFIX = "/chatdemo"
DEMO_PREFIX = "demo-"
ACTION_HEADER = "X-Wukong-Demo"
ACTION = "1"

DEVICE_FLAG = 1
"""Web."""
USERS_LIMIT_COUNT = 1_000
GROUPS_LIMIT_COUNT = 1_000
"""Of one life of the server; then new names are refused."""
MEMBERS_LIMIT_COUNT = 50
PAGE_LIMIT_COUNT = 100
"""Messages of a page of history."""
BODY_LIMIT_BYTES = 16_384
BODY_TIMEOUT_S = 10.0

NOT_DEMO = f"a name is {DEMO_PREFIX} and then 1 to 24 letters, digits, - or _"
NOT_LOGGED_IN = "the token is not this server's; log in again"
NOT_A_MEMBER = "not a member of this group"
NOT_OURS = f"this needs the header {ACTION_HEADER}: {ACTION}, and no page of another origin may ask for it"
BY_ADDRESS = "call this page by 127.0.0.1 or localhost"
FULL = "the demo has enough users and groups; restart the server, or use those there are"

_NAME = re.compile(rf"{DEMO_PREFIX}[A-Za-z0-9_-]{{1,24}}")
_FOLDER = Path(__file__).parent / "demo"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_TOKEN_BYTES = 24

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SessionBody(msgspec.Struct):
    uid: str = ""


class AskerBody(msgspec.Struct):
    """Of every other route: who asks, with the token that /session gave."""

    uid: str = ""
    token: str = ""


class ChannelBody(AskerBody):
    """channel_id as the asker names it: of a person chat the other's uid."""

    channel_id: str = ""
    channel_type: int = GROUP


class MembersBody(ChannelBody):
    members: list[str] = []


class HistoryBody(ChannelBody):
    """above: the messages behind this seq, oldest first; else the last ones before `below` (0: of all)."""

    above: int | None = None
    below: int = 0
    limit: int = 30


class DemoServer:
    """addresses: the WebSocket addresses that the page may connect to, the preferred first. local_only: answer only who
    calls by an IP address or localhost, so that no name of somebody else's can be pointed here."""

    def __init__(self, use_cases: UseCases, *, addresses: list[str], local_only: bool) -> None:
        self._use_cases = use_cases
        self._addresses = [address for address in addresses if address]
        self._local_only = local_only
        self._key = secrets.token_bytes(32)
        self._users: set[str] = set()
        self._groups: set[str] = set()
        self._files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
        self._headers = {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; "
                f"connect-src 'self' {' '.join(self._addresses)}; form-action 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/", self.elsewhere),
            ("GET", PREFIX, self.elsewhere),
            ("GET", f"{PREFIX}/", self.file),
            ("GET", f"{PREFIX}/{{name:[\\w.-]+}}", self.file),
            ("POST", f"{PREFIX}/session", self._action(self.session)),
            ("POST", f"{PREFIX}/conversations", self._action(self.conversations)),
            ("POST", f"{PREFIX}/history", self._action(self.history)),
            ("POST", f"{PREFIX}/read", self._action(self.read)),
            ("POST", f"{PREFIX}/group", self._action(self.create_group)),
            ("POST", f"{PREFIX}/members", self._action(self.add_members)),
        ]
        app.add_routes([web.route(method, path, self._guarded(handler)) for method, path, handler in table])
        return app

    # -- around every handler

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                if self._local_only and not is_by_address(request):
                    raise RequestRefused(BY_ADDRESS, status=403)
                response = await handler(request)
            except RequestRefused as refusal:
                response = _refused(refusal.text, refusal.status)
            except Unavailable as error:
                response = _refused(str(error), 503)
            except web.HTTPRequestEntityTooLarge:
                response = _refused(f"a body of more than {BODY_LIMIT_BYTES} bytes", 413)
            response.headers.update(self._headers)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guarded

    @staticmethod
    def _action(handler: Handler) -> Handler:
        """No form and no page of another origin can send the header."""

        async def action(request: web.Request) -> web.StreamResponse:
            if request.headers.get(ACTION_HEADER) != ACTION or not is_same_origin(request):
                raise RequestRefused(NOT_OURS, status=403)
            return await handler(request)

        return action

    # -- files

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        query = f"?{request.query_string}" if request.query_string else ""
        return web.Response(status=302, headers={"Location": f"{PREFIX}/{query}"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        body = self._files.get(name)
        if body is None:
            raise RequestRefused("not found", status=404)
        headers = {"Content-Type": _TYPES[Path(name).suffix], "Cache-Control": "no-cache"}
        return web.Response(body=body, headers=headers)

    # -- look-ups and changes

    async def session(self, request: web.Request) -> web.StreamResponse:
        """{uid} -> {uid, token, addresses}: makes the user if need be. Asked before each connect, because a token lasts
        as long as this process."""
        uid = _demo_name((await _body(request, SessionBody)).uid)
        self._admit(self._users, uid, USERS_LIMIT_COUNT)
        token = self._token(uid)
        reason = await self._use_cases.users.set_token(uid, token, device_flag=DEVICE_FLAG, level=0)
        if reason != SUCCESS:
            raise RequestRefused(f"this user may not log in, reason {reason}", status=403)
        return _json({"uid": uid, "token": token, "addresses": self._addresses})

    async def conversations(self, request: web.Request) -> web.StreamResponse:
        """-> [{channel_id, channel_type, unread, last_msg_seq, recents: the newest message, ...}], newest first."""
        asker = self._known(await _body(request, AskerBody))
        return _json(await self._use_cases.conversations.sync(asker.uid, msg_count=1, page=1, page_size=100))

    async def history(self, request: web.Request) -> web.StreamResponse:
        """-> {messages ascending, more}: see HistoryBody."""
        body = self._known(await _body(request, HistoryBody))
        channel = await self._allowed(body)
        messages = self._use_cases.messages
        twin = messages.named(channel.id, channel.type, body.uid)
        limit = max(1, min(body.limit, PAGE_LIMIT_COUNT))
        if body.above is not None:
            page = await messages.history(twin, start=max(0, body.above) + 1, end=0, limit=limit, newer=True)
        elif body.below == 1:
            return _json({"messages": [], "more": False})
        else:
            page = await messages.history(twin, start=max(0, body.below - 1), end=0, limit=limit, newer=False)
        settings = self._use_cases.replica.settings
        shapes = [shape_message(twin.channel, message, settings, is_cmd=False) for message in page.messages]
        return _json({"messages": shapes, "more": page.more})

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Everything in the channel so far is read."""
        body = self._known(await _body(request, ChannelBody))
        channel = await self._allowed(body)
        await self._use_cases.conversations.clear_unread(body.uid, channel.id, channel.type)
        return _json({})

    async def create_group(self, request: web.Request) -> web.StreamResponse:
        """{channel_id, members}: a group with these and the asker; of one that is there, the asker must be a member."""
        body = self._known(await _body(request, MembersBody))
        group = ChannelId(GROUP, _demo_name(body.channel_id))
        there = await self._members(group)
        if there and body.uid not in there:
            raise RequestRefused("there is a group of this name already, of others", status=409)
        self._admit(self._groups, group.id, GROUPS_LIMIT_COUNT)
        members = _wanted([body.uid, *body.members], there)
        await self._use_cases.channels.put(group, ChannelInfo(), members, reset=False)
        return _json({})

    async def add_members(self, request: web.Request) -> web.StreamResponse:
        """{channel_id, members} -> {members: all of them}. After the answer they get every message that is sent."""
        body = self._known(await _body(request, MembersBody))
        group = await self._allowed(body)
        if group.type != GROUP:
            raise RequestRefused("only groups have members")
        there = await self._members(group)
        added = _wanted(body.members, there)
        if added:
            await self._use_cases.channels.add_members(group, added, reset=False)
        return _json({"members": await self._members(group)})

    # -- who may

    def _token(self, uid: str) -> str:
        return hmac.new(self._key, uid.encode(), hashlib.sha256).hexdigest()[: 2 * _TOKEN_BYTES]

    def _known(self, body: "Asker") -> "Asker":
        uid = _demo_name(body.uid)
        if not hmac.compare_digest(body.token.encode("utf-8", "surrogatepass"), self._token(uid).encode()):
            raise RequestRefused(NOT_LOGGED_IN, status=401)
        return body

    async def _allowed(self, body: ChannelBody) -> ChannelId:
        """The channel, if it is a demo user or a group that the asker is in."""
        name = _demo_name(body.channel_id)
        if body.channel_type == PERSON:
            return ChannelId(PERSON, name)
        group = ChannelId(GROUP, name)
        if body.channel_type != GROUP or body.uid not in await self._members(group):
            raise RequestRefused(NOT_A_MEMBER, status=403)
        return group

    async def _members(self, group: ChannelId) -> list[str]:
        found, _ = await self._use_cases.channels.members(group, cursor="", limit=PAGE_LIMIT_COUNT)
        return found

    @staticmethod
    def _admit(known: set[str], name: str, limit: int) -> None:
        if name not in known and len(known) >= limit:
            raise RequestRefused(FULL, status=429)
        known.add(name)


Asker = TypeVar("Asker", bound=AskerBody)


def _demo_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RequestRefused(NOT_DEMO)
    return name


def _wanted(names: list[str], there: list[str]) -> list[str]:
    """Those of names that are not there yet. Raises RequestRefused for too many."""
    if len(names) > MEMBERS_LIMIT_COUNT + 1 or len({*names, *there}) > MEMBERS_LIMIT_COUNT:
        raise RequestRefused(f"more than {MEMBERS_LIMIT_COUNT} members")
    return [_demo_name(name) for name in dict.fromkeys(names) if name not in there]


async def _body(request: web.Request, shape: type[T]) -> T:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return msgspec.json.decode(await request.read(), type=shape)
    except TimeoutError:
        raise RequestRefused(f"the body did not come within {BODY_TIMEOUT_S:.0f} s", status=408) from None
    except msgspec.DecodeError as error:
        raise RequestRefused(f"the body: {error}") from None


def _json(value: Any, status: int = 200) -> web.Response:
    """Any: whatever msgspec can encode."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


def _refused(text: str, status: int) -> web.Response:
    return _json({"msg": text, "status": status}, status)
