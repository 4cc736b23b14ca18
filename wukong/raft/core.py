"""The only user of pysyncobj: its Raft core with the outer parts taken off.

Of pysyncobj 0.3.17 we use roles, terms, votes, the commit rule and the append path. Transport, journal, serializer,
snapshots, pickle, forwarding of commands, callbacks and the replication loop are ours; what a peer may say to the core
decides `filter.py`. Every private name that is touched stands in `PRIVATE_NAMES`; a test pins the version, the hash of
syncobj.py and these names. docs/design/raft.md lists which hole each override closes.

Importing pysyncobj replaces two entries of the standard library's pure Python unpickler. Nothing of ours is pickled.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from wukong.raft.config import RaftConfig
from wukong.raft.log import REGULAR, Change, Entry, GroupLog, Member, after_change, encode_change

PYSYNCOBJ_VERSION = "0.3.17"
SYNCOBJ_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

PRIVATE_NAMES = {
    "override": (
        "connectedToAnyone",
        "doApplyCommand",
        "loadDumpFile",
        "tryLogCompaction",
        "sendAppendEntries",
        "generateRaftTimeout",
    ),
    "replace": ("serializer",),
    "write": (
        "raftNextIndex",
        "raftMatchIndex",
        "raftLastApplied",
        "raftCommitIndex",
        "raftElectionDeadline",
        "newAppendEntriesTime",
        "raftLeader",
    ),
    "read": ("raftState", "raftCurrentTerm", "lastResponseTime", "transferInProgress", "transport"),
    "call": ("doChangeCluster", "setState"),
}

Message = dict[str, Any]
"""A Raft message: a map of strings to what msgpack carries. `Any` because each type has its own fields;
filter.py checks them."""


class _Time:
    """What the core takes for the time. Set on every entry into the core, so that one seed is one run."""

    now = 0.0


class _NoPoller:
    """The core polls in every tick; there is nothing to poll."""

    def poll(self, timeout: float) -> None:
        pass


class _NoSerializer:
    """The core's snapshots are not used: it never dumps, streams or installs anything."""

    def checkSerializing(self) -> tuple[int, None]:
        return 0, None

    def setTransmissionData(self, data: object) -> bool:
        return False

    def cancelTransmisstion(self, node: Node) -> None:  # the core's spelling
        pass


