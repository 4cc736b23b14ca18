"""What `GET /cluster/status` tells, and what of it an operator should worry about. Pure."""

from collections.abc import Sequence

import msgspec

MAX_NAMED = 8
"""So many slots are named in one line; of more only the count."""

LAG_NOTICE_ENTRIES = 1_000


class NodeStatus(msgspec.Struct, frozen=True):
    """state: voter, learner, joining, leaving or unknown. leads: slots. lag_entries: what it lacks of the logs.
    health: why it serves no clients; empty while it does, or if it did not answer."""

    id: int
    addr: str = ""
    api_url: str = ""
    disk: int | str = ""
    state: str = "unknown"
    connected: bool = False
    leads: int = 0
    lag_entries: int = 0
    sessions: int | None = None
    version: str = ""
    health: str = ""


class MemberStatus(msgspec.Struct, frozen=True):
    """match: up to where its leader knows it to hold the log; None if that is not known."""

    node: int
    voter: bool = False
    match: int | None = None


class SlotStatus(msgspec.Struct, frozen=True):
    """leader: 0 for none known."""

    id: int
    leader: int = 0
    term: int = 0
    members: list[MemberStatus] = []
    commit: int = 0
    applied: int = 0


class ClusterStatus(msgspec.Struct, frozen=True):
    """node: who answered, 0 if it did not say. settings_differ: `key`, or `node:key` of another node. job: what the
    cluster is doing by itself, empty for nothing."""

    cluster: int | str = ""
    node: int = 0
    nodes: list[NodeStatus] = []
    slots: list[SlotStatus] = []
    settings_differ: list[str] = []
    snapshots: list[str] = []
    job: str = ""

    def voters(self) -> set[int]:
        """Nodes that vote in every slot."""
        found = [{each.node for each in slot.members if each.voter} for slot in self.slots]
        return set.intersection(*found) if found else set()


def headline(status: ClusterStatus) -> str:
    voters = status.voters()
    spare = losses_survived(len(voters))
    survives = {0: "survives the loss of none", 1: "survives the loss of one"}.get(
        spare, f"survives the loss of {spare}"
    )
    answered = f", as node {status.node} sees it" if status.node else ""
    return (
        f"Cluster {status.cluster}{answered}: {_count(len(status.nodes), 'node')}, {len(voters)} vote in all of "
        f"{_count(len(status.slots), 'slot')}; {survives}."
    )


def losses_survived(voters_count: int) -> int:
    """How many voters may fail at once while the others still are a majority."""
    return max(0, (voters_count - 1) // 2)


def troubles(status: ClusterStatus) -> list[str]:
    """What is not as it should be, for people, worst first. Empty: all is well. A job under way is no trouble."""
    found = []
    leaderless = [slot.id for slot in status.slots if not slot.leader]
    if leaderless:
        found.append(f"no leader: {_slots(leaderless)}; what belongs there is answered with 503")
    reachable = {node.id for node in status.nodes if node.connected}
    members = {member.node for slot in status.slots for member in slot.members if member.voter}
    away = [node for node in status.nodes if node.id in members and not node.connected]
    found += [f"node {node.id}{_at(node.addr)} does not answer" for node in away]
    thin = [slot.id for slot in status.slots if slot.leader and not _survives_one(slot, reachable)]
    if thin and len(members) > 2:
        found.append(f"one more loss is too many: {_slots(thin)}")
    # A node that leaves has done with serving.
    found += [
        f"node {node.id} serves no clients: {node.health}"
        for node in status.nodes
        if node.health and (node.id in members or node.state in ("joining", "learner"))
    ]
    found += [
        f"node {node.id} is {node.lag_entries:,} entries behind"
        for node in status.nodes
        if node.connected and node.lag_entries >= LAG_NOTICE_ENTRIES
    ]
    if status.settings_differ:
        found.append(
            "configuration differs from the cluster's settings, which count: " + ", ".join(_settings_texts(status))
        )
    versions = sorted({node.version for node in status.nodes if node.version})
    if len(versions) > 1:
        found.append(f"different versions run: {', '.join(versions)}")
    return found


def _survives_one(slot: SlotStatus, reachable: set[int]) -> bool:
    voters = [member.node for member in slot.members if member.voter]
    there = sum(node in reachable for node in voters)
    return 2 * (there - 1) > len(voters)


def _settings_texts(status: ClusterStatus) -> list[str]:
    texts = []
    for entry in status.settings_differ:
        node, colon, key = entry.partition(":")
        if not colon:
            node, key = str(status.node or "the answering node"), entry
        texts.append(f"{key} (node {node})" if node.isdigit() else f"{key} ({node})")
    return texts


def _slots(numbers: Sequence[int]) -> str:
    if len(numbers) > MAX_NAMED:
        return f"{len(numbers):,} slots"
    return f"slot{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _at(addr: str) -> str:
    return f" ({addr})" if addr else ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + "s" * (number != 1)
