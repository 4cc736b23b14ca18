"""How long does a cluster of three not take writes when a node goes, and what does a node that comes and goes disturb?

    python benchmarks/failover.py [--kills 50] [--freezes 20] [--stops 10] [--flaps 20] [--slots 16]

kill   the node that leads most slots is killed with -9. For each slot it led: time until the first pair (add a member,
       send a message), begun after the kill over the API of the nodes that are left, has succeeded. The slowest slot
       counts.
freeze the same with SIGSTOP, as of a machine that vanished: no connection is reset, so the others find out by silence.
stop   the same node gets SIGTERM. A writer per slot goes on all the time through the other nodes; the longest time
       between two of its successes counts. Without a stop it is measured too.
flap   the ways to a node are cut and healed, then its process is paused and resumed, again and again. Counted: changes
       of leader or term in slots that others lead. There should be none.

The generator, three nodes and their disk share one machine; times hold for that.
"""

import argparse
import asyncio
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.cluster import ClusterProcesses, NodeProcess  # noqa: E402
from tests.support.http import NO_ANSWER, Api, ApiError  # noqa: E402

CALL_TIMEOUT_S = 2.0
GIVE_UP_S = 30.0
WRITE_EVERY_S = 0.02
STEADY_S = 2.0
BALANCED_TIMEOUT_S = 90.0


