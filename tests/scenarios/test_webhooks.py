"""What the back end is told, over its own failures and those of nodes: nothing is lost, each channel's order holds."""

import asyncio
import contextlib
import hmac
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent import futures
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Clients, open_clients
from tests.support.cluster import ClusterProcesses, running_cluster
from tests.support.http import NO_ANSWER, ApiError, open_api
from tests.support.server import ServerProcess, free_ports
from tests.support.webhooks import Request, WebhookReceiver, webhook_receiver
from tests.support.wire import unique

SECRET = "a secret of the back end"
NOTIFY, OFFLINE, ONLINE = "msg.notify", "msg.offline", "user.onlinestatus"
# A minute was tried too, by hand: docs/design/testing.md.
OUTAGE_S = float(os.environ.get("WUKONG_TEST_OUTAGE_S", "2"))
SETTLE_S = 20.0 + 2 * OUTAGE_S
CHANNELS = 5
PAUSE_S = 0.02

Servers = Callable[..., ServerProcess]


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as opened:
        yield opened


def settings(receiver: WebhookReceiver, **webhook: Any) -> dict[str, Any]:
    return {
        "webhook": {"httpAddr": receiver.address, "msgNotifyEventPushInterval": "50ms", **webhook},
        "wukong": {"slotCount": 4, "webhookSecret": SECRET, "nodeGoneAfter": "3s"},
    }


@pytest.fixture
def cluster(tmp_path: Path, receiver: WebhookReceiver) -> Iterator[ClusterProcesses]:
    with running_cluster(tmp_path, settings=settings(receiver), proxied=False) as running:
        yield running
        assert running.complaints() == []


