"""How far the cluster is with what it was asked for, as its status shows it. Pure.

The cluster finishes a change by itself; a goal only reads. So it does not matter who asked, when, and how often.
"""

from collections.abc import Callable
from typing import NamedTuple

from wukong.cli.cluster.status import ClusterStatus, SlotStatus

EVERY_SLOT = -1


class Standing(NamedTuple):
    """done of total steps; text: one line for people."""

    done: int
    total: int
    text: str

    @property
    def is_reached(self) -> bool:
        return self.done >= self.total


Goal = Callable[[ClusterStatus], Standing]


def joined(node: int) -> Goal:
    """The node votes in every slot."""

    def look(status: ClusterStatus) -> Standing:
        roles = [_role(slot, node) for slot in status.slots]
        votes, learns = roles.count("voter"), roles.count("learner")
        text = f"node {node} votes in {votes} of {len(roles)} slots"
        if learns:
            text += f", learns in {learns}"
        row = next((each for each in status.nodes if each.id == node), None)
        if votes < len(roles) and (row is None or not row.connected):
            text += "; it is not there yet: start it with cluster.seed naming a member"
        elif row is not None and row.lag_entries:
            text += f", {row.lag_entries:,} entries behind"
        return Standing(votes, _total(status), text)

    return look


def left(node: int) -> Goal:
    """No slot has the node as a member."""

    def look(status: ClusterStatus) -> Standing:
        without = sum(not _role(slot, node) for slot in status.slots)
        return Standing(without, _total(status), f"node {node} is out of {without} of {len(status.slots)} slots")

    return look


def replaced(old: int, new: int) -> Goal:
    """The new one votes everywhere, and the old one is out."""
    coming, going = joined(new), left(old)

    def look(status: ClusterStatus) -> Standing:
        came, gone = coming(status), going(status)
        text = gone.text if came.is_reached else came.text
        return Standing(came.done + gone.done, came.total + gone.total, text)

    return look


def leads(node: int, slot: int) -> Goal:
    """The node leads the slot, or has led every one: the cluster's balance may give some back meanwhile."""
    seen: set[int] = set()

    def look(status: ClusterStatus) -> Standing:
        slots = [each for each in status.slots if slot in (EVERY_SLOT, each.id)]
        seen.update(each.id for each in slots if each.leader == node)
        now = sum(each.leader == node for each in slots)
        text = (
            f"node {node} leads {now} of {len(slots)} slots"
            if slot == EVERY_SLOT
            else f"slot {slot}: "
            + (f"node {node} leads" if now else f"node {slots[0].leader} leads still" if slots else "not known")
        )
        return Standing(len(seen), max(1, len(slots)), text)

    return look


def _role(slot: SlotStatus, node: int) -> str:
    for member in slot.members:
        if member.node == node:
            return "voter" if member.voter else "learner"
    return ""


def _total(status: ClusterStatus) -> int:
    # A status without slots shows nothing, and so is no goal reached.
    return max(1, len(status.slots))
