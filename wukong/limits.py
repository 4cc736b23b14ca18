"""Fixed limits, with units, and the defaults of those that an operator may change (docs/configuration.md).

A server that moves the limits of the client protocol or of the message id no longer speaks to existing clients.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# --- fixed by the client protocol -----------------------------------------------------------------------------------
# A string's length is a signed 16-bit number to the SDKs. A longer string breaks the protocol.
MAX_STRING_BYTES = 32_767
# A larger payload is refused to its sender with reason 9 before anything is stored.
MAX_PAYLOAD_BYTES = 32_767
# A larger frame body closes the connection as soon as its header is read.
MAX_FRAME_BODY_BYTES = MIB
# A channel type is one byte.
MAX_CHANNEL_TYPE = 255
# From accept to the first byte, and from there to the end of the handshake: then the socket is closed unanswered.
FIRST_BYTE_TIMEOUT_MS = 2 * SECOND_MS
HANDSHAKE_TIMEOUT_MS = 4 * SECOND_MS

# --- fixed by the message id: 41 bits of milliseconds, 10 bits of slot, 12 bits of step -----------------------------
MAX_SLOT_COUNT = 1_024
# WuKongIM puts the node into the same 10 bits and refuses larger ids; what its files may say, ours may say.
MAX_NODE_ID = 1_023

# --- fixed by the HTTP API: a larger number in a request counts as this one -----------------------------------------
MAX_HISTORY_MESSAGES = 10_000
MAX_EVENT_SYNC_EVENTS = 2_000

# --- fixed by the replicated log: apply decides alike on every node ---------------------------------------------------
# A larger payload of a message event is refused with 400, and so is one that a lane has no room for.
MAX_EVENT_PAYLOAD_BYTES = 256 * KIB
MAX_EVENT_LANE_BYTES = MIB
MAX_EVENT_LANES = 64
# Lanes of a slot that take deltas, 50,000 on 16 slots: beyond it the pieces of the longest unused one are joined.
MAX_OPEN_EVENT_LANES = 3_125
EVENT_LANE_IDLE_MS = 10 * MINUTE_MS

# --- configuration --------------------------------------------------------------------------------------------------
# A larger file is refused unread.
MAX_CONFIG_FILE_BYTES = MIB
# Whoever records one handshake between nodes can try shorter secrets offline.
MIN_CLUSTER_SECRET_CHARS = 16
# The same of one webhook request.
MIN_WEBHOOK_SECRET_CHARS = 16

DEFAULT_SLOT_COUNT = 16
DEFAULT_WAL_SEGMENT_BYTES = 64 * MIB
DEFAULT_STORE_CACHE_BYTES = 256 * MIB
DEFAULT_HTTP_BODY_BYTES = 16 * MIB
DEFAULT_MEMBERS_PER_COMMAND = 1_000
DEFAULT_SESSION_OUTBOUND_BYTES = MIB
DEFAULT_SENDS_IN_FLIGHT_PER_SESSION = 128
DEFAULT_RECVACK_WINDOW_PER_SESSION = 1_000
DEFAULT_DELIVERY_RECORD_BYTES = 16 * MIB
DEFAULT_PROPOSALS_IN_FLIGHT = 8_192
DEFAULT_CONNECTS_IN_FLIGHT = 256
DEFAULT_IDEMPOTENCY_RETENTION_MS = 7 * DAY_MS
DEFAULT_NO_PERSIST_IDEMPOTENCY_RETENTION_MS = 10 * MINUTE_MS
DEFAULT_WEBHOOK_BACKLOG_BYTES = GIB
DEFAULT_NODE_GONE_AFTER_MS = 10 * SECOND_MS
DEFAULT_SNAPSHOT_BYTES_PER_SECOND = 32 * MIB
DEFAULT_LOG_RETAINED_BYTES = 4 * MIB
DEFAULT_LOG_TRIM_BYTES = 64 * MIB
DEFAULT_HEARTBEAT_MS = 150
DEFAULT_ELECTION_MS = 700
