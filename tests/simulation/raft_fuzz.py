"""Random schedules against the consensus layer: RawNode and the write-ahead log, with a fake clock and network.

One seed is one run. A schedule draws its settings, then for some simulated seconds cuts links (one way or both, silent
or with a reset), delays, drops, duplicates and reorders messages, kills processes, cuts the power in the middle of a
write (the unsynced end of the log is lost or torn, the state falls back to a flushed one), trims logs so that snapshots
have to be sent, and moves leadership; then everything heals. Clients write and read all the time.

With `members`, one node more is there than there are first voters, who should be a member changes, learners come, are
promoted and go, and with `disks` a node comes back blank under the same number with another disk. Leaders make their
groups' members follow, one change at a time: a member whose disk was replaced goes first. A disk is lost only while the
voters that still have theirs are a majority of every membership that counts: more can be lost, but not survived.

Checkers, each a method of `Judge`: one entry per index, one leader per term, no acknowledged entry lost, every entry at
most once, equal final states, linearizable reads, alive after healing, restartable after every crash, a majority of
voters behind every commit, no vote of a disk that the log does not name.

    python -m tests.simulation.raft_fuzz --seed 7 --schedules 1 --nodes 3 [--members] [--without NAME] [--verbose]

`--without` takes a protective measure away, to see that the fuzzer notices.
"""

import argparse
import heapq
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from tests.raft.ablations import ABLATIONS, without
from wukong.errors import DataError, NotLeader
from wukong.raft.config import RaftConfig
from wukong.raft.log import HARD_STATE, Change, Member, Record, Snapshot
from wukong.raft.rawnode import RawNode
from wukong.raft.statemachine import Committed
from wukong.raft.wal import Batch, Wal

FAULT_SECONDS = 8.0
HEAL_SECONDS = 3.0
MEMBERS_SECONDS = 8.0
QUIET_SECONDS = 0.6
TICK_SECONDS = 0.03


class Options(NamedTuple):
    """What a schedule is made of. Drawn from the seed unless given."""

    nodes: int
    groups: int
    config: RaftConfig
    power_loss: bool
    reorder: bool
    drop: float
    duplicate: float
    stale_connections: bool
    sync_seconds: float
    apply_seconds: float
    trim_every: float
    segment_bytes: int
    members: bool
    disks: bool


def draw_options(rng: random.Random, nodes: int, *, members: bool | None = None) -> Options:
    """members: whether membership changes; drawn if not given."""
    if members is None:
        members = rng.random() < 0.4
    config = RaftConfig(
        heartbeat_ms=40,
        election_min_ms=150,
        election_max_ms=300,
        quorum_timeout_ms=450,
        tick_ms=30,
        message_bytes=rng.choice((100, 300, 1 << 20)),
        window_messages=rng.choice((1, 3, 64)),
        window_bytes=rng.choice((300, 1 << 20)),
    )
    return Options(
        nodes=nodes,
        groups=rng.choice((1, 1, 1, 2)),
        config=config,
        power_loss=rng.random() < 0.7,
        reorder=rng.random() < 0.4,
        drop=rng.choice((0.0, 0.0, 0.02, 0.1)),
        duplicate=rng.choice((0.0, 0.0, 0.05)),
        stale_connections=rng.random() < 0.4,
        sync_seconds=rng.choice((0.002, 0.02, 0.08)),
        apply_seconds=rng.choice((0.0, 0.0, 0.03)),
        trim_every=rng.choice((0.3, 1.0, 1e9)),
        segment_bytes=rng.choice((600, 3000, 1 << 20)),
        members=members,
        disks=members and rng.random() < 0.6,
    )


