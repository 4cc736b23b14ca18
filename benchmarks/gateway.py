"""Question: what does the gateway cost per message, login and idle connection, and how long does it hold the loop?

    python -m benchmarks.gateway [--transports tcp,ws] [--idle N] [--rounds N] [--seed N]

The gateway runs alone in one process on uvloop, on loopback; the use cases behind it do nothing but answer, all SENDs
of one turn of the loop together, as a log does. Clients are plain sockets in another process and send frames made
beforehand. Everything is encrypted; payloads have 256 bytes. CPU is that of the gateway's process, system calls
included, median of 3 runs:

- SEND→SENDACK: 100 connections, each with 1 or 10 SENDs under way
- pair: SEND and RECVACK in, SENDACK and RECV out, on 100 pairs of connections with 1 message under way each
- RECV: one message per turn to one receiver; one message to 1,000 receivers
- longest hold: how long a message to many receivers keeps the loop from doing anything else, the worst turn of 20
  messages, in CPU time of the loop's thread: what other processes take from it is not the gateway's
- login: CONNECT to CONNACK, X25519 included; KiB: resident memory per connection that has logged in and is idle
"""

import argparse
import asyncio
import concurrent.futures
import gc
import multiprocessing
import platform
import random
import resource
import selectors
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from wukong.clock import SystemClock
from wukong.gateway.frames import unmask
from wukong.gateway.gateway import ClientGateway
from wukong.protocol.codec import decode, encode
from wukong.protocol.crypto import ClientHandshake, send_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import Connack, Connect, Recvack, Send, Sendack
from wukong.protocol.recv_frame import RecvView, SharedRecv
from wukong.service.sessions import Login

PAYLOAD_BYTES = 256
RUNS = 3
TIMEOUT_S = 60.0


# The gateway's side ---------------------------------------------------------------------------------------------------


class Answering:
    """Use cases that answer every SEND in the next turn, and hand it to the neighbour when `pairs` is set."""

    congested = False

    def __init__(self) -> None:
        self.gateway: ClientGateway | None = None
        self.pairs = False
        self._last_number = 0
        self._waiting: list[tuple[int, Send]] = []
        self._last_id = 1 << 60

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    async def login(self, number: int, login: Login) -> int:
        return 0

    def logout(self, number: int, uid: str) -> None:
        pass

    def send(self, number: int, uid: str, packet: Send, received_at: float) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        self._waiting.append((number, packet))

    def _answer(self) -> None:
        gateway = self.gateway
        assert gateway is not None
        waiting, self._waiting = self._waiting, []
        if self.pairs:
            for number, packet in waiting:
                gateway.deliver(self.view(packet.payload), [number + 1])
        for number, packet in waiting:
            self._last_id += 1
            gateway.sendack(number, Sendack(packet.flags, self._last_id, packet.client_seq, 1, 1, packet.client_msg_no))

    def view(self, payload: bytes) -> RecvView:
        self._last_id += 1
        shared = SharedRecv(
            message_id=self._last_id, message_seq=1, client_msg_no="no-1", timestamp=1_700_000_000, payload=payload
        )
        return shared.view("alice", "alice", 1, 2)

    def recvack(self, number: int, uid: str, packet: Recvack) -> None:
        pass

    def when_relieved(self, callback: Callable[[], None]) -> None:
        callback()


