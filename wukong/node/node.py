"""One replica: joins the Raft log, the store and the state machine of every slot.

Commands go in through `propose`, are packed per slot when the log takes its next step, and come back committed through
`apply`: state first (one store batch for the whole step), then effects in log order, then the replies, all in one turn
of the loop. A reply that arrives therefore sees its own write, and a fan-out sees the members at its position.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from wukong.channel import copies
from wukong.channel.commands import Command, Hello, Reply, decode_entry, encode_command
from wukong.channel.effects import Effect, Propagate
from wukong.channel.ids import slot_of
from wukong.channel.machine import apply_pack
from wukong.channel.state import State
from wukong.clock import Clock
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import MIB
from wukong.node.copier import Copier
from wukong.node.streams import Done, SlotStream
from wukong.raft.statemachine import Committed
from wukong.store.generations import Generations
from wukong.store.interface import Store
from wukong.store.overlay import Overlay

# Below what one entry may be (RaftConfig.max_entry_bytes), with room for the pack around it.
COMMAND_LIMIT_BYTES = 4 * MIB

_APPLIED_KEY = b"\x00applied"


class Log(Protocol):
    """What the node needs from the Raft runtime."""

    def wake(self) -> None: ...

    async def barrier(self, groups: Iterable[int], timeout_s: float) -> None: ...


class Node:
    """A replica of all slots. Single-threaded: everything runs on the loop that called `open`.

    effects_sink: called with each step's effects, in log order, once the node is live.
    pack_limit_bytes: commands per entry; more waits for the next step.
    in_flight_limit, in_flight_bytes_limit: commands proposed and not yet applied, over all slots; above one of them
    `congested` is true, and at twice the limit `propose` raises Unavailable.
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
        self._overlay = Overlay(store)
        self._generations = Generations(store)
        self._streams = [SlotStream() for _ in range(slot_count)]
        self._dirty: dict[int, None] = {}
        self._applied: dict[int, tuple[int, int]] = {}
        self._relief: list[Callable[[], None]] = []
        self.applied_commands = 0
        prefixes = [self._generations.prefix(slot) for slot in range(slot_count)]
        self._views = [self._overlay.view(prefix) for prefix in prefixes]
        self.states = [State(slot, view, head_limit=head_limit) for slot, view in enumerate(self._views)]
        for slot, view in enumerate(self._views):
            row = view.get(_APPLIED_KEY)
            if row is not None:
                self._applied[slot] = int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big")
        self.copier = Copier(slot_count, self.slot, self._propose_always)

    # -- life --

    def attach(self, log: Log) -> None:
        self._log = log

    async def go_live(self, timeout_s: float = 30.0) -> None:
        """Take an incarnation in every slot (ends this node's older ones) and finish what outboxes owe.

        To be called when the log's start-up entries are applied; from here on effects run."""
        saved = max(
            (state.streams[self.node_id].incarnation for state in self.states if self.node_id in state.streams),
            default=0,
        )
        self.incarnation = max(saved + 1, self._clock.now_ms())
        self._live = True
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(self.execute(slot, Hello()) for slot in range(self.slot_count)))
        for slot, state in enumerate(self.states):
            for effect in copies.owed(state):
                self.copier.propagate(slot, effect)

    def shut(self) -> None:
        """No further proposals; those in flight are of unknown outcome for their callers."""
        self._live = False
        for stream in self._streams:
            for done in stream.fail():
                done(None)
        self._in_flight = self._in_flight_bytes = 0

    # -- proposals --

    def slot(self, routing_key: str) -> int:
        return slot_of(routing_key, self.slot_count)

    def state_of(self, routing_key: str) -> State:
        """The applied state of a key's slot. Read it only between awaits; reads are of this moment."""
        return self.states[slot_of(routing_key, self.slot_count)]

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
        its outcome cannot be known (the node stops). Raises Unavailable when not live or far over the limit, and
        RequestRefused for a command that no entry of the log can hold."""
        if not self._live:
            raise Unavailable("the node is not ready to take changes")
        if self._in_flight >= 2 * self._in_flight_limit or self._in_flight_bytes >= 2 * self._in_flight_bytes_limit:
            raise Unavailable("too many changes are waiting for the log; try again")
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
        assert self._log is not None
        self._in_flight += 1
        self._in_flight_bytes += len(encoded)
        self._streams[slot].in_flight.append((encoded, done))
        self._dirty[slot] = None
        self._log.wake()

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
        """Wait until the copies of an authority's version are applied in every slot that needs them."""
        if version:
            await self.copier.copied(slot, version)

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
        if not self._dirty:
            return []
        entries = []
        now_ms = self._clock.now_ms()
        for slot in list(self._dirty):
            stream = self._streams[slot]
            data = stream.cut(self.node_id, self.incarnation, now_ms, self._pack_limit_bytes)
            if data is not None:
                entries.append((slot, data))
            if stream.packed >= len(stream.in_flight):
                del self._dirty[slot]
        return entries

    def apply(self, entries: list[Committed]) -> None:
        effects: list[Effect] = []
        replies: list[tuple[Done, Reply]] = []
        for slot, index, term, data in entries:
            state = self.states[slot]
            # An entry of the log itself (a leader's first) carries no data, only its index.
            for pack in decode_entry(data) if data else ():
                outcome = apply_pack(state, index, pack)
                self.applied_commands += len(outcome.replies)
                if outcome.node == self.node_id and outcome.incarnation == self.incarnation:
                    stream = self._streams[slot]
                    if outcome.resend_from:
                        stream.resend(outcome.resend_from)
                        self._dirty[slot] = None
                        assert self._log is not None
                        self._log.wake()
                    else:
                        settled, settled_bytes = stream.settle(outcome.first, outcome.replies, replies)
                        self._in_flight -= settled
                        self._in_flight_bytes -= settled_bytes
            if state.effects:
                for effect in state.effects:
                    if type(effect) is Propagate:
                        if self._live:
                            self.copier.propagate(slot, effect)
                    else:
                        effects.append(effect)
                state.effects.clear()
            self._applied[slot] = index, term
            self._views[slot].put(_APPLIED_KEY, index.to_bytes(8, "big") + term.to_bytes(8, "big"))
        self._overlay.commit()
        if effects and self._live:
            self._sink(effects)
        for done, reply in replies:
            done(reply)
        if self._relief and not self.congested:
            relief, self._relief = self._relief, []
            for callback in relief:
                callback()

    def applied(self) -> dict[int, tuple[int, int]]:
        return dict(self._applied)

    def flush(self) -> None:
        self._store.flush()

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        """Nothing to do while every slot has one voter."""
