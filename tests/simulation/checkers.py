"""What must hold, whatever happened: one class for each property, and the list of violations they share.

They are told what was seen, on nodes and by clients, and know nothing of how the server works inside; what a client may
expect follows from the times of calls and answers alone, as in tests/scenarios/judge.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.scenarios.judge import Change, History, Sent, Verdict
from tests.scenarios.judge import _possible as possible_memberships

_KEPT = 200


class Violation(NamedTuple):
    rule: str
    text: str
    at: float


class Violations:
    """now: the world's time, for the record."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self.found: list[Violation] = []
        self._now = now
        self._seen: set[tuple[str, str]] = set()

    def blame(self, rule: str, text: str) -> None:
        if (rule, text) not in self._seen and len(self.found) < _KEPT:
            self._seen.add((rule, text))
            self.found.append(Violation(rule, text, self._now()))

    @property
    def rules(self) -> list[str]:
        return sorted({violation.rule for violation in self.found})


class Checker:
    rule = ""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations

    def blame(self, text: str) -> None:
        self._violations.blame(self.rule, text)


# -- the logs


class LogMatching(Checker):
    """At one index of one group every node applies the same entry; equal (index, term) in two logs means equal entries
    before."""

    rule = "log matching"

    def __init__(self, violations: Violations) -> None:
        super().__init__(violations)
        self.committed: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.newest: dict[int, int] = {}
        self.newest_in: dict[
            int, dict[int, int]
        ] = {}  # group -> term that its node was in -> newest applied first then

    def applied(self, node: int, group: int, index: int, term: int, data: bytes, now_term: int = 0) -> bool:
        """True when nobody had applied it before. now_term: of the node; it was committed in that term or before."""
        first = self.committed.setdefault((group, index), (term, data))
        if first != (term, data):
            self.blame(
                f"node {node} applies another entry at index {index} of group {group} (terms {first[0]}, {term})"
            )
        fresh = index > self.newest.get(group, 0)
        if fresh:
            self.newest[group] = index
            self.newest_in.setdefault(group, {})[max(now_term, term)] = index
        return fresh

    def logs(self, group: int, logs: Mapping[int, Sequence[tuple[bytes, int, int]]]) -> None:
        """node -> its entries (command, index, term) behind its base."""
        seen: dict[tuple[int, int], tuple[int, bytes, int]] = {}  # (index, term) -> term before, command, node
        for node, entries in sorted(logs.items()):
            for at in range(1, len(entries)):
                command, index, term = entries[at]
                before = entries[at - 1][2]
                first = seen.setdefault((index, term), (before, command, node))
                if first[:2] != (before, command):
                    self.blame(
                        f"logs of nodes {first[2]} and {node} differ at index {index}, term {term}, group {group}"
                    )


class LeaderCompleteness(Checker):
    """One leader per term, and its log holds everything that was committed before."""

    rule = "leader completeness"

    def __init__(self, violations: Violations, matching: LogMatching) -> None:
        super().__init__(violations)
        self._matching = matching
        self._leaders: dict[tuple[int, int], int] = {}
        self.changes = 0

    def leads(self, node: int, group: int, term: int, term_at: Callable[[int], int | None], base: int) -> None:
        first = self._leaders.setdefault((group, term), node)
        if first != node:
            self.blame(f"nodes {first} and {node} both lead group {group} in term {term}")
            return
        self.changes += 1
        # What was committed in terms before its own: it may hear late that it leads, when others lead already.
        before = self._matching.newest_in.get(group, {})
        newest = max((index for at, index in before.items() if at < term), default=0)
        if newest <= base:
            return
        expected = self._matching.committed[group, newest][0]
        if term_at(newest) != expected:
            self.blame(
                f"node {node} leads group {group} in term {term} without the committed entry {newest}, term {expected}"
            )


