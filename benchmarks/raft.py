"""What does the replicated log cost on one node?

Question: CPU time per entry and latency of a lone proposal through collect, write, fdatasync, commit and apply, with
nothing above (the machine keeps bytes) and nothing beside (one voter per group). A second table shows where the time
of one entry goes, part by part, without a disk.

    python -m benchmarks.raft [--seconds 2] [--repeat 3] [--directory DIR] [--loop uvloop|asyncio]

DIR has to be on the disk in question, not in memory; the default is the system's directory for temporary files.
Prints the machine, the command line and raw numbers: the median of the repeats, with the lowest and highest.
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

import msgpack
import uvloop

from wukong.clock import SystemClock
from wukong.raft.config import RaftConfig
from wukong.raft.log import ENTRY, GroupLog, Member, Record
from wukong.raft.rawnode import RawNode
from wukong.raft.runtime import Runtime
from wukong.raft.statemachine import Committed
from wukong.raft.wal import Wal, encode_records


class KeepOneInFlight:
    """Every group always has one entry under way; a new one is offered when it is applied."""

    def __init__(self, groups: int, data: bytes) -> None:
        self.waiting: dict[int, bytes] = {}
        self.groups = groups
        self.data = data
        self.count = 0
        self.positions: dict[int, tuple[int, int]] = {}
        self.woken: Callable[[], None] = lambda: None
        self.on_applied: Callable[[], None] = lambda: None

    def collect(self) -> list[tuple[int, bytes]]:
        waiting, self.waiting = self.waiting, {}
        return list(waiting.items())

    def apply(self, entries: list[Committed]) -> None:
        for group, index, term, _ in entries:
            self.waiting[group] = self.data
            self.positions[group] = (index, term)
        self.count += len(entries)
        self.on_applied()
        self.woken()

    def applied(self) -> dict[int, tuple[int, int]]:
        return dict(self.positions)

    def flush(self) -> None:
        pass

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        if group < self.groups and leader is not None:
            self.waiting[group] = self.data


def fatal(error: BaseException) -> None:
    print(f"failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


async def throughput(directory: Path, groups: int, size: int, seconds: float, fsync: bool) -> dict[str, float]:
    """Entries per second and CPU per entry with one entry per group and step."""
    wal = Wal.open(directory, node_id=1, group_count=16, fsync=fsync)
    machine = KeepOneInFlight(groups, os.urandom(size))
    runtime = Runtime(node_id=1, wal=wal, machine=machine, clock=SystemClock(), on_fatal=fatal)
    machine.woken = runtime.wake
    runtime.start()
    await runtime.ready()
    await asyncio.sleep(0.2)
    count, syncs, cpu, thread_cpu, started = (
        machine.count,
        wal.sync_count,
        time.process_time(),
        time.thread_time(),
        time.perf_counter(),
    )
    await asyncio.sleep(seconds)
    took = time.perf_counter() - started
    entries = machine.count - count
    result = {
        "entries/s": entries / took,
        "loop us/entry": (time.thread_time() - thread_cpu) / entries * 1e6,
        "cpu us/entry": (time.process_time() - cpu) / entries * 1e6,
        "syncs/s": (wal.sync_count - syncs) / took,
    }
    machine.collect = list  # type: ignore[method-assign]  # offer nothing more
    await runtime.stop()
    return result


async def lone(directory: Path, size: int, seconds: float, fsync: bool) -> dict[str, float]:
    """Latency and CPU of one proposal on an idle node."""
    wal = Wal.open(directory, node_id=1, group_count=16, fsync=fsync)
    machine = KeepOneInFlight(0, os.urandom(size))
    runtime = Runtime(node_id=1, wal=wal, machine=machine, clock=SystemClock(), on_fatal=fatal)
    runtime.start()
    await runtime.ready()
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    done: asyncio.Future[None] | None = None

    def applied() -> None:
        machine.waiting = {}
        if done is not None:
            done.set_result(None)

    machine.on_applied = applied
    await asyncio.sleep(0.2)
    cpu, loop_cpu, end = time.process_time(), time.thread_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        done = loop.create_future()
        started = time.perf_counter()
        machine.waiting = {0: machine.data}
        runtime.wake()
        await done
        latencies.append(time.perf_counter() - started)
    count = len(latencies)
    result = {
        "p50 us": statistics.median(latencies) * 1e6,
        "p99 us": sorted(latencies)[int(count * 0.99)] * 1e6,
        "loop us": (time.thread_time() - loop_cpu) / count * 1e6,
        "cpu us": (time.process_time() - cpu) / count * 1e6,
    }
    done = None
    await runtime.stop()
    return result


def disk(directory: Path, size: int, count: int = 1000) -> dict[str, float]:
    """The bare write and fdatasync, for comparison."""
    path = directory / "bare"
    directory.mkdir(exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    data, latencies, cpu = os.urandom(size), [], time.process_time()
    for _ in range(count):
        started = time.perf_counter()
        os.write(fd, data)
        os.fdatasync(fd)
        latencies.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    os.close(fd)
    return {
        "p50 us": statistics.median(latencies) * 1e6,
        "p99 us": sorted(latencies)[int(count * 0.99)] * 1e6,
        "cpu us": cpu / count * 1e6,
    }


def parts(directory: Path, groups: int, size: int, steps: int = 3000) -> dict[str, float]:
    """One step of so many groups without loop and disk: microseconds per entry for each part."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        wal = Wal.open(scratch, node_id=1, group_count=groups, fsync=False)
        nodes = []
        for log in wal.logs:
            log.set_members((Member(1, 0, True),))
            node = RawNode(node_id=1, log=log, applied=(0, 0), config=RaftConfig(), rng=random.Random(0), now=0.0)
            node.persisted(node.ready().seq)
            node.tick(1.0)
            node.persisted(node.ready().seq)
            nodes.append(node)
        data = os.urandom(size)
        spent = dict.fromkeys(("propose", "ready", "wal", "persisted", "committed"), 0.0)
        clock = time.perf_counter
        for step in range(steps):
            t0 = clock()
            for node in nodes:
                node.propose(data)
            t1 = clock()
            readies = []
            for node in nodes:
                node.tick(2.0 + step)
                readies.append(node.ready())
            t2 = clock()
            for ready in readies:
                wal.append(ready.records)
            wal.take()
            t3 = clock()
            for node, ready in zip(nodes, readies, strict=True):
                node.persisted(ready.seq)
            t4 = clock()
            for node in nodes:
                assert len(node.ready().committed) >= 1
            t5 = clock()
            for name, value in zip(spent, (t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4), strict=True):
                spent[name] += value
            if step % 500 == 499:
                for node in nodes:
                    node.trim(node.commit_index)
                    node.persisted(node.ready().seq)
        wal.close()
    return {name: value / steps / groups * 1e6 for name, value in spent.items()}


