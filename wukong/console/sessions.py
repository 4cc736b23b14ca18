"""Who is logged in at the console. In memory: a restart ends every login, and nothing is written anywhere.

A login is a random number in a cookie. Only its hash is kept, so that what a dump of memory shows is no login.
"""

import hashlib
import secrets
from typing import NamedTuple

from wukong.clock import Clock

ID_BYTES = 32
LIFE_S = 12 * 3600.0
"""A login ends so long after it was made."""
SESSIONS_LIMIT_COUNT = 256
"""Logins at once; for one more the oldest ends."""

FAILURES_LIMIT_COUNT = 30
"""Failed logins of one address within FAILURES_S; further ones are refused unread."""
FAILURES_S = 60.0
FAILING_ADDRESSES_LIMIT_COUNT = 1_024
"""Addresses that are remembered for failed logins; for one more the oldest is forgotten."""

_MAX_ID_CHARS = 128


class Visitor(NamedTuple):
    """may_write: an admin; otherwise he only reads. may_change_cluster: nodes, leaders and settings too. until_s: the
    end of the login, by the monotonic clock."""

    name: str
    may_write: bool
    may_change_cluster: bool
    until_s: float = 0.0


class Sessions:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._visitors: dict[bytes, Visitor] = {}

    def begin(self, visitor: Visitor) -> str:
        """The id of a new login of LIFE_S."""
        now = self._clock.monotonic()
        self._visitors = {key: each for key, each in self._visitors.items() if each.until_s > now}
        if len(self._visitors) >= SESSIONS_LIMIT_COUNT:
            del self._visitors[next(iter(self._visitors))]
        made = secrets.token_urlsafe(ID_BYTES)
        self._visitors[_key(made)] = visitor._replace(until_s=now + LIFE_S)
        return made

    def find(self, given: str) -> Visitor | None:
        """Whose login this is, if it is one that has not ended."""
        if not given or len(given) > _MAX_ID_CHARS:
            return None
        visitor = self._visitors.get(_key(given))
        return visitor if visitor is not None and visitor.until_s > self._clock.monotonic() else None

    def end(self, given: str) -> None:
        self._visitors.pop(_key(given[:_MAX_ID_CHARS]), None)


class Failures:
    """Counts failed logins by address, so that nobody tries tokens in bulk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}

    def are_too_many(self, address: str) -> bool:
        count, since = self._counts.get(address, (0, 0.0))
        return count >= FAILURES_LIMIT_COUNT and self._clock.monotonic() - since < FAILURES_S

    def note(self, address: str) -> None:
        now = self._clock.monotonic()
        count, since = self._counts.pop(address, (0, now))
        if now - since >= FAILURES_S:
            count, since = 0, now
        if len(self._counts) >= FAILING_ADDRESSES_LIMIT_COUNT:
            del self._counts[next(iter(self._counts))]
        self._counts[address] = count + 1, since

    def forgive(self, address: str) -> None:
        self._counts.pop(address, None)


def _key(given: str) -> bytes:
    return hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
