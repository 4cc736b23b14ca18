"""/cluster: status, nodes in and out, leaders, settings. Routes of this server alone; WuKongIM's own (http-api.md 13)
have other paths (console.py, browse.py).

Who may change a cluster: whoever has the manager token. Without one only this machine, and no web page that is open on
it: a browser names the origin of a page, and sends JSON elsewhere only where CORS allows it, which it never does here.
"""

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Uint64
from wukong.api.request import GET, POST, read, refuse_if, route
from wukong.origin import is_from_here
from wukong.service.cluster import EVERY_SLOT, ClusterAdmin

PREFIX = "/cluster/"

FROM_ELSEWHERE = "without managerToken a cluster is changed from the node's own machine only; set managerToken"
NOT_JSON = "without managerToken this needs Content-Type: application/json, and no web page may ask for it"

_CHANNEL = "/cluster/channels/{channel_id}/{channel_type}"
# Routes of WuKongIM that only look as if they changed a cluster: they ask, or are refused in any case.
CHANGE_NOTHING = frozenset(
    {
        "/cluster/slots/{id}/migrate",
        "/cluster/slots/{id}/election",
        f"{_CHANNEL}/migrate",
        f"{_CHANNEL}/start",
        f"{_CHANNEL}/stop",
        "/cluster/channel/status",
        "/cluster/message/eventsync",
    }
)

_NODE_MISSING = "node is missing"
_NO_SLOT = EVERY_SLOT - 1


class AddBody(msgspec.Struct):
    node: Uint64 = 0
    addr: str = ""
    api_url: str = ""


class RemoveBody(msgspec.Struct):
    node: Uint64 = 0


class ReplaceBody(msgspec.Struct):
    node: Uint64 = 0
    by: Uint64 = 0
    addr: str = ""


class TransferBody(msgspec.Struct):
    node: Uint64 = 0
    slot: Int = _NO_SLOT


def why_refused(request: web.Request) -> str:
    """Why a request that carries no manager token may not change the cluster; "" if it may."""
    if request.method != POST:
        return ""
    if not is_from_here(request):
        return FROM_ELSEWHERE
    if request.content_type != "application/json" or "Origin" in request.headers:
        return NOT_JSON
    return ""


class ClusterRoutes:
    def __init__(self, cluster: ClusterAdmin) -> None:
        self._cluster = cluster

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/cluster/status", self.status),
            (POST, "/cluster/member/add", self.add),
            (POST, "/cluster/member/remove", self.remove),
            (POST, "/cluster/member/replace", self.replace),
            (POST, "/cluster/transfer", self.transfer),
            (POST, "/cluster/settings/adopt", self.adopt),
        ]
        return [route(*entry) for entry in table]

    async def status(self, request: web.Request) -> web.Response:
        return answers.bare(await self._cluster.status())

    async def add(self, request: web.Request) -> web.Response:
        body = await read(request, AddBody)
        refuse_if(not body.node, _NODE_MISSING)
        await self._cluster.add(body.node, body.addr, body.api_url)
        return answers.ok()

    async def remove(self, request: web.Request) -> web.Response:
        body = await read(request, RemoveBody)
        refuse_if(not body.node, _NODE_MISSING)
        await self._cluster.remove(body.node)
        return answers.ok()

    async def replace(self, request: web.Request) -> web.Response:
        body = await read(request, ReplaceBody)
        refuse_if(not body.node or not body.by, "node and by are needed: who leaves, and who comes")
        await self._cluster.replace(body.node, body.by, body.addr)
        return answers.ok()

    async def transfer(self, request: web.Request) -> web.Response:
        body = await read(request, TransferBody)
        refuse_if(not body.node, _NODE_MISSING)
        refuse_if(body.slot == _NO_SLOT, "slot is missing; -1 stands for all")
        asked = self._cluster.transfer(body.slot, body.node)
        return answers.bare({"msg": asked, "status": 200}) if asked else answers.ok()

    async def adopt(self, request: web.Request) -> web.Response:
        await self._cluster.adopt_settings()
        return answers.ok()
