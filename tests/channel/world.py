"""A slot under test beside its model: random steps, the comparison after each, and the shrinking of a failure.

A step says what happens, not with which counters: the world numbers the streams while it runs, so any part of a list of
steps is a list of steps again. That is what makes shrinking simple.
"""

from collections.abc import Callable
from dataclasses import astuple
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.channel.model import Model, Seen, Thread, joined
from wukong import limits
from wukong.channel import events, presence, retention, webhooks
from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    ChannelInfo,
    CloseSession,
    Command,
    Disband,
    DropNode,
    Erase,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    Hello,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    NodeGone,
    NodeRow,
    OpenSession,
    Pack,
    PostEvent,
    PutChannel,
    PutNode,
    PutRetention,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    RetentionPolicy,
    Retire,
    SetToken,
    StageMembers,
    SweepSessions,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.copies import datasource_uids, owed, system_uids
from wukong.channel.effects import (
    Effect,
    EventPush,
    FanOut,
    Freed,
    MembersChanged,
    Message,
    NodeEnded,
    Propagate,
    SessionEnded,
    SessionStarted,
    WebhookAdded,
)
from wukong.channel.events import Content, Lane, Tail, _live_pieces, meta_of, stored_lanes
from wukong.channel.ids import ChannelId, implicit_members
from wukong.channel.machine import Outcome, apply_pack
from wukong.channel.members import list_uids, member_page, member_uids
from wukong.channel.messages import message_by_id, message_by_number, messages_between
from wukong.channel.nodes import table
from wukong.channel.presence import sessions_of, sweep_due
from wukong.channel.retention import first_seq, policy_of
from wukong.channel.state import KEPT, Settings, State, channel_part, encode, read_channel_part
from wukong.channel.webhooks import EVENT_NAMES, OFFLINE, Record, backlog, cursor, pending, recipients
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay

SLOT = 5
PREFIX = b"\x00\x05\x00\x00\x00\x00"
START_MS = 1_700_000_000_000
NODES = (1, 2, 600)

SYSTEM = "____system"
VISITOR = "v1___vstr"
# Uids that are hard: prefixes of one another, equal CRC-32 (plumless, buckeroo), the command suffix, not ASCII,
# more than 100 bytes, a zero byte.
UIDS = ("a", "ab", "alice", "plumless", "buckeroo", "bob____cmd", "用户甲", "é" * 60, VISITOR, SYSTEM, "n", "n\x00")
WRITERS = ("alice", "plumless", "buckeroo", "用户甲", "a", "bob____cmd", SYSTEM)
CHANNELS = (
    ChannelId(2, "g"),
    ChannelId(2, "g"),
    ChannelId(2, "g"),
    ChannelId(2, "ga"),
    ChannelId(2, "g____cmd"),
    ChannelId(9, "g"),
    ChannelId(3, VISITOR + "|desk"),
    ChannelId(3, "nobody"),
    ChannelId(10, VISITOR),
    ChannelId(11, "alice@bob____cmd"),
    ChannelId(6, "news"),
    ChannelId(7, "data"),
    ChannelId(8, "1234567890"),
    ChannelId(5, "topic"),
    ChannelId(12, "群"),
)
NUMBERS = ("", "", "", "n1", "n2", "n\x00")

_decode_command: Callable[[bytes], Command] = msgspec.msgpack.Decoder(Command).decode


class Step(NamedTuple):
    """One thing that happens. kind:

    do       the node proposes `command`, in a pack of its own
    entry    one entry with a pack per pair of `packs`: (node, commands)
    reborn   the node takes a new incarnation
    gone     the node proposes that another one is gone, or itself: the `number` says which, and of which life
    again    the node repeats a pack it sent before, the `number`-th newest
    ghost    an older life of the node proposes `command`
    late     a pack arrives that a life sent before it was over, the `number`-th, or one it never sent
    gap      the node proposes `command` under a counter that leaves `number` + 1 out
    deliver  the node proposes the `number`-th copy that the outbox owes, or owed
    forget   the node proposes ForgetOutbox for the `number`-th record
    close    the node reports the end of one of its sessions, the `number`-th
    reset    the node goes on with a reset in parts, with the members of `command`: its next part, or its end
    import   the node imports messages where a log ends, about there, or once more; `number` says which
    tell     the webhook sender goes on: it has delivered something or gives it up, asks who is online, sweeps
    sync     the user fetches up to `number` commands and confirms them, as a back end does
    restart  everything is committed and the state is read again
    check    everything that can be read is compared
    """

    kind: str
    node: int = 1
    tick_ms: int = 0
    command: Command | None = None
    number: int = 0
    uid: str = ""
    packs: tuple[tuple[int, tuple[Command, ...]], ...] = ()


