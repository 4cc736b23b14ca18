"""Composition root: builds the parts, starts them in order, stops them in reverse.

Data flows one way: gateway and api → service → node (log → apply) → dispatch → gateway.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import Iterator

import msgspec
import uvloop

from wukong.api.metrics import COUNTER, GAUGE, Figure
from wukong.api.server import ApiOptions, ApiServer, build_app
from wukong.api.system import Addresses
from wukong.channel.commands import PutSettings
from wukong.channel.state import Settings
from wukong.clock import Clock, SystemClock
from wukong.config import CMD_SUFFIX, SYSTEM_UID, Address, Config, cluster_settings
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import ListenError, WukongError
from wukong.gateway.gateway import ClientGateway
from wukong.gateway.options import GatewayOptions
from wukong.node.node import Node
from wukong.protocol.connection import ConnectionOptions
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.service.overview import Overview
from wukong.service.sessions import Sessions
from wukong.service.usecases import UseCases
from wukong.session.audience import Audience
from wukong.session.registry import Registry
from wukong.store.datadir import DataDir
from wukong.store.rocks import RocksStore

log = logging.getLogger("wukong")

STOP_TIMEOUT_S = 4.5
LOG_STOP_TIMEOUT_S = 2.0
RETRY_SLICE = 200
LAG_SAMPLE_S = 0.25
SETTINGS_TIMEOUT_S = 10.0


class Server:
    """One node. `start` returns when it serves; `stop` when everything is on disk and closed.

    fatal: gets the error when the node cannot go on (disk, log, state machine); then stop and end the process."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.loop_lag_ms = 0.0
        self._parts = contextlib.AsyncExitStack()
        self._disk_hangs = False

    async def start(self) -> None:
        """Raises WukongError or OSError in words for the operator; what was started is stopped again."""
        self.fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        try:
            await self._start_replica()
            await self._start_serving()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening, close clients so that they reconnect elsewhere, finish the log, close the store."""
        await self._parts.aclose()

    # -- the replica --

    async def _start_replica(self) -> None:
        config, clock = self.config, self.clock
        node_id = config.cluster.node_id
        slot_count = config.wukong.slot_count
        directory = DataDir(config.data_dir, node_id=node_id, slot_count=slot_count)
        self._parts.callback(directory.close)
        self.store = RocksStore(str(directory.store), block_cache_bytes=config.wukong.store_cache_bytes)
        self._parts.callback(self._close_store)
        self.registry = Registry()
        self.audience = Audience()
        self.dispatcher = Dispatcher(
            node_id=node_id,
            registry=self.registry,
            audience=self.audience,
            clock=clock,
            policy=RetryPolicy(
                config.message_retry.interval_ms,
                config.message_retry.max_count,
                config.wukong.recvack_window_per_session,
            ),
            system_uid=SYSTEM_UID,
            cmd_suffix=CMD_SUFFIX,
        )
        self.node = Node(
            node_id=node_id,
            slot_count=slot_count,
            store=self.store,
            clock=clock,
            effects_sink=self.dispatcher.run,
            in_flight_limit=config.wukong.proposals_in_flight,
        )
        self._parts.callback(self.node.shut)
        wal = self._wal = Wal.open(
            directory.wal,
            node_id=node_id,
            group_count=slot_count,
            segment_bytes=config.wukong.wal_segment_bytes,
            fsync=config.wukong.fsync,
        )
        self.runtime = Runtime(node_id=node_id, wal=wal, machine=self.node, clock=clock, on_fatal=self._on_fatal)
        self._parts.push_async_callback(self._stop_log)
        self.node.attach(self.runtime)
        self.runtime.start()
        await self.runtime.ready()
        await self.node.go_live()
        await self._enter_settings()

    async def _enter_settings(self) -> None:
        """Bring the settings on which apply depends into the log. While this node is alone its file is the word on
        them; a cluster's are changed on purpose only."""
        wanted = msgspec.convert(cluster_settings(self.config), Settings)
        # A change that the last life left half done comes first, else it would come after this one.
        async with asyncio.timeout(SETTINGS_TIMEOUT_S):
            await self.node.settled(0)
        if self.node.states[0].settings == wanted:
            return
        async with asyncio.timeout(SETTINGS_TIMEOUT_S):
            reply = await self.node.execute(0, PutSettings(msgspec.msgpack.encode(wanted)))
            await self.node.copied(0, reply.version)

    async def _stop_log(self) -> None:
        self._disk_hangs = not await self.runtime.stop(LOG_STOP_TIMEOUT_S)

    def _close_store(self) -> None:
        if not self._disk_hangs:
            self.store.flush()
            self.store.close()

    def _on_fatal(self, error: BaseException) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)

    # -- serving --

    async def _start_serving(self) -> None:
        config = self.config
        self.sessions = Sessions(
            node=self.node,
            dispatcher=self.dispatcher,
            registry=self.registry,
            clock=self.clock,
            manager_uid=config.manager_uid,
            manager_token=config.manager_token,
            system_uid=SYSTEM_UID,
        )
        limits = config.wukong
        self.gateway = ClientGateway(
            node_id=config.cluster.node_id,
            sessions=self.sessions,
            clock=self.clock,
            connection_options=ConnectionOptions(
                encryption=not config.disable_encryption,
                jsonrpc=not config.disable_jsonrpc,
                plaintext_allowed=limits.allow_plaintext_setting,
                frame_limit_bytes=limits.frame_body_bytes,
            ),
            options=GatewayOptions(
                idle_timeout_ms=config.conn_idle_time_ms,
                logins_in_progress_limit=limits.connects_in_flight,
                sends_in_flight_limit=limits.sends_in_flight_per_session,
                outbound_limit_bytes=limits.session_outbound_bytes,
            ),
            trusted_proxies=limits.trusted_proxies,
        )
        self.dispatcher.gateway = self.gateway
        self._parts.push_async_callback(self.gateway.stop)
        with _listening("addr", config.tcp_addr):
            self.tcp_port = await self.gateway.listen_tcp(config.tcp_addr.host, config.tcp_addr.port)
        with _listening("wsAddr", config.ws_addr):
            self.ws_port = await self.gateway.listen_websocket(config.ws_addr.host, config.ws_addr.port)
        self.wss_port: int | None = None
        if config.wss_addr is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(config.wss_config.cert_file, config.wss_config.key_file)
            with _listening("wssAddr", config.wss_addr):
                self.wss_port = await self.gateway.listen_websocket(config.wss_addr.host, config.wss_addr.port, tls=tls)
        api = build_app(self._use_cases(), self._api_options())
        server = ApiServer(api)
        with _listening("httpAddr", config.http_addr):
            self.http_port = await server.start(config.http_addr.host, config.http_addr.port)
        self._parts.push_async_callback(server.stop)
        for work in (self._retry_unacknowledged(), self._sample_loop_lag()):
            task = asyncio.get_running_loop().create_task(work)
            self._parts.push_async_callback(_cancel, task)

    def _use_cases(self) -> UseCases:
        overview = Overview(
            node_id=self.config.cluster.node_id,
            registry=self.registry,
            connections=self.gateway,
            clock=self.clock,
        )
        return UseCases(
            self.node,
            overview,
            timeout_ms=self.config.cluster.request_timeout_ms,
            conversation_max_count=self.config.conversation.user_max_count,
        )

    def _api_options(self) -> ApiOptions:
        config = self.config
        shown = config.external_addresses(tcp_port=self.tcp_port, ws_port=self.ws_port, wss_port=self.wss_port)
        return ApiOptions(
            manager_token=config.manager_token,
            body_limit_bytes=config.wukong.http_body_bytes,
            command_sync_off=config.disable_cmd_message_sync,
            addresses=Addresses(
                tcp=shown.tcp_addr,
                ws=shown.ws_addr,
                wss=shown.wss_addr,
                intranet_tcp=config.intranet.tcp_addr,
                api_url=shown.api_url,
                manager=str(config.manager.addr) if config.manager.on else "",
            ),
            manager_uid=config.manager_uid,
            manager_on=config.manager.on,
            health=self._why_unhealthy,
            figures=tuple(self._figures()),
        )

    def _why_unhealthy(self) -> str:
        if self.fatal.done():
            return "the log or the disk failed; the node is stopping"
        return "" if self.node.is_live else "the node is stopping"

    def _figures(self) -> Iterator[Figure]:
        """What GET /metrics shows of this node."""
        node, dispatcher, gateway, store = self.node, self.dispatcher, self.gateway, self.store
        yield Figure("wukong_loop_lag_seconds", "Delay of a timer.", GAUGE, lambda: self.loop_lag_ms / 1000)
        yield Figure("wukong_sessions", "Clients logged in here.", GAUGE, lambda: len(self.registry))
        yield Figure("wukong_connections", "Client sockets.", GAUGE, lambda: gateway.connections)
        yield Figure("wukong_commands_applied", "Commands applied.", COUNTER, lambda: node.applied_commands)
        yield Figure("wukong_commands_in_flight", "Commands proposed, not applied yet.", GAUGE, lambda: node.in_flight)
        yield Figure("wukong_pushes", "RECVs handed to sessions.", COUNTER, lambda: dispatcher.pushed)
        yield Figure("wukong_pushes_repeated", "RECVs repeated without a RECVACK.", COUNTER, lambda: dispatcher.retried)
        yield Figure(
            "wukong_retries_dropped", "Retries lost at the limit.", COUNTER, lambda: dispatcher.retries_dropped
        )
        yield Figure(
            "wukong_slow_sessions_closed", "Clients that did not read.", COUNTER, lambda: gateway.counters.slow_closed
        )
        yield Figure("wukong_wal_syncs", "Batches of the log put on disk.", COUNTER, lambda: self._wal.sync_count)
        yield Figure("wukong_wal_written_bytes", "Bytes written to the log.", COUNTER, lambda: self._wal.written_bytes)
        yield Figure("wukong_wal_bytes", "Size of the log.", GAUGE, lambda: self._wal.size_bytes)
        yield Figure(
            "wukong_store",
            "The database's own figures.",
            GAUGE,
            lambda: {(name,): value for name, value in store.stats().items()},
            ("figure",),
        )

    async def _retry_unacknowledged(self) -> None:
        """Push again what was not acknowledged in time; in slices, so that no turn of the loop is long."""
        while True:
            await asyncio.sleep(self.config.message_retry.scan_interval_ms / 1000)
            due = [session for session in self.registry.by_number.values() if session.unacked]
            work = 0
            for session in due:
                try:
                    work += 1 + self.dispatcher.retry(session)
                except Exception:
                    log.exception("a retry for session %d failed", session.number)
                if work >= RETRY_SLICE:
                    work = 0
                    await asyncio.sleep(0)

    async def _sample_loop_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SAMPLE_S
            await asyncio.sleep(LAG_SAMPLE_S)
            self.loop_lag_ms = max(0.0, (loop.time() - due) * 1000)

    def announce(self) -> None:
        """Say where the node serves, for people and for what waits for it."""
        config = self.config
        log.info(
            "ready: api http://%s:%d, tcp %s:%d, websocket ws://%s:%d",
            config.http_addr.host,
            self.http_port,
            config.tcp_addr.host,
            self.tcp_port,
            config.ws_addr.host,
            self.ws_port,
        )


@contextlib.contextmanager
def _listening(key: str, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ListenError(key, str(address), error) from error


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after a clean stop, 1 for a fault told on stderr."""
    _raise_file_limit()
    try:
        return uvloop.run(_serve(config))
    except WukongError as error:
        sys.stderr.write(f"wukong: {error}\n")
    except OSError as error:
        sys.stderr.write(f"wukong: {error}\n")
    return 1


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config)
    await server.start()
    # What lives now lives until the end: collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    server.announce()
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((stopping, server.fatal), return_when=asyncio.FIRST_COMPLETED)
    if server.fatal.done():
        # The log or the disk failed: what is in memory may not be written any more. Recovery is the next start's work.
        log.critical("stopping at once: %s", server.fatal.result())
        logging.shutdown()
        os._exit(70)
    log.info("stopping")
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await server.stop()
    except TimeoutError:
        log.warning("not everything stopped within %.0f s; the next start recovers from the log", STOP_TIMEOUT_S)
        logging.shutdown()
        os._exit(0)
    return 0


def _raise_file_limit() -> None:
    """One file per connection: take what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
