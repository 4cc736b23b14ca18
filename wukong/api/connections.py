"""The connections of this node, or of another one. http-api.md 7.1 and 7.4, behaviour.md 4.3.

A session's number means something on its own node only; so whoever is asked for a connection of another node asks that
node (service/other_nodes.py).
"""

from typing import Any

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int64, Uint64
from wukong.api.request import GET, POST, query_int, query_text, read, refuse_if, route
from wukong.service.other_nodes import Nodes
from wukong.service.overview import Overview

NODE_UNKNOWN = "节点不存在！"
NODE_NOT_FOUND = "node not found"

_MAX_TEXT_CHARS = 1_000


class ConnectionBody(msgspec.Struct):
    uid: str = ""
    conn_id: Int64 = 0
    node_id: Uint64 = 0
    op_node_id: Uint64 = 0


class ConnectionRoutes:
    def __init__(self, overview: Overview, nodes: Nodes) -> None:
        self._overview = overview
        self._nodes = nodes
        nodes.serve("connz", self._connz)
        nodes.serve("kick", self._kick)
        nodes.serve("remove", self._remove)

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/connz", self.connz),
            (POST, "/conn/kick", self.kick),
            (POST, "/conn/remove", self.remove),
        ]
        return [route(*entry) for entry in table]

    async def connz(self, request: web.Request) -> web.Response:
        node = query_int(request, "node_id") or self._nodes.node_id
        refuse_if(not self._nodes.is_known(node), NODE_UNKNOWN)
        args = {
            "uid": query_text(request, "uid")[:_MAX_TEXT_CHARS],
            "offset": query_int(request, "offset"),
            "limit": query_int(request, "limit"),
            "sort": query_text(request, "sort")[:_MAX_TEXT_CHARS],
        }
        if node != self._nodes.node_id:
            return answers.encoded(await self._nodes.ask(node, "connz", args))
        return answers.encoded(await self._connz(args))

    async def _connz(self, args: dict[str, Any]) -> bytes:
        page = await self._overview.connections(
            uid=str(args["uid"]), offset=int(args["offset"]), limit=int(args["limit"]), sort=str(args["sort"]) or "id"
        )
        return msgspec.json.encode(
            {
                "connections": await answers.raw_list(page.connections),
                "now": page.now,
                "total": page.total,
                "offset": page.offset,
                "limit": page.limit,
            }
        )

    async def kick(self, request: web.Request) -> web.Response:
        return await self._close(request, "kick")

    async def remove(self, request: web.Request) -> web.Response:
        return await self._close(request, "remove")

    async def _close(self, request: web.Request, how: str) -> web.Response:
        """node_id, where the socket is, counts before op_node_id, which WuKongIM lets do it. A connection or a node
        that is not there is no fault (http-api.md 7.4)."""
        body = await read(request, ConnectionBody)
        refuse_if(body.conn_id == 0, "conn_id is 0")
        refuse_if(body.op_node_id != 0 and not self._nodes.is_known(body.op_node_id), NODE_NOT_FOUND)
        node = body.node_id or body.op_node_id or self._nodes.node_id
        args = {"uid": body.uid, "conn_id": body.conn_id}
        if node == self._nodes.node_id:
            await (self._kick if how == "kick" else self._remove)(args)
        elif self._nodes.is_known(node):
            await self._nodes.ask(node, how, args)
        return answers.ok()

    async def _kick(self, args: dict[str, Any]) -> bytes:
        self._overview.kick(str(args["uid"]), int(args["conn_id"]))
        return b""

    async def _remove(self, args: dict[str, Any]) -> bytes:
        self._overview.remove(str(args["uid"]), int(args["conn_id"]))
        return b""


class TagRoutes:
    """Tags are WuKongIM's cached recipients of a channel. Here recipients are read from the log's state for each
    message, so there are none. http-api.md 7.5."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/tag", self.tag),
            (GET, "/tags", self.tags),
            (POST, "/tag/remove", self.remove),
        ]
        return [route(*entry) for entry in table]

    async def tag(self, request: web.Request) -> web.Response:
        return answers.refused("tag not found")

    async def tags(self, request: web.Request) -> web.Response:
        node = query_int(request, "node_id")
        refuse_if(node != 0 and not self._nodes.is_known(node), NODE_NOT_FOUND)
        return answers.bare([])

    async def remove(self, request: web.Request) -> web.Response:
        body = await read(request, TagBody)
        refuse_if(body.node_id != 0 and not self._nodes.is_known(body.node_id), NODE_NOT_FOUND)
        return answers.ok()


class TagBody(msgspec.Struct):
    node_id: Uint64 = 0
