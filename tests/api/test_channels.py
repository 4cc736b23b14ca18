"""/channel: refusals in the order of their checks, and what the calls do. http-api.md section 8."""

import pytest

from tests.api.calls import OK, Api
from wukong.channel.ids import ChannelId
from wukong.channel.state import Head, channel_part
from wukong.service.channels import ALLOWLIST, DENYLIST

EMPTY_ID = "频道ID不能为空！"
MISSING_ID = "channel_id不能为空！"
SPECIAL_ID = "频道ID不能包含特殊字符！"
TYPE_ZERO = "频道类型不能为0！"
NO_UIDS = "uids不能为空！"
NO_SUBSCRIBERS = "订阅者不能为空！"
NOT_FOR_PERSONS = "个人频道不支持添加订阅者！"
MANY = ["a", "b"]

REFUSED = [
    # /channel: id, type, characters, persons.
    ("/channel", {"channel_id": "", "channel_type": 0}, EMPTY_ID),
    ("/channel", {"channel_id": " \t"}, EMPTY_ID),
    ("/channel", {"channel_id": "a@b"}, "频道类型错误！"),
    ("/channel", {"channel_id": "a@b", "channel_type": 1, "subscribers": MANY}, SPECIAL_ID),
    ("/channel", {"channel_id": "a#b", "channel_type": 2}, SPECIAL_ID),
    ("/channel", {"channel_id": "a&b", "channel_type": 2}, SPECIAL_ID),
    ("/channel", {"channel_id": "a", "channel_type": 1, "subscribers": [""]}, "不支持个人频道添加订阅者！"),
    ("/channel/delete", {"channel_id": "", "channel_type": 1}, NOT_FOR_PERSONS),
    # subscriber_add and _remove: id, characters, list, persons, temporary.
    ("/channel/subscriber_add", {"channel_id": "", "subscribers": []}, EMPTY_ID),
    ("/channel/subscriber_add", {"channel_id": "a@b", "subscribers": []}, SPECIAL_ID),
    ("/channel/subscriber_add", {"channel_id": "g"}, NO_SUBSCRIBERS),
    ("/channel/subscriber_add", {"channel_id": "g", "subscribers": None}, NO_SUBSCRIBERS),
    ("/channel/subscriber_add", {"channel_id": "g", "channel_type": 1, "subscribers": [" ", ""]}, NO_SUBSCRIBERS),
    ("/channel/subscriber_add", {"channel_id": "g", "channel_type": 1, "subscribers": MANY}, NOT_FOR_PERSONS),
    (
        "/channel/subscriber_add",
        {"channel_id": "g", "channel_type": 1, "subscribers": MANY, "temp_subscriber": 1},
        NOT_FOR_PERSONS,
    ),
    (
        "/channel/subscriber_add",
        {"channel_id": "g", "channel_type": 2, "subscribers": MANY, "temp_subscriber": 1},
        "新版本临时订阅者已不支持！",
    ),
    ("/channel/subscriber_remove", {"subscribers": MANY}, EMPTY_ID),
    ("/channel/subscriber_remove", {"channel_id": "a&b", "subscribers": []}, SPECIAL_ID),
    ("/channel/subscriber_remove", {"channel_id": "g", "subscribers": [""]}, NO_SUBSCRIBERS),
    ("/channel/subscriber_remove", {"channel_id": "g", "channel_type": 1, "subscribers": MANY}, NOT_FOR_PERSONS),
    ("/channel/subscriber_remove_all", {}, MISSING_ID),
    ("/channel/subscriber_remove_all", {"channel_id": "g"}, TYPE_ZERO),
    ("/channel/subscriber_remove_all", {"channel_id": "g", "channel_type": 1}, "个人频道不支持此操作！"),
    ("/tmpchannel/subscriber_set", {"uids": MANY}, MISSING_ID),
    ("/tmpchannel/subscriber_set", {"channel_id": "a@b"}, SPECIAL_ID),
    ("/tmpchannel/subscriber_set", {"channel_id": "t", "uids": []}, NO_UIDS),
    # Deny list: id, type, list.
    *[
        (path, body, text)
        for path in ("/channel/blacklist_add", "/channel/blacklist_remove")
        for body, text in (
            ({"channel_type": 0}, MISSING_ID),
            ({"channel_id": "g"}, TYPE_ZERO),
            ({"channel_id": "g", "channel_type": 2}, NO_UIDS),
            ({"channel_id": "g", "channel_type": 2, "uids": []}, NO_UIDS),
        )
    ],
    # Allow list: id, characters, type, list without blanks.
    *[
        (path, body, text)
        for path in ("/channel/whitelist_add", "/channel/whitelist_remove")
        for body, text in (
            ({"channel_type": 0}, MISSING_ID),
            ({"channel_id": "a@b"}, SPECIAL_ID),
            ({"channel_id": "g"}, TYPE_ZERO),
            ({"channel_id": "g", "channel_type": 2, "uids": ["", " "]}, NO_UIDS),
        )
    ],
    ("/channel/blacklist_set", {"channel_type": 2}, EMPTY_ID),
    ("/channel/whitelist_set", {"channel_type": 2}, EMPTY_ID),
    ("/channel/blacklist_remove_all", {}, MISSING_ID),
    ("/channel/blacklist_remove_all", {"channel_id": "g"}, TYPE_ZERO),
    ("/channel/whitelist_remove_all", {}, MISSING_ID),
    ("/channel/whitelist_remove_all", {"channel_id": "g"}, TYPE_ZERO),
]


