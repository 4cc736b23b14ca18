"""Received messages on their way to the application: sorted per channel, then one queue.

Bounded: the reader asks for room before each read from the socket, so at the limit the socket is not read and the
server feels it. Only while the application waits for the answer to a SEND is reading continued, up to ten times the
limit: otherwise a handler that sends before it takes the next message would wait for a SENDACK that nobody reads.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from wukong.client.message import Message
from wukong.client.ordering import ChannelOrder

SENDING_FACTOR: Final = 10
EVICTION_PROBES_COUNT: Final = 16

LaneKey = tuple[str, int, bool]
"""channel_id, channel_type, and whether it is the command twin, which counts its messages by itself."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """link_number: of the connection that brought the message and waits for its RECVACK; 0 for a synced one."""

    message: Message
    link_number: int


class Lane:
    """queued_count: of its messages, those released and not taken yet. taken_seq: highest seq taken, counted from
    where the lane began."""

    __slots__ = ("order", "queued_count", "taken_seq")

    def __init__(self, position: int | None = None) -> None:
        self.order: ChannelOrder[Arrival] = ChannelOrder(position)
        self.queued_count = 0
        self.taken_seq = 0

    @property
    def position(self) -> int | None:
        """What the application has taken, for it to store."""
        return self.taken_seq if self.queued_count else self.order.position


class Inbox:
    """on_gap: called with the lane whenever messages wait behind a gap. limit_count: messages held and queued; one
    read's worth more may be here. lanes_limit_count: channels remembered; beyond it the one silent for longest is
    forgotten, and treated as new when it speaks again."""

    def __init__(self, *, limit_count: int, lanes_limit_count: int, on_gap: Callable[[LaneKey], None]) -> None:
        self._limit_count = limit_count
        self._lanes_limit_count = lanes_limit_count
        self._on_gap = on_gap
        self._lanes: OrderedDict[LaneKey, Lane] = OrderedDict()
        self._ready: deque[tuple[Lane, Arrival]] = deque()
        self._held_count = 0
        self._released_count = 0
        self._taken_count = 0
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._ended = False
        # While it is not known where new channels begin, their messages are held.
        self.deciding = False

    # -- lanes --

    @property
    def lanes(self) -> dict[LaneKey, Lane]:
        return self._lanes

    def open_lane(self, key: LaneKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
            if len(self._lanes) > self._lanes_limit_count:
                self._evict(key)
        else:
            self._lanes.move_to_end(key)
        return lane

    def _evict(self, newest: LaneKey) -> None:
        """Forget the lane that is silent for longest and has nothing under way. Looks at a few only: the limit may be
        overstepped by busy lanes, which are limited themselves."""
        for key in list(islice(self._lanes, EVICTION_PROBES_COUNT)):
            lane = self._lanes[key]
            if key != newest and not lane.queued_count and not lane.order.held_count:
                del self._lanes[key]
                return

    def offer(self, key: LaneKey, message: Message, link_number: int) -> bool:
        """False for a repetition: it goes no further."""
        lane = self.open_lane(key)
        arrival = Arrival(message, link_number)
        if not message.message_seq:
            # Not stored: never repeated, and no place in the order.
            self._push(lane, [arrival])
            return True
        order = lane.order
        before_count = order.held_count
        released = order.offer(message.message_seq, arrival)
        if released is None:
            return False
        if order.position is None and not self.deciding:
            released = order.start()
        self._settle(key, lane, before_count, released)
        return True

    def sent(self, key: LaneKey, message_seq: int) -> None:
        """A message of the user's own, told by its SENDACK or found in a pull."""
        lane = self.open_lane(key)
        before_count = lane.order.held_count
        released = lane.order.sent(message_seq)
        if lane.order.position is None and not self.deciding:
            released = lane.order.start()
        self._settle(key, lane, before_count, released)

    def start(self, key: LaneKey, position: int | None = None) -> None:
        lane = self.open_lane(key)
        before_count = lane.order.held_count
        self._settle(key, lane, before_count, lane.order.start(position))

    def skip(self, key: LaneKey, seq: int) -> None:
        lane = self.open_lane(key)
        before_count = lane.order.held_count
        self._settle(key, lane, before_count, lane.order.skip(seq))

    def decide(self) -> None:
        """From now on a new channel begins with the first message that comes."""
        self.deciding = False
        for key, lane in list(self._lanes.items()):
            if lane.order.position is None:
                self.start(key)

    def _settle(self, key: LaneKey, lane: Lane, before_count: int, released: list[Arrival]) -> None:
        self._held_count += lane.order.held_count - before_count
        self._push(lane, released)
        if lane.order.gap_end is not None:
            self._on_gap(key)

    def _push(self, lane: Lane, arrivals: list[Arrival]) -> None:
        if not arrivals:
            return
        if not lane.queued_count:
            first_seq = arrivals[0].message.message_seq
            lane.taken_seq = max(lane.taken_seq, first_seq - 1) if first_seq else lane.order.position or 0
        lane.queued_count += len(arrivals)
        self._released_count += len(arrivals)
        self._ready.extend((lane, arrival) for arrival in arrivals)
        self._arrived.set()

    # -- the queue --

    def has_room(self, *, sending: bool) -> bool:
        limit_count = self._limit_count * SENDING_FACTOR if sending else self._limit_count
        return len(self._ready) + self._held_count < limit_count

    async def wait_for_room(self, is_sending: Callable[[], bool]) -> None:
        while not self.has_room(sending=is_sending()):
            await self._wait_for_change()

    async def wait_for_queue(self) -> None:
        """Until the application has caught up below the limit. What is held does not count: a pull releases it."""
        while len(self._ready) >= self._limit_count and not self._ended:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def nudge(self) -> None:
        """Something that `wait_for_room` asks about has changed."""
        self._changed.set()

    async def take(self) -> Arrival:
        """The next message, in order. Raises StopAsyncIteration, or the error that ended the client, after the last."""
        while not self._ready:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        lane, arrival = self._ready.popleft()
        lane.queued_count -= 1
        lane.taken_seq = max(lane.taken_seq, arrival.message.message_seq)
        self._taken_count += 1
        self._changed.set()
        return arrival

    async def wait_until_taken(self) -> None:
        """Until the application has taken everything that is in the queue now."""
        mark = self._released_count
        while self._taken_count < mark:
            await self._wait_for_change()

    def end(self, error: BaseException | None) -> None:
        """error: for whoever takes, behind the last message. None: closed by the owner, and what is left is dropped."""
        if error is None:
            # queued_count stays: nobody has seen these, so `Lane.position` must not count them.
            self._ready.clear()
        self._ended = True
        self._error = error
        self._arrived.set()
        self._changed.set()
