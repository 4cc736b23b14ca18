"""`wukong import` as a process, ended by signals at any moment, into one node and into three.

WUKONG_IMPORT_LARGE=1: 1,000 channels, 10,000 members, 100,000 messages instead of a small set. The seed is printed;
WUKONG_IMPORT_SEED sets it.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.compat.old_server import AGENT, LARGE, LIVE, SMALL, Key, OldData, OldServer, make
from tests.support.cluster import running_cluster
from tests.support.http import Api, open_api
from tests.support.server import ROOT, ServerProcess
from wukong.cli.lean import LeanConnection

IS_LARGE = bool(os.environ.get("WUKONG_IMPORT_LARGE"))
SIZE = LARGE if IS_LARGE else SMALL
SEED = int(os.environ.get("WUKONG_IMPORT_SEED", random.randrange(1 << 30)))
LIMIT_S = 900 if IS_LARGE else 100

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


class Where(NamedTuple):
    """Nodes that are written to, that are read from, and that a client is connected to."""

    written: ServerProcess
    read: ServerProcess
    connected: ServerProcess


@contextlib.asynccontextmanager
async def nodes(directory: Path, count: int) -> AsyncIterator[Where]:
    if count == 1:
        server = ServerProcess(directory / "node")
        await asyncio.to_thread(server.start)
        try:
            yield Where(server, server, server)
            assert await asyncio.to_thread(server.stop) == 0
            assert server.complaints() == []
        finally:
            server.kill()
    else:
        with running_cluster(directory / "cluster", count) as cluster:
            yield Where(cluster[2], cluster[3], cluster[1])


class Import:
    """Calls of the command line with one state directory."""

    def __init__(self, directory: Path, old: OldServer, server: ServerProcess) -> None:
        (directory / "users.txt").write_text("\n".join(old.data.talks))
        self._arguments = [
            *("import", "--from", old.url, "--to", server.http_url, "--users", str(directory / "users.txt")),
            *("--resume", str(directory / "state"), "--json"),
        ]

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wukong",
            *self._arguments,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def finish(self) -> Any:
        process = await self.start()
        out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
        assert process.returncode == 0, (process.returncode, out[-2_000:], err[-2_000:])
        return json.loads(out)


async def interrupted(importing: Import, old: OldServer, calls: int, number: signal.Signals) -> None:
    """Start it, and send it the signal when the old server was called so often."""
    until = sum(old.calls.values()) + calls
    process = await importing.start()
    while process.returncode is None and sum(old.calls.values()) < until:
        await asyncio.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    if number is signal.SIGINT and process.returncode != 0:
        assert (process.returncode, err.splitlines()) == (130, [b"wukong: the same command goes on from here"])


async def compare_logs(data: OldData, api: Api) -> int:
    """Every message field by field, as a back end reads it; and how many."""
    count = 0
    for (kind, channel_id), log in data.log.items():
        if kind == AGENT:
            continue
        login, shown = channel_id.split("@") if kind == 1 else ("x", channel_id)
        found: list[Any] = []
        while len(found) < len(log):
            body = {"login_uid": login, "channel_id": shown, "channel_type": kind, "limit": 1_000, "pull_mode": 1}
            page = await api.post("/channel/messagesync", {**body, "start_message_seq": len(found) + 1})
            assert page["messages"], f"{kind} {channel_id} ends with {len(found)} of {len(log)}"
            found += page["messages"]
        for here, there in zip(found, log, strict=True):
            original = msgspec.to_builtins(there)
            if there.message_seq == 1:
                # No page ever tells it (http-api.md 21, no 24).
                original["header"]["red_dot"] = 0
            assert here == original
            count += 1
    return count


async def compare_unread(data: OldData, old: OldServer, api: Api) -> None:
    fields = ("channel_id", "channel_type", "unread", "last_msg_seq", "last_client_msg_no", "timestamp")
    async with open_api(old.url) as there:
        for uid in data.talks:
            body = {"uid": uid, "msg_count": 1}
            rows = [
                sorted([each[field] for field in fields] for each in await side.post("/conversation/sync", body))
                for side in (there, api)
            ]
            assert rows[0] == rows[1], uid


async def compare_lookups(data: OldData, api: Api, some: random.Random) -> None:
    for key in some.sample(sorted(key for key in data.log if key[0] not in (1, AGENT)), 5):
        message = some.choice(data.log[key])
        query: dict[str, Any] = {"channel_id": key[1], "channel_type": key[0]}
        newest = [each for each in data.log[key] if each.client_msg_no == message.client_msg_no][-1]
        found = await api.get("/message/byclientmsgno", **query, client_msg_no=message.client_msg_no)
        assert found["message_seq"] == newest.message_seq
        page = await api.post("/messages", {"login_uid": "x", **query, "message_ids": [message.message_id]})
        assert [each["message_seq"] for each in page["messages"]] == [message.message_seq]


def a_live_group(data: OldData) -> Key:
    """A group in which anybody may write, with members and a history."""
    return next(
        key
        for key, members in data.members.items()
        if key[0] == 2
        and len(members) > 2
        and data.log.get(key)
        and key not in data.banned
        and not (data.denied.get(key) or data.allowed.get(key))
    )


@pytest.mark.parametrize("count", [1, 3], ids=["one node", "three nodes"])
async def test_a_killed_import_goes_on_and_both_sides_are_equal(tmp_path: Path, count: int) -> None:
    print(f"seed {SEED}")
    data, some = make(SIZE, SEED), random.Random(SEED)
    kind, channel_id = key = a_live_group(data)
    member, sender = data.members[key][:2]
    fails = 0 if IS_LARGE else 67
    async with nodes(tmp_path, count) as where, OldServer(data, fail_every=fails, slow_every=211) as old:
        client = await LeanConnection.open("127.0.0.1", where.connected.tcp_port, member)
        importing = Import(tmp_path, old, where.written)
        started = time.monotonic()
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            await interrupted(importing, old, some.randrange(20, 5 * SIZE.channels), number)
        report = await importing.finish()
        print(f"imported in {time.monotonic() - started:.1f} s")
        old.fail_every = 0
        assert report["equal"]
        assert sum(each["new"]["members"] for each in report["channels"]) == sum(map(len, data.members.values()))
        async with open_api(where.read.http_url) as api:
            assert await compare_logs(data, api) > 0.9 * SIZE.messages
            await compare_unread(data, old, api)
            await compare_lookups(data, api, some)
            assert client.received_count == 0, "an import tells nobody"
            # And now it goes on here.
            answer = await api.send(sender, channel_id, b"here", kind=kind)
            newest = max(each.message_id for each in data.log[key])
            assert answer["message_id"] > newest
            async with asyncio.timeout(20):
                while client.received_count == 0:
                    await asyncio.sleep(0.01)
            body = {"login_uid": "x", "channel_id": channel_id, "channel_type": kind, "limit": 1}
            page = await api.post("/channel/messagesync", body)
            assert page["messages"][0]["message_seq"] == len(data.log[key]) + 1
        client.close()


async def test_what_was_imported_outlives_a_kill_of_the_server(tmp_path: Path) -> None:
    data = make(SMALL._replace(messages=1_000), SEED)
    print(f"seed {SEED}")
    async with nodes(tmp_path, 1) as where, OldServer(data) as old:
        await Import(tmp_path, old, where.written).finish()
        where.written.kill()
        await asyncio.to_thread(where.written.start)
        async with open_api(where.read.http_url) as api:
            await compare_logs(data, api)
            await compare_unread(data, old, api)


def test_the_set_holds_what_is_hard() -> None:
    data = make(SMALL, 1)
    ids = [[each.message_id for each in log] for log in data.log.values()]
    assert any(each != sorted(each) for each in ids), "ids that do not rise"
    assert {kind for kind, _ in data.log} >= {1, 2, 3, 4, 6, LIVE}
    assert any(talk.deleted for talks in data.talks.values() for talk in talks.values())
