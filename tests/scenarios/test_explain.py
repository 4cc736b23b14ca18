"""`GET /message/explain` over real processes: who was to get a message and why, what each device got, and how the rest
comes. What only one node knows is asked there, and what nobody knows any more is said to be unknown."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Clients, Deployment
from tests.scenarios.room import Room
from tests.support.cluster import ClusterProcesses, running_cluster
from tests.support.http import Api, ApiError, open_api
from tests.support.server import ServerProcess
from tests.support.wire import GROUP, PERSON, Client, unique
from wukong.protocol.packets import NO_PERSIST

PATH = "/message/explain"
TEMP = 8
WAIT_S = 20.0

# any: JSON of an answer.
Json = dict[str, Any]


async def explained(api: Api, channel: str, seq: int, **query: str | int) -> Json:
    return dict(await api.get(PATH, channel_id=channel, **{"message_seq": seq, "channel_type": GROUP, **query}))


async def of_user(api: Api, channel: str, seq: int, uid: str, **query: str | int) -> Json:
    (user,) = (await explained(api, channel, seq, uid=uid, **query))["users"]
    assert user["uid"] == uid
    return dict(user)


async def until(ask: Callable[[], Any], condition: Callable[[Json], bool]) -> Json:
    """Ask again until the answer is as wanted: a RECVACK and a closed socket are heard of a moment later."""
    answer: Json = {}
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition(answer := await ask()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited {WAIT_S} s in vain; the last answer was {answer}")
    return answer


async def sent(client: Client, channel: str, payload: bytes = b"hi", **options: Any) -> int:
    """The seq of a SEND."""
    ack = await client.send(channel, payload, **options)
    assert ack.reason_code == 1, ack
    return ack.message_seq


def told(user: Json) -> tuple[bool | None, str]:
    return user["recipient"], user["why"]


# -- who was to get it: on one node and on three --


async def test_a_member_who_is_connected_got_it_and_confirmed_it(
    clients: Clients, api: Api, deployment: Deployment
) -> None:
    alice, bob = await clients.connect_all([unique("alice"), unique("bob")])
    pc = await clients.connect(bob.uid, device_flag=2)
    channel = unique("room")
    await api.create(channel, [alice.uid, bob.uid])
    seq = await sent(alice, channel)
    user = await until(
        lambda: of_user(api, channel, seq, bob.uid),
        lambda user: len(user["sessions"]) == 2 and all(each["acknowledged_ms"] for each in user["sessions"]),
    )
    assert told(user) == (True, "member")
    assert user["membership"]["from_seq"] == 0
    assert user["membership"]["from_log_index"] > 0
    assert "until_seq" not in user["membership"]
    assert {(each["device_flag"], each["device_id"]) for each in user["sessions"]} == {
        (bob.device_flag, bob.device_id),
        (2, pc.device_id),
    }
    nodes = {getattr(node, "node_id", 1001) for node in deployment.nodes}
    for session in user["sessions"]:
        assert session["opened_ms"] <= session["pushed_ms"] <= session["acknowledged_ms"]
        assert (session["state"], session["repeated_ms"]) == ("connected", [])
        assert session["node"] in nodes
    everybody = await explained(api, channel, seq)
    assert everybody["counts"] == {"recipients": 1, "pushed": 1, "acknowledged": 1, "by_sync": 0, "exact": True}
    assert {user["uid"] for user in everybody["users"]} == {alice.uid, bob.uid}
    assert [node["covers"] for node in everybody["nodes"]] == [True] * len(deployment.nodes)
    sender = await of_user(api, channel, seq, alice.uid)
    assert sender["sender"]
    assert [each["pushed_ms"] for each in sender["sessions"]] == [0]


async def test_who_joins_later_does_not_get_it_and_who_was_removed_did_as_long_as_it_is_remembered(
    clients: Clients, api: Api
) -> None:
    alice, carol = await clients.connect_all([unique("alice"), unique("carol")])
    dave, stranger, channel = unique("dave"), unique("stranger"), unique("room")
    await api.create(channel, [alice.uid, carol.uid])
    first = await sent(alice, channel)
    await carol.until_received(1)
    await api.add(channel, [dave])
    await api.remove(channel, [carol.uid])
    second = await sent(alice, channel)

    user = await of_user(api, channel, first, dave)
    assert (*told(user), user["certain"]) == (False, "joined_later", False)
    assert user["membership"]["from_seq"] == first
    assert user["sync"] is None
    assert told(await of_user(api, channel, second, dave)) == (True, "member")

    # Her row is gone with her membership; that she got the first message is remembered by whoever pushed it.
    assert told(await of_user(api, channel, first, carol.uid)) == (True, "pushed")
    user = await of_user(api, channel, second, carol.uid)
    assert (*told(user), user["certain"]) == (False, "no_member", False)
    assert told(await of_user(api, channel, first, stranger)) == (False, "no_member")
    listed = {user["uid"]: told(user) for user in (await explained(api, channel, first))["users"]}
    assert listed[carol.uid] == (True, "pushed")
    assert listed[dave] == (False, "joined_later")


async def test_a_removal_is_told_while_its_membership_is_kept(clients: Clients, api: Api) -> None:
    alice = await clients.connect(unique("alice"))
    carol, channel = unique("carol"), unique("room")
    await api.create(channel, [alice.uid, carol])
    # A command that she has not confirmed keeps her time as a member.
    await api.send(alice.uid, channel, b"refresh", sync_once=True)
    await api.remove(channel, [carol])
    seq = await sent(alice, channel)
    user = await of_user(api, channel, seq, carol)
    assert told(user) == (False, "removed_before")
    assert user["membership"]["until_seq"] == 0
    low, high = user["membership"]["until_ms"]
    assert user["membership"]["from_ms"][0] <= low <= high
    command = await of_user(api, channel, 1, carol, cmd=1)
    assert told(command) == (True, "member")
    assert command["sync"] == {"way": "command", "from_seq": 1, "done": False}


async def test_who_is_denied_may_not_send_and_still_receives(clients: Clients, api: Api) -> None:
    alice, bob = await clients.connect_all([unique("alice"), unique("bob")])
    channel = unique("room")
    await api.create(channel, [alice.uid, bob.uid])
    await api.change_list("blacklist_add", channel, [bob.uid])
    seq = await sent(alice, channel)
    await bob.until_received(1)
    user = await of_user(api, channel, seq, bob.uid)
    assert (*told(user), user["denied"]) == (True, "member", True)
    assert [bool(each["pushed_ms"]) for each in user["sessions"]] == [True]
    assert not (await of_user(api, channel, seq, alice.uid))["denied"]


async def test_who_was_offline_gets_it_by_sync(clients: Clients, api: Api) -> None:
    alice = await clients.connect(unique("alice"))
    bob, channel = unique("bob"), unique("room")
    await api.create(channel, [alice.uid, bob])
    seq = await sent(alice, channel)
    user = await of_user(api, channel, seq, bob)
    assert (*told(user), user["connected"], user["sessions"]) == (True, "member", False, [])
    assert user["sync"] == {"way": "conversation", "from_seq": 1, "done": False}
    everybody = await explained(api, channel, seq)
    assert everybody["counts"] == {"recipients": 1, "pushed": 0, "acknowledged": 0, "by_sync": 1, "exact": True}

    await clients.connect(bob)
    assert (await api.conversations(bob))[channel]["last_msg_seq"] == seq
    await api.post("/conversations/setUnread", {"uid": bob, "channel_id": channel, "channel_type": GROUP, "unread": 0})
    user = await of_user(api, channel, seq, bob)
    assert user["sync"] == {"way": "conversation", "from_seq": seq + 1, "done": True}
    (session,) = user["sessions"]
    assert (session["pushed_ms"], session["state"]) == (0, "connected")


async def test_a_chat_of_two_concerns_both_and_nobody_else(clients: Clients, api: Api) -> None:
    alice, bob = await clients.connect_all([unique("alice"), unique("bob")])
    seq = await sent(alice, bob.uid, kind=PERSON)
    await bob.until_received(1)
    for query in ({"channel": f"{alice.uid}@{bob.uid}"}, {"channel": bob.uid, "login_uid": alice.uid}):
        answer = await explained(api, query.pop("channel"), seq, channel_type=PERSON, **query)
        assert {user["uid"]: told(user) for user in answer["users"]} == {
            alice.uid: (True, "implicit"),
            bob.uid: (True, "implicit"),
        }
        assert answer["counts"]["pushed"] == 1
    stranger = await of_user(api, f"{bob.uid}@{alice.uid}", seq, unique("eve"), channel_type=PERSON)
    assert told(stranger) == (False, "no_member")
    # Bob denies Alice: she may not send any more, and still gets what he sends.
    await api.change_list("blacklist_add", bob.uid, [alice.uid], kind=PERSON)
    answer = await explained(api, f"{alice.uid}@{bob.uid}", seq, channel_type=PERSON)
    assert {user["uid"]: user["denied"] for user in answer["users"]} == {alice.uid: True, bob.uid: False}
    with pytest.raises(ApiError, match="needs both"):
        await explained(api, bob.uid, seq, channel_type=PERSON)


async def test_named_recipients_and_nobody_else(clients: Clients, api: Api, room: Room) -> None:
    bob = await clients.connect(unique("bob"))
    carol, eve = unique("carol"), unique("eve")
    await api.post(
        "/message/send",
        {
            "from_uid": unique("back-end"),
            "payload": "aGk=",
            "subscribers": [bob.uid, carol],
            "header": {"sync_once": 1},
        },
    )
    await bob.until_received(1)
    (message,) = bob.received
    channel = message.channel_id.removesuffix("____cmd")
    answer = await until(
        lambda: explained(api, channel, message.message_seq, channel_type=TEMP, cmd=1),
        lambda answer: answer["counts"]["acknowledged"] == 1,
    )
    assert {user["uid"]: told(user) for user in answer["users"]} == {
        bob.uid: (True, "named"),
        carol: (True, "named"),
    }
    assert answer["counts"] == {"recipients": 2, "pushed": 1, "acknowledged": 1, "by_sync": 1, "exact": True}
    user = await of_user(api, channel, message.message_seq, eve, channel_type=TEMP, cmd=1)
    assert (*told(user), user["certain"]) == (False, "not_named", True)
    user = await of_user(api, channel, message.message_seq, carol, channel_type=TEMP, cmd=1)
    assert user["sync"] == {"way": "command", "from_seq": message.message_seq, "done": False}
    await api.commands(carol)
    await api.acknowledge_commands(carol, message.message_seq)
    user = await of_user(api, channel, message.message_seq, carol, channel_type=TEMP, cmd=1)
    assert user["sync"]["done"]


async def test_a_message_that_is_not_stored_is_found_by_its_id(clients: Clients, api: Api) -> None:
    alice, bob = await clients.connect_all([unique("alice"), unique("bob")])
    carol, dave, channel = unique("carol"), unique("dave"), unique("room")
    await api.create(channel, [alice.uid, bob.uid, carol])
    await alice.send(channel, b"x")  # a moment later than the row of a member
    ack = await alice.send(channel, b"typing", flags=NO_PERSIST)
    await bob.until_received(2)
    await api.add(channel, [dave])
    answer = await explained(api, channel, 0, message_id=ack.message_id)
    users = {user["uid"]: user for user in answer["users"]}
    assert (answer["message"]["stored"], answer["message"]["message_seq"], answer["counts"]) == (False, 0, None)
    assert users[bob.uid]["recipient"]
    assert users[bob.uid]["sessions"][0]["pushed_ms"]
    assert users[carol]["sessions"] == []
    assert users[carol]["sync"] is None or users[carol]["sync"]["way"] == "none"
    assert told(users[dave]) == (False, "joined_later")
    # The same id names the stored one.
    stored = await explained(api, channel, 0, message_id=bob.received[0].message_id)
    assert stored["message"]["message_seq"] == 1


async def test_what_is_not_there_is_refused_with_what_is(clients: Clients, api: Api) -> None:
    alice = await clients.connect(unique("alice"))
    channel = unique("room")
    with pytest.raises(ApiError, match=r"400.*it has no messages"):
        await explained(api, channel, 1)
    await api.create(channel, [alice.uid])
    await sent(alice, channel)
    with pytest.raises(ApiError, match=r"400.*its last message is 1"):
        await explained(api, channel, 7)
    with pytest.raises(ApiError, match=r"400.*it has no commands"):
        await explained(api, channel, 1, cmd=1)
    with pytest.raises(ApiError, match="message_seq or message_id is missing"):
        await explained(api, channel, 0)
    with pytest.raises(ApiError, match="no message of channel"):
        # Ids carry the slot; there are not so many.
        await explained(api, channel, 0, message_id=1_023 << 12)


async def test_a_large_channel_is_told_page_by_page(clients: Clients, api: Api) -> None:
    alice, bob = await clients.connect_all([unique("alice"), unique("bob")])
    channel = unique("room")
    uids = sorted([alice.uid, bob.uid, *(unique("u") for _ in range(248))])
    await api.create(channel, uids)
    seq = await sent(alice, channel)
    await bob.until_received(1)
    found: list[str] = []
    page: Json = {"next": ""}
    sizes = []
    while page["next"] or not found:
        page = await explained(api, channel, seq, start=page["next"])
        assert (page["counts"] is None) is bool(found)
        if not found:
            assert (page["counts"]["recipients"], page["counts"]["pushed"]) == (249, 1)
        found += [user["uid"] for user in page["users"]]
        sizes.append(len(page["users"]))
    assert found == uids
    assert sizes == [100, 100, 50]


# -- what became of it: servers of the test's own --


async def test_a_client_that_does_not_read_is_told_to_have_been_closed_for_it(
    own_server: Callable[..., ServerProcess], own_clients: Clients
) -> None:
    server = own_server(wukong={"sessionOutboundBytes": "64KiB"}, messageRetry={"interval": "60s"})
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        alice = await own_clients.connect(unique("alice"), to=server)
        slow = await own_clients.connect(unique("slow"), to=server)
        slow.leaving = True
        channel = unique("room")
        await api.create(channel, [alice.uid, slow.uid])
        slow.stop_reading()
        payload = b"x" * 24_000
        for _ in range(1_000):
            seq = await sent(alice, channel, payload)
            user = await of_user(api, channel, seq, slow.uid)
            if user["sessions"][0]["state"] == "ended":
                break
        (session,) = user["sessions"]
        assert (session["state"], session["why"]) == ("ended", "slow")
        assert session["pushed_ms"] <= session["ended_ms"]
        assert session["acknowledged_ms"] == 0
        assert (user["connected"], user["sync"]["way"]) == (False, "conversation")
        later = await sent(alice, channel)
        user = await of_user(api, channel, later, slow.uid)
        assert [(each["pushed_ms"], each["why"]) for each in user["sessions"]] == [(0, "slow")]


async def test_repetitions_are_counted_until_a_recvack_comes(
    own_server: Callable[..., ServerProcess], own_clients: Clients
) -> None:
    server = own_server(messageRetry={"interval": "100ms", "scanInterval": "50ms", "maxCount": 50})
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        alice = await own_clients.connect(unique("alice"), to=server)
        bob = await own_clients.connect(unique("bob"), to=server, acknowledge=False)
        channel = unique("room")
        await api.create(channel, [alice.uid, bob.uid])
        seq = await sent(alice, channel)
        user = await until(
            lambda: of_user(api, channel, seq, bob.uid), lambda user: len(user["sessions"][0]["repeated_ms"]) >= 2
        )
        times = user["sessions"][0]["repeated_ms"]
        assert times == sorted(times)
        assert times[0] >= user["sessions"][0]["pushed_ms"] + 100
        assert user["sessions"][0]["acknowledged_ms"] == 0
        bob.recvack(bob.received[0])
        user = await until(
            lambda: of_user(api, channel, seq, bob.uid), lambda user: bool(user["sessions"][0]["acknowledged_ms"])
        )
        assert user["sessions"][0]["acknowledged_ms"] >= user["sessions"][0]["repeated_ms"][1]
        # Repetitions of one message are no faults of the server here.
        bob.faults.clear()


async def test_ends_of_sessions_are_told_with_their_reasons(
    own_server: Callable[..., ServerProcess], own_clients: Clients
) -> None:
    server = own_server()
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        alice = await own_clients.connect(unique("alice"), to=server)
        bob = unique("bob")
        channel = unique("room")
        await api.create(channel, [alice.uid, bob])

        async def end_of(client: Client, end: Callable[[], Any]) -> tuple[str, str]:
            seq = await sent(alice, channel)
            await client.until(lambda: any(each.message_seq == seq for each in client.received))
            client.leaving = True
            await end()
            user = await until(
                lambda: of_user(api, channel, seq, bob),
                lambda user: any(each["pushed_ms"] and each["state"] == "ended" for each in user["sessions"]),
            )
            (session,) = [each for each in user["sessions"] if each["pushed_ms"] and each["state"] == "ended"]
            return session["why"], session["text"]

        client = await own_clients.connect(bob, to=server)
        assert await end_of(client, client.close) == ("client_closed", "")
        client = await own_clients.connect(bob, to=server)
        quit_device = {"uid": bob, "device_flag": -1}
        await api.post("/user/token", {"uid": bob, "token": "t", "device_flag": 0, "device_level": 0})
        assert await end_of(client, lambda: api.post("/user/device_quit", quit_device)) == ("kicked", "")
        client = await own_clients.connect(bob, to=server)
        connz = await api.get("/connz", uid=bob)
        removal = {"uid": bob, "conn_id": connz["connections"][-1]["id"]}
        assert await end_of(client, lambda: api.post("/conn/remove", removal)) == ("let_go", "")
        client = await own_clients.connect(bob, to=server, device_id="the-same")
        assert await end_of(client, lambda: own_clients.connect(bob, to=server, device_id="the-same")) == (
            "replaced",
            "",
        )


async def test_a_restart_and_a_full_memory_are_told(
    own_server: Callable[..., ServerProcess], own_clients: Clients
) -> None:
    server = own_server(wukong={"deliveryRecordBytes": "64KiB"})
    await asyncio.to_thread(server.start)
    channel, bob = unique("room"), unique("bob")
    async with open_api(server.http_url) as api:
        alice = await own_clients.connect(unique("alice"), to=server)
        client = await own_clients.connect(bob, to=server)
        await api.create(channel, [alice.uid, bob])
        first = await sent(alice, channel)
        await client.until_received(1)
        assert (await explained(api, channel, first))["nodes"][0]["covers"]
        for _ in range(5):
            await asyncio.gather(*(alice.send(channel, b"more") for _ in range(100)))
        answer = await explained(api, channel, first)
        (node,) = answer["nodes"]
        assert (node["covers"], node["pushed"]) == (False, False)
        assert node["forgotten_ms"] >= answer["message"]["sent_ms"]
        assert not answer["counts"]["exact"]
        alice.leaving = client.leaving = True
    await asyncio.to_thread(server.stop)
    server.settings = {"wukong": {"deliveryRecordBytes": "off"}}
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api:
        answer = await explained(api, channel, first)
        assert (answer["nodes"][0]["recording"], answer["nodes"][0]["covers"]) == (False, False)
        assert answer["nodes"][0]["since_ms"] > answer["message"]["sent_ms"]
        assert told(await of_user(api, channel, first, bob)) == (True, "member")


# -- three nodes, of which one is killed --


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[ClusterProcesses]:
    settings = {"wukong": {"slotCount": 4, "nodeGoneAfter": "2100ms"}}
    with running_cluster(tmp_path, settings=settings, proxied=False) as cluster:
        yield cluster


async def test_what_a_killed_node_has_pushed_is_unknown_and_said_to_be(
    nodes: ClusterProcesses, own_clients: Clients
) -> None:
    channel = unique("room")
    alice = await own_clients.connect(unique("alice"), to=nodes[1])
    bob = await own_clients.connect(unique("bob"), to=nodes[3])
    carol = await own_clients.connect(unique("carol"), to=nodes[2])
    async with open_api(nodes[1].http_url) as api:
        await api.create(channel, [alice.uid, bob.uid, carol.uid])
        first = await sent(alice, channel)
        user = await until(
            lambda: of_user(api, channel, first, bob.uid), lambda user: bool(user["sessions"][0]["acknowledged_ms"])
        )
        assert user["sessions"][0]["node"] == 3

        # It stands still, so it applies what comes now no more; then it dies.
        bob.leaving = True
        await asyncio.to_thread(nodes[3].pause)
        second = await sent(alice, channel)
        nodes[3].kill()
        await carol.until_received(2)

        answer = await until(
            lambda: explained(api, channel, second),
            lambda answer: not next(user for user in answer["users"] if user["uid"] == bob.uid)["connected"],
        )
        assert {node["node"]: node["answered"] for node in answer["nodes"]} == {1: True, 2: True, 3: False}
        assert (answer["counts"]["pushed"], answer["counts"]["by_sync"], answer["counts"]["exact"]) == (1, 1, False)
        user = await of_user(api, channel, second, bob.uid)
        assert told(user) == (True, "member")
        (session,) = user["sessions"]
        assert (session["node"], session["state"], session["known"], session["pushed_ms"]) == (3, "lost", False, 0)
        assert (session["why"], session["device_id"]) == ("node_ended", bob.device_id)
        assert user["sync"]["way"] == "conversation"
        # What another node knows it goes on telling.
        user = await until(
            lambda: of_user(api, channel, second, carol.uid), lambda user: bool(user["sessions"][0]["acknowledged_ms"])
        )
        assert user["sessions"][0]["node"] == 2

        await asyncio.to_thread(nodes[3].start)
        answer = await until(
            lambda: explained(api, channel, second), lambda answer: bool(answer["nodes"][2]["answered"])
        )
        assert not answer["nodes"][2]["covers"]
        assert answer["nodes"][2]["since_ms"] > answer["message"]["sent_ms"]
