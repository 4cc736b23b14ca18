import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from tests.client.small_server import GROUP, SmallProvider, SmallServer, as_message
from wukong.client import ApiUnavailable, Backoff, Client, Message, State, SyncRefused, connect
from wukong.client.inbox import Inbox
from wukong.client.resync import PAGE_COUNT, Resync
from wukong.protocol.packets import ChannelType

QUICK = Backoff(base_s=0.001, cap_s=0.01)


class Commands:
    """Unconfirmed commands of one user in the server's command twins."""

    def __init__(self, server: SmallServer) -> None:
        self.server = server
        self.read_seq = 0
        self.taken: list[int] = []
        self._given = 0

    async def commands(self, limit: int) -> Sequence[Message]:
        rows = [row for row in self.server.channel("g", GROUP).commands if row.seq > self.read_seq][:limit]
        self._given = rows[-1].seq if rows else 0
        return [as_message(row, "g", GROUP) for row in rows]

    async def commands_taken(self, last_seq: int) -> None:
        self.taken.append(last_seq)
        self.read_seq = self._given
        self.server.changed.set()


async def seqs(client: Client, count: int) -> list[int]:
    return [(await anext(client)).message_seq for _ in range(count)]


async def fill(server: SmallServer, count: int, *, channel_type: int = GROUP, flags: int = 2) -> None:
    server.channel("g", channel_type).members.add("b")
    for _ in range(count):
        await server.store("g", channel_type, "x", b"m", flags=flags)


async def away(server: SmallServer, client: Client) -> None:
    """Cut the connection, and let nothing be pushed any more."""
    server.silent_for = {client.uid}
    (await server.until_logged_in(client.uid)).cut()


async def test_more_than_a_page_is_pulled_page_by_page(server: SmallServer) -> None:
    await fill(server, 2 * PAGE_COUNT + 7)
    async with connect(server.tcp, "b", sync=server.provider("b"), positions={("g", GROUP): 0}) as b:
        assert await seqs(b, 2 * PAGE_COUNT + 7) == list(range(1, 2 * PAGE_COUNT + 8))
    assert [pull[2] for pull in server.pulls] == [0, PAGE_COUNT, 2 * PAGE_COUNT]


async def test_a_history_that_ends_with_a_full_page_is_no_trap(server: SmallServer) -> None:
    await fill(server, PAGE_COUNT)
    async with connect(server.tcp, "b", sync=server.provider("b"), positions={("g", GROUP): 0}) as b:
        await seqs(b, PAGE_COUNT)
        await b.wait_for(State.SYNCED)
    assert len(server.pulls) == 1


async def test_messages_the_history_does_not_have_are_given_up(server: SmallServer) -> None:
    await fill(server, 2 * PAGE_COUNT)
    rows = server.channel("g", GROUP).messages
    rows[:] = [row for row in rows if row.seq % 7]
    expected = [row.seq for row in rows]
    async with connect(server.tcp, "b", sync=server.provider("b"), positions={("g", GROUP): 0}) as b:
        assert await seqs(b, len(expected)) == expected


async def test_trouble_with_the_provider_is_sat_out(server: SmallServer) -> None:
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, backoff=QUICK, random=Random(1)) as b:
        await fill(server, 1)
        await seqs(b, 1)
        await away(server, b)
        await fill(server, 3)
        sync.fail = [ApiUnavailable("http://x", "/y", "down"), OSError("down"), TimeoutError()]
        assert await seqs(b, 3) == [2, 3, 4]
    assert sync.fail == []


async def test_what_the_provider_refuses_is_given_up(server: SmallServer) -> None:
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, positions={("g", GROUP): 0}, gap_wait_s=0) as b:
        await b.wait_for(State.SYNCED)
        sync.fail = [SyncRefused("no")]
        server.silent_for = {"b"}
        await fill(server, 2)
        server.silent_for = set()
        await fill(server, 1)
        assert await seqs(b, 1) == [3]


async def test_a_provider_that_refuses_to_list_channels_leaves_live_messages(server: SmallServer) -> None:
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, backoff=QUICK, gap_wait_s=0) as b:
        await b.wait_for(State.SYNCED)
        await away(server, b)
        sync.fail = [SyncRefused("no")]
        await server.until_logged_in("b", 2)
        await b.wait_for(State.SYNCED)
        server.silent_for = set()
        await fill(server, 1)
        assert await seqs(b, 1) == [1]


async def test_a_snapshot_that_is_refused_is_told_by_open(server: SmallServer) -> None:
    sync = server.provider("b")
    sync.fail = [SyncRefused("a manager token is needed")]
    with pytest.raises(SyncRefused):
        await connect(server.tcp, "b", sync=sync)


