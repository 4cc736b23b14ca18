"""The acceptance checks of behaviour.md 21, on one node and on three, over which calls and connections are spread.

Long times are short here by configuration. Where a check is a test already, it is only named. "Recorded" are the cases
of tests/compat/http, which run on one node and on three as well.

| check | tests |
| --- | --- |
| 1 masters and slaves | here; recorded: reconnect_kick |
| 2 refused logins | here; that the socket closes: recorded reconnect_kick/token-*, user_token_device/banned-* |
| 3 silence | here; with a clock of its own: tests/gateway/test_wheel.py |
| 4 permissions | test_permissions.py; every combination: tests/channel/test_permissions.py |
| 5 strangers | test_permissions.py; recorded: person_allowlist |
| 6 order | here; recorded: order; under faults: tests/simulation/test_cluster_sim.py |
| 7 no_persist | here; in msg.offline: test_webhooks.py |
| 8 the sender's devices | here; recorded: message_send/person, recv_fields/members-only |
| 9 retries | here; recorded: wire/retry, wire/retry-count, wire/no-retry-after-close |
| 10 conversations | test_conversations.py; tables: tests/service/test_conversations.py; recorded: conversation |
| 11 history | here; recorded: channel_messagesync; tables: tests/service/test_messages.py |
| 12 commands | test_command_sync.py, test_s13_commands.py; recorded: cmd |
| 13 adding, then a message | test_s01_adding.py (S1, S25), every pair of nodes: test_s08_placement.py (S8) |
| 14 delete and create again | here; recorded: channel/delete-disbands |
| 15 denied members | test_s23_lists.py (S23) |
| 16 webhook | test_webhooks.py |
| 17 message events | tests/api/test_events.py; recorded: events |
| 18 shapes of errors | tests/api/test_server.py; recorded: all groups, route_varz_health/manager-token |
| 19 restart | here; killed amid changes: test_s17_restart.py, test_crash.py, tests/cluster/test_failures.py |
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import CLUSTER_SETTINGS, ONE, THREE, Clients, Deployment, open_clients
from tests.support.cluster import FORM_TIMEOUT_S, running_cluster
from tests.support.http import Api, ApiError, open_api
from tests.support.server import ServerProcess
from tests.support.wire import GROUP, PERSON, Client, Kind, LoginRefused, fence, unique
from wukong.protocol.packets import NO_PERSIST, RED_DOT

APP, WEB = 0, 1
SLAVE, MASTER = 0, 1
KICKED = 12

IDLE_S, RETRY_S, SCAN_S, RETRIES = 4.0, 0.5, 0.25, 5
SHORT: dict[str, Any] = {
    "tokenAuthOn": True,
    "connIdleTime": "4s",
    "messageRetry": {"interval": "500ms", "scanInterval": "250ms", "maxCount": RETRIES},
}
# Between a moment and its being seen here, on a machine that does other things too.
SLACK_S = 2.0


@contextlib.contextmanager
def deployed(size: str, directory: Path, settings: dict[str, Any]) -> Iterator[Deployment]:
    if size == THREE:
        with running_cluster(directory, settings=CLUSTER_SETTINGS | settings, proxied=False) as cluster:
            yield Deployment(list(cluster), cluster.slot_count)
            assert cluster.complaints() == []
        return
    server = ServerProcess(directory, settings)
    try:
        server.start()
        yield Deployment([server])
    finally:
        server.kill()
    assert server.complaints() == []


@pytest.fixture(scope="module", params=[ONE, THREE])
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Tokens are asked for, and nothing takes long."""
    with deployed(request.param, tmp_path_factory.mktemp(f"strict-{request.param}"), SHORT) as deployment:
        yield deployment


def api_of(deployment: Deployment) -> contextlib.AbstractAsyncContextManager[Api]:
    return open_api(*(node.http_url for node in deployment.nodes), fence_slots=deployment.fence_slots)


async def give_token(api: Api, uid: str, *, flag: int = APP, level: int = MASTER) -> str:
    token = unique("token")
    await api.post("/user/token", {"uid": uid, "token": token, "device_flag": flag, "device_level": level})
    return token


@contextlib.asynccontextmanager
async def pinging(*clients: Client) -> AsyncIterator[None]:
    """None of them is taken for silent meanwhile."""

    async def ping() -> None:
        while True:
            for client in clients:
                if client.is_open:
                    client.ping()
            await asyncio.sleep(IDLE_S / 8)

    task = asyncio.create_task(ping())
    try:
        yield
    finally:
        task.cancel()


