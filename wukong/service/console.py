"""The cluster in the shapes of WuKongIM's console: nodes and slots. http-api.md 13.1 and 13.2.

What it calls the configuration log is slot 0 here, where the table of nodes is; its leader counts as the cluster's.
"""

from typing import Any

import msgspec

from wukong.errors import RequestRefused
from wukong.service.cluster import ClusterAdmin, Report, StatusShape
from wukong.service.overview import format_age

NODE_NOT_FOUND = "node not found"
SLOT_NOT_FOUND = "slot not found"

_JOINING, _JOINED = 2, 3
_STATUS_FORMATS = {_JOINING: "加入中", _JOINED: "已加入"}
_NORMAL, _CANDIDATE = 0, 1
_FOLLOWER, _LEADER, _LEARNER = 1, 3, 4
_ROLE_FORMATS = {_FOLLOWER: "跟随者", _LEADER: "领导者", _LEARNER: "学习者"}


class ConsoleNode(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Zero values are left out where WuKongIM leaves them out: a node that is offline has no `online`."""

    id: int
    is_leader: int = 0
    role: int
    cluster_addr: str
    api_server_addr: str = ""
    online: int = 0
    allow_vote: int
    slot_count: int = 0
    term: int = 0
    slot_leader_count: int = 0
    uptime: str = ""
    app_version: str = ""
    config_version: int = 0
    status: int = 0
    status_format: str = ""


class ConsoleSlot(msgspec.Struct, frozen=True):
    id: int
    leader_id: int
    term: int
    replicas: list[int]
    channel_count: int
    log_index: int
    status: int
    status_format: str


class SlotConfig(msgspec.Struct, frozen=True):
    id: int
    leader_id: int
    term: int
    replicas: list[int]
    log_max_index: int
    leader_log_max_index: int
    applied_index: int


class LocalReplica(msgspec.Struct, frozen=True, kw_only=True):
    """last_log_time: nanoseconds; 0, as the log does not say when an entry came."""

    replica_id: int
    leader_id: int
    running: int = 1
    last_log_seq: int
    last_log_time: int = 0
    term: int
    applied_index: int
    committed_index: int
    conf_version: int = 0


class SlotReplica(LocalReplica, frozen=True, kw_only=True):
    role: int
    role_format: str
    last_log_time_format: str = ""


class LogPage(msgspec.Struct, frozen=True):
    """next and pre: for paging. logs: none, since this server's entries are not WuKongIM's commands."""

    next: int
    pre: int
    applied: int
    last: int
    more: int
    logs: list[str]


class Console:
    def __init__(self, admin: ClusterAdmin) -> None:
        self._admin = admin

    @property
    def node_id(self) -> int:
        return self._admin.node_id

    # -- nodes

    async def nodes(self) -> list[ConsoleNode]:
        """All nodes, by their ids; of those that cannot be reached, what the others know."""
        status, reports = await self._admin.status(), await self._admin.reports()
        first = status.slots[0]
        return [
            ConsoleNode(
                id=node.id,
                is_leader=int(first.leader == node.id),
                role=0,
                cluster_addr=node.addr,
                api_server_addr=node.api_url,
                online=int(node.connected),
                allow_vote=int(node.state not in ("learner", "joining", "unknown")),
                slot_count=sum(any(member.node == node.id for member in slot.members) for slot in status.slots),
                term=first.term,
                slot_leader_count=node.leads,
                uptime=format_age(report.uptime_s * 1000) if report is not None else "",
                app_version=node.version,
                config_version=report.slots[0].applied if report is not None else 0,
                status=_status(node.state),
                status_format=_STATUS_FORMATS[_status(node.state)],
            )
            for node in status.nodes
            for report in (reports.get(node.id),)
        ]

    async def node(self) -> ConsoleNode:
        return next(node for node in await self.nodes() if node.id == self.node_id)

    async def simple_nodes(self) -> list[ConsoleNode]:
        """Of each node, what is in the table."""
        return [
            ConsoleNode(
                id=node.id,
                role=node.role,
                cluster_addr=node.cluster_addr,
                api_server_addr=node.api_server_addr,
                online=node.online,
                allow_vote=node.allow_vote,
                status=node.status,
                status_format=node.status_format,
            )
            for node in await self.nodes()
        ]

    async def online(self, node: int) -> bool:
        """Raises RequestRefused for an unknown one."""
        found = next((each for each in (await self._admin.status()).nodes if each.id == node), None)
        if found is None:
            raise RequestRefused(NODE_NOT_FOUND)
        return found.connected

    async def info(self) -> dict[str, Any]:
        """The cluster's configuration; JSON with WuKongIM's keys, zero values left out."""
        status = await self._admin.status()
        voters = max(len(slot.members) for slot in status.slots)
        nodes = [
            {
                "id": node.id,
                "clusterAddr": node.addr,
                "apiServerAddr": node.api_url,
                "online": node.connected,
                "allowVote": node.state not in ("learner", "joining", "unknown"),
                "status": _status(node.state),
            }
            for node in status.nodes
        ]
        slots = [
            {
                "id": slot.id,
                "leader": slot.leader,
                "term": slot.term,
                "replicas": [member.node for member in slot.members if member.voter],
                "learners": [member.node for member in slot.members if not member.voter],
            }
            for slot in status.slots
        ]
        return _without_zeros(
            {
                "version": status.slots[0].applied,
                "slotCount": len(slots),
                "slotReplicaCount": voters,
                "channelReplicaCount": voters,
                "term": status.slots[0].term,
                "nodes": [_without_zeros(node) for node in nodes],
                "slots": [_without_zeros(slot) for slot in slots],
            }
        )

    async def logs(self, node: int, slot: int) -> LogPage:
        """How far a node's log of a slot is. Raises RequestRefused."""
        await self.online(node)
        report = (await self._admin.reports()).get(node)
        if report is None:
            raise RequestRefused("node offline")
        at = report.slots[self._check(slot)]
        return LogPage(0, 0, at.applied, at.last, 0, [])

    # -- slots

    async def slots(self, wanted: list[int] | None = None) -> list[ConsoleSlot]:
        """wanted: only these, unknown ones left out; None: all."""
        status, reports = await self._admin.status(), await self._admin.reports()
        return [
            ConsoleSlot(
                slot.id,
                slot.leader,
                slot.term,
                [member.node for member in slot.members],
                0,
                _last(reports, slot.leader, slot.id) or self._admin.last_index(slot.id),
                _NORMAL if slot.leader else _CANDIDATE,
                "正常" if slot.leader else "候选",
            )
            for slot in status.slots
            if wanted is None or slot.id in wanted
        ]

    async def slot_config(self, slot: int) -> SlotConfig:
        """Raises RequestRefused."""
        found = (await self._admin.status()).slots[self._check(slot)]
        last = self._admin.last_index(slot)
        return SlotConfig(
            slot,
            found.leader,
            found.term,
            [member.node for member in found.members],
            last,
            _last(await self._admin.reports(), found.leader, slot) or last,
            self._admin.applied_index(slot),
        )

    async def local_replica(self, slot: int) -> LocalReplica:
        found = await self.replicas(slot)
        own = next((each for each in found if each.replica_id == self.node_id), None)
        if own is None:
            raise RequestRefused("this node is no member of the slot")
        fields = {name: getattr(own, name) for name in LocalReplica.__struct_fields__}
        return LocalReplica(**fields)

    async def replicas(self, slot: int) -> list[SlotReplica]:
        """Of the members that can be reached. Raises RequestRefused."""
        found = (await self._admin.status()).slots[self._check(slot)]
        reports = await self._admin.reports()
        replicas = []
        for member in found.members:
            report = reports.get(member.node)
            if report is not None:
                role = _LEADER if member.node == found.leader else _FOLLOWER if member.voter else _LEARNER
                replicas.append(
                    SlotReplica(
                        replica_id=member.node,
                        leader_id=found.leader,
                        last_log_seq=report.slots[slot].last,
                        term=report.slots[slot].term,
                        applied_index=report.slots[slot].applied,
                        committed_index=report.slots[slot].commit,
                        role=role,
                        role_format=_ROLE_FORMATS[role],
                    )
                )
        return replicas

    def _check(self, slot: int) -> int:
        if not 0 <= slot < self._admin.slot_count:
            raise RequestRefused(SLOT_NOT_FOUND)
        return slot

    async def status(self) -> StatusShape:
        return await self._admin.status()


def _status(state: str) -> int:
    return _JOINING if state in ("joining", "unknown") else _JOINED


def _last(reports: dict[int, Report], node: int, slot: int) -> int:
    report = reports.get(node)
    return report.slots[slot].last if report is not None else 0


def _without_zeros(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item}
