"""Gaps and reconnects: asks the sync provider for what is missing and feeds it to the inbox.

Before the first login, `snapshot` says where channels begin, so that nothing falls between asking and logging in. After
every login `after_login` compares the newest seqs with what has been received. In between, a gap in a channel is first
given a moment (the SENDACK of an own message may close it), then pulled. Channels heal independently of one another.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, Literal, TypeVar

import aiohttp

from wukong.client.backoff import Backoff
from wukong.client.errors import ClientError, SyncRefused, cause_text
from wukong.client.inbox import Inbox, LaneKey
from wukong.client.message import Message
from wukong.client.sync import ChannelHead, CommandProvider, SyncProvider
from wukong.protocol.packets import ChannelType

log = logging.getLogger("wukong.client")

PAGE_COUNT: Final = 200
PULLS_LIMIT_COUNT: Final = 8
ASK_TIMEOUT_S: Final = 15.0
ASK_BACKOFF: Final = Backoff(base_s=0.5, cap_s=30.0)
# No conversations are kept for these, so no list names them; what is known here is asked for one by one.
UNLISTED_TYPES: Final = frozenset({ChannelType.DATA, ChannelType.LIVE})

# A goal beyond every seq: as far as the history goes.
TO_THE_END: Final = 1 << 64

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Start = Literal["now", "unread"]


class Resync:
    """Its tasks live in the task group of the connection (`attach`) and end with it.

    is_own: whether a message was sent from this client and its caller will be told by the answer.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        provider: SyncProvider | None,
        commands: CommandProvider | None,
        start: Start,
        gap_wait_s: float,
        is_own: Callable[[Message], bool],
        random: Random,
    ) -> None:
        self._inbox = inbox
        self._provider = provider
        self._commands = commands
        self._start = start
        self._gap_wait_s = gap_wait_s
        self._is_own = is_own
        self._random = random
        self._tasks: asyncio.TaskGroup | None = None
        self._commands_outstanding = False
        # Per channel, the seq that has to be reached, and the task that sees to it.
        self._goals: dict[LaneKey, int] = {}
        self._healers: dict[LaneKey, asyncio.Task[None]] = {}
        self._pulls = asyncio.Semaphore(PULLS_LIMIT_COUNT)

    async def snapshot(self) -> None:
        """Where channels begin whose position the application did not give. Raises what the provider raises."""
        if self._provider is not None:
            for head in await self._provider.channels():
                begin = head.last_seq if self._start == "now" else head.start_seq
                self._inbox.start((head.channel_id, head.channel_type, False), begin)
        if self._commands is not None and self._start == "now":
            # Ascending in each channel, so the last one of each stays.
            unconfirmed = await self._commands.commands(PAGE_COUNT)
            newest = {(row.channel_id, row.channel_type): row.message_seq for row in unconfirmed}
            for (channel_id, channel_type), seq in newest.items():
                self._inbox.start((channel_id, channel_type, True), seq)

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """A connection begins: heal in this group. Until `catch_up` has decided, new channels are held back."""
        self._tasks = tasks
        self._goals.clear()
        self._healers.clear()
        self._inbox.deciding = self._provider is not None
        self._commands_outstanding = self._commands is not None
        self._see_to_gaps()

    def detach(self) -> None:
        self._tasks = None

    async def catch_up(self) -> None:
        """Fetch the messages that were missed; returns when the inbox has them."""
        provider = self._provider
        if provider is None:
            return
        try:
            heads: Sequence[ChannelHead] = await self._ask("channels", provider.channels)
        except SyncRefused as fault:
            log.warning("messages missed while away are given up: %s", fault)
            heads = ()
        goals = {(head.channel_id, head.channel_type, False): head for head in heads}
        for key, head in goals.items():
            self._inbox.start(key, head.start_seq)
        self._inbox.decide()
        for key, head in goals.items():
            self._goals[key] = head.last_seq
        for key in self._inbox.lanes:
            if key[1] in UNLISTED_TYPES and not key[2] and key not in goals:
                self._goals[key] = TO_THE_END
        behind = [key for key in self._goals if self._goal(key) is not None]
        await asyncio.gather(*(self._healer(key) for key in behind))

    async def catch_up_on_commands(self) -> None:
        """Hand out the commands that were missed, and confirm what the application has taken."""
        provider = self._commands
        if provider is None:
            return
        try:
            rows_count = PAGE_COUNT
            while rows_count == PAGE_COUNT:
                rows = await self._ask("commands", lambda: provider.commands(PAGE_COUNT))
                rows_count = len(rows)
                if rows:
                    await self._hand_out_commands(provider, rows)
        except SyncRefused as fault:
            log.warning("commands missed while away are given up: %s", fault)
        self._commands_outstanding = False
        self._see_to_gaps()

    async def _hand_out_commands(self, provider: CommandProvider, rows: Sequence[Message]) -> None:
        for row in rows:
            key = (row.channel_id, row.channel_type, True)
            self._inbox.offer(key, row, 0)
            # All unconfirmed ones come in order, so what is missing before this one was not meant for this user.
            self._inbox.skip(key, row.message_seq)
        await self._inbox.wait_until_taken()
        last_seq = max(row.message_seq for row in rows)
        await self._ask("commands", lambda: provider.commands_taken(last_seq))

    # -- one channel --

    def gap(self, key: LaneKey) -> None:
        """Messages may wait behind a gap: see to it, if nobody does yet."""
        lane = self._inbox.lanes.get(key)
        if self._tasks is None or lane is None or lane.order.gap_end is None:
            return
        if key[2] and self._commands_outstanding:
            return
        self._healer(key, wait_s=self._gap_wait_s)

    def _see_to_gaps(self) -> None:
        for key in list(self._inbox.lanes):
            self.gap(key)

    def _healer(self, key: LaneKey, *, wait_s: float = 0.0) -> asyncio.Task[None]:
        """The task that brings this channel to its goal; there is one at most."""
        task = self._healers.get(key)
        if task is None:
            assert self._tasks is not None, "healing needs a connection"
            task = self._healers[key] = self._tasks.create_task(self._heal(key, wait_s))
        return task

    async def _heal(self, key: LaneKey, wait_s: float) -> None:
        try:
            await asyncio.sleep(wait_s)
            while (goal := self._goal(key)) is not None:
                await self._pull_page(key, goal)
        finally:
            self._healers.pop(key, None)
            self._goals.pop(key, None)

    def _goal(self, key: LaneKey) -> int | None:
        """The seq to reach next; None when there is nothing to do."""
        lane = self._inbox.lanes.get(key)
        if lane is None or lane.order.position is None:
            return None
        goal = max(self._goals.get(key, 0), lane.order.gap_end or 0)
        return goal if goal > lane.order.position else None

    async def _pull_page(self, key: LaneKey, goal: int) -> None:
        """One step towards the goal. What the history does not have is given up."""
        channel_id, channel_type, is_command = key
        provider = self._provider
        position = self._inbox.open_lane(key).order.position
        assert position is not None
        if provider is None or is_command:
            self._inbox.skip(key, goal)
            return
        page: Sequence[Message] = ()
        try:
            async with self._pulls:
                page = await self._ask("history", lambda: provider.pull(channel_id, channel_type, position, PAGE_COUNT))
        except SyncRefused as fault:
            log.warning("messages %d to %d of %s are given up: %s", position + 1, goal, channel_id, fault)
        await self._inbox.wait_for_queue()
        for message in page:
            if self._is_own(message):
                self._inbox.sent(key, message.message_seq)
            else:
                self._inbox.offer(key, message, 0)
        if len(page) == PAGE_COUNT:
            self._inbox.skip(key, page[-1].message_seq)
        elif goal < TO_THE_END:
            self._inbox.skip(key, goal)
        else:
            if page:
                self._inbox.skip(key, page[-1].message_seq)
            self._goals[key] = 0

    async def _ask(self, what: str, question: Callable[[], Awaitable[T]]) -> T:
        """Until there is an answer. Raises SyncRefused when there will be none."""
        failures_count = 0
        while True:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    return await question()
            except SyncRefused:
                raise
            except (ClientError, OSError, TimeoutError, aiohttp.ClientError) as fault:
                failures_count += 1
                delay_s = ASK_BACKOFF.delay_s(failures_count, self._random)
                log.warning("no %s from the sync provider (%s), again in %.1f s", what, cause_text(fault), delay_s)
            await asyncio.sleep(delay_s)
