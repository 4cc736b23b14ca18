"""One group's replica as a deterministic machine: the seam between consensus and everything that does I/O.

Shaped like raft-rs's RawNode, so that the core behind it can be exchanged. The owner calls in with proposals, messages
and the time, then takes a `Ready`, sends its messages at once, writes its records, and says `persisted` when they are
on disk. What must not be seen before it is durable stays inside until then: votes, answers that acknowledge entries,
and everything that shows a term the disk does not know yet. Answers from others count only for entries that are
durable here, and entries are handed out for applying only when they are committed and durable here.
"""

import random
from typing import NamedTuple

from wukong.errors import DataError, NotLeader
from wukong.raft.config import RaftConfig
from wukong.raft.core import RaftGroup
from wukong.raft.filter import Message, MessageFilter
from wukong.raft.log import FIRST_INDEX, MEMBERS, REGULAR, TRIM, Change, GroupLog, Member, Record, Snapshot
from wukong.raft.reads import ReadCallback, ReadRounds
from wukong.raft.statemachine import Committed


class Leadership(NamedTuple):
    leader: int | None
    term: int


class Ready(NamedTuple):
    """What is to be done. Nothing in it is handed out twice."""

    messages: list[tuple[int, Message]]
    """(node, message), to be sent now, in this order per node."""
    records: list[Record]
    """To be written in this order, together with those of other groups."""
    seq: int
    """For `persisted`, when the records are on disk."""
    committed: list[Committed]
    """To be applied in this order. Entries with empty data carry nothing for the machine, only an index."""
    leadership: Leadership | None
    """Set when leader or term as this node knows them changed."""
    snapshots: list[int]
    """Followers and learners that need entries which were trimmed here: stream them the state."""

    @property
    def must_sync(self) -> bool:
        """Whether messages or entries wait for the records; trim points alone can wait for the next write."""
        return any(record.kind not in (TRIM, MEMBERS) for record in self.records)


_HASTE = (0.05, 0.25)
"""Parts of election_min after which an election is asked for when the link to the leader breaks."""


