"""A client of the wire protocol for tests: TCP, WebSocket or JSON-RPC; records and judges all it receives.

It acknowledges every RECV at once and never reconnects. What no correct server does is written to `faults`: a wrong
msg_key, a payload that does not decrypt, a message twice, a seq out of order, a packet before CONNACK, two packets in
one WebSocket message. A test waits with `until`, or by a fence (`fence`): what a session gets keeps the order in which
the server applied it, so a fence that has arrived proves that everything before it has.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable
from enum import StrEnum

import aiohttp
import msgspec

from tests.support.http import Api
from wukong.channel.ids import person_id, slot_of
from wukong.errors import ProtocolError
from wukong.protocol.codec import decode, encode
from wukong.protocol.crypto import Cipher, ClientHandshake, recv_sign_text, send_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.json_stream import JsonSplitter
from wukong.protocol.jsonrpc_client import Answer, connack_of, decode_server_message, encode_request, sendack_of
from wukong.protocol.packets import (
    NO_PERSIST,
    RED_DOT,
    SYNC_ONCE,
    Connack,
    Connect,
    Disconnect,
    Event,
    PacketType,
    Ping,
    Pong,
    Recv,
    Recvack,
    Send,
    Sendack,
)

GROUP = 2
PERSON = 1
SUCCESS = 1

LOGIN_TIMEOUT_S = 20.0
WAIT_TIMEOUT_S = 60.0
_JSON_LIMIT_BYTES = 4 << 20
_FENCE_BATCH = 500
FENCE_MARK = b"\x00fence "
FENCE_UID = "fence-keeper"

_numbers = itertools.count(1)
# Unique over the processes of one test run too.
_RUN = f"{os.getpid():x}{time.time_ns() & 0xFFFFFF:x}"
# One key pair serves all clients of a process: the server's half is fresh for every connection.
_HANDSHAKE = ClientHandshake()


def unique(prefix: str) -> str:
    """An id that no other test of this run uses."""
    return f"{prefix}-{_RUN}-{next(_numbers)}"


class Kind(StrEnum):
    TCP = "tcp"
    WS = "ws"
    JSON = "json"


class LoginRefused(Exception):
    def __init__(self, reason: int) -> None:
        super().__init__(f"CONNACK reason {reason}")
        self.reason = reason


class Unanswered(ConnectionError):
    """The connection is gone before the answer: the outcome of the SEND is unknown."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A RECV, payload in clear. at: monotonic seconds of its arrival."""

    at: float
    flags: int
    from_uid: str
    channel_id: str
    channel_type: int
    client_msg_no: str
    message_id: int
    message_seq: int
    timestamp: int
    payload: bytes

    @property
    def is_command(self) -> bool:
        return bool(self.flags & SYNC_ONCE)


