"""What the gateway counts, as a whole and per session (http-api.md, 7.1 and 7.2)."""

import msgspec


class Counters(msgspec.Struct):
    """Since the start of the process. packets: frames of the client protocol, every kind; messages: SEND and RECV only.
    Bytes are those of the client protocol, without WebSocket headers and TLS."""

    accepted: int = 0
    rejected: int = 0  # over connections_limit, or while stopping
    logins: int = 0
    refused_logins: int = 0
    unanswered_logins: int = 0  # closed without a CONNACK: no quorum, queue full, too slow
    in_messages: int = 0
    in_packets: int = 0
    in_bytes: int = 0
    out_messages: int = 0
    out_packets: int = 0
    out_bytes: int = 0
    refused_sends: int = 0  # wrong key, undecryptable, too large
    protocol_errors: int = 0
    slow_closed: int = 0
    timeouts: int = 0  # no first byte, no CONNECT, idle
    dropped: int = 0  # closed so that the SDK comes again
    unwritable: int = 0  # messages that do not fit the wire
    paused: int = 0  # times that a socket was not read for a limit's sake
    login_refusals: dict[int, int] = {}  # CONNACK reason -> refused logins
    send_refusals: dict[int, int] = {}  # SENDACK reason -> refused SENDs that never reached the log


class ConnectionInfo(msgspec.Struct, frozen=True):
    """One session, as of now. id: its session number. Times: unix milliseconds. Counters as in `Counters`;
    pending_bytes: queued and not taken by the socket."""

    id: int
    uid: str
    ip: str
    port: int
    transport: str  # tcp, ws, wss
    device_flag: int
    device_id: str
    version: int
    is_json: bool
    is_encrypted: bool
    connected_ms: int
    last_activity_ms: int
    uptime_ms: int
    idle_ms: int
    pending_bytes: int
    sends_in_flight: int
    in_messages: int
    out_messages: int
    in_message_bytes: int
    out_message_bytes: int
    in_packets: int
    out_packets: int
    in_packet_bytes: int
    out_packet_bytes: int
