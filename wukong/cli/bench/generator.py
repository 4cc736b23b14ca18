"""What runs in a generator process: connections, and the loops that load them. Driven by fleet.py through a pipe.

The time of sending travels in the first 16 characters of client_msg_no (monotonic nanoseconds in hex, the same clock in
all processes of a machine), so a receiver needs to unseal nothing. With a rate, it is the time at which the message was
due: a server that holds up the generator does not get better latencies by it.
"""

import asyncio
import contextlib
import itertools
import multiprocessing.connection
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from wukong.cli.bench.figures import Samples
from wukong.cli.lean import LeanConnection, NoLogin, monotonic_ns
from wukong.protocol.packets import RED_DOT, ChannelType
from wukong.protocol.reasons import ReasonCode

# any: a result is a mapping of plain values for the pipe.
Result = dict[str, Any]

TICK_S: Final = 0.002
STAMP_CHARS: Final = 16
FLAT_OUT_MESSAGES_COUNT: Final = 4
"""Messages of a group under way at once when it is loaded without a rate."""
CLOSE_SLICE_COUNT: Final = 200
LOGIN_TRIES_COUNT: Final = 20
KNOCK_TICK_S: Final = 0.02


class Generator:
    """received: one counter per process in shared memory, this one's at index.

    Each public coroutine is one order of the fleet; its arguments and result travel through the pipe.
    """

    def __init__(self, index: int, received: Any) -> None:  # any: multiprocessing's shared array
        self._index = index
        self._received = received
        self._connections: dict[str, list[LeanConnection]] = {}
        self._recv_ns = Samples()
        self._ack_ns = Samples()
        self._sent_at: dict[tuple[LeanConnection, int], int] = {}
        self._sent_count = 0
        self._acked_count = 0
        self._refused_count = 0
        self._stamp_counter = itertools.count()

    # -- logins --

    async def connect(
        self, role: str, uids: list[str], addresses: list[tuple[str, int]], concurrency: int, retry: bool
    ) -> Result:
        """Log in. retry: until it works, LOGIN_TRIES_COUNT times at most."""
        semaphore = asyncio.Semaphore(concurrency)
        login_ns = Samples()
        failed_count = 0
        start = last = time.monotonic()
        connections = self._connections.setdefault(role, [])

        async def log_in(number: int, uid: str) -> None:
            nonlocal failed_count, last
            host, port = addresses[number % len(addresses)]
            async with semaphore:
                for _ in range(LOGIN_TRIES_COUNT if retry else 1):
                    began_ns = monotonic_ns()
                    try:
                        connection = await LeanConnection.open(
                            host, port, uid, on_recv=self._on_recv, on_sendack=self._on_sendack
                        )
                    except NoLogin:
                        failed_count += 1
                        continue
                    login_ns.add(monotonic_ns() - began_ns)
                    last = time.monotonic()
                    connections.append(connection)
                    return

        async with asyncio.TaskGroup() as tasks:
            for number, uid in enumerate(uids):
                tasks.create_task(log_in(number, uid))
        return {
            "connected": len(connections),
            "failed": failed_count,
            "seconds": last - start,
            "login_ns": login_ns.to_bytes(),
        }

    async def close(self, role: str) -> Result:
        for number, connection in enumerate(self._connections.pop(role, [])):
            connection.close()
            if number % CLOSE_SLICE_COUNT == CLOSE_SLICE_COUNT - 1:
                await asyncio.sleep(0.01)
        return {}

    async def alive(self, role: str) -> Result:
        return {"alive": sum(not connection.closed for connection in self._connections.get(role, []))}

    # -- counting --

    def _on_recv(self, connection: LeanConnection, client_msg_no: bytes, message_seq: int) -> None:
        self._received[self._index] += 1
        self._recv_ns.add(monotonic_ns() - int(client_msg_no[:STAMP_CHARS], 16))

    def _on_sendack(self, connection: LeanConnection, client_seq: int, message_seq: int, reason: int) -> None:
        self._acked_count += 1
        sent_ns = self._sent_at.pop((connection, client_seq), None)
        if sent_ns is not None:
            self._ack_ns.add(monotonic_ns() - sent_ns)
        if reason != ReasonCode.SUCCESS:
            self._refused_count += 1

    def _reset(self) -> None:
        self._recv_ns.clear()
        self._ack_ns.clear()
        self._sent_at.clear()
        self._sent_count = self._acked_count = self._refused_count = 0
        self._received[self._index] = 0

    async def reset(self) -> Result:
        self._reset()
        return {}

    async def totals(self) -> Result:
        """Counts and latencies since the reset."""
        return {
            "sent": self._sent_count,
            "acked": self._acked_count,
            "refused": self._refused_count,
            "ack_ns": self._ack_ns.to_bytes(),
            "recv_ns": self._recv_ns.to_bytes(),
        }

    def _push(self, connection: LeanConnection, channel_id: str, channel_type: int, sealed: bytes, due_ns: int) -> None:
        number = f"{due_ns:016x}{self._index:x}.{next(self._stamp_counter):x}"
        client_seq = connection.send(channel_id, channel_type, sealed, number, RED_DOT)
        self._sent_at[connection, client_seq] = due_ns
        self._sent_count += 1

    # -- loads --

    async def closed(self, peers: list[str], window: int, rate: float, seconds: float, payload: bytes) -> Result:
        """Each sender keeps window SENDs to its peer unanswered. rate: SENDs per second of this process; 0 = none."""
        senders = self._connections["senders"]
        pairs = zip(senders, peers, strict=True)
        lanes = [(sender, peer, sender.sealed(payload)) for sender, peer in pairs if not sender.closed]
        cpu_s = time.process_time()
        start = time.monotonic()
        if rate:
            await self._closed_rated(lanes, window, rate, seconds)
        else:
            await self._closed_flat_out(lanes, window, seconds)
        took_s = time.monotonic() - start
        return {
            "seconds": took_s,
            "cpu_s": time.process_time() - cpu_s,
            "acked": self._acked_count,
            "received": self._received[self._index],
        }

    async def _closed_flat_out(
        self, lanes: list[tuple[LeanConnection, str, bytes]], window: int, seconds: float
    ) -> None:
        """Every answer sends the next message."""
        peer_of = {sender: (peer, sealed) for sender, peer, sealed in lanes}
        running = True

        def answered(connection: LeanConnection, client_seq: int, message_seq: int, reason: int) -> None:
            self._on_sendack(connection, client_seq, message_seq, reason)
            if running:
                peer, sealed = peer_of[connection]
                self._push(connection, peer, ChannelType.PERSON, sealed, monotonic_ns())

        for sender, peer, sealed in lanes:
            sender.on_sendack = answered
            for _ in range(window):
                self._push(sender, peer, ChannelType.PERSON, sealed, monotonic_ns())
        await asyncio.sleep(seconds)
        running = False
        for sender, _, _ in lanes:
            sender.on_sendack = self._on_sendack

    async def _closed_rated(
        self, lanes: list[tuple[LeanConnection, str, bytes]], window: int, rate: float, seconds: float
    ) -> None:
        """Due messages go round the senders; a full window holds them back, which their latencies show."""
        interval_ns = int(1e9 / rate)
        due_ns = start_ns = monotonic_ns()
        turn = 0
        while due_ns - start_ns < seconds * 1e9:
            while due_ns <= monotonic_ns():
                for _ in range(len(lanes)):
                    sender, peer, sealed = lanes[turn % len(lanes)]
                    turn += 1
                    if sender.in_flight < window:
                        break
                else:
                    break
                self._push(sender, peer, ChannelType.PERSON, sealed, due_ns)
                due_ns += interval_ns
            if monotonic_ns() - start_ns > 2 * seconds * 1e9:
                return
            await asyncio.sleep(TICK_S)

    async def paced(self, channel_id: str, channel_type: int, rate: float, seconds: float, payload: bytes) -> Result:
        """The first sender writes to one channel at a steady rate."""
        sender = self._connections["senders"][0]
        sealed = sender.sealed(payload)
        interval_ns = int(1e9 / rate)
        cpu_s = time.process_time()
        start_ns = monotonic_ns()
        for number in range(int(rate * seconds)):
            due_ns = start_ns + number * interval_ns
            await asyncio.sleep(max(0, due_ns - monotonic_ns()) / 1e9)
            self._push(sender, channel_id, channel_type, sealed, monotonic_ns())
        return {"seconds": (monotonic_ns() - start_ns) / 1e9, "cpu_s": time.process_time() - cpu_s}

    async def flat_out(self, channel_id: str, members_count: int, seconds: float, payload: bytes) -> Result:
        """The first sender keeps a few messages to a group under way: the next one leaves when so many deliveries have
        been counted by all processes."""
        sender = self._connections["senders"][0]
        sealed = sender.sealed(payload)
        cpu_s = time.process_time()
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            open_count = self._sent_count * members_count - sum(self._received)
            if open_count <= (FLAT_OUT_MESSAGES_COUNT - 1) * members_count:
                self._push(sender, channel_id, ChannelType.GROUP, sealed, monotonic_ns())
                if self._sent_count % FLAT_OUT_MESSAGES_COUNT:
                    continue
            await asyncio.sleep(0.0005)
        return {"seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu_s}

    async def listen(self, seconds: float) -> Result:
        """Only receive; the share of CPU it took."""
        cpu_s = time.process_time()
        start = time.monotonic()
        await asyncio.sleep(seconds)
        return {"seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu_s}

    async def idle(self, role: str, seconds: float, ping_interval_s: float) -> Result:
        """PING each connection once per interval, spread evenly."""
        connections = self._connections.get(role, [])
        cpu_s = time.process_time()
        start = time.monotonic()
        pings_count = 0
        while (elapsed_s := time.monotonic() - start) < seconds:
            due_count = int(elapsed_s / ping_interval_s * len(connections))
            while pings_count < due_count:
                connection = connections[pings_count % len(connections)]
                if not connection.closed:
                    connection.ping()
                pings_count += 1
            await asyncio.sleep(0.05)
        return {"seconds": seconds, "cpu_s": time.process_time() - cpu_s, "pings": pings_count}

    async def knock(self, pairs: list[tuple[int, str, int]], payload: bytes, timeout_s: float) -> Result:
        """One message on each (sender's number, channel, type), so that channels exist; waits for the answers."""
        for number, channel_id, channel_type in pairs:
            sender = self._connections["senders"][number]
            self._push(sender, channel_id, channel_type, sender.sealed(payload), monotonic_ns())
        for _ in range(int(timeout_s / KNOCK_TICK_S)):
            if self._acked_count >= self._sent_count:
                break
            await asyncio.sleep(KNOCK_TICK_S)
        return {"unanswered": self._sent_count - self._acked_count, "refused": self._refused_count}


def run_generator(index: int, received: Any, pipe: multiprocessing.connection.Connection) -> None:
    """The process: orders from the pipe, one at a time, until it is closed."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(Generator(index, received), pipe))


async def _serve(generator: Generator, pipe: multiprocessing.connection.Connection) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            name, arguments = await loop.run_in_executor(None, pipe.recv)
        except (EOFError, OSError):
            return
        order: Callable[..., Awaitable[Result]] = getattr(generator, name)
        try:
            pipe.send((True, await order(**arguments)))
        except Exception as error:
            # To whoever gave the order; this process lives on to be closed.
            pipe.send((False, f"{type(error).__name__}: {error}"))
