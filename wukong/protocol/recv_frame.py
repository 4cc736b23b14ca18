"""One message on its way to many receivers: what does not depend on the receiver is encoded once.

A SharedRecv is the message, a RecvView how a group of receivers sees it: person channels carry the peer's uid, and the
sender's own devices get no red dot (wkproto.md, 7.4). Inside a view the versions share layouts; a layout is built when
the first receiver of that version comes. Per receiver remain two AES passes, one MD5, base64 and one join.
"""

from base64 import b64encode
from typing import Final

from msgspec.structs import replace

from wukong.protocol import jsonrpc
from wukong.protocol.codec import BODY_LIMIT_BYTES, EncodeError, encode, encode_length, encode_recv_middle
from wukong.protocol.crypto import BLOCK_BYTES, Cipher, padding_for, recv_sign_text, sealed_bytes
from wukong.protocol.packets import SETTING_NO_ENCRYPT, SETTING_OLD_STREAM, SETTING_STREAM, PacketType, Recv

VIEW_LIMIT_COUNT: Final = 64
"""Views kept per message. Beyond it a view is built and handed out, but not kept. Real messages have at most four."""

_OLD_STREAM_BITS: Final = SETTING_STREAM | SETTING_OLD_STREAM
_KEY_COUNT: Final = b"\x00\x20"  # msg_key has 32 characters
# Versions with one layout: below 3, 3 and 4, 5, from 6 on.
_LAYOUT_OF_VERSION: Final = (0, 0, 0, 1, 1, 2, 3)
_VERSION_OF_LAYOUT: Final = (1, 4, 5, 6)


class SharedRecv:
    """A message as stored. timestamp: seconds; payload: the plaintext; setting, topic, expire as in the SEND.

    message_seq is 0 for messages that were not stored. The same object serves repetitions: nothing in it changes.
    """

    __slots__ = (
        "_payload_base64",
        "_views",
        "client_msg_no",
        "expire",
        "message_id",
        "message_seq",
        "payload",
        "setting",
        "timestamp",
        "topic",
    )

    def __init__(
        self,
        *,
        message_id: int,
        message_seq: int,
        client_msg_no: str,
        timestamp: int,
        payload: bytes,
        setting: int = 0,
        topic: str = "",
        expire: int = 0,
    ) -> None:
        self.message_id = message_id
        self.message_seq = message_seq
        self.client_msg_no = client_msg_no
        self.timestamp = timestamp
        self.payload = payload
        self.setting = setting
        self.topic = topic
        self.expire = expire
        self._views: dict[tuple[str, str, int, int], RecvView] = {}
        self._payload_base64 = ""

    def view(self, from_uid: str, channel_id: str, channel_type: int, flags: int) -> "RecvView":
        """The message as a group of receivers sees it; equal arguments give the same view.

        flags: NO_PERSIST, RED_DOT, SYNC_ONCE as they travel to these receivers.
        """
        key = (from_uid, channel_id, channel_type, flags)
        view = self._views.get(key)
        if view is None:
            view = RecvView(self, from_uid, channel_id, channel_type, flags)
            if len(self._views) < VIEW_LIMIT_COUNT:
                self._views[key] = view
        return view

    @property
    def payload_base64(self) -> str:
        """The payload as JSON-RPC carries it."""
        if not self._payload_base64 and self.payload:
            self._payload_base64 = b64encode(self.payload).decode()
        return self._payload_base64


