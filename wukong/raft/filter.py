"""What one replica says to another, and what of it reaches the core.

The core matches logs, counts votes and counts answers in ways that lose acknowledged entries (docs/design/raft.md).
So it gets only what it handles correctly: entries that are really new, directly behind a prefix that was verified
here; answers of this leadership, of voters, for entries that are durable here too; one vote per voter and term.
Duplicates, mismatches and heartbeats are answered here. PreVote, term hints and ReadIndex live here entirely.

Who may speak at all is decided by the links, which know the nodes of the cluster. Requests are answered for all of
them, since a node may not have heard yet who the voters are (Raft dissertation, section 4.1.1: servers process
requests without consulting their configuration); answers count only from voters. One thing a node must know of itself
before it gives a vote: that the log names it with its own disk.

No I/O, no clock of its own: `Core` is what it needs of the core, `emit` is where messages go.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wukong.raft.log import Entry, GroupLog
from wukong.raft.reads import ReadRounds

Message = dict[str, Any]

_NEVER = float("-inf")
_ANSWERS = frozenset(("next_node_idx", "response_vote", "pre_vote_answer", "read_round_answer"))
"""Messages that add up to majorities."""


class Core(Protocol):
    """The part of `core.RaftGroup` the filter works with."""

    node_id: int
    disk: int
    log: GroupLog

    @property
    def is_leader(self) -> bool: ...
    @property
    def leader_id(self) -> int | None: ...
    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def peers(self) -> Mapping[int, Any]: ...
    @property
    def learners(self) -> Mapping[int, Any]: ...
    @property
    def may_campaign_itself(self) -> bool: ...
    @property
    def may_vote(self) -> bool: ...
    def next_index(self, node: int) -> int | None: ...
    def deliver(self, node: int, message: Message, now: float) -> None: ...
    def answered(self, node: int, index: int) -> None: ...
    def restart_window(self, node: int) -> None: ...
    def keep_next_index(self, node: int, index: int) -> None: ...
    def postpone_election(self, after_s: float, now: float) -> None: ...
    def learner_has(self, node: int, index: int) -> None: ...
    def learner_asks(self, node: int, index: int) -> None: ...


class _PreVote:
    """A question to the others whether an election in the next term could be won. Nothing durable hangs on it."""

    __slots__ = ("asked_at", "first", "granted", "term")

    def __init__(self, term: int, asked_at: float, *, first: bool) -> None:
        self.term = term
        self.asked_at = asked_at
        self.first = first
        """Not a repetition: nothing but time keeps it from being answered."""
        self.granted: set[int] = set()


class MessageFilter:
    """The filter of one group on one node. `now` is set by the owner before it calls in, in seconds."""

    def __init__(
        self, core: Core, emit: Callable[[int, Message], None], reads: ReadRounds, election_min_s: float, now: float
    ) -> None:
        self.now = now
        self.heard_at = _NEVER
        """When a leader was heard last; minus infinity for never."""
        self.installing = False
        """A snapshot is being installed: no entries are taken meanwhile."""
        self.malformed_count = 0
        self._core = core
        self._emit = emit
        self._reads = reads
        self._election_min_s = election_min_s
        self._leader_gone = False  # the link to the leader broke since it was heard
        self._pre_vote: _PreVote | None = None
        self._votes: set[tuple[int, int]] = set()  # (term, node)
        self._probe: dict[int, int] = {}  # leader: node -> how often the node's position was reset
        self._acked: dict[int, int] = {}  # leader: node -> last index it has, which may not be durable here yet
        self._answering_probe = 0
        self._transfer_term = -1
        self._handlers: dict[str, tuple[Callable[[int, Message], None], dict[str, type]]] = {
            "append_entries": (self._on_append_entries, {"term": int, "commit_index": int}),
            "next_node_idx": (
                self._on_answer,
                {"term": int, "next_node_idx": int, "success": bool, "reset": bool, "rid": int},
            ),
            "request_vote": (
                self._on_vote_request,
                {"term": int, "last_log_index": int, "last_log_term": int, "transfer": bool},
            ),
            "response_vote": (self._on_vote, {"term": int}),
            "timeout_now": (self._on_timeout_now, {"term": int}),
            "pre_vote": (self._on_pre_vote, {"term": int, "last_log_index": int, "last_log_term": int}),
            "pre_vote_answer": (self._on_pre_vote_answer, {"asked_term": int, "granted": bool, "term": int}),
            "term_hint": (self._on_term_hint, {"term": int}),
            "read_round": (self._on_read_round, {"term": int, "id": int}),
            "read_round_answer": (self._on_read_round_answer, {"term": int, "id": int}),
            "read": (self._on_read, {"id": int}),
            "read_answer": (self._on_read_answer, {"id": int, "index": int}),
        }

    # -- the core speaks

    def outgoing(self, node: int, message: Message) -> None:
        """Complete a message of the core and emit it."""
        kind = message["type"]
        if kind == "append_entries":
            message["rid"] = self._probe.get(node, 0)
        elif kind == "next_node_idx":
            message["term"] = self._core.term
            message["rid"] = self._answering_probe
            message["disk"] = self._core.disk
        elif kind == "response_vote":
            message["disk"] = self._core.disk
        elif kind == "request_vote":
            self._votes.clear()
            self._probe.clear()
            self._acked.clear()
            message["transfer"] = self._transfer_term == message["term"]
        self._emit(node, message)

    def may_campaign(self) -> bool:
        """PreVote: the core's election deadline has passed. True when a majority would vote for this node now."""
        core, asked = self._core, self._pre_vote
        if asked is not None and asked.term == core.term and self.now - asked.asked_at < self._election_min_s / 2:
            if not self._is_majority(len(asked.granted)):
                return False
            self._pre_vote = None
            return True
        self._pre_vote = _PreVote(core.term, self.now, first=asked is None or asked.term != core.term)
        question = {
            "type": "pre_vote",
            "term": core.term,
            "last_log_index": core.log.last_index,
            "last_log_term": core.log.last_term,
        }
        for node in sorted(core.peers):
            self._emit(node, dict(question))
        return False

    def leader_disconnected(self) -> None:
        """The link to the leader broke: its process is gone, or the way to it. The vote lease toward it ends."""
        self._leader_gone = True

    def log_became_durable(self) -> None:
        """Count the answers for entries that were not durable here when they came."""
        core = self._core
        if core.is_leader:
            for node in list(self._acked):
                self._count_answer(node)

    def start_reads(self) -> None:
        """One round for all reads that wait, as soon as this leadership has committed an entry of its own."""
        core = self._core
        if not core.is_leader:
            self._reads.fail_led()
            return
        commit = core.commit_index
        if core.log.term_at(commit) == core.term:
            round_id = self._reads.start_round(core.term, commit, self.now)
            for node in sorted(core.peers):
                self._emit(node, {"type": "read_round", "term": core.term, "id": round_id})
            if not core.peers:
                self._reads.confirmed(core.node_id, round_id, core.term, self._is_majority)

    def check_reads(self) -> None:
        """Fail what can no longer be answered: the leadership is over, or the leader that was asked is gone."""
        core = self._core
        self._reads.leadership(core.term if core.is_leader else None, core.leader_id, self.now)

    # -- a peer speaks

    def incoming(self, node: int, message: Message) -> None:
        """Handle a message of a node of the cluster. Malformed messages are counted and dropped."""
        kind = message.get("type")
        if type(kind) is not str or kind not in self._handlers:
            self.malformed_count += 1
            return
        if kind in _ANSWERS and not self._counts(node, kind, message.get("disk", 0)):
            return
        handler, fields = self._handlers[kind]
        for name, field_type in fields.items():
            if type(message.get(name)) is not field_type:
                self.malformed_count += 1
                return
        handler(node, message)

    def _counts(self, node: int, kind: str, disk: object) -> bool:
        """Whether an answer is one of a member. A node that lost its disk answers for another one, until the log has
        taken that in: what it says now, it may have forgotten before."""
        core = self._core
        if node not in core.peers and not (kind == "next_node_idx" and node in core.learners):
            return False
        return type(disk) is int and core.log.member(node, disk) is not None

    def _is_majority(self, others: int) -> bool:
        """Whether this node and so many others are more than half of the voters."""
        return 2 * (others + 1) > len(self._core.peers) + 1

    def _deliver(self, node: int, message: Message) -> None:
        self._core.deliver(node, message, self.now)

    def _answer(self, node: int, next_index: int, rid: int, *, success: bool = False, reset: bool = False) -> None:
        answer = {
            "type": "next_node_idx",
            "next_node_idx": next_index,
            "success": success,
            "reset": reset,
            "term": self._core.term,
            "rid": rid,
            "disk": self._core.disk,
        }
        self._emit(node, answer)

    def answer_installed(self, node: int, index: int) -> None:
        """Tell the leader that the state stands at index, by a snapshot."""
        self._answer(node, index + 1, 0, success=True)

    def _hint(self, node: int) -> None:
        """Tell a node that it lives in the past; the core would ignore it in silence."""
        self._emit(node, {"type": "term_hint", "term": self._core.term})

    def _adopt(self, node: int, term: int) -> None:
        """Make the core step to a higher term: a vote request that cannot win."""
        if term > self._core.term:
            self._deliver(node, {"type": "request_vote", "term": term, "last_log_index": -1, "last_log_term": -1})

    def _leader_is_alive(self) -> bool:
        """The vote lease: a leader was heard less than an election time ago. A leader answers for itself: it steps
        down when it hears no majority."""
        if self._core.is_leader:
            return True
        return not self._leader_gone and self.now - self.heard_at < self._election_min_s

    # Leader: answers

    def _on_answer(self, node: int, message: Message) -> None:
        core = self._core
        term = message["term"]
        if term != core.term or not core.is_leader:
            self._adopt(node, term)  # an answer of an earlier leadership says nothing about this one
            return
        next_index = min(message["next_node_idx"], core.log.last_index + 1)
        learner = node in core.learners
        if message["success"]:
            core.answered(node, next_index - 1)
            if learner:
                core.learner_has(node, next_index - 1)
                return
            self._acked[node] = max(self._acked.get(node, 0), next_index - 1)
            self._count_answer(node)
        elif message["reset"] and message["rid"] == self._probe.get(node, 0):
            self._probe[node] = message["rid"] + 1
            core.restart_window(node)
            if learner:
                core.learner_asks(node, max(next_index, 1))
            else:
                self._deliver_answer(node, max(next_index, 1), success=False, reset=True)
        elif not learner:
            # An answer to an earlier probe, or to a heartbeat: only a sign of life.
            self._deliver_answer(node, next_index, success=False, reset=False)

    def _count_answer(self, node: int) -> None:
        core = self._core
        if node not in core.peers:
            del self._acked[node]
            return
        index = min(self._acked[node], core.log.durable_index)
        before = core.next_index(node)
        self._deliver_answer(node, index + 1, success=True, reset=False)
        if before is not None:
            # Not behind the answer either: of a voter that lost its disk more may have been counted than it has.
            core.keep_next_index(node, max(before, index + 1))
        if self._acked[node] == index:
            del self._acked[node]

    def _deliver_answer(self, node: int, next_index: int, *, success: bool, reset: bool) -> None:
        message = {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset}
        self._deliver(node, message)

    # Follower: entries

    def _on_append_entries(self, node: int, message: Message) -> None:
        core = self._core
        term = message["term"]
        if term < core.term:
            self._hint(node)
            return
        if term == core.term and core.is_leader:
            raise AssertionError(f"group {core.log.group}: two leaders in term {term}, the other is node {node}")
        entries = self._checked_entries(message)
        if entries is None:
            self.malformed_count += 1
            return
        self.heard_at = self.now
        self._leader_gone = False
        self._pre_vote = None
        if self.installing:
            self._beat(node, term, 0)
            self._answer(node, 0, message["rid"])
            return
        if "prevLogIdx" not in message:
            # A snapshot will come, unless it has, and the answer was lost: what is committed here the leader has too.
            self._beat(node, term, 0)
            self._answer(node, core.commit_index + 1, message["rid"], success=True)
            return
        self._match(node, message, entries)

    def _checked_entries(self, message: Message) -> list[Entry] | None:
        """The entries of a message if they are well formed: contiguous, with terms that do not fall, never empty."""
        if type(message.get("rid")) is not int:
            return None
        if "prevLogIdx" not in message:
            return []
        index, term, raw = message["prevLogIdx"], message.get("prevLogTerm"), message.get("entries")
        if type(index) is not int or type(term) is not int or not isinstance(raw, list):
            return None
        entries: list[Entry] = []
        for item in raw:
            if not isinstance(item, list | tuple) or len(item) != 3:
                return None
            command, entry_index, entry_term = item
            index += 1
            if type(command) is not bytes or not command or entry_index != index or type(entry_term) is not int:
                return None
            if not term <= entry_term <= message["term"]:
                return None
            term = entry_term
            entries.append((command, entry_index, entry_term))
        return entries

    def _beat(self, node: int, term: int, commit: int) -> None:
        """A sign of life of the leader that moves the commit index only as far as the log was verified."""
        message = {"type": "append_entries", "term": term, "commit_index": commit, "serialized": None}
        self._deliver(node, message)

    def _match(self, node: int, message: Message, entries: list[Entry]) -> None:
        core, log = self._core, self._core.log
        term, commit, rid = message["term"], message["commit_index"], message["rid"]
        prev, prev_term = message["prevLogIdx"], message["prevLogTerm"]
        base = log.base_index
        if prev < base:
            # Trimmed here means committed, so it is what the leader has.
            end = prev + len(entries)
            if end <= base:
                self._beat(node, term, min(commit, end))
                self._answer(node, end + 1, rid, success=True)
                return
            entries = entries[base - prev :]
            prev, prev_term = base, log[0][2]
        if log.term_at(prev) != prev_term:
            self._beat(node, term, 0)
            self._answer(node, self._conflict_start(prev), rid, reset=True)
            return
        known = 0
        for _, index, entry_term in entries:
            if log.term_at(index) != entry_term:
                break
            known += 1
        matched = prev + known
        fresh = entries[known:]
        if not fresh:
            # Never let the core truncate behind entries it already has.
            self._beat(node, term, min(commit, matched))
            if message.get("quiet") is not True or entries:
                self._answer(node, matched + 1, rid, success=True)
            return
        if matched < core.commit_index:
            raise AssertionError(
                f"group {log.group}: node {node} wants to replace entry {matched + 1}, "
                f"which is committed up to {core.commit_index}"
            )
        self._answering_probe = rid
        append = {
            "type": "append_entries",
            "term": term,
            "commit_index": min(commit, fresh[-1][1]),
            "entries": fresh,
            "prevLogIdx": matched,
            "prevLogTerm": log.term_at(matched),
        }
        self._deliver(node, append)

    def _conflict_start(self, prev: int) -> int:
        """Where the leader should try next: the end of a short log, or the start of the term that does not fit."""
        log = self._core.log
        if prev > log.last_index:
            return log.last_index + 1
        bad, index = log.term_at(prev), prev
        floor = max(log.base_index, self._core.commit_index)
        while index - 1 > floor and log.term_at(index - 1) == bad:
            index -= 1
        return index

    # Elections

    def _on_vote_request(self, node: int, message: Message) -> None:
        core = self._core
        term = message["term"]
        if term < core.term:
            self._hint(node)
        elif core.may_vote and (term == core.term or message["transfer"] or not self._leader_is_alive()):
            self._deliver(node, message)

    def _on_vote(self, node: int, message: Message) -> None:
        vote = (message["term"], node)
        if message["term"] == self._core.term and vote not in self._votes:
            self._votes.add(vote)
            self._deliver(node, message)

    def _on_timeout_now(self, node: int, message: Message) -> None:
        core = self._core
        if message["term"] == core.term and node == core.leader_id and core.may_campaign_itself:
            self._transfer_term = core.term + 1
            self._deliver(node, message)

    def _on_pre_vote(self, node: int, message: Message) -> None:
        core = self._core
        last = (core.log.last_term, core.log.last_index)
        granted = (
            core.may_vote
            and message["term"] >= core.term
            and (message["last_log_term"], message["last_log_index"]) >= last
            and not self._leader_is_alive()
            and not self._goes_first(node, (message["last_log_term"], message["last_log_index"]))
        )
        if granted:
            self._pre_vote = None
            core.postpone_election(self._election_min_s / 4, self.now)
        answer = {"type": "pre_vote_answer", "asked_term": message["term"], "granted": granted, "term": core.term}
        answer["disk"] = core.disk
        self._emit(node, answer)

    def _goes_first(self, node: int, last: tuple[int, int]) -> bool:
        """When a leader dies, everybody notices at once. Of two that ask, one steps back; otherwise both are told yes,
        split the votes and wait out an election time. Only for the first question: who goes first may reach too few."""
        core, asked = self._core, self._pre_vote
        if asked is None or not asked.first or self.now - asked.asked_at >= self._election_min_s / 2:
            return False
        return (core.log.last_term, core.log.last_index, core.node_id) > (*last, node)

    def _on_pre_vote_answer(self, node: int, message: Message) -> None:
        asked = self._pre_vote
        if message["term"] > self._core.term:
            self._adopt(node, message["term"])
        elif message["granted"] and asked is not None and message["asked_term"] == asked.term == self._core.term:
            asked.granted.add(node)

    def _on_term_hint(self, node: int, message: Message) -> None:
        self._adopt(node, message["term"])

    # Reads

    def _on_read_round(self, node: int, message: Message) -> None:
        answer = {"type": "read_round_answer", "term": self._core.term, "id": message["id"], "disk": self._core.disk}
        self._emit(node, answer)

    def _on_read_round_answer(self, node: int, message: Message) -> None:
        core = self._core
        if message["term"] > core.term:
            self._adopt(node, message["term"])
        elif message["term"] == core.term and core.is_leader:
            self._reads.confirmed(node, message["id"], core.term, self._is_majority)

    def _on_read(self, node: int, message: Message) -> None:
        """A follower asks for an index to read at. 0 says: ask somebody else."""

        def reply(index: int | None) -> None:
            self._emit(node, {"type": "read_answer", "id": message["id"], "index": index or 0})

        self._reads.wait(reply)

    def _on_read_answer(self, node: int, message: Message) -> None:
        self._reads.answered(node, message["id"], message["index"] or None)
