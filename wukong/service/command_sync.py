"""Commands that a user has not confirmed: /message/sync and /message/syncack. http-api.md 9.3 and 9.4.

What a sync handed out is remembered in the slot of the uid, so the confirmation may come to any node; it covers per
channel exactly what was handed out (D-16).
"""

import asyncio
from typing import NamedTuple

from wukong.channel.commands import AdvanceCommands, RememberSync, TakeSync
from wukong.channel.conversations import is_sync_remembered, pending_commands
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.limits import MIB
from wukong.service.replica import Pace, Replica, check_id

DEFAULT_LIMIT = 200
# A slot's commands are read in one piece, so this also bounds how long that holds the loop.
MAX_LIMIT = 1_000
# Payloads of one answer, and ids of the channels it remembers; what lies beyond comes with the next sync.
ANSWER_BYTES = 32 * MIB
REMEMBERED_BYTES = MIB

_WINDOW = 64


class Pending(NamedTuple):
    channel: ChannelId
    messages: list[Message]


class CommandSync:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def sync(self, uid: str, *, limit: int) -> list[Pending]:
        """Unconfirmed commands per channel, ascending, at most limit in total (below 1: DEFAULT_LIMIT; at most
        MAX_LIMIT)."""
        check_id(uid)
        left = min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT
        found: list[Pending] = []
        payload_bytes = id_bytes = 0
        pace = Pace()
        for state in await self._replica.read_all():
            if left <= 0 or payload_bytes >= ANSWER_BYTES or id_bytes >= REMEMBERED_BYTES:
                break
            for channel, messages in pending_commands(state, uid, limit=left):
                found.append(Pending(channel, messages))
                left -= len(messages)
                payload_bytes += sum(len(message.payload) for message in messages)
                id_bytes += len(channel.id.encode())
                if payload_bytes >= ANSWER_BYTES or id_bytes >= REMEMBERED_BYTES:
                    # What is remembered is one command of the log; the rest comes with the next sync.
                    break
            await pace.step()
        positions = [(channel, messages[-1].message_seq) for channel, messages in found]
        if positions or is_sync_remembered(self._replica.now(uid), uid):
            await self._replica.change(uid, RememberSync(uid, positions))
        return found

    async def acknowledge(self, uid: str) -> None:
        """Confirm what the last sync handed out; nothing happens when there is nothing to confirm."""
        check_id(uid)
        reply = await self._replica.change(uid, TakeSync(uid))
        positions = reply.positions or []
        for start in range(0, len(positions), _WINDOW):
            await asyncio.gather(
                *(
                    self._replica.change(channel.id, AdvanceCommands(channel, uid, seq))
                    for channel, seq in positions[start : start + _WINDOW]
                )
            )
