"""WuKongIM's routes under /cluster that are about nodes and slots. http-api.md 13.1 to 13.3.

What changes a cluster there (a slot's leader, a channel's group) is done by other routes here, and refused with their
names: slots balance themselves, and channels have no groups of their own.
"""

from collections.abc import Callable

from aiohttp import web

from wukong.api import answers
from wukong.api.request import GET, POST, body_of, query_int, query_text, refuse_if, route
from wukong.errors import RequestRefused
from wukong.service.console import NODE_NOT_FOUND, SLOT_NOT_FOUND, Console

Permits = Callable[[web.Request, str], bool]
"""Whether who asks may write a resource of http-api.md 12.2."""

FORBIDDEN = "没有权限"
FORBIDDEN_CODE = 403

LEADERS = "leaders are moved with POST /cluster/transfer, or `wukong cluster transfer`"
MEMBERS = "nodes are changed with POST /cluster/member/replace, or `wukong cluster replace`; slots follow by themselves"
GROUPS = "channels have no group of their own here: each is where its slot is"

_SLOT_CHANGES = {"migrate": ("slotMigrate", MEMBERS), "election": ("slotElection", LEADERS)}
_CHANNEL_CHANGES = {
    "migrate": ("", GROUPS),
    "start": ("clusterchannelStart", GROUPS),
    "stop": ("clusterchannelStop", GROUPS),
}

_SLOT_LOG = 2


def forbid_unless(permitted: bool) -> None:
    """http-api.md 2.6: HTTP 400 with 403 in the body."""
    if not permitted:
        raise RequestRefused(FORBIDDEN, code=FORBIDDEN_CODE)


def path_int(request: web.Request, name: str) -> int:
    """A number in the path. Raises RequestRefused with the text of a number parser."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestRefused(f'strconv.ParseUint: parsing "{text[:50]}": invalid syntax')
    return int(text)


class ConsoleRoutes:
    def __init__(self, console: Console, permits: Permits) -> None:
        self._console = console
        self._permits = permits

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/cluster/nodes", self.nodes),
            (GET, "/cluster/simpleNodes", self.simple_nodes),
            (GET, "/cluster/node", self.node),
            (GET, "/cluster/info", self.info),
            (GET, "/cluster/logs", self.logs),
            (GET, "/cluster/slots", self.slots),
            (GET, "/cluster/allslot", self.all_slots),
            (GET, "/cluster/slots/{id}/config", self.slot_config),
            (GET, "/cluster/slots/{id}/replicas", self.slot_replicas),
            (GET, "/cluster/slots/{id}/localReplica", self.local_replica),
            (GET, "/cluster/devtools/checkLogConflict", self.nothing),
            *((POST, f"/cluster/slots/{{id}}/{name}", self.change_slot) for name in _SLOT_CHANGES),
            *(
                (POST, f"/cluster/channels/{{channel_id}}/{{channel_type}}/{name}", self.change_channel)
                for name in _CHANNEL_CHANGES
            ),
        ]
        return [route(*entry) for entry in table]

    # -- nodes --

    async def nodes(self, request: web.Request) -> web.Response:
        found = await self._console.nodes()
        return answers.bare({"total": len(found), "data": found})

    async def simple_nodes(self, request: web.Request) -> web.Response:
        found = await self._console.simple_nodes()
        return answers.bare({"total": len(found), "data": found})

    async def node(self, request: web.Request) -> web.Response:
        return answers.bare(await self._console.node())

    async def info(self, request: web.Request) -> web.Response:
        return answers.bare(await self._console.info())

    async def logs(self, request: web.Request) -> web.Response:
        node = query_int(request, "node_id")
        refuse_if(not node, NODE_NOT_FOUND)
        slot = query_int(request, "slot") if query_int(request, "log_type") == _SLOT_LOG else 0
        return answers.bare(await self._console.logs(node, slot))

    async def nothing(self, request: web.Request) -> web.Response:
        return web.Response()

    # -- slots --

    async def slots(self, request: web.Request) -> web.Response:
        texts = [text.strip() for text in query_text(request, "ids").split(",")]
        wanted = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 10]
        return answers.bare(await self._console.slots(wanted))

    async def all_slots(self, request: web.Request) -> web.Response:
        found = await self._console.slots()
        return answers.bare({"total": len(found), "data": found})

    async def slot_config(self, request: web.Request) -> web.Response:
        return answers.bare(await self._console.slot_config(path_int(request, "id")))

    async def slot_replicas(self, request: web.Request) -> web.Response:
        return answers.bare(await self._console.replicas(path_int(request, "id")))

    async def local_replica(self, request: web.Request) -> web.Response:
        return answers.bare(await self._console.local_replica(path_int(request, "id")))

    # -- what is done otherwise here --

    async def change_slot(self, request: web.Request) -> web.Response:
        resource, instead = _SLOT_CHANGES[request.path.rpartition("/")[2]]
        await body_of(request)
        forbid_unless(self._permits(request, resource))
        refuse_if(not await self._console.slots([path_int(request, "id")]), SLOT_NOT_FOUND)
        raise RequestRefused(instead)

    async def change_channel(self, request: web.Request) -> web.Response:
        resource, instead = _CHANNEL_CHANGES[request.path.rpartition("/")[2]]
        await body_of(request)
        forbid_unless(not resource or self._permits(request, resource))
        raise RequestRefused(instead)
