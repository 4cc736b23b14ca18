"""What the application is to be told: the slot's outbox of webhook events. behaviour.md section 13; architecture.md 6.

Every event is a row, made in the command that caused it, and goes when it is delivered or given up; so none is lost
with a node or a leader. Ids rise in the slot and are positions: a member's interval names the newest id at both of its
ends. A row names the kinds of event that it serves. There is one queue per set of kinds, and one cursor per kind: a
queue begins behind the lowest of its cursors, so nobody passes by deleted keys, nor by rows of other kinds. Only the
slot's leader sends; what it has sent comes back as a command. docs/design/webhooks.md.
"""

import msgspec

from wukong.channel.commands import DONE, AdvanceWebhooks, FreezeOffline, Reply
from wukong.channel.effects import Message, WebhookAdded
from wukong.channel.ids import AGENT, ChannelId, implicit_members
from wukong.channel.members import keep_or_drop
from wukong.channel.state import (
    KEPT,
    Settings,
    State,
    UserRow,
    _decode_user,
    after,
    channel_part,
    encode,
    read_channel_part,
    seq_part,
)

# Kinds of events, as bits.
NOTIFY = 1
OFFLINE = 2
ONLINE = 4
EVENT_NAMES = {NOTIFY: "msg.notify", OFFLINE: "msg.offline", ONLINE: "user.onlinestatus"}

# Work of one command: records passed or frozen, and as many rows of former members that are looked at again.
ROWS_PER_COMMAND = 1_000

_BITS = {name: kind for kind, name in EVENT_NAMES.items()}
_EVERY_KIND = NOTIFY | OFFLINE | ONLINE
_MESSAGE_KINDS = NOTIFY | OFFLINE
# The queues that a kind reads, each under the set of kinds that it serves.
_QUEUES = {NOTIFY: (NOTIFY, _MESSAGE_KINDS), OFFLINE: (OFFLINE, _MESSAGE_KINDS), ONLINE: (ONLINE,)}
# Lists of who was online, under the last id that they are for.
_LISTS = b"w\x10"
_MAX_ID = (1 << 63) - 1


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event that is to be sent. id: rises in the slot; for `recipients` it is the position that counts. at_ms: the
    log's time. channel to message: of a message; message None: it is not there any more, pass it over. entries: of
    ONLINE, "uid-flag-online-connId-countOfFlag-countTotal". online: of OFFLINE, who had a master session when it was
    first looked at (`FreezeOffline`); None: not looked at yet."""

    id: int
    at_ms: int
    channel: ChannelId | None = None
    is_cmd: bool = False
    message: Message | None = None
    entries: list[str] = []
    online: list[str] | None = None


class Backlog(msgspec.Struct, frozen=True, gc=False):
    """Rows that wait and their bytes; the log's time of the oldest, 0 for none; how many events were ever given up."""

    records: int
    bytes: int
    oldest_ms: int
    dropped: int


class _MessageRow(msgspec.Struct, array_like=True, gc=False):
    """message: a copy of one that is not stored. frozen: the list of who was online, 0 for none yet."""

    at_ms: int
    channel: ChannelId
    is_cmd: bool
    seq: int
    frozen: int = 0
    message: Message | None = None


class _StatusRow(msgspec.Struct, array_like=True, gc=False):
    at_ms: int
    entries: list[str]


class _AnyRow(msgspec.Struct, array_like=True, gc=False):
    at_ms: int


_decode_message_row = msgspec.msgpack.Decoder(_MessageRow).decode
_decode_status_row = msgspec.msgpack.Decoder(_StatusRow).decode
_decode_any_row = msgspec.msgpack.Decoder(_AnyRow).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_uids = msgspec.msgpack.Decoder(list[str]).decode


def wanted(settings: Settings) -> int:
    """The kinds of events that the settings ask for. What waits of other kinds is of no use any more."""
    if not settings.webhook_on:
        return 0
    kinds = 0
    for event in settings.webhook_events:
        kinds |= _BITS.get(event, 0)
    return kinds if settings.webhook_events else _EVERY_KIND


# -- writing --


def message_added(state: State, channel: ChannelId, is_cmd: bool, message: Message) -> None:
    """To be called for every accepted message: msg.notify is for stored ones, msg.offline for all but those to agents
    (behaviour.md 13.1, 13.2)."""
    kinds = wanted(state.settings) & _MESSAGE_KINDS
    stored = message.message_seq > 0
    if not stored:
        kinds &= ~NOTIFY
    if channel.type == AGENT:
        kinds &= ~OFFLINE
    if kinds:
        row = _MessageRow(state.now_ms, channel, is_cmd, message.message_seq, 0, None if stored else message)
        record_id = _add(state, kinds, encode(row))
        if kinds & OFFLINE:
            state.slot_row.webhooks.newest_offline = record_id


