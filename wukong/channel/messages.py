"""Appending messages: duplicates, permission, seq, timestamp, id, rows. behaviour.md sections 5.4 and 7.

message_seq counts from 1 without gaps, separately for a chat and its command twin. Times come with the command and
never run backwards per channel; ids are snowflakes with the slot in the node bits, always above the slot's last.
"""

from hashlib import blake2b

import msgspec

from wukong.channel import permissions, webhooks
from wukong.channel.commands import Append, Reply
from wukong.channel.effects import FanOut, Message
from wukong.channel.ids import CUSTOMER_SERVICE, PERSON, ChannelId, implicit_members
from wukong.channel.state import (
    Head,
    State,
    UserRow,
    after,
    channel_part,
    encode,
    named_prefix,
    seq_part,
    waiting_key,
)

NO_PERSIST = 1
# A flag of stored messages alone: what it said is gone (retention.py).
ERASED = 0x10
# What readers get instead: JSON as in every payload, and 0 is the type that SDKs show as unknown content.
ERASED_PAYLOAD = b'{"type":0}'

SNOWFLAKE_EPOCH_MS = 1288834974657  # 2010-11-04T01:42:54.657Z
_STEP_LIMIT = 4096
# The times that ids can carry; the last one leaves room for steps that run ahead of the clock (year 2080).
FIRST_MS = SNOWFLAKE_EPOCH_MS
LAST_MS = SNOWFLAKE_EPOCH_MS + (1 << 41) - (1 << 32)

# No log gets there; requests may name any number.
_MAX_SEQ = (1 << 63) - 1

_decode_message = msgspec.msgpack.Decoder(Message).decode


def append(state: State, command: Append) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    key = b""
    if command.client_msg_no:
        key = idempotency_key(part, command.is_cmd, command.client_msg_no, command.from_uid)
        first = _first_result(state, command, part, key)
        if first is not None:
            return first
    head = state.head(part)
    message_id = _next_message_id(state)
    reason = permissions.may_append(
        state, channel, part, head, command.from_uid, is_cmd=command.is_cmd, trusted=command.trusted
    )
    if reason != permissions.SUCCESS:
        return Reply(reason, message_id)
    if head is None:
        head = Head(created_ms=state.now_ms, updated_ms=state.now_ms)
    now_s = state.now_ms // 1000
    if command.flags & NO_PERSIST:
        message = _message(command, message_id, 0, max(now_s, head.cmd_ts if command.is_cmd else head.last_ts))
        if key:
            _remember_unstored(state, key, message)
    else:
        message = _store(state, command, part, head, message_id, now_s)
        if key:
            state.put(key, seq_part(message.message_seq))
    state.effects.append(FanOut(channel, command.is_cmd, message, state.node, command.session))
    if state.settings.webhook_on:
        webhooks.message_added(state, channel, command.is_cmd, message)
    return Reply(permissions.SUCCESS, message_id, message.message_seq, message.timestamp)


def _message(command: Append, message_id: int, seq: int, timestamp: int) -> Message:
    return Message(
        message_id,
        seq,
        command.flags,
        command.setting,
        command.from_uid,
        command.client_msg_no,
        timestamp,
        command.payload,
        command.expire,
        command.topic,
        command.recipients,
    )


def _store(state: State, command: Append, part: bytes, head: Head, message_id: int, now_s: int) -> Message:
    if command.is_cmd:
        seq = head.cmd_seq = head.cmd_seq + 1
        timestamp = head.cmd_ts = max(now_s, head.cmd_ts)
        kind = b"K"
    else:
        seq = head.last_seq = head.last_seq + 1
        timestamp = head.last_ts = max(now_s, head.last_ts)
        kind = b"M"
        state.put(b"o" + part + command.from_uid.encode(), seq_part(seq))
    message = _message(command, message_id, seq, timestamp)
    state.put(kind + part + seq_part(seq), encode(message))
    if command.is_cmd and command.recipients is not None:
        head.named_seq = seq
        _index_recipients(state, command, part, seq)
    state.put_head(part, head)
    if seq == 1:
        _first_message(state, command, part, seq)
    return message


def _index_recipients(state: State, command: Append, part: bytes, seq: int) -> None:
    """Explicit recipients find a command by their name; nobody else does."""
    for uid in command.recipients or ():
        state.put(named_prefix(part, uid) + seq_part(seq), b"")
        waiting = waiting_key(part, uid)
        if state.get(waiting) is None:
            state.put(waiting, seq_part(seq))


