"""Packets to frames and bodies to packets, for every version, both directions, byte for byte.

A layout is a sequence of fixed-width pieces (big-endian, precompiled structs) and strings (u16 count, UTF-8). Slices
past the end of a body come out short without an error, so each string is followed by a read of fixed width that does
raise, or by a check of the end. Versions 0 and 1 share a layout, as do all from 6 on.

Source: wkproto.md, sections 1 to 4.
"""

from collections.abc import Callable
from struct import Struct, error
from typing import Any, Final

from wukong.errors import ProtocolError, WukongError
from wukong.protocol.packets import (
    HAS_SERVER_VERSION,
    SETTING_STREAM,
    SETTING_TOPIC,
    Connack,
    Connect,
    Disconnect,
    Event,
    Packet,
    PacketType,
    Ping,
    Pong,
    Recv,
    Recvack,
    Send,
    Sendack,
    Sub,
    Suback,
)

BODY_LIMIT_BYTES: Final = 1 << 20
"""Largest body any known peer accepts (wkproto.md, 8)."""
TEXT_LIMIT_BYTES: Final = 0x7FFF
"""Largest string: its count is read as a signed 16-bit number (wkproto.md, 2)."""

PING_FRAME: Final = b"\x70"
PONG_FRAME: Final = b"\x80"

_U8 = Struct(">B")
_U16 = Struct(">H")
_U32 = Struct(">I")
_U64 = Struct(">Q")
_I64 = Struct(">q")
_TWO_BYTES = Struct(">BB")
_BYTE_AND_COUNT = Struct(">BH")
_SEND_START = Struct(">BIH")  # setting, client_seq, count of client_msg_no
_TYPE_EXPIRE_COUNT = Struct(">BIH")  # channel_type, expire, count of the next string
_CONNECT_START = Struct(">BBH")  # version, device_flag, count of device_id
_TIMESTAMP_COUNT = Struct(">qH")  # client_timestamp, count of client_key
_CONNACK_TIME_REASON = Struct(">qBH")  # time_diff, reason_code, count of server_key
_STREAM_START = Struct(">BH")  # stream_flag, count of stream_no
_RECV_IDS = Struct(">qIi")  # message_id, message_seq, timestamp
_RECV_IDS_64 = Struct(">qQi")
_SENDACK = Struct(">qIIB")  # message_id, client_seq, message_seq, reason_code
_SENDACK_64 = Struct(">qIQB")
_SENDACK_FRAME = Struct(">BBqIIB")
_RECVACK = Struct(">qI")
_RECVACK_64 = Struct(">qQ")
_SUB_MIDDLE = Struct(">BBH")  # channel_type, action, count of param
_SUBACK_END = Struct(">BBB")  # channel_type, action, reason_code


class EncodeError(WukongError):
    """The caller's packet does not fit the wire: string over 32767 bytes, number out of range, body over 1 MiB."""


def encode_length(value: int) -> bytes:
    """The remaining length in its shortest form, 1 to 4 bytes (wkproto.md, 1.5)."""
    if value < 0x80:
        return _U8.pack(value)
    if value < 0x4000:
        return _TWO_BYTES.pack(value & 0x7F | 0x80, value >> 7)
    if value < 0x20_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if value < 0x1000_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21))
    raise EncodeError(f"remaining length {value} does not fit in four bytes")


def text_field(text: str) -> bytes:
    """A string as it travels: count and bytes. Raises EncodeError over 32767 bytes."""
    data = text.encode()
    if len(data) > TEXT_LIMIT_BYTES:
        raise EncodeError(f"string of {len(data)} bytes is over the limit of {TEXT_LIMIT_BYTES}")
    return _U16.pack(len(data)) + data


# Reading -------------------------------------------------------------------------------------------------------------