class CommitRule(Checker):
    """What is committed is on the disks of a majority of the voters, as its log names them at the entry or now."""

    rule = "commit rule"

    def check(
        self, group: int, index: int, term: int, voters: Sequence[Sequence[int]], holds: Callable[[int], bool | None]
    ) -> None:
        """voters: one list of nodes for each view of the members that may count. holds: None when it cannot be told."""
        for nodes in voters:
            if 2 * sum(holds(node) is not False for node in nodes) > len(nodes):
                return
        self.blame(
            f"entry {index} of term {term} of group {group} is committed without a majority of {list(voters[0])}"
        )


class Promises(Checker):
    """What a disk's node has told others survives its restart: terms, votes, and entries acknowledged in a term that is
    still its newest. Disks are told apart by any key."""

    rule = "kept promises"

    def __init__(self, violations: Violations) -> None:
        super().__init__(violations)
        self._terms: dict[tuple[int, int], int] = {}
        self._votes: dict[tuple[int, int], tuple[int, int]] = {}  # (term, for whom)
        self._entries: dict[tuple[int, int], tuple[int, int]] = {}  # (term, index)

    def says(self, disk: int, group: int, to: int, message: Mapping[str, object]) -> None:
        """A message leaves."""
        term = message.get("term")
        if type(term) is not int:
            return
        key = disk, group
        kind = message["type"]
        self._terms[key] = max(term, self._terms.get(key, 0))
        if kind == "response_vote":
            self._votes[key] = max((term, to), self._votes.get(key, (0, 0)))
        elif kind == "next_node_idx" and message["success"]:
            index = message["next_node_idx"]
            assert type(index) is int
            self._entries[key] = max((term, index - 1), self._entries.get(key, (0, 0)))

    def restarts(self, disk: int, group: int, term: int, vote: int, last_index: int) -> None:
        """What is read back."""
        key = disk, group
        if term < self._terms.get(key, 0):
            self.blame(f"group {group}: term {self._terms[key]} was told, after the restart it is {term}")
        voted_term, voted_for = self._votes.get(key, (0, 0))
        if voted_term == term and vote != voted_for:
            self.blame(
                f"group {group}: in term {term} node {voted_for} got the vote, after the restart {vote or 'nobody'}"
            )
        acknowledged_term, index = self._entries.get(key, (0, 0))
        if acknowledged_term == term and last_index < index:
            self.blame(f"group {group}: entry {index} was acknowledged in term {term}, the log ends at {last_index}")


class ApplyOrder(Checker):
    """A node applies index after index; only a snapshot leaps, and only forward."""

    rule = "apply order"

    def __init__(self, violations: Violations) -> None:
        super().__init__(violations)
        self._at: dict[tuple[int, int], int] = {}

    def starts(self, node: int, group: int, index: int) -> None:
        self._at[node, group] = index

    def applied(self, node: int, group: int, index: int) -> None:
        before = self._at.get((node, group), 0)
        if index != before + 1:
            self.blame(f"node {node} applies index {index} of group {group} after {before}")
        self._at[node, group] = index

    def installed(self, node: int, group: int, index: int) -> None:
        before = self._at.get((node, group), 0)
        if index <= before:
            self.blame(f"node {node} installs a snapshot of index {index} of group {group} over index {before}")
        self._at[node, group] = index


class EqualRows(Checker):
    """Equal applied index, equal rows, byte for byte."""

    rule = "equal rows"

    def __init__(self, violations: Violations) -> None:
        super().__init__(violations)
        self._digests: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.compared = 0

    def digest(self, node: int, slot: int, index: int, digest: bytes, told: Callable[[], str] = lambda: "") -> None:
        first = self._digests.setdefault((slot, index), (digest, node))
        self.compared += first[1] != node
        if first[0] != digest:
            self.blame(f"rows of slot {slot} at index {index} differ on nodes {first[1]} and {node}{told()}")


# -- messages


@dataclass
class Post:
    """A message that somebody sent. sent: before the first attempt; acked: when success was answered; seq and
    message_id as answered. refused: the reason, when it was refused."""

    channel: str
    is_cmd: bool
    sender: str
    payload: bytes
    client_msg_no: str
    sent: float
    trusted: bool = False
    acked: float | None = None
    refused: int = 0
    answered_at: float = 0.0
    seq: int = 0
    message_id: int = 0


