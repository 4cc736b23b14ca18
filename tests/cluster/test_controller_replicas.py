"""Controllers over real logs and replicas, in one process on one loop; links are function calls, stores are in memory.

Quick elections and short waits make a change of members a matter of a second or two; nothing is asserted about time.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cluster.control_fakes import FakeFacts
from wukong.channel import nodes
from wukong.channel.commands import DropNode, NodeRow, PutNode
from wukong.clock import SystemClock
from wukong.cluster.balance import BalanceOptions
from wukong.cluster.controller import Controller, ControllerOptions
from wukong.cluster.membership import MembershipOptions, OwnRow
from wukong.cluster.watch import WatchOptions
from wukong.links.kinds import CONTROL
from wukong.node.node import Node
from wukong.raft.config import RaftConfig
from wukong.raft.filter import Message
from wukong.raft.log import Member
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.store.memory import MemoryStore

SLOTS = 4
CLUSTER = 77
FAST = RaftConfig(heartbeat_ms=50, election_min_ms=250, election_max_ms=500, quorum_timeout_ms=600, tick_ms=20)
OPTIONS = ControllerOptions(
    membership=MembershipOptions(busy_s=0.05, idle_s=0.2, disk_fight_s=1.0),
    balance=BalanceOptions(steady_s=1.0, settled_s=0.5, pause_s=0.1),
    watch=WatchOptions(node_gone_after_ms=1_500),
)


class Replica:
    """One life of one node."""

    def __init__(self, cluster: "Cluster", node_id: int, disk: int, path: Path) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.disk = disk
        clock = SystemClock()
        self.breaks: list[str] = []
        self.fatal: list[BaseException] = []
        self.node = Node(
            node_id=node_id,
            slot_count=SLOTS,
            store=MemoryStore(),
            clock=clock,
            effects_sink=lambda effects: None,
            forward=self.forward,
            on_break=self.breaks.append,
        )
        self.runtime = Runtime(
            node_id=node_id,
            disk=disk,
            members=tuple(Member(node, 10 * node, True) for node in (1, 2, 3)),
            wal=Wal.open(path, node_id=node_id, group_count=SLOTS, fsync=False),
            machine=self.node,
            clock=clock,
            on_fatal=self.fatal.append,
            config=FAST,
            send=self.send_raft,
            rng=random.Random(1_000 * node_id + disk),
        )
        self.node.attach(self.runtime)
        self.controller = Controller(
            node_id=node_id,
            cluster=CLUSTER,
            own=OwnRow(f"10.0.0.{node_id}:1", disk, ""),
            groups=self.runtime,
            replica=self.node,
            send=self.send_control,
            clock=clock,
            rng=random.Random(node_id),
            options=OPTIONS,
        )
        self.live: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.runtime.start()
        self.controller.start()
        self.live = asyncio.create_task(self._go_live())

    async def _go_live(self) -> None:
        await self.runtime.ready()
        await self.node.go_live(None)

    async def stop(self) -> None:
        if self.live is not None:
            self.live.cancel()
            await asyncio.gather(self.live, return_exceptions=True)
        await self.controller.stop()
        self.node.shut()
        assert await self.runtime.stop(5.0)

    # -- links

    def _reach(self, node: int, act: Callable[["Replica"], None]) -> bool:
        other = self.cluster.linked(self.node_id, node)
        if other is None:
            return False

        def arrive() -> None:
            if self.cluster.linked(self.node_id, node) is other:
                other.controller.heard(self.node_id)
                act(other)

        asyncio.get_running_loop().call_soon(arrive)
        return True

    def send_raft(self, group: int, node: int, message: Message) -> None:
        self._reach(node, lambda other: other.runtime.receive(group, self.node_id, message))

    def forward(self, leader: int, slot: int, pack: bytes) -> bool:
        return self._reach(leader, lambda other: other.node.receive_forward(slot, self.node_id, pack))

    def send_control(self, node: int, kind: int, group: int, body: object) -> bool:
        assert kind == CONTROL
        return self._reach(node, lambda other: other.controller.received(self.node_id, body))

    def link_up(self, other: "Replica") -> None:
        facts = FakeFacts(other.disk, CLUSTER, f"10.0.0.{other.node_id}:1", "", join=other.disk not in (10, 20, 30))
        self.controller.connected(other.node_id)
        self.controller.told(other.node_id, facts)
        self.runtime.connected(other.node_id)
        self.node.link_came_up(other.node_id)

    def link_down(self, node: int) -> None:
        self.controller.disconnected(node)
        self.runtime.disconnected(node)

    # -- looking

    @property
    def table(self) -> dict[int, NodeRow]:
        return nodes.table(self.node.states[0])

    def members(self) -> set[tuple[Member, ...]]:
        return {self.runtime.members(group) for group in range(SLOTS)}

    def leaders(self) -> Counter[int | None]:
        return Counter(self.runtime.leader(group) for group in range(SLOTS))


class Cluster:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.up: dict[int, Replica] = {}

    def linked(self, one: int, other: int) -> Replica | None:
        return self.up.get(other) if one in self.up else None

    async def add(self, node_id: int, disk: int | None = None) -> Replica:
        disk = disk if disk is not None else 10 * node_id
        path = self._path / f"{node_id}-{disk}"
        path.mkdir()
        replica = Replica(self, node_id, disk, path)
        await replica.start()
        self.up[node_id] = replica
        for other in list(self.up.values()):
            if other is not replica:
                other.link_up(replica)
                replica.link_up(other)
        return replica

    async def drop(self, node_id: int) -> None:
        """The process is gone, links and all."""
        gone = self.up.pop(node_id)
        for other in self.up.values():
            other.link_down(node_id)
        await gone.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    def agree(self, *members: Member) -> bool:
        """Every node sees exactly these members in every slot, and nothing is left to do."""
        wanted = {tuple(members)}
        return all(each.members() == wanted and each.controller.job() == "" for each in self.up.values())


@asynccontextmanager
async def three(path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(path)
    try:
        for node in (1, 2, 3):
            await cluster.add(node)
        await cluster.until(lambda: all(each.node.is_live for each in cluster.up.values()))
        await cluster.until(lambda: all(sorted(each.table) == [1, 2, 3] for each in cluster.up.values()))
        yield cluster
        assert [each.fatal for each in cluster.up.values() if each.fatal] == []
    finally:
        for node in list(cluster.up):
            await cluster.drop(node)


def voter(node: int, disk: int | None = None) -> Member:
    return Member(node, disk if disk is not None else 10 * node, True)


async def test_leaders_are_spread_over_a_new_cluster(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.until(lambda: sorted(cluster.up[1].leaders().values()) == [1, 1, 2])


async def test_a_node_that_asks_becomes_a_voter_everywhere_and_another_leaves(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        four = await cluster.add(4)
        await cluster.until(lambda: cluster.agree(*map(voter, (1, 2, 3, 4))))
        await cluster.until(lambda: four.node.is_live)
        await four.node.execute(0, DropNode(1))
        await cluster.until(lambda: cluster.up[2].members() == {tuple(map(voter, (2, 3, 4)))})
        # Its facts name a node of the first formation, which does not ask to join: it is forgotten while it runs.
        await cluster.until(lambda: sorted(cluster.up[2].table) == [2, 3, 4])
        await cluster.drop(1)
        await cluster.until(lambda: cluster.agree(*map(voter, (2, 3, 4))))
        await cluster.until(lambda: all(state.streams[1].ended for state in cluster.up[2].node.states))


async def test_a_node_that_lost_its_disk_is_taken_out_and_in_again(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.drop(3)
        await cluster.until(lambda: None not in cluster.up[1].leaders() and 3 not in cluster.up[1].leaders())
        three_again = await cluster.add(3, disk=31)
        await cluster.until(lambda: cluster.agree(voter(1), voter(2), voter(3, 31)))
        await cluster.until(lambda: three_again.node.is_live)
        assert cluster.up[1].table[3] == NodeRow("10.0.0.3:1", 31, "")
        reply = await three_again.node.execute(0, PutNode(3, NodeRow("10.0.0.3:1", 31, "")))
        assert reply.reason == 1


async def test_a_dead_node_s_incarnation_ends_in_every_slot(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.drop(3)
        one = cluster.up[1]
        await cluster.until(lambda: all(state.streams[3].ended for state in one.node.states))
        assert one.breaks == []
        assert cluster.up[2].breaks == []


async def test_a_planned_stop_hands_over_what_it_leads(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.until(lambda: sorted(cluster.up[1].leaders().values()) == [1, 1, 2])
        one = cluster.up[1]
        assert one.leaders()[1] > 0
        assert await one.controller.hand_over_all(5.0) == 0
        await cluster.until(lambda: cluster.up[2].leaders()[2] + cluster.up[2].leaders()[3] == SLOTS)
