"""The step loop on a real event loop and a real disk; other nodes are runtimes in the same loop."""

import asyncio
import os
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from wukong.clock import SystemClock
from wukong.errors import DataError, Unavailable
from wukong.raft.config import RaftConfig
from wukong.raft.log import Member
from wukong.raft.runtime import Runtime
from wukong.raft.statemachine import Committed
from wukong.raft.wal import Batch, Wal

FAST = RaftConfig(heartbeat_ms=20, election_min_ms=100, election_max_ms=200, quorum_timeout_ms=300, tick_ms=10)


class Machine:
    """Keeps what it is given, in order. `put` proposes and waits until the value is applied here."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self.waiting: dict[int, list[bytes]] = {}
        self.values: dict[int, list[bytes]] = {}
        self.positions: dict[int, tuple[int, int]] = {}
        self.leaders: dict[int, int | None] = {}
        self.led: set[int] = set()
        self.calls: list[list[Committed]] = []
        self.collected: list[list[tuple[int, bytes]]] = []
        self.flushes: list[str] = []
        self.futures: dict[bytes, asyncio.Future[int]] = {}
        self.on_apply: Callable[[list[Committed]], None] = lambda entries: None
        self.on_flush: Callable[[], None] = lambda: None
        self.durable: dict[int, tuple[int, int]] = {}

    async def put(self, group: int, value: bytes) -> int:
        future = self.futures[value] = asyncio.get_running_loop().create_future()
        self.offer(group, value)
        index: int = await future
        return index

    def offer(self, group: int, *values: bytes) -> None:
        self.waiting.setdefault(group, []).extend(values)
        assert self.runtime is not None
        self.runtime.wake()

    def collect(self) -> list[tuple[int, bytes]]:
        proposals = [(group, b",".join(self.waiting.pop(group))) for group in sorted(self.led & set(self.waiting))]
        if proposals:
            self.collected.append(proposals)
        return proposals

    def apply(self, entries: list[Committed]) -> None:
        carrying = [entry for entry in entries if entry.data]
        if carrying:
            self.calls.append(carrying)
            self.on_apply(carrying)
        for group, index, term, data in entries:
            assert index > self.positions.get(group, (0, 0))[0]
            self.positions[group] = (index, term)
            for value in data.split(b",") if data else ():
                self.values.setdefault(group, []).append(value)
                future = self.futures.pop(value, None)
                if future is not None and not future.done():
                    future.set_result(index)

    def installed(self, group: int, index: int, term: int) -> None:
        raise AssertionError("no snapshots in these tests")

    def applied(self) -> dict[int, tuple[int, int]]:
        return dict(self.positions)

    def flush(self) -> None:
        self.flushes.append(threading.current_thread().name)
        self.on_flush()

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        self.leaders[group] = leader
        assert self.runtime is not None
        (self.led.add if leader == self.runtime.node_id else self.led.discard)(group)


class Fatal:
    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.happened = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)
        self.happened.set()


class SlowClock:
    """Time passes only when somebody says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


def build(
    path: Path,
    machine: Machine | None = None,
    *,
    groups: int = 4,
    node_id: int = 1,
    wal: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Runtime, Machine, Fatal]:
    machine = machine or Machine()
    machine.led = set()
    fatal = Fatal()
    log = Wal.open(path / "wal", node_id=node_id, group_count=groups, **(wal or {}))
    settings: dict[str, Any] = {"clock": SystemClock(), "on_fatal": fatal, "rng": random.Random(node_id)}
    runtime = Runtime(node_id=node_id, wal=log, machine=machine, **(settings | options))
    machine.runtime = runtime
    return runtime, machine, fatal


@asynccontextmanager
async def running(path: Path, machine: Machine | None = None, **options: Any) -> AsyncIterator[tuple[Runtime, Machine]]:
    runtime, machine, fatal = build(path, machine, **options)
    runtime.start()
    await asyncio.wait_for(runtime.ready(), 5)
    try:
        yield runtime, machine
    finally:
        assert await runtime.stop()
        assert fatal.errors == []


# -- one node