def _first_message(state: State, command: Append, part: bytes, seq: int) -> None:
    """Rows that appear with a message instead of a subscription: conversations of both sides for types 1 and 3 (for
    persons only while strangers may write; else the allow list makes them), and what implicit members need to find
    commands. behaviour.md 10.1, 12."""
    channel = command.channel
    chat = (
        not command.is_cmd
        and channel.type in (PERSON, CUSTOMER_SERVICE)
        and (channel.type != PERSON or state.settings.whitelist_off_of_person)
    )
    for uid in implicit_members(channel):
        if uid == state.settings.system_uid:
            continue
        row = state.user(part, uid)
        fresh = row is None
        if row is None:
            row = UserRow(created_ms=state.now_ms, updated_ms=state.now_ms)
        if chat and not row.chat:
            row.chat = True
            row.read_seq = seq if uid == command.from_uid else row.read_seq
            row.updated_ms = state.now_ms
        elif not fresh:
            continue
        state.put_user(part, uid, row, fresh=fresh)


# -- ids --


def _next_message_id(state: State) -> int:
    row = state.slot_row
    if state.now_ms > row.id_ms:
        row.id_ms = state.now_ms
        row.id_step = 0
    else:
        row.id_step += 1
        if row.id_step == _STEP_LIMIT:
            row.id_ms += 1
            row.id_step = 0
    return (row.id_ms - SNOWFLAKE_EPOCH_MS) << 22 | (state.slot & 1023) << 12 | row.id_step


# -- duplicates --

# A row of a stored message is its seq, 8 bytes; of one that is not stored, see `_remember_unstored`.
_UNSTORED_BYTES = 32
_EXPIRED_PER_MESSAGE = 2


def idempotency_key(part: bytes, is_cmd: bool, client_msg_no: str, uid: str) -> bytes:
    raw = client_msg_no.encode()
    return (b"I" if is_cmd else b"i") + part + len(raw).to_bytes(2, "big") + raw + uid.encode()


def _first_result(state: State, command: Append, part: bytes, key: bytes) -> Reply | None:
    """The reply of the first message with this number by this sender and with this payload, while it is remembered.
    Another payload under the same number is a new message (behaviour.md section 7), and so is one to be stored after
    one that was not."""
    row = state.get(key)
    if row is None:
        return None
    if len(row) == 8:
        message = stored_message(state, part, command.is_cmd, int.from_bytes(row, "big"))
        if (
            message is None
            or message.payload != command.payload
            or message.timestamp * 1000 + state.settings.idempotency_retention_ms < state.now_ms
        ):
            return None
        return Reply(1, message.message_id, message.message_seq, message.timestamp, duplicate=True)
    if not command.flags & NO_PERSIST:
        return None
    if row[24:_UNSTORED_BYTES] != _payload_hash(command.payload) or int.from_bytes(row[:8], "big") <= state.now_ms:
        return None
    message_id, timestamp = int.from_bytes(row[8:16], "big"), int.from_bytes(row[16:24], "big")
    return Reply(1, message_id, 0, timestamp, duplicate=True)


def _payload_hash(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8).digest()


def _remember_unstored(state: State, key: bytes, message: Message) -> None:
    """A row of the end of its time, message id, timestamp and payload's hash, and behind them the seq of the stored
    message that had the number before: that one must stay findable by its number."""
    before = state.get(key)
    stored = b"" if before is None else before if len(before) == 8 else before[_UNSTORED_BYTES:]
    until = seq_part(state.now_ms + state.settings.no_persist_idempotency_retention_ms)
    facts = seq_part(message.message_id) + seq_part(message.timestamp) + _payload_hash(message.payload)
    state.put(key, until + facts + stored)
    state.put(b"q" + until + key, b"")
    # Two leave for each that comes, so the queue shrinks again after a burst. What comes later ends later, so the next
    # look begins where this one stops and passes by no deleted key.
    end = b"q" + seq_part(state.now_ms)
    expired = state.scan(state.slot_row.expired, end, limit=_EXPIRED_PER_MESSAGE)
    for old, _ in expired:
        state.delete(old)
        row = state.get(old[9:])
        if row is not None and len(row) == _UNSTORED_BYTES and row[:8] == old[1:9]:
            state.delete(old[9:])
    state.slot_row.expired = expired[-1][0] + b"\x00" if len(expired) == _EXPIRED_PER_MESSAGE else end


