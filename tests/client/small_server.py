"""A small WuKongIM-like server for the client's tests: the protocol's server half over real sockets on loopback.

It keeps members and messages in memory, pushes in order, answers repeated SENDs with the first result, and does on
demand what servers do in bad moments. What it saw is in its lists.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from wukong.client import ChannelHead, Message
from wukong.protocol.connection import (
    Connection,
    ConnectionOptions,
    ConnectReceived,
    PingReceived,
    ProtocolBroken,
    SendReceived,
)
from wukong.protocol.crypto import accept_client_key
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import NO_PERSIST, RED_DOT, SYNC_ONCE, Connect, Event, Recvack, Send
from wukong.protocol.recv_frame import SharedRecv

PERSON = 1
GROUP = 2
SALT = "abcdefghijklmnop"

# Answers a SEND in place of the server: message_seq and reason, or None for no answer at all.
OnSend = Callable[["Session", Send], tuple[int, int] | None]


@dataclass
class Stored:
    seq: int
    message_id: int
    from_uid: str
    client_msg_no: str
    timestamp: int
    payload: bytes
    flags: int
    setting: int = 0
    topic: str = ""
    expire: int = 0


@dataclass
class Channel:
    channel_id: str
    channel_type: int
    members: set[str] = field(default_factory=set)
    messages: list[Stored] = field(default_factory=list)
    commands: list[Stored] = field(default_factory=list)

    @property
    def last_seq(self) -> int:
        return self.messages[-1].seq if self.messages else 0


class Session:
    """One connection. write and close belong to its socket."""

    def __init__(
        self, server: "SmallServer", write: Callable[[bytes], Awaitable[None]], cut: Callable[[], None]
    ) -> None:
        self.server = server
        self.protocol = Connection(server.options)
        self.uid = ""
        self.connect: Connect | None = None
        self._write = write
        self.cut = cut
        self.deaf = False

    async def receive(self, data: bytes) -> None:
        events = self.protocol.receive_data(data)
        while events:
            for event in events:
                await self._handle(event)
            events = self.protocol.resume()

    async def _handle(self, event: object) -> None:
        server = self.server
        if isinstance(event, ConnectReceived):
            server.connects.append(event.packet)
            await self._log_in(event.packet)
        elif isinstance(event, SendReceived):
            server.sends.append(event.packet)
            server.changed.set()
            await self._answer(event)
        elif isinstance(event, Recvack):
            server.recvacks.append(event)
            server.changed.set()
        elif isinstance(event, PingReceived):
            server.pings_count += 1
            server.changed.set()
            if not server.mute:
                await self._write(event.reply)
        elif isinstance(event, ProtocolBroken):
            raise AssertionError(f"the client broke the protocol: {event.error}")

    async def _log_in(self, packet: Connect) -> None:
        server = self.server
        now_ms = time.time_ns() // 1_000_000
        if server.login_reason != 1:
            await self._write(self.protocol.refuse(server.login_reason, node_id=1, now_ms=now_ms))
            self.cut()
            return
        handshake = accept_client_key(packet.client_key, salt=SALT) if self.protocol.needs_keys else None
        self.uid = packet.uid
        self.connect = packet
        server.sessions.append(self)
        await self._write(self.protocol.accept(node_id=1, now_ms=now_ms, handshake=handshake))
        server.changed.set()

    async def _answer(self, event: SendReceived) -> None:
        server, packet = self.server, event.packet
        if server.on_send is not None:
            answer = server.on_send(self, packet)
            if answer is None:
                return
            seq, reason = answer
            await self.sendack(event, 1, seq, reason)
            return
        stored = await server.store(
            packet.channel_id,
            packet.channel_type,
            self.uid,
            event.payload,
            flags=packet.flags & (NO_PERSIST | RED_DOT | SYNC_ONCE),
            client_msg_no=packet.client_msg_no,
            setting=packet.setting,
            topic=packet.topic,
            expire=packet.expire,
            origin=self,
        )
        if server.cut_before_sendack:
            server.cut_before_sendack -= 1
            self.cut()
            return
        await self.sendack(event, stored.message_id, stored.seq, 1)

    async def sendack(self, event: SendReceived, message_id: int, seq: int, reason: int) -> None:
        await self._write(self.protocol.sendack(event, message_id=message_id, message_seq=seq, reason=reason))

    async def push(self, channel_id: str, channel_type: int, stored: Stored) -> None:
        shared = SharedRecv(
            message_id=stored.message_id,
            message_seq=stored.seq,
            client_msg_no=stored.client_msg_no,
            timestamp=stored.timestamp,
            payload=stored.payload,
            setting=stored.setting,
            topic=stored.topic,
            expire=stored.expire,
        )
        await self._write(self.protocol.recv(shared.view(stored.from_uid, channel_id, channel_type, stored.flags)))

    async def event(self, event: Event) -> None:
        frame = self.protocol.event(SharedEvent(event))
        assert frame is not None
        await self._write(frame)

    async def kick(self, reason: int, text: str) -> None:
        await self._write(self.protocol.disconnect(reason, text))

    async def write_raw(self, data: bytes) -> None:
        await self._write(data)


class SmallServer:
    def __init__(self, *, encryption: bool = True, latest_version: int = 5) -> None:
        self.options = ConnectionOptions(encryption=encryption, latest_version=latest_version)
        self.channels: dict[tuple[str, int], Channel] = {}
        self.sessions: list[Session] = []
        self.connects: list[Connect] = []
        self.sends: list[Send] = []
        self.recvacks: list[Recvack] = []
        self.pings_count = 0
        self.pulls: list[tuple[str, int, int]] = []
        self.tcp = ""
        self.ws = ""
        self.changed = asyncio.Event()
        # What it does wrong on demand.
        self.on_send: OnSend | None = None
        self.login_reason = 1
        self.cut_before_sendack = 0
        self.mute = False
        self.refuse_connections = False
        # Sessions of these users are not pushed to: what is stored has to be found by sync.
        self.silent_for: set[str] = set()
        self._next_id = 1_000_000
        self._listener: asyncio.Server | None = None

    # -- state --

    def channel(self, channel_id: str, channel_type: int, uid: str = "") -> Channel:
        """uid: who names the channel; persons name the other one."""
        stored_id = "@".join(sorted((uid, channel_id))) if channel_type == PERSON else channel_id
        key = (stored_id, channel_type)
        if key not in self.channels:
            members = {uid, channel_id} if channel_type == PERSON else set()
            self.channels[key] = Channel(stored_id, channel_type, members)
        return self.channels[key]

    async def store(
        self,
        channel_id: str,
        channel_type: int,
        from_uid: str,
        payload: bytes,
        *,
        flags: int = RED_DOT,
        client_msg_no: str = "",
        setting: int = 0,
        topic: str = "",
        expire: int = 0,
        origin: Session | None = None,
    ) -> Stored:
        """Take a message and push it to everybody but the connection it came from."""
        channel = self.channel(channel_id, channel_type, from_uid)
        rows = channel.commands if flags & SYNC_ONCE else channel.messages
        for row in rows:
            if client_msg_no and (row.from_uid, row.client_msg_no) == (from_uid, client_msg_no):
                return row
        self._next_id += 1
        seq = 0 if flags & NO_PERSIST else (rows[-1].seq if rows else 0) + 1
        no = client_msg_no or f"no-{self._next_id}"
        stored = Stored(seq, self._next_id, from_uid, no, 1_700_000_000, payload, flags, setting, topic, expire)
        if seq:
            rows.append(stored)
        await self.fan_out(channel, stored, origin)
        return stored

    async def fan_out(self, channel: Channel, stored: Stored, origin: Session | None = None) -> None:
        for session in list(self.sessions):
            if session is origin or session.uid not in channel.members or session.uid in self.silent_for:
                continue
            channel_id = channel.channel_id
            if channel.channel_type == PERSON:
                channel_id = next((uid for uid in channel.members if uid != session.uid), session.uid)
            # A session that has gone gets nothing, as on any server.
            with contextlib.suppress(OSError):
                await session.push(channel_id, channel.channel_type, stored)

    def of(self, uid: str) -> Session:
        return next(session for session in reversed(self.sessions) if session.uid == uid)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_logged_in(self, uid: str, logins_count: int = 1) -> Session:
        """So many logins of this user since the start."""
        await self.until(lambda: sum(packet.uid == uid for packet in self.connects) >= logins_count)
        await self.until(lambda: any(session.uid == uid for session in self.sessions))
        return self.of(uid)

    def provider(self, uid: str) -> "SmallProvider":
        return SmallProvider(self, uid)

    # -- sockets --

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        self.tcp = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        app = web.Application()
        app.router.add_get("/", self._serve_websocket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.ws = f"ws://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for session in list(self.sessions):
            session.cut()
        assert self._listener is not None
        self._listener.close()
        await self._listener.wait_closed()
        await self._runner.cleanup()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse_connections:
            writer.transport.abort()
            return

        async def write(data: bytes) -> None:
            if session.deaf or writer.is_closing():
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()

        session = Session(self, write, writer.transport.abort)
        try:
            while data := await reader.read(65_536):
                await session.receive(data)
        except OSError:
            pass
        finally:
            self._gone(session)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve_websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)

        def cut() -> None:
            assert request.transport is not None
            request.transport.abort()

        session = Session(self, socket.send_bytes, cut)
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    await session.receive(message.data)
        finally:
            self._gone(session)
        return socket

    def _gone(self, session: Session) -> None:
        if session in self.sessions:
            self.sessions.remove(session)
        self.changed.set()


class SmallProvider:
    """The server's history as a sync provider, without HTTP. fail: raised by the next calls, one after the other."""

    def __init__(self, server: SmallServer, uid: str) -> None:
        self.server = server
        self.uid = uid
        self.read_seqs: dict[tuple[str, int], int] = {}
        self.fail: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls_count = 0

    async def channels(self) -> list[ChannelHead]:
        await self._called()
        heads = []
        for channel in self.server.channels.values():
            if self.uid in channel.members and channel.messages:
                channel_id = channel.channel_id
                if channel.channel_type == PERSON:
                    channel_id = next(uid for uid in channel.members if uid != self.uid)
                read_seq = self.read_seqs.get((channel_id, channel.channel_type), 0)
                heads.append(ChannelHead(channel_id, channel.channel_type, channel.last_seq, read_seq))
        return heads

    async def pull(self, channel_id: str, channel_type: int, after_seq: int, limit: int) -> Sequence[Message]:
        await self._called()
        self.server.pulls.append((channel_id, channel_type, after_seq))
        channel = self.server.channel(channel_id, channel_type, self.uid)
        rows = [row for row in channel.messages if row.seq > after_seq][:limit]
        return [as_message(row, channel_id, channel_type) for row in rows]

    async def _called(self) -> None:
        self.calls_count += 1
        await self.gate.wait()
        if self.fail:
            raise self.fail.pop(0)


def as_message(row: Stored, channel_id: str, channel_type: int) -> Message:
    return Message(
        channel_id=channel_id,
        channel_type=channel_type,
        from_uid=row.from_uid,
        message_seq=row.seq,
        message_id=row.message_id,
        client_msg_no=row.client_msg_no,
        timestamp=row.timestamp,
        payload=row.payload,
        flags=row.flags,
        synced=True,
    )


@contextlib.asynccontextmanager
async def running_server(*, encryption: bool = True, latest_version: int = 5) -> AsyncIterator[SmallServer]:
    server = SmallServer(encryption=encryption, latest_version=latest_version)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