class RawNode:
    """The replica of one group on one node.

    log: as recovered, with its members set. applied: (index, term) of the last entry whose effect the machine has kept,
    (0, 0) for none. rng: draws election times. now: seconds, from any start, never backwards. disk: number of the disk
    the log is on; this node stands for election and votes only while the log's members name it with this disk.
    Raises DataError if log and applied index do not belong together.
    """

    def __init__(
        self,
        *,
        node_id: int,
        log: GroupLog,
        applied: tuple[int, int],
        config: RaftConfig,
        rng: random.Random,
        now: float,
        disk: int = 0,
    ) -> None:
        if not log.voters():
            raise ValueError(f"group {log.group} has no voters")
        self.group = log.group
        self.node_id = node_id
        self.disk = disk
        self.log = log
        self._config = config
        self._rng = rng
        self._now = now
        self._outbox: list[tuple[int, Message]] = []
        self._held: list[tuple[int, int, Message]] = []  # (record that must be durable, node, message)
        self._snapshots: set[int] = set()
        self._leadership = Leadership(None, 0)
        self._links: set[int] = set()
        self._reads = ReadRounds(
            limit_count=config.read_limit_count,
            timeout_s=config.quorum_timeout_ms / 1000,
            first_id=rng.getrandbits(48),
        )
        self._boot(_start_index(log, applied))

    def _boot(self, applied_index: int) -> None:
        """Build core and filter from the log: at start, and after a snapshot took the log's place."""
        core = RaftGroup(self.node_id, self.log, applied_index, self._config, self._rng, self._now, self.disk)
        self._core = core
        self._filter = MessageFilter(core, self._emit, self._reads, self._config.election_min_ms / 1000, self._now)
        core.attach(self._filter.outgoing, self._filter.may_campaign, self._snapshots.add)
        for node in self._links:
            self._core.set_connected(node, True)

    # -- looking

    @property
    def is_leader(self) -> bool:
        return self._core.is_leader

    @property
    def leader(self) -> int | None:
        return self._core.leader_id

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def commit_index(self) -> int:
        """Committed as far as this node knows, and durable here."""
        return self._core.durable_commit_index

    @property
    def voters(self) -> tuple[int, ...]:
        """Node ids in ascending order; a change counts from the moment it is in the log."""
        return self.log.voters()

    @property
    def members(self) -> tuple[Member, ...]:
        """In ascending order of nodes; a change counts from the moment it is in the log."""
        return self.log.members_now()

    @property
    def has_peers(self) -> bool:
        """Whether there is anybody to talk to, learners included."""
        return bool(self._core.peers or self._core.learners)

    @property
    def transferring(self) -> bool:
        """Leadership is being handed over: `propose` is refused until the other leads or election_max has passed."""
        return self._core.transfer_target is not None

    def match_index(self, node: int) -> int:
        """Leading: up to where a member is known to hold the log, learners too. 0 for unknown."""
        if not self._core.is_leader:
            return 0
        return self.log.durable_index if node == self.node_id else self._core.match_index(node)

    def heard_at(self) -> float:
        """When a leader was heard last; leading, the time since when a majority has been heard, this node included.

        In the time of `now`. Minus infinity for never, infinity for a leader that is a majority alone.
        """
        return self._core.majority_heard_at() if self._core.is_leader else self._filter.heard_at

    @property
    def malformed_count(self) -> int:
        """Messages of voters that were dropped because they were malformed."""
        return self._filter.malformed_count

    # -- input

    def propose(self, data: bytes) -> None:
        """Append an entry. Its outcome is known when it is committed, or a later leader's entry takes its index.

        Raises NotLeader (also while `transferring`: it names who is to lead), ValueError (empty, or over the limit).
        """
        if not self._core.is_leader:
            raise NotLeader(self.group, self._core.leader_id)
        if self._core.transfer_target is not None:
            raise NotLeader(self.group, self._core.transfer_target)
        if not 0 < len(data) <= self._config.max_entry_bytes:
            raise ValueError(f"an entry of {len(data)} bytes; 1 to {self._config.max_entry_bytes} are allowed")
        self._core.append(data)

    def change_members(self, change: Change) -> bool:
        """Append a membership change. Raises NotLeader. False, and nothing happens, if one is under way, or this
        leadership has not committed an entry yet, or a transfer is under way, or it would remove this leader (transfer
        first), or it does not fit the members: only a learner that is connected, with the disk it has, and holds every
        membership change becomes a voter; a member is not made a learner; nobody is removed with a disk he does not
        have."""
        if not self._core.is_leader:
            raise NotLeader(self.group, self._core.leader_id)
        return self._core.change_members(change)

    def transfer(self, node: int) -> bool:
        """Ask a voter to take over as soon as it has every entry; `transferring` until then, for election_max at most.
        False if this node does not lead, the other is not connected or no voter, needs a snapshot, or one is under
        way."""
        if not self._core.is_leader:
            return False
        return self._core.transfer(node, self._now)

    def hinder(self, on: bool) -> None:
        """The disk hangs: whoever leads without it holds everybody up, since nothing counts that is not durable here.
        A leader with peers steps down, and does not ask for an election before the disk answers."""
        self._core.hindered = on
        if on and self._core.is_leader and self._core.peers:
            self._core.resign()

    def step(self, from_node: int, message: Message) -> None:
        """A message of another node of the cluster, whose identity the link has proved. Malformed ones are dropped."""
        self._filter.incoming(from_node, message)

    def tick(self, now: float) -> None:
        """Look at the clock, count answers, move the commit index. Call it after every few inputs and now and then."""
        self._now = self._filter.now = now
        # Alone, the core would commit what it has appended without asking anybody, the disk included.
        if self._core.peers or self.log.is_durable:
            self._core.tick(now)
        if not self._reads.is_empty:
            self._filter.check_reads()

    def connected(self, node: int) -> None:
        """A link to a node came up: messages to it are no longer lost."""
        self._links.add(node)
        self._core.set_connected(node, True)

    def disconnected(self, node: int) -> None:
        """A link to a node is gone, with everything that was under way on it.

        If it leads, a killed process is the likely reason, so nobody waits out the election time: the vote lease toward
        it ends and this node asks soon. PreVote keeps a leader in office that the others still hear.
        """
        self._links.discard(node)
        self._core.set_connected(node, False)
        if node == self._core.leader_id:
            self._filter.leader_disconnected()
            low, high = _HASTE
            after_s = self._rng.uniform(low, high) * self._config.election_min_ms / 1000
            self._core.hasten_election(after_s, self._now)
        self._reads.lost(node)

    def read_index(self, callback: ReadCallback) -> None:
        """Find an index at which a read sees everything that was acknowledged before this call.

        The callback is called once, perhaps before this returns: with the index that has to be applied here first, or
        with None if there is no leader, or the question could not be answered in time.
        """
        core = self._core
        if core.is_leader:
            if not core.peers and self.log.term_at(self.commit_index) == core.term:
                callback(self.commit_index)
            else:
                self._reads.wait(callback)
        elif core.leader_id is None or core.leader_id not in self._links:
            callback(None)
        else:
            read_id = self._reads.forward(core.leader_id, self._now, callback)
            if read_id is not None:
                self._emit(core.leader_id, {"type": "read", "id": read_id})

    def trim(self, index: int) -> None:
        """Forget entries up to index. The machine's state up to there must be durable."""
        self.log.trim(min(index, self.log.durable_index))

    # -- output

    def ready(self) -> Ready:
        """What has to be done now. Call it after inputs; it is empty when there is nothing."""
        core, log = self._core, self.log
        if core.is_leader and self.has_peers:
            core.replicate(heartbeat=False)
        if self._reads.has_waiting:
            self._filter.start_reads()
        leadership = None
        if (core.leader_id, core.term) != self._leadership:
            leadership = self._leadership = Leadership(core.leader_id, core.term)
        messages: list[tuple[int, Message]] = []
        if self._outbox:
            messages, self._outbox = self._outbox, messages
        snapshots: list[int] = []
        if self._snapshots:
            snapshots = sorted(self._snapshots)
            self._snapshots.clear()
        return Ready(messages, log.take_records(), log.seq, self._take_committed(), leadership, snapshots)

    def persisted(self, seq: int) -> None:
        """The records up to seq are on disk."""
        log = self.log
        log.mark_durable(seq)
        held = self._held
        if held:
            self._held = [item for item in held if item[0] > log.durable_seq]
            self._outbox += [(node, message) for needed, node, message in held if needed <= log.durable_seq]
        if self._core.peers:
            self._filter.log_became_durable()
        elif log.is_durable:
            self._core.tick(self._now)

    def _take_committed(self) -> list[Committed]:
        waiting = self._core.committed
        if not waiting:
            return []
        durable, group = self.log.durable_index, self.group
        if waiting[-1][1] <= durable:
            self._core.committed = []
        else:
            count = sum(1 for entry in waiting if entry[1] <= durable)
            self._core.committed = waiting[count:]
            waiting = waiting[:count]
        return [
            Committed(group, index, term, command[1:] if command[0] == REGULAR else b"")
            for command, index, term in waiting
        ]

    def _emit(self, node: int, message: Message) -> None:
        log = self.log
        # An answer that acknowledges entries promises that they are on this disk; everything else shows at most the
        # term and the vote.
        acknowledges = message["type"] == "next_node_idx" and message["success"]
        needed = log.seq if acknowledges else log.hard_seq
        if needed <= log.durable_seq:
            self._outbox.append((node, message))
        else:
            self._held.append((needed, node, message))

    # -- snapshots: the state travels outside, see docs/design/raft.md

    def snapshot_at(self, index: int) -> Snapshot:
        """The point of the log that the machine's state at an applied index stands for.

        Raises ValueError if the log does not reach there."""
        return self.log.snapshot_at(index)

    def begin_install(self, from_node: int, leader_term: int, snapshot: Snapshot) -> bool:
        """A whole snapshot of the leader has arrived. True: persist the Ready, make the snapshot the machine's state,
        durably, then call `finish_install`; no entries are taken meanwhile. False: throw it away."""
        if leader_term < self._core.term or self._filter.installing:
            return False
        if snapshot.index <= self._core.commit_index:
            self._filter.answer_installed(from_node, snapshot.index)
            return False
        self._filter.installing = True
        self.log.begin_install(snapshot)
        return True

    def finish_install(self, from_node: int, snapshot: Snapshot) -> None:
        """The machine's durable state stands at the snapshot. Entries handed out before are void."""
        self.log.finish_install(snapshot)
        heard_at = self._filter.heard_at
        self._boot(snapshot.index)
        self._filter.heard_at = heard_at
        self._filter.answer_installed(from_node, snapshot.index)


def _start_index(log: GroupLog, applied: tuple[int, int]) -> int:
    """Where applying goes on, after a snapshot installation that a crash interrupted has been finished in the log."""
    index, term = applied if applied[0] else (FIRST_INDEX, 0)
    intent = log.intent
    if intent is not None and (intent.index, intent.term) == (index, term):
        log.finish_install(intent)
    log.intent = None
    where = f"group {log.group}: the state stands at index {index} (term {term})"
    advice = "restore log and state from the same backup, or rebuild this node from the others"
    if index < log.base_index:
        raise DataError(f"{where}, but the log begins behind index {log.base_index}; {advice}")
    if index > log.last_index:
        raise DataError(f"{where}, but the log ends at index {log.last_index}; {advice}")
    if log.term_at(index) != term:
        raise DataError(f"{where}, but the log's entry there has term {log.term_at(index)}; {advice}")
    return index
