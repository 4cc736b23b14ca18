"""What happened to a cluster, as its clients saw it, and what cannot have happened to a correct one.

Times are of one monotonic clock, in seconds. An operation is an interval from its call to its answer; without an
answer, or with one that leaves it open, it may have taken effect at any time after the call, or never. Every checker is
a function from records to faults, which are sentences; none means that the records are those of a correct cluster.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.scenarios.judge import Change, History, Sent, now
from tests.support.wire import Message

NEVER = math.inf
_SHOWN = 5


@dataclass
class Attempt:
    """A message of a sender under its number. acked: NEVER while the outcome is unknown. seq: 0 as long as no answer
    told it; message_id likewise. refused: for certain not stored."""

    sender: str
    channel: str
    number: str
    payload: bytes
    began: float
    acked: float = NEVER
    seq: int = 0
    message_id: int = 0
    refused: bool = False

    @property
    def is_acked(self) -> bool:
        return self.acked != NEVER


class Stored(NamedTuple):
    """A message as a node's history shows it."""

    seq: int
    message_id: int
    number: str
    sender: str
    payload: bytes


class Read(NamedTuple):
    """The list of members that a node answered."""

    node: int
    began: float
    ended: float
    members: frozenset[str]


@dataclass
class Stay:
    """One connection. since: its login was answered. complete_until: everything that was acknowledged before that has
    arrived, because something sent afterwards in every slot has; 0 when it was lost before."""

    uid: str
    node: int
    since: float
    received: Sequence[Message]
    complete_until: float = 0.0


@dataclass
class RoomRecord:
    """One channel: its changes and reads, the messages, and its history as each node shows it in the end."""

    id: str
    history: History = field(default_factory=History)
    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    stored: dict[int, list[Stored]] = field(default_factory=dict)

    def settle(self) -> None:
        """Tell the judge what the stored history tells: where messages stand whose answer had no seq or never came."""
        by_number = {attempt.number: attempt for attempt in self.attempts}
        self.history.messages.clear()
        for message in next(iter(self.stored.values()), []):
            attempt = by_number.get(message.number)
            if attempt is not None:
                sent = Sent(message.seq, attempt.payload, attempt.sender, attempt.began, attempt.acked)
                self.history.messages.append(sent)


@dataclass
class Journal:
    """Everything of one stretch of time."""

    rooms: dict[str, RoomRecord] = field(default_factory=dict)
    stays: list[Stay] = field(default_factory=list)

    def room(self, channel: str) -> RoomRecord:
        return self.rooms.setdefault(channel, RoomRecord(channel))


Checker = Callable[[Journal], list[str]]


def check(journal: Journal) -> dict[str, list[str]]:
    """Faults by checker; without those that found none."""
    for room in journal.rooms.values():
        room.settle()
    found = {name: checker(journal) for name, checker in CHECKERS.items()}
    return {name: faults for name, faults in found.items() if faults}


# -- what is stored


def lost(journal: Journal) -> list[str]:
    """An acknowledged message stands in the history, under what its answer told."""
    faults = []
    for room in journal.rooms.values():
        for node, messages in room.stored.items():
            by_number = {message.number: message for message in messages}
            for attempt in room.attempts:
                message = by_number.get(attempt.number)
                if message is None:
                    if attempt.is_acked:
                        faults.append(f"LOST on node {node}: {attempt}")
                    continue
                if attempt.refused:
                    faults.append(f"refused, but stored on node {node}: {attempt}")
                if attempt.seq not in (0, message.seq) or attempt.message_id not in (0, message.message_id):
                    faults.append(f"acknowledged as another on node {node}: {attempt} stands as {message}")
                if (message.payload, message.sender) != (attempt.payload, attempt.sender):
                    faults.append(f"another content on node {node}: {attempt} stands as {message}")
    return faults


