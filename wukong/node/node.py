"""One replica: joins the Raft log, the store and the state machine of every slot.

Commands go in through `propose`, are packed per slot when the log takes its next step, and come back committed through
`apply`: state first (one store batch for the whole step), then effects in log order, then the replies, all in one turn
of the loop. A reply that arrives therefore sees its own write, and a fan-out sees the members at its position.

Where another node leads a slot, packs go to it (docs/design/cluster.md, 3). What was sent counts for nothing until it
is applied here; on a new leader, a new link to it, or when nothing moves, the stream is sent again from there.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from wukong.channel import copies
from wukong.channel.commands import Command, Hello, Reply, decode_entry, encode_command, encode_entry
from wukong.channel.effects import Effect, Freed, NodeEnded, Propagate, SessionEnded, SessionStarted, WebhookAdded
from wukong.channel.ids import slot_of
from wukong.channel.machine import Outcome, apply_pack
from wukong.channel.state import State, encode
from wukong.clock import Clock
from wukong.errors import NotProposed, RequestRefused, Unavailable
from wukong.histogram import SIZES, Histogram
from wukong.limits import KIB, MIB
from wukong.node.copier import Copier
from wukong.node.streams import PACK_COMMANDS, Done, SlotStream
from wukong.raft.statemachine import Committed
from wukong.store.generations import Generations
from wukong.store.interface import Store
from wukong.store.overlay import Overlay

log = logging.getLogger(__name__)

# Below what one entry may be (RaftConfig.max_entry_bytes), with room for the pack around it.
COMMAND_LIMIT_BYTES = 4 * MIB
_PACK_LIMIT_BYTES = COMMAND_LIMIT_BYTES + 4 * KIB
# Of all packs in an entry together, but for one that is larger alone: an entry is applied in one turn of the loop.
_ENTRY_COMMANDS = 2 * PACK_COMMANDS
# Packs of other nodes that wait for the log's next step; what is over it their origins send again.
FORWARDED_LIMIT_BYTES = 64 * MIB
# Without progress for so long a stream is sent again to a leader elsewhere; each time it waits twice as long, up to
# the limit.
RESEND_S = 1.0
RESEND_LIMIT_S = 8.0
# So often a slot's leader looks whether its outbox still owes what it owed the last time.
SWEEP_S = 5.0
_COPIED_POLL_S = 0.05
# A pack whose clock is further ahead of the leader's takes the leader's: one wrong clock must not move the log's time.
CLOCK_AHEAD_MS = 10_000

_OF_SESSIONS = (SessionStarted, SessionEnded)

APPLIED_KEY = b"\x00applied"


class Log(Protocol):
    """What the node needs from the Raft runtime."""

    def wake(self) -> None: ...

    def accepts(self, group: int) -> bool:
        """Whether entries of the group may be proposed here."""
        ...

    async def barrier(self, groups: Iterable[int], timeout_s: float) -> None: ...


class Webhooks(Protocol):
    """What the node tells the webhook sender, in a step of the log: it must not wait nor raise."""

    def added(self, slot: int, kind: int) -> None: ...

    def led(self, slot: int, here: bool) -> None: ...


class Node:
    """A replica of all slots. Single-threaded: everything runs on the loop that called `open`.

    effects_sink: called with each step's effects, in log order, once the node is live.
    pack_limit_bytes: commands per entry; more waits for the next step.
    in_flight_limit, in_flight_bytes_limit: commands proposed and not yet applied, over all slots; above one of them
    `congested` is true, and at twice the limit `propose` raises Unavailable.
    forward: puts a pack on the link to a node; False if it is lost for certain.
    on_break: called when sessions here may have missed something, before anything else happens: this incarnation is
    over in the log, or a snapshot skipped entries. Close them all; their clients come again.
    """

    def __init__(
        self,
        *,
        node_id: int,
        slot_count: int,
        store: Store,
        clock: Clock,
        effects_sink: Callable[[list[Effect]], None],
        pack_limit_bytes: int = 256 * 1024,
        in_flight_limit: int = 20_000,
        in_flight_bytes_limit: int = 64 * MIB,
        head_limit: int = 4096,
        forward: Callable[[int, int, bytes], bool] = lambda leader, slot, pack: False,
        on_break: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.node_id = node_id
        self.slot_count = slot_count
        self.incarnation = 0
        self._clock = clock
        self._store = store
        self._sink = effects_sink
        self._pack_limit_bytes = pack_limit_bytes
        self._in_flight_limit = in_flight_limit
        self._in_flight_bytes_limit = in_flight_bytes_limit
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._live = False
        self._log: Log | None = None
        self.webhooks: Webhooks | None = None
        self.freed: Callable[[int, Freed], None] = lambda slot, effect: None
        self._forward = forward
        self._on_break = on_break
        self._head_limit = head_limit
        self._leaders: list[int | None] = [None] * slot_count
        self._elsewhere: dict[int, None] = {}  # slots with something to send to the node that leads them
        self._forward_due = False
        self._forwarded: dict[int, deque[tuple[bytes, int]]] = {}  # slot -> packs of other nodes, commands in each
        self._forwarded_bytes = 0
        self._clocks_told: set[int] = set()
        self._fenced = False
        self._timer: asyncio.TimerHandle | None = None
        self._resent_from = [0] * slot_count  # the gap each stream was sent again for
        self._progress = [0] * slot_count  # `done` of each stream when it was last looked at
        self._patience = [RESEND_S] * slot_count
        self._waited = [0.0] * slot_count
        self._owed_before: dict[int, set[int]] = {}
        self._swept_at = 0.0
        self._overlay = Overlay(store)
        self.generations = Generations(store)
        self._streams = [SlotStream() for _ in range(slot_count)]
        self._dirty: dict[int, None] = {}
        self._applied: dict[int, tuple[int, int]] = {}
        self._relief: list[Callable[[], None]] = []
        self.applied_commands = 0
        self.entry_commands = Histogram(SIZES)
        """Commands in each entry that has any."""
        self._views = [self._overlay.view(self.generations.prefix(slot)) for slot in range(slot_count)]
        self.states = [State(slot, view, head_limit=head_limit) for slot, view in enumerate(self._views)]
        for slot, view in enumerate(self._views):
            row = view.get(APPLIED_KEY)
            if row is not None:
                self._applied[slot] = read_applied(row)
        self.copier = Copier(slot_count, self.slot, self._propose_always)

    # -- life --

    def attach(self, log: Log) -> None:
        self._log = log

    async def go_live(self, timeout_s: float | None = 30.0) -> None:
        """Take an incarnation in every slot (ends this node's older ones) and finish what outboxes owe.

        To be called when the log's start-up entries are applied; from here on effects run. Raises TimeoutError."""
        self._take_incarnation()
        self._live = True
        self._swept_at = self._clock.monotonic()
        self._watch()
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await asyncio.gather(*(self.execute(slot, Hello()) for slot in range(self.slot_count)))
                except Unavailable:
                    if not self._live:
                        raise
                    continue  # fenced before it began: the next incarnation has said its own Hello
                break
        for slot, state in enumerate(self.states):
            if self._leaders[slot] == self.node_id:
                for effect in copies.owed(state):
                    self.copier.propagate(slot, effect)

    def _take_incarnation(self) -> None:
        saved = max(
            (state.streams[self.node_id].incarnation for state in self.states if self.node_id in state.streams),
            default=0,
        )
        self.incarnation = max(saved + 1, self.incarnation + 1, self._clock.now_ms())

    def shut(self) -> None:
        """No further proposals; those in flight are of unknown outcome for their callers."""
        self._live = False
        if self._timer is not None:
            self._timer.cancel()
        self._give_up()

    def _give_up(self) -> None:
        """Everything in flight is of unknown outcome."""
        given_up = [done for stream in self._streams for done in stream.fail()]
        self._in_flight = self._in_flight_bytes = 0
        for done in given_up:
            done(None)

    def _reborn(self) -> None:
        """The log has ended this incarnation in some slot: others count its sessions as gone, so they go, in every
        slot. The next incarnation begins at once."""
        self._fenced = False
        log.warning("this node was taken for gone; its clients are closed and it begins anew")
        self._on_break("the log has ended this node's sessions")
        self._give_up()
        self._take_incarnation()
        for slot in range(self.slot_count):
            self._patience[slot], self._waited[slot], self._progress[slot] = RESEND_S, 0.0, 0
            self._enqueue(slot, encode_command(Hello()), None)

    # -- proposals --

    def slot(self, routing_key: str) -> int:
        return slot_of(routing_key, self.slot_count)

    def state_of(self, routing_key: str) -> State:
        """The applied state of a key's slot. Read it only between awaits; reads are of this moment."""
        return self.states[slot_of(routing_key, self.slot_count)]

    def leads(self, slot: int) -> bool:
        """Whether this node leads a slot, as far as it knows."""
        return self._leaders[slot] == self.node_id

    @property
    def now_ms(self) -> int:
        """What a pack that is sent now says of the time."""
        return self._clock.now_ms()

    @property
    def is_live(self) -> bool:
        """It takes changes."""
        return self._live

    @property
    def in_flight(self) -> int:
        """Commands proposed here and not applied yet."""
        return self._in_flight

    @property
    def congested(self) -> bool:
        """More commands are in flight than the limit: stop reading from clients."""
        return self._in_flight >= self._in_flight_limit or self._in_flight_bytes >= self._in_flight_bytes_limit

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once when the congestion is over."""
        self._relief.append(callback)

    def propose(self, slot: int, command: Command, done: Done | None) -> None:
        """Put a command into this node's stream to a slot. done gets the reply when it is applied here, or None when
        its outcome cannot be known (the node stops). Raises NotProposed when not live or far over the limit, and
        RequestRefused for a command that no entry of the log can hold."""
        if not self._live:
            raise NotProposed("the node is not ready to take changes")
        if self._in_flight >= 2 * self._in_flight_limit or self._in_flight_bytes >= 2 * self._in_flight_bytes_limit:
            raise NotProposed("too many changes are waiting for the log; try again")
        encoded = encode_command(command)
        if len(encoded) > COMMAND_LIMIT_BYTES:
            raise RequestRefused(f"a change of {len(encoded)} bytes; the limit is {COMMAND_LIMIT_BYTES}")
        self._enqueue(slot, encoded, done)

    def propose_always(self, slot: int, command: Command, done: Done | None = None) -> None:
        """The same for what must not be refused for lack of room: it comes from this node itself and is bounded by
        what was admitted before. Never raises; while the node is not live, done gets None."""
        self._propose_always(slot, encode_command(command), done)

    def _propose_always(self, slot: int, encoded: bytes, done: Done | None) -> None:
        if self._live:
            self._enqueue(slot, encoded, done)
        elif done is not None:
            done(None)

    def _enqueue(self, slot: int, encoded: bytes, done: Done | None) -> None:
        self._in_flight += 1
        self._in_flight_bytes += len(encoded)
        self._streams[slot].in_flight.append((encoded, done))
        self._mark(slot)

    def _mark(self, slot: int) -> None:
        """A stream has something to send."""
        leader = self._leaders[slot]
        if leader == self.node_id:
            self._dirty[slot] = None
            assert self._log is not None
            self._log.wake()
        elif leader is not None:
            self._elsewhere[slot] = None
            if not self._forward_due:
                self._forward_due = True
                asyncio.get_running_loop().call_soon(self._send_elsewhere)

    def _send_elsewhere(self) -> None:
        """Send what waits to the nodes that lead. What a link does not take goes when the watch finds no progress."""
        self._forward_due = False
        now_ms = self._clock.now_ms()
        slots, self._elsewhere = self._elsewhere, {}
        for slot in slots:
            leader, stream = self._leaders[slot], self._streams[slot]
            if leader is None or leader == self.node_id:
                continue
            packed = stream.packed
            while (pack := stream.cut(self.node_id, self.incarnation, now_ms, self._pack_limit_bytes)) is not None:
                if not self._forward(leader, slot, pack):
                    stream.packed = packed
                    break
                packed = stream.packed

    def receive_forward(self, slot: int, from_node: int, pack: object) -> None:
        """A pack of another node for a slot that this node leads. Dropped if it does not, or over the limit: the origin
        sends it again."""
        assert self._log is not None
        if not 0 <= slot < self.slot_count or type(pack) is not bytes or self._leaders[slot] != self.node_id:
            return
        if self._forwarded_bytes + len(pack) > FORWARDED_LIMIT_BYTES or not 0 < len(pack) <= _PACK_LIMIT_BYTES:
            return
        try:
            # Committed bytes that nobody can read would stop every node.
            (decoded,) = decode_entry(encode_entry([pack]))
        except ValueError:
            log.error("node %d sent a pack for slot %d that cannot be read", from_node, slot)
            return
        if decoded.node != from_node:
            return
        now_ms = self._clock.now_ms()
        if decoded.now_ms > now_ms + CLOCK_AHEAD_MS:
            if slot not in self._clocks_told:
                self._clocks_told.add(slot)
                log.error("the clock of node %d is %d s ahead", from_node, (decoded.now_ms - now_ms) // 1000)
            pack = encode(msgspec.structs.replace(decoded, now_ms=now_ms))
        self._forwarded.setdefault(slot, deque()).append((pack, len(decoded.commands)))
        self._forwarded_bytes += len(pack)
        self._dirty[slot] = None
        self._log.wake()

    def link_came_up(self, node: int) -> None:
        """What was sent to a node on an earlier link may be lost."""
        for slot, leader in enumerate(self._leaders):
            if leader == node:
                self._send_again(slot)

    def _send_again(self, slot: int) -> None:
        """Nobody knows what arrived of a stream."""
        self._streams[slot].resend_all()
        self._resent_from[slot] = 0
        if self._streams[slot].waits:
            self._mark(slot)

    def _watch(self) -> None:
        """Every now and then: streams that do not move, and outboxes that nobody empties."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(RESEND_S / 4, self._watch)
        for slot, stream in enumerate(self._streams):
            if self._progress[slot] != stream.done or not stream.in_flight:
                self._progress[slot], self._waited[slot], self._patience[slot] = stream.done, 0.0, RESEND_S
                continue
            self._waited[slot] += RESEND_S / 4
            # In a log of its own nothing is lost while it leads.
            if self._waited[slot] >= self._patience[slot] and self._leaders[slot] != self.node_id:
                self._waited[slot] = 0.0
                self._patience[slot] = min(2 * self._patience[slot], RESEND_LIMIT_S)
                self._send_again(slot)
        now = self._clock.monotonic()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            self._sweep()

    def _sweep(self) -> None:
        """Finish the copies that whoever asked for them did not: it may be gone."""
        before, self._owed_before = self._owed_before, {}
        for slot, state in enumerate(self.states):
            if self._leaders[slot] != self.node_id:
                continue
            owed = copies.owed(state, limit=1_000)
            self._owed_before[slot] = {effect.outbox_id for effect in owed}
            for effect in owed:
                if effect.outbox_id in before.get(slot, ()):
                    self.copier.propagate(slot, effect)

    async def execute(self, slot: int, command: Command) -> Reply:
        """Propose and wait for the reply. Raises Unavailable for an unknown outcome; the caller sets a time limit."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def done(reply: Reply | None) -> None:
            if not future.done():
                future.set_result(reply)

        self.propose(slot, command, done)
        reply = await future
        if reply is None:
            raise Unavailable("the outcome of the change is not known")
        return reply

    async def copied(self, slot: int, version: int) -> None:
        """Wait until the copies of an authority's version, and of older ones, are applied wherever they are needed.
        Raises Unavailable when this node gives them up; the caller sets a time limit."""
        if not version:
            return
        if self.copier.knows(slot, version):
            await self.copier.copied(slot, version)
            return
        # Another node carries them: this one asked before it was fenced, or caught up by a snapshot, or asks for what
        # somebody else asked for before. A record leaves the outbox only when its copies are applied.
        while any(effect.version <= version for effect in copies.owed(self.states[slot], limit=1)):  # noqa: ASYNC110
            await asyncio.sleep(_COPIED_POLL_S)

    async def settled(self, slot: int) -> None:
        """Wait until a slot, as an authority, owes no copies that it owes now."""
        await self.copier.settled(slot)

    async def barrier(self, slots: Iterable[int], timeout_s: float = 5.0) -> None:
        """Afterwards reads of these slots see everything that was committed when this was called.
        Raises Unavailable after timeout_s."""
        assert self._log is not None
        await self._log.barrier(slots, timeout_s)

    # -- the replicated machine (wukong.raft.statemachine.Machine) --

    def collect(self) -> list[tuple[int, bytes]]:
        """One entry per slot led here: what waits of this node's stream, and packs of other nodes."""
        if not self._dirty:
            return []
        assert self._log is not None
        entries = []
        now_ms = self._clock.now_ms()
        for slot in list(self._dirty):
            if not self._log.accepts(slot):
                if self._leaders[slot] != self.node_id:
                    del self._dirty[slot]
                continue  # while it hands over, everything waits
            packs: list[bytes] = []
            stream, packed = self._streams[slot], self._streams[slot].packed
            size = count = 0
            if self._leaders[slot] == self.node_id:
                own = stream.cut(self.node_id, self.incarnation, now_ms, self._pack_limit_bytes)
                if own is not None:
                    packs.append(own)
                    size, count = len(own), stream.packed - packed
            forwarded = self._forwarded.get(slot)
            while forwarded:
                pack, commands = forwarded[0]
                if packs and (size + len(pack) > 2 * self._pack_limit_bytes or count + commands > _ENTRY_COMMANDS):
                    break
                forwarded.popleft()
                packs.append(pack)
                size += len(pack)
                count += commands
                self._forwarded_bytes -= len(pack)
            if packs:
                entries.append((slot, encode_entry(packs)))
            if not forwarded and not stream.waits:
                del self._dirty[slot]
        return entries

    def apply(self, entries: list[Committed]) -> None:
        effects: list[Effect] = []
        replies: list[tuple[Done, Reply | None]] = []
        for slot, index, term, data in entries:
            state = self.states[slot]
            # An entry of the log itself (a leader's first, a change of members) carries no data, only its index.
            before = self.applied_commands
            for pack in decode_entry(data) if data else ():
                outcome = apply_pack(state, index, pack)
                self.applied_commands += len(outcome.replies)
                own = outcome.node == self.node_id and outcome.incarnation == self.incarnation and self._live
                if own:
                    self._settle(slot, outcome, replies)
                if state.effects:
                    self._take_effects(slot, state, own, effects)
            if self.applied_commands > before:
                self.entry_commands.add(self.applied_commands - before)
            self._applied[slot] = index, term
            self._views[slot].put(APPLIED_KEY, index.to_bytes(8, "big") + term.to_bytes(8, "big"))
        self._overlay.commit()
        # What follows is the same on every node. What cannot be carried out must not end them all.
        if effects and self._live:
            try:
                self._sink(effects)
            except Exception:
                log.exception("effects of the log could not be carried out here")
                self._on_break("a push failed")
        for done, reply in replies:
            try:
                done(reply)
            except Exception:
                log.exception("a reply could not be given")
        if self._fenced:
            self._reborn()
        if self._relief and not self.congested:
            relief, self._relief = self._relief, []
            for callback in relief:
                callback()

    def _settle(self, slot: int, outcome: Outcome, replies: list[tuple[Done, Reply | None]]) -> None:
        """What a pack of this node led to."""
        stream = self._streams[slot]
        if outcome.resend_from:
            # Of several packs behind one gap only the first has to say so.
            if outcome.resend_from != self._resent_from[slot]:
                self._resent_from[slot] = outcome.resend_from
                stream.resend(outcome.resend_from)
                self._mark(slot)
            return
        settled, settled_bytes = stream.settle(outcome.first, outcome.replies, replies)
        self._in_flight -= settled
        self._in_flight_bytes -= settled_bytes
        if outcome.fenced:
            self._fenced = True

    def _take_effects(self, slot: int, state: State, own: bool, effects: list[Effect]) -> None:
        for effect in state.effects:
            kind = type(effect)
            if kind is Propagate:
                # Whoever asked for the change answers when its copies are applied, so it carries them.
                if own:
                    self.copier.propagate(slot, effect)  # type: ignore[arg-type]
            elif kind is WebhookAdded:
                if self.webhooks is not None:
                    self.webhooks.added(slot, effect.kind)  # type: ignore[union-attr]
            elif kind is Freed:
                self.freed(slot, effect)  # type: ignore[arg-type]
            elif kind is NodeEnded:
                if effect.node == self.node_id and effect.incarnation == self.incarnation:  # type: ignore[union-attr]
                    self._fenced = self._live
            elif kind in _OF_SESSIONS and self._is_of_an_earlier_life(effect):  # type: ignore[arg-type]
                continue  # its socket was closed when that life ended
            else:
                effects.append(effect)
        state.effects.clear()

    def _is_of_an_earlier_life(self, effect: SessionStarted | SessionEnded) -> bool:
        return effect.node == self.node_id and effect.incarnation != self.incarnation

    def applied(self) -> dict[int, tuple[int, int]]:
        return dict(self._applied)

    def flush(self) -> None:
        self._store.flush()

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        """Somebody else may lead a slot now: what was on its way there goes again, to the leader there is."""
        self._leaders[group] = leader
        self._owed_before.pop(group, None)
        if leader != self.node_id:
            self._dirty.pop(group, None)
            for pack, _ in self._forwarded.pop(group, ()):
                self._forwarded_bytes -= len(pack)
        self._send_again(group)
        if self.webhooks is not None:
            self.webhooks.led(group, leader == self.node_id)

    def installed(self, group: int, index: int, term: int) -> None:
        """The rows of a slot are others now. Sessions here missed what was skipped; what is in flight may be part of
        it, and is asked for again under its numbers."""
        self._on_break("this node has caught up by a snapshot")
        self._views[group] = self._overlay.view(self.generations.prefix(group))
        self.states[group] = State(group, self._views[group], head_limit=self._head_limit)
        self._applied[group] = index, term
        if not self._live:
            return
        stream = self.states[group].streams.get(self.node_id)
        over = stream is not None and stream.incarnation == self.incarnation and stream.ended
        if over or (stream is not None and stream.incarnation > self.incarnation):
            self._reborn()
        else:
            self._send_again(group)


def read_applied(row: bytes) -> tuple[int, int]:
    """(index, term) of the last applied entry, from the row under APPLIED_KEY."""
    return int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big")
