"""Channel records, members with their intervals, deny and allow lists. behaviour.md section 9; D-10, D-11, D-12.

A membership change is one command, hence one position of the log: who was a member at a message's position follows
from the rows. A removed member's row stays while there are commands of his time that he has not confirmed, or while
his conversation exists.
"""

from collections.abc import Iterable

import msgspec

from wukong.channel.commands import (
    LIST_DENY,
    OP_ADD,
    OP_CLEAR,
    OP_REMOVE,
    OP_SET,
    ChannelInfo,
    Disband,
    PutChannel,
    PutCopy,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    StageMembers,
    UpdateList,
)
from wukong.channel.copies import COPY_PAIR, COPY_USER, pending_version, propagate
from wukong.channel.effects import MembersChanged
from wukong.channel.ids import CUSTOMER_SERVICE, LIVE, PERSON, ChannelId, implicit_members, person_id
from wukong.channel.permissions import PAIR_ALLOWED, PAIR_DENIED, SYSTEM_ERROR
from wukong.channel.state import (
    KEPT,
    USER_SEND_BAN,
    Head,
    Interval,
    State,
    UserRow,
    _decode_user,
    after,
    channel_part,
    encode,
    seq_part,
)

_decode_times = msgspec.msgpack.Decoder(tuple[int, int]).decode


def put_channel(state: State, command: PutChannel) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    if command.reset and command.staged and command.parts and not _is_staged(state, part, command):
        # What is there is no half of anything any more: another reset dropped the rest, or it has been used up.
        _drop_staged(state, part, command.staged)
        return Reply(SYSTEM_ERROR)
    head = state.head(part)
    if head is None:
        head = Head(created_ms=state.now_ms)
    version = _put_info(state, channel, head, command.info)
    head.known = True
    head.updated_ms = state.now_ms
    uids = _clean(command.add)
    removed: list[str] = []
    rows = None
    if command.reset:
        if command.staged:
            uids = _clean([*_take_staged(state, part, command.staged), *uids])
        prefix = b"m" + part
        rows = dict(state.scan(prefix, after(prefix)))
        keep = {prefix + uid.encode() for uid in uids}
        removed = _leave(state, channel, part, head, [row for row in rows.items() if row[0] not in keep])
    added = _join(state, part, head, uids, chats=command.chats and channel.type != LIVE, rows=rows)
    state.put_head(part, head)
    if added or removed:
        state.effects.append(MembersChanged(channel, added, removed))
    return Reply(version=version)


def _put_info(state: State, channel: ChannelId, head: Head, info: ChannelInfo | None) -> int:
    if info is None:
        return 0
    head.large, head.ban, head.disband = info.large, info.ban, info.disband
    head.send_ban, head.allow_stranger = info.send_ban, info.allow_stranger
    if channel.type != PERSON or not (info.send_ban or head.flags_version):
        return 0
    # The flags of type 1 belong to a user; other slots decide on his messages, so they get a copy. A repeat copies
    # again: the first copies may be under way still, and whoever asks waits for the version he is answered.
    version = head.flags_version = state.next_version()
    value = bytes((USER_SEND_BAN if info.send_ban else 0,))
    propagate(state, version, "", PutCopy(COPY_USER, version, [channel.id], value))
    return version


def _clean(uids: list[str]) -> list[str]:
    """Without blanks and repeats, in order."""
    return list(dict.fromkeys(uid for uid in uids if uid.strip()))


def stage_members(state: State, command: StageMembers) -> Reply:
    suffix = channel_part(command.channel) + command.staged.to_bytes(8, "big")
    for uid in _clean(command.uids):
        state.put(b"g" + suffix + uid.encode(), b"")
    if command.part:
        state.put(b"G" + suffix + command.part.to_bytes(4, "big"), b"")
    return Reply()


def _is_staged(state: State, part: bytes, command: PutChannel) -> bool:
    """Whether exactly the parts 1 to command.parts are there."""
    prefix = b"G" + part + command.staged.to_bytes(8, "big")
    rows = state.scan(prefix, after(prefix), limit=command.parts + 1)
    return len(rows) == command.parts and int.from_bytes(rows[-1][0][-4:], "big") == command.parts