@pytest.mark.parametrize(("path", "body", "text"), REFUSED)
async def test_checks_come_in_the_documented_order(api: Api, path: str, body: dict[str, object], text: str) -> None:
    assert await api.refused(path, body) == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/channel", "数据格式有误！: unexpected EOF"),
        ("/channel/info", "数据格式有误！"),
        ("/channel/delete", "数据格式有误！: unexpected EOF"),
        ("/channel/subscriber_add", "数据格式有误！: unexpected EOF"),
        ("/channel/subscriber_remove", "数据格式有误！: unexpected EOF"),
        ("/channel/subscriber_remove_all", "数据格式有误！: unexpected EOF"),
        ("/tmpchannel/subscriber_set", "数据格式有误！: unexpected EOF"),
        ("/channel/blacklist_add", "unexpected EOF"),
        ("/channel/blacklist_set", "unexpected EOF"),
        ("/channel/blacklist_remove", "unexpected EOF"),
        ("/channel/blacklist_remove_all", "unexpected EOF"),
        ("/channel/whitelist_add", "unexpected EOF"),
        ("/channel/whitelist_set", "unexpected EOF"),
        ("/channel/whitelist_remove", "unexpected EOF"),
        ("/channel/whitelist_remove_all", "unexpected EOF"),
    ],
)
async def test_a_malformed_body_is_refused_in_the_words_of_its_route(api: Api, path: str, text: str) -> None:
    assert await api.refused(path, raw=b"{") == text


def head(api: Api, channel_id: str = "g", kind: int = 2) -> Head:
    found = api.stack.node.state_of(channel_id).head(channel_part(ChannelId(kind, channel_id)))
    assert found is not None
    return found


