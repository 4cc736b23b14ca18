"""Routes of WuKongIM's plugins. This server runs none: whoever may ask is told that the plugin is unknown, in
WuKongIM's shape. http-api.md section 14, 6.5 and 12.2.

A uid that was bound to a plugin would send into the void, so binding is refused like everything else.
"""

from collections.abc import Callable

from aiohttp import web

from wukong.api import answers
from wukong.api.body import parse
from wukong.api.request import GET, POST, body_of, route
from wukong.errors import RequestRefused

NOT_FOUND = "plugin not found"
NOT_ALLOWED = "没有权限"

# What the catch-all of a plugin's own paths takes; OPTIONS is answered before any route is looked at.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

May = Callable[[web.Request, str], bool]
"""Whether the request may write a resource; http-api.md 12.2 names them."""


def nobody(request: web.Request, resource: str) -> bool:
    return False


class PluginRoutes:
    """may: who passes the permission checks. By default nobody: on this port only a JWT makes a request anybody's."""

    def __init__(self, may: May = nobody) -> None:
        self._may = may

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, "/plugins", self.none),
            (GET, "/plugin/bind", self.none),
            (POST, "/plugin/bind", self.bind),
            (POST, "/plugin/unbind", self.unbind),
            (POST, "/plugin/uninstall", self.uninstall),
            (POST, "/pluginconfig/{plugin}", self.configure),
            (POST, "/user/update_plugin_no", self.update_plugin_no),
            *((method, "/plugins/{plugin}/{path:.*}", self.call) for method in METHODS),
        ]
        return [route(*entry) for entry in table]

    async def none(self, request: web.Request) -> web.Response:
        """The plugins there are, or the uids bound to them."""
        return answers.bare([])

    async def call(self, request: web.Request) -> web.Response:
        raise RequestRefused(NOT_FOUND, code=404)

    async def bind(self, request: web.Request) -> web.Response:
        return await self._change(request, "pluginUserAdd")

    async def unbind(self, request: web.Request) -> web.Response:
        return await self._change(request, "pluginUserDelete")

    async def uninstall(self, request: web.Request) -> web.Response:
        return await self._change(request, "pluginUninstall")

    async def configure(self, request: web.Request) -> web.Response:
        return await self._change(request, "pluginConfigUpdate")

    async def update_plugin_no(self, request: web.Request) -> web.Response:
        """The one change that WuKongIM does not check permissions for."""
        parse(await body_of(request))
        return await self.call(request)

    async def _change(self, request: web.Request, resource: str) -> web.Response:
        if not self._may(request, resource):
            raise RequestRefused(NOT_ALLOWED, code=403)
        return await self.update_plugin_no(request)
