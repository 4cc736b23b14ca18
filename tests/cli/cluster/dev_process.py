"""`wukong cluster dev --json` as a process."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from wukong.cli.cluster.layout import lay_out

TIMEOUT_S = 90


def free_base_port(count: int) -> int:
    """A base port whose cluster's ports nobody uses at this moment."""
    for _ in range(100):
        base_port = random.randrange(20_000, 31_000)
        ports = [port for node in lay_out(count, base_port=base_port).nodes for port in node.ports()]
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base_port
    raise AssertionError("no free ports")


class DevProcess:
    """found: what it printed when it was ready. Everything else it writes is in `said`, after `end`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.said_path = directory / "said"
        with self.said_path.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wukong", "cluster", "dev", "--json", *options],
                stdout=subprocess.PIPE,
                stderr=said,
                # Ours must not be reached by a Ctrl-C at the tests, nor the other way round.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.found: dict[str, Any] = {}

    def ready(self) -> dict[str, Any]:  # any: JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended with {self._process.wait(TIMEOUT_S)}\n{self.said}"
        self.found = json.loads(line)
        return self.found

    @property
    def said(self) -> str:
        return self.said_path.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)

    def end(self) -> int:
        """Ctrl-C; the exit status."""
        self.signal(signal.SIGINT)
        return self.wait()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