def doubled(journal: Journal) -> list[str]:
    """A number stands once in a history; and no connection got a message twice."""
    faults = []
    for room in journal.rooms.values():
        for node, messages in room.stored.items():
            seen: dict[str, int] = {}
            for message in messages:
                if message.number in seen:
                    faults.append(f"DOUBLED in {room.id} on node {node}: seq {seen[message.number]} and {message}")
                seen.setdefault(message.number, message.seq)
    for stay in journal.stays:
        ids: set[int] = set()
        for message in stay.received:
            if message.message_id in ids:
                faults.append(f"{stay.uid} got twice on one connection to node {stay.node}: {message}")
            ids.add(message.message_id)
    return faults


def gaps(journal: Journal) -> list[str]:
    """Seqs are 1, 2, 3, ..."""
    return [
        f"{room.id} on node {node}: seqs {seqs[:_SHOWN]}... to {seqs[-1]} are {len(seqs)}"
        for room in journal.rooms.values()
        for node, messages in room.stored.items()
        if (seqs := [message.seq for message in messages]) and seqs != list(range(1, len(seqs) + 1))
    ]


def one_order(journal: Journal) -> list[str]:
    """All nodes show one history; what was answered before something else began stands before it; and connections get
    messages in the order of their seqs, as stored."""
    faults = []
    for room in journal.rooms.values():
        views = list(room.stored.items())
        for node, messages in views[1:]:
            if messages != views[0][1]:
                where = next(
                    (pair for pair in zip(views[0][1], messages, strict=False) if pair[0] != pair[1]),
                    (len(views[0][1]), len(messages)),
                )
                faults.append(f"{room.id}: nodes {views[0][0]} and {node} differ: {where}")
        answered = sorted((each for each in room.attempts if each.is_acked and each.seq), key=lambda each: each.acked)
        begun = sorted((each for each in room.attempts if each.seq), key=lambda each: each.began)
        highest, index = 0, 0
        for attempt in begun:
            while index < len(answered) and answered[index].acked < attempt.began:
                highest = max(highest, answered[index].seq)
                index += 1
            if attempt.seq < highest:
                faults.append(f"{room.id}: {attempt} began when seq {highest} was answered already")
    by_seq = {room.id: {each.seq: each for each in next(iter(room.stored.values()), [])}
              for room in journal.rooms.values()}  # fmt: skip
    for stay in journal.stays:
        last: dict[str, int] = defaultdict(int)
        for message in stay.received:
            if message.channel_id not in by_seq or not message.message_seq:
                continue
            if message.message_seq < last[message.channel_id]:
                faults.append(f"{stay.uid} on node {stay.node}: {message} after seq {last[message.channel_id]}")
            last[message.channel_id] = message.message_seq
            stored = by_seq[message.channel_id].get(message.message_seq)
            if stored is None or (stored.message_id, stored.payload) != (message.message_id, message.payload):
                faults.append(f"{stay.uid} on node {stay.node} got {message}, stored is {stored}")
    return faults


# -- who got what


def missed(journal: Journal) -> list[str]:
    """R0: whoever was a member got what was sent, and nobody else did, as far as he was connected."""
    faults = []
    stays: dict[str, list[Stay]] = defaultdict(list)
    for stay in journal.stays:
        stays[stay.uid].append(stay)
    for room in journal.rooms.values():
        for uid, his in stays.items():
            got: dict[int, bytes] = {}
            reach: list[tuple[Stay, int]] = []
            for stay in his:
                pushed = {each.message_seq: each.payload for each in stay.received if each.channel_id == room.id}
                reach.append((stay, max(pushed, default=0)))
                got |= pushed
            own = {message.seq for message in room.history.messages if message.sender == uid}
            skip = {
                message.seq
                for message in room.history.messages
                if message.seq not in got and not _was_here(message, reach)
            }
            faults += [f"{room.id}: {fault}" for fault in room.history.judge(uid, got, skip=skip | own)]
    return faults


def _was_here(message: Sent, reach: Iterable[tuple[Stay, int]]) -> bool:
    """Whether a connection was there when the message was sent, and what was sent then has come, or something later of
    the same channel has."""
    return any(
        stay.since < message.sent and (message.acked < stay.complete_until or message.seq < last)
        for stay, last in reach
    )