class Stream:
    """The sending side of one node's stream. over: somebody ended this incarnation; then the node takes its next one
    after so many steps in which others act for it (down)."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.last = 0
        self.over = False
        self.down = 6
        self.sent: list[tuple[Pack, Outcome]] = []


class Reset:
    """A reset in parts that a node is about."""

    def __init__(self, channel: ChannelId, number: int, parts: int) -> None:
        self.channel = channel
        self.number = number
        self.parts = parts
        self.staged = 0


class World:
    """The machine on an overlay over the store in memory, and the model beside it. Every method raises AssertionError
    when they differ."""

    def __init__(self, *, head_limit: int) -> None:
        self.head_limit = head_limit
        self.store = MemoryStore()
        self.overlay = Overlay(self.store)
        self.state = State(SLOT, self.overlay.view(PREFIX), head_limit=head_limit)
        self.model = Model(SLOT)
        self.streams: dict[int, Stream] = {}
        self.audience: dict[ChannelId, set[str]] = {}
        self.copies: list[Command] = []
        self.late: list[Pack] = []
        self.resets: dict[int, Reset] = {}
        self.reset_number = 2
        self.index = 0
        self.now_ms = START_MS

    # -- steps --

    def run(self, steps: list[Step]) -> None:
        for at, step in enumerate(steps):
            self.now_ms += step.tick_ms
            try:
                getattr(self, "_" + step.kind)(step)
            except AssertionError as error:
                raise AssertionError(f"step {at}, {step}: {error}") from error
        self.check(Random(len(steps)))

    def _do(self, step: Step) -> None:
        assert step.command is not None
        self.propose(step.node, step.command)

    def propose(self, node: int, command: Command) -> Reply:
        """Through the stream, as a committed entry: encoded, decoded, applied; compared with the model."""
        ((outcome, _),) = self._propose(((node, (command,)),))
        (reply,) = outcome.replies
        return reply

    def _entry(self, step: Step) -> None:
        self._propose(tuple((node, tuple(map(self._of_now, commands))) for node, commands in step.packs))

    def _of_now(self, command: Command) -> Command:
        """A life of 0 is the present one."""
        if isinstance(command, NodeGone) and command.incarnation == 0 and command.node in self.streams:
            return NodeGone(command.node, self.streams[command.node].incarnation)
        return command

    def _propose(self, packs: tuple[tuple[int, tuple[Command, ...]], ...]) -> list[tuple[Outcome, Pack]]:
        """One entry. A pack whose node an earlier pack has ended is fenced, as is what follows its own end."""
        made: list[Pack] = []
        packs = tuple((self._who_acts(node), commands) for node, commands in packs)
        for node, commands in packs:
            stream = self.streams[node]
            first = stream.last + 1 + sum(len(pack.commands) for pack in made if pack.node == node)
            settled = max(0, stream.last - 3)
            made.append(Pack(node, stream.incarnation, first, settled, self.now_ms, list(commands)))
        committed = self._commit(*made)
        for pack, (outcome, effects) in zip(made, committed, strict=True):
            self._compare(pack, outcome, effects)
        return [(outcome, pack) for pack, (outcome, _) in zip(made, committed, strict=True)]

    def _who_acts(self, node: int) -> int:
        """The node, in a life of its own, or while it is down another one."""
        stream = self.streams.get(node)
        up = [other for other, its in self.streams.items() if not its.over]
        if stream is not None and stream.over and stream.down > 0 and up:
            stream.down -= 1
            return up[0]
        if stream is None or stream.over:
            self._take_incarnation(node)
        return node

    def _compare(self, pack: Pack, outcome: Outcome, effects: list[Effect]) -> None:
        stream = self.streams[pack.node]
        assert (outcome.first, outcome.resend_from, outcome.invalid) == (pack.first, 0, False), outcome
        expected_effects: list[Seen] = []
        replies = list(outcome.replies)
        for command in pack.commands:
            if stream.over:
                break
            assert replies, f"{command} is not applied: {outcome}"
            reply = replies.pop(0)
            expected, seen = self.model.apply(self.index, pack.node, self.now_ms, command, reply)
            assert reply == expected, f"\n  replied  {reply}\n  expected {expected}"
            expected_effects += seen
            stream.last += 1
            if isinstance(command, NodeGone):
                self._note_gone(command)
        assert not replies, f"replies of what is fenced: {replies}"
        assert outcome.fenced == (len(outcome.replies) < len(pack.commands)), outcome
        compare_effects(self.seen(effects), expected_effects)
        woken = sorted(effect.kind for effect in effects if isinstance(effect, WebhookAdded))
        same(woken, sorted(self.model.woken))
        self.model.woken.clear()
        if stream.over:
            self.late = [*self.late, pack][-8:]
        else:
            stream.sent.append((pack, outcome))
            del stream.sent[:-4]

    def _note_gone(self, command: NodeGone) -> None:
        stream = self.streams.get(command.node)
        if stream is not None and stream.incarnation == command.incarnation:
            stream.over = True
            self.late = [*self.late, *(pack for pack, _ in stream.sent)][-8:]
            found = self.state.streams[command.node]
            assert found.ended and found.done == found.last and not found.replies, "nobody is left to repeat them to"

    def _commit(self, *packs: Pack) -> list[tuple[Outcome, list[Effect]]]:
        """One entry of these packs."""
        self.index += 1
        encoded = [
            encode_pack(p.node, p.incarnation, p.first, p.done, p.now_ms, [encode_command(c) for c in p.commands])
            for p in packs
        ]
        decoded = decode_entry(encode_entry(encoded))
        assert decoded == list(packs)
        done = []
        for pack in decoded:
            outcome = apply_pack(self.state, self.index, pack)
            done.append((outcome, list(self.state.effects)))
            self.state.effects.clear()
        return done

    def _take_incarnation(self, node: int) -> None:
        old = self.streams.get(node)
        incarnation = 1 if old is None else old.incarnation + 3
        if old is not None:
            self.late = [*self.late, *(pack for pack, _ in old.sent)][-8:]
        self.streams[node] = Stream(incarnation)
        self.model.take_incarnation(node, incarnation)
        self.propose(node, Hello())

    def _reborn(self, step: Step) -> None:
        self._take_incarnation(step.node)

    def _gone(self, step: Step) -> None:
        node = NODES[step.number % len(NODES)]
        stream = self.streams.get(node)
        incarnation = 1 if stream is None else stream.incarnation
        # Mostly of its present life; now and then of one before or after it.
        incarnation += {5: -1, 6: 1}.get(step.number % 7, 0)
        self.propose(step.node, NodeGone(node, max(0, incarnation)))

    def _again(self, step: Step) -> None:
        stream = self.streams.get(step.node)
        if stream is None or stream.over:
            return
        pack, first = stream.sent[-1 - step.number % len(stream.sent)]
        ((outcome, effects),) = self._commit(pack)
        assert not effects, f"a repeat has effects: {effects}"
        # A reply that the origin said it has may be forgotten: reason 0.
        for counter, reply, known in zip(range(pack.first, 1 << 63), outcome.replies, first.replies, strict=False):
            settled = counter <= stream.last - 1 - 3
            assert reply == known or (settled and reply == Reply(0)), f"{outcome.replies} for {first.replies}"
        assert len(outcome.replies) == len(first.replies)

    def _ghost(self, step: Step) -> None:
        stream = self.streams.get(step.node)
        if stream is not None and step.command is not None:
            self._fenced(Pack(step.node, stream.incarnation - 1, 1, 0, self.now_ms, [step.command]))

    def _late(self, step: Step) -> None:
        if self.late:
            pack = self.late[step.number % len(self.late)]
            if step.number % 2:
                first = pack.first + len(pack.commands) + step.number % 3
                pack = msgspec.structs.replace(pack, first=first)
            self._fenced(pack)

    def _fenced(self, pack: Pack) -> None:
        ((outcome, effects),) = self._commit(pack)
        assert outcome.fenced and not outcome.replies and not effects, f"{outcome} {effects}"

    def _gap(self, step: Step) -> None:
        stream = self.streams.get(step.node) or Stream(1)
        # A gap at the start of a new life is a gap as well, and nothing of it counts.
        incarnation, last = (stream.incarnation, stream.last) if step.number % 2 else (stream.incarnation + 1, 0)
        if step.command is not None:
            pack = Pack(step.node, incarnation, last + 2 + step.number, last, self.now_ms, [step.command])
            ((outcome, effects),) = self._commit(pack)
            if stream.over and incarnation == stream.incarnation:
                assert outcome.fenced and not outcome.resend_from, outcome
                return
            assert outcome.resend_from == last + 1 and not outcome.replies and not effects, f"{outcome} {effects}"

    def _deliver(self, step: Step) -> None:
        if self.copies:
            self.propose(step.node, self.copies[step.number % len(self.copies)])

    def _forget(self, step: Step) -> None:
        ids = sorted(self.model.owed)
        if ids:
            self.propose(step.node, ForgetOutbox([ids[step.number % len(ids)]]))

    def _close(self, step: Step) -> None:
        mine = [device for device in self.model.devices if device.node == step.node]
        if mine:
            device = mine[step.number % len(mine)]
            self.propose(step.node, CloseSession(device.uid, device.session))

    def _reset(self, step: Step) -> None:
        assert isinstance(step.command, PutChannel)
        reset = self.resets.get(step.node)
        if reset is None:
            self.reset_number += 1
            reset = Reset(step.command.channel, self.reset_number, 1 + step.number % 2)
            self.resets[step.node] = reset
        uids = step.command.add
        if reset.staged and step.number == 3:
            # A retry of one whose outcome was not known.
            self.propose(step.node, StageMembers(reset.channel, reset.number, uids, reset.staged))
        elif reset.staged < reset.parts:
            reset.staged += 1
            self.propose(step.node, StageMembers(reset.channel, reset.number, uids, reset.staged))
        else:
            info = step.command.info
            del self.resets[step.node]
            self.propose(step.node, PutChannel(reset.channel, info, uids, True, reset.number, True, reset.parts))

    def _import(self, step: Step) -> None:
        random = Random(step.number)
        channel = _pair(random) if random.random() < 0.3 else _channel(random)
        is_cmd = random.random() < 0.3
        log = [stored.message for stored in self.model.channel(channel).log(is_cmd)]
        first = max(1, len(log) + 1 - random.choice((0, 0, 0, 1, 3, -1)))
        # Where they come from, nothing is erased.
        messages = [
            msgspec.structs.replace(message, recipients=None, flags=message.flags & 15)
            for message in log[first - 1 : first + 1]
        ]
        while len(messages) < random.randint(1, 5):
            # Ids of other nodes, which do not rise; seconds that go back, and some ahead of the log's time.
            milliseconds = START_MS - 1_288_834_974_657 + random.randint(-9_000_000, 30_000)
            message_id = milliseconds << 22 | random.choice((1, SLOT, 600)) << 12 | random.randrange(4096)
            second = START_MS // 1000 + random.randint(-9_000, 40)
            uid, number = random.choice(UIDS), random.choice(NUMBERS)
            seq = first + len(messages)
            messages.append(Message(message_id, seq, random.choice((0, 2, 4)), 0, uid, number, second, b"old", 60, ""))
        if random.random() < 0.1:
            messages[0] = msgspec.structs.replace(messages[0], payload=b"another")
        self.propose(step.node, ImportMessages(channel, is_cmd, messages))

    def _tell(self, step: Step) -> None:
        random = Random(step.number)
        if random.random() < 0.2:
            self.propose(step.node, SweepSessions())
            return
        kind = random.choice(list(EVENT_NAMES))
        ids = [event.id for event in self.model.waiting(kind)][: random.choice((1, 3, 9, 1_000))]
        if kind == OFFLINE and random.random() < 0.4:
            ids = random.sample(ids, random.randint(0, len(ids)))
            self.propose(step.node, FreezeOffline([*ids, random.randint(1, 99)], _uids(random)))
        elif ids:
            command = AdvanceWebhooks(kind, random.choice(ids), random.random() < 0.2)
            self.propose(step.node, command)
            # One passes a limited number of records.
            while cursor(self.state, kind) < command.upto and random.random() < 0.9:
                self.propose(step.node, command)

    def _sync(self, step: Step) -> None:
        before = self.model.pending(step.uid)
        found = pending_commands(self.state, step.uid, limit=step.number)
        positions = [(channel, messages[-1].message_seq) for channel, messages in found]
        self.propose(step.node, RememberSync(step.uid, positions))
        taken = self.propose(step.node, TakeSync(step.uid)).positions
        assert taken == positions
        for channel, seq in positions:
            self.propose(step.node, AdvanceCommands(channel, step.uid, seq))
        if step.uid != SYSTEM:
            for channel, messages in found:
                assert before[channel][: len(messages)] == messages, "fetched in order, without a hole"
                before[channel] = before[channel][len(messages) :]
            left = {channel: messages for channel, messages in before.items() if messages}
            assert self.model.pending(step.uid) == left, "a confirmation takes what was handed out and nothing else"

    def _restart(self, step: Step) -> None:
        self.overlay.commit()
        self.store = self.store.reopen()
        self.overlay = Overlay(self.store)
        self.state = State(SLOT, self.overlay.view(PREFIX), head_limit=self.head_limit)

    def _check(self, step: Step) -> None:
        self.check(Random(step.number))

    # -- comparisons --

    def seen(self, effects: list[Effect]) -> list[Seen]:
        """The effects as the model says them; recipients are those that a node would compute: the audience as
        MembersChanged made it, and the implicit members."""
        seen: list[Seen] = []
        for effect in effects:
            match effect:
                case FanOut(channel=channel, message=message):
                    to = message.recipients
                    if to is None:
                        to = [*self.audience.get(channel, ()), *implicit_members(channel)]
                    seen.append(("push", channel, effect.is_cmd, message, frozenset(to), effect.node, effect.session))
                case EventPush(channel=channel):
                    to = frozenset([*self.audience.get(channel, ()), *implicit_members(channel)])
                    names = ("client_msg_no", "event_key", "event_id", "event_type", "from_uid", "message_id", "seq")
                    names = (*names, "status", "shown_id", "visibility", "occurred_at", "payload")
                    seen.append(("event", channel, to, *(getattr(effect, name) for name in names)))
                case MembersChanged(channel=channel):
                    before = self.audience.setdefault(channel, set())
                    removed = frozenset(before if effect.cleared else effect.removed)
                    assert removed <= before, "who leaves was in"
                    assert len(effect.added) == len(set(effect.added) - before), "who joins was not in, and joins once"
                    before -= removed
                    before |= set(effect.added)
                    if effect.added or removed:
                        seen.append(("members", channel, frozenset(effect.added), removed))
                case SessionStarted():
                    seen.append(("started", *msgspec.structs.astuple(effect)))
                case SessionEnded():
                    seen.append(("ended", *msgspec.structs.astuple(effect)))
                case Freed():
                    seen.append(("freed", *msgspec.structs.astuple(effect)))
                case NodeEnded():
                    seen.append(("gone", effect.node, effect.incarnation))
                case Propagate():
                    command = _decode_command(effect.command)
                    self.copies.append(command)
                    seen.append(("copy", effect.version, effect.target, command))
        return seen

    def check(self, random: Random) -> None:
        """Everything that can be read, against the model; with some parameters drawn at random."""
        for channel in self.model.channels.values():
            self._check_channel(channel.id, random)
        for (channel_id, number), thread in self.model.threads.items():
            self._check_thread(channel_id, number, thread, random)
        for uid in UIDS:
            self._check_user(uid, random)
        assert system_uids(self.state) == self.model.authority_uids
        assert datasource_uids(self.state) == self.model.named_uids
        assert self.state.system_uids == frozenset(self.model.system_uids)
        assert self.state.settings == self.model.settings
        owed_now = [(record.version, record.target, _decode_command(record.command)) for record in owed(self.state)]
        same(sorted(map(repr, owed_now)), sorted(map(repr, self.model.owed.values())))
        same(table(self.state), dict(sorted(self.model.nodes.items())))
        for node, sender in self.streams.items():
            stream = self.state.streams[node]
            same((stream.incarnation, stream.last, stream.ended), (sender.incarnation, sender.last, sender.over))
        self._check_webhooks(random)
        audit(self.state)

    def _check_webhooks(self, random: Random) -> None:
        state, model = self.state, self.model
        for kind in EVENT_NAMES:
            waiting = model.waiting(kind)
            expected = [
                Record(
                    event.id,
                    event.at_ms,
                    event.channel,
                    event.is_cmd,
                    model.told_message(event),
                    event.entries,
                    event.online if kind == OFFLINE else None,
                )
                for event in waiting
            ]
            found = pending(state, kind, limit=10_000)
            same(found, expected)
            behind, limit = random.randint(0, len(model.events) + 1), random.randint(0, 9)
            some = [record for record in expected if record.id > behind][:limit]
            same(pending(state, kind, after=behind, limit=limit), some)
            same(cursor(state, kind), model.told[kind])
            if kind == OFFLINE:
                for record, event in random.sample(list(zip(found, waiting, strict=True)), min(20, len(found))):
                    to = frozenset() if record.message is None else event.recipients
                    same(self._recipients(record, random.choice((1, 2, 7, 1000))), to)
        left = [event for event in model.events if any(event in model.waiting(kind) for kind in event.kinds)]
        waiting_now = backlog(state)
        same((waiting_now.records, waiting_now.dropped), (len(left), model.given_up))
        same(waiting_now.oldest_ms, left[0].at_ms if left else 0)
        same(sweep_due(state), model.sweep is not None)

    def _recipients(self, record: Record, limit: int) -> frozenset[str]:
        found: list[str] = []
        start = ""
        while True:
            page, start = recipients(self.state, record, start=start, limit=limit)
            found += page
            if not start:
                assert len(found) == len(set(found)), "each once"
                return frozenset(found)

    def _check_channel(self, channel_id: ChannelId, random: Random) -> None:
        state, channel, part = self.state, self.model.channel(channel_id), channel_part(channel_id)
        head = state.head(part)
        members = sorted(channel.members(), key=str.encode)
        same(member_uids(state, part), members)
        same(self.audience.get(channel_id, set()), set(members))
        same(self._pages(part, random.choice((1, 2, 1000))), members)
        for which, listed in enumerate((channel.deny, channel.allow)):
            same(list_uids(state, part, which), sorted(listed, key=str.encode))
        if head is None:
            assert not (members or channel.deny or channel.allow or channel.chat or channel.commands or channel.info)
            return
        same((head.members, head.denied, head.allowed), (len(members), len(channel.deny), len(channel.allow)))
        info = ChannelInfo(head.large, head.ban, head.disband, head.send_ban, head.allow_stranger)
        same((head.known, info), (channel.info is not None, channel.info or ChannelInfo()))
        for uid in members:
            row = state.user(part, uid)
            assert row is not None
            same(row.intervals[-1].from_index, channel.joined_at(uid))
        same(policy_of(state, channel_id), self.model.policies.get(channel_id))
        for is_cmd in (False, True):
            same(first_seq(head, is_cmd=is_cmd), channel.retired[is_cmd] + 1)
            self._check_log(channel_id, is_cmd, random)

    def _pages(self, part: bytes, limit: int) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            page, cursor = member_page(self.state, part, cursor=cursor, limit=limit)
            assert len(page) <= limit
            found += page
            if not cursor:
                return found

    def _check_log(self, channel_id: ChannelId, is_cmd: bool, random: Random) -> None:
        state, part = self.state, channel_part(channel_id)
        log = [stored.message for stored in self.model.channel(channel_id).kept(is_cmd)]
        end = len(self.model.channel(channel_id).log(is_cmd))
        same(messages_between(state, part, is_cmd=is_cmd, first=1, last=end, limit=end + 1), log)
        first, last, limit = random.randint(0, 9), random.randint(0, end + 1), random.randint(0, 9)
        wanted = [message for message in log if first <= message.message_seq <= last]
        same(messages_between(state, part, is_cmd=is_cmd, first=first, last=last, limit=limit), wanted[:limit])
        newest = messages_between(state, part, is_cmd=is_cmd, first=first, last=last, limit=limit, newest=True)
        same(newest, wanted[-limit:] if limit else [])
        for message in random.sample(log, min(3, len(log))):
            same(message_by_id(state, part, message.message_id, is_cmd=is_cmd), message)
            other_slot = message.message_id ^ 1 << 12
            same(message_by_id(state, part, other_slot, is_cmd=is_cmd), None)
        for number in set(NUMBERS):
            expected = self.model.by_number(channel_id, number, is_cmd) if number else None
            same(message_by_number(state, part, number, is_cmd=is_cmd), expected)

    def _check_thread(self, channel_id: ChannelId, number: str, thread: Thread, random: Random) -> None:
        part = channel_part(channel_id)
        shown = sorted((key for key in thread.lanes if key != "__finish__"), key=str.encode)
        full = random.random() < 0.8
        meta = meta_of(self.state, part, number, full)
        assert meta is not None
        same((meta.seq, meta.finished, [view.key for view in meta.lanes]), (thread.seq, thread.finished, shown))
        for view in meta.lanes:
            lane = thread.lanes[view.key]
            found = view.lane
            same((found.status, found.seq, found.error), (lane.status, lane.seq, lane.error))
            same(view.content, Content(*lane.content) if lane.content and (full or view.key == "main") else None)
        after_seq, limit = random.randint(0, thread.seq), random.randint(1, 4)
        wanted = [
            (lane.seq, key, lane.event_id, lane.event_type, lane.visibility, lane.occurred_at, lane.end_reason)
            for key, lane in thread.lanes.items()
            if lane.seq > after_seq and lane.visibility not in ("private", "restricted")
        ]
        views, more = stored_lanes(self.state, part, number, after_seq=after_seq, include_private=False, limit=limit)
        facts = [
            (lane.seq, view.key, lane.event_id, lane.event_type, lane.visibility, lane.occurred_at, lane.end_reason)
            for view in views
            for lane in [view.lane]
        ]
        same((facts, more), (sorted(wanted)[:limit], len(wanted) > limit))
        for view in views:
            expected = thread.lanes[view.key].content
            same(view.content, Content(*expected) if expected else None)

    def _check_user(self, uid: str, random: Random) -> None:
        state, model = self.state, self.model
        same(list(map(msgspec.structs.astuple, sessions_of(state, uid))), list(map(astuple, model.sessions_of(uid))))
        listed = conversations_of(state, uid)
        same(sorted(listed), sorted(model.conversations_of(uid)))
        for channel_id in model.channels:
            parameters: dict[str, Any] = {
                "after_seq": random.choice((0, 0, 1, 5)),
                "unread_only": random.random() < 0.3,
                "count": random.choice((0, 1, 3, 1000)),
                "hidden": random.random() < 0.2,
            }
            found = conversation(state, channel_id, uid, **parameters)
            same(found, model.conversation(channel_id, uid, **parameters))
        if uid != SYSTEM:
            self._check_pending(uid, random.choice((1, 2, 5)))

    def _check_pending(self, uid: str, limit: int) -> None:
        expected = self.model.pending(uid)
        found = pending_commands(self.state, uid, limit=10_000)
        assert len(found) == len(dict(found)), "a channel is listed once"
        same(dict(found), expected)
        some = pending_commands(self.state, uid, limit=limit)
        count = sum(len(messages) for _, messages in some)
        assert count == min(limit, sum(map(len, expected.values())))
        for channel, messages in some:
            assert messages and messages == expected[channel][: len(messages)]


def same(found: object, expected: object) -> None:
    assert found == expected, f"\n  found    {found}\n  expected {expected}"


def compare_effects(seen: list[Seen], expected: list[Seen]) -> None:
    """In order; only copies have none among themselves."""

    def split(effects: list[Seen]) -> tuple[list[Seen], list[str]]:
        copies = [repr(effect) for effect in effects if effect[0] == "copy"]
        return [effect for effect in effects if effect[0] != "copy"], sorted(copies)

    same(split(seen), split(expected))


def audit_memory(state: State) -> None:
    """What is kept in memory is what somebody reads who begins with the rows: after a restart, after a snapshot."""
    fresh = State(state.slot, state.view, head_limit=0)
    same(state.streams, fresh.streams)
    same((state.settings, state.system_uids, state.send_banned), (fresh.settings, fresh.system_uids, fresh.send_banned))
    same(state.slot_row, fresh.slot_row)
    for part, head in state._heads.items():
        same(head, fresh.head(part))


def audit(state: State) -> None:
    """What must hold among the rows themselves, whatever happened before."""
    audit_memory(state)
    rows = dict(state.view.scan(b""))
    by_user: dict[bytes, int] = {}
    users = 0
    kept = {key[len(KEPT) + 8 :] for key in rows if key.startswith(KEPT)}
    of_events = sum(len(key) + len(row) for key, row in rows.items() if key[:1] == b"w" and not key.startswith(KEPT))
    same(state.slot_row.webhooks.size_bytes, of_events)
    lists = [int.from_bytes(key[2:], "big") for key in rows if key.startswith(b"w\x10")]
    assert all(event > cursor(state, OFFLINE) for event in lists), "a list of who was online goes with its record"
    kept_from = state.slot_row.webhooks.kept_from
    assert all(key >= kept_from for key in rows if key.startswith(KEPT)), "nothing is left behind"
    for key in rows:
        if key[:1] == b"u":
            size = int.from_bytes(key[1:3], "big")
            raw, part = key[3 : 3 + size], key[3 + size :]
            assert b"m" + part + raw in rows, "a listed channel has a row of the user"
            by_user[raw] = by_user.get(raw, 0) + 1
        elif key[:1] == b"m":
            channel, end = read_channel_part(key, 1)
            uid = key[end:].decode()
            users += 1
            row = state.user(channel_part(channel), uid)
            assert row is not None
            needed = (
                row.chat
                or uid in implicit_members(channel)
                or any(interval.open or interval.until_cmd > row.cmd_read for interval in row.intervals)
                or key[1:] in kept
            )
            told = cursor(state, OFFLINE)
            waits = [i for i in row.intervals if not i.open and i.until_event > max(i.from_event, told)]
            for interval in waits:
                event = interval.until_event.to_bytes(8, "big")
                assert KEPT + event + key[1:] in rows, f"nobody lets the row of {uid} in {channel} go"
            assert needed, f"a row of {uid} in {channel} that nobody needs: {row}"
    assert users == sum(by_user.values()), "a user's row is listed"
    first_named: dict[bytes, bytes] = {}
    for key in rows:
        if key[:1] == b"e":
            first_named.setdefault(b"r" + key[1:-8], key[-8:])
    same({key: value for key, value in rows.items() if key[:1] == b"r"}, first_named)
    assert all(key >= state.slot_row.expired for key in rows if key[:1] == b"q"), "the sweep left nothing behind"
    counted = {key[1:]: int.from_bytes(value, "big") for key, value in rows.items() if key[:1] == b"n"}
    same(counted, by_user)
    audit_lanes(state, rows)
    audit_logs(state, rows)


def audit_logs(state: State, rows: dict[bytes, bytes]) -> None:
    """What points to a message points to one that is there."""
    for key, value in rows.items():
        kind = key[:1]
        if kind in (b"M", b"K"):
            head = state.head(key[1:-8])
            assert head is not None and key[-8:] >= first_seq(head, is_cmd=kind == b"K").to_bytes(8, "big")
        elif kind in (b"i", b"I", b"j", b"J", b"o"):
            part = channel_part(read_channel_part(key, 1)[0])
            is_pointer = len(value) != 32 if kind in (b"i", b"I") else kind == b"o" or key[1:] != part
            if is_pointer:
                assert (b"K" if kind in (b"I", b"J") else b"M") + part + value[-8:] in rows, key
        elif kind == b"e":
            size = int.from_bytes(key[1:3], "big")
            assert b"K" + key[3 + size :] in rows, key


def audit_lanes(state: State, rows: dict[bytes, bytes]) -> None:
    """Pieces are those of the tails, and no others; the queue holds the lanes that say so."""
    pieces, queue = set(), set()
    for key, value in rows.items():
        if key[:1] != b"v":
            continue
        _, end = read_channel_part(key, 1)
        end += 2 + int.from_bytes(key[end : end + 2], "big")
        message, name = key[1:end], key[end:]
        tail_key = b"T" + message + len(name).to_bytes(2, "big") + name
        if not name or tail_key not in rows:
            continue
        tail = msgspec.msgpack.decode(rows[tail_key], type=Tail)
        lane = msgspec.msgpack.decode(value, type=Lane)
        live = [tail_key + piece.to_bytes(4, "big") for piece in _live_pieces(tail.pieces)]
        same(sum(len(rows[piece]) for piece in live), tail.bytes)
        pieces |= {tail_key, *live}
        if tail.queued_ms:
            assert lane.status == "open"
            queue.add(b"E" + tail.queued_ms.to_bytes(8, "big") + message + name)
        else:
            assert tail.pieces <= 1, "who takes no deltas is joined"
    same({key for key in rows if key[:1] == b"T"}, pieces)
    same({key for key in rows if key[:1] == b"E"}, queue)
    same(state.slot_row.open_lanes, len(queue))
    assert all(key >= state.slot_row.lanes_from for key in queue)


def rows_of(state: State) -> list[tuple[bytes, bytes]]:
    return state.view.scan(b"")


# -- random steps --


def make_lanes_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of events that random steps reach."""
    monkeypatch.setattr(limits, "MAX_EVENT_LANE_BYTES", 30)
    monkeypatch.setattr(limits, "MAX_EVENT_LANES", 3)
    monkeypatch.setattr(limits, "MAX_OPEN_EVENT_LANES", 8)
    monkeypatch.setattr(limits, "EVENT_LANE_IDLE_MS", 150_000)
    monkeypatch.setattr(events, "_FAN", 3)
    monkeypatch.setattr(events, "_QUEUE_GRAIN_MS", 5_000)


