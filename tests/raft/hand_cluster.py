"""Replicas driven by hand: every message, every disk write and every tick is a line of the test.

Links are queues in both directions; nothing moves unless the test says so. The disk is the records a node has been told
are persisted; by default that happens at once.
"""

import random
from collections import deque
from collections.abc import Iterable
from typing import Any

from wukong.raft.config import RaftConfig
from wukong.raft.log import Change, GroupLog, Member, Record
from wukong.raft.rawnode import RawNode

Message = dict[str, Any]

CONFIG = RaftConfig(heartbeat_ms=100, election_min_ms=400, election_max_ms=1400, quorum_timeout_ms=1500)


def voters(*nodes: int) -> tuple[Member, ...]:
    """Voters with disk 0."""
    return tuple(Member(node, 0, True) for node in nodes)


class Hand:
    """One replica: its RawNode, its disk, what it applied, whether its disk answers at once."""

    def __init__(self, cluster: "HandCluster", node_id: int, disk_number: int = 0) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.disk_number = disk_number
        self.disk: list[Record] = []
        self.applied: list[tuple[int, bytes]] = []
        self.position = (0, 0)
        self.disk_answers = True
        self.written: list[Record] = []
        self.written_seq = 0
        self.snapshots_wanted: list[int] = []
        self.rng = random.Random(node_id)
        self.leaderships: list[tuple[int | None, int]] = []
        self.boot()

    def boot(self) -> None:
        log = GroupLog(0)
        for record in self.disk:
            log.replay(record)
        log.end_replay()
        if not log.members:
            log.set_members(voters(*self.cluster.voters))
        self.raw = RawNode(
            node_id=self.node_id,
            log=log,
            applied=self.position,
            config=self.cluster.config,
            rng=self.rng,
            now=self.cluster.now,
            disk=self.disk_number,
        )

    def pump(self) -> None:
        """Carry out what is ready, as the runtime would."""
        while True:
            ready = self.raw.ready()
            for node, message in ready.messages:
                self.cluster.put(self.node_id, node, message)
            self.written += ready.records
            self.written_seq = ready.seq
            for entry in ready.committed:
                if entry.data:
                    self.applied.append((entry.index, entry.data))
                    self.position = (entry.index, entry.term)
            self.snapshots_wanted += ready.snapshots
            if ready.leadership is not None:
                self.leaderships.append((ready.leadership.leader, ready.leadership.term))
            if self.disk_answers and self.written:
                self.sync()
            elif not (ready.messages or ready.records or ready.committed):
                return

    def sync(self) -> None:
        """The disk has everything written so far."""
        self.disk += self.written
        self.written = []
        self.raw.persisted(self.written_seq)

    @property
    def values(self) -> list[bytes]:
        return [data for _, data in self.applied]

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.raw.log[1:]]


