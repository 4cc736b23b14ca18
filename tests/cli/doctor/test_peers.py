import asyncio
import socket

import msgspec
import pytest

from wukong import __version__
from wukong.cli.doctor import peers
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING
from wukong.cli.doctor.peers import Answer, judge
from wukong.cluster.formation import Facts
from wukong.links.handshake import Reason
from wukong.links.links import Links

SECRET = "a-secret-of-20-chars"
AT = {2: ("127.0.0.1", 11_110)}


class Quiet:
    """A links handler that does nothing."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def connected(self, node: int) -> None: ...
    def disconnected(self, node: int) -> None: ...
    def received(self, node: int, kind: int, group: int, body: object) -> None: ...
    def facts(self, node: int, facts: object) -> bool:
        self.told.append(node)
        return True


@pytest.fixture
async def node() -> tuple[Links, int, Quiet]:
    handler = Quiet()
    links = Links(node_id=2, secret=SECRET, handler=handler)
    port = await links.listen("127.0.0.1", 0)
    links.allow_strangers(True)
    links.set_facts(msgspec.to_builtins(Facts(disk=7, slots=16, cluster=9, version=__version__)))
    yield links, port, handler
    await links.stop()


async def test_a_node_with_the_same_secret_tells_its_facts(node: tuple[Links, int, Quiet]) -> None:
    _, port, handler = node
    answer = await peers.ask(1_000, 2, "127.0.0.1", port, SECRET)
    assert answer.facts is not None
    assert (answer.facts.cluster, answer.facts.slots, answer.facts.version) == (9, 16, __version__)
    assert handler.told == [], "nothing was told to the node"


async def test_a_node_that_lets_no_stranger_in_has_the_right_secret_all_the_same(
    node: tuple[Links, int, Quiet],
) -> None:
    links, port, _ = node
    links.allow_strangers(False)
    assert await peers.ask(1_000, 2, "127.0.0.1", port, SECRET) == Answer()


async def test_another_secret_another_node_and_no_node_are_told_apart(node: tuple[Links, int, Quiet]) -> None:
    _, port, _ = node
    assert (await peers.ask(1_000, 2, "127.0.0.1", port, "another-secret-of-20")).reason is Reason.PROOF
    assert (await peers.ask(1_000, 3, "127.0.0.1", port, SECRET)).reason is Reason.IDENTITY
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert (await peers.ask(1_000, 2, "127.0.0.1", unused.getsockname()[1], SECRET)).unreached

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await peers.ask(1_000, 2, "127.0.0.1", port, SECRET)).refused


async def test_the_question_takes_nobodys_number(node: tuple[Links, int, Quiet]) -> None:
    _, port, _ = node
    answers = await peers.ask_all({2: ("127.0.0.1", port)}, SECRET)
    assert answers[2].facts is not None


FACTS = Facts(disk=7, slots=16, cluster=9, version=__version__)


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (Answer(FACTS), OK, "same secret"),
        (Answer(), NOTE, "knows the secret"),
        (Answer(unreached="nobody listens there"), ERROR, "missing peer: node 2"),
        (Answer(refused="x", reason=Reason.PROOF), ERROR, "wrong secret"),
        (Answer(refused="the address is that of node 3", reason=Reason.IDENTITY), ERROR, "node 3"),
        (Answer(refused="x", reason=Reason.VERSION), ERROR, "mixed versions"),
        (Answer(refused="nonsense"), ERROR, "no node"),
        (Answer(msgspec.structs.replace(FACTS, cluster=8)), ERROR, "another cluster"),
        (Answer(msgspec.structs.replace(FACTS, slots=4)), ERROR, "4 slots"),
    ],
)
def test_every_answer_has_its_finding(answer: Answer, level: str, words: str) -> None:
    found = judge(AT, {2: answer}, cluster=9, slots=16)
    assert (found[0].level, words in found[0].text) == (level, True)
    assert bool(found[0].advice) == (level == ERROR)


def test_a_node_of_another_version_is_a_warning() -> None:
    found = judge(AT, {2: Answer(msgspec.structs.replace(FACTS, version="0.0.9"))}, cluster=9, slots=16)
    assert [(each.level, "0.0.9" in each.text) for each in found] == [(OK, False), (WARNING, True)]
