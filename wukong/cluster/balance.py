"""Leaders spread evenly over the voters, and handed over before a planned stop. docs/design/membership.md.

A node that returns, or whose link flaps, gets its slots back only after it was reachable for a while without a break;
one slot after the other. Which slots a node should lead follows from slot and voters alone.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping

import msgspec

from wukong.channel import nodes
from wukong.channel.nodes import NodeRow
from wukong.clock import Clock
from wukong.cluster.interfaces import Groups, Replica
from wukong.cluster.leads import Leads
from wukong.cluster.peers import Peers

log = logging.getLogger(__name__)

HAND_OVER_S = 0.4
_LOOK_EVERY_S = 0.01


def preference(slot: int, voters: Collection[int]) -> list[int]:
    """All voters, who should lead first. Even: each voter is first of as many slots as every other (one more or less),
    and so are those who are left when a minority is away."""
    rest = sorted(voters)
    order: list[int] = []
    while rest:
        slot, at = divmod(slot, len(rest))
        # In turns from either end: what is left over by the division falls to others at each rank.
        order.append(rest.pop(-1 - at if len(order) % 2 else at))
    return order


def preferred(slot: int, voters: Collection[int]) -> int:
    """Who should lead a slot. Raises IndexError if there are no voters."""
    return preference(slot, voters)[0]


class BalanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """steady_s: a node leads more only after it was reachable and well for so long without a break. settled_s: a
    leadership that is younger stays where it is. pause_s: between two moves of a node. move_s: how long a move is
    waited for. close_entries: how near it must be before. pinned_s: a
    slot that was moved on purpose stays for so long."""

    steady_s: float = 10.0
    settled_s: float = 5.0
    pause_s: float = 1.0
    move_s: float = 1.0
    close_entries: int = 256
    pinned_s: float = 600.0


class Balance:
    """Owns the tasks of moves under way; `stop` ends them. moved: how many leaderships were given away on purpose.

    told: (slot, node), before a slot is moved at an operator's wish. fit_s: how long a node has been well without a
    break; this node gives its slots away while its own is 0."""

    def __init__(
        self,
        *,
        groups: Groups,
        replica: Replica,
        peers: Peers,
        leads: Leads,
        clock: Clock,
        options: BalanceOptions | None = None,
        told: Callable[[int, int], object] = lambda slot, node: None,
        fit_s: Callable[[int], float] = lambda node: math.inf,
    ) -> None:
        self._groups = groups
        self._replica = replica
        self._peers = peers
        self._leads = leads
        self._clock = clock
        self._options = options or BalanceOptions()
        self._told = told
        self._fit_s = fit_s
        self._due_at = 0.0
        self._handing_over = False
        self._balancing: asyncio.Task[bool] | None = None
        self._moving: dict[int, asyncio.Task[bool]] = {}
        self._pinned: dict[int, float] = {}
        self.moved = 0

    def step(self) -> None:
        """Begin at most one move; after `hand_over_all` as many as there are slots that came all the same."""
        now = self._clock.monotonic()
        table = nodes.table(self._replica.states[0])
        if self._handing_over:
            self._give_all(table, self._options.move_s)
            return
        if now < self._due_at or not (self._balancing is None or self._balancing.done()):
            return
        for slot in self._leads.led():
            target = self._target(slot, table, now)
            if target is not None:
                self._due_at = now + self._options.pause_s
                self._balancing = self._move(slot, target, self._options.move_s)
                return

    def pin(self, slot: int) -> None:
        """Somebody moved this slot here on purpose: let it stay for a while."""
        self._pinned[slot] = self._clock.monotonic() + self._options.pinned_s

    def wish(self, slot: int, node: int) -> bool:
        """Begin to move a slot that is led here to another voter, at an operator's wish. False: it is not led here, or
        the node is no voter, cannot be reached or lacks too much."""
        if not self._leads_now(slot) or not self._is_near(slot, node):
            return False
        if slot not in self._moving:
            self._told(slot, node)
            self._move(slot, node, self._options.move_s)
        return True

    async def hand_over_all(self, timeout_s: float = HAND_OVER_S) -> int:
        """Before a planned stop: let other voters lead all slots that are led here, all at once. Returns how many are
        still led here, because nobody could take them in time. From here on `step` gives away whatever is led here."""
        self._handing_over = True
        moves = self._give_all(nodes.table(self._replica.states[0]), timeout_s)
        if moves:
            await asyncio.wait(moves, timeout=timeout_s)
        return sum(self._groups.is_leader(slot) for slot in range(self._groups.group_count))

    def _give_all(self, table: Mapping[int, NodeRow], timeout_s: float) -> list[asyncio.Task[bool]]:
        moves = []
        for slot in range(self._groups.group_count):
            if not self._groups.is_leader(slot):
                continue
            near = [node for node in preference(slot, self._staying(slot, table)) if self._is_near(slot, node)]
            if near:
                # One that stops as well would have to give it away again.
                near.sort(key=lambda node: self._fit_s(node) <= 0)
                moves.append(self._moving.get(slot) or self._move(slot, near[0], timeout_s))
        return moves

    async def stop(self) -> None:
        moves = list(self._moving.values())
        for move in moves:
            move.cancel()
        await asyncio.gather(*moves, return_exceptions=True)

    # -- whom

    def _target(self, slot: int, table: Mapping[int, NodeRow], now: float) -> int | None:
        """Who should lead a slot instead of this node, if anybody."""
        options = self._options
        if self._leads.age_s(slot) < options.settled_s or self._pinned.get(slot, 0.0) > now or slot in self._moving:
            return None
        for node in preference(slot, self._staying(slot, table)):
            if node == self._peers.node_id:
                if self._fit_s(node) > 0:
                    return None
            elif min(self._peers.steady_s(node), self._fit_s(node)) >= options.steady_s and self._is_near(slot, node):
                return node
        return None

    def _staying(self, slot: int, table: Mapping[int, NodeRow]) -> list[int]:
        voters = [member.node for member in self._groups.members(slot) if member.voter]
        return [node for node in voters if not (node in table and table[node].leaving)]

    def _is_near(self, slot: int, node: int) -> bool:
        """A voter that can be reached and has caught up but for what is under way."""
        groups = self._groups
        if node == self._peers.node_id or not self._peers.is_reachable(node):
            return False
        if not any(member.node == node and member.voter for member in groups.members(slot)):
            return False
        return groups.last_index(slot) - groups.match_index(slot, node) <= self._options.close_entries

    def _leads_now(self, slot: int) -> bool:
        return 0 <= slot < self._groups.group_count and self._groups.is_leader(slot)

    # -- moving

    def _move(self, slot: int, node: int, timeout_s: float) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(self._give(slot, node, timeout_s), name=f"cluster-move-{slot}")
        self._moving[slot] = task
        task.add_done_callback(lambda _: self._moving.pop(slot, None))
        return task

    async def _give(self, slot: int, node: int, timeout_s: float) -> bool:
        """Owned by this object, ends within timeout_s. While a transfer is under way the log takes no proposals, so
        that its next leader can catch up."""
        groups, clock = self._groups, self._clock
        end = clock.monotonic() + timeout_s
        asked = False
        while groups.is_leader(slot) and clock.monotonic() < end:
            asked = asked or groups.transfer(slot, node)
            await asyncio.sleep(_LOOK_EVERY_S)
        if groups.is_leader(slot):
            log.info("slot %d: node %d did not take over within %.1f s", slot, node, timeout_s)
            # Others come first, before it is tried again.
            later = clock.monotonic() + self._options.settled_s
            self._pinned[slot] = max(self._pinned.get(slot, 0.0), later)
            return False
        self.moved += 1
        log.info("slot %d: node %d takes over", slot, node)
        return True
