"""msg.offline: one request per message, to whom it was for and who had no master session. http-api.md 16.4.

Who had one is looked up once, before the first request, and entered into the log: so a repeated request names the same
people, on whatever node. Of one channel there is never more than one request under way; channels do not wait for one
another.
"""

import asyncio
import logging
from collections import deque

import msgspec

from wukong.channel import webhooks
from wukong.channel.commands import FreezeOffline
from wukong.channel.ids import ChannelId
from wukong.channel.presence import LEVEL_MASTER, sessions_of
from wukong.channel.webhooks import EVENT_NAMES, OFFLINE, Record
from wukong.errors import RequestRefused, WukongError
from wukong.limits import MIB
from wukong.webhook.cursors import Cursors, Replica
from wukong.webhook.delivery import Budget, Courier, Pace
from wukong.webhook.payloads import offline_body

log = logging.getLogger(__name__)

EVENT = EVENT_NAMES[OFFLINE]
# Records of a slot that are read and not done. One that is not taken holds up its channel only; ids so far behind it
# are delivered meanwhile, and would come again from another leader, since the cursor stays before it.
WINDOW_RECORDS = 64
AHEAD_RECORDS = 10_000
# Rows of a channel that are read in one turn of the loop.
PAGE_UIDS = 200
# Of all requests under way on this node, together; one that is larger goes alone.
BODIES_LIMIT_BYTES = 64 * MIB
# Master sessions in one command, from which on records of other channels get another; and uids remembered for that.
FREEZE_UIDS = 5_000
REMEMBERED_UIDS = 50_000
# Larger lists are encoded and compressed beside the loop.
_LARGE_UIDS = 1_000
_CHECK_UIDS = 32
_RETRY_S = 1.0


class _Place:
    """A slot that is led here. read: id of the last record read. undone: ids that were read and are not done yet,
    ascending. queues: what waits in each channel, behind the record that is under way."""

    __slots__ = ("queues", "read", "task", "undone", "wake")

    def __init__(self) -> None:
        self.read = 0
        self.undone: dict[int, None] = {}
        self.queues: dict[ChannelId | None, deque[Record]] = {}
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def oldest(self) -> int:
        """The first id that is not done."""
        return next(iter(self.undone), self.read + 1)