class RecvView:
    """One message as some of its receivers see it. Made by `SharedRecv.view`."""

    __slots__ = ("_json_texts", "_layouts", "channel_id", "channel_type", "flags", "from_uid", "message")

    def __init__(self, message: SharedRecv, from_uid: str, channel_id: str, channel_type: int, flags: int) -> None:
        self.message = message
        self.from_uid = from_uid
        self.channel_id = channel_id
        self.channel_type = channel_type
        self.flags = flags
        self._layouts: list[_Layout | None] = [None, None, None, None]
        # With the payload as base64, and with the payload as a JSON value.
        self._json_texts: list[bytes | None] = [None, None]

    def frame(self, version: int, cipher: Cipher | None) -> bytes:
        """The whole RECV frame for one connection: sealed and signed with its cipher, plain and shared without one.

        version: the agreed one. Raises EncodeError when a field or the whole does not fit the wire.
        """
        index = _LAYOUT_OF_VERSION[version] if version < 6 else 3
        layout = self._layouts[index]
        if layout is None:
            layout = self._layouts[index] = _Layout(self.packet(), _VERSION_OF_LAYOUT[index])
        if cipher is None:
            return layout.plain_frame()
        if layout.is_long:
            wire, msg_key = cipher.seal_and_sign(
                layout.first_block, layout.rest, layout.sign_block, layout.sign_rest, layout.sign_padding
            )
        else:
            wire, msg_key = layout.seal_in_two_steps(cipher)
        return b"".join((layout.head, msg_key, layout.middle, wire))

    def json_text(self, *, payload_as_json: bool = False) -> bytes:
        """The `recv` notification. payload_as_json: the payload as a JSON value instead of base64, if it is JSON."""
        text = self._json_texts[payload_as_json]
        if text is None:
            message = self.message
            text = self._json_texts[payload_as_json] = jsonrpc.encode_recv(
                self.packet(), message.payload_base64, payload_as_json=payload_as_json
            )
        return text

    def packet(self) -> Recv:
        """The same as a packet, without key, with the plaintext payload."""
        message = self.message
        return Recv(
            flags=self.flags,
            setting=message.setting,
            msg_key="",
            from_uid=self.from_uid,
            channel_id=self.channel_id,
            channel_type=self.channel_type,
            client_msg_no=message.client_msg_no,
            message_id=message.message_id,
            message_seq=message.message_seq,
            timestamp=message.timestamp,
            expire=message.expire,
            topic=message.topic,
            payload=message.payload,
        )


class _Layout:
    """The bytes of a view for versions with one layout, cut where a receiver's own bytes go in:
    head | msg_key | middle | sealed payload."""

    __slots__ = (
        "_plain_frame",
        "_sign_text",
        "first_block",
        "head",
        "is_long",
        "middle",
        "packet",
        "rest",
        "sign_block",
        "sign_padding",
        "sign_rest",
        "version",
    )

    def __init__(self, packet: Recv, version: int) -> None:
        # Clients below version 5 disagree about the stream fields; without the bits all agree (wkproto.md, 3.5).
        if version < 5:
            packet = replace(packet, setting=packet.setting & ~_OLD_STREAM_BITS)
        self.packet = packet
        self.version = version
        self._plain_frame = b""
        self.middle = encode_recv_middle(packet, version)
        payload = packet.payload
        wire_bytes = sealed_bytes(len(payload))
        body_bytes = 1 + len(_KEY_COUNT) + 32 + len(self.middle) + wire_bytes
        if body_bytes > BODY_LIMIT_BYTES:
            raise EncodeError(f"RECV body of {body_bytes} bytes is over the limit of {BODY_LIMIT_BYTES}")
        first_byte = PacketType.RECV << 4 | packet.flags
        # The sender's payload may have come in clear; this one is sealed, and some clients go by the bit.
        setting = packet.setting & ~SETTING_NO_ENCRYPT
        self.head = b"".join((bytes((first_byte,)), encode_length(body_bytes), bytes((setting,)), _KEY_COUNT))
        padded = payload + padding_for(len(payload))
        self.first_block = int.from_bytes(padded[:BLOCK_BYTES], "big")
        self.rest = padded[BLOCK_BYTES:]
        self._sign_text = sign_text = recv_sign_text(
            packet.message_id,
            packet.message_seq,
            packet.client_msg_no,
            packet.timestamp,
            packet.from_uid,
            packet.channel_id,
            packet.channel_type,
            b"",
        )
        # Only then the first block of the sign text is the same for all receivers. Always so with real message ids.
        self.is_long = len(sign_text) >= BLOCK_BYTES
        self.sign_block = int.from_bytes(sign_text[:BLOCK_BYTES], "big")
        self.sign_rest = sign_text[BLOCK_BYTES:]
        self.sign_padding = padding_for(len(sign_text) + wire_bytes)

    def plain_frame(self) -> bytes:
        if not self._plain_frame:
            self._plain_frame = encode(self.packet, self.version)
        return self._plain_frame

    def seal_in_two_steps(self, cipher: Cipher) -> tuple[bytes, bytes]:
        wire = cipher.seal(self.packet.payload)
        return wire, cipher.sign(self._sign_text + wire)