class Judge:
    """What must hold, whatever happened. Every violation is kept as a sentence."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.acknowledged: dict[tuple[int, int], float] = {}  # (group, value) -> time
        self.acknowledged_index: dict[int, int] = {}
        self.reads_asked = 0
        self.reads_served = 0
        self._entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._leaders: dict[tuple[int, int], int] = {}
        self._holders: dict[tuple[int, int, int], set[tuple[int, int]]] = {}  # (group, index, term) -> (node, disk)
        self._installed: dict[tuple[int, int, int], int] = {}  # (group, node, disk) -> index of the last snapshot
        self._durable: dict[tuple[int, int], int] = {}  # (group, node) -> last index noted in _holders
        self._commits: dict[tuple[int, int], int] = {}
        self._members: dict[tuple[int, int], object] = {}  # what was compared last
        self._named: set[tuple[int, int, int]] = set()  # (group, node, disk): its own log has named it

    def blame(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    def sees_entry(self, entry: Committed) -> None:
        first = self._entries.setdefault((entry.group, entry.index), (entry.term, entry.data))
        if first != (entry.term, entry.data):
            self.blame(f"two entries at index {entry.index} of group {entry.group}")

    def sees_leader(self, group: int, term: int, node: int) -> None:
        first = self._leaders.setdefault((group, term), node)
        if first != node:
            self.blame(f"two leaders in term {term} of group {group}")

    def sees_members(self, raw: RawNode) -> None:
        core, members = raw._core, raw.members
        key = (raw.group, raw.node_id)
        seen = (members, raw.disk, list(core.peers), list(core.learners))
        if self._members.get(key) == seen:
            return
        self._members[key] = seen
        others = [member for member in members if member.node != raw.node_id]
        if [sorted(core.peers), sorted(core.learners)] != [
            [member.node for member in others if member.voter is voter] for voter in (True, False)
        ]:
            self.blame(f"core and log of node {raw.node_id} disagree about the members")
        if any(member[:2] == (raw.node_id, raw.disk) for member in members):
            self._named.add((raw.group, raw.node_id, raw.disk))

    def sees_durable(self, raw: RawNode, *, started: bool = False) -> None:
        """Remember who had which entry on disk."""
        log, key = raw.log, (raw.group, raw.node_id)
        known = 0 if started else min(self._durable.get(key, 0), log.durable_index)
        for index in range(max(known, log.base_index) + 1, log.durable_index + 1):
            term = log.term_at(index)
            self._holders.setdefault((raw.group, index, term or 0), set()).add((raw.node_id, raw.disk))
        # What is behind this may be truncated and replaced: only what is committed is not looked at again.
        self._durable[key] = min(log.durable_index, raw._core.commit_index)

    def sees_snapshot(self, raw: RawNode) -> None:
        key = (raw.group, raw.node_id, raw.disk)
        self._installed[key] = max(self._installed.get(key, 0), raw.log.base_index)

    def sees_commit(self, raw: RawNode) -> None:
        """What a leader takes for committed, a majority of the voters has on the disks they are voters with, or had
        before they lost them."""
        index = raw.commit_index
        if raw.log.term_at(index) != raw.term or index <= self._commits.get((raw.group, raw.term), 0):
            return  # known from an earlier leadership, or seen
        self._commits[raw.group, raw.term] = index
        holders = self._holders.get((raw.group, index, raw.term), set())
        having = [
            member.node
            for member in raw.members
            if member.voter and (member[:2] in holders or self._installed.get((raw.group, *member[:2]), 0) >= index)
        ]
        if 2 * len(having) <= len(raw.voters):
            self.blame(f"index {index} of group {raw.group} is committed; of voters {raw.voters} only {having} have it")

    def sees_promises(self, raw: RawNode, records: list[Record], messages: list[tuple[int, dict[str, Any]]]) -> None:
        """A disk that the log on it has never named neither votes nor stands for election."""
        if (raw.group, raw.node_id, raw.disk) in self._named:
            return
        if any(record.kind == HARD_STATE and record.index for record in records) or any(
            message["type"] == "pre_vote_answer" and message["granted"] for _, message in messages
        ):
            self.blame(f"node {raw.node_id} votes with disk {raw.disk}, which its log does not name")

    def acknowledge(self, group: int, value: int, index: int, now: float) -> None:
        self.acknowledged[group, value] = now
        self.acknowledged_index[group] = max(self.acknowledged_index.get(group, 0), index)

    def sees_read(self, group: int, must: int, applied: int) -> None:
        self.reads_served += 1
        if applied < must:
            self.blame(f"a read of group {group} at index {applied} misses index {must}, acknowledged before")

    def final(self, replicas: "list[Replica]", groups: int, healed_at: float) -> None:
        for group in range(groups):
            values = {replica.node_id: replica.values(group) for replica in replicas}
            acknowledged = [value for (g, value) in self.acknowledged if g == group]
            longest = max(values.values(), key=len)
            for node, seen in values.items():
                if len(set(seen)) != len(seen):
                    self.blame(f"node {node} applied a value twice")
                if seen != longest[: len(seen)]:
                    self.blame(f"states of group {group} differ")
                elif len(seen) != len(longest):
                    self.blame(f"node {node} did not catch up after healing")
            known = set(longest)
            lost = [value for value in acknowledged if value not in known]
            if lost:
                self.blame(f"{len(lost)} acknowledged values of group {group} are lost, e.g. {lost[0]}")
        if not any(at > healed_at + 1.0 for at in self.acknowledged.values()):
            self.blame("nothing was acknowledged after healing")


class Store:
    """The machine's state: for each group everything applied, in order. `durable` tells what a power loss leaves."""

    def __init__(self, groups: int) -> None:
        self.rows: list[list[tuple[int, int, tuple[int, ...]]]] = [[] for _ in range(groups)]
        self.applied = [(0, 0)] * groups
        self.durable_rows = [0] * groups
        self.floor = [(0, 0)] * groups  # position of a snapshot that replaced everything

    def apply(self, entry: Committed) -> None:
        self.rows[entry.group].append((entry.index, entry.term, tuple(msgpack.unpackb(entry.data))))
        self.applied[entry.group] = (entry.index, entry.term)

    def flush(self) -> None:
        self.durable_rows = [len(rows) for rows in self.rows]

    def install(self, group: int, snapshot: Snapshot, rows: list[tuple[int, int, tuple[int, ...]]]) -> None:
        self.rows[group] = list(rows)
        self.durable_rows[group] = len(rows)
        self.applied[group] = self.floor[group] = (snapshot.index, snapshot.term)

    def lose_power(self, rng: random.Random) -> None:
        """Some prefix of the batches is there, at least what was flushed."""
        for group, rows in enumerate(self.rows):
            del rows[rng.randint(self.durable_rows[group], len(rows)) :]
            self.applied[group] = max(self.floor[group], rows[-1][:2] if rows else (0, 0))


