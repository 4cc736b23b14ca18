"""A client of the wire protocol that shares no code with the server: it would not repeat a mistake of ours.

Blocking sockets with deadlines; one thread per case. Frames arrive as dictionaries in the words of the recorded cases.
Layouts: wkproto.md.
"""

import base64
import hashlib
import json
import random
import socket
import struct
import time
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.compat.matching import Mismatch

CONNECT, CONNACK, SEND, SENDACK, RECV, RECVACK, PING, PONG, DISCONNECT, SUB, SUBACK, EVENT = range(1, 13)
NAMES = {
    CONNACK: "connack",
    SENDACK: "sendack",
    RECV: "recv",
    PONG: "pong",
    DISCONNECT: "disconnect",
    SUBACK: "suback",
    EVENT: "event",
}
_FLAGS = {"no_persist": 1, "red_dot": 2, "sync_once": 4, "dup": 8}
_TOPIC, _STREAM = 0x08, 0x02

# Any: a step's options and a frame's fields are JSON.
Options = dict[str, Any]
Frame = Any


class Tcp:
    """A socket read with deadlines; `closed` once the peer is gone."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closed = False
        self.kinds: list[str] = []

    def write(self, data: bytes, *, text: bool = False) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True

    def read(self, seconds: float) -> bytes:
        """Bytes, or none when nothing came in time or the connection is closed."""
        if self.closed:
            return b""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.closed = True
        return data

    def close(self) -> None:
        self.closed = True
        self.socket.close()


class WebSocket(Tcp):
    """The same over WebSocket; kinds: for every message whether it was "text" or "binary"."""

    def __init__(self, address: str, path: str = "/") -> None:
        super().__init__(address)
        self.buffer = b""
        key = base64.b64encode(random.randbytes(16)).decode()
        super().write(
            (
                f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            data = super().read(3)
            if not data:
                self.close()
                raise Mismatch(["WebSocket: no answer to the upgrade"])
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            self.close()
            raise Mismatch([f"WebSocket: upgrade refused: {head[:80]!r}"])

    def write(self, data: bytes, *, text: bool = False) -> None:
        size = len(data)
        head = bytes([0x81 if text else 0x82])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += struct.pack(">BH", 0x80 | 126, size)
        else:
            head += struct.pack(">BQ", 0x80 | 127, size)
        mask = random.randbytes(4)
        super().write(head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(data)))

    def read(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while True:
            message = self._take()
            if message is not None:
                return message
            if self.closed or time.monotonic() >= deadline:
                return b""
            self.buffer += super().read(deadline - time.monotonic())

    def _take(self) -> bytes | None:
        if len(self.buffer) < 2:
            return None
        opcode, size, start = self.buffer[0] & 15, self.buffer[1] & 127, 2
        if size == 126:
            size, start = int.from_bytes(self.buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(self.buffer[2:10], "big"), 10
        if len(self.buffer) < start + size:
            return None
        data, self.buffer = self.buffer[start : start + size], self.buffer[start + size :]
        if opcode == 8:
            self.closed = True
            return b""
        if opcode in (1, 2):
            self.kinds.append("text" if opcode == 1 else "binary")
            return data
        return self._take()


def put_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def put_frame(kind: int, flags: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([kind << 4 | flags]) + length + body


def _flag_bits(options: Options) -> int:
    return sum(bit for name, bit in _FLAGS.items() if options.get(name))


def _flag_names(bits: int) -> list[str]:
    return [name for name, bit in _FLAGS.items() if bits & bit]


class _Fields:
    """Takes the fields off a frame's body, in order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        size = self.number("H")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def rest(self) -> bytes:
        return self.data[self.at :]


