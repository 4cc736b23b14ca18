"""The sockets of all clients: listeners, and what dispatch asks of the sessions behind them (dispatch.outbound)."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from wukong.clock import Clock
from wukong.dispatch.deliveries import STOPPED
from wukong.gateway.endpoint import Endpoint
from wukong.gateway.frames import CloseCode
from wukong.gateway.hub import Hub, SessionService, nobody_asks
from wukong.gateway.options import GatewayOptions
from wukong.gateway.outgoing import Push, push_bytes
from wukong.gateway.proxies import TrustedProxies
from wukong.gateway.statistics import ConnectionInfo, Counters
from wukong.gateway.tcp import TcpEndpoint
from wukong.gateway.websocket import SecureWebSocketEndpoint, WebSocketEndpoint
from wukong.protocol.connection import ConnectionOptions
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Sendack
from wukong.protocol.recv_frame import RecvView

log = logging.getLogger(__name__)

_BACKLOG = 4_096
_CLOSES_PER_TURN = 100
_LAST_TURNS_S = 0.2


class ClientGateway:
    """Make it inside the running loop, then `listen_tcp` and `listen_websocket`; `stop` at the end.

    trusted_proxies: networks whose PROXY headers, X-Forwarded-For and X-Real-IP are believed.
    on_end: told the number of each session that is over, and why (dispatch/deliveries.py)."""

    def __init__(
        self,
        *,
        node_id: int,
        sessions: SessionService,
        clock: Clock,
        connection_options: ConnectionOptions | None = None,
        options: GatewayOptions | None = None,
        trusted_proxies: Iterable[IPv4Network | IPv6Network] = (),
        on_end: Callable[[int, str], None] = nobody_asks,
    ) -> None:
        self._options = options or GatewayOptions()
        self._hub = Hub(
            node_id=node_id,
            sessions=sessions,
            clock=clock,
            connection_options=connection_options or ConnectionOptions(),
            options=self._options,
            trusted_proxies=TrustedProxies(trusted_proxies),
            on_end=on_end,
        )
        self._servers: list[asyncio.AbstractServer] = []
        self._hub.start_timers()

    # Listeners -------------------------------------------------------------------------------------------------------

    async def listen_tcp(self, host: str, port: int) -> int:
        """Returns the port bound. Raises OSError."""
        return await self._listen(TcpEndpoint, host, port, None)

    async def listen_websocket(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """With tls: wss. Returns the port bound. Raises OSError."""
        return await self._listen(SecureWebSocketEndpoint if tls else WebSocketEndpoint, host, port, tls)

    async def _listen(self, endpoint: type[Endpoint], host: str, port: int, tls: ssl.SSLContext | None) -> int:
        hub = self._hub
        # A TLS handshake is over before there is an endpoint, so it has a time limit of its own.
        handshake_s = self._options.handshake_timeout_ms / 1000 if tls else None
        server = await hub.loop.create_server(
            lambda: endpoint(hub), host, port, backlog=_BACKLOG, ssl=tls, ssl_handshake_timeout=handshake_s
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def stop(self, timeout_s: float = 3.0) -> None:
        """Accept nothing more, close every socket without a DISCONNECT (WebSocket 1012), so that SDKs come back. Those
        that are not gone in time are aborted; timeout_s is for all of it, but for the last few turns of the loop."""
        hub = self._hub
        deadline = hub.loop.time() + timeout_s
        hub.is_stopping = True
        for server in self._servers:
            server.close()
        for index, entry in enumerate(hub.wheel.entries()):
            assert isinstance(entry, Endpoint)
            entry.close(CloseCode.RESTART, STOPPED)
            if index % _CLOSES_PER_TURN == 0:
                await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await hub.empty.wait()
        hub.stop_timers()
        for entry in hub.wheel.entries():
            assert isinstance(entry, Endpoint)
            entry.abort()
        await hub.admission.drain(max(_LAST_TURNS_S, deadline - hub.loop.time()))
        # Their connection_lost, and the logouts they ask for, come in the next turns.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_TURNS_S):
                await hub.empty.wait()
                await asyncio.sleep(0)
        self._servers.clear()

    def refuse_new(self, on: bool) -> None:
        """Close new sockets at once, unanswered; SDKs try another node, or come again."""
        self._hub.is_refusing = on

    @property
    def is_refusing(self) -> bool:
        return self._hub.is_refusing

    def close_all(self) -> None:
        """Let go of every client, logins in progress too: from this moment nothing is pushed to them and nothing of
        theirs is taken, though the sockets of many are closed little by little. What is queued does not leave: clients
        come again and pull it."""
        self._hub.condemn_all()

    def close_some(self, count: int) -> int:
        """Let go of so many clients, little by little. Returns how many that will be; 0 while those of an earlier call
        wait for their turn."""
        return self._hub.drop_some(count)

    # wukong.dispatch.outbound.Gateway --------------------------------------------------------------------------------

    def deliver(self, view: RecvView, sessions: list[int]) -> None:
        self._push(view, sessions)

    def deliver_event(self, event: SharedEvent, sessions: list[int]) -> None:
        """Queue one EVENT; sessions whose client is too old for it are passed over (wkproto.md, 7.7)."""
        self._push(event, sessions)

    def _push(self, push: Push, sessions: list[int]) -> None:
        size_bytes = push_bytes(push)
        find = self._hub.by_number.get
        for number in sessions:
            endpoint = find(number)
            if endpoint is not None:
                endpoint.push(push, size_bytes)

    def when_written(self, callback: Callable[[], None]) -> None:
        self._hub.outbox.when_written(callback)

    def sendack(self, session: int, packet: Sendack) -> None:
        endpoint = self._hub.by_number.get(session)
        if endpoint is not None:
            endpoint.sendack(packet)

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None:
        endpoint = self._hub.by_number.get(session) or self._hub.leaving.get(session)
        if endpoint is not None:
            endpoint.end(reason=reason, text=text, close_after_ms=close_after_ms)

    def drop(self, session: int) -> None:
        endpoint = self._hub.by_number.get(session)
        if endpoint is not None:
            endpoint.drop()

    # For operators ---------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Live; do not change it."""
        return self._hub.counters

    @property
    def connections(self) -> int:
        """Sockets, logged in or not."""
        return len(self._hub.wheel)

    @property
    def sessions(self) -> int:
        """Logins answered or in progress."""
        return len(self._hub.by_number)

    @property
    def logins_in_progress(self) -> int:
        return self._hub.admission.in_progress

    @property
    def logins_waiting(self) -> int:
        return self._hub.admission.waiting

    @property
    def sessions_to_write(self) -> int:
        """Sessions with frames that wait for their turn."""
        return len(self._hub.outbox)

    def info(self, session: int) -> ConnectionInfo | None:
        endpoint = self._hub.by_number.get(session)
        return endpoint.info() if endpoint is not None else None

    def infos(self) -> Iterator[ConnectionInfo]:
        """All sessions by number, as of the call; each is described when it is asked for, so that the caller may do it
        in slices."""
        for number in list(self._hub.by_number):
            info = self.info(number)
            if info is not None:
                yield info
