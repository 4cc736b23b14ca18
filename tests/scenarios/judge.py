"""Who must get a message and who must not, told from times alone; and whether they did.

A back end sees a change as an interval from the call to the Ok, a sender sees a message as an interval from the SEND to
its SENDACK. The server puts each at one point inside its interval; what ended before another began lies before it.
From that follows for every message and user: must get it, must not get it, or, where intervals overlap, either. And
once he got one, he gets all later ones until a removal that can lie between them; the same the other way round.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum

now: Callable[[], float] = time.monotonic


class Verdict(Enum):
    MUST = "must get"
    MUST_NOT = "must not get"
    EITHER = "may get"


@dataclass
class Change:
    """A change of the members. joins: whether a uid is a member afterwards, None when it is left alone.
    ok: when success was answered; never, when the outcome is unknown (inf)."""

    joins: Callable[[str], bool | None]
    began: float
    ok: float = math.inf


@dataclass
class Sent:
    """A message that was acknowledged as stored. sent: before the SEND was written; acked: after its SENDACK came."""

    seq: int
    payload: bytes
    sender: str
    sent: float
    acked: float


@dataclass
class History:
    """What happened to one channel, or to its command twin, which has the same changes and its own messages."""

    changes: list[Change] = field(default_factory=list)
    messages: list[Sent] = field(default_factory=list)

    # -- writing it down

    @contextmanager
    def _change(self, joins: Callable[[str], bool | None]) -> Iterator[None]:
        """Around the call. When it raises, the outcome counts as unknown."""
        change = Change(joins, now())
        self.changes.append(change)
        yield
        change.ok = now()

    def adding(self, uids: Iterable[str]) -> AbstractContextManager[None]:
        listed = frozenset(uids)
        return self._change(lambda uid: True if uid in listed else None)

    def removing(self, uids: Iterable[str]) -> AbstractContextManager[None]:
        listed = frozenset(uids)
        return self._change(lambda uid: False if uid in listed else None)

    def resetting(self, uids: Iterable[str]) -> AbstractContextManager[None]:
        listed = frozenset(uids)
        return self._change(lambda uid: uid in listed)

    def sent(self, seq: int, payload: bytes, sender: str, sent: float, acked: float) -> None:
        self.messages.append(Sent(seq, payload, sender, sent, acked))

    # -- reading it

    def changes_of(self, uid: str) -> list[tuple[bool, Change]]:
        """What concerns the user: (member afterwards, change)."""
        return [(joins, change) for change in self.changes if (joins := change.joins(uid)) is not None]

    def members(self) -> Callable[[str], bool | None]:
        """Whether a uid is a member in the end; None when two last changes overlapped."""

        def is_member(uid: str) -> bool | None:
            possible = _possible(self.changes_of(uid), now(), math.inf)
            return possible.pop() if len(possible) == 1 else None

        return is_member

    def verdict(self, uid: str, message: Sent) -> Verdict:
        return _verdict(self.changes_of(uid), message)

    def judge(self, uid: str, got: Mapping[int, bytes] | Iterable[int], *, skip: Iterable[int] = ()) -> list[str]:
        """Faults of what a user got, by seq and perhaps payload, who could get everything all the time. skip: seqs
        that do not count for him, like those that his own connection sent."""
        payloads = got if isinstance(got, Mapping) else {}
        got, skip = set(got), set(skip)
        concerning = self.changes_of(uid)
        faults: list[str] = []
        before: Sent | None = None
        known = {message.seq for message in self.messages}
        faults += [f"{uid} got seq {seq}, which nobody sent" for seq in sorted(got - known)]
        for message in sorted(self.messages, key=lambda message: message.seq):
            if message.seq in skip:
                continue
            delivered = message.seq in got
            verdict = _verdict(concerning, message)
            if verdict is Verdict.MUST and not delivered:
                faults.append(f"{uid} MISSED seq {message.seq}: {_told(concerning, message)}")
            if verdict is Verdict.MUST_NOT and delivered:
                faults.append(f"{uid} got seq {message.seq} as a stranger: {_told(concerning, message)}")
            if delivered and payloads and payloads[message.seq] != message.payload:
                faults.append(f"{uid} got another payload under seq {message.seq}")
            if (
                before is not None
                and (before.seq in got) is not delivered
                and not _may_turn(concerning, before, message, into=delivered)
            ):
                which = "got" if delivered else "missed"
                faults.append(f"{uid} {which} seq {message.seq}, but not seq {before.seq}, and nothing lies between")
            before = message
        return faults


def _verdict(concerning: list[tuple[bool, Change]], message: Sent) -> Verdict:
    possible = _possible(concerning, message.sent, message.acked)
    if len(possible) == 2:
        return Verdict.EITHER
    return Verdict.MUST if possible.pop() else Verdict.MUST_NOT


def _possible(concerning: list[tuple[bool, Change]], began: float, ended: float) -> set[bool]:
    """Whether the user may have been a member at a point between began and ended."""
    before = [(joins, change) for joins, change in concerning if change.ok < began]
    # The point at which the last of them must have begun: what ended before that is history.
    last = max((change.began for _, change in before), default=-math.inf)
    possible = {joins for joins, change in before if change.ok >= last}
    possible |= {joins for joins, change in concerning if change.ok >= began and change.began < ended}
    if not before:
        possible.add(False)
    return possible


def _may_turn(concerning: list[tuple[bool, Change]], earlier: Sent, later: Sent, *, into: bool) -> bool:
    """Whether a change to `into` may lie between two messages."""
    return any(
        joins is into and change.ok > earlier.sent and change.began < later.acked for joins, change in concerning
    )


def _told(concerning: list[tuple[bool, Change]], message: Sent) -> str:
    times = ", ".join(
        f"{'joins' if joins else 'leaves'} {(change.began - message.sent) * 1000:+.1f}"
        f"..{(change.ok - message.sent) * 1000:+.1f} ms"
        for joins, change in concerning
    )
    return f"sent by {message.sender} at 0, acknowledged at {(message.acked - message.sent) * 1000:+.1f} ms; {times}"
