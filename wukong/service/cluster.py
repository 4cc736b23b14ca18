"""What operators see of the cluster and want of it: nodes in and out, leaders moved, settings adopted.

A wish changes the table of nodes and is answered when that is in the log; the members of the groups follow by
themselves (docs/design/membership.md), and `status` on any node says what is still to do.
"""

import asyncio
from collections import Counter
from typing import Any

import msgspec

from wukong.channel import nodes
from wukong.channel.commands import Command, DropNode, PutNode, PutSettings
from wukong.channel.nodes import NodeRow
from wukong.channel.state import Settings, encode
from wukong.cluster.controller import Controller
from wukong.cluster.interfaces import Groups
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import MAX_NODE_ID
from wukong.raft.log import Member
from wukong.service.replica import Replica

EVERY_SLOT = -1

REPORT_TIMEOUT_S = 1.0
# Callers within so long share what the nodes were asked once.
ROUND_S = 0.5
# A node without a row is shown for so long after it was heard.
STRANGER_S = 60.0
MAX_ADDRESS_CHARS = 255
MAX_URL_CHARS = 1_024

ASKED = "asked"
"""The leader was asked to hand over; whether it could is seen in the status."""


class NodeShape(msgspec.Struct, frozen=True, omit_defaults=True):
    """state: voter, learner (in some slot no voter yet), joining (in some slot no member yet), leaving, or unknown (it
    speaks to us, but is in neither table nor logs). leads: slots. lag_entries: what it lacks of the logs, over all
    slots whose leader answered. version, health: of a node that answered; health: what is wrong there, empty if
    nothing."""

    id: int
    addr: str
    api_url: str
    disk: str
    state: str
    connected: bool
    leads: int
    lag_entries: int
    version: str = ""
    health: str = ""


class MemberShape(msgspec.Struct, frozen=True, omit_defaults=True):
    """match: up to where the leader knows it to hold the log; absent if the leader did not answer."""

    node: int
    disk: str
    voter: bool
    match: int | None = None


class SlotShape(msgspec.Struct, frozen=True):
    """leader: 0 if none is known. commit and applied: of the leader if it answered, else of the answering node."""

    id: int
    leader: int
    term: int
    members: list[MemberShape]
    commit: int
    applied: int


class StatusShape(msgspec.Struct, frozen=True):
    """node: who answers. settings_differ: keys in which a node's file differs from the settings of the cluster, as
    `key` for the answering node and `node:key` for others. job: what is still to do, empty for nothing. cluster and
    disk numbers are texts: JSON readers have no room for 64 bits."""

    cluster: str
    node: int
    nodes: list[NodeShape]
    slots: list[SlotShape]
    settings_differ: list[str]
    snapshots: list[str]
    job: str


class SlotReport(msgspec.Struct, array_like=True, frozen=True):
    term: int
    commit: int
    applied: int
    last: int
    led: bool
    match: list[tuple[int, int]]


class Report(msgspec.Struct, frozen=True):
    """See Controller.report."""

    version: str
    slots: list[SlotReport]
    differ: list[str]
    snapshots: list[str]
    health: tuple[str, str]
    uptime_s: int = 0


