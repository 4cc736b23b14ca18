"""`wukong explain`: sentences for every case, and the command over a real server."""

import asyncio
import time
from typing import Any

import pytest

from tests.cli.conftest import Wukong, answer
from tests.support.server import ServerProcess
from tests.support.wire import Client, Kind, unique
from wukong.cli.explain import Json, lines

SENT_MS = 1_795_570_109_829
NODE = {
    "node": 1, "answered": True, "recording": True, "covers": True,
    "since_ms": SENT_MS - 60_000, "forgotten_ms": 0, "pushed": True, "nameless": 0,
}  # fmt: skip
USER = {
    "uid": "bob", "recipient": True, "why": "member", "certain": True, "sender": False, "denied": False,
    "system": False, "connected": True, "earlier": None, "sessions": [],
    "membership": {"from_log_index": 812, "from_seq": 3, "from_ms": [SENT_MS - 3_829, SENT_MS - 3_829]},
    "sync": {"way": "conversation", "from_seq": 4, "done": False},
}  # fmt: skip
SESSION = {
    "node": 2, "session": 5, "uid": "bob", "device_flag": 1, "device_id": "d", "state": "connected", "known": True,
    "opened_ms": SENT_MS - 1_000, "pushed_ms": SENT_MS + 2, "repeated_ms": [], "acknowledged_ms": SENT_MS + 29,
    "ended_ms": 0, "why": "", "text": "",
}  # fmt: skip
OVER = {**USER["membership"], "until_log_index": 900, "until_seq": 7, "until_ms": [SENT_MS - 500, SENT_MS - 100]}  # type: ignore[dict-item]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Times as they are here."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def told(user: Json | None = None, *, message: Json | None = None, **changes: Any) -> list[str]:
    facts = {
        "message_id": 77, "message_seq": 8, "stored": True, "sent_ms": SENT_MS, "from_uid": "alice",
        "client_msg_no": "n",
    }  # fmt: skip
    shown = {
        "channel_id": "lunch", "channel_type": 2, "command": False, "message": {**facts, **(message or {})},
        "nodes": [NODE], "counts": None, "users": [] if user is None else [{**USER, **user}], "next": "", **changes,
    }  # fmt: skip
    return [line.text for line in lines(shown)]


def test_the_heading_names_the_message_and_the_counts() -> None:
    counts = {"recipients": 1_200, "pushed": 900, "acknowledged": 899, "by_sync": 300, "exact": True}
    assert told(counts=counts)[:2] == [
        "message 8 of group lunch, id 77, sent 2026-11-25 01:28:29.829 by alice",
        "1,200 recipients: pushed to 900, confirmed by 899, by sync 300",
    ]
    one = {**counts, "recipients": 1, "exact": False}
    assert told(counts=one, command=True, channel_type=200)[:2] == [
        "command 8 of type 200 lunch, id 77, sent 2026-11-25 01:28:29.829 by alice",
        "1 recipient: pushed to 900, confirmed by 899, by sync up to 300",
    ]


def test_a_device_is_one_line() -> None:
    text = told({"sessions": [SESSION]})
    assert "bob: gets it: member since 01:28:26.000 (log index 812, after seq 3)" in text
    assert "  web on node 2: pushed 01:28:29.831, confirmed 01:28:29.858" in text


@pytest.mark.parametrize(
    ("session", "line"),
    [
        ({"acknowledged_ms": 0}, "pushed 01:28:29.831, not confirmed"),
        (
            {"acknowledged_ms": 0, "repeated_ms": [SENT_MS + 60_002]},
            "pushed 01:28:29.831, repeated 1 time, last 01:29:29.831, not confirmed",
        ),
        (
            {"acknowledged_ms": 0, "state": "ended", "ended_ms": SENT_MS + 9, "why": "slow"},
            "pushed 01:28:29.831, not confirmed, ended 01:28:29.838: it did not read: too much waited for it",
        ),
        (
            {"state": "ended", "ended_ms": SENT_MS + 86_400_000, "why": "kicked", "text": "login in other device"},
            'confirmed 01:28:29.858, ended 2026-11-26 01:28:29.829: it was kicked ("login in other device")',
        ),
        ({"pushed_ms": 0}, "connected since 01:28:28.829, no push remembered"),
        ({"pushed_ms": 0, "opened_ms": SENT_MS + 5}, "connected since 01:28:29.834, after the message"),
        ({"pushed_ms": 0, "known": False}, "connected since 01:28:28.829; its node cannot tell what it pushed"),
        (
            {"pushed_ms": 0, "known": False, "state": "lost", "why": "node_ended"},
            "connected 01:28:28.829, its node failed or was restarted since: what it pushed there is not known",
        ),
        ({"device_flag": 9}, "device 9 on node 2"),
    ],
)
def test_what_became_of_a_session(session: Json, line: str) -> None:
    (text,) = [text for text in told({"sessions": [{**SESSION, **session}]}) if " on node 2" in text]
    assert line in text


