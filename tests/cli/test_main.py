import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Wukong, answer
from wukong import __version__

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "serve",
    "chat",
    "send",
    "explain",
    "demo",
    "version",
    "channel create",
    "channel add",
    "channel remove",
    "channel members",
    "channel info",
    "channel delete",
    "config check",
    "bench closed",
    "bench latency",
    "bench fanout",
    "bench storm",
    "bench idle",
]


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wukong", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_says_its_version() -> None:
    finished = process("version")
    assert (finished.returncode, finished.stdout.strip(), finished.stderr) == (0, __version__, "")


def test_the_version_for_programs(wukong: Wukong) -> None:
    assert answer(wukong("version", "--json")) == {"version": __version__}


def test_the_program_lists_its_commands() -> None:
    finished = process("--help")
    assert finished.returncode == 0
    assert all(command.split()[0] in finished.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(wukong: Wukong, command: str) -> None:
    result = wukong(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"wukong {command}" in result.output


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in ("serve", "chat")])
def test_every_command_with_a_result_speaks_json(wukong: Wukong, command: str) -> None:
    assert "--json" in wukong(*command.split(), "--help").output


def test_an_unknown_command_is_a_usage_error(wukong: Wukong) -> None:
    assert wukong("nonsense").exit_code == 2


def test_help_does_not_load_what_only_a_server_or_a_client_needs() -> None:
    heavy = ["aiohttp", "rocksdict", "uvloop", "cryptography", "wukong.app", "wukong.client"]
    code = f"import sys, wukong.cli.main; print([each for each in {heavy} if each in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.stdout.strip() == "[]", finished.stderr


def test_the_program_can_be_interrupted_while_it_works() -> None:
    """Ctrl-C ends a command that waits, without a traceback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "wukong", "channel", "members", "g", "--api", address]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            time.sleep(0.1)
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert (output, errors) == ("", "")
