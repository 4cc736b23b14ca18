"""What operators see and do at any node: connections of every node, kicks, the console's routes, the manager's port.
http-api.md 2.2, 7, 12 and 13."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.scenarios.conftest import Clients, open_clients
from tests.support.cluster import ClusterProcesses, NodeProcess, running_cluster
from tests.support.server import free_ports
from tests.support.wire import Kind, unique

TOKEN = "an-operator-s-token"
WRITER, READER = ("writer", "w-password"), ("reader", "r-password")
ACCOUNTS = ["writer:w-password:*", "reader:r-password:[*:r]"]


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Operator:
    """Asks a node at its API's or its manager's port."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(
        self, url: str, *, body: Any = None, method: str = "", headers: dict[str, str] | None = None
    ) -> Answer:
        method = method or ("GET" if body is None else "POST")
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            shown = await answer.json(content_type=None) if "json" in answer.content_type else await answer.text()
            return Answer(answer.status, shown, {name.lower(): value for name, value in answer.headers.items()})

    async def good(self, url: str, **options: Any) -> Any:
        answer = await self.ask(url, **options)
        assert answer.status == 200, answer
        return answer.body

    async def login(self, url: str, account: tuple[str, str]) -> dict[str, str]:
        """The header of a login."""
        name, password = account
        found = await self.good(f"{url}/manager/login", body={"username": name, "password": password})
        return {"Authorization": f"Bearer {found['token']}"}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """Three nodes, with a manager's port each; they share a cluster secret, and no manager token."""
    ports = free_ports(3)
    own = {number: {"manager": {"on": True, "addr": f"127.0.0.1:{port}"}} for number, port in enumerate(ports, 1)}
    settings = {"wukong": {"slotCount": 4}, "auth": {"users": ACCOUNTS}}
    directory = tmp_path_factory.mktemp("operators")
    secret = "a secret of this cluster"
    with running_cluster(directory, settings=settings, own_settings=own, secret=secret, proxied=False) as cluster:
        yield cluster
        assert cluster.stop() == [0, 0, 0], cluster.log_tails()
        assert cluster.complaints() == []


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    async with aiohttp.ClientSession() as http:
        yield Operator(http)


@pytest.fixture
async def users(nodes: ClusterProcesses) -> AsyncIterator[Clients]:
    async with open_clients(*nodes) as opened:
        yield opened


def manager_url(node: NodeProcess) -> str:
    return f"http://{node.settings['manager']['addr']}"


def elsewhere(nodes: ClusterProcesses) -> list[tuple[NodeProcess, NodeProcess]]:
    """(who is asked, whom it is about)"""
    return [(nodes[1], nodes[2]), (nodes[3], nodes[1])]


async def connection_of(operator: Operator, asked: NodeProcess, node: int, uid: str) -> dict[str, Any]:
    """The row of /connz."""
    found = await operator.good(f"{asked.http_url}/connz?node_id={node}&uid={uid}")
    (row,) = found["connections"]
    return dict(row)


async def offline(operator: Operator, asked: NodeProcess, uids: list[str]) -> None:
    """Until the log says so: it hears of the end of a socket from the node that had it."""
    async with asyncio.timeout(10):
        while await operator.good(f"{asked.http_url}/user/onlinestatus", body=uids):
            await asyncio.sleep(0.02)


async def test_every_node_shows_the_connections_of_every_node(
    nodes: ClusterProcesses, users: Clients, operator: Operator
) -> None:
    uids = {node.node_id: unique("u") for node in nodes}
    for node in nodes:
        await users.connect(uids[node.node_id], to=node, device_flag=1)
    for asked in nodes:
        for node in nodes:
            row = await connection_of(operator, asked, node.node_id, uids[node.node_id])
            assert (row["uid"], row["node_id"], row["ip"]) == (uids[node.node_id], node.node_id, "127.0.0.1")
            assert (row["device"], row["in_packets"]) == ("Web(从)", 1)
            others = await operator.good(
                f"{asked.http_url}/connz?node_id={node.node_id}&uid={uids[node.node_id % 3 + 1]}"
            )
            assert others["connections"] == []
            figures = await operator.good(f"{asked.http_url}/varz?node_id={node.node_id}&show=conn&conn_limit=1000")
            assert figures["server_id"] == str(node.node_id)
            assert figures["tcp_addr"] == f"127.0.0.1:{node.tcp_port}"
            assert uids[node.node_id] in {row["uid"] for row in figures["conns"]}
    unknown = await operator.ask(f"{nodes[1].http_url}/connz?node_id=9")
    assert (unknown.status, unknown.body) == (400, {"msg": "节点不存在！", "status": 400})


