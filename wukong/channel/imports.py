"""Taking over what another server had: messages with their seqs and ids, members, conversations. docs/migration.md.

An import changes rows and nothing else: no fan-out, no notice to a back end, no conversation but those it names. Every
command may come again. The imported messages are the beginning of a log: once the channel has messages of its own
behind them it takes no more.
"""

from collections.abc import Iterable
from hashlib import blake2b

from wukong.channel.commands import ImportChats, ImportMembers, ImportMessages, Reply
from wukong.channel.effects import MembersChanged, Message
from wukong.channel.ids import implicit_members
from wukong.channel.messages import (
    ERASED,
    SNOWFLAKE_EPOCH_MS,
    idempotency_key,
    import_key,
    imported_seq,
    stored_message,
)
from wukong.channel.state import Head, Interval, State, UserRow, channel_part, encode, seq_part

# Reasons that no client sees: they are above those of the wire protocol.
#   GAP: the messages do not begin where the log ends; the reply's message_seq is its last one.
#   DIFFERS: the log has another message at the reply's message_seq.
GAP = 1_001
DIFFERS = 1_002

DIGEST_BYTES = 16
FIRST_DIGEST = bytes(DIGEST_BYTES)


def import_messages(state: State, command: ImportMessages) -> Reply:
    channel, is_cmd = command.channel, command.is_cmd
    part = channel_part(channel)
    head = state.head(part)
    last = 0 if head is None else head.cmd_seq if is_cmd else head.last_seq
    messages = command.messages
    known = last + 1 - messages[0].message_seq
    if known < 0:
        return Reply(GAP, message_seq=last)
    retired = 0 if head is None else (head.first_cmd if is_cmd else head.first_seq) - 1
    for message in messages[:known]:
        stored = stored_message(state, part, is_cmd, message.message_seq)
        if message.message_seq <= retired or (stored is not None and stored.flags & ERASED):
            # It was here. What is gone does not come back.
            continue
        if stored != message:
            return Reply(DIFFERS, message_seq=message.message_seq)
    fresh = messages[known:]
    if not fresh:
        return Reply(message_seq=last)
    imported = imported_seq(state, part, is_cmd=is_cmd)
    if imported != last:
        # Messages of its own follow. An id is looked up by halves among them, so nothing may be put behind.
        return Reply(DIFFERS, message_seq=imported + 1)
    if head is None:
        head = Head(created_ms=state.now_ms, updated_ms=state.now_ms)
    if fresh[0].message_seq == 1:
        _list_implicit_members(state, command, part)
    _store(state, command, part, fresh)
    newest_s = max(message.timestamp for message in fresh)
    if is_cmd:
        head.cmd_seq, head.cmd_ts = fresh[-1].message_seq, max(head.cmd_ts, newest_s)
    else:
        head.last_seq, head.last_ts = fresh[-1].message_seq, max(head.last_ts, newest_s)
    state.put_head(part, head)
    return Reply(message_seq=fresh[-1].message_seq)


def _store(state: State, command: ImportMessages, part: bytes, messages: list[Message]) -> None:
    is_cmd = command.is_cmd
    kind = (b"K" if is_cmd else b"M") + part
    index = import_key(part, is_cmd)
    senders: dict[str, bytes] = {}
    for message in messages:
        seq = seq_part(message.message_seq)
        state.put(kind + seq, encode(message))
        state.put(index + seq_part(message.message_id), seq)
        if message.client_msg_no:
            state.put(idempotency_key(part, is_cmd, message.client_msg_no, message.from_uid), seq)
        senders[message.from_uid] = seq
    if not is_cmd:
        for uid, seq in senders.items():
            state.put(b"o" + part + uid.encode(), seq)
    state.put(index, seq_part(messages[-1].message_seq))
    # The slot's own ids go on above: whatever node another server put into an id, its milliseconds count.
    row = state.slot_row
    newest_ms = max(message.message_id >> 22 for message in messages) + SNOWFLAKE_EPOCH_MS
    if newest_ms >= row.id_ms:
        row.id_ms, row.id_step = newest_ms + 1, 0


def _list_implicit_members(state: State, command: ImportMessages, part: bytes) -> None:
    """By their rows they find commands, as if the first message had been sent here. Their conversations are named by
    an import of their own."""
    for uid in implicit_members(command.channel):
        if uid != state.settings.system_uid and state.user(part, uid) is None:
            state.put_user(part, uid, UserRow(created_ms=state.now_ms, updated_ms=state.now_ms), fresh=True)


def import_members(state: State, command: ImportMembers) -> Reply:
    part = channel_part(command.channel)
    head = state.head(part)
    if head is None:
        head = Head(created_ms=state.now_ms)
    head.known = True
    head.updated_ms = state.now_ms
    implicit = implicit_members(command.channel)
    added = []
    for uid in _distinct(command.uids):
        row = state.user(part, uid)
        fresh = row is None
        if row is None:
            # Commands of the past are not for him again; whoever asks for them by their log still gets them.
            row = UserRow(cmd_read=head.cmd_seq, created_ms=state.now_ms)
        elif row.member:
            continue
        elif not row.intervals and uid not in implicit:
            row.cmd_read = max(row.cmd_read, head.cmd_seq)
        # It covers the imported past, unless he was a member here before.
        since = (head.last_seq, head.cmd_seq) if row.intervals else (0, 0)
        row.intervals.append(Interval(state.index, *since, from_event=state.slot_row.webhooks.newest_offline))
        row.until_seq = -1
        row.updated_ms = state.now_ms
        state.put_user(part, uid, row, fresh=fresh)
        added.append(uid)
    head.members += len(added)
    state.put_head(part, head)
    if added:
        state.effects.append(MembersChanged(command.channel, added, []))
    return Reply()


def import_chats(state: State, command: ImportChats) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    head = state.head(part)
    if head is None:
        head = Head(created_ms=state.now_ms, updated_ms=state.now_ms)
        state.put_head(part, head)
    last = head.last_seq
    implicit = implicit_members(channel)
    for chat in command.chats:
        if not chat.uid.strip():
            continue
        row = state.user(part, chat.uid)
        fresh = row is None
        if row is None:
            row = UserRow(created_ms=state.now_ms)
        row.chat = True
        row.read_seq = max(row.read_seq, min(chat.read_seq, last))
        row.deleted_seq = max(row.deleted_seq, min(chat.deleted_seq, last))
        if not row.member and chat.uid not in implicit:
            # Somebody who left and kept it: he gets no later message.
            row.until_seq = last
        row.updated_ms = state.now_ms
        state.put_user(part, chat.uid, row, fresh=fresh)
    return Reply()


def _distinct(uids: list[str]) -> list[str]:
    return list(dict.fromkeys(uid for uid in uids if uid.strip()))


# -- comparing --


def digest_of(rows: Iterable[tuple[int, int, str, bytes]], digest: bytes = FIRST_DIGEST) -> bytes:
    """The digest of a log up to these rows (seq, id, sender, payload), from the one up to the row before. sender: ""
    for the built-in system account, as the HTTP API shows it."""
    for seq, message_id, from_uid, payload in rows:
        uid = from_uid.encode()
        head = b"%b%d %d %d " % (digest, seq, message_id, len(uid))
        digest = blake2b(head + uid + payload, digest_size=DIGEST_BYTES).digest()
    return digest
