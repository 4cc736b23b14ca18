"""The JSON-RPC form of the packets, both directions (wkproto.md, section 10).

Reading is lenient as the SDKs need it: keys in any letter case, camel or snake; a payload as base64 text or as a JSON
value; null is the same as absent. Writing is what suits all of them: camel case, `header` and `timeDiff` always present,
a pong with a result, a refused login as an error object. Nothing is ever encrypted here.

A text that is not JSON raises ProtocolError: the connection is closed. A text that is JSON but not a message of ours
raises JsonRpcError: it is answered with `encode_error`, and the connection goes on.
"""

import json
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw

from wukong.errors import ProtocolError, WukongError
from wukong.protocol.packets import (
    DUP,
    LATEST_VERSION,
    NO_PERSIST,
    RED_DOT,
    SETTING_RECEIPT,
    SETTING_SIGNAL,
    SETTING_STREAM,
    SETTING_TOPIC,
    SYNC_ONCE,
    Connack,
    Connect,
    Disconnect,
    Event,
    Ping,
    Recv,
    Recvack,
    Send,
    Sendack,
)
from wukong.protocol.reasons import ReasonCode, reason_text

JSONRPC_VERSION: Final = "2.0"

_HEADER_BITS: Final = (("noPersist", NO_PERSIST), ("redDot", RED_DOT), ("syncOnce", SYNC_ONCE), ("dup", DUP))
_SETTING_BITS: Final = (
    ("receipt", SETTING_RECEIPT),
    ("signal", SETTING_SIGNAL),
    ("stream", SETTING_STREAM),
    ("topic", SETTING_TOPIC),
)

ClientPacket = Connect | Send | Ping | Recvack | Disconnect


class JsonRpcError(WukongError):
    """A well-formed text that is no message of ours. request_id: None when it could not be read."""

    def __init__(self, text: str, request_id: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.request_id = request_id


class ClientMessage(msgspec.Struct, frozen=True, gc=False):
    """request_id: None for a notification. payload_as_json: a send whose payload was a JSON value, not base64."""

    packet: ClientPacket
    request_id: str | None
    payload_as_json: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A response. Exactly one of result and error is set; a pong of old servers has an empty result.

    result: the result's text, to be read with `connack_of` or `sendack_of`. error: code and message.
    """

    request_id: str
    result: bytes | None
    error: tuple[int, str] | None


# Reading values ------------------------------------------------------------------------------------------------------

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_number = msgspec.json.Decoder(int).decode
_decode_anything = msgspec.json.Decoder().decode

_canonical_names: dict[str, str] = {}
_CANONICAL_LIMIT_COUNT: Final = 1024
_NAME_LIMIT_CHARACTERS: Final = 64


def _canonical(key: str) -> str:
    """`channelId`, `channel_id` and `ChannelID` are one name. Remembered, up to a limit: peers choose the keys."""
    name = _canonical_names.get(key)
    if name is None:
        name = key.replace("_", "").lower()
        if len(_canonical_names) < _CANONICAL_LIMIT_COUNT and len(key) <= _NAME_LIMIT_CHARACTERS:
            _canonical_names[key] = name
    return name


def _is_null(value: Raw) -> bool:
    return bytes(value) == b"null"


class _Fields:
    """An object's fields by canonical name. Null is the same as absent; a value of the wrong kind is a JsonRpcError."""

    __slots__ = ("_fields", "_what")

    def __init__(self, text: Raw | bytes, what: str) -> None:
        self._what = what
        try:
            fields = _decode_object(text)
        except msgspec.ValidationError:
            raise JsonRpcError(f"{what}: not an object") from None
        self._fields = {_canonical(key): value for key, value in fields.items() if not _is_null(value)}

    def raw(self, name: str) -> Raw | None:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if value is None:
            return ""
        try:
            return _decode_text(value)
        except msgspec.ValidationError:
            self._refuse(name, "not a string")

    def number(self, name: str, lowest: int, highest: int) -> int:
        """An integer, 0 when absent."""
        value = self._fields.get(name)
        if value is None:
            return 0
        try:
            number = _decode_number(value)
        except msgspec.ValidationError:
            self._refuse(name, "not an integer")
        if not lowest <= number <= highest:
            self._refuse(name, f"not between {lowest} and {highest}")
        return number

    def number_text(self, name: str, lowest: int, highest: int) -> int:
        """An integer written as a string, 0 when absent. Numbers of 64 bits travel so, for JavaScript's sake."""
        text = self.text(name)
        if not text:
            return 0
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and lowest <= int(text) <= highest):
            self._refuse(name, f"not a decimal number between {lowest} and {highest}")
        return int(text)

    def bits(self, name: str, table: tuple[tuple[str, int], ...]) -> int:
        """An object of booleans as a number, 0 when absent."""
        value = self._fields.get(name)
        if value is None:
            return 0
        switches = _Fields(value, f"{self._what}: {name}")
        return sum(bit for key, bit in table if switches.switch(key.lower()))

    def switch(self, name: str) -> bool:
        """A boolean, false when absent."""
        value = self._fields.get(name)
        if value is None:
            return False
        text = bytes(value)
        if text not in (b"true", b"false"):
            self._refuse(name, "not a boolean")
        return text == b"true"

    def payload(self) -> tuple[bytes, bool]:
        """The payload's bytes, and whether it was a JSON value (kept as it was written) instead of base64."""
        value = self._fields.get("payload")
        if value is None:
            return b"", False
        text = bytes(value)
        if not text.startswith(b'"'):
            _decode_anything(text)  # a Raw is checked for brackets only, not for UTF-8
            return text, True
        try:
            return a2b_base64(_decode_text(text).encode(), strict_mode=True), False
        except Base64Error:
            self._refuse("payload", "not base64")

    def _refuse(self, name: str, fault: str) -> NoReturn:
        raise JsonRpcError(f"{self._what}: {name} is {fault}")