async def test_connections_of_another_node_are_sorted_and_cut_there(
    nodes: ClusterProcesses, users: Clients, operator: Operator
) -> None:
    name = unique("many")
    for number in range(5):
        await users.connect(f"{name}-{number}", to=nodes[2])
    url = f"{nodes[3].http_url}/connz?node_id=2&uid={name}"
    found = await operator.good(f"{url}&sort=idDesc&limit=2&offset=1")
    assert [row["uid"] for row in found["connections"]] == [f"{name}-3", f"{name}-2"]
    assert (found["offset"], found["limit"]) == (1, 2)
    assert found["total"] >= 5


@pytest.mark.parametrize("pair", [0, 1])
async def test_a_connection_is_kicked_and_removed_from_any_node(
    nodes: ClusterProcesses, users: Clients, operator: Operator, pair: int
) -> None:
    asked, home = elsewhere(nodes)[pair]
    kicked, removed = [await users.connect(unique("u"), kind, to=home) for kind in (Kind.TCP, Kind.WS)]
    for client in (kicked, removed):
        client.leaving = True
    row = await connection_of(operator, asked, home.node_id, kicked.uid)
    body = {"uid": kicked.uid, "conn_id": row["id"], "node_id": row["node_id"]}
    # Somebody else's connection under that number stays.
    await operator.good(f"{asked.http_url}/conn/kick", body={**body, "uid": removed.uid})
    began = time.monotonic()
    assert await operator.good(f"{asked.http_url}/conn/kick", body=body) == {"status": 200}
    await kicked.until(lambda: kicked.kicked is not None)
    assert kicked.kicked is not None
    assert (kicked.kicked.reason_code, kicked.kicked.reason) == (12, "server kick")
    await asyncio.wait_for(kicked.closed.wait(), 10)
    assert kicked.closed_at - began >= 1.5
    row = await connection_of(operator, asked, home.node_id, removed.uid)
    body = {"uid": removed.uid, "conn_id": row["id"], "op_node_id": home.node_id}
    assert await operator.good(f"{asked.http_url}/conn/remove", body=body) == {"status": 200}
    await asyncio.wait_for(removed.closed.wait(), 10)
    assert removed.kicked is None
    await offline(operator, asked, [kicked.uid, removed.uid])
    # Both are gone; that is no fault, and neither is a node that is not there.
    assert await operator.good(f"{asked.http_url}/conn/kick", body={**body, "node_id": 9}) == {"status": 200}
    refused = await operator.ask(f"{asked.http_url}/conn/kick", body={**body, "op_node_id": 9})
    assert (refused.status, refused.body["msg"]) == (400, "node not found")


async def test_every_node_shows_the_same_nodes_and_slots(nodes: ClusterProcesses, operator: Operator) -> None:
    leaders = await asyncio.to_thread(nodes.wait_leaders)
    for asked in nodes:
        found = await operator.good(f"{asked.http_url}/cluster/nodes")
        assert found["total"] == 3
        assert [node["id"] for node in found["data"]] == [1, 2, 3]
        for node in found["data"]:
            assert (node["online"], node["allow_vote"], node["status"], node["slot_count"]) == (1, 1, 3, 4)
            assert node["cluster_addr"] == f"127.0.0.1:{nodes[node['id']].cluster_port}"
            assert node["api_server_addr"] == nodes[node["id"]].http_url
            assert node.get("slot_leader_count", 0) == list(leaders.values()).count(node["id"])
            assert node["uptime"].endswith("s")
        assert [node["id"] for node in found["data"] if node.get("is_leader")] == [leaders[0]]
        slots = await operator.good(f"{asked.http_url}/cluster/allslot")
        assert {slot["id"]: slot["leader_id"] for slot in slots["data"]} == leaders
        assert all(slot["replicas"] == [1, 2, 3] and slot["status"] == 0 for slot in slots["data"])
        some = await operator.good(f"{asked.http_url}/cluster/slots?ids=1,3,99")
        assert [slot["id"] for slot in some] == [1, 3]
        replicas = await operator.good(f"{asked.http_url}/cluster/slots/2/replicas")
        assert [replica["replica_id"] for replica in replicas] == [1, 2, 3]
        own = await operator.good(f"{asked.http_url}/cluster/node")
        assert own["id"] == asked.node_id
        info = await operator.good(f"{asked.http_url}/cluster/info")
        assert (info["slotCount"], [node["id"] for node in info["nodes"]]) == (4, [1, 2, 3])
        logs = await operator.good(f"{asked.http_url}/cluster/logs?node_id=2&log_type=2&slot=1")
        assert 0 < logs["applied"] <= logs["last"]


