"""One life of one simulated node: the product's parts as the composition root joins them, without sockets and threads.

The gateway is the only part that is made up: it speaks with simulated clients (clients.py) and keeps the promises of
the real one: pushes wait for the CONNACK, a session that ended gets nothing, the logout comes when the socket is gone.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tests.simulation.disk import Disk
from tests.simulation.loop import ProcessClock, ProcessLoop
from tests.simulation.network import SimLinks
from wukong.channel.commands import PutSettings, decode_entry
from wukong.channel.state import Settings
from wukong.cluster.clocks import Clocks
from wukong.cluster.controller import Controller
from wukong.cluster.formation import Facts, Forming
from wukong.cluster.inbound import Inbound
from wukong.cluster.membership import OwnRow
from wukong.cluster.mesh import Mesh
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import Unavailable
from wukong.node.node import Node
from wukong.node.snapshot_options import SnapshotOptions
from wukong.node.snapshots import Snapshots
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Recvack, Send, Sendack
from wukong.protocol.recv_frame import RecvView
from wukong.raft.config import RaftConfig
from wukong.raft.log import Member
from wukong.raft.runtime import Runtime
from wukong.raft.statemachine import Committed
from wukong.service.overview import Overview
from wukong.service.sessions import Login, LoginRefused, Sessions
from wukong.service.usecases import UseCases
from wukong.session.audience import Audience
from wukong.session.registry import Registry
from wukong.store.datadir import Formation
from wukong.store.overlay import prefix_end

if TYPE_CHECKING:
    from tests.simulation.clients import Wire
    from tests.simulation.world import World

log = logging.getLogger(__name__)

SYSTEM_UID = "____system"
CMD_SUFFIX = "____cmd"
DIGEST_EVERY = 40


class Tuning(msgspec.Struct, frozen=True):
    """What may differ from node to node: the operator's file."""

    segment_bytes: int
    rewrite_bytes: int
    head_limit: int
    in_flight_limit: int
    pack_limit_bytes: int
    raft: RaftConfig
    retry: RetryPolicy
    retry_scan_s: float
    settings: Settings
    push_delay_s: float
    snapshots: SnapshotOptions


