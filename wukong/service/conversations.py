"""A user's conversations: the list that clients start from, and what the back end changes in it. http-api.md section
11, behaviour.md section 10.

Which conversations exist is in the rows of the user's channels, slot by slot; everything else (unread, order, recents)
follows from the logs when it is asked for. A list is read behind one barrier over all slots, in slices; each
conversation is read in one piece.
"""

import heapq
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from wukong.channel.commands import CHAT_OP_CLEAR, CHAT_OP_DELETE, CHAT_OP_SET_UNREAD, UpdateChat
from wukong.channel.conversations import Conversation, conversation, visible_range
from wukong.channel.ids import AGENT, PERSON, ChannelId, shown_id, stored_channel
from wukong.channel.messages import last_seq, messages_between, own_last_seq
from wukong.channel.state import State, UserRow, channel_part
from wukong.errors import RequestRefused
from wukong.limits import MIB
from wukong.service.events import Enricher
from wukong.service.messages import without_suffix
from wukong.service.replica import Pace, Replica, check_id
from wukong.service.shapes import ConversationShape, RecentsShape, shape_message

# Recents of one conversation, whatever is asked for: they are read in one piece.
MAX_RECENTS = 1_000
# Payloads of one answer; beyond it each further conversation has only its newest message.
ANSWER_BYTES = 32 * MIB

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 500
DEFAULT_RECENTS = 15
MAX_CHANNELS_ASKED = 10_000

_SLICE = 64

Seqs = Mapping[tuple[str, int], int]


class Wanted(NamedTuple):
    """A channel by its stored id, with the command suffix for its commands, and the lowest seq of interest."""

    channel_id: str
    channel_type: int
    first_seq: int


class _Found(NamedTuple):
    """A conversation; tuples sort in the order of the list: newest first, then by key."""

    minus_seconds: int
    part: bytes
    channel: ChannelId


Bound = Callable[[ChannelId, UserRow], int | None]
"""The seq above which messages of a conversation count, or None to leave it out."""


