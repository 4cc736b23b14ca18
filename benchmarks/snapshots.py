"""What does copying a slot to another node cost, and how long does it hold the loop?

Question: MiB/s, and the longest single piece of work on the loop of either side, for a slot of many rows in RocksDB.
Both ends share one process and one loop, so the rate is that of one core for both; messages are packed and unpacked as
on a link, without encryption and network. While the slot is copied the leader's store is written to.

    python -m benchmarks.snapshots [--rows 1000000] [--row-bytes 300] [--rate 0] [--directory DIR] [--seed 1]

Prints the machine, the command line and raw numbers: milliseconds as median, 99th percentile and longest, then the
longest in CPU time of the thread, which on a busy machine tells waiting for a core (or the disk) from work.
"""

import argparse
import asyncio
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from wukong.clock import SystemClock
from wukong.limits import MIB
from wukong.node.node import APPLIED_KEY
from wukong.node.snapshot_options import SnapshotOptions
from wukong.node.snapshots import Snapshots
from wukong.raft.log import Member, Snapshot
from wukong.store.generations import Generations, slot_prefix
from wukong.store.overlay import prefix_end
from wukong.store.rocks import RocksStore

SLOT = 1
INDEX = 1000
MEMBERS = (Member(1, 1, True), Member(2, 2, True), Member(3, 3, True))
BATCH_ROWS = 500


class Holds:
    """How long each piece of work of one kind held the loop."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        taken, cpu = self.seconds.setdefault(name, []), self.cpu_seconds.setdefault(name, [])

        def run(*arguments: Any) -> Any:
            begin, cpu_begin = time.perf_counter(), time.thread_time()
            try:
                return work(*arguments)
            finally:
                taken.append(time.perf_counter() - begin)
                cpu.append(time.thread_time() - cpu_begin)

        return run

    def print(self) -> None:
        print(f"{'':34}{'count':>9}{'median':>9}{'p99':>9}{'longest':>9}{'CPU p99':>9}{'longest':>9}   ms")
        for name, taken in self.seconds.items():
            if taken:
                wall, cpu = sorted(taken), sorted(self.cpu_seconds[name])
                late = int(len(wall) * 0.99)
                figures = statistics.median(wall), wall[late], wall[-1], cpu[late], cpu[-1]
                print(f"{name:34}{len(taken):>9}" + "".join(f"{1000 * each:>9.3f}" for each in figures))


def fill(store: RocksStore, rows: int, row_bytes: int, chance: random.Random) -> None:
    """Rows of 24-byte keys in random order, half of the value random; the applied row comes last."""
    prefix = slot_prefix(SLOT, 0)
    numbers = list(range(rows))
    chance.shuffle(numbers)
    content = [chance.randbytes((row_bytes - 24) // 2) + bytes((row_bytes - 24) // 2) for _ in range(1000)]
    for first in range(0, rows, BATCH_ROWS):
        some = numbers[first : first + BATCH_ROWS]
        store.write({prefix + b"k%023d" % number: content[number % 1000] for number in some})
    store.write({prefix + APPLIED_KEY: INDEX.to_bytes(8, "big") + (1).to_bytes(8, "big")})


async def copy(source: RocksStore, target: RocksStore, rate: int, holds: Holds) -> tuple[float, int, int]:
    """(seconds, rows, bytes) of copying the slot."""
    loop = asyncio.get_running_loop()
    ends: dict[int, Snapshots] = {}
    installed = asyncio.Event()

    async def install(slot: int, from_node: int, term: int, snapshot: Snapshot, flip: Callable[[], None]) -> bool:
        await loop.run_in_executor(None, holds.timed("flip, in a thread", flip))
        return True

    def sender(origin: int) -> Callable[[int, int, dict[str, object]], bool]:
        def send(to: int, slot: int, body: dict[str, object]) -> bool:
            carried = msgpack.packb(body)
            loop.call_soon(deliver, origin, to, slot, carried)
            return True

        return send

    def deliver(origin: int, to: int, slot: int, carried: bytes) -> None:
        body = msgpack.unpackb(carried)
        holds.timed(f"node {to} takes {body['op']}", ends[to].received)(origin, slot, body)
        if body["op"] == "done":
            installed.set()

    for node, store in ((1, source), (2, target)):
        ends[node] = Snapshots(
            slot_count=16,
            store=store,
            generations=Generations(store),
            send=sender(node),
            install=install,
            snapshot_at=lambda slot, index: Snapshot(index, 1, MEMBERS),
            term_of=lambda slot: 1,
            applied_index=lambda slot: 0,
            clock=SystemClock(),
            options=SnapshotOptions(bytes_per_s=rate),
        )
        ends[node].start()
    leader, follower = ends[1], ends[2]
    leader.sender._turn = holds.timed("leader: scan a slice, send", leader.sender._turn)  # type: ignore[method-assign]
    follower.receiver._turn = holds.timed("follower: write a slice", follower.receiver._turn)  # type: ignore[method-assign]
    leader.sender._close = holds.timed("leader: close the view", leader.sender._close)  # type: ignore[method-assign]
    follower.receiver._drop = holds.timed("follower: drop the old rows", follower.receiver._drop)  # type: ignore[method-assign]

    prefix = slot_prefix(SLOT, 0)
    begin = time.perf_counter()
    holds.timed("leader: take a view, offer", leader.needed)(SLOT, 2)
    written = 0
    while not installed.is_set():
        source.write({prefix + b"k%023d" % (written * 7919 % 1_000_003 + number): b"later" for number in range(50)})
        written += 50
        await asyncio.sleep(0.005)
    took = time.perf_counter() - begin
    rows, sent = leader.sender.sent_rows, leader.sender.sent_bytes
    await leader.stop()
    await follower.stop()
    return took, rows, sent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--row-bytes", type=int, default=300)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second; 0: no limit")
    parser.add_argument("--directory", default=None)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"python -m benchmarks.snapshots {' '.join(sys.argv[1:])}".rstrip())
    directory = Path(tempfile.mkdtemp(dir=options.directory, prefix="wukong-snapshots-"))
    holds = Holds()
    try:
        source, target = RocksStore(directory / "source"), RocksStore(directory / "target")
        fill(source, options.rows, options.row_bytes, random.Random(options.seed))
        fill(target, options.rows // 10, options.row_bytes, random.Random(options.seed + 1))
        view = holds.timed("store: take a view", source.snapshot)
        for _ in range(1000):
            view(prefix_end(slot_prefix(SLOT, 0))).close()
        took, rows, sent = uvloop.run(copy(source, target, options.rate, holds))
        prefix = slot_prefix(SLOT, 1)
        assert len(target.scan(prefix, prefix_end(prefix))) == rows == options.rows + 1
        speed = f"{sent / MIB / took:.1f} MiB/s, {rows / took:.0f} rows/s"
        print(f"{rows} rows, {sent / MIB:.0f} MiB in {took:.1f} s: {speed}")
        holds.print()
        source.close()
        target.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
