"""What an import has found and done so far, in a file that survives an end at any moment.

A pass goes over everything once. When one has come to its end, the next call begins another: messages go on where they
ended, all else is read anew. An interrupted pass goes on.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from wukong.channel.ids import ChannelId
from wukong.channel.imports import FIRST_DIGEST
from wukong.cli.import_v2.old_server import Chat

FILE = "import.db"

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS channels (
    type INTEGER, id TEXT, given TEXT, seq INTEGER DEFAULT 0, digest BLOB,
    members INTEGER, members_digest BLOB, error TEXT DEFAULT '', done INTEGER DEFAULT 0, PRIMARY KEY (type, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_channels ON channels (done);
CREATE TABLE IF NOT EXISTS users (uid TEXT PRIMARY KEY, error TEXT DEFAULT '', done INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_users ON users (done);
CREATE TABLE IF NOT EXISTS chats (
    type INTEGER, id TEXT, uid TEXT, read_seq INTEGER, deleted_seq INTEGER, unread INTEGER, PRIMARY KEY (type, id, uid)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chats_of_users ON chats (uid);
"""


class Given(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the operator says of a channel in its file; null where he leaves it to the old server."""

    channel_id: str
    channel_type: int
    subscribers: list[str] | None = None
    denylist: list[str] | None = None
    allowlist: list[str] | None = None
    large: bool | None = None
    ban: bool | None = None
    disband: bool | None = None
    send_ban: bool | None = None
    allow_stranger: bool | None = None

    @property
    def channel(self) -> ChannelId:
        return ChannelId(self.channel_type, self.channel_id)


class Copied(NamedTuple):
    """A channel as the old server had it. members None: it did not say. error: why it could not be copied."""

    channel: ChannelId
    seq: int
    digest: bytes
    members: int | None
    members_digest: bytes
    error: str


class Book:
    """directory: made if need be. Raises ValueError when it belongs to another import, or one that runs."""

    def __init__(self, directory: Path, *, source: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(directory / FILE, timeout=1.0, isolation_level=None)
        try:
            # One process at a time; the lock ends with it, however it ends.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{directory}: {error}; does another import use it?") from None
        # The new server may be another one, such as another node: what it has is asked for in any case.
        if (other := self._fact("source", source)) != source:
            self._db.close()
            raise ValueError(f"{directory} belongs to an import from {other}; give another directory")
        self.number = int(self._fact("pass", "1"))
        if self._fact("ended", "0") == str(self.number):
            self.number += 1
            self._set("pass", str(self.number))
            self._db.execute("DELETE FROM chats")

    def close(self) -> None:
        self._db.close()

    def end_pass(self) -> None:
        self._set("ended", str(self.number))

    def _fact(self, name: str, default: str) -> str:
        self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
        value: str = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0]
        return value

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -- what there is to do --

    def add_channels(self, channels: Iterable[ChannelId]) -> None:
        self._many("INSERT OR IGNORE INTO channels (type, id) VALUES (?, ?)", [(c.type, c.id) for c in channels])

    def add_given(self, given: Iterable[Given]) -> None:
        rows = [(each.channel_type, each.channel_id, msgspec.json.encode(each).decode()) for each in given]
        self.add_channels(ChannelId(kind, id_) for kind, id_, _ in rows)
        self._many("UPDATE channels SET given = ? WHERE type = ? AND id = ?", [(g, kind, id_) for kind, id_, g in rows])

    def given(self, channel: ChannelId) -> Given | None:
        row = self._db.execute("SELECT given FROM channels WHERE type = ? AND id = ?", _key(channel)).fetchone()
        return msgspec.json.decode(row[0], type=Given) if row and row[0] else None

    def add_users(self, uids: Iterable[str]) -> None:
        self._many("INSERT OR IGNORE INTO users (uid) VALUES (?)", [(uid,) for uid in uids if uid.strip()])

    def open_channels(self, limit: int) -> list[ChannelId]:
        rows = self._db.execute("SELECT type, id FROM channels WHERE done < ? LIMIT ?", (self.number, limit))
        return [ChannelId(*row) for row in rows]

    def open_users(self, limit: int) -> list[str]:
        rows = self._db.execute("SELECT uid FROM users WHERE done < ? LIMIT ?", (self.number, limit))
        return [uid for (uid,) in rows]

    def count(self, table: str, *, done: bool = False) -> int:
        where = f" WHERE done = {self.number}" if done else ""
        found: int = self._db.execute(f"SELECT count(*) FROM {table}{where}").fetchone()[0]
        return found

    def messages(self) -> int:
        found: int = self._db.execute("SELECT coalesce(sum(seq), 0) FROM channels").fetchone()[0]
        return found

    # -- what is done --

    def position(self, channel: ChannelId) -> tuple[int, bytes]:
        """Up to which seq messages are copied, and the digest up to there."""
        row = self._db.execute("SELECT seq, digest FROM channels WHERE type = ? AND id = ?", _key(channel)).fetchone()
        return row[0], row[1] or FIRST_DIGEST

    def set_position(self, channel: ChannelId, seq: int, digest: bytes) -> None:
        self._db.execute(
            "UPDATE channels SET seq = ?, digest = ? WHERE type = ? AND id = ?", (seq, digest, *_key(channel))
        )

    def end_channel(self, channel: ChannelId, *, members: int | None, members_digest: bytes, error: str = "") -> None:
        self._db.execute(
            "UPDATE channels SET members = ?, members_digest = ?, error = ?, done = ? WHERE type = ? AND id = ?",
            (members, members_digest, error, self.number, *_key(channel)),
        )

    def end_user(self, uid: str, chats: Iterable[Chat], error: str = "") -> None:
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM chats WHERE uid = ?", (uid,))
        self._db.executemany(
            "INSERT OR REPLACE INTO chats VALUES (?, ?, ?, ?, ?, ?)",
            [(c.channel.type, c.channel.id, uid, _i63(c.read_seq), _i63(c.deleted_seq), c.unread) for c in chats],
        )
        self._db.execute("UPDATE users SET done = ?, error = ? WHERE uid = ?", (self.number, error, uid))
        self._db.execute("COMMIT")

    # -- results --

    def chats(self) -> Iterator[tuple[ChannelId, list[tuple[str, int, int]]]]:
        """(uid, read_seq, deleted_seq) per channel."""
        # In whole answers: a statement under way would keep the file locked when the import ends in the middle.
        key: tuple[int, str] | None = (0, "")
        while key is not None:
            key = self._db.execute(
                "SELECT type, id FROM chats WHERE (type, id) > (?, ?) ORDER BY type, id LIMIT 1", key
            ).fetchone()
            if key is not None:
                yield (
                    ChannelId(*key),
                    self._db.execute(
                        "SELECT uid, read_seq, deleted_seq FROM chats WHERE type = ? AND id = ? ORDER BY uid", key
                    ).fetchall(),
                )

    def unread_of(self, uid: str) -> dict[ChannelId, int]:
        rows = self._db.execute("SELECT type, id, unread FROM chats WHERE uid = ? AND unread IS NOT NULL", (uid,))
        return {ChannelId(kind, id_): unread for kind, id_, unread in rows}

    def users(self) -> Iterator[tuple[str, str]]:
        """(uid, error)"""
        yield from self._db.execute("SELECT uid, error FROM users ORDER BY uid").fetchall()

    def channels(self) -> Iterator[Copied]:
        rows = self._db.execute(
            "SELECT type, id, seq, digest, members, members_digest, error FROM channels ORDER BY type, id"
        ).fetchall()
        for kind, id_, seq, digest, members, members_digest, error in rows:
            yield Copied(ChannelId(kind, id_), seq, digest or FIRST_DIGEST, members, members_digest or b"", error)

    def _many(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(statement, rows)
        self._db.execute("COMMIT")


def _key(channel: ChannelId) -> tuple[int, str]:
    return channel.type, channel.id


def _i63(number: int) -> int:
    # 2^64 - 1 stands for an empty channel (http-api.md 11.3); everything beyond the end counts as the end.
    return min(number, (1 << 63) - 1)
