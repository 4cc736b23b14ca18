"""Limits and times of links, with units. What happens at each limit stands beside it."""

import msgspec

from wukong.errors import ConfigError
from wukong.limits import KIB, MIB, SECOND_MS


class LinkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times (looked at every tick_ms, so late by up to one of them):

    connect_timeout_ms: from the look-up of a name to a TCP connection; then the attempt has failed.
    handshake_timeout_ms: from there, or from accept, to both proofs; then closed.
    ping_ms: nothing written for so long: an empty frame is.
    silence_ms: no whole frame read for so long, while this process ran: closed. A frame that has begun gets the time
    it needs at slowest_bytes_per_s besides.
    backoff_min_ms, backoff_max_ms: pause before the next attempt, doubled from the first to the second after every
    attempt that fails; half of it is jitter. A link that lasted backoff_max_ms starts the row again.
    stop_flush_ms: how long `stop` writes what is queued.
    notice_interval_ms: the same reason is logged at most once in this time; the next line says how many were left out.

    Limits:

    message_limit_bytes: one encoded message. `send` refuses a larger one; one that arrives closes the connection.
    facts_limit_bytes: encoded facts, and every frame from a stranger. `set_facts` raises ValueError.
    frame_bytes: messages are put together up to this size, a larger one goes alone. What one frame holds is handed over
    in one turn of the loop.
    queue_limit_bytes: encoded and not sealed, per peer; above it `send` returns False. Up to transport_bytes and one
    frame wait sealed besides.
    slice_bytes: sealed for one peer in one turn of the loop; the rest follows in the next.
    half_open_limit: accepted connections that have proven nothing; for one more the oldest of them is closed.
    """

    connect_timeout_ms: int = 2 * SECOND_MS
    handshake_timeout_ms: int = 2 * SECOND_MS
    ping_ms: int = SECOND_MS
    silence_ms: int = 4 * SECOND_MS
    backoff_min_ms: int = 50
    backoff_max_ms: int = SECOND_MS
    stop_flush_ms: int = 200
    notice_interval_ms: int = 10 * SECOND_MS
    tick_ms: int = 250

    message_limit_bytes: int = 16 * MIB
    facts_limit_bytes: int = 64 * KIB
    frame_bytes: int = 64 * KIB
    queue_limit_bytes: int = 64 * MIB
    slice_bytes: int = 4 * MIB
    transport_bytes: int = MIB
    slowest_bytes_per_s: int = MIB
    half_open_limit: int = 256

    def __post_init__(self) -> None:
        """Raises ConfigError if the settings contradict each other."""
        faults = [f"{name}: must be above 0" for name in self.__struct_fields__ if getattr(self, name) <= 0]
        if self.silence_ms <= 2 * self.ping_ms:
            faults.append("silence_ms: must be over twice ping_ms, or a late ping is a dead peer")
        if self.backoff_max_ms < self.backoff_min_ms:
            faults.append("backoff_max_ms: must not be below backoff_min_ms")
        if self.facts_limit_bytes > self.message_limit_bytes:
            faults.append("facts_limit_bytes: must not be above message_limit_bytes")
        if faults:
            raise ConfigError(faults)

    def ticks(self, time_ms: int) -> int:
        """The smallest number of ticks that is not shorter than a time."""
        return -(-time_ms // self.tick_ms)


BACKLOG_COUNT = 64
"""Connections the kernel holds for us. A quarter of half_open_limit: what one turn of the loop accepts must not push
out an honest handshake, which takes three."""
