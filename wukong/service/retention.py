"""How long messages are kept, and what a user wrote made unreadable. docs/retention.md.

Which messages are beyond a policy is decided here, by the node that leads their slot or is asked for a run; the log is
told up to where they go. Work that may be long is done for some seconds per request, and goes on with the cursor.
"""

import asyncio
import logging
from typing import NamedTuple

from wukong.channel import browse
from wukong.channel.commands import Erase, PutRetention, RetentionPolicy, Retire
from wukong.channel.effects import Message
from wukong.channel.ids import PERSON, ChannelId, person_id
from wukong.channel.messages import ERASED, last_seq, messages_between, own_last_seq
from wukong.channel.retention import MESSAGES_PER_COMMAND, first_seq, policies, policy_of, size_bytes
from wukong.channel.state import State, channel_part
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import DAY_MS, SECOND_MS
from wukong.service.messages import Twin
from wukong.service.replica import Pace, Replica, check_id

log = logging.getLogger(__name__)

# One request works no longer.
RUN_LIMIT_S = 3.0
# Between two commands that nobody waits for.
PAUSE_S = 0.02
# Policies in one answer.
LISTED_LIMIT_COUNT = 1_000
MAX_DAYS = 36_500
MAX_LIMIT = 1 << 62

_DAY_S = DAY_MS // SECOND_MS
_PAGE = 64
# Logs that were within their limit of bytes, by their last seq: they are measured again when there is more.
_MEASURED_LIMIT_COUNT = 100_000


class Done(NamedTuple):
    """cursor: where to go on; "" for nowhere."""

    messages: int
    cursor: str


class Standing(NamedTuple):
    """A channel's own policy and that of its type, where its two logs begin and end."""

    own: RetentionPolicy | None
    of_type: RetentionPolicy | None
    first_seq: int
    last_seq: int
    first_command: int
    last_command: int


class Place(NamedTuple):
    """Where a run goes on: in a slot, from this channel part on, in this log of it, behind this seq."""

    slot: int = 0
    start: bytes = b""
    is_cmd: bool = False
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.slot}.{self.start.hex()}.{int(self.is_cmd)}.{self.seq}"


class Budget:
    """Of one request. limit_s None: no limit. However late it is, one piece of work is done, so that asking again and
    again comes to an end."""

    def __init__(self, limit_s: float | None) -> None:
        self._now = asyncio.get_running_loop().time
        self._end = None if limit_s is None else self._now() + limit_s
        self._has_worked = False

    @property
    def is_limited(self) -> bool:
        return self._end is not None

    def worked(self) -> None:
        """A piece is done."""
        self._has_worked = True

    @property
    def is_spent(self) -> bool:
        return self._has_worked and self._end is not None and self._now() >= self._end