def three(_: Path, size: int, steps: int = 2000) -> dict[str, float]:
    """One group on three nodes without loop, disk and sockets: microseconds per entry on leader and follower, the
    packing of messages included."""
    now = 0.0
    clock = time.perf_counter
    spent = {1: 0.0, 2: 0.0, 3: 0.0}
    nodes: dict[int, RawNode] = {}
    queues: dict[int, list[tuple[int, bytes]]] = {1: [], 2: [], 3: []}
    for node_id in (1, 2, 3):
        log = GroupLog(0)
        log.set_members(tuple(Member(node, 0, True) for node in (1, 2, 3)))
        nodes[node_id] = RawNode(
            node_id=node_id, log=log, applied=(0, 0), config=RaftConfig(), rng=random.Random(node_id), now=now
        )
        for other in {1, 2, 3} - {node_id}:
            nodes[node_id].connected(other)

    def step(node_id: int) -> None:
        node = nodes[node_id]
        started = clock()
        inbox, queues[node_id] = queues[node_id], []
        for source, data in inbox:
            node.step(source, msgpack.unpackb(data))
        node.tick(now)
        for _ in range(2):
            ready = node.ready()
            packed: dict[int, bytes] = {}
            for target, message in ready.messages:
                # Both followers get the same bytes most of the time; a link layer may use that. This one does not.
                packed[target] = msgpack.packb(message)
                queues[target].append((node_id, packed[target]))
            encode_records(ready.records)
            node.persisted(ready.seq)
        spent[node_id] += clock() - started

    leader = None
    while leader is None:
        now += 0.05
        for node_id in nodes:
            step(node_id)
        leader = next((i for i, node in nodes.items() if node.is_leader and node.commit_index > 1), None)
    data = os.urandom(size)
    for node_id in spent:
        spent[node_id] = 0.0
    committed = nodes[leader].commit_index
    for number in range(steps):
        now += 0.0005
        started = clock()
        nodes[leader].propose(data)
        spent[leader] += clock() - started
        for node_id in (leader, *[i for i in nodes if i != leader]):
            step(node_id)
        if number % 500 == 499:
            for node in nodes.values():
                node.trim(node.commit_index - 100)
    entries = nodes[leader].commit_index - committed
    followers = [value for node_id, value in spent.items() if node_id != leader]
    return {"leader us": spent[leader] / entries * 1e6, "follower us": statistics.mean(followers) / entries * 1e6}


