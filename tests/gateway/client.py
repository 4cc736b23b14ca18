"""A client that is told every byte: WKProto or JSON-RPC, on TCP or in a WebSocket."""

import asyncio
import base64
import json
import os
import ssl
from typing import Any, cast

from wukong.gateway.frames import unmask
from wukong.protocol.codec import decode, encode
from wukong.protocol.crypto import Cipher, ClientHandshake, send_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.json_stream import JsonSplitter
from wukong.protocol.packets import Connack, Connect, Packet, Recv, Send

TIMEOUT_S = 10.0


class Closed(Exception):
    """The server closed. code: of a WebSocket's CLOSE, else None."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


def websocket_frame(body: bytes, first: int = 0x82, *, masked: bool = True, mask: bytes | None = None) -> bytes:
    size = len(body)
    bit = 0x80 if masked else 0
    if size < 126:
        header = bytes((first, bit | size))
    elif size < 0x10000:
        header = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return header + body
    mask = os.urandom(4) if mask is None else mask
    return header + mask + unmask(mask, body)


class Client:
    """`kind`: tcp, ws or wss. `version`: what the client's layouts are; set by `login`."""

    def __init__(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.kind = kind
        self.reader = reader
        self.writer = writer
        self.version = 5
        self.cipher: Cipher | None = None
        # What came in one read, as messages of the protocol: (opcode or 0, bytes).
        self._messages: list[tuple[int, bytes]] = []
        self._frames = FrameDecoder()
        self._texts = JsonSplitter(limit_bytes=1 << 20)
        self._raw = b""

    # Opening ---------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls, kind: str, port: int, *, before: bytes = b"", headers: str = "", tls: ssl.SSLContext | None = None
    ) -> "Client":
        """before: sent in front of everything, on the bare socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        client = cls(kind, reader, writer)
        if before:
            writer.write(before)
        if kind != "tcp":
            writer.write(upgrade_request(headers))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise AssertionError(head)
        return client

    async def login(
        self, uid: str = "alice", *, version: int = 5, device_id: str = "d1", token: str = "", device_flag: int = 0
    ) -> Connack:
        handshake = ClientHandshake()
        connect = Connect(version, uid, token, device_id, device_flag, 0, handshake.client_key)
        self.send_packet(connect)
        self.version = min(version, 5)
        connack = await self.packet()
        assert isinstance(connack, Connack), connack
        self.cipher = handshake.finish(connack.server_key, connack.salt)
        return connack

    # Sending ---------------------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """As one write: on a WebSocket one binary message."""
        self.writer.write(data if self.kind == "tcp" else websocket_frame(data))

    def send_packet(self, packet: Packet) -> None:
        self.send_bytes(encode(packet, self.version))

    def seal(self, send: Send) -> bytes:
        """The frame of a SEND, sealed and signed as this connection wants it."""
        if self.cipher is not None:
            payload = self.cipher.seal(send.payload)
            text = send_sign_text(send.client_seq, send.client_msg_no, send.channel_id, send.channel_type, payload)
            key = self.cipher.sign(text).decode()
            send = Send(
                send.flags,
                send.setting,
                send.client_seq,
                send.client_msg_no,
                send.channel_id,
                send.channel_type,
                send.expire,
                key,
                send.topic,
                payload,
            )
        return encode(send, self.version)

    def message(self, client_seq: int, payload: bytes = b"hello", flags: int = 2) -> bytes:
        return self.seal(Send(flags, 0, client_seq, f"no-{client_seq}", "bob", 1, payload=payload))

    def send_json(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.writer.write(data if self.kind == "tcp" else websocket_frame(data, 0x81))

    def stop_reading(self) -> None:
        """Leave what comes in the kernel."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def read_on(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    # Receiving -------------------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """What the socket has, or Closed."""
        try:
            data = await asyncio.wait_for(self.reader.read(1 << 20), TIMEOUT_S)
        except ConnectionError:
            data = b""
        if not data:
            raise Closed(None)
        return data

    async def next_message(self) -> tuple[int, bytes]:
        """(first byte of the WebSocket frame, body); on TCP (0, bytes of one read)."""
        if self.kind == "tcp":
            return 0, await self.read()
        while True:
            raw = self._raw
            if len(raw) >= 2:
                size, at = raw[1], 2
                if size >= 126:
                    width = 2 if size == 126 else 8
                    size, at = int.from_bytes(raw[2 : 2 + width], "big"), 2 + width
                if len(raw) >= at + size:
                    self._raw = raw[at + size :]
                    body = raw[at : at + size]
                    if raw[0] == 0x88:
                        raise Closed(int.from_bytes(body[:2], "big") if body else None)
                    return raw[0], body
            self._raw += await self.read()

    async def packet(self) -> Packet:
        """The next packet. On a WebSocket it has to fill its message exactly, in a binary one."""
        while True:
            if self.kind != "tcp":
                first, body = await self.next_message()
                assert first == 0x82, hex(first)
                self._frames.receive_data(body)
                frame = self._frames.next_frame()
                assert frame is not None
                assert self._frames.buffered_bytes == 0
            else:
                frame = self._frames.next_frame()
                if frame is None:
                    self._frames.receive_data(await self.read())
                    continue
            return decode(frame.frame_type, frame.flags, frame.body, self.version)

    async def recv(self) -> Recv:
        """The next packet, a RECV, verified and with its payload in clear."""
        packet = await self.packet()
        assert isinstance(packet, Recv), packet
        if self.cipher is None:
            return packet
        return Recv(
            packet.flags,
            packet.setting,
            "",
            packet.from_uid,
            packet.channel_id,
            packet.channel_type,
            packet.client_msg_no,
            packet.message_id,
            packet.message_seq,
            packet.timestamp,
            packet.expire,
            packet.topic,
            self.cipher.unseal(packet.payload),
        )

    async def json(self) -> dict[str, Any]:
        """The next JSON object. On a WebSocket it has to be one text message."""
        value: dict[str, Any]
        while True:
            if self.kind != "tcp":
                first, body = await self.next_message()
                assert first == 0x81, hex(first)
                value = json.loads(body)
                break
            text = self._texts.next_text()
            if text is not None:
                value = json.loads(text)
                break
            self._texts.receive_data(await self.read())
        return value

    async def closed(self) -> int | None:
        """Wait for the end; what comes before is dropped. The code of a WebSocket's CLOSE, which is answered."""
        code: int | None = None
        try:
            while True:
                await self.next_message()
        except Closed as closed:
            code = closed.code
        if code is not None:
            self.writer.write(websocket_frame(code.to_bytes(2, "big"), 0x88))
            try:
                while True:
                    await self.read()
            except Closed:
                pass
        return code

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


def upgrade_request(headers: str = "", path: str = "/any/path?x=1") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
    ).encode()
