"""Load on three nodes, a fault in the middle of it, and a judgement when it is healed; as often as you like.

One cycle: fresh rooms, and in them people who send, a back end that adds and removes others and sends right behind each
Ok through another node, and readers of lists; calls and connections are spread over all nodes. A fault is done to nodes
or to the ways between them, and undone. Then nobody may be stuck: everybody gets a message that is sent to him through
every node and every slot. The journal is judged: nothing acknowledged lost, nothing doubled, no gap, one order, no
subscriber missed, lists linearizable, nobody online who is not. At the end all rooms are read once more, after a
restart of all nodes.

    python -m tests.cluster.nemesis --cycles 200 [--seed N] [--faults kill,pause] [--keep-going]
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.cluster.load import Load, Person
from tests.cluster.record import Journal, RoomRecord, check, ghosts
from tests.support.cluster import ClusterProcesses, NodeProcess
from tests.support.http import NO_ANSWER, ApiError
from tests.support.proxy import STALL, SWALLOW
from tests.support.wire import Client, fence, unique

SETTINGS: dict[str, Any] = {
    "cluster": {"reqTimeout": "3s"},
    # Small segments, so that kills also hit where one follows the other.
    "wukong": {"slotCount": 6, "walSegmentBytes": "1MiB"},
}
WARM_UP_S = (0.4, 1.2)
COOL_DOWN_S = 0.8
HEALTHY_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 40.0
GHOST_TIMEOUT_S = 20.0
LASTING_CHECKED_EVERY = 20

Fault = Callable[["Nemesis"], Awaitable[str]]


class Nemesis:
    def __init__(self, cluster: ClusterProcesses, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.load = Load(cluster, rng)
        self.totals: Counter[str] = Counter()
        self.faults: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self._settled: list[RoomRecord] = []

    async def start(self) -> None:
        await asyncio.to_thread(self.cluster.start)

    def next_node(self) -> NodeProcess:
        return self.rng.choice(list(self.cluster))

    # -- one cycle

    async def cycle(self, name: str) -> dict[str, Any]:
        """A row of figures. The faults found are in `faults` too."""
        number = self.totals["cycles"]
        before = Counter(self.load.tally.counts)
        found: list[str] = []
        await self.load.begin(number)
        await asyncio.sleep(self.rng.uniform(*WARM_UP_S))
        began = time.monotonic()
        told, healed, well_s = "", began, 0.0
        try:
            told = await FAULTS[name](self)
            healed = time.monotonic()
            await asyncio.to_thread(self.cluster.wait_healthy, HEALTHY_TIMEOUT_S)
            well_s = time.monotonic() - healed
            await asyncio.sleep(COOL_DOWN_S)
        except AssertionError as error:
            found.append(f"not well: {error}")
        await self.load.end()
        if found:
            await self._begin_anew()
        else:
            found += await self._probe()
            found += await self.load.wait_for_apps(PROBE_TIMEOUT_S)
        if not found:
            found += await self._look_for_ghosts()
            found += await self._judge(number)
        found += self.load.tally.faults
        self.load.tally.faults = []
        for person in self.load.present:
            if person.client is not None and person.client.faults:
                found += [f"{person.uid} ({person.kind}): {fault}" for fault in person.client.faults]
                person.client.faults = []
        counts = self.load.tally.counts - before
        self.totals += counts
        self.totals["cycles"] += 1
        self.totals[f"fault: {name}"] += 1
        row = {
            "cycle": number,
            "fault": name,
            "told": told,
            "fault_s": round(healed - began, 2),
            "well_s": round(well_s, 2),
            "longest_gap_s": round(self.load.tally.longest_s, 2),
            "counts": dict(counts),
            "faults": found,
        }
        self.rows.append(row)
        self.faults += [f"cycle {number}, {name} ({told}): {fault}" for fault in found]
        return row

    async def _begin_anew(self) -> None:
        """After a failure that would spoil all that follows."""
        self.cluster.links.heal()
        await asyncio.to_thread(self.cluster.kill)
        await asyncio.to_thread(self.cluster.start)

    async def _probe(self) -> list[str]:
        """Everybody is connected, or comes back, and gets what is sent to him now, by all nodes and in every slot."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                while True:
                    for person in self.load.everybody:
                        await person.is_home.wait()
                    present = [person for person in self.load.present if person.client is not None]
                    clients = [person.client for person in present if person.client is not None]
                    sent = time.monotonic()
                    try:
                        await fence(self.load.api_of_all(), clients)
                    except (*NO_ANSWER, ApiError):
                        # Closed meanwhile, so he comes back; or a node that is not as well as it said.
                        await asyncio.sleep(0.1)
                        continue
                    break
        except TimeoutError:
            return self._who_is_stuck()
        for person, client in zip(present, clients, strict=True):
            if person.client is client and person.stay is not None:
                person.stay.complete_until = sent
        return []

    def _who_is_stuck(self) -> list[str]:
        def told(person: Person) -> str:
            client: Client | None = person.client
            if client is None:
                return "not connected"
            assert person.stay is not None
            return (
                f"connected to node {person.stay.node}, {len(client._fences)} fences came, the last messages: "
                + str(client.received[-1:])
            )

        health = {node.node_id: node.why_unhealthy() or "well" for node in self.cluster}
        return [
            f"STUCK: a message to everybody did not arrive within {PROBE_TIMEOUT_S} s; nodes: {health}; "
            + "; ".join(f"{person.uid} ({person.kind}): {told(person)}" for person in self.load.present)
        ]

    async def _look_for_ghosts(self) -> list[str]:
        """Every node lists exactly those who are connected."""
        deadline = time.monotonic() + GHOST_TIMEOUT_S
        uids = [person.uid for person in (*self.load.everybody, *self.load.lurkers)]
        while True:
            found: list[str] = []
            for node in self.cluster:
                try:
                    listed = Counter(each["uid"] for each in await self.load.api(node).online(uids) if each["online"])
                except (*NO_ANSWER, ApiError) as error:
                    found.append(f"node {node.node_id} does not say who is online: {error!r}")
                    continue
                connected = {person.uid: 1 for person in self.load.present if person.client is not None}
                found += [f"GHOST: {fault}" for fault in ghosts(node.node_id, listed, connected)]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.2)

    async def _judge(self, number: int) -> list[str]:
        with_lasting = number % LASTING_CHECKED_EVERY == LASTING_CHECKED_EVERY - 1
        try:
            await self.load.read_histories(self.load.rooms)
            if with_lasting:
                await self.load.read_histories([self.load.lasting])
        except (*NO_ANSWER, ApiError) as error:
            return [f"a well cluster does not show its histories: {error!r}"]
        self._settled += self.load.rooms
        found = _told(check(self.load.journal))
        if with_lasting:
            found += self._judge_lasting()
        return found

    def _judge_lasting(self) -> list[str]:
        found = check(Journal({"lasting": self.load.lasting}))
        return _told({name: faults for name, faults in found.items() if name != "reads"})

    # -- the end

    async def finish(self) -> list[str]:
        """A stop of all, a start, and everything once more from the first message on."""
        found: list[str] = []
        codes = await asyncio.to_thread(self.cluster.stop)
        if codes != [0] * len(codes):
            found.append(f"exit codes {codes}")
        await asyncio.to_thread(self.cluster.start)
        rooms = [*self._settled, self.load.lasting]
        for room in rooms:
            # The lists were judged in their cycles.
            room.reads = []
        await self.load.read_histories(rooms)
        found += _told(check(Journal({room.id: room for room in rooms})))
        self.totals["messages stored"] = sum(len(room.stored[1]) for room in rooms)
        codes = await asyncio.to_thread(self.cluster.stop)
        if codes != [0] * len(codes):
            found.append(f"exit codes {codes}")
        found += self.cluster.complaints()
        self.faults += found
        return found