def decode(frame_type: int, flags: int, body: bytes, version: int) -> Packet:
    """One packet of its body. version: the agreed one; CONNECT does not look at it.

    Bytes behind the last field are ignored. Raises ProtocolError for a type without a meaning, a body shorter than its
    fields, a string count of 0x8000 or more, and text that is not UTF-8.
    """
    decoder = _DECODERS.get(frame_type)
    if decoder is None:
        raise ProtocolError(f"packet type {frame_type} does not exist")
    try:
        return decoder(flags, body, version)
    except (error, UnicodeDecodeError) as fault:
        raise _malformed(frame_type, fault) from None


def decode_send(flags: int, body: bytes, version: int) -> Send:
    """Like `decode` for a SEND, without the detour."""
    try:
        return _decode_send(flags, body, version)
    except (error, UnicodeDecodeError) as fault:
        raise _malformed(PacketType.SEND, fault) from None


def decode_recvack(flags: int, body: bytes, version: int) -> Recvack:
    """Like `decode` for a RECVACK, without the detour."""
    try:
        return _decode_recvack(flags, body, version)
    except error as fault:
        raise _malformed(PacketType.RECVACK, fault) from None


def _malformed(frame_type: int, fault: Exception) -> ProtocolError:
    return ProtocolError(f"{PacketType(frame_type).name} cannot be read: {fault}")


def _text(body: bytes, start: int, count: int) -> tuple[str, int]:
    """A string of count bytes, and where it ends. Raises ProtocolError when the body is shorter."""
    end = start + count
    if count > TEXT_LIMIT_BYTES or end > len(body):
        raise ProtocolError(f"string of {count} bytes at {start} does not fit a body of {len(body)}")
    return str(body[start:end], "utf-8"), end


def _counted_text(body: bytes, start: int) -> tuple[str, int]:
    return _text(body, start + 2, _U16.unpack_from(body, start)[0])


def _decode_connect(flags: int, body: bytes, version: int) -> Connect:
    client_version, device_flag, count = _CONNECT_START.unpack_from(body)
    device_id, at = _text(body, 4, count)
    uid, at = _counted_text(body, at)
    token, at = _counted_text(body, at)
    client_timestamp, count = _TIMESTAMP_COUNT.unpack_from(body, at)
    client_key, _ = _text(body, at + 10, count)
    return Connect(client_version, uid, token, device_id, device_flag, client_timestamp, client_key, flags)


def _decode_connack(flags: int, body: bytes, version: int) -> Connack:
    at = 0
    server_version: int | None = None
    if flags & HAS_SERVER_VERSION:
        (server_version,) = _U8.unpack_from(body)
        at = 1
    time_diff, reason_code, count = _CONNACK_TIME_REASON.unpack_from(body, at)
    server_key, at = _text(body, at + 11, count)
    salt, at = _counted_text(body, at)
    node_id = _U64.unpack_from(body, at)[0] if version >= 4 else 0
    return Connack(reason_code, time_diff, server_key, salt, node_id, server_version)


def _decode_send(flags: int, body: bytes, version: int) -> Send:
    setting, client_seq, counts = _SEND_START.unpack_from(body)
    at = 7 + counts
    client_msg_no = str(body[7:at], "utf-8")
    stream_no = ""
    if setting & SETTING_STREAM and 2 <= version < 5:
        stream_no, at = _counted_text(body, at)
    (count,) = _U16.unpack_from(body, at)
    counts |= count
    start = at + 2
    at = start + count
    channel_id = str(body[start:at], "utf-8")
    if version >= 3:
        channel_type, expire, count = _TYPE_EXPIRE_COUNT.unpack_from(body, at)
        start = at + 7
    else:
        channel_type, count = _BYTE_AND_COUNT.unpack_from(body, at)
        expire = 0
        start = at + 3
    at = start + count
    # All counts at once: one with the top bit set is an error wherever the reading has got to.
    if (counts | count) > TEXT_LIMIT_BYTES or at > len(body):
        raise ProtocolError("SEND cannot be read: a string does not fit")
    msg_key = str(body[start:at], "utf-8")
    topic = ""
    if setting & SETTING_TOPIC:
        topic, at = _counted_text(body, at)
    return Send(
        flags,
        setting,
        client_seq,
        client_msg_no,
        channel_id,
        channel_type,
        expire,
        msg_key,
        topic,
        body[at:],
        stream_no,
    )