def statuses_added(state: State, entries: list[str]) -> None:
    """Logins and their ends, in their order."""
    if entries and wanted(state.settings) & ONLINE:
        _add(state, ONLINE, encode(_StatusRow(state.now_ms, entries)))


def _add(state: State, kinds: int, value: bytes) -> int:
    queue = state.slot_row.webhooks
    queue.last += 1
    key = _key(kinds, queue.last)
    state.put(key, value)
    queue.records += 1
    queue.size_bytes += len(key) + len(value)
    wake(state, kinds)
    return queue.last


def wake(state: State, kinds: int) -> None:
    """Tell the sender, once per kind and pack."""
    fresh = kinds & ~state.woken
    if fresh:
        state.woken |= fresh
        state.effects += [WebhookAdded(kind) for kind in EVENT_NAMES if fresh & kind]


def _key(kinds: int, record_id: int) -> bytes:
    return b"w" + bytes((kinds,)) + seq_part(record_id)


def advance(state: State, command: AdvanceWebhooks) -> Reply:
    """Passes at most ROWS_PER_COMMAND records and stops there: who wants to get further asks again."""
    kind, queue = command.kind, state.slot_row.webhooks
    before, upto = cursor(state, kind), min(command.upto, queue.last)
    if upto > before:
        rows = _rows(state, kind, before, upto, ROWS_PER_COMMAND)
        if len(rows) == ROWS_PER_COMMAND:
            upto = _id(rows[-1][0])
        queue.cursors[kind.bit_length() - 1] = upto
        if command.dropped:
            queue.dropped += len(rows)
        for key, value in rows:
            if kind == OFFLINE and _decode_message_row(value).frozen == _id(key):
                _remove(state, _LISTS + key[2:])
            if _begin(state, key[1]) >= _id(key):
                queue.records -= 1
                _remove(state, key, value)
    _drop_kept(state)
    return DONE


def _remove(state: State, key: bytes, value: bytes | None = None) -> None:
    value = state.get(key) if value is None else value
    if value is not None:
        state.slot_row.webhooks.size_bytes -= len(key) + len(value)
        state.delete(key)


def _drop_kept(state: State) -> None:
    """Rows of former members were kept for the events of their time, which now are gone."""
    queue = state.slot_row.webhooks
    begin, end = queue.kept_from or KEPT, KEPT + seq_part(cursor(state, OFFLINE) + 1)
    if begin >= end:
        return
    rows = state.scan(begin, end, limit=ROWS_PER_COMMAND)
    for key, _ in rows:
        state.delete(key)
        offset = len(KEPT) + 8
        channel, at = read_channel_part(key, offset)
        part, uid = key[offset:at], key[at:].decode()
        row = state.user(part, uid)
        if row is not None:
            keep_or_drop(state, channel, part, uid, row)
    queue.kept_from = rows[-1][0] + b"\x00" if len(rows) == ROWS_PER_COMMAND else end


def freeze_offline(state: State, command: FreezeOffline) -> Reply:
    """The first word on a record counts. The list is written once for all of them, under the last one's id, with which
    it goes."""
    queue = state.slot_row.webhooks
    found: list[tuple[bytes, _MessageRow, int]] = []
    done = cursor(state, OFFLINE)
    for record_id in sorted(set(command.ids)):
        keys = [_key(kinds, record_id) for kinds in _QUEUES[OFFLINE]]
        for key, value in zip(keys, state.get_many(keys), strict=True):
            if value is not None and record_id > done:
                row = _decode_message_row(value)
                if not row.frozen:
                    found.append((key, row, len(value)))
    if found:
        last = _id(found[-1][0])
        for key, row, size in found:
            row.frozen = last
            value = encode(row)
            queue.size_bytes += len(value) - size
            state.put(key, value)
        key, value = _LISTS + seq_part(last), encode(command.online)
        queue.size_bytes += len(key) + len(value)
        state.put(key, value)
    return DONE


# -- reading --


def cursor(state: State, kind: int) -> int:
    """All records of that kind up to this id are delivered or given up."""
    return state.slot_row.webhooks.cursors[kind.bit_length() - 1]