class Replica:
    """One node: what the runtime does around RawNode, with the disk as events instead of a thread."""

    def __init__(self, world: "World", node_id: int, directory: Path) -> None:
        self.world = world
        self.node_id = node_id
        self.directory = directory
        self.disk = 100 * node_id
        self.store = Store(world.options.groups)
        self.alive = False
        self.life = 0

    def start(self) -> None:
        world = self.world
        self.wal = Wal.open(
            self.directory,
            node_id=self.node_id,
            group_count=world.options.groups,
            segment_bytes=world.options.segment_bytes,
            rewrite_bytes=2000,
            fsync=False,
        )
        self.raws: list[RawNode] = []
        for log in self.wal.logs:
            if not log.members:
                log.set_members(world.first_members)
            self.raws.append(
                RawNode(
                    node_id=self.node_id,
                    disk=self.disk,
                    log=log,
                    applied=self.store.applied[log.group],
                    config=world.options.config,
                    rng=world.rng,
                    now=world.now,
                )
            )
        for raw in self.raws:
            world.judge.sees_durable(raw, started=True)
        self.positions = [raw.log.base_index for raw in self.raws]
        for group, (index, _) in enumerate(self.store.applied):
            self.positions[group] = max(self.positions[group], index)
        self.batch: Batch | None = None
        self.unsynced: dict[int, int] = {}
        self.syncing: dict[int, int] = {}
        self.queue: list[Committed] = []
        self.proposed: dict[tuple[int, int, int], list[int]] = {}  # (group, index, term) -> values
        self.reads: list[tuple[int, int, int]] = []  # (group, index to wait for, index that must be seen)
        self.installing: dict[int, tuple[int, Snapshot, list[Any], int]] = {}
        self.alive = True
        self.life += 1
        self.turn_due = False
        world.after(world.rng.uniform(0, TICK_SECONDS), self.tick, self.life)
        if world.options.trim_every < 1e6:
            world.after(world.rng.uniform(0, world.options.trim_every), self.trim, self.life)

    def crash(self, power_loss: bool) -> None:
        """Stop in the middle of whatever it does, a write to the log included."""
        rng = self.world.rng
        self.alive = False
        if self.batch is not None:
            outcome = rng.random()
            if outcome < 0.3:
                self.wal.write(self.batch)
            elif outcome < 0.7:
                path = max(self.directory.glob("*.wal"))
                with path.open("ab") as file:
                    file.write(self.batch.data[: rng.randint(0, len(self.batch.data))])
        if power_loss:
            self.store.lose_power(rng)
        self.wal.close()

    def lose_disk(self) -> None:
        """What is left is the number. Not while it runs."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.store = Store(self.world.options.groups)
        self.disk += 1

    # -- the step

    def tick(self, life: int) -> None:
        if self.alive and life == self.life:
            self.turn()
            self.world.after(TICK_SECONDS, self.tick, life)

    def wake(self) -> None:
        if not self.turn_due:
            self.turn_due = True
            self.world.after(0.0001, self.woken, self.life)

    def woken(self, life: int) -> None:
        if self.alive and life == self.life:
            self.turn_due = False
            self.turn()

    def turn(self) -> None:
        world = self.world
        for group, raw in enumerate(self.raws):
            raw.tick(world.now)
            ready = raw.ready()
            world.judge.sees_members(raw)
            world.judge.sees_promises(raw, ready.records, ready.messages)
            if raw.is_leader:
                world.judge.sees_leader(group, raw.term, self.node_id)
                world.judge.sees_commit(raw)
            for node, message in ready.messages:
                world.send(self.node_id, node, group, message)
            if ready.records:
                self.wal.append(ready.records)
                self.unsynced[group] = ready.seq
            if ready.committed:
                self.queue += ready.committed
                if world.options.apply_seconds:
                    world.after(world.rng.uniform(0, world.options.apply_seconds), self.apply, self.life)
            for node in ready.snapshots:
                self.offer_snapshot(group, node)
        if self.batch is None and self.unsynced:
            self.batch = self.wal.take()
            self.syncing, self.unsynced = self.unsynced, {}
            world.after(world.rng.uniform(0, world.options.sync_seconds), self.synced, self.life)
        if not world.options.apply_seconds:
            self.apply(self.life)

    def synced(self, life: int) -> None:
        if not self.alive or life != self.life or self.batch is None:
            return
        self.wal.write(self.batch)
        self.batch = None
        for group, seq in self.syncing.items():
            self.raws[group].log.mark_durable(seq)
            self.world.judge.sees_durable(self.raws[group])
            self.raws[group].persisted(seq)
        self.syncing = {}
        for group in [g for g, item in self.installing.items() if item[3] <= self.raws[g].log.durable_seq]:
            self.finish_install(group)
        self.turn()

    def apply(self, life: int) -> None:
        if not self.alive or life != self.life:
            return
        world = self.world
        queue, self.queue = self.queue, []
        for entry in queue:
            if entry.index != self.positions[entry.group] + 1:
                world.judge.blame(f"node {self.node_id} applies {entry.index} after {self.positions[entry.group]}")
            world.judge.sees_entry(entry)
            self.positions[entry.group] = entry.index
            if entry.data:
                self.store.apply(entry)
            for value in self.proposed.pop((entry.group, entry.index, entry.term), ()):
                world.judge.acknowledge(entry.group, value, entry.index, world.now)
        waiting, self.reads = self.reads, []
        for group, index, must in waiting:
            if index <= self.positions[group]:
                world.judge.sees_read(group, must, self.positions[group])
            else:
                self.reads.append((group, index, must))

    def trim(self, life: int) -> None:
        if not self.alive or life != self.life:
            return
        self.store.flush()
        for group, (index, _) in enumerate(self.store.applied):
            if group not in self.installing:
                self.raws[group].trim(index - self.world.rng.choice((0, 0, 5)))
        self.world.after(self.world.options.trim_every * self.world.rng.uniform(0.5, 1.5), self.trim, life)

    # -- snapshots

    def offer_snapshot(self, group: int, node: int) -> None:
        world = self.world
        last = world.snapshots_sent.get((self.node_id, node, group), -1.0)
        index = self.store.applied[group][0]
        if world.now - last < 0.15 or index <= self.raws[group].log.base_index - 1 or not index:
            return
        world.snapshots_sent[self.node_id, node, group] = world.now
        raw = self.raws[group]
        body = [raw.term, list(raw.snapshot_at(index)), self.store.rows[group]]
        world.send(self.node_id, node, group, {"type": "snapshot", "body": body})

    def take_snapshot(self, group: int, from_node: int, body: list[Any]) -> None:
        term, (index, snapshot_term, members), rows = body
        snapshot = Snapshot(index, snapshot_term, tuple(Member(*member) for member in members))
        raw = self.raws[group]
        if raw.begin_install(from_node, term, snapshot):
            rows = [(i, t, tuple(values)) for i, t, values in rows]
            self.installing[group] = (from_node, snapshot, rows, raw.log.seq)

    def finish_install(self, group: int) -> None:
        from_node, snapshot, rows, _ = self.installing.pop(group)
        self.queue = [entry for entry in self.queue if entry.group != group]
        self.store.install(group, snapshot, rows)
        self.positions[group] = snapshot.index
        if self.world.rng.random() < 0.2:
            # The power goes just after the state was replaced, before the log knows.
            self.world.crash(self.node_id)
            return
        self.raws[group].finish_install(from_node, snapshot)
        self.world.judge.sees_snapshot(self.raws[group])

    def values(self, group: int) -> list[int]:
        return [value for _, _, values in self.store.rows[group] for value in values]


class World:
    """Clock, network, faults and clients."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        directory: Path,
        options: Options | None = None,
        *,
        members: bool | None = None,
    ) -> None:
        self.rng = random.Random(seed * 7919 + nodes)
        self.now = 1000.0
        self.options = options or draw_options(self.rng, nodes, members=members)
        self.judge = Judge()
        self.ids = list(range(1, nodes + 1 + self.options.members))
        self.first_members = tuple(Member(i, 100 * i, True) for i in self.ids[:nodes])
        self.target = set(self.ids[:nodes])  # who should be a member
        self.members_made: dict[str, int] = {}
        self.snapshots_sent: dict[tuple[int, int, int], float] = {}
        self.steps = 0
        self.healed = False
        self.stop_clients = False
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._event_count = 0
        self._links: dict[frozenset[int], int] = {}  # pairs that are connected -> epoch
        self._epoch = 0
        self._blocked: set[tuple[int, int]] = set()
        self._last_arrival: dict[tuple[int, int], float] = {}
        self._delay = (0.0005, 0.0015)
        self._value = 0
        self.replicas = {i: Replica(self, i, directory / str(i)) for i in self.ids}
        for replica in self.replicas.values():
            replica.start()
        self.connect_all()
        self.after(0.0, self.client)
        if self.options.members:
            self.after(0.5, self.follow_target)

    # -- time

    def after(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (self.now + seconds, self._event_count, act, args))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        events = self._events
        while events and events[0][0] <= end:
            at, _, act, args = heapq.heappop(events)
            self.now = max(self.now, at)
            self.steps += 1
            act(*args)
        self.now = end

    # -- network

    def connect(self, a: int, b: int) -> None:
        pair = frozenset((a, b))
        if pair in self._links or not (self.replicas[a].alive and self.replicas[b].alive):
            return
        self._epoch += 1
        self._links[pair] = self._epoch
        for x, y in ((a, b), (b, a)):
            for raw in self.replicas[x].raws:
                raw.connected(y)

    def disconnect(self, a: int, b: int) -> None:
        if self._links.pop(frozenset((a, b)), None) is None:
            return
        for x, y in ((a, b), (b, a)):
            if self.replicas[x].alive:
                for raw in self.replicas[x].raws:
                    raw.disconnected(y)

    def connect_all(self) -> None:
        for a in self.ids:
            for b in self.ids:
                if a < b:
                    self.connect(a, b)

    def send(self, source: int, target: int, group: int, message: dict[str, Any]) -> None:
        link = self._links.get(frozenset((source, target)))
        rng = self.rng
        if link is None or (source, target) in self._blocked or rng.random() < self.options.drop:
            return
        data = msgpack.packb(message)
        for _ in range(2 if rng.random() < self.options.duplicate else 1):
            at = self.now + rng.uniform(*self._delay)
            if not self.options.reorder:
                at = max(at, self._last_arrival.get((source, target), 0.0) + 1e-7)
                self._last_arrival[source, target] = at
            self.after(at - self.now, self.arrive, link, source, target, group, data)

    def arrive(self, link: int, source: int, target: int, group: int, data: bytes) -> None:
        replica = self.replicas[target]
        pair = frozenset((source, target))
        if not replica.alive or (source, target) in self._blocked:
            return
        # A connection that was replaced may still be read to its end.
        if self._links.get(pair) != link and not (self.options.stale_connections and pair in self._links):
            return
        message = msgpack.unpackb(data)
        if message["type"] == "snapshot":
            replica.take_snapshot(group, source, message["body"])
        else:
            replica.raws[group].step(source, message)
        replica.wake()

    # -- clients

    def client(self) -> None:
        if self.stop_clients:
            return
        rng = self.rng
        for replica in self.replicas.values():
            if not replica.alive:
                continue
            for group, raw in enumerate(replica.raws):
                if raw.is_leader and rng.random() < (0.7 if group == 0 else 0.1):
                    self.write(replica, group)
                if rng.random() < 0.1:
                    self.read(replica, group)
        self.after(0.03, self.client)

    def write(self, replica: Replica, group: int) -> None:
        raw = replica.raws[group]
        for _ in range(self.rng.choice((1, 1, 3, 6))):
            values = list(range(self._value + 1, self._value + 1 + self.rng.choice((1, 1, 4))))
            self._value = values[-1]
            try:
                raw.propose(msgpack.packb(values))
            except NotLeader:
                return
            replica.proposed[group, raw.log.last_index, raw.term] = values
        replica.wake()

    def read(self, replica: Replica, group: int) -> None:
        must = self.judge.acknowledged_index.get(group, 0)
        life = replica.life
        self.judge.reads_asked += 1

        def found(index: int | None) -> None:
            if index is not None and replica.life == life and replica.alive:
                if index <= replica.positions[group]:
                    self.judge.sees_read(group, must, replica.positions[group])
                else:
                    replica.reads.append((group, index, must))

        replica.raws[group].read_index(found)
        replica.wake()

    # -- faults

    def crash(self, node: int) -> None:
        replica = self.replicas[node]
        if replica.alive:
            for other in self.ids:
                if other != node:
                    self.disconnect(node, other)
            replica.crash(self.options.power_loss and self.rng.random() < 0.7)

    def restart(self, node: int) -> None:
        replica = self.replicas[node]
        if replica.alive:
            return
        try:
            replica.start()
        except DataError as error:
            self.judge.blame(f"node {node} cannot start: {error}")
            replica.alive = False
            return
        for other in self.ids:
            if other != node:
                self.connect(node, other)

    def leaders(self) -> list[int]:
        return [i for i, r in self.replicas.items() if r.alive and any(raw.is_leader for raw in r.raws)]

    def fault(self) -> None:
        faults = self.FAULTS
        self.rng.choices([act for _, act in faults], [weight for weight, _ in faults])[0](self)

    def cut_link(self) -> None:
        a, b = self.rng.sample(self.ids, 2)
        self._blocked.add((a, b))
        if self.rng.random() < 0.5:
            self._blocked.add((b, a))

    def isolate_leader(self) -> None:
        alone = self.rng.choice(self.leaders() or self.ids)
        for other in self.ids:
            if other != alone:
                self._blocked |= {(alone, other), (other, alone)}

    def mend_links(self) -> None:
        self._blocked.clear()

    def reset_link(self) -> None:
        a, b = self.rng.sample(self.ids, 2)
        self.disconnect(a, b)
        self.after(self.rng.choice((0.0, 0.05, 0.3)), self.connect, a, b)

    def crash_one(self) -> None:
        live = [i for i in self.ids if self.replicas[i].alive]
        if len(live) > len(self.ids) // 2:
            leaders = self.leaders()
            self.crash(self.rng.choice(leaders) if leaders and self.rng.random() < 0.5 else self.rng.choice(live))

    def reboot_follower(self) -> None:
        """A follower is back at once, without what it had not synced; then the leader may be cut off."""
        followers = [i for i in self.ids if self.replicas[i].alive and i not in self.leaders()]
        if followers:
            node = self.rng.choice(followers)
            if self.rng.random() < 0.7:
                self.isolate_leader()
            self.crash(node)
            self.restart(node)

    def cut_power(self) -> None:
        """Everybody dies at once; a majority is back soon, the last leader perhaps not among it."""
        leaders = self.leaders()
        for node in self.ids:
            self.crash(node)
        order = [i for i in self.ids if i not in leaders] + leaders
        if self.rng.random() < 0.3:
            self.rng.shuffle(order)
        majority = len(order) // 2 + 1
        for position, node in enumerate(order):
            delay = self.rng.uniform(0.0, 0.1) if position < majority else self.rng.uniform(0.3, 2.0)
            self.after(delay, self.restart, node)

    def restart_one(self) -> None:
        dead = [i for i in self.ids if not self.replicas[i].alive]
        if dead:
            self.restart(self.rng.choice(dead))

    def change_delay(self) -> None:
        self._delay = self.rng.choice(((0.0005, 0.0015), (0.001, 0.02), (0.02, 0.06), (0.001, 0.2)))

    def move_leader(self) -> None:
        for node in self.leaders():
            for raw in self.replicas[node].raws:
                if raw.is_leader and len(raw.voters) > 1:
                    raw.transfer(self.rng.choice([voter for voter in raw.voters if voter != node]))
            self.replicas[node].wake()

    # -- members

    def led(self) -> Iterator[tuple[Replica, RawNode]]:
        for node in self.leaders():
            for raw in self.replicas[node].raws:
                if raw.is_leader:
                    yield self.replicas[node], raw

    def change(self, replica: Replica, raw: RawNode, change: Change) -> None:
        if raw.change_members(change):
            self.members_made[change.kind] = self.members_made.get(change.kind, 0) + 1
            replica.wake()

    def is_intact(self, member: Member) -> bool:
        return self.replicas[member.node].disk == member.disk

    def follow_target(self) -> None:
        """What the leader of each group does to bring its members in line, one step."""
        for replica, raw in self.led():
            change = self.next_change(raw)
            if change is not None and change.node != raw.node_id:
                self.change(replica, raw, change)
            elif change is not None:
                raw.transfer(self.rng.choice([v for v in raw.voters if v != raw.node_id] or [raw.node_id]))
        self.after(self.rng.uniform(0.02, 0.06 if self.healed else 0.4), self.follow_target)

    def next_change(self, raw: RawNode) -> Change | None:
        members = {member.node: member for member in raw.members}
        for member in members.values():
            if not self.is_intact(member):
                return Change("rem", member.node, member.disk)
        for node in sorted(self.target - set(members)):
            return Change("learn", node, self.replicas[node].disk)
        for member in members.values():
            if not member.voter and raw.match_index(member.node) >= raw.log.last_index - self.rng.choice((0, 5)):
                return Change("add", member.node, member.disk)
        for member in members.values():
            if member.node not in self.target and len(members) > 1:
                return Change("rem", member.node, member.disk)
        return None

    def change_target(self) -> None:
        if not self.options.members:
            return
        node = self.rng.choice(self.ids)
        if node not in self.target:
            self.target.add(node)
        elif len(self.target) > 2:
            self.target.discard(node)

    def change_members(self) -> None:
        """A change nobody planned."""
        if not self.options.members:
            return
        for replica, raw in self.led():
            node = self.rng.choice([i for i in self.ids if i != raw.node_id])
            member = next((member for member in raw.members if member.node == node), None)
            if member is None:
                self.change(replica, raw, Change("learn", node, self.replicas[node].disk))
            elif not member.voter and self.is_intact(member) and self.rng.random() < 0.6:
                self.change(replica, raw, Change("add", node, member.disk))
            elif not member.voter or all(self.is_intact(other) for other in raw.members):
                self.change(replica, raw, Change("rem", node, self.rng.choice((0, member.disk))))

    def replace_disk(self) -> None:
        """A node comes back blank under the same number, at once or after a while."""
        if not self.options.disks:
            return
        node = self.rng.choice(self.ids)
        for replica in self.replicas.values():
            for raw in replica.raws:
                if not any(member[:2] == (replica.node_id, replica.disk) for member in raw.members):
                    continue  # it cannot stand for election, so its log's members elect nobody
                voters = [member for member in raw.members if member.voter]
                if 2 * sum(member.node != node and self.is_intact(member) for member in voters) <= len(voters):
                    return
        self.crash(node)
        self.replicas[node].lose_disk()
        self.members_made["disk"] = self.members_made.get("disk", 0) + 1
        if self.rng.random() < 0.5:
            self.restart(node)

    FAULTS: tuple[tuple[float, "Callable[[World], None]"], ...] = (
        (20, cut_link),
        (8, isolate_leader),
        (16, mend_links),
        (8, reset_link),
        (12, crash_one),
        (6, reboot_follower),
        (4, cut_power),
        (14, restart_one),
        (7, change_delay),
        (5, move_leader),
        (6, change_members),
        (5, change_target),
        (6, replace_disk),
    )

    def heal(self) -> None:
        self.healed = True
        self.target = set(self.ids)
        self._blocked.clear()
        self._delay = (0.0005, 0.0015)
        for node in self.ids:
            self.restart(node)
        self.connect_all()

    @property
    def is_complete(self) -> bool:
        """Every node is a voter with the disk it has, as far as each group's leader knows."""
        led = list(self.led())
        wanted = {(node, self.replicas[node].disk, True) for node in self.target}
        return len(led) == self.options.groups and all(set(raw.members) == wanted for _, raw in led)


