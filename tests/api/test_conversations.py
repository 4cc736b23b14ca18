"""/conversation and /conversations over HTTP. http-api.md section 11."""

from typing import Any

import pytest

from tests.api.calls import OK, Api
from wukong.api.conversations import parse_last_seqs

CHANNEL = "channel_id or channel_type cannot be empty"

REFUSED = [
    ("/conversation/sync", {"msg_count": 5}, "uid cannot be empty"),
    ("/conversation/syncByChannels", {}, "uid cannot be empty"),
    ("/conversation/syncByChannels", {"uid": "a"}, "channels cannot be empty"),
    ("/conversations/clearUnread", {"channel_id": "g", "channel_type": 2}, "uid cannot be empty"),
    ("/conversations/setUnread", {"channel_id": "g", "channel_type": 2}, "UID cannot be empty"),
    ("/conversations/delete", {"channel_id": "g", "channel_type": 2}, "Uid cannot be empty"),
    ("/conversations/clearUnread", {"uid": "a", "channel_type": 2}, CHANNEL),
    ("/conversations/setUnread", {"uid": "a", "channel_id": "g"}, CHANNEL),
    ("/conversations/delete", {"uid": "a"}, CHANNEL),
]
PATHS = ["sync", "syncByChannels", "channels"]


@pytest.mark.parametrize(("path", "body", "text"), REFUSED)
async def test_checks_come_in_the_documented_order(api: Api, path: str, body: dict[str, Any], text: str) -> None:
    assert await api.refused(path, body) == text


@pytest.mark.parametrize(
    "path",
    [
        *(f"/conversation/{name}" for name in PATHS),
        *(f"/conversations/{x}" for x in ("clearUnread", "setUnread", "delete")),
    ],
)
async def test_a_malformed_body_is_refused_in_the_decoders_words(api: Api, path: str) -> None:
    assert await api.refused(path, raw=b"{") == "unexpected EOF"


@pytest.mark.parametrize(
    ("text", "seqs"),
    [
        ("", {}),
        ("g:2:7", {("g", 2): 7}),
        ("g:2:7|u:1:3", {("g", 2): 7, ("u", 1): 3}),
        ("g:2|x|::|g|a:b:c:d", {("", 0): 0}),
        ("g:x:7|g:2:x|g:1:-5", {("g", 0): 7, ("g", 2): 0, ("g", 1): 0}),
        ("g:2:99999999999999999999", {("g", 2): 0}),
    ],
)
async def test_positions_of_the_client_are_read_leniently(text: str, seqs: dict[tuple[str, int], int]) -> None:
    assert await parse_last_seqs(text) == seqs


async def fill(api: Api) -> None:
    """Three messages by a in group g and one to b; b is in both."""
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": ["a", "b"]})
    for n in range(3):
        body = {"channel_id": "g", "channel_type": 2, "from_uid": "a", "payload": "aGk=", "client_msg_no": f"n{n}"}
        await api.post("/message/send", body)
    api.stack.clock.ms += 1_000
    await api.post("/message/send", {"channel_id": "b", "channel_type": 1, "from_uid": "a", "payload": "aGk="})


async def sync(api: Api, **fields: Any) -> Any:
    return await api.post("/conversation/sync", {"uid": "b", "msg_count": 2, **fields})


async def test_a_conversation_has_exactly_the_documented_fields(api: Api) -> None:
    await fill(api)
    seconds = api.stack.clock.ms // 1000 - 1
    _, found = await sync(api)
    recents = found.pop("recents")
    assert found == {
        "channel_id": "g",
        "channel_type": 2,
        "unread": 3,
        "timestamp": seconds,
        "last_msg_seq": 3,
        "last_client_msg_no": "n2",
        "offset_msg_seq": 0,
        "readed_to_msg_seq": 0,
        "version": seconds * 10**9,
    }
    assert [message["message_seq"] for message in recents] == [3, 2]


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, ["a", "g"]),
        ({"msg_count": 0}, []),
        ({"exclude_channel_types": [1]}, ["g"]),
        ({"exclude_channel_types": "AQ=="}, ["g"]),
        ({"exclude_channel_types": [1], "last_msg_seqs": "a:1:0"}, ["a", "g"]),
        ({"last_msg_seqs": "g:2:3"}, ["a"]),
        ({"page": 1, "page_size": 1}, ["a"]),
        ({"page": 2, "page_size": 1}, ["g"]),
        ({"page": 3, "page_size": 1}, []),
        ({"version": 1}, ["a", "g"]),
    ],
)
async def test_the_list_follows_what_is_asked(api: Api, fields: dict[str, Any], ids: list[str]) -> None:
    await fill(api)
    assert [item["channel_id"] for item in await sync(api, **fields)] == ids