class Stored(NamedTuple):
    """A message as a replica has it."""

    seq: int
    message_id: int
    client_msg_no: str
    payload: bytes


class NoLoss(Checker):
    """What was acknowledged is there, with the payload and the seq that were told."""

    rule = "acknowledged loss"

    def check(self, node: int, posts: Iterable[Post], stored: Callable[[str, bool], Mapping[int, Stored]]) -> None:
        for post in posts:
            if post.acked is None:
                continue
            found = stored(post.channel, post.is_cmd).get(post.seq)
            if found is None:
                self.blame(f"node {node} lost seq {post.seq} of {post.channel} (cmd {post.is_cmd}), acknowledged")
            elif (found.payload, found.message_id) != (post.payload, post.message_id):
                self.blame(
                    f"node {node} has {found.payload!r} under seq {post.seq} of {post.channel}, "
                    f"{post.payload!r} was acknowledged"
                )


class Sequence_(Checker):
    """Seqs of a channel go 1, 2, 3, ids rise, and each number of a sender was stored once."""

    rule = "sequence"

    def check(self, node: int, channel: str, messages: Sequence[Stored]) -> None:
        numbers: dict[str, int] = {}
        last_id = 0
        for expected, message in enumerate(messages, start=1):
            if message.seq != expected:
                self.blame(f"node {node}: seq {message.seq} follows {expected - 1} in {channel}")
                return
            if message.message_id <= last_id:
                self.blame(f"node {node}: the id of seq {message.seq} in {channel} does not rise")
            last_id = message.message_id
            twice = numbers.setdefault(message.client_msg_no, message.seq)
            if twice != message.seq:
                self.blame(
                    f"node {node}: {message.client_msg_no} is stored as seq {twice} and {message.seq} of {channel}"
                )


class Push(NamedTuple):
    channel: str
    is_cmd: bool
    seq: int
    message_id: int
    payload: bytes
    at: float


@dataclass
class Connected:
    """One connection as its client saw it. opened: when the CONNACK came; closed: when it ended, None while it lives.
    first_send: own posts that went out on it are not pushed to it: their payloads."""

    uid: str
    node: int
    number: int
    incarnation: int = 0
    opened: float | None = None
    closed: float | None = None
    pushes: list[Push] = field(default_factory=list)
    own: set[bytes] = field(default_factory=set)
    acknowledged: dict[int, float] = field(default_factory=dict)

    @property
    def told(self) -> str:
        return f"{self.uid} on node {self.node}, session {self.number}"


class ConnectionOrder(Checker):
    """On one connection a message comes once, and the messages of a channel come in the order of their seqs. Only what
    was not confirmed in time may come again, unchanged."""

    rule = "order"

    def __init__(self, violations: Violations, *, repeat_after_s: float) -> None:
        super().__init__(violations)
        self._repeat_after_s = repeat_after_s

    def check(self, connection: Connected) -> None:
        newest: dict[tuple[str, bool], int] = {}
        seen: dict[int, Push] = {}
        for push in connection.pushes:
            first = seen.setdefault(push.message_id, push)
            if first is not push:
                confirmed = connection.acknowledged.get(push.message_id)
                if push._replace(at=0.0) != first._replace(at=0.0):
                    self.blame(f"{connection.told} got {push.message_id} again, changed")
                elif push.at - first.at < self._repeat_after_s or (
                    confirmed is not None and push.at - confirmed > self._repeat_after_s
                ):
                    self.blame(f"{connection.told} got seq {push.seq} of {push.channel} twice")
                continue
            key = push.channel, push.is_cmd
            if push.seq and push.seq <= newest.get(key, 0):
                self.blame(f"{connection.told} got seq {push.seq} of {push.channel} after {newest[key]}")
            newest[key] = max(newest.get(key, 0), push.seq)


