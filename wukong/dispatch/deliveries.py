"""What this node has pushed lately, to whom, and what came back: the memory behind `wukong explain`. PURE.

It decides nothing; a message that it has forgotten was delivered all the same. It is written for every message and
RECVACK and read when somebody asks, so writing is appending, nothing else: a push is four things in a flat list (an
object for each would cost more than all the rest), among them the very list of sessions that the gateway was given, a
RECVACK is two numbers in an array, and whoever asks looks through it all. It is kept in pages, and the oldest page goes
as a whole. Beside it is a ring of sessions that have ended, and why.

Times are milliseconds of the caller's monotonic clock.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from wukong.channel.ids import ChannelId
from wukong.session.registry import LocalSession

PAGES = 64
PUSH_BYTES = 320
"""What a push takes besides its sessions and the channel's id, about: a list and numbers."""
SESSION_BYTES = 8
MARK_BYTES = 16
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

_TIME_BITS = 42
_TIME_MASK = (1 << _TIME_BITS) - 1
# Sessions beyond it (4 million logins in one life of a process) are marked modulo it.
_NUMBER_MASK = (1 << 22) - 1


class Push(NamedTuple):
    """One message handed to these sessions; of one with other devices of its sender there are two."""

    message_id: int
    channel: ChannelId
    at_ms: int
    sessions: list[int]


_PUSH_FIELDS = len(Push._fields)


class Mark(NamedTuple):
    """Something that happened to one session's copy. session: see `marked_as`."""

    session: int
    at_ms: int


class Page:
    """Messages pushed in some stretch of time, and what came back in it. pushes: the fields of `Push`, one behind the
    other; the others: pairs of a message's id, and session and time in one number."""

    __slots__ = ("acknowledged", "pushes", "repeated", "until_ms")

    def __init__(self) -> None:
        self.pushes: list[Any] = []  # any: of four kinds in turn
        self.acknowledged = array("Q")
        self.repeated = array("Q")
        self.until_ms = -1

    def pushes_of(self, message_id: int) -> list[Push]:
        pushes = self.pushes
        return [
            Push(*pushes[at : at + _PUSH_FIELDS])
            for at in range(0, len(pushes), _PUSH_FIELDS)
            if pushes[at] == message_id
        ]

    def acknowledged_of(self, message_id: int) -> list[Mark]:
        return _marks(self.acknowledged, message_id)

    def repeated_of(self, message_id: int) -> list[Mark]:
        return _marks(self.repeated, message_id)


def _marks(marks: "array[int]", message_id: int) -> list[Mark]:
    return [
        Mark(marks[at + 1] >> _TIME_BITS, marks[at + 1] & _TIME_MASK)
        for at in range(0, len(marks), 2)
        if marks[at] == message_id
    ]


def _long_texts(over: "EndedSession") -> int:
    """What its texts take beyond ENDED_BYTES; ids of clients may have 32 KB."""
    return max(0, len(over.uid) + len(over.device_id) + len(over.text) - ENDED_BYTES // 2)


def marked_as(session: int) -> int:
    """The number under which a session is found in marks."""
    return session & _NUMBER_MASK


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
    """limit_bytes: of all together; at the limit the oldest is forgotten, pushes in pages of one part in PAGES.

    forgotten_ms: what was pushed up to then may be forgotten; -1 while nothing is."""

    def __init__(self, limit_bytes: int) -> None:
        self._ended_limit_count = limit_bytes // ENDED_SHARE // ENDED_BYTES
        self._page_bytes = (limit_bytes - self._ended_limit_count * ENDED_BYTES) // PAGES
        self._pages: deque[Page] = deque()
        self._ended: deque[EndedSession] = deque()
        self._ended_texts = 0
        self.forgotten_ms = -1
        self._open_page()

    # -- written for every message --

    def pushed(self, message_id: int, channel: ChannelId, sessions: list[int], now_ms: int) -> None:
        """The list is kept as it is: do not change it."""
        push = self._push
        push(message_id)
        push(channel)
        push(now_ms)
        push(sessions)
        # An id may have 32 KB, and there is one for each push.
        self._room_bytes -= PUSH_BYTES + SESSION_BYTES * len(sessions) + len(channel.id)
        if self._room_bytes < 0:
            self._turn(now_ms)

    def acknowledged(self, message_id: int, session: int, now_ms: int) -> None:
        """A RECVACK of a push that waited for one."""
        mark = self._acknowledge
        mark(message_id)
        mark((session & _NUMBER_MASK) << _TIME_BITS | now_ms)
        self._room_bytes -= MARK_BYTES
        if self._room_bytes < 0:
            self._turn(now_ms)

    def repeated(self, message_id: int, session: int, now_ms: int) -> None:
        """It was pushed once more, because no RECVACK came."""
        self._pages[-1].repeated.extend((message_id, (session & _NUMBER_MASK) << _TIME_BITS | now_ms))
        self._room_bytes -= MARK_BYTES
        if self._room_bytes < 0:
            self._turn(now_ms)

    def _turn(self, now_ms: int) -> None:
        self._pages[-1].until_ms = now_ms
        if len(self._pages) == PAGES:
            self.forgotten_ms = self._pages.popleft().until_ms
        self._open_page()

    def _open_page(self) -> None:
        page = Page()
        self._pages.append(page)
        self._room_bytes = self._page_bytes
        self._push = page.pushes.append
        self._acknowledge = page.acknowledged.append

    # -- sessions --

    def ended(self, session: LocalSession, now_ms: int, why: str, text: str = "") -> None:
        """A session is over. Say it once."""
        if not self._ended_limit_count:
            return
        over = EndedSession(
            session.number,
            session.uid,
            session.device_flag,
            session.device_id,
            session.opened_ms,
            now_ms,
            why,
            text,
        )
        self._ended.append(over)
        self._ended_texts += _long_texts(over)
        while len(self._ended) + self._ended_texts // ENDED_BYTES > self._ended_limit_count:
            self._ended_texts -= _long_texts(self._ended.popleft())

    def all_ended(self, sessions: Iterable[LocalSession], now_ms: int, why: str) -> None:
        """As many as there is room for, the newest: a turn of the loop is not to be long for it."""
        for session in deque(sessions, self._ended_limit_count):
            self.ended(session, now_ms, why)

    # -- read when somebody asks --

    def pages(self) -> list[Page]:
        """Oldest first. They go on being written to."""
        return list(self._pages)

    def ended_sessions(self) -> Iterator[EndedSession]:
        """Oldest first; valid until the next change."""
        return iter(self._ended)
