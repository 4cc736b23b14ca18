"""A simulated cluster with its people, its faults and its judges. One seed is one world.

Time goes in episodes. First everybody works while faults come one after the other; then everything is healed, all must
serve again within a bound, what is under way comes to rest, and the checkers look at everything. What a client saw is
judged by times alone (checkers.py); what replicas hold is compared byte by byte.
"""

import asyncio
import contextlib
import logging
import random
import shutil
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.scenarios import judge as times
from tests.scenarios.judge import Change, History
from tests.simulation import checkers
from tests.simulation.checkers import Post, Stored
from tests.simulation.clients import Backend, Device, NotTaken, Reader, Unknown, call, fresh_histories
from tests.simulation.disk import Disk
from tests.simulation.loop import ProcessLoop, Scheduler
from tests.simulation.network import Network
from tests.simulation.server import Server, Tuning
from wukong.channel import copies
from wukong.channel import presence as product_presence
from wukong.channel.conversations import conversation
from wukong.channel.ids import AGENT, PERSON, ChannelId, person_id
from wukong.channel.messages import messages_between
from wukong.channel.permissions import SEND_BAN
from wukong.channel.state import Settings, channel_part
from wukong.cluster.balance import BalanceOptions
from wukong.cluster.controller import ControllerOptions
from wukong.cluster.health import HealthOptions
from wukong.cluster.membership import MembershipOptions
from wukong.cluster.watch import WatchOptions
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import WukongError
from wukong.node.snapshot_options import SnapshotOptions
from wukong.raft.config import RaftConfig

START_MS = 1_700_000_000_000
SERVE_BOUND_S = 60.0
SETTLE_BOUND_S = 60.0
REST_BOUND_S = 25.0
RETRY_MS = 6_000
GROUP = 2
FIRST_GROUPS = 4
MOST_GROUPS = 9


class Options(NamedTuple):
    """What a world is made of, drawn from the seed."""

    nodes: int
    slots: int
    uids: int
    backends: int
    raft: RaftConfig
    write_every_s: float
    backend_every_s: float
    fault_every_s: float
    episode_s: float
    sync_s: tuple[float, float]
    delay_s: tuple[float, float]
    late: float
    control: ControllerOptions


def draw_options(rng: random.Random, nodes: int) -> Options:
    raft = RaftConfig(
        heartbeat_ms=100,
        election_min_ms=400,
        election_max_ms=800,
        quorum_timeout_ms=rng.choice((1000, 2500)),
        tick_ms=50,
        message_bytes=rng.choice((400, 4_000, 1 << 20)),
        window_messages=rng.choice((2, 8, 64)),
        window_bytes=rng.choice((2_000, 1 << 20)),
        retain_bytes=rng.choice((0, 0, 500, 4_000)),
        trim_bytes=rng.choice((1_500, 4_000, 15_000)),
        apply_slice_ms=rng.choice((0.0, 4.0)),
        apply_queue_bytes=rng.choice((2_000, 1 << 20)),
    )
    return Options(
        nodes=nodes,
        slots=rng.choice((2, 3, 4)),
        uids=rng.choice((5, 7)),
        backends=rng.choice((3, 5)),
        raft=raft,
        write_every_s=rng.choice((0.4, 0.7)),
        backend_every_s=rng.choice((0.15, 0.3)),
        fault_every_s=rng.choice((0.6, 1.0, 1.6)),
        episode_s=rng.choice((12.0, 20.0)),
        sync_s=rng.choice(((0.0005, 0.003), (0.001, 0.02), (0.005, 0.06))),
        delay_s=rng.choice(((0.0003, 0.001), (0.001, 0.005), (0.002, 0.03))),
        late=rng.choice((0.0, 0.3)),
        control=ControllerOptions(
            membership=MembershipOptions(caught_up_entries=rng.choice((3, 64)), disk_fight_s=rng.choice((1.0, 3.0))),
            balance=BalanceOptions(
                steady_s=rng.choice((1.0, 5.0)), settled_s=rng.choice((0.5, 2.0)), pause_s=0.5, close_entries=64
            ),
            watch=WatchOptions(node_gone_after_ms=rng.choice((1_500, 1_500, 8_000)), majority_s=1.0),
            health=HealthOptions(close_per_second=rng.choice((3, 500)), jitter_s=0.5),
        ),
    )