def _drop_staged(state: State, part: bytes, staged: int) -> None:
    for kind in (b"g", b"G"):
        prefix = kind + part + staged.to_bytes(8, "big")
        for key, _ in state.scan(prefix, after(prefix)):
            state.delete(key)


def _take_staged(state: State, part: bytes, staged: int) -> list[str]:
    number = staged.to_bytes(8, "big")
    prefix = b"g" + part + number
    size = len(prefix)
    found = []
    # Whatever older resets of this channel left behind goes as well.
    for key, _ in state.scan(b"g" + part, after(prefix)):
        state.delete(key)
        if key.startswith(prefix):
            found.append(key[size:].decode())
    for key, _ in state.scan(b"G" + part, after(b"G" + part + number)):
        state.delete(key)
    return found


def _join(
    state: State, part: bytes, head: Head, uids: list[str], *, chats: bool, rows: dict[bytes, bytes] | None = None
) -> list[str]:
    """Make the uids members; those that were none before. rows: all rows of users of the channel, if they are read
    already."""
    prefix = b"m" + part
    raws = [uid.encode() for uid in uids]
    keys = [prefix + raw for raw in raws]
    found = state.get_many(keys) if rows is None else map(rows.get, keys)
    # Whose rows were equal has equal ones again, and those are most: of new members all.
    made: dict[bytes | None, bytes | None] = {}
    added: list[str] = []
    fresh: list[bytes] = []
    for uid, raw, key, old in zip(uids, raws, keys, found, strict=True):
        if old not in made:
            made[old] = _joined(state, head, old, chats=chats)
        new = made[old]
        if new is None:
            continue
        state.put(key, new)
        added.append(uid)
        if old is None:
            fresh.append(raw)
    state.list_channel(part, fresh)
    head.members += len(added)
    return added


def _joined(state: State, head: Head, old: bytes | None, *, chats: bool) -> bytes | None:
    """The row of somebody who joins, None for one who is a member already."""
    row = UserRow(cmd_read=head.cmd_seq, created_ms=state.now_ms) if old is None else _decode_user(old)
    if row.member:
        return None
    row.intervals = _needed(state, row)
    event = state.slot_row.webhooks.newest_offline
    row.intervals.append(Interval(state.index, head.last_seq, head.cmd_seq, from_event=event))
    if chats:
        row.chat = True
        row.read_seq = max(row.read_seq, head.last_seq)
    row.until_seq = -1
    row.updated_ms = state.now_ms
    return encode(row)


def _leave(
    state: State,
    channel: ChannelId,
    part: bytes,
    head: Head,
    rows: Iterable[tuple[bytes, bytes]],
    *,
    forget_chats: bool = False,
) -> list[str]:
    """End the memberships in these rows (key, value); the uids that were members. forget_chats: the conversations go,
    also of those who left before."""
    size = 1 + len(part)
    # Who is a member by the id as well stays one: his row and his conversation stay.
    implicit = {uid.encode() for uid in implicit_members(channel)}
    made: dict[tuple[bytes, bool], tuple[bytes | None, bool, int]] = {}
    removed: list[str] = []
    dropped: list[bytes] = []
    for key, old in rows:
        raw = key[size:]
        stays = raw in implicit
        outcome = made.get((old, stays))
        if outcome is None:
            outcome = made[old, stays] = _left(state, head, old, stays=stays, forget_chat=forget_chats)
        new, was_member, event = outcome
        if was_member:
            removed.append(raw.decode())
        if event:
            state.put(KEPT + seq_part(event) + key[1:], b"")
        if new is None:
            state.delete(key)
            dropped.append(raw)
        elif new is not old:
            state.put(key, new)
    state.unlist_channel(part, dropped)
    head.members -= len(removed)
    return removed