class Server:
    """state: "starting", "serving", "stopped" (in order), "dead"."""

    def __init__(self, world: "World", node_id: int, disk: Disk, tuning: Tuning) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = disk
        self.tuning = tuning
        self.rng = random.Random(world.rng.getrandbits(64))
        self.state = "starting"
        self.loop = ProcessLoop(
            world.scheduler,
            f"node {node_id}",
            world.fault,
            rate=world.rng.choice((1.0, 1.0, 0.97, 1.03)),
            start_s=world.rng.uniform(1.0, 1e5),
        )
        self.clock = ProcessClock(self.loop, world.wall_ms[node_id])
        known = {other: world.address(other) for other in world.named_nodes(node_id) if other != node_id}
        boot = self.rng.getrandbits(62)
        disk.starts += 1
        address = world.address(node_id)
        own = Facts(disk.number, world.options.slots, join=True, addr=address, boot=boot, starts=disk.starts)
        self.clocks = Clocks(self.clock)
        self.mesh = Mesh(node_id, self.clock, own, known)
        self.links = SimLinks(world.network, node_id, self.loop)
        self.links.handler = self.mesh
        self.gateway = SimGateway(self)
        self.runtime: Runtime | None = None
        self.node: Node | None = None
        self.controller: Controller | None = None
        self.calls: dict[int, Callable[[], None]] = {}  # requests under way here -> what tells their caller of our end
        self.loop.create_task(self.run(), name="start")

    # -- life

    async def run(self) -> None:
        try:
            await self.start()
        except Exception as error:
            if self.state not in ("dead", "stopped"):
                self.world.start_failed(self, error)

    async def start(self) -> None:
        world, tuning = self.world, self.tuning
        slots = world.options.slots
        self.links.allow_strangers(True)
        self.mesh.start(self.links)
        formation = await self.belong()
        wal = self.disk.open(
            node_id=self.node_id,
            group_count=slots,
            segment_bytes=tuning.segment_bytes,
            rewrite_bytes=tuning.rewrite_bytes,
        )
        for raft_log in wal.logs:
            # An entry of a term says the term as well.
            term = max(raft_log.term, raft_log.last_term)
            vote = raft_log.vote if term == raft_log.term else 0
            world.promises.restarts(self.disk.number, raft_log.group, term, vote, raft_log.last_index)
        self.registry = Registry()
        self.audience = Audience()
        self.dispatcher = Dispatcher(
            node_id=self.node_id,
            registry=self.registry,
            audience=self.audience,
            clock=self.clock,
            policy=tuning.retry,
            system_uid=SYSTEM_UID,
            cmd_suffix=CMD_SUFFIX,
        )
        self.dispatcher.gateway = self.gateway
        node = self.node = Node(
            node_id=self.node_id,
            slot_count=slots,
            store=self.disk.store,
            clock=self.clocks,
            effects_sink=self.dispatcher.run,
            pack_limit_bytes=tuning.pack_limit_bytes,
            head_limit=tuning.head_limit,
            in_flight_limit=tuning.in_flight_limit,
            forward=self.mesh.send_forward,
            on_break=self.gateway.break_all,
        )
        runtime = self.runtime = Runtime(
            node_id=self.node_id,
            disk=self.disk.number,
            members=tuple(Member(number, disk, True) for number, disk in formation.members),
            wal=wal,
            machine=Watched(self, node),
            clock=self.clock,
            on_fatal=self.on_fatal,
            config=tuning.raft,
            send=self.send_raft,
            snapshot_needed=self._snapshot_needed,
            pinned=self._pinned_index,
            rng=random.Random(self.rng.getrandbits(64)),
            disk_thread=self.disk.thread,
            run_blocking=self.disk.run_blocking(self.loop),
        )
        self.snapshots = Snapshots(
            slot_count=slots,
            store=self.disk.store,
            generations=node.generations,
            install=runtime.install,
            snapshot_at=runtime.snapshot_at,
            term_of=runtime.term,
            applied_index=runtime.applied_index,
            send=self.mesh.send_snapshot,
            clock=self.clock,
            options=tuning.snapshots,
        )
        node.attach(runtime)
        self.sessions = Sessions(
            node=node,
            dispatcher=self.dispatcher,
            registry=self.registry,
            clock=self.clock,
            manager_uid="____manager",
            manager_token="",
            system_uid=SYSTEM_UID,
        )
        overview = Overview(node_id=self.node_id, registry=self.registry, connections=self.gateway, clock=self.clock)
        self.use_cases = UseCases(node, overview, timeout_ms=8_000)
        controller = self.controller = Controller(
            node_id=self.node_id,
            cluster=formation.cluster,
            own=OwnRow(world.address(self.node_id), self.disk.number, ""),
            groups=runtime,
            replica=node,
            send=lambda to, kind, group, body: self.mesh.send_control(to, body),
            clock=self.clock,
            rng=random.Random(self.rng.getrandbits(64)),
            options=world.options.control,
            clocks=self.clocks,
            close_some=self.gateway.close_some,
            clients=lambda: len(self.gateway.by_number),
            members_changed=self.learn,
        )
        for slot in range(slots):
            world.order.starts(self.node_id, slot, node.applied().get(slot, (1, 0))[0])
        runtime.start()
        self.snapshots.start()
        self.mesh.serve(Inbound(runtime, node, self.snapshots, controller))
        controller.start()
        await runtime.ready()
        await node.go_live(None)
        await self.enter_settings()
        self.loop.create_task(self.repeat_unacknowledged(), name="repeat")
        self.state = "serving"
        world.serves(self)

    def send_raft(self, group: int, to: int, message: dict[str, Any]) -> None:
        self.mesh.send_raft(group, to, message)
        self.world.promises.says(self.disk.number, group, to, message)
        if message["type"] == "response_vote":
            self.world.voted(self)

    def _snapshot_needed(self, slot: int, to: int) -> None:
        self.snapshots.needed(slot, to)

    def _pinned_index(self, slot: int) -> int | None:
        return self.snapshots.pinned_index(slot)

    def learn(self, table: Any) -> None:
        row = table.get(self.node_id)
        if row is not None and row.disk == self.disk.number:
            self.mesh.ask_to_join(False)
        self.mesh.learn(
            {node: row.addr for node, row in table.items() if row.addr}, {node: row.disk for node, row in table.items()}
        )

    async def belong(self) -> Formation:
        """The cluster of this node's disk, or the one it forms or finds."""
        formation = self.disk.formation
        if formation is None:
            forming = self.mesh.forming = Forming(
                self.node_id,
                self.disk.number,
                self.world.options.slots,
                frozenset(self.world.named_nodes(self.node_id)),
            )
            heard = asyncio.Event()
            self.mesh.on_heard = heard.set
            while (formation := forming.decide(self.world.rng.getrandbits(40) | 1)) is None:
                heard.clear()
                await heard.wait()
            self.mesh.on_heard = lambda: None
            await self.disk.run_blocking(self.loop)(lambda: self.disk.form(formation))
        self.mesh.join(formation)
        return formation

    async def enter_settings(self) -> None:
        node = self.node
        assert node is not None
        while True:
            try:
                async with asyncio.timeout(10):
                    reply = await node.execute(
                        0, PutSettings(msgspec.msgpack.encode(self.tuning.settings), initial=True)
                    )
                    await node.copied(0, reply.version)
                return
            except (Unavailable, TimeoutError, asyncio.CancelledError):
                await asyncio.sleep(0.2)

    async def repeat_unacknowledged(self) -> None:
        while True:
            await asyncio.sleep(self.tuning.retry_scan_s)
            for session in list(self.registry.by_number.values()):
                if session.unacked:
                    self.dispatcher.retry(session)

    async def stop(self) -> None:
        """A planned stop, in the order of the composition root."""
        self.state = "stopped"
        assert self.node is not None and self.runtime is not None and self.controller is not None
        self.gateway.close_all()
        await asyncio.sleep(0.05)
        await self.controller.hand_over_all()
        await self.controller.stop()
        await self.snapshots.stop()
        await self.runtime.stop(2.0)
        self.node.shut()
        self.disk.store.flush()
        await self.links.stop()

    def on_fatal(self, error: BaseException) -> None:
        self.world.fail_stop(self, error)

    @property
    def is_up(self) -> bool:
        return self.state in ("starting", "serving")

    # -- for the checkers

    def rows(self, slot: int) -> list[tuple[bytes, bytes]]:
        """The slot's rows that count, by keys without their prefix."""
        assert self.node is not None
        prefix = self.node.generations.prefix(slot)
        cut = len(prefix)
        return [(key[cut:], value) for key, value in self.disk.store.scan(prefix, prefix_end(prefix))]

    def digest(self, slot: int) -> bytes:
        found = hashlib.blake2b(digest_size=16)
        for key, value in self.rows(slot):
            found.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
        return found.digest()