class _Sealer:
    """Payload encryption and msg_key of one connection; does nothing when the server gave no key."""

    def __init__(self, private: X25519PrivateKey | None = None, server_key: str = "", salt: str = "") -> None:
        self.on = private is not None and bool(server_key)
        if private is not None and server_key:
            shared = private.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(server_key)))
            key = hashlib.md5(base64.b64encode(shared)).hexdigest()[:16].encode()
            self.cipher = Cipher(algorithms.AES(key), modes.CBC(salt.encode()))

    def seal(self, data: bytes) -> bytes:
        if not self.on:
            return data
        padder, encryptor = padding.PKCS7(128).padder(), self.cipher.encryptor()
        return base64.b64encode(encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize())

    def open(self, data: bytes) -> bytes:
        if not self.on:
            return data
        decryptor, unpadder = self.cipher.decryptor(), padding.PKCS7(128).unpadder()
        plain = decryptor.update(base64.b64decode(data)) + decryptor.finalize()
        return unpadder.update(plain) + unpadder.finalize()

    def key(self, *parts: object) -> str:
        if not self.on:
            return ""
        text = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
        return hashlib.md5(self.seal(text)).hexdigest()


class Client:
    """One connection: sends frames, keeps what arrives in an inbox of (name, frame)."""

    def __init__(self, transport: Tcp, name: str) -> None:
        self.transport = transport
        self.name = name
        self.buffer = b""
        self.inbox: list[tuple[str, Frame]] = []
        self.sequence = 0
        self.version = 5
        self._sealer = _Sealer()
        self._private = X25519PrivateKey.generate()

    # -- sending --

    def connect(self, options: Options) -> None:
        self.version = options.get("version", 5)
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        body = struct.pack(">BB", self.version, options.get("device_flag", 0))
        body += put_text(options["device_id"]) + put_text(options["uid"]) + put_text(options.get("token", ""))
        body += struct.pack(">q", int(time.time() * 1000) + options.get("clock_offset_ms", 0))
        body += put_text(options.get("client_key", base64.b64encode(public).decode()))
        self.version = min(self.version, 5)
        self.transport.write(put_frame(CONNECT, 0, body) + bytes.fromhex(options.get("pipelined_hex", "")))

    def send(self, options: Options) -> tuple[int, str]:
        """Writes a SEND; returns its client_seq and client_msg_no."""
        self.sequence = seq = options.get("client_seq", self.sequence + 1)
        number = options.get("client_msg_no", f"{self.name}-{seq}-{random.getrandbits(48):012x}")
        setting = options.get("setting", 0) | (_TOPIC if "topic" in options else 0)
        content = options.get("payload", "")
        content = content if isinstance(content, str) else json.dumps(content, separators=(",", ":"))
        payload = self._sealer.seal(content.encode())
        if options.get("bad_payload"):
            payload = options["bad_payload"].encode()
        channel, kind = options["channel_id"], options["channel_type"]
        msg_key = options.get("msg_key", self._sealer.key(seq, number, channel, kind, payload))
        body = struct.pack(">BI", setting, seq) + put_text(number)
        if setting & _STREAM and 2 <= self.version < 5:
            body += put_text(options.get("stream_no", ""))
        body += put_text(channel) + bytes([kind])
        if self.version >= 3:
            body += struct.pack(">I", options.get("expire", 0))
        body += put_text(msg_key)
        if setting & _TOPIC:
            body += put_text(options["topic"])
        self.transport.write(put_frame(SEND, _flag_bits(options), body + payload))
        return seq, number

    def recvack(self, options: Options) -> None:
        body = struct.pack(">qI", int(options["message_id"]), options["message_seq"])
        self.transport.write(put_frame(RECVACK, _flag_bits(options), body))

    # -- receiving --

    def _next_raw(self) -> tuple[int, int, bytes] | None:
        """The next complete frame in the buffer as (type, flags, body)."""
        if not self.buffer:
            return None
        kind, flags = self.buffer[0] >> 4, self.buffer[0] & 15
        if kind in (PING, PONG):
            self.buffer = self.buffer[1:]
            return kind, flags, b""
        size = shift = at = 0
        for at in range(1, 5):
            if at >= len(self.buffer):
                return None
            size |= (self.buffer[at] & 127) << shift
            shift += 7
            if not self.buffer[at] & 128:
                break
        if len(self.buffer) < at + 1 + size:
            return None
        body, self.buffer = self.buffer[at + 1 : at + 1 + size], self.buffer[at + 1 + size :]
        return kind, flags, body

    def _decode(self, kind: int, flags: int, body: bytes) -> Frame:
        fields = _Fields(body)
        if kind == CONNACK:
            return self._decode_connack(flags, fields)
        if kind == SENDACK:
            return {
                "flags": _flag_names(flags),
                "message_id": fields.number("q"),
                "client_seq": fields.number("I"),
                "message_seq": fields.number("I"),
                "reason_code": fields.number("B"),
            }
        if kind == RECV:
            return self._decode_recv(flags, fields)
        if kind == DISCONNECT:
            return {"reason_code": fields.number("B"), "reason": fields.text()}
        if kind == EVENT:
            frame = {"id": fields.text(), "type": fields.text(), "timestamp": fields.number("q")}
            text = fields.rest().decode("utf-8", "replace")
            try:
                return {**frame, "data": json.loads(text)}
            except ValueError:
                return {**frame, "data": text}
        return {"hex": body.hex()}

    def _decode_connack(self, flags: int, fields: _Fields) -> Frame:
        frame: Frame = {"server_version": fields.number("B")} if flags & 1 else {}
        frame["time_diff"] = fields.number("q")
        frame["reason_code"] = fields.number("B")
        frame["server_key"] = fields.text()
        frame["salt"] = fields.text()
        if self.version >= 4:
            frame["node_id"] = fields.number("Q")
        if frame["reason_code"] == 1:
            self._sealer = _Sealer(self._private, frame["server_key"], frame["salt"])
        return frame

    def _decode_recv(self, flags: int, fields: _Fields) -> Frame:
        setting, msg_key = fields.number("B"), fields.text()
        frame: Frame = {
            "flags": _flag_names(flags),
            "setting": setting,
            "from_uid": fields.text(),
            "channel_id": fields.text(),
            "channel_type": fields.number("B"),
        }
        if self.version >= 3:
            frame["expire"] = fields.number("I")
        frame["client_msg_no"] = fields.text()
        if setting & _STREAM and 2 <= self.version < 5:
            frame |= {"stream_flag": fields.number("B"), "stream_no": fields.text(), "stream_id": fields.number("Q")}
        frame |= {
            "message_id": fields.number("q"),
            "message_seq": fields.number("I"),
            "timestamp": fields.number("i"),
        }
        if setting & _TOPIC:
            frame["topic"] = fields.text()
        payload = fields.rest()
        signed = ("message_id", "message_seq", "client_msg_no", "timestamp", "from_uid", "channel_id", "channel_type")
        wish = self._sealer.key(*(frame[name] for name in signed), payload)
        frame["msg_key"] = "wrong" if msg_key != wish else "valid" if msg_key else "empty"
        try:
            frame["payload"] = self._sealer.open(payload).decode()
        except ValueError:
            frame["payload"] = {"undecodable_hex": payload.hex()}
        return frame

    def poll(self, seconds: float) -> None:
        """Reads once and moves complete frames to the inbox."""
        self.buffer += self.transport.read(seconds)
        while (raw := self._next_raw()) is not None:
            try:
                frame = self._decode(*raw)
            except (struct.error, ValueError) as error:
                raise Mismatch([f"{self.name}: frame of type {raw[0]} cannot be decoded: {error}"]) from error
            self.inbox.append((NAMES.get(raw[0], f"type {raw[0]}"), frame))

    def take(self, kind: str, seconds: float) -> Frame:
        """The first frame of this kind, waiting for it; None when none came."""
        deadline = time.monotonic() + seconds
        while True:
            for n, (name, frame) in enumerate(self.inbox):
                if name == kind:
                    del self.inbox[n]
                    return frame
            left = deadline - time.monotonic()
            if left <= 0 or self.transport.closed:
                return None
            self.poll(left)


class JsonClient(Client):
    """A JSON-RPC connection; its inbox holds whole messages under the kind "json"."""

    def poll(self, seconds: float) -> None:
        self.buffer += self.transport.read(seconds)
        decoder = json.JSONDecoder()
        while text := self.buffer.decode("utf-8", "ignore").lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                break
            self.buffer = text[end:].encode()
            self.inbox.append(("json", value))