class Bench:
    def __init__(self, transport: str, pipe: Pipe) -> None:
        self.transport = transport
        self.pipe = pipe
        self.sessions = Answering()
        self.figures: dict[str, str] = {}

    async def call(self, *command: Any) -> Any:
        """Let the clients do something and wait for their answer."""
        self.pipe.send(command)
        return await asyncio.get_running_loop().run_in_executor(None, self.pipe.recv)

    async def cpu_us(self, operations: int, run: Callable[[], Awaitable[Any]]) -> float:
        runs = []
        for _ in range(RUNS):
            gc.collect()
            begin = time.process_time()
            await run()
            runs.append((time.process_time() - begin) / operations * 1e6)
        return statistics.median(runs)

    async def run(self, rounds: int, idle: int, payload: bytes) -> None:
        gateway = ClientGateway(node_id=1, sessions=self.sessions, clock=SystemClock())
        self.sessions.gateway = gateway
        if self.transport == "tcp":
            port = await gateway.listen_tcp("127.0.0.1", 0)
        else:
            port = await gateway.listen_websocket("127.0.0.1", 0)
        await self.call("open", port, 200, 0)
        # First of all: memory that was used once and is free again would hide what a connection takes.
        await self.measure_idle(port, idle)
        await self.call("send", 100, 1, 20)
        for window in (1, 10):
            turns = max(1, rounds // window)
            cost = await self.cpu_us(100 * window * turns, partial(self.call, "send", 100, window, turns))
            self.figures[f"SEND→SENDACK, {window} under way, CPU µs"] = f"{cost:.1f}"
        self.sessions.pairs = True
        cost = await self.cpu_us(100 * rounds, partial(self.call, "pair", 100, rounds))
        self.figures["pair: SEND, SENDACK, RECV, RECVACK, CPU µs"] = f"{cost:.1f}"
        self.sessions.pairs = False
        await self.measure_recv(gateway, rounds, payload)
        await self.measure_holds(gateway, payload)
        await self.call("close")
        await gateway.stop()

    async def measure_recv(self, gateway: ClientGateway, rounds: int, payload: bytes) -> None:
        async def one_by_one() -> None:
            for _ in range(count):
                gateway.deliver(self.sessions.view(payload), [1])
                await asyncio.sleep(0)

        self.pipe.send(("drain",))
        count = rounds * 100
        empty = await self.cpu_us(count, partial(empty_turns, count))
        cost = await self.cpu_us(count, one_by_one)
        self.figures["RECV, one per turn, CPU µs"] = f"{cost - empty:.1f}"
        await self.call("rest")

    async def measure_idle(self, port: int, idle: int) -> None:
        gc.collect()
        before_bytes = resident_bytes()
        begin = time.process_time()
        await self.call("open", port, idle, 1)
        self.figures["login, CPU µs"] = f"{(time.process_time() - begin) / idle * 1e6:.0f}"
        gc.collect()
        # A full collection walks over all connections; a server has to see to it that there are none.
        gc.freeze()
        self.figures[f"KiB per idle connection, {idle}"] = f"{(resident_bytes() - before_bytes) / idle / 1024:.2f}"

    async def measure_holds(self, gateway: ClientGateway, payload: bytes) -> None:
        self.pipe.send(("drain",))
        for receivers in (1_000, 5_000):
            numbers = list(range(1, 1 + min(receivers, gateway.sessions)))

            async def fan_out(numbers: list[int] = numbers) -> None:
                sent = gateway.counters.out_messages
                gateway.deliver(self.sessions.view(payload), numbers)
                # The outbox writes in the turns between.
                while gateway.counters.out_messages < sent + len(numbers):  # noqa: ASYNC110
                    await asyncio.sleep(0)

            cost = await self.cpu_us(len(numbers), fan_out)
            self.figures[f"RECV, {len(numbers)} receivers, CPU µs each"] = f"{cost:.1f}"
            worst = 0.0
            for _ in range(20):
                task = asyncio.create_task(fan_out())
                while not task.done():
                    begin = time.thread_time()
                    await asyncio.sleep(0)
                    worst = max(worst, time.thread_time() - begin)
                await asyncio.sleep(0.05)
            self.figures[f"longest hold, {len(numbers)} receivers, ms"] = f"{worst * 1e3:.1f}"
        await self.call("rest")


async def empty_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# The clients' side ----------------------------------------------------------------------------------------------------


class BenchClient:
    def __init__(self, transport: str, port: int, uid: str, payload: bytes) -> None:
        self.is_websocket = transport != "tcp"
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_websocket:
            self.socket.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                data += self.socket.recv(4096)
        handshake = ClientHandshake()
        self.socket.sendall(self.framed(encode(Connect(5, uid, "", uid, 0, 0, handshake.client_key), 5)))
        data = self.socket.recv(4096)
        decoder = FrameDecoder()
        decoder.receive_data(data[2:] if self.is_websocket else data)
        frame = decoder.next_frame()
        assert frame is not None
        connack = decode(frame.frame_type, frame.flags, frame.body, 5)
        assert isinstance(connack, Connack)
        cipher = handshake.finish(connack.server_key, connack.salt)
        assert cipher is not None
        wire = cipher.seal(payload)
        key = cipher.sign(send_sign_text(1, "no-1", "bob", 1, wire)).decode()
        self.send_frame = self.framed(encode(Send(2, 0, 1, "no-1", "bob", 1, 0, key, "", wire), 5))
        self.recvack_frame = self.framed(encode(Recvack(2, 1 << 60, 1), 5))
        self.sendack_bytes = 19 + (2 if self.is_websocket else 0)
        self.got_bytes = 0
        self.recv_bytes = 0

    def framed(self, data: bytes) -> bytes:
        if not self.is_websocket:
            return data
        mask = b"\x12\x34\x56\x78"
        size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        return b"\x82" + size + mask + unmask(mask, data)

    def take(self, size: int) -> None:
        while size > 0:
            data = self.socket.recv(size)
            if not data:
                raise SystemExit("the gateway closed a connection")
            size -= len(data)


class Clients:
    """Does what the gateway's process asks for, and answers when it is done."""

    def __init__(self, transport: str, pipe: Pipe, payload: bytes) -> None:
        self.transport = transport
        self.pipe = pipe
        self.payload = payload
        self.clients: list[BenchClient] = []
        self.recv_bytes = 0

    def run(self) -> None:
        while True:
            name, *arguments = self.pipe.recv()
            if name == "drain":
                self.drain()
                self.pipe.send(None)
                continue
            if name == "close":
                self.pipe.send(None)
                return
            getattr(self, name)(*arguments)
            self.pipe.send(None)

    def open(self, port: int, count: int, group: int) -> None:
        for index in range(count):
            self.clients.append(BenchClient(self.transport, port, f"user-{group}-{index}", self.payload))

    def send(self, count: int, window: int, rounds: int) -> None:
        clients = self.clients[:count]
        for _ in range(rounds):
            for client in clients:
                client.socket.sendall(client.send_frame * window)
            for client in clients:
                client.take(client.sendack_bytes * window)

    def pair(self, count: int, rounds: int) -> None:
        senders, receivers = self.clients[0 : 2 * count : 2], self.clients[1 : 2 * count : 2]
        for _ in range(rounds):
            for client in senders:
                client.socket.sendall(client.send_frame)
            for client in senders:
                client.take(client.sendack_bytes)
            for client in receivers:
                if not self.recv_bytes:
                    self.recv_bytes = len(client.socket.recv(4096))
                else:
                    client.take(self.recv_bytes)
                client.socket.sendall(client.recvack_frame)

    def drain(self) -> None:
        """Read everything until the next command."""
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                client.socket.setblocking(False)
                selector.register(client.socket, selectors.EVENT_READ)
            selector.register(self.pipe, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.pipe:
                        self.pipe.recv()
                        for client in self.clients:
                            client.socket.setblocking(True)
                        return
                    key.fileobj.recv(1 << 20)  # type: ignore[union-attr]


def clients_main(transport: str, pipe: Pipe, payload: bytes) -> None:
    Clients(transport, pipe, payload).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--transports", default="tcp,ws")
    parser.add_argument("--idle", type=int, default=9_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    payload = random.Random(arguments.seed).randbytes(PAYLOAD_BYTES)
    print(
        f"Python {platform.python_version()}, uvloop {version('uvloop')}, seed {arguments.seed}, {platform.platform()}"
    )
    for transport in arguments.transports.split(","):
        # Each in a process of its own: memory that was used once does not count again.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            figures = pool.submit(measure, transport, arguments.rounds, arguments.idle, payload).result()
        print(f"\n{transport}")
        for name, figure in figures.items():
            print(f"  {name:50} {figure:>10}")


def measure(transport: str, rounds: int, idle: int, payload: bytes) -> dict[str, str]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=clients_main, args=(transport, theirs, payload))
    process.start()
    bench = Bench(transport, ours)
    uvloop.run(bench.run(rounds, idle, payload))
    process.join(TIMEOUT_S)
    return bench.figures


if __name__ == "__main__":
    main()
