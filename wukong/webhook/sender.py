"""Delivers what the application is to be told, from each slot that this node leads. docs/design/webhooks.md, "Sender".

Strategy: every event is a row in its slot's state, so nothing here has to survive. A lane per kind and back end reads
rows, sends, and has the slot's cursor moved on by a command. Lanes do not wait for one another. A slot is begun with
behind a barrier and dropped with its leadership; what was under way then comes once more from the next leader. Nothing
looks at a slot that has no news. What waits beyond the limit goes by a command as well, the oldest first.
"""

import asyncio
import logging
import random
from typing import NamedTuple, Protocol

from wukong.channel import webhooks
from wukong.channel.commands import AdvanceWebhooks, SweepSessions
from wukong.channel.ids import AGENT
from wukong.channel.presence import sweep_due
from wukong.channel.state import State
from wukong.channel.webhooks import EVENT_NAMES, NOTIFY, ONLINE, Record
from wukong.clock import Clock
from wukong.errors import Unavailable, WukongError
from wukong.webhook.batches import Batches
from wukong.webhook.cursors import Cursors, Replica
from wukong.webhook.delivery import TELL_AGAIN_S, Courier, Totals
from wukong.webhook.offline import Offline
from wukong.webhook.payloads import notify_item, status_item
from wukong.webhook.transport import Transport

log = logging.getLogger(__name__)

# In one step towards the limit of the backlog; so many records are read at once for it.
DROP_RECORDS = 200
# Once over the limit, so much of it is made free: not every event is to drop another one.
DROP_SHARE = 0.05
_BARRIER_S = 5.0
# How soon what waits goes when events were switched off, or the limit was lowered: settings make no news.
_LOOK_AGAIN_S = 30.0
_RETRY_S = 0.5


class Options(NamedTuple):
    """count_per_push, push_interval_ms: of requests with arrays. retry_limit: tries per request, 0 without end.
    requests_limit: msg.offline under way. compress_above: recipients, 0 never. secret: signs, empty: no signature."""

    count_per_push: int = 100
    push_interval_ms: int = 500
    retry_limit: int = 0
    requests_limit: int = 64
    compress_above: int = 0
    secret: str = ""


class Lane(Protocol):
    """The events of one kind for one back end."""

    kind: int

    def start(self, slot: int) -> None: ...

    def stop(self, slot: int) -> None: ...

    def added(self, slot: int) -> None: ...

    async def run(self) -> None: ...


