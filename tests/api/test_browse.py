"""What is stored, in the shapes of WuKongIM's console. http-api.md 13.3 and 13.4."""

import base64
from typing import Any

import pytest

from tests.api.calls import OK, Api
from tests.api.test_console import serving
from tests.service.stack import NODE_ID
from wukong.api.browse import MASK

GROUP = {"channel_id": "g", "channel_type": 2}
PAYLOAD = base64.b64encode(b"hello?").decode()

CHANNEL_FIELDS = {
    *("id", "slot", "channel_id", "channel_type", "ban", "disband", "subscriber_count", "allowlist_count"),
    *("denylist_count", "last_msg_seq", "last_msg_time", "last_msg_time_format", "status_format"),
    *("created_at", "updated_at", "created_at_format", "updated_at_format"),
}
MESSAGE_FIELDS = {
    *("message_id", "message_seq", "client_msg_no", "timestamp", "timestamp_format", "channel_id", "channel_type"),
    *("topic", "from_uid", "payload", "expire", "term", "is_stream"),
}
COUNTERS = {"send_msg_count", "recv_msg_count", "send_msg_bytes", "recv_msg_bytes"}
TIMES = {"created_at", "updated_at", "created_at_format", "updated_at_format"}
USER_FIELDS = {"id", "uid", "device_count", "online_device_count", "conn_count", "slot"} | COUNTERS | TIMES
DEVICE_FIELDS = {
    *("id", "uid", "token", "device_flag", "device_flag_format", "device_level", "device_level_format", "conn_count"),
    *(COUNTERS | TIMES),
}
CHAT_FIELDS = {
    *("id", "uid", "type", "type_format", "channel_id", "channel_type", "channel_type_format", "unread_count"),
    *("last_msg_seq", "readed_to_msg_seq", *TIMES),
}
REPLICATED_FIELDS = {
    *("channel_id", "channel_type", "channel_type_format", "replica_count", "replicas", "leader_id", "term", "slot_id"),
    *("slot_leader_id", "last_message_seq", "last_append_time", "active", "active_format", "status", "status_format"),
    *("migrate_from", "migrate_to", *TIMES),
}


async def fill(api: Api) -> str:
    """A group with members, lists and one message, whose id is returned."""
    await api.post("/channel", {**GROUP, "subscribers": ["b", "a"]})
    await api.post("/channel/blacklist_add", {**GROUP, "uids": ["x"]})
    await api.post("/channel/whitelist_add", {**GROUP, "uids": ["y", "z"]})
    sent = await api.post("/message/send", {**GROUP, "from_uid": "a", "payload": PAYLOAD, "client_msg_no": "n"})
    await api.post("/user/token", {"uid": "a", "token": "very-secret", "device_flag": 2, "device_level": 1})
    return str(sent["data"]["message_id"])


async def test_members_and_lists_of_a_channel_are_uids(api: Api) -> None:
    await fill(api)
    for name, uids in (("subscribers", ["a", "b"]), ("denylist", ["x"]), ("allowlist", ["y", "z"])):
        assert await api.get(f"/cluster/channels/g/2/{name}") == uids
        assert await api.get(f"/cluster/channels/none/2/{name}") == []
    assert "invalid syntax" in await api.refused("/cluster/channels/g/x/subscribers", method="GET")
    assert "range" in await api.refused("/cluster/channels/g/256/subscribers", method="GET")


async def test_long_lists_of_members_are_whole(api: Api) -> None:
    uids = sorted(f"u{number}" for number in range(2_500))
    await api.post("/channel", {**GROUP, "subscribers": uids})
    assert await api.get("/cluster/channels/g/2/subscribers") == uids


async def test_channels_are_listed(api: Api) -> None:
    await fill(api)
    found = await api.get("/cluster/channels")
    assert (found["total"], found["more"]) == (0, 0)
    (channel,) = found["data"]
    assert channel.keys() == CHANNEL_FIELDS
    counts = [channel[f"{name}_count"] for name in ("subscriber", "denylist", "allowlist")]
    assert (counts, channel["last_msg_seq"], channel["ban"]) == ([2, 1, 2], 1, 0)
    await api.post("/channel/info", {"channel_id": "h", "channel_type": 2, "ban": 1})
    newest, oldest = (await api.get("/cluster/channels"))["data"]
    if newest["created_at"] // 10**6 != oldest["created_at"] // 10**6:
        assert newest["channel_id"] == "h"
    page = await api.get("/cluster/channels?limit=1")
    assert page["more"] == 1
    offset = page["data"][0]["created_at"]
    rest = await api.get(f"/cluster/channels?limit=1&offset_created_at={offset}")
    assert {rest["data"][0]["channel_id"], page["data"][0]["channel_id"]} == {"g", "h"}
    back = await api.get(f"/cluster/channels?pre=1&offset_created_at={rest['data'][0]['created_at']}")
    assert back["data"] == page["data"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ban=1", ["h"]),
        ("ban=0", ["g"]),
        ("disband=1", []),
        ("subscriber_count_gte=2", ["g"]),
        ("subscriber_count_lte=1&ban=1", ["h"]),
        ("denylist_count_gte=2", []),
        ("allowlist_count_gte=2&allowlist_count_lte=2", ["g"]),
        ("channel_id=g&ban=1", []),
        ("channel_id=h&channel_type=2", ["h"]),
        ("channel_type=1", []),
    ],
)
async def test_channels_are_filtered(api: Api, query: str, found: list[str]) -> None:
    await fill(api)
    await api.post("/channel/info", {"channel_id": "h", "channel_type": 2, "ban": 1})
    assert [channel["channel_id"] for channel in (await api.get(f"/cluster/channels?{query}"))["data"]] == found


