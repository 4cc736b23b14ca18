"""Looking through everything that is stored, for operators and their console. http-api.md 13.3 and 13.4.

Every node holds everything, so every node answers alone, behind a barrier. There are no indexes for this: rows are read
in the order of their keys, in slices, and what an answer has room for is kept. So that browsing costs clients nothing
that they would notice, one look-through runs at a time, and each has limits: rows, messages, seconds.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

from wukong.channel import browse
from wukong.channel.browse import Device
from wukong.channel.conversations import Conversation, conversation
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.messages import imported_seq, message_by_id, message_by_number, messages_between, stored_message
from wukong.channel.presence import sessions_of
from wukong.channel.state import Head, State, UserRow, channel_part
from wukong.errors import RequestRefused, Unavailable
from wukong.service.replica import Pace, Replica, check_id

DEFAULT_LIMIT = 20
MAX_LIMIT = 1_000

ROWS_LIMIT_COUNT = 1_000_000
"""Rows of one look-through; where there are more it is refused, and the operator has to name what he looks for."""
MESSAGES_LIMIT_COUNT = 20_000
"""Messages that one search reads; it answers with what it has found in the newest so many."""
TIMEOUT_S = 20.0
ASKED_LIMIT_COUNT = 16
"""Look-throughs that wait or run; a further one is Unavailable. Those that wait take the places of other requests."""

_SLICE = 256
# Of channels that are sorted at once.
_RUN = 4_096

# Minus the second of the last message, channel: in the order in which they are looked at.
_Candidate = tuple[int, ChannelId]

K = TypeVar("K", bound=Any)  # any: whatever can be compared
V = TypeVar("V")


class ChannelEntry(NamedTuple):
    """order: when it was made, in unix nanoseconds, made different from that of every other channel."""

    channel: ChannelId
    head: Head
    slot: int
    order: int


class UserEntry(NamedTuple):
    uid: str
    slot: int
    devices: int
    online_devices: int
    sessions: int


class DeviceEntry(NamedTuple):
    """sessions: live ones of this flag."""

    device: Device
    slot: int
    sessions: int


class ChatEntry(NamedTuple):
    uid: str
    channel: ChannelId
    row: UserRow
    view: Conversation


class Found(NamedTuple):
    channel: ChannelId
    message: Message


class MessageQuery(NamedTuple):
    """What to look for; empty and 0: anything. before, after: message ids that are not among the answer. newest: the
    newest of all that fit, else the oldest (behind `after`)."""

    channel: ChannelId | None = None
    from_uid: str = ""
    message_id: int = 0
    client_msg_no: str = ""
    payload: bytes = b""
    before_id: int = 0
    after_id: int = 0
    before_seq: int = 0
    after_seq: int = 0
    newest: bool = True


class _Smallest(Generic[K, V]):
    """The `count` values with the smallest keys of all that were offered. Keys are different."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[K, V] = {}
        self._bound: K | None = None  # of the keys kept the largest, once there are `count`

    def offer(self, key: K, value: Callable[[], V]) -> None:
        if (self._bound is not None and key >= self._bound) or key in self._kept:
            return
        self._kept[key] = value()
        if len(self._kept) > 2 * self._count:
            self._cut()

    def _cut(self) -> None:
        kept = heapq.nsmallest(self._count, self._kept)
        self._kept = {key: self._kept[key] for key in kept}
        self._bound = kept[-1]

    def values(self) -> list[V]:
        return [self._kept[key] for key in heapq.nsmallest(self._count, self._kept)]


def limit_of(limit: int) -> int:
    return min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT


def order_of(channel: ChannelId, head: Head) -> int:
    """Consoles page by the time at which a channel was made. Milliseconds repeat, so the rest is drawn from the id."""
    return head.created_ms * 1_000_000 + crc32(channel_part(channel)) % 1_000_000


