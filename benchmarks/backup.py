"""What does a backup cost a node, and how long do writing, checking and restoring one take?

Question: MiB/s of reading all slots, the longest turn of the loop meanwhile, then MiB/s of writing the files, of
`verify` and of `restore`. Rows as of `benchmarks.snapshots`, spread over 16 slots; the store is written to while it is
read. Server and tool run one after the other here, so each has a core of its own; HTTP is not in it.

    python -m benchmarks.backup [--rows 1000000] [--row-bytes 300] [--rate 0] [--directory DIR] [--seed 1]

Prints the machine, the command line and raw numbers. A turn is timed in wall clock and in CPU time of the thread, which
on a busy machine tells waiting for a core from work.
"""

import argparse
import asyncio
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from wukong.backup.files import ROWS, SlotWriter
from wukong.backup.manifest import FORMAT, Manifest, SlotPart, file_name, read_backup, write_manifest
from wukong.backup.restore import Target, formation_of, restore
from wukong.backup.rows import FrameDecoder, decode_pairs
from wukong.backup.verify import verify
from wukong.clock import SystemClock
from wukong.limits import MIB
from wukong.node.node import APPLIED_KEY, Node
from wukong.raft.log import GroupLog
from wukong.service.backup import BackupOptions, Backups
from wukong.store.generations import slot_prefix
from wukong.store.rocks import RocksStore

SLOTS = 16
BATCH_ROWS = 500


class Quiet:
    """A log in which nothing happens."""

    def wake(self) -> None: ...

    def accepts(self, group: int) -> bool:
        return True

    async def barrier(self, groups: object, timeout_s: float) -> None: ...


def fill(store: RocksStore, rows: int, row_bytes: int, chance: random.Random) -> None:
    content = [chance.randbytes((row_bytes - 24) // 2) + bytes((row_bytes - 24) // 2) for _ in range(1000)]
    numbers = list(range(rows))
    chance.shuffle(numbers)
    prefixes = [slot_prefix(slot, 0) for slot in range(SLOTS)]
    for first in range(0, rows, BATCH_ROWS):
        some = numbers[first : first + BATCH_ROWS]
        store.write({prefixes[number % SLOTS] + b"~%023d" % number: content[number % 1000] for number in some})
    store.write({prefix + APPLIED_KEY: (9).to_bytes(8, "big") + (1).to_bytes(8, "big") for prefix in prefixes})


async def read(store: RocksStore, rate: int) -> tuple[list[list[bytes]], list[tuple[float, float]]]:
    """Frames per slot, and (wall, CPU) seconds of every turn of the loop."""
    node = Node(
        node_id=1, slot_count=SLOTS, store=store, clock=SystemClock(), effects_sink=lambda effects: None, head_limit=16
    )
    node.attach(Quiet())
    backups = Backups(
        node=node,
        store=store,
        logs=[GroupLog(slot) for slot in range(SLOTS)],
        cluster=1,
        version="0",
        clock=SystemClock(),
        options=BackupOptions(bytes_per_s=rate),
    )
    turns: list[tuple[float, float]] = []
    done = False

    async def watch() -> None:
        while not done:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            turns.append((time.perf_counter() - wall, time.thread_time() - cpu))

    async def write() -> None:
        while not done:
            number = random.randrange(1 << 40)
            store.write(
                {slot_prefix(number % SLOTS, 0) + b"~later%d" % (number + each): b"later" for each in range(50)}
            )
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        tasks.create_task(write())
        begun = await backups.begin()
        frames = [[frame async for frame in backups.rows(begun.id, slot, b"")] for slot in range(SLOTS)]
        backups.end(begun.id)
        done = True
    return frames, turns


def timed(name: str, size: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{name:34}{took:9.2f} s{size / MIB / took:10.1f} MiB/s")


def write_files(folder: Path, frames: list[list[bytes]]) -> None:
    folder.mkdir()
    parts = []
    for slot, some in enumerate(frames):
        writer = SlotWriter(folder / file_name(slot, ROWS), slot, ROWS)
        decoder = FrameDecoder()
        for frame in some:
            decoder.receive(frame)
            if (data := decoder.next_frame()) is not None:
                writer.add(data, len(decode_pairs(data)))
        written = writer.close()
        parts.append(
            SlotPart(
                slot=slot,
                index=9,
                term=1,
                kind="rows",
                file=file_name(slot, ROWS),
                pairs=written.pairs,
                bytes=written.bytes,
                size_bytes=written.size_bytes,
                digest=written.digest,
            )
        )
    write_manifest(
        folder,
        Manifest(
            format=FORMAT,
            id="b",
            base="",
            cluster="1",
            node=1,
            version="0",
            entries=1,
            began_ms=0,
            at_ms=0,
            slot_count=SLOTS,
            slots=parts,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--row-bytes", type=int, default=300)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second, 0: as fast as it goes")
    parser.add_argument("--directory", type=Path, help="where the stores are made; must have room for three of them")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}: {' '.join(sys.argv)}")
    place = Path(tempfile.mkdtemp(prefix="wukong-backup-", dir=options.directory))
    try:
        store = RocksStore(str(place / "store"))
        fill(store, options.rows, options.row_bytes, random.Random(options.seed))
        began = time.perf_counter()
        frames, turns = uvloop.run(read(store, options.rate))
        took = time.perf_counter() - began
        store.close()
        size = sum(len(frame) for some in frames for frame in some)
        print(f"{'read, beside a writer':34}{took:9.2f} s{size / MIB / took:10.1f} MiB/s")
        for at, name in ((0, "turn of the loop"), (1, "the same in CPU time")):
            taken = sorted(turn[at] for turn in turns)
            late = taken[int(len(taken) * 0.99)]
            print(f"{name:34}p99 {1000 * late:.2f} ms, longest {1000 * taken[-1]:.2f} ms of {len(taken)}")
        folder = place / "b"
        timed("write the files", size, lambda: write_files(folder, frames))
        backup = read_backup(folder)
        print(f"{'':34}{size / MIB:9.1f} MiB in {backup.manifest.size_bytes / MIB:.1f} MiB")
        timed("verify", size, lambda: verify([backup]))
        timed("restore", size, lambda: restore(backup, Target(1, place / "data"), formation_of(1, [1])))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
