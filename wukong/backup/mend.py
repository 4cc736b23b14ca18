"""Copies between slots after a restore, where the slots of a backup stand at moments of their own.

On a node alone one view is one moment. A node of a cluster may have applied one slot further than another: then a copy
can be in the backup without the fact that it copies, or be missing though its home has forgotten that it owes it
(docs/design/state.md, Copies). So for each fact its home has the word: where a slot's copy says something else, the
home owes it again under a version above all that were seen, and the first start delivers it. Where all agree nothing
is changed.

Pure, and the same on every node that is restored from one backup.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from wukong.channel.commands import PutCopy
from wukong.channel.copies import (
    COPY_PAIR,
    COPY_SETTINGS,
    COPY_SYSTEM_UIDS,
    COPY_USER,
    EVERY_SLOT,
    datasource_uids,
    propagate,
    system_uids,
)
from wukong.channel.ids import PERSON, ChannelId, peer_of, person_id, slot_of
from wukong.channel.permissions import PAIR_ALLOWED, PAIR_DENIED
from wukong.channel.state import USER_SEND_BAN, Head, State, after, channel_part, encode, read_channel_part

_ROWS: Final = 1_000

_decode_copy = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
_decode_uids = msgspec.msgpack.Decoder(tuple[int, list[str]]).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def mend(states: list[State]) -> int:
    """Compare the copies of all slots with their homes. Returns how many facts are owed again; the rows are changed as
    apply would, and `effects` are left for the caller to drop."""
    _raise_versions(states)
    return _users(states) + _pairs(states) + _settings(states) + _system_uids(states)


def _scan(state: State, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    start, end = prefix, after(prefix)
    while rows := state.scan(start, end, limit=_ROWS):
        yield from rows
        start = rows[-1][0] + b"\0"


def _raise_versions(states: list[State]) -> None:
    """A home gives no version a second time, though it may have forgotten that it gave it."""
    count = len(states)
    highest = [0] * count

    def saw(home: int, version: int) -> None:
        highest[home] = max(highest[home], version)

    for state in states:
        for key, row in _scan(state, b"f"):
            saw(slot_of(key[1:].decode(), count), _decode_copy(row)[0])
        for key, row in _scan(state, b"l"):
            saw(slot_of(_owner(key)[1], count), _decode_copy(row)[0])
        for row in filter(None, (state.get(b"c"), state.get(b"y"))):
            saw(0, msgspec.msgpack.decode(row)[0])
    for state, version in zip(states, highest, strict=True):
        if state.slot_row.version < version:
            state.slot_row.version = version
            state.put_slot_row()


def _owner(key: bytes) -> tuple[ChannelId, str]:
    """The pair, and whose lists, from a key of `l`."""
    pair, end = read_channel_part(key, 1)
    return pair, key[end:].decode()


def _owe(home: State, target: str, kind: int, key: list[str], value: bytes) -> int:
    """The version under which it is owed."""
    version = home.next_version()
    propagate(home, version, target, PutCopy(kind, version, key, value))
    home.put_slot_row()
    return version


# -- flags of users --


def _users(states: list[State]) -> int:
    count = len(states)
    wanted: dict[str, tuple[int, bytes]] = {}
    for state in states:
        for key, row in _scan(state, b"h" + bytes((PERSON,))):
            head = _decode_head(row)
            if head.flags_version:
                value = bytes((USER_SEND_BAN if head.send_ban else 0,))
                wanted[read_channel_part(key, 1)[0].id] = head.flags_version, value
    found: dict[str, list[tuple[int, bytes]]] = {}
    for state in states:
        for key, row in _scan(state, b"f"):
            found.setdefault(key[1:].decode(), []).append(_decode_copy(row))
    owed = 0
    for uid in sorted(wanted.keys() | found.keys()):
        word, copies = wanted.get(uid), found.get(uid, [])
        if word is not None and copies == [word] * count:
            continue
        home = states[slot_of(uid, count)]
        version = _owe(home, EVERY_SLOT, COPY_USER, [uid], word[1] if word is not None else b"\0")
        part = channel_part(ChannelId(PERSON, uid))
        head = home.head(part) or Head()
        head.flags_version = version
        home.put_head(part, head)
        owed += 1
    return owed


# -- lists of persons --


def _pairs(states: list[State]) -> int:
    count = len(states)
    wanted: dict[tuple[str, str], int] = {}
    for state in states:
        for letter, bit in ((b"d", PAIR_DENIED), (b"a", PAIR_ALLOWED)):
            for key, _ in _scan(state, letter + bytes((PERSON,))):
                channel, end = read_channel_part(key, 1)
                fact = channel.id, key[end:].decode()
                wanted[fact] = wanted.get(fact, 0) | bit
    found: dict[tuple[str, str], int] = {}
    for state in states:
        for key, row in _scan(state, b"l"):
            pair, owner = _owner(key)
            found[owner, peer_of(pair.id, owner)] = _decode_copy(row)[1][0]
    owed = 0
    for owner, uid in sorted(wanted.keys() | found.keys()):
        bits, copied = wanted.get((owner, uid), 0), found.get((owner, uid), 0)
        if bits == copied:
            continue
        # The conversation that an allow list makes comes with its copy, so it is missing as well.
        chat = uid if bits & ~copied & PAIR_ALLOWED and uid != owner else ""
        pair_id = person_id(owner, uid)
        _owe(states[slot_of(owner, count)], pair_id, COPY_PAIR, [pair_id, owner, chat], bytes((bits,)))
        owed += 1
    return owed


# -- what every slot has --


def _settings(states: list[State]) -> int:
    """They have no row at home: whichever slot has the newest copy has the word."""
    rows = [state.get(b"c") for state in states]
    present = [_decode_copy(row) for row in rows if row is not None]
    if not present or (len(present) == len(states) and len(set(present)) == 1):
        return 0
    _owe(states[0], EVERY_SLOT, COPY_SETTINGS, [], max(present)[1])
    return 1


def _system_uids(states: list[State]) -> int:
    word = list(dict.fromkeys([*system_uids(states[0]), *datasource_uids(states[0])]))
    rows = [state.get(b"y") for state in states]
    copies = [_decode_uids(row)[1] if row is not None else [] for row in rows]
    if all(copy == word for copy in copies):
        return 0
    _owe(states[0], EVERY_SLOT, COPY_SYSTEM_UIDS, [], encode(word))
    return 1