def backlog(state: State) -> Backlog:
    """What waits in this slot, whatever its kind. A message that waits for two kinds is one record."""
    queue = state.slot_row.webhooks
    oldest: list[int] = []
    if queue.records:
        for kinds in (*_QUEUES[NOTIFY], *_QUEUES[OFFLINE][:1], ONLINE):
            begin = _key(kinds, _begin(state, kinds) + 1)
            oldest += [_decode_any_row(value).at_ms for _, value in state.scan(begin, after(begin[:2]), limit=1)]
    return Backlog(queue.records, queue.size_bytes, min(oldest, default=0), queue.dropped)


def pending(state: State, kind: int, *, after: int = 0, limit: int) -> list[Record]:
    """Up to `limit` records of that kind, oldest first, behind its cursor and behind id `after`."""
    lists: dict[int, list[str]] = {}
    rows = _rows(state, kind, max(after, cursor(state, kind)), _MAX_ID - 1, limit)
    return [_record(state, kind, _id(key), value, lists) for key, value in rows]


def pending_ids(state: State, kind: int, *, limit: int) -> list[int]:
    """The ids of what `pending` begins with; no message is read for them."""
    return [_id(key) for key, _ in _rows(state, kind, cursor(state, kind), _MAX_ID - 1, limit)]


def _record(state: State, kind: int, record_id: int, value: bytes, lists: dict[int, list[str]]) -> Record:
    """lists: of who was online, as far as they are read already."""
    if kind == ONLINE:
        status = _decode_status_row(value)
        return Record(record_id, status.at_ms, entries=status.entries)
    row = _decode_message_row(value)
    message = row.message
    if message is None:
        stored = state.get((b"K" if row.is_cmd else b"M") + channel_part(row.channel) + seq_part(row.seq))
        message = None if stored is None else _decode_message(stored)
    online = None
    if kind == OFFLINE and row.frozen:
        online = lists.get(row.frozen)
        if online is None:
            online = lists[row.frozen] = _decode_uids(state.get(_LISTS + seq_part(row.frozen)) or b"\x90")
    return Record(record_id, row.at_ms, row.channel, row.is_cmd, message, [], online)


def _rows(state: State, kind: int, behind: int, upto: int, limit: int) -> list[tuple[bytes, bytes]]:
    """Rows of that kind with behind < id <= upto, at most limit, by id."""
    rows: list[tuple[bytes, bytes]] = []
    for kinds in _QUEUES[kind]:
        rows += state.scan(_key(kinds, min(behind, upto) + 1), _key(kinds, upto + 1), limit=limit)
    if len(_QUEUES[kind]) > 1:
        rows.sort(key=lambda row: row[0][2:])
    return rows[:limit]


def _id(key: bytes) -> int:
    return int.from_bytes(key[2:], "big")


def _begin(state: State, kinds: int) -> int:
    """Up to this id the queue is known to be empty."""
    return min(cursor(state, kind) for kind in EVENT_NAMES if kinds & kind)


def recipients(state: State, record: Record, *, start: str = "", limit: int) -> tuple[list[str], str]:
    """Who was to get the message when it was accepted, denied members too, but not its sender nor the system account;
    each uid once in all pages. Looks at up to `limit` names or rows of the channel, so a page may have fewer uids, even
    none, or two more. Also the `start` of the next page, "" behind the last. behaviour.md 8.1, 13.2."""
    message, channel = record.message, record.channel
    if message is None or channel is None or limit <= 0:
        return [], ""
    nobody = {"", message.from_uid, state.settings.system_uid}
    if message.recipients is not None:
        names = list(dict.fromkeys(message.recipients))
        at = int(start or "0")
        following = str(at + limit) if at + limit < len(names) else ""
        return [uid for uid in names[at : at + limit] if uid not in nobody], following
    implicit = implicit_members(channel)
    found = [] if start else [uid for uid in implicit if uid not in nobody]
    nobody.update(implicit)
    prefix = b"m" + channel_part(channel)
    # A start is a sign and the uid that was looked at last: there may be a row of the empty uid.
    rows = state.scan(prefix + start[1:].encode() + b"\x00" if start else prefix, after(prefix), limit=limit)
    uid = ""
    for key, value in rows:
        uid = key[len(prefix) :].decode()
        if uid not in nobody and _was_member(_decode_user(value), record.id):
            found.append(uid)
    return found, ":" + uid if len(rows) == limit else ""


def _was_member(row: UserRow, record_id: int) -> bool:
    return any(
        interval.from_event < record_id and (interval.open or record_id <= interval.until_event)
        for interval in row.intervals
    )
