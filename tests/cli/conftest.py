"""A real server per test process, and the command line in front of it."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.support.server import ServerProcess
from wukong.cli.main import app

Wukong = Callable[..., Result]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    process.start()
    yield process
    assert process.is_running, f"the server died\n{process.log_tail()}"
    assert process.stop() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set where the tests run must not decide them."""
    for name in list(os.environ):
        if name.startswith(("WUKONG_", "WK_")):
            monkeypatch.delenv(name)
    # Tables and help as wide as they like, without colours.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def wukong() -> Wukong:
    """`wukong(*arguments)` in this process; faults of ours are raised, not swallowed."""

    def call(*arguments: str, text: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=text)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def on_node(node: ServerProcess, wukong: Wukong, monkeypatch: pytest.MonkeyPatch) -> Wukong:
    """The same with the server's addresses set by the environment."""
    monkeypatch.setenv("WUKONG_API", node.http_url)
    monkeypatch.setenv("WUKONG_TCP", f"127.0.0.1:{node.tcp_port}")
    return wukong


def answer(result: Result) -> Any:  # any: JSON
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def unused_address() -> str:
    """Somewhere nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
