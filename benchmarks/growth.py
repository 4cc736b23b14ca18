"""Does a message cost more when much is stored, or when a group is large?

    python -m benchmarks.growth [--messages 1000000] [--members 10000] [--repeat 3]

Everything of a node but its sockets: log with fdatasync, state machine, RocksDB, fan-out plan. CPU time of the process
per message, the stages of the log's thread and RocksDB's background work included, in one process: so the ratio counts,
not the figure. Stored messages: the same persons write when the store holds a thousand messages and when it holds a
million. Members: messages into a group of ten and into one of ten thousand, nobody online.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wukong.channel.commands import Append, PutChannel, Reply
from wukong.channel.ids import GROUP, PERSON, ChannelId, person_id
from wukong.clock import SystemClock
from wukong.node.node import Node
from wukong.raft.runtime import Runtime
from wukong.raft.wal import Wal
from wukong.store.rocks import RocksStore

IN_FLIGHT = 500
CHANNELS = 1_000
PAYLOAD = b"x" * 256


class Replica:
    def __init__(self, path: Path) -> None:
        self.store = RocksStore(str(path / "store"))
        self.node = Node(
            node_id=1, slot_count=16, store=self.store, clock=SystemClock(), effects_sink=lambda effects: None
        )
        wal = Wal.open(path / "wal", node_id=1, group_count=16)
        self.runtime = Runtime(
            node_id=1, wal=wal, machine=self.node, clock=SystemClock(), on_fatal=lambda error: os._exit(1)
        )
        self.node.attach(self.runtime)
        self.sent = 0

    async def start(self) -> None:
        self.runtime.start()
        await self.runtime.ready()
        await self.node.go_live()

    async def write(self, count: int, to: Callable[[int], tuple[ChannelId, str]]) -> float:
        """So many messages, IN_FLIGHT at a time; CPU µs per message."""
        finished = asyncio.Event()
        started = answered = 0

        def send() -> None:
            nonlocal started
            channel, sender = to(started)
            started += 1
            self.sent += 1
            command = Append(channel, False, sender, PAYLOAD, f"m{self.sent}", 2)
            self.node.propose(self.node.slot(channel.id), command, done)

        def done(reply: Reply | None) -> None:
            nonlocal answered
            assert reply is not None
            assert reply.reason == 1, reply
            answered += 1
            if started < count:
                send()
            elif answered == count:
                finished.set()

        before = time.process_time()
        for _ in range(min(IN_FLIGHT, count)):
            send()
        await finished.wait()
        return (time.process_time() - before) / count * 1e6


async def measure(path: Path, messages: int, members: int, repeat: int) -> None:
    replica = Replica(path)
    await replica.start()
    pairs = [(ChannelId(PERSON, person_id(f"a{n}", f"b{n}")), f"a{n}") for n in range(CHANNELS)]
    groups = {}
    for size in (10, members):
        group = groups[size] = ChannelId(GROUP, f"g{size}")
        for first in range(0, size, 1_000):
            uids = [f"u{n}" for n in range(first, min(size, first + 1_000))]
            await replica.node.execute(replica.node.slot(group.id), PutChannel(group, None, uids))
    sample = 20_000

    async def median(to: Callable[[int], tuple[ChannelId, str]]) -> float:
        return statistics.median([await replica.write(sample, to) for _ in range(repeat)])

    await replica.write(CHANNELS, lambda n: pairs[n])
    stored = replica.sent
    before = await median(lambda n: pairs[n % CHANNELS])
    small, large = [], []
    for _ in range(repeat):
        # In turns, so that the machine's moods meet both.
        small.append(await replica.write(sample, lambda n: (groups[10], f"u{n % 10}")))
        large.append(await replica.write(sample, lambda n: (groups[members], f"u{n % members}")))
    few, many = statistics.median(small), statistics.median(large)
    print(f"members:  10: {few:.1f} µs   {members:,}: {many:.1f} µs   ratio {many / few:.2f}", flush=True)
    await replica.write(max(0, messages - replica.sent), lambda n: pairs[n % CHANNELS])
    after = await median(lambda n: pairs[n % CHANNELS])
    print(
        f"stored:  {stored:,}: {before:.1f} µs   {replica.sent:,}: {after:.1f} µs   ratio {after / before:.2f}",
        flush=True,
    )
    await replica.runtime.stop()
    replica.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wukong-growth-") as path:
        asyncio.run(measure(Path(path), options.messages, options.members, options.repeat))


if __name__ == "__main__":
    main()
