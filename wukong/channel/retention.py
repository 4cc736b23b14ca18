"""Messages that go: the oldest of a log by a policy, those of one user by an erasure. docs/retention.md.

Seqs keep. A log begins at its head's first_seq or first_cmd; below it are no messages, and nothing that only they need:
index rows, events, commands sent by name. Which messages are too many or too old is decided by whoever proposes
(wukong.service.retention); a command says up to where, and apply goes there, never back, a limited number of rows at
once. An erased message keeps its place: seq, id, sender and second stay, what it said is gone.
"""

import msgspec

from wukong.channel.commands import DONE, Erase, PutRetention, Reply, RetentionPolicy, Retire
from wukong.channel.effects import Freed, Message
from wukong.channel.events import drop_thread, has_thread
from wukong.channel.ids import ChannelId
from wukong.channel.messages import (
    ERASED,
    ERASED_PAYLOAD,
    forget_number,
    import_key,
    imported_seq,
    message_by_number,
    messages_between,
    stored_message,
)
from wukong.channel.state import (
    Head,
    State,
    after,
    channel_part,
    encode,
    named_prefix,
    read_channel_part,
    seq_part,
    waiting_key,
)

# Work of one command: messages that are read, and rows that are deleted before it looks at no further message.
MESSAGES_PER_COMMAND = 64
ROWS_PER_COMMAND = 2_000

_decode_policy = msgspec.msgpack.Decoder(RetentionPolicy).decode


def put_retention(state: State, command: PutRetention) -> Reply:
    key = _policy_key(command.channel)
    if command.policy is not None:
        state.put(key, encode(command.policy))
    elif state.get(key) is not None:
        state.delete(key)
    return DONE


def retire(state: State, command: Retire) -> Reply:
    """The reply's message_seq is the seq up to which the log is retired now; below the command's upto: ask again."""
    channel, is_cmd = command.channel, command.is_cmd
    part = channel_part(channel)
    head = state.head(part)
    if head is None:
        return DONE
    first = head.first_cmd if is_cmd else head.first_seq
    upto = min(command.upto, head.cmd_seq if is_cmd else head.last_seq)
    if upto < first:
        return Reply(message_seq=first - 1)
    messages = messages_between(state, part, is_cmd=is_cmd, first=first, last=upto, limit=MESSAGES_PER_COMMAND)
    imported = imported_seq(state, part, is_cmd=is_cmd)
    done, rows, freed_bytes = upto, 0, 0
    for message in messages:
        rows += _delete(state, part, is_cmd, message, imported)
        freed_bytes += size_bytes(message)
        done = message.message_seq
        if rows >= ROWS_PER_COMMAND:
            break
    if is_cmd:
        head.first_cmd = done + 1
    else:
        head.first_seq = done + 1
    state.put_head(part, head)
    state.effects.append(Freed(channel, is_cmd, first, done, freed_bytes))
    return Reply(message_seq=done)


def _delete(state: State, part: bytes, is_cmd: bool, message: Message, imported: int) -> int:
    """A message and what belongs to it; returns how many rows were touched."""
    seq = message.message_seq
    row = seq_part(seq)
    state.delete((b"K" if is_cmd else b"M") + part + row)
    rows = 1
    if seq <= imported:
        state.delete(import_key(part, is_cmd) + seq_part(message.message_id))
        rows += 1
    rows += _forget_words(state, part, is_cmd, message)
    if is_cmd:
        for uid in dict.fromkeys(message.recipients or ()):
            _forget_name(state, part, uid, seq)
            rows += 2
    else:
        own = b"o" + part + message.from_uid.encode()
        if state.get(own) == row:
            state.delete(own)
            rows += 1
    return rows


def _forget_words(state: State, part: bytes, is_cmd: bool, message: Message) -> int:
    """The number of a message, and its events unless another stored message has the number as well."""
    number = message.client_msg_no
    if not number:
        return 0
    rows = forget_number(state, part, is_cmd, message)
    if not is_cmd and has_thread(state, part, number) and message_by_number(state, part, number) is None:
        rows += drop_thread(state, part, number)
    return rows


def _forget_name(state: State, part: bytes, uid: str, seq: int) -> None:
    """A command that named the user. Where those begin that are left is remembered, as after a confirmation."""
    prefix = named_prefix(part, uid)
    state.delete(prefix + seq_part(seq))
    waiting = waiting_key(part, uid)
    if state.get(waiting) == seq_part(seq):
        rest = state.scan(prefix + seq_part(seq + 1), after(prefix), limit=1)
        if rest:
            state.put(waiting, rest[0][0][-8:])
        else:
            state.delete(waiting)


def erase(state: State, command: Erase) -> Reply:
    """The reply's message_seq is how many messages were erased by this command."""
    channel, is_cmd = command.channel, command.is_cmd
    part = channel_part(channel)
    count = freed_bytes = 0
    first = last = 0
    for seq in sorted(set(command.seqs)):
        message = stored_message(state, part, is_cmd, seq)
        if message is None or message.from_uid != command.uid or message.flags & ERASED:
            continue
        state.put((b"K" if is_cmd else b"M") + part + seq_part(seq), encode(_erased(message)))
        _forget_words(state, part, is_cmd, message)
        count += 1
        freed_bytes += size_bytes(message)
        first, last = first or seq, seq
    if count:
        state.effects.append(Freed(channel, is_cmd, first, last, freed_bytes, is_erased=True))
    return Reply(message_seq=count)


def _erased(message: Message) -> Message:
    return msgspec.structs.replace(
        message, flags=message.flags | ERASED, setting=0, client_msg_no="", payload=ERASED_PAYLOAD, topic=""
    )


# -- reading --


def size_bytes(message: Message) -> int:
    """What a message counts for in a limit of bytes: its texts and payload as they came. Rows are compressed on disk,
    and have some forty bytes more."""
    return len(message.payload) + len(message.client_msg_no) + len(message.from_uid) + len(message.topic)


def policy_of(state: State, channel: ChannelId) -> RetentionPolicy | None:
    """The channel's own policy; None: that of its type counts, if there is one. An empty id: that of the type, in slot
    0."""
    row = state.get(_policy_key(channel))
    return None if row is None else _decode_policy(row)


def policies(state: State, *, start: bytes = b"", limit: int) -> tuple[list[tuple[ChannelId, RetentionPolicy]], bytes]:
    """Policies of this slot in key order, in pages as those of browse.py."""
    rows = state.scan(max(b"P", start), after(b"P"), limit=limit)
    found = [(read_channel_part(key, 1)[0], _decode_policy(row)) for key, row in rows]
    return found, rows[-1][0] + b"\x00" if len(rows) == limit else b""


def first_seq(head: Head | None, *, is_cmd: bool = False) -> int:
    """Where the log begins; behind its last seq if nothing is left of it."""
    if head is None:
        return 1
    return head.first_cmd if is_cmd else head.first_seq


def _policy_key(channel: ChannelId) -> bytes:
    return b"P" + channel_part(channel)
