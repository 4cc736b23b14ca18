"""Rows of the trap list about messages that no other test shows. http-api.md section 21."""

from typing import Any

import pytest

from tests.api.calls import Api

GROUP = {"channel_id": "g", "channel_type": 2}
RED = {"red_dot": 1}


async def send(api: Api, **fields: Any) -> int:
    answer = await api.post("/message/send", {**GROUP, "from_uid": "a", "payload": "eA==", "header": RED, **fields})
    message_id: int = answer["data"]["message_id"]
    return message_id


async def test_a_send_without_a_type_goes_to_type_0(api: Api) -> None:
    await send(api, channel_type=0)
    found = await api.post("/channel/messagesync", {"channel_id": "g", "login_uid": "a", "limit": 5})
    assert [(each["channel_id"], each["channel_type"]) for each in found["messages"]] == [("g", 0)]
    assert await api.get("/channel/max_message_seq?channel_id=g&channel_type=2") == {"message_seq": 0}


async def test_every_message_of_a_page_has_its_header(api: Api) -> None:
    ids = [await send(api) for _ in range(3)]
    page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "a", "limit": 2})
    single = await api.post("/message", {**GROUP, "message_id": ids[0]})
    for message in [*page["messages"], single]:
        assert message["header"] == {"no_persist": 0, "red_dot": 1, "sync_once": 0}


@pytest.mark.parametrize("message_id", [0, -1])
async def test_an_id_below_1_finds_nothing(api: Api, message_id: int) -> None:
    await send(api)
    assert (await api.post("/messages", {**GROUP, "message_ids": [message_id]}))["messages"] == []
    assert await api.post("/message", {**GROUP, "message_id": message_id}) == {"status": 404}


@pytest.mark.parametrize("window", [{}, {"start_message_seq": 2}, {"start_message_seq": 2, "end_message_seq": 1}])
async def test_a_history_without_a_limit_is_empty_and_says_more(api: Api, window: dict[str, int]) -> None:
    await send(api)
    await send(api)
    for limit in ({}, {"limit": 0}):
        page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "a", **window, **limit})
        assert (page["messages"], page["more"]) == ([], 1)


async def test_towards_newer_a_history_without_a_limit_has_everything_and_says_more(api: Api) -> None:
    for _ in range(3):
        await send(api)
    page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "a", "start_message_seq": 2, "pull_mode": 1})
    assert ([each["message_seq"] for each in page["messages"]], page["more"]) == ([2, 3], 1)


async def test_a_page_that_ends_exactly_at_the_end_says_more(api: Api) -> None:
    for _ in range(2):
        await send(api)
    page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "a", "limit": 2})
    assert ([each["message_seq"] for each in page["messages"]], page["more"]) == ([1, 2], 1)


async def test_a_person_in_history_is_the_receiver_for_both_sides(api: Api) -> None:
    await send(api, channel_id="b", channel_type=1)
    for login_uid, peer in (("a", "b"), ("b", "a")):
        body = {"channel_id": peer, "channel_type": 1, "login_uid": login_uid, "limit": 5}
        [message] = (await api.post("/channel/messagesync", body))["messages"]
        assert (message["from_uid"], message["channel_id"]) == ("a", "b")
