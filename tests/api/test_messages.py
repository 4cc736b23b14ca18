"""/message, /messages and history over HTTP. http-api.md section 9."""

from typing import Any

import pytest

from tests.api.calls import OK, Api
from tests.service.stack import Stack
from wukong.api.server import ApiOptions
from wukong.channel.ids import ChannelId

CANNOT_SEND = "无法处理发送消息请求！"
NO_PAYLOAD = "payload不能为空！"
PAYLOAD = "aGk="
COMMAND = {"sync_once": 1}

REFUSED = [
    # /message/send: payload, target, id.
    ("/message/send", {}, NO_PAYLOAD),
    ("/message/send", {"payload": ""}, NO_PAYLOAD),
    ("/message/send", {"payload": None, "channel_id": "x@y"}, NO_PAYLOAD),
    ("/message/send", {"payload": []}, NO_PAYLOAD),
    ("/message/send", {"payload": PAYLOAD}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "channel_id": " "}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "channel_id": "x@y", "subscribers": ["a"], "header": COMMAND}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "subscribers": ["a"]}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "subscribers": ["a"], "header": {"sync_once": 2}}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "subscribers": [], "header": COMMAND}, CANNOT_SEND),
    ("/message/send", {"payload": PAYLOAD, "channel_id": "x@y"}, "频道ID不合法！"),
    ("/message/sendbatch", {}, "from_uid不能为空！"),
    ("/message/sendbatch", {"from_uid": " "}, "from_uid不能为空！"),
    ("/message/sendbatch", {"from_uid": "a"}, "subscribers不能为空！"),
    ("/message/sendbatch", {"from_uid": "a", "subscribers": ["b"]}, NO_PAYLOAD),
    ("/message/sync", {"limit": -1}, "用户uid不能为空！"),
    ("/message/sync", {"uid": "a", "limit": -1}, "limit不能为负数！"),
    ("/message/syncack", {}, "用户UID不能为空！"),
    ("/message/syncack", {"uid": "a"}, "最后一次messageSeq不能为0！"),
    ("/messages", {}, "channel_id不能为空！"),
    ("/messages", {"channel_id": "g", "message_ids": ["1"]}, "数据格式有误！"),
    ("/message", {}, "channel_id不能为空！"),
    ("/message", {"channel_id": "g"}, "channel_type不能为0"),
    ("/message", {"channel_id": "g", "channel_type": 1}, "login_uid不能为空！"),
    ("/channel/messagesync", {}, "channel_id不能为空！"),
    ("/channel/messagesync", {"channel_id": "g"}, "login_uid不能为空！"),
]


@pytest.mark.parametrize(("path", "body", "text"), REFUSED)
async def test_checks_come_in_the_documented_order(api: Api, path: str, body: dict[str, Any], text: str) -> None:
    assert await api.refused(path, body) == text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("/message/byclientmsgno", "channel_id不能为空"),
        ("/message/byclientmsgno?channel_id=g", "channel_type不能为0"),
        ("/message/byclientmsgno?channel_id=g&channel_type=2", "client_msg_no不能为空"),
        ("/channel/max_message_seq", "channel_id不能为空"),
        ("/channel/max_message_seq?channel_id=b&channel_type=1", "login_uid不能为空"),
        ("/channel/last_message", "channel_id不能为空"),
        ("/channel/last_message?channel_id=b&channel_type=1", "login_uid不能为空"),
        ("/channel/last_message?channel_id=a@b&channel_type=1", "login_uid不能为空"),
    ],
)
async def test_queries_check_in_the_documented_order(api: Api, query: str, text: str) -> None:
    assert await api.refused(query, method="GET") == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/message/send", "unexpected EOF"),
        ("/message/sendbatch", "unexpected EOF"),
        ("/message/sync", "unexpected EOF"),
        ("/message/syncack", "unexpected EOF"),
        ("/messages", "数据格式有误！"),
        ("/message", "数据格式有误！"),
        ("/channel/messagesync", "unexpected EOF"),
    ],
)
async def test_a_malformed_body_is_refused_in_the_words_of_its_route(api: Api, path: str, text: str) -> None:
    assert await api.refused(path, raw=b"{") == text


