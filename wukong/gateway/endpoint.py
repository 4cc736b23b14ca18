"""One client's connection, whatever carries it: pump, backpressure, deadlines.

Bytes go into the pure machine of wukong.protocol.connection and its events to the use cases; what dispatch asks for is
queued, sealed and written in turns (outbox.py). TCP and WebSocket (tcp.py, websocket.py) differ in how bytes arrive, how
frames are written, and how a socket is closed: `_write`, `_write_many`, `_hang_up`.

    OPENING    no byte has come
    HANDSHAKE  until the CONNACK
    OPEN       logged in
    LEAVING    told to go; closes at its deadline
    CLOSING    what is written drains; aborted at the deadline
    GONE

An endpoint is the asyncio protocol itself, has slots, no task and no buffer while idle: 10 KiB is what a client may cost.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Final
from uuid import uuid4

from wukong.errors import FrameTooLarge, ProtocolError, Unavailable
from wukong.gateway.frames import CloseCode
from wukong.gateway.hub import Hub
from wukong.gateway.options import QUEUED_ITEM_BYTES, TRANSPORT_BUFFER_BYTES
from wukong.gateway.proxies import Peer
from wukong.gateway.statistics import ConnectionInfo
from wukong.protocol import jsonrpc
from wukong.protocol.codec import EncodeError, encode_sendack
from wukong.protocol.connection import (
    Connection,
    ConnectionEvent,
    ConnectReceived,
    PingReceived,
    ProtocolBroken,
    ReplyReady,
    SendReceived,
    SendRefused,
    State,
)
from wukong.protocol.crypto import ClientKeyError, ServerHandshake, accept_client_key
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Connect, Recvack, Send, Sendack
from wukong.protocol.recv_frame import RecvView
from wukong.service.sessions import Login, LoginRefused

log = logging.getLogger(__name__)

Push = RecvView | SharedEvent


class Phase(Enum):
    OPENING = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    LEAVING = auto()
    CLOSING = auto()
    GONE = auto()


_OPENING: Final = Phase.OPENING
_HANDSHAKE: Final = Phase.HANDSHAKE
_OPEN: Final = Phase.OPEN
_LEAVING: Final = Phase.LEAVING
_CLOSING: Final = Phase.CLOSING
_GONE: Final = Phase.GONE


def push_bytes(push: Push) -> int:
    """What a push will take on the wire, about: base64, headers, names."""
    if type(push) is RecvView:
        return len(push.message.payload) * 4 // 3 + 128 + QUEUED_ITEM_BYTES
    assert type(push) is SharedEvent
    return len(push.packet.data) + 128 + QUEUED_ITEM_BYTES
