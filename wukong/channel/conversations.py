"""Read positions, and conversations and commands derived from the log. behaviour.md sections 10 and 12.

Nothing about a conversation is stored that follows from the log: unread, order and lists are computed when asked.
"""

import msgspec

from wukong.channel.commands import (
    CHAT_OP_CLEAR,
    CHAT_OP_DELETE,
    AdvanceCommands,
    RememberSync,
    Reply,
    TakeSync,
    UpdateChat,
)
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId, implicit_members
from wukong.channel.members import keep_or_drop
from wukong.channel.messages import messages_between, own_last_seq, stored_message
from wukong.channel.state import (
    Head,
    State,
    UserRow,
    after,
    channel_part,
    encode,
    named_prefix,
    part,
    read_channel_part,
    seq_part,
    waiting_key,
)

# A contiguous confirmation looks at so many commands that may have named others; behind more of them it does nothing.
MAX_LOOK_BACK = 64

_decode_positions = msgspec.msgpack.Decoder(list[tuple[ChannelId, int]]).decode


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """A user's view of one channel. last_seq: newest message he may see; unread and read_seq by behaviour.md 10.2.
    messages: newest first."""

    channel: ChannelId
    unread: int
    read_seq: int
    last_seq: int
    messages: list[Message]


def update_chat(state: State, command: UpdateChat) -> Reply:
    part_ = channel_part(command.channel)
    head = state.head(part_)
    last = 0 if head is None else head.last_seq
    uid = command.uid
    row = state.user(part_, uid)
    if command.op == CHAT_OP_DELETE:
        if row is not None and row.chat:
            row.deleted_seq = last
            row.updated_ms = state.now_ms
            state.put_user(part_, uid, row, fresh=False)
        return Reply()
    if row is not None and row.chat and row.until_seq >= 0:
        last = row.until_seq
    if last == 0:
        return Reply()
    if command.op == CHAT_OP_CLEAR or command.unread == 0:
        target = last
    elif 0 < command.unread <= last:
        target = last - command.unread
    else:
        target = last - 1
    fresh = row is None
    if row is None:
        row = UserRow(created_ms=state.now_ms)
    if not row.chat and not row.member and uid not in implicit_members(command.channel):
        # Somebody who left, and whose screen still showed the channel: he gets no later message.
        row.until_seq = last
    row.chat = True
    row.read_seq = max(row.read_seq, target)
    row.updated_ms = state.now_ms
    state.put_user(part_, uid, row, fresh=fresh)
    return Reply()


def advance_commands(state: State, command: AdvanceCommands) -> Reply:
    channel, uid = command.channel, command.uid
    part_ = channel_part(channel)
    head = state.head(part_)
    if head is None:
        return Reply()
    row = state.user(part_, uid)
    seq = min(command.seq, head.cmd_seq)
    waiting = _waiting_from(state, part_, uid) if head.named_seq else 0
    if command.contiguous and (
        0 < waiting < seq or (row is not None and not _is_next(state, channel, part_, head, uid, row, seq))
    ):
        return Reply()
    if row is not None and seq > row.cmd_read:
        row.cmd_read = seq
        keep_or_drop(state, channel, part_, uid, row)
    if 0 < waiting <= seq:
        _confirm_named(state, part_, uid, waiting, seq)
    return Reply()


def _is_next(state: State, channel: ChannelId, part_: bytes, head: Head, uid: str, row: UserRow, seq: int) -> bool:
    """Whether no unconfirmed command to all members lies below seq in the user's times of membership."""
    between = []
    left = MAX_LOOK_BACK
    for before, last in _times(channel, uid, row, head.cmd_seq):
        first, last = max(row.cmd_read, before, head.first_cmd - 1) + 1, min(last, seq - 1)
        if first <= last:
            left -= last - first + 1
            if last > head.named_seq or left < 0:
                # Behind the last command that named somebody all are for all members.
                return False
            between.append((first, last))
    return all(
        message.recipients is not None
        for first, last in between
        for message in messages_between(state, part_, is_cmd=True, first=first, last=last, limit=MAX_LOOK_BACK)
    )


def _times(channel: ChannelId, uid: str, row: UserRow, newest: int) -> list[tuple[int, int]]:
    """(command seq before, last command seq) of the times in which the user was a member."""
    if uid in implicit_members(channel):
        return [(0, newest)]
    return [(interval.from_cmd, newest if interval.open else interval.until_cmd) for interval in row.intervals]


def _waiting_from(state: State, part_: bytes, uid: str) -> int:
    """The lowest unconfirmed command of the channel that named the user, 0 for none."""
    row = state.get(waiting_key(part_, uid))
    return 0 if row is None else int.from_bytes(row, "big")


def _confirm_named(state: State, part_: bytes, uid: str, waiting: int, seq: int) -> None:
    """Delete what named the user up to seq. Where the rest begins is remembered, so that nobody passes by the deleted
    ones again."""
    prefix = named_prefix(part_, uid)
    for key, _ in state.scan(prefix + seq_part(waiting), prefix + seq_part(seq + 1)):
        state.delete(key)
    rest = state.scan(prefix + seq_part(seq + 1), after(prefix), limit=1)
    if rest:
        state.put(waiting_key(part_, uid), rest[0][0][-8:])
    else:
        state.delete(waiting_key(part_, uid))


def remember_sync(state: State, command: RememberSync) -> Reply:
    key = b"p" + command.uid.encode()
    if command.positions:
        state.put(key, encode(command.positions))
    else:
        state.delete(key)
    return Reply()