class ClusterAdmin:
    """groups: the log of every slot. wanted: the cluster settings as this node's file has them."""

    def __init__(self, *, replica: Replica, controller: Controller, groups: Groups, wanted: Settings) -> None:
        self._replica = replica
        self._controller = controller
        self._groups = groups
        self._wanted = wanted
        self._round: asyncio.Task[dict[int, dict[str, Any]]] | None = None
        self._round_at = 0.0

    # -- looking

    async def status(self) -> StatusShape:
        """As this node knows it, with what the others say within REPORT_TIMEOUT_S, or said up to ROUND_S ago."""
        reports = await self.reports()
        table = self._table()
        slots = [self._slot(slot, reports) for slot in range(self._groups.group_count)]
        members: dict[int, list[Member]] = {}
        for slot in slots:
            for member in self._groups.members(slot.id):
                members.setdefault(member.node, []).append(member)
        lags = _lags(slots, reports)
        own, peers = self._controller.node_id, self._controller.peers
        others = [node for node in peers.facts if peers.heard_s(node) <= STRANGER_S]
        return StatusShape(
            f"{self._controller.cluster:x}",
            own,
            [
                self._node(node, table.get(node), members.get(node, []), slots, lags[node], reports.get(node))
                for node in sorted({*table, *members, *others})
            ],
            slots,
            [key if node == own else f"{node}:{key}" for node, report in reports.items() for key in report.differ],
            [
                line if node == own else f"{node}: {line}"
                for node, report in reports.items()
                for line in report.snapshots
            ],
            self._controller.job(),
        )

    async def reports(self) -> dict[int, Report]:
        """What each node says of itself, as far as it came within REPORT_TIMEOUT_S, or up to ROUND_S ago."""
        found = {}
        for node, value in (await self._reports()).items():
            report = _read_report(value, self._groups.group_count)
            if report is not None:
                found[node] = report
        return found

    @property
    def node_id(self) -> int:
        return self._controller.node_id

    @property
    def slot_count(self) -> int:
        return self._groups.group_count

    def last_index(self, slot: int) -> int:
        """Of this node's log."""
        return self._groups.last_index(slot)

    def applied_index(self, slot: int) -> int:
        return self._groups.applied_index(slot)

    async def _reports(self) -> dict[int, dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        if self._round is None or now - self._round_at > ROUND_S:
            # It ends by its own time limit, whoever still waits for it.
            self._round = asyncio.create_task(self._controller.reports(REPORT_TIMEOUT_S), name="cluster-reports")
            self._round_at = now
        return await asyncio.shield(self._round)

    def _slot(self, slot: int, reports: dict[int, Report]) -> SlotShape:
        groups = self._groups
        leader = groups.leader(slot)
        report = reports.get(leader) if leader is not None else None
        told = report.slots[slot] if report is not None and report.slots[slot].led else None
        match = dict(told.match) if told is not None else {}
        return SlotShape(
            slot,
            leader or 0,
            groups.term(slot),
            [MemberShape(node, f"{disk:x}", voter, match.get(node)) for node, disk, voter in groups.members(slot)],
            told.commit if told is not None else groups.commit_index(slot),
            told.applied if told is not None else groups.applied_index(slot),
        )

    def _node(
        self,
        node: int,
        row: NodeRow | None,
        found: list[Member],
        slots: list[SlotShape],
        lag: int,
        report: Report | None,
    ) -> NodeShape:
        facts = self._controller.peers.facts.get(node)
        told = row or facts
        disk = (row.disk if row is not None else 0) or (facts.disk if facts is not None else 0)
        return NodeShape(
            node,
            told.addr if told is not None else "",
            told.api_url if told is not None else "",
            f"{disk or (found[0].disk if found else 0):x}",
            _state(row, found, len(slots)),
            self._controller.peers.is_reachable(node),
            sum(slot.leader == node for slot in slots),
            lag,
            report.version if report is not None else "",
            report.health[1] if report is not None else "",
        )

    def _all_members(self) -> list[tuple[Member, ...]]:
        return [self._groups.members(slot) for slot in range(self._groups.group_count)]

    def _known(self, table: dict[int, NodeRow]) -> list[int]:
        return sorted({*table, *(member.node for group in self._all_members() for member in group)})

    def _table(self) -> dict[int, NodeRow]:
        return nodes.table(self._replica.slot_now(0))

    # -- members

    async def add(self, node: int, addr: str, api_url: str = "") -> None:
        """Want a node in the cluster; it may come later. An address of its own choice replaces this one when it
        connects. Takes back a removal that is under way. Raises RequestRefused, Unavailable."""
        _check_node(node)
        _check_addr(addr)
        if len(api_url) > MAX_URL_CHARS:
            raise RequestRefused(f"api_url is longer than {MAX_URL_CHARS} characters")
        table = await self._current_table()
        row = table.get(node)
        if row is None and len(table) >= nodes.MAX_NODES:
            raise RequestRefused(f"the cluster has its {nodes.MAX_NODES} nodes; remove one first")
        # Only a row without disk takes a removal back; the node tells its disk when it connects.
        disk = row.disk if row is not None and not row.leaving else 0
        wanted = NodeRow(addr, disk, api_url)
        if row != wanted:
            await self._change(PutNode(node, wanted))

    async def remove(self, node: int) -> None:
        """Take a node out: first it stops voting and leading, then its row goes. Raises RequestRefused, Unavailable."""
        table = await self._current_table()
        if node not in self._known(table):
            raise RequestRefused(f"node {node} is not in the cluster")
        if not [other for other in self._known(table) if other != node and not _leaves(table, other)]:
            raise RequestRefused(f"node {node} is the last one; a cluster needs a node")
        await self._drop(node, table)

    async def replace(self, node: int, by: int, addr: str) -> None:
        """Put another node in the place of one: it joins first, then the old one leaves. Raises as `add`, `remove`."""
        table = await self._current_table()
        if node not in self._known(table):
            raise RequestRefused(f"node {node} is not in the cluster")
        if by == node:
            raise RequestRefused("a node cannot replace itself; with a new disk it comes back by itself")
        await self.add(by, addr, table[by].api_url if by in table else "")
        await self._drop(node, self._table())

    async def _drop(self, node: int, table: dict[int, NodeRow]) -> None:
        if node not in table:
            # A member that never wrote its row: it needs one to be seen as leaving.
            disks = [member.disk for group in self._all_members() for member in group if member.node == node]
            await self._change(PutNode(node, NodeRow("", disks[0] if disks else 0, "", leaving=True)))
        elif not table[node].leaving:
            await self._change(DropNode(node))

    async def _current_table(self) -> dict[int, NodeRow]:
        await self._replica.catch_up_slot(0)
        return self._table()

    async def _change(self, command: Command) -> None:
        await self._replica.change_slot(0, command)
        self._round = None
        self._controller.membership.wake()

    # -- leaders

    def transfer(self, slot: int, node: int) -> str:
        """Let a voter lead a slot, or EVERY_SLOT; the present leaders are asked, wherever they are, and do it if the
        voter has caught up. Returns ASKED, or "" if it leads already. Raises RequestRefused, Unavailable."""
        groups = self._groups
        self._round = None
        if slot != EVERY_SLOT and not 0 <= slot < groups.group_count:
            raise RequestRefused(f"there is no slot {slot}; they are 0 to {groups.group_count - 1}, or -1 for all")
        slots = range(groups.group_count) if slot == EVERY_SLOT else [slot]
        if not any(member.node == node for each in slots for member in groups.members(each)):
            raise RequestRefused(f"node {node} is not a member")
        if not any(member.node == node and member.voter for each in slots for member in groups.members(each)):
            raise RequestRefused(f"node {node} is no voter yet")
        faults = [fault for each in slots if (fault := self._ask_leader(each, node)) is not None]
        if faults and all(faults):
            raise Unavailable(faults[0])
        return ASKED if faults else ""

    def _ask_leader(self, slot: int, node: int) -> str | None:
        """None: it leads already. "": asked. Else why not."""
        leader = self._groups.leader(slot)
        if leader == node:
            return None
        if leader is None:
            return f"slot {slot} has no leader now"
        if leader == self._controller.node_id:
            if self._controller.balance.wish(slot, node):
                return ""
            return f"slot {slot}: node {node} cannot be reached, or has not caught up"
        if self._controller.control.send(leader, "transfer", slot=slot, to=node):
            return ""
        return f"slot {slot}: its leader, node {leader}, cannot be reached from here"

    # -- settings

    async def adopt_settings(self) -> None:
        """Make the settings of this node's file those of the cluster. Raises Unavailable."""
        await self._replica.change_slot(0, PutSettings(encode(self._wanted)))
        self._round = None


def _lags(slots: list[SlotShape], reports: dict[int, Report]) -> Counter[int]:
    """node -> entries it lacks, over the slots whose leader reported."""
    lags: Counter[int] = Counter()
    for slot in slots:
        leader = reports.get(slot.leader)
        if leader is not None:
            last = leader.slots[slot.id].last
            lags.update({node: max(0, last - match) for node, match in leader.slots[slot.id].match})
    return lags


def _leaves(table: dict[int, NodeRow], node: int) -> bool:
    return node in table and table[node].leaving


def _state(row: NodeRow | None, found: list[Member], slot_count: int) -> str:
    if row is not None and row.leaving:
        return "leaving"
    if row is None and not found:
        return "unknown"
    right = [member for member in found if row is None or member.disk == row.disk]
    if len(right) < slot_count:
        return "joining"
    return "voter" if all(member.voter for member in right) else "learner"


def _read_report(value: dict[str, Any], slot_count: int) -> Report | None:
    """None for one of another version that cannot be read, or of another number of slots."""
    try:
        report = msgspec.convert(value, Report, strict=False)
    except (msgspec.ValidationError, ValueError):
        return None
    return report if len(report.slots) == slot_count else None


def _check_node(node: int) -> None:
    if not 0 < node <= MAX_NODE_ID:
        raise RequestRefused(f"node {node}: node ids are 1 to {MAX_NODE_ID}")


def _check_addr(addr: str) -> None:
    host, _, port = addr.rpartition(":")
    if (
        not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65_535)
        or len(addr) > MAX_ADDRESS_CHARS
    ):
        raise RequestRefused(f"addr {addr[:100]!r}: host:port of the node's cluster listener is needed")
