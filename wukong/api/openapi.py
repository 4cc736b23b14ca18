"""What every route takes and answers, as one table; the OpenAPI 3.1 document made from it; and the page at /docs.

The document holds the routes that the application serves and no others. Bodies are the structs that handlers read
(body.py), so their fields cannot differ from what is read; a test lets a server's answers be judged by the document.
http-api.md 5.3; that WuKongIM's own document is not to be copied: openapi-notes.md.
"""

import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from aiohttp import web

from wukong import __version__
from wukong.api import answers, cluster, plugins
from wukong.api.auth import Login, LoginBody
from wukong.api.body import Json
from wukong.api.channels import (
    AllowedShape,
    ChannelBody,
    CreateBody,
    InfoBody,
    ListBody,
    SubscribersBody,
    TemporaryBody,
)
from wukong.api.connections import ConnectionBody
from wukong.api.conversations import (
    ByChannelsBody,
    ChangeBody,
    ChannelKey,
    ConversationSyncBody,
    SyncMessagesBody,
    UidBody,
)
from wukong.api.events import EventBody, EventSyncBody
from wukong.api.messages import (
    BatchBody,
    FindBody,
    FindOneBody,
    HistoryBody,
    SendBody,
    SyncAckBody,
    SyncBody,
)
from wukong.api.request import GET, POST, route
from wukong.api.retention import ClearBody as RetentionClearBody
from wukong.api.retention import (
    ClearDefaultBody,
    EraseBody,
    ErasedShape,
    LimitsBody,
    ListShape,
    RetiredShape,
    RunBody,
    SetBody,
    StandingShape,
)
from wukong.api.system import RouteBatchShape, RouteShape
from wukong.api.users import OnlineShape, QuitBody, TokenBody, UidsBody
from wukong.service.events import EventShape
from wukong.service.explain import Explanation
from wukong.service.messages import Trace
from wukong.service.overview import ConnectionShape
from wukong.service.shapes import ConversationShape, MessageShape, RecentsShape

PREFIX = "/docs"
SCRIPT = f"{PREFIX}/rapidoc-min.js"

HTML = "text/html"
JAVASCRIPT = "text/javascript"
TEXT = "text/plain"
JSON = "application/json"

_FOLDER = Path(__file__).parent / "docs_page"
# The page may load what is served here, and nothing else from anywhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


# -- shapes that have no struct elsewhere, because handlers build them in place --


class Ok(msgspec.Struct):
    """The change is done."""

    status: typing.Literal[200]


class SoftStatus(msgspec.Struct):
    """HTTP 200 with another number: 404 not found, 19 banned, 24 disbanded."""

    status: typing.Literal[404, 19, 24]


class Refusal(msgspec.Struct):
    """msg says why; status repeats the HTTP status, or is 403 or 404 where WuKongIM says so with HTTP 400."""

    msg: str
    status: int


class Health(msgspec.Struct):
    status: typing.Literal["ok"]


class Unhealthy(msgspec.Struct):
    message: str
    status: typing.Literal["error"]


class MigrateShape(msgspec.Struct):
    status: str
    step: str
    last_err: None
    try_count: int


class LoggerSetting(msgspec.Struct):
    trace_on: int
    loki_on: int


class SettingShape(msgspec.Struct):
    logger: LoggerSetting
    prometheus_on: int
    stress_on: int


class SentData(msgspec.Struct):
    client_msg_no: str
    message_id: int
    trace: Trace | msgspec.UnsetType = msgspec.UNSET


class SentShape(msgspec.Struct):
    data: SentData
    status: typing.Literal[200]


class BatchShape(msgspec.Struct):
    """Who did not get the message, and why; two arrays side by side."""

    fail_uids: list[str]
    reason: list[str]


class MessagesShape(msgspec.Struct):
    """more: 1 if there may be messages beyond."""

    start_message_seq: int
    end_message_seq: int
    more: int
    messages: list[MessageShape]


class PostedData(msgspec.Struct):
    client_msg_no: str
    event_key: str
    event_id: str
    msg_event_seq: int
    stream_status: str
    channel_id: str
    channel_type: int
    from_uid: str


class PostedShape(msgspec.Struct):
    """The event's lane afterwards."""

    data: PostedData
    status: typing.Literal[200]


