"""The HTTP API of the server, typed. One method per route; routes and fields: http-api.md, sections 5 to 11.

Numbers that do not fit are the server's to refuse; lists and bodies have the server's limits (docs/configuration.md,
`wukong.httpBodyBytes`).
"""

import errno
from base64 import b64encode
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from wukong.client.errors import ApiRefused, ApiUnavailable
from wukong.client.message import Message, Payload, payload_bytes
from wukong.protocol.packets import NO_PERSIST, RED_DOT, SYNC_ONCE, ChannelType

ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024
CONNECTIONS_LIMIT_COUNT: Final = 32
OK_STATUS: Final = 200
NOT_FOUND_STATUS: Final = 404

T = TypeVar("T")
# any: JSON as the route wants it.
Json = dict[str, Any]


class Route(msgspec.Struct, frozen=True):
    """Where clients connect; ws and wss are URLs, wss_addr is empty without such a listener."""

    tcp_addr: str = ""
    ws_addr: str = ""
    wss_addr: str = ""
    uids: list[str] = []


class Online(msgspec.Struct, frozen=True):
    """One live connection of a user."""

    uid: str
    device_flag: int
    online: int = 1


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """timestamp: seconds, of the newest message. recents: newest first."""

    channel_id: str
    channel_type: int
    unread: int
    timestamp: int
    last_msg_seq: int
    last_client_msg_no: str
    readed_to_msg_seq: int
    version: int
    recents: list[Message]


class Page(msgspec.Struct, frozen=True):
    """messages: ascending. more: a full page, so there may be more."""

    messages: list[Message]
    more: bool


class MembersPage(msgspec.Struct, frozen=True):
    """next: the cursor of the following page, empty after the last."""

    subscribers: list[str]
    next: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """Answer of `send_message`. WuKongIM answers before it checks permissions, and without message_seq (0 then)."""

    message_id: int
    client_msg_no: str
    message_seq: int = 0


