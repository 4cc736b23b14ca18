"""Questions between nodes: asked and answered, refused, late, lost, too many."""

import asyncio
from typing import cast

import pytest

from tests.service.test_cluster import World
from wukong.cluster.control import Body
from wukong.errors import RequestRefused, Unavailable
from wukong.service.other_nodes import SERVED_LIMIT_COUNT, WAITING_LIMIT_COUNT, NoOtherNodes, OtherNodes
from wukong.service.replica import Replica


class Pair:
    """Nodes 1 and 2 with a link that carries their messages at once; cut: it loses them."""

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        self.worlds = {1: World(), 2: World()}
        self.cut = False
        self.sent: list[dict[str, object]] = []
        for number, world in self.worlds.items():
            world.controller.node_id = number
            world.controller.control._send = self._way(number)
        self.one, self.two = (
            OtherNodes(world.controller, cast("Replica", world.way), timeout_s=timeout_s)
            for world in self.worlds.values()
        )
        self.asked: list[Body] = []
        self.two.serve("echo", self.echo)

    def _way(self, of: int):  # type: ignore[no-untyped-def]
        def send(to: int, kind: int, group: int, body: object) -> bool:
            assert isinstance(body, dict)
            self.sent.append(body)
            if to not in self.worlds:
                return False
            if not self.cut:
                self.worlds[to].controller.received(of, body)
            return True

        return send

    async def echo(self, args: Body) -> bytes:
        self.asked.append(args)
        return str(args["text"]).encode()


async def test_a_question_is_answered_by_the_other_node() -> None:
    pair = Pair()
    assert await pair.one.ask(2, "echo", {"text": "hello"}) == b"hello"
    answers = await asyncio.gather(*(pair.one.ask(2, "echo", {"text": number}) for number in range(20)))
    assert answers == [str(number).encode() for number in range(20)]
    assert pair.one._waiting == {}


async def test_a_refusal_comes_back_as_one() -> None:
    pair = Pair()

    async def refuse(args: Body) -> bytes:
        raise RequestRefused("conn_id is 0")

    async def not_now(args: Body) -> bytes:
        raise Unavailable("no quorum")

    pair.two.serve("refuse", refuse)
    pair.two.serve("not now", not_now)
    with pytest.raises(Unavailable, match="no quorum"):
        await pair.one.ask(2, "not now", {})
    with pytest.raises(RequestRefused, match="conn_id is 0"):
        await pair.one.ask(2, "refuse", {})
    with pytest.raises(RequestRefused, match="does not know"):
        await pair.one.ask(2, "nothing", {})


async def test_a_fault_there_is_told_in_the_log_there_and_refused_here(caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair()

    async def fail(args: Body) -> bytes:
        raise KeyError("secret")

    pair.two.serve("fail", fail)
    with pytest.raises(RequestRefused) as caught:
        await pair.one.ask(2, "fail", {})
    assert "secret" not in caught.value.text
    assert "could not be answered" in caplog.text


async def test_a_lost_question_ends_after_the_time_limit() -> None:
    pair = Pair(timeout_s=0.05)
    pair.cut = True
    with pytest.raises(Unavailable, match="node 2 cannot be asked"):
        await pair.one.ask(2, "echo", {"text": "x"})
    assert pair.one._waiting == {}
    # What comes late, or from somebody else, is nobody's answer.
    late = {"op": "called", "id": pair.sent[-1]["id"], "body": b"x"}
    pair.worlds[1].controller.received(2, late)


async def test_an_answer_of_another_node_is_none() -> None:
    pair = Pair(timeout_s=0.1)
    pair.cut = True
    asking = asyncio.create_task(pair.one.ask(2, "echo", {"text": "x"}))
    await asyncio.sleep(0)
    pair.worlds[1].controller.received(3, {"op": "called", "id": pair.sent[-1]["id"], "body": b"forged"})
    with pytest.raises(Unavailable):
        await asking


async def test_without_a_link_it_fails_at_once() -> None:
    pair = Pair()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(pair.one.ask(3, "echo", {"text": "x"}), 1)


async def test_questions_have_limits_on_both_sides() -> None:
    pair = Pair(timeout_s=5)
    gate = asyncio.Event()

    async def wait(args: Body) -> bytes:
        await gate.wait()
        return b"done"

    pair.two.serve("wait", wait)
    asking = [asyncio.create_task(pair.one.ask(2, "wait", {})) for _ in range(SERVED_LIMIT_COUNT)]
    await asyncio.sleep(0)
    with pytest.raises(RequestRefused, match="too much"):
        await pair.one.ask(2, "wait", {})
    gate.set()
    assert await asyncio.gather(*asking) == [b"done"] * SERVED_LIMIT_COUNT
    pair.cut = True
    waiting = [asyncio.create_task(pair.one.ask(2, "wait", {})) for _ in range(WAITING_LIMIT_COUNT)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many"):
        await pair.one.ask(2, "wait", {})
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert pair.one._waiting == {}


@pytest.mark.parametrize(
    "body",
    [
        {"op": "call"},
        {"op": "call", "id": "x", "name": "echo", "args": {}},
        {"op": "call", "id": 1, "name": "echo"},
        {"op": "call", "id": 1, "name": ["echo"], "args": {}},
        {"op": "call", "id": 1, "name": "echo", "args": []},
        {"op": "called"},
        {"op": "called", "id": 1},
    ],
)
async def test_a_malformed_message_changes_nothing(body: dict[str, object]) -> None:
    pair = Pair()
    pair.worlds[2].controller.received(1, body)
    await asyncio.sleep(0)
    assert pair.asked == []


async def test_when_it_stops_nobody_is_answered_any_more() -> None:
    pair = Pair(timeout_s=0.2)
    started = asyncio.Event()

    async def wait(args: Body) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    pair.two.serve("wait", wait)
    asking = asyncio.create_task(pair.one.ask(2, "wait", {}))
    await started.wait()
    await pair.two.stop()
    assert pair.two._serving == set()
    with pytest.raises(Unavailable):
        await asking


def test_known_are_the_nodes_of_the_table() -> None:
    nodes = Pair().one
    assert [node for node in range(6) if nodes.is_known(node)] == [1, 2, 3]


async def test_a_node_without_a_cluster_knows_itself_only() -> None:
    nodes = NoOtherNodes(5)
    assert [node for node in range(9) if nodes.is_known(node)] == [5]
    with pytest.raises(Unavailable):
        await nodes.ask(6, "connz", {})