def make_webhooks_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of one command's work that random steps reach."""
    monkeypatch.setattr(webhooks, "ROWS_PER_COMMAND", 4)
    monkeypatch.setattr(presence, "SWEEP_ROWS", 3)


def make_retention_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of one command's work that random steps reach."""
    monkeypatch.setattr(retention, "MESSAGES_PER_COMMAND", 5)
    monkeypatch.setattr(retention, "ROWS_PER_COMMAND", 12)


def random_steps(random: Random, count: int) -> list[Step]:
    """Steps over few ids, so that they meet. The settings come first: short retentions, a random mode."""
    steps = [Step("do", 1, 0, random_settings(random)), Step("deliver")]
    appends: list[Append] = []
    while len(steps) < count:
        step = _random_step(random)
        command = step.command
        if isinstance(command, Append):
            # Senders repeat themselves: the same message again, or the same number with something else.
            if appends and random.random() < 0.15:
                command = random.choice(appends[-8:])
                if random.random() < 0.3:
                    command = msgspec.structs.replace(command, payload=b"else", flags=random.randrange(2))
                step = step._replace(command=command)
            appends.append(command)
        steps.append(step)
    return steps


def _random_step(random: Random) -> Step:
    node = random.choice(NODES)
    tick_ms = random.choice((0, 0, 1, 7, 300, 999, 2_500, -4_000)) if random.random() < 0.98 else 30_000
    draw = random.random()
    if draw < 0.02:
        return Step("import", node, tick_ms, number=random.randrange(1 << 30))
    if draw < 0.06:
        return Step("tell", node, tick_ms, number=random.randrange(1 << 30))
    if draw < 0.855:
        return Step("do", node, tick_ms, random_command(random))
    if draw < 0.895:
        return Step("deliver", node, tick_ms, number=random.choice((-1, -1, -1, -2, random.randrange(100))))
    if draw < 0.915:
        return Step("sync", node, tick_ms, number=random.choice((1, 2, 3, 10)), uid=random.choice(UIDS))
    if draw < 0.925:
        return Step("entry", node, tick_ms, packs=_packs(random))
    if draw < 0.94:
        reset = PutChannel(random.choice(CHANNELS[2:4]), None, _uids(random))
        return Step("reset", random.choice(NODES[:2]), tick_ms, reset, random.randrange(4))
    if draw < 0.95:
        kind = random.choice(("gone", "late", "late"))
        return Step(kind, node, tick_ms, number=random.randrange(42))
    kind = random.choice(("reborn", "again", "again", "ghost", "gap", "forget", "restart", "check", "close"))
    number = random.randrange(1 << 20) if kind == "check" else random.randrange(4)
    return Step(kind, node, tick_ms, random_command(random) if kind in ("ghost", "gap") else None, number)