class Result(NamedTuple):
    seed: int
    nodes: int
    violations: list[str]
    acknowledged: int
    reads: int
    steps: int
    options: Options
    members_made: dict[str, int]
    """Membership changes that were made, by kind, and `disk`: disks that were replaced."""


def run_schedule(seed: int, nodes: int, options: Options | None = None, *, members: bool | None = None) -> Result:
    """One schedule from its seed. An assertion that fails inside the product is a violation too.

    members: whether membership changes and disks are replaced; drawn if not given."""
    directory = Path(tempfile.mkdtemp(prefix="raft-fuzz-"))
    quiet = logging.getLogger("wukong.raft")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        world = World(seed, nodes, directory, options, members=members)
        judge = world.judge
        try:
            world.run(0.8)
            end = world.now + FAULT_SECONDS
            while world.now < end:
                world.run(world.rng.uniform(0.01, 0.25))
                world.fault()
            world.heal()
            healed_at = world.now
            for _ in range(10):
                world.run(HEAL_SECONDS / 10)
                world.heal()
            if world.options.members:
                waited = 0.0
                while not world.is_complete and waited < MEMBERS_SECONDS:
                    world.run(0.2)
                    world.heal()
                    waited += 0.2
                if not world.is_complete:
                    judge.blame("members were not brought in line after healing")
            world.stop_clients = True
            world.run(QUIET_SECONDS)
            judge.final([r for r in world.replicas.values() if r.alive], world.options.groups, healed_at)
        except AssertionError as error:
            judge.blame(f"assertion: {error}")
        for replica in world.replicas.values():
            replica.wal.close()
        return Result(
            seed,
            nodes,
            judge.violations,
            len(judge.acknowledged),
            judge.reads_served,
            world.steps,
            world.options,
            world.members_made,
        )
    finally:
        quiet.setLevel(level)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first schedule's seed")
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument("--members", action="store_true", help="change members in every schedule")
    parser.add_argument("--without", choices=sorted(ABLATIONS), default=None)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    started = time.process_time()
    bad = acknowledged = reads = 0
    made: dict[str, int] = {}
    with without(options.without):
        for seed in range(options.seed, options.seed + options.schedules):
            result = run_schedule(seed, options.nodes, members=options.members or None)
            for kind, count in result.members_made.items():
                made[kind] = made.get(kind, 0) + count
            acknowledged += result.acknowledged
            reads += result.reads
            bad += bool(result.violations)
            if result.violations or options.verbose:
                print(f"seed {seed}, {options.nodes} nodes: {result.violations or 'ok'}", flush=True)
            if options.verbose:
                print(f"    {result.options}\n    {result.acknowledged} acknowledged, {result.steps} steps")
                print(f"    {result.members_made}")
    print(
        f"{options.schedules} schedules, {bad} with violations, {acknowledged} acknowledged values, {reads} reads, "
        f"changes {made}, "
        f"{time.process_time() - started:.1f} s of CPU"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
