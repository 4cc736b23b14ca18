"""The chat as people use it: a process on a pseudo-terminal, and one behind a pipe."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cli.conftest import Wukong
from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30


class OnTerminal:
    """`wukong chat` on a terminal of its own."""

    def __init__(self, node: ServerProcess, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        environment = {
            **os.environ,
            "WUKONG_API": node.http_url,
            "WUKONG_TCP": f"127.0.0.1:{node.tcp_port}",
            "COLUMNS": "80",
            "LINES": "24",
        }
        command = [sys.executable, "-m", "wukong", "chat", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.screen = ""

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.screen:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} never came; the screen: {self.screen!r}"
            self.screen += os.read(self._master, 65_536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def on_terminal(node: ServerProcess) -> Iterator[Callable[..., OnTerminal]]:
    """Makes chats; what still runs at the end is killed."""
    made: list[OnTerminal] = []

    def make(*arguments: str) -> OnTerminal:
        made.append(OnTerminal(node, *arguments))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_two_people_talk_and_a_message_comes_while_one_types(on_terminal: Callable[..., OnTerminal]) -> None:
    ann, ben = (f"{name}-{uuid4().hex[:6]}" for name in ("ann", "ben"))
    first, second = on_terminal("--uid", ann, "--to", ben), on_terminal("--uid", ben, "--to", ann)
    first.read_until("connected")
    second.read_until("connected")
    second.type("half a li")
    second.read_until("half a li")
    first.type("grüße\r")
    # The line being typed is there again below the message.
    second.read_until(f"{ann}: grüße\r\n\r\x1b[2K{ben} > {ann}: half a li")
    second.type("ne\r")
    first.read_until(f"{ben}: half a line")
    first.type("/quit\r")
    second.type("\x03")
    assert (first.process.wait(TIMEOUT_S), second.process.wait(TIMEOUT_S)) == (0, 0)


def test_a_pipe_is_sent_line_by_line(on_node: Wukong, node: ServerProcess) -> None:
    uid = f"ann-{uuid4().hex[:6]}"
    environment = {**os.environ, "WUKONG_API": node.http_url, "WUKONG_TCP": f"127.0.0.1:{node.tcp_port}"}
    finished = subprocess.run(
        [sys.executable, "-m", "wukong", "chat", "--uid", uid, "--to", "ben"],
        cwd=ROOT, env=environment, input="one\ntwo\n", capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "ben: one  [1]" in finished.stdout
    assert "ben: two  [2]" in finished.stdout


def test_a_file_is_sent_line_by_line(node: ServerProcess, tmp_path: Path) -> None:
    uid = f"ann-{uuid4().hex[:6]}"
    environment = {**os.environ, "WUKONG_API": node.http_url, "WUKONG_TCP": f"127.0.0.1:{node.tcp_port}"}
    path = tmp_path / "lines"
    path.write_text("one\n")
    with path.open() as lines:
        finished = subprocess.run(
            [sys.executable, "-m", "wukong", "chat", "--uid", uid, "--to", "ben"],
            cwd=ROOT, env=environment, stdin=lines, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "ben: one  [1]" in finished.stdout


def test_two_partners_at_once_are_a_usage_error(wukong: Wukong) -> None:
    assert wukong("chat", "--uid", "ann", "--to", "ben", "--group", "tea").exit_code == 2


def test_nobody_listening_is_told(wukong: Wukong, unused_address: str) -> None:
    result = wukong("chat", "--uid", "ann", "--to", "ben", "--tcp", unused_address, "--api", unused_address, text="x\n")
    assert result.exit_code == 3
    assert f"cannot connect to {unused_address}" in result.stderr
