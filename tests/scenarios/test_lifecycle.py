"""Starting and stopping a node: quickly, in order, and with words for the operator when it cannot be.

WUKONG_RESTART_MESSAGES: how many messages a node holds that has to be ready again in time (1,000,000 takes minutes).
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.scenarios.conftest import Clients
from tests.scenarios.room import Room
from tests.support.cluster import running_cluster
from tests.support.http import ApiError, open_api
from tests.support.server import ROOT, ServerProcess
from tests.support.wire import SUCCESS, Client, Kind, fence, unique

Servers = Callable[..., ServerProcess]

STOP_LIMIT_S = 5.0
READY_LIMIT_S = 3.0
STORED_MESSAGES = int(os.environ.get("WUKONG_RESTART_MESSAGES", "20000"))
CONNECTS = 2_000
# WebSocket: service restart, try again later. SDKs reconnect after both.
RECONNECT_CODES = {1012, 1013}


@pytest.fixture
async def running(own_server: Servers) -> AsyncIterator[ServerProcess]:
    server = own_server()
    await asyncio.to_thread(server.start)
    yield server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_stops_a_busy_node_within_five_seconds(
    running: ServerProcess, own_clients: Clients, kind: Kind, number: signal.Signals
) -> None:
    uids = [unique("u") for _ in range(50)]
    clients = await own_clients.connect_all(uids, kind, to=running)
    answers: list[asyncio.Future[object]] = []
    async with open_api(running.http_url) as api:
        room = Room(api)
        await room.create(uids)
        for client in clients:
            answers += [asyncio.ensure_future(client.send(room.id, b"%d" % turn)) for turn in range(20)]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        for client in clients:
            client.leaving = True
        started = time.monotonic()
        running.signal(number)
        code = await asyncio.to_thread(running.wait, STOP_LIMIT_S)
        took_s = time.monotonic() - started
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert code == 0, running.log_tail()
    for client in clients:
        await asyncio.wait_for(client.closed.wait(), 5)
        # A DISCONNECT would be final for clients: they would not come back.
        assert client.kicked is None
        assert kind is Kind.TCP or client.close_code in RECONNECT_CODES
    acked = [each for each in outcomes if not isinstance(each, BaseException)]
    print(f"stopped in {took_s:.2f} s, {len(acked)} of {len(answers)} answered")
    await asyncio.to_thread(running.start)
    async with open_api(running.http_url) as api:
        stored = {message["message_id"] for message in await api.history(uids[0], room.id)}
        assert {ack.message_id for ack in acked if ack.reason_code == SUCCESS} <= stored  # type: ignore[attr-defined]


async def end(server: ServerProcess) -> float:
    """SIGTERM, once. Returns the seconds until the process was gone; its exit code is 0."""
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    code = await asyncio.to_thread(server.wait, STOP_LIMIT_S)
    took_s = time.monotonic() - started
    assert code == 0, server.log_tail()
    return took_s


async def a_dead_websocket(server: ServerProcess) -> asyncio.StreamWriter:
    """Upgraded, and never heard of again: it does not answer a CLOSE."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ws_port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readline()
    return writer


