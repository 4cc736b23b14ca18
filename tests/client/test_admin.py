from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.client.canned_api import Request, canned_api
from wukong.client import (
    Accepted,
    AdminClient,
    ApiRefused,
    ApiUnavailable,
    BatchResult,
    Conversation,
    Message,
    Online,
    Page,
    Route,
)

OK = (200, {"status": 200})
Call = Callable[[AdminClient], Awaitable[Any]]

# A message as WuKongIM answers it (http-api.md, 3.5).
ROW = {
    "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
    "setting": 0,
    "message_id": 2047193857731457024,
    "message_idstr": "2047193857731457024",
    "client_msg_no": "n",
    "message_seq": 12,
    "from_uid": "u1",
    "channel_id": "u2",
    "channel_type": 1,
    "expire": 0,
    "timestamp": 1776844805,
    "payload": "eyJ0eXBlIjoxLCJjb250ZW50IjoiaGkifQ==",
}
MESSAGE = Message(
    channel_id="u2",
    channel_type=1,
    from_uid="u1",
    message_seq=12,
    message_id=2047193857731457024,
    client_msg_no="n",
    timestamp=1776844805,
    payload=b'{"type":1,"content":"hi"}',
    flags=2,
)
FLAGS = {"large": 0, "ban": 0, "disband": 0, "send_ban": 0, "allow_stranger": 0}
GROUP = {"channel_id": "g", "channel_type": 2}
CONVERSATION = {
    "channel_id": "u2",
    "channel_type": 1,
    "unread": 2,
    "timestamp": 1776844805,
    "last_msg_seq": 12,
    "last_client_msg_no": "n",
    "offset_msg_seq": 0,
    "readed_to_msg_seq": 10,
    "version": 1776844805000000000,
    "recents": None,
}


async def ask(answers: dict[str, tuple[int, Any]], call: Call, *, token: str | None = None) -> tuple[Any, Request]:
    """What the call returned, and the last request."""
    async with canned_api(answers) as api, AdminClient(api.url + "/", token) as admin:
        result = await call(admin)
    return result, api.requests[-1]


CHANGES: list[tuple[str, Any, Call]] = [
    (
        "/user/token",
        {"uid": "u", "token": "t", "device_flag": 1, "device_level": 1},
        lambda admin: admin.set_token("u", "t", device_flag=1, device_level=1),
    ),
    ("/user/device_quit", {"uid": "u", "device_flag": -1}, lambda admin: admin.device_quit("u")),
    ("/user/systemuids_add", {"uids": ["a"]}, lambda admin: admin.add_system_uids(["a"])),
    ("/user/systemuids_remove", {"uids": ["a"]}, lambda admin: admin.remove_system_uids(["a"])),
    ("/conn/kick", {"uid": "u", "conn_id": 3, "node_id": 0}, lambda admin: admin.kick_connection("u", 3)),
    ("/conn/remove", {"uid": "u", "conn_id": 3, "node_id": 0}, lambda admin: admin.remove_connection("u", 3)),
    (
        "/channel",
        {**GROUP, **FLAGS, "ban": 1, "reset": 1, "subscribers": ["a", "b"]},
        lambda admin: admin.create_channel("g", subscribers=["a", "b"], reset=True, ban=True),
    ),
    (
        "/channel/info",
        {"channel_id": "u", "channel_type": 1, **FLAGS, "send_ban": 1},
        lambda admin: admin.set_channel_info("u", 1, send_ban=True),
    ),
    ("/channel/delete", GROUP, lambda admin: admin.delete_channel("g")),
    (
        "/channel/subscriber_add",
        {**GROUP, "reset": 0, "subscribers": ["a"]},
        lambda admin: admin.add_subscribers("g", 2, ["a"]),
    ),
    (
        "/channel/subscriber_remove",
        {**GROUP, "subscribers": ["a"]},
        lambda admin: admin.remove_subscribers("g", 2, ["a"]),
    ),
    ("/channel/subscriber_remove_all", GROUP, lambda admin: admin.remove_all_subscribers("g", 2)),
    (
        "/tmpchannel/subscriber_set",
        {"channel_id": "t", "uids": ["a"]},
        lambda admin: admin.set_temp_subscribers("t", ["a"]),
    ),
    ("/channel/blacklist_add", {**GROUP, "uids": ["a"]}, lambda admin: admin.add_blacklist("g", 2, ["a"])),
    ("/channel/blacklist_set", {**GROUP, "uids": []}, lambda admin: admin.set_blacklist("g", 2, [])),
    ("/channel/blacklist_remove", {**GROUP, "uids": ["a"]}, lambda admin: admin.remove_blacklist("g", 2, ["a"])),
    ("/channel/blacklist_remove_all", {**GROUP, "uids": []}, lambda admin: admin.clear_blacklist("g", 2)),
    ("/channel/whitelist_add", {**GROUP, "uids": ["a"]}, lambda admin: admin.add_whitelist("g", 2, ["a"])),
    ("/channel/whitelist_set", {**GROUP, "uids": []}, lambda admin: admin.set_whitelist("g", 2, [])),
    ("/channel/whitelist_remove", {**GROUP, "uids": ["a"]}, lambda admin: admin.remove_whitelist("g", 2, ["a"])),
    ("/channel/whitelist_remove_all", {**GROUP, "uids": []}, lambda admin: admin.clear_whitelist("g", 2)),
    (
        "/message/send",
        {
            "header": {"no_persist": 1, "red_dot": 0, "sync_once": 1},
            "payload": b64encode(b"x").decode(),
            "from_uid": "s",
            "subscribers": ["a"],
        },
        lambda admin: admin.send_command_to(["a"], b"x", from_uid="s", no_persist=True),
    ),
    (
        "/message/syncack",
        {"uid": "u", "last_message_seq": 7},
        lambda admin: admin.ack_commands("u", 7),
    ),
    ("/conversations/clearUnread", {"uid": "u", **GROUP}, lambda admin: admin.clear_unread("u", "g", 2)),
    ("/conversations/setUnread", {"uid": "u", **GROUP, "unread": 3}, lambda admin: admin.set_unread("u", "g", 2, 3)),
    ("/conversations/delete", {"uid": "u", **GROUP}, lambda admin: admin.delete_conversation("u", "g", 2)),
]


