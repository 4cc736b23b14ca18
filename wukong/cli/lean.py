"""A client connection for load and checks: counts what comes and acknowledges it, and does nothing else.

Leaner than the SDK on purpose, so that what is measured is the server: no task per connection, a RECV is looked at only
as far as its ids, payloads are neither verified nor unsealed, keys are agreed on when the first SEND needs them, and
a process has one key pair. It never reconnects and lets repetitions and disorder through: its users look for them.
Layouts: wkproto.md, section 3, version 5.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Final, cast

from wukong.errors import ProtocolError, WukongError
from wukong.protocol.codec import PING_FRAME, decode, encode, encode_length
from wukong.protocol.crypto import Cipher, ClientHandshake, send_sign_text
from wukong.protocol.decoder import FRAME_LIMIT_BYTES
from wukong.protocol.packets import NO_PERSIST, Connack, Connect, PacketType
from wukong.protocol.reasons import ReasonCode, reason_text

VERSION: Final = 5
LOGIN_TIMEOUT_S: Final = 5.0

_CONNACK: Final = int(PacketType.CONNACK)
_SENDACK: Final = int(PacketType.SENDACK)
_RECV: Final = int(PacketType.RECV)
_PONG: Final = int(PacketType.PONG)
_DISCONNECT: Final = int(PacketType.DISCONNECT)

_count = struct.Struct(">H").unpack_from
_recv_ids = struct.Struct(">qI").unpack_from
_sendack = struct.Struct(">qIIB").unpack_from
_recvack = struct.Struct(">BBqI").pack
_send_start = struct.Struct(">BIH").pack
_send_type = struct.Struct(">BIH").pack
_pack_count = struct.Struct(">H").pack

monotonic_ns = time.monotonic_ns

OnRecv = Callable[["LeanConnection", bytes, int], None]
OnSendack = Callable[["LeanConnection", int, int, int], None]


class NoLogin(WukongError):
    """reason: of the CONNACK; 0 when there was none: nobody listens, closed, or not in time."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class LeanConnection(asyncio.Protocol):
    """on_recv(connection, client_msg_no, message_seq): called for every RECV, repetitions included.
    on_sendack(connection, client_seq, message_seq, reason). Both run in the loop and must be quick.

    in_flight: SENDs without an answer. closed: the socket is gone. kicked: reason of a DISCONNECT.
    """

    _handshake: ClientHandshake | None = None

    def __init__(self, uid: str, *, on_recv: OnRecv | None = None, on_sendack: OnSendack | None = None) -> None:
        self.uid = uid
        self.on_recv = on_recv
        self.on_sendack = on_sendack
        self.in_flight = 0
        self.received_count = 0
        self.pongs_count = 0
        self.closed = False
        self.kicked: int | None = None
        self._client_seq = 0
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._login: asyncio.Future[None] | None = None
        self._keys: tuple[str, str] | None = None
        self._cipher: Cipher | None = None

    # -- login and end --

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        uid: str,
        *,
        token: str = "",
        device_id: str = "",
        on_recv: OnRecv | None = None,
        on_sendack: OnSendack | None = None,
    ) -> "LeanConnection":
        """Connect and log in. Raises NoLogin."""
        loop = asyncio.get_running_loop()
        connection = cls(uid, on_recv=on_recv, on_sendack=on_sendack)
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                await loop.create_connection(lambda: connection, host, port)
                connection._login = loop.create_future()
                connection._write_connect(token, device_id or uid)
                await connection._login
        except TimeoutError:
            connection.abort()
            raise NoLogin(0, f"{host}:{port} did not answer in {LOGIN_TIMEOUT_S:g} s") from None
        except OSError as error:
            connection.abort()
            words = "connection refused" if isinstance(error, ConnectionRefusedError) else str(error)
            raise NoLogin(0, f"cannot connect to {host}:{port}: {words}") from error
        except BaseException:
            connection.abort()
            raise
        return connection

    def _write_connect(self, token: str, device_id: str) -> None:
        if LeanConnection._handshake is None:
            LeanConnection._handshake = ClientHandshake()
        now_ms = time.time_ns() // 1_000_000
        packet = Connect(VERSION, self.uid, token, device_id, 0, now_ms, LeanConnection._handshake.client_key)
        self._write(encode(packet, VERSION))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._login is not None and not self._login.done():
            self._login.set_exception(NoLogin(0, "closed without an answer to CONNECT"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- out --

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def ping(self) -> None:
        self._write(PING_FRAME)

    @property
    def cipher(self) -> Cipher | None:
        """None on a server that does not encrypt."""
        if self._cipher is None and self._keys is not None:
            assert LeanConnection._handshake is not None
            self._cipher = LeanConnection._handshake.finish(*self._keys)
        return self._cipher

    def sealed(self, payload: bytes) -> bytes:
        """The payload as it travels on this connection; the same one may be sent many times."""
        cipher = self.cipher
        return payload if cipher is None else cipher.seal(payload)

    def send(self, channel_id: str, channel_type: int, sealed: bytes, client_msg_no: str, flags: int) -> int:
        """Write a SEND; its client_seq. sealed: of `sealed`."""
        client_seq = self._client_seq = self._client_seq + 1
        cipher = self.cipher
        if cipher is None:
            msg_key = b""
        else:
            msg_key = cipher.sign(send_sign_text(client_seq, client_msg_no, channel_id, channel_type, sealed))
        number = client_msg_no.encode()
        channel = channel_id.encode()
        body = b"".join(
            (
                _send_start(0, client_seq, len(number)),
                number,
                _pack_count(len(channel)),
                channel,
                _send_type(channel_type, 0, len(msg_key)),
                msg_key,
                sealed,
            )
        )
        self._write(b"".join((bytes((PacketType.SEND << 4 | flags,)), encode_length(len(body)), body)))
        self.in_flight += 1
        return client_seq

    # -- in --

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end_of_data = 0, len(data)
        acks: list[bytes] = []
        while at < end_of_data:
            first = data[at]
            kind = first >> 4
            if kind == _PONG:
                self.pongs_count += 1
                at += 1
                continue
            body_at = at + 1
            length = shift = 0
            while True:
                if body_at == end_of_data:
                    length = -1
                    break
                byte = data[body_at]
                body_at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            if length < 0 or body_at + length > end_of_data:
                if length > FRAME_LIMIT_BYTES:
                    self.abort()
                break
            if kind == _RECV:
                self._take_recv(first & 15, data, body_at, acks)
            elif kind == _SENDACK:
                _, client_seq, message_seq, reason = _sendack(data, body_at)
                self.in_flight -= 1
                if self.on_sendack is not None:
                    self.on_sendack(self, client_seq, message_seq, reason)
            elif kind == _CONNACK:
                self._take_connack(first & 15, data[body_at : body_at + length])
            elif kind == _DISCONNECT:
                self.kicked = data[body_at]
            at = body_at + length
        self._rest = data[at:]
        if acks and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(acks))

    def _take_recv(self, flags: int, data: bytes, at: int, acks: list[bytes]) -> None:
        at += 1
        for _ in range(3):  # msg_key, from_uid, channel_id
            at += 2 + _count(data, at)[0]
        at += 5  # channel_type, expire
        number_at = at + 2
        at = number_at + _count(data, at)[0]
        message_id, message_seq = _recv_ids(data, at)
        self.received_count += 1
        if not flags & NO_PERSIST:
            acks.append(_recvack(PacketType.RECVACK << 4 | flags, 12, message_id, message_seq))
        if self.on_recv is not None:
            self.on_recv(self, data[number_at:at], message_seq)

    def _take_connack(self, flags: int, body: bytes) -> None:
        login = self._login
        if login is None or login.done():
            return
        try:
            packet = decode(PacketType.CONNACK, flags, body, VERSION)
        except ProtocolError as error:
            login.set_exception(NoLogin(0, str(error)))
            return
        assert isinstance(packet, Connack)
        if packet.reason_code != ReasonCode.SUCCESS:
            login.set_exception(NoLogin(packet.reason_code, f"login refused: {reason_text(packet.reason_code)}"))
            return
        if packet.server_key:
            self._keys = (packet.server_key, packet.salt)
        login.set_result(None)
