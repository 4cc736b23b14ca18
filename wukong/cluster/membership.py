"""Members of the groups follow the table of nodes in slot 0. docs/design/membership.md.

Strategy: `plan` compares one group's members with the table and names the next single step; it remembers nothing, so
what is left to do follows from table and log alone and any leader goes on where the last one stopped. `Membership`
carries out one step per group and turn where this node leads, keeps the table's rows true, and, as the leader of
slot 0, forgets the rows of nodes that have left everywhere.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from wukong.channel import nodes
from wukong.channel.commands import ForgetNode, PutNode
from wukong.channel.nodes import NodeRow
from wukong.clock import Clock
from wukong.cluster.interfaces import Facts, Groups, Replica
from wukong.cluster.leads import Leads
from wukong.cluster.peers import REACHABLE_SILENCE_S, Peers
from wukong.cluster.proposer import Proposer
from wukong.errors import WukongError
from wukong.raft.log import Change, Member

log = logging.getLogger(__name__)

_PUT_PAUSE_S = 1.0
_FORGET_TIMEOUT_S = 5.0
# A stranger tells its facts when it connects and not again; we have no link to it by which to see it go.
_JOIN_HOLDS_S = 60.0
_COMPLAINT_PAUSE_S = 10.0


class Transfer(NamedTuple):
    """Let this voter lead, because the leader itself has to leave."""

    node: int


Step = Change | Transfer


def plan(
    members: tuple[Member, ...],
    table: Mapping[int, NodeRow],
    *,
    self_node: int,
    match: Mapping[int, int],
    last_index: int,
    connected: Collection[int],
    caught_up_entries: int = 256,
) -> Step | None:
    """The next step of a group that this node leads, or None: nothing to do, or not now.

    match: node -> last index it is known to hold. connected: members that can be reached with the disk they are members
    with, this node too. A row with disk 0 is of
    a node that has not been here yet. A voter is taken out only if those who stay and are connected are a majority."""
    present = {member.node: member for member in members}
    voters = {member.node for member in members if member.voter}

    def caught_up(node: int) -> bool:
        return node in connected and match.get(node, 0) > 0 and last_index - match[node] <= caught_up_entries

    def may_go(member: Member) -> bool:
        stay = voters - {member.node}
        there = sum(node in connected for node in stay)
        return not member.voter or 2 * there > len(stay)

    for member in members:
        row = table.get(member.node)
        if row is None or not row.disk or member.node == self_node or row.disk == member.disk:
            continue
        # It forgot its votes with the old disk: first that one goes, then it comes as a learner.
        if may_go(member):
            return Change("rem", member.node, member.disk)
    wanted = {node: row for node, row in sorted(table.items()) if not row.leaving}
    for node, row in wanted.items():
        if node not in present and row.disk:
            return Change("learn", node, row.disk)
    for member in members:
        row = wanted.get(member.node)
        if not member.voter and row is not None and row.disk == member.disk and caught_up(member.node):
            return Change("add", member.node, member.disk)
    leaving = [member for member in members if member.node in table and table[member.node].leaving]
    for member in leaving:
        if not member.voter:
            return Change("rem", member.node, member.disk)
    # This node runs with the disk it is a member with, whatever its row still says.
    awaited = {
        node
        for node, row in wanted.items()
        if node != self_node and (node not in voters or present[node].disk != row.disk)
    }
    if awaited or not leaving:
        return None
    for member in leaving:
        if member.node != self_node and may_go(member):
            return Change("rem", member.node, member.disk)
    if self_node in {member.node for member in leaving} and may_go(present[self_node]):
        staying = [node for node in voters if caught_up(node) and not (node in table and table[node].leaving)]
        if staying:
            return Transfer(min(staying, key=lambda node: (-match[node], node)))
    return None


def outstanding(
    members: Collection[tuple[Member, ...]], table: Mapping[int, NodeRow], connected: Collection[int]
) -> str:
    """One line that says what is still to do, for people; empty when table and members agree. members: per group."""
    parts = []
    # `plan` takes nobody out before those who are wanted vote.
    first = [
        node
        for node, row in sorted(table.items())
        if not row.leaving
        and not all(any(each.voter and each[:2] == (node, row.disk) for each in group) for group in members)
    ]
    named = ", ".join(map(str, first))
    waits = f", waits until node{'s' if len(first) > 1 else ''} {named} vote{'' if len(first) > 1 else 's'}"
    waits = waits if first else ""
    for node, row in sorted(table.items()):
        found = [member for group in members for member in group if member.node == node]
        there = "" if node in connected else " (not connected)"
        if row.leaving:
            gone = "out of all slots, to be forgotten" if there else "out of all slots: stop it"
            left = f"still in {len(found)} of {len(members)} slots{waits}" if found else gone
            parts.append(f"node {node} is leaving: {left}{there}")
        elif not row.disk:
            parts.append(f"node {node} is awaited: it has not connected yet")
        elif old := sum(member.disk != row.disk for member in found):
            parts.append(f"node {node} has a new disk: {old} of {len(members)} slots name the old one{there}")
        elif missing := len(members) - sum(member.voter for member in found):
            learning = sum(not member.voter for member in found)
            parts.append(
                f"node {node} is joining: no voter yet in {missing} of {len(members)} slots, learning {learning}{there}"
            )
    return "; ".join(parts)


class MembershipOptions(msgspec.Struct, frozen=True, kw_only=True):
    """caught_up_entries: a learner that lacks no more becomes a voter. busy_s, idle_s: between two steps of a group
    while something is to do, and between two looks while nothing is. disk_fight_s: a node is not taken over to another
    disk while the one in its row was heard within this time."""

    caught_up_entries: int = 256
    busy_s: float = 0.2
    idle_s: float = 2.0
    disk_fight_s: float = 10.0


class OwnRow(NamedTuple):
    """What the table should say about this node."""

    addr: str
    disk: int
    api_url: str


class Membership:
    """cluster: the number of this cluster. own: this node's row, kept right while the node is live.

    `step` is called a few times per second; `stop` ends what it began."""

    def __init__(
        self,
        *,
        cluster: int,
        own: OwnRow,
        groups: Groups,
        replica: Replica,
        peers: Peers,
        leads: Leads,
        proposer: Proposer,
        clock: Clock,
        options: MembershipOptions | None = None,
    ) -> None:
        self._cluster = cluster
        self._own = own
        self._node_id = peers.node_id
        self._groups = groups
        self._replica = replica
        self._peers = peers
        self._leads = leads
        self._proposer = proposer
        self._clock = clock
        self._options = options or MembershipOptions()
        self._due_at = 0.0
        self._seen: dict[int, NodeRow] | None = None
        self._void: dict[int, Facts] = {}
        self._complained_at: dict[int, float] = {}
        self._forgetting: asyncio.Task[None] | None = None

    # -- looking

    def table(self) -> dict[int, NodeRow]:
        """As applied here."""
        return nodes.table(self._replica.states[0])

    def job(self) -> str:
        """What is still to do, as this node knows it; empty: nothing."""
        groups, table, reachable = self._groups, self.table(), self._peers.reachable()
        members = [groups.members(group) for group in range(groups.group_count)]
        strange = [
            f"node {node} came with a new disk: it is taken in when the old one was silent for a while"
            for node, facts in sorted(self._peers.facts.items())
            if node in reachable and node in table and table[node].disk not in (0, facts.disk)
        ]
        return "; ".join([*strange, *filter(None, [outstanding(members, table, reachable)])])

    # -- doing

    def wake(self) -> None:
        """Look again in the next step: the table or what is known of a node has changed."""
        self._due_at = 0.0

    def step(self) -> None:
        now = self._clock.monotonic()
        table = self.table()
        if table != self._seen:
            for node in (self._seen or {}).keys() - table.keys():
                # It has left: what it said while it was here is no request to join.
                if node in self._peers.facts:
                    self._void[node] = self._peers.facts[node]
            self._seen = table
            self.wake()
        if now < self._due_at:
            return
        busy = self._keep_own_row(table) | self._take_in(table)
        if self._groups.is_leader(0):
            busy |= self._keep_rows(table)
            self._forget_who_left(table)
        busy |= self._change_members(table)
        self._due_at = now + (self._options.busy_s if busy else self._options.idle_s)

    async def stop(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._forgetting

    def _change_members(self, table: dict[int, NodeRow]) -> bool:
        """One step in every group that is led here. True: there was one to take."""
        groups, busy = self._groups, False
        reachable, facts = self._peers.reachable(), self._peers.facts
        target = tuple(Member(node, row.disk, True) for node, row in sorted(table.items()) if not row.leaving)
        for group in self._leads.led():
            members = groups.members(group)
            if members == target:
                continue
            connected = {
                node
                for node, disk, _ in members
                if node in reachable and (node == self._node_id or (node in facts and facts[node].disk == disk))
            }
            step = plan(
                members,
                table,
                self_node=self._node_id,
                match={member.node: groups.match_index(group, member.node) for member in members},
                last_index=groups.last_index(group),
                connected=connected,
                caught_up_entries=self._options.caught_up_entries,
            )
            if step is None:
                # Learners and leavers may be waiting for something that comes at any time.
                busy |= any(not member.voter for member in members)
                continue
            busy = True
            # False means not now: another change or no entry of this term yet, a target that lacks the last entry.
            if isinstance(step, Transfer):
                groups.transfer(group, step.node)
            elif groups.change_members(group, step):
                log.info("slot %d: %s node %d (disk %x)", group, step.kind, step.node, step.disk)
        return busy

    # -- rows

    def _keep_own_row(self, table: dict[int, NodeRow]) -> bool:
        own, row = self._own, table.get(self._node_id)
        if row is not None and (row.leaving or (row.addr, row.disk, row.api_url) == own):
            return False
        if row is None and not self._is_member():
            return False  # it has been taken out; whoever wants it back says so on a member
        if row is not None and row.disk not in (0, own.disk):
            return False  # another process may run under this id: the leader of slot 0 knows when it was heard last
        self._put(self._node_id, NodeRow(own.addr, own.disk, own.api_url))
        return True

    def _is_member(self) -> bool:
        return any(
            member.node == self._node_id and member.disk in (0, self._own.disk)
            for group in range(self._groups.group_count)
            for member in self._groups.members(group)
        )

    def _take_in(self, table: dict[int, NodeRow]) -> bool:
        """Nodes that want to join. Whoever they spoke to writes their row: they may know no other node yet."""
        busy = False
        for node, facts in list(self._peers.facts.items()):
            asks = facts.join and node not in (*table, self._node_id) and facts.cluster in (0, self._cluster)
            if not asks or self._void.get(node) is facts or self._peers.heard_s(node) > _JOIN_HOLDS_S:
                continue
            if not self._is_full(table, node):
                busy = True
                self._put(node, NodeRow(facts.addr, facts.disk, facts.api_url))
        return busy

    def _keep_rows(self, table: dict[int, NodeRow]) -> bool:
        """As the leader of slot 0: what nodes of the table say of themselves."""
        busy = False
        for node, row in table.items():
            facts = self._peers.facts.get(node)
            # Heard is enough: a node that came back elsewhere is not reached before its row says where it is.
            if facts is None or node == self._node_id or self._peers.heard_s(node) > REACHABLE_SILENCE_S:
                continue
            if row.leaving or facts.cluster not in (0, self._cluster) or not _differs(row, facts):
                continue
            busy = True
            if not row.disk or row.disk == facts.disk or self._may_take_over(node, row.disk, facts.disk):
                self._put(node, NodeRow(facts.addr, facts.disk, facts.api_url))
        return busy

    def _put(self, node: int, row: NodeRow) -> None:
        if self._proposer.propose(("row", node), 0, PutNode(node, row), pause_s=_PUT_PAUSE_S):
            log.info("node %d: %s, disk %x", node, row.addr, row.disk)

    def _may_take_over(self, node: int, old_disk: int, new_disk: int) -> bool:
        """Whether the disk in a node's row is surely gone: two processes under one node id must not push each other
        out of the cluster in turns."""
        heard_s = self._peers.disk_silent_s(node, old_disk)
        if heard_s >= self._options.disk_fight_s:
            return True
        self._complain(
            node,
            f"node {node} tells disk {new_disk:x}, but disk {old_disk:x} was heard under that id {heard_s:.0f} s ago:"
            f" if two processes run with nodeId {node}, stop one of them; else it is taken over in a moment",
        )
        return False

    def _is_full(self, table: dict[int, NodeRow], node: int) -> bool:
        if len(table) < nodes.MAX_NODES:
            return False
        self._complain(node, f"node {node} wants to join, but the table of nodes has its {nodes.MAX_NODES} rows")
        return True

    def _complain(self, node: int, text: str) -> None:
        now = self._clock.monotonic()
        last = self._complained_at.get(node)
        if last is None or now - last >= _COMPLAINT_PAUSE_S:
            self._complained_at[node] = now
            log.error("%s", text)

    # -- forgetting

    def _forget_who_left(self, table: dict[int, NodeRow]) -> None:
        left = [node for node, row in table.items() if row.leaving and self._may_forget(node)]
        if left and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = asyncio.get_running_loop().create_task(self._forget(left), name="cluster-forget")

    def _may_forget(self, node: int) -> bool:
        facts = self._peers.facts.get(node)
        if node == self._node_id or any(
            member.node == node for group in range(self._groups.group_count) for member in self._groups.members(group)
        ):
            return False
        # While it runs and asks to join, its row is what keeps it out.
        return facts is None or not facts.join or not self._peers.is_reachable(node)

    async def _forget(self, left: list[int]) -> None:
        """Owned by this object, ended by `stop`. What is missing in the logs here may be because they are behind: only
        after a barrier does the absence of a node prove that it has left."""
        groups = self._groups
        try:
            await self._replica.barrier(range(groups.group_count), _FORGET_TIMEOUT_S)
            present = {
                member.node
                for group in range(groups.group_count)
                for member in groups.snapshot_at(group, groups.applied_index(group)).members
            }
        except (WukongError, ValueError) as error:
            log.info("nodes %s have left; their rows stay for now: %s", left, error)
            return
        table = self.table()
        for node in left:
            row = table.get(node)
            if row is None or not row.leaving or node in present or not self._may_forget(node):
                continue
            if self._proposer.propose(("forget", node), 0, ForgetNode(node), pause_s=_PUT_PAUSE_S):
                log.info("node %d has left the cluster", node)


def _differs(row: NodeRow, facts: Facts) -> bool:
    return (row.addr, row.disk, row.api_url) != (facts.addr, facts.disk, facts.api_url)