class World:
    """counts: what happened, by kind; faults are counted as "fault: kind"."""

    def __init__(self, seed: int, nodes: int, *, options: Options | None = None, on_trace: Any = None) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/{nodes}")
        self.options = options or draw_options(self.rng, nodes)
        self.scheduler = Scheduler()
        self.counts: Counter[str] = Counter()
        self.violations = checkers.Violations(lambda: self.scheduler.now)
        self.matching = checkers.LogMatching(self.violations)
        self.leaders = checkers.LeaderCompleteness(self.violations, self.matching)
        self.order = checkers.ApplyOrder(self.violations)
        self.commit_rule = checkers.CommitRule(self.violations)
        self.promises = checkers.Promises(self.violations)
        self.reboots_after_votes = 0
        self.disks_lost = 0
        self.outlived: dict[tuple[str, int], float] = {}  # connection -> since when its incarnation is over
        self.rows = checkers.EqualRows(self.violations)
        self.promise = checkers.Promise(self.violations)
        self.checks_reads = checkers.Reads(self.violations)
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-sim-", dir=_fast_directory()))
        self._trace = 0
        self._on_trace = on_trace
        self._stamp = 0.0
        self._serial = 0
        self.call_count = 0
        self.wire_count = 0
        self.device_count = 0
        self.network = Network(self.scheduler, random.Random(self.rng.getrandbits(64)), self.trace)
        self.network.delay_s = self.options.delay_s
        self.network.late = self.options.late
        self.people = ProcessLoop(self.scheduler, "people", self.fault)
        self.ids = list(range(1, nodes + 1))
        self.wall_ms = {node: START_MS + self.rng.randint(-2_000, 2_000) for node in self.ids}
        self.disks = {node: self.new_disk(node) for node in self.ids}
        self.tunings = {node: self._tuning() for node in self.ids}
        self.servers: dict[int, Server] = {}
        self.buried: list[Any] = []  # dead servers: their tasks must not be collected, or they would wake up
        self.excused: dict[int, str] = {}  # node -> which fault explains that it stops
        # People and what they saw.
        self.uids = [f"u{number}" for number in range(1, self.options.uids + 1)]
        self.devices = [Device(self, uid, flag) for uid in self.uids for flag in ((0, 1) if uid < "u3" else (0,))]
        self.backends = [Backend(self, number) for number in range(self.options.backends)]
        self.backends += [Reader(self, number) for number in range(100, 102)]
        self.hot = ""
        self.gate_closed = False
        self.noticed_at = 0.0
        self.wires: dict[int, Any] = {}
        self.posts: list[Post] = []
        self.all_posts: list[Post] = []
        self.groups: list[str] = []
        self._group_count = 0
        self.old_groups: list[str] = []
        self.persons: set[str] = set()
        self.histories = fresh_histories()
        self.bans = History()
        self.bannable = self.uids[-1]
        self.known: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
        self.got: dict[str, dict[tuple[str, bool], set[int]]] = defaultdict(lambda: defaultdict(set))
        self.commands_by_sync: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.reads: list[tuple[str, set[str], float, float]] = []
        self.acknowledged_seq: dict[tuple[str, bool], int] = defaultdict(int)
        self.payloads: dict[tuple[str, bool, int], bytes] = {}
        for _ in range(FIRST_GROUPS):
            self.new_group()
        if len({self.tunings[node].settings.members_per_command for node in self.ids}) > 1:
            self.counts["fault: mixed configuration"] = 1

    def new_disk(self, node: int) -> Disk:
        number = self.rng.getrandbits(40) | 1
        path = self.directory / f"{node}-{number}"
        path.mkdir()
        disk = Disk(self.scheduler, random.Random(self.rng.getrandbits(64)), path, number)
        disk.sync_s = self.options.sync_s
        return disk

    def _tuning(self) -> Tuning:
        rng = self.rng
        return Tuning(
            segment_bytes=rng.choice((3_000, 12_000, 1 << 20)),
            rewrite_bytes=rng.choice((500, 20_000)),
            head_limit=rng.choice((0, 1, 4096)),
            in_flight_limit=rng.choice((30, 20_000)),
            pack_limit_bytes=rng.choice((300, 256 * 1024)),
            raft=self.options.raft,
            retry=RetryPolicy(RETRY_MS, 5, 1_000),
            retry_scan_s=rng.choice((0.5, 2.0)),
            settings=Settings(members_per_command=rng.choice((2, 1000))),
            push_delay_s=rng.choice((0.0, 0.02)),
            snapshots=SnapshotOptions(
                chunk_bytes=rng.choice((300, 4_000)),
                chunk_rows=rng.choice((3, 50)),
                slice_rows=rng.choice((2, 20)),
                bytes_per_s=rng.choice((0, 200_000)),
            ),
        )

    # -- what everybody uses

    def trace(self, what: str, a: int, b: int, checksum: int) -> None:
        text = f"{self.scheduler.now:.6f} {what} {a} {b} {checksum}"
        self._trace = zlib.crc32(text.encode(), self._trace)
        if self._on_trace is not None:
            self._on_trace(text)

    @property
    def trace_hash(self) -> str:
        return f"{self._trace:08x}"

    def stamp(self) -> float:
        """The time, never twice the same: what happened in one order has an order."""
        self._stamp = max(self.scheduler.now, self._stamp + 1e-9)
        return self._stamp

    def fault(self, text: str, error: BaseException | None) -> None:
        """Something that asyncio would log as unhandled."""
        self.violations.blame("faultless", text)
        if error is not None and self._on_trace is not None:
            logging.getLogger(__name__).error("%s", text, exc_info=error)

    def any_node(self) -> int:
        return self.rng.choice(sorted(self.servers) or self.ids)

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def new_group(self) -> str:
        self._group_count += 1
        name = f"g{self._group_count}"
        self.groups.append(name)
        if len(self.groups) > MOST_GROUPS:
            self.old_groups.append(self.groups.pop(0))
        return name

    def history(self, name: str, is_cmd: bool = False) -> History:
        return self.histories[name][is_cmd]

    def person(self, name: str) -> None:
        """Two persons who write to each other: both are members, always."""
        if name not in self.persons:
            self.persons.add(name)
            pair = frozenset(name.split("@"))
            self.history(name).changes.append(Change(lambda uid: uid in pair, -1.0, -1.0))

    def channel_name(self, shown: str, kind: int, uid: str) -> str:
        return person_id(uid, shown) if kind in (PERSON, AGENT) else shown

    def channel_id(self, name: str) -> ChannelId:
        return ChannelId(PERSON if "@" in name else GROUP, name)

    def answered(self, post: Post, reason: int, seq: int, message_id: int, now: float) -> None:
        post.answered_at = now
        if reason != 1:
            post.refused = reason
            self.counts["refused"] += 1
            return
        post.acked, post.seq, post.message_id = now, seq, message_id
        self.counts["acknowledged"] += 1
        key = post.channel, post.is_cmd
        self.hot = post.channel
        self.acknowledged_seq[key] = max(self.acknowledged_seq[key], seq)
        self.history(*key).sent(seq, post.payload, post.sender, post.sent, now)
        self.saw(post.channel, post.is_cmd, seq, post.payload, f"{post.sender} acknowledged")

    def saw(self, name: str, is_cmd: bool, seq: int, payload: bytes, who: str) -> None:
        """One payload per seq, whoever sees it and however."""
        if not seq:
            return
        first = self.payloads.setdefault((name, is_cmd, seq), payload)
        if first != payload:
            self.violations.blame("sequence", f"seq {seq} of {name} is {payload!r} ({who}), it was {first!r}")

    # -- nodes

    def address(self, node: int) -> str:
        return f"node{node}:{7000 + node}"

    def named_nodes(self, node: int) -> list[int]:
        """The nodes that a node's file names, itself among them."""
        return self.ids

    def start(self, node: int) -> None:
        if node not in self.servers:
            if not self.disks[node].is_full:
                self.excused.pop(node, None)
            self.servers[node] = Server(self, node, self.disks[node], self.tunings[node])

    def serves(self, server: Server) -> None:
        self.counts["node started"] += 1

    def start_failed(self, server: Server, error: BaseException) -> None:
        self.fault(f"node {server.node_id} cannot start: {error!r}", error)
        self.end(server.node_id, told=True)

    def fail_stop(self, server: Server, error: BaseException) -> None:
        """The node says that it cannot go on; its process ends."""
        node = server.node_id
        if self.servers.get(node) is not server:
            return
        if node in self.excused:
            self.counts["fail-stop"] += 1
        else:
            self.violations.blame("faultless", f"node {node} stopped: {error!r}")
        self.end(node, told=True)
        self.scheduler.after(self.rng.uniform(0.5, 3.0), self._repair, node)

    def _repair(self, node: int) -> None:
        self.disks[node].is_full = False
        self.start(node)

    def end(self, node: int, *, told: bool, power_lost: bool = False) -> None:
        """The process is gone from one moment to the next."""
        server = self.servers.pop(node, None)
        if server is None:
            return
        server.state = "dead"
        self._bury(server, told=told)
        self.disks[node].killed(power_lost=power_lost)

    def _bury(self, server: Server, *, told: bool) -> None:
        server.loop.kill()
        self.buried.append(server)
        self.network.died(server.node_id, told=told)
        for tell in list(server.calls.values()):
            if told:
                tell()
        for wire in list(self.wires.values()):
            if wire.server is server:
                wait_s = self.rng.uniform(0.0005, 0.01) if told else self.rng.uniform(0.3, 3.0)
                self.notice_by(self.scheduler.now + wait_s)
                self.scheduler.at(self.scheduler.now + wait_s, wire.lost, loop=self.people)

    def stop_in_order(self, node: int) -> None:
        """A planned stop; the node comes back after a while."""
        server = self.servers.get(node)
        if server is None or server.state != "serving":
            return
        task = server.loop.create_task(server.stop(), name="stop")

        def stopped(_: Any) -> None:
            if self.servers.get(node) is not server:
                return
            if task.exception() is not None and node not in self.excused:
                server.loop.report(f"the stop raised {task.exception()!r}", task.exception())
            del self.servers[node]
            server.state = "dead"
            self._bury(server, told=True)
            self.disks[node].killed(power_lost=False)
            self.scheduler.after(self.rng.uniform(0.1, 2.0), self.start, node)

        task.add_done_callback(stopped)

    def committed(self, server: Server, group: int, index: int, term: int) -> None:
        """Somebody applies an entry as the first: who has it?"""
        assert server.disk.wal is not None
        log = server.disk.wal.logs[group]
        views = [
            [member.node for member in members if member.voter]
            for members in (log.snapshot_at(index).members, log.members_now())
        ]
        disks = {member.node: member.disk for member in log.members_now()}

        def holds(node: int) -> bool | None:
            other, disk = self.servers.get(node), self.disks[node]
            if other is None or other.runtime is None or disk.wal is None or disk.number != disks.get(node):
                return None
            held = disk.wal.logs[group]
            if index < held.base_index:
                return True
            return held.term_at(index) == term and held.durable_index >= index

        self.commit_rule.check(group, index, term, views, holds)

    def voted(self, server: Server) -> None:
        """A vote leaves a node: the moment at which it had better remember it."""
        node = server.node_id
        if self.reboots_after_votes <= 0 or self.servers.get(node) is not server:
            return
        self.reboots_after_votes -= 1
        self.counts["rebooted after a vote"] += 1
        self.scheduler.after(self.rng.choice((0.0, 0.001, 0.004)), self._reboot, node, server)

    def _reboot(self, node: int, server: Server) -> None:
        if self.servers.get(node) is server:
            self.network.quick.add(node)
            self.end(node, told=False, power_lost=True)
            self.start(node)

    def lose_disk(self, node: int) -> None:
        """The node comes back under its number with an empty directory."""
        self.end(node, told=True, power_lost=True)
        self.disks[node].remove()
        self.disks[node] = self.new_disk(node)
        self.disks_lost += 1

    def members_complete(self) -> bool:
        """Every node knows every node as a voter of every slot, with the disk it has now."""
        wanted = [(node, self.disks[node].number, True) for node in self.ids]
        return all(
            server.runtime is not None
            and server.state == "serving"
            and all(list(server.runtime.members(slot)) == wanted for slot in range(self.options.slots))
            for server in self.servers.values()
        )

    def leaders_now(self) -> list[int]:
        return [
            node
            for node, server in sorted(self.servers.items())
            if server.runtime is not None
            and server.state == "serving"
            and any(server.runtime.is_leader(slot) for slot in range(self.options.slots))
        ]

    # -- the run

    def run_until(self, what: str, bound_s: float, reached: Callable[[], bool], step_s: float = 0.05) -> bool:
        """Let time pass until it is so. False, and a violation, if it takes longer than the bound."""
        end = self.scheduler.now + bound_s
        while not reached():
            if self.scheduler.now >= end:
                checkers.Liveness(self.violations).waited(what, bound_s)
                return False
            self.scheduler.run(self.scheduler.now + step_s)
        return True

    def begin(self) -> None:
        times.now = self.stamp
        for node in self.ids:
            self.scheduler.after(self.rng.choice((0.0, self.rng.uniform(0.0, 1.5))), self.start, node)
        if self.rng.random() < 0.4:
            # Somebody dies while the cluster forms, perhaps with what it has just decided.
            node = self.rng.choice(self.ids)
            self.scheduler.run(self.scheduler.now + self.rng.uniform(0.0, 1.5))
            if self.rng.random() < 0.4 and node in self.servers:
                self.lose_disk(node)
                self.counts["fault: disk lost while forming"] += 1
            else:
                self.end(node, told=True, power_lost=True)
                self.counts["fault: power loss while forming"] += 1
            self.scheduler.after(self.rng.uniform(0.0, 0.5), self.start, node)
        self.run_until("every node serves at first", SERVE_BOUND_S, self.all_serve)
        for device in self.devices:
            device.start()
        for backend in self.backends:
            backend.start()

    def all_serve(self) -> bool:
        return all(node in self.servers and self.servers[node].state == "serving" for node in self.ids)

    def episode(self, faults: "Callable[[World], Iterable[float]]") -> None:
        """Faults for a while, then everything is healed and looked at."""
        self.gate_closed = False
        for pause_s in faults(self):
            self.scheduler.run(self.scheduler.now + pause_s)
            self._sweep()
        self.calm()

    def _sweep(self) -> None:
        for loop in (self.people, *(server.loop for _, server in sorted(self.servers.items()))):
            loop.sweep()
        for device in self.devices:
            # Connected under an incarnation that is over: the log knows nothing of it any more.
            seen = device.seen
            server = self.servers.get(seen.node) if seen is not None else None
            if seen is None or server is None or server.node is None or server.loop.state != "runs":
                continue
            if device.wire is None or device.wire.server is not server:
                continue  # its node has died, and it has not found out yet
            if seen.incarnation != server.node.incarnation and server.state == "serving":
                since = self.outlived.setdefault((seen.told, seen.incarnation), self.scheduler.now)
                if self.scheduler.now - since > 0.5:
                    self.violations.blame("presence", f"{seen.told} outlives its incarnation {seen.incarnation}")

    def calm(self) -> None:
        if not self.run_until("every node serves", SERVE_BOUND_S, self.all_serve):
            return
        if not self.run_until("every node is a voter again", SERVE_BOUND_S, self.members_complete):
            return
        self.scheduler.run(max(self.scheduler.now + 1.0, self.noticed_at + 0.5))
        self.gate_closed = True
        for device in self.devices:
            device.wants_online = True
        if not self.run_until("every client gets through", SETTLE_BOUND_S, self._all_settled):
            return
        if not self.run_until("every replica has everything", REST_BOUND_S, self._at_rest):
            return
        self._sweep()
        self.settle_unknown()
        self.judge_logs()
        self.judge_rows()
        self.judge_posts()
        self.probe()
        self.judge_clients()
        self.judge_presence()
        self.forget()

    def notice_by(self, at: float) -> None:
        """A client or a server takes the other one for connected until then. Nobody is judged for it."""
        self.noticed_at = max(self.noticed_at, at)

    def _all_settled(self) -> bool:
        return (
            all(device.is_settled for device in self.devices)
            and not any(backend.busy for backend in self.backends)
            and self.scheduler.now > self.noticed_at + 0.5
        )

    def _at_rest(self) -> bool:
        """Nobody still mistaken, nothing in flight, nothing uncommitted, everything applied on every node."""
        if not self._all_settled():
            return False
        for slot in range(self.options.slots):
            indexes = set()
            for server in self.servers.values():
                assert server.runtime is not None and server.disk.wal is not None
                indexes.add((server.runtime.applied_index(slot), server.disk.wal.logs[slot].last_index))
            if len(indexes) != 1 or len(set(indexes.pop())) != 1:
                return False
        for server in self.servers.values():
            if server.node is None or server.node.in_flight or any(copies.owed(state) for state in server.node.states):
                return False
        return True

    def settle_unknown(self) -> None:
        """Nothing is under way anywhere: what had an unknown outcome has happened by now, or never will."""
        now = self.stamp()
        for history in (self.bans, *(pair[False] for pair in self.histories.values())):
            for change in history.changes:
                change.ok = min(change.ok, now)

    # -- looking at everything

    def judge_logs(self) -> None:
        for slot in range(self.options.slots):
            logs = {}
            for node, server in sorted(self.servers.items()):
                assert server.disk.wal is not None
                logs[node] = server.disk.wal.logs[slot]
            self.matching.logs(slot, logs)

    def judge_rows(self) -> None:
        for slot in range(self.options.slots):
            for node, server in sorted(self.servers.items()):
                assert server.node is not None
                index = server.node.applied()[slot][0]
                self.rows.digest(node, slot, index, server.digest(slot), lambda slot=slot: self._difference(slot))

    def _difference(self, slot: int) -> str:
        rows = [dict(server.rows(slot)) for _, server in sorted(self.servers.items())]
        keys = sorted({key for each in rows for key in each})
        differing = [key for key in keys if len({each.get(key) for each in rows}) > 1]
        return f": {[(key, [each.get(key) for each in rows]) for key in differing[:3]]}"

    def stored(self, server: Server, name: str, is_cmd: bool) -> list[Stored]:
        assert server.node is not None
        state = server.node.state_of(name)
        messages = messages_between(
            state, channel_part(self.channel_id(name)), is_cmd=is_cmd, first=1, last=10**9, limit=10**6
        )
        return [Stored(each.message_seq, each.message_id, each.client_msg_no, each.payload) for each in messages]

    def judge_posts(self) -> None:
        loss, sequence, refusals = (
            checkers.NoLoss(self.violations),
            checkers.Sequence_(self.violations),
            checkers.Refusals(self.violations),
        )
        self.all_posts += [post for post in self.posts if post.acked is not None]
        node, server = self.rng.choice(sorted(self.servers.items()))
        kept: dict[tuple[str, bool], dict[int, Stored]] = {}

        def stored(name: str, is_cmd: bool) -> dict[int, Stored]:
            found = kept.get((name, is_cmd))
            if found is None:
                messages = self.stored(server, name, is_cmd)
                sequence.check(node, f"{name} (cmd {is_cmd})", messages)
                found = kept[name, is_cmd] = {message.seq: message for message in messages}
            return found

        loss.check(node, self.all_posts, stored)
        for post in self.posts:
            if not post.answered_at:
                checkers.Liveness(self.violations).waited(f"{post.sender}'s {post.payload!r}", SETTLE_BOUND_S)
            else:
                refusals.check(post, self.history(post.channel), self.bans, SEND_BAN)
        for name, seen, began, ended in self.reads:
            self.checks_reads.members(self.history(name), self.uids, seen, began, ended)

    def probe(self) -> None:
        """One more message for every group and some pairs, through every node in turn: nobody may be deaf."""
        sends = []
        for number, name in enumerate(self.groups):
            sends.append((name, self.ids[number % len(self.ids)]))
        sends += [(name, self.rng.choice(self.ids)) for name in sorted(self.persons)[:4]]
        left = {name for name, _ in sends}

        async def send(name: str, node: int) -> None:
            serial = self.next_serial()
            sender, shown, kind = self.rng.choice(self.uids[:-1]), name, GROUP
            if "@" in name:
                sender, _, shown = name.partition("@")
                kind = PERSON
            post = Post(name, False, sender, f"{name}|{serial}".encode(), f"probe-{serial}", self.stamp(), trusted=True)
            while True:
                try:
                    sent = await call(
                        self,
                        node,
                        lambda server: server.use_cases.messages.send(
                            channel_id=shown,
                            channel_type=kind,
                            from_uid=sender,
                            payload=post.payload,
                            flags=0,
                            client_msg_no=post.client_msg_no,
                        ),
                    )
                    break
                except (Unknown, NotTaken):
                    await asyncio.sleep(0.2)
            self.answered(post, 1, sent.message_seq, sent.message_id, self.stamp())
            self.all_posts.append(post)
            left.discard(name)

        tasks = [self.people.create_task(send(name, node), name="probe") for name, node in sends]
        self.run_until("a message through every node", REST_BOUND_S, lambda: not left)
        self.run_until("its fan-out everywhere", REST_BOUND_S, self._at_rest)
        self.scheduler.run(self.scheduler.now + 0.3)
        del tasks

    def judge_clients(self) -> None:
        histories = {
            (name, is_cmd): history for name, pair in self.histories.items() for is_cmd, history in pair.items()
        }
        order = checkers.ConnectionOrder(self.violations, repeat_after_s=RETRY_MS / 1000 * 0.9)
        for device in self.devices:
            for connection in device.connections:
                order.check(connection)
                self.promise.connection(connection, histories, alive=connection.closed is None)
        self._pull_all()
        for uid in self.uids:
            self.promise.user(uid, self.got[uid], histories)
        for (uid, name), seqs in sorted(self.commands_by_sync.items()):
            self.promise.commands(uid, name, seqs, self.history(name, True))

    def _pull_all(self) -> None:
        """One more sync of everybody, behind everything."""
        left = set(range(len(self.devices)))

        async def pull(number: int) -> None:
            while not await self.devices[number]._pull():
                await asyncio.sleep(0.2)
            left.discard(number)

        tasks = [self.people.create_task(pull(number), name="last pull") for number in sorted(left)]
        self.run_until("a last sync", REST_BOUND_S, lambda: not left)
        self.run_until("rest after the last sync", REST_BOUND_S, self._at_rest)
        del tasks

    def judge_presence(self) -> None:
        """Sessions, audiences, members and unread counts of every node, against what clients and answers say."""
        presence, audience = checkers.Presence(self.violations), checkers.AudienceFits(self.violations)
        membership, unread = checkers.Membership(self.violations), checkers.Unread(self.violations)
        held = {
            (device.uid, device.seen.node, device.seen.number) for device in self.devices if device.seen is not None
        }
        now = self.stamp()
        for node, server in sorted(self.servers.items()):
            assert server.node is not None
            in_log = {
                (session.uid, session.node, session.session)
                for uid in self.uids
                for session in product_presence.sessions_of(server.node.state_of(uid), uid)
            }
            presence.check(node, in_log, held)
            presence.check(
                node,
                {(s.uid, node, s.number) for s in server.registry.by_number.values()},
                {each for each in held if each[1] == node},
            )
            members: dict[str, set[str]] = {}
            for name in [*self.groups, *self.old_groups]:
                part, state = channel_part(self.channel_id(name)), server.node.state_of(name)
                members[name] = {uid for uid in self.uids if state.is_member(part, uid)}
                membership.check(node, name, self.history(name), self.uids, members[name], now)
            self._judge_copies(node, server)
            for uid in self.uids:
                online = server.registry.is_online(uid)
                audience.check(
                    node,
                    uid,
                    {channel.id for channel in server.audience.channels(uid)},
                    {name for name in members if uid in members[name]} if online else set(),
                )
            if node == self.ids[0]:
                self._judge_unread(server, unread)

    def _judge_copies(self, node: int, server: Server) -> None:
        assert server.node is not None
        states, check = server.node.states, checkers.Copies(self.violations).check
        uid = self.bannable
        head = server.node.state_of(uid).head(channel_part(ChannelId(PERSON, uid)))
        banned = head is not None and head.send_ban
        check(node, f"whether {uid} may not send", banned, [uid in state.send_banned for state in states])
        check(node, "the cluster's settings", states[0].settings, [state.settings for state in states])

    def _judge_unread(self, server: Server, unread: checkers.Unread) -> None:
        assert server.node is not None
        for name in self.groups:
            channel = self.channel_id(name)
            part, state = channel_part(channel), server.node.state_of(name)
            log = messages_between(state, part, is_cmd=False, first=1, last=10**9, limit=10**6)
            for uid in self.uids:
                view = conversation(state, channel, uid, after_seq=0, unread_only=False, count=1)
                row = state.user(part, uid)
                if view is None or row is None or not log or row.until_seq >= 0:
                    continue  # of one who left, the seq of his last own message may lie beyond the end
                own = [message.message_seq for message in log if message.from_uid == uid]
                shown = [message for message in log if row.deleted_seq < message.message_seq <= view.last_seq]
                newest_own = bool(shown) and shown[-1].from_uid == uid
                unread.check(uid, name, view.unread, row.read_seq, view.last_seq, own, newest_own)

    def forget(self) -> None:
        """The episode is judged; the next one begins from what is certain now."""
        now = self.stamp()
        server = self.servers[self.ids[0]]
        assert server.node is not None
        for name in [*self.groups, *self.old_groups]:
            part, state = channel_part(self.channel_id(name)), server.node.state_of(name)
            members = frozenset(uid for uid in self.uids if state.is_member(part, uid))
            pair = self.histories[name]
            pair[False].changes[:] = [Change(lambda uid, members=members: uid in members, now, now)]
            last = state.head(part)
            for uid in self.uids:
                self.known[uid][name, GROUP] = 0 if last is None else last.last_seq
        banned = self.bannable in server.node.state_of("anywhere").send_banned
        self.bans.changes[:] = [Change(lambda uid: banned if uid == self.bannable else None, now, now)]
        for pair in self.histories.values():
            pair[False].messages.clear()
            pair[True].messages.clear()
        self.posts.clear()
        self.reads.clear()
        self.got.clear()
        self.commands_by_sync.clear()
        for device in self.devices:
            device.connections = [each for each in device.connections if each.closed is None]
        self.counts["episodes"] += 1

    def close(self) -> None:
        for node in list(self.servers):
            self.end(node, told=True)
        self.people.kill()
        for loop in (self.people, *(server.loop for server in self.buried)):
            for task in loop.tasks:
                if not task.done():
                    # In this order and now, not whenever it is collected.
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()
        shutil.rmtree(self.directory, ignore_errors=True)


# What the product says in its log of a fault that is none of its own.
EXPLAINED = (
    ("the clock of ", "clock jump"),
    ("the disk has not answered", "slow disk"),
    ("the disk has not answered", "pause"),
)


class ErrorCatcher(logging.Handler):
    """Whatever the product logs as an error is a violation, unless a fault explains it."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        world = self._world
        if world.excused and "log failed" in text:
            return
        if any(words in text and world.counts[f"fault: {kind}"] for words, kind in EXPLAINED):
            return
        if world.disks_lost and " tells disk " in text:
            return
        world.violations.blame("faultless", f"{record.name}: {text}")


def _fast_directory() -> str | None:
    """Memory, where there is such a place: nothing here has to survive the test."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


__all__ = ["START_MS", "ErrorCatcher", "Options", "World", "WukongError", "draw_options"]
