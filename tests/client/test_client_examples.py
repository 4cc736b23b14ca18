"""The programs under examples/, as processes against a real server."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.server import ServerProcess
from wukong.client import Client, connect, text_payload

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    process.start()
    yield process
    assert process.stop() == 0, process.log_tail()
    assert process.complaints() == []


def addresses(node: ServerProcess) -> list[str]:
    return ["--api", node.http_url, "--tcp", f"127.0.0.1:{node.tcp_port}"]


def test_the_quickstart_does_what_it_says(node: ServerProcess) -> None:
    command = [sys.executable, "examples/quickstart.py", *addresses(node)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "alice: stored as message 1 of the group",
        "bob:   alice writes: noon?",
        "alice: bob writes: yes",
    ]


class Bot:
    """The echo bot, started and stopped; its memory is a file."""

    def __init__(self, node: ServerProcess, uid: str, memory: Path) -> None:
        options = ["--uid", uid, "--positions", str(memory), *addresses(node)]
        self.process = subprocess.Popen(
            [sys.executable, "examples/echo_bot.py", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        while "synced" not in self.process.stdout.readline():
            assert self.process.poll() is None, "the bot has ended"

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode


async def talk(client: Client, bot_uid: str, *texts: str) -> None:
    for text in texts:
        await client.send(bot_uid, 1, text_payload(text))


async def answers(client: Client, count: int) -> list[str]:
    async with asyncio.timeout(TIMEOUT_S):
        return [(await anext(client)).text for _ in range(count)]


async def test_the_bot_answers_once_over_restarts_and_crashes(node: ServerProcess, tmp_path: Path) -> None:
    uid, memory = f"echo-{uuid4().hex[:8]}", tmp_path / "positions.json"
    async with connect(f"127.0.0.1:{node.tcp_port}", f"ann-{uuid4().hex[:8]}") as ann:
        bot = await asyncio.to_thread(Bot, node, uid, memory)
        await talk(ann, uid, "one", "two")
        assert await answers(ann, 2) == ["you said: one", "you said: two"]
        assert bot.end(signal.SIGTERM) == 0
        # Written to while it was away.
        await talk(ann, uid, "three", "four")
        bot = await asyncio.to_thread(Bot, node, uid, memory)
        assert await answers(ann, 2) == ["you said: three", "you said: four"]
        bot.end(signal.SIGKILL)
        await talk(ann, uid, "five")
        bot = await asyncio.to_thread(Bot, node, uid, memory)
        assert await answers(ann, 1) == ["you said: five"]
        await talk(ann, uid, "six")
        assert await answers(ann, 1) == ["you said: six"]
        assert bot.end(signal.SIGTERM) == 0