async def test_a_proposal_is_applied_and_its_index_known(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        assert machine.leaders == dict.fromkeys(range(4), 1)
        index = await machine.put(2, b"a")
        assert runtime.applied_index(2) == index == 3
        assert await machine.put(2, b"b") == 4
        assert machine.values == {2: [b"a", b"b"]}
        assert (runtime.is_leader(2), runtime.leader(2), runtime.term(2)) == (True, 1, 1)


async def test_after_a_restart_only_what_the_machine_lacks_is_applied_again(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, machine):
        for value in (b"a", b"b", b"c"):
            await machine.put(0, value)
        await machine.put(3, b"z")
    kept = Machine()
    kept.values, kept.positions = {0: [b"a"]}, {0: (3, 1)}
    async with running(tmp_path, kept) as (runtime, machine):
        assert machine.values == {0: [b"a", b"b", b"c"], 3: [b"z"]}
        assert runtime.term(0) == 2
        await machine.put(0, b"d")
    async with running(tmp_path, kept) as (_, machine):
        assert machine.values[0] == [b"a", b"b", b"c", b"d"]


async def test_a_state_ahead_of_the_log_is_refused_at_start(tmp_path: Path) -> None:
    machine = Machine()
    machine.positions = {1: (50, 1)}
    runtime, _, _ = build(tmp_path, machine)
    with pytest.raises(DataError, match="group 1: the state stands at index 50"):
        runtime.start()
    assert await runtime.stop()


async def test_what_arrives_while_the_disk_is_busy_becomes_one_entry(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        release = threading.Event()
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        write = runtime._wal.write

        def slow(batch: Batch) -> None:
            loop.call_soon_threadsafe(started.set)
            release.wait(5)
            write(batch)

        runtime._wal.write = slow  # type: ignore[method-assign]
        first = asyncio.ensure_future(machine.put(0, b"first"))
        await started.wait()
        rest = []
        for number in range(50):
            rest.append(asyncio.ensure_future(machine.put(0, b"%d" % number)))
            await asyncio.sleep(0)
        other = asyncio.ensure_future(machine.put(1, b"other"))
        await asyncio.sleep(0)
        release.set()
        assert await first == 3
        assert set(await asyncio.gather(*rest)) == {4}
        await other
        assert [len(proposals) for proposals in machine.collected] == [1, 2]


async def test_all_groups_share_one_write(tmp_path: Path) -> None:
    async with running(tmp_path, groups=16) as (runtime, machine):
        before = runtime._wal.sync_count
        await asyncio.gather(*[machine.put(group, b"%d" % group) for group in range(16)])
        assert runtime._wal.sync_count == before + 1


async def test_nothing_happens_without_a_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        await machine.put(0, b"a")
        turns = 0
        original = runtime._turn

        def counted() -> None:
            nonlocal turns
            turns += 1
            original()

        runtime._turn = counted  # type: ignore[method-assign]
        assert runtime._timer is None
        await asyncio.sleep(0.05)
        assert turns == 0
        for _ in range(100):
            runtime.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert turns == 1


async def test_applying_is_cut_into_slices_of_a_few_milliseconds(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, machine):
        for number in range(200):
            await machine.put(0, b"%d" % number + b"x" * 1000)
    again = Machine()
    clock = SlowClock()
    slices: list[float] = []

    def one_ms_each(entries: list[Committed]) -> None:
        clock.seconds += 0.001 * len(entries)
        slices.append(0.001 * len(entries))

    again.on_apply = one_ms_each
    turns_of_others = 0
    runtime, _, _ = build(tmp_path, again, clock=clock)

    async def somebody_else() -> None:
        nonlocal turns_of_others
        while True:
            await asyncio.sleep(0)
            turns_of_others += 1

    other = asyncio.ensure_future(somebody_else())
    runtime.start()
    await runtime.ready()
    other.cancel()
    assert len(again.values[0]) == 200
    assert max(slices[1:]) <= 0.008
    assert turns_of_others >= len(slices)
    assert await runtime.stop()


async def test_while_applying_lags_nothing_more_is_collected(tmp_path: Path) -> None:
    async with running(tmp_path, config=RaftConfig(apply_queue_bytes=100)) as (runtime, machine):
        runtime._slice_bytes = 1  # one entry per turn
        runtime._adapt = lambda size, took_ms: None  # type: ignore[method-assign]
        for group in range(4):
            machine.offer(group, b"one")
        queued_at_collect: list[int] = []
        collect = machine.collect

        def observed() -> list[tuple[int, bytes]]:
            queued_at_collect.append(runtime._queue_bytes)
            return collect()

        machine.collect = observed  # type: ignore[method-assign]
        while len(machine.values) < 4:
            machine.runtime = runtime
            runtime.wake()
            await asyncio.sleep(0)
        assert max(queued_at_collect) < 100


async def test_there_is_never_more_than_one_turn_in_a_round_of_the_event_loop(tmp_path: Path) -> None:
    async with running(tmp_path, groups=32) as (runtime, machine):
        runtime._slice_bytes = 1
        runtime._adapt = lambda size, took_ms: None  # type: ignore[method-assign]
        rounds = turns = 0
        turn = runtime._turn

        def counted() -> None:
            nonlocal turns
            turns += 1
            turn()

        runtime._turn = counted  # type: ignore[method-assign]
        pending = [asyncio.ensure_future(machine.put(group, b"%d" % group)) for group in range(32)]
        while not runtime._disk_busy:
            await asyncio.sleep(0)
        while runtime._disk_busy:
            runtime.wake()  # a turn is always due when the disk reports
            turns = 0
            await asyncio.sleep(0)
        turns = 0
        while runtime._queue:
            rounds += 1
            await asyncio.sleep(0)
        assert rounds > 10
        assert turns <= rounds + 1
        await asyncio.gather(*pending)


# -- barriers


async def test_a_barrier_on_a_lone_voter_does_not_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        await machine.put(0, b"a")
        coroutine = runtime.barrier(range(4), 1.0)
        with pytest.raises(StopIteration):
            coroutine.send(None)


async def test_a_barrier_waits_until_what_was_committed_is_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        runtime._slice_bytes = 1
        runtime._adapt = lambda size, took_ms: None  # type: ignore[method-assign]
        first = asyncio.ensure_future(machine.put(0, b"a"))
        second = asyncio.ensure_future(machine.put(1, b"b"))
        while runtime._nodes[1].commit_index < 3:
            await asyncio.sleep(0)
        assert runtime.applied_index(1) < 3
        await runtime.barrier([0, 1], 1.0)
        assert machine.values == {0: [b"a"], 1: [b"b"]}
        await asyncio.gather(first, second)


async def test_a_barrier_has_a_time_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as (runtime, machine):
        await machine.put(0, b"a")
        runtime._applied[0] = 2  # as if applying hung
        with pytest.raises(Unavailable, match="did not catch up within"):
            await runtime.barrier([0], 0.01)
        runtime._applied[0] = 3


# -- failure and end


async def test_an_exception_in_apply_ends_everything_once(tmp_path: Path) -> None:
    runtime, machine, fatal = build(tmp_path)
    runtime.start()
    await runtime.ready()
    broken = RuntimeError("apply")

    def fail(entries: list[Committed]) -> None:
        raise broken

    machine.on_apply = fail
    machine.offer(0, b"a")
    await asyncio.wait_for(fatal.happened.wait(), 5)
    assert fatal.errors == [broken]
    machine.offer(0, b"b")
    await asyncio.sleep(0.01)
    assert len(machine.calls) == 1
    with pytest.raises(Unavailable):
        await runtime.barrier([0], 1.0)
    assert await runtime.stop()
    assert fatal.errors == [broken]


async def test_a_disk_that_fails_ends_everything_and_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, machine, fatal = build(tmp_path)
    runtime.start()
    await runtime.ready()

    def broken(fd: int) -> None:
        raise OSError(5, "disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        machine.offer(0, b"a")
        await asyncio.wait_for(fatal.happened.wait(), 5)
    assert isinstance(fatal.errors[0], OSError)
    assert machine.values == {}
    assert await runtime.stop()


async def test_a_proposal_over_the_limit_is_a_broken_machine(tmp_path: Path) -> None:
    runtime, machine, fatal = build(tmp_path, config=RaftConfig(max_entry_bytes=10))
    runtime.start()
    await runtime.ready()
    machine.offer(0, b"x" * 11)
    await asyncio.wait_for(fatal.happened.wait(), 5)
    assert "1 to 10 are allowed" in str(fatal.errors[0])
    assert await runtime.stop()


async def test_stop_finishes_what_was_offered(tmp_path: Path) -> None:
    runtime, machine, _ = build(tmp_path)
    runtime.start()
    await runtime.ready()
    for number in range(20):
        machine.offer(number % 4, b"%d" % number)
    assert await runtime.stop()
    assert sum(len(values) for values in machine.values.values()) == 20
    assert await runtime.stop()
    machine.offer(0, b"late")
    await asyncio.sleep(0)
    assert b"late" in machine.waiting[0]


async def test_stop_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    runtime, machine, _ = build(tmp_path)
    runtime.start()
    await runtime.ready()
    release = threading.Event()
    write = runtime._wal.write

    def hang(batch: Batch) -> None:
        release.wait(10)
        write(batch)

    runtime._wal.write = hang  # type: ignore[method-assign]
    machine.offer(0, b"a")
    await asyncio.sleep(0.01)
    assert not await runtime.stop(0.05)
    release.set()
    assert runtime._disk is not None
    assert await asyncio.to_thread(runtime._disk.stop, 5)
    runtime._wal.close()


async def test_ready_before_start_is_refused(tmp_path: Path) -> None:
    runtime, _, _ = build(tmp_path)
    with pytest.raises(Unavailable):
        await runtime.ready()
    with pytest.raises(Unavailable):
        await runtime.barrier([0], 1.0)
    assert await runtime.stop()


# -- trimming


async def test_the_log_is_trimmed_behind_the_flushed_state(tmp_path: Path) -> None:
    config = RaftConfig(trim_bytes=20_000)
    async with running(tmp_path, config=config, wal={"segment_bytes": 10_000}) as (runtime, machine):
        for number in range(200):
            await machine.put(number % 4, b"%d" % number + b"x" * 1000)
        while runtime._trim_task is not None or runtime._disk_busy:
            await asyncio.sleep(0.005)
        assert machine.flushes
        assert set(machine.flushes) == {"raft-flush_0"}
        assert runtime._wal.size_bytes < 80_000
        assert sum(len(log) for log in runtime._wal.logs) < 150
    async with running(tmp_path, machine, config=config) as (_, machine):
        assert sum(len(values) for values in machine.values.values()) == 200


async def test_the_log_goes_on_while_the_state_is_flushed(tmp_path: Path) -> None:
    async with running(tmp_path, config=RaftConfig(trim_bytes=1000)) as (_, machine):
        release = threading.Event()

        def wait() -> None:
            release.wait(5)

        machine.on_flush = wait
        await machine.put(0, b"x" * 2000)
        for number in range(5):
            await machine.put(0, b"%d" % number)
        assert len(machine.flushes) == 1
        release.set()


async def test_a_state_that_cannot_be_flushed_ends_everything(tmp_path: Path) -> None:
    runtime, machine, fatal = build(tmp_path, config=RaftConfig(trim_bytes=1000))
    runtime.start()
    await runtime.ready()

    def fail() -> None:
        raise OSError(28, "full")

    machine.on_flush = fail
    machine.offer(0, b"x" * 2000)
    await asyncio.wait_for(fatal.happened.wait(), 5)
    assert isinstance(fatal.errors[0], OSError)
    assert await runtime.stop()


# -- several nodes


class Net:
    """Links between runtimes of one loop. Messages arrive in the next turn; a cut loses them."""

    def __init__(self, path: Path, count: int = 3) -> None:
        self.path = path
        self.ids = list(range(1, count + 1))
        self.cut: set[tuple[int, int]] = set()
        self.runtimes: dict[int, Runtime] = {}
        self.machines: dict[int, Machine] = {}
        self.fatals: dict[int, Fatal] = {}

    def start(self, node: int, machine: Machine | None = None) -> None:
        loop = asyncio.get_running_loop()

        def send(group: int, target: int, message: dict[str, Any]) -> None:
            def arrive() -> None:
                if target in self.runtimes and node in self.runtimes and (node, target) not in self.cut:
                    self.runtimes[target].receive(group, node, message)

            loop.call_soon(arrive)

        runtime, machine, fatal = build(
            self.path / str(node),
            machine,
            groups=2,
            node_id=node,
            members=tuple(Member(i, 0, True) for i in self.ids),
            config=FAST,
            send=send,
        )
        runtime.start()
        self.runtimes[node], self.machines[node], self.fatals[node] = runtime, machine, fatal
        for other in self.runtimes:
            if other != node:
                runtime.connected(other)
                self.runtimes[other].connected(node)

    async def stop(self, node: int) -> Machine:
        runtime = self.runtimes.pop(node)
        for other in self.runtimes.values():
            other.disconnected(node)
        assert await runtime.stop()
        assert self.fatals.pop(node).errors == []
        return self.machines.pop(node)

    async def leader(self, group: int = 0) -> int:
        async with asyncio.timeout(5):
            while True:
                for node, runtime in self.runtimes.items():
                    known = {other.leader(group) for other in self.runtimes.values()}
                    if runtime.is_leader(group) and known == {node}:
                        return node
                await asyncio.sleep(0.01)


@asynccontextmanager
async def cluster(path: Path) -> AsyncIterator[Net]:
    net = Net(path)
    for node in net.ids:
        net.start(node)
    await asyncio.wait_for(asyncio.gather(*[runtime.ready() for runtime in net.runtimes.values()]), 5)
    try:
        yield net
    finally:
        for node in list(net.runtimes):
            await net.stop(node)


async def test_three_nodes_apply_the_same_in_the_same_order(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        for group in (0, 1):
            leader = await net.leader(group)
            for number in range(20):
                await net.machines[leader].put(group, b"%d-%d" % (group, number))
        for node in net.ids:
            await net.runtimes[node].barrier([0, 1], 5.0)
        expected = {group: [b"%d-%d" % (group, number) for number in range(20)] for group in (0, 1)}
        assert [net.machines[node].values for node in net.ids] == [expected] * 3


async def test_when_the_leader_goes_another_takes_over_and_the_old_one_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        first = await net.leader()
        await net.machines[first].put(0, b"a")
        machine = await net.stop(first)
        second = await net.leader()
        assert second != first
        await net.machines[second].put(0, b"b")
        net.start(first, machine)
        await asyncio.wait_for(net.runtimes[first].ready(), 5)
        await net.runtimes[first].barrier([0], 5.0)
        assert machine.values[0] == [b"a", b"b"]


async def test_a_node_that_was_away_for_a_moment_finds_its_entries_in_the_log(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        leader = await net.leader()
        away = next(node for node in net.ids if node != leader)
        machine = await net.stop(away)
        for number in range(10):
            await net.machines[leader].put(0, b"%d" % number)
        runtime = net.runtimes[leader]
        await runtime._trim()
        log = runtime._wal.logs[0]
        assert log.base_index == 1
        runtime._config = RaftConfig(retain_bytes=200, pinned_bytes=200)
        await runtime._trim()
        assert 1 < log.base_index < log.last_index - 1
        runtime._config = FAST
        net.start(away, machine)
        wanted = asyncio.Event()
        runtime._snapshot_needed = lambda group, node: wanted.set()
        await asyncio.wait_for(wanted.wait(), 5)  # ... but not for ever


async def test_a_barrier_without_a_majority_fails(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        leader = await net.leader()
        others = [node for node in net.ids if node != leader]
        net.cut = {(node, leader) for node in others} | {(leader, node) for node in others}
        with pytest.raises(Unavailable):
            await net.runtimes[leader].barrier([0], 0.5)
        # One that is asked meanwhile is answered as soon as there is a leader again.
        waiting = asyncio.create_task(net.runtimes[leader].barrier([0], 30.0))
        await asyncio.sleep(0)
        net.cut.clear()
        await waiting
        await net.leader()


async def test_a_leader_whose_disk_hangs_gives_way_and_takes_part_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as net:
        leader = await net.leader()
        runtime = net.runtimes[leader]
        disk = runtime._disk
        assert disk is not None
        held: list[Any] = []
        submit = disk.submit
        monkeypatch.setattr(disk, "submit", held.append)
        stuck = asyncio.create_task(net.machines[leader].put(0, b"stuck"))
        others = [node for node in net.ids if node != leader]
        async with asyncio.timeout(20):
            while not any(net.runtimes[node].is_leader(0) for node in others):
                await asyncio.sleep(0.01)
        assert not runtime.is_leader(0)
        assert runtime.disk_busy_s() > 0
        new = next(node for node in others if net.runtimes[node].is_leader(0))
        await net.machines[new].put(0, b"goes on")
        monkeypatch.setattr(disk, "submit", submit)
        for batch in held:
            submit(batch)
        async with asyncio.timeout(20):
            while b"goes on" not in net.machines[leader].values.get(0, ()):
                await asyncio.sleep(0.01)
        stuck.cancel()
        assert not runtime._hindered


# -- a real process, killed


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.raft.test_runtime import running

async def main():
    async with running(Path(sys.argv[1])) as (_, machine):
        number = 0
        while True:
            number += 1
            await machine.put(number % 4, b"%d" % number)
            print(number, flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_process_acknowledged_is_there_after_the_restart(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    acknowledged = 0
    async with asyncio.timeout(30):
        async for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == 100:
                process.kill()
        await process.wait()
    assert acknowledged >= 100
    async with running(tmp_path) as (_, machine):
        values = {int(value) for applied in machine.values.values() for value in applied}
        assert values >= set(range(1, acknowledged + 1))