class Retention:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._measured: dict[Twin, tuple[int, int]] = {}

    # -- policies --

    async def set(self, channel: ChannelId, policy: RetentionPolicy | None) -> None:
        """A channel's own policy, in the place of that of its type; None: it has none. Raises RequestRefused,
        Unavailable."""
        channel = named_channel(channel)
        await self._replica.change(channel.id, PutRetention(channel, checked(policy)))

    async def set_default(self, channel_type: int, policy: RetentionPolicy | None) -> None:
        """Of all channels of a type that have none of their own."""
        await self._replica.change_slot(0, PutRetention(ChannelId(channel_type, ""), checked(policy)))

    async def standing(self, channel: ChannelId) -> Standing:
        channel = named_channel(channel)
        await self._replica.catch_up_slot(0)
        await self._replica.catch_up([channel.id])
        state = self._replica.now(channel.id)
        head = state.head(channel_part(channel))
        return Standing(
            policy_of(state, channel),
            self._defaults().get(channel.type),
            first_seq(head),
            0 if head is None else head.last_seq,
            first_seq(head, is_cmd=True),
            0 if head is None else head.cmd_seq,
        )

    async def policies(self) -> tuple[list[tuple[ChannelId, RetentionPolicy]], bool]:
        """Up to LISTED_LIMIT_COUNT of them, those of types first (with an empty id), and whether there are more."""
        await self._replica.read_all()
        found = [(ChannelId(kind, ""), policy) for kind, policy in sorted(self._defaults().items())]
        pace = Pace()
        for slot in range(self._replica.slot_count):
            start = b""
            while True:
                page, start = policies(self._replica.slot_now(slot), start=start, limit=_PAGE)
                found += [(channel, policy) for channel, policy in page if channel.id]
                if len(found) > LISTED_LIMIT_COUNT:
                    return found[:LISTED_LIMIT_COUNT], True
                await pace.step()
                if not start:
                    break
        return found, False

    def _defaults(self) -> dict[int, RetentionPolicy]:
        # Their channel parts have a length of 0, so within a type they come first; there are at most 256.
        state = self._replica.slot_now(0)
        found = {kind: policy_of(state, ChannelId(kind, "")) for kind in range(256)}
        return {kind: policy for kind, policy in found.items() if policy is not None}

    # -- retiring --

    async def keep_running(self, interval_s: float) -> None:
        """Carry the policies out in the slots that this node leads, until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            for slot in range(self._replica.slot_count):
                try:
                    if self._replica.leads(slot):
                        await self._retire_slot(slot, b"", Budget(None))
                except (RequestRefused, Unavailable) as fault:
                    log.warning("retention in slot %d: %s; it goes on in %.0f s", slot, fault, interval_s)
                except Exception:
                    # A fault of ours: it must not end the work in other slots.
                    log.exception("retention in slot %d", slot)

    async def run(self, channel: ChannelId | None, *, cursor: str = "", limit_s: float = RUN_LIMIT_S) -> Done:
        """Retire what is beyond the policies, of one channel or of all. Raises RequestRefused, Unavailable."""
        budget = Budget(limit_s)
        if channel is not None:
            channel = named_channel(channel)
            await self._replica.catch_up_slot(0)
            await self._replica.catch_up([channel.id])
            count, finished = await self._retire_channel(channel, self._defaults(), budget)
            return Done(count, "" if finished else str(Place()))
        place = read_place(cursor)
        total = 0
        for slot in range(place.slot, self._replica.slot_count):
            count, rest = await self._retire_slot(slot, place.start if slot == place.slot else b"", budget)
            total += count
            if rest is not None:
                return Done(total, str(Place(slot, rest)))
        return Done(total, "")

    async def _retire_slot(self, slot: int, start: bytes, budget: Budget) -> tuple[int, bytes | None]:
        """How many messages, and the channel part to go on from when the budget is spent."""
        await self._replica.catch_up_slot(0)
        await self._replica.catch_up_slot(slot)
        total = 0
        pace = Pace()
        while True:
            defaults = self._defaults()
            page, rest = _channels(self._replica.slot_now(slot), start, has_defaults=bool(defaults))
            for channel in page:
                count, finished = await self._retire_channel(channel, defaults, budget)
                total += count
                if not finished:
                    return total, channel_part(channel)
                await pace.step()
            if not rest:
                return total, None
            budget.worked()
            if budget.is_spent:
                return total, rest
            start = rest

    async def _retire_channel(
        self, channel: ChannelId, defaults: dict[int, RetentionPolicy], budget: Budget
    ) -> tuple[int, bool]:
        """How many messages, and whether the budget was enough."""
        own = policy_of(self._replica.now(channel.id), channel)
        policy = defaults.get(channel.type) if own is None else own
        if policy is None or policy == RetentionPolicy():
            return 0, True
        total = 0
        for twin in (Twin(channel, False), Twin(channel, True)):
            upto = self._ends(twin)[1] - policy.count
            upto = max(upto if policy.count else 0, await self._beyond_bytes(twin, policy.bytes))
            count, finished = await self._retire(twin, upto, budget)
            total += count
            while finished and (upto := await self._beyond_days(twin, policy.days)):
                count, finished = await self._retire(twin, upto, budget)
                total += count
                if not count:
                    break
            if not finished:
                return total, False
        return total, True

    async def _retire(self, twin: Twin, upto: int, budget: Budget) -> tuple[int, bool]:
        before = begun = self._ends(twin)[0]
        while before <= upto:
            if budget.is_spent:
                return before - begun, False
            reply = await self._replica.change(twin.channel.id, Retire(twin.channel, twin.is_cmd, upto))
            if reply.message_seq < before:
                break
            before = reply.message_seq + 1
            budget.worked()
            if not budget.is_limited:
                # Nobody waits for it: what clients send comes first.
                await asyncio.sleep(PAUSE_S)
        return before - begun, True

    async def _beyond_days(self, twin: Twin, days: int) -> int:
        """The seq up to which the oldest messages are too old, as far as one page shows; 0: none is."""
        if not days:
            return 0
        state = self._replica.now(twin.channel.id)
        # What the log's time will be with the command: in a slot where nothing happens it stands still.
        now_ms = max(state.slot_row.time_ms, self._replica.now_ms)
        oldest_s = now_ms // SECOND_MS - days * _DAY_S
        upto, first = 0, self._ends(twin)[0]
        # In most channels the oldest message is young enough.
        oldest = self._slice(twin, first, first)
        if not oldest or oldest[0].timestamp >= oldest_s:
            return 0
        for message in self._slice(twin, first):
            if message.timestamp >= oldest_s:
                break
            upto = message.message_seq
        return upto

    async def _beyond_bytes(self, twin: Twin, limit_bytes: int) -> int:
        """The seq up to which there is too much before the newest messages; 0: there is not."""
        newest = self._ends(twin)[1]
        if not limit_bytes or self._measured.get(twin) == (newest, limit_bytes):
            return 0
        pace = Pace()
        last, left = newest, limit_bytes
        while messages := self._slice(twin, 1, last, newest=True):
            for message in reversed(messages):
                left -= size_bytes(message)
                if left < 0:
                    return message.message_seq
            last = messages[0].message_seq - 1
            await pace.step()
        if len(self._measured) >= _MEASURED_LIMIT_COUNT:
            self._measured.clear()
        self._measured[twin] = newest, limit_bytes
        return 0

    def _ends(self, twin: Twin) -> tuple[int, int]:
        """First and last seq. A run passes by every channel, so it does not push out what apply works on."""
        head = self._replica.now(twin.channel.id).peek_head(channel_part(twin.channel))
        last = 0 if head is None else head.cmd_seq if twin.is_cmd else head.last_seq
        return first_seq(head, is_cmd=twin.is_cmd), last

    def _slice(self, twin: Twin, first: int, last: int = MAX_LIMIT, *, newest: bool = False) -> list[Message]:
        part, state = channel_part(twin.channel), self._replica.now(twin.channel.id)
        return messages_between(
            state, part, is_cmd=twin.is_cmd, first=first, last=last, limit=MESSAGES_PER_COMMAND, newest=newest
        )

    # -- erasing --

    async def erase(
        self, uid: str, channel: ChannelId | None, *, cursor: str = "", limit_s: float = RUN_LIMIT_S
    ) -> Done:
        """Make unreadable what a user wrote, in one channel or in all, messages and commands. What he sends meanwhile
        may stay. Raises RequestRefused, Unavailable."""
        if not check_id(uid).strip():
            raise RequestRefused("uid is missing")
        budget = Budget(limit_s)
        place = read_place(cursor)
        if channel is not None:
            channel = named_channel(channel)
            await self._replica.catch_up([channel.id])
            count, rest = await self._erase_in(channel, uid, place, budget)
            return Done(count, "" if rest is None else str(rest))
        total = 0
        while place.slot < self._replica.slot_count:
            await self._replica.catch_up_slot(place.slot)
            state = self._replica.slot_now(place.slot)
            page, following = _channels(state, place.start, has_defaults=True)
            for channel in page:
                part = channel_part(channel)
                # The rest of a log is of the channel it was cut in.
                here = place if part == place.start else Place(place.slot, part)
                count, rest = await self._erase_in(channel, uid, here, budget)
                total += count
                if rest is not None:
                    return Done(total, str(rest))
            budget.worked()
            place = Place(place.slot, following) if following else Place(place.slot + 1)
            if budget.is_spent and place.slot < self._replica.slot_count:
                return Done(total, str(place))
        return Done(total, "")

    async def _erase_in(self, channel: ChannelId, uid: str, place: Place, budget: Budget) -> tuple[int, Place | None]:
        total = 0
        part = channel_part(channel)
        pace = Pace()
        seq = place.seq
        for is_cmd in (False, True)[place.is_cmd :]:
            twin = Twin(channel, is_cmd)
            state = self._replica.now(channel.id)
            last = last_seq(state, channel, is_cmd=True) if is_cmd else own_last_seq(state, part, uid)
            while seq < last:
                if budget.is_spent:
                    return total, Place(place.slot, part, is_cmd, seq)
                messages = self._slice(twin, seq + 1, last)
                if not messages:
                    break
                seqs = [m.message_seq for m in messages if m.from_uid == uid and not m.flags & ERASED]
                if seqs:
                    reply = await self._replica.change(channel.id, Erase(channel, is_cmd, uid, seqs))
                    total += reply.message_seq
                seq = messages[-1].message_seq
                budget.worked()
                await pace.step()
            seq = 0
        return total, None


def named_channel(channel: ChannelId) -> ChannelId:
    """By its stored id; two persons may be given in any order. Raises RequestRefused."""
    if not channel.id.strip():
        raise RequestRefused("channel_id is missing")
    check_id(channel.id)
    if channel.type != PERSON:
        return channel
    first, sign, second = channel.id.partition("@")
    if not (first and sign and second):
        raise RequestRefused("a channel of two persons is named by both: alice@bob")
    return ChannelId(PERSON, person_id(first, second))


def checked(policy: RetentionPolicy | None) -> RetentionPolicy | None:
    """Raises RequestRefused."""
    if policy is None:
        return None
    if not 0 <= policy.days <= MAX_DAYS:
        raise RequestRefused(f"days is 0 to {MAX_DAYS}; 0 for any age")
    if not (0 <= policy.count <= MAX_LIMIT and 0 <= policy.bytes <= MAX_LIMIT):
        raise RequestRefused("count and bytes are 0 or more; 0 for any number")
    return policy


def read_place(cursor: str) -> Place:
    """Raises RequestRefused."""
    if not cursor:
        return Place()
    try:
        slot, start, is_cmd, seq = cursor.split(".")
        place = Place(int(slot), bytes.fromhex(start), is_cmd == "1", int(seq))
    except ValueError:
        raise RequestRefused("the cursor is none of an answer") from None
    if place.slot < 0 or place.seq < 0:
        raise RequestRefused("the cursor is none of an answer")
    return place


def _channels(state: State, start: bytes, *, has_defaults: bool) -> tuple[list[ChannelId], bytes]:
    """Some channels of a slot from a channel part on, and the part to go on from: all, or those with a policy."""
    if has_defaults:
        found, rest = browse.heads(state, start=b"h" + start, limit=_PAGE)
        return [channel for channel, _ in found], rest[1:]
    listed, rest = policies(state, start=b"P" + start, limit=_PAGE)
    return [channel for channel, _ in listed if channel.id], rest[1:]
