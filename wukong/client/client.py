"""The client: one login that lasts over reconnects.

    supervisor   connects, logs in, runs the connection, waits, again; ends at a final error or `close`
      reader     events of the connection -> inbox, answers -> outbox; stops reading when the inbox is full
      writer     frames -> socket
      heartbeat  PING, and the end of a connection from which nothing comes
      resync     what was missed -> inbox

Final are DISCONNECT, a refused login and a back-off that gave up; after everything else the client connects again,
repeats the SENDs that have no answer, and asks its sync provider for what it missed.
"""

import asyncio
import logging
import secrets
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from random import Random
from types import TracebackType
from typing import Final, Literal, Self

import aiohttp
import msgspec

from wukong.client.backoff import Backoff
from wukong.client.errors import (
    ApiUnavailable,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    GaveUp,
    Kicked,
    SendRefused,
    SendTimeout,
)
from wukong.client.inbox import Inbox, LaneKey
from wukong.client.link import Link
from wukong.client.message import Message, Payload, Sent, State, StateChange, payload_bytes
from wukong.client.outbox import Outbox, Outgoing
from wukong.client.resync import Resync, Start
from wukong.client.sync import CommandProvider, SyncProvider
from wukong.client.transport import split_address
from wukong.client.wire import ClientWire, Received, Unreadable, WireEvent
from wukong.errors import ProtocolError
from wukong.limits import MAX_PAYLOAD_BYTES
from wukong.protocol.codec import EncodeError
from wukong.protocol.packets import (
    NO_PERSIST,
    RED_DOT,
    SYNC_ONCE,
    DeviceFlag,
    Disconnect,
    Event,
    Sendack,
)
from wukong.protocol.reasons import ReasonCode

log = logging.getLogger("wukong.client")

SILENT_INTERVALS_COUNT: Final = 2

Ack = Literal["handed", "received"]
ChannelKey = tuple[str, int]

# After these the client connects again.
PASSING_ERRORS: Final = (ConnectionLost, ApiUnavailable, ProtocolError, OSError, TimeoutError, aiohttp.ClientError)


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """in_flight_count: SENDs without an answer; further calls of `send` wait, which counts towards their timeout.
    receive_count: messages received and not taken; at the limit the socket is not read (inbox.py says more).
    channels_count: channels whose position is remembered."""

    in_flight_count: int = 100
    receive_count: int = 1_000
    channels_count: int = 10_000

    def __post_init__(self) -> None:
        if min(self.in_flight_count, self.receive_count, self.channels_count) < 1:
            raise ValueError("every limit is at least 1")


