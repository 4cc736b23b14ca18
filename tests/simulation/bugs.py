"""Faults planted into the product, one at a time, to see that the judges notice: the judge is judged.

Each is a mistake somebody could make, or one that was made in the server whose place this one takes. `planted(name)`
puts it in for a while; `HUNT` says with which seeds it is looked for, one after the other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.simulation.faults import Faults
from wukong.channel import copies, machine, messages, presence
from wukong.channel.commands import FORMAT_VERSION, Hello, PutChannel, RemoveAllMembers, RemoveMembers, encode_command
from wukong.channel.effects import FanOut
from wukong.channel.ids import ChannelId, has_special
from wukong.channel.permissions import NOT_SUBSCRIBER
from wukong.channel.state import State, Stream, channel_part
from wukong.cluster.health import Health
from wukong.dispatch.dispatcher import Dispatcher
from wukong.node import node as node_module
from wukong.node.node import Node
from wukong.node.snapshot_receiver import SnapshotReceiver
from wukong.node.streams import SlotStream
from wukong.protocol.packets import Sendack
from wukong.raft.core import RaftGroup
from wukong.raft.filter import MessageFilter
from wukong.raft.log import HARD_STATE, GroupLog, Member, Record, Snapshot
from wukong.raft.rawnode import RawNode
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.service.channels import Channels
from wukong.service.sessions import Sessions
from wukong.store.overlay import View

Put = Callable[[Any, str, Any], None]


def skip_fsync(put: Put) -> None:
    """The log is written and not synced, and says that it was."""
    put(Wal, "_sync", lambda self, fd: None)


def forget_vote(put: Put) -> None:
    """For whom this node voted is not kept: after a restart it votes again in the same term."""

    def set_current_term(self: GroupLog, term: int, voted_for: int | None) -> None:
        if (term, voted_for or 0) == (self.term, self.vote):
            return
        self.term, self.vote = term, voted_for or 0
        self._note(HARD_STATE, 0, term)
        self.hard_seq = self.seq

    put(GroupLog, "setCurrentTerm", set_current_term)


def drop_vote_segment(put: Put) -> None:
    """A new segment does not repeat term and vote, and the old one goes."""
    original = GroupLog.state_records

    def state_records(self: GroupLog, *, entries: bool) -> list[Record]:
        return [record for record in original(self, entries=entries) if record.kind != HARD_STATE]

    put(GroupLog, "state_records", state_records)


def stale_audience(put: Put) -> None:
    """Who joins is known to the fan-out a moment later."""
    original = Dispatcher._members_changed

    def members_changed(self: Dispatcher, effect: Any) -> None:
        asyncio.get_running_loop().call_later(0.05, original, self, effect)

    put(Dispatcher, "_members_changed", members_changed)


def reset_in_two(put: Put) -> None:
    """A replacement of the members is two entries: everybody goes, then the new ones come."""
    original = Channels._put

    async def put_channel(self: Channels, command: PutChannel, members: list[str], *, reset: bool) -> None:
        if reset:
            await self._replica.change(command.channel.id, RemoveAllMembers(command.channel))
        await original(self, command, members, reset=False)

    put(Channels, "_put", put_channel)


def apply_by_type(put: Put) -> None:
    """A step applies what changes members behind everything else, as if it were the same."""
    original = Node.apply

    def apply(self: Node, entries: list[Any]) -> None:
        late: list[Any] = []
        changed = []
        for entry in entries:
            if entry.data:
                packs = node_module.decode_entry(entry.data)
                if any(type(command) in (PutChannel, RemoveMembers) for pack in packs for command in pack.commands):
                    late += packs
                    entry = entry._replace(data=b"")
            changed.append(entry)
        if late:
            last = changed[-1]
            packs = [*(node_module.decode_entry(last.data) if last.data else []), *late]
            changed[-1] = last._replace(data=bytes((FORMAT_VERSION,)) + msgspec.msgpack.encode(packs))
        original(self, changed)

    put(Node, "apply", apply)


def read_without_barrier(put: Put) -> None:
    """A read looks at what this node has, however old."""

    async def barrier(self: Node, slots: Any, timeout_s: float = 5.0) -> None:
        return None

    put(Node, "barrier", barrier)


def lease_read(put: Put) -> None:
    """A leader answers reads without asking whether it still leads."""

    original = RawNode.read_index

    def read_index(self: RawNode, callback: Callable[[int | None], None]) -> None:
        if self.is_leader:
            callback(self.commit_index)
        else:
            original(self, callback)

    put(RawNode, "read_index", read_index)


def early_refusal(put: Put) -> None:
    """A SEND is refused by what this node knows, without asking the log."""
    original = Sessions.send

    def send(self: Sessions, number: int, uid: str, packet: Any) -> None:
        if packet.channel_type == 2 and not has_special(packet.channel_id):
            channel = ChannelId(2, packet.channel_id)
            if not self._node.state_of(channel.id).is_member(channel_part(channel), uid):
                gateway = self._dispatcher.gateway
                assert gateway is not None
                ack = Sendack(packet.flags, 1, packet.client_seq, 0, NOT_SUBSCRIBER, packet.client_msg_no)
                gateway.sendack(number, ack)
                return
        original(self, number, uid, packet)

    put(Sessions, "send", send)


def forget_counter(put: Put) -> None:
    """How far each node's stream came is kept in memory only."""
    put(State, "put_stream", lambda self, node, stream: self.streams.__setitem__(node, stream))