def _left(state: State, head: Head, old: bytes, *, stays: bool, forget_chat: bool) -> tuple[bytes | None, bool, int]:
    """The row of somebody who leaves (None: nobody needs it any more; old itself: nothing changed), whether he was a
    member, and the webhook record for which the row is kept (0: for none)."""
    row = _decode_user(old)
    member = row.member
    forget_chat = forget_chat and row.chat and not stays
    if not member and not forget_chat:
        return old, False, 0
    event = 0
    if member:
        last = row.intervals[-1]
        last.until_index, last.until_seq, last.until_cmd = state.index, head.last_seq, head.cmd_seq
        last.until_event = state.slot_row.webhooks.newest_offline
        event = last.until_event if _has_events(state, last) else 0
        if row.chat and not stays:
            row.until_seq = head.last_seq
    if forget_chat:
        _clear_chat(row)
    row.updated_ms = state.now_ms
    row.intervals = _needed(state, row)
    return encode(row) if row.intervals or row.chat or stays else None, member, event


def _clear_chat(row: UserRow) -> None:
    """The conversation goes, and its positions with it: a later one must not depend on why the row stayed."""
    row.chat = False
    row.read_seq = row.deleted_seq = 0
    row.until_seq = -1


def _needed(state: State, row: UserRow) -> list[Interval]:
    """Times of membership that last, or with commands that the user has not confirmed, or with messages of which
    msg.offline has not told yet: its recipients are looked up later."""
    return [i for i in row.intervals if i.open or i.until_cmd > max(i.from_cmd, row.cmd_read) or _has_events(state, i)]


def _has_events(state: State, interval: Interval) -> bool:
    """Whether records of the slot, perhaps of this channel, wait that were made in this time, which is over."""
    return interval.until_event > max(interval.from_event, state.slot_row.webhooks.cursors[1])


def keep_or_drop(state: State, channel: ChannelId, part: bytes, uid: str, row: UserRow) -> None:
    """Write a user's row, or delete it when nothing in it is needed any more. Implicit members need theirs to find
    commands."""
    row.intervals = _needed(state, row)
    if row.intervals or row.chat or uid in implicit_members(channel):
        state.put_user(part, uid, row, fresh=False)
    else:
        state.delete_user(part, uid)


def remove_members(state: State, command: RemoveMembers) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    head = state.head(part)
    if head is None:
        return Reply()
    keys = [b"m" + part + uid.encode() for uid in _clean(command.uids)]
    rows = [(key, row) for key, row in zip(keys, state.get_many(keys), strict=True) if row is not None]
    # A live channel makes no conversations, and none of its conversations are taken away (behaviour.md 9).
    removed = _leave(state, channel, part, head, rows, forget_chats=channel.type != LIVE)
    state.put_head(part, head)
    if removed:
        state.effects.append(MembersChanged(channel, [], removed))
    return Reply()


def _forget_chat(state: State, channel: ChannelId, part: bytes, uid: str) -> None:
    row = state.user(part, uid)
    if row is not None and row.chat:
        _clear_chat(row)
        row.updated_ms = state.now_ms
        keep_or_drop(state, channel, part, uid, row)


def remove_all_members(state: State, command: RemoveAllMembers) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    head = state.head(part)
    if head is None:
        return Reply()
    prefix = b"m" + part
    _leave(state, channel, part, head, state.scan(prefix, after(prefix)))
    state.put_head(part, head)
    state.effects.append(MembersChanged(channel, [], [], cleared=True))
    return Reply()


def disband(state: State, command: Disband) -> Reply:
    part = channel_part(command.channel)
    head = state.head(part)
    if head is not None and head.known:
        head.disband = True
        head.updated_ms = state.now_ms
        state.put_head(part, head)
    return Reply()


# -- lists --


