"""The HTTP API: one aiohttp application with all routes, and a listener around it.

What is common to all routes is in `Gate`: who gets in (a door of its own per port), CORS, limits, and how errors become
answers. Handlers only know their own route. http-api.md section 2.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.auth import ApiDoor, LoginRoutes, Logins
from wukong.api.body import BodyError
from wukong.api.browse import BrowseRoutes
from wukong.api.channels import ChannelRoutes
from wukong.api.cluster import ClusterRoutes
from wukong.api.connections import ConnectionRoutes, TagRoutes
from wukong.api.console import ConsoleRoutes, Permits
from wukong.api.conversations import ConversationRoutes
from wukong.api.events import EventRoutes
from wukong.api.explain import ExplainRoutes
from wukong.api.imports import ImportRoutes
from wukong.api.messages import MessageRoutes
from wukong.api.metrics import COUNTER, GAUGE, Figure, MetricsRoutes, registry_of
from wukong.api.openapi import DocsRoutes, served
from wukong.api.plugins import PluginRoutes
from wukong.api.request import POST, Handler, route
from wukong.api.retention import RetentionRoutes
from wukong.api.system import Addresses, ProcessRoutes, SystemRoutes
from wukong.api.users import UserRoutes
from wukong.clock import SystemClock
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import DAY_MS, DEFAULT_HTTP_BODY_BYTES
from wukong.service.cluster import ClusterAdmin
from wukong.service.console import Console
from wukong.service.other_nodes import Nodes, NoOtherNodes
from wukong.service.usecases import UseCases

log = logging.getLogger(__name__)

_BACKLOG = 1_024
_STOP_TIMEOUT_S = 2.0
_LAST_WORD_S = 0.3
_NO_ADDRESSES = Addresses()
_CALLER_GONE = 499  # counted only, nobody reads it; HTTP has no status for it, this is the one of nginx


def _healthy() -> str:
    return ""


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """manager_token: if not blank, every request needs it in the header `token`.

    body_limit_bytes: a larger body is refused with 413, unread where its length is told.
    requests_limit: requests being answered at once; a further one gets 503.
    health: "" while this node serves, or why it does not.
    docs_on: whether /docs shows the API.
    prometheus_on: whether it is configured where Prometheus answers.
    figures: what GET /metrics shows besides the process and the API's own."""

    manager_token: str = ""
    body_limit_bytes: int = DEFAULT_HTTP_BODY_BYTES
    requests_limit: int = 1_024
    command_sync_off: bool = False
    addresses: Addresses = _NO_ADDRESSES
    manager_uid: str = "____manager"
    manager_on: bool = False
    health: Callable[[], str] = _healthy
    docs_on: bool = True
    prometheus_on: bool = False
    figures: tuple[Figure, ...] = ()


class Door(Protocol):
    """Who gets in at a port."""

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to who may not ask this; None for who may."""
        ...

    def shows_to_all(self, request: web.Request) -> bool:
        """Whether pages of other origins may read the answer."""
        ...


class Gate:
    """Around every handler."""

    def __init__(self, options: ApiOptions, door: Door) -> None:
        self._door = door
        self._body_limit_bytes = options.body_limit_bytes
        self._requests_limit = options.requests_limit
        self._open = 0
        self.answered: Counter[tuple[str, ...]] = Counter()

    @property
    def open(self) -> int:
        """Requests being answered."""
        return self._open

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await self._handle(request, handler)
        if not self._door.shows_to_all(request):
            for name in answers.CORS_HEADERS:
                response.headers.pop(name, None)
        return response

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._open >= self._requests_limit:
            response: web.StreamResponse = answers.refused("too many requests at once; try again", http_status=503)
        else:
            self._open += 1
            try:
                response = await self._answer(request, handler)
            finally:
                self._open -= 1
        resource = request.match_info.route.resource
        # Labels must not grow with what clients make up: unknown paths are one.
        self.answered[resource.canonical if resource is not None else "other", str(response.status)] += 1
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        turned_away = self._door.refusal(request)
        if turned_away is not None:
            return turned_away
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=answers.CORS_HEADERS)
        if (request.content_length or 0) > self._body_limit_bytes:
            return self._too_large()
        try:
            return await handler(request)
        except BodyError as error:
            return answers.refused(error.text)
        except RequestRefused as refusal:
            return answers.refused(refusal.text, http_status=refusal.status, code=refusal.code)
        except Unavailable as error:
            return answers.refused(str(error), http_status=503)
        except web.HTTPRequestEntityTooLarge:
            return self._too_large()
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return answers.not_found()
        except Exception as error:
            if isinstance(error, ConnectionError) and _is_gone(request):
                log.info("%s %s: the caller went away", request.method, request.path)
                return answers.refused("the caller went away", http_status=_CALLER_GONE)
            log.exception("%s %s", request.method, request.path)
            return answers.refused("internal error", http_status=500)

    def _too_large(self) -> web.Response:
        return answers.refused(f"the body is over the limit of {self._body_limit_bytes} bytes", http_status=413)

    def figures(self) -> list[Figure]:
        return [
            Figure("wukong_http_requests", "Requests answered.", COUNTER, lambda: self.answered, ("route", "status")),
            Figure("wukong_http_requests_open", "Requests being answered.", GAUGE, lambda: self._open),
        ]


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def no_logins() -> Logins:
    """There are no accounts."""
    return Logins([], key=secrets.token_bytes(), issuer="", expire_ms=DAY_MS, clock=SystemClock())


def application(options: ApiOptions, gate: Gate) -> web.Application:
    """Without routes."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await gate.handle(request, handler)

    return web.Application(middlewares=[middleware], client_max_size=options.body_limit_bytes)