class Watched:
    """The machine as the runtime sees it: the node, and the checkers beside it."""

    def __init__(self, server: Server, node: Node) -> None:
        self._server = server
        self._node = node
        self._world = server.world
        self.collect = node.collect
        self.applied = node.applied
        self.flush = node.flush

    def apply(self, entries: list[Committed]) -> None:
        world, node_id = self._world, self._server.node_id
        begun: list[Committed] = []
        for entry in entries:
            group, index, term, data = entry
            world.order.applied(node_id, group, index)
            assert self._server.runtime is not None
            if world.matching.applied(node_id, group, index, term, data, self._server.runtime.term(group)):
                world.committed(self._server, group, index, term)
                if data:
                    world.counts["commands"] += sum(len(pack.commands) for pack in decode_entry(data))
            begun.append(entry)
            if index % DIGEST_EVERY == 0:
                # One step less, the same outcome: any cut of the log gives the same rows.
                self._node.apply(begun)
                begun = []
                world.rows.digest(node_id, group, index, self._server.digest(group))
        if begun:
            self._node.apply(begun)

    def installed(self, group: int, index: int, term: int) -> None:
        self._world.order.installed(self._server.node_id, group, index)
        self._world.counts["snapshot installed"] += 1
        self._node.installed(group, index, term)
        self._world.rows.digest(self._server.node_id, group, index, self._server.digest(group))

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        server = self._server
        if leader == server.node_id and server.runtime is not None:
            raft_log = server.disk.wal.logs[group]  # type: ignore[union-attr]
            self._world.leaders.leads(server.node_id, group, term, raft_log.term_at, raft_log.base_index)
        self._node.leadership(group, leader, term)


class Socket:
    """The server's end of a client's connection."""

    __slots__ = ("held", "number", "open", "phase", "task", "wire")

    def __init__(self, wire: "Wire") -> None:
        self.wire = wire
        self.number = 0
        self.phase = "login"  # "login", "open", "leaving", "gone"
        self.open = False
        self.held: list[tuple[str, Any]] = []
        self.task: asyncio.Task[None] | None = None


