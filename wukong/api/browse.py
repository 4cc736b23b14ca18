"""WuKongIM's routes under /cluster that show what is stored, for its console. http-api.md 13.3 and 13.4.

Every node holds everything: `node_id` is checked and changes nothing. Ids of channels are those they are stored under.
What this server does not know (when a user came, how much he sent) is 0 or empty. Tokens are never shown: they are not
known here, only their hashes are.
"""

import base64
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from wukong.api import answers
from wukong.api.body import Uint8
from wukong.api.console import path_int
from wukong.api.request import GET, POST, query_int, query_text, query_type, read, refuse_if, route
from wukong.channel.ids import COMMUNITY, CUSTOMER_SERVICE, DATA, GROUP, INFO, PERSON, ChannelId
from wukong.channel.state import Head
from wukong.errors import RequestRefused
from wukong.service.browse import Browse, ChannelEntry, ChatEntry, DeviceEntry, Found, MessageQuery, UserEntry
from wukong.service.channels import ALLOWLIST, DENYLIST, Channels
from wukong.service.console import NODE_NOT_FOUND, Console, ConsoleSlot
from wukong.service.messages import fnv1a_64
from wukong.service.other_nodes import Nodes

MASK = "******"

_STREAM_SETTING = 0x02
_MEMBERS_PAGE = 1_000
_MAX_CHANNELS = 10_000
_MAX_TYPE = 255

_TYPE_FORMATS = {
    PERSON: "个人",
    GROUP: "群组",
    CUSTOMER_SERVICE: "客服",
    COMMUNITY: "社区",
    INFO: "资讯",
    DATA: "数据",
}
_FLAG_FORMATS = {0: "App", 1: "Web", 2: "PC"}
_UNKNOWN = "未知"
_LEVEL_FORMATS = {0: "从设备", 1: "主设备"}


class StatusChannel(msgspec.Struct):
    channel_id: str = ""
    channel_type: Uint8 = 0


class StatusBody(msgspec.Struct):
    channels: list[StatusChannel] = []


