"""Taking over channels of another server: messages as they were there, members, lists, conversations; and comparing.
docs/migration.md.

Each request may come again, as a whole or in part: what is there already is compared and not written twice.
"""

from hashlib import blake2b
from typing import NamedTuple

import msgspec

from wukong.channel.commands import (
    LIST_ALLOW,
    LIST_DENY,
    OP_SET,
    ChannelInfo,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    PutChannel,
    UpdateList,
)
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.imports import DIFFERS, DIGEST_BYTES, FIRST_DIGEST, GAP, digest_of
from wukong.channel.members import member_page
from wukong.channel.messages import last_seq, messages_between
from wukong.channel.permissions import SUCCESS
from wukong.channel.state import channel_part
from wukong.errors import RequestRefused
from wukong.limits import KIB, MAX_PAYLOAD_BYTES
from wukong.service.messages import Twin
from wukong.service.replica import Pace, Replica, check_id, chunks, distinct

# Of one request; more is refused.
MAX_MESSAGES = 1_000
MAX_CHATS = 1_000
# Of one command: it is applied in one turn of the loop.
COMMAND_MESSAGES = 100
COMMAND_BYTES = 256 * KIB
COMMAND_MEMBERS = 250
COMMAND_CHATS = 200
# Messages that one comparison reads.
MAX_COMPARED = 10_000

_SLICE = 128
_PAGE = 1_000


class Compared(NamedTuple):
    """last_seq: where the log ends. seq, digest: how far was read (wukong.channel.imports.digest_of)."""

    last_seq: int
    seq: int
    digest: bytes


class MembersFound(NamedTuple):
    """digest: of the uids in the order of their bytes, each with a zero byte behind it."""

    total: int
    digest: bytes


class Imports:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def add_messages(self, twin: Twin, messages: list[Message]) -> int:
        """Put messages at the end of a log, in order, with the seqs they have; returns the log's last seq then.
        from_uid "": the built-in system account. Raises RequestRefused (409: the log ends elsewhere or has others;
        what came before in this request may be stored), Unavailable."""
        if not messages or len(messages) > MAX_MESSAGES:
            raise RequestRefused(f"{len(messages)} messages; a request has 1 to {MAX_MESSAGES}")
        check_id(twin.channel.id)
        system_uid = self._replica.settings.system_uid
        last = 0
        for some in _commands([_checked(message, system_uid) for message in messages]):
            reply = await self._replica.change(twin.channel.id, ImportMessages(twin.channel, twin.is_cmd, some))
            if reply.reason == GAP:
                raise RequestRefused(
                    f"message {some[0].message_seq} does not follow: the log ends with {reply.message_seq}", status=409
                )
            if reply.reason == DIFFERS:
                raise RequestRefused(
                    f"the channel has another message {reply.message_seq} of its own; nothing was written over it",
                    status=409,
                )
            assert reply.reason == SUCCESS
            last = reply.message_seq
        return last

    async def put_channel(
        self,
        channel: ChannelId,
        *,
        info: ChannelInfo | None,
        members: list[str],
        denied: list[str] | None,
        allowed: list[str] | None,
    ) -> None:
        """The record and the lists of a channel, and members added to those it has, without conversations. None: it
        stays as it is. Raises RequestRefused, Unavailable."""
        key = check_id(channel.id)
        limit = self._replica.settings.members_per_command
        if info is not None:
            await self._replica.change(key, PutChannel(channel, info))
        for uids in chunks(await distinct(members), min(limit, COMMAND_MEMBERS)):
            await self._replica.change(key, ImportMembers(channel, uids))
        for which, listed in ((LIST_DENY, denied), (LIST_ALLOW, allowed)):
            if listed is None:
                continue
            # Not added: that would make conversations (http-api.md 8.10).
            uids = await distinct(listed)
            for at, part in enumerate(chunks(uids, limit) or [[]]):
                await self._replica.change(key, UpdateList(channel, which, OP_SET if at == 0 else 0, part))

    async def put_chats(self, channel: ChannelId, chats: list[ImportedChat]) -> None:
        """Conversations of a channel with their positions. Raises RequestRefused, Unavailable."""
        if len(chats) > MAX_CHATS:
            raise RequestRefused(f"{len(chats)} conversations; a request has at most {MAX_CHATS}")
        check_id(channel.id)
        for chat in chats:
            check_id(chat.uid)
        for at in range(0, len(chats), COMMAND_CHATS):
            await self._replica.change(channel.id, ImportChats(channel, chats[at : at + COMMAND_CHATS]))

    # -- comparing --

    async def compare(self, twin: Twin, *, after_seq: int, digest: bytes, limit: int) -> Compared:
        """Read up to limit messages behind after_seq into the digest, at most MAX_COMPARED; start with seq 0 and an
        empty digest. Raises RequestRefused, Unavailable."""
        if digest and len(digest) != DIGEST_BYTES:
            raise RequestRefused(f"a digest has {DIGEST_BYTES} bytes")
        channel, is_cmd = twin
        part = channel_part(channel)
        await self._replica.catch_up([check_id(channel.id)])
        end = last_seq(self._replica.now(channel.id), channel, is_cmd=is_cmd)
        system_uid = self._replica.settings.system_uid
        digest = digest or FIRST_DIGEST
        seq, left = after_seq, min(limit, MAX_COMPARED)
        pace = Pace()
        while left > 0 and seq < end:
            state = self._replica.now(channel.id)
            page = messages_between(state, part, is_cmd=is_cmd, first=seq + 1, last=end, limit=min(left, _SLICE))
            if not page:
                break
            digest = digest_of(
                [
                    (m.message_seq, m.message_id, "" if m.from_uid == system_uid else m.from_uid, m.payload)
                    for m in page
                ],
                digest,
            )
            seq = page[-1].message_seq
            left -= len(page)
            await pace.step()
        return Compared(end, seq, digest)

    async def members(self, channel: ChannelId) -> MembersFound:
        """How many members there are, and who, as a digest."""
        part = channel_part(channel)
        await self._replica.catch_up([check_id(channel.id)])
        pace = Pace()
        count, cursor, hasher = 0, "", blake2b(digest_size=DIGEST_BYTES)
        while True:
            page, cursor = member_page(self._replica.now(channel.id), part, cursor=cursor, limit=_PAGE)
            count += len(page)
            hasher.update(b"".join(uid.encode() + b"\x00" for uid in page))
            if not cursor:
                return MembersFound(count, hasher.digest())
            await pace.step()


def _checked(message: Message, system_uid: str) -> Message:
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise RequestRefused(
            f"message {message.message_seq} has a payload of {len(message.payload)} bytes; "
            f"the limit is {MAX_PAYLOAD_BYTES}"
        )
    for text in (message.from_uid, message.client_msg_no, message.topic):
        check_id(text)
    return message if message.from_uid else msgspec.structs.replace(message, from_uid=system_uid)


def _commands(messages: list[Message]) -> list[list[Message]]:
    """In order, cut so that each part fits one command."""
    parts: list[list[Message]] = []
    size_bytes = 0
    for message in messages:
        message_bytes = len(message.payload) + len(message.client_msg_no) + len(message.from_uid) + 64
        if not parts or len(parts[-1]) >= COMMAND_MESSAGES or size_bytes + message_bytes > COMMAND_BYTES:
            parts.append([])
            size_bytes = 0
        parts[-1].append(message)
        size_bytes += message_bytes
    return parts