async def members(api: Api, channel_id: str = "g", kind: int = 2) -> list[str]:
    found = await api.get(f"/channel/subscribers?channel_id={channel_id}&channel_type={kind}")
    assert found["next"] == ""
    return found["subscribers"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", ["/channel", "/channel/info"])
async def test_absent_flags_are_written_as_off_and_only_1_is_on(api: Api, path: str) -> None:
    flags = ("large", "ban", "disband", "send_ban", "allow_stranger")
    assert await api.post(path, {"channel_id": "g", "channel_type": 2, **dict.fromkeys(flags, 1)}) == OK
    assert [getattr(head(api), flag) for flag in flags] == [True] * 5
    assert await api.post(path, {"channel_id": "g", "channel_type": 2, "ban": 2, "large": -1}) == OK
    assert [getattr(head(api), flag) for flag in flags] == [False] * 5


@pytest.mark.parametrize("body", [{}, {"channel_id": "a@b", "channel_type": 0}, {"channel_id": "u", "channel_type": 1}])
async def test_info_checks_nothing(api: Api, body: dict[str, object]) -> None:
    assert await api.post("/channel/info", body) == OK


async def test_subscriber_add_takes_groups_for_granted_and_subscriber_remove_does_not(api: Api) -> None:
    assert await api.post("/channel/subscriber_add", {"channel_id": "g", "subscribers": MANY}) == OK
    assert await api.post("/channel/subscriber_remove", {"channel_id": "g", "subscribers": ["a"]}) == OK
    assert await members(api) == ["a", "b"]


async def test_blanks_and_repeats_are_dropped(api: Api) -> None:
    body = {"channel_id": "g", "subscribers": ["b", "", "a", " ", "b"]}
    assert await api.post("/channel/subscriber_add", body) == OK
    assert await members(api) == ["a", "b"]


@pytest.mark.parametrize("path", ["/channel", "/channel/subscriber_add"])
@pytest.mark.parametrize(("reset", "left"), [(1, ["c"]), (0, ["a", "b", "c"]), (2, ["a", "b", "c"])])
async def test_reset_replaces_the_members(api: Api, path: str, reset: int, left: list[str]) -> None:
    await api.post(path, {"channel_id": "g", "channel_type": 2, "subscribers": MANY})
    await api.post(path, {"channel_id": "g", "channel_type": 2, "subscribers": ["c"], "reset": reset})
    assert await members(api) == left


async def test_creating_with_reset_and_nobody_empties_the_channel(api: Api) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": MANY})
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": None, "reset": 1})
    assert await members(api) == []


async def test_delete_only_disbands_and_adding_members_does_not_revive(api: Api) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": MANY})
    assert await api.post("/channel/delete", {"channel_id": "g", "channel_type": 2}) == OK
    await api.post("/channel/subscriber_add", {"channel_id": "g", "channel_type": 2, "subscribers": ["c"]})
    assert head(api).disband
    assert await members(api) == ["a", "b", "c"]
    await api.post("/channel", {"channel_id": "g", "channel_type": 2})
    assert not head(api).disband


async def test_members_come_in_pages(api: Api) -> None:
    uids = [f"u{n:02}" for n in range(25)]
    await api.post("/channel/subscriber_add", {"channel_id": "g", "subscribers": uids})
    path = "/channel/subscribers?channel_id=g&channel_type=2&limit=10"
    first = await api.get(path)
    second = await api.get(f"{path}&cursor={first['next']}")
    third = await api.get(f"{path}&cursor={second['next']}")
    assert first["subscribers"] + second["subscribers"] + third["subscribers"] == uids
    assert third["next"] == ""


@pytest.mark.parametrize(
    ("query", "text"), [("", MISSING_ID), ("channel_id=g", TYPE_ZERO), ("channel_id=g&channel_type=x", TYPE_ZERO)]
)
async def test_a_page_of_members_needs_a_channel(api: Api, query: str, text: str) -> None:
    assert await api.refused(f"/channel/subscribers?{query}", method="GET") == text


@pytest.mark.parametrize(("prefix", "which"), [("blacklist", DENYLIST), ("whitelist", ALLOWLIST)])
async def test_lists_are_added_to_set_removed_from_and_cleared(api: Api, prefix: str, which: int) -> None:
    async def after(call: str, uids: list[str] | None = None) -> list[str]:
        body = {"channel_id": "g", "channel_type": 2, "uids": uids}
        assert await api.post(f"/channel/{prefix}_{call}", body) == OK
        entries = await api.stack.use_cases.channels.list_entries(ChannelId(2, "g"), which)
        return [entry.uid for entry in entries]

    assert await after("add", ["b", "a", "", "b"]) == ["a", "b"]
    assert await after("remove", ["a", "x"]) == ["b"]
    assert await after("set", ["c", "d"]) == ["c", "d"]
    assert await after("remove_all") == []
    await after("add", ["a"])
    assert await after("set", []) == []
    await after("add", ["a"])
    assert await after("set", None) == []


async def test_the_allow_list_is_read_as_objects(api: Api) -> None:
    await api.post("/channel/whitelist_add", {"channel_id": "g", "channel_type": 2, "uids": MANY})
    found = await api.get("/channel/whitelist?channel_id=g&channel_type=2")
    assert [entry["uid"] for entry in found] == MANY
    assert all(entry.keys() == {"id", "uid", "created_at", "updated_at"} for entry in found)
    assert {type(entry["id"]) for entry in found} == {int}


@pytest.mark.parametrize("query", ["", "channel_id=g", "channel_id=g&channel_type=x", "channel_id=g&channel_type=999"])
async def test_reading_the_allow_list_checks_nothing(api: Api, query: str) -> None:
    assert await api.get(f"/channel/whitelist?{query}") == []


async def test_an_id_that_is_too_long_is_refused(api: Api) -> None:
    assert "32767" in await api.refused("/channel", {"channel_id": "x" * 40_000, "channel_type": 2})
    assert "32767" in await api.refused("/channel/subscriber_add", {"channel_id": "g", "subscribers": ["x" * 40_000]})


async def test_a_temporary_channel_gets_its_recipients(api: Api) -> None:
    assert await api.post("/tmpchannel/subscriber_set", {"channel_id": "t", "uids": ["b", "a"]}) == OK
    assert await members(api, "t", 8) == ["a", "b"]
