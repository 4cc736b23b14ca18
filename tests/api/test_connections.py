"""Connections of this node and of others, kicks, tags. http-api.md 7.1, 7.4 and 7.5."""

import json
from typing import Any

import pytest

from tests.api.calls import OK, Api
from tests.service.stack import NODE_ID, Stack
from wukong.cluster.control import Body
from wukong.errors import RequestRefused, Unavailable
from wukong.service.other_nodes import Handler

OTHER = 7


class FakeNodes:
    """One other node; asked: what it was asked. error: what it answers instead."""

    node_id = NODE_ID

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[int, str, Body]] = []
        self.error = error
        self.handlers: dict[str, Handler] = {}

    def is_known(self, node: int) -> bool:
        return node in (NODE_ID, OTHER)

    def serve(self, name: str, handler: Handler) -> None:
        self.handlers[name] = handler

    async def ask(self, node: int, name: str, args: Body) -> bytes:
        self.asked.append((node, name, args))
        if self.error is not None:
            raise self.error
        return json.dumps({"of": node}).encode()


async def serving(nodes: FakeNodes) -> Api:
    return Api(await Stack().start(), nodes=nodes)


async def test_connections_of_another_node_are_asked_there_with_the_whole_question() -> None:
    nodes = FakeNodes()
    async with await serving(nodes) as api:
        assert await api.get("/connz?node_id=7&uid=u&offset=2&limit=3&sort=inMsgDesc") == {"of": OTHER}
        assert await api.get("/connz?node_id=7") == {"of": OTHER}
        assert nodes.asked == [
            (OTHER, "connz", {"uid": "u", "offset": 2, "limit": 3, "sort": "inMsgDesc"}),
            (OTHER, "connz", {"uid": "", "offset": 0, "limit": 0, "sort": ""}),
        ]


async def test_what_another_node_asks_is_answered_as_here() -> None:
    nodes = FakeNodes()
    async with await serving(nodes) as api:
        for number, uid in enumerate(("u1", "u2", "v"), start=1):
            await api.stack.connect(uid, number)
        question = {"uid": "u", "offset": 0, "limit": 1, "sort": "idDesc"}
        told = json.loads(await nodes.handlers["connz"](question))
        here = await api.get("/connz?uid=u&limit=1&sort=idDesc")
        assert told == {**here, "now": told["now"]}
        assert [row["uid"] for row in told["connections"]] == ["u2"]
        await nodes.handlers["kick"]({"uid": "u1", "conn_id": 1})
        await nodes.handlers["remove"]({"uid": "u2", "conn_id": 2})
        await nodes.handlers["remove"]({"uid": "somebody", "conn_id": 3})
        assert api.stack.connections.told == [("end", 1, 12, "server kick", 2_000), ("drop", 2)]
        varz = json.loads(await nodes.handlers["varz"]({"conn": True, "limit": 2}))
        assert varz["server_id"] == str(NODE_ID)
        assert len(varz["conns"]) == 2


@pytest.mark.parametrize("path", ["/conn/kick", "/conn/remove"])
@pytest.mark.parametrize(
    ("place", "asked"),
    [
        ({}, None),
        ({"node_id": NODE_ID}, None),
        ({"op_node_id": NODE_ID}, None),
        ({"node_id": OTHER}, OTHER),
        ({"op_node_id": OTHER}, OTHER),
        ({"node_id": OTHER, "op_node_id": NODE_ID}, OTHER),
        ({"node_id": NODE_ID, "op_node_id": OTHER}, None),
    ],
)
async def test_a_connection_is_closed_where_its_socket_is(path: str, place: dict[str, int], asked: int | None) -> None:
    nodes = FakeNodes()
    async with await serving(nodes) as api:
        await api.stack.connect("u", 1)
        assert await api.post(path, {"uid": "u", "conn_id": 1, **place}) == OK
        assert (len(api.stack.connections.told) == 1) == (asked is None)
        if asked is not None:
            assert nodes.asked == [(asked, path.rpartition("/")[2], {"uid": "u", "conn_id": 1})]


async def test_a_node_that_is_not_there_is_refused_as_one_to_do_it_and_no_fault_as_the_socket_s() -> None:
    nodes = FakeNodes()
    async with await serving(nodes) as api:
        body = {"uid": "u", "conn_id": 1}
        assert await api.refused("/conn/kick", {**body, "op_node_id": 9}) == "node not found"
        assert await api.post("/conn/kick", {**body, "node_id": 9}) == OK
        assert await api.refused("/conn/kick", {**body, "conn_id": 0, "node_id": OTHER}) == "conn_id is 0"
        assert nodes.asked == []