def update_list(state: State, command: UpdateList) -> Reply:
    channel = command.channel
    part = channel_part(channel)
    head = state.head(part)
    if head is None:
        head = Head(created_ms=state.now_ms, updated_ms=state.now_ms)
    deny = command.which == LIST_DENY
    prefix = (b"d" if deny else b"a") + part
    uids = _clean(command.uids)
    lifted = uids if command.op == OP_REMOVE else []
    if command.op in (OP_ADD, OP_REMOVE):
        count = head.denied if deny else head.allowed
    else:
        named = set(uids)
        for uid in list_uids(state, part, command.which):
            state.delete(prefix + uid.encode())
            if uid not in named:
                lifted.append(uid)
        count = 0
    if command.op == OP_REMOVE:
        for uid in uids:
            key = prefix + uid.encode()
            if state.get(key) is not None:
                state.delete(key)
                count -= 1
    elif command.op != OP_CLEAR:
        for uid in uids:
            key = prefix + uid.encode()
            row = state.get(key)
            if row is None:
                state.put(key, encode((state.now_ms, state.now_ms)))
                count += 1
    if deny:
        head.denied = count
    else:
        head.allowed = count
    state.put_head(part, head)
    if channel.type == PERSON:
        version = _copy_to_pairs(state, command, part, list(dict.fromkeys([*uids, *lifted])))
        # Nothing to copy may mean that an earlier request did it and its copies are under way: who asks waits for them.
        return Reply(version=version or pending_version(state))
    if deny and channel.type != LIVE:
        if command.op in (OP_ADD, OP_SET):
            for uid in uids:
                _forget_chat(state, channel, part, uid)
        _restore_conversations(state, channel, part, head, lifted)
    return Reply()


def _restore_conversations(state: State, channel: ChannelId, part: bytes, head: Head, uids: list[str]) -> None:
    """A denied user's conversation went; when the denial is lifted a member gets it back, read (D-11), and the visitor
    of a customer service channel as well, who had his by its first message."""
    for uid in uids:
        row = state.user(part, uid)
        if row is None or row.chat:
            continue
        if row.member or (channel.type == CUSTOMER_SERVICE and head.last_seq and uid in implicit_members(channel)):
            row.chat = True
            row.read_seq = head.last_seq
            row.updated_ms = state.now_ms
            state.put_user(part, uid, row, fresh=False)


def _copy_to_pairs(state: State, command: UpdateList, part: bytes, uids: list[str]) -> int:
    """A person's lists decide in the slot of each pair: one versioned copy per listed uid."""
    owner = command.channel.id
    version = 0
    for uid in uids:
        version = version or state.next_version()
        raw = uid.encode()
        denied = state.get(b"d" + part + raw) is not None
        allowed = state.get(b"a" + part + raw) is not None
        bits = (PAIR_DENIED if denied else 0) | (PAIR_ALLOWED if allowed else 0)
        # whitelist_add also makes the conversation of the listed uid with the owner (http-api.md 8.10).
        chat = uid if command.which != LIST_DENY and command.op == OP_ADD and uid != owner else ""
        pair = person_id(owner, uid)
        propagate(state, version, pair, PutCopy(COPY_PAIR, version, [pair, owner, chat], bytes((bits,))))
    return version


# -- reading --


def member_uids(state: State, part: bytes) -> list[str]:
    prefix = b"m" + part
    size = len(prefix)
    return [key[size:].decode() for key, row in state.scan(prefix, after(prefix)) if _decode_user(row).member]


def member_page(state: State, part: bytes, *, cursor: str = "", limit: int = 1000) -> tuple[list[str], str]:
    """Up to limit members behind `cursor` in uid order, and the cursor of the next page ("" when this is the last)."""
    prefix = b"m" + part
    size = len(prefix)
    start = prefix + cursor.encode() + (b"\x00" if cursor else b"")
    found: list[str] = []
    while True:
        rows = state.scan(start, after(prefix), limit=limit)
        for key, row in rows:
            if _decode_user(row).member:
                found.append(key[size:].decode())
                if len(found) == limit:
                    return found, found[-1]
        if len(rows) < limit:
            return found, ""
        start = rows[-1][0] + b"\x00"


def list_uids(state: State, part: bytes, which: int) -> list[str]:
    prefix = (b"d" if which == LIST_DENY else b"a") + part
    return [key[len(prefix) :].decode() for key, _ in state.scan(prefix, after(prefix))]


def list_page(
    state: State, part: bytes, which: int, *, after_uid: str = "", limit: int = 1000
) -> list[tuple[str, int, int]]:
    """(uid, created, updated) of up to limit entries behind after_uid in uid order, times in ms."""
    prefix = (b"d" if which == LIST_DENY else b"a") + part
    start = prefix + after_uid.encode() + (b"\x00" if after_uid else b"")
    size = len(prefix)
    return [(key[size:].decode(), *_decode_times(row)) for key, row in state.scan(start, after(prefix), limit=limit)]
