"""One group's log in memory, and the records that rebuild it.

The consensus core sees a list of (command, index, term) whose first element is the *base*: the last entry that was
trimmed, without its bytes. Everything that changes the log also leaves a `Record`; the same records, read back from
the write-ahead log in order, build the same log. Records are numbered by `seq`; `mark_durable` says up to which number
they are on disk, and `durable_index` is what follows from it for entries.
"""

from collections import deque
from typing import NamedTuple

import msgpack

Entry = tuple[bytes, int, int]
"""(command, index, term). The command's first byte is its kind, see below."""

# Kinds of commands: the first byte of every entry. The numbers are the core's.
REGULAR = 0
NO_OP = 1
MEMBERSHIP = 2

NO_OP_COMMAND = bytes((NO_OP,))
FIRST_INDEX = 1
"""Every log begins with an agreed entry that carries nothing: index 1, term 0."""

# Kinds of records.
ENTRY = 1  # index, term, data: the command
TRUNCATE = 2  # index: the first entry that is no longer valid
HARD_STATE = 3  # term; index: the node voted for in it, 0 for none
TRIM = 4  # index, term of the new base; data: the members as of it
RESET = 5  # the same; nothing of the old log stays
MEMBERS = 6  # data: the members as of the base, where it does not change
INSTALL = 7  # index, term, data: members. A snapshot of this point is about to replace the state
RECORD_KINDS = range(ENTRY, INSTALL + 1)


CHANGE_KINDS = ("learn", "add", "rem")


class Record(NamedTuple):
    kind: int
    group: int
    index: int  # type: ignore[assignment]  # the field's word; a tuple's own index() is not used
    term: int
    data: bytes


class Member(NamedTuple):
    """One replica of a group: a node with the disk it had when it became a member.

    A node whose disk was lost is the same node with another disk, and no member until the log says so: it has
    forgotten its votes and what it acknowledged. disk 0: written before disks were known.
    """

    node: int
    disk: int
    voter: bool
    """A learner (False) gets entries and snapshots, and counts for nothing."""


class Change(NamedTuple):
    """A membership change of one node; it counts from the moment it is in a log."""

    kind: str
    """`learn`: a node becomes a learner. `add`: a learner, or a node that is no member, becomes a voter. `rem`: a
    member goes."""
    node: int
    disk: int = 0
    """`rem` with 0: whatever disk it has."""


class Snapshot(NamedTuple):
    """A point of the log that a snapshot of the state stands for."""

    index: int  # type: ignore[assignment]  # as above
    term: int
    members: tuple[Member, ...]


def after_change(members: tuple[Member, ...], change: Change) -> tuple[Member, ...]:
    """The members after a change, in ascending order of nodes; the same if the change does not fit them."""
    kind, node, disk = change
    present = next((member for member in members if member.node == node), None)
    if kind == "rem":
        if present is None or disk not in (0, present.disk):
            return members
        return tuple(member for member in members if member is not present)
    if present is not None and (kind == "learn" or present.voter or present.disk != disk):
        return members
    others = [member for member in members if member is not present]
    return tuple(sorted([*others, Member(node, disk, kind == "add")]))


def encode_change(change: Change) -> bytes:
    packed: bytes = msgpack.packb(list(change))
    return bytes((MEMBERSHIP,)) + packed


def decode_change(command: bytes) -> Change | None:
    """The membership change an entry carries, None for every other entry.

    Raises ValueError if the bytes are not what `encode_change` makes.
    """
    if command[0] != MEMBERSHIP:
        return None
    value = msgpack.unpackb(command[1:])
    if (
        not isinstance(value, list)
        or len(value) not in (2, 3)  # 2: written before disks were known
        or value[0] not in CHANGE_KINDS
        or not all(type(number) is int for number in value[1:])
    ):
        raise ValueError("malformed membership change")
    return Change(*value)


