"""/retention and /erase over HTTP: who may, what is read, what is answered."""

from base64 import b64decode
from typing import Any

import pytest

from tests.api.calls import OK, Api
from tests.service.stack import Stack
from wukong.api.server import ApiOptions

JSON = {"Content-Type": "application/json"}
GROUP = {"channel_id": "g", "channel_type": 2}
CHANGES = [
    ("/retention/set", {**GROUP, "count": 1}),
    ("/retention/clear", GROUP),
    ("/retention/default/set", {"channel_type": 2, "days": 1}),
    ("/retention/default/clear", {"channel_type": 2}),
    ("/retention/run", {}),
    ("/erase", {"uid": "alice"}),
]


async def call(api: Api, path: str, body: Any) -> Any:
    answer = await api.call("POST", path, body, headers=JSON)
    assert answer.status == 200, answer
    return answer.body


async def write(api: Api, count: int) -> None:
    for _ in range(count):
        await api.post("/message/send", {**GROUP, "from_uid": "alice", "payload": "aGk="})


async def history(api: Api) -> list[tuple[int, bytes]]:
    page = await api.post("/channel/messagesync", {**GROUP, "login_uid": "bob", "limit": 100})
    return [(message["message_seq"], b64decode(message["payload"])) for message in page["messages"]]


async def test_the_life_of_a_policy(api: Api) -> None:
    await write(api, 5)
    standing = {**GROUP, "policy": None, "own": False, "first_seq": 1, "last_seq": 5}
    standing |= {"first_command_seq": 1, "last_command_seq": 0}
    path = "/retention?channel_id=g&channel_type=2"
    assert await api.get(path) == standing
    assert await call(api, "/retention/default/set", {"channel_type": 2, "days": 9}) == OK
    assert await api.get(path) == standing | {"policy": {"days": 9, "count": 0, "bytes": 0}}
    assert await call(api, "/retention/set", {**GROUP, "count": 2}) == OK
    assert await call(api, "/retention/run", {}) == {"retired": 3, "cursor": ""}
    policy = {"days": 0, "count": 2, "bytes": 0}
    assert await api.get(path) == standing | {"policy": policy, "own": True, "first_seq": 4}
    of_type = {"channel_id": "", "channel_type": 2, "days": 9, "count": 0, "bytes": 0}
    assert await api.get("/retention") == {"policies": [of_type, {**GROUP, **policy}], "more": False}
    assert await history(api) == [(4, b"hi"), (5, b"hi")]
    assert await call(api, "/retention/clear", GROUP) == OK
    assert await call(api, "/retention/default/clear", {"channel_type": 2}) == OK
    assert await api.get("/retention") == {"policies": [], "more": False}


async def test_one_channel_is_enough_for_a_run(api: Api) -> None:
    await write(api, 3)
    await call(api, "/retention/default/set", {"channel_type": 2, "count": 1})
    assert await call(api, "/retention/run", {**GROUP, "channel_id": "another"}) == {"retired": 0, "cursor": ""}
    assert await call(api, "/retention/run", GROUP) == {"retired": 2, "cursor": ""}


async def test_what_a_user_wrote_is_unknown_content_to_everybody(api: Api) -> None:
    await write(api, 2)
    await api.post("/message/send", {**GROUP, "from_uid": "bob", "payload": "aGk="})
    assert await call(api, "/erase", {"uid": "alice", **GROUP}) == {"erased": 2, "cursor": ""}
    assert await history(api) == [(1, b'{"type":0}'), (2, b'{"type":0}'), (3, b"hi")]
    [erased] = (await api.post("/messages", {**GROUP, "message_seqs": [1]}))["messages"]
    assert erased["header"] == {"no_persist": 0, "red_dot": 0, "sync_once": 0}
    assert (erased["client_msg_no"], erased["setting"], erased["from_uid"]) == ("", 0, "alice")
    assert await call(api, "/erase", {"uid": "bob"}) == {"erased": 1, "cursor": ""}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/retention/set", {"channel_type": 2, "count": 1}),
        ("/retention/set", {"channel_id": " ", "channel_type": 2, "count": 1}),
        ("/retention/set", {"channel_id": "g", "channel_type": 0, "count": 1}),
        ("/retention/set", {"channel_id": "g", "channel_type": 256, "count": 1}),
        ("/retention/set", {**GROUP, "count": -1}),
        ("/retention/set", {**GROUP, "count": "1"}),
        ("/retention/set", {**GROUP, "count": 1 << 70}),
        # Misspelt, it would mean that everything is kept.
        ("/retention/set", {**GROUP, "day": 1}),
        ("/retention/set", {"channel_id": "alice", "channel_type": 1, "count": 1}),
        ("/retention/default/set", {**GROUP, "count": 1}),
        ("/retention/default/set", {"channel_type": -1, "count": 1}),
        ("/retention/run", {"channel_type": 2}),
        ("/retention/run", {"cursor": "x"}),
        ("/retention/run", [1]),
        ("/erase", {}),
        ("/erase", {"uid": ""}),
        # Misspelt, it would erase everything the user wrote anywhere.
        ("/erase", {"uid": "alice", "channel": "g"}),
        ("/erase", {"uid": "alice", "channel_type": 2}),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, path: str, body: Any) -> None:
    await write(api, 1)
    answer = await api.call("POST", path, body, headers=JSON)
    assert answer.status == 400
    assert answer.body.keys() == {"msg", "status"}
    assert await history(api) == [(1, b"hi")]
    assert await api.get("/retention") == {"policies": [], "more": False}


# -- who may: as for /cluster --


@pytest.mark.parametrize(("path", "body"), CHANGES)
async def test_without_manager_token_only_this_machine_may(api: Api, path: str, body: Any) -> None:
    for headers in (
        {**JSON, "X-Forwarded-For": "198.51.100.9"},
        {**JSON, "Origin": "http://198.51.100.9"},
        {"Content-Type": "text/plain"},
    ):
        assert (await api.call("POST", path, body, headers=headers)).status == 403
    assert (await api.call("POST", path, body, headers=JSON)).status == 200


@pytest.mark.parametrize(("path", "body"), CHANGES)
async def test_with_one_it_is_needed_and_is_enough(path: str, body: Any) -> None:
    async with Api(await Stack().start(), ApiOptions(manager_token="secret")) as api:
        assert (await api.call("POST", path, body, headers=JSON)).status == 401
        assert (await api.call("POST", path, body, headers={"token": "secret"})).status == 200


async def test_no_page_of_another_origin_reads_an_answer(api: Api) -> None:
    answer = await api.call("GET", "/retention")
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers
