"""The client's half of one connection, without a socket: bytes in, events out, and frames to write.

The counterpart of wukong.protocol.connection. WKProto only; the agreed version decides the layouts. Source: wkproto.md,
sections 3, 6 and 7.
"""

from typing import Final

import msgspec

from wukong.errors import ProtocolError
from wukong.protocol.codec import PING_FRAME, decode, encode
from wukong.protocol.crypto import Cipher, ClientHandshake, PayloadError, recv_sign_text, send_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import (
    LATEST_VERSION,
    SETTING_TOPIC,
    Connack,
    Connect,
    Disconnect,
    Event,
    PacketType,
    Pong,
    Recv,
    Recvack,
    Send,
    Sendack,
)
from wukong.protocol.reasons import ReasonCode


class Received(msgspec.Struct, frozen=True, gc=False):
    """payload: verified and unsealed (packet.payload is what travelled)."""

    packet: Recv
    payload: bytes


class Unreadable(msgspec.Struct, frozen=True):
    """A RECV whose msg_key is wrong or whose payload cannot be unsealed. Not to be acknowledged: the server repeats
    it, and its absence shows in message_seq."""

    packet: Recv
    error: ProtocolError


# A Connack is the answer to CONNECT whatever its reason_code.
WireEvent = Connack | Received | Unreadable | Sendack | Disconnect | Event | Pong


class ClientWire:
    """`connect_frame` first; then `receive_data` gives events and the other methods give frames.

    After a Connack with reason 1 `logged_in` is true and packets can be made. handshake: None asks for a connection
    without encryption, which most servers refuse.
    """

    def __init__(self, *, handshake: ClientHandshake | None, version: int = LATEST_VERSION) -> None:
        self._handshake = handshake
        self._decoder = FrameDecoder()
        self.version = version
        self.cipher: Cipher | None = None
        self.logged_in = False

    def connect_frame(self, *, uid: str, token: str, device_id: str, device_flag: int, now_ms: int) -> bytes:
        """Raises EncodeError when a field does not fit."""
        client_key = self._handshake.client_key if self._handshake else ""
        packet = Connect(self.version, uid, token, device_id, device_flag, now_ms, client_key)
        return encode(packet, self.version)

    def receive_data(self, data: bytes) -> list[WireEvent]:
        """What the bytes mean, in their order. Raises ProtocolError when the server breaks the protocol: final."""
        decoder = self._decoder
        decoder.receive_data(data)
        events: list[WireEvent] = []
        while (frame := decoder.next_frame()) is not None:
            packet = decode(frame.frame_type, frame.flags, frame.body, self._layout_of(frame.frame_type, frame.flags))
            if isinstance(packet, Recv):
                events.append(self._open(packet))
            elif isinstance(packet, Connack):
                self._take_connack(packet)
                events.append(packet)
            elif isinstance(packet, Sendack | Disconnect | Event | Pong):
                events.append(packet)
            # SUBACK answers what this client never sends; the rest makes no sense from a server. Ignored.
        return events

    def send_frame(
        self,
        *,
        client_seq: int,
        client_msg_no: str,
        channel_id: str,
        channel_type: int,
        payload: bytes,
        flags: int,
        setting: int,
        expire: int,
        topic: str,
    ) -> bytes:
        """A SEND, sealed and signed for this connection. Raises EncodeError when a field does not fit."""
        msg_key = ""
        if self.cipher is not None:
            payload = self.cipher.seal(payload)
            sign_text = send_sign_text(client_seq, client_msg_no, channel_id, channel_type, payload)
            msg_key = self.cipher.sign(sign_text).decode()
        packet = Send(
            flags=flags,
            setting=setting | SETTING_TOPIC if topic else setting & ~SETTING_TOPIC,
            client_seq=client_seq,
            client_msg_no=client_msg_no,
            channel_id=channel_id,
            channel_type=channel_type,
            expire=expire,
            msg_key=msg_key,
            topic=topic,
            payload=payload,
        )
        return encode(packet, self.version)

    def recvack_frame(self, flags: int, message_id: int, message_seq: int) -> bytes:
        return encode(Recvack(flags, message_id, message_seq), self.version)

    def ping_frame(self) -> bytes:
        return PING_FRAME

    def _layout_of(self, frame_type: int, flags: int) -> int:
        # A CONNACK says by its flag whether it has the fields of version 4 (wkproto.md, 3.2).
        if frame_type == PacketType.CONNACK and not flags & 1:
            return min(self.version, 3)
        return self.version

    def _take_connack(self, packet: Connack) -> None:
        if self.logged_in:
            raise ProtocolError("a second CONNACK")
        if packet.reason_code != ReasonCode.SUCCESS:
            return
        if packet.server_version is not None:
            self.version = min(self.version, packet.server_version)
        else:
            self.version = min(self.version, 3)
        if self._handshake is not None:
            self.cipher = self._handshake.finish(packet.server_key, packet.salt)
        self.logged_in = True

    def _open(self, packet: Recv) -> WireEvent:
        cipher = self.cipher
        if cipher is None:
            return Received(packet, packet.payload)
        text = recv_sign_text(
            packet.message_id,
            packet.message_seq,
            packet.client_msg_no,
            packet.timestamp,
            packet.from_uid,
            packet.channel_id,
            packet.channel_type,
            packet.payload,
        )
        if cipher.sign(text) != packet.msg_key.encode():
            return Unreadable(packet, _WRONG_KEY)
        try:
            return Received(packet, cipher.unseal(packet.payload))
        except PayloadError as fault:
            return Unreadable(packet, fault)


_WRONG_KEY: Final = ProtocolError("msg_key does not fit the message")
