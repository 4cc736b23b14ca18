"""The import itself: channels and users found by one another, copied, and compared.

Users name conversations, and with them channels; channels name members, and with them users. That goes on until nobody
is left. Every write may come twice, so the import may end at any moment and go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from wukong.channel.ids import AGENT, PERSON, TEMP, ChannelId, implicit_members, person_id
from wukong.channel.imports import DIGEST_BYTES, digest_of
from wukong.cli.import_v2.book import Book, Copied, Given
from wukong.cli.import_v2.calls import Server
from wukong.cli.import_v2.old_server import (
    MAX_CONVERSATIONS,
    SYSTEM_UID,
    Flags,
    OldServer,
    OldServerFault,
    Row,
    is_junk,
)
from wukong.client.errors import ApiRefused, ApiUnavailable
from wukong.errors import WukongError
from wukong.limits import KIB

# Channels, or users, under way at the same time.
AT_ONCE: Final = 8
# Payloads and messages of one request to the new server.
REQUEST_BYTES: Final = 512 * KIB
REQUEST_MESSAGES: Final = 250
REQUEST_UIDS: Final = 5_000
REQUEST_CHATS: Final = 500
# What is fetched from the book at a time.
BATCH: Final = 256
# So many in a row that a server did not answer end the import.
FAILURES_IN_A_ROW: Final = 20

CMD_SUFFIX: Final = "____cmd"
# Who is a member follows from the id.
_WITHOUT_MEMBERS: Final = (PERSON, AGENT)

T = TypeVar("T")


class Progress(Protocol):
    def stage(self, name: str, total: int | None) -> None:
        """What is done now; total: of how many, None if that is not known yet."""
        ...

    def step(self, count: int = 1) -> None: ...

    def messages(self, count: int) -> None:
        """Copied in this call of the import, beside the stages."""
        ...


class Difference(NamedTuple):
    """Where both sides differ, or what could not be copied. channel or uid: what it is about."""

    what: str
    channel: ChannelId | None
    uid: str


class ChannelReport(NamedTuple):
    """Both sides of a channel; digests in hex. members None: not known."""

    channel: ChannelId
    old_messages: int
    new_messages: int
    old_digest: str
    new_digest: str
    old_members: int | None
    new_members: int
    fault: str

    @property
    def is_equal(self) -> bool:
        return not self.fault


class Report(NamedTuple):
    """conversations: compared by their unread counts."""

    channels: list[ChannelReport]
    users: int
    conversations: int
    differences: list[Difference]

    @property
    def is_equal(self) -> bool:
        return not self.differences and all(each.is_equal for each in self.channels)


class _Compared(msgspec.Struct, frozen=True):
    last_seq: int
    seq: int
    digest: str
    members: int = 0
    members_digest: str = ""


class _Conversation(msgspec.Struct, frozen=True):
    channel_id: str
    channel_type: int
    unread: int


class Transfer:
    def __init__(self, old: OldServer, new: Server, book: Book, progress: Progress) -> None:
        self._old = old
        self._new = new
        self._book = book
        self._progress = progress
        self._flags: dict[ChannelId, Flags] = {}
        self._failures = 0

    async def run(self) -> Report:
        """Raises ApiError when a server refuses altogether or stays away."""
        await self._begin()
        while True:
            channels = self._book.open_channels(BATCH)
            await self._all("channels", channels, self._channel)
            users = self._book.open_users(BATCH)
            await self._all("users", users, self._user)
            if not channels and not users:
                break
        await self._put_chats()
        report = await self._compare()
        self._book.end_pass()
        return report

    async def _all(self, table: str, items: list[T], work: Callable[[T], Awaitable[None]]) -> None:
        if items:
            self._progress.stage(table, self._book.count(table))
            self._progress.step(self._book.count(table, done=True))
            await _each(items, work, self._progress.step)

    # -- beginning --

    async def _begin(self) -> None:
        self._progress.stage("servers", None)
        await self._old.health()
        # Whether it lets us in, before hours of work.
        await self._new.post(_Compared, "/import/compare", {"channel_id": "-", "channel_type": 2, "limit": 0})
        uids = await self._old.system_uids()
        if uids:
            await self._new.post(dict[str, Any], "/user/systemuids_add", {"uids": uids})
        listed = await self._old.all_channels()
        self._flags = {channel: flags for channel, flags in listed.items() if flags.ban or flags.disband}
        self._book.add_channels(channel for channel in listed if _is_copied(channel))
        # Type 1 with a bare uid is a user's own record.
        self._book.add_users(channel.id for channel in listed if is_junk(channel))
        self._book.add_users(await self._old.all_users())

    # -- channels --

    async def _channel(self, channel: ChannelId) -> None:
        try:
            if not is_junk(channel):
                await self._copy_messages(channel)
            members = await self._copy_record(channel)
        except (OldServerFault, ApiRefused, ApiUnavailable) as error:
            self._note(error)
            self._book.end_channel(channel, members=None, members_digest=b"", error=str(error))
            return
        self._failures = 0
        self._book.add_users(_people(channel))
        self._book.add_users(members or ())
        self._book.end_channel(
            channel, members=None if members is None else len(members), members_digest=_uids_digest(members or [])
        )

    def _note(self, error: WukongError) -> None:
        """One that cannot be copied is told at the end; a server that is gone is told now."""
        if isinstance(error, ApiRefused) and error.http_status in (401, 403):
            raise error
        self._failures = self._failures + 1 if isinstance(error, ApiUnavailable) else 0
        if self._failures >= FAILURES_IN_A_ROW:
            raise error

    async def _copy_messages(self, channel: ChannelId) -> None:
        seq, digest = self._book.position(channel)
        if seq and (await self._compared(channel, limit=0)).last_seq < seq:
            # Not what was written there: another data directory.
            seq, digest = 0, b""
        while rows := await self._old.messages_after(channel, seq):
            for some in _requests(rows):
                body = {"channel_id": channel.id, "channel_type": channel.type, "messages": some}
                await self._new.post(dict[str, Any], "/import/messages", body)
                digest = _digest(some, digest)
                seq = some[-1].message_seq
                self._book.set_position(channel, seq, digest)
                self._progress.messages(len(some))

    async def _copy_record(self, channel: ChannelId) -> list[str] | None:
        """Record, members and lists; the members that it has to have, None if nobody knows them."""
        if channel.type == PERSON and not is_junk(channel):
            # Lists and flags of persons are kept with each of the two.
            return []
        given = self._book.given(channel) or Given(channel.id, channel.type)
        members: list[str] | None = given.subscribers
        if members is None:
            members = [] if channel.type in _WITHOUT_MEMBERS else await self._old.members(channel)
        members = None if members is None else sorted({uid for uid in members if uid.strip()}, key=str.encode)
        body: dict[str, Any] = {
            "channel_id": channel.id,
            "channel_type": channel.type,
            "flags": self._flags_of(channel, given),
            "denied": given.denylist if given.denylist is not None else await self._old.denied(channel),
            "allowed": given.allowlist if given.allowlist is not None else await self._old.allowed(channel),
        }
        await self._new.post(dict[str, Any], "/import/channel", body)
        for at in range(0, len(members or ()), REQUEST_UIDS):
            part = {"channel_id": channel.id, "channel_type": channel.type, "members": members[at : at + REQUEST_UIDS]}  # type: ignore[index]
            await self._new.post(dict[str, Any], "/import/channel", part)
        return members

    def _flags_of(self, channel: ChannelId, given: Given) -> dict[str, bool] | None:
        known = self._flags.get(channel)
        said = {
            name: value
            for name in ("large", "ban", "disband", "send_ban", "allow_stranger")
            if (value := getattr(given, name)) is not None
        }
        if known is None and not said:
            return None
        return {"ban": known is not None and known.ban, "disband": known is not None and known.disband, **said}

    # -- users --

    async def _user(self, uid: str) -> None:
        try:
            chats = [chat for chat in await self._old.conversations(uid) if _is_copied(chat.channel)]
            await self._copy_user(uid)
        except (OldServerFault, ApiRefused, ApiUnavailable) as error:
            self._note(error)
            self._book.end_user(uid, [], f"not read: {error}")
            return
        self._failures = 0
        self._book.add_channels(chat.channel for chat in chats)
        most = f"only the newest {MAX_CONVERSATIONS:,} conversations are told"
        self._book.end_user(uid, chats, most if len(chats) >= MAX_CONVERSATIONS else "")

    async def _copy_user(self, uid: str) -> None:
        """His own lists and flags: who may write to him, and whether he may come."""
        record = ChannelId(PERSON, uid)
        denied, allowed = await self._old.denied(record), await self._old.allowed(record)
        flags = self._flags_of(record, self._book.given(record) or Given(uid, PERSON))
        if denied or allowed or flags:
            body = {"channel_id": uid, "channel_type": PERSON, "flags": flags, "denied": denied, "allowed": allowed}
            await self._new.post(dict[str, Any], "/import/channel", body)

    async def _put_chats(self) -> None:
        self._progress.stage("conversations", self._book.count("chats"))

        async def put(item: tuple[ChannelId, list[tuple[str, int, int]]]) -> None:
            channel, chats = item
            rows = [{"uid": uid, "read_seq": read, "deleted_seq": deleted} for uid, read, deleted in chats]
            for at in range(0, len(rows), REQUEST_CHATS):
                some = rows[at : at + REQUEST_CHATS]
                body = {"channel_id": channel.id, "channel_type": channel.type, "chats": some}
                await self._new.post(dict[str, Any], "/import/chats", body)
                self._progress.step(len(some))

        await _each(self._book.chats(), put, lambda: None)

    # -- comparing --

    async def _compared(self, channel: ChannelId, *, limit: int, members: bool = False) -> _Compared:
        """The new server's log up to `limit`, -1 for all of it."""
        found = _Compared(0, 0, "")
        while True:
            body = {
                "channel_id": channel.id,
                "channel_type": channel.type,
                "after_seq": found.seq,
                "digest": found.digest,
                "members": members,
                **({} if limit < 0 else {"limit": limit}),
            }
            found = await self._new.post(_Compared, "/import/compare", body)
            if limit >= 0 or found.seq >= found.last_seq:
                return found

    async def _compare(self) -> Report:
        copied = list(self._book.channels())
        self._progress.stage("comparing channels", len(copied))
        reports: list[ChannelReport] = []

        async def compare(each: Copied) -> None:
            reports.append(_judged(each, await self._compared(each.channel, limit=-1, members=True)))

        await _each(copied, compare, self._progress.step)
        users = list(self._book.users())
        self._progress.stage("comparing conversations", len(users))
        differences = [Difference(error, None, uid) for uid, error in users if error]
        compared = 0

        async def look(item: tuple[str, str]) -> None:
            nonlocal compared
            uid, error = item
            if not error:
                expected = self._book.unread_of(uid)
                compared += len(expected)
                differences.extend(await self._unread_differs(uid, expected))

        await _each(users, look, self._progress.step)
        reports.sort(key=lambda each: each.channel)
        differences.sort(key=lambda each: (each.uid, each.what))
        return Report(reports, len(users), compared, differences)

    async def _unread_differs(self, uid: str, expected: dict[ChannelId, int]) -> list[Difference]:
        body = {"uid": uid, "version": 0, "msg_count": 1}
        rows = await self._new.post(list[_Conversation], "/conversation/sync", body)
        found = {
            ChannelId(
                row.channel_type,
                person_id(uid, row.channel_id)
                if row.channel_type == PERSON
                else next((c.id for c in expected if c.type == row.channel_type and _ends(c, row)), row.channel_id),
            ): row.unread
            for row in rows
        }
        differences = []
        for channel in sorted(expected.keys() | found.keys()):
            old, new = expected.get(channel), found.get(channel)
            if old != new:
                words = f"{_count(old)} there, {_count(new)} here"
                differences.append(Difference(f"unread messages differ: {words}", channel, uid))
        return differences


