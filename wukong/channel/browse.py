"""Reading a slot's rows in the order of their keys, page by page: for operators who look at everything there is.

Each function gives up to `limit` rows from the key `start` on, and the key to go on from, empty behind the last. A page
is read in one piece; between pages anything may change, also as a whole by a snapshot: a row that comes or goes
meanwhile may be in the answer or not, all others are there once.
"""

from typing import NamedTuple

import msgspec

from wukong.channel.ids import ChannelId
from wukong.channel.presence import TokenRow
from wukong.channel.state import Head, State, UserRow, after, channel_part, part, read_channel_part

_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_user = msgspec.msgpack.Decoder(UserRow).decode
_decode_token = msgspec.msgpack.Decoder(TokenRow).decode

_LENGTH_BYTES = 2


class Device(NamedTuple):
    """A device that got a token once. has_token: it still has one; the token itself is known to nobody here."""

    uid: str
    device_flag: int
    level: int
    has_token: bool


def heads(state: State, *, start: bytes = b"", limit: int) -> tuple[list[tuple[ChannelId, Head]], bytes]:
    """Every channel that was ever written to."""
    rows, rest = _page(state, b"h", start, limit)
    return [(read_channel_part(key, 1)[0], _decode_head(row)) for key, row in rows], rest


def devices(state: State, *, uid: str = "", start: bytes = b"", limit: int) -> tuple[list[Device], bytes]:
    """By uid, then flag; uid: only of this user."""
    rows, rest = _page(state, b"t" + (part(uid) if uid else b""), start, limit)
    found = []
    for key, row in rows:
        token = _decode_token(row)
        found.append(Device(_uid(key), key[-1], token.level, bool(token.token_hash)))
    return found, rest


def session_uids(state: State, *, start: bytes = b"", limit: int) -> tuple[list[str], bytes]:
    """Users who have a session, or had one that nobody has swept yet. limit: rows looked at, one per session."""
    rows, rest = _page(state, b"s", start, limit)
    return list(dict.fromkeys(_uid(key) for key, _ in rows)), rest


def chats(state: State, *, start: bytes = b"", limit: int) -> tuple[list[tuple[ChannelId, str]], bytes]:
    """Channels and the users who have a conversation of them. limit: rows looked at."""
    rows, rest = _page(state, b"m", start, limit)
    found = []
    for key, row in rows:
        if _decode_user(row).chat:
            channel, offset = read_channel_part(key, 1)
            found.append((channel, key[offset:].decode()))
    return found, rest


def channels_named(state: State, channel_id: str) -> list[ChannelId]:
    """Of every type, those with this stored id."""
    found = (ChannelId(kind, channel_id) for kind in range(256))
    return [channel for channel in found if state.get(b"h" + channel_part(channel)) is not None]


def _uid(key: bytes) -> str:
    """The uid behind the letter of a key, with its length before it."""
    end = 1 + _LENGTH_BYTES + int.from_bytes(key[1 : 1 + _LENGTH_BYTES], "big")
    return key[1 + _LENGTH_BYTES : end].decode()


def _page(state: State, prefix: bytes, start: bytes, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    rows = state.scan(max(prefix, start), after(prefix), limit=limit)
    return rows, rows[-1][0] + b"\x00" if len(rows) == limit else b""