class Flow:
    """Messages to a few channels, one after the other in each, as long as the block lasts; each is sent until it is
    acknowledged. sent: channel -> ids in the order of the acknowledgements."""

    def __init__(self, servers: Sequence[ServerProcess]) -> None:
        self._servers = servers
        self.channels = [unique("g") for _ in range(CHANNELS)]
        self.sent: dict[str, list[int]] = {channel: [] for channel in self.channels}
        self._over = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Flow"]:
        for channel in self.channels:
            async with open_api(self._servers[0].http_url) as api:
                await api.create(channel, ["a", "b", "c"])
        tasks = [asyncio.create_task(self._send(channel)) for channel in self.channels]
        try:
            yield self
        finally:
            self._over = True
            await asyncio.gather(*tasks)

    async def _send(self, channel: str) -> None:
        number = 0
        while not self._over:
            number += 1
            name = f"{channel}-{number}"
            while True:
                server = random.choice([each for each in self._servers if each.is_running] or self._servers[:1])
                try:
                    async with asyncio.timeout(5), open_api(server.http_url) as api:
                        data = await api.send("a", channel, name.encode(), client_msg_no=name)
                except (*NO_ANSWER, ApiError):
                    await asyncio.sleep(0.1)
                else:
                    break
            self.sent[channel].append(data["message_id"])
            await asyncio.sleep(PAUSE_S)

    async def more(self, count: int) -> None:
        """Until so many more are acknowledged in every channel."""
        wanted = {channel: len(ids) + count for channel, ids in self.sent.items()}
        while any(len(self.sent[channel]) < each for channel, each in wanted.items()):
            await asyncio.sleep(0.02)

    def faults(self, receiver: WebhookReceiver, *events: str) -> list[str]:
        """What was not told of, or for the first time behind a later message of its channel."""
        found = []
        for event in events:
            for channel, ids in self.sent.items():
                items = [item for item in receiver.items(event) if item["channel_id"] == channel]
                told = list(dict.fromkeys(item["message_id"] for item in items))
                if missing := set(ids) - set(told):
                    found.append(f"{event} {channel}: {len(missing)} of {len(ids)} are missing")
                seqs = list(dict.fromkeys(item["message_seq"] for item in items))
                if seqs != sorted(seqs):
                    found.append(f"{event} {channel}: out of order: {seqs}")
                found += [
                    f"{event} {channel}: to {item['to_uids']}"
                    for item in items
                    if event == OFFLINE and sorted(item["to_uids"]) != ["b", "c"]
                ]
        return found

    async def settled(self, receiver: WebhookReceiver, *events: str) -> list[str]:
        """The faults that are left when everything had time to arrive."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self.faults(receiver, *events)) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return found


def unsigned(receiver: WebhookReceiver) -> list[Request]:
    """Requests whose signature is not what the secret makes of them, or is of another time."""
    wrong = []
    for request in receiver.requests:
        stamp, name = request.headers["x-wukong-timestamp"], request.headers["x-wukong-id"]
        digest = hmac.new(SECRET.encode(), f"{stamp}.{name}.".encode() + request.body, sha256).hexdigest()
        if request.headers["x-wukong-signature"] != f"v1={digest}" or abs(int(stamp) - request.at) > 60:
            wrong.append(request)
    return wrong


def slowly(request: Request) -> int:
    time.sleep(0.2)
    return 200


async def trouble(receiver: WebhookReceiver, flow: Flow, rng: random.Random) -> None:
    """What back ends do, in a drawn order."""
    for kind in rng.sample(["killed", "500", "slow"], 3):
        if kind == "killed":
            receiver.close()
            await flow.more(10)
            receiver.open()
        else:
            receiver.answer = slowly if kind == "slow" else (lambda request: 500)
            before = receiver.tries
            await flow.more(10)
            # After a kill the next try may be seconds away.
            assert await asyncio.to_thread(receiver.wait, lambda seen=before: receiver.tries > seen)
            receiver.answer = lambda request: 200
        await flow.more(3)


async def test_a_back_end_that_fails_misses_nothing(own_server: Servers, receiver: WebhookReceiver) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    server = own_server(**settings(receiver))
    await asyncio.to_thread(server.start)
    async with Flow([server]).running() as flow:
        await trouble(receiver, flow, random.Random(seed))
    assert await flow.settled(receiver, NOTIFY, OFFLINE) == []
    assert unsigned(receiver) == []
    assert receiver.tries > len(receiver.requests), "nothing failed"


async def test_a_node_that_is_killed_loses_no_event(own_server: Servers, receiver: WebhookReceiver) -> None:
    server = own_server(**settings(receiver))
    await asyncio.to_thread(server.start)
    async with Flow([server]).running() as flow:
        receiver.answer = lambda request: 500
        await flow.more(10)
        await asyncio.to_thread(server.kill)
        receiver.answer = slowly
        await asyncio.to_thread(server.start)
        await flow.more(5)
        await asyncio.to_thread(server.kill)
        receiver.answer = lambda request: 200
        await asyncio.to_thread(server.start)
        await flow.more(5)
    assert await flow.settled(receiver, NOTIFY, OFFLINE) == []


async def test_a_cluster_tells_everything_while_its_leaders_are_killed(
    cluster: ClusterProcesses, receiver: WebhookReceiver
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    receiver.answer = slowly
    async with Flow(list(cluster)).running() as flow:
        await flow.more(10)
        victim = cluster[cluster.busiest_leader()]
        await asyncio.to_thread(victim.kill)
        await flow.more(5)
        receiver.answer = lambda request: 500
        await flow.more(5)
        await asyncio.to_thread(victim.start)
        receiver.close()
        await flow.more(3)
        victim = cluster[cluster.busiest_leader()]
        await asyncio.to_thread(victim.kill)
        receiver.answer = lambda request: 200
        receiver.open()
        await flow.more(5)
    assert await flow.settled(receiver, NOTIFY, OFFLINE) == []
    assert unsigned(receiver) == []
    # A node names itself, and the nodes are those of the cluster.
    assert {item["source_id"] for item in receiver.items(OFFLINE)} <= {1, 2, 3}


async def test_a_back_end_that_comes_back_elsewhere_misses_nothing(
    cluster: ClusterProcesses, receiver: WebhookReceiver
) -> None:
    async with Flow(list(cluster)).running() as flow:
        await flow.more(10)
        receiver.close()
        await asyncio.sleep(OUTAGE_S / 2)
        victim = cluster[cluster.busiest_leader()]
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(OUTAGE_S / 2)
        receiver.move()
        receiver.open()
        for node in cluster:
            if node.is_running:
                await asyncio.to_thread(node.stop)
            node.settings = {**node.settings, **settings(receiver)}
            await asyncio.to_thread(node.start)
            await flow.more(3)
    assert await flow.settled(receiver, NOTIFY, OFFLINE) == []
    assert unsigned(receiver) == []


async def test_an_event_that_is_not_taken_holds_up_no_other(own_server: Servers, receiver: WebhookReceiver) -> None:
    receiver.answer = lambda request: 500 if request.event == OFFLINE else 200
    server = own_server(**settings(receiver))
    await asyncio.to_thread(server.start)
    async with Flow([server]).running() as flow, open_clients(server) as clients:
        await flow.more(10)
        await clients.connect("watcher")
        assert await flow.settled(receiver, NOTIFY) == []
        assert await asyncio.to_thread(receiver.wait, lambda: bool(receiver.items(ONLINE)))
        assert receiver.items(OFFLINE) == []
        receiver.answer = lambda request: 200
    assert await flow.settled(receiver, NOTIFY, OFFLINE) == []


async def test_only_the_events_in_focus_are_told(own_server: Servers, receiver: WebhookReceiver) -> None:
    server = own_server(**settings(receiver, focusEvents=[NOTIFY]))
    await asyncio.to_thread(server.start)
    async with Flow([server]).running() as flow, open_clients(server) as clients:
        await clients.connect("watcher")
        await flow.more(5)
    assert await flow.settled(receiver, NOTIFY) == []
    assert {request.event for request in receiver.requests} == {NOTIFY}


async def test_a_failing_back_end_costs_the_event_only_if_a_number_of_tries_is_set(
    own_server: Servers, receiver: WebhookReceiver
) -> None:
    receiver.answer = lambda request: 500
    server = own_server(**settings(receiver, msgNotifyEventRetryMaxCount=2, focusEvents=[NOTIFY]))
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        await api.create("g", ["a"])
        await api.send("a", "g", b"lost")
        assert await asyncio.to_thread(receiver.wait, lambda: receiver.tries == 2)
        receiver.answer = lambda request: 200
        await api.send("a", "g", b"told")
        assert await asyncio.to_thread(receiver.wait, lambda: bool(receiver.items(NOTIFY)))
    assert [item["message_seq"] for item in receiver.items(NOTIFY)] == [2]
    # It says so, as an error: whoever set the number is to know.
    assert len(server.complaints()) == 1
    server.log_path.unlink()


@pytest.mark.parametrize("nodes", [1, 3])
async def test_users_of_a_killed_node_are_told_offline(
    tmp_path: Path, receiver: WebhookReceiver, own_clients: Clients, nodes: int
) -> None:
    uids = [unique("u") for _ in range(20)]
    with running_cluster(tmp_path, nodes, settings(receiver), proxied=False) as cluster:
        victim = cluster[nodes]
        clients = await own_clients.connect_all(uids, to=victim)
        second = await own_clients.connect(uids[0], to=victim, device_flag=1)

        def told(online: int) -> set[str]:
            entries = [entry.rsplit("-", 5) for entry in receiver.items(ONLINE)]
            return {uid for uid, _, is_online, _, _, _ in entries if is_online == str(online)}

        assert await asyncio.to_thread(receiver.wait, lambda: told(1) == set(uids))
        for client in (*clients, second):
            client.leaving = True
        await asyncio.to_thread(victim.kill)
        if nodes == 1:
            await asyncio.to_thread(victim.start)
        assert await asyncio.to_thread(receiver.wait, lambda: told(0) == set(uids)), told(0) ^ set(uids)
        entries = [entry.rsplit("-", 5)[1:] for entry in receiver.items(ONLINE) if entry.startswith(uids[0] + "-")]
        # flag, online, and the counts of that flag and of all, after each change; the order of the two deaths is open.
        changes = [(flag, online, *counts) for flag, online, _, *counts in dict.fromkeys(map(tuple, entries))]
        assert changes[:2] == [("0", "1", "1", "1"), ("1", "1", "1", "2")]
        assert sorted(changes[2:]) in (
            [("0", "0", "0", "0"), ("1", "0", "0", "1")],
            [("0", "0", "0", "1"), ("1", "0", "0", "0")],
        )


async def test_master_sessions_are_left_out_wherever_they_are(
    tmp_path: Path, receiver: WebhookReceiver, own_clients: Clients
) -> None:
    with running_cluster(tmp_path, 3, settings(receiver) | {"tokenAuthOn": True}, proxied=False) as cluster:
        async with open_api(cluster.http_url) as api:
            for uid, level in (("master", 1), ("slave", 0)):
                await api.post("/user/token", {"uid": uid, "token": "t", "device_level": level})
            await api.create("g", ["a", "master", "slave", "absent"])
            for node in cluster:
                master = await own_clients.connect("master", token="t", to=node)
                slave = await own_clients.connect("slave", token="t", to=node)
                data = await api.send("a", "g", b"x")
                number = data["message_id"]
                assert await asyncio.to_thread(
                    receiver.wait, lambda number=number: number in [e["message_id"] for e in receiver.items(OFFLINE)]
                )
                await master.close()
                await slave.close()
        assert [sorted(item["to_uids"]) for item in receiver.items(OFFLINE)] == [["absent", "slave"]] * 3
        assert cluster.complaints() == []


async def test_the_oldest_events_go_when_too_many_wait(own_server: Servers, receiver: WebhookReceiver) -> None:
    receiver.answer = lambda request: 500
    own = settings(receiver, focusEvents=[OFFLINE])
    own["wukong"] = {"slotCount": 1, "webhookBacklogBytes": "1MiB"}
    server = own_server(**own)
    await asyncio.to_thread(server.start)
    payload = b"x" * 20_000
    async with open_api(server.http_url) as api:
        await api.create("g", ["a", "b"])
        ids = [(await api.send("a", "g", payload, no_persist=True))["message_id"] for _ in range(150)]
        assert metric(server, f'wukong_webhook_dropped_total{{event="{OFFLINE}"}}') > 90
        assert 0 < metric(server, "wukong_webhook_backlog_bytes") <= 1 << 20
        assert metric(server, "wukong_webhook_backlog_records") > 40
        receiver.answer = lambda request: 200

        def told() -> list[int]:
            return [item["message_id"] for item in receiver.items(OFFLINE)]

        assert await asyncio.to_thread(receiver.wait, lambda: ids[-1] in told(), 30)
        # What is left are the newest, and perhaps one that was under way when it went.
        assert set(ids[-40:]) <= set(told()) and told() == sorted(told())
        assert await asyncio.to_thread(receiver.wait, lambda: not metric(server, "wukong_webhook_backlog_records"))
    assert len(server.complaints()) == 1, "one line tells of all of them"
    server.log_path.unlink()


def metric(server: ServerProcess, name: str) -> float:
    with server.open("/metrics", 5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " "))


async def test_a_grpc_back_end_is_told_the_same(own_server: Servers, receiver: WebhookReceiver) -> None:
    grpc = pytest.importorskip("grpc")
    took: list[tuple[bytes, dict[str, str]]] = []
    refusals = iter(["error", "unavailable", "", ""])

    def take(request: bytes, context: Any) -> bytes:
        refused = next(refusals, "")
        if refused == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if refused == "error":
            return b""  # status 0
        took.append((request, dict(context.invocation_metadata())))
        return b"\x08\x01"

    backend = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {"SendWebhook": grpc.unary_unary_rpc_method_handler(take)}
    backend.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("wkhook.WebhookService", methods),))
    (port,) = free_ports(1)
    backend.add_insecure_port(f"127.0.0.1:{port}")
    backend.start()
    try:
        # Both are set, and gRPC counts.
        server = own_server(**settings(receiver, grpcAddr=f"127.0.0.1:{port}", focusEvents=[NOTIFY]))
        await asyncio.to_thread(server.start)
        async with open_api(server.http_url) as api:
            await api.create("g", ["a"])
            data = await api.send("a", "g", b"hello")
            async with asyncio.timeout(15):
                while not took:
                    await asyncio.sleep(0.05)
    finally:
        backend.stop(None)
    request, metadata = took[0]
    head = b"\x0a\x0a" + NOTIFY.encode() + b"\x12"
    assert request.startswith(head)
    body = request[request.index(b"[") :]
    (item,) = json.loads(body)
    assert item["message_id"] == data["message_id"]
    named = f"{metadata['x-wukong-timestamp']}.{metadata['x-wukong-id']}.".encode()
    assert metadata["x-wukong-signature"] == "v1=" + hmac.new(SECRET.encode(), named + body, sha256).hexdigest()
    assert receiver.tries == 0