class Offline:
    """requests_limit: under way at once on this node. compress_above: recipients, 0 for never."""

    kind = OFFLINE

    def __init__(
        self, *, replica: Replica, courier: Courier, cursors: Cursors, requests_limit: int, compress_above: int
    ) -> None:
        self._replica = replica
        self._courier = courier
        self._cursors = cursors
        self._compress_above = compress_above
        self._room = asyncio.Semaphore(requests_limit)
        self._bodies = Budget(BODIES_LIMIT_BYTES)
        self._expanding = asyncio.Lock()
        self._places: dict[int, _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- slots --

    def start(self, slot: int) -> None:
        """The slot is led here now: what is pending there is this node's to deliver."""
        if slot in self._places:
            return
        place = self._places[slot] = _Place()
        place.wake.set()
        place.task = asyncio.get_running_loop().create_task(self._serve(slot, place), name=f"webhook {EVENT} {slot}")
        self._tasks.add(place.task)
        place.task.add_done_callback(self._tasks.discard)

    def stop(self, slot: int) -> None:
        """It is not any more. Requests under way are given up."""
        place = self._places.pop(slot, None)
        if place is not None and place.task is not None:
            place.task.cancel()

    def added(self, slot: int) -> None:
        place = self._places.get(slot)
        if place is not None:
            place.wake.set()

    async def run(self) -> None:
        """Until cancelled; requests under way end with it."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- work --

    async def _serve(self, slot: int, place: _Place) -> None:
        while True:
            try:
                await self._read_and_send(slot, place)
            except Exception:
                log.exception("webhook events of a slot could not be sent; they are tried again")
            place.read = place.oldest - 1
            place.undone.clear()
            place.queues.clear()
            place.wake.set()
            await asyncio.sleep(_RETRY_S)

    async def _read_and_send(self, slot: int, place: _Place) -> None:
        """Read what is pending, and have a task per channel with something to send. Ends by cancellation only, or by
        an error in one of these."""
        async with asyncio.TaskGroup() as channels:
            while True:
                await place.wake.wait()
                place.wake.clear()
                while (room := WINDOW_RECORDS - len(place.undone)) > 0 and place.read < place.oldest + AHEAD_RECORDS:
                    records = webhooks.pending(self._replica.states[slot], OFFLINE, after=place.read, limit=room)
                    if not records:
                        break
                    there = await self._frozen(slot, place.read, records)
                    place.read = records[-1].id
                    for record in there:
                        place.undone[record.id] = None
                        if (queue := place.queues.get(record.channel)) is not None:
                            queue.append(record)
                            continue
                        place.queues[record.channel] = deque([record])
                        channels.create_task(self._send(slot, place, record.channel))

    async def _send(self, slot: int, place: _Place, channel: ChannelId | None) -> None:
        """What a channel has, one after the other."""
        queue = place.queues[channel]
        while queue:
            await self._request(slot, queue[0])
            del place.undone[queue.popleft().id]
            self._cursors.move(slot, OFFLINE, place.oldest - 1)
            place.wake.set()
        del place.queues[channel]

    async def _request(self, slot: int, record: Record) -> None:
        def wanted() -> bool:
            return webhooks.cursor(self._replica.states[slot], OFFLINE) < record.id

        async with self._room:
            async with self._expanding:
                body = await self._body(slot, record) if wanted() else None
                if body is None:
                    return
                await self._bodies.take(len(body))
            try:
                await self._courier.deliver(EVENT, [(slot, record.id)], body, count=1, wanted=wanted)
            finally:
                self._bodies.give(len(body))

    async def _body(self, slot: int, record: Record) -> bytes | None:
        """None: there is nobody to tell of."""
        if record.channel is None or record.message is None:
            return None
        online = set(record.online or ())
        pace = Pace()
        to_uids: list[str] = []
        start = ""
        while True:
            page, start = webhooks.recipients(self._replica.states[slot], record, start=start, limit=PAGE_UIDS)
            to_uids += [uid for uid in page if uid not in online]
            if not start:
                break
            await pace.rest()
        if not to_uids:
            return None
        settings = self._replica.states[slot].settings

        def encode() -> bytes:
            assert record.channel is not None
            assert record.message is not None
            return offline_body(
                record.channel,
                record.message,
                settings,
                to_uids,
                source_id=self._replica.node_id,
                compress_above=self._compress_above,
            )

        return await asyncio.to_thread(encode) if len(to_uids) > _LARGE_UIDS else encode()

    # -- who is online --

    async def _frozen(self, slot: int, behind: int, records: list[Record]) -> list[Record]:
        """The same records, with who was online in the log."""
        if not self._replica.states[slot].settings.token_auth_on:
            return records  # without tokens nobody is a master
        unseen = [record for record in records if record.online is None]
        if not unseen:
            return records
        known: dict[str, bool] = {}
        seen: dict[int, list[str]] = {}
        ids: list[int] = []
        online: dict[str, None] = {}
        for at, record in enumerate(unseen):
            async with self._expanding:
                await self._sample(slot, record, known, online)
            ids.append(record.id)
            following = unseen[at + 1] if at + 1 < len(unseen) else None
            # Records of one channel share a list however long it is: each would have the same one.
            if following is None or (len(online) >= FREEZE_UIDS and following.channel != record.channel):
                uids = list(online)
                seen |= {number: uids for number in ids}  # noqa: C420 -- all may share one list
                await self._freeze(slot, ids, uids)
                ids, online = [], {}
        # The log's word counts: another leader may have been faster. It has none if a list is too long for it.
        again = webhooks.pending(self._replica.states[slot], OFFLINE, after=behind, limit=len(records))
        there = {record.id for record in records}
        return [
            msgspec.structs.replace(record, online=seen.get(record.id)) if record.online is None else record
            for record in again
            if record.id in there
        ]

    async def _sample(self, slot: int, record: Record, known: dict[str, bool], online: dict[str, None]) -> None:
        pace = Pace()
        start = ""
        while True:
            page, start = webhooks.recipients(self._replica.states[slot], record, start=start, limit=PAGE_UIDS)
            for number, uid in enumerate(page):
                master = known.get(uid)
                if master is None:
                    if len(known) >= REMEMBERED_UIDS:
                        known.clear()
                    state = self._replica.states[self._replica.slot(uid)]
                    master = any(each.level == LEVEL_MASTER for each in sessions_of(state, uid))
                    known[uid] = master
                if master:
                    online[uid] = None
                if number % _CHECK_UIDS == 0:
                    await pace.rest()
            if not start:
                return
            await pace.rest()

    async def _freeze(self, slot: int, ids: list[int], online: list[str]) -> None:
        while True:
            try:
                await self._replica.execute(slot, FreezeOffline(ids, online))
            except RequestRefused:
                return
            except WukongError:
                await asyncio.sleep(_RETRY_S)
            else:
                return
