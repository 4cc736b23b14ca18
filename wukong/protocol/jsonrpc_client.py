"""The client's side of JSON-RPC: requests out, answers and notifications in (wkproto.md, section 10).

How texts are read, and the two kinds of errors: json_fields.py.
"""

from base64 import b64encode
from typing import Any

import msgspec

from wukong.protocol.json_fields import (
    HEADER_BITS,
    I64_HIGH,
    I64_LOW,
    SETTING_BITS,
    SHOWN_CHARACTERS,
    U8_HIGH,
    U32_HIGH,
    U64_HIGH,
    Fields,
    JsonRpcError,
    call,
    check_version,
    header_of,
    present,
    read_envelope,
    refuse_text,
)
from wukong.protocol.jsonrpc import ClientPacket
from wukong.protocol.packets import (
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
from wukong.protocol.reasons import ReasonCode


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A response. Exactly one of result and error is set; a pong of old servers has an empty result.

    result: the result's text, to be read with `connack_of` or `sendack_of`. error: code and message.
    """

    request_id: str
    result: bytes | None
    error: tuple[int, str] | None


def encode_request(packet: ClientPacket, request_id: str) -> bytes:
    """What a client writes. A Recvack is a notification and has no use for the id."""
    params: dict[str, Any]
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
            return call("connect", params, request_id)
        case Send():
            setting = {key: True for key, bit in SETTING_BITS if packet.setting & bit}
            params = {
                "header": header_of(packet.flags),
                "clientMsgNo": packet.client_msg_no,
                "channelId": packet.channel_id,
                "channelType": packet.channel_type,
                "payload": b64encode(packet.payload).decode(),
                **present(setting=setting, expire=packet.expire, topic=packet.topic, streamNo=packet.stream_no),
            }
            return call("send", params, request_id)
        case Ping():
            return call("ping", {}, request_id)
        case Recvack():
            params = {
                "header": header_of(packet.flags),
                "messageId": str(packet.message_id),
                "messageSeq": packet.message_seq,
            }
            return call("recvack", params)
        case Disconnect():
            return call("disconnect", {"reasonCode": packet.reason_code, "reason": packet.reason}, request_id)


def decode_server_message(text: bytes) -> Answer | Recv | Event | Disconnect:
    """One message of a server; a Recv has an empty msg_key. Raises ProtocolError and JsonRpcError."""
    envelope, request_id = read_envelope(text)
    try:
        check_version(envelope)
        if method := envelope.text("method"):
            return _read_notification(method, envelope)
        if (error := envelope.raw("error")) is not None:
            fields = Fields(error, "error")
            fault = (fields.number("code", I64_LOW, I64_HIGH), fields.text("message"))
            return Answer(request_id or "", None, fault)
        if request_id is None:
            raise JsonRpcError("neither a response nor a notification")
        result = envelope.raw("result")
        return Answer(request_id, b"{}" if result is None else bytes(result), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refuse_text(text)


def _read_notification(method: str, envelope: Fields) -> Recv | Event | Disconnect:
    params = Fields(envelope.raw("params") or b"{}", f"{method} params")
    if method == "recv":
        payload, _ = params.payload()
        stream_id = params.text("streamid")
        return Recv(
            flags=params.bits("header", HEADER_BITS),
            setting=params.bits("setting", SETTING_BITS),
            msg_key="",
            from_uid=params.text("fromuid"),
            channel_id=params.text("channelid"),
            channel_type=params.number("channeltype", 0, U8_HIGH),
            client_msg_no=params.text("clientmsgno"),
            message_id=params.number_text("messageid", I64_LOW, I64_HIGH),
            message_seq=params.number("messageseq", 0, U64_HIGH),
            timestamp=params.number("timestamp", I64_LOW, I64_HIGH),
            expire=params.number("expire", 0, U32_HIGH),
            topic=params.text("topic"),
            payload=payload,
            stream_flag=params.number("streamflag", 0, U8_HIGH),
            stream_no=params.text("streamno"),
            # v2.2.5 writes the stream number here, which is no number.
            stream_id=int(stream_id) if stream_id.isascii() and stream_id.isdigit() and len(stream_id) <= 20 else 0,
        )
    if method == "event":
        return Event(
            id=params.text("id"),
            type=params.text("type"),
            timestamp=params.number("timestamp", I64_LOW, I64_HIGH),
            data=params.data("data"),
        )
    if method == "disconnect":
        return Disconnect(params.number("reasoncode", 0, U8_HIGH), params.text("reason"))
    raise JsonRpcError(f"unknown notification method '{method[:SHOWN_CHARACTERS]}'")


def connack_of(answer: Answer) -> Connack:
    """What the answer to a connect says; a refusal as an error object gives its code as reason."""
    if answer.result is None:
        code = answer.error[0] if answer.error else 0
        return Connack(code if 0 <= code <= U8_HIGH else ReasonCode.UNKNOWN)
    result = Fields(answer.result, "connect result")
    return Connack(
        reason_code=result.number("reasoncode", 0, U8_HIGH),
        time_diff=result.number("timediff", I64_LOW, I64_HIGH),
        server_key=result.text("serverkey"),
        salt=result.text("salt"),
        node_id=result.number("nodeid", 0, U64_HIGH),
        server_version=result.number("serverversion", 0, U8_HIGH) or None,
    )


def sendack_of(answer: Answer) -> Sendack:
    """What the answer to a send says. An error object counts as system error (15): the send was not understood."""
    if answer.result is None:
        return Sendack(0, 0, 0, 0, ReasonCode.SYSTEM_ERROR)
    result = Fields(answer.result, "send result")
    return Sendack(
        flags=result.bits("header", HEADER_BITS),
        message_id=result.number_text("messageid", I64_LOW, I64_HIGH),
        client_seq=0,
        message_seq=result.number("messageseq", 0, U64_HIGH),
        reason_code=result.number("reasoncode", 0, U8_HIGH),
    )