def _packs(random: Random) -> tuple[tuple[int, tuple[Command, ...]], ...]:
    """Of several nodes, some of them more than once, and with the end of one among them now and then."""
    packs = []
    for _ in range(random.randint(2, 4)):
        commands = [random_command(random) for _ in range(random.randint(1, 3))]
        node = random.choice(NODES)
        if random.random() < 0.2:
            ended = node if random.random() < 0.5 else random.choice(NODES)
            life = random.choice((0, 0, 0, 1 + 3 * random.randrange(8)))
            commands.insert(random.randrange(3), NodeGone(ended, life))
        packs.append((node, tuple(commands)))
    return tuple(packs)


def _system_uids(r: Random) -> Command:
    if r.random() < 0.4:
        return UpdateSystemUids(2, r.choices(("ab", "plumless", "b"), k=r.randrange(4)), True)
    return UpdateSystemUids(r.choice((0, 1)), [r.choice(("ab", "plumless"))])


def random_settings(random: Random) -> Command:
    settings = Settings(
        token_auth_on=random.random() < 0.5,
        whitelist_off_of_person=random.random() < 0.6,
        visitors_on=random.random() < 0.5,
        idempotency_retention_ms=random.choice((5_000, 20_000)),
        no_persist_idempotency_retention_ms=random.choice((2_000, 8_000)),
        webhook_on=random.random() < 0.7,
        webhook_events=random.choice(([], [], [], ["msg.notify", "user.onlinestatus"], ["msg.offline"])),
    )
    return PutSettings(encode(settings), random.random() < 0.3)


