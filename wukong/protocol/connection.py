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
from wukong.protocol.decoder import FRAME_LIMIT_BYTES, FrameDecoder
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.json_fields import JsonRpcError
from wukong.protocol.json_stream import JsonSplitter
from wukong.protocol.packets import (
    LATEST_VERSION,
    SETTING_NO_ENCRYPT,
    Connack,
    Connect,
    Disconnect,
    Packet,
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
_UNREADABLE: Final = int(ReasonCode.PAYLOAD_DECODE_ERROR)
_I64_LIMIT: Final = 1 << 63
_BLANKS: Final = b" \t\r\n"
_OPENING_BRACE: Final = 0x7B


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
        if self._state is not _OPEN:
            return self._receive_before_login(data)
        source = self._input
        if type(source) is FrameDecoder:
            source.receive_data(data)
            return self._read_frames(source)
        assert type(source) is JsonSplitter
        source.receive_data(data)
        return self._read_texts(source)

    def resume(self) -> list[ConnectionEvent]:
        """Go on with what has been received: call it when `has_more`, after `accept` above all."""
        return self.receive_data(b"") if self.has_more else []

    def _receive_before_login(self, data: bytes) -> list[ConnectionEvent]:
        if self._state is State.CLOSED:
            return []
        events: list[ConnectionEvent] = []
        try:
            if self._state is State.OPENING:
                self._recognise(data)
            elif not isinstance(self._input, bytes):
                self._input.receive_data(data)
            if self._state is State.LOGIN:
                self._read_login(events)
            if not isinstance(self._input, bytes):
                self._check_held(self._input.buffered_bytes)
        except ProtocolError as error:
            events.append(self._break(error))
        return events

    def _check_held(self, held_bytes: int) -> None:
        if held_bytes > self._options.login_limit_bytes:
            raise FrameTooLarge(held_bytes, self._options.login_limit_bytes)

    def _recognise(self, data: bytes) -> None:
        """Read a PROXY header, then choose by the first byte. Moves on when that has come."""
        assert isinstance(self._input, bytes)
        data = self._input + data
        if self._proxy_allowed and proxy.may_be_header(data):
            header = proxy.read_header(data)
            if header is None:
                self._input = data
                return
            self.proxy_source = header.source
            data = data[header.size_bytes :]
        self._proxy_allowed = False
        text = data.lstrip(_BLANKS) if self._options.jsonrpc else data
        if not text:
            self._input = data[:1]  # that there were blanks is all that counts
            return
        limit_bytes = self._options.login_limit_bytes
        if self._options.jsonrpc and text[0] == _OPENING_BRACE:
            self._is_json = True
            self._input = JsonSplitter(limit_bytes=limit_bytes)
        elif data[0] >> 4 == PacketType.CONNECT:
            self._input = FrameDecoder(limit_bytes=limit_bytes)
        else:
            raise ProtocolError("the first packet is not CONNECT")
        self._input.receive_data(text)
        self._move(Step.RECOGNISED)

    def _read_login(self, events: list[ConnectionEvent]) -> None:
        """The CONNECT, as an event, if it is complete. Wrong messages of JSON-RPC before it are answered."""
        source = self._input
        if type(source) is FrameDecoder:
            if (frame := source.next_frame()) is not None:
                events.append(self._take_connect(decode(frame.frame_type, frame.flags, frame.body, LATEST_VERSION)))
            return
        assert type(source) is JsonSplitter
        for _ in range(self._options.events_limit_count):
            if (text := source.next_text()) is None:
                self.has_more = False
                return
            try:
                message = jsonrpc.decode_client_message(text)
            except JsonRpcError as fault:
                events.append(ReplyReady(jsonrpc.encode_error(fault.text, fault.request_id)))
                continue
            self._request_id = message.request_id or ""
            events.append(self._take_connect(message.packet))
            return
        self.has_more = True

    def _take_connect(self, packet: Packet) -> ConnectReceived:
        if not isinstance(packet, Connect):
            raise ProtocolError("the first packet is not CONNECT")
        if not packet.uid.strip() or not _UID_FORBIDDEN.isdisjoint(packet.uid):
            raise ProtocolError("uid is empty or contains @, # or &")
        self._move(Step.CONNECT)
        self._connect = packet
        self.version = min(packet.version, self._options.latest_version)
        self.has_more = False
        return ConnectReceived(packet, self.version)

    def _read_frames(self, decoder: FrameDecoder) -> list[ConnectionEvent]:
        events: list[ConnectionEvent] = []
        version = self.version
        try:
            for _ in range(self._options.events_limit_count):
                frame = decoder.next_frame()
                if frame is None:
                    self.has_more = False
                    break
                frame_type = frame.frame_type
                if frame_type == _RECVACK:
                    events.append(decode_recvack(frame.flags, frame.body, version))
                elif frame_type == _SEND:
                    events.append(self._open_send(decode_send(frame.flags, frame.body, version)))
                elif frame_type == _PING:
                    events.append(_PONG_READY)
                else:
                    # SUB, DISCONNECT, EVENT, a second CONNECT, and all that only servers send: ignored (wkproto.md, 8),
                    # but what cannot be read is an error all the same.
                    decode(frame_type, frame.flags, frame.body, version)
            else:
                self.has_more = True
        except ProtocolError as error:
            events.append(self._break(error))
        return events

    def _open_send(self, send: Send, request_id: str = "") -> SendReceived | SendRefused:
        """Verify, unseal, and check the size. Any failure is reason 9, as v2.2.5 answers (wkproto.md, 6.4)."""
        options = self._options
        payload = send.payload
        cipher = self.cipher
        if cipher is not None and not (
            options.plaintext_allowed and send.setting & SETTING_NO_ENCRYPT and not send.msg_key
        ):
            # What is too long sealed is too long unsealed, so no work is spent on it.
            if len(payload) > sealed_bytes(options.payload_limit_bytes):
                return SendRefused(send, _UNREADABLE, request_id)
            text = send_sign_text(send.client_seq, send.client_msg_no, send.channel_id, send.channel_type, payload)
            if cipher.sign(text) != send.msg_key.encode():
                return SendRefused(send, _UNREADABLE, request_id)
            try:
                payload = cipher.unseal(payload)
            except PayloadError:
                return SendRefused(send, _UNREADABLE, request_id)
        if len(payload) > options.payload_limit_bytes:
            return SendRefused(send, _UNREADABLE, request_id)
        return SendReceived(send, payload, request_id)

    def _read_texts(self, splitter: JsonSplitter) -> list[ConnectionEvent]:
        events: list[ConnectionEvent] = []
        try:
            for _ in range(self._options.events_limit_count):
                text = splitter.next_text()
                if text is None:
                    self.has_more = False
                    break
                event = self._read_message(text)
                if event is not None:
                    events.append(event)
            else:
                self.has_more = True
        except ProtocolError as error:
            events.append(self._break(error))
        return events

    def _read_message(self, text: bytes) -> ConnectionEvent | None:
        try:
            message = jsonrpc.decode_client_message(text)
        except JsonRpcError as fault:
            return ReplyReady(jsonrpc.encode_error(fault.text, fault.request_id))
        packet = message.packet
        request_id = message.request_id or ""
        match packet:
            case Send():
                self._payload_as_json = message.payload_as_json
                return self._open_send(packet, request_id)
            case Recvack():
                return packet
            case Ping():
                return PingReceived(jsonrpc.encode_pong(request_id))
            case Connect():
                return ReplyReady(jsonrpc.encode_error("already connected", request_id))
            case Disconnect():
                return None

    # Bytes out -------------------------------------------------------------------------------------------------------

    def accept(self, *, node_id: int, now_ms: int, handshake: ServerHandshake | None = None) -> bytes:
        """The answer to the CONNECT: logged in. Then `resume`, in case packets came behind it.

        handshake: of `accept_client_key` with the CONNECT's client_key, wanted when `needs_keys`. now_ms: wall clock.
        Raises ValueError without a wanted handshake, RuntimeError when no CONNECT waits (the client may have broken
        the protocol in the meantime: look at `state`).
        """
        if self.needs_keys and handshake is None:
            raise ValueError("this connection encrypts, so accepting it takes a handshake")
        if not self.needs_keys:
            handshake = None
        reply = self._connack(ReasonCode.SUCCESS, node_id, now_ms, handshake)
        self._move(Step.ACCEPTED)
        self._connect = None
        self._request_id = ""
        self.cipher = handshake.cipher if handshake else None
        source = self._input
        assert not isinstance(source, bytes)
        source.limit_bytes = self._options.frame_limit_bytes
        self.has_more = source.buffered_bytes > 0
        return reply

    def refuse(self, reason: int, *, node_id: int, now_ms: int) -> bytes:
        """The answer to the CONNECT: not logged in, complete for the client's version. Write it and close.
        Raises RuntimeError when no CONNECT waits."""
        reply = self._connack(reason, node_id, now_ms, None)
        self._move(Step.REFUSED)
        self._forget()
        return reply

    def sendack(self, send: SendReceived | SendRefused, *, message_id: int, message_seq: int, reason: int) -> bytes:
        """The one answer to a SEND. message_id is never 0; message_seq is 0 when refused or not stored."""
        packet = send.packet
        if self._is_json:
            return jsonrpc.encode_sendack(packet.flags, message_id, message_seq, reason, send.request_id)
        return encode_sendack(packet.flags, message_id, packet.client_seq, message_seq, reason, self.version)

    def recv(self, view: RecvView) -> bytes:
        """A message for this client. JSON-RPC: with the payload in the form the client used itself last."""
        if self._is_json:
            return view.json_text(payload_as_json=self._payload_as_json)
        return view.frame(self.version, self.cipher)

    def event(self, event: SharedEvent) -> bytes | None:
        """An EVENT for this client; None if it is too old to understand it (wkproto.md, 7.7)."""
        if self._is_json:
            return event.json_text()
        return event.frame() if self.version >= 5 else None

    def disconnect(self, reason: int, text: str = "") -> bytes:
        """The DISCONNECT of a kick: clients take it as final. From here on input is dropped. Write it, close soon.
        Raises RuntimeError before a CONNECT."""
        packet = Disconnect(reason, text)
        reply = jsonrpc.encode_disconnect(packet) if self._is_json else encode(packet, self.version)
        self._move(Step.DISCONNECTED)
        self._forget()
        return reply

    def _connack(self, reason: int, node_id: int, now_ms: int, handshake: ServerHandshake | None) -> bytes:
        connect = self._connect
        if connect is None:
            raise RuntimeError(f"no CONNECT waits for an answer in state {self._state.name}")
        packet = Connack(
            reason_code=reason,
            # The client's number is not validated; only the field's range has to hold.
            time_diff=max(-_I64_LIMIT, min(now_ms - connect.client_timestamp, _I64_LIMIT - 1)),
            server_key=handshake.server_key if handshake else "",
            salt=handshake.salt if handshake else "",
            node_id=node_id,
            server_version=self.version if connect.version >= 4 or self._is_json else None,
        )
        return jsonrpc.encode_connack(packet, self._request_id) if self._is_json else encode(packet, self.version)

    # State -----------------------------------------------------------------------------------------------------------

    def _move(self, step: Step) -> None:
        state = TRANSITIONS[self._state].get(step)
        if state is None:
            raise RuntimeError(f"{step.name} is not possible in state {self._state.name}")
        self._state = state

    def _break(self, error: ProtocolError) -> ProtocolBroken:
        self._move(Step.BROKEN)
        self._forget()
        return ProtocolBroken(error)

    def _forget(self) -> None:
        """What was received and not read goes nowhere any more."""
        self._input = b""
        self._connect = None
        self.has_more = False