class Sender:
    """main, agent: where events go; agent gets msg.notify of type 11, if there is one. Without main nothing is sent,
    and the backlog's limit is all that is looked after. Make it on the running loop."""

    def __init__(
        self,
        *,
        replica: Replica,
        main: Transport | None,
        agent: Transport | None,
        options: Options,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.totals = Totals()
        self._replica = replica
        self._clock = clock
        self._transports = [each for each in (main, agent) if each is not None]
        self._led: set[int] = set()
        # What is done for a slot, each at most once at a time.
        self._work = {"take": self._take, "sweep": self._sweep, "drop": self._drop}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._running: list[asyncio.Task[None]] = []
        self._cursors = Cursors(replica)
        self._told_dropped = float("-inf")
        self._notify: list[Batches] = []
        self._lanes: list[Lane] = []
        if main is None:
            return

        def courier(transport: Transport) -> Courier:
            return Courier(
                transport,
                secret=options.secret,
                retry_limit=options.retry_limit,
                clock=clock,
                rng=rng,
                totals=self.totals,
            )

        to_main = courier(main)
        interval_s = options.push_interval_ms / 1000
        for courier_, which in [(to_main, _others if agent else _all)] + ([(courier(agent), _agents)] if agent else []):
            self._notify.append(
                Batches(
                    kind=NOTIFY,
                    event=EVENT_NAMES[NOTIFY],
                    replica=replica,
                    courier=courier_,
                    items_of=which,
                    moved=self._notified,
                    count_limit=options.count_per_push,
                    interval_s=interval_s,
                )
            )
        self._lanes += self._notify
        self._lanes.append(
            Offline(
                replica=replica,
                courier=to_main,
                cursors=self._cursors,
                requests_limit=options.requests_limit,
                compress_above=options.compress_above,
            )
        )
        self._lanes.append(
            Batches(
                kind=ONLINE,
                event=EVENT_NAMES[ONLINE],
                replica=replica,
                courier=to_main,
                items_of=_statuses,
                moved=lambda slot, upto: self._cursors.move(slot, ONLINE, upto),
                count_limit=options.count_per_push,
                interval_s=interval_s,
            )
        )

    def _notified(self, slot: int, upto: int) -> None:
        """Two back ends share a cursor: it stays at the slower one's position."""
        self._cursors.move(slot, NOTIFY, min(lane.position(slot) for lane in self._notify))

    # -- life --

    def start(self) -> None:
        """From here on `added` and `led` have to be called."""
        loop = asyncio.get_running_loop()
        self._running = [loop.create_task(lane.run()) for lane in self._lanes] + [loop.create_task(self._look_again())]
        for slot in range(self._replica.slot_count):
            self.led(slot, self._replica.leads(slot))

    async def stop(self) -> None:
        """Requests under way are given up; they come again from the slot's next leader, or after the next start."""
        self._cursors.close()
        tasks = [*self._running, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in self._transports:
            await transport.close()

    # -- news, in a step of the log: nothing here waits --

    def added(self, slot: int, kind: int) -> None:
        """There is a new record of that kind."""
        if slot not in self._led:
            return
        for lane in self._lanes:
            if lane.kind == kind:
                lane.added(slot)
        if kind == ONLINE:
            self._sweep_if_due(slot)
        self._look(slot)

    def led(self, slot: int, here: bool) -> None:
        """Who leads the slot has changed, or nobody knows who does."""
        if here and slot not in self._led:
            self._begin("take", slot)
        elif not here:
            self._led.discard(slot)
            for what in self._work:
                task = self._tasks.pop((what, slot), None)
                if task is not None:
                    task.cancel()
            for lane in self._lanes:
                lane.stop(slot)

    def _begin(self, what: str, slot: int) -> None:
        # One that is done has found nothing more before this news, though its end is not noted yet.
        if (before := self._tasks.get((what, slot))) is not None and not before.done():
            return
        task = asyncio.get_running_loop().create_task(self._work[what](slot), name=f"webhooks {what} {slot}")
        self._tasks[what, slot] = task
        task.add_done_callback(lambda done: self._ended(what, slot, done))

    def _ended(self, what: str, slot: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get((what, slot)) is task:
            del self._tasks[what, slot]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhooks of slot %d: %s failed", slot, what, exc_info=error)

    async def _take(self, slot: int) -> None:
        """A new leader may not have applied yet what the last one had delivered."""
        while True:
            try:
                await self._replica.barrier((slot,), _BARRIER_S)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
            else:
                break
        self._led.add(slot)
        for lane in self._lanes:
            lane.start(slot)
        self._sweep_if_due(slot)
        self._look(slot)

    # -- sessions of nodes that died --

    def _sweep_if_due(self, slot: int) -> None:
        if sweep_due(self._replica.states[slot]):
            self._begin("sweep", slot)

    async def _sweep(self, slot: int) -> None:
        """Have the log say that they are over, some hundred in a step; their events are records like any other."""
        while sweep_due(self._replica.states[slot]):
            try:
                await self._replica.execute(slot, SweepSessions())
            except WukongError:
                await asyncio.sleep(_RETRY_S)

    # -- the limit --

    def _look(self, slot: int) -> None:
        if self._excess(self._replica.states[slot]):
            self._begin("drop", slot)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            for slot in sorted(self._led):
                self._look(slot)

    def _excess(self, state: State) -> float:
        """The share of the slot's records that has to go."""
        queue, limit_bytes = state.slot_row.webhooks, state.settings.webhook_backlog_bytes
        if not queue.records:
            return 0.0
        if not self._lanes and not webhooks.wanted(state.settings):
            return 1.0  # they were switched off
        if not limit_bytes or queue.size_bytes <= limit_bytes:
            return 0.0
        return 1 - limit_bytes * (1 - DROP_SHARE) / queue.size_bytes

    async def _drop(self, slot: int) -> None:
        """Give up the oldest records, a limited number of them in a step, until the limit holds."""
        while share := self._excess(self._replica.states[slot]):
            state = self._replica.states[slot]
            heads = {kind: webhooks.pending_ids(state, kind, limit=DROP_RECORDS) for kind in EVENT_NAMES}
            ids = sorted({number for numbers in heads.values() for number in numbers})
            if not ids:
                return
            count = max(1, min(len(ids), DROP_RECORDS, int(share * state.slot_row.webhooks.records)))
            upto = ids[count - 1]
            for kind, numbers in heads.items():
                doomed = sum(number <= upto for number in numbers)
                if doomed and not await self._give_up(slot, kind, upto, doomed):
                    await asyncio.sleep(_RETRY_S)
                    break

    async def _give_up(self, slot: int, kind: int, upto: int, count: int) -> bool:
        try:
            await self._replica.execute(slot, AdvanceWebhooks(kind, upto, dropped=True))
        except WukongError:
            return False
        self.totals.dropped[EVENT_NAMES[kind]] += count
        now = self._clock.monotonic()
        if not webhooks.wanted(self._replica.states[slot].settings):
            log.info("slot %d: %d webhook events are dropped: there is no back end any more", slot, count)
        elif now - self._told_dropped >= TELL_AGAIN_S:
            self._told_dropped = now
            log.error(
                "webhook events are dropped: too many wait (wukong.webhookBacklogBytes); so far %d",
                sum(self.totals.dropped.values()),
            )
        return True

    # -- figures, of the slots led here --

    def backlog_records(self) -> int:
        return sum(state.slot_row.webhooks.records for state in self._states())

    def backlog_bytes(self) -> int:
        return sum(state.slot_row.webhooks.size_bytes for state in self._states())

    def oldest_s(self) -> float:
        """Age of the oldest event that waits, 0 for none."""
        waiting = [at_ms for state in self._states() if (at_ms := webhooks.backlog(state).oldest_ms)]
        return max(0.0, (self._clock.now_ms() - min(waiting)) / 1000) if waiting else 0.0

    def _states(self) -> list[State]:
        return [self._replica.states[slot] for slot in sorted(self._led)]


def _all(state: State, record: Record) -> list[bytes]:
    if record.channel is None or record.message is None:
        return []
    return [notify_item(record.channel, record.message, state.settings, is_cmd=record.is_cmd)]


def _others(state: State, record: Record) -> list[bytes]:
    return [] if _is_agents(record) else _all(state, record)


def _agents(state: State, record: Record) -> list[bytes]:
    return _all(state, record) if _is_agents(record) else []


def _is_agents(record: Record) -> bool:
    return record.channel is not None and record.channel.type == AGENT


def _statuses(state: State, record: Record) -> list[bytes]:
    return [status_item(entry) for entry in record.entries]