class EventsData(msgspec.Struct):
    client_msg_no: str
    from_msg_event_seq: int
    next_msg_event_seq: int
    more: int
    events: list[EventShape]
    filtered_by_event_key: str


class EventsShape(msgspec.Struct):
    data: EventsData
    status: typing.Literal[200]


class MaxSeqShape(msgspec.Struct):
    message_seq: int


class SubscribersShape(msgspec.Struct):
    """next: the cursor of the next page, empty behind the last."""

    subscribers: list[str]
    next: str


class ConnectionsShape(msgspec.Struct):
    connections: list[ConnectionShape]
    now: str
    total: int
    offset: int
    limit: int


class VarzShape(msgspec.Struct):
    server_id: str
    server_name: str
    version: str
    connections: int
    user_handler_count: int
    user_handler_conn_count: int
    uptime: str
    goroutine: int
    mem: int
    cpu: float
    in_msgs: int
    out_msgs: int
    in_bytes: int
    out_bytes: int
    slow_clients: int
    retry_queue: int
    tcp_addr: str
    ws_addr: str
    wss_addr: str
    manager_addr: str
    manager_on: int
    commit: str
    commit_date: str
    tree_state: str
    api_url: str
    manager_uid: str
    manager_token_on: int
    conversation_cache_count: int
    conns: list[ConnectionShape] | msgspec.UnsetType = msgspec.UNSET


class DocsHealth(msgspec.Struct):
    """status: healthy, or disabled with mode: release."""

    status: str
    mode: str


class DocsClosed(msgspec.Struct):
    error: str
    message: str
    mode: typing.Literal["release"]
    suggestion: str


# -- the table --


class Query(NamedTuple):
    """kind: a JSON schema type. What is no number counts as 0."""

    name: str
    kind: str = "string"
    help: str = ""
    required: bool = False


class Operation(NamedTuple):
    """answers: the types of answers with HTTP 200, None for any. body: the type of the body, None without one.
    other: status -> type of answers with another status than those that every route has."""

    method: str
    path: str
    summary: str
    answers: tuple[Any, ...] = (Ok,)
    body: Any = None
    query: tuple[Query, ...] = ()
    content_type: str = JSON
    other: dict[int, Any] = {}


_CHANNEL = (Query("channel_id", required=True), Query("channel_type", "integer", required=True))
_NODE = Query("node_id", "integer", "the node asked; 0 or absent is this one")
_INTRANET = (Query("uid", help="ignored"), Query("intranet", "integer", "1: the internal address"))
_CURSOR = (
    Query("limit", "integer", "20 if absent"),
    Query("offset_created_at", "integer", "the last row's created_at"),
    Query("pre", "integer", "1: backwards"),
)
_LISTED = (*_CURSOR, Query("node_id", "integer", "only this node"))
_OPEN = (dict[str, Any],)
_OPEN_LIST = (list[dict[str, Any]],)
_CHANNEL_PATH = "/cluster/channels/{channel_id}/{channel_type}"
_CLOSED = {403: DocsClosed}
_FROM_HERE = {403: Refusal}

