"""What does a whole node do, and what does it cost?

    python -m benchmarks.end_to_end [--nodes 3] [--repeat 3] [--only closed,latency,fanout,storm,idle] [--json FILE]

Every case has a server process of its own on an empty data directory (fsync on, everything encrypted and stored), and
the generator of `wukong bench` beside it. With --nodes 3 it is a cluster of three processes, clients and requests
spread over them, and figures of the server are those of all three together. Prints a row per figure: the median, the
lowest and the highest run, the goal and what the server we replace reached on this kind of machine with an independent
generator. Server and generator share the machine: the generator's own CPU is told, and figures of two machines are not
comparable.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.cluster import ClusterProcesses  # noqa: E402
from tests.support.server import ServerProcess  # noqa: E402

Figures = dict[str, float]


class Goal(NamedTuple):
    """figure: its name in the generator's output. sign: floor or ceiling. old: what the server we replace reached."""

    figure: str
    sign: str
    goal: float
    old: str


class Case(NamedTuple):
    name: str
    arguments: str
    goals: tuple[Goal, ...]


CASES = (
    Case(
        "closed, 100 pairs, window 1",
        "closed --pairs 100 --window 1",
        (
            Goal("acked_per_s", ">=", 4_400, "1,472"),
            Goal("ack_p50_ms", "<=", 25, "58"),
            Goal("server_us_per_msg", "<=", 150, "642"),
        ),
    ),
    Case(
        "closed, 100 pairs, window 10",
        "closed --pairs 100 --window 10",
        (
            Goal("acked_per_s", ">=", 6_500, "5,323"),
            Goal("ack_p50_ms", "<=", 150, "178"),
            Goal("server_us_per_msg", "<=", 150, "243"),
        ),
    ),
    Case(
        "closed, 1 pair, window 1",
        "closed --pairs 1 --window 1",
        (Goal("acked_per_s", ">=", 670, "669"), Goal("ack_p50_ms", "<=", 1.5, "1.05")),
    ),
    Case(
        "latency, 20 messages/s",
        "latency --rate 20",
        (Goal("recv_p50_ms", "<=", 2.8, "2.8"), Goal("recv_p99_ms", "<=", 20, "53")),
    ),
    Case(
        "rated, 2,000/s over 10 pairs",
        "closed --pairs 10 --window 200 --rate 2000",
        (Goal("recv_p50_ms", "<=", 11, "11"), Goal("recv_p99_ms", "<=", 68, "68")),
    ),
    Case(
        "fanout, 1 to 1,000 at 10/s",
        "fanout --members 1000 --rate 10",
        (
            Goal("server_us_per_recv", "<=", 60, "125"),
            Goal("recv_p50_ms", "<=", 60, "74"),
            Goal("missing", "<=", 0, "0"),
        ),
    ),
    Case(
        "fanout, 1 to 5,000 at 2/s",
        "fanout --members 5000 --rate 2",
        (
            Goal("recv_p50_ms", "<=", 500, "3,408"),
            Goal("server_us_per_recv", "<=", 60, "227"),
            Goal("missing", "<=", 0, "0"),
        ),
    ),
    Case(
        "storm, 2,000 logins at 50",
        "storm --connections 2000 --concurrency 50",
        (Goal("server_us_per_login", "<=", 450, "450"), Goal("no_connack", "<=", 0, "2 to 6")),
    ),
    Case(
        "idle, 10,000 connections",
        "idle --connections 10000 --seconds 15",
        (Goal("server_kib_per_connection", "<=", 10, "6.7"), Goal("server_cpu_pct", "<=", 11, "11")),
    ),
)


CLUSTER_CASES = (
    Case(
        "closed, 100 pairs, window 1",
        "closed --pairs 100 --window 1",
        (
            Goal("acked_per_s", ">=", 3_000, "376"),
            Goal("ack_p50_ms", "<=", 40, "228"),
            Goal("server_us_per_msg", "<=", 330, "3,144"),
        ),
    ),
    Case(
        "closed, 100 pairs, window 10",
        "closed --pairs 100 --window 10",
        (Goal("acked_per_s", ">=", 3_500, "1,579"), Goal("server_us_per_msg", "<=", 330, "868")),
    ),
    Case(
        "latency, 20 messages/s",
        "latency --rate 20",
        (
            Goal("ack_p50_ms", "<=", 6, "242"),
            Goal("recv_p50_ms", "<=", 8, "382"),
            Goal("recv_p99_ms", "<=", 50, "701"),
        ),
    ),
    Case(
        "fanout, 1 to 1,000 at 5/s",
        "fanout --members 1000 --rate 5",
        (Goal("recv_p50_ms", "<=", 100, "515"), Goal("missing", "<=", 0, "0")),
    ),
    Case("storm, 2,000 logins at 50", "storm --connections 2000 --concurrency 50", (Goal("no_connack", "<=", 0, "3"),)),
    # CPU of all nodes together: 3 % each.
    Case("idle, no clients", "idle --connections 3 --seconds 15", (Goal("server_cpu_pct", "<=", 9, ""),)),
)


