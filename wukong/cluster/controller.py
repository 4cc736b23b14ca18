"""The control of one node's part in the cluster: one task that looks at everything a few times per second.

Members follow the table, leaders are spread, the dead are fenced, sick nodes let go of their clients. Each part is a
step of its own without memory that matters: what is lost with a process, the next one finds in table, log and links.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable

import msgspec

from wukong import __version__
from wukong.channel.nodes import NodeRow
from wukong.clock import Clock
from wukong.cluster.balance import HAND_OVER_S, Balance, BalanceOptions
from wukong.cluster.clocks import Clocks
from wukong.cluster.control import Body, Control, number
from wukong.cluster.health import OK, Health, HealthOptions, SlotSample
from wukong.cluster.interfaces import Facts, Groups, Replica, Send
from wukong.cluster.leads import Leads
from wukong.cluster.membership import Membership, MembershipOptions, OwnRow
from wukong.cluster.peers import Peers
from wukong.cluster.proposer import Proposer
from wukong.cluster.watch import Watch, WatchOptions

log = logging.getLogger(__name__)

TICK_S = 0.2
FAULT_PAUSE_S = 10.0
"""A part that goes on failing is told so often."""
PROGRESS_S = 1.0
_WELL_HOLDS_S = 5.0


class ControllerOptions(msgspec.Struct, frozen=True, kw_only=True):
    membership: MembershipOptions = MembershipOptions()
    balance: BalanceOptions = BalanceOptions()
    watch: WatchOptions = WatchOptions()
    health: HealthOptions = HealthOptions()


def _nothing() -> list[str]:
    return []


class Controller:
    """Wire the links' events to `connected`, `disconnected`, `told`, `heard` (every message) and `received` (CONTROL).

    own: this node's row of the table. clocks: hears the wall clocks of the others; clock has this machine's, as it is.
    close_some, clients: see Health. differing: keys in which this node's file differs from the cluster's settings.
    snapshots: a line for each snapshot under way. members_changed: told the table of nodes when it is another one than
    before, for Links.set_peers."""

    def __init__(
        self,
        *,
        node_id: int,
        cluster: int,
        own: OwnRow,
        groups: Groups,
        replica: Replica,
        send: Send,
        clock: Clock,
        rng: random.Random,
        clocks: Clocks | None = None,
        options: ControllerOptions | None = None,
        close_some: Callable[[int], object] = lambda count: None,
        clients: Callable[[], int] = lambda: 0,
        differing: Callable[[], list[str]] = _nothing,
        snapshots: Callable[[], list[str]] = _nothing,
        members_changed: Callable[[dict[int, NodeRow]], None] = lambda table: None,
    ) -> None:
        options = options or ControllerOptions()
        self.node_id = node_id
        self.cluster = cluster
        self._own = own
        self._groups = groups
        self._replica = replica
        self._clock = clock
        self._began = clock.monotonic()
        self._clocks = clocks
        self._clock_told = False
        self._differing = differing
        self._snapshots = snapshots
        self._members_changed = members_changed
        self._table: dict[int, NodeRow] = {}
        self._task: asyncio.Task[None] | None = None
        self._told_at = -math.inf
        self._failed_at: dict[str, float] = {}
        self._is_leaving = False
        self.lag_entries = 0
        """What this node lacks of the logs, as far as it knows; looked at a few times per second."""
        self._commits: dict[int, int] = {}  # slot -> commit index that another node told
        self._well: dict[int, tuple[float, float]] = {}  # node -> since when it says that it is well, and when last
        self.peers = Peers(node_id, clock)
        self.leads = Leads(groups, clock)
        proposer = Proposer(replica, clock)
        self.membership = Membership(
            cluster=cluster,
            own=own,
            groups=groups,
            replica=replica,
            peers=self.peers,
            leads=self.leads,
            proposer=proposer,
            clock=clock,
            options=options.membership,
        )
        self.control = Control(
            send=send,
            report=self.report,
            ops={"progress": self._progress, "transfer": self._transfer, "pin": self._pin},
            first_id=rng.getrandbits(32),
        )
        self.balance = Balance(
            groups=groups,
            replica=replica,
            peers=self.peers,
            leads=self.leads,
            clock=clock,
            options=options.balance,
            told=lambda slot, node: self.control.send(node, "pin", slot=slot),
            fit_s=self._well_s,
        )
        self.watch = Watch(
            groups=groups,
            replica=replica,
            peers=self.peers,
            leads=self.leads,
            proposer=proposer,
            clock=clock,
            options=options.watch,
        )
        self.health = Health(clock, options.health, rng=rng, close_some=close_some, clients=clients)

    # -- life

    def start(self) -> None:
        """When the log runs; the node need not be live yet. Looks at once, then every TICK_S."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="cluster-control")

    async def stop(self) -> None:
        """Before the log stops. Leaderships stay where they are: see `hand_over_all`."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.membership.stop()
        await self.balance.stop()

    async def hand_over_all(self, timeout_s: float = HAND_OVER_S) -> int:
        """For a planned stop: see Balance.hand_over_all. The others hear first that this node takes nothing more."""
        self._is_leaving = True
        self._told_at = -math.inf
        self._tell_progress()
        return await self.balance.hand_over_all(timeout_s)

    async def _run(self) -> None:
        while True:
            self.step()
            await asyncio.sleep(TICK_S)

    def step(self) -> None:
        """One look at everything. A part that fails is told in the log and does not hold up the others."""
        for part in (
            self.leads.look,
            self._look_at_table,
            self.membership.step,
            self.balance.step,
            self.watch.step,
            self._look_at_health,
            self._tell_progress,
        ):
            try:
                part()
            except Exception:
                now, name = self._clock.monotonic(), part.__qualname__
                if now - self._failed_at.get(name, -math.inf) >= FAULT_PAUSE_S:
                    self._failed_at[name] = now
                    log.exception("the control of the cluster failed in %s", name)

    def _look_at_table(self) -> None:
        table = self.membership.table()
        if table != self._table:
            if self._clocks is not None:
                for node in self._table.keys() - table.keys():
                    self._clocks.forget(node)
            self._table = table
            self._members_changed(table)

    # -- links

    def connected(self, node: int) -> None:
        self.peers.connected(node)

    def disconnected(self, node: int) -> None:
        self.peers.disconnected(node)

    def told(self, node: int, facts: Facts) -> None:
        """Its facts, of an authenticated node."""
        self.peers.told(node, facts)
        self.membership.wake()

    def heard(self, node: int) -> None:
        self.peers.heard(node)

    def received(self, node: int, body: object) -> None:
        """A CONTROL message."""
        self.control.received(node, body)

    # -- health

    def _look_at_health(self) -> None:
        if not self._replica.is_live:
            return  # it has no clients yet, or none any more
        groups = self._groups
        samples = []
        for slot in range(groups.group_count):
            commit = max(groups.commit_index(slot), self._commits.get(slot, 0))
            leader = groups.leader(slot)
            # A leader that is heard and cannot be spoken to gets none of this node's commands.
            has_leader = leader is not None and self.peers.is_reachable(leader)
            samples.append(SlotSample(has_leader, groups.heard_s(slot), commit, groups.applied_index(slot)))
        before = self.health.verdict.state
        self.lag_entries = sum(max(0, sample.commit - sample.applied) for sample in samples)
        verdict = self.health.feed(
            samples, other_is_well=any(map(self._says_well, self._well)), disk_busy_s=groups.disk_busy_s()
        )
        if verdict.state != before:
            level = logging.INFO if verdict.state == OK else logging.WARNING
            log.log(level, "%s: %s", verdict.state, verdict.reason or "this node serves clients")

    def _well_s(self, node: int) -> float:
        """How long a node has said without a break that it is well."""
        if node == self.node_id:
            return math.inf if self.health.serving else 0.0
        if not self._says_well(node) or not self.peers.is_reachable(node):
            return 0.0
        return self._clock.monotonic() - self._well[node][0]

    def _says_well(self, node: int) -> bool:
        """It said so lately; whether this node can speak to it does not matter to clients."""
        _, last = self._well.get(node, (0.0, -math.inf))
        return self._clock.monotonic() - last <= _WELL_HOLDS_S

    def _tell_progress(self) -> None:
        """How far the log is, so that a node which gets nothing of it knows what it lacks."""
        now = self._clock.monotonic()
        if now - self._told_at < PROGRESS_S:
            return
        self._told_at = now
        commits = [[slot, self._groups.commit_index(slot)] for slot in self.leads.led()]
        well = self.health.is_well and self._replica.is_live and not self._is_leaving
        # To silent ones too: where no log is shared, this is all by which two nodes hear each other.
        for node in self.peers.connected_nodes():
            self.control.send(node, "progress", commits=commits, well=well, clock_ms=self._clock.now_ms())
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        ahead_ms = self._clocks.ahead_ms if self._clocks is not None else 0
        if bool(ahead_ms) != self._clock_told:
            self._clock_told = bool(ahead_ms)
            if ahead_ms:
                log.error(
                    "the clock of this machine is %d s ahead of the other nodes'; it goes by theirs. Set it right",
                    ahead_ms // 1000,
                )

    def _progress(self, node: int, body: Body) -> None:
        now = self._clock.monotonic()
        since, last = self._well.get(node, (now, now))
        if body["well"] is not True:
            self._well.pop(node, None)
        else:
            self._well[node] = since if now - last <= _WELL_HOLDS_S else now, now
        if self._clocks is not None and type(body.get("clock_ms")) is int:
            self._clocks.heard(node, number(body, "clock_ms"))
        for slot, commit in body["commits"]:
            if type(slot) is int and type(commit) is int and 0 <= slot < self._groups.group_count:
                self._commits[slot] = max(commit, self._commits.get(slot, 0))

    # -- for operators

    def _transfer(self, node: int, body: Body) -> None:
        self.balance.wish(number(body, "slot"), number(body, "to"))

    def _pin(self, node: int, body: Body) -> None:
        slot = number(body, "slot")
        if 0 <= slot < self._groups.group_count:
            self.balance.pin(slot)

    def job(self) -> str:
        """What is still to do until members and table agree, one line, empty for nothing."""
        return self.membership.job()

    async def reports(self, timeout_s: float) -> dict[int, Body]:
        """node -> its report, as far as they come in time; this node's own is among them."""
        return {**await self.control.ask(self._others(), timeout_s), self.node_id: self.report()}

    def _others(self) -> Iterable[int]:
        return sorted(self.peers.reachable() - {self.node_id})

    def report(self) -> Body:
        """What this node says of itself, for `/cluster/status`; plain values. slots: [commit, applied, last] and, for
        slots led here, {node: match}."""
        groups = self._groups
        slots = []
        for slot in range(groups.group_count):
            match: list[list[int]] = []
            if groups.is_leader(slot):
                last = groups.last_index(slot)
                for member in groups.members(slot):
                    own = member.node == self.node_id
                    match.append([member.node, last if own else groups.match_index(slot, member.node)])
            slots.append(
                [
                    groups.term(slot),
                    groups.commit_index(slot),
                    groups.applied_index(slot),
                    groups.last_index(slot),
                    int(groups.is_leader(slot)),
                    match,
                ]
            )
        return {
            "version": __version__,
            "disk": self._own.disk,
            "slots": slots,
            "differ": self._differing(),
            "snapshots": self._snapshots(),
            "health": list(self.health.verdict),
            "uptime_s": int(self._clock.monotonic() - self._began),
        }
