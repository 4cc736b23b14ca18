"""What passes between two nodes while a slot's rows are copied: maps with an `op` (docs/design/snapshots.md).

A transfer is named by the leader's term and a number that counts in the leader's process; both stand in every message.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, cast

from wukong.raft.log import Member, Snapshot

Rows = Sequence[tuple[bytes, bytes]]

_NUMBER_LIMIT = 1 << 63


class Offer(NamedTuple):
    """Leader to follower: the rows as of `snapshot` can be pulled."""

    id: int
    term: int
    snapshot: Snapshot


class Pull(NamedTuple):
    """Follower to leader: the rows behind the key `after`, please; empty for the first ones."""

    id: int
    term: int
    after: bytes


class Chunk(NamedTuple):
    """Leader to follower: rows behind `after`, keys without the slot's prefix; `last`: there are no more."""

    id: int
    term: int
    after: bytes
    rows: Rows
    last: bool
    crc: int


class Gone(NamedTuple):
    """Leader to follower: there is no such transfer (any more)."""

    id: int
    term: int


class Done(NamedTuple):
    """Follower to leader: it is installed here, or given up, or not needed."""

    id: int
    term: int


Message = Offer | Pull | Chunk | Gone | Done


def checksum(rows: Rows) -> int:
    """CRC-32 over all lengths, then over all keys and values."""
    parts = list(chain.from_iterable(rows))
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
    return zlib.crc32(b"".join(parts), zlib.crc32(lengths))


def encode(message: Message) -> dict[str, object]:
    """The map that carries a message."""
    body: dict[str, object] = {"op": type(message).__name__.lower(), "id": message.id, "term": message.term}
    if isinstance(message, Offer):
        index, entry_term, members = message.snapshot
        body |= {"index": index, "entry_term": entry_term, "members": [list(member) for member in members]}
    elif isinstance(message, Pull):
        body["after"] = message.after
    elif isinstance(message, Chunk):
        body |= {"after": message.after, "rows": message.rows, "last": message.last, "crc": message.crc}
    return body


def decode(body: object) -> Message | None:
    """The message in a map; None if it is none."""
    if not isinstance(body, dict):
        return None
    op, number, term = body.get("op"), body.get("id"), body.get("term")
    if not (_is_number(number) and _is_number(term)):
        return None
    number, term = cast(int, number), cast(int, term)
    if op == "offer":
        return _decode_offer(body, number, term)
    if op == "gone":
        return Gone(number, term)
    if op == "done":
        return Done(number, term)
    after = body.get("after")
    if not isinstance(after, bytes):
        return None
    if op == "pull":
        return Pull(number, term, after)
    if op == "chunk":
        return _decode_chunk(body, number, term, after)
    return None


def _decode_offer(body: dict[str, object], number: int, term: int) -> Offer | None:
    index, entry_term, members = body.get("index"), body.get("entry_term"), body.get("members")
    if not (_is_number(index) and _is_number(entry_term) and isinstance(members, list) and members):
        return None
    for member in members:
        if not isinstance(member, list) or len(member) != 3:
            return None
        node, disk, voter = member
        # A disk is any 64-bit number.
        if not _is_number(node) or type(disk) is not int or not 0 <= disk < 1 << 64 or type(voter) is not bool:
            return None
    snapshot = Snapshot(cast(int, index), cast(int, entry_term), tuple(Member(*member) for member in members))
    return Offer(number, term, snapshot)


def _decode_chunk(body: dict[str, object], number: int, term: int, after: bytes) -> Chunk | None:
    rows, last, crc = body.get("rows"), body.get("last"), body.get("crc")
    if not isinstance(rows, list) or type(last) is not bool or type(crc) is not int:
        return None
    pairs: list[tuple[bytes, bytes]] = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2:
            return None
        key, value = row
        if type(key) is not bytes or type(value) is not bytes:
            return None
        pairs.append((key, value))
    return Chunk(number, term, after, pairs, last, crc)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _NUMBER_LIMIT
