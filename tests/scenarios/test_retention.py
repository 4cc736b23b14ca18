"""Messages that are kept for a while only, on real servers: what goes, what stays, and that the disk comes back."""

import asyncio
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import running_cluster
from tests.support.http import Api, ApiError, open_api
from tests.support.server import ServerProcess

GROUP = {"channel_id": "diary", "channel_type": 2}
PAYLOAD_BYTES = 2_000
COUNT = 6_000
DEADLINE_S = 60.0


async def write(api: Api, first: int, last: int, *, uid: str = "alice") -> None:
    """Messages that do not compress, so that the disk tells how many there are."""

    async def one(seq: int) -> None:
        payload = b64encode(os.urandom(PAYLOAD_BYTES)).decode()
        await api.post("/message/send", {**GROUP, "from_uid": uid, "client_msg_no": f"n{seq}", "payload": payload})

    for start in range(first, last + 1, 64):
        await asyncio.gather(*(one(seq) for seq in range(start, min(start + 64, last + 1))))


async def page(api: Api, start: int, end: int, *, limit: int, newer: bool) -> tuple[list[int], int]:
    body = {**GROUP, "login_uid": "bob", "start_message_seq": start, "end_message_seq": end, "limit": limit}
    found = await api.post("/channel/messagesync", {**body, "pull_mode": int(newer)})
    return [message["message_seq"] for message in found["messages"]], found["more"]


async def retire(api: Api) -> int:
    total, cursor = 0, ""
    while True:
        done = await api.post("/retention/run", {"cursor": cursor})
        total, cursor = total + done["retired"], done["cursor"]
        if not cursor:
            return total


async def chat_of(api: Api, uid: str) -> dict[str, Any]:
    [chat] = await api.post("/conversation/sync", {"uid": uid, "msg_count": 1})
    return dict(chat)


def store_bytes(server: ServerProcess) -> int:
    """What the store takes on the disk, its own log included. The replicated log has a bound of its own."""
    return sum(path.stat().st_size for path in (server.data_dir / "store").rglob("*") if path.is_file())