@pytest.mark.parametrize(("path", "body", "call"), CHANGES, ids=[row[0] for row in CHANGES])
async def test_a_change_is_posted_as_the_route_wants_it(path: str, body: object, call: Call) -> None:
    result, request = await ask({path: OK}, call)
    assert result is None
    assert (request.method, request.path, request.body) == ("POST", path, body)


QUERIES: list[tuple[str, str, Any, Call, Any, dict[str, str]]] = [
    ("GET", "/health", {"status": "ok"}, lambda admin: admin.health(), None, {}),
    (
        "GET",
        "/route",
        {"tcp_addr": "h:5100", "ws_addr": "ws://h:5200", "wss_addr": ""},
        lambda admin: admin.route("u", intranet=True),
        Route("h:5100", "ws://h:5200"),
        {"uid": "u", "intranet": "1"},
    ),
    (
        "POST",
        "/route/batch",
        [{"tcp_addr": "h:5100", "ws_addr": "", "wss_addr": "", "uids": ["a"]}],
        lambda admin: admin.route_batch(["a"]),
        [Route("h:5100", uids=["a"])],
        {"intranet": "0"},
    ),
    (
        "POST",
        "/user/onlinestatus",
        [{"uid": "a", "device_flag": 1, "online": 1}],
        lambda admin: admin.online_status(["a", "b"]),
        [Online("a", 1)],
        {},
    ),
    ("GET", "/user/systemuids", None, lambda admin: admin.system_uids(), [], {}),
    (
        "GET",
        "/channel/whitelist",
        [{"id": 6, "uid": "a", "created_at": "2026-04-22T10:00:00.1+08:00"}],
        lambda admin: admin.allowlist("g"),
        ["a"],
        {"channel_id": "g", "channel_type": "2"},
    ),
    (
        "POST",
        "/message/send",
        {"data": {"client_msg_no": "n", "message_id": 2047193857731457024}, "status": 200},
        lambda admin: admin.send_message("g", 2, "x"),
        Accepted(2047193857731457024, "n"),
        {},
    ),
    (
        "POST",
        "/message/sendbatch",
        {"fail_uids": ["b"], "reason": ["no"]},
        lambda admin: admin.send_batch(["a", "b"], "x", from_uid="s"),
        BatchResult(["b"], ["no"]),
        {},
    ),
    (
        "POST",
        "/channel/messagesync",
        {"start_message_seq": 0, "end_message_seq": 0, "more": 1, "messages": [ROW]},
        lambda admin: admin.sync_messages("u", "g", 2),
        Page([MESSAGE], True),
        {},
    ),
    (
        "POST",
        "/messages",
        {"messages": [ROW], "more": 0},
        lambda admin: admin.messages("u", "g", 2, message_seqs=[12]),
        [MESSAGE],
        {},
    ),
    ("POST", "/message", ROW, lambda admin: admin.message("u", "g", 2, message_id=1), MESSAGE, {}),
    ("POST", "/message", {"status": 404}, lambda admin: admin.message("u", "g", 2, message_id=1), None, {}),
    (
        "GET",
        "/channel/max_message_seq",
        {"message_seq": 12},
        lambda admin: admin.max_message_seq("b", 1, login_uid="a"),
        12,
        {"channel_id": "b", "channel_type": "1", "login_uid": "a"},
    ),
    ("GET", "/channel/last_message", {"status": 404}, lambda admin: admin.last_message("g", 2), None, {}),
    ("GET", "/channel/last_message", ROW, lambda admin: admin.last_message("g", 2), MESSAGE, {}),
    ("POST", "/message/sync", [ROW], lambda admin: admin.sync_commands("u"), [MESSAGE], {}),
    (
        "POST",
        "/conversation/sync",
        [CONVERSATION],
        lambda admin: admin.conversations("u"),
        [
            Conversation(
                channel_id="u2",
                channel_type=1,
                unread=2,
                timestamp=1776844805,
                last_msg_seq=12,
                last_client_msg_no="n",
                readed_to_msg_seq=10,
                version=1776844805000000000,
                recents=[],
            )
        ],
        {},
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "answer", "call", "result", "query"),
    QUERIES,
    ids=[f"{row[1]} {row[4]!s:.20}" for row in QUERIES],
)
async def test_a_query_gives_typed_values(
    method: str, path: str, answer: object, call: Call, result: object, query: dict[str, str]
) -> None:
    found, request = await ask({path: (200, answer)}, call)
    assert found == result
    assert (request.method, request.path) == (method, path)
    assert query.items() <= request.query.items()


