"""The JavaScript SDK as published on npm (wukongimjssdk 1.0.4, protocol 2), in Node over WebSocket: an application with
a back end of its own, on one node and on three."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import pytest

from tests.compat.backend import MASTER, WEB, BackEnd
from tests.compat.js_client import CONNECTED, DISCONNECTED, FAILED, KICKED, JsClient, install
from tests.support.cluster import ClusterProcesses, running_cluster
from tests.support.server import ServerProcess

PERSON, GROUP = 1, 2
SUCCESS, AUTH_FAIL, STRANGER, KICK = 1, 2, 3, 12
SETTINGS = {"tokenAuthOn": True}

# Starts another user, by name, with options of JsClient.
Start = Callable[..., JsClient]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    install()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("js"), SETTINGS)
    process.start()
    yield process
    process.stop()
    assert process.complaints() == []


@pytest.fixture
def backend(server: ServerProcess) -> Iterator[BackEnd]:
    with BackEnd(lambda uid: [server.http_url]) as serving:
        yield serving


@contextlib.contextmanager
def starting(backend: BackEnd) -> Iterator[Start]:
    run, started = uuid4().hex[:8], []

    def start(name: str, **options: Any) -> JsClient:
        started.append(JsClient(f"{name}-{run}", backend, **options))
        return started[-1]

    try:
        yield start
    finally:
        for client in started:
            client.close()


@pytest.fixture
def start(backend: BackEnd) -> Iterator[Start]:
    with starting(backend) as start:
        yield start


def create_group(backend: BackEnd, *members: JsClient) -> str:
    group = f"g{uuid4().hex[:8]}"
    uids = [member.uid for member in members]
    backend.call("", "/channel", {"channel_id": group, "channel_type": GROUP, "subscribers": uids})
    return group


def connections(server: ServerProcess, uid: str) -> list[Any]:
    with urlopen(f"{server.http_url}/connz?uid={uid}", timeout=10) as answer:
        found: list[Any] = json.load(answer)["connections"]
    return found


# Messages ------------------------------------------------------------------------------------------------------------


def test_a_person_message_is_acknowledged_and_arrives(start: Start) -> None:
    a, b = start("a"), start("b")
    a.send(b.uid, PERSON, "hello 你好 🌍")
    ack = a.expect(event="sendack")
    assert ack["reason"] == SUCCESS
    got = b.expect(event="message")
    assert (got["from"], got["channel"], got["type"]) == (a.uid, a.uid, PERSON)
    assert (got["seq"], got["id"], got["text"], got["reddot"]) == (1, ack["id"], "hello 你好 🌍", True)


def test_the_senders_other_device_sees_his_message_under_the_peers_name(start: Start) -> None:
    a, b = start("a"), start("b")
    other = start("a")
    a.send(b.uid, PERSON, "from my phone")
    got = other.expect(event="message")
    assert (got["from"], got["channel"], got["reddot"]) == (a.uid, b.uid, False)
    # What the peer answers comes to both, and nothing had come to the one that sent.
    b.send(a.uid, PERSON, "seen")
    for device in (a, other):
        assert device.expect(event="message")["text"] == "seen"
    assert len([event for event in a.seen if event["event"] == "message"]) == 1


def test_a_group_message_reaches_a_member_added_a_moment_before(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    group = create_group(backend, a)
    body = {"channel_id": group, "channel_type": GROUP, "subscribers": [b.uid]}
    backend.call("", "/channel/subscriber_add", body)
    for number in range(1, 11):
        a.send(group, GROUP, f"m{number}")
    for number in range(1, 11):
        got = b.expect(event="message")
        assert (got["channel"], got["type"], got["seq"], got["text"]) == (group, GROUP, number, f"m{number}")


def test_a_burst_arrives_whole_and_in_order(backend: BackEnd, start: Start) -> None:
    """This SDK loses packets when several are in one WebSocket message."""
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    for number in range(200):
        a.send(group, GROUP, f"m{number}")
    assert [b.expect(event="message")["text"] for _ in range(200)] == [f"m{number}" for number in range(200)]
    assert [a.expect(event="sendack")["seq"] for _ in range(200)] == list(range(1, 201))


def test_a_refused_message_is_reported_with_its_reason(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    a.send(create_group(backend, b), GROUP, "may I?")
    ack = a.expect(event="sendack")
    assert (ack["reason"], ack["seq"]) == (STRANGER, 0)
    assert ack["id"] != "0"


def test_a_command_comes_as_one_under_the_channels_own_name(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    command = {
        "header": {"no_persist": 0, "red_dot": 0, "sync_once": 1},
        "from_uid": a.uid,
        "channel_id": group,
        "channel_type": GROUP,
        "payload": "eyJ0eXBlIjo5OSwiY21kIjoicmVmcmVzaCIsInBhcmFtIjp7fX0=",  # type 99, cmd refresh
    }
    backend.call("", "/message/send", command)
    got = b.expect(event="cmd")
    assert (got["channel"], got["cmd"]) == (group, "refresh")
    a.send(group, GROUP, "after it")
    # A command has no place in the channel's own order.
    assert b.expect(event="message")["seq"] == 1


def test_a_message_that_is_streamed_is_one_message_to_it(backend: BackEnd, start: Start) -> None:
    """The events behind it are of a newer protocol: this SDK would throw, and connect again."""
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    backend.stream(group, GROUP, a.uid, ["to", "gether"])
    a.send(group, GROUP, "after it")
    assert [(got["seq"], got["text"]) for got in (b.expect(event="message") for _ in range(2))] == [
        (1, ""),
        (2, "after it"),
    ]
    assert [event["status"] for event in b.seen if event["event"] == "status"] == [CONNECTED]
    assert b.state()["status"] == CONNECTED


# The connection ------------------------------------------------------------------------------------------------------


def test_every_ping_is_answered(start: Start) -> None:
    client = start("a", heartbeat_ms=200)
    assert [client.expect(event="ping")["unanswered"] for _ in range(6)] == [0] * 6


def test_a_wrong_token_is_final(start: Start, backend: BackEnd) -> None:
    stranger = start("a", token=backend.login("somebody-else"), expected_status=FAILED)
    assert stranger.seen[-1]["reason"] == AUTH_FAIL
    assert stranger.state()["comesAgain"] is False


def test_a_new_master_device_kicks_the_old_one_which_stays_away(
    server: ServerProcess, backend: BackEnd, start: Start
) -> None:
    old = start("a", level=MASTER)
    new = start("a", token=old.token)
    assert old.expect(event="status", status=KICKED)["reason"] == KICK
    assert old.state()["comesAgain"] is False
    peer = start("b")
    peer.send(old.uid, PERSON, "only for the new one")
    assert new.expect(event="message")["text"] == "only for the new one"
    # The server closes the socket too.
    old.expect(event="status", status=DISCONNECTED)
    assert old.state() == {"event": "state", "status": DISCONNECTED, "comesAgain": False, "waits": False}
    assert [event for event in old.seen if event["event"] == "message"] == []
    assert len(connections(server, old.uid)) == 1


def test_a_kicked_user_may_log_in_again(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    backend.call("", "/user/device_quit", {"uid": b.uid, "device_flag": WEB})
    assert b.expect(event="status", status=KICKED)["reason"] == KICK
    b.expect(event="status", status=DISCONNECTED)
    b.connect(backend.login(b.uid))
    b.expect(event="status", status=CONNECTED)
    a.send(b.uid, PERSON, "welcome back")
    assert b.expect(event="message")["text"] == "welcome back"


def test_a_connection_lost_without_a_frame_comes_back_by_itself(
    server: ServerProcess, backend: BackEnd, start: Start
) -> None:
    a, b = start("a"), start("b")
    backend.call("", "/conn/remove", {"uid": b.uid, "conn_id": connections(server, b.uid)[0]["id"]})
    b.expect(event="status", status=CONNECTED)
    a.send(b.uid, PERSON, "again")
    assert b.expect(event="message")["text"] == "again"


# History through the back end ----------------------------------------------------------------------------------------


def test_conversations_and_history_are_synchronised_through_the_back_end(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    for number in range(1, 6):
        a.send(group, GROUP, f"m{number}")
        assert a.expect(event="sendack")["seq"] == number
    b.send(a.uid, PERSON, "to you")
    assert b.expect(event="sendack")["reason"] == SUCCESS

    late = start("b")
    late.do("conversations", count=3)
    rows = {row["channel"]: row for row in late.expect(event="conversations")["rows"]}
    assert rows.keys() == {group, a.uid}
    assert (rows[group]["unread"], rows[group]["last"]["seq"], rows[group]["last"]["text"]) == (5, 5, "m5")
    # The user's own last message leaves nothing unread.
    assert (rows[a.uid]["unread"], rows[a.uid]["last"]["from"], rows[a.uid]["last"]["text"]) == (0, b.uid, "to you")

    def history(**window: object) -> list[tuple[int, str, bool]]:
        late.do(
            "history", **{"channel": group, "type": GROUP, "start": 0, "end": 0, "limit": 10, "newer": False, **window}
        )
        return [(row["seq"], row["text"], row["reddot"]) for row in late.expect(event="history")["rows"]]

    everything = [(number, f"m{number}", True) for number in range(1, 6)]
    assert history() == everything
    assert history(limit=2) == everything[3:]
    assert history(start=4, end=1) == everything[1:4]
    assert history(start=2, end=4, newer=True) == everything[1:3]
    assert history(channel=a.uid, type=PERSON) == [(1, "to you", True)]

    backend.call("", "/conversations/clearUnread", {"uid": b.uid, "channel_id": group, "channel_type": GROUP})
    late.do("conversations", count=1)
    assert [row["unread"] for row in late.expect(event="conversations")["rows"]] == [0, 0]


def test_what_a_client_is_told_live_is_what_history_says(backend: BackEnd, start: Start) -> None:
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    for number in range(10):
        a.send(group, GROUP, f"m{number}")
    live = [b.expect(event="message") for _ in range(10)]
    b.do("history", channel=group, type=GROUP, start=0, end=0, limit=20, newer=False)
    told = b.expect(event="history")["rows"]
    fields = ("from", "channel", "seq", "id", "number", "text")
    assert [[row[name] for name in fields] for row in told] == [[event[name] for name in fields] for event in live]


# Servers that die ----------------------------------------------------------------------------------------------------


def test_after_a_crash_what_was_under_way_is_there_once(backend: BackEnd, start: Start, server: ServerProcess) -> None:
    a, b = start("a"), start("b")
    group = create_group(backend, a, b)
    for number in range(50):
        a.send(group, GROUP, f"m{number}")
    a.expect(event="sendack")
    server.kill()
    for client in (a, b):
        client.expect(event="status", status=DISCONNECTED)
    a.send(group, GROUP, "written while nobody listened")
    server.start()
    for client in (a, b):
        client.expect(event="status", status=CONNECTED)
    a.send(group, GROUP, "the last one")
    b.expect(event="message", text="the last one")

    b.do("history", channel=group, type=GROUP, start=0, end=0, limit=100, newer=False)
    rows = b.expect(event="history")["rows"]
    assert [row["seq"] for row in rows] == list(range(1, 53))
    sent = [*(f"m{number}" for number in range(50)), "written while nobody listened", "the last one"]
    assert sorted(row["text"] for row in rows) == sorted(sent)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with running_cluster(tmp_path_factory.mktemp("js-cluster"), settings=SETTINGS, proxied=False) as nodes:
        yield nodes
        assert nodes.complaints() == []


def test_the_death_of_a_node_costs_its_clients_nothing_but_time(cluster: ClusterProcesses) -> None:
    def api_urls(uid: str) -> list[str]:
        """Everybody's preferred node is the first, but b's and the back end's own."""
        first = 1 if uid.startswith("a-") else 2
        order = [first, *(number for number in cluster.nodes if number != first)]
        return [cluster[number].http_url for number in order if cluster[number] in cluster.running]

    with BackEnd(api_urls) as backend, starting(backend) as start:
        a, b = start("a"), start("b")
        group = create_group(backend, a, b)
        for number in range(20):
            a.send(group, GROUP, f"m{number}")
        a.expect(event="sendack")
        cluster[1].kill()
        a.expect(event="status", status=DISCONNECTED)
        for number in range(20, 30):
            a.send(group, GROUP, f"m{number}")
        a.expect(event="status", status=CONNECTED)

        # b has stayed connected: to him nothing happened.
        got = [b.expect(event="message") for _ in range(30)]
        assert [event["seq"] for event in got] == list(range(1, 31))
        assert {event["text"] for event in got} == {f"m{number}" for number in range(30)}
        a.do("history", channel=group, type=GROUP, start=0, end=0, limit=100, newer=False)
        rows = a.expect(event="history")["rows"]
        assert [(row["seq"], row["text"], row["id"]) for row in rows] == [
            (event["seq"], event["text"], event["id"]) for event in got
        ]
    cluster[1].start()
