"""Protective measures of the consensus layer, each with what it takes to be without it.

A measure that no test misses is decoration. `without(name)` takes one away; test_rawnode_ablations.py runs the tests of
the holes that way and expects them to fail, the fuzzer offers the same names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pysyncobj import SyncObj, SyncObjConf

import wukong.raft.filter as filter_module
import wukong.raft.rawnode as rawnode_module
import wukong.raft.wal as wal_module
from wukong.raft.config import RaftConfig
from wukong.raft.core import RaftGroup
from wukong.raft.filter import MessageFilter
from wukong.raft.log import GroupLog, Member, Snapshot
from wukong.raft.rawnode import RawNode
from wukong.raft.reads import ReadRounds

Monkey = Callable[[Any, str, Any], None]


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _patch(owner: Any, attribute: str, value: Any) -> Callable[[Monkey], None]:
    return lambda monkey: monkey(owner, attribute, value)


# -- log matching


def _append_blindly(monkey: Monkey) -> None:
    """Entries reach the core as they come: it truncates behind whatever it was sent."""

    def match(self: MessageFilter, node: int, message: dict[str, Any], entries: list[Any]) -> None:
        log = self._core.log
        if message["prevLogIdx"] < log.base_index:
            return
        self._answering_probe = message["rid"]
        self._deliver(node, dict(message, entries=entries))

    monkey(MessageFilter, "_match", match)


def _with_answer(change: Callable[[MessageFilter, int, dict[str, Any]], None]) -> Callable[[Monkey], None]:
    """Answers are seen as something else than they are."""

    def ablate(monkey: Monkey) -> None:
        original = MessageFilter.incoming

        def incoming(self: MessageFilter, node: int, message: dict[str, Any]) -> None:
            if message.get("type") == "next_node_idx":
                message = dict(message)
                change(self, node, message)
            original(self, node, message)

        monkey(MessageFilter, "incoming", incoming)

    return ablate


def _fit_every_probe(self: MessageFilter, node: int, message: dict[str, Any]) -> None:
    message["rid"] = self._probe.get(node, 0)


def _fit_every_term(self: MessageFilter, node: int, message: dict[str, Any]) -> None:
    message["term"] = self._core.term


def _step_back_by_one(monkey: Monkey) -> None:
    """A mismatch is answered with the entry before."""
    monkey(MessageFilter, "_conflict_start", lambda self, prev: min(prev, self._core.log.last_index + 1))


# -- durability


def _answer_at_once(monkey: Monkey) -> None:
    """Answers and votes leave before the disk has what they promise."""

    def emit(self: RawNode, node: int, message: dict[str, Any]) -> None:
        self._outbox.append((node, message))

    monkey(RawNode, "_emit", emit)


def _count_at_once(monkey: Monkey) -> None:
    """The leader counts itself before its own disk has the entry, and applies what is not durable."""
    monkey(GroupLog, "durable_index", property(lambda self: self.last_index, lambda self, value: None))


def _forget_votes(monkey: Monkey) -> None:
    """Term and vote are kept in memory only."""

    def set_current_term(self: GroupLog, term: int, voted_for: int | None) -> None:
        self.term, self.vote = term, voted_for or 0

    monkey(GroupLog, "setCurrentTerm", set_current_term)


def _believe_the_log(monkey: Monkey) -> None:
    """At start, what is in the log counts as committed."""
    original = RaftGroup.__init__

    def init(self: RaftGroup, *args: Any) -> None:
        original(self, *args)
        self._SyncObj__raftCommitIndex = self.log.last_index

    monkey(RaftGroup, "__init__", init)


class _NoCrc:
    @staticmethod
    def crc32(data: bytes, value: int = 0) -> int:
        return 0


# -- elections


def _options(**changes: Any) -> Callable[[Monkey], None]:
    def ablate(monkey: Monkey) -> None:
        original = RaftGroup._options

        def options(self: RaftGroup, config: RaftConfig, log: GroupLog) -> SyncObjConf:
            made = original(self, config, log)
            for name, value in changes.items():
                setattr(made, name, value)
            return made

        monkey(RaftGroup, "_options", options)

    return ablate


def _ignore_disks(monkey: Monkey) -> None:
    """A node takes itself for a member whatever disk the log names."""

    def member(self: GroupLog, node: int, disk: int) -> Member | None:
        return next((member for member in self.members_now() if member.node == node), None)

    monkey(GroupLog, "member", member)


# -- reads


def _read_locally(monkey: Monkey) -> None:
    """A leader answers reads without asking whether it still leads."""

    def read_index(self: RawNode, callback: Callable[[int | None], None]) -> None:
        callback(self.commit_index if self.is_leader else None)

    monkey(RawNode, "read_index", read_index)


def _number_reads_from_one(monkey: Monkey) -> None:
    original = ReadRounds.__init__

    def init(self: ReadRounds, *, limit_count: int, timeout_s: float, first_id: int) -> None:
        original(self, limit_count=limit_count, timeout_s=timeout_s, first_id=0)

    monkey(ReadRounds, "__init__", init)


def _read_before_own_commit(monkey: Monkey) -> None:
    """A new leader answers reads at the commit index it knew before."""

    def start_reads(self: MessageFilter) -> None:
        core = self._core
        if core.is_leader:
            round_id = self._reads.start_round(core.term, core.commit_index, self.now)
            for node in sorted(core.peers):
                self._emit(node, {"type": "read_round", "term": core.term, "id": round_id})

    monkey(MessageFilter, "start_reads", start_reads)


# -- snapshots


def _believe_beats(monkey: Monkey) -> None:
    """A heartbeat moves the commit index over whatever the follower's log holds."""
    original = MessageFilter._on_append_entries

    def beat(self: MessageFilter, node: int, term: int, commit: int) -> None:
        commit = max(commit, self.__dict__.get("_claimed", 0))
        self._deliver(node, {"type": "append_entries", "term": term, "commit_index": commit, "serialized": None})

    def on_append_entries(self: MessageFilter, node: int, message: dict[str, Any]) -> None:
        self.__dict__["_claimed"] = message["commit_index"]
        original(self, node, message)

    monkey(MessageFilter, "_beat", beat)
    monkey(MessageFilter, "_on_append_entries", on_append_entries)


