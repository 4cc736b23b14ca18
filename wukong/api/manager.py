"""The manager's port: what operators and their console see and do, and figures for Prometheus. http-api.md 2.1, 2.2.

Nobody gets in without the manager token or the login of an account, but to the login itself and to the figures. No page
of another origin gets anything. The token may everything; a login may read, and change what its account may: nothing
at all without any write permission, and the cluster's members only from this machine, as at the API's port.
Under /web is the console, if there is one (wukong/console); whoever is logged in there reads everything here, and an
admin may change everything, with the header that only its own pages send.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from wukong.api import answers
from wukong.api.auth import ALL, LOGIN_PATH, Logins, has_token, is_change
from wukong.api.channels import ChannelRoutes
from wukong.api.cluster import PREFIX, why_refused
from wukong.api.console import FORBIDDEN, FORBIDDEN_CODE
from wukong.api.metrics import HistoryRoutes, MetricsRoutes
from wukong.api.request import GET, route
from wukong.api.server import ApiOptions, Gate, application, operator_routes
from wukong.api.users import UserRoutes
from wukong.origin import is_same_origin
from wukong.service.cluster import ClusterAdmin
from wukong.service.history import History
from wukong.service.other_nodes import Nodes
from wukong.service.usecases import UseCases

OPEN_TO_ALL = (LOGIN_PATH, "/web", "/metrics")
"""These paths, and those below them."""

NOT_LOGGED_IN = "log in, or send the manager token in the header `token`"
FROM_ELSEWHERE = "a login changes the cluster from the node's own machine only; send the manager token"
NOT_OURS = "a change needs Content-Type: application/json, and no page of another origin may ask for it"

JSON = "application/json"

CONSOLE_CHANGES = frozenset({"/channel", "/channel/subscriber_add", "/channel/subscriber_remove", "/user/device_quit"})
"""Routes of the API that are here for the console. http-api.md 12.2 names no resource for them, so of the logins only
those with `*` may use them."""


class Visitor(Protocol):
    """Who is logged in at the console."""

    @property
    def may_write(self) -> bool: ...
    @property
    def may_change_cluster(self) -> bool: ...


class ConsolePages(Protocol):
    """The console, as this port needs it. on_shutdown: ends what it still tells its pages."""

    def routes(self) -> Iterable[web.RouteDef]: ...
    def visitor(self, request: web.Request) -> Visitor | None: ...
    def is_own_action(self, request: web.Request) -> bool: ...
    @property
    def on_shutdown(self) -> Callable[[web.Application], Awaitable[None]]: ...


class ManagerDoor:
    def __init__(self, token: str, logins: Logins, console: ConsolePages | None = None) -> None:
        self._token = token.strip().encode()
        self._logins = logins
        self._console = console

    def refusal(self, request: web.Request) -> web.Response | None:
        path = request.path
        if any(path == each or path.startswith(f"{each}/") for each in OPEN_TO_ALL) or self._is_manager(request):
            return None
        visitor = self._visitor(request)
        if visitor is not None and self._console is not None:
            if not is_change(request):
                return None
            if not visitor.may_write:
                return answers.refused(FORBIDDEN, code=FORBIDDEN_CODE)
            if not self._console.is_own_action(request):
                return answers.refused(NOT_OURS, http_status=403)
            if path.startswith(PREFIX) and not visitor.may_change_cluster:
                return answers.refused(FROM_ELSEWHERE, http_status=403)
            return None
        user = self._logins.user_of(request)
        if user is None:
            return answers.bare({"error": NOT_LOGGED_IN}, 401)
        if not is_change(request):
            return None
        if not user.may_write_something or (path in CONSOLE_CHANGES and not user.may_write(ALL)):
            return answers.refused(FORBIDDEN, code=FORBIDDEN_CODE)
        if request.content_type != JSON or not is_same_origin(request):
            return answers.refused(NOT_OURS, http_status=403)
        if path.startswith(PREFIX) and (not user.may_write("cluster") or why_refused(request)):
            return answers.refused(FROM_ELSEWHERE, http_status=403)
        return None

    def _is_manager(self, request: web.Request) -> bool:
        return bool(self._token) and has_token(request, self._token)

    def _visitor(self, request: web.Request) -> Visitor | None:
        return self._console.visitor(request) if self._console is not None else None

    def permits(self, request: web.Request, resource: str) -> bool:
        """Whether who asks may write a resource of http-api.md 12.2; whoever has the token may everything here."""
        if self._is_manager(request):
            return True
        visitor = self._visitor(request)
        if visitor is not None:
            return visitor.may_write
        user = self._logins.user_of(request)
        return user is not None and user.may_write(resource)

    def shows_to_all(self, request: web.Request) -> bool:
        return False


async def no_samples(request: web.Request) -> web.Response:
    """WuKongIM reads these back from Prometheus; here Prometheus itself is asked."""
    return answers.bare([])


def build_manager_app(
    use_cases: UseCases,
    options: ApiOptions,
    *,
    cluster: ClusterAdmin | None,
    nodes: Nodes,
    logins: Logins,
    registry: CollectorRegistry,
    history: History | None = None,
    console: ConsolePages | None = None,
) -> web.Application:
    """The application of the manager's port. registry: what /metrics shows; history: what /history shows; console: what
    is under /web."""
    door = ManagerDoor(options.manager_token, logins, console)
    app = application(options, Gate(options, door))
    if console is not None:
        app.add_routes(console.routes())
        app.add_routes(_console_changes(use_cases))
        app.on_shutdown.append(console.on_shutdown)
    app.add_routes(
        operator_routes(use_cases, options, cluster=cluster, nodes=nodes, logins=logins, permits=door.permits)
    )
    app.add_routes(MetricsRoutes(registry).routes())
    if history is not None:
        app.add_routes(HistoryRoutes(history).routes())
    app.add_routes([route(GET, f"/metrics/{name}", no_samples) for name in ("app", "cluster", "system")])
    return app


def _console_changes(use_cases: UseCases) -> Iterable[web.RouteDef]:
    for each in (
        *ChannelRoutes(use_cases.channels).routes(),
        *UserRoutes(use_cases.users, use_cases.replica).routes(),
    ):
        if each.path in CONSOLE_CHANGES:
            yield each