class HandCluster:
    def __init__(self, count: int = 3, config: RaftConfig = CONFIG) -> None:
        self.config = config
        self.now = 1000.0
        self.voters = tuple(range(1, count + 1))
        self.links: dict[tuple[int, int], deque[Message]] = {}
        self.cut: set[tuple[int, int]] = set()
        self.sent: list[tuple[int, int, Message]] = []
        self.nodes: dict[int, Hand] = {}
        for node in self.voters:
            self.nodes[node] = Hand(self, node)
        for a in self.voters:
            for b in self.voters:
                if a != b:
                    self.nodes[a].raw.connected(b)
        for hand in self.nodes.values():
            hand.pump()

    def __getitem__(self, node: int) -> Hand:
        return self.nodes[node]

    def put(self, source: int, target: int, message: Message) -> None:
        if (source, target) not in self.cut:
            self.sent.append((source, target, message))
            self.links.setdefault((source, target), deque()).append(message)

    def waiting(self, source: int, target: int) -> deque[Message]:
        return self.links.setdefault((source, target), deque())

    def deliver(self, source: int, target: int, count: int | None = None) -> int:
        """Deliver messages of one link in order; all that wait, unless count says less."""
        queue = self.waiting(source, target)
        delivered = 0
        while queue and (count is None or delivered < count):
            message = queue.popleft()
            delivered += 1
            if target in self.nodes:
                self.nodes[target].raw.step(source, message)
                self.nodes[target].pump()
        return delivered

    def deliver_all(self, *, skip: Iterable[int] = ()) -> None:
        """Deliver until nothing is under way, except to and from the skipped nodes."""
        left_out = set(skip)
        while any(
            self.deliver(source, target)
            for source, target in sorted(self.links)
            if source not in left_out and target not in left_out
        ):
            pass

    def tick(self, *nodes: int) -> None:
        for node in nodes or sorted(self.nodes):
            self.nodes[node].raw.tick(self.now)
            self.nodes[node].pump()

    def wait(self, seconds: float) -> None:
        """Let time pass; nobody notices until he ticks."""
        self.now += seconds

    def never(self, *nodes: int) -> None:
        """These nodes do not stand for election by themselves."""
        for node in nodes or sorted(self.nodes):
            self.nodes[node].raw._core._SyncObj__raftElectionDeadline = self.now + 1e6

    def forget_leases(self) -> None:
        """Enough time has passed for everybody to vote."""
        for hand in self.nodes.values():
            hand.raw._filter.heard_at = float("-inf")

    def elect(self, node: int, voters: Iterable[int] | None = None) -> None:
        """The node stands for election and wins with these voters; nobody else hears of it."""
        chosen = [voter for voter in (self.nodes if voters is None else voters) if voter != node]
        self.never()
        self.forget_leases()
        self.nodes[node].raw._core._SyncObj__raftElectionDeadline = self.now - 1
        for _ in range(2):  # PreVote, then the vote
            self.tick(node)
            for voter in chosen:
                if not self.nodes[node].raw.is_leader:
                    self.deliver(node, voter)
                    self.deliver(voter, node)
        self.never()
        self.tick(node)
        for other in self.nodes:
            if other not in (node, *chosen):
                queue = self.waiting(node, other)
                kept = [m for m in queue if m["type"] not in ("pre_vote", "request_vote")]
                queue.clear()
                queue.extend(kept)
        assert self.nodes[node].raw.is_leader

    def settle(self, rounds: int = 4, *, skip: Iterable[int] = ()) -> None:
        """Some heartbeats' worth of normal operation without elections."""
        for _ in range(rounds):
            self.wait(0.11)
            self.never()
            self.tick(*[node for node in self.nodes if node not in set(skip)])
            self.deliver_all(skip=skip)

    def propose(self, node: int, *values: bytes) -> None:
        for value in values:
            self.nodes[node].raw.propose(value)
        self.nodes[node].pump()

    def crash(self, node: int, *, lose_unsynced: bool = True) -> Hand:
        """The process is gone, with what was on its links."""
        hand = self.nodes.pop(node)
        if not lose_unsynced:
            hand.disk += hand.written
        hand.written = []
        for pair in self.links:
            if node in pair:
                self.links[pair].clear()
        for other in self.nodes.values():
            other.raw.disconnected(node)
        return hand

    def restart(self, hand: Hand) -> Hand:
        hand.boot()
        self.nodes[hand.node_id] = hand
        for other in self.nodes:
            if other != hand.node_id:
                hand.raw.connected(other)
                self.nodes[other].raw.connected(hand.node_id)
        hand.pump()
        return hand

    def join(self, node: int, disk_number: int = 0) -> Hand:
        """A blank node comes up: one that is new, or one that has lost its disk."""
        return self.restart(Hand(self, node, disk_number))

    def change(self, leader: int, kind: str, node: int, disk: int = 0) -> None:
        """The leader makes a membership change and everybody hears of it."""
        assert self.nodes[leader].raw.change_members(Change(kind, node, disk))
        self.nodes[leader].pump()
        self.settle()

    def reconnect(self, a: int, b: int) -> None:
        """A connection breaks, what was on it is lost, and it comes back."""
        for x, y in ((a, b), (b, a)):
            self.waiting(x, y).clear()
            self.nodes[x].raw.disconnected(y)
        for x, y in ((a, b), (b, a)):
            self.nodes[x].raw.connected(y)

    def isolate(self, node: int) -> None:
        for other in self.voters:
            if other != node:
                self.cut |= {(node, other), (other, node)}
                self.waiting(node, other).clear()
                self.waiting(other, node).clear()

    def mend(self) -> None:
        self.cut.clear()
