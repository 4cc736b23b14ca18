"""What do clients notice while a node takes over everything that a cluster holds?

    python -m benchmarks.catching_up [--messages 1000000] [--down-s 600] [--rate 500] [--pairs 50]

join   three nodes hold so many messages and go on under load (--pairs people send --rate messages a second in all,
       stored and encrypted); a fourth one starts with an empty disk. Until it votes in every slot.
down   one of the nodes is killed with -9, stays away for --down-s under the same load, and starts again. Until it takes
       clients and has applied what the others have.

Meanwhile: SENDACK latency of the load in windows of some seconds (the worst 99th percentile counts), the time that a
PONG takes at every node that takes clients, and how often a slot changed its leader (a newcomer gets
its share of them on purpose). The generator, the nodes and their
disk share one machine; times hold for that.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.cluster import ClusterProcesses, NodeProcess, merged  # noqa: E402
from tests.support.wire import Client, Kind, Unanswered, unique  # noqa: E402

PING_EVERY_S = 0.2
PING_TIMEOUT_S = 10.0
WINDOW_S = 8.0
POLL_S = 0.5
PING, PONG = 7, 8


class Pinger(Client):
    """A client that times its PINGs."""

    pongs = 0

    def _frame_in(self, frame_type: int, flags: int, body: bytes) -> None:
        if frame_type == PONG:
            self.pongs += 1
        else:
            super()._frame_in(frame_type, flags, body)

    async def ping(self) -> float:
        """Seconds until its PONG. Raises ConnectionError, TimeoutError."""
        began, wanted = time.monotonic(), self.pongs + 1
        self._write(bytes((PING << 4,)))
        await self.until(lambda: self.pongs >= wanted, PING_TIMEOUT_S)
        return time.monotonic() - began


class Watch:
    """Pings at every node, and leaders, for the time of one case."""

    def __init__(self, cluster: ClusterProcesses) -> None:
        self.cluster = cluster
        self.pongs: dict[int, list[float]] = {}
        self.leader_changes = 0
        self._is_over = False

    async def run(self) -> None:
        await asyncio.gather(self._leaders(), *(self._ping(node) for node in self.cluster))

    def end(self) -> None:
        self._is_over = True

    async def _ping(self, node: NodeProcess) -> None:
        client: Pinger | None = None
        while not self._is_over:
            try:
                if client is None:
                    client = Pinger(unique("pinger"), Kind.TCP)
                    await asyncio.wait_for(client.open("127.0.0.1", node.tcp_port), PING_TIMEOUT_S)
                self.pongs.setdefault(node.node_id, []).append(await client.ping())
            except (OSError, Unanswered, TimeoutError):
                # Dead, or it sheds its clients while it is behind: what it says of its health is not judged here.
                if client is not None:
                    client.abort()
                client = None
            await asyncio.sleep(PING_EVERY_S)
        if client is not None:
            client.abort()

    async def _leaders(self) -> None:
        before: dict[int, tuple[int, int]] = {}
        while not self._is_over:
            for node in self.cluster.running:
                try:
                    slots = await asyncio.to_thread(node.slots)
                except OSError:
                    continue
                for each in slots:
                    if each.leader:
                        last = before.get(each.slot)
                        if last is not None and each.term > last[1]:
                            self.leader_changes += 1
                        if last is None or each.term > last[1]:
                            before[each.slot] = (each.leader, each.term)
                break
            await asyncio.sleep(POLL_S)

    def row(self) -> dict[str, Any]:
        worst = {f"pong_max_ms_node_{node}": round(max(times) * 1000, 1) for node, times in sorted(self.pongs.items())}
        every = sorted(each for times in self.pongs.values() for each in times)
        return {
            **worst,
            "pong_p99_ms": round(every[int(len(every) * 0.99)] * 1000, 1) if every else None,
            "leader_changes": self.leader_changes,
        }


async def bench(nodes: list[NodeProcess], *arguments: str) -> dict[str, float]:
    """One run of the generator; its figures."""
    command = [sys.executable, "-m", "wukong", "bench", "closed", "--json", *arguments]
    command += ["--api", ",".join(node.http_url for node in nodes)]
    command += ["--tcp", ",".join(f"127.0.0.1:{node.tcp_port}" for node in nodes)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise SystemExit(err.decode())
    found: dict[str, float] = json.loads(out)["median"]
    return found


async def preload(nodes: list[NodeProcess], count: int) -> int:
    stored = 0
    while stored < count:
        figures = await bench(nodes, "--pairs", "100", "--window", "10", "--seconds", "20")
        stored += int(figures["sent"])
        print(f"{stored:,} of {count:,} messages", file=sys.stderr, flush=True)
    return stored


async def load_until(
    nodes: list[NodeProcess], load: tuple[str, ...], done: Callable[[], bool] | None, least_s: float = 0.0
) -> tuple[list[dict[str, float]], float]:
    """Windows of load until it is done; their figures and the seconds until then."""
    began = time.monotonic()
    windows: list[dict[str, float]] = []
    took: float | None = None
    while took is None or time.monotonic() - began < least_s:
        running = asyncio.create_task(bench(nodes, *load, "--seconds", str(WINDOW_S)))
        while not running.done():
            if took is None and (done is None or await asyncio.to_thread(done)):
                took = time.monotonic() - began
            await asyncio.wait([running], timeout=POLL_S)
        windows.append(running.result())
    return windows, took


def shown(windows: list[dict[str, float]]) -> dict[str, Any]:
    p99 = sorted(each["ack_p99_ms"] for each in windows)
    return {
        "windows": len(windows),
        "send_per_s": round(sum(each["acked_per_s"] for each in windows) / len(windows)),
        "ack_p99_ms_median": p99[len(p99) // 2],
        "ack_p99_ms_worst": p99[-1],
        "never_acked": sum(each.get("never_acked", 0) for each in windows),
    }


def votes_everywhere(cluster: ClusterProcesses, number: int) -> bool:
    try:
        slots = cluster[1].ask("/cluster/status")["slots"]
    except OSError:
        return False
    return all(any(each["node"] == number and each["voter"] for each in slot["members"]) for slot in slots)


def has_caught_up(node: NodeProcess, other: NodeProcess) -> bool:
    """Within a second's worth of the other's log, and it takes clients."""
    try:
        mine = {each.slot: each.applied for each in node.slots()}
        theirs = other.slots()
    except OSError:
        return False
    return node.is_healthy and all(each.applied - mine.get(each.slot, 0) < 100 for each in theirs)


async def watched(cluster: ClusterProcesses, work: Any) -> tuple[Any, dict[str, Any]]:
    watch = Watch(cluster)
    watching = asyncio.create_task(watch.run())
    try:
        return await work, watch.row()
    finally:
        watch.end()
        await asyncio.wait([watching], timeout=2 * PING_TIMEOUT_S)


async def measure(directory: Path, options: argparse.Namespace) -> None:
    cluster = ClusterProcesses(directory, 4, proxied=False)
    first = [cluster[number] for number in (1, 2, 3)]
    addresses = [f"{node.node_id}@127.0.0.1:{node.cluster_port}" for node in first]
    for node in first:
        node.settings = merged(node.settings, {"cluster": {"initNodes": addresses}})
    newcomer = cluster[4]
    newcomer.settings = merged(newcomer.settings, {"cluster": {"seed": addresses[0]}})
    del newcomer.settings["cluster"]["initNodes"]
    load = ("--pairs", str(options.pairs), "--window", "1", "--rate", str(options.rate))
    try:
        for node in first:
            node.launch()
        for node in first:
            await asyncio.to_thread(node.wait_ready)
        stored = await preload(first, options.messages)
        before, _ = await load_until(first, load, None, 3 * WINDOW_S)
        print(json.dumps({"case": "before", "messages": stored, **shown(before)}), flush=True)

        newcomer.launch()
        (windows, took), seen = await watched(cluster, load_until(first, load, lambda: votes_everywhere(cluster, 4)))
        print(
            json.dumps({"case": "join", "messages": stored, "took_s": round(took, 1), **shown(windows), **seen}),
            flush=True,
        )

        if options.down_s:
            others = [cluster[1], cluster[2]]
            cluster[3].kill()
            windows, _ = await load_until(others, load, None, options.down_s)
            print(json.dumps({"case": "away", **shown(windows)}), flush=True)
            cluster[3].launch()
            (windows, took), seen = await watched(
                cluster, load_until(others, load, lambda: has_caught_up(cluster[3], cluster[1]))
            )
            print(json.dumps({"case": "back", "took_s": round(took, 1), **shown(windows), **seen}), flush=True)
        for complaint in cluster.complaints():
            print(complaint, file=sys.stderr)
        await asyncio.to_thread(cluster.stop)
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--down-s", type=float, default=600.0, help="0: not this case")
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--pairs", type=int, default=50)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="wukong-catching-up-"))
    try:
        asyncio.run(measure(directory, options))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