def _decode_sendack(flags: int, body: bytes, version: int) -> Sendack:
    layout = _SENDACK_64 if version >= 6 else _SENDACK
    message_id, client_seq, message_seq, reason_code = layout.unpack_from(body)
    return Sendack(flags, message_id, client_seq, message_seq, reason_code, _appended_text(body, layout.size))


def _appended_text(body: bytes, at: int) -> str:
    """The client_msg_no a v3 server appends. Anything else behind the last field is of no concern."""
    try:
        return _counted_text(body, at)[0]
    except (error, ProtocolError, UnicodeDecodeError):
        return ""


def _decode_recv(flags: int, body: bytes, version: int) -> Recv:
    setting, count = _BYTE_AND_COUNT.unpack_from(body)
    msg_key, at = _text(body, 3, count)
    from_uid, at = _counted_text(body, at)
    channel_id, at = _counted_text(body, at)
    if version >= 3:
        channel_type, expire, count = _TYPE_EXPIRE_COUNT.unpack_from(body, at)
        client_msg_no, at = _text(body, at + 7, count)
    else:
        channel_type, count = _BYTE_AND_COUNT.unpack_from(body, at)
        expire = 0
        client_msg_no, at = _text(body, at + 3, count)
    stream_flag, stream_no, stream_id = 0, "", 0
    if setting & SETTING_STREAM and 2 <= version < 5:
        stream_flag, count = _STREAM_START.unpack_from(body, at)
        stream_no, at = _text(body, at + 3, count)
        (stream_id,) = _U64.unpack_from(body, at)
        at += 8
    ids = _RECV_IDS_64 if version >= 6 else _RECV_IDS
    message_id, message_seq, timestamp = ids.unpack_from(body, at)
    at += ids.size
    topic = ""
    if setting & SETTING_TOPIC:
        topic, at = _counted_text(body, at)
    return Recv(
        flags=flags,
        setting=setting,
        msg_key=msg_key,
        from_uid=from_uid,
        channel_id=channel_id,
        channel_type=channel_type,
        client_msg_no=client_msg_no,
        message_id=message_id,
        message_seq=message_seq,
        timestamp=timestamp,
        expire=expire,
        topic=topic,
        payload=body[at:],
        stream_flag=stream_flag,
        stream_no=stream_no,
        stream_id=stream_id,
    )


def _decode_recvack(flags: int, body: bytes, version: int) -> Recvack:
    message_id, message_seq = (_RECVACK_64 if version >= 6 else _RECVACK).unpack_from(body)
    return Recvack(flags, message_id, message_seq)


def _decode_ping(flags: int, body: bytes, version: int) -> Ping:
    return Ping(flags)


def _decode_pong(flags: int, body: bytes, version: int) -> Pong:
    return Pong(flags)


def _decode_disconnect(flags: int, body: bytes, version: int) -> Disconnect:
    reason_code, count = _BYTE_AND_COUNT.unpack_from(body)
    reason, _ = _text(body, 3, count)
    return Disconnect(reason_code, reason)


def _decode_sub(flags: int, body: bytes, version: int) -> Sub:
    setting, count = _BYTE_AND_COUNT.unpack_from(body)
    sub_no, at = _text(body, 3, count)
    channel_id, at = _counted_text(body, at)
    channel_type, action, count = _SUB_MIDDLE.unpack_from(body, at)
    param, _ = _text(body, at + 4, count)
    return Sub(setting, sub_no, channel_id, channel_type, action, param)


def _decode_suback(flags: int, body: bytes, version: int) -> Suback:
    sub_no, at = _counted_text(body, 0)
    channel_id, at = _counted_text(body, at)
    channel_type, action, reason_code = _SUBACK_END.unpack_from(body, at)
    return Suback(sub_no, channel_id, channel_type, action, reason_code)


