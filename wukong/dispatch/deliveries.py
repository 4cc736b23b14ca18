"""What this node has pushed lately, to whom, and what came back: the memory behind `wukong explain`. PURE.

A ring of messages, the newest kept: one entry per message that had a receiver here. It decides nothing, and a message
that it has forgotten was delivered all the same. Written for every message and RECVACK, so what is written is small and
is told apart only when somebody asks: an entry keeps the very list of sessions that the gateway was given, and a
RECVACK is one number in an array. Beside it is a ring of sessions that have ended, and why.

Times are milliseconds of the caller's monotonic clock.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from wukong.channel.ids import ChannelId
from wukong.session.registry import LocalSession

ENTRY_BYTES = 512
"""What an entry takes besides its sessions, about: the struct, its place in the dictionary, the channel's id."""
SESSION_BYTES = 8
MARKS_BYTES = 96
"""An array that is not empty, its spare room included."""
ENDED_BYTES = 512
ENDED_SHARE = 8
"""Of the bytes one part in so many is for sessions that have ended."""

# Why a session ended.
SLOW = "slow"  # too much waited to be read
IDLE = "idle"  # nothing came for the idle time
CLIENT_CLOSED = "client_closed"
CONNECTION_LOST = "connection_lost"
PROTOCOL_ERROR = "protocol_error"
KICKED = "kicked"  # by another login, a new token, an operator
REPLACED = "replaced"  # the same device has logged in again
LET_GO = "let_go"  # closed so that the client connects again: an operator, the balance of nodes, a SEND without outcome
FENCED = "fenced"  # the node lost touch with the others and closed all clients
STOPPED = "stopped"  # the node was shut

_DELAY_BITS = 40
_DELAY_MASK = (1 << _DELAY_BITS) - 1
# Session numbers beyond it (16 million logins in one life of a process) are marked modulo it.
_NUMBER_MASK = (1 << 24) - 1


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to one session's copy, so many milliseconds after the first push."""

    session: int
    after_ms: int


class Delivery(msgspec.Struct, gc=False):
    """One message. sessions: of others, own: other sessions of its sender."""

    message_id: int
    channel: ChannelId
    at_ms: int
    sessions: list[int]
    own: list[int] | None = None
    _acknowledged: "array[int] | None" = None
    _repeated: "array[int] | None" = None

    def numbers(self) -> Iterator[int]:
        yield from self.sessions
        yield from self.own or ()

    def acknowledged(self) -> list[Mark]:
        return _marks(self._acknowledged)

    def repeated(self) -> list[Mark]:
        return _marks(self._repeated)


class EndedSession(msgspec.Struct, frozen=True, gc=False):
    """opened_ms in unix ms, ended_ms on the monotonic clock. why: one of the words above; text: what was said to the
    client, if anything."""

    number: int
    uid: str
    device_flag: int
    device_id: str
    opened_ms: int
    ended_ms: int
    why: str
    text: str


class Deliveries:
    """limit_bytes: of both rings together; at the limit the oldest is forgotten.

    forgotten_ms, ended_forgotten_ms: when what was forgotten last had happened; -1 while nothing is forgotten."""

    def __init__(self, limit_bytes: int) -> None:
        self._ended_limit_count = limit_bytes // ENDED_SHARE // ENDED_BYTES
        self._limit_bytes = limit_bytes - self._ended_limit_count * ENDED_BYTES
        self._by_id: dict[int, Delivery] = {}
        # A dictionary finds its oldest key slowly once many before it are gone.
        self._order: deque[Delivery] = deque()
        self._ended: deque[EndedSession] = deque()
        self.size_bytes = 0
        self.forgotten_ms = -1
        self.ended_forgotten_ms = -1

    def __len__(self) -> int:
        return len(self._order)

    # -- written for every message --

    def pushed(self, message_id: int, channel: ChannelId, sessions: list[int], now_ms: int) -> None:
        """The list is kept as it is: do not change it. The second call for a message tells of its sender's own."""
        by_id = self._by_id
        entry = by_id.get(message_id)
        if entry is None:
            by_id[message_id] = entry = Delivery(message_id, channel, now_ms, sessions)
            self._order.append(entry)
            self.size_bytes += ENTRY_BYTES + SESSION_BYTES * len(sessions)
        else:
            entry.own = sessions
            self.size_bytes += SESSION_BYTES * len(sessions)
        if self.size_bytes > self._limit_bytes:
            self._forget()

    def acknowledged(self, message_id: int, session: int, now_ms: int) -> None:
        """A RECVACK of a push that waited for one."""
        entry = self._by_id.get(message_id)
        if entry is None:
            return
        # In here and not in a helper: it is called for every RECVACK.
        mark = (session & _NUMBER_MASK) << _DELAY_BITS | (now_ms - entry.at_ms) & _DELAY_MASK
        marks = entry._acknowledged
        if marks is None:
            entry._acknowledged = array("Q", (mark,))
            self.size_bytes += MARKS_BYTES
        else:
            marks.append(mark)
            self.size_bytes += SESSION_BYTES

    def repeated(self, message_id: int, session: int, now_ms: int) -> None:
        """It was pushed once more, because no RECVACK came."""
        entry = self._by_id.get(message_id)
        if entry is None:
            return
        if entry._repeated is None:
            entry._repeated = array("Q")
            self.size_bytes += MARKS_BYTES
        mark = (session & _NUMBER_MASK) << _DELAY_BITS | (now_ms - entry.at_ms) & _DELAY_MASK
        entry._repeated.append(mark)
        self.size_bytes += SESSION_BYTES

    def _forget(self) -> None:
        order = self._order
        while order and self.size_bytes > self._limit_bytes:
            entry = order.popleft()
            del self._by_id[entry.message_id]
            self.forgotten_ms = entry.at_ms
            size = ENTRY_BYTES + SESSION_BYTES * (len(entry.sessions) + len(entry.own or ()))
            if entry._acknowledged is not None:
                size += MARKS_BYTES + SESSION_BYTES * (len(entry._acknowledged) - 1)
            if entry._repeated is not None:
                size += MARKS_BYTES + SESSION_BYTES * len(entry._repeated)
            self.size_bytes -= size

    # -- sessions --

    def ended(self, session: LocalSession, now_ms: int, why: str, text: str = "") -> None:
        """A session is over. Say it once."""
        if not self._ended_limit_count:
            return
        if len(self._ended) >= self._ended_limit_count:
            self.ended_forgotten_ms = self._ended.popleft().ended_ms
        self._ended.append(
            EndedSession(
                session.number,
                session.uid,
                session.device_flag,
                session.device_id,
                session.opened_ms,
                now_ms,
                why,
                text,
            )
        )

    def all_ended(self, sessions: Iterable[LocalSession], now_ms: int, why: str) -> None:
        """As many as there is room for, the newest: a turn of the loop is not to be long for it."""
        newest = list(sessions)
        left = newest[-self._ended_limit_count :] if self._ended_limit_count else []
        if len(left) < len(newest):
            self.ended_forgotten_ms = now_ms
        for session in left:
            self.ended(session, now_ms, why)

    # -- read when somebody asks --

    def of(self, message_id: int) -> Delivery | None:
        return self._by_id.get(message_id)

    def ended_sessions(self) -> Iterator[EndedSession]:
        """Oldest first; valid until the next change."""
        return iter(self._ended)


def _marks(marks: "array[int] | None") -> list[Mark]:
    return [Mark(mark >> _DELAY_BITS, mark & _DELAY_MASK) for mark in marks or ()]


def marked_as(session: int) -> int:
    """The number under which a session is found in marks."""
    return session & _NUMBER_MASK
