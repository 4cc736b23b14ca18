"""Events that go as arrays: msg.notify and user.onlinestatus.

A request holds what several slots have, and the slots of a request are not read on before it is taken: so of one slot,
hence of one channel or user, there are never two requests at once, and their order is that of the log.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from wukong.channel import webhooks
from wukong.channel.state import State
from wukong.channel.webhooks import Record
from wukong.limits import MIB
from wukong.webhook.cursors import Replica
from wukong.webhook.delivery import Courier
from wukong.webhook.payloads import array

log = logging.getLogger(__name__)

# Of one lane on one node, and one more for each slot with an event that is refused. A slow back end slows its events
# down, not more.
REQUESTS = 8
# A request is closed at this size; an event that is larger goes alone.
REQUEST_BYTES = MIB
# A request that was refused so often goes on event by event, each slot by itself.
REFUSALS_LIMIT = 3
# How often what has come meanwhile is looked at while events wait for others.
_LOOK_S = 0.02
_READ_RECORDS = 20
_RETRY_S = 1.0


class _Place:
    """Where a lane is in a slot that is led here. read: id of the last record read; done: everything up to it is
    delivered or was not for this lane."""

    __slots__ = ("done", "read", "task")

    def __init__(self) -> None:
        self.read = 0
        self.done = 0
        self.task: asyncio.Task[None] | None = None


class _Item(NamedTuple):
    slot: int
    number: int
    parts: list[bytes]


class Batches:
    """One kind's events for one back end.

    items_of: what a record gives to the array; empty for one that is not for this back end or is gone.
    moved: called with a slot and the position up to which it needs nothing more.
    count_limit, interval_s: a request goes with so many events, or so long after the first one.
    """

    def __init__(
        self,
        *,
        kind: int,
        event: str,
        replica: Replica,
        courier: Courier,
        items_of: Callable[[State, Record], list[bytes]],
        moved: Callable[[int, int], None],
        count_limit: int,
        interval_s: float,
    ) -> None:
        self.kind = kind
        self._event = event
        self._replica = replica
        self._courier = courier
        self._items_of = items_of
        self._moved = moved
        self._count_limit = count_limit
        self._interval_s = interval_s
        self._places: dict[int, _Place] = {}
        self._ready: dict[int, None] = {}
        self._wake = asyncio.Event()
        self._waiting: list[_Item] = []
        self._waiting_count = self._waiting_bytes = 0
        self._deadline = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_pieces: set[asyncio.Task[None]] = set()

    # -- slots --

    def start(self, slot: int) -> None:
        """The slot is led here now: what is pending there is this node's to deliver."""
        if slot not in self._places:
            self._places[slot] = _Place()
            self.added(slot)

    def stop(self, slot: int) -> None:
        """It is not any more. A request under way is given up, with what other slots have in it."""
        place = self._places.pop(slot, None)
        self._ready.pop(slot, None)
        if place is not None and place.task is not None:
            place.task.cancel()
        self._waiting = [item for item in self._waiting if item.slot != slot]
        self._waiting_count = sum(len(item.parts) for item in self._waiting)
        self._waiting_bytes = sum(len(part) for item in self._waiting for part in item.parts)

    def added(self, slot: int) -> None:
        if slot in self._places:
            self._ready[slot] = None
            self._wake.set()

    def position(self, slot: int) -> int:
        place = self._places.get(slot)
        return 0 if place is None else place.done

    # -- work --

    async def run(self) -> None:
        """Until cancelled; requests under way end with it."""
        try:
            while True:
                if self._waiting and len(self._tasks) < REQUESTS:
                    await asyncio.sleep(min(_LOOK_S, self._interval_s))
                else:
                    await self._wake.wait()
                self._wake.clear()
                while len(self._tasks) < REQUESTS and await self._fill():
                    self._launch()
        finally:
            tasks = [*self._tasks, *self._in_pieces]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self) -> bool:
        """Read what is pending. Whether a request is to go."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for slot in list(self._ready):
            try:
                while not self._is_full:
                    if not self._read(slot):
                        break
                    await asyncio.sleep(0)
            except Exception:
                # The lane must not end with it, nor the other slots wait.
                log.exception("webhook events of slot %d could not be read; they are tried again", slot)
                self._ready.pop(slot, None)
                loop.call_later(_RETRY_S, self.added, slot)
        if not self._waiting:
            self._deadline = 0.0
            return False
        self._deadline = self._deadline or now + self._interval_s
        return self._is_full or now >= self._deadline

    @property
    def _is_full(self) -> bool:
        return self._waiting_count >= self._count_limit or self._waiting_bytes >= REQUEST_BYTES

    def _read(self, slot: int) -> bool:
        """Read on in a slot; whether there may be more."""
        place = self._places.get(slot)
        if place is None or place.task is not None:
            return False
        state = self._replica.states[slot]
        limit = min(_READ_RECORDS, max(1, self._count_limit - self._waiting_count))
        records = webhooks.pending(state, self.kind, after=place.read, limit=limit)
        held = place.done < place.read
        for record in records:
            parts = self._items_of(state, record)
            place.read = record.id
            if parts:
                held = True
                self._waiting.append(_Item(slot, record.id, parts))
                self._waiting_count += len(parts)
                self._waiting_bytes += sum(map(len, parts))
        if not held and place.done < place.read:
            place.done = place.read
            self._moved(slot, place.done)
        if len(records) < limit:
            self._ready.pop(slot, None)
            return False
        return True

    def _launch(self) -> None:
        batch, self._waiting, self._deadline = self._waiting, [], 0.0
        self._waiting_count = self._waiting_bytes = 0
        places = {item.slot: self._places[item.slot] for item in batch}
        task = asyncio.get_running_loop().create_task(self._send(batch, places), name=f"webhook {self._event}")
        self._tasks.add(task)
        for place in places.values():
            place.task = task
        task.add_done_callback(lambda done: self._ended(done, places))

    async def _send(self, batch: list[_Item], places: dict[int, _Place]) -> None:
        if await self._deliver(batch, refusals_limit=REFUSALS_LIMIT if len(batch) > 1 else 0):
            for slot, place in places.items():
                self._delivered(slot, place, place.read)
            return
        # Something in it is not to the back end's liking: only its own slot is to wait for it, and it holds none of the
        # places for requests. A slot is in one task, so there are no more of these than slots.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        self._in_pieces.add(task)
        self._wake.set()
        async with asyncio.TaskGroup() as slots:
            for slot, place in places.items():
                slots.create_task(self._one_by_one(slot, place, [item for item in batch if item.slot == slot]))

    async def _one_by_one(self, slot: int, place: _Place, items: list[_Item]) -> None:
        for item in items:
            await self._deliver([item])
            self._delivered(slot, place, item.number)
        self._delivered(slot, place, place.read)
        self._release(slot, place)

    async def _deliver(self, batch: list[_Item], *, refusals_limit: int = 0) -> bool:
        last = {item.slot: item.number for item in batch}

        def wanted() -> bool:
            return any(webhooks.cursor(self._replica.states[slot], self.kind) < last[slot] for slot in last)

        body = array(part for item in batch for part in item.parts)
        count = sum(len(item.parts) for item in batch)
        records = [(item.slot, item.number) for item in batch]
        return await self._courier.deliver(
            self._event, records, body, count=count, wanted=wanted, refusals_limit=refusals_limit
        )

    def _delivered(self, slot: int, place: _Place, upto: int) -> None:
        place.done = upto
        if self._places.get(slot) is place:
            self._moved(slot, upto)

    def _release(self, slot: int, place: _Place) -> None:
        """The slot may be read on."""
        place.task = None
        place.read = place.done  # what was not delivered is read again
        if self._places.get(slot) is place:
            self._ready[slot] = None
        self._wake.set()

    def _ended(self, task: asyncio.Task[None], places: dict[int, _Place]) -> None:
        self._tasks.discard(task)
        self._in_pieces.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a webhook request failed", exc_info=error)
        for slot, place in places.items():
            if place.task is task:
                self._release(slot, place)
        self._wake.set()
