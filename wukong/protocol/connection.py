"""One client's conversation with the server: bytes in, events out, and the bytes to answer with.

A pure machine: it reads no socket and no clock, and decides nothing about users. The shell passes in what arrived, acts
on the events, and asks for the bytes of its answers.

    OPENING    nothing recognised yet: perhaps a PROXY header, then the first byte tells JSON-RPC from WKProto
    LOGIN      the first packet has to be CONNECT
    DECIDING   CONNECT was handed out; what came behind it waits for `accept` or `refuse`
    OPEN       SEND, RECVACK and PING become events; all else that is well-formed is ignored
    CLOSED     refused, disconnected, or the client broke the protocol; input is dropped

Source: wkproto.md, sections 7 to 11.
"""

from enum import Enum, auto
from typing import Final

import msgspec

from wukong.errors import FrameTooLarge, ProtocolError
from wukong.protocol import jsonrpc, proxy
from wukong.protocol.codec import (
    PONG_FRAME,
    decode,
    decode_recvack,
    decode_send,
    encode,
    encode_sendack,
)
from wukong.protocol.crypto import Cipher, PayloadError, ServerHandshake, sealed_bytes, send_sign_text
from wukong.protocol.decoder import FRAME_LIMIT_BYTES, Frame, FrameDecoder
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.json_stream import JsonSplitter
from wukong.protocol.packets import (
    LATEST_VERSION,
    SETTING_NO_ENCRYPT,
    Connack,
    Connect,
    Disconnect,
    PacketType,
    Ping,
    Recvack,
    Send,
)
from wukong.protocol.reasons import ReasonCode
from wukong.protocol.recv_frame import RecvView


class State(Enum):
    OPENING = auto()
    LOGIN = auto()
    DECIDING = auto()
    OPEN = auto()
    CLOSED = auto()


class Step(Enum):
    """What moves a connection on."""

    RECOGNISED = auto()
    CONNECT = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    DISCONNECTED = auto()
    BROKEN = auto()


TRANSITIONS: Final[dict[State, dict[Step, State]]] = {
    State.OPENING: {Step.RECOGNISED: State.LOGIN, Step.BROKEN: State.CLOSED},
    State.LOGIN: {Step.CONNECT: State.DECIDING, Step.BROKEN: State.CLOSED},
    State.DECIDING: {
        Step.ACCEPTED: State.OPEN,
        Step.REFUSED: State.CLOSED,
        Step.DISCONNECTED: State.CLOSED,
        Step.BROKEN: State.CLOSED,
    },
    State.OPEN: {Step.DISCONNECTED: State.CLOSED, Step.BROKEN: State.CLOSED},
    State.CLOSED: {Step.DISCONNECTED: State.CLOSED},
}