def _told(found: dict[str, list[str]]) -> list[str]:
    return [f"{name}: {fault}" for name, faults in found.items() for fault in faults[:10]] + [
        f"{name}: {len(faults)} in all" for name, faults in found.items() if len(faults) > 10
    ]


# -- faults: each does its harm, waits, and undoes it; it tells what it did


def _victim(nemesis: Nemesis, *, leader: bool) -> NodeProcess:
    """The node that leads most slots, or one that leads fewer."""
    busiest = nemesis.cluster.busiest_leader()
    if leader:
        return nemesis.cluster[busiest]
    return nemesis.cluster[nemesis.rng.choice([node.node_id for node in nemesis.cluster if node.node_id != busiest])]


async def _chosen(nemesis: Nemesis, *, leader: bool) -> NodeProcess:
    return await asyncio.to_thread(lambda: _victim(nemesis, leader=leader))


async def _kill(nemesis: Nemesis, *, leader: bool) -> str:
    node = await _chosen(nemesis, leader=leader)
    away_s = nemesis.rng.choice((0.0, nemesis.rng.uniform(0.2, 1.5), nemesis.rng.uniform(1.5, 4.0)))
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(away_s)
    node.launch()
    return f"node {node.node_id} away for {away_s:.1f} s"


async def _kill_all(nemesis: Nemesis) -> str:
    for node in nemesis.cluster:
        node.signal(signal.SIGKILL)
    await asyncio.to_thread(nemesis.cluster.kill)
    await asyncio.sleep(nemesis.rng.uniform(0.0, 0.5))
    for node in nemesis.cluster:
        node.launch()
        await asyncio.sleep(nemesis.rng.choice((0.0, 0.3)))
    return "all nodes"