def forget_number(state: State, part: bytes, is_cmd: bool, message: Message) -> int:
    """A stored message is not found by its number any more, nor answers repeats. Returns how many rows changed."""
    key = idempotency_key(part, is_cmd, message.client_msg_no, message.from_uid)
    row = state.get(key)
    if row is None or len(row) == _UNSTORED_BYTES or row[-8:] != seq_part(message.message_seq):
        return 0
    if len(row) == 8 or int.from_bytes(row[:8], "big") <= state.now_ms:
        # Of a message that was not stored and whose time is over, the queue may be past it already.
        state.delete(key)
    else:
        state.put(key, row[:_UNSTORED_BYTES])
    return 1


# -- reading --


def stored_message(state: State, part: bytes, is_cmd: bool, seq: int) -> Message | None:
    row = state.get((b"K" if is_cmd else b"M") + part + seq_part(seq))
    return None if row is None else _decode_message(row)


def messages_between(
    state: State,
    part: bytes,
    *,
    is_cmd: bool,
    first: int,
    last: int,
    limit: int,
    newest: bool = False,
    head: Head | None = None,
) -> list[Message]:
    """Messages with first <= seq <= last, ascending, at most limit of them: the lowest, or with newest the highest.
    head: of the channel, if it was read already."""
    head = head or state.peek_head(part)
    if head is None:
        return []
    # Not to pass by what was retired: a store remembers deleted rows for a while.
    first, last = max(first, head.first_cmd if is_cmd else head.first_seq), min(last, _MAX_SEQ)
    if first > last or limit <= 0:
        return []
    prefix = (b"K" if is_cmd else b"M") + part
    rows = state.scan(prefix + seq_part(first), prefix + seq_part(last + 1), limit=limit, reverse=newest)
    found = [_decode_message(row) for _, row in rows]
    if newest:
        found.reverse()
    return found


def message_by_id(state: State, part: bytes, message_id: int, *, is_cmd: bool = False) -> Message | None:
    """Our own ids rise with seq inside a channel, so they need no index: a search by halves. Those of imported messages
    need not, and have one."""
    head = state.head(part)
    if head is None or message_id <= 0:
        return None
    imported = imported_seq(state, part, is_cmd=is_cmd)
    if imported:
        row = state.get(import_key(part, is_cmd) + seq_part(message_id)) if message_id <= _MAX_SEQ else None
        if row is not None:
            return stored_message(state, part, is_cmd, int.from_bytes(row, "big"))
    low = max(imported + 1, head.first_cmd if is_cmd else head.first_seq)
    high = head.cmd_seq if is_cmd else head.last_seq
    while low <= high:
        middle = (low + high) // 2
        rows = messages_between(state, part, is_cmd=is_cmd, first=middle, last=high, limit=1)
        if not rows:
            high = middle - 1
            continue
        message = rows[0]
        if message.message_id == message_id:
            return message
        if message.message_id < message_id:
            low = message.message_seq + 1
        else:
            high = middle - 1
    return None


def message_by_number(state: State, part: bytes, client_msg_no: str, *, is_cmd: bool = False) -> Message | None:
    """The newest stored message with this client_msg_no, whoever sent it."""
    if not client_msg_no:
        return None
    prefix = idempotency_key(part, is_cmd, client_msg_no, "")
    seqs = [
        int.from_bytes(row[-8:], "big") for _, row in state.scan(prefix, after(prefix)) if len(row) != _UNSTORED_BYTES
    ]
    return stored_message(state, part, is_cmd, max(seqs)) if seqs else None


def import_key(part: bytes, is_cmd: bool) -> bytes:
    """Key of the last imported seq of a log; with an id behind it, of the seq of that imported message."""
    return (b"J" if is_cmd else b"j") + part


def imported_seq(state: State, part: bytes, *, is_cmd: bool) -> int:
    """Messages up to here came from another server; 0: none did."""
    row = state.get(import_key(part, is_cmd))
    return 0 if row is None else int.from_bytes(row, "big")


def own_last_seq(state: State, part: bytes, uid: str) -> int:
    row = state.get(b"o" + part + uid.encode())
    return 0 if row is None else int.from_bytes(row, "big")


def last_seq(state: State, channel: ChannelId, *, is_cmd: bool = False) -> int:
    head = state.head(channel_part(channel))
    if head is None:
        return 0
    return head.cmd_seq if is_cmd else head.last_seq
