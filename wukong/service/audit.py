"""An independent look at who would be missed: the audience index against members and sessions, while the node serves.

Fan-out goes by the index of dispatch; this compares it with what it follows from, the applied rows and the sessions
here, in one turn of the loop, in which neither can change. Some channels of random sessions and some of the index are
looked at each time. A difference is a fault of the server: somebody would not get, or wrongly get, a message.
"""

import asyncio
import logging
from itertools import islice
from random import Random
from typing import TypeVar

from wukong.channel.ids import AGENT, PERSON, ChannelId
from wukong.channel.state import State, after, channel_part
from wukong.clock import Clock
from wukong.node.node import Node
from wukong.service.sessions import Sessions
from wukong.session.audience import Audience
from wukong.session.registry import LocalSession, Registry

log = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL_S = 0.5
CHANNELS_PER_TURN = 4
BUDGET_S = 0.002
"""Of one turn; what does not fit is looked at another time."""
USERS_LIMIT = 256
"""Of a channel with more members, or a larger audience, so many are looked at, from a random one on."""
LINES_PER_TURN = 5
"""Differences that are told in the log; all are counted."""
_CHANNELS_OF_USER = 64


class Audit:
    """channels: compared so far. differences: users found in an audience who do not belong there, or missing in it; 0
    as long as the server is right. Users whose login has not been answered yet may still be missing."""

    def __init__(
        self, *, node: Node, registry: Registry, audience: Audience, sessions: Sessions, clock: Clock, rng: Random
    ) -> None:
        self._node = node
        self._registry = registry
        self._audience = audience
        self._sessions = sessions
        self._clock = clock
        self._rng = rng
        self.channels = 0
        self.differences = 0
        self._lines_left = LINES_PER_TURN
        # What this round has left.
        self._numbers: list[int] = []
        self._channels: list[ChannelId] = []

    async def run(self) -> None:
        """Look until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                self.look()
            except Exception:
                log.exception("audiences could not be compared with members and sessions")

    def look(self) -> None:
        """Compare some channels, within BUDGET_S. There is no await in here."""
        end = self._clock.monotonic() + BUDGET_S
        self._lines_left = LINES_PER_TURN
        for turn in range(CHANNELS_PER_TURN):
            channel = self._of_a_session() if turn % 2 == 0 else self._of_the_index()
            if channel is not None:
                self.compare(channel, end)
            if self._clock.monotonic() >= end:
                return

    def compare(self, channel: ChannelId, end: float | None = None) -> None:
        """Compare one channel, until `end` on the monotonic clock."""
        state = self._node.state_of(channel.id)
        part = channel_part(channel)
        self.channels += 1
        for uid in self._here(channel):
            if not self._registry.is_online(uid) or not state.is_member(part, uid):
                self._tell(channel, uid, "is in the audience without being a member with a session here")
            if end is not None and self._clock.monotonic() >= end:
                return
        audience = set(self._audience.uids(channel))
        for uid in self._candidates(state, part):
            if uid not in audience and self._is_settled(uid) and state.is_member(part, uid):
                self._tell(channel, uid, "is a member with a session here and not in the audience")
            if end is not None and self._clock.monotonic() >= end:
                return

    def _tell(self, channel: ChannelId, uid: str, what: str) -> None:
        self.differences += 1
        self._lines_left -= 1
        if self._lines_left < 0:
            return
        log.error("audit: %s of channel %s (type %d) %s", uid, channel.id, channel.type, what)

    def _is_settled(self, uid: str) -> bool:
        """Whether a login of the user is over here, so that he has joined."""
        return any(not self._sessions.is_joining(session.number) for session in self._registry.of(uid))

    # -- what is looked at --

    def _here(self, channel: ChannelId) -> list[str]:
        size = self._audience.size(channel)
        start = self._rng.randrange(size - USERS_LIMIT + 1) if size > USERS_LIMIT else 0
        return list(islice(self._audience.uids(channel), start, start + USERS_LIMIT))

    def _candidates(self, state: State, part: bytes) -> list[str]:
        """Users who may be members with a session here: the members if they are few, else some sessions' users."""
        head = state.peek_head(part)
        if head is not None and head.members <= USERS_LIMIT:
            prefix = b"m" + part
            rows = state.scan(prefix, after(prefix), limit=USERS_LIMIT)
            return [key[len(prefix) :].decode() for key, _ in rows]
        sessions = (self._session() for _ in range(USERS_LIMIT))
        return list(dict.fromkeys(session.uid for session in sessions if session is not None))

    def _session(self) -> LocalSession | None:
        """A random session; None if there is none, or it has just ended."""
        number = _drawn(self._rng, self._numbers)
        if number is None:
            self._numbers = list(self._registry.by_number)
            number = _drawn(self._rng, self._numbers)
        return None if number is None else self._registry.by_number.get(number)

    def _of_a_session(self) -> ChannelId | None:
        """A channel in which the user of a random session has a row, of a random slot with any."""
        session = self._session()
        if session is None:
            return None
        states = self._node.states
        first = self._rng.randrange(len(states))
        for state in (*states[first:], *states[:first]):
            found = state.channels_of(session.uid, limit=_CHANNELS_OF_USER)
            named = [channel for channel in found if channel.type not in (PERSON, AGENT)]
            if named:
                return self._rng.choice(named)
        return None

    def _of_the_index(self) -> ChannelId | None:
        channel = _drawn(self._rng, self._channels)
        if channel is None:
            self._channels = self._audience.all()
            channel = _drawn(self._rng, self._channels)
        return channel


def _drawn(rng: Random, urn: list[T]) -> T | None:
    """Takes a random element out; None if there is none. So each has its turn before the next round."""
    if not urn:
        return None
    index = rng.randrange(len(urn))
    urn[index], urn[-1] = urn[-1], urn[index]
    return urn.pop()