class Client:
    """One connection. received: in the order of arrival, without fences. closed: set when the connection is gone;
    close_code: WebSocket's, 0 for TCP.

    acknowledge: answer RECVs with RECVACK. on_message: called for each of them.
    """

    def __init__(
        self,
        uid: str,
        kind: Kind,
        *,
        device_flag: int = 0,
        device_id: str = "",
        token: str = "",
        version: int = 5,
        acknowledge: bool = True,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        self.uid = uid
        self.kind = kind
        self.device_flag = device_flag
        self.device_id = device_id or unique("device")
        self.token = token
        self.version = version
        self.acknowledge = acknowledge
        self.on_message = on_message
        self.received: list[Message] = []
        self.events: list[Event] = []
        self.faults: list[str] = []
        self.kicked: Disconnect | None = None
        self.pongs = 0
        self.connack: Connack | None = None
        self.closed = asyncio.Event()
        self.closed_at = 0.0
        self.close_code = 0
        self.leaving = False
        self._loop = asyncio.get_running_loop()
        self._cipher: Cipher | None = None
        self._decoder = FrameDecoder()
        self._splitter = JsonSplitter(limit_bytes=_JSON_LIMIT_BYTES)
        self._client_seq = 0
        self._pending: dict[int, asyncio.Future[Sendack]] = {}
        self._login: asyncio.Future[Connack] = self._loop.create_future()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._fences: set[bytes] = set()
        self._seen: set[int] = set()
        self._last_seq: dict[tuple[str, int, bool], int] = {}
        self._acks: list[bytes] = []
        self._transport: _Transport | None = None

    # -- life

    async def open(self, host: str, port: int, http: aiohttp.ClientSession | None = None) -> "Client":
        """Connect and log in. http: whose connector WebSockets use. Raises LoginRefused, ConnectionError, OSError."""
        if self.kind is Kind.TCP:
            transport, _ = await self._loop.create_connection(lambda: _Tcp(self), host, port)
            self._transport = transport  # type: ignore[assignment]
        else:
            assert http is not None, "WebSockets need an aiohttp session"
            socket = await http.ws_connect(f"ws://{host}:{port}", max_msg_size=_JSON_LIMIT_BYTES, compress=0)
            self._transport = _WebSocket(self, socket)
        connect = Connect(
            version=self.version,
            uid=self.uid,
            token=self.token,
            device_id=self.device_id,
            device_flag=self.device_flag,
            client_timestamp=time.time_ns() // 1_000_000,
            client_key="" if self.kind is Kind.JSON else _HANDSHAKE.client_key,
        )
        self._write(encode_request(connect, "connect") if self.kind is Kind.JSON else encode(connect, self.version))
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                connack = await self._login
        except BaseException:
            self.abort()
            raise
        if connack.reason_code != SUCCESS:
            raise LoginRefused(connack.reason_code)
        return self

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self.closed.is_set()

    async def close(self) -> None:
        self.leaving = True
        if self._transport is not None:
            self._transport.close()
            await self.closed.wait()

    def abort(self) -> None:
        """Drop the connection without a farewell."""
        self.leaving = True
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """Leave what comes in the socket; for TCP."""
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.pause_reading()

    def lost(self) -> None:
        """Called by the transport when the connection is gone."""
        if self.closed.is_set():
            return
        self.closed_at = time.monotonic()
        self.closed.set()
        error = Unanswered(f"{self.uid}: closed before the answer")
        if not self._login.done():
            self._login.set_exception(error)
            self._login.exception()  # not everybody waits
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._pending.clear()
        self._check_waiters()

    # -- out

    def send(
        self,
        channel_id: str,
        payload: bytes,
        *,
        kind: int = GROUP,
        flags: int = RED_DOT,
        client_msg_no: str = "",
    ) -> asyncio.Future[Sendack]:
        """Write a SEND now. The future gets its SENDACK, or Unanswered when the connection goes first."""
        future: asyncio.Future[Sendack] = self._loop.create_future()
        if not self.is_open:
            future.set_exception(Unanswered(f"{self.uid}: not connected"))
            future.exception()
            return future
        self._client_seq += 1
        client_seq = self._client_seq
        number = client_msg_no or f"{self.device_id}-{client_seq}"
        self._pending[client_seq] = future
        if self.kind is Kind.JSON:
            packet = Send(flags, 0, client_seq, number, channel_id, kind, payload=payload)
            self._write(encode_request(packet, str(client_seq)))
            return future
        key = ""
        if self._cipher is not None:
            payload = self._cipher.seal(payload)
            key = self._cipher.sign(send_sign_text(client_seq, number, channel_id, kind, payload)).decode()
        packet = Send(flags, 0, client_seq, number, channel_id, kind, msg_key=key, payload=payload)
        self._write(encode(packet, self.version))
        return future

    def ping(self) -> None:
        """`pongs` counts the answers."""
        self._write(encode(Ping(), self.version))

    def recvack(self, message: Message) -> None:
        """For a client that does not acknowledge by itself."""
        self._write(encode(Recvack(message.flags, message.message_id, message.message_seq), self.version))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    # -- waiting

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Wait until the condition holds; it is looked at whenever something arrived. Raises TimeoutError."""
        if condition():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        entry = (condition, future)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            newest = self.received[-1] if self.received else None
            raise TimeoutError(
                f"{self.uid} ({self.kind}): waited {timeout_s} s in vain; {len(self.received)} received, newest "
                f"{newest}, {'closed' if self.closed.is_set() else 'open'}, kicked by {self.kicked}"
            ) from None
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(entry)

    async def until_received(self, count: int, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        await self.until(lambda: len(self.received) >= count, timeout_s)

    async def until_fence(self, mark: bytes, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        await self.until(lambda: mark in self._fences or self.closed.is_set(), timeout_s)
        if mark not in self._fences:
            raise Unanswered(f"{self.uid}: closed before the fence came")

    def of(self, channel_id: str, *, commands: bool = False) -> list[Message]:
        """What came of one channel, or of its command twin."""
        return [each for each in self.received if each.channel_id == channel_id and each.is_command is commands]

    def _check_waiters(self) -> None:
        for condition, future in self._waiters:
            if not future.done() and condition():
                future.set_result(None)

    # -- in

    def bytes_in(self, data: bytes) -> None:
        """What a TCP connection brought."""
        if self.kind is Kind.JSON:
            self._splitter.receive_data(data)
            while (text := self._splitter.next_text()) is not None:
                self._text_in(text)
        else:
            self._decoder.receive_data(data)
            while (frame := self._decoder.next_frame()) is not None:
                self._frame_in(frame.frame_type, frame.flags, frame.body)
        self._after_input()

    def message_in(self, data: bytes, *, is_text: bool) -> None:
        """What a WebSocket message brought: exactly one packet, JSON as text and everything else as binary."""
        if is_text is not (self.kind is Kind.JSON):
            self.faults.append(f"{'text' if is_text else 'binary'} WebSocket message on a {self.kind} connection")
        if self.kind is Kind.JSON:
            self._text_in(data)
        else:
            self._decoder.receive_data(data)
            frame = self._decoder.next_frame()
            if frame is None or self._decoder.buffered_bytes:
                self.faults.append(f"a WebSocket message of {len(data)} bytes is not one packet")
                return
            self._frame_in(frame.frame_type, frame.flags, frame.body)
        self._after_input()

    def _after_input(self) -> None:
        if self._acks and self.is_open:
            acks, self._acks = self._acks, []
            if self.kind is Kind.JSON:
                for ack in acks:
                    self._write(ack)
            else:
                self._write(b"".join(acks))
        if self._waiters:
            self._check_waiters()

    def _frame_in(self, frame_type: int, flags: int, body: bytes) -> None:
        packet = decode(frame_type, flags, body, self.version)
        if not self._login.done() and frame_type != PacketType.CONNACK:
            self.faults.append(f"packet of type {frame_type} before CONNACK")
        match packet:
            case Recv():
                self._recv(packet)
            case Sendack():
                self._answered(packet.client_seq, packet)
            case Connack():
                self._connected(packet)
            case Disconnect():
                self.kicked = packet
            case Event():
                self.events.append(packet)
            case Pong():
                self.pongs += 1
            case _:
                self.faults.append(f"unexpected {packet}")

    def _text_in(self, text: bytes) -> None:
        message = decode_server_message(text)
        if isinstance(message, Answer):
            if message.request_id == "connect":
                self._connected(connack_of(message))
            elif message.error is not None:
                self.faults.append(f"request {message.request_id} failed: {message.error}")
            else:
                ack = sendack_of(message)
                self._answered(int(message.request_id), ack)
        elif isinstance(message, Recv):
            if not self._login.done():
                self.faults.append("recv before the answer to connect")
            self._recv(message)
        elif isinstance(message, Event):
            self.events.append(message)
        else:
            self.kicked = message

    def _connected(self, packet: Connack) -> None:
        if self._login.done():
            self.faults.append("a second CONNACK")
            return
        self.connack = packet
        if packet.reason_code == SUCCESS:
            if packet.server_version is not None:
                self.version = min(self.version, packet.server_version)
            if self.kind is not Kind.JSON:
                self._cipher = _HANDSHAKE.finish(packet.server_key, packet.salt)
        self._login.set_result(packet)

    def _answered(self, client_seq: int, packet: Sendack) -> None:
        future = self._pending.pop(client_seq, None)
        if future is None:
            self.faults.append(f"SENDACK for client_seq {client_seq}, which was not waiting")
        elif not future.done():
            future.set_result(packet)

    def _recv(self, packet: Recv) -> None:
        payload = self._open(packet)
        if self.acknowledge:
            ack = Recvack(packet.flags, packet.message_id, packet.message_seq)
            self._acks.append(encode_request(ack, "") if self.kind is Kind.JSON else encode(ack, self.version))
        if payload.startswith(FENCE_MARK):
            self._fences.add(payload)
            return
        message = Message(
            time.monotonic(),
            packet.flags,
            packet.from_uid,
            packet.channel_id,
            packet.channel_type,
            packet.client_msg_no,
            packet.message_id,
            packet.message_seq,
            packet.timestamp,
            payload,
        )
        self._judge(message)
        self.received.append(message)
        if self.on_message is not None:
            self.on_message(message)

    def _open(self, packet: Recv) -> bytes:
        cipher = self._cipher
        if cipher is None:
            return packet.payload
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
            self.faults.append(f"wrong msg_key: {packet}")
        try:
            return cipher.unseal(packet.payload)
        except ProtocolError as error:
            self.faults.append(f"payload does not decrypt ({error}): {packet}")
            return b""

    def _judge(self, message: Message) -> None:
        if message.message_id in self._seen:
            self.faults.append(f"doubled: {message}")
        self._seen.add(message.message_id)
        if bool(message.message_seq) is bool(message.flags & NO_PERSIST):
            self.faults.append(f"seq and no_persist contradict each other: {message}")
        if message.message_seq:
            key = (message.channel_id, message.channel_type, message.is_command)
            last = self._last_seq.get(key, 0)
            if message.message_seq <= last:
                self.faults.append(f"out of order, seq {message.message_seq} after {last}: {message}")
            self._last_seq[key] = message.message_seq


class _Transport:
    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class _Tcp(asyncio.Protocol):
    def __init__(self, client: Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.bytes_in(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost()


class _WebSocket(_Transport):
    """Writes from one task, because aiohttp's send is a coroutine. Both tasks end with the connection."""

    def __init__(self, client: Client, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._client = client
        self._socket = socket
        self._is_text = client.kind is Kind.JSON
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._writer = asyncio.create_task(self._write_all())
        self._reader = asyncio.create_task(self._read_all())

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    def abort(self) -> None:
        # The socket goes with its transport, without a close frame.
        response = self._socket._response
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()
        self._writer.cancel()
        self._client.lost()

    async def _write_all(self) -> None:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                out, self._out = self._out, []
                if self._is_text:
                    for text in out:
                        await self._socket.send_str(text.decode())
                elif out:
                    await self._socket.send_bytes(b"".join(out))
                if self._closing:
                    break
        await self._socket.close()
        self._client.lost()

    async def _read_all(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._client.message_in(message.data, is_text=False)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    self._client.message_in(message.data.encode(), is_text=True)
        finally:
            # A close of our own ends in the writer, with the handshake done.
            if not self._closing:
                self._client.close_code = self._socket.close_code or 0
                self._writer.cancel()
                self._client.lost()


async def fence(api: Api, clients: Iterable[Client]) -> None:
    """Wait until everything that the server had applied before this call has reached these clients. Nodes of a cluster
    apply every slot at a pace of its own, so there a fence goes through each of them."""
    clients = list(clients)
    uids = list(dict.fromkeys(client.uid for client in clients))
    marks = await asyncio.gather(*(_put_fence(api, uids, slot) for slot in range(api.fence_slots)))
    for client in clients:
        for mark in marks:
            await client.until_fence(mark)


async def _put_fence(api: Api, uids: list[str], slot: int) -> bytes:
    mark = FENCE_MARK + unique("f").encode()
    by_keeper: dict[str, list[str]] = {}
    for uid in uids:
        by_keeper.setdefault(_keeper(uid, slot, api.fence_slots), []).append(uid)
    for keeper, kept in by_keeper.items():
        for start in range(0, len(kept), _FENCE_BATCH):
            await api.send_each(keeper, kept[start : start + _FENCE_BATCH], mark)
    return mark


def _keeper(uid: str, slot: int, slot_count: int) -> str:
    """Whose messages to uid are in this slot."""
    if slot_count == 1:
        return FENCE_UID
    names = (f"{FENCE_UID}-{number}" for number in itertools.count())
    return next(name for name in names if slot_of(person_id(name, uid), slot_count) == slot)
