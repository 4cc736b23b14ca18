"""A back end in this process, and a node on a log of its own, for tests of the sender."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.node.inprocess_log import InProcessLog
from wukong.channel.commands import Append, PutChannel, PutSettings
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings, encode
from wukong.channel.webhooks import EVENT_NAMES, OFFLINE, ONLINE
from wukong.clock import SystemClock
from wukong.node.node import Node
from wukong.store.memory import MemoryStore
from wukong.webhook.sender import Options, Sender
from wukong.webhook.transport import DeliveryFailed

NOTIFY = "msg.notify"
OFFLINE_EVENT = EVENT_NAMES[OFFLINE]
ONLINE_EVENT = EVENT_NAMES[ONLINE]
GROUP = ChannelId(2, "g")
MEMBERS = ["a", "b", "c"]


class BackEnd:
    """A transport that takes what `takes` says; while `held`, requests stay under way.

    tries: every request; taken: those that were taken. Both in order, as (event, data, headers)."""

    name = "backend"

    def __init__(self, takes: Callable[[str, Any], bool] = lambda event, data: True) -> None:
        self.takes = takes
        self.tries: list[tuple[str, Any, Mapping[str, str]]] = []
        self.taken: list[tuple[str, Any, Mapping[str, str]]] = []
        self.under_way: list[tuple[str, Any]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.came = asyncio.Condition()
        self.closed = False

    async def post(self, event: str, body: bytes, headers: Mapping[str, str]) -> None:
        data = json.loads(body)
        self.tries.append((event, data, headers))
        self.under_way.append((event, data))
        try:
            await self._tell()
            await asyncio.sleep(0)
            await self.free.wait()
            if not self.takes(event, data):
                raise DeliveryFailed("HTTP 500", refused=True)
            self.taken.append((event, data, headers))
            await self._tell()
        finally:
            self.under_way.remove((event, data))

    async def _tell(self) -> None:
        async with self.came:
            self.came.notify_all()

    async def close(self) -> None:
        self.closed = True

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.came:
            await self.came.wait_for(done)

    def items(self, event: str) -> list[Any]:
        found: list[Any] = []
        for name, data, _ in self.taken:
            if name == event:
                found += data if isinstance(data, list) else [data]
        return found

    def seqs(self, channel: str = "g", event: str = NOTIFY) -> list[int]:
        return [item["message_seq"] for item in self.items(event) if item["channel_id"] == channel]


class Place:
    """A node that leads four slots alone, and its sender."""

    def __init__(self, main: BackEnd | None, agent: BackEnd | None = None, **options: Any) -> None:
        self.node = Node(
            node_id=7, slot_count=4, store=MemoryStore(), clock=SystemClock(), effects_sink=lambda effects: None
        )
        self.log = InProcessLog(self.node)
        self.node.attach(self.log)
        self.main = main
        self.sender = Sender(
            replica=self.node,
            main=main,
            agent=agent,
            options=Options(**({"push_interval_ms": 10} | options)),
            clock=SystemClock(),
            rng=random.Random(1),
        )
        self._number = 0

    async def start(self, **settings: Any) -> "Place":
        await self.node.go_live()
        await self.set(**settings)
        await self.node.execute(self.node.slot("g"), PutChannel(GROUP, None, MEMBERS))
        self.node.webhooks = self.sender
        self.sender.start()
        return self

    async def set(self, **settings: Any) -> None:
        reply = await self.node.execute(0, PutSettings(encode(Settings(**({"webhook_on": True} | settings)))))
        await self.node.copied(0, reply.version)

    async def send(self, channel: ChannelId = GROUP, sender: str = "a", **fields: Any) -> None:
        self._number += 1
        command = Append(channel, fields.pop("is_cmd", False), sender, b"x", f"n{self._number}", trusted=True, **fields)
        reply = await self.node.execute(self.node.slot(channel.id), command)
        assert reply.reason == 1

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0.001)

    @property
    def waiting(self) -> int:
        return sum(state.slot_row.webhooks.records for state in self.node.states)

    def lead(self, here: bool) -> None:
        for slot in range(4):
            self.node.leadership(slot, 7 if here else None, 2)

    async def stop(self) -> None:
        await self.sender.stop()
        self.node.shut()