class BrowseRoutes:
    """console: None where there is no cluster; then a channel has no replicas to show."""

    def __init__(self, browse: Browse, channels: Channels, nodes: Nodes, console: Console | None) -> None:
        self._browse = browse
        self._channels = channels
        self._nodes = nodes
        self._console = console

    def routes(self) -> list[web.RouteDef]:
        channel = "/cluster/channels/{channel_id}/{channel_type}"
        table = [
            (GET, "/cluster/channels", self.channels),
            (GET, f"{channel}/subscribers", self.subscribers),
            (GET, f"{channel}/denylist", self.denylist),
            (GET, f"{channel}/allowlist", self.allowlist),
            (POST, "/cluster/channel/status", self.channel_status),
            (GET, "/cluster/messages", self.messages),
            (GET, "/cluster/users", self.users),
            (GET, "/cluster/devices", self.devices),
            (GET, "/cluster/conversations", self.conversations),
        ]
        if self._console is not None:
            table += [
                (GET, "/cluster/nodes/{id}/channels", self.node_channels),
                (GET, f"{channel}/config", self.channel_config),
                (GET, f"{channel}/replicas", self.channel_replicas),
                (GET, f"{channel}/localReplica", self.channel_local_replica),
            ]
        return [route(*entry) for entry in table]

    def _check_node(self, request: web.Request) -> None:
        node = query_int(request, "node_id")
        refuse_if(node != 0 and not self._nodes.is_known(node), NODE_NOT_FOUND)

    # -- channels --

    async def channels(self, request: web.Request) -> web.Response:
        self._check_node(request)
        found, more = await self._list_channels(request)
        return answers.bare({"total": 0, "more": int(more), "data": [_channel(entry) for entry in found]})

    async def _list_channels(self, request: web.Request) -> tuple[list[ChannelEntry], bool]:
        return await self._browse.channels(
            channel_id=query_text(request, "channel_id"),
            channel_type=query_type(request),
            fits=_filter(request),
            limit=query_int(request, "limit"),
            offset=query_int(request, "offset_created_at"),
            back=query_int(request, "pre") == 1,
        )

    async def subscribers(self, request: web.Request) -> web.Response:
        channel = _path_channel(request)
        found: list[str] = []
        cursor = ""
        while True:
            page, cursor = await self._channels.members(channel, cursor=cursor, limit=_MEMBERS_PAGE)
            found += page
            if not cursor:
                return answers.bare(await answers.raw_list(found))

    async def denylist(self, request: web.Request) -> web.Response:
        return await self._list(request, DENYLIST)

    async def allowlist(self, request: web.Request) -> web.Response:
        return await self._list(request, ALLOWLIST)

    async def _list(self, request: web.Request, which: int) -> web.Response:
        entries = await self._channels.list_entries(_path_channel(request), which)
        return answers.bare(await answers.raw_list([entry.uid for entry in entries]))

    async def channel_status(self, request: web.Request) -> web.Response:
        body = await read(request, StatusBody)
        refuse_if(len(body.channels) > _MAX_CHANNELS, f"more than {_MAX_CHANNELS} channels")
        heads = await self._browse.heads([ChannelId(each.channel_type, each.channel_id) for each in body.channels])
        found = []
        for each, head in zip(body.channels, heads, strict=True):
            found.append(
                {
                    "channel_id": each.channel_id,
                    "channel_type": each.channel_type,
                    "running": int(head is not None),
                    "last_msg_seq": 0 if head is None else head.last_seq,
                    "last_msg_time": 0 if head is None else head.last_ts * 1_000_000_000,
                }
            )
        return answers.bare(found)

    # -- a channel's replication, which is that of its slot --

    async def node_channels(self, request: web.Request) -> web.Response:
        assert self._console is not None
        refuse_if(not await self._console.online(path_int(request, "id")), "node offline")
        found, more = await self._list_channels(request)
        slots = {slot.id: slot for slot in await self._console.slots()}
        data = [_replicated(entry, slots[entry.slot]) for entry in found]
        return answers.bare({"total": 0, "more": int(more), "running": len(data), "data": data})

    async def channel_config(self, request: web.Request) -> web.Response:
        self._check_node(request)
        entry, slot = await self._known_channel(request)
        config = {
            "id": _id(entry.channel),
            "channel_id": entry.channel.id,
            "channel_type": entry.channel.type,
            "replica_max_count": len(slot.replicas),
            "replicas": slot.replicas,
            # Sic: http-api.md 21, no 48.
            "learder_id": slot.leader_id,
            "term": slot.term,
            "created_at": entry.order,
            "updated_at": entry.head.updated_ms * 1_000_000,
        }
        return answers.bare({key: value for key, value in config.items() if value})

    async def channel_replicas(self, request: web.Request) -> web.Response:
        assert self._console is not None
        entry, slot = await self._known_channel(request)
        replicas = await self._console.replicas(entry.slot)
        return answers.bare(
            [
                {
                    **_replica(entry, slot, replica.replica_id),
                    "role": replica.role,
                    "role_format": replica.role_format,
                    "last_msg_time_format": _seconds_format(entry.head.last_ts),
                }
                for replica in replicas
            ]
        )

    async def channel_local_replica(self, request: web.Request) -> web.Response:
        entry, slot = await self._known_channel(request)
        return answers.bare(_replica(entry, slot, self._nodes.node_id))

    async def _known_channel(self, request: web.Request) -> tuple[ChannelEntry, ConsoleSlot]:
        assert self._console is not None
        channel = _path_channel(request)
        found, _ = await self._browse.channels(channel_id=channel.id, channel_type=channel.type)
        refuse_if(not found, "not found")
        return found[0], (await self._console.slots([found[0].slot]))[0]

    # -- messages --

    async def messages(self, request: web.Request) -> web.Response:
        self._check_node(request)
        channel_id = query_text(request, "channel_id")
        back = query_int(request, "pre") == 1
        seq, message_id = query_int(request, "offset_message_seq"), query_int(request, "offset_message_id")
        if not channel_id:
            seq = 0
        elif seq:
            message_id = 0
        found, total = await self._browse.messages(
            MessageQuery(
                channel=ChannelId(query_type(request), channel_id) if channel_id else None,
                from_uid=query_text(request, "from_uid"),
                message_id=query_int(request, "message_id"),
                client_msg_no=query_text(request, "client_msg_no"),
                payload=_base64(query_text(request, "payload")),
                before_id=0 if back else message_id,
                after_id=message_id if back else 0,
                before_seq=0 if back else seq,
                after_seq=seq if back else 0,
                newest=not (back and (seq or message_id)),
            ),
            limit=query_int(request, "limit"),
        )
        data = await answers.raw_list([_message(each) for each in found])
        return answers.bare({"total": 0 if query_int(request, "node_id") else total, "data": data})

    # -- users --

    async def users(self, request: web.Request) -> web.Response:
        """`offset_uid`, of this server alone, is the last uid of the page before: when a user came is not known."""
        self._check_node(request)
        found, more = await self._browse.users(
            uid=query_text(request, "uid"),
            limit=query_int(request, "limit"),
            behind=query_text(request, "offset_uid"),
        )
        return answers.bare({"total": len(found), "more": int(more), "data": [_user(entry) for entry in found]})

    async def devices(self, request: web.Request) -> web.Response:
        self._check_node(request)
        found, more = await self._browse.devices(
            uid=query_text(request, "uid"),
            device_flag=query_int(request, "device_flag", -1),
            limit=query_int(request, "limit"),
            behind=query_text(request, "offset_uid"),
        )
        return answers.bare({"total": len(found), "more": int(more), "data": [_device(entry) for entry in found]})

    async def conversations(self, request: web.Request) -> web.Response:
        self._check_node(request)
        found, total = await self._browse.chats(
            uid=query_text(request, "uid"),
            limit=query_int(request, "limit"),
            page=query_int(request, "current_page", 1),
        )
        return answers.bare({"total": total, "data": [_chat(entry) for entry in found]})