async def test_check_01_a_master_replaces_the_master_of_his_flag_and_nobody_else(strict: Deployment) -> None:
    uid = unique("u")
    async with api_of(strict) as api, open_clients(*strict.nodes) as clients:
        master = {"device_flag": APP, "token": await give_token(api, uid)}
        slave = {"device_flag": WEB, "token": await give_token(api, uid, flag=WEB, level=SLAVE)}
        web, first, other_web = [await clients.connect(uid, **each) for each in (slave, master, slave)]
        began = time.monotonic()
        second = await clients.connect(uid, **master)
        await first.until(lambda: first.kicked is not None, 1 + SLACK_S)
        assert first.kicked is not None
        assert (first.kicked.reason_code, first.kicked.reason) == (KICKED, "login in other device")
        async with pinging(web, other_web, second):
            await asyncio.wait_for(first.closed.wait(), 10)
        assert 1.5 < first.closed_at - began < 2.5 + SLACK_S
        await fence(api, [web, other_web, second])
        online = sorted([each["device_flag"] for each in await api.online([uid])])
        assert online == [APP, WEB, WEB]


async def test_check_02_only_the_right_token_of_the_flag_lets_in_and_no_banned_user(strict: Deployment) -> None:
    uid, banned = unique("u"), unique("banned")
    async with api_of(strict) as api, open_clients(*strict.nodes) as clients:
        token, token_of_banned = await give_token(api, uid), await give_token(api, banned)
        await api.post("/channel/info", {"channel_id": banned, "channel_type": PERSON, "ban": 1})
        logins: list[tuple[str, dict[str, Any], int]] = [
            (uid, {"token": "another"}, 2),
            (uid, {}, 2),
            (uid, {"token": token, "device_flag": WEB}, 2),
            (unique("unknown"), {"token": token}, 2),
            # A suffix opens no door while visitors are not switched on (D-3).
            (unique("guest") + "___vstr", {}, 2),
            (uid, {"token": token, "device_id": "____device"}, 2),
            ("____system", {"token": token}, 2),
            (banned, {"token": token_of_banned}, 19),
        ]
        for kind in (Kind.TCP, Kind.JSON):
            for who, options, reason in logins:
                with pytest.raises(LoginRefused) as refused:
                    await clients.connect(who, kind, **options)
                assert refused.value.reason == reason, (who, options)
            await clients.connect(uid, kind, token=token)
        with pytest.raises(ApiError, match="19"):
            await give_token(api, banned)


