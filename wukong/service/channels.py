"""Channels, their members and lists: what the back end changes. http-api.md section 8, behaviour.md section 9.

Long lists become several commands: additions one after the other, a replacement in parts that take effect together in
one last command, so that nobody ever sees half of it (D-12).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from wukong.channel.commands import (
    LIST_ALLOW,
    LIST_DENY,
    OP_ADD,
    OP_CLEAR,
    OP_REMOVE,
    OP_SET,
    ChannelInfo,
    Disband,
    PutChannel,
    RemoveAllMembers,
    RemoveMembers,
    StageMembers,
    UpdateList,
)
from wukong.channel.ids import TEMP, ChannelId
from wukong.channel.members import list_page, member_page
from wukong.channel.state import channel_part
from wukong.errors import RequestRefused, Unavailable
from wukong.service.replica import Pace, Replica, check_id, chunks, distinct

DENYLIST = LIST_DENY
ALLOWLIST = LIST_ALLOW

PAGE_LIMIT = 1_000
# Each time somebody else's replacement took effect, so of several at once all come through.
_REPLACE_ATTEMPTS = 12
_REPLACE_PAUSE_S = 0.02

_NODE_BITS = 10
# Fits 63 bits for longer than anybody needs, with room for some replacements per millisecond.
_INCARNATION_SHIFT = 21


class Listed(NamedTuple):
    """An entry of a deny or allow list, with unix milliseconds."""

    uid: str
    created_ms: int
    updated_ms: int


class Channels:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._staged = 0
        # Channels whose members are being replaced in parts, with who holds or waits for that.
        self._replacing: dict[ChannelId, tuple[asyncio.Lock, int]] = {}

    # -- record and members --

    async def put(self, channel: ChannelId, info: ChannelInfo, members: list[str], *, reset: bool) -> None:
        """Write the record (every flag) and add members; reset: they replace all others."""
        await self._put(PutChannel(channel, info), await distinct(members), reset=reset)

    async def put_info(self, channel: ChannelId, info: ChannelInfo) -> None:
        await self._put(PutChannel(channel, info), [], reset=False)

    async def add_members(self, channel: ChannelId, members: list[str], *, reset: bool) -> None:
        """Make the record if there is none, and add members; reset: they replace all others."""
        await self._put(PutChannel(channel), await distinct(members), reset=reset)

    async def set_recipients(self, channel_id: str, uids: list[str]) -> None:
        """The recipients of a temporary channel, in the place of those before."""
        await self._put(PutChannel(ChannelId(TEMP, channel_id), chats=False), await distinct(uids), reset=True)

    async def _put(self, command: PutChannel, members: list[str], *, reset: bool) -> None:
        channel = command.channel
        check_id(channel.id)
        parts = chunks(members, self._replica.settings.members_per_command) or [[]]
        if reset and len(parts) > 1:
            await self._replace(command, parts)
            return
        for at, part in enumerate(parts):
            next_command = PutChannel(channel, command.info if at == 0 else None, part, reset, 0, command.chats)
            await self._replica.change(channel.id, next_command)

    async def _replace(self, command: PutChannel, parts: list[list[str]]) -> None:
        channel = command.channel
        async with self._alone(channel):
            for attempt in range(_REPLACE_ATTEMPTS):
                if attempt:
                    # Nodes that wait in step would meet again.
                    await asyncio.sleep(_REPLACE_PAUSE_S * attempt * (1 + self._replica.node_id % 3))
                staged = self._new_number()
                for number, part in enumerate(parts[:-1], 1):
                    await self._replica.change(channel.id, StageMembers(channel, staged, part, number))
                flip = PutChannel(channel, command.info, parts[-1], True, staged, command.chats, len(parts) - 1)
                try:
                    await self._replica.change(channel.id, flip)
                except RequestRefused:
                    continue  # one that runs on another node has dropped our parts; nothing was changed
                return
            raise Unavailable("other replacements of the members run at the same time; nothing was changed, try again")

    def _new_number(self) -> int:
        """No other node's, and above those of earlier incarnations: these differ by the milliseconds a node lived."""
        self._staged += 1
        return (self._replica.incarnation << _INCARNATION_SHIFT) + (self._staged << _NODE_BITS) + self._replica.node_id

    @asynccontextmanager
    async def _alone(self, channel: ChannelId) -> AsyncIterator[None]:
        """One replacement in parts per channel and node at a time: the flip of one drops the older parts of all."""
        lock, users = self._replacing.get(channel, (asyncio.Lock(), 0))
        self._replacing[channel] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._replacing[channel]
            if users == 1:
                del self._replacing[channel]
            else:
                self._replacing[channel] = lock, users - 1

    async def remove_members(self, channel: ChannelId, members: list[str]) -> None:
        """Members leave, and lose their conversation of the channel (not of a live one)."""
        check_id(channel.id)
        for part in chunks(await distinct(members), self._replica.settings.members_per_command):
            await self._replica.change(channel.id, RemoveMembers(channel, part))

    async def remove_all_members(self, channel: ChannelId) -> None:
        """Everybody leaves; conversations stay."""
        check_id(channel.id)
        await self._replica.change(channel.id, RemoveAllMembers(channel))

    async def disband(self, channel: ChannelId) -> None:
        """Nobody may send any more; everything else stays. Nothing happens to an unknown channel."""
        check_id(channel.id)
        await self._replica.change(channel.id, Disband(channel))

    async def members(self, channel: ChannelId, *, cursor: str, limit: int) -> tuple[list[str], str]:
        """Up to limit members behind cursor in the order of their uids, at most PAGE_LIMIT, and the next cursor ("":
        that was all)."""
        state = await self._replica.read(channel.id)
        return member_page(state, channel_part(channel), cursor=cursor, limit=max(1, min(limit, PAGE_LIMIT)))

    # -- deny and allow lists --

    async def add_to_list(self, channel: ChannelId, which: int, uids: list[str]) -> None:
        await self._update_list(channel, which, OP_ADD, await distinct(uids))

    async def remove_from_list(self, channel: ChannelId, which: int, uids: list[str]) -> None:
        await self._update_list(channel, which, OP_REMOVE, await distinct(uids))

    async def set_list(self, channel: ChannelId, which: int, uids: list[str]) -> None:
        """Replace a list; an empty one lifts it. Beyond one command's worth the rest is added after."""
        await self._update_list(channel, which, OP_SET, await distinct(uids))

    async def clear_list(self, channel: ChannelId, which: int) -> None:
        await self._update_list(channel, which, OP_CLEAR, [])

    async def _update_list(self, channel: ChannelId, which: int, op: int, uids: list[str]) -> None:
        check_id(channel.id)
        for part in chunks(uids, self._replica.settings.members_per_command) or [[]]:
            await self._replica.change(channel.id, UpdateList(channel, which, op, part))
            op = OP_ADD if op == OP_SET else op

    async def list_entries(self, channel: ChannelId, which: int) -> list[Listed]:
        """The whole list, in the order of uids. Entries that come or go meanwhile may be in it or not."""
        part = channel_part(channel)
        state = await self._replica.read(channel.id)
        pace = Pace()
        found: list[Listed] = []
        while True:
            page = list_page(state, part, which, after_uid=found[-1].uid if found else "", limit=PAGE_LIMIT)
            found += [Listed(*entry) for entry in page]
            if len(page) < PAGE_LIMIT:
                return found
            await pace.step()
            state = self._replica.now(channel.id)