class Writers:
    """A channel in every slot. nodes: whose API is used, in turns."""

    def __init__(self, cluster: ClusterProcesses, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http
        self.channels: dict[int, str] = {}
        number = 0
        while len(self.channels) < cluster.slot_count:
            number += 1
            self.channels.setdefault(cluster.slot(f"channel-{number}"), f"channel-{number}")
        self._numbers = 0

    async def create(self) -> None:
        for channel in self.channels.values():
            await self._api(next(iter(self.cluster))).create(channel, ["a"])

    def _api(self, node: NodeProcess) -> Api:
        return Api(node.http_url, self.http)

    async def pair(self, slot: int, node: NodeProcess) -> None:
        """Raises what a call raises."""
        self._numbers += 1
        channel = self.channels[slot]
        await self._api(node).add(channel, [f"u{self._numbers}"])
        await self._api(node).send("a", channel, b"after the add")
        # The list stays short, whatever the number of kills.
        if self._numbers % 50 == 0:
            await self._api(node).add(channel, ["a"], reset=True)

    async def until_written(self, slot: int, nodes: Sequence[NodeProcess], since: float) -> float:
        """Seconds from `since` to the first success."""
        turn = slot
        while time.monotonic() - since < GIVE_UP_S:
            turn += 1
            try:
                await self.pair(slot, nodes[turn % len(nodes)])
            except (*NO_ANSWER, ApiError):
                await asyncio.sleep(0.005)
            else:
                return time.monotonic() - since
        return math.inf

    async def longest_gap(self, slot: int, nodes: Sequence[NodeProcess], stop: asyncio.Event) -> float:
        """The longest time between two successes until told to stop."""
        longest, last, turn = 0.0, time.monotonic(), slot
        while not stop.is_set():
            turn += 1
            try:
                await self.pair(slot, nodes[turn % len(nodes)])
            except (*NO_ANSWER, ApiError):
                await asyncio.sleep(0.005)
                continue
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await asyncio.sleep(WRITE_EVERY_S)
        return max(longest, time.monotonic() - last)


async def settle(cluster: ClusterProcesses) -> None:
    """All nodes are well and lead about equally many slots; a node that came back gets its share after a while."""
    await asyncio.to_thread(cluster.wait_healthy)
    await asyncio.to_thread(cluster.wait_leaders, BALANCED_TIMEOUT_S, balanced=True)


async def kills(cluster: ClusterProcesses, writers: Writers, count: int, *, frozen: bool = False) -> dict[str, Any]:
    what = "freeze" if frozen else "kill"
    slowest: list[float] = []
    each: list[float] = []
    for number in range(count):
        await asyncio.to_thread(cluster.wait_healthy)
        await asyncio.to_thread(cluster.wait_leaders)
        victim = cluster[await asyncio.to_thread(cluster.busiest_leader)]
        slots = await asyncio.to_thread(cluster.led_by, victim.node_id)
        left = [node for node in cluster if node is not victim]
        began = time.monotonic()
        if frozen:
            victim.pause()
        else:
            victim.signal(signal.SIGKILL)
        times = await asyncio.gather(*(writers.until_written(slot, left, began) for slot in slots))
        each += times
        slowest.append(max(times))
        told = f"{what} {number}: node {victim.node_id} led {len(slots)}, {max(times):.2f} s"
        print(told, file=sys.stderr, flush=True)
        if frozen:
            victim.resume()
        else:
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
    return {f"{what}s": count, "all_slots_s": spread(slowest), "each_slot_s": spread(each)}


async def gap(cluster: ClusterProcesses, writers: Writers, victim: NodeProcess, *, stopping: bool) -> float:
    """Longest gap of any slot, of writers that use the other nodes."""
    left = [node for node in cluster if node is not victim]
    stop = asyncio.Event()
    writing = [asyncio.create_task(writers.longest_gap(slot, left, stop)) for slot in writers.channels]
    await asyncio.sleep(STEADY_S)
    if stopping:
        code = await asyncio.to_thread(victim.stop)
        assert code == 0, victim.log_tail()
    await asyncio.sleep(STEADY_S)
    stop.set()
    return max(await asyncio.gather(*writing))


async def stops(cluster: ClusterProcesses, writers: Writers, count: int) -> dict[str, Any]:
    with_stop: list[float] = []
    without: list[float] = []
    for number in range(count):
        await asyncio.to_thread(cluster.wait_healthy)
        await asyncio.to_thread(cluster.wait_leaders)
        victim = cluster[await asyncio.to_thread(cluster.busiest_leader)]
        without.append(await gap(cluster, writers, victim, stopping=False))
        with_stop.append(await gap(cluster, writers, victim, stopping=True))
        print(f"stop {number}: {with_stop[-1]:.2f} s, without {without[-1]:.2f} s", file=sys.stderr, flush=True)
        await asyncio.to_thread(victim.start)
    return {"stops": count, "longest_gap_s": spread(with_stop), "without_a_stop_s": spread(without)}


async def flaps(cluster: ClusterProcesses, count: int, rng: random.Random) -> dict[str, Any]:
    await settle(cluster)
    flapping = cluster[rng.choice(list(cluster.nodes))]
    witness = next(node for node in cluster if node is not flapping)
    links = cluster.links

    async def seen() -> dict[int, tuple[int, int]]:
        slots = await asyncio.to_thread(witness.slots)
        return {each.slot: (each.leader, each.term) for each in slots if each.leader != flapping.node_id}

    row: dict[str, Any] = {"flaps": count}
    for name in ("cut", "pause"):
        await settle(cluster)
        before = await seen()
        changes: list[str] = []
        for _ in range(count):
            if name == "cut":
                links.cut(links.around(flapping.node_id))
            else:
                flapping.pause()
            await asyncio.sleep(rng.uniform(0.1, 3.0))
            if name == "cut":
                links.heal()
            else:
                flapping.resume()
            await asyncio.sleep(rng.uniform(0.1, 1.0))
            now = await seen()
            changes += [
                f"slot {slot}: {before[slot]} to {now.get(slot)}" for slot in before if now.get(slot) != before[slot]
            ]
            before = {slot: now.get(slot, before[slot]) for slot in before}
        row[f"{name}_leader_changes"] = len(changes)
        for change in changes[:10]:
            print(f"{name}: {change}", file=sys.stderr, flush=True)
    return row


def spread(values: list[float]) -> dict[str, float]:
    """Seconds: median, 99th percentile (the highest of fewer than a hundred), highest."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "p50": round(ordered[last // 2], 3),
        "p99": round(ordered[min(last, math.ceil(0.99 * len(ordered)) - 1)], 3),
        "max": round(ordered[-1], 3),
    }


async def measure(directory: Path, options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    cluster = ClusterProcesses(directory, settings={"wukong": {"slotCount": options.slots}})
    try:
        await asyncio.to_thread(cluster.start)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            writers = Writers(cluster, http)
            await writers.create()
            await settle(cluster)
            if options.flaps:
                print(json.dumps(await flaps(cluster, options.flaps, rng)), flush=True)
            if options.stops:
                print(json.dumps(await stops(cluster, writers, options.stops)), flush=True)
            if options.freezes:
                print(json.dumps(await kills(cluster, writers, options.freezes, frozen=True)), flush=True)
            if options.kills:
                print(json.dumps(await kills(cluster, writers, options.kills)), flush=True)
        await asyncio.to_thread(cluster.stop)
        for complaint in cluster.complaints():
            print(complaint, file=sys.stderr)
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--freezes", type=int, default=20)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--flaps", type=int, default=20)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(json.dumps({"seed": options.seed, "slots": options.slots}), flush=True)
    directory = Path(tempfile.mkdtemp(prefix="wukong-failover-"))
    try:
        asyncio.run(measure(directory, options))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