class SimGateway:
    """wukong.dispatch.outbound.Gateway for simulated clients, and the logins."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.by_number: dict[int, Socket] = {}
        self.leaving: dict[int, Socket] = {}
        self.sockets: dict[int, Socket] = {}  # by wire

    # -- the client's side speaks

    def accept(self, wire: "Wire", login: Login) -> None:
        server = self._server
        if server.state != "serving" or server.controller is None or not server.controller.health.serving:
            wire.to_client("closed")
            return
        socket = self.sockets[wire.serial] = Socket(wire)
        socket.task = server.loop.create_task(self._login(socket, login), name="login")

    async def _login(self, socket: Socket, login: Login) -> None:
        server = self._server
        socket.number = number = server.sessions.new_number()
        self.by_number[number] = socket
        try:
            await server.sessions.login(number, login)
        except LoginRefused as refused:
            socket.wire.to_client("refused", refused.reason)
            self._close(socket)
        except Unavailable:
            self._close(socket)
        except asyncio.CancelledError:
            raise
        else:
            if socket.phase == "login":
                assert server.node is not None
                socket.phase = "open"
                socket.wire.to_client("connack", (number, server.node.incarnation))
                server.loop.call_later(server.tuning.push_delay_s, self._start_pushes, socket)

    def _start_pushes(self, socket: Socket) -> None:
        socket.open = True
        held, socket.held = socket.held, []
        for what, value in held:
            if socket.phase in ("open", "leaving"):
                socket.wire.to_client(what, value)

    def received(self, wire: "Wire", what: str, value: Any) -> None:
        socket = self.sockets.get(wire.serial)
        if socket is None or socket.phase != "open":
            return
        sessions = self._server.sessions
        if what == "send":
            packet: Send = value
            try:
                sessions.send(socket.number, wire.login.uid, packet)
            except Unavailable:
                self.drop(socket.number)
        elif what == "recvack":
            ack: Recvack = value
            sessions.recvack(socket.number, wire.login.uid, ack)

    def client_closed(self, wire: "Wire") -> None:
        socket = self.sockets.get(wire.serial)
        if socket is not None:
            self._close(socket)

    # -- dispatch speaks

    def deliver(self, view: RecvView, sessions: list[int]) -> None:
        for number in sessions:
            socket = self.by_number.get(number)
            if socket is None:
                continue
            if socket.open:
                socket.wire.to_client("recv", view)
            else:
                socket.held.append(("recv", view))

    def deliver_event(self, event: SharedEvent, sessions: list[int]) -> None:
        raise AssertionError("no client of the simulation posts events")

    def sendack(self, session: int, packet: Sendack) -> None:
        socket = self.by_number.get(session)
        if socket is not None:
            socket.wire.to_client("sendack", packet)

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None:
        socket = self.by_number.pop(session, None)
        if socket is None:
            return
        if socket.phase == "login":
            self.by_number[session] = socket
            self._close(socket)
            return
        socket.phase = "leaving"
        self.leaving[session] = socket
        if reason:
            socket.wire.to_client("disconnect", reason)
        # A login that waited in a paused node may end the session of the same device that came after it: its client
        # gets nothing more and hears of it when the socket closes.
        world = self._server.world
        world.notice_by(world.scheduler.now + close_after_ms / 1000)
        self._server.loop.call_later(close_after_ms / 1000, self._close, socket)

    def drop(self, session: int) -> None:
        socket = self.by_number.get(session)
        if socket is not None:
            self._close(socket)

    # -- the node speaks

    def break_all(self, why: str) -> None:
        """Sessions here may have missed something."""
        self._server.world.counts["sessions broken off"] += len(self.by_number)
        self._server.world.counts["snapshot closes clients" if "snapshot" in why else "fenced"] += 1
        self.close_all()

    def close_all(self) -> None:
        for socket in list(self.sockets.values()):
            self._close(socket)

    def close_some(self, count: int) -> None:
        for socket in list(self.by_number.values())[:count]:
            self._close(socket)

    def _close(self, socket: Socket) -> None:
        if socket.phase == "gone":
            return
        socket.phase = "gone"
        self.sockets.pop(socket.wire.serial, None)
        if socket.task is not None and not socket.task.done() and socket.task is not asyncio.current_task():
            socket.task.cancel()
        socket.wire.to_client("closed")
        number = socket.number
        known = self.by_number.pop(number, None) or self.leaving.pop(number, None)
        if number and known is not None:
            self._server.loop.call_soon(self._server.sessions.logout, number, socket.wire.login.uid)

    # -- what Overview asks

    @property
    def connections(self) -> int:
        return len(self.sockets)

    @property
    def counters(self) -> Any:
        raise NotImplementedError

    def info(self, session: int) -> None:
        return None