async def send(api: Api, **fields: Any) -> Any:
    body = {"channel_id": "g", "channel_type": 2, "from_uid": "a", "payload": PAYLOAD, **fields}
    return await api.post("/message/send", body)


async def history(api: Api, **fields: Any) -> Any:
    body = {"login_uid": "a", "channel_id": "g", "channel_type": 2, "limit": 100, **fields}
    return await api.post("/channel/messagesync", body)


async def test_a_send_answers_with_id_and_number_and_nothing_else(api: Api) -> None:
    answer = await send(api, client_msg_no="n1")
    assert answer == {"data": {"client_msg_no": "n1", "message_id": answer["data"]["message_id"]}, "status": 200}
    [message] = (await history(api))["messages"]
    assert message["message_id"] == answer["data"]["message_id"]
    assert message["message_idstr"] == str(message["message_id"])
    assert message["message_id"] > 2**53


async def test_without_a_sender_the_system_account_sends(api: Api) -> None:
    await send(api, from_uid=" ")
    [message] = (await history(api))["messages"]
    assert message["from_uid"] == ""


async def test_flags_expiry_and_stream_mark_are_stored(api: Api) -> None:
    await send(api, header={"red_dot": 1, "sync_once": 3}, expire=60, is_stream=1, setting=128, topic="t")
    [message] = (await history(api))["messages"]
    assert message["header"] == {"no_persist": 0, "red_dot": 1, "sync_once": 0}
    assert (message["expire"], message["setting"], "topic" in message) == (60, 2, False)


async def test_a_send_to_a_banned_channel_is_refused_with_the_reason(api: Api) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "ban": 1})
    body = {"channel_id": "g", "channel_type": 2, "payload": PAYLOAD}
    assert "19" in await api.refused("/message/send", body)
    # Commands still reach it (http-api.md 21, no 17).
    assert (await send(api, header=COMMAND))["status"] == 200


async def test_a_payload_over_the_limit_is_refused(api: Api) -> None:
    body = {"channel_id": "g", "channel_type": 2, "payload": [1] * 32_768}
    assert "32767" in await api.refused("/message/send", body)
    assert "32767" in await api.refused(
        "/message/sendbatch", {"from_uid": "a", "subscribers": ["b"], "payload": [1] * 32_768}
    )


async def test_the_form_with_subscribers_answers_without_data(api: Api) -> None:
    body = {"subscribers": ["u1", "u2"], "payload": PAYLOAD, "header": COMMAND, "from_uid": "a"}
    assert await api.post("/message/send", body) == OK
    [message] = await api.post("/message/sync", {"uid": "u2"})
    assert (message["channel_id"], message["channel_type"]) == ("17922244540036557902____cmd", 8)


async def test_a_batch_answers_with_the_failures(api: Api) -> None:
    body = {"from_uid": "a", "subscribers": ["b", "x@y"], "payload": PAYLOAD}
    assert await api.post("/message/sendbatch", body) == {"fail_uids": ["x@y"], "reason": ["频道ID不合法！"]}


async def test_history_echoes_what_was_asked_and_says_if_there_is_more(api: Api) -> None:
    for _ in range(3):
        await send(api)
    page = await history(api, start_message_seq=3, end_message_seq=1, limit=2)
    assert [message["message_seq"] for message in page["messages"]] == [2, 3]
    assert (page["start_message_seq"], page["end_message_seq"], page["more"]) == (3, 1, 1)
    assert await history(api, channel_id="none") == {
        "start_message_seq": 0,
        "end_message_seq": 0,
        "more": 0,
        "messages": [],
    }


@pytest.mark.parametrize("mode", [0, 2, -1])
async def test_only_pull_mode_1_goes_towards_newer(api: Api, mode: int) -> None:
    for _ in range(3):
        await send(api)
    page = await history(api, start_message_seq=2, pull_mode=mode)
    assert [message["message_seq"] for message in page["messages"]] == [1, 2]
    page = await history(api, start_message_seq=2, pull_mode=1)
    assert [message["message_seq"] for message in page["messages"]] == [2, 3]