def _ends(channel: ChannelId, row: _Conversation) -> bool:
    return channel.id == row.channel_id or channel.id.endswith(f"@{row.channel_id}")


def _count(unread: int | None) -> str:
    return "no conversation" if unread is None else str(unread)


def _judged(old: Copied, new: _Compared) -> ChannelReport:
    fault = old.error
    if fault:
        pass
    elif new.last_seq != old.seq:
        fault = f"{old.seq} messages there, {new.last_seq} here"
    elif old.seq and new.digest != old.digest.hex():
        fault = "the messages differ"
    elif old.members is None:
        fault = "members not known: the old server does not tell them; name them in the channels file"
    elif old.channel.type not in _WITHOUT_MEMBERS and (new.members, new.members_digest) != (
        old.members,
        old.members_digest.hex(),
    ):
        fault = f"members differ: {old.members} there, {new.members} here"
    return ChannelReport(
        old.channel,
        old.seq,
        new.last_seq,
        old.digest.hex() if old.seq else "",
        new.digest if new.last_seq else "",
        old.members,
        new.members,
        fault,
    )


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]], done: Callable[[], None]) -> None:
    """All of them, AT_ONCE at a time; the first error ends it."""
    rest = iter(items)

    async def worker() -> None:
        for item in rest:
            await work(item)
            done()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