def operator_routes(
    use_cases: UseCases,
    options: ApiOptions,
    *,
    cluster: ClusterAdmin | None,
    nodes: Nodes,
    logins: Logins,
    permits: Permits,
) -> Iterable[web.RouteDef]:
    """What is served at the manager's port as well. http-api.md 2.1."""
    console = Console(cluster) if cluster is not None else None
    yield from ConnectionRoutes(use_cases.overview, nodes).routes()
    yield from ProcessRoutes(
        use_cases.overview,
        nodes,
        addresses=options.addresses,
        manager_uid=options.manager_uid,
        manager_on=options.manager_on,
        token_required=bool(options.manager_token.strip()),
        prometheus_on=options.prometheus_on,
    ).routes()
    yield from TagRoutes(nodes).routes()
    yield from ExplainRoutes(use_cases.explain, nodes).routes()
    yield from LoginRoutes(logins).routes()
    yield from BrowseRoutes(use_cases.browse, use_cases.channels, nodes, console).routes()
    yield route(POST, "/cluster/message/eventsync", EventRoutes(use_cases.events).sync)
    if cluster is not None and console is not None:
        yield from ClusterRoutes(cluster).routes()
        yield from ConsoleRoutes(console, permits).routes()
    yield from PluginRoutes(permits).routes()


def build_app(
    use_cases: UseCases,
    options: ApiOptions,
    *,
    cluster: ClusterAdmin | None = None,
    nodes: Nodes | None = None,
    logins: Logins | None = None,
    more_routes: Iterable[web.RouteDef] = (),
) -> web.Application:
    """The application with every route of this node's API. cluster, nodes: None for a node without others. logins: None
    for no accounts. more_routes: of parts that are not always there."""
    logins = logins or no_logins()
    door = ApiDoor(options.manager_token, logins)
    gate = Gate(options, door)
    app = application(options, gate)
    replica = use_cases.replica
    app.add_routes(
        [
            *SystemRoutes(health=options.health, addresses=options.addresses).routes(),
            *UserRoutes(use_cases.users, replica).routes(),
            *ChannelRoutes(use_cases.channels).routes(),
            *MessageRoutes(
                use_cases.messages, use_cases.command_sync, replica, command_sync_off=options.command_sync_off
            ).routes(),
            *EventRoutes(use_cases.events).routes(),
            *ConversationRoutes(use_cases.conversations).routes(),
            *ImportRoutes(use_cases.imports).routes(),
            *RetentionRoutes(use_cases.retention).routes(),
            *operator_routes(
                use_cases,
                options,
                cluster=cluster,
                nodes=nodes or NoOtherNodes(use_cases.overview.node_id),
                logins=logins,
                permits=door.permits,
            ),
            *MetricsRoutes(registry_of([*options.figures, *gate.figures()])).routes(),
            *DocsRoutes(lambda: served(app), on=options.docs_on).routes(),
            *more_routes,
        ]
    )
    return app


class ApiServer:
    """A listener for an application. Made inside the running loop."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, host: str, port: int) -> int:
        """Returns the port bound; 0 lets the system choose. Raises OSError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=_BACKLOG)
        try:
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Accept nothing more; requests under way get a moment to be answered, then they are cancelled. Returns after
        timeout_s at the latest."""
        # aiohttp takes its limit twice: for handlers to end, and for cancelled ones to end.
        self._runner._shutdown_timeout = max(0.0, timeout_s - _LAST_WORD_S)
        cleanup = asyncio.get_running_loop().create_task(self._runner.cleanup(), name="api-stop")
        await asyncio.wait([cleanup], timeout=timeout_s)
        if cleanup.done():
            cleanup.result()
        else:
            log.warning("requests do not end; they are left")
            cleanup.cancel()
