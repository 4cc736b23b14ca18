"""How long does a restart take with many stored messages?

    python benchmarks/restart.py [--messages 1000000] [--repeat 3]

Fills a data directory through the real log, state machine and store (packs as a busy server makes them, then single
messages as a quiet one does), kills the process that did it, and starts `wukong serve` on it: time from exec to the
first good answer of /health. The time of an empty directory stands beside it.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.server import ServerProcess  # noqa: E402
from wukong.channel.commands import Append, Reply  # noqa: E402
from wukong.channel.ids import PERSON, ChannelId, person_id  # noqa: E402
from wukong.clock import SystemClock  # noqa: E402
from wukong.node.node import Node  # noqa: E402
from wukong.raft.runtime import Runtime  # noqa: E402
from wukong.raft.wal import Wal  # noqa: E402
from wukong.store.datadir import DataDir  # noqa: E402
from wukong.store.rocks import RocksStore  # noqa: E402

CHANNELS = 10_000
IN_FLIGHT = 5_000
SINGLE = 2_000
PAYLOAD = b"x" * 256


async def fill(path: Path, count: int) -> None:
    directory = DataDir(path, node_id=1001, slot_count=16)
    store = RocksStore(str(directory.store))
    node = Node(node_id=1001, slot_count=16, store=store, clock=SystemClock(), effects_sink=lambda effects: None)
    wal = Wal.open(directory.wal, node_id=1001, group_count=16)
    runtime = Runtime(node_id=1001, wal=wal, machine=node, clock=SystemClock(), on_fatal=lambda error: os._exit(1))
    node.attach(runtime)
    runtime.start()
    await runtime.ready()
    await node.go_live()
    channels = [ChannelId(PERSON, person_id(f"a{n}", f"b{n}")) for n in range(CHANNELS)]
    finished = asyncio.Event()
    sent = answered = 0

    def send() -> None:
        nonlocal sent
        n = sent % CHANNELS
        sent += 1
        node.propose(node.slot(channels[n].id), Append(channels[n], False, f"a{n}", PAYLOAD, f"m{sent}", 2), done)

    def done(reply: Reply | None) -> None:
        nonlocal answered
        answered += 1
        if sent < count - SINGLE:
            send()
        elif answered == sent:
            finished.set()

    for _ in range(min(IN_FLIGHT, count - SINGLE)):
        send()
    await finished.wait()
    for _ in range(SINGLE):
        n = sent % CHANNELS
        sent += 1
        await node.execute(node.slot(channels[n].id), Append(channels[n], False, f"a{n}", PAYLOAD, f"m{sent}", 2))
    os.kill(os.getpid(), signal.SIGKILL)


def measure(base: Path, count: int, repeat: int) -> dict[str, object]:
    server = ServerProcess(base)
    if count:
        subprocess.run(
            [sys.executable, __file__, "--fill", str(server.data_dir), "--messages", str(count)], check=False
        )
    times = []
    for _ in range(repeat):
        server.start()
        times.append(server.ready_s)
        server.kill()
    size = sum(file.stat().st_size for file in server.data_dir.rglob("*") if file.is_file())
    return {
        "messages": count,
        "restart_s": round(statistics.median(times), 2),
        "each_s": [round(each, 2) for each in times],
        "data_mib": size >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill is not None:
        asyncio.run(fill(options.fill, options.messages))
    base = Path(tempfile.mkdtemp(prefix="wukong-restart-"))
    try:
        for count in (0, options.messages):
            began = time.monotonic()
            row = measure(base / str(count), count, options.repeat)
            print(json.dumps(row), f"({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
