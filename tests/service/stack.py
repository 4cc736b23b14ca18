"""One replica in memory with all use cases over it: no disk, no consensus, no sockets."""

from typing import NamedTuple

from tests.node.inprocess_log import InProcessLog
from wukong.channel.commands import Append, Command, OpenSession, PutSettings, Reply
from wukong.channel.effects import Effect
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings, encode
from wukong.clock import Clock
from wukong.node.node import Node
from wukong.service.overview import Overview
from wukong.service.usecases import UseCases
from wukong.session.registry import LocalSession, Registry
from wukong.store.memory import MemoryStore

NODE_ID = 1001
START_MS = 1_700_000_000_000


class FakeClock:
    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class FakeFacts(NamedTuple):
    ip: str = "198.51.100.4"
    port: int = 50122
    last_activity_ms: int = START_MS
    uptime_ms: int = 200_000
    idle_ms: int = 5_000
    pending_bytes: int = 0
    version: int = 5
    in_messages: int = 1
    out_messages: int = 2
    in_message_bytes: int = 3
    out_message_bytes: int = 4
    in_packets: int = 5
    out_packets: int = 6
    in_packet_bytes: int = 7
    out_packet_bytes: int = 8


class FakeTotals(NamedTuple):
    in_messages: int = 11
    out_messages: int = 12
    in_bytes: int = 13
    out_bytes: int = 14
    slow_closed: int = 0


class FakeConnections:
    """A gateway without sockets: what it was told is in `told`."""

    def __init__(self) -> None:
        self.facts: dict[int, FakeFacts] = {}
        self.told: list[tuple[object, ...]] = []

    @property
    def counters(self) -> FakeTotals:
        return FakeTotals()

    @property
    def connections(self) -> int:
        return len(self.facts) + 1

    def info(self, session: int) -> FakeFacts | None:
        return self.facts.get(session)

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None:
        self.told.append(("end", session, reason, text, close_after_ms))

    def drop(self, session: int) -> None:
        self.told.append(("drop", session))


class Stack:
    """effects: everything apply asked for, in order."""

    def __init__(
        self,
        *,
        slot_count: int = 16,
        timeout_ms: int = 2_000,
        conversation_max_count: int = 1_000,
        store: MemoryStore | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.store = store or MemoryStore()
        self.effects: list[Effect] = []
        clock: Clock = self.clock
        self.node = Node(
            node_id=NODE_ID,
            slot_count=slot_count,
            store=self.store,
            clock=clock,
            effects_sink=self.effects.extend,
        )
        self.log = InProcessLog(self.node)
        # Indexes go on above those of an earlier life of the store.
        self.log._indexes = {slot: index for slot, (index, _) in self.node.applied().items()}
        self.node.attach(self.log)
        self.registry = Registry()
        self.connections = FakeConnections()
        overview = Overview(node_id=NODE_ID, registry=self.registry, connections=self.connections, clock=clock)
        self.use_cases = UseCases(
            self.node, overview, timeout_ms=timeout_ms, conversation_max_count=conversation_max_count
        )

    async def start(self, settings: Settings | None = None) -> "Stack":
        await self.node.go_live()
        if settings is not None:
            reply = await self.node.execute(0, PutSettings(encode(settings)))
            await self.node.copied(0, reply.version)
        return self

    async def run(self, routing_key: str, command: Command) -> Reply:
        return await self.node.execute(self.node.slot(routing_key), command)

    async def client_sends(
        self, channel: ChannelId, sender: str, payload: bytes = b"hi", number: str = "", *, flags: int = 0
    ) -> Reply:
        """A SEND of a connected client."""
        return await self.run(channel.id, Append(channel, False, sender, payload, number, flags))

    async def connect(self, uid: str, number: int, *, flag: int = 0, level: int = 0) -> None:
        """A session of uid on this node."""
        await self.run(uid, OpenSession(uid, number, flag, f"device-{number}", b""))
        session = LocalSession(
            number,
            uid,
            device_flag=flag,
            device_id=f"device-{number}",
            version=5,
            via_json=False,
            peer=("198.51.100.4", 50122),
            opened_ms=self.clock.ms,
        )
        self.registry.expect(session)
        self.registry.start(number, level)
        self.connections.facts[number] = FakeFacts()

    def commands(self, kind: type[Command]) -> int:
        """How many commands of a kind were committed so far."""
        from wukong.channel.commands import decode_entry

        return sum(
            type(command) is kind
            for entry in self.log.entries
            for pack in decode_entry(entry.data)
            for command in pack.commands
        )
