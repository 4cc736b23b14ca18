"""Statuses of made-up clusters."""

from collections.abc import Iterable

import msgspec

from wukong.cli.cluster.status import ClusterStatus, MemberStatus, NodeStatus, SlotStatus


def node(number: int, **facts: object) -> NodeStatus:
    given = {"state": "voter", "connected": True, "addr": f"host{number}:11110", "version": "1", **facts}
    return NodeStatus(number, **given)  # type: ignore[arg-type]


def slot(number: int, leader: int, voters: Iterable[int], learners: Iterable[int] = ()) -> SlotStatus:
    members = [MemberStatus(each, True, 10) for each in voters] + [MemberStatus(each, False, 4) for each in learners]
    return SlotStatus(number, leader, 1, members, 10, 10)


def cluster(*nodes: NodeStatus, slots: list[SlotStatus], **facts: object) -> ClusterStatus:
    counted = [msgspec.structs.replace(each, leads=sum(one.leader == each.id for one in slots)) for each in nodes]
    return ClusterStatus("c1", 1001, counted, slots, **facts)  # type: ignore[arg-type]


def three(slot_count: int = 4) -> ClusterStatus:
    """Three nodes, and all is well."""
    members = (1001, 1002, 1003)
    slots = [slot(number, members[number % 3], members) for number in range(slot_count)]
    return cluster(*map(node, members), slots=slots)
