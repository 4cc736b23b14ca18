"""A user's conversations: the list that clients start from, and what the back end changes in it. http-api.md section
11, behaviour.md section 10.

Which conversations exist is in the rows of the user's channels, slot by slot; everything else (unread, order, recents)
follows from the logs when it is asked for. A list is read behind one barrier over all slots, in slices; each
conversation is read in one piece.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from wukong.channel.commands import CHAT_OP_CLEAR, CHAT_OP_DELETE, CHAT_OP_SET_UNREAD, UpdateChat
from wukong.channel.conversations import Conversation, conversation, visible_range
from wukong.channel.ids import AGENT, PERSON, ChannelId, shown_id, stored_channel
from wukong.channel.state import State, channel_part
from wukong.errors import RequestRefused
from wukong.limits import MIB
from wukong.service.replica import Pace, Replica, check_id
from wukong.service.shapes import ConversationShape, shape_message

# Recents of one conversation, whatever is asked for: they are read in one piece.
MAX_RECENTS = 1_000
# Payloads of one answer; beyond it each further conversation has only its newest message.
ANSWER_BYTES = 32 * MIB

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 500
DEFAULT_RECENTS = 15
MAX_CHANNELS_ASKED = 10_000

_SLICE = 256

Seqs = Mapping[tuple[str, int], int]


class _Found(NamedTuple):
    """A conversation in the order of the list: newest first, then by key."""

    seconds: int
    channel: ChannelId


def _order(found: _Found) -> tuple[int, bytes]:
    return -found.seconds, channel_part(found.channel)


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
    ) -> list[ConversationShape]:
        """Conversations that have something to show, newest message first.

        last_seqs: (channel id as the user sees it, type) -> seq the client has; only newer messages count.
        unread_only: where the client named none, only messages above the read position.
        exclude_types: not these, unless named in last_seqs.
        page: from 1; 0 gives the newest user_max_count.
        msg_count: recents of each, at most MAX_RECENTS; below 1 the answer is empty (http-api.md 21, no 37)."""
        if msg_count < 1:
            return []
        check_id(uid)
        known = last_seqs or {}
        found = await self._found(uid)
        if page > 0:
            size = min(page_size, MAX_PAGE_SIZE) if page_size > 0 else DEFAULT_PAGE_SIZE
            found = found[(page - 1) * size : page * size]
        else:
            found = found[: self._user_max_count]
        system_uid = self._replica.settings.system_uid
        pace = Pace()
        shapes: list[ConversationShape] = []
        payload_bytes = 0
        for _, channel in found:
            await pace.step()
            shown = shown_id(channel, uid)
            after_seq = known.get((shown, channel.type))
            if channel.type in exclude_types and after_seq is None:
                continue
            if channel.type == PERSON and shown == system_uid:
                continue
            view = conversation(
                self._replica.now(channel.id),
                channel,
                uid,
                after_seq=after_seq or 0,
                unread_only=unread_only,
                count=min(msg_count, MAX_RECENTS) if payload_bytes < ANSWER_BYTES else 1,
            )
            if view is None or not view.messages:
                continue
            payload_bytes += sum(len(message.payload) for message in view.messages)
            shapes.append(self._shape(view, shown, 0))
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

    async def channels(self, uid: str) -> list[ChannelId]:
        """Stored channels of the user's newest conversations, newest first, at most user_max_count."""
        found = await self._found(check_id(uid), with_empty=True)
        return [channel for _, channel in found[: self._user_max_count]]

    async def _found(self, uid: str, *, with_empty: bool = False) -> list[_Found]:
        """All conversations of a user, ordered by their last message (D-13); without those that show nothing."""
        states = await self._replica.read_all()
        pace = Pace()
        found: list[_Found] = []
        for slot in range(len(states)):
            start = b""
            while True:
                # Asked for anew after each await: a snapshot may have taken the place of a slot's rows.
                state = self._replica.slot_now(slot)
                channels = state.channels_of(uid, start=start, limit=_SLICE)
                for channel in channels:
                    seconds = _seconds(state, channel, uid, with_empty=with_empty)
                    if seconds is not None:
                        found.append(_Found(seconds, channel))
                await pace.step()
                if len(channels) < _SLICE:
                    break
                start = channel_part(channels[-1]) + b"\x00"
        found.sort(key=_order)
        return found

    def _shape(self, view: Conversation, shown: str, updated_ms: int) -> ConversationShape:
        settings = self._replica.settings
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
            recents=[shape_message(view.channel, message, settings) for message in view.messages],
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


def _seconds(state: State, channel: ChannelId, uid: str, *, with_empty: bool) -> int | None:
    """When the conversation last changed, or None if there is none (or nothing in it to show)."""
    part = channel_part(channel)
    row = state.user(part, uid)
    if row is None or not row.chat:
        return None
    head = state.head(part)
    newest = 0 if head is None else head.last_seq
    if newest == 0 or head is None:
        return row.updated_ms // 1000 if with_empty else None
    first, last = visible_range(row, newest)
    return head.last_ts if with_empty or first <= last else None