def deliver_before_apply(put: Put) -> None:
    """A step's messages go out before its changes of members count."""
    original = Dispatcher.run

    def run(self: Dispatcher, effects: list[Any]) -> None:
        original(self, sorted(effects, key=lambda effect: type(effect) is not FanOut))

    put(Dispatcher, "run", run)


def snapshot_keeps_sessions(put: Put) -> None:
    """A snapshot leaps over entries, and the clients stay connected."""
    original = Node.installed

    def installed(self: Node, group: int, index: int, term: int) -> None:
        on_break, self._on_break = self._on_break, lambda why: None
        try:
            original(self, group, index, term)
        finally:
            self._on_break = on_break

    put(Node, "installed", installed)


def replay_blind(put: Put) -> None:
    """While a restarted node replays its log, a step does not see what it has written itself."""
    original_apply, original_get = Node.apply, View.get
    replaying: list[bool] = [False]

    def apply(self: Node, entries: list[Any]) -> None:
        replaying[0] = not self._live
        try:
            original_apply(self, entries)
        finally:
            replaying[0] = False

    def get(self: View, key: bytes) -> bytes | None:
        if replaying[0]:
            return self._overlay.store.get(self._prefix + key)
        return original_get(self, key)

    put(Node, "apply", apply)
    put(View, "get", get)


def file_in_apply(put: Put) -> None:
    """Apply asks this node's own file whether strangers may write to each other."""
    original = Node.apply

    def apply(self: Node, entries: list[Any]) -> None:
        for state in self.states:
            state.settings = msgspec.structs.replace(state.settings, whitelist_off_of_person=self.node_id % 2 == 1)
        original(self, entries)

    put(Node, "apply", apply)


def presence_without_fencing(put: Put) -> None:
    """A session's row counts whatever became of its node's incarnation."""
    original = presence.sessions_of

    def sessions_of(state: State, uid: str, *, sweep: bool = False) -> list[Any]:
        real = state.streams
        found = []
        prefix = b"s" + presence.part(uid)
        rows = [key for key, _ in state.scan(prefix, presence.after(prefix))]
        for incarnation in sorted(
            {(int.from_bytes(k[-18:-16], "big"), int.from_bytes(k[-16:-8], "big")) for k in rows}
        ):
            state.streams = {incarnation[0]: Stream(incarnation[1])}
            found += original(state, uid, sweep=False)
        state.streams = real
        return found

    put(presence, "sessions_of", sessions_of)


def _often(put: Put, *faults: str) -> None:
    """What shows the bug is rare: these faults come much more often than others."""
    put(Faults, "KINDS", {**Faults.KINDS, **{fault: (60, Faults.KINDS[fault][1]) for fault in faults}})