class Promise(Checker):
    """R0: who was a member for certain when a message was sent gets it, pushed on each connection that stood and was
    not closed, or by sync; who was none for certain is not pushed it."""

    rule = "R0"

    def connection(self, connection: Connected, histories: Mapping[tuple[str, bool], History], *, alive: bool) -> None:
        """Judge what one connection was pushed. alive: it stands, and everything has had the time to come."""
        if connection.opened is None:
            return
        got: dict[tuple[str, bool], dict[int, bytes]] = defaultdict(dict)
        for push in connection.pushes:
            got[push.channel, push.is_cmd][push.seq] = push.payload
        for key, history in histories.items():
            seqs = got.get(key, {})
            newest = max(seqs, default=0)
            concerning = history.changes_of(connection.uid)
            sent = {message.seq: message for message in history.messages}
            for seq, payload in seqs.items():
                message = sent.get(seq)
                if message is None:
                    continue  # of an earlier episode, pushed again
                if payload != message.payload:
                    self.blame(f"{connection.told} got {payload!r} as seq {seq} of {key}, it is {message.payload!r}")
                if possible_memberships(concerning, message.sent, message.acked) == {False}:
                    self.blame(f"{connection.told} got seq {seq} of {key} as a stranger")
            for message in history.messages:
                if message.seq in seqs or message.sent < connection.opened or message.payload in connection.own:
                    continue
                if (alive or message.seq < newest) and possible_memberships(
                    concerning, message.sent, message.acked
                ) == {True}:
                    self.blame(
                        f"{connection.told} MISSED seq {message.seq} of {key}, sent by {message.sender} at "
                        f"{message.sent:.3f}, acknowledged at {message.acked:.3f}; connected at {connection.opened:.3f}"
                    )

    def user(
        self, uid: str, got: Mapping[tuple[str, bool], set[int]], histories: Mapping[tuple[str, bool], History]
    ) -> None:
        """Judge what a user has from all his connections and from syncs, the last of them after everything."""
        for key, history in histories.items():
            seqs = got.get(key, set())
            concerning = history.changes_of(uid)
            for message in history.messages:
                if message.seq in seqs:
                    continue
                if possible_memberships(concerning, message.sent, message.acked) != {True}:
                    continue
                # Who left since finds no conversation any more: only who was connected got it.
                if any(not joins and change.ok >= message.sent for joins, change in concerning):
                    continue
                self.blame(
                    f"{uid} has not got seq {message.seq} of {key}, sent by {message.sender} at {message.sent:.3f}, "
                    f"acknowledged at {message.acked:.3f}, neither pushed nor by sync"
                )

    def commands(self, uid: str, channel: str, seqs: Iterable[int], history: History) -> None:
        """Commands that a sync handed out: never one of a time when he was no member."""
        sent = {message.seq: message for message in history.messages}
        concerning = history.changes_of(uid)
        for seq in seqs:
            message = sent.get(seq)
            if message and possible_memberships(concerning, message.sent, message.acked) == {False}:
                self.blame(f"{uid} got command {seq} of {channel} by sync as a stranger")


class Refusals(Checker):
    """Who is a member for certain and not banned for certain may send; who is none, or is banned, may not."""

    rule = "permission"

    def check(self, post: Post, history: History, bans: History, ban_reason: int) -> None:
        if post.trusted:
            return
        member = possible_memberships(history.changes_of(post.sender), post.sent, post.answered_at)
        banned = possible_memberships(bans.changes_of(post.sender), post.sent, post.answered_at)
        if post.refused == ban_reason:
            if True not in banned:
                self.blame(f"{post.sender} was refused in {post.channel} as banned, and is not")
        elif post.refused and False not in member:
            self.blame(f"{post.sender} was refused in {post.channel} with reason {post.refused}, being a member")
        if post.acked is not None and True not in member:
            self.blame(f"{post.sender} sent to {post.channel} as a stranger")
        if post.acked is not None and False not in banned:
            self.blame(f"{post.sender} sent to {post.channel} while banned")


# -- reads