class GroupLog(list[Entry]):
    """The log of one group. Element 0 is the base, the rest are the entries behind it without gaps.

    It is a list because the core reads its ends and slices in every turn, and a list does that without a call into
    Python. Change it through the methods only. The camel case names are the core's journal interface.
    """

    def __init__(self, group: int) -> None:
        super().__init__([(NO_OP_COMMAND, FIRST_INDEX, 0)])
        self.group = group
        self.term = 0
        self.vote = 0
        self.members: tuple[Member, ...] = ()
        """The members as of the base. `members_now()` adds the changes in the log. Empty: not decided yet."""
        self.intent: Snapshot | None = None
        """A snapshot installation that was begun and not finished."""
        self.entry_bytes = 0
        """Bytes of all commands behind the base."""
        self.seq = 0
        self.hard_seq = 0
        """Number of the last record that changed term or vote."""
        self.durable_seq = 0
        self.durable_index = FIRST_INDEX
        self.recovered_index = FIRST_INDEX
        """Of the entries that were here at start, the last that has not been truncated since."""
        self._changes: list[tuple[int, Change]] = []  # the membership changes behind the base, with their index
        self._members_now: tuple[Member, ...] | None = ()  # None: to be worked out
        self._records: list[Record] = []
        self._marks: deque[tuple[int, int]] = deque()  # (seq, last index that was complete at that record)
        self._floating = False  # replay only: the entries before the base are missing, a later TRIM must explain it

    # -- looking

    @property
    def base_index(self) -> int:
        return self[0][1]

    @property
    def last_index(self) -> int:
        return self[-1][1]

    @property
    def last_term(self) -> int:
        return self[-1][2]

    def term_at(self, index: int) -> int | None:
        """Term of the entry at index, the base included; None if the log does not reach there."""
        position = index - self[0][1]
        return self[position][2] if 0 <= position < len(self) else None

    def entries_from(self, index: int, limit_bytes: int) -> list[Entry]:
        """Entries from index on, at least one, stopping when their commands exceed limit_bytes."""
        start = position = index - self[0][1]
        size = 0
        end = len(self)
        while position < end:
            size += len(self[position][0])
            if size > limit_bytes and position > start:
                break
            position += 1
        return self[start:position]

    def members_now(self) -> tuple[Member, ...]:
        """The members as of the last entry, in ascending order: a change counts as soon as it is in the log.

        The same object until they may have changed.
        """
        if self._members_now is None:
            self._members_now = self._members_at(self[-1][1])
        return self._members_now

    def voters(self) -> tuple[int, ...]:
        """Nodes of the voters as of the last entry, in ascending order."""
        return tuple(member.node for member in self.members_now() if member.voter)

    def learners(self) -> tuple[int, ...]:
        """Nodes of the learners as of the last entry, in ascending order."""
        return tuple(member.node for member in self.members_now() if not member.voter)

    def member(self, node: int, disk: int) -> Member | None:
        """The member that is this node with this disk, as of the last entry."""
        return next((member for member in self.members_now() if member[:2] == (node, disk)), None)

    @property
    def last_change_index(self) -> int:
        """Index of the last membership change behind the base, 0 if there is none."""
        return self._changes[-1][0] if self._changes else 0

    def snapshot_at(self, index: int) -> Snapshot:
        term = self.term_at(index)
        if term is None:
            raise ValueError(f"group {self.group}: index {index} is not within {self.base_index}..{self.last_index}")
        return Snapshot(index, term, self._members_at(index))

    def _members_at(self, index: int) -> tuple[Member, ...]:
        members = self.members
        for at, change in self._changes:
            if at <= index:
                members = after_change(members, change)
        return members

    @property
    def has_records(self) -> bool:
        return bool(self._records)

    @property
    def is_durable(self) -> bool:
        """Whether term, vote and every entry are on disk. A trim that is not may be lost: the entries come again."""
        return self.durable_index == self[-1][1] and self.hard_seq <= self.durable_seq

    # -- changing

    def _note(self, kind: int, index: int, term: int, data: bytes = b"") -> None:
        self.seq += 1
        self._records.append(Record(kind, self.group, index, term, data))

    def add(self, command: bytes, idx: int, term: int) -> None:
        if idx != self[-1][1] + 1 or not command:
            raise AssertionError(f"group {self.group}: entry {idx} does not follow {self[-1][1]}")
        command = bytes(command)
        self._push(command, idx, term)
        self.seq += 1
        self._records.append(Record(ENTRY, self.group, idx, term, command))

    def deleteEntriesFrom(self, position: int) -> None:
        if not 1 <= position < len(self):
            raise AssertionError(f"group {self.group}: truncating at {position} of {len(self)}")
        first = self[position][1]
        self._cut(position)
        self.durable_index = min(self.durable_index, first - 1)
        self.recovered_index = min(self.recovered_index, first - 1)
        self._marks = deque((seq, min(index, first - 1)) for seq, index in self._marks)
        self._note(TRUNCATE, first, 0)

    def setCurrentTerm(self, term: int, voted_for: int | None) -> None:
        if (term, voted_for or 0) == (self.term, self.vote):
            return
        self.term, self.vote = term, voted_for or 0
        self._note(HARD_STATE, self.vote, term)
        self.hard_seq = self.seq

    def getCurrentTerm(self) -> int:
        return self.term

    def getVotedForNodeId(self) -> int | None:
        return self.vote or None

    def setRaftCommitIndex(self, index: int) -> None:
        """Not kept: what was committed is learned again, what was applied the machine knows."""

    def getRaftCommitIndex(self) -> int:
        return self[0][1]

    def onOneSecondTimer(self) -> None:
        """Nothing here depends on time."""

    def set_members(self, members: tuple[Member, ...]) -> None:
        """The members as of the base; decides them for a new log. Raises ValueError if a node is named twice."""
        if len({member.node for member in members}) < len(members):
            raise ValueError(f"group {self.group}: a node is named twice in {members}")
        self.members = tuple(sorted(members))
        self._members_now = None
        self._note(MEMBERS, self[0][1], 0, _pack_members(self.members))

    def trim(self, index: int) -> None:
        """Forget the entries up to index, which becomes the base. At or below the base: nothing happens."""
        position = index - self[0][1]
        if position <= 0:
            return
        if position >= len(self):
            raise AssertionError(f"group {self.group}: trimming at {index} behind the end {self[-1][1]}")
        self.members = self._members_at(index)
        self._drop_to(position)
        # One record: a write that tears between base and members would leave the changes behind the base forgotten.
        self._note(TRIM, index, self[0][2], _pack_members(self.members))

    def begin_install(self, snapshot: Snapshot) -> None:
        self.intent = snapshot
        self._note(INSTALL, snapshot.index, snapshot.term, _pack_members(snapshot.members))

    def finish_install(self, snapshot: Snapshot) -> None:
        """The state now stands at the snapshot. The tail stays if the log agrees with it there
        (Raft paper, figure 13, step 6); everything else goes."""
        self.intent = None
        if self.term_at(snapshot.index) == snapshot.term:
            self.trim(snapshot.index)
            self.set_members(snapshot.members)
        else:
            self._rebase(snapshot.index, snapshot.term)
            self.members = tuple(sorted(snapshot.members))
            self.durable_index = self.recovered_index = snapshot.index
            self._marks.clear()
            self._note(RESET, snapshot.index, snapshot.term, _pack_members(self.members))

    # -- durability

    def take_records(self) -> list[Record]:
        """Records made since the last call, to be written in this order; `seq` names the last of them."""
        records = self._records
        if records:
            self._records = []
            self._marks.append((self.seq, self[-1][1]))
        return records

    def mark_durable(self, seq: int) -> None:
        """Every record up to seq is on disk."""
        self.durable_seq = max(self.durable_seq, seq)
        while self._marks and self._marks[0][0] <= seq:
            self.durable_index = max(self.durable_index, self._marks.popleft()[1])

    # -- rebuilding

    def state_records(self, *, entries: bool) -> list[Record]:
        """Records that say everything a segment must say about this group before it: term, vote, base, members.

        With `entries` they also repeat the whole log, so that nothing older is needed.
        """
        group, (_, index, term) = self.group, self[0]
        records = [
            Record(HARD_STATE, group, self.vote, self.term, b""),
            Record(RESET if entries else TRIM, group, index, term, _pack_members(self.members)),
        ]
        if self.intent is not None:
            records.append(Record(INSTALL, group, self.intent.index, self.intent.term, _pack_members(self.intent[2])))
        if entries:
            records += [Record(ENTRY, group, i, t, command) for command, i, t in self[1:]]
        return records

    def replay(self, record: Record) -> None:
        """Take a record that was read back. Raises ValueError if it cannot follow what came before."""
        kind, _, index, term, data = record
        if kind == ENTRY:
            if index <= self[-1][1]:
                self._replay_truncate(index)
            elif index > self[-1][1] + 1:
                # Older segments may be gone: a TRIM further on must cover what is missing.
                self._rebase(index - 1, -1)
                self._floating = True
            if not data:
                raise ValueError("an entry without a command")
            self._push(data, index, term)
        elif kind == TRUNCATE:
            self._replay_truncate(index)
        elif kind == HARD_STATE:
            self.term, self.vote = term, index
        elif kind == TRIM:
            if self.intent is not None and self.intent.index <= index:
                self.intent = None
            position = index - self[0][1]
            if position >= len(self) or (position == 0 and self._floating):
                tail = self[1:] if position == 0 else []
                self._rebase(index, term)
                for entry in tail:
                    self._push(*entry)
                self._floating = False
            elif position > 0:
                if self[position][2] != term:
                    raise ValueError(f"trim point {index} has term {term}, its entry {self[position][2]}")
                self._drop_to(position)
                self._floating = False
            self._replay_members(index, data)
        elif kind == RESET:
            self._rebase(index, term)
            self._floating = False
            self.intent = None
            self._replay_members(index, data)
        elif kind == MEMBERS:
            self.members = _unpack_members(data)
            self._members_now = None
        elif kind == INSTALL:
            self.intent = Snapshot(index, term, _unpack_members(data))
        else:
            raise ValueError(f"unknown record kind {kind}")

    def end_replay(self) -> None:
        """Everything was read. Raises ValueError if entries are missing in the middle."""
        if self._floating:
            raise ValueError(f"entries before {self[0][1] + 1} are missing")
        self.durable_index = self.recovered_index = self[-1][1]

    def _replay_members(self, base: int, data: bytes) -> None:
        """The members that came with a base. None came with one in logs of the time before learners."""
        if data and base == self[0][1]:
            self.members = _unpack_members(data)
            self._members_now = None

    def _replay_truncate(self, first: int) -> None:
        if first > self[-1][1]:
            return
        if first <= self[0][1]:
            if not self._floating:
                raise ValueError(f"truncation at {first}, but the log was trimmed up to {self[0][1]}")
            self._rebase(first - 1, -1)
        else:
            self._cut(first - self[0][1])

    def _push(self, command: bytes, index: int, term: int) -> None:
        self.append((command, index, term))
        self.entry_bytes += len(command)
        if command[0] == MEMBERSHIP:
            change = decode_change(command)
            if change is not None:
                self._changes.append((index, change))
                self._members_now = None

    def _cut(self, position: int) -> None:
        """Remove the entries from position on."""
        first = self[position][1]
        self.entry_bytes -= sum(len(entry[0]) for entry in self[position:])
        if self.last_change_index >= first:
            self._changes = [item for item in self._changes if item[0] < first]
            self._members_now = None
        del self[position:]

    def _drop_to(self, position: int) -> None:
        """Make the entry at position the base."""
        _, index, term = self[position]
        self.entry_bytes -= sum(len(entry[0]) for entry in self[1 : position + 1])
        if self._changes:
            self._changes = [item for item in self._changes if item[0] > index]
            self._members_now = None
        self[0 : position + 1] = [(NO_OP_COMMAND, index, term)]

    def _rebase(self, index: int, term: int) -> None:
        """Forget everything; the log begins anew behind index."""
        self[:] = [(NO_OP_COMMAND, index, term)]
        self.entry_bytes = 0
        self._changes = []
        self._members_now = None


def _pack_members(members: tuple[Member, ...]) -> bytes:
    packed: bytes = msgpack.packb([list(member) for member in members])
    return packed


def _unpack_members(data: bytes) -> tuple[Member, ...]:
    value = msgpack.unpackb(data)
    if not isinstance(value, list):
        raise ValueError("malformed member list")
    return tuple(sorted(_unpack_member(item) for item in value))


def _unpack_member(value: object) -> Member:
    if type(value) is int:
        return Member(value, 0, True)  # written before disks and learners were known
    if isinstance(value, list) and [type(part) for part in value] == [int, int, bool]:
        return Member(*value)
    raise ValueError("malformed member list")