async def test_every_node_shows_what_was_written_at_another_one(nodes: ClusterProcesses, operator: Operator) -> None:
    group, sender, member = unique("g"), unique("s"), unique("m")
    one, two, three = nodes
    await operator.good(
        f"{one.http_url}/channel", body={"channel_id": group, "channel_type": 2, "subscribers": [member, sender]}
    )
    await operator.good(
        f"{two.http_url}/channel/blacklist_add", body={"channel_id": group, "channel_type": 2, "uids": ["x"]}
    )
    await operator.good(
        f"{two.http_url}/user/token", body={"uid": member, "token": "a-device-s-token", "device_level": 1}
    )
    payload = base64.b64encode(b"find me").decode()
    sent = await operator.good(
        f"{three.http_url}/message/send",
        body={"channel_id": group, "channel_type": 2, "from_uid": sender, "payload": payload, "client_msg_no": "n-1"},
    )
    message_id = str(sent["data"]["message_id"])
    for asked in nodes:
        base = f"{asked.http_url}/cluster"
        assert await operator.good(f"{base}/channels/{group}/2/subscribers") == sorted([member, sender])
        assert await operator.good(f"{base}/channels/{group}/2/denylist") == ["x"]
        (channel,) = (await operator.good(f"{base}/channels?channel_id={group}&channel_type=2"))["data"]
        assert (channel["subscriber_count"], channel["denylist_count"], channel["last_msg_seq"]) == (2, 1, 1)
        for query in (f"channel_id={group}&channel_type=2", f"message_id={message_id}", f"from_uid={sender}"):
            (row,) = (await operator.good(f"{base}/messages?{query}"))["data"]
            assert (row["message_id"], row["channel_id"], row["payload"]) == (message_id, group, payload)
        (device,) = (await operator.good(f"{base}/devices?uid={member}"))["data"]
        assert (device["token"], device["device_level"]) == ("******", 1)
        (chat,) = (await operator.good(f"{base}/conversations?uid={member}"))["data"]
        assert (chat["channel_id"], chat["unread_count"]) == (group, 1)
        status = await operator.good(
            f"{base}/channel/status", body={"channels": [{"channel_id": group, "channel_type": 2}]}
        )
        assert status[0]["last_msg_seq"] == 1
        config = await operator.good(f"{base}/channels/{group}/2/config?node_id=1")
        assert config["replicas"] == [1, 2, 3]


async def test_a_login_of_one_node_is_good_at_every_other(nodes: ClusterProcesses, operator: Operator) -> None:
    header = await operator.login(manager_url(nodes[1]), READER)
    for node in nodes:
        assert (await operator.ask(f"{manager_url(node)}/connz")).status == 401
        assert (await operator.good(f"{manager_url(node)}/cluster/nodes", headers=header))["total"] == 3
        assert (await operator.ask(f"{node.http_url}/cluster/slots/1/election", body={}, headers=header)).body == {
            "msg": "没有权限",
            "status": 403,
        }
    writer = await operator.login(nodes[2].http_url, WRITER)
    refused = await operator.ask(f"{nodes[3].http_url}/cluster/slots/1/election", body={}, headers=writer)
    assert refused.status == 400
    assert "/cluster/transfer" in refused.body["msg"]
    # Who may only read throws nobody out.
    for account, status in ((READER, 403), (WRITER, 200)):
        header = await operator.login(manager_url(nodes[1]), account)
        body = {"uid": "nobody", "conn_id": 1, "node_id": 2}
        answer = await operator.ask(f"{manager_url(nodes[1])}/conn/kick", body=body, headers=header)
        assert answer.body["status"] == status, answer


