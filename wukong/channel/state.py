"""The state of one slot: its rows, their keys, and the working set in memory.

Rule: apply is a pure function of this slot's rows and the command (architecture.md section 4). Everything here reads
and writes through a small key-value Protocol; what is kept in memory (channel heads, settings, streams, who may not
send) is written through, so sizes of 0 and 1 give the same results. docs/design/state.md tells the whole.

Keys: one letter, then length-prefixed parts, so that no id can run into another; the last part is plain.
  h C            head: flags, last seqs, counts          z              the slot: last message id, the log's time
  m C uid        member and conversation of a user       S node         stream of a node
  M C seq        message        K C seq  command         c / y / Y      settings / system uids (copies) / their home
  i|I C no uid   idempotency of chat | commands          f uid          user flags (copy)
  q ms ...       expiry of idempotency without a row     l C uid        lists of uid against the peer (copy)
  o C uid        own last chat seq                       t uid flag     device token
  d|a C uid      deny | allow list                       s uid ...      session
  u uid C        channels of a user, n uid their count   p uid          positions handed out by /message/sync
  e uid C seq    command with explicit recipients        x id           outbox      g C staged uid   staged members
  r uid C        the first of them that is unconfirmed   N node         table of nodes (slot 0)
  G C staged n   the parts in which they came           j|J C id       seq of an imported message
  j|J C          the last imported seq of chat | commands   v C no key   lane of events; without key: their message
  T C no key n   piece n of a lane's text                   E ms C no key   lanes that are open
  P C            retention policy of a channel; without id, in slot 0: of all of a type
  w kinds id     webhook record; with 16, 32 for kinds: who was online, rows that are kept for records
"""

from typing import Protocol

import msgspec

from wukong.channel.effects import Effect
from wukong.channel.ids import ChannelId


