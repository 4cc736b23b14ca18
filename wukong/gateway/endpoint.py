"""One client's connection, whatever carries it: the pump between its bytes and the use cases.

Bytes go into the pure machine of wukong.protocol.connection and its events to the use cases; what dispatch asks for
leaves by the queue (outgoing.py). A client that sends faster than the log takes is not read: its SENDs in flight are
limited, and what was read already is held in order. Nothing that was accepted is dropped while the connection lives.

TCP and WebSocket (tcp.py, websocket.py) differ in how bytes arrive, how frames are written, and how a socket is closed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from os import urandom
from uuid import uuid4

from wukong.dispatch.deliveries import KICKED, PROTOCOL_ERROR, REPLACED
from wukong.errors import FrameTooLarge, ProtocolError, Unavailable
from wukong.gateway.frames import CloseCode
from wukong.gateway.hub import Hub
from wukong.gateway.link import HANDSHAKE, LEAVING, OPEN, OPENING
from wukong.gateway.outgoing import Outgoing
from wukong.gateway.statistics import ConnectionInfo
from wukong.protocol import jsonrpc
from wukong.protocol.codec import encode_sendack
from wukong.protocol.connection import (
    Connection,
    ConnectionEvent,
    ConnectReceived,
    PingReceived,
    ProtocolBroken,
    ReplyReady,
    SendReceived,
    SendRefused,
    State,
)
from wukong.protocol.crypto import SALT_BYTES, ClientKeyError, ServerHandshake, accept_client_key, salt_text
from wukong.protocol.packets import Connect, Recvack, Send, Sendack
from wukong.service.sessions import Login, LoginRefused

log = logging.getLogger(__name__)


class Endpoint(Outgoing):
    """number: of the session, 0 before a login was asked for."""

    __slots__ = (
        "_connect",
        "_device_flag",
        "_device_id",
        "_going_on",
        "_held",
        "_in_flight",
        "_in_flight_bytes",
        "_in_message_bytes",
        "_in_messages",
        "_in_packet_bytes",
        "_in_packets",
        "_last_request",
        "_requests",
        "_task",
        "number",
    )

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.number = 0
        self._device_id = ""
        self._device_flag = 0
        # The CONNECT until its login begins; the task of the login while it runs.
        self._connect: ConnectReceived | None = None
        self._task: asyncio.Task[None] | None = None
        # SENDs that wait for room or for the log, in order. While there are any, nothing is read.
        self._held: deque[SendReceived] | None = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._going_on = False
        # JSON-RPC: request ids of SENDs in flight, by the client_seq they are known under inside.
        self._requests: dict[int, str] | None = None
        self._last_request = 0
        self._in_messages = self._in_message_bytes = self._in_packets = self._in_packet_bytes = 0

    def _begin(self, *, from_proxy: bool) -> None:
        self._connection = Connection(self._hub.connection_options, proxy_allowed=from_proxy)

    # Bytes in --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's own stream."""
        hub = self._hub
        self._last_read_at = hub.monotonic()
        self._in_packet_bytes += len(data)
        hub.counters.in_bytes += len(data)
        if self._epoch != hub.epoch:
            self.drop()
        phase = self._phase
        connection = self._connection
        if phase is OPEN:
            events = connection.receive_data(data)
            if events:
                self._act(events)
            if (connection.has_more or self._held is not None or not self._has_room()) and self._phase is OPEN:
                self._stop_reading()
                if connection.has_more and self._held is None:
                    self._go_on_soon()
        elif phase is HANDSHAKE or phase is OPENING:
            self._first_byte()
            if connection.state is State.DECIDING:
                # What comes behind a CONNECT waits for its answer; more of it may stay where it is.
                self._stop_reading()
            self._act(connection.receive_data(data))

    def _act(self, events: list[ConnectionEvent]) -> None:
        hub = self._hub
        self._in_packets += len(events)
        hub.counters.in_packets += len(events)
        replies: list[bytes] = []
        error: ProtocolError | None = None
        for event in events:
            kind = type(event)
            if kind is Recvack:
                hub.sessions.recvack(self.number, self._uid, event)  # type: ignore[arg-type]
            elif kind is SendReceived:
                self._take_send(event)  # type: ignore[arg-type]
                if self._phase is not OPEN:
                    return
            elif isinstance(event, PingReceived | ReplyReady):
                replies.append(event.reply)
            elif isinstance(event, SendRefused):
                replies.append(self._refuse_send(event))
            elif isinstance(event, ConnectReceived):
                self._take_connect(event)
            elif isinstance(event, ProtocolBroken):
                error = event.error
        if replies:
            self._reply(replies)
        if error is not None:
            self._break_off(error)

    def _break_off(self, error: ProtocolError) -> None:
        self._hub.counters.protocol_errors += 1
        log.debug("closing %s: %s", self.peer, error)
        self.close(CloseCode.TOO_BIG if isinstance(error, FrameTooLarge) else CloseCode.PROTOCOL_ERROR, PROTOCOL_ERROR)

    # SENDs and backpressure ------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        options = self._hub.options
        return self._in_flight < options.sends_in_flight_limit and self._in_flight_bytes < options.sends_in_flight_bytes

    def _take_send(self, event: SendReceived) -> None:
        """Pass it on, or hold it while there is no room for it."""
        if self._held is not None:
            self._held.append(event)
        elif not self._has_room():
            self._held = deque((event,))
        elif self._hub.sessions.congested:
            self._held = deque((event,))
            self._hub.wait_for_relief(self)
        else:
            self._pass_on(event)

    def _pass_on(self, event: SendReceived) -> None:
        hub = self._hub
        packet = event.packet
        payload = event.payload
        client_seq, client_msg_no = packet.client_seq, packet.client_msg_no
        requests = self._requests
        if requests is not None:
            client_seq = self._last_request = self._last_request + 1
            requests[client_seq] = event.request_id
            client_msg_no = client_msg_no or f"{uuid4().hex}0"
        self._in_flight += 1
        self._in_flight_bytes += len(payload)
        self._in_messages += 1
        self._in_message_bytes += len(payload)
        hub.counters.in_messages += 1
        send = Send(
            packet.flags,
            packet.setting,
            client_seq,
            client_msg_no,
            packet.channel_id,
            packet.channel_type,
            packet.expire,
            "",
            packet.topic,
            payload,
            packet.stream_no,
        )
        try:
            # Nothing was read since then, or this would not wait.
            hub.sessions.send(self.number, self._uid, send, self._last_read_at)
        except Unavailable:
            # Not refused with a SENDACK: SDKs take that as final, but come again after a lost connection.
            self.drop()

    def _refuse_send(self, event: SendRefused) -> bytes:
        hub = self._hub
        hub.counters.refused_sends += 1
        reasons = hub.counters.send_refusals
        reasons[event.reason] = reasons.get(event.reason, 0) + 1
        return self._connection.sendack(event, message_id=hub.next_refusal_id(), message_seq=0, reason=event.reason)

    def sendack(self, packet: Sendack) -> None:
        in_flight = self._in_flight
        if in_flight:
            # Sizes are not kept one by one: an average goes with each answer, and all of it with the last.
            self._in_flight_bytes -= self._in_flight_bytes // in_flight
            self._in_flight = in_flight - 1
        requests = self._requests
        if requests is None:
            frame = encode_sendack(
                packet.flags,
                packet.message_id,
                packet.client_seq,
                packet.message_seq,
                packet.reason_code,
                self._connection.version,
            )
        else:
            request_id = requests.pop(packet.client_seq, "")
            frame = jsonrpc.encode_sendack(
                packet.flags, packet.message_id, packet.message_seq, packet.reason_code, request_id
            )
        self._answer(frame)
        if self._reading_paused:
            options = self._hub.options
            if (
                self._in_flight <= options.sends_in_flight_limit // 2
                and self._in_flight_bytes <= options.sends_in_flight_bytes // 2
            ):
                # Not now: this is the middle of an apply, and what follows proposes again.
                self._go_on_soon()

    def _go_on_soon(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._hub.loop.call_soon(self.go_on)

    def go_on(self) -> None:
        """Take up again what a limit has stopped, as far as the limits allow: SENDs that are held, then packets that
        were received, then reading."""
        self._going_on = False
        if self._phase is not OPEN or self.is_condemned:
            return
        held = self._held
        while held:
            if not self._has_room():
                return
            if self._hub.sessions.congested:
                self._hub.wait_for_relief(self)
                return
            self._pass_on(held.popleft())
            if self._phase is not OPEN:
                return
        self._held = None
        connection = self._connection
        if connection.has_more:
            self._act(connection.resume())
            if self._phase is not OPEN or self._held is not None:
                return
            if connection.has_more:
                self._go_on_soon()
                return
        if self._has_room():
            self._resume_reading()

    # Login -----------------------------------------------------------------------------------------------------------

    def _take_connect(self, event: ConnectReceived) -> None:
        packet = event.packet
        self._uid = packet.uid
        self._device_id = packet.device_id
        self._device_flag = packet.device_flag
        source = self._connection.proxy_source
        if source is not None:
            self.peer = source.host, source.port
        if self._connection.is_json:
            self._requests = {}
        self._connect = event
        if not self._hub.admission.admit(self):
            self._close_unanswered()

    def login(self) -> Coroutine[None, None, None] | None:
        """For the admission: None if the client has gone meanwhile."""
        event, self._connect = self._connect, None
        return None if event is None else self._login(event.packet, event.version)

    async def _login(self, connect: Connect, version: int) -> None:
        """A task of the admission. Cancelled when the connection closes, which it does at its deadline."""
        hub = self._hub
        if self._phase is not HANDSHAKE:
            return
        self._task = asyncio.current_task()
        try:
            handshake: ServerHandshake | None = None
            if self._connection.needs_keys:
                handshake = accept_client_key(connect.client_key, salt=salt_text(urandom(SALT_BYTES)))
            self.number = number = hub.sessions.new_number()
            # From here on: pushes may come before the login is answered.
            hub.by_number[number] = self
            is_json = self._connection.is_json
            login = Login(self._uid, self._device_flag, self._device_id, connect.token, version, is_json, self.peer)
            await hub.sessions.login(number, login)
        except (ClientKeyError, LoginRefused) as refused:
            self._task = None
            self._refuse_login(refused.reason)
        except Unavailable:
            self._task = None
            self._close_unanswered()
        except Exception:
            self._task = None
            log.exception("login of %s failed", self._uid)
            self._close_unanswered()
        else:
            self._task = None
            self._open(handshake)

    def _open(self, handshake: ServerHandshake | None) -> None:
        hub = self._hub
        if self._phase is not HANDSHAKE:
            return
        connack = self._connection.accept(node_id=hub.node_id, now_ms=hub.clock.now_ms(), handshake=handshake)
        hub.counters.logins += 1
        # Looked at when the handshake would have been over its time; from then on the idle limit counts.
        self._phase = OPEN
        self._send(connack)
        hub.push_later(self)
        if self._connection.has_more or self._reading_paused:
            self._go_on_soon()

    def _refuse_login(self, reason: int) -> None:
        hub = self._hub
        if self._phase is HANDSHAKE:
            hub.counters.refused_logins += 1
            reasons = hub.counters.login_refusals
            reasons[reason] = reasons.get(reason, 0) + 1
            self._send(self._connection.refuse(reason, node_id=hub.node_id, now_ms=hub.clock.now_ms()))
            self.close(CloseCode.POLICY, PROTOCOL_ERROR)

    def _is_deciding(self) -> bool:
        return self._connection.state is State.DECIDING

    # The end ---------------------------------------------------------------------------------------------------------

    def end(self, *, reason: int, text: str, close_after_ms: int) -> None:
        """As dispatch.outbound.Gateway.end. What was queued before leaves before, if there is time. The logout comes
        when the socket is closed; until then it may be ended again, which can only bring the close forward."""
        phase = self._phase
        if phase is HANDSHAKE:
            # Pushes behind a CONNACK that will never come.
            self._drop_queue()
            self._leave()
        elif phase is OPEN:
            del self._hub.by_number[self.number]
            self._hub.leaving[self.number] = self
        elif phase is not LEAVING:
            return
        self._why = self._why or (KICKED if reason else REPLACED)
        if reason:
            frame = self._connection.disconnect(reason, text)
            if close_after_ms > 0:
                self._reply([frame])
            else:
                self._send(frame)
        if close_after_ms > 0:
            self._phase = LEAVING
            if phase is not LEAVING or self._hub.monotonic() + close_after_ms / 1000 < self._deadline:
                self._set_deadline(close_after_ms)
        else:
            self.close(CloseCode.NORMAL, KICKED)

    def _leave(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._connect = None
        hub = self._hub
        # It is there once, in one of them, so the logout is called once.
        number = self.number
        if number and any(
            sessions.pop(number, None) is not None for sessions in (hub.by_number, hub.leaving, hub.condemned)
        ):
            hub.on_end(number, self._why)
            # Not now: the caller may be in the middle of an apply, or of a walk over the sessions.
            hub.loop.call_soon(hub.sessions.logout, number, self._uid)

    def _forget(self) -> None:
        super()._forget()
        self._held = None
        self._requests = None

    # For operators ---------------------------------------------------------------------------------------------------

    def info(self) -> ConnectionInfo:
        hub = self._hub
        now, now_ms = hub.monotonic(), hub.clock.now_ms()
        uptime_ms = int((now - self._connected_at) * 1000)
        idle_ms = int((now - self._last_read_at) * 1000)
        connection = self._connection
        return ConnectionInfo(
            id=self.number,
            uid=self._uid,
            ip=self.peer[0],
            port=self.peer[1],
            transport=self.kind,
            device_flag=self._device_flag,
            device_id=self._device_id,
            version=connection.version,
            is_json=connection.is_json,
            is_encrypted=connection.cipher is not None,
            connected_ms=now_ms - uptime_ms,
            last_activity_ms=now_ms - idle_ms,
            uptime_ms=uptime_ms,
            idle_ms=idle_ms,
            pending_bytes=self.pending_bytes,
            sends_in_flight=self._in_flight,
            in_messages=self._in_messages,
            out_messages=self._out_messages,
            in_message_bytes=self._in_message_bytes,
            out_message_bytes=self._out_message_bytes,
            in_packets=self._in_packets,
            out_packets=self._out_packets,
            in_packet_bytes=self._in_packet_bytes,
            out_packet_bytes=self._out_packet_bytes,
        )