@pytest.mark.parametrize(
    ("user", "line"),
    [
        ({"why": "implicit"}, "gets it: takes part by the channel's id"),
        ({"why": "named"}, "gets it: named by the sender"),
        ({"why": "not_named", "recipient": False}, "does not get it: the sender named others"),
        (
            {"why": "joined_later", "recipient": False},
            "joined later, 01:28:26.000 (log index 812, after seq 3); whether he was a member before is not kept",
        ),
        (
            {"why": "joined_later", "recipient": False, "earlier": OVER},
            "before that he was removed between 01:28:29.329 and 01:28:29.729 (log index 900, after seq 7)",
        ),
        (
            {"why": "removed_before", "recipient": False, "membership": OVER},
            "does not get it: removed between 01:28:29.329 and 01:28:29.729 (log index 900, after seq 7), member since",
        ),
        ({"why": "no_member", "recipient": False, "membership": None}, "no membership is known"),
        ({"why": "not_kept", "recipient": None, "membership": None}, "whether he was a member then is not kept"),
        ({"why": "pushed", "membership": None}, "got it: it was pushed to him"),
        ({"why": "system_account", "recipient": False}, "nothing is pushed to the system account"),
        ({"denied": True}, "is on the deny list now: may not send, and still gets what others send"),
        ({"sender": True}, "sent it himself"),
        ({"system": True}, "is a system account"),
        ({"connected": False}, "is not connected now"),
        ({}, "was not pushed to him: he was not connected then"),
        ({}, "comes by sync: his conversation is unread from seq 4"),
        ({"sync": {"way": "conversation", "from_seq": 9, "done": True}}, "read: his read position is 8"),
        ({"sync": {"way": "history", "from_seq": 1, "done": False}}, "comes by /channel/messagesync only, with seq 8"),
        ({"sync": {"way": "command", "from_seq": 8, "done": False}}, "comes by /message/sync, which begins with seq 8"),
        ({"sync": {"way": "command", "from_seq": 9, "done": True}}, "confirmed as a command"),
        ({"sync": {"way": "none", "from_seq": 0, "done": False}}, "does not come by sync: it is not stored"),
    ],
)
def test_why_a_user_gets_it_and_how(user: Json, line: str) -> None:
    assert line in "\n".join(told(user))


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"answered": False}, "node 1 did not answer: what it pushed is not known"),
        ({"recording": False}, "node 1 remembers no pushes (wukong.deliveryRecordBytes is off)"),
        ({"pushed": False, "since_ms": SENT_MS + 1}, "node 1 started 01:28:29.830, after the message"),
        ({"pushed": False, "forgotten_ms": SENT_MS + 1}, "node 1 has forgotten what it pushed up to 01:28:29.830"),
        ({"nameless": 3}, "node 1 has forgotten some sessions that got the message"),
    ],
)
def test_what_a_node_does_not_know_is_said_and_no_push_is_not_taken_for_none(node: Json, line: str) -> None:
    text = "\n".join(told({}, nodes=[{**NODE, "covers": False, **node}]))
    assert line in text
    assert "no push to him is remembered" in text


def test_an_unstored_message_and_an_empty_and_a_long_answer() -> None:
    text = told(message={"stored": False, "message_seq": 0, "from_uid": ""}, next="carol")
    assert text[0] == "message of group lunch, id 77, sent 2026-11-25 01:28:29.829"
    assert text[1].startswith("It is not stored")
    assert "Nobody is known to be concerned." in text
    assert text[-1] == "There are more: go on with --start carol"


# -- over a real server --


def test_a_message_is_explained(on_node: Wukong, node: ServerProcess) -> None:
    channel, alice, bob, dave = (unique(name) for name in ("lunch", "alice", "bob", "dave"))
    on_node("channel", "create", channel, alice, bob)

    async def talk() -> None:
        receiver = await Client(bob, Kind.TCP).open("127.0.0.1", node.tcp_port)
        sender = await Client(alice, Kind.TCP).open("127.0.0.1", node.tcp_port)
        await sender.send(channel, b"noon?")
        await sender.send(bob, b"psst", kind=1)
        await receiver.until_received(2)
        await receiver.close()
        await sender.close()

    asyncio.run(talk())
    on_node("channel", "add", channel, dave)
    result = on_node("explain", channel, "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"message 1 of group {channel}, id ")
    assert "\n1 recipient: pushed to 1, confirmed by 1, by sync 0\n" in result.stdout
    assert f"\n{bob}: gets it: member since " in result.stdout
    assert "\n  app on node 1001: pushed " in result.stdout
    assert f"\n{dave}: does not get it: joined later, " in result.stdout
    (user,) = answer(on_node("explain", channel, "1", bob, "--json"))["users"]
    assert (user["uid"], user["why"], len(user["sessions"])) == (bob, "member", 1)
    pair = answer(on_node("explain", f"{bob}@{alice}", "1", "--json"))
    assert {user["why"] for user in pair["users"]} == {"implicit"}
    assert answer(on_node("explain", bob, "1", "--login-uid", alice, "--json"))["message"] == pair["message"]
    by_id = on_node("explain", f"{bob}@{alice}", str(pair["message"]["message_id"]), "--id", "--json")
    assert answer(by_id)["message"]["message_seq"] == 1


def test_what_is_not_there_is_refused_in_the_servers_words(on_node: Wukong) -> None:
    result = on_node("explain", unique("nowhere"), "1")
    assert result.exit_code == 1
    assert "it has no messages" in result.stderr
    assert on_node("explain", unique("nowhere"), "0").exit_code == 2


def test_a_chat_of_two_needs_both(wukong: Wukong) -> None:
    result = wukong("explain", "bob", "1", "--type", "person")
    assert result.exit_code == 2
    assert "bob@UID, or --login-uid UID" in result.stderr


def test_nobody_listening_is_told(wukong: Wukong, unused_address: str) -> None:
    result = wukong("explain", "lunch", "1", "--api", unused_address)
    assert result.exit_code == 3
    assert "Is the server running?" in result.stderr