class Browse:
    def __init__(self, replica: Replica, *, rows_limit: int = ROWS_LIMIT_COUNT, timeout_s: float = TIMEOUT_S) -> None:
        self._replica = replica
        self._rows_limit = rows_limit
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._asked = 0

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._asked >= ASKED_LIMIT_COUNT:
            raise Unavailable("too many ask to look through everything at once; try again")
        self._asked += 1
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                yield
        except TimeoutError:
            raise Unavailable(f"looking through everything takes longer than {self._timeout_s:.0f} s") from None
        finally:
            self._asked -= 1

    async def _walk(self, read: Callable[[State, bytes], tuple[list[V], bytes]]) -> AsyncGenerator[tuple[int, V], None]:
        """Rows of all slots, with their slots. Raises RequestRefused beyond the limit."""
        slots = len(await self._replica.read_all())
        pace = Pace()
        seen = 0
        for slot in range(slots):
            start = b""
            while True:
                # Asked for anew after each await: a snapshot may have taken the place of a slot's rows.
                rows, start = read(self._replica.slot_now(slot), start)
                for row in rows:
                    yield slot, row
                seen += _SLICE
                if not start:
                    break
                if seen > self._rows_limit:
                    raise RequestRefused(f"there are more than {self._rows_limit} rows; name what you look for")
                await pace.step()
            await pace.step()

    # -- channels --

    async def channels(
        self,
        *,
        channel_id: str = "",
        channel_type: int = 0,
        fits: Callable[[Head], bool] = lambda head: True,
        limit: int = 0,
        offset: int = 0,
        back: bool = False,
    ) -> tuple[list[ChannelEntry], bool]:
        """Newest first, made before `offset`, or with back the next after it; and whether there are more. channel_id,
        channel_type: only these, the id as it is stored."""
        limit = limit_of(limit)
        kept: _Smallest[int, ChannelEntry] = _Smallest(limit + 1)
        if channel_id:
            state = await self._replica.read(check_id(channel_id))
            for channel in browse.channels_named(state, channel_id):
                head = state.peek_head(channel_part(channel))
                if head is not None and channel_type in (0, channel.type) and fits(head):
                    _offer(kept, ChannelEntry(channel, head, state.slot, order_of(channel, head)), offset, back)
        else:
            async with self._alone():
                async for slot, (channel, head) in self._walk(_read_heads):
                    if channel_type in (0, channel.type) and fits(head):
                        _offer(kept, ChannelEntry(channel, head, slot, order_of(channel, head)), offset, back)
        found = kept.values()
        page = found[:limit]
        return page[::-1] if back else page, len(found) > limit

    async def head(self, channel: ChannelId) -> Head | None:
        state = await self._replica.read(check_id(channel.id))
        return state.peek_head(channel_part(channel))

    async def heads(self, channels: list[ChannelId]) -> list[Head | None]:
        """Of each channel, all behind one barrier."""
        await self._replica.catch_up([check_id(channel.id) for channel in channels])
        pace, found = Pace(), []
        for channel in channels:
            found.append(self._replica.now(channel.id).peek_head(channel_part(channel)))
            await pace.step()
        return found

    # -- users --

    async def users(self, *, uid: str = "", limit: int = 0, behind: str = "") -> tuple[list[UserEntry], bool]:
        """Users with a token or a session, by uid; and whether there are more. behind: only greater uids."""
        limit = limit_of(limit)
        if uid:
            await self._replica.catch_up([check_id(uid)])
            entry = self._user(uid)
            return ([entry] if entry.devices or entry.sessions else []), False
        kept: _Smallest[str, str] = _Smallest(limit + 1)
        async with self._alone():
            async for _, device in self._walk(_read_devices):
                if device.uid > behind:
                    kept.offer(device.uid, lambda device=device: device.uid)  # type: ignore[misc]
            async for _, name in self._walk(_read_session_uids):
                if name > behind:
                    kept.offer(name, lambda name=name: name)  # type: ignore[misc]
        found = kept.values()
        return [self._user(name) for name in found[:limit]], len(found) > limit

    def _user(self, uid: str) -> UserEntry:
        state = self._replica.now(uid)
        flags = {device.device_flag for device in browse.devices(state, uid=uid, limit=_SLICE)[0]}
        sessions = sessions_of(state, uid)
        online = {session.device_flag for session in sessions}
        return UserEntry(uid, state.slot, len(flags | online), len(online), len(sessions))

    async def devices(
        self, *, uid: str = "", device_flag: int = -1, limit: int = 0, behind: str = ""
    ) -> tuple[list[DeviceEntry], bool]:
        """Devices that ever got a token, by uid and flag; and whether there are more. behind: only greater uids."""
        limit = limit_of(limit)
        kept: _Smallest[tuple[str, int], Device] = _Smallest(limit + 1)
        if uid:
            state = await self._replica.read(check_id(uid))
            found, _ = browse.devices(state, uid=uid, limit=_SLICE)
            for device in found:
                _offer_device(kept, device, device_flag, behind)
        else:
            async with self._alone():
                async for _, device in self._walk(_read_devices):
                    _offer_device(kept, device, device_flag, behind)
        found = kept.values()
        return [self._device(device) for device in found[:limit]], len(found) > limit

    def _device(self, device: Device) -> DeviceEntry:
        state = self._replica.now(device.uid)
        sessions = sum(session.device_flag == device.device_flag for session in sessions_of(state, device.uid))
        return DeviceEntry(device, state.slot, sessions)

    # -- conversations --

    async def chats(self, *, uid: str = "", limit: int = 0, page: int = 1) -> tuple[list[ChatEntry], int]:
        """A page, counted from 1, of a user's conversations, newest first, and how many there are; without a uid
        everybody's, in the order of their keys, and 0."""
        limit = limit_of(limit)
        first = (max(page, 1) - 1) * limit
        async with self._alone():
            if not uid:
                return await self._all_chats(first, limit), 0
            found: list[tuple[int, ChannelId]] = []
            slots = len(await self._replica.read_all())
            pace = Pace()
            for slot in range(slots):
                state = self._replica.slot_now(slot)
                for channel in state.channels_of(check_id(uid)):
                    part = channel_part(channel)
                    row, head = state.user(part, uid), state.peek_head(part)
                    if row is not None and row.chat:
                        found.append((0 if head is None else head.last_ts, channel))
                    await pace.step()
                    state = self._replica.slot_now(slot)
            found.sort(key=lambda entry: (-entry[0], entry[1]))
            entries = [self._chat(uid, channel) for _, channel in found[first : first + limit]]
            return [entry for entry in entries if entry is not None], len(found)

    async def _all_chats(self, first: int, limit: int) -> list[ChatEntry]:
        entries: list[ChatEntry] = []
        at = 0
        async with aclosing(self._walk(_read_chats)) as rows:
            async for _, (channel, uid) in rows:
                if at >= first and (entry := self._chat(uid, channel)) is not None:
                    entries.append(entry)
                at += 1
                if len(entries) == limit:
                    break
        return entries

    def _chat(self, uid: str, channel: ChannelId) -> ChatEntry | None:
        state = self._replica.now(channel.id)
        row = state.user(channel_part(channel), uid)
        view = conversation(state, channel, uid, after_seq=0, unread_only=False, count=1)
        return None if row is None or view is None else ChatEntry(uid, channel, row, view)

    # -- messages --

    async def messages(self, query: MessageQuery, *, limit: int = 0) -> tuple[list[Found], int]:
        """Newest first, and how many messages there are where it was looked. Without a channel all are
        looked at, those with the newest messages first, as far as MESSAGES_LIMIT_COUNT goes."""
        limit = limit_of(limit)
        async with self._alone():
            if query.channel is not None:
                head = await self.head(query.channel)
                total = 0 if head is None else head.last_seq - head.first_seq + 1
                candidates: Iterable[_Candidate] = [] if head is None else [(-head.last_ts, query.channel)]
            else:
                candidates, total = await self._candidates(query)
            return await self._search(query, candidates, limit), total

    async def _candidates(self, query: MessageQuery) -> tuple[Iterable[_Candidate], int]:
        """Channels in which there may be what is looked for, those with the newest messages first."""
        runs: list[list[_Candidate]] = [[]]
        total = 0
        async for _, (channel, head) in self._walk(_read_heads):
            total += head.last_seq - head.first_seq + 1
            if head.last_seq >= head.first_seq:
                runs[-1].append((-head.last_ts, channel))
                if len(runs[-1]) == _RUN:
                    runs[-1].sort()
                    runs.append([])
        runs[-1].sort()
        # Merged as they are asked for: to sort all at once would hold the loop.
        return heapq.merge(*runs), total

    async def _search(self, query: MessageQuery, candidates: Iterable[_Candidate], limit: int) -> list[Found]:
        sign = -1 if query.newest else 1
        kept: _Smallest[int, Found] = _Smallest(limit)
        pace = Pace()
        left = MESSAGES_LIMIT_COUNT
        for minus_last_ts, channel in candidates:
            page = kept.values() if query.newest else []
            if len(page) == limit and -minus_last_ts < page[-1].message.timestamp:
                break
            if left <= 0:
                break
            reader = _Reader(query, channel)
            wanted = limit
            while wanted > 0 and left > 0:
                state = self._replica.now(channel.id)
                messages = reader.read(state, min(wanted if not query.payload else _SLICE, _SLICE))
                if not messages:
                    break
                left -= len(messages)
                for message in messages:
                    if _fits(query, message):
                        wanted -= 1
                        found = Found(channel, message)
                        kept.offer(sign * message.message_id, lambda found=found: found)  # type: ignore[misc]
                await pace.step()
            await pace.step()
        answer = kept.values()
        return answer if query.newest else answer[::-1]


