"""/user over HTTP. http-api.md section 6."""

from typing import Any

import pytest

from tests.api.calls import OK, Api
from wukong.channel.effects import SessionEnded

REFUSED = [
    ("/user/token", {}, "uid不能为空！"),
    ("/user/token", {"uid": "x@y"}, "token不能为空！"),
    ("/user/token", {"uid": "x@y", "token": "t"}, "uid不能包含特殊字符！"),
    ("/user/token", {"uid": "____system", "token": "t"}, "系统账号不允许更新token！"),
    ("/user/device_quit", {"device_flag": 1}, "uid不能为空！"),
]


@pytest.mark.parametrize(("path", "body", "text"), REFUSED)
async def test_checks_come_in_the_documented_order(api: Api, path: str, body: dict[str, Any], text: str) -> None:
    assert await api.refused(path, body) == text


@pytest.mark.parametrize("call", ["token", "device_quit", "onlinestatus", "systemuids_add", "systemuids_remove"])
async def test_a_malformed_body_is_refused_in_the_decoders_words(api: Api, call: str) -> None:
    assert await api.refused(f"/user/{call}", raw=b"{") == "unexpected EOF"


@pytest.mark.parametrize(
    "body", [{"device_flag": "0"}, {"device_flag": 256}, {"device_flag": -1}, {"device_level": 1.5}, {"token": 5}]
)
async def test_a_token_with_fields_of_a_wrong_type_is_refused(api: Api, body: dict[str, Any]) -> None:
    assert "cannot unmarshal" in await api.refused("/user/token", {"uid": "u", "token": "t", **body})


@pytest.mark.parametrize(
    ("flags", "answer"), [({}, 200), ({"ban": 1}, 19), ({"disband": 1}, 24), ({"ban": 1, "disband": 1}, 19)]
)
async def test_a_token_of_a_banned_user_answers_200_with_another_number(
    api: Api, flags: dict[str, int], answer: int
) -> None:
    await api.post("/channel/info", {"channel_id": "u", "channel_type": 1, **flags})
    assert await api.post("/user/token", {"uid": "u", "token": "t"}) == {"status": answer}


@pytest.mark.parametrize("flag", [0, -1, 7, 99_999])
async def test_a_device_that_is_not_there_quits_all_the_same(api: Api, flag: int) -> None:
    assert await api.post("/user/device_quit", {"uid": "u", "device_flag": flag}) == OK


async def test_a_device_that_quits_is_kicked(api: Api) -> None:
    await api.post("/user/token", {"uid": "u", "token": "t", "device_flag": 1})
    await api.stack.connect("u", 1, flag=1)
    await api.post("/user/device_quit", {"uid": "u", "device_flag": -1})
    [kick] = [effect for effect in api.stack.effects if isinstance(effect, SessionEnded)]
    assert (kick.session, kick.reason, kick.text, kick.close_after_ms) == (1, 12, "", 2_000)


async def test_who_is_online_is_listed_by_connection(api: Api) -> None:
    await api.stack.connect("u", 1)
    await api.stack.connect("u", 2, flag=1)
    assert await api.post("/user/onlinestatus", ["u", "nobody"]) == [
        {"uid": "u", "device_flag": 0, "online": 1},
        {"uid": "u", "device_flag": 1, "online": 1},
    ]
    assert await api.post("/user/onlinestatus", ["nobody"]) == []


@pytest.mark.parametrize("raw", [b"[]", b"null"])
async def test_asking_for_nobody_answers_an_object(api: Api, raw: bytes) -> None:
    assert await api.post("/user/onlinestatus", raw=raw) == OK


@pytest.mark.parametrize("raw", [b'{"uids":["a"]}', b"[1]", b'"a"', b""])
async def test_only_an_array_of_texts_can_be_asked_for(api: Api, raw: bytes) -> None:
    await api.refused("/user/onlinestatus", raw=raw)


async def test_system_accounts_are_null_when_there_are_none(api: Api) -> None:
    assert await api.get("/user/systemuids") is None
    assert await api.post("/user/systemuids_add", {"uids": ["b", "a"]}) == OK
    assert await api.get("/user/systemuids") == ["b", "a"]
    assert await api.post("/user/systemuids_remove", {"uids": ["a", "b"]}) == OK
    assert await api.get("/user/systemuids") is None


@pytest.mark.parametrize("body", [{}, {"uids": []}, {"uids": None}])
async def test_lists_of_no_system_accounts_are_fine(api: Api, body: dict[str, Any]) -> None:
    assert await api.post("/user/systemuids_add", body) == OK
    assert await api.post("/user/systemuids_remove", body) == OK


@pytest.mark.parametrize("call", ["add_to_cache", "remove_from_cache"])
async def test_what_nodes_of_wukongim_tell_each_other_changes_nothing(api: Api, call: str) -> None:
    await api.post("/user/systemuids_add", {"uids": ["a"]})
    assert await api.post(f"/user/systemuids_{call}", {"uids": ["a", "b"]}) == OK
    assert await api.get("/user/systemuids") == ["a"]
    assert await api.refused(f"/user/systemuids_{call}", raw=b"{") == "unexpected EOF"