@pytest.mark.parametrize("fields", [{"version": 1}, {"only_unread": 1}])
async def test_read_conversations_can_be_left_out(api: Api, fields: dict[str, Any]) -> None:
    await fill(api)
    change = {"uid": "b", "channel_id": "g", "channel_type": 2, "message_seq": 1}
    assert await api.post("/conversations/clearUnread", change) == OK
    assert [item["channel_id"] for item in await sync(api, **fields)] == ["a"]
    assert len(await sync(api, only_unread=2)) == 2


async def test_unread_can_be_set_and_the_conversation_deleted(api: Api) -> None:
    await fill(api)
    change = {"uid": "b", "channel_id": "g", "channel_type": 2}
    assert await api.post("/conversations/setUnread", {**change, "unread": 1}) == OK
    assert [item["unread"] for item in await sync(api)] == [1, 1]
    assert await api.post("/conversations/delete", change) == OK
    assert [item["channel_id"] for item in await sync(api)] == ["a"]


async def test_by_channels_one_answer_comes_for_each(api: Api) -> None:
    await fill(api)
    wanted = [{"channel_id": "x", "channel_type": 2}, {"channel_id": "a", "channel_type": 1}]
    unknown, person = await api.post("/conversation/syncByChannels", {"uid": "b", "channels": wanted})
    assert (unknown["channel_id"], unknown["last_msg_seq"], unknown["recents"]) == ("x", 0, [])
    assert (person["channel_id"], person["unread"]) == ("a", 1)


async def test_channels_are_listed_by_stored_ids(api: Api) -> None:
    await fill(api)
    found = await api.post("/conversation/channels", {"uid": "b"})
    assert found == [{"channel_id": "a@b", "channel_type": 1}, {"channel_id": "g", "channel_type": 2}]
    assert await api.post("/conversation/channels", {}) == []


async def recents(api: Api, **fields: Any) -> Any:
    body = {"uid": "b", "channels": [{"channel_id": "g", "channel_type": 2}], **fields}
    return await api.post("/conversation/syncMessages", body)


@pytest.mark.parametrize(
    ("fields", "seqs"),
    [
        ({}, [1, 2, 3]),
        ({"msg_count": 2}, [1, 2]),
        ({"msg_count": -1}, [1, 2, 3]),
        ({"order_by_last": 1}, [3, 2, 1]),
        ({"order_by_last": 1, "msg_count": 2}, [3, 2]),
        ({"order_by_last": 2, "msg_count": 2}, [1, 2]),
        ({"channels": [{"channel_id": "g", "channel_type": 2, "last_msg_seq": 2}]}, [2, 3]),
        ({"channels": [{"channel_id": "g", "channel_type": 2, "last_msg_seq": 3}], "order_by_last": 1}, [3]),
    ],
)
async def test_messages_of_stored_channels_from_a_seq_on(api: Api, fields: dict[str, Any], seqs: list[int]) -> None:
    await fill(api)
    [found] = await recents(api, **fields)
    assert [message["message_seq"] for message in found["messages"]] == seqs
    assert (found["channel_id"], found["channel_type"], found["user_last_msg_seq"]) == ("g", 2, 0)


async def test_messages_of_persons_are_asked_for_by_the_joined_id_and_none_are_null(api: Api) -> None:
    await fill(api)
    persons = [{"channel_id": "b@a", "channel_type": 1}, {"channel_id": "a@b", "channel_type": 1}]
    body = {"uid": "a", "channels": [{"channel_id": "none", "channel_type": 2}, *persons]}
    nothing, *found = await api.post("/conversation/syncMessages", body)
    assert nothing == {"channel_id": "none", "channel_type": 2, "messages": None, "user_last_msg_seq": 0}
    assert sorted(each["user_last_msg_seq"] for each in found) == [0, 1]


async def test_messages_of_commands_are_asked_for_with_the_suffix(api: Api) -> None:
    await fill(api)
    command = {"channel_id": "g", "channel_type": 2, "from_uid": "a", "payload": "eA==", "header": {"sync_once": 1}}
    await api.post("/message/send", command)
    [found] = await recents(api, channels=[{"channel_id": "g____cmd", "channel_type": 2}])
    assert [(each["channel_id"], each["message_seq"]) for each in found["messages"]] == [("g____cmd", 1)]


async def test_a_malformed_request_for_messages_is_refused_in_its_words(api: Api) -> None:
    assert await api.refused("/conversation/syncMessages", raw=b"{") == "数据格式有误！"
    many = [{"channel_id": "g", "channel_type": 2}] * 10_001
    assert "10000" in await api.refused("/conversation/syncMessages", {"channels": many})