async def test_messages_are_found_by_any_key(api: Api) -> None:
    ids = [(await send(api, client_msg_no=f"n{n}"))["data"]["message_id"] for n in range(3)]
    keys = {"message_seqs": [2, 9], "message_ids": [ids[2]], "client_msg_nos": ["n0"]}
    found = await api.post("/messages", {"channel_id": "g", "channel_type": 2, **keys})
    assert [message["message_seq"] for message in found["messages"]] == [2, 3, 1]
    assert {key: found[key] for key in found if key != "messages"} == {
        "start_message_seq": 0,
        "end_message_seq": 0,
        "more": 0,
    }


@pytest.mark.parametrize(
    ("keys", "seq"),
    [
        ({"client_msg_no": "n2"}, 2),
        ({"client_msg_no": "none"}, None),
        ({"message_id": 77}, None),
        ({}, None),
    ],
)
async def test_one_message_is_bare_and_none_is_a_soft_404(api: Api, keys: dict[str, Any], seq: int | None) -> None:
    for n in (1, 2):
        await send(api, client_msg_no=f"n{n}")
    found = await api.post("/message", {"channel_id": "g", "channel_type": 2, **keys})
    assert found == {"status": 404} if seq is None else found["message_seq"] == seq


async def test_one_message_asked_for_by_two_keys_has_to_fit_both(api: Api) -> None:
    sent = (await send(api, client_msg_no="n1"))["data"]["message_id"]
    body = {"channel_id": "g", "channel_type": 2, "message_id": sent}
    assert (await api.post("/message", {**body, "client_msg_no": "n1"}))["message_seq"] == 1
    assert await api.post("/message", {**body, "client_msg_no": "n2"}) == {"status": 404}


async def test_by_number_persons_are_given_by_their_joined_id(api: Api) -> None:
    await send(api, channel_id="bob", channel_type=1, from_uid="alice", client_msg_no="n1")
    path = "/message/byclientmsgno?channel_type=1&client_msg_no=n1&channel_id="
    assert (await api.get(path + "bob@alice"))["channel_id"] == "bob"
    assert await api.get(path + "bob") == {"status": 404}


async def test_the_newest_seq_and_message_of_a_channel(api: Api) -> None:
    await send(api, channel_id="bob", channel_type=1, from_uid="alice")
    query = "channel_type=1&channel_id="
    assert await api.get(f"/channel/max_message_seq?{query}bob&login_uid=alice") == {"message_seq": 1}
    assert await api.get(f"/channel/max_message_seq?{query}bob@alice") == {"message_seq": 1}
    assert await api.get("/channel/max_message_seq?channel_id=none&channel_type=2") == {"message_seq": 0}
    assert (await api.get(f"/channel/last_message?{query}alice&login_uid=bob"))["message_seq"] == 1
    assert await api.get("/channel/last_message?channel_id=none&channel_type=2") == {"status": 404}


async def test_commands_are_handed_out_until_they_are_confirmed(api: Api) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": ["b"]})
    await send(api, header=COMMAND)
    [message] = await api.post("/message/sync", {"uid": "b", "message_seq": 99})
    assert (message["channel_id"], message["header"]["sync_once"]) == ("g____cmd", 1)
    assert await api.post("/message/syncack", {"uid": "b", "last_message_seq": 77}) == OK
    assert await api.post("/message/sync", {"uid": "b"}) == []


async def test_command_sync_can_be_switched_off() -> None:
    async with Api(await Stack().start(), ApiOptions(command_sync_off=True)) as api:
        assert await api.post("/message/sync", raw=b"{") == []
        assert await api.post("/message/syncack", raw=b"") == OK


async def test_a_long_history_comes_whole(api: Api) -> None:
    for _ in range(600):
        await api.stack.client_sends(ChannelId(6, "news"), "a", b"x" * 50)
    page = await history(api, channel_id="news", channel_type=6, limit=10_000)
    assert [message["message_seq"] for message in page["messages"]] == list(range(1, 601))