async def test_no_answer_at_the_manager_s_port_is_for_pages_of_other_origins(
    nodes: ClusterProcesses, operator: Operator
) -> None:
    url = manager_url(nodes[1])
    page = {"Origin": "http://page.example"}
    header = await operator.login(url, WRITER) | page
    for path in ("/cluster/nodes", "/metrics", "/connz", "/nope"):
        assert "access-control-allow-origin" not in (await operator.ask(url + path, headers=header)).headers
    assert (await operator.ask(f"{url}/connz", method="OPTIONS", headers=page)).status == 401
    body = {"uid": "u", "conn_id": 1}
    assert (await operator.ask(f"{url}/conn/kick", body=body, headers=header)).status == 403


async def test_the_manager_s_port_serves_operators_routes_and_nothing_else(
    nodes: ClusterProcesses, operator: Operator
) -> None:
    url = manager_url(nodes[1])
    assert "wukong_sessions" in (await operator.ask(f"{url}/metrics")).body
    header = await operator.login(url, WRITER)
    for path in ("/connz", "/varz", "/varz/setting", "/tags", "/cluster/nodes", "/cluster/status", "/plugins"):
        await operator.good(url + path, headers=header)
    for path in ("/health", "/route", "/message/send", "/user/systemuids", "/docs"):
        assert (await operator.ask(url + path, headers=header)).status == 404
    # Members are changed with a login as without one: from this machine, by whoever may write.
    remove, reader = f"{url}/cluster/member/remove", await operator.login(url, READER)
    assert (await operator.ask(remove, body={"node": 9}, headers=header)).body["msg"] == "node 9 is not in the cluster"
    assert (await operator.ask(remove, body={"node": 9}, headers=reader)).body["status"] == 403
    far = {**header, "X-Forwarded-For": "203.0.113.9"}
    assert (await operator.ask(remove, body={"node": 9}, headers=far)).status == 403


async def test_a_node_alone_keeps_its_own_secret_for_logins(tmp_path: Path, operator: Operator) -> None:
    port = free_ports(1)[0]
    settings = {
        "manager": {"on": True, "addr": f"127.0.0.1:{port}"},
        "managerToken": TOKEN,
        "auth": {"users": ACCOUNTS},
    }
    node = NodeProcess(tmp_path, 1, settings)
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        stack.callback(node.kill)
        await asyncio.to_thread(node.start)
        secret = node.data_dir / "jwt.secret"
        assert secret.stat().st_mode & 0o777 == 0o600
        header = await operator.login(url, READER)
        await operator.good(f"{url}/connz", headers=header)
        await operator.good(f"{url}/connz", headers={"token": TOKEN})
        for wrong in ({}, {"token": ""}, {"token": "wrong"}, {"Authorization": "Bearer x.y.z"}):
            refused = await operator.ask(f"{url}/connz", headers=wrong)
            assert (refused.status, list(refused.body)) == (401, ["error"])
        # The token has all permissions here, and no user at the API's port (http-api.md 21, no 46).
        for base, code in ((url, 400), (node.http_url, 403)):
            answer = await operator.ask(f"{base}/cluster/slots/0/election", body={}, headers={"token": TOKEN})
            assert (answer.status, answer.body["status"]) == (400, code)
        guest = {"username": "guest", "password": "guest"}
        assert (await operator.ask(f"{url}/manager/login", body=guest)).body["msg"] == "用户名或密码错误"
        assert await asyncio.to_thread(node.stop) == 0
        await asyncio.to_thread(node.start)
        await operator.good(f"{url}/connz", headers=header)
        assert await asyncio.to_thread(node.stop) == 0
        assert node.complaints() == []
    assert not any(each in node.log_path.read_text() for each in (TOKEN, *WRITER, *READER))