def encoding(size: int, count: int = 20000) -> float:
    """Microseconds to encode one record for the log."""
    records = [Record(ENTRY, 3, 1000 + i, 7, os.urandom(size)) for i in range(100)]
    started = time.perf_counter()
    for _ in range(count // 100):
        encode_records(records)
    return (time.perf_counter() - started) / count * 1e6


def show(title: str, results: list[dict[str, float]]) -> None:
    cells = []
    for name in results[0]:
        values = sorted(result[name] for result in results)
        cells.append(f"{name} {statistics.median(values):,.1f} [{values[0]:,.1f}..{values[-1]:,.1f}]")
    print(f"{title:<42} " + "  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.loop}")
    print("command line:", " ".join(sys.argv))
    run = uvloop.run if options.loop == "uvloop" else asyncio.run

    def measure(title: str, one: Callable[..., dict[str, float]], *arguments: object) -> None:
        """`one` is called with a directory that does not exist yet and the arguments."""
        results = []
        for _ in range(options.repeat):
            directory = Path(tempfile.mkdtemp(prefix="raft-bench-", dir=options.directory))
            try:
                results.append(one(directory / "wal", *arguments))
            finally:
                shutil.rmtree(directory)
        show(title, results)

    def lone_once(directory: Path, size: int, fsync: bool) -> dict[str, float]:
        return run(lone(directory, size, options.seconds, fsync))

    def throughput_once(directory: Path, groups: int, size: int, fsync: bool) -> dict[str, float]:
        return run(throughput(directory, groups, size, options.seconds, fsync))

    sizes, disks = (300, 20_000), ((True, "fdatasync"), (False, "write only"))
    for size in sizes:
        print(f"record encoding, {size} bytes: {encoding(size):.2f} us")
    for groups in (1, 4, 16):
        for size in sizes:
            measure(f"parts in us/entry, {groups} groups, {size} B", parts, groups, size)
    for size in sizes:
        measure(f"three nodes, 1 group, {size} B", three, size)
    for size in sizes:
        measure(f"bare write + fdatasync, {size} B", disk, size)
        for fsync, name in disks:
            measure(f"lone proposal, {size} B, {name}", lone_once, size, fsync)
    for groups in (1, 4, 16):
        for size in sizes:
            for fsync, name in disks:
                measure(f"{groups} groups, {size} B, {name}", throughput_once, groups, size, fsync)


if __name__ == "__main__":
    main()
