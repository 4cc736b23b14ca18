"""The server's side of JSON-RPC: client messages in, answers and notifications out (wkproto.md, section 10).

Writing is what suits all SDKs: camel case, `header` and `timeDiff` always present, a pong with a result, a refused
login as an error object. Nothing is ever encrypted here. How texts are read, and the two kinds of errors:
json_fields.py.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from wukong.protocol.json_fields import (
    HEADER_BITS,
    I64_HIGH,
    I64_LOW,
    JSONRPC_VERSION,
    SETTING_BITS,
    SHOWN_CHARACTERS,
    U8_HIGH,
    U32_HIGH,
    U64_HIGH,
    Fields,
    JsonRpcError,
    call,
    check_version,
    encode_json,
    header_of,
    present,
    read_envelope,
    refuse_text,
)
from wukong.protocol.packets import (
    LATEST_VERSION,
    Connack,
    Connect,
    Disconnect,
    Event,
    Ping,
    Recv,
    Recvack,
    Send,
)
from wukong.protocol.reasons import ReasonCode, reason_text

ClientPacket = Connect | Send | Ping | Recvack | Disconnect


class ClientMessage(msgspec.Struct, frozen=True, gc=False):
    """request_id: None for a notification. payload_as_json: a send whose payload was a JSON value, not base64."""

    packet: ClientPacket
    request_id: str | None
    payload_as_json: bool = False


# Client messages in --------------------------------------------------------------------------------------------------


def decode_client_message(text: bytes) -> ClientMessage:
    """One message of a client. text: one whole JSON value.

    A Send has client_seq 0, its request_id is what an answer refers to; its client_msg_no may be empty. Raises
    ProtocolError and JsonRpcError as json_fields.py says.
    """
    envelope, request_id = read_envelope(text)
    try:
        return _client_message(envelope, request_id)
    except JsonRpcError as fault:
        raise JsonRpcError(fault.text, request_id) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refuse_text(text)


def _client_message(envelope: Fields, request_id: str | None) -> ClientMessage:
    check_version(envelope)
    method = envelope.text("method")
    shown = method[:SHOWN_CHARACTERS]
    if not method:
        if envelope.raw("result") is not None or envelope.raw("error") is not None:
            raise JsonRpcError("unknown packet type: response")
        raise JsonRpcError("invalid request format (missing id or method)")
    params = envelope.raw("params")
    reader = _REQUESTS.get(method) if request_id is not None else _NOTIFICATIONS.get(method)
    if reader is None:
        if method in _UNSUPPORTED or (request_id is None and method == "disconnect"):
            raise JsonRpcError(f"unknown packet type: {shown}")
        if request_id is None:
            raise JsonRpcError(f"unknown notification method '{shown}'")
        raise JsonRpcError(f"unknown method: {shown}")
    if params is None:
        if method != "ping":
            raise JsonRpcError(f"missing params field: method {method}")
        return ClientMessage(Ping(), request_id)
    packet, payload_as_json = reader(Fields(params, f"{method} params"))
    return ClientMessage(packet, request_id, payload_as_json)


_Read = Callable[[Fields], tuple[ClientPacket, bool]]


def _read_connect(params: Fields) -> tuple[Connect, bool]:
    packet = Connect(
        version=params.number("version", 0, U8_HIGH) or LATEST_VERSION,
        uid=params.text("uid"),
        token=params.text("token"),
        device_id=params.text("deviceid"),
        device_flag=params.number("deviceflag", 0, U8_HIGH),
        client_timestamp=params.number("clienttimestamp", I64_LOW, I64_HIGH),
        client_key=params.text("clientkey"),
    )
    return packet, False


def _read_send(params: Fields) -> tuple[Send, bool]:
    payload, payload_as_json = params.payload()
    packet = Send(
        flags=params.bits("header", HEADER_BITS),
        setting=params.bits("setting", SETTING_BITS),
        client_seq=0,
        client_msg_no=params.text("clientmsgno"),
        channel_id=params.text("channelid"),
        channel_type=params.number("channeltype", 0, U8_HIGH),
        expire=params.number("expire", 0, U32_HIGH),
        msg_key=params.text("msgkey"),
        topic=params.text("topic"),
        payload=payload,
        stream_no=params.text("streamno"),
    )
    return packet, payload_as_json


def _read_ping(params: Fields) -> tuple[Ping, bool]:
    return Ping(), False


def _read_recvack(params: Fields) -> tuple[Recvack, bool]:
    packet = Recvack(
        flags=params.bits("header", HEADER_BITS),
        message_id=params.number_text("messageid", I64_LOW, I64_HIGH),
        message_seq=params.number("messageseq", 0, U64_HIGH),
    )
    return packet, False


def _read_disconnect(params: Fields) -> tuple[Disconnect, bool]:
    return Disconnect(params.number("reasoncode", 0, U8_HIGH), params.text("reason")), False


_REQUESTS: Final[dict[str, _Read]] = {
    "connect": _read_connect,
    "send": _read_send,
    "ping": _read_ping,
    "disconnect": _read_disconnect,
}
_NOTIFICATIONS: Final[dict[str, _Read]] = {"recvack": _read_recvack}
_UNSUPPORTED: Final = frozenset(("subscribe", "unsubscribe"))


# Answers and notifications out ---------------------------------------------------------------------------------------


# Any: the values of a JSON object are of many kinds.
def _result(request_id: str, result: dict[str, Any]) -> bytes:
    return encode_json({"jsonrpc": JSONRPC_VERSION, "id": request_id, "result": result})


def encode_error(text: str, request_id: str | None = None, *, code: int = 0) -> bytes:
    """The answer to a message that could not be used; without an id when that could not be read."""
    answer: dict[str, Any] = {"jsonrpc": JSONRPC_VERSION}
    if request_id is not None:
        answer["id"] = request_id
    answer["error"] = {"code": code, "message": text}
    return encode_json(answer)


def encode_connack(packet: Connack, request_id: str) -> bytes:
    """A result when the login was accepted, else an error object with the reason as code: a result with another
    reason is taken for success by some SDKs (wkproto.md, 10.6)."""
    if packet.reason_code != ReasonCode.SUCCESS:
        return encode_error(reason_text(packet.reason_code), request_id, code=packet.reason_code)
    result = {
        "header": {},
        **present(serverVersion=packet.server_version, serverKey=packet.server_key, salt=packet.salt),
        "timeDiff": packet.time_diff,
        "reasonCode": packet.reason_code,
        "nodeId": packet.node_id,
    }
    return _result(request_id, result)


def encode_sendack(flags: int, message_id: int, message_seq: int, reason_code: int, request_id: str) -> bytes:
    """A refused send is a result too, with its reason."""
    result = {
        "header": header_of(flags),
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
    setting = {key: True for key, bit in SETTING_BITS if packet.setting & bit}
    payload: str | Raw = payload_base64
    if payload_as_json and _is_json(packet.payload):
        payload = Raw(packet.payload)
    params = {
        "header": header_of(packet.flags),
        **present(setting=setting, expire=packet.expire),
        "messageId": str(packet.message_id),
        "messageSeq": packet.message_seq,
        **present(clientMsgNo=packet.client_msg_no),
        "timestamp": packet.timestamp,
        "channelId": packet.channel_id,
        "channelType": packet.channel_type,
        **present(topic=packet.topic),
        "fromUid": packet.from_uid,
        "payload": payload,
    }
    return call("recv", params)


_check_grammar = msgspec.json.Decoder(Raw).decode


def _is_json(payload: bytes) -> bool:
    try:
        _check_grammar(payload)
        payload.decode()
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
    return call("event", params)


def encode_disconnect(packet: Disconnect) -> bytes:
    """The `disconnect` notification."""
    return call("disconnect", {"reasonCode": packet.reason_code, **present(reason=packet.reason)})