def random_command(random: Random) -> Command:
    (maker,) = random.choices(_MAKERS, _WEIGHTS)
    return maker(random)


def _uids(random: Random, most: int = 4) -> list[str]:
    # A blank and a repeat now and then.
    return [random.choice((*UIDS, "", " ") if random.random() < 0.1 else UIDS) for _ in range(random.randint(0, most))]


def _channel(random: Random) -> ChannelId:
    """Where users are members."""
    return random.choice(CHANNELS)


def _owner(random: Random) -> ChannelId:
    return ChannelId(1, random.choice(WRITERS))


def _pair(random: Random) -> ChannelId:
    return ChannelId(1, joined(random.choice(WRITERS), random.choice(WRITERS)))


def _append(random: Random) -> Command:
    uid = random.choice(UIDS)
    if random.random() < 0.35:
        uid = random.choice(WRITERS)
        channel = ChannelId(1, joined(uid, random.choice(WRITERS)))
    else:
        channel = _channel(random)
    listed = random.random() < (0.7 if channel.type == 8 else 0.04)
    return Append(
        channel,
        random.random() < 0.35,
        uid,
        random.choice((b"", b"hi", b"ho\x00")),
        random.choice(NUMBERS),
        random.choice((0, 0, 0, 0, 1, 2, 4)),
        random.choice((0, 0x80)),
        random.choice((0, 60)),
        random.choice(("", "topic")),
        random.randrange(3),
        random.random() < 0.25,
        [uid for uid in _uids(random) if uid.strip()] if listed else None,
    )


