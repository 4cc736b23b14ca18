"""Question: what does a message between two nodes cost, and a link on which nothing is said?

    python -m benchmarks.links [--seconds 2] [--repeat 3] [--loop uvloop|asyncio]

Two processes on loopback with a secret, one connection per direction. The sender puts a batch of messages into one turn
of the loop, the receiver answers each batch with one small message; with one message under way a figure is that of a
whole round trip. A FORWARD message carries bytes. CPU is that of a whole process, system calls, sealing and msgpack
included; the handlers do nothing but count. Median of the repeats, with the lowest and the highest. Idle: CPU of a
process with both directions of a link, over --seconds times 3.
"""

import argparse
import asyncio
import logging
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection as Pipe

import uvloop

from wukong.links.kinds import CONTROL, FORWARD
from wukong.links.links import Links

HOST = "127.0.0.1"
SECRET = "only for measuring"
CASES = [(300, 1, 1), (300, 1, 4), (300, 10, 4), (300, 100, 4), (20_000, 1, 1), (20_000, 1, 4), (20_000, 10, 4)]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
TIMEOUT_S = 60.0


class Receiver:
    """Answers every batch, whose size its first message of a run tells, with its own CPU time."""

    def __init__(self) -> None:
        self.links = Links(node_id=2, secret=SECRET, handler=self)
        self._batch = 1
        self._count = 0

    def connected(self, node: int) -> None:
        self.links.send(1, CONTROL, 0, 0.0)

    def disconnected(self, node: int) -> None:
        pass

    def facts(self, node: int, facts: object) -> None:
        pass

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        if kind == CONTROL:
            assert isinstance(body, int)
            self._batch, self._count = body, 0
            return
        self._count += 1
        if self._count == self._batch:
            self._count = 0
            self.links.send(1, CONTROL, 0, time.process_time())


def receive(pipe: Pipe, loop: str) -> None:
    # At the end somebody is the first to go.
    logging.getLogger("wukong.links").setLevel(logging.ERROR)

    async def run() -> None:
        receiver = Receiver()
        pipe.send(await receiver.links.listen(HOST, 0))
        receiver.links.set_peers({1: (HOST, pipe.recv())})
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await receiver.links.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


class Sender:
    def __init__(self) -> None:
        self.links = Links(node_id=1, secret=SECRET, handler=self)
        self.up = asyncio.Event()
        self.heard = asyncio.Event()
        self.answers = 0
        self.receiver_cpu_s = 0.0
        self._body = b""
        self._batch = 0
        self._is_going = False

    def connected(self, node: int) -> None:
        self.up.set()

    def disconnected(self, node: int) -> None:
        raise SystemExit("the link broke")

    def facts(self, node: int, facts: object) -> None:
        pass

    def received(self, node: int, kind: int, group: int, body: object) -> None:
        assert isinstance(body, float)
        self.receiver_cpu_s = body
        self.answers += 1
        self.heard.set()
        if self._is_going:
            self._send()

    def _send(self) -> None:
        for _ in range(self._batch):
            self.links.send(2, FORWARD, 1, self._body)

    async def run(self, size: int, batch: int, window: int, seconds: float) -> tuple[float, float, float]:
        """Messages per second, µs of CPU per message here and there."""
        self._body, self._batch, self._is_going = bytes(size), batch, True
        self.links.send(2, CONTROL, 0, batch)
        for _ in range(window):
            self._send()
        await asyncio.sleep(seconds / 10)
        started, cpu_s, there_s, answers = time.perf_counter(), time.process_time(), self.receiver_cpu_s, self.answers
        await asyncio.sleep(seconds)
        spent_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        there_s, count = self.receiver_cpu_s - there_s, (self.answers - answers) * batch
        self._is_going = False
        until = self.answers
        while True:  # until nothing is under way
            await asyncio.sleep(0.05)
            if until == self.answers:
                break
            until = self.answers
        return count / spent_s, cpu_s / count * 1e6, there_s / count * 1e6


def shown(values: list[float], digits: int = 1) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


async def measure(pipe: Pipe, port: int, seconds: float, repeat: int) -> None:
    sender = Sender()
    pipe.send(await sender.links.listen(HOST, 0))
    sender.links.set_peers({2: (HOST, port)})
    await asyncio.wait_for(sender.up.wait(), TIMEOUT_S)
    await asyncio.wait_for(sender.heard.wait(), TIMEOUT_S)
    print("| body | a turn | batches under way | messages/s | sender µs | receiver µs |\n" + "| ---: " * 6 + "|")
    for size, batch, window in CASES:
        rows = [await sender.run(size, batch, window, seconds) for _ in range(repeat)]
        rates, here, there = (list(column) for column in zip(*rows, strict=True))
        print(f"| {size:,} B | {batch} | {window} | {shown(rates, 0)} | {shown(here)} | {shown(there)} |")
    cpu_s, started = time.process_time(), time.perf_counter()
    await asyncio.sleep(3 * seconds)
    spent = (time.process_time() - cpu_s) / (time.perf_counter() - started)
    print(f"\nidle: {spent * 1e6:,.0f} µs of CPU per second for both directions of a link")
    pipe.send("end")
    sender.disconnected = lambda node: None  # type: ignore[method-assign]
    await sender.links.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    options = parser.parse_args()
    print(f"{' '.join(sys.argv[1:])} on {platform.machine()}, Python {platform.python_version()},", end=" ")
    print(f"uvloop {version('uvloop')}, cryptography {version('cryptography')}\n")
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=receive, args=(far, options.loop), daemon=True)
    process.start()
    with asyncio.Runner(loop_factory=LOOPS[options.loop]) as runner:
        runner.run(measure(pipe, pipe.recv(), options.seconds, options.repeat))
    process.join(TIMEOUT_S)


if __name__ == "__main__":
    main()