async def _kill_two(nemesis: Nemesis) -> str:
    """The majority is gone: nothing may be acknowledged until one is back."""
    first = await _chosen(nemesis, leader=True)
    second = nemesis.rng.choice([node for node in nemesis.cluster if node is not first])
    for node in (first, second):
        await asyncio.to_thread(node.kill)
    await asyncio.sleep(nemesis.rng.uniform(0.2, 5.0))
    for node in (first, second):
        node.launch()
        await asyncio.sleep(nemesis.rng.uniform(0.0, 0.5))
    return f"nodes {first.node_id} and {second.node_id}"


async def _pause(nemesis: Nemesis, *, leader: bool) -> str:
    node = await _chosen(nemesis, leader=leader)
    paused_s = nemesis.rng.choice((nemesis.rng.uniform(0.5, 1.5), nemesis.rng.uniform(1.5, 6.0)))
    node.pause()
    await asyncio.sleep(paused_s)
    node.resume()
    return f"node {node.node_id} for {paused_s:.1f} s"


async def _plan(nemesis: Nemesis) -> str:
    node = await _chosen(nemesis, leader=True)
    code = await asyncio.to_thread(node.stop)
    assert code == 0, f"node {node.node_id} stopped with code {code}\n{node.log_tail()}"
    await asyncio.sleep(nemesis.rng.uniform(0.0, 1.5))
    node.launch()
    return f"node {node.node_id}"


async def _roll(nemesis: Nemesis) -> str:
    await asyncio.to_thread(nemesis.cluster.restart_one_after_the_other)
    return "all nodes"


async def _cut(nemesis: Nemesis, *, leader: bool) -> str:
    """Resets and refusals around one node: it is told that it is alone."""
    node = await _chosen(nemesis, leader=leader)
    links = nemesis.cluster.links
    cut_s = nemesis.rng.uniform(0.5, 7.0)
    links.cut(links.around(node.node_id))
    await asyncio.sleep(cut_s)
    links.heal()
    return f"node {node.node_id} for {cut_s:.1f} s"


async def _silence(nemesis: Nemesis, *, leader: bool) -> str:
    """Nothing comes and nothing goes, and nobody says so."""
    node = await _chosen(nemesis, leader=leader)
    links = nemesis.cluster.links
    mode = nemesis.rng.choice((STALL, SWALLOW))
    silent_s = nemesis.rng.uniform(0.5, 7.0)
    links.block(links.around(node.node_id), mode)
    await asyncio.sleep(silent_s)
    links.heal()
    return f"node {node.node_id}, {mode}, for {silent_s:.1f} s"