# -- shapes --


def _path_channel(request: web.Request) -> ChannelId:
    kind = path_int(request, "channel_type")
    refuse_if(kind > _MAX_TYPE, "channel_type is out of range")
    return ChannelId(kind, request.match_info["channel_id"])


_FLAGS = ("ban", "disband")
_COUNTS = {"subscriber": "members", "denylist": "denied", "allowlist": "allowed"}


def _filter(request: web.Request) -> Callable[[Head], bool]:
    """ban, disband: 1 or 0; subscriber_count_gte, _lte and those of the lists: at least, at most. Absent ones and 0
    counts filter nothing."""
    flags = [(name, query_int(request, name) == 1) for name in _FLAGS if query_text(request, name)]
    least = [(field, query_int(request, f"{name}_count_gte")) for name, field in _COUNTS.items()]
    most = [(field, query_int(request, f"{name}_count_lte") or 1 << 63) for name, field in _COUNTS.items()]
    return lambda head: (
        all(getattr(head, name) == wanted for name, wanted in flags)
        and all(getattr(head, field) >= count for field, count in least)
        and all(getattr(head, field) <= count for field, count in most)
    )


def _base64(text: str) -> bytes:
    try:
        # A `+` in a query is a blank.
        return base64.b64decode(text.replace(" ", "+"), validate=True)
    except ValueError:
        raise RequestRefused("payload: illegal base64 data") from None


def _id(channel: ChannelId) -> int:
    return fnv1a_64(f"{channel.type}-{channel.id}".encode())


