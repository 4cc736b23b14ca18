"""Versioned copies: facts whose authority is one slot and which other slots need to decide.

The authority's command writes an outbox row per copy and asks for its propagation; a slot takes a copy only if its
version is newer than what it has; when all copies of a version are applied the outbox rows are forgotten. After a
crash the outbox finishes the job. architecture.md section 4.
"""

import msgspec

from wukong.channel.commands import (
    OP_ADD,
    ForgetOutbox,
    PutCopy,
    PutSettings,
    Reply,
    UpdateSystemUids,
    encode_command,
)
from wukong.channel.effects import Propagate
from wukong.channel.ids import PERSON, ChannelId
from wukong.channel.state import (
    USER_SEND_BAN,
    State,
    UserRow,
    _decode_copy,
    _decode_settings,
    _decode_uids,
    after,
    channel_part,
    encode,
    seq_part,
)

_decode_outbox = msgspec.msgpack.Decoder(tuple[int, str, bytes]).decode
_decode_uid_list = msgspec.msgpack.Decoder(list[str]).decode
_decode_put_copy = msgspec.msgpack.Decoder(PutCopy).decode


class SystemRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Row `Y` of slot 0. added: over the API. named: by the datasource."""

    version: int = 0
    added: list[str] = []
    named: list[str] = []


_decode_system_row = msgspec.msgpack.Decoder(SystemRow).decode

COPY_USER = 1  # key [uid], value one byte of USER_* bits
COPY_PAIR = 2  # key [stored pair id, owner uid, uid whose conversation to make or ""], value one byte of PAIR_* bits
COPY_SETTINGS = 3  # key [], value Settings
COPY_SYSTEM_UIDS = 4  # key [], value array of uids

EVERY_SLOT = ""


def propagate(state: State, version: int, target: str, copy: PutCopy) -> None:
    """Owe a copy to the slot of a routing key, or to every slot when target is empty."""
    state.slot_row.outbox += 1
    outbox_id = state.slot_row.outbox
    command = encode_command(copy)
    state.put(b"x" + seq_part(outbox_id), encode((version, target, command)))
    state.effects.append(Propagate(version, outbox_id, target, command))


def owed(state: State, *, limit: int | None = None) -> list[Propagate]:
    """What the outbox still owes, oldest first, up to limit records (after a restart or a change of leader)."""
    found = []
    for key, row in state.scan(b"x" + seq_part(state.owed_from), after(b"x"), limit=limit):
        version, target, command = _decode_outbox(row)
        found.append(Propagate(version, int.from_bytes(key[1:], "big"), target, command))
    # Numbers only rise, so the next look passes by none of the deleted ones below.
    if found:
        state.owed_from = found[0].outbox_id
    elif limit != 0:
        state.owed_from = state.slot_row.outbox + 1
    return found


def pending_version(state: State) -> int:
    """The newest version while any copies of this authority are owed, 0 if there are none."""
    return state.slot_row.version if owed(state, limit=1) else 0


def forget_outbox(state: State, command: ForgetOutbox) -> Reply:
    for outbox_id in command.ids:
        state.delete(b"x" + seq_part(outbox_id))
    return Reply()


def put_settings(state: State, command: PutSettings) -> Reply:
    if command.initial and (decided := _decided_settings(state)):
        return Reply(version=decided, duplicate=True)
    version = state.next_version()
    propagate(state, version, EVERY_SLOT, PutCopy(COPY_SETTINGS, version, [], command.settings))
    return Reply(version=version)


def settings_version(state: State) -> int:
    """The version of the settings that this slot goes by, 0 while it has none and goes by the defaults."""
    row = state.get(b"c")
    return 0 if row is None else _decode_copy(row)[0]


def _decided_settings(state: State) -> int:
    """The version of the settings that were last decided here (slot 0), 0 for none. Their home needs no row of its own:
    from their command on they are owed, and they are forgotten only when this slot has its copy as well. Looks through
    the whole outbox; a node asks once in a life."""
    version = settings_version(state)
    for record in owed(state):
        if _decode_put_copy(record.command).kind == COPY_SETTINGS:
            version = max(version, record.version)
    return version


def system_uids(state: State) -> list[str]:
    """The authority's list (slot 0), in the order in which they were added; without those of the datasource."""
    return _system_row(state).added


def datasource_uids(state: State) -> list[str]:
    """Whom the datasource named last (slot 0)."""
    return _system_row(state).named


def _system_row(state: State) -> SystemRow:
    row = state.get(b"Y")
    return SystemRow() if row is None else _decode_system_row(row)


def update_system_uids(state: State, command: UpdateSystemUids) -> Reply:
    row = _system_row(state)
    named = row.named
    present = dict.fromkeys(row.added)
    if command.from_datasource:
        named = list(dict.fromkeys(command.uids))
    else:
        for uid in command.uids:
            if command.op == OP_ADD:
                present[uid] = None
            else:
                present.pop(uid, None)
    version = state.next_version()
    added = list(present)
    # Without a datasource the row is what it was before there were any.
    state.put(b"Y", encode((version, added, named) if named else (version, added)))
    uids = list(dict.fromkeys(added + named))
    propagate(state, version, EVERY_SLOT, PutCopy(COPY_SYSTEM_UIDS, version, [], encode(uids)))
    return Reply(version=version)


def put_copy(state: State, command: PutCopy) -> Reply:
    kind, version = command.kind, command.version
    if kind == COPY_SYSTEM_UIDS:
        row = state.get(b"y")
        if row is None or _decode_uids(row)[0] < version:
            uids = _decode_uid_list(command.value)
            state.put(b"y", encode((version, uids)))
            state.system_uids = frozenset(uids)
    elif kind == COPY_SETTINGS:
        if _newer(state, b"c", version):
            state.put(b"c", encode((version, command.value)))
            state.settings = _decode_settings(command.value)
    elif kind == COPY_USER:
        uid = command.key[0]
        key = b"f" + uid.encode()
        if _newer(state, key, version):
            state.put(key, encode((version, command.value)))
            if command.value[0] & USER_SEND_BAN:
                state.send_banned.add(uid)
            else:
                state.send_banned.discard(uid)
    elif kind == COPY_PAIR:
        pair, owner, chat_uid = command.key
        part = channel_part(ChannelId(PERSON, pair))
        key = b"l" + part + owner.encode()
        if _newer(state, key, version):
            state.put(key, encode((version, command.value)))
        if chat_uid:
            _make_conversation(state, part, chat_uid)
    return Reply()


def _newer(state: State, key: bytes, version: int) -> bool:
    row = state.get(key)
    return row is None or _decode_copy(row)[0] < version


def _make_conversation(state: State, part: bytes, uid: str) -> None:
    row = state.user(part, uid)
    if row is None:
        state.put_user(part, uid, UserRow(chat=True, created_ms=state.now_ms, updated_ms=state.now_ms), fresh=True)
    elif not row.chat:
        row.chat = True
        row.updated_ms = state.now_ms
        state.put_user(part, uid, row, fresh=False)