def take_sync(state: State, command: TakeSync) -> Reply:
    key = b"p" + command.uid.encode()
    row = state.get(key)
    if row is None:
        return Reply(positions=[])
    state.delete(key)
    return Reply(positions=_decode_positions(row))


# -- reading --


def is_sync_remembered(state: State, uid: str) -> bool:
    """Whether /message/sync left positions that nobody has confirmed yet."""
    return state.get(b"p" + uid.encode()) is not None


def visible_range(row: UserRow, last: int) -> tuple[int, int]:
    """(first, last) chat seq that the conversation shows: for somebody who left and kept it, it ends where his
    membership ended. History itself is not restricted (http-api.md 9.8)."""
    return row.deleted_seq + 1, last if row.until_seq < 0 else row.until_seq


def conversation(
    state: State, channel: ChannelId, uid: str, *, after_seq: int, unread_only: bool, count: int, hidden: bool = False
) -> Conversation | None:
    """The user's conversation with up to count newest messages, or None when there is none (hidden: show it anyway).

    after_seq: only messages above it (what the client has). unread_only: only messages above the read position, when
    after_seq is 0."""
    part_ = channel_part(channel)
    head = state.peek_head(part_)
    row = state.user(part_, uid)
    if row is None or not row.chat:
        if not hidden:
            return None
        row = row or UserRow()
    newest, retired = (0, 0) if head is None else (head.last_seq, head.first_seq - 1)
    first, last = (1, newest) if hidden else visible_range(row, newest)
    if after_seq > 0:
        first = max(first, after_seq + 1)
    elif unread_only:
        first = max(first, row.read_seq + 1)
    messages = messages_between(state, part_, is_cmd=False, first=first, last=last, limit=count, newest=True, head=head)
    messages.reverse()
    # What is not there any more cannot be read: it counts as read.
    read = max(row.read_seq, min(retired, last))
    unread, read = _unread(state, part_, uid, read, last, messages)
    return Conversation(channel, unread, read, last, messages)


def _unread(state: State, part_: bytes, uid: str, read: int, last: int, newest_first: list[Message]) -> tuple[int, int]:
    if newest_first and newest_first[0].from_uid == uid:
        return 0, newest_first[0].message_seq
    unread = max(0, last - read)
    own = own_last_seq(state, part_, uid)
    if read < own <= last and last - own < unread:
        return last - own, own
    return unread, read


def conversations_of(state: State, uid: str) -> list[tuple[int, ChannelId]]:
    """(second of the last message or of the row's change, channel) of every conversation the user has in this slot."""
    found = []
    for channel in state.channels_of(uid):
        part_ = channel_part(channel)
        row = state.user(part_, uid)
        if row is None or not row.chat:
            continue
        head = state.peek_head(part_)
        found.append((head.last_ts if head is not None and head.last_ts else row.updated_ms // 1000, channel))
    return found


def pending_commands(state: State, uid: str, *, limit: int) -> list[tuple[ChannelId, list[Message]]]:
    """Commands for the user that he has not confirmed, per channel, ascending, at most limit in total: those of the
    times of his membership (D-15) and those sent to him by name.

    What is cut off lies above what is handed out, channel by channel, so confirming the last seq handed out of each
    channel loses nothing (D-16)."""
    by_name = _sent_by_name(state, uid, limit)
    channels = state.channels_of(uid)
    if by_name:
        channels = sorted({*channels, *by_name}, key=channel_part)
    found: list[tuple[ChannelId, list[Message]]] = []
    left = limit
    for channel in channels:
        if left <= 0:
            break
        part_ = channel_part(channel)
        messages = _commands_of_member(state, channel, part_, uid, left)
        if channel in by_name:
            named = [stored_message(state, part_, True, seq) for seq in by_name[channel]]
            messages += [message for message in named if message is not None]
            messages.sort(key=lambda message: message.message_seq)
            del messages[left:]
        if messages:
            found.append((channel, messages))
            left -= len(messages)
    return found


def _commands_of_member(state: State, channel: ChannelId, part_: bytes, uid: str, limit: int) -> list[Message]:
    """The lowest unconfirmed commands that went to all members while the user was one."""
    head = state.peek_head(part_)
    if head is None or head.cmd_seq == 0:
        # Most channels; a user may be in ten thousand.
        return []
    row = state.user(part_, uid)
    if row is None or head.cmd_seq <= row.cmd_read:
        return []
    messages: list[Message] = []
    for before, last in _times(channel, uid, row, head.cmd_seq):
        first = max(row.cmd_read, before, head.first_cmd - 1) + 1
        while first <= last and len(messages) < limit:
            page = messages_between(state, part_, is_cmd=True, first=first, last=last, limit=limit - len(messages))
            if not page:
                break
            messages += [message for message in page if message.recipients is None]
            first = page[-1].message_seq + 1
    return messages


def _sent_by_name(state: State, uid: str, limit: int) -> dict[ChannelId, list[int]]:
    """Seqs of the first `limit` unconfirmed commands that named the user, in key order."""
    prefix = b"r" + part(uid)
    found: dict[ChannelId, list[int]] = {}
    for key, waiting in state.scan(prefix, after(prefix), limit=limit):
        named = named_prefix(key[len(prefix) :], uid)
        seqs = [int.from_bytes(row[-8:], "big") for row, _ in state.scan(named + waiting, after(named), limit=limit)]
        found[read_channel_part(key, len(prefix))[0]] = seqs
        limit -= len(seqs)
        if limit <= 0:
            break
    return found
