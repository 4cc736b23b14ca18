"""Carries versioned copies from their authority slot to the slots that need them (architecture.md, section 4).

Runs on the leader of the authority slot. What is owed is in that slot's outbox, so a crash loses nothing: after a
restart the same records are proposed again and slots that have them already ignore them.
"""

import asyncio
from collections.abc import Callable

from wukong.channel.commands import ForgetOutbox, Reply, encode_command
from wukong.channel.effects import Propagate

ProposeEncoded = Callable[[int, bytes, Callable[[Reply | None], None]], None]


class _Owed:
    __slots__ = ("ids", "open", "waiters")

    def __init__(self) -> None:
        self.open = 0
        self.ids: list[int] = []
        self.waiters: list[asyncio.Future[None]] = []


class Copier:
    def __init__(self, slot_count: int, slot_of: Callable[[str], int], propose: ProposeEncoded) -> None:
        self._slot_count = slot_count
        self._slot_of = slot_of
        self._propose = propose
        self._owed: dict[tuple[int, int], _Owed] = {}

    def propagate(self, slot: int, effect: Propagate) -> None:
        """Propose one outbox record of an authority slot to its target slots."""
        owed = self._owed.setdefault((slot, effect.version), _Owed())
        owed.ids.append(effect.outbox_id)
        targets = range(self._slot_count) if effect.target == "" else (self._slot_of(effect.target),)
        owed.open += len(targets)
        for target in targets:
            self._propose(target, effect.command, lambda reply: self._applied(slot, effect.version, reply))

    def _applied(self, slot: int, version: int, reply: Reply | None) -> None:
        owed = self._owed.get((slot, version))
        if owed is None:
            return
        if reply is None:
            # Unknown: the outbox still has it; whoever waits is told to try again.
            self._finish((slot, version), owed, failed=True)
            return
        owed.open -= 1
        if owed.open == 0:
            self._propose(slot, encode_command(ForgetOutbox(owed.ids)), lambda _: None)
            self._finish((slot, version), owed, failed=False)

    def _finish(self, key: tuple[int, int], owed: _Owed, *, failed: bool) -> None:
        del self._owed[key]
        for waiter in owed.waiters:
            if waiter.done():
                continue
            if failed:
                waiter.cancel()
            else:
                waiter.set_result(None)

    async def copied(self, slot: int, version: int) -> None:
        """Return when every copy of this version is applied. Cancelled when that can no longer be known."""
        owed = self._owed.get((slot, version))
        if owed is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owed.waiters.append(waiter)
        await waiter