class KeyValue(Protocol):
    """What the state machine needs from a store: reads see its own writes. Keys are relative to the slot."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]: ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def scan(
        self, start: bytes, end: bytes | None = None, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]: ...


class Head(msgspec.Struct, array_like=True, gc=False):
    """One row per channel. `known`: an info record exists. Times in ms, last_* of messages in seconds. flags_version:
    under which the flags of a user were last copied to other slots, 0: never. named_seq: the last command that was sent
    by name, 0 for none. first_seq, first_cmd: what is below was retired (retention.py)."""

    known: bool = False
    large: bool = False
    ban: bool = False
    disband: bool = False
    send_ban: bool = False
    allow_stranger: bool = False
    last_seq: int = 0
    last_ts: int = 0
    cmd_seq: int = 0
    cmd_ts: int = 0
    members: int = 0
    denied: int = 0
    allowed: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    flags_version: int = 0
    named_seq: int = 0
    first_seq: int = 1
    first_cmd: int = 1


class Interval(msgspec.Struct, array_like=True, gc=False):
    """From when to when somebody was a member: log index, chat seq and command seq at each end; a message is for the
    member if from < seq <= to. until_index 0: still a member. *_event: the newest msg.offline record of the slot."""

    from_index: int
    from_seq: int
    from_cmd: int
    until_index: int = 0
    until_seq: int = 0
    until_cmd: int = 0
    from_event: int = 0
    until_event: int = 0

    @property
    def open(self) -> bool:
        return self.until_index == 0


class UserRow(msgspec.Struct, array_like=True, gc=False):
    """A user in a channel: membership intervals and conversation. `chat`: the conversation exists.
    read_seq, deleted_seq: positions in the chat; cmd_read: position in the command twin. until_seq: the last seq the
    conversation shows to somebody who is no member any more and kept it; -1: it goes on."""

    intervals: list[Interval] = []
    chat: bool = False
    read_seq: int = 0
    deleted_seq: int = 0
    cmd_read: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    until_seq: int = -1

    @property
    def member(self) -> bool:
        return bool(self.intervals) and self.intervals[-1].until_index == 0


class Settings(msgspec.Struct, frozen=True, gc=False):
    """Cluster settings on which apply depends; a copy lives in every slot. webhook_events: empty for all.
    webhook_backlog_bytes: of webhook records that may wait in one slot, 0 for any number; the sender sees to it."""

    token_auth_on: bool = False
    whitelist_off_of_person: bool = True
    system_uid: str = "____system"
    manager_uid: str = "____manager"
    cmd_suffix: str = "____cmd"
    visitors_suffix: str = "___vstr"
    visitors_on: bool = False
    online_cmd_channel_id: str = "systemcmdonline"
    idempotency_retention_ms: int = 7 * 24 * 3600 * 1000
    no_persist_idempotency_retention_ms: int = 10 * 60 * 1000
    members_per_command: int = 1000
    conversation_on: bool = True
    webhook_on: bool = False
    webhook_events: list[str] = []
    webhook_backlog_bytes: int = 0


class WebhookQueue(msgspec.Struct, array_like=True, gc=False):
    """last: the newest id; newest_offline: that of a record of msg.offline. cursors: of the kinds, in the order of
    their bits. records, size_bytes: rows that wait. dropped: events ever given up. kept_from: the key below which no
    row is kept for records. sweep_from: the key of sessions from which on some are dead; empty when none are known."""

    last: int = 0
    newest_offline: int = 0
    cursors: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    records: int = 0
    size_bytes: int = 0
    dropped: int = 0
    kept_from: bytes = b""
    sweep_from: bytes = b""


class SlotRow(msgspec.Struct, array_like=True, gc=False):
    """id_ms, id_step: the last message id's parts. time_ms: the log's own time, never backwards. expired: the key of
    the queue `q` below which nothing is left. open_lanes, lanes_from: rows of the queue `E`, and the key below which
    there is none."""

    id_ms: int = 0
    id_step: int = 0
    time_ms: int = 0
    version: int = 0
    outbox: int = 0
    expired: bytes = b"q"
    open_lanes: int = 0
    lanes_from: bytes = b"E"
    webhooks: WebhookQueue = msgspec.field(default_factory=WebhookQueue)


class Stream(msgspec.Struct, array_like=True, gc=False):
    """A node's stream into this slot. replies: of the counters in (done, last], oldest first. ended: this incarnation
    is over, whatever it still sends."""

    incarnation: int = 0
    last: int = 0
    done: int = 0
    replies: list[bytes] = []
    ended: bool = False


# Rows of users who left, by the msg.offline record for which they are kept: they were members when it was made.
KEPT = b"w\x20"

# Bits of a user's flags, as other slots have a copy of them.
USER_SEND_BAN = 1

_ONE = (1).to_bytes(4, "big")

encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_user = msgspec.msgpack.Decoder(UserRow).decode
_decode_settings = msgspec.msgpack.Decoder(Settings).decode
_decode_slot = msgspec.msgpack.Decoder(SlotRow).decode
_decode_stream = msgspec.msgpack.Decoder(Stream).decode
_decode_uids = msgspec.msgpack.Decoder(tuple[int, list[str]]).decode
_decode_copy = msgspec.msgpack.Decoder(tuple[int, bytes]).decode


def part(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def channel_part(channel: ChannelId) -> bytes:
    raw = channel.id.encode()
    return bytes((channel.type,)) + len(raw).to_bytes(2, "big") + raw


def read_channel_part(key: bytes, offset: int) -> tuple[ChannelId, int]:
    """The channel written at offset by `channel_part`, and the offset behind it."""
    size = int.from_bytes(key[offset + 1 : offset + 3], "big")
    end = offset + 3 + size
    return ChannelId(key[offset], key[offset + 3 : end].decode()), end


def after(prefix: bytes) -> bytes:
    """The first key behind every key that starts with prefix."""
    raw = prefix.rstrip(b"\xff")
    return raw[:-1] + bytes((raw[-1] + 1,))


def seq_part(seq: int) -> bytes:
    return seq.to_bytes(8, "big")


def named_prefix(part_: bytes, uid: str) -> bytes:
    """Keys of the channel's commands that named the user, up to their seq."""
    return b"e" + part(uid) + part_


def waiting_key(part_: bytes, uid: str) -> bytes:
    """Key of the seq of the first of them that the user has not confirmed; without one there is no row."""
    return b"r" + part(uid) + part_