def copies_without_version(put: Put) -> None:
    """A copy counts whenever it comes, also an old one."""
    put(copies, "_newer", lambda state, key, version: True)
    _often(put, "leader transfer", "kill", "isolate")


def join_after_connack(put: Put) -> None:
    """The login is answered before the session is in its channels' audiences."""
    original = Sessions._join_audiences

    async def join(self: Sessions, number: int, uid: str) -> None:
        async def later() -> None:
            await asyncio.sleep(0.05)
            await original(self, number, uid)

        asyncio.get_running_loop().create_task(later())

    put(Sessions, "_join_audiences", join)


def resend_skips(put: Put) -> None:
    """What is sent again to a new leader begins one command too late, and the rest takes its number."""

    def resend_all(self: SlotStream) -> None:
        if self.packed > 1:
            _, done = self.in_flight[0]
            self.in_flight[0] = encode_command(Hello()), done
        self.packed = 0

    put(SlotStream, "resend_all", resend_all)


def foreign_reply(put: Put) -> None:
    """A reply to an earlier incarnation's command is taken for one to the present one's."""
    current: dict[int, int] = {}
    original_take, original_apply = Node._take_incarnation, machine.apply_pack

    def take(self: Node) -> None:
        original_take(self)
        current[self.node_id] = self.incarnation

    def apply_pack(state: State, index: int, pack: Any) -> Any:
        outcome = original_apply(state, index, pack)
        return msgspec.structs.replace(outcome, incarnation=current.get(outcome.node, outcome.incarnation))

    put(Node, "_take_incarnation", take)
    put(node_module, "apply_pack", apply_pack)


def learner_counts(put: Put) -> None:
    """Two of three are a majority, also when one of them only learns."""
    original = RaftGroup.learner_has

    def learner_has(self: RaftGroup, node: int, index: int) -> None:
        original(self, node, index)
        # As if it were a voter: the leader and one learner commit.
        commit = min(index, self.log.durable_index)
        if self.is_leader and commit > self.commit_index and self.log.term_at(commit) == self.term:
            self._SyncObj__raftCommitIndex = commit

    put(RaftGroup, "learner_has", learner_has)


def blank_disk_votes(put: Put) -> None:
    """A node that lost its disk votes and stands as if nothing had happened."""

    def member(self: GroupLog, node: int, disk: int) -> Member | None:
        return next((member for member in self.members_now() if member.node == node), None)

    put(GroupLog, "member", member)
    _often(put, "disk lost behind a cut")


def believe_beats(put: Put) -> None:
    """A heartbeat moves the commit index over whatever the follower's log holds."""
    original = MessageFilter._on_append_entries

    def beat(self: MessageFilter, node: int, term: int, commit: int) -> None:
        commit = max(commit, self.__dict__.get("_claimed", 0))
        self._deliver(node, {"type": "append_entries", "term": term, "commit_index": commit, "serialized": None})

    def on_append_entries(self: MessageFilter, node: int, message: dict[str, Any]) -> None:
        self.__dict__["_claimed"] = message["commit_index"]
        original(self, node, message)

    put(MessageFilter, "_beat", beat)
    put(MessageFilter, "_on_append_entries", on_append_entries)


def snapshot_goes_back(put: Put) -> None:
    """A snapshot is installed at or below what this node has committed."""
    original_begin = RawNode.begin_install

    def begin_install(self: RawNode, from_node: int, leader_term: int, snapshot: Snapshot) -> bool:
        if leader_term < self._core.term or self._filter.installing:
            return False
        if snapshot.index > self._core.commit_index:
            return original_begin(self, from_node, leader_term, snapshot)
        self._filter.installing = True
        self.log.begin_install(snapshot)
        return True

    original_offered = SnapshotReceiver.offered

    def offered(self: SnapshotReceiver, node: int, slot: int, offer: Any) -> None:
        applied, self._applied_index = self._applied_index, lambda slot: 0
        try:
            original_offered(self, node, slot, offer)
        finally:
            self._applied_index = applied

    original_install = Runtime.install

    async def install(self: Runtime, group: int, *rest: Any) -> bool:
        applied, self._applied = self._applied, [0] * len(self._applied)
        coroutine = original_install(self, group, *rest)
        try:
            # Up to its first wait, where it has looked at the applied index.
            future = coroutine.send(None)
        except StopIteration as done:
            return bool(done.value)
        finally:
            real, self._applied = self._applied, applied
            del real
        return await _drive(coroutine, future)

    put(RawNode, "begin_install", begin_install)
    put(SnapshotReceiver, "offered", offered)
    put(Runtime, "install", install)