class BatchResult(msgspec.Struct, frozen=True):
    """Parallel lists: who was left out, and why."""

    fail_uids: list[str]
    reason: list[str]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row of /connz. The fields tools use; the server sends more."""

    id: int
    uid: str
    ip: str = ""
    port: int = 0
    device: str = ""
    device_id: str = ""
    version: int = 0
    node_id: int = 0


class _Header(msgspec.Struct, frozen=True):
    no_persist: int = 0
    red_dot: int = 0
    sync_once: int = 0


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    header: _Header = _Header()
    setting: int = 0
    message_id: int = 0
    client_msg_no: str = ""
    message_seq: int = 0
    from_uid: str = ""
    channel_id: str = ""
    channel_type: int = 0
    topic: str = ""
    expire: int = 0
    timestamp: int = 0
    payload: bytes = b""

    def message(self) -> Message:
        header = self.header
        return Message(
            channel_id=self.channel_id,
            channel_type=self.channel_type,
            from_uid=self.from_uid,
            message_seq=self.message_seq,
            message_id=self.message_id,
            client_msg_no=self.client_msg_no,
            timestamp=self.timestamp,
            payload=self.payload,
            flags=_flag(header.no_persist, NO_PERSIST)
            | _flag(header.red_dot, RED_DOT)
            | _flag(header.sync_once, SYNC_ONCE),
            setting=self.setting,
            topic=self.topic,
            expire=self.expire,
        )


class _Page(msgspec.Struct, frozen=True):
    messages: list[_Row] | None = None
    more: int = 0


class _Conversation(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: str
    channel_type: int
    unread: int = 0
    timestamp: int = 0
    last_msg_seq: int = 0
    last_client_msg_no: str = ""
    readed_to_msg_seq: int = 0
    version: int = 0
    recents: list[_Row] | None = None


class _Status(msgspec.Struct, frozen=True):
    status: int = OK_STATUS
    msg: str = ""


class _AcceptedAnswer(msgspec.Struct, frozen=True):
    data: Accepted | None = None


class _Seq(msgspec.Struct, frozen=True):
    message_seq: int = 0


class _Health(msgspec.Struct, frozen=True):
    status: str = ""
    message: str = ""


class _Connections(msgspec.Struct, frozen=True):
    connections: list[ConnectionInfo] | None = None
    total: int = 0


class _AllowlistRow(msgspec.Struct, frozen=True):
    uid: str


def _flag(value: int, bit: int) -> int:
    # Only 1 counts as true (http-api.md, 2.4).
    return bit if value == 1 else 0


class AdminClient:
    """base_url: e.g. http://127.0.0.1:5001. token: the server's managerToken, if it has one. timeout_s: per call.

    Every method raises ApiRefused (the server said no; nothing was changed unless said otherwise) or ApiUnavailable (no
    answer, the outcome is unknown). Use it as `async with AdminClient(...) as admin`, or call `close`.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:5001", token: str | None = None, *, timeout_s: float = 15.0):
        self.base_url = base_url.rstrip("/")
        self._headers = {"token": token} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- calls --

    async def call(self, method: str, path: str, *, body: object = None, query: dict[str, Any] | None = None) -> bytes:
        """One request; the body of a 200 answer. For routes that have no method here."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_LIMIT_COUNT)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        data = None if body is None else msgspec.json.encode(body)
        params = {key: str(value) for key, value in (query or {}).items()}
        try:
            async with self._session.request(
                method, self.base_url + path, data=data, params=params, headers={"Content-Type": "application/json"}
            ) as answer:
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > ANSWER_LIMIT_BYTES:
                        raise ApiUnavailable(self.base_url, path, f"answer over {ANSWER_LIMIT_BYTES} bytes")
                http_status = answer.status
        except TimeoutError:
            raise ApiUnavailable(self.base_url, path, f"no answer in {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as fault:
            raise ApiUnavailable(self.base_url, path, _trouble(fault)) from fault
        if http_status == OK_STATUS:
            return bytes(content)
        said = _status_of(bytes(content))
        if http_status >= 500:
            raise ApiUnavailable(self.base_url, path, f"{http_status} {said.msg}".rstrip())
        raise ApiRefused(path, http_status, said.status if said.status != OK_STATUS else http_status, said.msg)

    async def _post(self, path: str, body: object) -> bytes:
        return await self.call("POST", path, body=body)

    async def _do(self, path: str, body: object) -> None:
        """A mutation. A soft failure (200 with another status inside) is a refusal too."""
        said = _status_of(await self._post(path, body))
        if said.status != OK_STATUS:
            raise ApiRefused(path, OK_STATUS, said.status, said.msg or f"status {said.status}")

    def _read(self, path: str, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as fault:
            raise ApiUnavailable(self.base_url, path, f"answer cannot be read: {fault}") from fault

    # -- system (http-api.md, 5) --

    async def health(self) -> None:
        """Returns when the server is healthy. Raises ApiUnavailable with the server's words when it is not."""
        path = "/health"
        answer = self._read(path, await self.call("GET", path), _Health)
        if answer.status != "ok":
            raise ApiUnavailable(self.base_url, path, answer.message or answer.status)

    async def route(self, uid: str = "", *, intranet: bool = False) -> Route:
        path = "/route"
        query = {"uid": uid, "intranet": int(intranet)}
        return self._read(path, await self.call("GET", path, query=query), Route)

    async def route_batch(self, uids: Sequence[str], *, intranet: bool = False) -> list[Route]:
        path = "/route/batch"
        answer = await self.call("POST", path, body=list(uids), query={"intranet": int(intranet)})
        return self._read(path, answer, list[Route])

    # -- users (6) --

    async def set_token(self, uid: str, token: str, *, device_flag: int = 0, device_level: int = 0) -> None:
        """The token a client of this user and device flag has to log in with. Level 1 (master) ends its present
        connections. ApiRefused with status 19 or 24: the user is banned."""
        body = {"uid": uid, "token": token, "device_flag": device_flag, "device_level": device_level}
        await self._do("/user/token", body)

    async def device_quit(self, uid: str, *, device_flag: int = -1) -> None:
        """Kick and forget the token. device_flag -1: app, web and PC. A device without a token is left alone."""
        await self._do("/user/device_quit", {"uid": uid, "device_flag": device_flag})

    async def online_status(self, uids: Sequence[str]) -> list[Online]:
        """One entry per live connection; who is offline is absent."""
        if not uids:
            return []
        path = "/user/onlinestatus"
        return self._read(path, await self._post(path, list(uids)), list[Online])

    async def system_uids(self) -> list[str]:
        path = "/user/systemuids"
        return self._read(path, await self.call("GET", path), list[str] | None) or []  # type: ignore[arg-type]

    async def add_system_uids(self, uids: Sequence[str]) -> None:
        await self._do("/user/systemuids_add", {"uids": list(uids)})

    async def remove_system_uids(self, uids: Sequence[str]) -> None:
        await self._do("/user/systemuids_remove", {"uids": list(uids)})

    # -- connections (7) --

    async def connections(self, *, uid: str = "", limit: int = 100) -> list[ConnectionInfo]:
        path = "/connz"
        answer = await self.call("GET", path, query={"uid": uid, "limit": limit})
        return self._read(path, answer, _Connections).connections or []

    async def kick_connection(self, uid: str, conn_id: int, *, node_id: int = 0) -> None:
        """DISCONNECT and close: the client takes it as final."""
        await self._do("/conn/kick", {"uid": uid, "conn_id": conn_id, "node_id": node_id})

    async def remove_connection(self, uid: str, conn_id: int, *, node_id: int = 0) -> None:
        """Close: the client comes back."""
        await self._do("/conn/remove", {"uid": uid, "conn_id": conn_id, "node_id": node_id})

    # -- channels (8) --

    async def create_channel(
        self,
        channel_id: str,
        channel_type: int = ChannelType.GROUP,
        *,
        subscribers: Sequence[str] = (),
        reset: bool = False,
        large: bool = False,
        ban: bool = False,
        disband: bool = False,
        send_ban: bool = False,
        allow_stranger: bool = False,
    ) -> None:
        """Create, or overwrite the flags, and add subscribers. reset: they replace the present ones."""
        flags = _channel_flags(large, ban, disband, send_ban, allow_stranger)
        body = {"channel_id": channel_id, "channel_type": channel_type, "reset": int(reset), **flags}
        await self._do("/channel", {**body, "subscribers": list(subscribers)})

    async def set_channel_info(
        self,
        channel_id: str,
        channel_type: int,
        *,
        large: bool = False,
        ban: bool = False,
        disband: bool = False,
        send_ban: bool = False,
        allow_stranger: bool = False,
    ) -> None:
        """Overwrite all flags. channel_type 1 with a uid: flags of that user (ban: may not log in)."""
        flags = _channel_flags(large, ban, disband, send_ban, allow_stranger)
        await self._do("/channel/info", {"channel_id": channel_id, "channel_type": channel_type, **flags})

    async def delete_channel(self, channel_id: str, channel_type: int = ChannelType.GROUP) -> None:
        """Disband: nobody may write any more; history and members stay."""
        await self._do("/channel/delete", {"channel_id": channel_id, "channel_type": channel_type})

    async def add_subscribers(
        self, channel_id: str, channel_type: int, subscribers: Sequence[str], *, reset: bool = False
    ) -> None:
        """When this returns, they get every message that is sent from then on."""
        body = {"channel_id": channel_id, "channel_type": channel_type, "reset": int(reset)}
        await self._do("/channel/subscriber_add", {**body, "subscribers": list(subscribers)})

    async def remove_subscribers(self, channel_id: str, channel_type: int, subscribers: Sequence[str]) -> None:
        body = {"channel_id": channel_id, "channel_type": channel_type, "subscribers": list(subscribers)}
        await self._do("/channel/subscriber_remove", body)

    async def remove_all_subscribers(self, channel_id: str, channel_type: int) -> None:
        await self._do("/channel/subscriber_remove_all", {"channel_id": channel_id, "channel_type": channel_type})

    async def subscribers_page(
        self, channel_id: str, channel_type: int = ChannelType.GROUP, *, cursor: str = "", limit: int = 1_000
    ) -> MembersPage:
        """Members in the order of their uids, from behind cursor. This server only; WuKongIM refuses it (404)."""
        path = "/channel/subscribers"
        query = {"channel_id": channel_id, "channel_type": channel_type, "cursor": cursor, "limit": limit}
        return self._read(path, await self.call("GET", path, query=query), MembersPage)

    async def subscribers(self, channel_id: str, channel_type: int = ChannelType.GROUP) -> list[str]:
        """All members, page by page; at least those who are members all the while. From a WuKongIM server in one
        answer (http-api.md, 13.3)."""
        uids: list[str] = []
        cursor = ""
        try:
            while True:
                page = await self.subscribers_page(channel_id, channel_type, cursor=cursor)
                uids += page.subscribers
                cursor = page.next
                if not cursor:
                    return uids
        except ApiRefused as fault:
            if fault.http_status != NOT_FOUND_STATUS:
                raise
        path = f"/cluster/channels/{quote(channel_id, safe='')}/{channel_type}/subscribers"
        return self._read(path, await self.call("GET", path), list[str])

    async def allowlist(self, channel_id: str, channel_type: int = ChannelType.GROUP) -> list[str]:
        path = "/channel/whitelist"
        answer = await self.call("GET", path, query={"channel_id": channel_id, "channel_type": channel_type})
        return [row.uid for row in self._read(path, answer, list[_AllowlistRow])]

    async def set_temp_subscribers(self, channel_id: str, uids: Sequence[str]) -> None:
        """Recipients of a temporary channel (type 8)."""
        await self._do("/tmpchannel/subscriber_set", {"channel_id": channel_id, "uids": list(uids)})

    async def add_blacklist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        """They may not send any more; they still receive. channel_type 1: channel_id is the owner of the list."""
        await self._change_list("/channel/blacklist_add", channel_id, channel_type, uids)

    async def set_blacklist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        await self._change_list("/channel/blacklist_set", channel_id, channel_type, uids)

    async def remove_blacklist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        await self._change_list("/channel/blacklist_remove", channel_id, channel_type, uids)

    async def clear_blacklist(self, channel_id: str, channel_type: int) -> None:
        await self._change_list("/channel/blacklist_remove_all", channel_id, channel_type, ())

    async def add_whitelist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        """Once the list is not empty, only its members may send."""
        await self._change_list("/channel/whitelist_add", channel_id, channel_type, uids)

    async def set_whitelist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        await self._change_list("/channel/whitelist_set", channel_id, channel_type, uids)

    async def remove_whitelist(self, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        await self._change_list("/channel/whitelist_remove", channel_id, channel_type, uids)

    async def clear_whitelist(self, channel_id: str, channel_type: int) -> None:
        await self._change_list("/channel/whitelist_remove_all", channel_id, channel_type, ())

    async def _change_list(self, path: str, channel_id: str, channel_type: int, uids: Sequence[str]) -> None:
        await self._do(path, {"channel_id": channel_id, "channel_type": channel_type, "uids": list(uids)})

    # -- messages (9) --

    async def send_message(
        self,
        channel_id: str,
        channel_type: int,
        payload: Payload,
        *,
        from_uid: str = "",
        client_msg_no: str = "",
        red_dot: bool = True,
        no_persist: bool = False,
        sync_once: bool = False,
        expire: int = 0,
    ) -> Accepted:
        """Send as from_uid (empty: the system account), whose permissions are not checked."""
        path = "/message/send"
        body = {
            **_message_body(payload, red_dot, no_persist, sync_once),
            "from_uid": from_uid,
            "client_msg_no": client_msg_no,
            "channel_id": channel_id,
            "channel_type": channel_type,
            "expire": expire,
        }
        answer = self._read(path, await self._post(path, body), _AcceptedAnswer)
        if answer.data is None:
            raise ApiUnavailable(self.base_url, path, "answer without data")
        return answer.data

    async def send_command_to(
        self, subscribers: Sequence[str], payload: Payload, *, from_uid: str = "", no_persist: bool = False
    ) -> None:
        """A command to exactly these users, without a channel."""
        body = {
            **_message_body(payload, red_dot=False, no_persist=no_persist, sync_once=True),
            "from_uid": from_uid,
            "subscribers": list(subscribers),
        }
        await self._do("/message/send", body)

    async def send_batch(
        self, subscribers: Sequence[str], payload: Payload, *, from_uid: str, red_dot: bool = True
    ) -> BatchResult:
        """The same person message to each of them."""
        path = "/message/sendbatch"
        body = {
            **_message_body(payload, red_dot, no_persist=False, sync_once=False),
            "from_uid": from_uid,
            "subscribers": list(subscribers),
        }
        return self._read(path, await self._post(path, body), BatchResult)

    async def sync_messages(
        self,
        login_uid: str,
        channel_id: str,
        channel_type: int,
        *,
        start_message_seq: int = 0,
        end_message_seq: int = 0,
        limit: int = 100,
        newer: bool = False,
    ) -> Page:
        """History, ascending. newer: start <= seq < end, the lowest of them; else end < seq <= start, the highest. Both
        seqs 0: the newest."""
        path = "/channel/messagesync"
        body = {
            "login_uid": login_uid,
            "channel_id": channel_id,
            "channel_type": channel_type,
            "start_message_seq": start_message_seq,
            "end_message_seq": end_message_seq,
            "limit": limit,
            "pull_mode": int(newer),
        }
        return self._page(path, await self._post(path, body))

    async def messages(
        self,
        login_uid: str,
        channel_id: str,
        channel_type: int,
        *,
        message_seqs: Sequence[int] = (),
        message_ids: Sequence[int] = (),
        client_msg_nos: Sequence[str] = (),
    ) -> list[Message]:
        """By key; what is not there is left out."""
        path = "/messages"
        body = {
            "login_uid": login_uid,
            "channel_id": channel_id,
            "channel_type": channel_type,
            "message_seqs": list(message_seqs),
            "message_ids": list(message_ids),
            "client_msg_nos": list(client_msg_nos),
        }
        return self._page(path, await self._post(path, body)).messages

    async def max_message_seq(self, channel_id: str, channel_type: int, *, login_uid: str = "") -> int:
        path = "/channel/max_message_seq"
        query = {"channel_id": channel_id, "channel_type": channel_type, "login_uid": login_uid}
        return self._read(path, await self.call("GET", path, query=query), _Seq).message_seq

    async def last_message(self, channel_id: str, channel_type: int, *, login_uid: str = "") -> Message | None:
        path = "/channel/last_message"
        query = {"channel_id": channel_id, "channel_type": channel_type, "login_uid": login_uid}
        return self._message_or_none(path, await self.call("GET", path, query=query))

    async def message(
        self, login_uid: str, channel_id: str, channel_type: int, *, message_id: int = 0, client_msg_no: str = ""
    ) -> Message | None:
        """By either key; None if there is no such message."""
        path = "/message"
        body = {
            "login_uid": login_uid,
            "channel_id": channel_id,
            "channel_type": channel_type,
            "message_id": message_id,
            "client_msg_no": client_msg_no,
        }
        return self._message_or_none(path, await self._post(path, body))

    def _message_or_none(self, path: str, content: bytes) -> Message | None:
        # "Not there" is 200 with another status inside (http-api.md, 2.5).
        if _status_of(content).status == NOT_FOUND_STATUS:
            return None
        return self._read(path, content, _Row).message()

    async def sync_commands(self, uid: str, *, limit: int = 200) -> list[Message]:
        """Commands the user has not confirmed; channel ids carry the command suffix."""
        path = "/message/sync"
        rows = self._read(path, await self._post(path, {"uid": uid, "limit": limit}), list[_Row])
        return [row.message() for row in rows]

    async def ack_commands(self, uid: str, last_message_seq: int) -> None:
        """Confirm what the last `sync_commands` of this user gave."""
        await self._do("/message/syncack", {"uid": uid, "last_message_seq": last_message_seq})

    def _page(self, path: str, content: bytes) -> Page:
        page = self._read(path, content, _Page)
        return Page([row.message() for row in page.messages or ()], page.more == 1)

    # -- conversations (11) --

    async def conversations(
        self,
        uid: str,
        *,
        version: int = 0,
        last_msg_seqs: str = "",
        msg_count: int = 1,
        only_unread: bool = False,
    ) -> list[Conversation]:
        """The user's conversations that have messages; msg_count: newest messages given with each, 0 gives nothing."""
        path = "/conversation/sync"
        body = {
            "uid": uid,
            "version": version,
            "last_msg_seqs": last_msg_seqs,
            "msg_count": msg_count,
            "only_unread": int(only_unread),
        }
        return self._conversations(path, await self._post(path, body))

    async def conversations_of(
        self, uid: str, channels: Sequence[tuple[str, int]], *, msg_count: int = 1
    ) -> list[Conversation]:
        """One for each of these channels, in this order, known or not."""
        path = "/conversation/syncByChannels"
        named = [{"channel_id": channel_id, "channel_type": channel_type} for channel_id, channel_type in channels]
        body = {"uid": uid, "channels": named, "msg_count": msg_count}
        return self._conversations(path, await self._post(path, body))

    def _conversations(self, path: str, content: bytes) -> list[Conversation]:
        return [
            Conversation(
                channel_id=row.channel_id,
                channel_type=row.channel_type,
                unread=row.unread,
                timestamp=row.timestamp,
                last_msg_seq=row.last_msg_seq,
                last_client_msg_no=row.last_client_msg_no,
                readed_to_msg_seq=row.readed_to_msg_seq,
                version=row.version,
                recents=[message.message() for message in row.recents or ()],
            )
            for row in self._read(path, content, list[_Conversation])
        ]

    async def clear_unread(self, uid: str, channel_id: str, channel_type: int) -> None:
        body = {"uid": uid, "channel_id": channel_id, "channel_type": channel_type}
        await self._do("/conversations/clearUnread", body)

    async def set_unread(self, uid: str, channel_id: str, channel_type: int, unread: int) -> None:
        """Can only make it smaller."""
        body = {"uid": uid, "channel_id": channel_id, "channel_type": channel_type, "unread": unread}
        await self._do("/conversations/setUnread", body)

    async def delete_conversation(self, uid: str, channel_id: str, channel_type: int) -> None:
        """Until the next message."""
        body = {"uid": uid, "channel_id": channel_id, "channel_type": channel_type}
        await self._do("/conversations/delete", body)


def _channel_flags(large: bool, ban: bool, disband: bool, send_ban: bool, allow_stranger: bool) -> Json:
    return {
        "large": int(large),
        "ban": int(ban),
        "disband": int(disband),
        "send_ban": int(send_ban),
        "allow_stranger": int(allow_stranger),
    }


def _message_body(payload: Payload, red_dot: bool, no_persist: bool, sync_once: bool) -> Json:
    header = {"no_persist": int(no_persist), "red_dot": int(red_dot), "sync_once": int(sync_once)}
    return {"header": header, "payload": b64encode(payload_bytes(payload)).decode()}


def _trouble(fault: Exception) -> str:
    """aiohttp names the failed call; people want to know what it means."""
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        return f"the host {fault.host} is not known"
    if isinstance(fault, aiohttp.ClientConnectorError) and fault.os_error.errno == errno.ECONNREFUSED:
        return "connection refused"
    return str(fault) or type(fault).__name__


def _status_of(content: bytes) -> _Status:
    """What an answer says about itself; nothing in particular if it is no such object."""
    try:
        return msgspec.json.decode(content, type=_Status)
    except msgspec.MsgspecError:
        return _Status(msg=content[:200].decode(errors="replace").strip())
