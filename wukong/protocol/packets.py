"""What the frames mean: one record per packet, and the code tables they use.

Every packet of every version has the same record; which fields travel depends on the agreed version (codec.py). Fields
that a layout leaves out keep their default. Text is str (UTF-8 on the wire), payload and data are bytes exactly as
they travel. Source: wkproto.md, sections 1 to 5.
"""

from enum import IntEnum
from typing import Final

import msgspec

LATEST_VERSION: Final = 5
"""Highest version a server of this package offers (wkproto.md, 4.2). The codec also speaks 6."""


class PacketType(IntEnum):
    """High four bits of a frame's first byte."""

    CONNECT = 1
    CONNACK = 2
    SEND = 3
    SENDACK = 4
    RECV = 5
    RECVACK = 6
    PING = 7
    PONG = 8
    DISCONNECT = 9
    SUB = 10
    SUBACK = 11
    EVENT = 12


class ChannelType(IntEnum):
    PERSON = 1
    GROUP = 2
    CUSTOMER_SERVICE = 3
    COMMUNITY = 4
    COMMUNITY_TOPIC = 5
    INFO = 6
    DATA = 7
    TEMP = 8
    LIVE = 9
    VISITORS = 10
    AGENT = 11
    AGENT_GROUP = 12


class DeviceFlag(IntEnum):
    """Some SDKs number from 1 and any u8 has to be accepted, so packets carry plain ints (wkproto.md, 5.3)."""

    APP = 0
    WEB = 1
    PC = 2
    SYSTEM = 99


class DeviceLevel(IntEnum):
    """Not on the wire: set with the token over HTTP."""

    SLAVE = 0
    MASTER = 1


# Flags: low four bits of a frame's first byte, and the `flags` of a packet.
NO_PERSIST: Final = 0x01
RED_DOT: Final = 0x02
SYNC_ONCE: Final = 0x04
DUP: Final = 0x08
HAS_SERVER_VERSION: Final = 0x01
"""On CONNACK only, where bit 0 means that a server version byte follows."""

# Setting byte of SEND, RECV and SUB.
SETTING_RECEIPT: Final = 0x80
SETTING_SIGNAL: Final = 0x20
SETTING_NO_ENCRYPT: Final = 0x10
SETTING_TOPIC: Final = 0x08
SETTING_OLD_STREAM: Final = 0x04
SETTING_STREAM: Final = 0x02


class Connect(msgspec.Struct, frozen=True, gc=False):
    """version: highest the client speaks. client_timestamp: meant as ms since 1970, some clients send seconds.
    client_key: X25519 public key in base64, empty without encryption."""

    version: int
    uid: str
    token: str = ""
    device_id: str = ""
    device_flag: int = 0
    client_timestamp: int = 0
    client_key: str = ""
    flags: int = 0


class Connack(msgspec.Struct, frozen=True, gc=False):
    """time_diff: server clock minus client_timestamp, ms, signed. server_version: the agreed version, None when the
    byte is absent (versions below 4). node_id travels from version 4 on."""

    reason_code: int
    time_diff: int = 0
    server_key: str = ""
    salt: str = ""
    node_id: int = 0
    server_version: int | None = None


class Send(msgspec.Struct, frozen=True, gc=False):
    """expire: seconds, 0 = for ever. msg_key: 32 hex digits, empty when nothing is encrypted."""

    flags: int
    setting: int
    client_seq: int
    client_msg_no: str
    channel_id: str
    channel_type: int
    expire: int = 0
    msg_key: str = ""
    topic: str = ""
    payload: bytes = b""
    stream_no: str = ""


class Sendack(msgspec.Struct, frozen=True, gc=False):
    """message_id is signed; message_seq is 0 when refused or not stored. client_msg_no: v3 servers only."""

    flags: int
    message_id: int
    client_seq: int
    message_seq: int
    reason_code: int
    client_msg_no: str = ""


class Recv(msgspec.Struct, frozen=True, gc=False):
    """timestamp: seconds. stream_*: versions 2 to 4 with the stream bit only."""

    flags: int
    setting: int
    msg_key: str
    from_uid: str
    channel_id: str
    channel_type: int
    client_msg_no: str
    message_id: int
    message_seq: int
    timestamp: int
    expire: int = 0
    topic: str = ""
    payload: bytes = b""
    stream_flag: int = 0
    stream_no: str = ""
    stream_id: int = 0


class Recvack(msgspec.Struct, frozen=True, gc=False):
    """flags repeat those of the RECV."""

    flags: int
    message_id: int
    message_seq: int


class Ping(msgspec.Struct, frozen=True, gc=False):
    flags: int = 0


class Pong(msgspec.Struct, frozen=True, gc=False):
    flags: int = 0


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    reason_code: int
    reason: str = ""


class Sub(msgspec.Struct, frozen=True, gc=False):
    """action: 0 subscribe, 1 unsubscribe."""

    setting: int
    sub_no: str
    channel_id: str
    channel_type: int
    action: int
    param: str = ""


class Suback(msgspec.Struct, frozen=True, gc=False):
    sub_no: str
    channel_id: str
    channel_type: int
    action: int
    reason_code: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """timestamp: milliseconds. data is never encrypted."""

    id: str
    type: str
    timestamp: int
    data: bytes = b""


Packet = Connect | Connack | Send | Sendack | Recv | Recvack | Ping | Pong | Disconnect | Sub | Suback | Event
