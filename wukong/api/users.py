"""/user: tokens, forced logouts, who is online, system accounts. http-api.md section 6."""

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Int, Uint8, read_uids
from wukong.api.request import GET, POST, body_of, forbid_special, read, refuse_if, require, route
from wukong.channel.permissions import SUCCESS
from wukong.service.replica import Replica
from wukong.service.users import Users

_UID_EMPTY = "uid不能为空！"


class TokenBody(msgspec.Struct):
    uid: str = ""
    token: str = ""
    device_flag: Uint8 = 0
    device_level: Uint8 = 0


class QuitBody(msgspec.Struct):
    uid: str = ""
    device_flag: Int = 0


class UidsBody(msgspec.Struct):
    uids: list[str] = []


class OnlineShape(msgspec.Struct, frozen=True, gc=False):
    uid: str
    device_flag: int
    online: int = 1


class UserRoutes:
    def __init__(self, users: Users, replica: Replica) -> None:
        self._users = users
        self._replica = replica

    def routes(self) -> list[web.RouteDef]:
        table = [
            (POST, "/user/token", self.token),
            (POST, "/user/device_quit", self.device_quit),
            (POST, "/user/onlinestatus", self.online),
            (GET, "/user/systemuids", self.system_uids),
            (POST, "/user/systemuids_add", self.add_system_uids),
            (POST, "/user/systemuids_remove", self.remove_system_uids),
            (POST, "/user/systemuids_add_to_cache", self.cache_system_uids),
            (POST, "/user/systemuids_remove_from_cache", self.cache_system_uids),
        ]
        return [route(*entry) for entry in table]

    async def token(self, request: web.Request) -> web.Response:
        body = await read(request, TokenBody)
        refuse_if(not body.uid, _UID_EMPTY)
        refuse_if(not body.token, "token不能为空！")
        forbid_special(body.uid, "uid不能包含特殊字符！")
        refuse_if(body.uid == self._replica.settings.system_uid, "系统账号不允许更新token！")
        reason = await self._users.set_token(
            body.uid, body.token, device_flag=body.device_flag, level=body.device_level
        )
        return answers.ok() if reason == SUCCESS else answers.status(reason)

    async def device_quit(self, request: web.Request) -> web.Response:
        body = await read(request, QuitBody)
        require(body.uid, _UID_EMPTY)
        await self._users.quit_devices(body.uid, body.device_flag)
        return answers.ok()

    async def online(self, request: web.Request) -> web.Response:
        uids = read_uids(await body_of(request))
        if not uids:
            # Upstream's answer to nobody asked for (http-api.md 21, no 7).
            return answers.ok()
        found = await self._users.online(uids)
        return answers.bare(await answers.raw_list([OnlineShape(*entry) for entry in found]))

    async def system_uids(self, request: web.Request) -> web.Response:
        # null when there are none (http-api.md 21, no 8).
        return answers.bare(await self._users.system_uids() or None)

    async def add_system_uids(self, request: web.Request) -> web.Response:
        body = await read(request, UidsBody)
        await self._users.add_system_uids(body.uids)
        return answers.ok()

    async def remove_system_uids(self, request: web.Request) -> web.Response:
        body = await read(request, UidsBody)
        await self._users.remove_system_uids(body.uids)
        return answers.ok()

    async def cache_system_uids(self, request: web.Request) -> web.Response:
        """What WuKongIM's nodes tell each other after a change. Here the log tells them, so nothing is to be done."""
        await read(request, UidsBody)
        return answers.ok()