def _decode_event(flags: int, body: bytes, version: int) -> Event:
    event_id, at = _counted_text(body, 0)
    event_type, at = _counted_text(body, at)
    (timestamp,) = _I64.unpack_from(body, at)
    return Event(event_id, event_type, timestamp, body[at + 8 :])


_DECODERS: dict[int, Callable[[int, bytes, int], Packet]] = {
    PacketType.CONNECT: _decode_connect,
    PacketType.CONNACK: _decode_connack,
    PacketType.SEND: _decode_send,
    PacketType.SENDACK: _decode_sendack,
    PacketType.RECV: _decode_recv,
    PacketType.RECVACK: _decode_recvack,
    PacketType.PING: _decode_ping,
    PacketType.PONG: _decode_pong,
    PacketType.DISCONNECT: _decode_disconnect,
    PacketType.SUB: _decode_sub,
    PacketType.SUBACK: _decode_suback,
    PacketType.EVENT: _decode_event,
}


# Writing -------------------------------------------------------------------------------------------------------------


def encode(packet: Packet, version: int) -> bytes:
    """The whole frame. version: the agreed one; CONNECT does not look at it.

    Fields that the version's layout does not have are left out silently. Raises EncodeError when a value does not fit.
    """
    try:
        return _ENCODERS[type(packet)](packet, version)
    except (error, UnicodeEncodeError) as fault:
        raise EncodeError(f"{type(packet).__name__} does not fit the wire: {fault}") from None


def encode_sendack(
    flags: int, message_id: int, client_seq: int, message_seq: int, reason_code: int, version: int
) -> bytes:
    """The whole frame of a SENDACK without an appended client_msg_no, without building the packet."""
    try:
        if version < 6:
            return _SENDACK_FRAME.pack(0x40 | flags, 17, message_id, client_seq, message_seq, reason_code)
        return bytes((0x40 | flags, 21)) + _SENDACK_64.pack(message_id, client_seq, message_seq, reason_code)
    except error as fault:
        raise EncodeError(f"SENDACK does not fit the wire: {fault}") from None


def _frame(packet_type: int, flags: int, *pieces: bytes) -> bytes:
    body_bytes = sum(map(len, pieces))
    if body_bytes > BODY_LIMIT_BYTES:
        raise EncodeError(f"frame body of {body_bytes} bytes is over the limit of {BODY_LIMIT_BYTES}")
    return b"".join((_U8.pack(packet_type << 4 | flags), encode_length(body_bytes), *pieces))


def _encode_connect(packet: Connect, version: int) -> bytes:
    return _frame(
        PacketType.CONNECT,
        packet.flags,
        _TWO_BYTES.pack(packet.version, packet.device_flag),
        text_field(packet.device_id),
        text_field(packet.uid),
        text_field(packet.token),
        _I64.pack(packet.client_timestamp),
        text_field(packet.client_key),
    )


def _encode_connack(packet: Connack, version: int) -> bytes:
    has_version = packet.server_version is not None
    return _frame(
        PacketType.CONNACK,
        HAS_SERVER_VERSION if has_version else 0,
        _U8.pack(packet.server_version) if has_version else b"",
        _I64.pack(packet.time_diff),
        _U8.pack(packet.reason_code),
        text_field(packet.server_key),
        text_field(packet.salt),
        _U64.pack(packet.node_id) if version >= 4 else b"",
    )


def _encode_send(packet: Send, version: int) -> bytes:
    return _frame(
        PacketType.SEND,
        packet.flags,
        _U8.pack(packet.setting),
        _U32.pack(packet.client_seq),
        text_field(packet.client_msg_no),
        text_field(packet.stream_no) if packet.setting & SETTING_STREAM and 2 <= version < 5 else b"",
        text_field(packet.channel_id),
        _U8.pack(packet.channel_type),
        _U32.pack(packet.expire) if version >= 3 else b"",
        text_field(packet.msg_key),
        text_field(packet.topic) if packet.setting & SETTING_TOPIC else b"",
        packet.payload,
    )