async def _deafen(nemesis: Nemesis, *, mute: bool) -> str:
    """One direction: a node that hears nothing, or that is not heard; from all others or from one."""
    node = (await _chosen(nemesis, leader=nemesis.rng.random() < 0.7)).node_id
    links = nemesis.cluster.links
    mode = nemesis.rng.choice((STALL, SWALLOW))
    others = [each.node_id for each in nemesis.cluster if each.node_id != node]
    if nemesis.rng.random() < 0.4:
        others = [nemesis.rng.choice(others)]
    pairs = [(node, other) if mute else (other, node) for other in others]
    silent_s = nemesis.rng.uniform(0.5, 6.0)
    links.block(pairs, mode)
    await asyncio.sleep(silent_s)
    links.heal()
    return f"{pairs}, {mode}, for {silent_s:.1f} s"


async def _part_one_pair(nemesis: Nemesis) -> str:
    """Two nodes do not reach each other, and the third reaches both."""
    one, other = nemesis.rng.sample([node.node_id for node in nemesis.cluster], 2)
    links = nemesis.cluster.links
    pairs = [(one, other), (other, one)]
    parted_s = nemesis.rng.uniform(1.0, 6.0)
    if nemesis.rng.random() < 0.5:
        links.cut(pairs)
    else:
        links.block(pairs)
    await asyncio.sleep(parted_s)
    links.heal()
    return f"nodes {one} and {other} for {parted_s:.1f} s"


async def _reset_links(nemesis: Nemesis) -> str:
    links = nemesis.cluster.links
    count = nemesis.rng.randint(3, 12)
    for _ in range(count):
        links.reset(nemesis.rng.sample(links.pairs(), nemesis.rng.randint(1, 6)))
        await asyncio.sleep(nemesis.rng.uniform(0.0, 0.4))
    return f"{count} times"


async def _slow_links(nemesis: Nemesis) -> str:
    links = nemesis.cluster.links
    delay_s = nemesis.rng.uniform(0.02, 0.4)
    pairs = nemesis.rng.sample(links.pairs(), nemesis.rng.randint(1, 6))
    links.delay(pairs, delay_s)
    await asyncio.sleep(nemesis.rng.uniform(1.0, 4.0))
    links.heal()
    return f"{len(pairs)} ways by {delay_s * 1000:.0f} ms"


async def _flap(nemesis: Nemesis) -> str:
    """A way that comes and goes faster than anybody can settle."""
    node = nemesis.next_node().node_id
    links = nemesis.cluster.links
    for _ in range(8):
        links.cut(links.around(node))
        await asyncio.sleep(nemesis.rng.uniform(0.05, 0.5))
        links.heal()
        await asyncio.sleep(nemesis.rng.uniform(0.05, 0.5))
    return f"node {node}"


async def _lose_disk(nemesis: Nemesis) -> str:
    """Its votes and what it acknowledged are gone; the others have everything."""
    node = await _chosen(nemesis, leader=nemesis.rng.random() < 0.5)
    disk = await asyncio.to_thread(node.disk)
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(shutil.rmtree, node.data_dir)
    node.launch()
    await asyncio.to_thread(nemesis.cluster.wait_taken_in, node, disk)
    return f"node {node.node_id}"


async def _move_leaders(nemesis: Nemesis) -> str:
    """On purpose, back and forth, faster than they settle."""
    moves = 0
    for _ in range(12):
        node = nemesis.next_node()
        slot, target = nemesis.rng.randrange(nemesis.cluster.slot_count), nemesis.next_node().node_id
        with contextlib.suppress(*NO_ANSWER, ApiError):
            await nemesis.load.api(node).post("/cluster/transfer", {"slot": slot, "node": target})
            moves += 1
        await asyncio.sleep(nemesis.rng.uniform(0.0, 0.3))
    return f"{moves} times"


async def _pause_then_kill(nemesis: Nemesis) -> str:
    """The second fault comes before the first is over; one node has everything."""
    first = await _chosen(nemesis, leader=True)
    second = nemesis.rng.choice([node for node in nemesis.cluster if node is not first])
    first.pause()
    await asyncio.sleep(nemesis.rng.uniform(0.5, 3.0))
    await asyncio.to_thread(second.kill)
    await asyncio.sleep(nemesis.rng.uniform(0.2, 1.5))
    first.resume()
    await asyncio.sleep(nemesis.rng.uniform(0.0, 2.0))
    second.launch()
    return f"node {first.node_id} paused, then node {second.node_id} killed"