class Reads(Checker):
    """A read shows what was answered before it began."""

    rule = "linearizable reads"

    def members(self, history: History, uids: Iterable[str], seen: set[str], began: float, ended: float) -> None:
        for uid in uids:
            possible = possible_memberships(history.changes_of(uid), began, ended)
            if possible == {True} and uid not in seen:
                self.blame(f"a read of members begun at {began:.3f} misses {uid}")
            if possible == {False} and uid in seen:
                self.blame(f"a read of members begun at {began:.3f} shows {uid}, who is none")

    def newest(self, channel: str, must: int, seen: int, began: float) -> None:
        """must: the highest seq acknowledged before the read began."""
        if seen < must:
            self.blame(f"a read of {channel} begun at {began:.3f} shows seq {seen}, {must} was acknowledged before")


class Membership(Checker):
    """In a quiet moment the rows say what the answers said."""

    rule = "membership"

    def check(
        self, node: int, channel: str, history: History, uids: Iterable[str], members: set[str], now: float
    ) -> None:
        for uid in uids:
            possible = possible_memberships(history.changes_of(uid), now, float("inf"))
            if (uid in members) not in possible:
                self.blame(
                    f"node {node}: {uid} is{'' if uid in members else ' not'} a member of {channel}, unlike the answers"
                )


class Copies(Checker):
    """In a quiet moment every slot has the same copy of a fact whose home is elsewhere, as the home has it."""

    rule = "copies"

    def check(self, node: int, what: str, home: object, copied: Sequence[object]) -> None:
        for slot, copy in enumerate(copied):
            if copy != home:
                self.blame(f"node {node}, slot {slot}: {what} is {copy!r}, at home it is {home!r}")


class Unread(Checker):
    """What a conversation counts as unread is what a plain look at the log gives."""

    rule = "unread"

    def check(
        self, uid: str, channel: str, told: int, read: int, last: int, own: Iterable[int], newest_own: bool
    ) -> None:
        """own: seqs that the user sent; newest_own: the newest message is his."""
        mine = max((seq for seq in own if seq <= last), default=0)
        expected = 0 if newest_own else max(0, last - max(read, mine))
        if told != expected:
            self.blame(f"{uid} has {told} unread in {channel}, {expected} are (read {read}, own {mine}, last {last})")


# -- sessions


class Presence(Checker):
    """In a quiet moment the log's sessions are the sessions that clients hold."""

    rule = "presence"

    def check(self, node: int, in_log: set[tuple[str, int, int]], held: set[tuple[str, int, int]]) -> None:
        """Each (uid, node, session number), of live incarnations."""
        for ghost in sorted(in_log - held):
            self.blame(f"node {node} takes {ghost} for connected, nobody is there")
        for lost in sorted(held - in_log):
            self.blame(f"node {node} does not know the session {lost}, whose client is connected")


class AudienceFits(Checker):
    """On each node the audience is its sessions' users in their channels' members."""

    rule = "audience"

    def check(self, node: int, uid: str, audience: set[str], members_of: set[str]) -> None:
        for channel in sorted(audience - members_of):
            self.blame(f"node {node} would push {channel} to {uid}, who is no member")
        for channel in sorted(members_of - audience):
            self.blame(f"node {node} would not push {channel} to {uid}, a member who is connected there")


class Deaf(Checker):
    """A node that has heard nobody for long holds no client any more."""

    rule = "deaf"

    def check(self, node: int, alone_s: float, connected: Sequence[str]) -> None:
        for who in connected:
            self.blame(f"{who} is still connected to node {node}, which was alone for {alone_s:.0f} s")


class Liveness(Checker):
    """When everything is healed, everything goes on within a bound."""

    rule = "liveness"

    def waited(self, what: str, seconds: float) -> None:
        self.blame(f"{what} not within {seconds:.0f} s after healing")


class Faultless(Checker):
    """No exception, no error in a log, no fail-stop that no fault explains."""

    rule = "faultless"

    def fault(self, text: str) -> None:
        self.blame(text)


__all__ = ["Change", "History", "Sent", "Verdict"]
