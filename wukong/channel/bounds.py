"""Which commands a slot can hold at all: lengths and ranges, in one place.

Decoding refuses wrong types; here values are refused that no row, key or packet has room for. Whoever proposes checks
before (with a better answer), so this is only the net under apply: a command outside is answered with reason 15 on
every node and changes nothing.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from wukong.channel.commands import (
    CHAT_OP_DELETE,
    EVENT_FINISH,
    LIST_ALLOW,
    OP_CLEAR,
    OP_REMOVE,
    OP_SET,
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    CloseSession,
    Disband,
    DropNode,
    Erase,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    Hello,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    NodeGone,
    OpenSession,
    Pack,
    PostEvent,
    PutChannel,
    PutCopy,
    PutNode,
    PutRetention,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    Retire,
    SetToken,
    StageMembers,
    SweepSessions,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.copies import COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS, COPY_USER
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.messages import LAST_MS, NO_PERSIST, SNOWFLAKE_EPOCH_MS
from wukong.channel.retention import MESSAGES_PER_COMMAND
from wukong.channel.state import Settings
from wukong.channel.webhooks import EVENT_NAMES, ROWS_PER_COMMAND
from wukong.limits import DAY_MS, MAX_CHANNEL_TYPE, MAX_EVENT_PAYLOAD_BYTES, MAX_NODE_ID, MAX_STRING_BYTES

# So many characters fit whatever they are: UTF-8 has at most four bytes for one.
_SHORT = MAX_STRING_BYTES // 4
# Two uids and the sign between them; what the two bytes of a length in a key can say.
_MAX_ID_BYTES = 2 * MAX_STRING_BYTES + 1
_MAX_BYTE = 0xFF
_MAX_FLAGS = 0x0F
_MAX_U32 = 0xFFFF_FFFF
_MAX_NODE = 0xFFFF
_MAX_I63 = 0x7FFF_FFFF_FFFF_FFFF
_MAX_U64 = 0xFFFF_FFFF_FFFF_FFFF
# Of a node: a host name has 255 bytes at most, and the whole table is told to everybody.
_MAX_ADDRESS_BYTES = 1_024
_MAX_RETENTION_MS = 3_650 * DAY_MS
# Beyond it the slot's own ids, which go on above imported ones, would soon have no room.
_MAX_MESSAGE_ID = (LAST_MS - SNOWFLAKE_EPOCH_MS) << 22

_decode_settings = msgspec.msgpack.Decoder(Settings).decode
_decode_uids = msgspec.msgpack.Decoder(list[str]).decode


def pack_fits(pack: Pack) -> bool:
    return 0 <= pack.node <= _MAX_NODE and 0 <= pack.incarnation <= _MAX_I63 and 0 < pack.first <= _MAX_I63


def settings_fit(value: bytes) -> bool:
    """Whether the bytes are settings that apply can work with."""
    try:
        settings = _decode_settings(value)
    except ValueError:
        return False
    retentions = (settings.idempotency_retention_ms, settings.no_persist_idempotency_retention_ms)
    return (
        all(0 <= retention_ms <= _MAX_RETENTION_MS for retention_ms in retentions)
        and 0 <= settings.webhook_backlog_bytes <= _MAX_I63
    )


def _text(text: str) -> bool:
    return len(text) <= _SHORT or len(text.encode()) <= MAX_STRING_BYTES


def _texts(texts: list[str]) -> bool:
    return all(map(_text, texts))


def _id(text: str) -> bool:
    return len(text) <= _SHORT or len(text.encode()) <= _MAX_ID_BYTES


def _channel(channel: ChannelId) -> bool:
    return 0 <= channel.type <= MAX_CHANNEL_TYPE and _id(channel.id)


def _append(c: Append) -> bool:
    channel = c.channel
    # The common case in one comparison; this runs for every message.
    short = len(channel.id) + len(c.from_uid) + len(c.client_msg_no) + len(c.topic) <= _SHORT
    return (
        (short or (_id(channel.id) and _texts([c.from_uid, c.client_msg_no, c.topic])))
        and 0 <= channel.type <= MAX_CHANNEL_TYPE
        and 0 <= c.flags <= _MAX_FLAGS
        and 0 <= c.setting <= _MAX_BYTE
        and 0 <= c.expire <= _MAX_U32
        and 0 <= c.session <= _MAX_I63
        and (c.recipients is None or _texts(c.recipients))
    )


def _put_copy(c: PutCopy) -> bool:
    if not 0 <= c.version <= _MAX_I63:
        return False
    if c.kind == COPY_USER:
        return len(c.key) == 1 and _text(c.key[0]) and len(c.value) == 1
    if c.kind == COPY_PAIR:
        return len(c.key) == 3 and _id(c.key[0]) and _texts(c.key[1:]) and len(c.value) == 1
    if c.kind == COPY_SETTINGS:
        return settings_fit(c.value)
    return c.kind == COPY_SYSTEM_UIDS and _uids_fit(c.value)


def _uids_fit(value: bytes) -> bool:
    try:
        return _texts(_decode_uids(value))
    except ValueError:
        return False


def _session(c: OpenSession | CloseSession) -> bool:
    return _text(c.uid) and 0 <= c.session <= _MAX_I63


def _byte(number: int) -> bool:
    return 0 <= number <= _MAX_BYTE


def _node(node: int) -> bool:
    return 0 < node <= MAX_NODE_ID


def _put_node(c: PutNode) -> bool:
    addresses = (c.row.addr, c.row.api_url)
    return (
        _node(c.node)
        and 0 <= c.row.disk <= _MAX_U64
        and all(len(address.encode()) <= _MAX_ADDRESS_BYTES for address in addresses)
    )


def _import_messages(c: ImportMessages) -> bool:
    first = c.messages[0].message_seq if c.messages else 0
    return (
        _channel(c.channel)
        and 0 < first <= _MAX_I63 - len(c.messages)
        and all(message.message_seq == seq for seq, message in enumerate(c.messages, first))
        and all(map(_imported_message, c.messages))
    )


def _imported_message(m: Message) -> bool:
    return (
        0 < m.message_id <= _MAX_MESSAGE_ID
        and 0 <= m.timestamp <= LAST_MS // 1000
        and 0 <= m.flags <= _MAX_FLAGS
        and not m.flags & NO_PERSIST
        and 0 <= m.setting <= _MAX_BYTE
        and 0 <= m.expire <= _MAX_U32
        and _texts([m.from_uid, m.client_msg_no, m.topic])
        and m.recipients is None
    )


def _imported_chat(c: ImportedChat) -> bool:
    return _text(c.uid) and 0 <= c.read_seq <= _MAX_I63 and 0 <= c.deleted_seq <= _MAX_I63


def _post_event(c: PostEvent) -> bool:
    texts = [c.client_msg_no, c.event_key, c.event_id, c.event_type, c.from_uid, c.visibility]
    return (
        _channel(c.channel)
        and _texts(texts)
        and _id(c.shown_id)
        and bool(c.client_msg_no and c.event_key and c.event_id)
        and 0 <= c.kind <= EVENT_FINISH
        and -_MAX_I63 <= c.message_id <= _MAX_I63
        and -_MAX_I63 <= c.occurred_at <= _MAX_I63
        and all(len(data) <= MAX_EVENT_PAYLOAD_BYTES for data in (c.payload, c.content, c.text or "", c.error))
        and _byte(c.end_reason)
    )


FITS: dict[type, Callable[[Any], bool]] = {
    Append: _append,
    PutChannel: lambda c: (
        _channel(c.channel) and _texts(c.add) and 0 <= c.staged <= _MAX_I63 and 0 <= c.parts <= _MAX_U32
    ),
    StageMembers: lambda c: (
        _channel(c.channel) and _texts(c.uids) and 0 < c.staged <= _MAX_I63 and 0 <= c.part <= _MAX_U32
    ),
    RemoveMembers: lambda c: _channel(c.channel) and _texts(c.uids),
    RemoveAllMembers: lambda c: _channel(c.channel),
    Disband: lambda c: _channel(c.channel),
    UpdateList: lambda c: (
        _channel(c.channel) and 0 <= c.which <= LIST_ALLOW and 0 <= c.op <= OP_CLEAR and _texts(c.uids)
    ),
    UpdateChat: lambda c: _channel(c.channel) and _text(c.uid) and 0 <= c.op <= CHAT_OP_DELETE,
    AdvanceCommands: lambda c: _channel(c.channel) and _text(c.uid) and 0 <= c.seq <= _MAX_I63,
    SetToken: lambda c: _text(c.uid) and _byte(c.device_flag) and _byte(c.level),
    QuitDevices: lambda c: _text(c.uid) and all(map(_byte, c.device_flags)),
    OpenSession: lambda c: _session(c) and _byte(c.device_flag),
    CloseSession: _session,
    Hello: lambda c: True,
    RememberSync: lambda c: (
        _text(c.uid) and all(_channel(channel) and 0 <= seq <= _MAX_I63 for channel, seq in c.positions)
    ),
    TakeSync: lambda c: _text(c.uid),
    PutSettings: lambda c: settings_fit(c.settings),
    UpdateSystemUids: lambda c: (c.op == OP_SET if c.from_datasource else 0 <= c.op <= OP_REMOVE) and _texts(c.uids),
    PutCopy: _put_copy,
    ForgetOutbox: lambda c: all(0 <= outbox_id <= _MAX_I63 for outbox_id in c.ids),
    NodeGone: lambda c: 0 <= c.node <= _MAX_NODE and 0 <= c.incarnation <= _MAX_I63,
    PutNode: _put_node,
    DropNode: lambda c: _node(c.node),
    ForgetNode: lambda c: _node(c.node),
    PostEvent: _post_event,
    AdvanceWebhooks: lambda c: c.kind in EVENT_NAMES and 0 <= c.upto <= _MAX_I63,
    FreezeOffline: lambda c: (
        len(c.ids) <= ROWS_PER_COMMAND and all(0 < record_id <= _MAX_I63 for record_id in c.ids) and _texts(c.online)
    ),
    SweepSessions: lambda c: True,
    ImportMessages: _import_messages,
    ImportMembers: lambda c: _channel(c.channel) and _texts(c.uids),
    ImportChats: lambda c: _channel(c.channel) and all(map(_imported_chat, c.chats)),
    PutRetention: lambda c: (
        _channel(c.channel)
        and (c.policy is None or all(0 <= limit <= _MAX_I63 for limit in msgspec.structs.astuple(c.policy)))
    ),
    Retire: lambda c: _channel(c.channel) and 0 <= c.upto <= _MAX_I63,
    Erase: lambda c: (
        _channel(c.channel)
        and _text(c.uid)
        and len(c.seqs) <= MESSAGES_PER_COMMAND
        and all(0 < seq <= _MAX_I63 for seq in c.seqs)
    ),
}