class _Reader:
    """Reads a channel's messages from one end, slice by slice."""

    def __init__(self, query: MessageQuery, channel: ChannelId) -> None:
        self._query = query
        self._part = channel_part(channel)
        self._range: tuple[int, int] | None = None

    def read(self, state: State, count: int) -> list[Message]:
        query = self._query
        if query.client_msg_no or query.message_id:
            # There is at most one, and a way to it.
            if self._range is not None:
                return []
            self._range = 1, 0
            if query.message_id:
                message = message_by_id(state, self._part, query.message_id)
            else:
                message = message_by_number(state, self._part, query.client_msg_no)
            return [] if message is None else [message]
        if self._range is None:
            self._range = self._limits(state)
        first, last = self._range
        newest = query.newest
        messages = messages_between(state, self._part, is_cmd=False, first=first, last=last, limit=count, newest=newest)
        if not messages:
            return []
        if newest:
            self._range = first, messages[0].message_seq - 1
            return messages[::-1]
        self._range = messages[-1].message_seq + 1, last
        return messages

    def _limits(self, state: State) -> tuple[int, int]:
        query = self._query
        head = state.peek_head(self._part)
        first, last = (1, 0) if head is None else (head.first_seq, head.last_seq)
        if query.before_seq:
            last = min(last, query.before_seq - 1)
        if query.after_seq:
            first = max(first, query.after_seq + 1)
        # Ids of imported messages need not rise with the seq; there they are only looked at one by one.
        ids_rise = not imported_seq(state, self._part, is_cmd=False)
        if query.before_id and ids_rise:
            last = min(last, _seqs_below(state, self._part, query.before_id, last))
        if query.after_id and ids_rise:
            first = max(first, _seqs_below(state, self._part, query.after_id + 1, last) + 1)
        return first, last


