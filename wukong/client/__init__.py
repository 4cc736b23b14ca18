"""The Python SDK: a client that stays logged in, and the server's HTTP API. docs/sdk.md has the guide."""

from wukong.client.admin import (
    Accepted,
    AdminClient,
    BatchResult,
    ConnectionInfo,
    Conversation,
    MembersPage,
    Online,
    Page,
    Route,
)
from wukong.client.backoff import Backoff
from wukong.client.client import Client, ClientLimits, connect
from wukong.client.errors import (
    ApiError,
    ApiRefused,
    ApiUnavailable,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    GaveUp,
    Kicked,
    LoginRefused,
    SendRefused,
    SendTimeout,
    SyncRefused,
)
from wukong.client.message import Message, Sent, State, StateChange, json_payload, text_payload
from wukong.client.sync import ChannelHead, CommandProvider, HttpSyncProvider, SyncProvider
from wukong.protocol.packets import ChannelType, DeviceFlag, DeviceLevel, Event
from wukong.protocol.reasons import ReasonCode

__all__ = [
    "Accepted",
    "AdminClient",
    "ApiError",
    "ApiRefused",
    "ApiUnavailable",
    "Backoff",
    "BatchResult",
    "ChannelHead",
    "ChannelType",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientLimits",
    "CommandProvider",
    "ConnectFailed",
    "ConnectionInfo",
    "ConnectionLost",
    "Conversation",
    "DeviceFlag",
    "DeviceLevel",
    "Event",
    "GaveUp",
    "HttpSyncProvider",
    "Kicked",
    "LoginRefused",
    "MembersPage",
    "Message",
    "Online",
    "Page",
    "ReasonCode",
    "Route",
    "SendRefused",
    "SendTimeout",
    "Sent",
    "State",
    "StateChange",
    "SyncProvider",
    "SyncRefused",
    "connect",
    "json_payload",
    "text_payload",
]