FAULTS: dict[str, Fault] = {
    "kill-leader": lambda nemesis: _kill(nemesis, leader=True),
    "kill-follower": lambda nemesis: _kill(nemesis, leader=False),
    "kill-two": _kill_two,
    "kill-all": _kill_all,
    "pause-leader": lambda nemesis: _pause(nemesis, leader=True),
    "pause-follower": lambda nemesis: _pause(nemesis, leader=False),
    "pause-then-kill": _pause_then_kill,
    "planned-stop": _plan,
    "rolling-restart": _roll,
    "cut-leader": lambda nemesis: _cut(nemesis, leader=True),
    "cut-follower": lambda nemesis: _cut(nemesis, leader=False),
    "silence-leader": lambda nemesis: _silence(nemesis, leader=True),
    "silence-follower": lambda nemesis: _silence(nemesis, leader=False),
    "deaf": lambda nemesis: _deafen(nemesis, mute=False),
    "mute": lambda nemesis: _deafen(nemesis, mute=True),
    "part-pair": _part_one_pair,
    "reset-links": _reset_links,
    "slow-links": _slow_links,
    "flap": _flap,
    "move-leaders": _move_leaders,
    "lose-disk": _lose_disk,
}


def deck(rng: random.Random, names: list[str], count: int) -> list[str]:
    """Every fault comes as often as any other, in an order of chance."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(names, len(names))
    return drawn[:count]


async def run(
    directory: Path,
    names: list[str],
    seed: int,
    *,
    keep_going: bool = False,
    report: Callable[[dict[str, Any]], Any] = lambda row: None,
) -> Nemesis:
    """A cycle for each name. report: called after each. Ends at the first faults, unless told to keep going."""
    cluster = ClusterProcesses(directory, settings=SETTINGS, secret=unique("a-secret-of-the-test"))
    nemesis = Nemesis(cluster, random.Random(seed))
    try:
        await nemesis.start()
        async with nemesis.load.connected():
            for name in names:
                row = await nemesis.cycle(name)
                report(row)
                if row["faults"] and not keep_going:
                    return nemesis
            await nemesis.finish()
    finally:
        cluster.close()
    return nemesis


def line(row: dict[str, Any]) -> str:
    counts = row["counts"]
    return (
        f"{row['cycle']:4d} {row['fault']:<16} {row['told']:<44.44} well after {row['well_s']:5.2f} s, "
        f"gap {row['longest_gap_s']:5.2f} s; {counts.get('acknowledged', 0):5d} acked, {counts.get('changes', 0):4d} "
        f"changes, {counts.get('unanswered sends', 0) + counts.get('unanswered calls', 0):3d} open, "
        f"{len(row['faults'])} faults"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Break a cluster under load, again and again, and look for losses.")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--faults", default="", help="only those whose name begins so, separated by commas")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first faults")
    parser.add_argument("--directory", type=Path, help="where data and logs go and stay; by default a temporary one")
    options = parser.parse_args()
    if options.directory is not None and options.directory.exists():
        parser.error(f"{options.directory} exists; what an earlier run left there would be judged as well")
    print(f"seed {options.seed}", flush=True)
    wanted = tuple(options.faults.split(",")) if options.faults else ("",)
    names = deck(random.Random(options.seed), [name for name in FAULTS if name.startswith(wanted)], options.cycles)
    started = time.monotonic()

    def report(row: dict[str, Any]) -> None:
        print(line(row), flush=True)
        for fault in row["faults"]:
            print(f"     {fault}", flush=True)

    directory = options.directory or Path(tempfile.mkdtemp(prefix="wukong-nemesis-"))
    nemesis = asyncio.run(run(directory, names, options.seed, keep_going=options.keep_going, report=report))
    gaps = sorted(row["longest_gap_s"] for row in nemesis.rows)
    summary = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - started),
        "totals": dict(sorted(nemesis.totals.items())),
        "longest_gap_s": {"median": gaps[len(gaps) // 2], "max": gaps[-1]},
        "faults": nemesis.faults,
    }
    print(json.dumps(summary, indent=2))
    if nemesis.faults:
        print(f"data and logs: {directory}")
        return 1
    if options.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
