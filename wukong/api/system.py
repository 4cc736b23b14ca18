"""Health, addresses for clients, and figures of this process. http-api.md sections 5, 7.2 and 7.3."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import BodyError, read_uids
from wukong.api.request import BAD_FORMAT, GET, POST, body_of, query_int, query_text, refuse_if, route
from wukong.errors import RequestRefused
from wukong.service.other_nodes import Nodes
from wukong.service.overview import Overview, Process


class Addresses(NamedTuple):
    """Where clients are sent, and what the console shows. Empty: there is no such listener."""

    tcp: str = ""
    ws: str = ""
    wss: str = ""
    intranet_tcp: str = ""
    api_url: str = ""
    manager: str = ""


class RouteShape(msgspec.Struct, frozen=True):
    tcp_addr: str
    ws_addr: str
    wss_addr: str


class RouteBatchShape(RouteShape, frozen=True):
    uids: list[str] | None


class SystemRoutes:
    """health: "" while this node serves, or why it does not."""

    def __init__(self, *, health: Callable[[], str], addresses: Addresses) -> None:
        self._health = health
        self._addresses = addresses

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/health", self.health),
            (GET, "/migrate/result", self.migrate_result),
            (GET, "/route", self.client_addresses),
            (POST, "/route/batch", self.client_addresses_of),
        ]
        return [route(*entry) for entry in table]

    async def health(self, request: web.Request) -> web.Response:
        reason = self._health()
        if reason:
            return answers.bare({"message": reason, "status": "error"}, 500)
        return answers.bare({"status": "ok"})

    async def migrate_result(self, request: web.Request) -> web.Response:
        """Upstream's import of its version 1; nobody ever asked this server for one."""
        return answers.bare({"status": "running", "step": "", "last_err": None, "try_count": 0})

    # -- addresses --

    async def client_addresses(self, request: web.Request) -> web.Response:
        return answers.bare(RouteShape(*self._route(request)))

    async def client_addresses_of(self, request: web.Request) -> web.Response:
        try:
            uids = read_uids(await body_of(request))
        except BodyError:
            raise RequestRefused(BAD_FORMAT) from None
        return answers.bare([RouteBatchShape(*self._route(request), uids)])

    def _route(self, request: web.Request) -> tuple[str, str, str]:
        addresses = self._addresses
        if query_int(request, "intranet") == 1:
            return addresses.intranet_tcp, "", ""
        return addresses.tcp, addresses.ws, addresses.wss


class ProcessRoutes:
    """prometheus_on: whether it is told where Prometheus answers (trace.prometheusApiUrl)."""

    def __init__(
        self,
        overview: Overview,
        nodes: Nodes,
        *,
        addresses: Addresses,
        manager_uid: str,
        manager_on: bool,
        token_required: bool,
        prometheus_on: bool = False,
    ) -> None:
        self._overview = overview
        self._nodes = nodes
        self._addresses = addresses
        self._manager_uid = manager_uid
        self._manager_on = manager_on
        self._token_required = token_required
        self._prometheus_on = prometheus_on
        nodes.serve("varz", self._answer)

    def routes(self) -> list[web.RouteDef]:
        return [route(GET, "/varz", self.varz), route(GET, "/varz/setting", self.setting)]

    async def varz(self, request: web.Request) -> web.Response:
        node = query_int(request, "node_id") or self._nodes.node_id
        refuse_if(not self._nodes.is_known(node), "node not found")
        args = {"conn": query_text(request, "show") == "conn", "limit": query_int(request, "conn_limit")}
        if node != self._nodes.node_id:
            return answers.encoded(await self._nodes.ask(node, "varz", args))
        return answers.encoded(await self._answer(args))

    async def _answer(self, args: dict[str, Any]) -> bytes:
        shape = self._varz(self._overview.process())
        if args["conn"]:
            page = await self._overview.connections(limit=int(args["limit"]), sort="inMsgDesc")
            shape["conns"] = await answers.raw_list(page.connections)
        return msgspec.json.encode(shape)

    def _varz(self, process: Process) -> dict[str, Any]:
        addresses = self._addresses
        return {
            "server_id": str(self._overview.node_id),
            "server_name": "WuKongIM",
            "version": f"wukong {process.version}",
            "connections": process.connections,
            "user_handler_count": process.users,
            "user_handler_conn_count": process.sessions,
            "uptime": process.uptime,
            "goroutine": process.tasks,
            "mem": process.memory_bytes,
            "cpu": process.cpu,
            "in_msgs": process.in_messages,
            "out_msgs": process.out_messages,
            "in_bytes": process.in_bytes,
            "out_bytes": process.out_bytes,
            "slow_clients": process.slow_clients,
            "retry_queue": process.retry_queue,
            "tcp_addr": addresses.tcp,
            "ws_addr": addresses.ws,
            "wss_addr": addresses.wss,
            "manager_addr": addresses.manager,
            "manager_on": int(self._manager_on),
            "commit": "",
            "commit_date": "",
            "tree_state": "",
            "api_url": addresses.api_url,
            "manager_uid": self._manager_uid,
            "manager_token_on": int(self._token_required),
            "conversation_cache_count": 0,
        }

    async def setting(self, request: web.Request) -> web.Response:
        return answers.bare(
            {
                "logger": {"trace_on": 0, "loki_on": 0},
                "prometheus_on": int(self._prometheus_on),
                "stress_on": 0,
            }
        )
