"""Plugins there are none: what their routes answer. http-api.md section 14, 6.5 and 12.2."""

import pytest
from aiohttp.test_utils import make_mocked_request

from tests.api.calls import Api
from tests.service.stack import Stack
from wukong.api.plugins import PluginRoutes
from wukong.api.server import ApiOptions, build_app
from wukong.errors import RequestRefused

UNKNOWN = {"msg": "plugin not found", "status": 404}
FORBIDDEN = {"msg": "没有权限", "status": 403}
CHECKED = ["/plugin/bind", "/plugin/unbind", "/plugin/uninstall", "/pluginconfig/x"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/plugins/wk.plugin.search/usersearch", "/plugins/x/", "/plugins/x/a/b?c=d"])
async def test_a_plugin_is_unknown_in_the_documented_shape(api: Api, method: str, path: str) -> None:
    answer = await api.call(method, path, raw=b"not even JSON")
    assert (answer.status, answer.body) == (400, UNKNOWN)
    assert answer.content_type == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/plugins", "/plugins?type=ai", "/plugin/bind?uid=u"])
async def test_lists_of_plugins_are_empty(api: Api, path: str) -> None:
    assert await api.get(path) == []


@pytest.mark.parametrize("path", CHECKED)
async def test_changes_need_a_permission_that_nobody_has(api: Api, path: str) -> None:
    answer = await api.call("POST", path, {"plugin_no": "x", "uid": "u", "config": {}, "node_id": 1001})
    assert (answer.status, answer.body) == (400, FORBIDDEN)


async def test_a_uid_cannot_be_bound_to_a_plugin_that_is_not_there(api: Api) -> None:
    answer = await api.call("POST", "/user/update_plugin_no", {"uid": "bot1", "plugin_no": "wk.plugin.x"})
    assert (answer.status, answer.body) == (400, UNKNOWN)
    assert await api.refused("/user/update_plugin_no", raw=b"") == "EOF"


async def test_each_change_has_a_permission_of_its_own() -> None:
    asked: list[str] = []
    routes = PluginRoutes(lambda request, resource: asked.append(resource) or True)
    app = build_app((await Stack().start()).use_cases, ApiOptions())
    for handler in (routes.bind, routes.unbind, routes.uninstall, routes.configure):
        request = make_mocked_request("POST", "/", app=app)
        request._read_bytes = b"{}"
        with pytest.raises(RequestRefused, match="plugin not found"):
            await handler(request)
    assert asked == ["pluginUserAdd", "pluginUserDelete", "pluginUninstall", "pluginConfigUpdate"]
