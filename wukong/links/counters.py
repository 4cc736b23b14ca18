"""What links count, for metrics."""

import msgspec


class LinkCounters(msgspec.Struct):
    """Since the start of the process. Bytes are those on the wire of frames after the handshake, pings included;
    messages include facts."""

    in_messages: int = 0
    in_frames: int = 0
    in_bytes: int = 0
    out_messages: int = 0
    out_frames: int = 0
    out_bytes: int = 0

    dials: int = 0
    dials_failed: int = 0  # no address, no connection, refused, or no end of the handshake
    outgoing_up: int = 0  # authenticated
    outgoing_lost: int = 0
    accepted: int = 0
    incoming_up: int = 0  # authenticated
    incoming_replaced: int = 0  # by a newer connection of the same node

    unsent_no_link: int = 0  # messages
    unsent_over_limit: int = 0  # messages: the queue to the peer was full
    unsent_too_large: int = 0  # messages

    refused_version: int = 0  # the next five: handshakes, on either side, seen here
    refused_identity: int = 0  # not the node that was dialed, or this node's own number
    refused_proof: int = 0  # another secret
    refused_stranger: int = 0
    refused_malformed: int = 0
    refused_by_peer: int = 0  # the peer said so; unproven
    handshake_timeouts: int = 0
    half_open_evicted: int = 0

    oversized: int = 0  # the next six closed an authenticated connection, or one in its handshake
    unauthentic: int = 0  # altered, replayed, reordered or reflected frame
    malformed: int = 0
    stranger_violations: int = 0  # something else than facts, of a stranger or before a newcomer's facts
    refused_facts: int = 0  # the handler did not take them for those of the node with this number
    silent: int = 0

    unknown_kinds: int = 0  # messages of a kind that this version does not know, dropped
    handler_errors: int = 0  # exceptions of the handler, caught and logged
