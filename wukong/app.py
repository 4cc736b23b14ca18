"""Composition root: builds the parts, starts them in order, stops them in reverse.

Data flows one way: gateway and api → service → node (log → apply) → dispatch → gateway.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import resource
import secrets
import signal
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Mapping
from typing import Final, NoReturn

import msgspec
import uvloop

from wukong import __version__
from wukong.api.auth import Logins, signing_key
from wukong.api.backup import BackupRoutes
from wukong.api.manager import build_manager_app
from wukong.api.metrics import Figure, registry_of
from wukong.api.server import ApiOptions, ApiServer, build_app
from wukong.api.system import Addresses
from wukong.channel.commands import PutSettings
from wukong.channel.copies import settings_version
from wukong.channel.nodes import NodeRow
from wukong.channel.state import Settings
from wukong.clock import Clock, SystemClock
from wukong.cluster.clocks import Clocks
from wukong.cluster.controller import Controller, ControllerOptions
from wukong.cluster.formation import Facts, Forming
from wukong.cluster.health import HealthOptions
from wukong.cluster.inbound import Inbound
from wukong.cluster.membership import OwnRow
from wukong.cluster.mesh import Mesh
from wukong.cluster.watch import WatchOptions
from wukong.config import CMD_SUFFIX, SYSTEM_UID, Address, Config, cluster_settings
from wukong.config.keys import DemoConfig, ManagerConfig
from wukong.config.values import OFF
from wukong.console.demo import PREFIX as DEMO_PATH
from wukong.console.demo import DemoServer
from wukong.console.feed import Feed, NodeFigures
from wukong.console.server import ConsoleServer, Tokens
from wukong.dispatch.deliveries import Deliveries
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import ListenError, Unavailable, WukongError
from wukong.figures import Parts, figures
from wukong.gateway.gateway import ClientGateway
from wukong.gateway.options import GatewayOptions
from wukong.links.links import Links
from wukong.node.node import Node
from wukong.node.reclaim import Reclaimer
from wukong.node.snapshot_options import SnapshotOptions
from wukong.node.snapshots import Snapshots
from wukong.protocol.connection import ConnectionOptions
from wukong.raft.config import RaftConfig
from wukong.raft.log import FIRST_INDEX, Member
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.service.audit import Audit
from wukong.service.backup import BackupOptions, Backups
from wukong.service.cluster import ClusterAdmin
from wukong.service.datasource import Datasource
from wukong.service.explain import Pushes
from wukong.service.history import History, Reading
from wukong.service.other_nodes import OtherNodes
from wukong.service.overview import Overview
from wukong.service.replica import Replica
from wukong.service.sessions import Sessions
from wukong.service.usecases import UseCases
from wukong.session.audience import Audience
from wukong.session.registry import Registry
from wukong.store.datadir import DataDir, Formation, new_number
from wukong.store.rocks import RocksStore
from wukong.webhook.grpc_transport import GrpcTransport
from wukong.webhook.sender import Options as SenderOptions
from wukong.webhook.sender import Sender
from wukong.webhook.transport import HttpTransport, Transport

log = logging.getLogger("wukong")

# From SIGTERM to the end of the process: what is not done then, the next start recovers from the log.
STOP_TIMEOUT_S = 4.0
# The same for a process whose loop is held up: it ends without being asked. See StopSignals.
STOP_LIMIT_S = 4.6
# Of msg.offline: what is under way is held in memory.
WEBHOOK_REQUESTS_LIMIT = 64
# Requests and client sockets under way.
DOORS_TIMEOUT_S = 2.0
LOG_STOP_TIMEOUT_S = 1.5
RETRY_SLICE = 200
LAG_SAMPLE_S = 0.25
SETTINGS_POLL_S = 0.02
SETTINGS_RETRY_S = 0.2
WAIT_NOTICE_S = 5.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Server:
    """One node. `start` returns when it serves; `stop` when everything is on disk and closed.

    fatal: gets the error when the node cannot go on (disk, log, state machine); then stop and end the process."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.loop_lag_ms = 0.0
        self._started_s = self.clock.monotonic()
        self._worst_loop_lag_ms = 0.0
        self.gateway: ClientGateway | None = None
        self.webhooks: Sender | None = None
        self._api: ApiServer | None = None
        self._manager: ApiServer | None = None
        self._demo: ApiServer | None = None
        self.manager_port: int | None = None
        self.demo_port: int | None = None
        self.controller: Controller | None = None
        self._wanted: set[int] = set()  # nodes of the table
        self._parts = contextlib.AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None
        self._disk_hangs = False

    async def start(self) -> None:
        """Raises WukongError or OSError in words for the operator; what was started is stopped again."""
        self.fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        try:
            await self._start_replica()
            await self._start_serving()
        except BaseException:
            try:
                await self.stop()
            except Exception:
                log.exception("what was started could not be stopped in order")
            raise

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Hand leaderships over, close clients so that they reconnect elsewhere, finish the log, close the store.

        Returns after timeout_s at the latest; `is_stuck` tells whether something has not ended. Nothing is cancelled
        then: end the process. May be called again."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="stop")
        await asyncio.wait([self._stopping], timeout=timeout_s)
        if self._stopping.done():
            self._stopping.result()

    @property
    def is_stuck(self) -> bool:
        """Stopping was begun and has not come to its end, or a thread hangs in the disk."""
        return self._disk_hangs or (self._stopping is not None and not self._stopping.done())

    async def _stop(self) -> None:
        if self.gateway is not None:
            self.gateway.refuse_new(True)
        if self.controller is not None:
            # First of all, while everything still works: others take over at once instead of after an election time.
            try:
                await self.controller.hand_over_all()
            except Exception:
                log.exception("leaderships could not be handed over")
        await self._parts.aclose()

    async def _close_doors(self) -> None:
        """Clients and requests at the same time: neither waits for what the other waits for."""
        doors = (self._api, self._manager, self._demo, self.gateway)
        stops = [door.stop(DOORS_TIMEOUT_S) for door in doors if door is not None]
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("a listener could not be stopped", exc_info=outcome)

    # -- the replica --

    async def _start_replica(self) -> None:
        config, clock = self.config, self.clock
        node_id = config.cluster.node_id
        slot_count = config.wukong.slot_count
        directory = DataDir(config.data_dir, node_id=node_id, slot_count=slot_count)
        self._parts.callback(directory.close)
        await self._start_links(directory)
        formation = await self._belong(directory)
        self.store = RocksStore(str(directory.store), block_cache_bytes=config.wukong.store_cache_bytes)
        self._parts.push_async_callback(self._close_store)
        self.registry = Registry()
        self.audience = Audience()
        record_bytes = config.wukong.delivery_record_bytes
        self.deliveries = Deliveries(record_bytes) if record_bytes != OFF else None
        self.dispatcher = Dispatcher(
            node_id=node_id,
            registry=self.registry,
            audience=self.audience,
            clock=clock,
            deliveries=self.deliveries,
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
            clock=self.clocks,
            effects_sink=self.dispatcher.run,
            in_flight_limit=config.wukong.proposals_in_flight,
            forward=self.mesh.send_forward,
            on_break=self._close_clients,
        )
        self._parts.callback(self.node.shut)
        wal = self._wal = Wal.open(
            directory.wal,
            node_id=node_id,
            group_count=slot_count,
            segment_bytes=config.wukong.wal_segment_bytes,
            fsync=config.wukong.fsync,
        )
        held_something = bool(self.node.applied()) or any(log.last_index > FIRST_INDEX for log in wal.logs)
        if held_something or (node_id, directory.disk) in formation.members:
            self.mesh.ask_to_join(False)
        await asyncio.to_thread(directory.promise)
        raft_config = self._raft_config()
        self.runtime = Runtime(
            node_id=node_id,
            disk=directory.disk,
            members=tuple(Member(node, disk, True) for node, disk in formation.members),
            wal=wal,
            machine=self.node,
            clock=clock,
            on_fatal=self._on_fatal,
            config=raft_config,
            send=self.mesh.send_raft,
            snapshot_needed=self._snapshot_needed,
            pinned=self._pinned_index,
        )
        self.snapshots = Snapshots(
            slot_count=slot_count,
            store=self.store,
            generations=self.node.generations,
            send=self.mesh.send_snapshot,
            install=self.runtime.install,
            snapshot_at=self.runtime.snapshot_at,
            term_of=self.runtime.term,
            applied_index=self.runtime.applied_index,
            clock=clock,
            options=SnapshotOptions(
                view_limit=raft_config.pinned_groups, bytes_per_s=config.wukong.snapshot_bytes_per_second
            ),
        )
        self._parts.push_async_callback(self.snapshots.stop)
        self._parts.push_async_callback(self._stop_log)
        self.node.attach(self.runtime)
        self.reclaimer = Reclaimer(self.store.compact, self.node.generations.prefix)
        self.node.freed = self.reclaimer.freed
        controller = self.controller = self._make_controller(directory, formation)
        self.runtime.start()
        self.snapshots.start()
        self.mesh.serve(Inbound(self.runtime, self.node, self.snapshots, controller))
        controller.start()
        self._parts.push_async_callback(controller.stop)
        await self._wait("the log of every slot has a leader and is applied here", self.runtime.ready())
        await self._wait("a majority confirms that this node begins", self.node.go_live(None))
        await self._wait("the cluster's settings are in force here", self._settle())

    async def _start_links(self, directory: DataDir) -> None:
        """Listen for other nodes and dial them, if there are any to be expected."""
        cluster = self.config.cluster
        known = {node.node_id: f"{node.host}:{node.port}" for node in cluster.init_nodes}
        named = known.pop(cluster.node_id, "")
        if cluster.seed is not None:
            known[cluster.seed.node_id] = f"{cluster.seed.host}:{cluster.seed.port}"
        links = None
        port = cluster.addr.port
        own = Facts(
            directory.disk,
            self.config.wukong.slot_count,
            join=True,
            api_url=cluster.api_url,
            version=__version__,
            boot=secrets.randbelow(1 << 62) + 1,
            starts=directory.starts,
        )
        self.clocks = Clocks(self.clock)
        self.mesh = Mesh(cluster.node_id, self.clock, own, known)
        if known or cluster.secret or cluster.addr.is_loopback:
            links = Links(node_id=cluster.node_id, secret=cluster.secret, handler=self.mesh)
            self._parts.push_async_callback(links.stop)
            port = await links.listen(cluster.addr.host, port)
            links.allow_strangers(True)
        shown = str(cluster.server_addr or "") or named or f"{self.config.external.ip or cluster.addr.host}:{port}"
        self.cluster_addr = shown
        self.mesh.own = msgspec.structs.replace(own, addr=shown)
        if links is not None:
            self.mesh.start(links)
        self.links = links

    async def _belong(self, directory: DataDir) -> Formation:
        """The cluster of this node: the one its directory names, else one that it forms or finds. Waits for as long as
        it takes, and says for what."""
        formation = directory.formation
        cluster = self.config.cluster
        if formation is None and cluster.is_single_node:
            formation = Formation(new_number(), ((cluster.node_id, directory.disk),))
            directory.form(formation)
        elif formation is None:
            wanted = frozenset(node.node_id for node in cluster.init_nodes) if cluster.seed is None else frozenset()
            forming = self.mesh.forming = Forming(
                cluster.node_id, directory.disk, self.config.wukong.slot_count, wanted
            )
            heard = asyncio.Event()
            self.mesh.on_heard = heard.set
            while (formation := forming.decide(new_number())) is None:
                heard.clear()
                try:
                    async with asyncio.timeout(WAIT_NOTICE_S):
                        await heard.wait()
                except TimeoutError:
                    missing = ", ".join(map(str, forming.missing)) or "one that is in a cluster"
                    log.warning("this node belongs to no cluster yet; waiting for nodes: %s", missing)
            self.mesh.on_heard = lambda: None
            await asyncio.to_thread(directory.form, formation)
            log.info("cluster %d: nodes %s", formation.cluster, ", ".join(str(node) for node, _ in formation.members))
        self.mesh.join(formation)
        return formation

    def _make_controller(self, directory: DataDir, formation: Formation) -> Controller:
        return Controller(
            node_id=self.node.node_id,
            cluster=formation.cluster,
            own=OwnRow(self.cluster_addr, directory.disk, self.config.cluster.api_url),
            groups=self.runtime,
            replica=self.node,
            send=lambda node, kind, group, body: self.mesh.send_control(node, body),
            clock=self.clock,
            clocks=self.clocks,
            rng=random.Random(),
            close_some=lambda count: self.gateway.close_some(count) if self.gateway is not None else None,
            clients=lambda: self.gateway.connections if self.gateway is not None else 0,
            differing=self._differing_settings,
            snapshots=lambda: [str(line) for line in self.snapshots.progress()],
            members_changed=self._follow_table,
            options=self._control_options(),
        )

    def _control_options(self) -> ControllerOptions:
        """What counts as silence follows from how often is spoken."""
        limits = self.config.wukong
        heartbeat_s, election_s = limits.heartbeat_ms / 1000, 2 * limits.election_ms / 1000
        usual = HealthOptions()
        return ControllerOptions(
            watch=WatchOptions(node_gone_after_ms=limits.node_gone_after_ms, majority_s=max(1.0, 3 * heartbeat_s)),
            health=HealthOptions(silent_s=max(usual.silent_s, 4 * heartbeat_s), bad_s=max(usual.bad_s, 2 * election_s)),
        )

    def _follow_table(self, table: Mapping[int, NodeRow]) -> None:
        """Dial the nodes that are wanted, and no longer those that were removed."""
        for node in self._wanted - table.keys():
            self.mesh.forget(node)
        self._wanted = set(table)
        row = table.get(self.node.node_id)
        if row is not None and row.disk == self.mesh.own.disk:
            self.mesh.ask_to_join(False)
        self.mesh.learn(
            {node: row.addr for node, row in table.items() if row.addr}, {node: row.disk for node, row in table.items()}
        )

    async def _wait(self, what: str, work: Awaitable[None]) -> None:
        """Wait for something that needs other nodes, as long as it takes, and say so now and then."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=WAIT_NOTICE_S)
                if not task.done():
                    nodes = ", ".join(map(str, sorted(self.mesh.connected_nodes))) or "none"
                    log.warning("waiting until %s; connected nodes: %s", what, nodes)
            task.result()
        finally:
            task.cancel()

    def _raft_config(self) -> RaftConfig:
        limits = self.config.wukong
        return RaftConfig(
            heartbeat_ms=limits.heartbeat_ms,
            tick_ms=max(5, limits.heartbeat_ms * 2 // 3),
            election_min_ms=limits.election_ms,
            election_max_ms=2 * limits.election_ms,
            quorum_timeout_ms=2 * limits.election_ms + limits.heartbeat_ms,
            retain_bytes=limits.log_retained_bytes,
            trim_bytes=limits.log_trim_bytes,
        )

    def _snapshot_needed(self, slot: int, node: int) -> None:
        self.snapshots.needed(slot, node)

    def _pinned_index(self, slot: int) -> int | None:
        return self.snapshots.pinned_index(slot)

    def _close_clients(self, why: str) -> None:
        # In this very turn, though the sockets go little by little: apply goes on behind it.
        self.dispatcher.forget_all()
        if self.gateway is not None:
            log.warning("closing all clients: %s", why)
            self.gateway.close_all()

    def _is_alone(self) -> bool:
        return all(
            [member.node for member in self.runtime.members(group)] == [self.node.node_id]
            for group in range(self.node.slot_count)
        )

    def _own_settings(self) -> Settings:
        return msgspec.convert(cluster_settings(self.config), Settings)

    def _differing_settings(self) -> list[str]:
        """The settings in which this node's file differs from the cluster's, which count."""
        ours, theirs = msgspec.to_builtins(self._own_settings()), msgspec.to_builtins(self.node.states[0].settings)
        return [name for name in ours if ours[name] != theirs[name]]

    async def _settle(self) -> None:
        """Enter the settings, however often this node is fenced and however long there is no majority meanwhile."""
        while True:
            try:
                await self._enter_settings(alone=self._is_alone())
                return
            except Unavailable:
                if not self.node.is_live:
                    raise
            await asyncio.sleep(SETTINGS_RETRY_S)

    async def _enter_settings(self, *, alone: bool) -> None:
        """Bring the settings on which apply depends into the log. While this node is alone its file is the word on
        them; a cluster's are changed on purpose only. May be repeated."""
        wanted = self._own_settings()
        # A change that the last life left half done comes first, else it would come after this one.
        await self.node.settled(0)
        if self.node.states[0].settings == wanted and alone:
            return
        encoded = msgspec.msgpack.encode(wanted)
        reply = await self.node.execute(0, PutSettings(encoded, initial=not alone))
        await self.node.copied(0, reply.version)
        # Somebody else may have entered them a moment ago: nobody logs in by the defaults.
        while any(settings_version(state) < reply.version for state in self.node.states):  # noqa: ASYNC110
            await asyncio.sleep(SETTINGS_POLL_S)
        differing = self._differing_settings()
        if differing:
            log.warning(
                "this node's configuration differs from the cluster's settings, which count: %s. Change the file, or "
                "make its values the cluster's: wukong cluster settings adopt",
                ", ".join(differing),
            )

    async def _stop_log(self) -> None:
        self._disk_hangs = True  # until the opposite is known
        self._disk_hangs = not await self.runtime.stop(LOG_STOP_TIMEOUT_S)

    async def _close_store(self) -> None:
        """Not on the loop: a flush takes as long as the disk wants."""
        if not self._disk_hangs:
            await asyncio.to_thread(self.store.flush)
            await asyncio.to_thread(self.store.close)

    def _on_fatal(self, error: BaseException) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)

    # -- serving --

    async def _start_serving(self) -> None:
        config = self.config
        self._start_webhooks()
        self.sessions = Sessions(
            node=self.node,
            dispatcher=self.dispatcher,
            registry=self.registry,
            clock=self.clock,
            manager_uid=config.manager_uid,
            manager_token=config.manager_token,
            system_uid=SYSTEM_UID,
        )
        self.audit = Audit(
            node=self.node,
            registry=self.registry,
            audience=self.audience,
            sessions=self.sessions,
            clock=self.clock,
            rng=random.Random(),
        )
        limits = config.wukong
        controller = self.controller
        assert controller is not None
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
            on_end=self.dispatcher.ended,
        )
        self.dispatcher.gateway = self.gateway
        self._parts.push_async_callback(self._close_doors)
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
        use_cases = self._use_cases()
        admin = ClusterAdmin(
            controller=controller,
            groups=self.runtime,
            replica=Replica(self.node, timeout_ms=config.cluster.request_timeout_ms),
            wanted=self._own_settings(),
        )
        nodes = OtherNodes(controller, use_cases.replica, timeout_s=config.cluster.request_timeout_ms / 1000)
        self._parts.push_async_callback(nodes.stop)
        logins = await self._logins()
        options = self._api_options(use_cases)
        history = self._make_history(use_cases)
        if config.manager.on:
            registry = registry_of(options.figures)
            app = build_manager_app(
                use_cases,
                options,
                cluster=admin,
                nodes=nodes,
                logins=logins,
                registry=registry,
                history=history,
                console=self._console(use_cases, admin, nodes, logins, history),
            )
            await self._start_manager(ApiServer(app), config.manager.addr)
        if config.demo.on:
            await self._start_demo(use_cases, config.demo.addr)
        if config.datasource.addr:
            datasource = Datasource(
                use_cases.users,
                config.datasource.addr,
                leads=lambda: self.node.leads(0),
                refresh_s=limits.datasource_refresh_ms / 1000,
            )
            asking = asyncio.get_running_loop().create_task(datasource.run(), name="datasource")
            self._parts.push_async_callback(_cancel, asking)
        periodic = (
            self._retry_unacknowledged(),
            self._sample_loop_lag(controller),
            history.run(),
            self.audit.run(),
            use_cases.retention.keep_running(limits.retention_interval_ms / 1000),
            self.reclaimer.run(),
        )
        for work in periodic:
            task = asyncio.get_running_loop().create_task(work)
            self._parts.push_async_callback(_cancel, task)
        backups = BackupRoutes(self._backups(controller.cluster)).routes()
        server = ApiServer(
            build_app(use_cases, options, cluster=admin, nodes=nodes, logins=logins, more_routes=backups)
        )
        # The last door: whoever waits for a good /health finds all the others open.
        with _listening("httpAddr", config.http_addr):
            self.http_port = await server.start(config.http_addr.host, config.http_addr.port)
        self._api = server

    def _start_webhooks(self) -> None:
        """Also without an address: the cluster may want events, and what waits has its limit."""
        config = self.config
        webhook = config.webhook
        requests_limit = min(config.event_pool_size, WEBHOOK_REQUESTS_LIMIT)
        connections = requests_limit + WEBHOOK_REQUESTS_LIMIT
        main: Transport | None = None
        agent: Transport | None = None
        if webhook.grpc_addr:
            main = GrpcTransport(webhook.grpc_addr)
        elif webhook.http_addr:
            main = HttpTransport(webhook.http_addr, connections=connections)
        elif self.node.states[0].settings.webhook_on:
            log.error("the cluster's settings want webhook events, and this node has no address to send them to")
        if main is not None and config.agent.webhook_http_addr:
            agent = HttpTransport(config.agent.webhook_http_addr, connections=connections)
        sender = self.webhooks = Sender(
            replica=self.node,
            main=main,
            agent=agent,
            options=SenderOptions(
                count_per_push=webhook.count_per_push,
                push_interval_ms=webhook.push_interval_ms,
                retry_limit=webhook.retry_max_count,
                requests_limit=requests_limit,
                compress_above=config.channel.subscriber_compress_of_count,
                secret=config.wukong.webhook_secret,
            ),
            clock=self.clock,
            rng=random.Random(),
        )
        self._parts.push_async_callback(sender.stop)
        self.node.webhooks = sender
        sender.start()

    def _backups(self, cluster: int) -> Backups:
        backups = Backups(
            node=self.node,
            store=self.store,
            logs=self._wal.logs,
            cluster=cluster,
            version=__version__,
            clock=self.clock,
            options=BackupOptions(bytes_per_s=self.config.wukong.snapshot_bytes_per_second),
        )
        self._parts.callback(backups.stop)
        return backups

    async def _logins(self) -> Logins:
        config = self.config
        key = await asyncio.to_thread(signing_key, config.jwt.secret, config.cluster.secret, config.data_dir)
        return Logins(
            config.console_accounts,
            key=key,
            issuer=config.jwt.issuer,
            expire_ms=config.jwt.expire_ms,
            clock=self.clock,
        )

    def _console(
        self, use_cases: UseCases, admin: ClusterAdmin, nodes: OtherNodes, logins: Logins, history: History
    ) -> ConsoleServer:
        config = self.config
        return ConsoleServer(
            use_cases,
            tokens=Tokens(config.manager_token, config.manager.readonly_token),
            account=logins.account,
            feed=Feed(
                own=lambda: self._console_figures(use_cases),
                own_history=history.shape,
                cluster=admin,
                nodes=nodes,
                clock=self.clock,
            ),
            clock=self.clock,
        )

    def _console_figures(self, use_cases: UseCases) -> NodeFigures:
        gateway, sender = self.gateway, self.webhooks
        assert gateway is not None and sender is not None
        totals = sender.totals
        return NodeFigures(
            version=__version__,
            uptime_s=int(self.clock.monotonic() - self._started_s),
            sessions=len(self.registry),
            connections=gateway.connections,
            sends=gateway.counters.in_messages + use_cases.messages.sent,
            recvs=gateway.counters.out_messages,
            log_bytes=self._wal.size_bytes,
            webhook_on=self.config.webhook.on,
            webhook_records=sender.backlog_records(),
            webhook_bytes=sender.backlog_bytes(),
            webhook_oldest_s=round(sender.oldest_s(), 1),
            webhook_delivered=dict(totals.delivered),
            webhook_retried=dict(totals.retried),
            webhook_dropped=dict(totals.dropped),
            webhook_error=totals.last_error,
            webhook_error_ms=totals.last_error_ms,
        )

    async def _start_manager(self, server: ApiServer, addr: Address) -> None:
        try:
            with _listening("manager.addr", addr):
                self.manager_port = await server.start(addr.host, addr.port)
        except ListenError as error:
            if addr != ManagerConfig.addr:
                raise
            # Nobody asked for this address: a second server on this machine is not to fail for it.
            log.warning("the manager's port is not served: %s", error)
        else:
            self._manager = server

    async def _start_demo(self, use_cases: UseCases, addr: Address) -> None:
        shown = self.config.external_addresses(ws_port=self.ws_port, wss_port=self.wss_port)
        demo = DemoServer(use_cases, addresses=[shown.ws_addr, shown.wss_addr], local_only=addr.is_loopback)
        server = ApiServer(demo.application())
        try:
            with _listening("demo.addr", addr):
                self.demo_port = await server.start(addr.host, addr.port)
        except ListenError as error:
            if addr != DemoConfig.addr:
                raise
            # As with the manager's port.
            log.warning("the chat demo is not served: %s", error)
        else:
            self._demo = server
            if not addr.is_loopback:
                log.warning("the chat demo listens on %s: whoever reaches it can be any demo user", addr)

    def _use_cases(self) -> UseCases:
        assert self.gateway is not None
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
            probes=self.dispatcher.probes,
            pushes=Pushes(
                node_id=self.config.cluster.node_id,
                deliveries=self.deliveries,
                registry=self.registry,
                clock=self.clock,
            ),
        )

    def _api_options(self, use_cases: UseCases) -> ApiOptions:
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
            docs_on=config.mode != "release",
            prometheus_on=bool(config.trace.prometheus_api_url),
            figures=tuple(self._figures(use_cases)),
        )

    def _make_history(self, use_cases: UseCases) -> History:
        probes = self.dispatcher.probes
        latencies = {"ack": probes.send_s, "recv": probes.delivery_s, "fsync": self.runtime.write_s}

        def read() -> Reading:
            assert self.gateway is not None
            assert self.controller is not None
            assert self.webhooks is not None
            counters = self.gateway.counters
            worst_ms, self._worst_loop_lag_ms = self._worst_loop_lag_ms, 0.0
            return Reading(
                sends=counters.in_messages + use_cases.messages.sent,
                recvs=counters.out_messages,
                sessions=len(self.registry),
                lag_entries=self.controller.lag_entries,
                loop_lag_ms=worst_ms,
                webhook_backlog=self.webhooks.backlog_records(),
            )

        return History(read, latencies, self.clock)

    def _why_unhealthy(self) -> str:
        if self.fatal.done():
            return "the log or the disk failed; the node is stopping"
        if self._stopping is not None or not self.node.is_live or self.controller is None:
            return "the node is stopping"
        refusing = self.gateway is not None and self.gateway.is_refusing
        return self.controller.health.why_not() or ("new clients are not taken yet" if refusing else "")

    def _figures(self, use_cases: UseCases) -> Iterator[Figure]:
        assert self.gateway is not None
        assert self.controller is not None
        assert self.webhooks is not None
        return figures(
            Parts(
                node=self.node,
                runtime=self.runtime,
                wal=self._wal,
                store=self.store,
                snapshots=self.snapshots,
                mesh=self.mesh,
                links=self.links,
                controller=self.controller,
                registry=self.registry,
                gateway=self.gateway,
                sessions=self.sessions,
                dispatcher=self.dispatcher,
                messages=use_cases.messages,
                audit=self.audit,
                webhooks=self.webhooks,
                is_serving=lambda: not self._why_unhealthy(),
                loop_lag_s=lambda: self.loop_lag_ms / 1000,
            )
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

    async def _sample_loop_lag(self, controller: Controller) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SAMPLE_S
            await asyncio.sleep(LAG_SAMPLE_S)
            self.loop_lag_ms = max(0.0, (loop.time() - due) * 1000)
            self._worst_loop_lag_ms = max(self._worst_loop_lag_ms, self.loop_lag_ms)
            if self.gateway is not None:
                self.gateway.refuse_new(self._stopping is not None or not controller.health.serving)

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
        if self.manager_port is not None:
            log.info("manager: http://%s:%d", config.manager.addr.host, self.manager_port)
        if self.demo_port is not None:
            log.info("chat demo: http://%s:%d%s/", config.demo.addr.host, self.demo_port, DEMO_PATH)


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


class StopSignals:
    """SIGTERM and SIGINT, taken by a thread of their own from here on: `arrived` is set on the loop, and if the process
    still runs limit_s later it ends in any case, even when a disk holds up its loop or its exit. What was acknowledged
    is in the log. Make it in the main thread before there are others, which would get the signals too."""

    def __init__(self, limit_s: float = STOP_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._came = False
        self._lock = threading.Lock()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        # It lives as long as the process, which does not wait for it.
        threading.Thread(target=self._run, name="stop-signals", daemon=True).start()

    def arrived(self) -> asyncio.Event:
        """Set when one of the signals comes, or has come before. Call it on the running loop."""
        with self._lock:
            self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
            if self._came:
                self._event.set()
            return self._event

    def _run(self) -> None:
        signal.sigwait(_STOP_SIGNALS)
        with self._lock:
            self._came = True
            if self._loop is not None and self._event is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._event.set)
        time.sleep(self._limit_s)
        os.write(2, b"wukong: something holds up the stop; the next start recovers from the log\n")
        os._exit(0)


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after a stop, 1 for a fault told on stderr. Ends the
    process itself when something hangs, or the log failed (70)."""
    _raise_file_limit()
    return uvloop.run(_serve(config, StopSignals()))


async def _serve(config: Config, signals: StopSignals) -> int:
    server = Server(config)
    try:
        await _live(server, signals.arrived())
    except (WukongError, OSError) as error:
        sys.stderr.write(f"wukong: {error or type(error).__name__}\n")
        status = 1
    except Exception:
        if not server.is_stuck:
            raise
        log.critical("the node failed", exc_info=True)
        status = 1
    else:
        status = 0
    if server.is_stuck:
        log.warning("not everything stopped in time; the next start recovers from the log")
        _exit_now(status)
    return status


async def _live(server: Server, stop: asyncio.Event) -> None:
    """From start to stop. Raises what kept the node from starting; ends the process if the log fails."""
    loop = asyncio.get_running_loop()
    starting = loop.create_task(server.start())
    asked = loop.create_task(stop.wait())
    try:
        await asyncio.sleep(0)
        # A node may wait for others for long: it has to be stoppable meanwhile, and may break.
        await asyncio.wait((starting, asked, server.fatal), return_when=asyncio.FIRST_COMPLETED)
        if server.fatal.done():
            _end_at_once(server.fatal.result())
        if asked.done() and not starting.done():
            log.info("stopping before the start is over")
            starting.cancel()
            # It stops what it has started; were it not cancellable, the time limit of the signals is left.
            await asyncio.wait((starting,))
            if starting.cancelled() or server.is_stuck:
                return
        starting.result()
        # What lives now lives until the end: collections need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        server.announce()
        await asyncio.wait((asked, server.fatal), return_when=asyncio.FIRST_COMPLETED)
        if server.fatal.done():
            _end_at_once(server.fatal.result())
        log.info("stopping")
        await server.stop()
        if server.fatal.done():
            _end_at_once(server.fatal.result())
    finally:
        asked.cancel()


def _end_at_once(error: BaseException) -> NoReturn:
    """The log or the disk failed: what is in memory may not be written any more. Recovery is the next start's work."""
    log.critical("stopping at once: %s", error)
    _exit_now(70)


def _exit_now(status: int) -> NoReturn:
    """Without waiting for threads that may hang."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def _raise_file_limit() -> None:
    """One file per connection: take what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