async def test_nobody_is_asked_about_nobody() -> None:
    async with canned_api({}) as api, AdminClient(api.url) as admin:
        assert await admin.online_status([]) == []
    assert api.requests == []


async def test_members_are_read_page_by_page() -> None:
    async with canned_api({}) as api, AdminClient(api.url) as admin:
        pages = iter([{"subscribers": ["a", "b"], "next": "b"}, {"subscribers": ["c"], "next": ""}])

        class Answers(dict[str, tuple[int, Any]]):
            def get(self, path: str, default: object = None) -> Any:
                return (200, next(pages)) if path == "/channel/subscribers" else default

        api.answers = Answers()
        assert await admin.subscribers("g") == ["a", "b", "c"]
    assert [request.query["cursor"] for request in api.requests] == ["", "b"]


async def test_members_of_an_older_server_come_from_its_own_route() -> None:
    answers = {"/cluster/channels/a/b@c/2/subscribers": (200, ["x"])}
    found, request = await ask(answers, lambda admin: admin.subscribers("a/b@c"))
    assert found == ["x"]
    assert request.path == "/cluster/channels/a%2Fb@c/2/subscribers"


async def test_the_manager_token_goes_with_every_request() -> None:
    _, request = await ask({"/health": (200, {"status": "ok"})}, lambda admin: admin.health(), token="secret")
    assert request.token == "secret"


async def test_a_refusal_carries_the_servers_words_and_status() -> None:
    answers = {"/channel": (400, {"msg": "频道ID不能为空！", "status": 400})}
    with pytest.raises(ApiRefused, match="频道ID不能为空！") as caught:
        await ask(answers, lambda admin: admin.create_channel("g"))
    assert (caught.value.http_status, caught.value.status, caught.value.path) == (400, 400, "/channel")


async def test_a_refusal_with_another_status_inside_keeps_it() -> None:
    with pytest.raises(ApiRefused) as caught:
        await ask({"/channel": (400, {"msg": "没有权限", "status": 403})}, lambda admin: admin.create_channel("g"))
    assert (caught.value.http_status, caught.value.status) == (400, 403)


async def test_a_soft_failure_is_a_refusal() -> None:
    with pytest.raises(ApiRefused) as caught:
        await ask({"/user/token": (200, {"status": 19})}, lambda admin: admin.set_token("u", "t"))
    assert (caught.value.http_status, caught.value.status) == (200, 19)


async def test_a_missing_token_is_named() -> None:
    with pytest.raises(ApiRefused, match="manager token") as caught:
        await ask({"/health": (401, "")}, lambda admin: admin.health())
    assert caught.value.http_status == 401


@pytest.mark.parametrize("status", [500, 503])
async def test_a_failing_server_may_be_asked_again(status: int) -> None:
    with pytest.raises(ApiUnavailable, match="no leader"):
        await ask({"/channel": (status, {"msg": "no leader", "status": status})}, lambda a: a.create_channel("g"))


async def test_an_unhealthy_server_says_why() -> None:
    with pytest.raises(ApiUnavailable, match="slot not ready"):
        await ask({"/health": (500, {"message": "slot not ready", "status": "error"})}, lambda admin: admin.health())


@pytest.mark.parametrize("answer", ["<html>", "[1]", '{"message_seq": "x"}'])
async def test_an_answer_that_cannot_be_read_is_not_taken_for_one(answer: str) -> None:
    with pytest.raises(ApiUnavailable, match="cannot be read"):
        await ask({"/channel/max_message_seq": (200, answer)}, lambda admin: admin.max_message_seq("g", 2))


async def test_nobody_listening_is_told_with_the_address(unused_address: str) -> None:
    async with AdminClient(f"http://{unused_address}") as admin:
        with pytest.raises(ApiUnavailable, match=unused_address):
            await admin.health()


async def test_a_slow_server_is_given_up() -> None:
    async with canned_api({}) as api, AdminClient(api.url, timeout_s=0.05) as admin:
        api.delay_s = 5
        with pytest.raises(ApiUnavailable, match=r"no answer in 0\.05 s"):
            await admin.health()
