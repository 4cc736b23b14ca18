"""What the simulation stands on: virtual time, links and disks that behave as they say."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.disk import Disk
from tests.simulation.loop import ProcessClock, ProcessLoop, Scheduler, Spin
from tests.simulation.network import Network, SimLinks
from wukong.raft.log import ENTRY, Record


def process(scheduler: Scheduler, **options: Any) -> tuple[ProcessLoop, list[str]]:
    faults: list[str] = []
    return ProcessLoop(scheduler, "p", lambda text, error: faults.append(text), **options), faults


# -- time


def test_time_passes_only_as_timers_say() -> None:
    scheduler = Scheduler()
    loop, faults = process(scheduler)
    seen: list[float] = []

    async def work() -> None:
        await asyncio.sleep(10)
        seen.append(scheduler.now)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(60)
        seen.append(scheduler.now)

    loop.create_task(work())
    scheduler.run(100.0)
    assert (seen, faults, scheduler.now) == ([10.0, 15.0], [], 100.0)


def test_a_process_that_stands_still_does_later_what_was_due_in_order() -> None:
    scheduler = Scheduler()
    loop, _ = process(scheduler, start_s=1.0)
    seen: list[tuple[int, float]] = []
    for number in (1, 2, 3):
        loop.call_later(number, lambda number=number: seen.append((number, scheduler.now)))
    scheduler.run(1.5)
    loop.hold()
    scheduler.run(5.0)
    loop.resume()
    scheduler.run(6.0)
    assert seen == [(1, 1.0), (2, 5.0), (3, 5.0)]


def test_a_process_that_goes_on_hears_what_has_arrived_before_it_looks_at_the_clock() -> None:
    scheduler = Scheduler()
    loop, _ = process(scheduler, start_s=1.0)
    seen: list[str] = []
    loop.call_later(1.0, seen.append, "timer")
    scheduler.at(2.0, seen.append, "arrived", loop=loop)
    loop.hold()
    scheduler.run(3.0)
    loop.resume()
    scheduler.run(4.0)
    assert seen == ["arrived", "timer"]


def test_a_killed_process_never_runs_again_not_even_to_clean_up() -> None:
    scheduler = Scheduler()
    loop, faults = process(scheduler)
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("cleaned up")

    task = loop.create_task(work())
    scheduler.run(0.5)
    loop.kill()
    scheduler.run(10.0)
    assert (seen, faults, task.done()) == ([], [], False)
    task.get_coro().close()


def test_a_clock_may_run_fast_and_its_wall_may_jump() -> None:
    scheduler = Scheduler()
    loop, _ = process(scheduler, rate=1.5, start_s=100.0)
    clock = ProcessClock(loop, 1_000_000)
    seen: list[float] = []
    loop.call_later(3.0, lambda: seen.append(scheduler.now))
    scheduler.run(4.0)
    assert (seen, clock.monotonic(), clock.now_ms()) == ([2.0], 106.0, 1_004_000)
    clock.jump(-5_000)
    assert (clock.monotonic(), clock.now_ms()) == (106.0, 999_000)


def test_what_a_process_lets_fall_is_told() -> None:
    scheduler = Scheduler()
    loop, faults = process(scheduler)

    async def work() -> None:
        raise ValueError("oh")

    loop.create_task(work())
    loop.call_soon(lambda: 1 / 0)
    scheduler.run(1.0)
    loop.sweep()
    assert len(faults) == 2
    assert loop.tasks == []


def test_a_loop_that_never_waits_is_found() -> None:
    scheduler = Scheduler()
    loop, _ = process(scheduler)

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(Spin):
        scheduler.run(1.0)


# -- links


class Heard:
    """A handler that writes down what it hears."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def connected(self, node: int) -> None:
        self.told.append(("connected", node))

    def disconnected(self, node: int) -> None:
        self.told.append(("disconnected", node))

    def facts(self, node: int, facts: Any) -> bool:
        self.told.append(("facts", node, facts))
        return True

    def received(self, node: int, kind: int, group: int, body: Any) -> None:
        self.told.append(body)


