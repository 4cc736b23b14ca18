"""How long to wait before the next attempt: exponential with full jitter.

Full jitter (a uniform draw from zero to the bound) spreads the clients of a server that went away best; see
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from random import Random

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """base_s: bound of the first wait; it doubles with every failure up to cap_s. attempts_limit: failures in a row
    after which the client gives up; None never does. stable_s: a connection that lived so long starts the count anew;
    a shorter one counts as a failure, so that a server which accepts and drops is not hammered."""

    base_s: float = 0.5
    cap_s: float = 30.0
    attempts_limit: int | None = None
    stable_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.base_s <= self.cap_s:
            raise ValueError(f"base_s {self.base_s} must be over 0 and not over cap_s {self.cap_s}")
        if self.attempts_limit is not None and self.attempts_limit < 1:
            raise ValueError("attempts_limit is at least 1, or None")

    def bound_s(self, failures_count: int) -> float:
        """Longest wait after so many failures in a row, from 1."""
        # The exponent is limited: 2.0 ** 1100 does not exist.
        return min(self.cap_s, self.base_s * 2.0 ** min(failures_count - 1, 64))

    def delay_s(self, failures_count: int, random: Random) -> float:
        return random.uniform(0.0, self.bound_s(failures_count))
