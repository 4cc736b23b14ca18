"""Carries versioned copies from their authority slot to the slots that need them (architecture.md, section 4).

Runs where the change was asked for, because that node answers when all copies are applied; and on the leader of the
authority slot for what its outbox still owes after a while. So a crash loses nothing: the same records are proposed
again and slots that have them already ignore them. However much is owed, only
`WINDOW` copies are under way at once; the rest waits in order.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from wukong.channel.commands import ForgetOutbox, Reply, encode_command
from wukong.channel.effects import Propagate
from wukong.errors import Unavailable

ProposeAlways = Callable[[int, bytes, Callable[[Reply | None], None]], None]

WINDOW = 256
FINISHED_COUNT = 4_096
"""Versions remembered as copied; of an older one the outbox has to tell."""
_FORGET_AT_ONCE = 1_000


class _Owed:
    """What one version of one authority owes."""

    __slots__ = ("given_up", "ids", "key", "open", "waiters")

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.open = 0
        self.ids: dict[int, None] = {}
        self.waiters: list[asyncio.Future[None]] = []
        self.given_up = False


class Copier:
    """propose must not raise; it answers None when the node stops."""

    def __init__(self, slot_count: int, slot_of: Callable[[str], int], propose: ProposeAlways) -> None:
        self._slot_count = slot_count
        self._slot_of = slot_of
        self._propose = propose
        self._owed: dict[tuple[int, int], _Owed] = {}
        self._waiting: deque[tuple[_Owed, int, bytes]] = deque()
        self._under_way = 0
        self._pumping = False
        self._finished: dict[tuple[int, int], None] = {}  # the last ones, oldest first

    def propagate(self, slot: int, effect: Propagate) -> None:
        """Bring one outbox record of an authority slot to its target slots."""
        key = slot, effect.version
        owed = self._owed.get(key)
        if owed is None:
            owed = self._owed[key] = _Owed(key)
        if effect.outbox_id in owed.ids:
            return
        owed.ids[effect.outbox_id] = None
        targets = range(self._slot_count) if effect.target == "" else (self._slot_of(effect.target),)
        owed.open += len(targets)
        self._waiting.extend((owed, target, effect.command) for target in targets)
        self._pump()

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        while self._waiting and self._under_way < WINDOW:
            owed, target, command = self._waiting.popleft()
            if not owed.given_up:
                self._under_way += 1
                self._propose(target, command, lambda reply, owed=owed: self._applied(owed, reply))  # type: ignore[misc]
        self._pumping = False

    def _applied(self, owed: _Owed, reply: Reply | None) -> None:
        self._under_way -= 1
        if not owed.given_up:
            owed.open -= 1
            if reply is None:
                # Unknown: the outbox still has it; whoever waits is told to try again.
                owed.given_up = True
                self._finish(owed, failed=True)
            elif owed.open == 0:
                ids = list(owed.ids)
                for start in range(0, len(ids), _FORGET_AT_ONCE):
                    forget = ForgetOutbox(ids[start : start + _FORGET_AT_ONCE])
                    self._propose(owed.key[0], encode_command(forget), lambda _: None)
                self._finish(owed, failed=False)
        self._pump()

    def _finish(self, owed: _Owed, *, failed: bool) -> None:
        del self._owed[owed.key]
        if not failed:
            self._finished[owed.key] = None
            if len(self._finished) > FINISHED_COUNT:
                del self._finished[next(iter(self._finished))]
        for waiter in owed.waiters:
            if waiter.done():
                continue
            if failed:
                waiter.set_exception(Unavailable("the change is stored; where else it is in force is not known yet"))
            else:
                waiter.set_result(None)

    def knows(self, slot: int, version: int) -> bool:
        """Whether copies of this version are, or lately were, under way from here."""
        return (slot, version) in self._owed or (slot, version) in self._finished

    async def copied(self, slot: int, version: int) -> None:
        """Return when every copy of this version that is under way from here is applied. Raises Unavailable when that
        can no longer be known."""
        owed = self._owed.get((slot, version))
        if owed is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owed.waiters.append(waiter)
        await waiter

    async def settled(self, slot: int) -> None:
        """Return when the slot, as an authority, owes nothing that it owed at the time of the call."""
        for version in [version for owner, version in self._owed if owner == slot]:
            await self.copied(slot, version)