class Target(NamedTuple):
    """What the generator is told: addresses and process ids, separated by commas."""

    api: str
    tcp: str
    pids: str


@contextmanager
def serving(directory: Path, nodes: int) -> Iterator[Target]:
    """A fresh server or cluster, so that no run inherits another's memory or files."""
    if nodes == 1:
        server = ServerProcess(directory)
        server.start()
        try:
            yield Target(server.http_url, f"127.0.0.1:{server.tcp_port}", str(server.pid))
        finally:
            server.stop()
        return
    cluster = ClusterProcesses(directory, nodes, proxied=False)
    cluster.start()
    try:
        cluster.wait_leaders(balanced=True)
        yield Target(
            ",".join(node.http_url for node in cluster),
            ",".join(f"127.0.0.1:{node.tcp_port}" for node in cluster),
            ",".join(str(node.pid) for node in cluster),
        )
    finally:
        cluster.stop()
        cluster.close()


def run(case: Case, base: Path, repeat: int, processes: int, nodes: int) -> list[Figures]:
    found = []
    for number in range(repeat):
        with serving(base / f"{case.name.replace(' ', '-').replace(',', '')}-{number}", nodes) as target:
            command = [
                *(sys.executable, "-m", "wukong", "bench", *shlex.split(case.arguments), "--json"),
                *("--api", target.api, "--tcp", target.tcp, "--pid", target.pids),
            ]
            if not case.arguments.startswith("latency"):
                command += ["--processes", str(processes)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
            found.append(json.loads(done.stdout)["median"])
    return found


def rows(case: Case, runs: list[Figures]) -> Iterator[dict[str, Any]]:
    for goal in case.goals:
        values = [each[goal.figure] for each in runs if each.get(goal.figure) is not None]
        median = statistics.median(values)
        reached = median >= goal.goal if goal.sign == ">=" else median <= goal.goal
        yield {
            "case": case.name,
            "figure": goal.figure,
            "median": round(median, 2),
            "from": round(min(values), 2),
            "to": round(max(values), 2),
            "goal": f"{goal.sign} {goal.goal:g}",
            "reached": reached,
            "old": goal.old,
        }
    generators = [each["generators_cpu_pct"] for each in runs if each.get("generators_cpu_pct") is not None]
    if generators:
        print(f"    {case.name}: generator's CPU {statistics.median(generators):.0f} % of a core", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1, help="1, or how many nodes form a cluster")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="generator processes")
    parser.add_argument("--only", default="", help="words; cases whose name contains one of them")
    parser.add_argument("--json", type=Path, help="write all runs there")
    options = parser.parse_args()
    words = [word for word in options.only.split(",") if word]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    run_at = f"commit {commit.stdout.strip()}; fsync on; load before {os.getloadavg()[0]:.2f}"
    print(f"{machine}; {options.nodes} node(s); {run_at}")
    print(f"{'case':32} {'figure':26} {'median':>10} {'from':>10} {'to':>10} {'goal':>10} {'':4} {'old':>8}")
    everything = []
    with tempfile.TemporaryDirectory(prefix="wukong-bench-") as base:
        for case in CASES if options.nodes == 1 else CLUSTER_CASES:
            if words and not any(word in case.name for word in words):
                continue
            runs = run(case, Path(base), options.repeat, options.processes, options.nodes)
            everything.append({"case": case.name, "arguments": case.arguments, "runs": runs})
            for row in rows(case, runs):
                mark = "ok" if row["reached"] else "MISS"
                print(
                    f"{row['case']:32} {row['figure']:26} {row['median']:>10} {row['from']:>10} {row['to']:>10} "
                    f"{row['goal']:>10} {mark:4} {row['old']:>8}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