def _seqs_below(state: State, part: bytes, message_id: int, last: int) -> int:
    """The last seq up to `last` whose message has a smaller id; ids rise with the seq. 0: none."""
    low, high = 0, last
    while low < high:
        middle = (low + high + 1) // 2
        message = stored_message(state, part, False, middle)
        if message is None or message.message_id < message_id:
            low = middle
        else:
            high = middle - 1
    return low


def _fits(query: MessageQuery, message: Message) -> bool:
    return (
        (not query.from_uid or message.from_uid == query.from_uid)
        and (not query.client_msg_no or message.client_msg_no == query.client_msg_no)
        and (not query.payload or query.payload in message.payload)
        and (not query.before_id or message.message_id < query.before_id)
        and (not query.after_id or message.message_id > query.after_id)
    )


def _offer(kept: _Smallest[int, ChannelEntry], entry: ChannelEntry, offset: int, back: bool) -> None:
    if offset and (entry.order <= offset if back else entry.order >= offset):
        return
    kept.offer(entry.order if back else -entry.order, lambda: entry)


def _offer_device(kept: _Smallest[tuple[str, int], Device], device: Device, flag: int, behind: str) -> None:
    if device.uid > behind and flag in (-1, device.device_flag):
        kept.offer((device.uid, device.device_flag), lambda: device)


def _read_heads(state: State, start: bytes) -> tuple[list[tuple[ChannelId, Head]], bytes]:
    return browse.heads(state, start=start, limit=_SLICE)


def _read_devices(state: State, start: bytes) -> tuple[list[Device], bytes]:
    return browse.devices(state, start=start, limit=_SLICE)


def _read_session_uids(state: State, start: bytes) -> tuple[list[str], bytes]:
    return browse.session_uids(state, start=start, limit=_SLICE)


def _read_chats(state: State, start: bytes) -> tuple[list[tuple[ChannelId, str]], bytes]:
    return browse.chats(state, start=start, limit=_SLICE)