def _seconds_format(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def _times(created_ms: int, updated_ms: int) -> dict[str, Any]:
    """Nanoseconds, and texts in the server's time zone."""
    return {
        "created_at": created_ms * 1_000_000,
        "updated_at": updated_ms * 1_000_000,
        "created_at_format": _seconds_format(created_ms // 1000),
        "updated_at_format": _seconds_format(updated_ms // 1000),
    }


def _type_format(kind: int) -> str:
    return _TYPE_FORMATS.get(kind, f"{_UNKNOWN}({kind})")


def _channel(entry: ChannelEntry) -> dict[str, Any]:
    head = entry.head
    return {
        "id": _id(entry.channel),
        "slot": entry.slot,
        "channel_id": entry.channel.id,
        "channel_type": entry.channel.type,
        "ban": int(head.ban),
        "disband": int(head.disband),
        "subscriber_count": head.members,
        "allowlist_count": head.allowed,
        "denylist_count": head.denied,
        "last_msg_seq": head.last_seq,
        "last_msg_time": head.last_ts * 1_000_000_000,
        "last_msg_time_format": _seconds_format(head.last_ts),
        "status_format": "已解散" if head.disband else "已封禁" if head.ban else "正常",
        **_times(head.created_ms, head.updated_ms),
        "created_at": entry.order,
    }


def _replicated(entry: ChannelEntry, slot: ConsoleSlot) -> dict[str, Any]:
    head = entry.head
    return {
        "channel_id": entry.channel.id,
        "channel_type": entry.channel.type,
        "channel_type_format": _type_format(entry.channel.type),
        "replica_count": len(slot.replicas),
        "replicas": slot.replicas,
        "leader_id": slot.leader_id,
        "term": slot.term,
        "slot_id": slot.id,
        "slot_leader_id": slot.leader_id,
        "last_message_seq": head.last_seq,
        "last_append_time": _seconds_format(head.last_ts),
        "active": 1,
        "active_format": "运行中",
        "status": 0,
        "status_format": "正常",
        "migrate_from": 0,
        "migrate_to": 0,
        **_times(head.created_ms, head.updated_ms),
        "created_at": entry.order,
    }


def _replica(entry: ChannelEntry, slot: ConsoleSlot, node: int) -> dict[str, Any]:
    return {
        "replica_id": node,
        "leader_id": slot.leader_id,
        "running": 1,
        "last_msg_seq": entry.head.last_seq,
        "last_msg_time": entry.head.last_ts * 1_000_000_000,
        "term": slot.term,
        "conf_version": 0,
    }


def _message(found: Found) -> dict[str, Any]:
    message = found.message
    return {
        "message_id": str(message.message_id),
        "message_seq": message.message_seq,
        "client_msg_no": message.client_msg_no,
        "timestamp": message.timestamp,
        "timestamp_format": _seconds_format(message.timestamp),
        "channel_id": found.channel.id,
        "channel_type": found.channel.type,
        "topic": message.topic,
        "from_uid": message.from_uid,
        "payload": message.payload,
        "expire": message.expire,
        "term": 0,
        "is_stream": int(bool(message.setting & _STREAM_SETTING)),
    }


_NOT_COUNTED = {"send_msg_count": 0, "recv_msg_count": 0, "send_msg_bytes": 0, "recv_msg_bytes": 0}
_NO_TIMES = {"created_at": 0, "updated_at": 0, "created_at_format": "", "updated_at_format": ""}


def _user(entry: UserEntry) -> dict[str, Any]:
    return {
        "id": fnv1a_64(entry.uid.encode()),
        "uid": entry.uid,
        "device_count": entry.devices,
        "online_device_count": entry.online_devices,
        "conn_count": entry.sessions,
        **_NOT_COUNTED,
        **_NO_TIMES,
        "slot": entry.slot,
    }


def _device(entry: DeviceEntry) -> dict[str, Any]:
    device = entry.device
    return {
        "id": fnv1a_64(f"{device.uid}-{device.device_flag}".encode()),
        "uid": device.uid,
        "token": MASK if device.has_token else "",
        "device_flag": device.device_flag,
        "device_flag_format": _FLAG_FORMATS.get(device.device_flag, _UNKNOWN),
        "device_level": device.level,
        "device_level_format": _LEVEL_FORMATS.get(device.level, _UNKNOWN),
        "conn_count": entry.sessions,
        **_NOT_COUNTED,
        **_NO_TIMES,
    }


def _chat(entry: ChatEntry) -> dict[str, Any]:
    channel = entry.channel
    return {
        "id": fnv1a_64(f"{entry.uid}-{channel.type}-{channel.id}".encode()),
        "uid": entry.uid,
        "type": 0,
        "type_format": "最近会话",
        "channel_id": channel.id,
        "channel_type": channel.type,
        "channel_type_format": _type_format(channel.type),
        "unread_count": entry.view.unread,
        "last_msg_seq": entry.view.last_seq,
        "readed_to_msg_seq": entry.view.read_seq,
        **_times(entry.row.created_ms, entry.row.updated_ms),
    }
