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
from wukong.raft.log import REGULAR, Change, Entry, GroupLog, decode_change, encode_change

PYSYNCOBJ_VERSION = "0.3.17"
SYNCOBJ_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

PRIVATE_NAMES = {
    "override": (
        "connectedToAnyone",
        "doApplyCommand",
        "loadDumpFile",
        "tryLogCompaction",
        "changeCluster",
        "parseChangeClusterRequest",
        "sendAppendEntries",
        "generateRaftTimeout",
    ),
    "replace": ("serializer",),
    "write": ("raftNextIndex", "raftLastApplied", "raftCommitIndex", "changeClusterIDx", "newAppendEntriesTime"),
    "read": ("raftMatchIndex", "raftState", "raftCurrentTerm", "transferInProgress", "transport"),
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


class RaftGroup(SyncObj):  # type: ignore[misc]
    """One group's Raft state machine. Give it the time with every call (`now`, seconds, any start).

    `attach` it to its surroundings before the first tick. on_send(node, message) gets what the core says;
    may_campaign() is asked before an election (PreVote); on_snapshot_needed(node) is told when a follower needs
    entries that were trimmed. `committed` collects entries in log order; the owner empties it.
    """

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
    ) -> None:
        self.node_id = node_id
        self.log = log
        self.config = config
        self.peers: dict[int, Node] = {}
        self.connected: set[int] = set()
        self.committed: list[Entry] = []
        self._rng = rng
        self._windows: dict[int, _Window] = {}
        self._alone = log.voters() == (node_id,)
        _Time.now = now
        others = [Node(node) for node in log.voters() if node != node_id]
        super().__init__(Node(node_id), others, self._options(config, log), nodeClass=Node, transportClass=_Link)
        self._poller = _NoPoller()
        self._SyncObj__serializer = _NoSerializer()
        # Never behind what the machine holds, never the log's own word for what is committed.
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__raftCommitIndex = applied_index

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
            dynamicMembershipChange=True,
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
    def transferring(self) -> bool:
        return bool(self._SyncObj__transferInProgress)

    def next_index(self, node: int) -> int | None:
        index: int | None = self._SyncObj__raftNextIndex.get(self.peers.get(node))
        return index

    def match_index(self, node: int) -> int:
        return int(self._SyncObj__raftMatchIndex.get(self.peers.get(node), 0))

    # -- driving

    def tick(self, now: float) -> None:
        _Time.now = now
        self._onTick(0.0)

    def deliver(self, node: int, message: Message, now: float) -> None:
        """A message that the filter let through."""
        _Time.now = now
        self._SyncObj__transport._onMessageReceived(self.peers.get(node) or Node(node), message)

    def append(self, data: bytes) -> None:
        """What the core does with a queued command of its own when it leads, without the queue."""
        log = self.log
        log.add(bytes((REGULAR,)) + data, log.last_index + 1, self.term)

    def change_members(self, change: Change) -> bool:
        """Append a membership change. False if the core refuses: one at a time, after an entry of the own term."""
        if not self._SyncObj__changeCluster((change.kind, change.node)):
            return False
        log = self.log
        log.add(encode_change(change), log.last_index + 1, self.term)
        return True

    def transfer(self, node: int, now: float) -> bool:
        """Ask a follower to take over. False unless it has everything."""
        _Time.now = now
        outcome: list[int] = []
        self.transferLeadership(Node(node), lambda _, error: outcome.append(error))
        return outcome == [0]

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
        self._alone = False
        if node.id in self.connected:
            self._SyncObj__transport._onNodeConnected(node)

    def peer_dropped(self, node: Node) -> None:
        self.peers.pop(node.id, None)
        self._windows.pop(node.id, None)
        self._alone = not self.peers

    def replicate(self, *, heartbeat: bool) -> None:
        """Send followers what they have not been sent, within the window.

        Without `heartbeat` a follower that would hear nothing new, neither entries nor a commit index, is left alone.
        """
        for node in sorted(self.peers):
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

    def _replicate_to(self, node: int, heartbeat: bool) -> None:
        log, config = self.log, self.config
        nexts, peer = self._SyncObj__raftNextIndex, self.peers[node]
        index: int = nexts[peer]
        commit = self.commit_index
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
            index = nexts[peer] = entries[-1][1] + 1
            size = sum(len(entry[0]) for entry in entries)
            window.messages.append((index - 1, size))
            window.bytes += size
            sent = True
        if not sent and (heartbeat or commit > window.sent_commit):
            self._send_entries(node, index, [], commit)
        window.sent_commit = commit

    def _send_entries(self, node: int, index: int, entries: list[Entry], commit: int) -> None:
        message = {
            "type": "append_entries",
            "term": self.term,
            "commit_index": commit,
            "entries": entries,
            "prevLogIdx": index - 1,
            "prevLogTerm": self.log.term_at(index - 1),
        }
        self.on_send(node, message)

    def _state_changed(self, old: int, new: int) -> None:
        # Called before the first entries of a new leadership are sent.
        self._windows.clear()

    # -- overrides of the core

    def _SyncObj__sendAppendEntries(self) -> None:
        # The core's own loop sends a follower everything it lacks at once, copying the tail of the log for each
        # message, and pickles large entries in pieces.
        self._SyncObj__newAppendEntriesTime = _Time.now + self.config.heartbeat_ms / 1000
        self.replicate(heartbeat=True)

    def _SyncObj__connectedToAnyone(self) -> bool:
        # Asked exactly when the election deadline has passed; the answer decides about the election.
        if self.node_id not in self.log.voters():
            return False
        return not self.peers or self.transferring or self.may_campaign()

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

    def _SyncObj__changeCluster(self, request: tuple[str, int]) -> bool:
        accepted = bool(SyncObj._SyncObj__changeCluster(self, request))
        if accepted:
            # The core tests this guard and never sets it: two changes at once can commit in disjoint majorities.
            self._SyncObj__changeClusterIDx = self.log.last_index + 1
        return accepted

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> tuple[str, int] | None:
        change = decode_change(command)
        return None if change is None else (change.kind, change.node)