def pair() -> tuple[Scheduler, Network, dict[int, SimLinks], dict[int, Heard]]:
    scheduler = Scheduler()
    network = Network(scheduler, random.Random(7), lambda *told: None)
    links, heard = {}, {}
    for node in (1, 2):
        links[node] = SimLinks(network, node, process(scheduler)[0])
        heard[node] = links[node].handler = Heard()
        links[node].set_facts({"node": node})
    for node in (1, 2):
        links[node].set_peers({1: ("a", 1), 2: ("b", 2)})
    scheduler.run(2.0)
    assert {("connected", 2), ("connected", 1)} <= {
        each for told in heard.values() for each in told.told if len(each) == 2
    }
    for each in heard.values():
        each.told.clear()
    return scheduler, network, links, heard


def test_a_link_keeps_the_order_and_shares_no_object() -> None:
    scheduler, _, links, heard = pair()
    body = {"data": b"x", "list": [1]}
    assert links[1].send(2, 1, 0, body)
    body["list"] = [2]
    for number in range(20):
        assert links[1].send(2, 1, 0, number)
    scheduler.run(3.0)
    assert heard[2].told == [{"data": b"x", "list": [1]}, *range(20)]


def test_a_short_cut_holds_back_and_a_long_one_breaks() -> None:
    scheduler, network, links, heard = pair()
    assert network.cut_direction(1, 2)
    links[1].send(2, 1, 0, "late")
    scheduler.run(scheduler.now + 0.5)
    assert heard[2].told == []
    network.mend(1, 2)
    scheduler.run(scheduler.now + 0.5)
    assert heard[2].told == ["late"]
    network.cut_direction(1, 2)
    links[1].send(2, 1, 0, "lost")
    scheduler.run(scheduler.now + 5.0)
    assert heard[1].told[-1] == ("disconnected", 2)
    assert not links[1].send(2, 1, 0, "not sent")
    network.mend(1, 2)
    scheduler.run(scheduler.now + 2.0)
    assert ("connected", 2) in heard[1].told and "lost" not in heard[2].told


def test_a_dead_node_is_noticed_at_once_or_by_its_silence() -> None:
    for told, within_s in ((True, 0.1), (False, 3.0)):
        scheduler, network, links, heard = pair()
        links[2].loop.kill()
        network.died(2, told=told)
        scheduler.run(scheduler.now + within_s)
        assert ("disconnected", 2) in heard[1].told


# -- disks


def open_disk(tmp_path: Path) -> tuple[Disk, Any]:
    scheduler = Scheduler()
    disk = Disk(scheduler, random.Random(3), tmp_path, 77)
    return disk, disk.open(node_id=1, group_count=1, segment_bytes=1 << 20, rewrite_bytes=100)


def test_a_power_loss_takes_what_was_not_synced(tmp_path: Path) -> None:
    disk, wal = open_disk(tmp_path)
    kept = disk.synced.copy()
    wal.append([Record(ENTRY, 0, 2, 1, b"\x00synced")])
    wal.write(wal.take())  # without the disk at work nothing is noted as synced
    assert disk.synced == kept
    lengths = set()
    for _ in range(40):
        disk.rng.seed(len(lengths) + _)
        path = next((tmp_path / "wal").glob("*.wal"))
        before = path.read_bytes()
        disk.killed(power_lost=True)
        lengths.add(path.stat().st_size)
        path.write_bytes(before)
    assert len(lengths) > 3 and min(lengths) == kept[path.stat().st_ino]


def test_a_full_disk_fails_every_write_and_flush(tmp_path: Path) -> None:
    disk, wal = open_disk(tmp_path)
    loop, _ = process(disk.scheduler)
    told: list[BaseException | None] = []
    writer = disk.thread(wal, None, loop, told.append)
    wal.append([Record(ENTRY, 0, 2, 1, b"\x00entry")])
    disk.is_full = True
    writer.submit(wal.take())
    disk.scheduler.run(1.0)
    assert isinstance(told[0], OSError)
    with pytest.raises(OSError, match="space"):
        disk.store.flush()


def test_the_store_loses_a_suffix_of_its_batches(tmp_path: Path) -> None:
    left = set()
    for seed in range(20):
        (tmp_path / str(seed)).mkdir()
        disk, _ = open_disk(tmp_path / str(seed))
        disk.rng.seed(seed)
        for number in range(5):
            disk.store.write({b"%d" % number: b"x"})
            if number == 1:
                disk.store.flush()
        disk.killed(power_lost=True)
        rows = [key for key, _ in disk.store.scan(b"", b"9")]
        assert rows == [b"0", b"1", b"2", b"3", b"4"][: len(rows)] and len(rows) >= 2
        left.add(len(rows))
    assert left == {2, 3, 4, 5}