# -- lists of members


def unordered_reads(journal: Journal) -> list[str]:
    """Lists of members are linearizable: for every user there is an order of changes and reads that agrees with their
    times and in which every read shows what the last change made."""
    faults = []
    for room in journal.rooms.values():
        uids = set().union(*(read.members for read in room.reads)) if room.reads else set()
        uids |= {stay.uid for stay in journal.stays}
        for uid in sorted(uids):
            writes = room.history.changes_of(uid)
            reads = [(uid in read.members, read.began, read.ended) for read in room.reads]
            if not is_linearizable(writes, reads):
                faults.append(
                    f"{room.id}: reads of {uid} contradict changes and times: {_timeline(writes, room.reads, uid)}"
                )
    return faults


def is_linearizable(
    writes: Sequence[tuple[bool, Change]], reads: Sequence[tuple[bool, float, float]], *, initial: bool = False
) -> bool:
    """Of one register with two values. A write without an answer may count at any time, or never. The search is that of
    Wing and Gong, with the states seen kept; a read that fits is taken at once, which never spoils another order."""
    operations = sorted(
        [(change.began, change.ok, True, value) for value, change in writes]
        + [(began, ended, False, value) for value, began, ended in reads]
    )
    count = len(operations)
    required = sum(1 << index for index, each in enumerate(operations) if each[1] != NEVER)

    def candidates(done: int) -> list[int]:
        first_end = NEVER
        found = []
        for index in range(count):
            if done >> index & 1:
                continue
            began, ended, _, _ = operations[index]
            if began > first_end:
                break
            found.append(index)
            first_end = min(first_end, ended)
        return [index for index in found if operations[index][0] <= first_end]

    def absorb(done: int, value: bool) -> int:
        while fitting := [index for index in candidates(done) if operations[index][2:] == (False, value)]:
            for index in fitting:
                done |= 1 << index
        return done

    start = (absorb(0, initial), initial)
    seen = {start}
    stack = [start]
    while stack:
        done, value = stack.pop()
        if done & required == required:
            return True
        tried_open = {value}
        for index in candidates(done):
            _, ended, is_write, written = operations[index]
            if not is_write:
                continue
            if ended == NEVER:
                # One without an answer can wait; so only the first of its value, and only if it changes something.
                if written in tried_open:
                    continue
                tried_open.add(written)
            state = (absorb(done | 1 << index, written), written)
            if state not in seen:
                seen.add(state)
                stack.append(state)
    return False


def _timeline(writes: Sequence[tuple[bool, Change]], reads: Sequence[Read], uid: str) -> str:
    events = [(change.began, change.ok, "joins" if joins else "leaves") for joins, change in writes]
    events += [
        (read.began, read.ended, f"node {read.node} {'lists' if uid in read.members else 'omits'}") for read in reads
    ]
    zero = min((event[0] for event in events), default=0.0)
    return ", ".join(f"{what} {began - zero:.3f}..{ended - zero:.3f}" for began, ended, what in sorted(events))


# -- who is online


def ghosts(node: int, listed: Mapping[str, int], connected: Mapping[str, int]) -> list[str]:
    """Whom a node takes for connected, and who is; by uid the number of connections."""
    return [
        f"node {node} lists {listed.get(uid, 0)} connections of {uid}, there are {connected.get(uid, 0)}"
        for uid in sorted(listed.keys() | connected.keys())
        if listed.get(uid, 0) != connected.get(uid, 0)
    ]


CHECKERS: dict[str, Checker] = {
    "lost": lost,
    "doubled": doubled,
    "gaps": gaps,
    "order": one_order,
    "missed": missed,
    "reads": unordered_reads,
}

__all__ = [
    "CHECKERS",
    "NEVER",
    "Attempt",
    "Journal",
    "Read",
    "RoomRecord",
    "Stay",
    "Stored",
    "check",
    "ghosts",
    "is_linearizable",
    "now",
]
