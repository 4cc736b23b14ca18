"""Limits and times of client connections, with units. What happens at each limit stands beside it."""

import msgspec

from wukong.limits import FIRST_BYTE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, KIB, MIB, MINUTE_MS, SECOND_MS


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times (looked at every tick_ms, so late by up to two of them):

    first_byte_timeout_ms: from accept to the first byte, then closed.
    handshake_timeout_ms: from there to the CONNACK, then closed without one.
    idle_timeout_ms: without a byte read, then closed. Only reading counts; not while we ourselves do not read.
    linger_ms: from a close to the end of the socket, whatever is still unsent.
    push_delay_ms: from the CONNACK to the first RECV. Some SDKs lose or choke on what comes in one read with a CONNACK.

    Limits:

    connections_limit: sockets at once; a further one is closed as soon as it is accepted.
    logins_in_progress_limit, logins_waiting_limit: logins asked for, and CONNECTs that wait for their turn; one more is
    closed unanswered (WebSocket 1013), its SDK comes again.
    sends_in_flight_limit, sends_in_flight_bytes: SENDs of one session that have no SENDACK yet, and their payloads;
    then its socket is not read until half of them have one.
    outbound_limit_bytes: what waits to be written to one session, estimated; one that is over it does not read, and is
    closed (1013). It pulls what it missed when it comes back.

    Pace: slice_ms, slice_sessions_limit: how long, and for how many sessions, sealing and writing may hold the loop;
    the rest follows in later turns. direct_writes_limit: writes made at once, without waiting for more to the same
    session, before queueing begins.
    """

    first_byte_timeout_ms: int = FIRST_BYTE_TIMEOUT_MS
    handshake_timeout_ms: int = HANDSHAKE_TIMEOUT_MS
    idle_timeout_ms: int = 3 * MINUTE_MS
    linger_ms: int = 2 * SECOND_MS
    push_delay_ms: int = 10
    tick_ms: int = 250

    connections_limit: int = 100_000
    logins_in_progress_limit: int = 512
    logins_waiting_limit: int = 8_192
    sends_in_flight_limit: int = 256
    sends_in_flight_bytes: int = MIB
    outbound_limit_bytes: int = 4 * MIB

    slice_ms: float = 2.0
    slice_sessions_limit: int = 200
    direct_writes_limit: int = 4


TRANSPORT_BUFFER_BYTES = 64 * KIB
"""Sealed bytes that a socket has not taken; beyond it frames wait unsealed, where they are shared between sessions."""