class Conversations:
    """user_max_count: conversations in one answer that is not cut into pages."""

    def __init__(self, replica: Replica, *, user_max_count: int = 1_000) -> None:
        self._replica = replica
        self._user_max_count = user_max_count

    # -- reading --

    async def sync(
        self,
        uid: str,
        *,
        msg_count: int,
        unread_only: bool = False,
        last_seqs: Seqs | None = None,
        exclude_types: Collection[int] = (),
        page: int = 0,
        page_size: int = 0,
        event_contents: bool = True,
    ) -> list[ConversationShape]:
        """Conversations that have something to show, newest message first. What is left out takes no place on a page,
        nor among the newest user_max_count: so nothing that is asked for is out of reach (WuKongIM cuts first).

        last_seqs: (channel id as the user sees it, type) -> seq the client has; only newer messages count.
        unread_only: where the client named none, only messages above the read position.
        exclude_types: not these, unless named in last_seqs.
        page: from 1; 0 gives the newest user_max_count.
        event_contents: whether lanes of messages come with their contents.
        msg_count: recents of each, at most MAX_RECENTS; below 1 the answer is empty (http-api.md 21, no 37)."""
        if msg_count < 1:
            return []
        check_id(uid)
        known = last_seqs or {}
        system_uid = self._replica.settings.system_uid

        def above(channel: ChannelId, row: UserRow) -> int | None:
            shown = shown_id(channel, uid)
            has_seq = known.get((shown, channel.type))
            if channel.type == PERSON and shown == system_uid:
                return None
            if channel.type in exclude_types and has_seq is None:
                return None
            return has_seq or (row.read_seq if unread_only else 0)

        if page > 0:
            size = min(page_size, MAX_PAGE_SIZE) if page_size > 0 else DEFAULT_PAGE_SIZE
            found = await self._newest(uid, above, start=(page - 1) * size, count=size)
        else:
            found = await self._newest(uid, above, start=0, count=self._user_max_count)
        enricher = Enricher(full=event_contents)
        pace = Pace()
        shapes: list[ConversationShape] = []
        payload_bytes = 0
        for channel in found:
            await pace.step()
            shown = shown_id(channel, uid)
            view = conversation(
                self._replica.now(channel.id),
                channel,
                uid,
                after_seq=known.get((shown, channel.type), 0),
                unread_only=unread_only,
                count=min(msg_count, MAX_RECENTS) if payload_bytes < ANSWER_BYTES else 1,
            )
            if view is None or not view.messages:
                continue
            payload_bytes += sum(len(message.payload) for message in view.messages)
            shapes.append(self._shape(view, shown, 0, enricher))
        return shapes

    async def of_channels(
        self, uid: str, channels: list[tuple[str, int]], *, msg_count: int
    ) -> list[ConversationShape]:
        """One conversation per channel as the user names it, in order, also where there is none; deletion does not
        count here. msg_count below 1: DEFAULT_RECENTS. Raises RequestRefused for more than MAX_CHANNELS_ASKED."""
        if len(channels) > MAX_CHANNELS_ASKED:
            raise RequestRefused(f"{len(channels)} channels asked for; the limit is {MAX_CHANNELS_ASKED}")
        named = [(shown, self._channel(shown, kind, uid)) for shown, kind in channels]
        await self._replica.catch_up([channel.id for _, channel in named])
        pace = Pace()
        shapes: list[ConversationShape] = []
        payload_bytes = 0
        count = min(msg_count, MAX_RECENTS) if msg_count > 0 else DEFAULT_RECENTS
        for shown, channel in named:
            await pace.step()
            state = self._replica.now(channel.id)
            if payload_bytes >= ANSWER_BYTES:
                count = 1
            view = conversation(state, channel, uid, after_seq=0, unread_only=False, count=count, hidden=True)
            assert view is not None
            payload_bytes += sum(len(message.payload) for message in view.messages)
            row = state.user(channel_part(channel), uid)
            shapes.append(self._shape(view, shown, 0 if row is None else row.updated_ms))
        return shapes

    async def recents(
        self, uid: str, wanted: list[Wanted], *, msg_count: int, newest_first: bool
    ) -> list[RecentsShape]:
        """Per channel, in order: the newest msg_count messages at or above its first_seq, newest first; or the oldest
        of them, ascending. msg_count below 1: DEFAULT_RECENTS; at most MAX_RECENTS. Raises RequestRefused for more
        than MAX_CHANNELS_ASKED."""
        if len(wanted) > MAX_CHANNELS_ASKED:
            raise RequestRefused(f"{len(wanted)} channels asked for; the limit is {MAX_CHANNELS_ASKED}")
        settings = self._replica.settings
        count = min(msg_count, MAX_RECENTS) if msg_count > 0 else DEFAULT_RECENTS
        check_id(uid)
        named = [(each, *without_suffix(each.channel_id, each.channel_type, settings.cmd_suffix)) for each in wanted]
        await self._replica.catch_up([check_id(plain) for _, plain, _ in named])
        pace = Pace()
        shapes: list[RecentsShape] = []
        payload_bytes = 0
        for each, plain, is_cmd in named:
            await pace.step()
            state, channel = self._replica.now(plain), ChannelId(each.channel_type, plain)
            part = channel_part(channel)
            messages = messages_between(
                state,
                part,
                is_cmd=is_cmd,
                first=each.first_seq,
                last=last_seq(state, channel, is_cmd=is_cmd),
                limit=count if payload_bytes < ANSWER_BYTES else 1,
                newest=newest_first,
            )
            if newest_first:
                messages.reverse()
            payload_bytes += sum(len(message.payload) for message in messages)
            shown = [shape_message(channel, message, settings, is_cmd=is_cmd) for message in messages]
            own_seq = 0 if is_cmd else own_last_seq(state, part, uid)
            shapes.append(RecentsShape(each.channel_id, each.channel_type, shown or None, own_seq))
        return shapes

    async def channels(self, uid: str) -> list[ChannelId]:
        """Stored channels of the user's newest conversations, newest first, at most user_max_count."""
        return await self._newest(check_id(uid), None, start=0, count=self._user_max_count)

    async def _newest(self, uid: str, above: Bound | None, *, start: int, count: int) -> list[ChannelId]:
        """A user's conversations ordered by their last message (D-13), count of them from the start-th on. above: only
        those with a message above this seq; None: also those without one."""
        states = await self._replica.read_all()
        pace = Pace()
        by_slot: list[list[_Found]] = []
        for slot in range(len(states)):
            found: list[_Found] = []
            begin = b""
            while True:
                # Asked for anew after each await: a snapshot may have taken the place of a slot's rows.
                state = self._replica.slot_now(slot)
                channels = state.channels_of(uid, start=begin, limit=_SLICE)
                for channel in channels:
                    part = channel_part(channel)
                    seconds = _seconds(state, channel, part, uid, above)
                    if seconds is not None:
                        found.append(_Found(-seconds, part, channel))
                await pace.step()
                if len(channels) < _SLICE:
                    break
                begin = channel_part(channels[-1]) + b"\x00"
            found.sort()
            by_slot.append(found)
        chosen: list[ChannelId] = []
        for at, each in enumerate(heapq.merge(*by_slot)):
            if at >= start + count:
                break
            if at >= start:
                chosen.append(each.channel)
            await pace.step()
        return chosen

    def _shape(
        self, view: Conversation, shown: str, updated_ms: int, enricher: Enricher | None = None
    ) -> ConversationShape:
        settings = self._replica.settings
        recents = [shape_message(view.channel, message, settings) for message in view.messages]
        if enricher is not None:
            state, part = self._replica.now(view.channel.id), channel_part(view.channel)
            recents = [enricher.enrich(state, part, shape) for shape in recents]
        newest = view.messages[0] if view.messages else None
        return ConversationShape(
            channel_id=shown,
            channel_type=view.channel.type,
            unread=view.unread,
            timestamp=0 if newest is None else newest.timestamp,
            last_msg_seq=view.last_seq if newest is None else newest.message_seq,
            last_client_msg_no="" if newest is None else newest.client_msg_no,
            offset_msg_seq=0,
            readed_to_msg_seq=view.read_seq,
            version=updated_ms * 1_000_000 if newest is None else newest.timestamp * 1_000_000_000,
            recents=recents,
        )

    def _channel(self, channel_id: str, channel_type: int, uid: str) -> ChannelId:
        if channel_type == AGENT and "@" in channel_id:
            channel = ChannelId(AGENT, channel_id)
        else:
            channel = stored_channel(channel_id, channel_type, uid)
        check_id(channel.id)
        return channel

    # -- changing --

    async def clear_unread(self, uid: str, channel_id: str, channel_type: int) -> None:
        """Everything so far is read; makes the conversation if there are messages."""
        await self._update(uid, channel_id, channel_type, CHAT_OP_CLEAR)

    async def set_unread(self, uid: str, channel_id: str, channel_type: int, unread: int) -> None:
        """Leave the last `unread` messages unread; never more than are unread now (http-api.md 11.3)."""
        await self._update(uid, channel_id, channel_type, CHAT_OP_SET_UNREAD, unread)

    async def delete(self, uid: str, channel_id: str, channel_type: int) -> None:
        """Hide the conversation until its next message."""
        await self._update(uid, channel_id, channel_type, CHAT_OP_DELETE)

    async def _update(self, uid: str, channel_id: str, channel_type: int, op: int, unread: int = 0) -> None:
        channel = self._channel(channel_id, channel_type, check_id(uid))
        await self._replica.change(channel.id, UpdateChat(channel, uid, op, unread))


def _seconds(state: State, channel: ChannelId, part: bytes, uid: str, above: Bound | None) -> int | None:
    """When the conversation last changed, or None if there is none, or nothing in it to show."""
    row = state.user(part, uid)
    if row is None or not row.chat:
        return None
    head = state.peek_head(part)
    if above is None:
        return row.updated_ms // 1000 if head is None or not head.last_seq else head.last_ts
    seq = above(channel, row)
    if head is None or seq is None:
        return None
    first, last = visible_range(row, head.last_seq)
    return head.last_ts if max(first, head.first_seq, seq + 1) <= last else None
