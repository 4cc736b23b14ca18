"""The manager's port: what operators and their console see and do, and figures for Prometheus. http-api.md 2.1, 2.2.

Nobody gets in without the manager token or the login of an account, but to the login itself and to the figures. No page
of another origin gets anything. The token may everything; a login may read, and change what its account may: nothing
at all without any write permission, and the cluster's members only from this machine, as at the API's port.
/web is kept free for a console.
"""

from aiohttp import web
from prometheus_client import CollectorRegistry

from wukong.api import answers
from wukong.api.auth import LOGIN_PATH, Logins, has_token, is_change, is_same_origin
from wukong.api.cluster import PREFIX, why_refused
from wukong.api.console import FORBIDDEN, FORBIDDEN_CODE
from wukong.api.metrics import MetricsRoutes
from wukong.api.request import GET, route
from wukong.api.server import ApiOptions, Gate, application, operator_routes
from wukong.service.cluster import ClusterAdmin
from wukong.service.other_nodes import Nodes
from wukong.service.usecases import UseCases

OPEN_TO_ALL = (LOGIN_PATH, "/web", "/metrics")
"""These paths, and those below them."""

NOT_LOGGED_IN = "log in, or send the manager token in the header `token`"
FROM_ELSEWHERE = "a login changes the cluster from the node's own machine only; send the manager token"
NOT_OURS = "a change needs Content-Type: application/json, and no page of another origin may ask for it"

JSON = "application/json"


class ManagerDoor:
    def __init__(self, token: str, logins: Logins) -> None:
        self._token = token.strip().encode()
        self._logins = logins

    def refusal(self, request: web.Request) -> web.Response | None:
        path = request.path
        if any(path == each or path.startswith(f"{each}/") for each in OPEN_TO_ALL) or self._is_manager(request):
            return None
        user = self._logins.user_of(request)
        if user is None:
            return answers.bare({"error": NOT_LOGGED_IN}, 401)
        if not is_change(request):
            return None
        if not user.may_write_something:
            return answers.refused(FORBIDDEN, code=FORBIDDEN_CODE)
        if request.content_type != JSON or not is_same_origin(request):
            return answers.refused(NOT_OURS, http_status=403)
        if path.startswith(PREFIX) and (not user.may_write("cluster") or why_refused(request)):
            return answers.refused(FROM_ELSEWHERE, http_status=403)
        return None

    def _is_manager(self, request: web.Request) -> bool:
        return bool(self._token) and has_token(request, self._token)

    def permits(self, request: web.Request, resource: str) -> bool:
        """Whether who asks may write a resource of http-api.md 12.2; whoever has the token may everything here."""
        if self._is_manager(request):
            return True
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
) -> web.Application:
    """The application of the manager's port. registry: what /metrics shows."""
    door = ManagerDoor(options.manager_token, logins)
    app = application(options, Gate(options, door))
    app.add_routes(
        operator_routes(use_cases, options, cluster=cluster, nodes=nodes, logins=logins, permits=door.permits)
    )
    app.add_routes(MetricsRoutes(registry).routes())
    app.add_routes([route(GET, f"/metrics/{name}", no_samples) for name in ("app", "cluster", "system")])
    return app