class State:
    """One slot. `effects` collects what the commands of the current step ask for, in order.

    head_limit: channel heads kept in memory (the working set); 0 keeps none.
    """

    def __init__(self, slot: int, view: KeyValue, *, head_limit: int = 4096) -> None:
        self.slot = slot
        self.view = view
        self.get = view.get
        self.get_many = view.get_many
        self.put = view.put
        self.delete = view.delete
        self.scan = view.scan
        self.effects: list[Effect] = []
        self.now_ms = 0
        self.index = 0
        self.node = 0
        self.incarnation = 0
        # Kinds of webhook events of which the present pack has told the sender.
        self.woken = 0
        self._head_limit = head_limit
        self._heads: dict[bytes, Head] = {}
        self.reload()

    def reload(self) -> None:
        """Read the working set again, after the rows below changed as a whole (start, snapshot)."""
        self._heads.clear()
        # Below it the outbox is known to be empty: where to begin to read, nothing else.
        self.owed_from = 0
        row = self.get(b"z")
        self.slot_row = SlotRow() if row is None else _decode_slot(row)
        row = self.get(b"c")
        self.settings = Settings() if row is None else _decode_settings(_decode_copy(row)[1])
        row = self.get(b"y")
        self.system_uids: frozenset[str] = frozenset(() if row is None else _decode_uids(row)[1])
        # Asked for with every message, and few: kept in memory, written through by the copies.
        self.send_banned: set[str] = set()
        for key, value in self.scan(b"f", after(b"f")):
            if _decode_copy(value)[1][0] & USER_SEND_BAN:
                self.send_banned.add(key[1:].decode())
        self.streams: dict[int, Stream] = {}
        for key, value in self.scan(b"S", after(b"S")):
            self.streams[int.from_bytes(key[1:], "big")] = _decode_stream(value)

    # -- heads --

    def head(self, part_: bytes) -> Head | None:
        """The head of the channel with this key part, or None for one never written to."""
        head = self._heads.get(part_)
        if head is None:
            row = self.get(b"h" + part_)
            if row is None:
                return None
            head = _decode_head(row)
            self._remember(part_, head)
        return head

    def peek_head(self, part_: bytes) -> Head | None:
        """The head, for reading only: what a user's login or sync passes by does not push out what apply works on."""
        head = self._heads.get(part_)
        if head is None:
            row = self.get(b"h" + part_)
            return None if row is None else _decode_head(row)
        return head

    def put_head(self, part_: bytes, head: Head) -> None:
        self.put(b"h" + part_, encode(head))
        if self._heads.get(part_) is not head:
            self._remember(part_, head)

    def _remember(self, part_: bytes, head: Head) -> None:
        if self._head_limit <= 0:
            return
        if len(self._heads) >= self._head_limit and part_ not in self._heads:
            del self._heads[next(iter(self._heads))]
        self._heads[part_] = head

    # -- users of a channel --

    def user(self, part_: bytes, uid: str) -> UserRow | None:
        row = self.get(b"m" + part_ + uid.encode())
        return None if row is None else _decode_user(row)

    def is_member(self, part_: bytes, uid: str) -> bool:
        row = self.get(b"m" + part_ + uid.encode())
        return row is not None and _decode_user(row).member

    def put_user(self, part_: bytes, uid: str, row: UserRow, *, fresh: bool) -> None:
        """Write a user's row; fresh: it did not exist, so the user's list of channels grows."""
        raw = uid.encode()
        self.put(b"m" + part_ + raw, encode(row))
        if fresh:
            self.list_channel(part_, [raw])

    def delete_user(self, part_: bytes, uid: str) -> None:
        raw = uid.encode()
        self.delete(b"m" + part_ + raw)
        self.unlist_channel(part_, [raw])

    def list_channel(self, part_: bytes, raw_uids: list[bytes]) -> None:
        """The channel is one more in the lists of these users."""
        # The count lets a login skip slots where the user has no channel with one cheap look-up.
        keys = [b"n" + raw for raw in raw_uids]
        for raw, key, row in zip(raw_uids, keys, self.get_many(keys), strict=True):
            self.put(b"u" + len(raw).to_bytes(2, "big") + raw + part_, b"")
            self.put(key, _ONE if row is None else (int.from_bytes(row, "big") + 1).to_bytes(4, "big"))

    def unlist_channel(self, part_: bytes, raw_uids: list[bytes]) -> None:
        """The channel is one less in the lists of these users."""
        keys = [b"n" + raw for raw in raw_uids]
        for raw, key, row in zip(raw_uids, keys, self.get_many(keys), strict=True):
            self.delete(b"u" + len(raw).to_bytes(2, "big") + raw + part_)
            if row is None or row <= _ONE:
                self.delete(key)
            else:
                self.put(key, (int.from_bytes(row, "big") - 1).to_bytes(4, "big"))

    def channels_of(self, uid: str, *, start: bytes = b"", limit: int | None = None) -> list[ChannelId]:
        """The channels in which the user has a row, in key order, from the channel part `start` on."""
        raw = uid.encode()
        if self.get(b"n" + raw) is None:
            return []
        prefix = b"u" + len(raw).to_bytes(2, "big") + raw
        rows = self.scan(prefix + start, after(prefix), limit=limit)
        return [read_channel_part(key, len(prefix))[0] for key, _ in rows]

    # -- the slot --

    def put_stream(self, node: int, stream: Stream) -> None:
        self.streams[node] = stream
        self.put(b"S" + node.to_bytes(2, "big"), encode(stream))

    def put_slot_row(self) -> None:
        self.put(b"z", encode(self.slot_row))

    def next_version(self) -> int:
        self.slot_row.version += 1
        return self.slot_row.version
