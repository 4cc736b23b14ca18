"""Tells the log how far events are delivered: one proposal per slot and kind at a time, of the newest position."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from wukong.channel import webhooks
from wukong.channel.commands import AdvanceWebhooks, Command, Reply
from wukong.channel.state import State

RETRY_S = 1.0


class Replica(Protocol):
    """What webhooks need from the node."""

    node_id: int
    slot_count: int
    states: list[State]

    def slot(self, routing_key: str) -> int: ...

    def leads(self, slot: int) -> bool: ...

    def propose_always(self, slot: int, command: Command, done: Callable[[Reply | None], None] | None = None) -> None:
        """Never raises; done gets None if the outcome is not known."""
        ...

    async def execute(self, slot: int, command: Command) -> Reply: ...

    async def barrier(self, slots: Iterable[int], timeout_s: float = 5.0) -> None: ...


class Cursors:
    """Positions may be told late or never: then events come again. They never go back."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._wanted: dict[tuple[int, int], int] = {}
        self._under_way: set[tuple[int, int]] = set()
        self._before: dict[tuple[int, int], int] = {}
        self._timers: dict[tuple[int, int], asyncio.TimerHandle] = {}
        self._closed = False

    def move(self, slot: int, kind: int, upto: int) -> None:
        """All records of a kind up to this one are delivered, or given up."""
        place = slot, kind
        if upto > self._wanted.get(place, 0):
            self._wanted[place] = upto
            self._propose(place)

    def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _propose(self, place: tuple[int, int]) -> None:
        self._timers.pop(place, None)
        if place in self._under_way or self._closed:
            return
        slot, kind = place
        upto = self._wanted[place]
        self._under_way.add(place)
        self._before[place] = self._cursor(place)
        self._replica.propose_always(
            slot, AdvanceWebhooks(kind, upto), lambda reply: self._done(place, upto, reply is not None)
        )

    def _done(self, place: tuple[int, int], upto: int, known: bool) -> None:
        self._under_way.discard(place)
        if self._closed:
            return
        if not known:
            # This node was taken for gone, or stops. Whoever leads now reads the cursor as it is.
            self._timers[place] = asyncio.get_running_loop().call_later(RETRY_S, self._propose, place)
        elif self._wanted[place] > upto or self._before[place] < self._cursor(place) < upto:
            # Behind it, or not far enough: one command passes a limited number of records.
            self._propose(place)

    def _cursor(self, place: tuple[int, int]) -> int:
        slot, kind = place
        return webhooks.cursor(self._replica.states[slot], kind)