async def closes_after(port: int, first_bytes: bytes) -> float:
    """Seconds until the server closes a socket that goes silent after these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(first_bytes)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    return time.monotonic() - began


async def test_check_03_who_is_silent_is_cut_off_and_who_pings_stays(strict: Deployment) -> None:
    uid = unique("u")
    node = strict.nodes[-1]
    async with api_of(strict) as api, open_clients(*strict.nodes) as clients:
        token = await give_token(api, uid, level=SLAVE)
        living = await clients.connect(uid, token=token)
        last_heard = time.monotonic()
        silent = await clients.connect(uid, token=token, to=node)
        silent.leaving = True

        async with pinging(living):
            no_byte, half_a_connect = await asyncio.gather(
                closes_after(node.tcp_port, b""), closes_after(node.tcp_port, b"\x10\x40\x05")
            )
            await asyncio.wait_for(silent.closed.wait(), 30)
            await asyncio.sleep(last_heard + 2 * IDLE_S - time.monotonic())
        for seconds, limit_s in [(no_byte, 2.0), (half_a_connect, 4.0), (silent.closed_at - last_heard, IDLE_S)]:
            assert limit_s - 0.1 <= seconds <= 1.5 * limit_s + SLACK_S
        assert living.pongs > 8 and living.is_open
        assert len(await api.online([uid])) == 1


async def test_check_06_of_a_thousand_sends_from_ten_connections_all_have_the_same_order(
    api: Api, clients: Clients
) -> None:
    group = unique("group")
    listener = await clients.connect(unique("listener"))
    senders = await clients.connect_all([unique("s") for _ in range(10)])
    await api.create(group, [listener.uid, *(sender.uid for sender in senders)])
    acks = await asyncio.gather(
        *(sender.send(group, f"{sender.uid} {number}".encode()) for number in range(100) for sender in senders)
    )
    assert sorted(ack.message_seq for ack in acks) == list(range(1, 1001))
    await fence(api, [listener, *senders])
    seqs = [message.message_seq for message in listener.of(group)]
    assert seqs == list(range(1, 1001))
    payloads = {message.message_seq: message.payload for message in listener.of(group)}
    for sender in senders:
        # The client itself holds a wrong order against the test; his own come back to nobody.
        got = {message.message_seq: message.payload for message in sender.of(group)}
        assert got == {seq: text for seq, text in payloads.items() if not text.startswith(sender.uid.encode() + b" ")}


async def unacknowledging(deployment: Deployment, uid: str, token: str) -> Client:
    """A client that acknowledges nothing by itself. Elsewhere a repeat is a fault, here it is asked for."""
    client = Client(uid, Kind.TCP, token=token, acknowledge=False)
    return await client.open("127.0.0.1", deployment.nodes[-1].tcp_port)


def arrivals(client: Client, payload: bytes) -> list[float]:
    return [message.at for message in client.received if message.payload == payload]


async def test_check_07_and_09_what_is_stored_comes_again_until_it_is_acknowledged_and_what_is_not_is_gone(
    strict: Deployment,
) -> None:
    a, b = unique("a"), unique("b")
    async with api_of(strict) as api, open_clients(*strict.nodes) as clients:
        token = await give_token(api, b, level=SLAVE)
        sender = await clients.connect(a, token=await give_token(api, a, level=SLAVE))
        deaf, acknowledging, leaving = [await unacknowledging(strict, b, token) for _ in range(3)]
        async with pinging(sender, deaf, acknowledging):
            passing = await sender.send(b, b"passing", kind=PERSON, flags=RED_DOT | NO_PERSIST)
            assert (passing.reason_code, passing.message_seq) == (1, 0) and passing.message_id
            await fence(api, [deaf])
            assert await api.conversations(b) == {} == await api.conversations(a)
            stored = await sender.send(b, b"stored", kind=PERSON)
            assert stored.message_seq == 1
            for client in (acknowledging, leaving):
                await client.until(lambda client=client: len(arrivals(client, b"stored")) == 2)  # type: ignore[misc]
            acknowledging.recvack(acknowledging.of(a)[-1])
            await leaving.close()
            await deaf.until(lambda: len(arrivals(deaf, b"stored")) == 1 + RETRIES)
            # One more round, which brings nothing: no sixth repeat, nothing that was acknowledged or went to who left.
            await asyncio.sleep(2 * (RETRY_S + SCAN_S))
            again = await unacknowledging(strict, b, token)
            await fence(api, [deaf, acknowledging, again])
            times = arrivals(deaf, b"stored")
            assert len(times) == 1 + RETRIES
            took_s = times[-1] - times[0]
            assert 0.8 * RETRIES * RETRY_S < took_s < RETRIES * (RETRY_S + SCAN_S) + SLACK_S
            assert len(arrivals(acknowledging, b"stored")) == len(arrivals(leaving, b"stored")) == 2
            assert again.of(a) == [], "reconnecting does not replay"
        # The same frame each time, and never the one that was not stored.
        assert len({(m.message_id, m.message_seq, m.timestamp, m.flags) for m in deaf.of(a) if m.message_seq}) == 1
        assert [len(arrivals(client, b"passing")) for client in (deaf, acknowledging, leaving)] == [1, 1, 1]
        history = await api.history(a, b, kind=PERSON)
        assert [message["message_seq"] for message in history] == [1]
        assert (await api.conversations(b))[a]["unread"] == 1
        for client in (deaf, acknowledging, again):
            assert all("doubled" in fault or "out of order" in fault for fault in client.faults), client.faults
            await client.close()


async def test_check_08_the_senders_other_device_gets_it_without_a_red_dot(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    group = unique("group")
    sending, other, receiver = await clients.connect_all([unique("a"), unique("b"), unique("c")], any_kind)
    second = await clients.connect(sending.uid, any_kind, device_flag=WEB)
    await api.create(group, [sending.uid, receiver.uid])
    await sending.send(group, b"to the group")
    await sending.send(receiver.uid, b"to a person", kind=PERSON)
    await fence(api, [sending, second, other, receiver])
    assert sending.received == other.received == []
    # Two chats may lie in two slots, and their order to each other is no promise.
    assert sorted((m.payload, m.flags & RED_DOT, m.channel_id) for m in second.received) == [
        (b"to a person", 0, receiver.uid),
        (b"to the group", 0, group),
    ]
    assert sorted((m.payload, m.flags & RED_DOT, m.channel_id) for m in receiver.received) == [
        (b"to a person", RED_DOT, sending.uid),
        (b"to the group", RED_DOT, group),
    ]


# start, end, pull mode, limit -> seqs of 25, more
UP, DOWN = 1, 0
PAGES = [
    (0, 0, UP, 10, range(16, 26), 1),
    (0, 0, DOWN, 10, range(16, 26), 1),
    (0, 0, DOWN, 30, range(1, 26), 0),
    (1, 0, UP, 10, range(1, 11), 1),
    (11, 0, UP, 10, range(11, 21), 1),
    (21, 0, UP, 10, range(21, 26), 0),
    (5, 9, UP, 10, range(5, 9), 0),
    (5, 20, UP, 10, range(5, 15), 1),
    (25, 0, DOWN, 10, range(16, 26), 1),
    (15, 0, DOWN, 10, range(6, 16), 1),
    (5, 0, DOWN, 10, range(1, 6), 0),
    (15, 10, DOWN, 10, range(11, 16), 0),
    (20, 5, DOWN, 10, range(11, 21), 1),
    (5, 9, DOWN, 10, range(0), 0),
    (0, 9, DOWN, 10, range(0), 0),
    (26, 0, UP, 10, range(0), 0),
]


async def test_check_11_history_comes_in_pages_by_the_table_of_ranges(api: Api) -> None:
    group, uid = unique("group"), unique("u")
    await api.create(group, [uid])
    for _ in range(25):
        await api.send(uid, group, b"text")
    for start, end, mode, limit, seqs, more in PAGES:
        page = await api.post(
            "/channel/messagesync",
            {
                "login_uid": uid,
                "channel_id": group,
                "channel_type": GROUP,
                "start_message_seq": start,
                "end_message_seq": end,
                "pull_mode": mode,
                "limit": limit,
            },
        )
        found = [message["message_seq"] for message in page["messages"]]
        assert (found, page["more"]) == (list(seqs), more), (start, end, mode, limit)
        assert (page["start_message_seq"], page["end_message_seq"]) == (start, end)


async def test_check_14_a_deleted_channel_refuses_and_goes_on_counting_when_it_is_made_again(
    api: Api, clients: Clients, any_kind: Kind
) -> None:
    group = unique("group")
    a, b = await clients.connect_all([unique("a"), unique("b")], any_kind)
    await api.create(group, [a.uid, b.uid])
    assert [(await a.send(group, b"before")).message_seq for _ in range(3)] == [1, 2, 3]
    await api.post("/channel/delete", {"channel_id": group, "channel_type": GROUP})
    assert (await a.send(group, b"between")).reason_code == 24
    with pytest.raises(ApiError, match="reason 24"):
        await api.send(a.uid, group, b"between")
    assert await api.members(group) == sorted([a.uid, b.uid])
    assert [message["message_seq"] for message in await api.history(b.uid, group)] == [1, 2, 3]
    await api.create(group)
    assert (await a.send(group, b"after")).message_seq == 4
    await fence(api, [b])
    assert [message.message_seq for message in b.of(group)] == [1, 2, 3, 4]
    assert (await api.conversations(b.uid))[group]["unread"] == 4


@pytest.mark.parametrize("size", [ONE, THREE])
async def test_check_19_after_a_kill_of_all_nodes_everything_acknowledged_is_there(size: str, tmp_path: Path) -> None:
    a, b, group = unique("a"), unique("b"), unique("group")

    async def seen(api: Api) -> dict[str, Any]:
        return {
            "conversations": [await api.conversations(uid) for uid in (a, b)],
            "history": await api.history(a, group),
            "person": await api.history(a, b, kind=PERSON),
            "commands": await api.commands(b),
            "members": await api.members(group),
        }

    with deployed(size, tmp_path, {}) as deployment:
        async with api_of(deployment) as api, open_clients(*deployment.nodes) as clients:
            sender, receiver = await clients.connect_all([a, b])
            await api.create(group, [a, b])
            await asyncio.gather(*(sender.send(group, f"{n}".encode()) for n in range(20)))
            await sender.send(b, b"to a person", kind=PERSON)
            await api.post("/conversations/setUnread", {"uid": b, "channel_id": group, "channel_type": 2, "unread": 7})
            await receiver.send(group, b"an answer")
            await api.send(a, group, b"a command", sync_once=True)
            before = await seen(api)
            for client in (sender, receiver):
                client.leaving = True
        for node in deployment.nodes:
            node.kill()
        for node in deployment.nodes:
            node.launch()
        for node in deployment.nodes:
            await asyncio.to_thread(node.wait_ready, 2 * FORM_TIMEOUT_S)
        async with api_of(deployment) as api, open_clients(*deployment.nodes) as clients:
            assert await seen(api) == before
            assert [each[group]["unread"] for each in before["conversations"]] == [1, 0]
            sender, receiver = await clients.connect_all([a, b])
            assert (await sender.send(group, b"again")).message_seq == 22
            await fence(api, [receiver])
            assert [message.message_seq for message in receiver.of(group)] == [22]
            assert (await api.conversations(b))[group]["unread"] == 1