OPERATIONS: tuple[Operation, ...] = (
    Operation(GET, "/health", "Whether this node serves", (Health,), other={500: Unhealthy}),
    Operation(GET, "/migrate/result", "WuKongIM's import of its version 1; never under way here", (MigrateShape,)),
    Operation(GET, "/docs", "The page that shows this document", (str,), content_type=HTML, other=_CLOSED),
    Operation(GET, "/docs/", "Leads to /docs", (), other={301: None, **_CLOSED}),
    Operation(GET, SCRIPT, "The page's script", (str,), content_type=JAVASCRIPT, other=_CLOSED),
    Operation(GET, "/docs/openapi.json", "This document", _OPEN, other=_CLOSED),
    Operation(GET, "/docs/health", "Whether /docs is there", (DocsHealth,)),
    Operation(GET, "/metrics", "Figures for Prometheus (not in WuKongIM on this port)", (str,), content_type=TEXT),
    Operation(GET, "/route", "Where a client connects", (RouteShape,), query=_INTRANET),
    Operation(
        POST, "/route/batch", "Where clients connect", (list[RouteBatchShape],), body=list[str], query=_INTRANET[1:]
    ),
    Operation(
        GET,
        "/connz",
        "Connections",
        (ConnectionsShape,),
        query=(
            _NODE,
            Query("uid", help="part of the uid"),
            Query("offset", "integer"),
            Query("limit", "integer", "20 if absent"),
            Query("sort", help="a column, with Desc behind it for the other direction"),
        ),
    ),
    Operation(
        GET,
        "/varz",
        "Figures of a node's process",
        (VarzShape,),
        query=(_NODE, Query("show", help="conn: connections too"), Query("conn_limit", "integer")),
    ),
    Operation(GET, "/varz/setting", "What is switched on", (SettingShape,)),
    Operation(
        GET,
        "/message/explain",
        "Why users got a message, or did not (not in WuKongIM); manager token, or this machine",
        (Explanation,),
        query=(
            Query("channel_id"),
            Query("channel_type", "integer", "2 if absent"),
            Query("message_seq", "integer"),
            Query("message_id", "integer", "instead of message_seq; finds what is not stored"),
            Query("uid", help="only of this user"),
            Query("login_uid", help="names a chat of two together with the peer's uid"),
            Query("cmd", "integer", "1: the channel's commands"),
            Query("start", help="where the page begins"),
            Query("limit", "integer", "100 if absent, and at most"),
        ),
        other={403: Refusal},
    ),
    # Users
    Operation(
        POST, "/user/token", "Set a device's token; 19 or 24: the user is banned", (Ok, SoftStatus), body=TokenBody
    ),
    Operation(POST, "/user/device_quit", "Forget a device's token and log it out; -1: all", body=QuitBody),
    Operation(POST, "/user/onlinestatus", "One entry per live connection", (list[OnlineShape], Ok), body=list[str]),
    Operation(GET, "/user/systemuids", "System accounts added; null for none", (list[str] | None,)),
    Operation(POST, "/user/systemuids_add", "Make system accounts", body=UidsBody),
    Operation(POST, "/user/systemuids_remove", "Make system accounts ordinary again", body=UidsBody),
    Operation(POST, "/user/systemuids_add_to_cache", "Between WuKongIM's nodes; no effect here", body=UidsBody),
    Operation(POST, "/user/systemuids_remove_from_cache", "Between WuKongIM's nodes; no effect here", body=UidsBody),
    Operation(POST, "/user/update_plugin_no", "Bind a uid to a plugin: refused, there are none"),
    Operation(POST, "/conn/remove", "Close a connection", body=ConnectionBody),
    Operation(POST, "/conn/kick", "Log a connection out", body=ConnectionBody),
    # Channels
    Operation(POST, "/channel", "Make a channel or overwrite its flags, and add members", body=CreateBody),
    Operation(POST, "/channel/info", "Overwrite a channel's flags; type 1 with a uid: the user's", body=InfoBody),
    Operation(POST, "/channel/delete", "Disband a channel", body=ChannelBody),
    Operation(POST, "/channel/subscriber_add", "Add members", body=SubscribersBody),
    Operation(POST, "/channel/subscriber_remove", "Remove members; channel_type has no default", body=SubscribersBody),
    Operation(POST, "/channel/subscriber_remove_all", "Remove all members", body=ChannelBody),
    Operation(
        GET,
        "/channel/subscribers",
        "Members in pages (not in WuKongIM)",
        (SubscribersShape,),
        query=(*_CHANNEL, Query("cursor", help="`next` of the page before"), Query("limit", "integer")),
    ),
    Operation(POST, "/tmpchannel/subscriber_set", "Set the members of a channel of type 8", body=TemporaryBody),
    Operation(POST, "/channel/blacklist_add", "Deny sending", body=ListBody),
    Operation(POST, "/channel/blacklist_set", "Replace the deny list; an empty one lifts it", body=ListBody),
    Operation(POST, "/channel/blacklist_remove", "No longer deny sending", body=ListBody),
    Operation(POST, "/channel/blacklist_remove_all", "Lift the deny list", body=ListBody),
    Operation(POST, "/channel/whitelist_add", "Allow sending", body=ListBody),
    Operation(POST, "/channel/whitelist_set", "Replace the allow list; an empty one lifts it", body=ListBody),
    Operation(POST, "/channel/whitelist_remove", "No longer allow sending", body=ListBody),
    Operation(POST, "/channel/whitelist_remove_all", "Lift the allow list", body=ListBody),
    Operation(GET, "/channel/whitelist", "The allow list", (list[AllowedShape],), query=_CHANNEL),
    # Messages
    Operation(
        POST,
        "/message/send",
        "Send; answered when it is stored. `subscribers`: no data",
        (SentShape, Ok),
        SendBody,
        (Query("trace", "integer", "1, or the header X-Wukong-Trace: 1: the times of its stages on this node"),),
    ),
    Operation(POST, "/message/sendbatch", "Send to many persons, to each his own", (BatchShape,), body=BatchBody),
    Operation(POST, "/message/sync", "Commands not confirmed yet", (list[MessageShape],), body=SyncBody),
    Operation(POST, "/message/syncack", "Confirm what /message/sync handed out", body=SyncAckBody),
    Operation(POST, "/messages", "Messages by seq, id or client_msg_no", (MessagesShape,), body=FindBody),
    Operation(POST, "/message", "One message by id or client_msg_no", (MessageShape, SoftStatus), body=FindOneBody),
    Operation(
        GET,
        "/message/byclientmsgno",
        "One message; for persons by the joined id",
        (MessageShape, SoftStatus),
        query=(*_CHANNEL, Query("client_msg_no", required=True)),
    ),
    Operation(POST, "/message/event", "An event of a streamed message", (PostedShape,), body=EventBody),
    Operation(POST, "/message/eventsync", "Events of a streamed message as stored", (EventsShape,), body=EventSyncBody),
    Operation(POST, "/channel/messagesync", "History, ascending", (MessagesShape,), body=HistoryBody),
    Operation(
        GET,
        "/channel/max_message_seq",
        "The newest seq",
        (MaxSeqShape,),
        query=(*_CHANNEL, Query("login_uid", help="needed for persons")),
    ),
    Operation(
        GET,
        "/channel/last_message",
        "The newest message",
        (MessageShape, SoftStatus),
        query=(*_CHANNEL, Query("login_uid", help="needed for persons")),
    ),
    # Conversations
    Operation(POST, "/conversations/clearUnread", "Everything is read", body=ChangeBody),
    Operation(POST, "/conversations/setUnread", "Fewer messages are unread; never more", body=ChangeBody),
    Operation(POST, "/conversations/delete", "Hide a conversation until its next message", body=ChangeBody),
    Operation(
        POST,
        "/conversation/sync",
        "Conversations with something to show; none without msg_count",
        (list[ConversationShape],),
        body=ConversationSyncBody,
    ),
    Operation(
        POST,
        "/conversation/syncMessages",
        "Between WuKongIM's nodes: messages of stored channels",
        (list[RecentsShape],),
        body=SyncMessagesBody,
    ),
    Operation(
        POST, "/conversation/channels", "Stored ids of a user's conversations", (list[ChannelKey],), body=UidBody
    ),
    Operation(
        POST,
        "/conversation/syncByChannels",
        "One conversation per channel asked for",
        (list[ConversationShape],),
        body=ByChannelsBody,
    ),
    # Another server's past; `wukong import` uses them
    Operation(POST, "/import/messages", "Messages with the seqs and ids they had", _OPEN),
    Operation(POST, "/import/channel", "A channel's record, members and lists, without conversations"),
    Operation(POST, "/import/chats", "Conversations of a channel with their positions"),
    Operation(POST, "/import/compare", "Where a channel ends, and a digest of it", _OPEN),
    # How long messages are kept; `wukong retention` and `wukong erase` use them
    Operation(
        GET,
        "/retention",
        "A channel's policy and where its messages begin; without channel_id all policies",
        (StandingShape, ListShape),
        query=(Query("channel_id", help="as stored"), Query("channel_type", "integer")),
    ),
    Operation(POST, "/retention/set", "A channel's own policy", body=SetBody, other=_FROM_HERE),
    Operation(
        POST, "/retention/clear", "A channel has no policy of its own", body=RetentionClearBody, other=_FROM_HERE
    ),
    Operation(POST, "/retention/default/set", "The policy of a type of channels", body=LimitsBody, other=_FROM_HERE),
    Operation(
        POST, "/retention/default/clear", "A type of channels has no policy", body=ClearDefaultBody, other=_FROM_HERE
    ),
    Operation(
        POST, "/retention/run", "Carry policies out, for 3 s at most", (RetiredShape,), body=RunBody, other=_FROM_HERE
    ),
    Operation(
        POST, "/erase", "What a user wrote, unreadable; 3 s at most", (ErasedShape,), body=EraseBody, other=_FROM_HERE
    ),
    # Operators
    Operation(POST, "/manager/login", "A token for the console", (Login,), body=LoginBody),
    Operation(
        GET,
        "/tag",
        "Recipients of a channel",
        _OPEN,
        query=(Query("tag_key"), *[q._replace(required=False) for q in _CHANNEL]),
    ),
    Operation(POST, "/tag/remove", "Forget recipients; there is nothing to forget here"),
    Operation(GET, "/tags", "Recipients of channels", _OPEN_LIST, query=(_NODE, Query("tag_key"))),
    Operation(GET, "/cluster/nodes", "Nodes", _OPEN),
    Operation(GET, "/cluster/node", "This node", _OPEN),
    Operation(GET, "/cluster/simpleNodes", "Nodes, in short", _OPEN),
    Operation(GET, "/cluster/nodes/{id}/channels", "Channels of a node", _OPEN, query=_CURSOR),
    Operation(GET, "/cluster/info", "The cluster's configuration", _OPEN),
    Operation(
        GET,
        "/cluster/logs",
        "Entries of a log",
        _OPEN,
        query=(
            _NODE,
            Query("log_type", "integer", "1: configuration, 2: a slot's"),
            *(Query(name, "integer") for name in ("slot", "pre", "next", "limit")),
        ),
    ),
    Operation(GET, "/cluster/slots", "Slots by number", _OPEN_LIST, query=(Query("ids", help="1,2"),)),
    Operation(GET, "/cluster/allslot", "All slots", _OPEN),
    Operation(GET, "/cluster/slots/{id}/config", "One slot", _OPEN),
    Operation(POST, "/cluster/slots/{id}/migrate", "Move a slot"),
    Operation(GET, "/cluster/slots/{id}/replicas", "A slot's replicas", _OPEN_LIST),
    Operation(GET, "/cluster/slots/{id}/localReplica", "A slot's replica here", _OPEN),
    Operation(POST, "/cluster/slots/{id}/election", "A new leader for a slot"),
    Operation(
        GET, "/cluster/channels", "Channels", _OPEN, query=(*_LISTED, *(q._replace(required=False) for q in _CHANNEL))
    ),
    *(
        Operation(GET, f"{_CHANNEL_PATH}/{name}", text, (list[str],))
        for name, text in (("subscribers", "Members"), ("denylist", "Deny list"), ("allowlist", "Allow list"))
    ),
    Operation(GET, f"{_CHANNEL_PATH}/config", "A channel's replication", _OPEN, query=(_NODE,)),
    Operation(POST, f"{_CHANNEL_PATH}/migrate", "Move a channel"),
    Operation(POST, f"{_CHANNEL_PATH}/start", "Start a channel's group"),
    Operation(POST, f"{_CHANNEL_PATH}/stop", "Stop a channel's group"),
    Operation(GET, f"{_CHANNEL_PATH}/replicas", "A channel's replicas", _OPEN_LIST),
    Operation(GET, f"{_CHANNEL_PATH}/localReplica", "A channel's replica here", _OPEN),
    Operation(POST, "/cluster/channel/status", "Newest seqs of channels", _OPEN_LIST),
    Operation(
        GET,
        "/cluster/messages",
        "Messages, newest first",
        _OPEN,
        query=(
            _NODE,
            Query("limit", "integer", "20 if absent"),
            *(q._replace(required=False) for q in _CHANNEL),
            *(Query(name) for name in ("from_uid", "payload", "client_msg_no", "message_id", "offset_message_id")),
            *(Query(name, "integer") for name in ("offset_message_seq", "pre")),
        ),
    ),
    Operation(POST, "/cluster/message/eventsync", "As /message/eventsync", (EventsShape,), body=EventSyncBody),
    Operation(GET, "/cluster/users", "Users", _OPEN, query=(*_LISTED, Query("uid"))),
    Operation(
        GET, "/cluster/devices", "Devices", _OPEN, query=(*_LISTED, Query("uid"), Query("device_flag", "integer"))
    ),
    Operation(
        GET,
        "/cluster/conversations",
        "Conversations",
        _OPEN,
        query=(_NODE, Query("uid"), Query("limit", "integer"), Query("current_page", "integer")),
    ),
    Operation(GET, "/cluster/devtools/checkLogConflict", "Nothing", (None,)),
    # This server's own
    Operation(GET, "/cluster/status", "Nodes, slots, leaders (not in WuKongIM)", _OPEN),
    Operation(POST, "/cluster/member/add", "Take a node in (not in WuKongIM)", body=cluster.AddBody),
    Operation(POST, "/cluster/member/remove", "Let a node go (not in WuKongIM)", body=cluster.RemoveBody),
    Operation(POST, "/cluster/member/replace", "Swap a node (not in WuKongIM)", body=cluster.ReplaceBody),
    Operation(POST, "/cluster/transfer", "Move leaderships (not in WuKongIM)", _OPEN, cluster.TransferBody),
    Operation(POST, "/cluster/settings/adopt", "Make this node's settings the cluster's (not in WuKongIM)"),
    # Plugins
    Operation(GET, "/plugins", "Plugins: none", _OPEN_LIST),
    Operation(GET, "/plugin/bind", "Uids bound to plugins: none", _OPEN_LIST),
    Operation(POST, "/plugin/bind", "Bind a uid to a plugin: refused, there are none"),
    Operation(POST, "/plugin/unbind", "Unbind a uid: refused, there are none"),
    Operation(POST, "/plugin/uninstall", "Uninstall a plugin: refused, there are none"),
    Operation(POST, "/pluginconfig/{plugin}", "Configure a plugin: refused, there are none"),
    *(
        Operation(method, "/plugins/{plugin}/{path}", "Ask a plugin: refused, there are none", _OPEN)
        for method in plugins.METHODS
    ),
)

