"""`wukong backup` and `wukong restore` as processes, of one node and of three, into one and into three.

The seed is printed; WUKONG_BACKUP_SEED sets it.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import open_clients
from tests.support.cluster import ClusterProcesses, running_cluster
from tests.support.http import Api, open_api, payload_of
from tests.support.server import ROOT, ServerProcess
from tests.support.wire import GROUP, SUCCESS
from wukong.limits import MIB
from wukong.node.node import APPLIED_KEY
from wukong.store.generations import Generations
from wukong.store.overlay import prefix_end
from wukong.store.rocks import RocksStore

SEED = int(os.environ.get("WUKONG_BACKUP_SEED", random.randrange(1 << 30)))
GROUPS = [f"group-{number}" for number in range(6)]
UIDS = [f"user-{number}" for number in range(12)]
LIMIT_S = 60
FILTERS = (APPLIED_KEY, b"S", b"N")
"""Rows that say which nodes there are and where the log stands."""

pytestmark = pytest.mark.timeout(180)


async def wukong(*arguments: object, status: int = 0) -> Any:
    """The JSON that a command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wukong", *map(str, arguments), "--json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == status, (arguments, process.returncode, out[-2_000:], err[-2_000:])
    return json.loads(out)


@contextlib.contextmanager
def started(*nodes: ServerProcess) -> Iterator[None]:
    """Servers; they must end well and without complaints."""
    try:
        for node in nodes:
            node.start()
        yield
        for node in nodes:
            assert node.stop() == 0
            assert node.complaints() == []
    finally:
        for node in nodes:
            node.kill()


def digests(data_dir: Path) -> list[str]:
    """Of every slot's rows in a directory that no process has open, but for those that FILTERS name."""
    store = RocksStore(str(data_dir / "store"), block_cache_bytes=MIB)
    try:
        generations = Generations(store)
        found = []
        for slot in range(json.loads((data_dir / "node.json").read_text())["slot_count"]):
            prefix = generations.prefix(slot)
            digest = blake2b()
            for key, value in store.scan(prefix, prefix_end(prefix)):
                if not key[len(prefix) :].startswith(FILTERS):
                    digest.update(b"%d %d %b %b" % (len(key), len(value), key[len(prefix) :], value))
            found.append(digest.hexdigest())
        return found
    finally:
        store.close()


async def fill(api: Api, rng: random.Random, messages: int) -> None:
    """Groups, lists and bans of persons, messages, read positions."""
    for group in GROUPS:
        await api.create(group, rng.sample(UIDS, 8))
        await api.add(group, ["sender", rng.choice(UIDS)])
        await api.remove(group, [rng.choice(UIDS)])
    for uid in UIDS[:4]:
        await api.change_list("blacklist_add", uid, rng.sample(UIDS, 3), kind=1)
        await api.change_list("whitelist_add", uid, rng.sample(UIDS, 3), kind=1)
    await api.create(UIDS[0], kind=1, send_ban=1)
    for number in range(messages):
        await api.send("sender", rng.choice(GROUPS), b"%d %s" % (number, rng.randbytes(rng.randrange(200))))
    for uid in UIDS:
        body = {"uid": uid, "channel_id": GROUPS[0], "channel_type": GROUP, "unread": 1}
        await api.post("/conversations/setUnread", body)


async def everything(api: Api) -> dict[str, Any]:
    """What a back end can ask for, whole."""
    return {
        "members": {group: sorted(await api.members(group)) for group in GROUPS},
        "messages": {group: await api.history("sender", group) for group in GROUPS},
        "conversations": {uid: await api.conversations(uid) for uid in UIDS},
        "allowed": {uid: await allowed(api, uid) for uid in UIDS[:4]},
    }


async def allowed(api: Api, uid: str) -> list[str]:
    """A person's allow list."""
    rows = await api.get("/channel/whitelist", channel_id=uid, channel_type=1)
    return sorted(each["uid"] for each in rows)