def _forget_intent(monkey: Monkey) -> None:
    """The log does not know that a snapshot was about to replace the state."""

    def begin_install(self: GroupLog, snapshot: Snapshot) -> None:
        pass

    monkey(GroupLog, "begin_install", begin_install)


def _install_whatever_comes(monkey: Monkey) -> None:
    """A snapshot at or below the commit index is installed too."""

    def begin_install(self: RawNode, from_node: int, leader_term: int, snapshot: Snapshot) -> bool:
        self._filter.installing = True
        self.log.begin_install(snapshot)
        return True

    monkey(RawNode, "begin_install", begin_install)


def _drop_the_tail(monkey: Monkey) -> None:
    """A snapshot replaces the whole log, whatever it agrees with."""

    def finish_install(self: GroupLog, snapshot: Snapshot) -> None:
        self._rebase(snapshot.index, snapshot.term)
        self.durable_index = snapshot.index
        self.set_members(snapshot.members)

    monkey(GroupLog, "finish_install", finish_install)


def _offer_snapshots_all_the_time(monkey: Monkey) -> None:
    """Who needs a snapshot is written to in every turn."""
    original = RaftGroup.tick

    def tick(self: RaftGroup, now: float) -> None:
        original(self, now)
        for node in self._targets if self.is_leader else ():
            if (self.next_index(node) or 0) <= self.log.base_index:
                self._replicate_to(node, True)

    monkey(RaftGroup, "tick", tick)


# -- members


def _count_any_disk(monkey: Monkey) -> None:
    """A node that lost its disk goes on answering for the disk it had."""

    def counts(self: MessageFilter, node: int, kind: str, disk: object) -> bool:
        return node in self._core.peers or (kind == "next_node_idx" and node in self._core.learners)

    monkey(MessageFilter, "_counts", counts)


def _count_learners(monkey: Monkey) -> None:
    """What a learner holds counts in place of what the slowest voter holds."""
    original = RaftGroup.learner_has

    def learner_has(self: RaftGroup, node: int, index: int) -> None:
        original(self, node, index)
        matches = self._SyncObj__raftMatchIndex
        if self.peers:
            slowest = min(self.peers.values(), key=lambda peer: (matches[peer], peer.id))
            matches[slowest] = max(matches[slowest], min(index, self.log.durable_index))

    monkey(RaftGroup, "learner_has", learner_has)


def _forget_progress(monkey: Monkey) -> None:
    """A promoted learner begins anew."""
    original = RaftGroup._follow_members

    def follow_members(self: RaftGroup) -> None:
        for learner in self.learners.values():
            learner.next, learner.match = self.log.last_index + 1, 0
        original(self)

    monkey(RaftGroup, "_follow_members", follow_members)