def _post_event(random: Random) -> Command:
    channel = _pair(random) if random.random() < 0.1 else random.choice((*CHANNELS[:4], CHANNELS[6]))
    # Few ends, for lanes with many pieces.
    kind = 2 if random.random() < 0.93 else random.choice((0, 1, 3, 4, 5, 6, 7))
    key = "__finish__" if kind == 7 else random.choice((*["main"] * 9, "a", "a\x00", "b", "c"))
    is_text = random.random() < (0.85 if kind == 2 else 0.3)
    return PostEvent(
        channel,
        random.choice((*["n1"] * 4, "n2", "n\x00", "other")),
        key,
        random.choice(("e1", "e1", "e2")),
        random.choice(("stream.delta", " Stream.X")),
        kind,
        "shown",
        random.choice(("", "", "", "alice")),
        random.choice((0, 0, 0, 7)),
        random.choice(("", "public", "private", "restricted")),
        random.choice((0, 5)),
        random.choice((b"", b"{}", b'{"n":1}')),
        random.choice(("", "x", "y", "z", "é", "long enough")) if is_text else None,
        random.choice((b"", b'{"k":2}')) if kind != 2 else b"",
        random.choice((0, 3)),
        random.choice(("", "oops")),
    )


def _put_channel(random: Random) -> Command:
    info = ChannelInfo(*(random.random() < 0.15 for _ in range(5))) if random.random() < 0.3 else None
    if random.random() < 0.15:
        return PutChannel(_owner(random), info)
    reset = random.random() < 0.25
    staged = random.randrange(3) if reset else 0
    parts = random.choice((0, 0, 1, 2))
    return PutChannel(_channel(random), info, _uids(random, 6), reset, staged, random.random() < 0.9, parts)