def _read_envelope(text: bytes) -> tuple[_Fields, str | None]:
    """The outer fields and the id; None without one. Raises as the module says."""
    try:
        envelope = _Fields(text, "message")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse_text(text)
    if (raw_id := envelope.raw("id")) is None:
        return envelope, None
    try:
        return envelope, _decode_text(raw_id)
    except msgspec.ValidationError:
        raise JsonRpcError("id is not a string") from None


def _refuse_text(text: bytes) -> NoReturn:
    """Text that the fast parser does not take. Half a surrogate pair is the one thing that is JSON nevertheless:
    JavaScript writes it for a string cut in the middle of an emoji, and closing would only make it come again."""
    try:
        message = json.loads(text.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as fault:
        raise ProtocolError(f"text is not JSON: {fault}") from None
    request_id = message.get("id") if isinstance(message, dict) else None
    if not (isinstance(request_id, str) and request_id.isprintable()):
        request_id = None
    raise JsonRpcError("a string is not valid Unicode", request_id)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Server side: client messages in -------------------------------------------------------------------------------------

_U8: Final = 0xFF
_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_I64_LOW: Final = -(1 << 63)
_I64_HIGH: Final = (1 << 63) - 1


def decode_client_message(text: bytes) -> ClientMessage:
    """One message of a client. text: one whole JSON value.

    A Send has client_seq 0, its request_id is what an answer refers to; its client_msg_no may be empty. Raises
    ProtocolError and JsonRpcError as the module says.
    """
    envelope, request_id = _read_envelope(text)
    try:
        return _client_message(envelope, request_id)
    except JsonRpcError as fault:
        raise JsonRpcError(fault.text, request_id) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse_text(text)


def _client_message(envelope: _Fields, request_id: str | None) -> ClientMessage:
    _check_version(envelope)
    method = envelope.text("method")
    if not method:
        if envelope.raw("result") is not None or envelope.raw("error") is not None:
            raise JsonRpcError("unknown packet type: response")
        raise JsonRpcError("invalid request format (missing id or method)")
    params = envelope.raw("params")
    reader = _REQUESTS.get(method) if request_id is not None else _NOTIFICATIONS.get(method)
    if reader is None:
        if method in _UNSUPPORTED or (request_id is None and method == "disconnect"):
            raise JsonRpcError(f"unknown packet type: {method}")
        if request_id is None:
            raise JsonRpcError(f"unknown notification method '{method}'")
        raise JsonRpcError(f"unknown method: {method}")
    if params is None:
        if method != "ping":
            raise JsonRpcError(f"missing params field: method {method}")
        return ClientMessage(Ping(), request_id)
    packet, payload_as_json = reader(_Fields(params, f"{method} params"))
    return ClientMessage(packet, request_id, payload_as_json)


def _check_version(envelope: _Fields) -> None:
    if envelope.raw("jsonrpc") is not None and (version := envelope.text("jsonrpc")) != JSONRPC_VERSION:
        raise JsonRpcError(f"invalid version: expected '{JSONRPC_VERSION}', got '{version[:16]}'")


_Read = Callable[[_Fields], tuple[ClientPacket, bool]]


def _read_connect(params: _Fields) -> tuple[Connect, bool]:
    packet = Connect(
        version=params.number("version", 0, _U8) or LATEST_VERSION,
        uid=params.text("uid"),
        token=params.text("token"),
        device_id=params.text("deviceid"),
        device_flag=params.number("deviceflag", 0, _U8),
        client_timestamp=params.number("clienttimestamp", _I64_LOW, _I64_HIGH),
        client_key=params.text("clientkey"),
    )
    return packet, False


def _read_send(params: _Fields) -> tuple[Send, bool]:
    payload, payload_as_json = params.payload()
    packet = Send(
        flags=params.bits("header", _HEADER_BITS),
        setting=params.bits("setting", _SETTING_BITS),
        client_seq=0,
        client_msg_no=params.text("clientmsgno"),
        channel_id=params.text("channelid"),
        channel_type=params.number("channeltype", 0, _U8),
        expire=params.number("expire", 0, _U32),
        msg_key=params.text("msgkey"),
        topic=params.text("topic"),
        payload=payload,
        stream_no=params.text("streamno"),
    )
    return packet, payload_as_json


def _read_ping(params: _Fields) -> tuple[Ping, bool]:
    return Ping(), False


def _read_recvack(params: _Fields) -> tuple[Recvack, bool]:
    packet = Recvack(
        flags=params.bits("header", _HEADER_BITS),
        message_id=params.number_text("messageid", _I64_LOW, _I64_HIGH),
        message_seq=params.number("messageseq", 0, _U64),
    )
    return packet, False


def _read_disconnect(params: _Fields) -> tuple[Disconnect, bool]:
    return Disconnect(params.number("reasoncode", 0, _U8), params.text("reason")), False


_REQUESTS: Final[dict[str, _Read]] = {
    "connect": _read_connect,
    "send": _read_send,
    "ping": _read_ping,
    "disconnect": _read_disconnect,
}
_NOTIFICATIONS: Final[dict[str, _Read]] = {"recvack": _read_recvack}
_UNSUPPORTED: Final = frozenset(("subscribe", "unsubscribe"))


# Server side: answers and notifications out --------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode


def _header(flags: int) -> dict[str, bool]:
    """Always written, empty or not: several SDKs fail without it (wkproto.md, 10.6)."""
    return {key: True for key, bit in _HEADER_BITS if flags & bit}


# Any: the values of a JSON object are of many kinds.
def _result(request_id: str, result: dict[str, Any]) -> bytes:
    return _encode({"jsonrpc": JSONRPC_VERSION, "id": request_id, "result": result})


def _call(method: str, params: dict[str, Any], request_id: str | None = None) -> bytes:
    envelope = {"jsonrpc": JSONRPC_VERSION, "method": method, "params": params}
    if request_id is not None:
        envelope["id"] = request_id
    return _encode(envelope)


def _present(**fields: Any) -> dict[str, Any]:
    """Only the fields that are neither zero nor empty."""
    return {key: value for key, value in fields.items() if value}


def encode_error(text: str, request_id: str | None = None, *, code: int = 0) -> bytes:
    """The answer to a message that could not be used; without an id when that could not be read."""
    answer: dict[str, Any] = {"jsonrpc": JSONRPC_VERSION}
    if request_id is not None:
        answer["id"] = request_id
    answer["error"] = {"code": code, "message": text}
    return _encode(answer)


def encode_connack(packet: Connack, request_id: str) -> bytes:
    """A result when the login was accepted, else an error object with the reason as code: a result with another
    reason is taken for success by some SDKs (wkproto.md, 10.6)."""
    if packet.reason_code != ReasonCode.SUCCESS:
        return encode_error(reason_text(packet.reason_code), request_id, code=packet.reason_code)
    result = {
        "header": {},
        **_present(serverVersion=packet.server_version, serverKey=packet.server_key, salt=packet.salt),
        "timeDiff": packet.time_diff,
        "reasonCode": packet.reason_code,
        "nodeId": packet.node_id,
    }
    return _result(request_id, result)


def encode_sendack(flags: int, message_id: int, message_seq: int, reason_code: int, request_id: str) -> bytes:
    """A refused send is a result too, with its reason."""
    result = {
        "header": _header(flags),
        "messageId": str(message_id),
        "messageSeq": message_seq,
        "reasonCode": reason_code,
    }
    return _result(request_id, result)


def encode_pong(request_id: str) -> bytes:
    """With a result, unlike v2.2.5: a response without one makes SDKs drop the connection (wkproto.md, 10.6)."""
    return _result(request_id, {})


def encode_recv(packet: Recv, payload_base64: str, *, payload_as_json: bool = False) -> bytes:
    """The `recv` notification. payload_base64: the packet's payload, in the form that usually travels.

    payload_as_json: send the payload as a JSON value if it is one, else as base64 all the same.
    """
    setting = {key: True for key, bit in _SETTING_BITS if packet.setting & bit}
    payload: str | Raw = payload_base64
    if payload_as_json and _is_json(packet.payload):
        payload = Raw(packet.payload)
    params = {
        "header": _header(packet.flags),
        **_present(setting=setting, expire=packet.expire),
        "messageId": str(packet.message_id),
        "messageSeq": packet.message_seq,
        **_present(clientMsgNo=packet.client_msg_no),
        "timestamp": packet.timestamp,
        "channelId": packet.channel_id,
        "channelType": packet.channel_type,
        **_present(topic=packet.topic),
        "fromUid": packet.from_uid,
        "payload": payload,
    }
    return _call("recv", params)


def _is_json(payload: bytes) -> bool:
    try:
        _decode_anything(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def encode_event(packet: Event) -> bytes:
    """The `event` notification. Data that is not UTF-8 travels with replacement characters."""
    params = {
        "header": {},
        "id": packet.id,
        "type": packet.type,
        "timestamp": packet.timestamp,
        "data": packet.data.decode(errors="replace"),
    }
    return _call("event", params)


def encode_disconnect(packet: Disconnect) -> bytes:
    """The `disconnect` notification."""
    return _call("disconnect", {"reasonCode": packet.reason_code, **_present(reason=packet.reason)})


# Client side ---------------------------------------------------------------------------------------------------------


def encode_request(packet: ClientPacket, request_id: str) -> bytes:
    """What a client writes. A Recvack is a notification and has no use for the id."""
    match packet:
        case Connect():
            params = {
                "uid": packet.uid,
                "token": packet.token,
                "version": packet.version,
                "deviceId": packet.device_id,
                "deviceFlag": packet.device_flag,
                "clientTimestamp": packet.client_timestamp,
            }
            return _call("connect", params, request_id)
        case Send():
            setting = {key: True for key, bit in _SETTING_BITS if packet.setting & bit}
            params = {
                "header": _header(packet.flags),
                "clientMsgNo": packet.client_msg_no,
                "channelId": packet.channel_id,
                "channelType": packet.channel_type,
                "payload": b64encode(packet.payload).decode(),
                **_present(setting=setting, expire=packet.expire, topic=packet.topic, streamNo=packet.stream_no),
            }
            return _call("send", params, request_id)
        case Ping():
            return _call("ping", {}, request_id)
        case Recvack():
            params = {
                "header": _header(packet.flags),
                "messageId": str(packet.message_id),
                "messageSeq": packet.message_seq,
            }
            return _call("recvack", params)
        case Disconnect():
            return _call("disconnect", {"reasonCode": packet.reason_code, "reason": packet.reason}, request_id)


def decode_server_message(text: bytes) -> Answer | Recv | Event | Disconnect:
    """One message of a server. A Recv has an empty msg_key. Raises ProtocolError and JsonRpcError as the module says."""
    envelope, request_id = _read_envelope(text)
    try:
        _check_version(envelope)
        if method := envelope.text("method"):
            return _read_notification(method, envelope)
        if (error := envelope.raw("error")) is not None:
            fields = _Fields(error, "error")
            fault = (fields.number("code", _I64_LOW, _I64_HIGH), fields.text("message"))
            return Answer(request_id or "", None, fault)
        if request_id is None:
            raise JsonRpcError("neither a response nor a notification")
        result = envelope.raw("result")
        return Answer(request_id, b"{}" if result is None else bytes(result), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse_text(text)


def _read_notification(method: str, envelope: _Fields) -> Recv | Event | Disconnect:
    params = _Fields(envelope.raw("params") or b"{}", f"{method} params")
    if method == "recv":
        payload, _ = params.payload()
        stream_id = params.text("streamid")
        return Recv(
            flags=params.bits("header", _HEADER_BITS),
            setting=params.bits("setting", _SETTING_BITS),
            msg_key="",
            from_uid=params.text("fromuid"),
            channel_id=params.text("channelid"),
            channel_type=params.number("channeltype", 0, _U8),
            client_msg_no=params.text("clientmsgno"),
            message_id=params.number_text("messageid", _I64_LOW, _I64_HIGH),
            message_seq=params.number("messageseq", 0, _U64),
            timestamp=params.number("timestamp", _I64_LOW, _I64_HIGH),
            expire=params.number("expire", 0, _U32),
            topic=params.text("topic"),
            payload=payload,
            stream_flag=params.number("streamflag", 0, _U8),
            stream_no=params.text("streamno"),
            # v2.2.5 writes the stream number here, which is no number.
            stream_id=int(stream_id) if stream_id.isascii() and stream_id.isdigit() and len(stream_id) <= 20 else 0,
        )
    if method == "event":
        return Event(
            id=params.text("id"),
            type=params.text("type"),
            timestamp=params.number("timestamp", _I64_LOW, _I64_HIGH),
            data=params.text("data").encode(),
        )
    if method == "disconnect":
        return Disconnect(params.number("reasoncode", 0, _U8), params.text("reason"))
    raise JsonRpcError(f"unknown notification method '{method}'")


def connack_of(answer: Answer) -> Connack:
    """What the answer to a connect says; a refusal as an error object gives its code as reason."""
    if answer.result is None:
        code = answer.error[0] if answer.error else 0
        return Connack(code if 0 <= code <= _U8 else ReasonCode.UNKNOWN)
    result = _Fields(answer.result, "connect result")
    return Connack(
        reason_code=result.number("reasoncode", 0, _U8),
        time_diff=result.number("timediff", _I64_LOW, _I64_HIGH),
        server_key=result.text("serverkey"),
        salt=result.text("salt"),
        node_id=result.number("nodeid", 0, _U64),
        server_version=result.number("serverversion", 0, _U8) or None,
    )


def sendack_of(answer: Answer) -> Sendack:
    """What the answer to a send says. An error object counts as system error (15): the send was not understood."""
    if answer.result is None:
        return Sendack(0, 0, 0, 0, ReasonCode.SYSTEM_ERROR)
    result = _Fields(answer.result, "send result")
    return Sendack(
        flags=result.bits("header", _HEADER_BITS),
        message_id=result.number_text("messageid", _I64_LOW, _I64_HIGH),
        client_seq=0,
        message_seq=result.number("messageseq", 0, _U64),
        reason_code=result.number("reasoncode", 0, _U8),
    )