@pytest.mark.parametrize("channel_type", [ChannelType.DATA, ChannelType.LIVE])
async def test_channels_that_no_list_names_are_asked_for_by_themselves(server: SmallServer, channel_type: int) -> None:
    class Listed(SmallProvider):
        async def channels(self) -> list[object]:  # type: ignore[override]
            return []

    async with connect(server.tcp, "b", sync=Listed(server, "b"), backoff=QUICK) as b:
        await b.wait_for(State.SYNCED)
        await fill(server, 2, channel_type=channel_type)
        assert await seqs(b, 2) == [1, 2]
        await away(server, b)
        await fill(server, 3, channel_type=channel_type)
        assert await seqs(b, 3) == [3, 4, 5]


async def test_many_channels_heal_at_once(server: SmallServer) -> None:
    async with connect(server.tcp, "b", sync=server.provider("b"), backoff=QUICK) as b:
        await b.wait_for(State.SYNCED)
        await away(server, b)
        for each in range(60):
            server.channel(f"g{each}", GROUP).members.add("b")
            for _ in range(3):
                await server.store(f"g{each}", GROUP, "x", b"")
        received = [await anext(b) for _ in range(180)]
    for each in range(60):
        assert [message.message_seq for message in received if message.channel_id == f"g{each}"] == [1, 2, 3]


async def test_commands_missed_while_away_are_handed_out_and_confirmed_when_taken(server: SmallServer) -> None:
    commands = Commands(server)
    async with connect(server.tcp, "b", commands=commands, backoff=QUICK) as b:
        await fill(server, 2, flags=4)
        assert await seqs(b, 2) == [1, 2]
        await away(server, b)
        await fill(server, 3, flags=4)
        received = [await anext(b) for _ in range(2)]
        assert [message.message_seq for message in received] == [3, 4]
        assert all(message.sync_once for message in received)
        assert commands.taken == []
        assert await seqs(b, 1) == [5]
        await server.until(lambda: commands.taken == [5])


async def test_a_live_command_waits_for_the_missed_ones_before_it(server: SmallServer) -> None:
    commands = Commands(server)
    async with connect(server.tcp, "b", commands=commands, backoff=QUICK, gap_wait_s=0, ack="received") as b:
        await fill(server, 1, flags=4)
        await seqs(b, 1)
        await server.until(lambda: len(server.recvacks) == 1)
        gate = asyncio.Event()
        give = commands.commands

        async def held_back(limit: int) -> Sequence[Message]:
            await gate.wait()
            return await give(limit)

        commands.commands = held_back  # type: ignore[method-assign]
        await away(server, b)
        await fill(server, 2, flags=4)
        await server.until_logged_in("b", 2)
        await b.wait_for(State.SYNCED)
        server.silent_for = set()
        await fill(server, 1, flags=4)
        # The client has it, and holds it back.
        await server.until(lambda: len(server.recvacks) == 2)
        gate.set()
        assert await seqs(b, 3) == [2, 3, 4]


async def test_unconfirmed_commands_of_the_past_are_not_for_a_client_that_begins_now(server: SmallServer) -> None:
    await fill(server, 3, flags=4)
    async with connect(server.tcp, "b", commands=Commands(server)) as b:
        await b.wait_for(State.SYNCED)
        await fill(server, 1, flags=4)
        assert await seqs(b, 1) == [4]


async def test_unconfirmed_commands_are_for_a_client_that_asks_for_the_unread(server: SmallServer) -> None:
    await fill(server, 3, flags=4)
    async with connect(server.tcp, "b", commands=Commands(server), start="unread") as b:
        assert await seqs(b, 3) == [1, 2, 3]


async def test_a_gap_is_seen_to_once_however_often_it_is_reported(server: SmallServer) -> None:
    await fill(server, 9)
    sync = server.provider("b")
    box = Inbox(limit_count=100, lanes_limit_count=100, on_gap=lambda key: resync.gap(key))  # noqa: PLW0108 -- made below
    resync = Resync(
        box,
        provider=sync,
        commands=None,
        start="now",
        gap_wait_s=0,
        is_own=lambda message: False,
        random=Random(1),
    )
    key = ("g", GROUP, False)
    box.start(key, 0)
    async with asyncio.TaskGroup() as tasks:
        resync.attach(tasks)
        box.deciding = False
        for row in server.channel("g", GROUP).messages[3:]:
            box.offer(key, as_message(row, "g", GROUP), 1)
            resync.gap(key)
    assert [(await box.take()).message.message_seq for _ in range(9)] == list(range(1, 10))
    assert server.pulls == [("g", GROUP, 0)]
