import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from tests.cli.conftest import Wukong, answer
from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[3]


def test_one_look_for_programs(node: ServerProcess, wukong: Wukong) -> None:
    (row,) = answer(wukong("top", "--once", "--json", "--api", node.http_url))["nodes"]
    assert (row["node"], row["state"], row["why"]) == (1001, "ok", "")
    assert row["send_per_s"] == 0
    assert row["leads"] == 16
    # Figures that this command reads have to be there.
    assert [name for name, value in row.items() if value is None and name != "fsync_p99_ms"] == []


def test_one_look_for_people(node: ServerProcess, wukong: Wukong) -> None:
    result = wukong("top", "--once", "--api", node.http_url)
    assert result.exit_code == 0
    assert "1 of 1 node well" in result.stdout
    assert "every slot led" in result.stdout


def test_a_node_that_is_down_is_shown_beside_one_that_is_not(
    node: ServerProcess, wukong: Wukong, unused_address: str
) -> None:
    found = answer(wukong("top", "--once", "--json", "--api", f"{node.http_url},{unused_address}"))
    assert [(row["node"], row["state"]) for row in found["nodes"]] == [(1001, "ok"), (0, "down")]


def test_nobody_there_is_told_as_by_every_command(wukong: Wukong, unused_address: str) -> None:
    assert wukong("top", "--once", "--api", unused_address).exit_code == 3


def test_the_screen_is_drawn_and_q_ends_it_and_leaves_the_terminal_as_it_was(node: ServerProcess) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "wukong", "top", "--api", node.http_url, "--interval", "0.5"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    shown = ""
    deadline = time.monotonic() + 30
    while "q quits" not in shown and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            shown += os.read(ours, 65_536).decode(errors="replace")
    assert "1 of 1 node well" in shown, shown
    os.write(ours, b"q")
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            shown += os.read(ours, 65_536).decode(errors="replace")
    assert process.wait(1) == 0, shown
    assert termios.tcgetattr(theirs)[3] == before[3]
    os.close(ours)
    os.close(theirs)


def test_without_a_terminal_it_goes_on_with_lines(node: ServerProcess) -> None:
    command = [sys.executable, "-m", "wukong", "top", "--json", "--interval", "0.5", "--api", node.http_url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.kill()
    assert looks[0]["now_ms"] < looks[1]["now_ms"]