class _Drive:
    def __init__(self, coroutine: Any, first: Any) -> None:
        self._coroutine, self._first = coroutine, first

    def __await__(self) -> Iterator[Any]:
        waited = self._first
        while True:
            try:
                value = yield waited
            except BaseException as error:
                waited = self._coroutine.throw(error)
                continue
            try:
                waited = self._coroutine.send(value)
            except StopIteration as done:
                return done.value


def _drive(coroutine: Any, first: Any) -> _Drive:
    return _Drive(coroutine, first)


def answer_before_disk(put: Put) -> None:
    """Answers and votes leave before the disk has what they promise."""
    put(RawNode, "_emit", lambda self, node, message: self._outbox.append((node, message)))


def fence_ignored(put: Put) -> None:
    """A node that was taken for gone begins anew, and keeps its clients, of whom the log knows nothing any more."""
    original = Node._reborn
    _often(put, "isolate", "lagging follower")

    def reborn(self: Node) -> None:
        on_break, self._on_break = self._on_break, lambda why: None
        try:
            original(self)
        finally:
            self._on_break = on_break

    put(Node, "_reborn", reborn)


def health_unheeded(put: Put) -> None:
    """A node that has lost its majority keeps its clients."""
    put(Health, "_close", lambda self, passed_s, **rest: None)


def no_deduplication(put: Put) -> None:
    """A message that is sent again under its number is stored again."""
    put(messages, "_first_result", lambda state, command, part, key: None)


def leaver_stays_in_audience(put: Put) -> None:
    """A reset clears the rows of those who left, and not the audience."""
    original = Dispatcher._members_changed

    def members_changed(self: Dispatcher, effect: Any) -> None:
        original(self, msgspec.structs.replace(effect, cleared=False, removed=[]))

    put(Dispatcher, "_members_changed", members_changed)


def link_loss_unnoticed(put: Put) -> None:
    """What was on its way to a leader when the link broke is never sent again."""
    put(Node, "link_came_up", lambda self, node: None)
    put(Node, "_watch", lambda self: None)


BUGS: dict[str, Callable[[Put], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        skip_fsync,
        forget_vote,
        drop_vote_segment,
        stale_audience,
        reset_in_two,
        apply_by_type,
        read_without_barrier,
        lease_read,
        early_refusal,
        forget_counter,
        deliver_before_apply,
        snapshot_keeps_sessions,
        replay_blind,
        file_in_apply,
        presence_without_fencing,
        copies_without_version,
        join_after_connack,
        resend_skips,
        foreign_reply,
        learner_counts,
        blank_disk_votes,
        believe_beats,
        snapshot_goes_back,
        answer_before_disk,
        fence_ignored,
        no_deduplication,
        leaver_stays_in_audience,
        link_loss_unnoticed,
        health_unheeded,
    )
}


# (seed, nodes). Most bugs are found by the first or second, the rarest by one seed in a dozen; a change in the server
# makes other runs of all of them, so there are many more than one needs.
HUNT = ((6, 3), (9, 3), (21, 3), (25, 3), (23, 3), (10, 3), (7, 3), (2, 5), *((seed, 3) for seed in range(300, 360)))


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The product with one fault. "": as it is."""
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, attribute: str, value: Any) -> None:
        undo.append((owner, attribute, owner.__dict__[attribute]))
        setattr(owner, attribute, value)

    try:
        if name:
            BUGS[name](put)
        yield
    finally:
        for owner, attribute, value in reversed(undo):
            setattr(owner, attribute, value)