async def is_missing(answer: Awaitable[Any]) -> None:
    with pytest.raises(ApiError, match=r'HTTP 200 \{"status":404\}'):
        await answer


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_old_messages_go_with_their_disk_and_everything_else_stays_right(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "node")
    await asyncio.to_thread(server.start)
    try:
        async with open_api(server.http_url) as api:
            await api.post("/channel", {**GROUP, "subscribers": ["alice", "bob"]})
            await write(api, 1, COUNT)
            await api.post("/conversations/setUnread", {**GROUP, "uid": "bob", "unread": 50})
            [number] = (await api.post("/messages", {**GROUP, "message_seqs": [7]}))["messages"]
            assert store_bytes(server) > COUNT * PAYLOAD_BYTES
            await api.post("/retention/set", {**GROUP, "count": 100})
            assert await retire(api) == COUNT - 100
            first = COUNT - 99
            await check(api, first, number)
            await until(lambda: store_bytes(server) < COUNT * PAYLOAD_BYTES // 10)
        # After a restart all is as it was.
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(server.start)
        async with open_api(server.http_url) as api:
            await check(api, first, number)
            await write(api, COUNT + 1, COUNT + 1)
            assert (await chat_of(api, "bob"))["unread"] == 51
            assert await retire(api) == 1
        assert await asyncio.to_thread(server.stop) == 0
        assert server.complaints() == []
    finally:
        server.kill()


async def check(api: Api, first: int, retired: dict[str, Any]) -> None:
    assert (await page(api, 0, 0, limit=10, newer=False)) == (list(range(COUNT - 9, COUNT + 1)), 1)
    # Towards older it ends where the channel begins, without an empty page that says more.
    assert (await page(api, first + 3, 0, limit=10, newer=False)) == (list(range(first, first + 4)), 0)
    assert (await page(api, first - 1, 0, limit=10, newer=False)) == ([], 0)
    assert (await page(api, 20, 5, limit=10, newer=False)) == ([], 0)
    # Towards newer a start before that begins there.
    assert (await page(api, 1, 0, limit=10, newer=True)) == (list(range(first, first + 10)), 1)
    assert (await page(api, 1, 50, limit=10, newer=True)) == ([], 0)
    assert (await api.get("/channel/max_message_seq", **GROUP))["message_seq"] == COUNT
    assert (await api.post("/messages", {**GROUP, "message_seqs": [first - 1, first]}))["messages"][0][
        "message_seq"
    ] == first
    for key in ("message_id", "client_msg_no"):
        await is_missing(api.post("/message", {**GROUP, "login_uid": "bob", key: retired[key]}))
    chat = await chat_of(api, "bob")
    assert (chat["unread"], chat["last_msg_seq"], chat["readed_to_msg_seq"]) == (50, COUNT, COUNT - 50)


async def test_a_channel_of_which_nothing_is_left_is_read_and_goes_on(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "node", {"wukong": {"retentionInterval": "1s"}})
    await asyncio.to_thread(server.start)
    try:
        async with open_api(server.http_url) as api:
            await api.post("/channel", {**GROUP, "subscribers": ["alice", "bob"]})
            await write(api, 1, 5)
            # Smaller than any message; it is carried out without being asked.
            await api.post("/retention/default/set", {"channel_type": 2, "bytes": 1})
            async with asyncio.timeout(DEADLINE_S):
                while (await api.get("/retention", **GROUP))["first_seq"] != 6:
                    await asyncio.sleep(0.1)
            await is_missing(api.get("/channel/last_message", **GROUP, login_uid="bob"))
            assert await api.post("/conversation/sync", {"uid": "bob", "msg_count": 1}) == []
            [chat] = await api.post("/conversation/syncByChannels", {"uid": "bob", "channels": [GROUP]})
            assert (chat["unread"], chat["last_msg_seq"]) == (0, 5)
            await api.post("/retention/default/clear", {"channel_type": 2})
            await write(api, 6, 6)
            assert (await chat_of(api, "bob"))["unread"] == 1
            assert (await api.get("/channel/max_message_seq", **GROUP))["message_seq"] == 6
        assert await asyncio.to_thread(server.stop) == 0
        assert server.complaints() == []
    finally:
        server.kill()


@pytest.mark.timeout(180)
async def test_every_node_lets_go_and_what_a_user_wrote_is_unreadable_on_each(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster", 3) as cluster:
        async with open_api(cluster[1].http_url) as api:
            await api.post("/channel", {**GROUP, "subscribers": ["alice", "bob"]})
            await write(api, 1, 4_000)
            await write(api, 4_001, 4_002, uid="bob")
            await api.post("/retention/set", {**GROUP, "count": 8})
            assert await retire(api) == 3_994
            assert await api.post("/erase", {"uid": "alice"}) == {"erased": 6, "cursor": ""}
            assert await api.post("/erase", {"uid": "alice"}) == {"erased": 0, "cursor": ""}
        for node in cluster:
            # Also where nobody asked, and the slot is not led.
            await until(lambda node=node: store_bytes(node) < 400 * PAYLOAD_BYTES)  # type: ignore[misc]
            async with open_api(node.http_url) as api:
                body = {**GROUP, "login_uid": "bob", "limit": 100}
                found = (await api.post("/channel/messagesync", body))["messages"]
                assert [message["message_seq"] for message in found] == list(range(3_995, 4_003))
                for message in found:
                    payload = b64decode(message["payload"])
                    if message["from_uid"] == "alice":
                        assert (json.loads(payload), message["client_msg_no"]) == ({"type": 0}, "")
                    else:
                        assert len(payload) == PAYLOAD_BYTES
                standing = await api.get("/retention", **GROUP)
                assert (standing["first_seq"], standing["policy"]["count"]) == (3_995, 8)
        assert cluster.complaints() == []