def _update_list(random: Random) -> Command:
    op = random.choice((0, 0, 0, 1, 1, 2, 3))
    channel = _owner(random) if random.random() < 0.35 else _channel(random)
    return UpdateList(channel, random.randrange(2), op, [] if op == 3 else _uids(random, 3))


def _update_chat(random: Random) -> Command:
    channel = _pair(random) if random.random() < 0.3 else _channel(random)
    uid = random.choice(channel.id.split("@")) if channel.type == 1 else random.choice(UIDS)
    return UpdateChat(channel, uid, random.randrange(3), random.choice((-1, 0, 1, 2, 5, 1000)))


def _advance(random: Random) -> Command:
    channel = _pair(random) if random.random() < 0.3 else _channel(random)
    uid = random.choice(channel.id.split("@")) if channel.type == 1 else random.choice(UIDS)
    return AdvanceCommands(channel, uid, random.choice((0, 1, 2, 5, 8, 1000)), random.random() < 0.5)


def _flag(random: Random) -> int:
    return random.choice((0, 0, 1, 255))


def _token(random: Random) -> bytes:
    return random.choice((b"", b"t1", b"t1", b"t1", b"t1", b"t1", b"t2"))


def _retire(random: Random) -> Command:
    channel = _pair(random) if random.random() < 0.3 else _channel(random)
    return Retire(channel, random.random() < 0.4, random.choice((0, 1, 2, 3, 5, 9, 1 << 62)))


