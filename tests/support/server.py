"""A real server process for tests: start, kill, stop and restart it on one data directory.

Loop-free on purpose: a process may serve many tests, each with its own event loop. From a coroutine call the blocking
methods through `asyncio.to_thread`. Ports are drawn anew at every start, from below the range that the system gives to
outgoing connections, so that a restart never meets a port that a client of the last life still occupies.
"""

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.01
_PORT_LOW, _PORT_HIGH = 20_000, 32_000
_PORT_SHARES = 6
_START_ATTEMPTS = 5
_LOG_TAIL_CHARS = 6_000

# What a log of a healthy server never holds, whatever clients do.
_COMPLAINT = re.compile(r"Traceback \(most recent call last\)|\b(?:ERROR|CRITICAL)\b|was never awaited|never retrieved")


class ServerFailed(AssertionError):
    """The process did not do what it was asked to; the message carries the end of its log."""


def _ports() -> Iterator[int]:
    """Of this process, one after the other in an order drawn once: those that share the tests do not take each other's
    between the choice and the use, and nor do two choices here."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = (_PORT_HIGH - _PORT_LOW) // _PORT_SHARES
    low = _PORT_LOW + worker % _PORT_SHARES * width
    return itertools.cycle(random.SystemRandom().sample(range(low, low + width), width))


_next_ports = _ports()


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on at this moment."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", next(_next_ports)))
            except OSError:
                candidate.close()
            else:
                held.append(candidate)
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


class ServerProcess:
    """`python -m wukong serve --config DIRECTORY/wk.yaml`. Created stopped.

    settings: keys of wk.yaml beside those that say where the server listens and stores; sections are nested mappings.
    lives: how often it was started; every life has its own log file, server-N.log.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.settings = dict(settings or {})
        self.lives = 0
        self.http_port = self.tcp_port = self.ws_port = 0
        self.ready_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.ws_port}"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        return self.directory / f"server-{self.lives}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- life

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start and wait until /health says ok. Another process that takes a drawn port first costs a new draw.
        Raises ServerFailed. ready_s is then the time from exec to the first good answer."""
        assert not self.is_running
        for _ in range(_START_ATTEMPTS):
            self.launch()
            try:
                self.wait_ready(timeout_s)
            except ServerFailed as failure:
                if "cannot listen" not in str(failure):
                    raise
            else:
                return
        raise ServerFailed(f"no start in {_START_ATTEMPTS} draws of ports\n{self.log_tail()}")

    def launch(self) -> None:
        """Start the process and return at once."""
        self.http_port, self.tcp_port, self.ws_port = free_ports(3)
        self.run_with(self.write_config())

    def write_config(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "mode": "release",
            "rootDir": str(self.directory),
            "httpAddr": f"127.0.0.1:{self.http_port}",
            "addr": f"tcp://127.0.0.1:{self.tcp_port}",
            "wsAddr": f"ws://127.0.0.1:{self.ws_port}",
            "external": {"ip": "127.0.0.1"},
            "manager": {"on": False},
            "demo": {"on": False},
        }
        path = self.directory / "wk.yaml"
        path.write_text(yaml.safe_dump(config | self.settings))
        return path

    def run_with(self, config: Path) -> None:
        self.lives += 1
        self._started_at = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wukong", "serve", "--config", str(config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        deadline = self._started_at + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running:
                raise ServerFailed(f"ended with code {self.wait()} before it was ready\n{self.log_tail()}")
            if self._is_healthy():
                self.ready_s = time.monotonic() - self._started_at
                return
            time.sleep(_POLL_S)
        self.kill()
        raise ServerFailed(f"not ready within {timeout_s} s\n{self.log_tail()}")

    def open(self, path: str, timeout_s: float) -> Any:
        """The answer to a GET, with the manager token if there is one. Raises OSError."""
        headers = {"token": self.settings["managerToken"]} if "managerToken" in self.settings else {}
        return urllib.request.urlopen(urllib.request.Request(self.http_url + path, headers=headers), timeout=timeout_s)

    def _is_healthy(self) -> bool:
        try:
            with self.open("/health", 2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code. Raises ServerFailed when the process goes on."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running after {timeout_s} s\n{self.log_tail()}") from None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """kill -9, and wait until the kernel has taken the process away."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    # -- log

    def log_tail(self) -> str:
        if not self.log_path.exists():
            return "(no log)"
        return f"--- {self.log_path} ---\n{self.log_path.read_text(errors='replace')[-_LOG_TAIL_CHARS:]}"

    def complaints(self) -> list[str]:
        """Lines of all lives that tell of a fault of the server, with what follows a traceback's head."""
        found: list[str] = []
        for path in sorted(self.directory.glob("server-*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found += [
                f"{path.name}: " + "\n".join(lines[number : number + 30])
                for number, line in enumerate(lines)
                if _COMPLAINT.search(line)
            ]
        return found