Key = tuple[str, str]


def key(method: str, path: str) -> Key:
    """A route, whatever its parts are called."""
    return method, re.sub(r"\{[^}]*\}", "{}", path)


_BY_KEY = {key(operation.method, operation.path): operation for operation in OPERATIONS}


def find(method: str, path: str) -> Operation | None:
    return _BY_KEY.get(key(method, path))


def served(app: web.Application) -> list[Key]:
    """Method and path of every route of an application, in the order in which they were added."""
    return [(each.method, each.resource.canonical) for each in app.router.routes() if each.resource is not None]


# -- the document --


def document(routes: Iterable[Key]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes. One that the table does not know is left out."""
    known = [(method, path, found) for method, path in routes if (found := find(method, path)) is not None]
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for method, path, operation in known:
        paths.setdefault(path, {})[method.lower()] = _operation(path, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Wukong HTTP API", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{}, {"managerToken": []}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(path) for path in paths)],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "securitySchemes": {
                "managerToken": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "token",
                    "description": "Needed on every request when the key managerToken is set.",
                },
                "jwt": {"type": "http", "scheme": "bearer", "description": "Of /manager/login."},
            },
        },
    }


_ABOUT = """The API of WuKongIM v2.2.5, and some routes of this server's own.

Bodies are JSON whatever their content type. Null counts as absent, for any field and for the whole body; keys match in
any letter case, unknown ones are passed over; a flag is on when it is 1. Payloads are base64, or an array of bytes.

A refusal is HTTP 400 with `msg` and `status`. Not found is HTTP 200 with `{"status":404}`."""


class _Schemas:
    """Collects types, and describes all of them at once."""

    def __init__(self) -> None:
        self._types: list[Any] = []

    def of(self, kind: Any) -> dict[str, Any]:
        """kind: a type that msgspec knows, None for no restriction."""
        if kind is None:
            return {}
        self._types.append(kind)
        [schema], _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
        return schema

    def components(self) -> dict[str, Any]:
        _, found = msgspec.json.schema_components(self._types, ref_template="#/components/schemas/{name}")
        for struct in _structs(self._types):
            _complete(found[struct.__name__], struct)
        return dict(sorted(found.items()))


def _structs(kinds: Iterable[Any]) -> set[type[msgspec.Struct]]:
    """The structs in these types, and in their fields."""
    found: set[type[msgspec.Struct]] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        waiting += [each for each in typing.get_args(kind) if isinstance(each, type) or typing.get_args(each)]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found.add(kind)
            waiting += _hints(kind).values()
    return found


def _hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(struct, include_extras=True)


def _complete(schema: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """What msgspec does not know: ranges of integers, and which fields an answer may lack."""
    for name, hint in _hints(struct).items():
        described = schema["properties"][name]
        if hint is Json:
            # Any value, read as its bytes.
            schema["properties"][name] = {}
        elif typing.get_origin(hint) is Annotated:
            _, low, high = typing.get_args(hint)[1]
            described |= {"minimum": low, "maximum": high}
        if typing.get_origin(hint) is types.UnionType and msgspec.UnsetType in typing.get_args(hint):
            schema["required"] = [each for each in schema["required"] if each != name]
    if struct is ConversationSyncBody:
        # Read as bytes, as WuKongIM does, but meant as numbers.
        byte = {"type": "integer", "minimum": 0, "maximum": 255}
        schema["properties"]["exclude_channel_types"] = {"type": "array", "items": byte, "default": []}


def _operation(path: str, operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}_" + re.sub(r"\W+", "_", path.lstrip("/")),
        "tags": [_tag(path)],
        "summary": operation.summary,
        "responses": _responses(operation, schemas),
    }
    names = re.findall(r"\{([^}]*)\}", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    for query in operation.query:
        parameter = {"name": query.name, "in": "query", "required": query.required, "schema": {"type": query.kind}}
        parameters.append(parameter | ({"description": query.help} if query.help else {}))
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas.of(operation.body)}}}
    return found


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    options = [schemas.of(kind) for kind in operation.answers]
    if options:
        schema = options[0] if len(options) == 1 else {"anyOf": options}
        responses["200"] = {"description": "Done", "content": {operation.content_type: {"schema": schema}}}
    for status, kind in operation.other.items():
        described: dict[str, Any] = {"description": "See the schema" if kind else "Elsewhere"}
        if kind is not None:
            described["content"] = {JSON: {"schema": schemas.of(kind)}}
        responses[str(status)] = described
    refusal = {"content": {JSON: {"schema": schemas.of(Refusal)}}}
    responses["400"] = {"description": "Refused; nothing was changed", **refusal}
    responses["401"] = {"description": "The manager token is missing or wrong"}
    responses["503"] = {"description": "Not now: try again", **refusal}
    if operation.method == POST:
        responses["413"] = {"description": "The body is too large", **refusal}
    return responses


def _tag(path: str) -> str:
    return path.split("/")[1] or "system"


# -- routes --


class DocsRoutes:
    """routes: what the application serves, asked for at the first request. on: false with mode: release, where
    WuKongIM closes the documentation too."""

    def __init__(self, routes: Callable[[], list[Key]], *, on: bool) -> None:
        self._routes = routes
        self._on = on
        self._document: dict[str, Any] = {}

    def routes(self) -> list[web.RouteDef]:
        table = [
            (GET, PREFIX, self.page),
            (GET, f"{PREFIX}/", self.elsewhere),
            (GET, f"{PREFIX}/openapi.json", self.openapi),
            (GET, f"{PREFIX}/health", self.health),
            (GET, SCRIPT, self.script),
        ]
        return [route(*entry) for entry in table]

    async def page(self, request: web.Request) -> web.StreamResponse:
        return self._file("index.html", f"{HTML}; charset=utf-8", {"Content-Security-Policy": _POLICY})

    async def script(self, request: web.Request) -> web.StreamResponse:
        return self._file("rapidoc-min.js", f"{JAVASCRIPT}; charset=utf-8", {"Cache-Control": "max-age=3600"})

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        if not self._on:
            return _closed()
        return web.Response(status=301, headers={**answers.CORS_HEADERS, "Location": PREFIX})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        if not self._on:
            return _closed()
        if not self._document:
            self._document = document(self._routes())
        return answers.bare(self._document)

    async def health(self, request: web.Request) -> web.StreamResponse:
        return answers.bare(
            {"status": "healthy", "mode": "open"} if self._on else {"status": "disabled", "mode": "release"}
        )

    def _file(self, name: str, content_type: str, headers: dict[str, str]) -> web.StreamResponse:
        if not self._on:
            return _closed()
        more = {"Content-Type": content_type, "X-Content-Type-Options": "nosniff", **headers}
        return web.FileResponse(_FOLDER / name, headers={**answers.CORS_HEADERS, **more})


def _closed() -> web.Response:
    return answers.bare(
        {
            "error": "documentation is closed",
            "message": "with mode: release this server shows no documentation",
            "mode": "release",
            "suggestion": "start with another mode, or read docs/ in the sources",
        },
        403,
    )