async def test_a_stop_waits_neither_for_slow_requests_nor_for_clients_that_are_gone(running: ServerProcess) -> None:
    sockets = [await a_dead_websocket(running) for _ in range(20)]
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", running.http_port)
        writer.write(b"POST /channel HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        sockets.append(writer)
    await asyncio.sleep(0.3)
    took_s = await end(running)
    print(f"stopped in {took_s:.2f} s")
    assert "not everything stopped" not in running.log_tail(), "log and store were closed in order"
    assert "holds up" not in running.log_tail()
    for writer in sockets:
        writer.close()


async def test_leaderships_are_handed_over_before_anything_is_waited_for(tmp_path: Path) -> None:
    with running_cluster(tmp_path, settings={"wukong": {"slotCount": 6}}, proxied=False) as cluster:
        one, two = cluster[1], cluster[2]
        async with open_api(two.http_url) as api:
            for slot in range(6):
                with contextlib.suppress(ApiError):
                    await api.post("/cluster/transfer", {"slot": slot, "node": 1})
            async with asyncio.timeout(20):
                while (led := [each.slot for each in await asyncio.to_thread(two.slots) if each.leader == 1]) == []:
                    await asyncio.sleep(0.05)
            _, slow = await asyncio.open_connection("127.0.0.1", one.http_port)
            slow.write(b"POST /channel HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            deaf = await a_dead_websocket(one)
            took_s: list[float] = []

            async def write() -> None:
                while True:
                    begun = time.monotonic()
                    await api.create(unique("g"), ["alice"])
                    took_s.append(time.monotonic() - begun)

            writers = [asyncio.create_task(write()) for _ in range(6)]
            while len(took_s) < 50:
                await asyncio.sleep(0.05)
            one.signal(signal.SIGTERM)
            while any(each.leader == 1 for each in await asyncio.to_thread(two.slots)):
                assert one.is_running, f"node 1 ended and still led some of {led}\n{one.log_tail()}"
                await asyncio.sleep(0.02)
            assert await asyncio.to_thread(one.wait, STOP_LIMIT_S) == 0, one.log_tail()
            for writer in writers:
                writer.cancel()
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
        print(f"node 1 led {led}; the longest of {len(took_s)} writes took {max(took_s):.2f} s")
        assert [each for each in outcomes if not isinstance(each, asyncio.CancelledError)] == []
        slow.close()
        deaf.close()


class Hanging(ServerProcess):
    """See tests.scenarios.hanging. hang: its WHAT; it begins with `begin`."""

    def __init__(self, directory: Path, hang: str) -> None:
        super().__init__(directory)
        self.hang = hang
        self.file = directory / "hangs"

    def begin(self) -> None:
        self.file.touch()

    def run_with(self, config: Path) -> None:
        self.lives += 1
        self._started_at = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.scenarios.hanging", self.hang, str(self.file)),
                    *("serve", "--config", str(config)),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def try_to_change(self) -> None:
        """A change that is not answered."""
        body = b'{"channel_id":"g","channel_type":2}'
        with pytest.raises((TimeoutError, urllib.error.URLError)):
            urllib.request.urlopen(f"{self.http_url}/channel", data=body, timeout=0.5).read()


@pytest.mark.parametrize("hang", ["log", "loop", "store"])
async def test_a_signal_ends_a_node_whose_disk_hangs_within_five_seconds(tmp_path: Path, hang: str) -> None:
    server = Hanging(tmp_path / "node", hang)
    try:
        await asyncio.to_thread(server.start)
        server.begin()
        if hang != "store":
            await asyncio.to_thread(server.try_to_change)
        took_s = await end(server)
        print(f"ended in {took_s:.2f} s")
        assert "the next start recovers from the log" in server.log_tail()
        server.file.unlink()
        await asyncio.to_thread(server.start)
        await end(server)
    finally:
        server.kill()


async def test_one_signal_ends_a_node_that_waits_for_others(own_server: Servers) -> None:
    server = own_server(
        cluster={"nodeId": 1, "addr": "tcp://127.0.0.1:0", "initNodes": ["1@127.0.0.1:9", "2@127.0.0.1:9"]}
    )
    server.launch()
    async with asyncio.timeout(30):
        while "waiting for nodes: 2" not in server.log_tail():
            assert server.is_running, server.log_tail()
            await asyncio.sleep(0.05)
    await end(server)


async def test_a_second_node_on_the_same_data_is_refused_and_the_first_goes_on(
    running: ServerProcess, own_clients: Clients, tmp_path: Path
) -> None:
    other = ServerProcess(tmp_path / "other", {"dataDir": str(running.data_dir)})
    other.launch()
    assert await asyncio.to_thread(other.wait) not in (0, None)
    told = other.log_tail()
    assert "in use by another wukong process" in told
    assert f"pid {running.pid}" in told
    assert str(running.data_dir) in told
    assert "Traceback" not in told
    await speak(running, own_clients)


async def speak(server: ServerProcess, clients: Clients) -> None:
    sender, receiver = await clients.connect_all([unique("a"), unique("b")], to=server)
    async with open_api(server.http_url) as api:
        room = Room(api)
        await room.create([sender.uid, receiver.uid])
        assert (await room.send(sender)).reason_code == SUCCESS
        await room.check([sender, receiver])


@pytest.mark.parametrize("key", ["httpAddr", "addr", "wsAddr"])
async def test_a_port_that_is_taken_is_named_and_nothing_is_left_behind(own_server: Servers, key: str) -> None:
    server = own_server()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        scheme = {"httpAddr": "", "addr": "tcp://", "wsAddr": "ws://"}[key]
        server.settings = {key: scheme + address}
        server.launch()
        assert await asyncio.to_thread(server.wait) not in (0, None)
        told = server.log_tail()
        assert f"cannot listen on {address} (key {key})" in told
        assert "another process" in told
        assert "Traceback" not in told
    # The data directory is free again and good.
    server.settings = {}
    await asyncio.to_thread(server.start)


async def test_two_thousand_connects_fifty_at_a_time_are_all_answered(
    running: ServerProcess, own_clients: Clients, any_kind: Kind
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * CONNECTS + 1_000), hard))
    try:
        uids = [unique("u") for _ in range(CONNECTS)]
        took_s: list[float] = []

        async def connect(uid: str) -> Client:
            started = time.monotonic()
            client = await own_clients.connect(uid, any_kind, to=running)
            took_s.append(time.monotonic() - started)
            return client

        started = time.monotonic()
        clients: list[Client] = []
        gate = asyncio.Semaphore(50)

        async def next_one(uid: str) -> None:
            async with gate:
                clients.append(await connect(uid))

        await asyncio.gather(*(next_one(uid) for uid in uids))
        total_s = time.monotonic() - started
        took_s.sort()
        print(
            f"{CONNECTS} in {total_s:.1f} s, middle {took_s[CONNECTS // 2] * 1000:.0f} ms, longest {took_s[-1]:.2f} s"
        )
        async with open_api(running.http_url) as api:
            assert len(await api.online(uids)) == CONNECTS
            await fence(api, clients)
            await asyncio.gather(*(client.close() for client in clients))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(120 + STORED_MESSAGES // 500)
async def test_a_node_with_many_messages_is_ready_again_in_three_seconds(
    running: ServerProcess, own_clients: Clients
) -> None:
    senders = await own_clients.connect_all([unique("s") for _ in range(8)], to=running)
    rooms = [unique("room") for _ in senders]
    async with open_api(running.http_url) as api:
        for client, room in zip(senders, rooms, strict=True):
            await api.create(room, [client.uid])
        await asyncio.gather(
            *(
                send_many(client, room, STORED_MESSAGES // len(rooms))
                for client, room in zip(senders, rooms, strict=True)
            )
        )
    for client in senders:
        client.leaving = True
    await asyncio.to_thread(running.kill)
    await asyncio.to_thread(running.start)
    after_kill_s = running.ready_s
    await asyncio.to_thread(running.stop)
    await asyncio.to_thread(running.start)
    print(f"{STORED_MESSAGES} messages: ready {after_kill_s:.2f} s after a kill, {running.ready_s:.2f} s after a stop")
    async with open_api(running.http_url) as api:
        for client, room in zip(senders, rooms, strict=True):
            seqs = [message["message_seq"] for message in await api.history(client.uid, room)]
            assert seqs[0] == 1 and seqs[-1] == STORED_MESSAGES // len(rooms)
            assert all(later == earlier + 1 for earlier, later in pairwise(seqs))
    assert max(after_kill_s, running.ready_s) < READY_LIMIT_S


async def send_many(client: Client, room: str, count: int, *, under_way: int = 100) -> None:
    gate = asyncio.Semaphore(under_way)

    async def send(turn: int) -> None:
        try:
            assert (await client.send(room, b"message %d" % turn)).reason_code == SUCCESS
        finally:
            gate.release()

    async with asyncio.TaskGroup() as group:
        for turn in range(count):
            await gate.acquire()
            group.create_task(send(turn))