def connect(
    address: str,
    uid: str,
    *,
    token: str = "",
    device_flag: int = DeviceFlag.APP,
    device_id: str | None = None,
    transport: str = "tcp",
    sync: SyncProvider | None = None,
    commands: CommandProvider | None = None,
    positions: Mapping[ChannelKey, int] | None = None,
    start: Start = "now",
    ack: Ack = "handed",
    backoff: Backoff | None = None,
    limits: ClientLimits | None = None,
    ping_interval_s: float = 60.0,
    connect_timeout_s: float = 10.0,
    gap_wait_s: float = 0.5,
    retry_first: bool = False,
    encrypt: bool = True,
    tls: ssl.SSLContext | None = None,
    on_state: Callable[[StateChange], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
    random: Random | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> "Client":
    """A client for one user: `async with connect("127.0.0.1:5100", "alice") as client`, or `await connect(...)`.

    address: host:port, or a ws:// or wss:// URL; transport "ws" makes a WebSocket URL of host:port. token: checked only
    by servers that check tokens. device_id: names this installation, random if not given; a login of the same user,
    device flag and device id replaces the older one.

    sync: where missed messages are found; without one a message missed while away is not delivered, and a gap is given
    up after gap_wait_s. commands: the same for commands (sync_once). positions: per (channel_id, channel_type) the last
    message_seq the application has; for other channels start says where to begin: "now" (what is stored from this
    moment on) or "unread" (what the user has not read).

    ack: a message is acknowledged when the application takes it ("handed"), or when it arrives ("received").
    retry_first: keep trying if the first attempt fails, instead of raising ConnectFailed. encrypt: False for servers
    that encrypt nothing. on_state, on_event: called in the loop, must return quickly.

    random, sleep: chance and waiting of the back-off, for tests.
    """
    return Client(
        address,
        uid,
        token=token,
        device_flag=device_flag,
        device_id=device_id or secrets.token_hex(16),
        transport=transport,
        sync=sync,
        commands=commands,
        positions=positions or {},
        start=start,
        ack=ack,
        backoff=backoff or Backoff(),
        limits=limits or ClientLimits(),
        ping_interval_s=ping_interval_s,
        connect_timeout_s=connect_timeout_s,
        gap_wait_s=gap_wait_s,
        retry_first=retry_first,
        encrypt=encrypt,
        tls=tls,
        on_state=on_state,
        on_event=on_event,
        random=random or Random(),
        sleep=sleep,
    )


class Client:
    """Made by `connect`. Iterate over it for messages; `send` may be called from several tasks at once.

    One task should iterate. The iteration ends when the client is closed; after a final error it raises that error,
    behind the last message received.
    """

    def __init__(
        self,
        address: str,
        uid: str,
        *,
        token: str,
        device_flag: int,
        device_id: str,
        transport: str,
        sync: SyncProvider | None,
        commands: CommandProvider | None,
        positions: Mapping[ChannelKey, int],
        start: Start,
        ack: Ack,
        backoff: Backoff,
        limits: ClientLimits,
        ping_interval_s: float,
        connect_timeout_s: float,
        gap_wait_s: float,
        retry_first: bool,
        encrypt: bool,
        tls: ssl.SSLContext | None,
        on_state: Callable[[StateChange], None] | None,
        on_event: Callable[[Event], None] | None,
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        split_address(address, transport)
        self.address = address
        self.uid = uid
        self.device_id = device_id
        self._token = token
        self._device_flag = device_flag
        self._transport = transport
        self._ack_at_receipt = ack == "received"
        self._backoff = backoff
        self._ping_interval_s = ping_interval_s
        self._connect_timeout_s = connect_timeout_s
        self._retry_first = retry_first
        self._encrypt = encrypt
        self._tls = tls
        self._on_state = on_state
        self._on_event = on_event
        self._random = random
        self._sleep = sleep

        self._state: State | None = None
        self._state_changed = asyncio.Event()
        self._error: BaseException | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._link: Link | None = None
        self._link_number = 0
        self._reading_paused = False
        self._outbox = Outbox()
        self._in_flight = asyncio.Semaphore(limits.in_flight_count)
        self._inbox = Inbox(
            limit_count=limits.receive_count, lanes_limit_count=limits.channels_count, on_gap=self._see_gap
        )
        for (channel_id, channel_type), seq in positions.items():
            self._inbox.start((channel_id, channel_type, False), seq)
        self._resync = Resync(
            self._inbox,
            provider=sync,
            commands=commands,
            start=start,
            gap_wait_s=gap_wait_s,
            is_own=self._is_own,
            random=random,
        )
        self._snapshot_taken = False

    # -- opening and closing --

    async def open(self) -> Self:
        """Log in; returns when the server has accepted. Raises ConnectFailed, LoginRefused, SyncRefused."""
        if self._supervisor is not None:
            raise RuntimeError("a client is opened once; make another one")
        self._opened = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"wukong client {self.uid}")
        try:
            await self._opened
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Acknowledge what was taken, close the socket, end the iteration. SENDs without an answer raise ClientClosed;
        what was received and not taken is dropped unacknowledged."""
        if self._supervisor is None or self._supervisor is asyncio.current_task():
            return
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])

    def __await__(self) -> Generator[object, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- state --

    @property
    def state(self) -> State | None:
        """None before `open`."""
        return self._state

    @property
    def error(self) -> BaseException | None:
        """Why the client has ended by itself; None while it lives, and after `close`."""
        return self._error

    @property
    def positions(self) -> dict[ChannelKey, int]:
        """Per channel the last message_seq that the application has taken or sent: store it, and give it to the next
        client. Commands are not in it."""
        return {
            key[:2]: position
            for key, lane in self._inbox.lanes.items()
            if not key[2] and (position := lane.position) is not None
        }

    async def wait_for(self, *states: State) -> State:
        """Until the client is in one of the states. Raises the client's error, or ClientClosed, if it ends before."""
        while self._state not in states:
            if self._state is State.CLOSED:
                raise self._error or ClientClosed()
            self._state_changed.clear()
            await self._state_changed.wait()
        return self._state

    def _enter(self, state: State, error: BaseException | None = None, retry_in_s: float = 0.0) -> None:
        self._state = state
        self._state_changed.set()
        if self._on_state is not None:
            try:
                self._on_state(StateChange(state, error, retry_in_s))
            except Exception:
                log.exception("on_state failed")

    # -- sending --

    async def send(
        self,
        channel_id: str,
        channel_type: int,
        payload: Payload,
        *,
        client_msg_no: str | None = None,
        red_dot: bool = True,
        no_persist: bool = False,
        sync_once: bool = False,
        expire: int = 0,
        topic: str = "",
        setting: int = 0,
        timeout: float = 15.0,
    ) -> Sent:
        """Send one message and wait for the server's answer, over reconnects if need be.

        Several calls may be under way; they leave in the order in which they were made. payload: bytes, text (UTF-8)
        or a mapping (JSON), 32,767 bytes at most. red_dot: counts as unread. no_persist: not stored. sync_once: a
        command. expire: seconds. timeout: seconds.

        Raises SendRefused with the server's reason; SendTimeout, after which a call with the same client_msg_no is
        safe; ClientClosed or the client's final error; ValueError for what does not fit the wire.
        """
        self._raise_if_ended()
        data = payload_bytes(payload)
        if len(data) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"payload of {len(data)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        client_msg_no = client_msg_no or uuid.uuid4().hex
        try:
            async with asyncio.timeout(timeout), self._in_flight:
                self._raise_if_ended()
                outgoing = Outgoing(
                    client_seq=self._outbox.next_client_seq(),
                    client_msg_no=client_msg_no,
                    channel_id=channel_id,
                    channel_type=channel_type,
                    payload=data,
                    flags=RED_DOT * red_dot | NO_PERSIST * no_persist | SYNC_ONCE * sync_once,
                    setting=setting,
                    expire=expire,
                    topic=topic,
                    answer=asyncio.get_running_loop().create_future(),
                )
                return await self._exchange(outgoing)
        except TimeoutError:
            raise SendTimeout(timeout, client_msg_no) from None

    async def _exchange(self, outgoing: Outgoing) -> Sent:
        try:
            # Now, rather than in the supervisor when the SEND is repeated.
            _frame_of(_PLAIN_WIRE, outgoing)
        except EncodeError as fault:
            raise ValueError(str(fault)) from None
        self._outbox.add(outgoing)
        # A reader that waits for room reads on while there are SENDs without an answer.
        self._inbox.nudge()
        if self._link is not None:
            self._link.write(_frame_of(self._link.wire, outgoing))
        try:
            return await outgoing.answer
        finally:
            self._outbox.abandon(outgoing)

    def _raise_if_ended(self) -> None:
        if self._state is None:
            raise RuntimeError("the client is not open")
        if self._state is State.CLOSED:
            raise self._error or ClientClosed()

    # -- receiving --

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        arrival = await self._inbox.take()
        if not self._ack_at_receipt:
            self._acknowledge(arrival.message, arrival.link_number)
        return arrival.message

    def _acknowledge(self, message: Message, link_number: int) -> None:
        """On the connection that brought it; what came before a reconnect or by sync is not asked for any more."""
        link = self._link
        if link is not None and link.number == link_number and not message.no_persist:
            link.write(link.wire.recvack_frame(message.flags, message.message_id, message.message_seq))

    # -- the supervisor and its tasks --

    async def _supervise(self) -> None:
        error: Exception | None = None
        try:
            await self._keep_connected()
        except Exception as fault:
            error = fault
        finally:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._error = error
        self._outbox.fail(error or ClientClosed())
        self._inbox.end(error)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error or ClientClosed())
        self._enter(State.CLOSED, error)

    async def _keep_connected(self) -> None:
        """Ends by an exception only."""
        loop = asyncio.get_running_loop()
        failures_count = 0
        while True:
            self._enter(State.CONNECTING)
            try:
                link = await self._log_in()
            except PASSING_ERRORS as fault:
                error: Exception = fault
                if self._opened is not None and not self._opened.done() and not self._retry_first:
                    raise ConnectFailed(self.address, fault) from fault
            else:
                logged_in = loop.time()
                error = await self._serve(link)
                if loop.time() - logged_in >= self._backoff.stable_s:
                    failures_count = 0
            failures_count += 1
            limit = self._backoff.attempts_limit
            if limit is not None and failures_count >= limit:
                raise GaveUp(failures_count, error) from error
            delay_s = self._backoff.delay_s(failures_count, self._random)
            log.info("connection to %s ended (%s), next attempt in %.2f s", self.address, error, delay_s)
            self._enter(State.WAITING, error, delay_s)
            await self._sleep(delay_s)

    async def _log_in(self) -> Link:
        if not self._snapshot_taken:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._resync.snapshot()
            self._snapshot_taken = True
        self._link_number += 1
        return await Link.open(
            self.address,
            transport=self._transport,
            tls=self._tls,
            encrypt=self._encrypt,
            uid=self.uid,
            token=self._token,
            device_id=self.device_id,
            device_flag=self._device_flag,
            now_ms=time.time_ns() // 1_000_000,
            number=self._link_number,
            timeout_s=self._connect_timeout_s,
        )

    async def _serve(self, link: Link) -> Exception:
        """Run one connection to its end; the passing error that ended it. Raises final ones."""
        self._link = link
        for outgoing in self._outbox.pending():
            link.write(_frame_of(link.wire, outgoing))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._resync.attach(tasks)
                for part in (self._read(link), link.write_frames(), self._keep_alive(link), self._catch_up()):
                    tasks.create_task(part)
                self._enter(State.CONNECTED)
                if self._opened is not None and not self._opened.done():
                    self._opened.set_result(None)
        except* Exception as group:
            error = _cause(group)
        finally:
            self._link = None
            self._resync.detach()
            await link.close()
        if isinstance(error, PASSING_ERRORS):
            return error
        raise error

    async def _read(self, link: Link) -> None:
        while True:
            if not self._inbox.has_room(sending=self._is_sending()):
                self._reading_paused = True
                await self._inbox.wait_for_room(self._is_sending)
                self._reading_paused = False
                link.last_received = asyncio.get_running_loop().time()
            for event in await link.next_events():
                self._handle(link, event)

    def _is_sending(self) -> bool:
        return len(self._outbox) > 0

    def _handle(self, link: Link, event: WireEvent) -> None:
        if isinstance(event, Received):
            self._handle_message(link, event)
        elif isinstance(event, Sendack):
            self._handle_sendack(event)
        elif isinstance(event, Unreadable):
            log.warning("message %d cannot be read: %s", event.packet.message_id, event.error)
        elif isinstance(event, Disconnect):
            raise Kicked(event.reason_code, event.reason)
        elif isinstance(event, Event) and self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                log.exception("on_event failed")

    def _handle_message(self, link: Link, event: Received) -> None:
        packet = event.packet
        message = Message(
            channel_id=packet.channel_id,
            channel_type=packet.channel_type,
            from_uid=packet.from_uid,
            message_seq=packet.message_seq,
            message_id=packet.message_id,
            client_msg_no=packet.client_msg_no,
            timestamp=packet.timestamp,
            payload=event.payload,
            flags=packet.flags,
            setting=packet.setting,
            topic=packet.topic,
            expire=packet.expire,
        )
        key = (message.channel_id, message.channel_type, message.sync_once)
        if self._is_own(message):
            # A SEND of an earlier connection: this one gets a copy as another device would. The caller gets an answer.
            if message.message_seq:
                self._inbox.sent(key, message.message_seq)
            self._acknowledge(message, link.number)
        elif not self._inbox.offer(key, message, link.number) or self._ack_at_receipt:
            self._acknowledge(message, link.number)

    def _handle_sendack(self, packet: Sendack) -> None:
        outgoing = self._outbox.answered(packet.client_seq)
        if outgoing is None:
            return
        if packet.reason_code == ReasonCode.SUCCESS:
            if packet.message_seq:
                key = (outgoing.channel_id, outgoing.channel_type, bool(outgoing.flags & SYNC_ONCE))
                self._inbox.sent(key, packet.message_seq)
            if not outgoing.answer.done():
                outgoing.answer.set_result(Sent(packet.message_seq, packet.message_id, outgoing.client_msg_no))
        elif not outgoing.answer.done():
            outgoing.answer.set_exception(SendRefused(packet.reason_code, outgoing.client_msg_no))

    def _is_own(self, message: Message) -> bool:
        return message.from_uid == self.uid and self._outbox.knows(message.client_msg_no)

    async def _keep_alive(self, link: Link) -> None:
        """Raises ConnectionLost when nothing has come for two intervals, each begun with a PING. An interval in which
        we were the ones who did not read does not count; nor does a loop that stood still, since it misses one only."""
        loop = asyncio.get_running_loop()
        silent_count = 0
        while True:
            asked = loop.time()
            link.write(link.wire.ping_frame())
            await asyncio.sleep(self._ping_interval_s)
            if link.last_received >= asked or self._reading_paused:
                silent_count = 0
                continue
            silent_count += 1
            if silent_count == SILENT_INTERVALS_COUNT:
                raise ConnectionLost(f"nothing received for {loop.time() - link.last_received:.0f} s")

    async def _catch_up(self) -> None:
        await self._resync.catch_up()
        self._enter(State.SYNCED)
        await self._resync.catch_up_on_commands()

    def _see_gap(self, key: LaneKey) -> None:
        self._resync.gap(key)


def _frame_of(wire: ClientWire, outgoing: Outgoing) -> bytes:
    return wire.send_frame(
        client_seq=outgoing.client_seq,
        client_msg_no=outgoing.client_msg_no,
        channel_id=outgoing.channel_id,
        channel_type=outgoing.channel_type,
        payload=outgoing.payload,
        flags=outgoing.flags,
        setting=outgoing.setting,
        expire=outgoing.expire,
        topic=outgoing.topic,
    )


_PLAIN_WIRE: Final = ClientWire(handshake=None)


def _cause(group: BaseExceptionGroup[Exception]) -> Exception:
    """The error that matters: a final one before passing ones, of equals the first."""
    errors = list(_leaves(group))
    return next((error for error in errors if not isinstance(error, PASSING_ERRORS)), errors[0])


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