def _encode_sendack(packet: Sendack, version: int) -> bytes:
    layout = _SENDACK_64 if version >= 6 else _SENDACK
    return _frame(
        PacketType.SENDACK,
        packet.flags,
        layout.pack(packet.message_id, packet.client_seq, packet.message_seq, packet.reason_code),
        text_field(packet.client_msg_no) if packet.client_msg_no else b"",
    )


def encode_recv_middle(packet: Recv, version: int) -> bytes:
    """What a RECV has between msg_key and payload; shared between receivers (recv_frame.py). Errors as in `encode`."""
    try:
        if packet.setting & SETTING_STREAM and 2 <= version < 5:
            stream = _U8.pack(packet.stream_flag) + text_field(packet.stream_no) + _U64.pack(packet.stream_id)
        else:
            stream = b""
        ids = _RECV_IDS_64 if version >= 6 else _RECV_IDS
        return b"".join(
            (
                text_field(packet.from_uid),
                text_field(packet.channel_id),
                _U8.pack(packet.channel_type),
                _U32.pack(packet.expire) if version >= 3 else b"",
                text_field(packet.client_msg_no),
                stream,
                ids.pack(packet.message_id, packet.message_seq, packet.timestamp),
                text_field(packet.topic) if packet.setting & SETTING_TOPIC else b"",
            )
        )
    except (error, UnicodeEncodeError) as fault:
        raise EncodeError(f"Recv does not fit the wire: {fault}") from None


def _encode_recv(packet: Recv, version: int) -> bytes:
    return _frame(
        PacketType.RECV,
        packet.flags,
        _U8.pack(packet.setting),
        text_field(packet.msg_key),
        encode_recv_middle(packet, version),
        packet.payload,
    )


def _encode_recvack(packet: Recvack, version: int) -> bytes:
    layout = _RECVACK_64 if version >= 6 else _RECVACK
    return _frame(PacketType.RECVACK, packet.flags, layout.pack(packet.message_id, packet.message_seq))


def _encode_ping(packet: Ping, version: int) -> bytes:
    return _U8.pack(PacketType.PING << 4 | packet.flags)


def _encode_pong(packet: Pong, version: int) -> bytes:
    return _U8.pack(PacketType.PONG << 4 | packet.flags)


def _encode_disconnect(packet: Disconnect, version: int) -> bytes:
    return _frame(PacketType.DISCONNECT, 0, _U8.pack(packet.reason_code), text_field(packet.reason))


def _encode_sub(packet: Sub, version: int) -> bytes:
    return _frame(
        PacketType.SUB,
        0,
        _U8.pack(packet.setting),
        text_field(packet.sub_no),
        text_field(packet.channel_id),
        _TWO_BYTES.pack(packet.channel_type, packet.action),
        text_field(packet.param),
    )


def _encode_suback(packet: Suback, version: int) -> bytes:
    return _frame(
        PacketType.SUBACK,
        0,
        text_field(packet.sub_no),
        text_field(packet.channel_id),
        _SUBACK_END.pack(packet.channel_type, packet.action, packet.reason_code),
    )


def _encode_event(packet: Event, version: int) -> bytes:
    return _frame(
        PacketType.EVENT,
        0,
        text_field(packet.id),
        text_field(packet.type),
        _I64.pack(packet.timestamp),
        packet.data,
    )


# Any: each encoder takes its own packet type, which the key of the table guarantees.
_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    Connect: _encode_connect,
    Connack: _encode_connack,
    Send: _encode_send,
    Sendack: _encode_sendack,
    Recv: _encode_recv,
    Recvack: _encode_recvack,
    Ping: _encode_ping,
    Pong: _encode_pong,
    Disconnect: _encode_disconnect,
    Sub: _encode_sub,
    Suback: _encode_suback,
    Event: _encode_event,
}