class _Link(Transport):  # type: ignore[misc]
    """The core's transport: hands everything to the group."""

    def __init__(self, group: "RaftGroup", self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(group, self_node, other_nodes)
        self._group = group
        for node in other_nodes:
            group.peers[node.id] = node

    def send(self, node: Node, message: Message) -> bool:
        self._group.on_send(node.id, message)
        return True

    def addNode(self, node: Node) -> None:
        self._group.peer_added(node)

    def dropNode(self, node: Node) -> None:
        self._group.peer_dropped(node)


syncobj.createJournal = lambda journal: journal  # conf.journalFile is the GroupLog itself
syncobj.monotonicTime = lambda: _Time.now


class _Window:
    """Entries under way to one follower."""

    __slots__ = ("bytes", "messages", "sent_commit")

    def __init__(self) -> None:
        self.messages: deque[tuple[int, int]] = deque()  # (last index, bytes)
        self.bytes = 0
        self.sent_commit = 0

    def acknowledge(self, index: int) -> None:
        while self.messages and self.messages[0][0] <= index:
            self.bytes -= self.messages.popleft()[1]

    def clear(self) -> None:
        self.messages.clear()
        self.bytes = 0


class _Progress:
    """What the leader knows of a learner. The core knows voters only."""

    __slots__ = ("match", "next")

    def __init__(self, next_index: int) -> None:
        self.next = next_index
        self.match = 0


class _Transfer:
    """Leadership that is being handed to a voter: it is asked as soon as it has every entry."""

    __slots__ = ("asked", "deadline", "node")

    def __init__(self, node: int, deadline: float) -> None:
        self.node = node
        self.deadline = deadline
        self.asked = False


class RaftGroup(SyncObj):  # type: ignore[misc]
    """One group's Raft state machine. Give it the time with every call (`now`, seconds, any start).

    The core knows the other voters (`peers`) and takes them from the log after everything that may change them;
    learners are known here only.

    `attach` it to its surroundings before the first tick. on_send(node, message) gets what the core says;
    may_campaign() is asked before an election (PreVote); on_snapshot_needed(node) is told when a follower needs
    entries that were trimmed. `committed` collects entries in log order; the owner empties it.
    """

    _SyncObj__raftElectionDeadline: float

    on_send: Callable[[int, Message], None]
    may_campaign: Callable[[], bool]
    on_snapshot_needed: Callable[[int], None]

    def __init__(
        self,
        node_id: int,
        log: GroupLog,
        applied_index: int,
        config: RaftConfig,
        rng: random.Random,
        now: float,
        disk: int = 0,
    ) -> None:
        self.node_id = node_id
        self.disk = disk
        self.log = log
        self.config = config
        self.peers: dict[int, Node] = {}
        self.learners: dict[int, _Progress] = {}
        self.connected: set[int] = set()
        self.committed: list[Entry] = []
        self._rng = rng
        self._windows: dict[int, _Window] = {}
        self.hindered = False
        """It cannot lead: its disk hangs."""
        self._transfer: _Transfer | None = None
        self._alone = log.voters() == (node_id,)
        _Time.now = now
        others = [Node(node) for node in log.voters() if node != node_id]
        super().__init__(Node(node_id), others, self._options(config, log), nodeClass=Node, transportClass=_Link)
        self._poller = _NoPoller()
        self._SyncObj__serializer = _NoSerializer()
        # Never behind what the machine holds, never the log's own word for what is committed.
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__raftCommitIndex = applied_index
        self._members: tuple[Member, ...] = ()
        self._targets: tuple[int, ...] = ()  # whom a leader sends to
        self._follow_members()

    def attach(
        self,
        on_send: Callable[[int, Message], None],
        may_campaign: Callable[[], bool],
        on_snapshot_needed: Callable[[int], None],
    ) -> None:
        self.on_send = on_send
        self.may_campaign = may_campaign
        self.on_snapshot_needed = on_snapshot_needed

    def _options(self, config: RaftConfig, log: GroupLog) -> SyncObjConf:
        """Our settings in the core's words."""
        return SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # False makes a pipe per group
            commandsWaitLeader=False,
            dynamicMembershipChange=False,  # changes in the log are followed here, see _follow_members
            raftMinTimeout=config.election_min_ms / 1000,
            raftMaxTimeout=config.election_max_ms / 1000,
            appendEntriesPeriod=config.heartbeat_ms / 1000,
            leaderFallbackTimeout=config.quorum_timeout_ms / 1000,
            connectionTimeout=config.election_max_ms / 1000,
            journalFile=log,
            onStateChanged=self._state_changed,
        )

    # -- looking

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == syncobj._RAFT_STATE.LEADER)

    @property
    def leader_id(self) -> int | None:
        leader = self._getLeader()
        return None if leader is None else leader.id

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def durable_commit_index(self) -> int:
        """Committed and durable here. A voter that is a majority alone commits its first entry in the core before its
        disk has it; nobody may hear of that."""
        return min(self.commit_index, self.log.durable_index)

    @property
    def may_campaign_itself(self) -> bool:
        """Whether the log names this node, with its own disk, as a voter."""
        member = self.log.member(self.node_id, self.disk)
        return member is not None and member.voter

    @property
    def may_vote(self) -> bool:
        """Whether the log names this node with its own disk. A learner may vote: that it has become a voter, the one
        who asks may know before it does. A node whose disk was lost has forgotten its votes, and is not named."""
        return self.log.member(self.node_id, self.disk) is not None

    @property
    def transfer_target(self) -> int | None:
        """Leading: the voter that leadership is being handed to."""
        return None if self._transfer is None else self._transfer.node

    def next_index(self, node: int) -> int | None:
        learner = self.learners.get(node)
        if learner is not None:
            return learner.next
        index: int | None = self._SyncObj__raftNextIndex.get(self.peers.get(node))
        return index

    def match_index(self, node: int) -> int:
        """Leading: up to where a member is known to hold the log, 0 for unknown. Of a voter only what is durable here
        too has been counted."""
        learner = self.learners.get(node)
        if learner is not None:
            return learner.match
        return int(self._SyncObj__raftMatchIndex.get(self.peers.get(node), 0))

    def majority_heard_at(self) -> float:
        """Leading: since when a majority, this node included, has been heard; infinity if it is a majority alone."""
        heard = sorted((self._SyncObj__lastResponseTime[peer] for peer in self.peers.values()), reverse=True)
        needed = (len(heard) + 1) // 2
        return float(heard[needed - 1]) if needed else float("inf")

    # -- driving

    def tick(self, now: float) -> None:
        _Time.now = now
        if self._transfer is not None:
            self._hand_over(self._transfer)
        self._onTick(0.0)

    def deliver(self, node: int, message: Message, now: float) -> None:
        """A message that the filter let through."""
        _Time.now = now
        self._SyncObj__transport._onMessageReceived(self.peers.get(node) or Node(node), message)
        self._follow_members()

    def append(self, data: bytes) -> None:
        """What the core does with a queued command of its own when it leads, without the queue."""
        log = self.log
        log.add(bytes((REGULAR,)) + data, log.last_index + 1, self.term)

    def change_members(self, change: Change) -> bool:
        """Append a membership change. False if it does not fit the members, or would remove this leader, or may not be
        made now."""
        log = self.log
        if after_change(log.members_now(), change) == log.members_now() or change[:2] == ("rem", self.node_id):
            return False
        if self._transfer is not None or not self._may_change_members():
            return False
        if change.kind == "add":
            # It gives votes only when its log names it. Were it a voter before that, and this node gone, the others
            # might lack its vote for ever. Nor one that is gone: it would only be one more that is needed.
            learner = self.learners.get(change.node)
            if learner is None or change.node not in self.connected:
                return False
            if learner.match < max(log.base_index, log.last_change_index):
                return False
        log.add(encode_change(change), log.last_index + 1, self.term)
        self._follow_members()
        return True

    def _may_change_members(self) -> bool:
        """One at a time, and after an entry of this leadership is committed: otherwise two changes can commit in
        majorities that have no node in common (the core tests a guard for it and never sets it)."""
        commit = self.durable_commit_index
        return commit >= self.log.last_change_index and self.log.term_at(commit) == self.term

    def transfer(self, node: int, now: float) -> bool:
        """Hand leadership to a connected voter, as soon as it has every entry, within election_max. False if it is
        none, needs entries that were trimmed, or another transfer is under way."""
        _Time.now = now
        index = self.next_index(node)
        if node not in self.peers or node not in self.connected or index is None or index <= self.log.base_index:
            return False
        if self._transfer is not None:
            return False
        self._transfer = _Transfer(node, now + self.config.election_max_ms / 1000)
        self._hand_over(self._transfer)
        return True

    def _hand_over(self, transfer: _Transfer) -> None:
        node = transfer.node
        if _Time.now >= transfer.deadline or node not in self.peers or node not in self.connected:
            self._transfer = None
        elif not transfer.asked:
            # The core refuses unless the voter has everything.
            outcome: list[int] = []
            self.transferLeadership(self.peers[node], lambda _, error: outcome.append(error))
            transfer.asked = outcome == [0]

    def resign(self) -> None:
        """Lead no longer, as the core does when it hears no majority."""
        self._SyncObj__setState(syncobj._RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None

    def hasten_election(self, after_s: float, now: float) -> None:
        """Ask for an election after so long, unless a leader is heard before or it was to be earlier anyway."""
        self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, now + after_s)

    def postpone_election(self, after_s: float, now: float) -> None:
        """Do not ask for an election before so long: somebody else is about to be elected."""
        self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, now + after_s)

    def set_connected(self, node: int, connected: bool) -> None:
        """A link to a node came up or went down; nodes that are not voters yet are remembered too."""
        (self.connected.add if connected else self.connected.discard)(node)
        self._windows.pop(node, None)
        peer = self.peers.get(node)
        if peer is not None:
            link = self._SyncObj__transport
            (link._onNodeConnected if connected else link._onNodeDisconnected)(peer)

    def peer_added(self, node: Node) -> None:
        self.peers[node.id] = node
        if node.id in self.connected:
            self._SyncObj__transport._onNodeConnected(node)

    def peer_dropped(self, node: Node) -> None:
        self.peers.pop(node.id, None)

    def _follow_members(self) -> None:
        """Make the core's voters and the learners those of the log: a change counts as soon as it is there."""
        members = self.log.members_now()
        if members is self._members:
            return
        self._members = members
        others = [member for member in members if member.node != self.node_id]
        voters = {member.node for member in others if member.voter}
        for node in sorted(set(self.peers) - voters):
            self._SyncObj__doChangeCluster(("rem", node))
        for node in sorted(voters - set(self.peers)):
            self._SyncObj__doChangeCluster(("add", node))
            learner = self.learners.get(node)
            if learner is not None:
                peer = self.peers[node]
                self._SyncObj__raftNextIndex[peer] = learner.next
                self._SyncObj__raftMatchIndex[peer] = min(learner.match, self.log.durable_index)
        learners = {member.node for member in others if not member.voter}
        last = self.log.last_index
        self.learners = {node: self.learners.get(node) or _Progress(last + 1) for node in sorted(learners)}
        self._targets = tuple(sorted(voters | learners))
        for node in set(self._windows).difference(self._targets):
            del self._windows[node]
        self._alone = not voters

    def replicate(self, *, heartbeat: bool) -> None:
        """Send followers what they have not been sent, within the window.

        Without `heartbeat` a follower that would hear nothing new, neither entries nor a commit index, is left alone.
        """
        for node in self._targets:
            if node in self.connected:
                self._replicate_to(node, heartbeat)

    def answered(self, node: int, index: int) -> None:
        """The follower has everything up to index."""
        window = self._windows.get(node)
        if window is not None:
            window.acknowledge(index)

    def restart_window(self, node: int) -> None:
        """The follower asked to begin elsewhere: what is under way will not be answered."""
        window = self._windows.get(node)
        if window is not None:
            window.clear()

    def keep_next_index(self, node: int, index: int) -> None:
        """The core moves back to the acknowledged entry after every answer and would resend what is under way."""
        nexts = self._SyncObj__raftNextIndex
        peer = self.peers[node]
        if nexts[peer] < index:
            nexts[peer] = index

    def learner_has(self, node: int, index: int) -> None:
        """A learner has everything up to index. Nobody counts it."""
        learner = self.learners[node]
        learner.match = max(learner.match, index)
        learner.next = max(learner.next, index + 1)

    def learner_asks(self, node: int, index: int) -> None:
        """A learner's log does not fit; it asks to begin elsewhere."""
        self.learners[node].next = index

    def _replicate_to(self, node: int, heartbeat: bool) -> None:
        log, config = self.log, self.config
        index = self.next_index(node)
        if index is None:
            raise AssertionError(f"group {log.group}: node {node} is no member")
        commit = self.durable_commit_index
        window = self._windows.get(node)
        if window is None:
            window = self._windows[node] = _Window()
        if index <= log.base_index:
            self.on_snapshot_needed(node)
            if heartbeat:
                self.on_send(node, {"type": "append_entries", "term": self.term, "commit_index": commit})
            return
        last = log.last_index
        sent = False
        while index <= last and window.bytes < config.window_bytes and len(window.messages) < config.window_messages:
            entries = log.entries_from(index, config.message_bytes)
            self._send_entries(node, index, entries, commit)
            index = entries[-1][1] + 1
            size = sum(len(entry[0]) for entry in entries)
            window.messages.append((index - 1, size))
            window.bytes += size
            sent = True
        if sent:
            learner = self.learners.get(node)
            if learner is not None:
                learner.next = index
            else:
                self._SyncObj__raftNextIndex[self.peers[node]] = index
        elif heartbeat or commit > window.sent_commit:
            # That something is committed needs no answer: what is has been answered for.
            self._send_entries(node, index, [], commit, quiet=not heartbeat)
        window.sent_commit = commit

    def _send_entries(self, node: int, index: int, entries: list[Entry], commit: int, *, quiet: bool = False) -> None:
        message = {
            "type": "append_entries",
            "term": self.term,
            "commit_index": commit,
            "entries": entries,
            "prevLogIdx": index - 1,
            "prevLogTerm": self.log.term_at(index - 1),
        }
        if quiet:
            message["quiet"] = True
        self.on_send(node, message)

    def _state_changed(self, old: int, new: int) -> None:
        # Called before the first entries of a new leadership are sent.
        self._windows.clear()
        self._transfer = None
        last = self.log.last_index
        self.learners = {node: _Progress(last + 1) for node in self.learners}

    # -- overrides of the core

    def _SyncObj__sendAppendEntries(self) -> None:
        # The core's own loop sends a follower everything it lacks at once, copying the tail of the log for each
        # message, and pickles large entries in pieces.
        self._SyncObj__newAppendEntriesTime = _Time.now + self.config.heartbeat_ms / 1000
        self.replicate(heartbeat=True)

    def _SyncObj__connectedToAnyone(self) -> bool:
        # Asked exactly when the election deadline has passed; the answer decides about the election.
        if self.hindered or not self.may_campaign_itself:
            return False
        return not self.peers or self._SyncObj__transferInProgress or self.may_campaign()

    def _SyncObj__generateRaftTimeout(self) -> float:
        if self._alone:
            return -1.0  # nobody to wait for
        low, high = self.config.election_min_ms, self.config.election_max_ms
        return (low + (high - low) * self._rng.random()) / 1000

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        # Only enqueues: an exception here would be repeated in every tick of every node. Membership changes took
        # effect when they were appended, or were read from the log at start.
        log = self.log
        self.committed.append(log[self._SyncObj__raftLastApplied + 1 - log[0][1]])

    def _SyncObj__tryLogCompaction(self) -> None:
        """The log is trimmed behind the machine's durable state only."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise AssertionError("the core's dump file is not used")