def _erase(random: Random) -> Command:
    channel = _pair(random) if random.random() < 0.3 else _channel(random)
    seqs = [random.randint(1, 12) for _ in range(random.randrange(8))]
    return Erase(channel, random.random() < 0.3, random.choice(UIDS), seqs)


def _policy(random: Random) -> RetentionPolicy | None:
    return RetentionPolicy(*(random.choice((0, 1, 5)) for _ in range(3))) if random.random() < 0.7 else None


_USERS = ("alice", "plumless", VISITOR)

_MAKERS: tuple[Callable[[Random], Command], ...] = (
    _append,
    _put_channel,
    lambda r: StageMembers(_channel(r), r.randint(1, 2), _uids(r), r.choice((0, 0, 1, 1, 2))),
    lambda r: RemoveMembers(_channel(r), _uids(r)),
    lambda r: RemoveAllMembers(_channel(r)),
    lambda r: Disband(_owner(r) if r.random() < 0.3 else _channel(r)),
    _update_list,
    _update_chat,
    _advance,
    lambda r: SetToken(r.choice(_USERS), _flag(r), _token(r), r.randrange(2)),
    lambda r: QuitDevices(r.choice(_USERS), r.choice(([0], [0, 1, 2], [255, 255]))),
    lambda r: OpenSession(
        r.choice(_USERS), r.randrange(1 << 40), _flag(r), r.choice(("d1", "d2", "d3")), _token(r), r.random() < 0.1
    ),
    lambda r: CloseSession(r.choice(_USERS), r.randrange(4)),
    lambda r: Hello(),
    lambda r: RememberSync(r.choice(UIDS), [(_channel(r), r.randrange(9))] if r.random() < 0.7 else []),
    lambda r: TakeSync(r.choice(UIDS)),
    random_settings,
    _system_uids,
    lambda r: PutNode(r.randint(1, 3), NodeRow(r.choice(("a:1", "b:2")), r.randrange(3), "", r.random() < 0.2)),
    lambda r: DropNode(r.randint(1, 3)),
    lambda r: ForgetNode(r.randint(1, 3)),
    lambda r: ImportMembers(_channel(r), _uids(r, 6)),
    lambda r: ImportChats(
        _pair(r) if r.random() < 0.3 else _channel(r),
        [ImportedChat(uid, r.choice((0, 1, 3, 1000)), r.choice((0, 0, 0, 2, 1000))) for uid in _uids(r)],
    ),
    _post_event,
    lambda r: AdvanceWebhooks(r.choice(list(EVENT_NAMES)), r.choice((0, 1, 3, 9, 40, 1 << 62)), r.random() < 0.3),
    lambda r: FreezeOffline([r.randint(1, 60) for _ in range(r.randrange(6))], _uids(r)),
    lambda r: SweepSessions(),
    lambda r: PutRetention(_channel(r), _policy(r)),
    _retire,
    _erase,
)
_WEIGHTS = (420, 100, 20, 60, 10, 8, 90, 60, 40, 24, 5, 80, 10, 4, 6, 6, 3, 6, 4, 3, 2, 15, 15, 120, 6, 8, 3, 2, 15, 20)


# -- shrinking --


def failure_of(steps: list[Step], *, head_limit: int) -> Exception | None:
    """What goes wrong when the steps run, or None."""
    try:
        World(head_limit=head_limit).run(steps)
    except Exception as error:
        return error
    return None


def shrink(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """A smaller list that still fails, from which no single step can be left out (delta debugging)."""
    size = max(1, len(steps) // 2)
    while True:
        at, smaller = 0, False
        while at < len(steps):
            rest = steps[:at] + steps[at + size :]
            if fails(rest):
                steps, smaller = rest, True
            else:
                at += size
        if size == 1 and not smaller:
            return steps
        size = max(1, size // 2)


def run_or_shrink(steps: list[Step], *, head_limit: int) -> None:
    """Raises AssertionError with a minimal trace when the machine and the model differ."""
    if failure_of(steps, head_limit=head_limit) is None:
        return
    steps = shrink(steps, lambda some: failure_of(some, head_limit=head_limit) is not None)
    trace = "\n".join(f"  {step}" for step in steps)
    error = failure_of(steps, head_limit=head_limit)
    raise AssertionError(f"machine and model differ after\n{trace}\nhead_limit {head_limit}\n{error!r}") from error
