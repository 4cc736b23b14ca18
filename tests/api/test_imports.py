"""/import over HTTP: who may, what is read, what is answered."""

from base64 import b64encode
from typing import Any

import pytest

from tests.api.calls import OK, Api
from tests.service.stack import START_MS, Stack
from wukong.api.server import ApiOptions

JSON = {"Content-Type": "application/json"}
CHANNEL = {"channel_id": "old", "channel_type": 2}
ROUTES = ["/import/messages", "/import/channel", "/import/chats", "/import/compare"]


def row(seq: int, **fields: Any) -> dict[str, Any]:
    """A message as WuKongIM shows it."""
    return {
        "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
        "setting": 0,
        "message_id": (START_MS - 1_288_834_974_657 + seq) << 22 | 1_001 << 12,
        "message_idstr": "as a text too",
        "client_msg_no": f"n{seq}",
        "message_seq": seq,
        "from_uid": "alice",
        "channel_id": "old",
        "channel_type": 2,
        "expire": 0,
        "timestamp": START_MS // 1000 - 100 + seq,
        "payload": b64encode(f"m{seq}".encode()).decode(),
        **fields,
    }


async def call(api: Api, path: str, body: Any) -> Any:
    answer = await api.call("POST", path, body, headers=JSON)
    assert answer.status == 200, answer
    return answer.body


async def test_what_is_imported_is_read_as_it_was(api: Api) -> None:
    rows = [row(1), row(2, from_uid="", topic="t", setting=0x80, expire=60), row(3)]
    assert await call(api, "/import/messages", {**CHANNEL, "messages": rows}) == {"last_seq": 3}
    assert await call(api, "/import/channel", {**CHANNEL, "members": ["alice", "bob"], "denied": ["eve"]}) == OK
    assert await call(api, "/import/chats", {**CHANNEL, "chats": [{"uid": "bob", "read_seq": 1}]}) == OK
    page = await api.post("/channel/messagesync", {"login_uid": "bob", **CHANNEL, "limit": 9})
    shown = [{key: each[key] for key in original} for each, original in zip(page["messages"], rows, strict=True)]
    assert shown == [{**each, "message_idstr": str(each["message_id"])} for each in rows]
    found = await api.get("/message/byclientmsgno?channel_id=old&channel_type=2&client_msg_no=n2")
    assert found["message_seq"] == 2
    (conversation,) = await api.post("/conversation/sync", {"uid": "bob", "msg_count": 1})
    assert conversation["unread"] == 2


async def test_commands_are_the_other_log(api: Api) -> None:
    await call(api, "/import/messages", {**CHANNEL, "commands": True, "messages": [row(1)]})
    assert (await call(api, "/import/compare", CHANNEL))["last_seq"] == 0
    assert (await call(api, "/import/compare", {**CHANNEL, "commands": True}))["last_seq"] == 1


async def test_a_comparison_says_how_far_it_read_and_who_is_a_member(api: Api) -> None:
    await call(api, "/import/messages", {**CHANNEL, "messages": [row(1), row(2)]})
    await call(api, "/import/channel", {**CHANNEL, "members": ["alice"]})
    whole = await call(api, "/import/compare", {**CHANNEL, "members": True})
    assert (whole["last_seq"], whole["seq"], whole["members"]) == (2, 2, 1)
    half = await call(api, "/import/compare", {**CHANNEL, "limit": 1})
    assert half.keys() == {"last_seq", "seq", "digest"}
    rest = await call(api, "/import/compare", {**CHANNEL, "after_seq": half["seq"], "digest": half["digest"]})
    assert rest["digest"] == whole["digest"] != half["digest"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/import/messages", {"channel_type": 2, "messages": []}),
        ("/import/messages", {"channel_id": " ", "channel_type": 2, "messages": [row(1)]}),
        ("/import/messages", {"channel_id": "old", "channel_type": 0, "messages": [row(1)]}),
        ("/import/messages", {"channel_id": "old", "channel_type": 256, "messages": [row(1)]}),
        ("/import/messages", {**CHANNEL, "messages": []}),
        ("/import/messages", {**CHANNEL, "messages": None}),
        ("/import/messages", {**CHANNEL, "messages": [row(1, payload="no base64")]}),
        ("/import/messages", {**CHANNEL, "messages": [row(1, message_id="5")]}),
        ("/import/messages", {**CHANNEL, "messages": [row(1, message_id=0)]}),
        ("/import/messages", {**CHANNEL, "messages": [row(1, message_id=1 << 63)]}),
        ("/import/messages", {**CHANNEL, "messages": [row(1, timestamp=-1)]}),
        *(
            ("/import/messages", {**CHANNEL, "messages": [row(1, **{name: 1 << 70})]})
            for name in ("message_id", "message_seq", "timestamp", "setting", "expire")
        ),
        ("/import/chats", {**CHANNEL, "chats": [{"uid": "a", "read_seq": 1 << 70}]}),
        ("/import/messages", {**CHANNEL, "messages": [row(2), row(1)]}),
        ("/import/channel", {**CHANNEL, "members": None}),
        ("/import/chats", {**CHANNEL, "chats": [{"uid": "a", "read_seq": -1}]}),
        ("/import/chats", CHANNEL),
        ("/import/compare", {**CHANNEL, "digest": "xyz"}),
        ("/import/compare", {**CHANNEL, "after_seq": -1}),
        ("/import/compare", [1]),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, path: str, body: Any) -> None:
    answer = await api.call("POST", path, body, headers=JSON)
    assert answer.status == 400
    assert answer.body.keys() == {"msg", "status"}


async def test_a_channel_in_use_is_a_conflict(api: Api) -> None:
    await api.post("/message/send", {**CHANNEL, "from_uid": "bob", "payload": "aGk="})
    answer = await api.call("POST", "/import/messages", {**CHANNEL, "messages": [row(1)]}, headers=JSON)
    assert (answer.status, answer.body["status"]) == (409, 409)
    assert "message 1 of its own" in answer.body["msg"]


# -- who may: as for /cluster --


@pytest.mark.parametrize("path", ROUTES)
async def test_without_manager_token_only_this_machine_may(api: Api, path: str) -> None:
    for headers in (
        {**JSON, "X-Forwarded-For": "198.51.100.9"},
        {**JSON, "Origin": "http://198.51.100.9"},
        {"Content-Type": "text/plain"},
    ):
        assert (await api.call("POST", path, CHANNEL, headers=headers)).status == 403


@pytest.mark.parametrize("path", ROUTES)
async def test_with_one_it_is_needed_and_is_enough(path: str) -> None:
    async with Api(await Stack().start(), ApiOptions(manager_token="secret")) as api:
        assert (await api.call("POST", path, CHANNEL, headers=JSON)).status == 401
        answer = await api.call(
            "POST", path, {**CHANNEL, "messages": [row(1)], "chats": []}, headers={"token": "secret"}
        )
        assert answer.status == 200, answer


async def test_no_page_of_another_origin_reads_an_answer(api: Api) -> None:
    answer = await api.call("POST", "/import/compare", CHANNEL, headers=JSON)
    assert "access-control-allow-origin" not in answer.headers