async def test_messages_are_listed_with_ids_as_texts(api: Api) -> None:
    message_id = await fill(api)
    for query in (
        "",
        "?channel_id=g&channel_type=2",
        "?from_uid=a",
        f"?message_id={message_id}",
        "?client_msg_no=n",
        "?payload=" + base64.b64encode(b"llo?").decode().replace("+", "%2B"),
        f"?offset_message_id={int(message_id) + 1}",
        "?channel_id=g&channel_type=2&offset_message_seq=2",
        f"?pre=1&offset_message_id={int(message_id) - 1}",
    ):
        found = await api.get(f"/cluster/messages{query}")
        assert found["total"] == 1, query
        (message,) = found["data"]
        assert message.keys() == MESSAGE_FIELDS
        assert (message["message_id"], message["message_seq"], message["payload"]) == (message_id, 1, PAYLOAD)
    for query in ("from_uid=b", "message_id=1", f"offset_message_id={message_id}", "channel_id=g&channel_type=1"):
        assert (await api.get(f"/cluster/messages?{query}"))["data"] == []
    assert (await api.get(f"/cluster/messages?node_id={NODE_ID}"))["total"] == 0
    assert "base64" in await api.refused("/cluster/messages?payload=%21", method="GET")
    assert await api.refused("/cluster/messages?node_id=9", method="GET") == "node not found"


async def test_users_and_devices_are_listed_without_their_tokens(api: Api) -> None:
    await fill(api)
    await api.stack.connect("a", 1, flag=2)
    await api.stack.connect("c", 2)
    users = await api.get("/cluster/users")
    assert (users["total"], users["more"]) == (2, 0)
    assert [user["uid"] for user in users["data"]] == ["a", "c"]
    assert users["data"][0].keys() == USER_FIELDS
    assert (users["data"][0]["device_count"], users["data"][0]["conn_count"]) == (1, 1)
    answer = await api.call("GET", "/cluster/devices")
    (device,) = answer.body["data"]
    assert device.keys() == DEVICE_FIELDS
    assert (device["token"], device["device_flag_format"], device["device_level"]) == (MASK, "PC", 1)
    await api.post("/user/device_quit", {"uid": "a", "device_flag": 2})
    assert (await api.get("/cluster/devices?uid=a&device_flag=2"))["data"][0]["token"] == ""
    assert (await api.get("/cluster/devices?device_flag=0"))["data"] == []
    assert [user["uid"] for user in (await api.get("/cluster/users?offset_uid=a"))["data"]] == ["c"]


async def test_no_route_shows_what_was_given_as_a_secret(api: Api) -> None:
    await fill(api)
    for path in ("devices", "users", "channels", "messages", "conversations"):
        assert "very-secret" not in str((await api.call("GET", f"/cluster/{path}")).body)


async def test_conversations_are_listed(api: Api) -> None:
    await fill(api)
    found = await api.get("/cluster/conversations?uid=b")
    assert found["total"] == 1
    (chat,) = found["data"]
    assert chat.keys() == CHAT_FIELDS
    assert (chat["channel_id"], chat["unread_count"], chat["last_msg_seq"]) == ("g", 1, 1)
    everybody = (await api.get("/cluster/conversations"))["data"]
    assert sorted(chat["uid"] for chat in everybody) == ["a", "b"]
    assert (await api.get("/cluster/conversations?current_page=2"))["data"] == []


async def test_the_state_of_channels_is_told_one_by_one(api: Api) -> None:
    await fill(api)
    body: Any = {"channels": [GROUP, {"channel_id": "none", "channel_type": 2}]}
    known, unknown = await api.post("/cluster/channel/status", body)
    assert known.keys() == {"channel_id", "channel_type", "running", "last_msg_seq", "last_msg_time"}
    assert (known["running"], known["last_msg_seq"]) == (1, 1)
    assert (unknown["running"], unknown["last_msg_seq"], unknown["last_msg_time"]) == (0, 0, 0)
    assert await api.refused("/cluster/channel/status", raw=b"{") == "unexpected EOF"


async def test_a_channel_s_replication_is_that_of_its_slot() -> None:
    async with await serving() as api:
        # The fake cluster has one slot only.
        name = next(f"g{number}" for number in range(100) if api.stack.node.slot(f"g{number}") == 0)
        assert await api.post("/channel", {"channel_id": name, "channel_type": 2}) == OK
        config = await api.get(f"/cluster/channels/{name}/2/config?node_id={NODE_ID}")
        assert (config["replicas"], config["learder_id"], config["replica_max_count"]) == ([1001, 1002], 1001, 2)
        (replica,) = await api.get(f"/cluster/channels/{name}/2/replicas")
        local = await api.get(f"/cluster/channels/{name}/2/localReplica")
        assert local == {key: replica[key] for key in local}
        assert replica.keys() - local.keys() == {"role", "role_format", "last_msg_time_format"}
        found = await api.get("/cluster/nodes/1001/channels")
        assert found.keys() == {"total", "more", "running", "data"}
        assert found["data"][0].keys() == REPLICATED_FIELDS
        for path in ("config", "replicas", "localReplica"):
            assert await api.refused(f"/cluster/channels/none/2/{path}", method="GET") == "not found"
