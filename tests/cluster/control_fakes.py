"""What the control of a cluster stands on, without disks, links and elections: everything is as the test says."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from tests.channel.slot import Slot
from wukong.channel import nodes
from wukong.channel.commands import Command, Hello, NodeRow, PutNode, Reply
from wukong.channel.state import State
from wukong.errors import NotLeader, Unavailable
from wukong.node.streams import Done
from wukong.raft.log import Change, Member, Snapshot, after_change


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


class FakeFacts(NamedTuple):
    disk: int
    cluster: int = 77
    addr: str = "10.0.0.9:11110"
    api_url: str = ""
    join: bool = False


class Group:
    def __init__(self, members: tuple[Member, ...], leader: int | None) -> None:
        self.members = members
        self.applied_members: tuple[Member, ...] | None = None  # where they differ from those of the log's end
        self.leader = leader
        self.term = 1
        self.last = self.commit = self.applied = 1_000
        self.match = {member.node: 1_000 for member in members}
        self.heard_s = 0.0
        self.changes: list[Change] = []
        self.transfers: list[int] = []
        self.takes_over = True  # whether a transfer succeeds
        self.accepts = True  # whether a change is taken


class FakeGroups:
    """The logs as node `node_id` sees them. An accepted transfer has happened, a change is in the log at once."""

    def __init__(self, node_id: int, count: int, members: tuple[Member, ...], leader: int | None = None) -> None:
        self.node_id = node_id
        self.groups = [Group(members, leader or node_id) for _ in range(count)]
        self.disk_hangs_s = 0.0

    def __getitem__(self, group: int) -> Group:
        return self.groups[group]

    @property
    def group_count(self) -> int:
        return len(self.groups)

    def is_leader(self, group: int) -> bool:
        return self.groups[group].leader == self.node_id

    def leader(self, group: int) -> int | None:
        return self.groups[group].leader

    def term(self, group: int) -> int:
        return self.groups[group].term

    def members(self, group: int) -> tuple[Member, ...]:
        return self.groups[group].members

    def match_index(self, group: int, node: int) -> int:
        return self.groups[group].match.get(node, 0)

    def last_index(self, group: int) -> int:
        return self.groups[group].last

    def commit_index(self, group: int) -> int:
        return self.groups[group].commit

    def applied_index(self, group: int) -> int:
        return self.groups[group].applied

    def disk_busy_s(self) -> float:
        return self.disk_hangs_s

    def heard_s(self, group: int) -> float:
        return self.groups[group].heard_s

    def snapshot_at(self, group: int, index: int) -> Snapshot:
        found = self.groups[group]
        return Snapshot(index, found.term, found.members if found.applied_members is None else found.applied_members)

    def change_members(self, group: int, change: Change) -> bool:
        found = self.groups[group]
        if found.leader != self.node_id:
            raise NotLeader(group, found.leader)
        if not found.accepts:
            return False
        found.changes.append(change)
        changed = after_change(found.members, change)
        if changed == found.members:
            return False
        found.members = changed
        if change.kind != "add":
            found.match.pop(change.node, None)
        return True

    def transfer(self, group: int, node: int) -> bool:
        found = self.groups[group]
        found.transfers.append(node)
        if found.takes_over:
            found.leader = node
            found.term += 1
        return found.takes_over


class FakeReplica:
    """Every slot's state. hold: while True commands wait, as without a majority."""

    def __init__(self, count: int) -> None:
        self.slots = [Slot(slot) for slot in range(count)]
        self.live = True
        self.hold = False
        self.proposed: list[tuple[int, Command]] = []
        self.waiting: list[tuple[int, Command, Done | None]] = []
        self.barriers = 0
        self.behind = False  # barriers fail

    @property
    def states(self) -> list[State]:
        return [slot.state for slot in self.slots]

    @property
    def is_live(self) -> bool:
        return self.live

    def propose(self, slot: int, command: Command, done: Done | None) -> None:
        if not self.live:
            raise Unavailable("not live")
        self.proposed.append((slot, command))
        if self.hold:
            self.waiting.append((slot, command, done))
            return
        reply = self.slots[slot].do(command)
        if done is not None:
            done(reply)

    def release(self) -> None:
        self.hold = False
        waiting, self.waiting = self.waiting, []
        for slot, command, done in waiting:
            reply = self.slots[slot].do(command)
            if done is not None:
                done(reply)

    async def execute(self, slot: int, command: Command) -> Reply:
        replies: list[Reply | None] = []
        self.propose(slot, command, replies.append)
        reply = replies[0]
        assert reply is not None
        return reply

    async def barrier(self, slots: Iterable[int], timeout_s: float = math.inf) -> None:
        self.barriers += 1
        if self.behind:
            raise Unavailable("no majority")

    # -- the test's side

    @property
    def table(self) -> dict[int, NodeRow]:
        return nodes.table(self.states[0])

    def put_row(self, node: int, row: NodeRow) -> None:
        self.slots[0].do(PutNode(node, row))

    def hello(self, node: int, incarnation: int = 1) -> None:
        """A node takes an incarnation in every slot."""
        for slot in self.slots:
            slot.do(Hello(), node=node, incarnation=incarnation)


class FakeLinks:
    """What was sent. up: nodes that messages reach."""

    def __init__(self, *up: int) -> None:
        self.up = set(up)
        self.sent: list[tuple[int, dict[str, object]]] = []

    def __call__(self, node: int, kind: int, group: int, body: object) -> bool:
        if node not in self.up:
            return False
        assert isinstance(body, dict)
        self.sent.append((node, body))
        return True

    def of(self, op: str) -> list[tuple[int, dict[str, object]]]:
        return [(node, body) for node, body in self.sent if body["op"] == op]


def voters(*node_ids: int) -> tuple[Member, ...]:
    """Members whose disk number is ten times their own."""
    return tuple(Member(node, 10 * node, True) for node in node_ids)


def row(node: int, *, disk: int | None = None, leaving: bool = False) -> NodeRow:
    return NodeRow(f"10.0.0.{node}:11110", 10 * node if disk is None else disk, "", leaving)


def rows(*node_ids: int) -> dict[int, NodeRow]:
    return {node: row(node) for node in node_ids}