PAYLOAD_LIMIT_BYTES: Final = 0x7FFF
LOGIN_LIMIT_BYTES: Final = 256 * 1024
EVENTS_LIMIT_COUNT: Final = 256
_UID_FORBIDDEN: Final = frozenset("@#&")


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What all connections of a server have in common.

    encryption: agree on keys with WKProto clients (JSON-RPC never encrypts). plaintext_allowed: take a SEND with
    setting bit 0x10 and no msg_key as it is. payload_limit_bytes: a larger payload, unsealed, is refused with reason 9.
    frame_limit_bytes: largest frame body or JSON text. login_limit_bytes: the same before login, and the most that is
    kept behind a CONNECT. events_limit_count: packets read per call, so that one client's burst does not hold up
    the others.
    """

    encryption: bool = True
    jsonrpc: bool = True
    plaintext_allowed: bool = False
    latest_version: int = LATEST_VERSION
    payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES
    frame_limit_bytes: int = FRAME_LIMIT_BYTES
    login_limit_bytes: int = LOGIN_LIMIT_BYTES
    events_limit_count: int = EVENTS_LIMIT_COUNT


class ConnectReceived(msgspec.Struct, frozen=True, gc=False):
    """Decide, then `accept` or `refuse`. The uid is neither empty nor does it contain `@`, `#` or `&`.
    version: the agreed one."""

    packet: Connect
    version: int


class SendReceived(msgspec.Struct, frozen=True, gc=False):
    """payload: verified and unsealed (packet.payload is what travelled). request_id: JSON-RPC only."""

    packet: Send
    payload: bytes
    request_id: str = ""


class SendRefused(msgspec.Struct, frozen=True, gc=False):
    """A SEND that must be answered with `sendack` and this reason, and goes no further."""

    packet: Send
    reason: int
    request_id: str = ""


class PingReceived(msgspec.Struct, frozen=True, gc=False):
    """Write the reply at once."""

    reply: bytes


class ReplyReady(msgspec.Struct, frozen=True, gc=False):
    """Write the reply (an error answer of JSON-RPC); nothing else is to be done."""

    reply: bytes


class ProtocolBroken(msgspec.Struct, frozen=True):
    """Close without an answer. Always the last event."""

    error: ProtocolError


# A RECVACK is its own event.
ConnectionEvent = ConnectReceived | SendReceived | SendRefused | Recvack | PingReceived | ReplyReady | ProtocolBroken

_OPEN: Final = State.OPEN
_SEND: Final = int(PacketType.SEND)
_RECVACK: Final = int(PacketType.RECVACK)
_PING: Final = int(PacketType.PING)
_PONG_READY: Final = PingReceived(PONG_FRAME)
_OPENING_BRACE: Final = b"{"


class Connection:
    """`receive_data` gives events; `has_more` says that `resume` has some more to give.

    At most events_limit_count packets are read per call. When has_more is set afterwards, call `resume` in a later
    turn and read no more from the client before: what is unread is kept here without a limit of its own.

    proxy_allowed: this peer is a listed proxy, a PROXY header counts. After it, `proxy_source` is the client's address.
    """

    __slots__ = (
        "_connect",
        "_input",
        "_is_json",
        "_options",
        "_payload_as_json",
        "_proxy_allowed",
        "_request_id",
        "_state",
        "cipher",
        "has_more",
        "proxy_source",
        "version",
    )

    def __init__(self, options: ConnectionOptions, *, proxy_allowed: bool = False) -> None:
        self._options = options
        self._proxy_allowed = proxy_allowed
        self._state = State.OPENING
        # What the bytes go into: until the kind is known the bytes themselves, then a decoder or a splitter.
        self._input: bytes | FrameDecoder | JsonSplitter = b""
        self._is_json = False
        self._payload_as_json = False
        # From CONNECT to the answer.
        self._connect: Connect | None = None
        self._request_id = ""
        self.version = 0
        self.cipher: Cipher | None = None
        self.has_more = False
        self.proxy_source: proxy.ProxyAddress | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def is_json(self) -> bool:
        """JSON-RPC (WebSocket: text messages) instead of WKProto (binary). Known from ConnectReceived on."""
        return self._is_json

    @property
    def needs_keys(self) -> bool:
        """`accept` wants a handshake."""
        return self._options.encryption and not self._is_json

    # Bytes in --------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[ConnectionEvent]:
        """What the bytes mean, in their order. A broken protocol is an event, the last one; after it all is dropped."""
        source = self._input
        if self._state is _OPEN:
            if type(source) is FrameDecoder:
                source.receive_data(data)
                return self._read_frames(source)
            assert type(source) is JsonSplitter
            source.receive_data(data)
            return self._read_texts(source)
        return self._receive_before_login(data)

    def resume(self) -> list[ConnectionEvent]:
        """Go on with what has been received. Call it when `has_more`, after `accept` above all."""
        return self.receive_data(b"") if self.has_more else []

    def _receive_before_login(self, data: bytes) -> list[ConnectionEvent]:
        if self._state is State.CLOSED:
            return []
        try:
            if self._state is State.OPENING:
                self._recognise(data)
                if self._state is State.OPENING:
                    return []
            else:
                assert not isinstance(self._input, bytes)
                self._input.receive_data(data)
            assert not isinstance(self._input, bytes)
            # One limit for all that is held for somebody who has not logged in.
            if self._input.buffered_bytes > 2 * self._options.login_limit_bytes:
                raise FrameTooLarge(self._input.buffered_bytes, 2 * self._options.login_limit_bytes)
            if self._state is State.LOGIN:
                return self._read_login()
        except ProtocolError as error:
            return [self._break(error)]
        return []