class Load:
    """Writes until it is told to stop. acknowledged: (group, payload), in the order of the answers."""

    def __init__(self, api: Api, rng: random.Random) -> None:
        self._api, self._rng = api, rng
        self.acknowledged: list[tuple[str, bytes]] = []
        self.added: list[tuple[str, str]] = []
        self._stop = asyncio.Event()

    async def _send(self, sender: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            group, payload = self._rng.choice(GROUPS), b"load %d %d" % (sender, number)
            await self._api.send("sender", group, payload)
            self.acknowledged.append((group, payload))

    async def _add(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            group, uid = self._rng.choice(GROUPS), f"late-{number}"
            await self._api.add(group, [uid])
            self.added.append((group, uid))
            await self._api.change_list("blacklist_add", self._rng.choice(UIDS), [uid], kind=1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for sender in range(4):
                tasks.create_task(self._send(sender))
            tasks.create_task(self._add())
            try:
                yield
            finally:
                self._stop.set()


async def until(count: int, of: list[Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while len(of) < count:
            await asyncio.sleep(0.01)


def restored_cluster(directory: Path) -> ClusterProcesses:
    return ClusterProcesses(directory, 3, proxied=False)


async def restore_three(backups: Path, cluster: ClusterProcesses) -> Any:
    targets = [part for node in cluster for part in ("--data-dir", node.data_dir, "--node-id", node.node_id)]
    return await wukong("restore", backups, *targets)


async def check_use(api: Api, node: ServerProcess, group: str) -> None:
    """A client logs in, is told of the next message, and sends one itself; numbers go on without a gap."""
    before = await api.history("sender", group)
    async with open_clients() as clients:
        client = await clients.connect("sender", to=node)
        reader = await clients.connect("reader", to=node)
        await api.add(group, ["reader"])
        ack = await client.send(group, b"after the restore", kind=GROUP)
        assert ack.reason_code == SUCCESS
        assert ack.message_seq == len(before) + 1
        assert ack.message_id > max(each["message_id"] for each in before)
        await reader.until_received(1, LIMIT_S)
        assert [each.payload for each in reader.received] == [b"after the restore"]
    assert [each["message_seq"] for each in await api.history("sender", group)] == [*range(1, len(before) + 2)]


@contextlib.contextmanager
def servers(directory: Path, count: int) -> Iterator[list[ServerProcess]]:
    if count == 1:
        server = ServerProcess(directory)
        with started(server):
            yield [server]
    else:
        with running_cluster(directory, count, proxied=False) as cluster:
            yield list(cluster)
            assert cluster.stop() == [0] * count
            assert cluster.complaints() == []


@pytest.mark.parametrize("count", [1, 3], ids=["one node", "three nodes"])
async def test_a_backup_under_load_has_all_that_was_acknowledged_before(tmp_path: Path, count: int) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    backups = tmp_path / "backups"
    with servers(tmp_path / "old", count) as old:
        async with open_api(*(node.http_url for node in old), fence_slots=16) as api:
            await fill(api, rng, 100 if count == 1 else 30)
            load = Load(api, rng)
            async with load.running():
                for options in ([], ["--incremental"]):
                    await until(len(load.acknowledged) + 50, load.acknowledged)
                    before, added = list(load.acknowledged), list(load.added)
                    made = await wukong("backup", backups, "--api", rng.choice(old).http_url, *options)
                    await until(len(load.acknowledged) + 20, load.acknowledged)
            histories = {group: await api.history("sender", group) for group in GROUPS}
    assert made["slots_in_full"] == 0
    assert (await wukong("backup", "verify", backups))["faults"] == []
    alone, cluster = ServerProcess(tmp_path / "alone"), restored_cluster(tmp_path / "three")
    await wukong("restore", backups, "--data-dir", alone.data_dir)
    await restore_three(backups, cluster)
    assert digests(alone.data_dir) == digests(cluster[2].data_dir)
    with started(alone):
        async with open_api(alone.http_url) as api:
            found = {group: await api.history("sender", group) for group in GROUPS}
            for group, messages in found.items():
                assert messages == histories[group][: len(messages)], "a beginning of what there was"
            here = {(group, payload_of(each)) for group, messages in found.items() for each in messages}
            assert set(before) <= here
            assert sum(map(len, found.values())) < sum(map(len, histories.values())), "it was taken under load"
            members = {group: set(await api.members(group)) for group in GROUPS}
            assert [each for each in added if each[1] not in members[each[0]]] == []
            await check_use(api, alone, GROUPS[0])
    try:
        await asyncio.to_thread(cluster.start)
        async with open_api(*(node.http_url for node in cluster), fence_slots=16) as api:
            assert {group: await api.history("sender", group) for group in GROUPS} == found
            await check_use(api, cluster[3], GROUPS[1])
        assert await asyncio.to_thread(cluster.stop) == [0, 0, 0]
        assert cluster.complaints() == []
    finally:
        cluster.close()


async def test_an_incremental_backup_over_a_full_one_leads_to_the_same_rows(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    server, backups = ServerProcess(tmp_path / "old"), tmp_path / "backups"
    with started(server):
        async with open_api(server.http_url) as api:
            await fill(api, rng, 100)
            full = await wukong("backup", backups, "--api", server.http_url)
            for turn in range(2):
                await fill(api, rng, 50)
                # The log goes on where it was after a restart.
                assert await asyncio.to_thread(server.stop) == 0
                await asyncio.to_thread(server.start)
                api.url = server.http_url
                increment = await wukong("backup", backups, "--api", server.http_url, "--incremental")
                assert increment["slots_in_full"] == 0, turn
                assert increment["bytes"] < full["bytes"] * 3
            whole = await everything(api)
            assert await asyncio.to_thread(server.stop) == 0
            listed = await wukong("backup", "list", backups)
            assert [each["base"] for each in listed] == ["", listed[0]["id"], listed[1]["id"]]
            assert len((await wukong("backup", "verify", backups))["backups"]) == 3
            alone = ServerProcess(tmp_path / "alone")
            await wukong("restore", backups, "--data-dir", alone.data_dir)
            assert digests(alone.data_dir) == digests(server.data_dir)
            await asyncio.to_thread(server.start)
    with started(alone):
        async with open_api(alone.http_url) as api:
            assert await everything(api) == whole
            await check_use(api, alone, GROUPS[2])


async def test_three_nodes_are_restored_to_one_and_to_three_others(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    backups = tmp_path / "backups"
    with running_cluster(tmp_path / "old", proxied=False) as old:
        async with open_api(*(node.http_url for node in old), fence_slots=16) as api:
            await fill(api, rng, 100)
            async with open_clients(*old) as clients:
                # Whoever is logged in when it is taken is not when it is restored.
                await clients.connect_all(UIDS[:6])
                await wukong("backup", backups, "--api", old[2].http_url)
            await fill(api, rng, 50)
            await wukong("backup", backups, "--api", old[3].http_url, "--incremental")
            whole = await everything(api)
        assert await asyncio.to_thread(old.stop) == [0, 0, 0]
        assert old.complaints() == []
    alone, cluster = ServerProcess(tmp_path / "alone", {"cluster": {"nodeId": 7}}), restored_cluster(tmp_path / "new")
    await wukong("restore", backups, "--data-dir", alone.data_dir, "--node-id", 7)
    assert digests(alone.data_dir) == digests(old[1].data_dir)
    with started(alone):
        async with open_api(alone.http_url) as api:
            assert await everything(api) == whole
            assert await api.online(UIDS) == []
            await check_use(api, alone, GROUPS[0])
            status = await api.get("/cluster/status")
            assert [(each["id"], each["state"]) for each in status["nodes"]] == [(7, "voter")]
            assert status["job"] == ""
    await restore_three(backups, cluster)
    try:
        await asyncio.to_thread(cluster.start)
        async with open_api(*(node.http_url for node in cluster), fence_slots=16) as api:
            assert await everything(api) == whole
            assert await api.online(UIDS) == []
            await check_use(api, cluster[1], GROUPS[0])
        assert await asyncio.to_thread(cluster.stop) == [0, 0, 0]
        assert cluster.complaints() == []
    finally:
        cluster.close()


async def test_nodes_restored_one_by_one_under_one_number_form_the_cluster(tmp_path: Path) -> None:
    server, backups = ServerProcess(tmp_path / "old"), tmp_path / "backups"
    with started(server):
        async with open_api(server.http_url) as api:
            await fill(api, random.Random(1), 20)
            whole = await everything(api)
        await wukong("backup", backups, "--api", server.http_url)
    cluster = restored_cluster(tmp_path / "new")
    for node in cluster:
        options = ["--node-id", node.node_id, "--nodes", "1,2,3", "--cluster-id", "5eed"]
        await wukong("restore", backups, "--data-dir", node.data_dir, *options)
    try:
        await asyncio.to_thread(cluster.start)
        async with open_api(*(node.http_url for node in cluster), fence_slots=16) as api:
            assert await everything(api) == whole
            assert (await api.get("/cluster/status"))["cluster"] == "5eed"
    finally:
        cluster.close()


SLOWLY = {"wukong": {"snapshotBytesPerSecond": "64KiB"}}


def has_three_slots(backups: Path) -> bool:
    return bool(list(backups.glob("*.unfinished/slot-003.rows")))


async def half_a_backup(backups: Path, server: ServerProcess, *, how: int) -> int:
    """Begin one and send the tool a signal when it has three slots. Returns its exit status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wukong", "backup", str(backups), "--api", server.http_url),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(LIMIT_S):
        while not has_three_slots(backups):
            assert process.returncode is None
            await asyncio.sleep(0.01)
    process.send_signal(how)
    return await process.wait()


async def test_a_backup_that_is_killed_leaves_nothing_that_is_taken_for_one(tmp_path: Path) -> None:
    server, backups = ServerProcess(tmp_path / "old", SLOWLY), tmp_path / "backups"
    with started(server):
        async with open_api(server.http_url) as api:
            await fill(api, random.Random(2), 50)
        assert await half_a_backup(backups, server, how=signal.SIGKILL) == -signal.SIGKILL
        listed = await wukong("backup", "list", backups)
        assert ["not finished" in each["fault"] for each in listed] == [True]
        await wukong("restore", backups, "--data-dir", tmp_path / "none", status=1)
        assert not (tmp_path / "none").exists()
        # The server has not given the killed one up yet; it does so by itself.
        assert "under way" in (await wukong("backup", backups, "--api", server.http_url, status=1))["error"]


async def test_a_backup_that_is_interrupted_leaves_nothing_and_the_next_begins_at_once(tmp_path: Path) -> None:
    server, backups = ServerProcess(tmp_path / "old", SLOWLY), tmp_path / "backups"
    with started(server):
        async with open_api(server.http_url) as api:
            await fill(api, random.Random(2), 50)
        assert await half_a_backup(backups, server, how=signal.SIGINT) == 130
        assert await wukong("backup", "list", backups) == []
        await wukong("backup", backups, "--api", server.http_url)
        assert (await wukong("backup", "verify", backups))["faults"] == []
