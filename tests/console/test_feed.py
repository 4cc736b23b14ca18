"""What the live pages are told: gathered once for all who look, and never held up by a node that does not answer."""

import asyncio
import json
from typing import Any, cast

import pytest

from tests.service.stack import NODE_ID, FakeClock
from wukong.console import feed as feed_module
from wukong.console.feed import HISTORY_QUESTION, QUESTION, Feed, NodeFigures
from wukong.errors import RequestRefused, Unavailable
from wukong.service.cluster import ClusterAdmin, NodeShape, StatusShape


def node(number: int, *, connected: bool = True) -> NodeShape:
    return NodeShape(number, f"127.0.0.1:{number}", "", "d", "voter", connected, 0, 0)


class FakeCluster:
    def __init__(self, *nodes: NodeShape, error: Exception | None = None) -> None:
        self.asked = 0
        self._nodes = list(nodes)
        self._error = error

    async def status(self) -> StatusShape:
        self.asked += 1
        if self._error is not None:
            raise self._error
        return StatusShape("c", NODE_ID, self._nodes, [], [], [], "")


class FakeNodes:
    """answers: node -> its figures, an exception, or None for one that never answers."""

    node_id = NODE_ID

    def __init__(self, answers: dict[int, Any] | None = None) -> None:
        self.answers = answers or {}
        self.served: dict[str, Any] = {}
        self.asked: list[int] = []

    def is_known(self, node: int) -> bool:
        return True

    def serve(self, name: str, handler: Any) -> None:
        self.served[name] = handler

    async def ask(self, node: int, name: str, args: Any) -> bytes:
        assert name == QUESTION
        self.asked.append(node)
        answer = self.answers[node]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return cast("bytes", answer)


def made(cluster: FakeCluster | None, nodes: FakeNodes) -> Feed:
    return Feed(
        own=lambda: NodeFigures(sessions=7),
        own_history=lambda: {"series": {}},
        cluster=cast("ClusterAdmin | None", cluster),
        nodes=nodes,
        clock=FakeClock(),
    )


async def test_every_node_tells_its_own_figures() -> None:
    nodes = FakeNodes({2: b'{"sessions": 5}'})
    told = json.loads(await made(FakeCluster(node(NODE_ID), node(2)), nodes).current())
    assert {name: figures["sessions"] for name, figures in told["figures"].items()} == {str(NODE_ID): 7, "2": 5}
    assert [each["id"] for each in told["status"]["nodes"]] == [NODE_ID, 2]
    assert json.loads(await nodes.served[QUESTION]({}))["sessions"] == 7


async def test_a_node_that_does_not_answer_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "ASK_TIMEOUT_S", 0.01)
    nodes = FakeNodes({2: None, 3: Unavailable("gone"), 4: b"no JSON", 5: b'{"sessions": 1}'})
    cluster = FakeCluster(node(NODE_ID), *(node(number) for number in (2, 3, 4, 5)), node(6, connected=False))
    told = json.loads(await made(cluster, nodes).current())
    assert [told["figures"][str(number)] for number in (2, 3, 4, 6)] == [None] * 4
    assert told["figures"]["5"]["sessions"] == 1
    assert 6 not in nodes.asked


async def test_who_looks_at_the_same_time_shares_one_round() -> None:
    cluster = FakeCluster(node(NODE_ID))
    feed = made(cluster, FakeNodes())
    first, second = await asyncio.gather(feed.current(), feed.current())
    assert first == second == await feed.current()
    assert cluster.asked == 1


async def test_without_a_cluster_or_when_it_cannot_be_asked_the_own_figures_are_told() -> None:
    for cluster, error in ((None, ""), (FakeCluster(error=Unavailable("not now")), "not now")):
        told = json.loads(await made(cluster, FakeNodes()).current())
        assert told["status"] is None
        assert told["error"] == error
        assert told["figures"][str(NODE_ID)]["sessions"] == 7


async def test_stopping_ends_a_round_that_is_under_way() -> None:
    feed = made(FakeCluster(node(NODE_ID), node(2)), FakeNodes({2: None}))
    asking = asyncio.create_task(feed.current())
    await asyncio.sleep(0)
    await feed.stop()
    with pytest.raises(TimeoutError):
        await asking


async def test_the_history_of_every_node_can_be_asked_for() -> None:
    class Asked(FakeNodes):
        def is_known(self, node: int) -> bool:
            return node == 2

        async def ask(self, node: int, name: str, args: Any) -> bytes:
            assert (node, name) == (2, HISTORY_QUESTION)
            return b"theirs"

    nodes = Asked()
    feed = made(FakeCluster(), nodes)
    own = b'{"series":{}}'
    assert await feed.history(0) == await feed.history(NODE_ID) == await nodes.served[HISTORY_QUESTION]({}) == own
    assert await feed.history(2) == b"theirs"
    with pytest.raises(RequestRefused):
        await feed.history(3)