def _add_anybody(monkey: Monkey) -> None:
    """Whoever is a learner may become a voter, before its log says that it is one."""
    original = RaftGroup.change_members

    def change_members(self: RaftGroup, change: Any) -> bool:
        for learner in self.learners.values():
            learner.match = self.log.last_index
        return original(self, change)

    monkey(RaftGroup, "change_members", change_members)


def _keep_windows(monkey: Monkey) -> None:
    """What was under way in an earlier leadership fills the windows of the next."""
    monkey(RaftGroup, "_state_changed", _nothing)


def _transfer_at_once(monkey: Monkey) -> None:
    """Who is to take over is asked whether or not it has everything, and proposals go on."""

    def hand_over(self: RaftGroup, transfer: Any) -> None:
        if not transfer.asked:
            self.on_send(transfer.node, {"type": "timeout_now", "term": self.term})
            transfer.asked = True

    monkey(RaftGroup, "_hand_over", hand_over)


ABLATIONS: dict[str, Callable[[Monkey], None]] = {
    "log-matching": _append_blindly,
    "reset-generation": _with_answer(_fit_every_probe),
    "keep-next-index": _patch(RaftGroup, "keep_next_index", _nothing),
    "conflict-start": _step_back_by_one,
    "answer-term": _with_answer(_fit_every_term),
    "hold-answers": _answer_at_once,
    "own-durability": _count_at_once,
    "record-crc": _patch(wal_module, "zlib", _NoCrc),
    "vote-records": _forget_votes,
    "no-stored-commit": _believe_the_log,
    "pre-vote": _patch(RaftGroup, "_SyncObj__connectedToAnyone", lambda self: True),
    "pre-vote-order": _patch(MessageFilter, "_goes_first", lambda self, node, last: False),
    "vote-lease": _patch(MessageFilter, "_leader_is_alive", lambda self: False),
    "quorum-timeout": _options(leaderFallbackTimeout=30.0),
    "term-hint": _patch(MessageFilter, "_hint", _nothing),
    "lost-link-lease": _patch(MessageFilter, "leader_disconnected", _nothing),
    "lost-link-haste": _patch(RaftGroup, "hasten_election", _nothing),
    "lost-link-reads": _patch(ReadRounds, "lost", _nothing),
    "read-rounds": _read_locally,
    "read-numbers": _number_reads_from_one,
    "read-own-commit": _read_before_own_commit,
    "apply-enqueues": _patch(RaftGroup, "_SyncObj__doApplyCommand", SyncObj._SyncObj__doApplyCommand),
    "verified-commit": _believe_beats,
    "install-in-between": _patch(MessageFilter, "installing", property(lambda self: False, lambda self, value: None)),
    "install-only-newer": _install_whatever_comes,
    "install-keeps-tail": _drop_the_tail,
    "install-intent": _forget_intent,
    "state-fits-log": _patch(rawnode_module, "_start_index", lambda log, applied: applied[0] or 1),
    "snapshot-pace": _offer_snapshots_all_the_time,
    "one-change": _patch(RaftGroup, "_may_change_members", lambda self: True),
    "members-in-log": _patch(GroupLog, "members_now", lambda self: self.members),
    "base-with-members": _patch(GroupLog, "_replay_members", _nothing),
    "voters-only": _patch(filter_module, "_ANSWERS", frozenset()),
    "campaign-members": _patch(RaftGroup, "may_campaign_itself", property(lambda self: True)),
    "answer-disk": _count_any_disk,
    "disk-check": _ignore_disks,
    "learner-counts": _count_learners,
    "learner-progress": _forget_progress,
    "learner-first": _add_anybody,
    "durable-commit": _patch(RaftGroup, "durable_commit_index", property(lambda self: self.commit_index)),
    "transfer-waits": _transfer_at_once,
    "field-checks": _patch(MessageFilter, "_checked_entries", lambda self, message: message.get("entries", [])),
    "no-pipe": _options(appendEntriesUseBatch=False),
    "window-restart": _keep_windows,
}
"""Names of measures -> what takes them away."""


_MISSING = object()


@contextmanager
def without(name: str | None) -> Iterator[None]:
    """Run with one protective measure taken away."""
    saved: list[tuple[Any, str, Any]] = []

    def monkey(owner: Any, attribute: str, value: Any) -> None:
        saved.append((owner, attribute, owner.__dict__.get(attribute, _MISSING)))
        setattr(owner, attribute, value)

    if name is not None:
        ABLATIONS[name](monkey)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(saved):
            if value is _MISSING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, value)