@pytest.mark.parametrize(
    ("error", "status"), [(Unavailable("node 7 cannot be asked now"), 503), (RequestRefused("no"), 400)]
)
async def test_a_node_that_does_not_answer_is_told_as_it_is(error: Exception, status: int) -> None:
    async with await serving(FakeNodes(error)) as api:
        for method, path, body in (
            ("GET", "/connz?node_id=7", None),
            ("GET", "/varz?node_id=7", None),
            ("POST", "/conn/kick", {"uid": "u", "conn_id": 1, "node_id": OTHER}),
        ):
            answer = await api.call(method, path, body)
            assert (answer.status, answer.body) == (status, {"msg": str(error), "status": status})


async def test_there_are_no_tags(api: Api) -> None:
    assert await api.refused("/tag?channel_id=g&channel_type=2", method="GET") == "tag not found"
    assert await api.refused("/tag?tag_key=k", method="GET") == "tag not found"
    for query in ("", "?tag_key=k", f"?node_id={NODE_ID}", "?channel_id=g&channel_type=2"):
        assert await api.get(f"/tags{query}") == []
    assert await api.refused("/tags?node_id=9", method="GET") == "node not found"
    body: dict[str, Any] = {"tag_key": "k", "channel_id": "g", "channel_type": 2}
    assert await api.post("/tag/remove", body) == OK
    assert await api.refused("/tag/remove", {**body, "node_id": 9}) == "node not found"
    assert await api.refused("/tag/remove", raw=b"{") == "unexpected EOF"


# -- of this node --


async def test_connz_describes_connections(api: Api) -> None:
    await api.stack.connect("u", 1)
    found = await api.get("/connz")
    assert found.keys() == {"connections", "now", "total", "offset", "limit"}
    assert found["connections"][0].keys() == {
        *("id", "uid", "ip", "port", "last_activity", "uptime", "idle", "pending_bytes", "in_msgs", "out_msgs"),
        *("in_msg_bytes", "out_msg_bytes", "in_packets", "out_packets", "in_packet_bytes", "out_packet_bytes"),
        *("device", "device_id", "version", "proxy_type_format", "leader_id", "node_id"),
    }


@pytest.mark.parametrize(
    ("query", "uids", "offset", "limit"),
    [
        ("", ["u1", "u2", "v"], 0, 20),
        ("uid=u", ["u1", "u2"], 0, 20),
        ("limit=1", ["u1"], 0, 1),
        ("limit=x", ["u1", "u2", "v"], 0, 20),
        ("offset=1", ["u2", "v"], 1, 20),
        ("sort=idDesc", ["v", "u2", "u1"], 0, 20),
    ],
)
async def test_connz_is_filtered_sorted_and_cut(api: Api, query: str, uids: list[str], offset: int, limit: int) -> None:
    for number, uid in enumerate(("u1", "u2", "v"), start=1):
        await api.stack.connect(uid, number)
    found = await api.get(f"/connz?{query}")
    assert [shape["uid"] for shape in found["connections"]] == uids
    assert (found["offset"], found["limit"], found["total"]) == (offset, limit, 4)


@pytest.mark.parametrize("path", ["/conn/kick", "/conn/remove"])
async def test_a_connection_is_needed_and_the_executing_node_has_to_be_here(api: Api, path: str) -> None:
    assert await api.refused(path, {"uid": "u", "op_node_id": 7}) == "conn_id is 0"
    assert await api.refused(path, {"uid": "u", "conn_id": 1, "op_node_id": 7}) == "node not found"
    assert await api.refused(path, raw=b"{") == "unexpected EOF"
    assert await api.post(path, {"uid": "u", "conn_id": 99}) == OK


@pytest.mark.parametrize(
    ("path", "told"), [("/conn/kick", ("end", 1, 12, "server kick", 2_000)), ("/conn/remove", ("drop", 1))]
)
async def test_a_connection_can_be_closed(api: Api, path: str, told: tuple[object, ...]) -> None:
    await api.stack.connect("u", 1)
    assert await api.post(path, {"uid": "u", "conn_id": 1, "node_id": 7}) == OK
    assert api.stack.connections.told == []
    assert await api.post(path, {"uid": "u", "conn_id": 1, "node_id": NODE_ID, "op_node_id": NODE_ID}) == OK
    assert api.stack.connections.told == [told]