def _requests(rows: list[Row]) -> list[list[Row]]:
    parts: list[list[Row]] = []
    size_bytes = 0
    for row in rows:
        row_bytes = len(row.payload or b"")
        if not parts or len(parts[-1]) >= REQUEST_MESSAGES or size_bytes + row_bytes > REQUEST_BYTES:
            parts.append([])
            size_bytes = 0
        parts[-1].append(row if row.payload is not None else msgspec.structs.replace(row, payload=b""))
        size_bytes += row_bytes
    return parts


def _digest(rows: list[Row], before: bytes) -> bytes:
    found = [(row.message_seq, row.message_id, row.from_uid, row.payload or b"") for row in rows]
    return digest_of(found, before) if before else digest_of(found)


def _uids_digest(uids: list[str]) -> bytes:
    return blake2b(b"".join(uid.encode() + b"\x00" for uid in uids), digest_size=DIGEST_BYTES).digest()


def _people(channel: ChannelId) -> list[str]:
    """Users by the channel's id alone."""
    if is_junk(channel):
        return [channel.id]
    return [uid for uid in implicit_members(channel) if uid != SYSTEM_UID]


def _is_copied(channel: ChannelId) -> bool:
    """Not: commands, which are gone once they were fetched; recipients of the moment; records of users, and slips."""
    return channel.type != TEMP and not is_junk(channel) and not channel.id.endswith(CMD_SUFFIX)
