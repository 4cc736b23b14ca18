"""Rows of the trap list about conversations that no other test shows. http-api.md section 21."""

from typing import Any

import pytest

from tests.api.calls import OK, Api

GROUP = {"channel_id": "g", "channel_type": 2}


async def fill(api: Api, **fields: Any) -> None:
    await api.post("/channel", {**GROUP, "subscribers": ["a", "b"]})
    for _ in range(3):
        await api.post("/message/send", {**GROUP, "from_uid": "a", "payload": "eA==", **fields})


async def conversation(api: Api, **fields: Any) -> Any:
    [found] = await api.post("/conversation/sync", {"uid": "b", "msg_count": 5, **fields})
    return found


async def test_recents_descend_and_history_ascends(api: Api) -> None:
    await fill(api)
    assert [each["message_seq"] for each in (await conversation(api))["recents"]] == [3, 2, 1]
    page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "b", "limit": 5})
    assert [each["message_seq"] for each in page["messages"]] == [1, 2, 3]


@pytest.mark.parametrize("red_dot", [0, 1])
async def test_every_stored_message_counts_as_unread_whatever_its_red_dot(api: Api, red_dot: int) -> None:
    await fill(api, header={"red_dot": red_dot})
    assert (await conversation(api))["unread"] == 3


@pytest.mark.parametrize("unread", [1, -1, 5])
async def test_unread_of_an_empty_channel_does_not_wrap_around(api: Api, unread: int) -> None:
    await api.post("/channel", {**GROUP, "subscribers": ["a", "b"]})
    assert await api.post("/conversations/setUnread", {**GROUP, "uid": "b", "unread": unread}) == OK
    await fill(api)
    found = await conversation(api)
    assert (found["unread"], found["readed_to_msg_seq"]) == (3, 0)


async def test_one_s_own_last_message_leaves_nothing_unread(api: Api) -> None:
    await fill(api)
    await api.post("/message/send", {**GROUP, "from_uid": "b", "payload": "eA=="})
    found = await conversation(api)
    assert (found["unread"], found["readed_to_msg_seq"]) == (0, 4)


async def test_paging_with_what_the_known_back_end_sends(api: Api) -> None:
    await fill(api)
    body = {"uid": "b", "version": 0, "last_msg_seqs": "", "msg_count": 15, "larges": None, "device_uuid": "d"}
    [found] = await api.post("/conversation/sync", body)
    assert found["recents"][0]["message_seq"] == found["last_msg_seq"] == 3
    assert found["version"] == found["timestamp"] * 10**9
