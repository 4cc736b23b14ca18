"""Server processes on this machine: started, read, restarted, and all of them ended when we end, however that is.

Every node is a process group of its own, so that Ctrl-C reaches us alone and we stop them in order. The kernel sends
them SIGTERM if we die without a word.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wukong.cli.cluster.log_lines import Lines as LineSplitter
from wukong.cli.cluster.log_lines import LogFile, Watcher

STOP_TIMEOUT_S: Final = 10.0
FIRST_RESTART_S: Final = 1.0
MAX_RESTART_S: Final = 30.0
# A node that ran so long had a good start: the wait before a restart begins anew.
GOOD_RUN_S: Final = 60.0
READ_BYTES: Final = 64 * 1024

_PR_SET_PDEATHSIG: Final = 1

Show = Callable[[int, str], None]


class NodeProcess:
    """`python -m wukong serve --config FILE`, again after it died if restart says so.

    show: gets (node, line) for what people should see. died: gets (node, what happened) each time it ends unasked.
    `run` is the life of the node until `stop`; whoever starts it as a task awaits it.
    """

    def __init__(
        self,
        node: int,
        config: Path,
        log: Path,
        *,
        show: Show,
        died: Show,
        restart: bool = False,
        verbose: bool = False,
    ) -> None:
        self.node = node
        self.pid = 0
        self.starts_count = 0
        self.exit_status: int | None = None
        self.watcher = Watcher(verbose=verbose)
        self._config = config
        self._log = log
        self._show = show
        self._died = died
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def run(self) -> None:
        wait_s = FIRST_RESTART_S
        with contextlib.closing(LogFile(self._log)) as file:
            while not self._stopping.is_set():
                began = time.monotonic()
                await self._live(file)
                if self._stopping.is_set():
                    return
                lived_s = time.monotonic() - began
                text = f"ended by itself with {how_it_ended(self.exit_status)} after {lived_s:.0f} s"
                if not self._restart:
                    self._died(self.node, text)
                    return
                wait_s = FIRST_RESTART_S if lived_s > GOOD_RUN_S else wait_s
                self._died(self.node, f"{text}; it is started again in {wait_s:.0f} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._stopping.wait()
                wait_s = min(2 * wait_s, MAX_RESTART_S)

    async def _live(self, file: LogFile) -> None:
        """One process, from its start until it ended and all it said is read."""
        self.starts_count += 1
        # What is set for a node of its own, or for a container, must not reach into all of these.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("WK_")}
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wukong", "serve", "--config", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()),
        )
        self.pid = process.pid
        if self._stopping.is_set():
            self.signal(signal.SIGTERM)
        assert process.stdout is not None
        lines = LineSplitter()
        try:
            while data := await process.stdout.read(READ_BYTES):
                file.write(data)
                self._say(lines.feed(data))
            self._say(lines.end())
        finally:
            self.exit_status = await process.wait()

    def _say(self, lines: list[str]) -> None:
        now_s = time.monotonic()
        for line in lines:
            for shown in self.watcher.look(line, now_s):
                self._show(self.node, shown)

    def ask_to_stop(self) -> None:
        """No more restarts; the process gets SIGTERM."""
        self._stopping.set()
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"exit status {status}"


def _end_with(parent: int) -> Callable[[], None] | None:
    """For the child, between fork and exec: SIGTERM when the parent ends. Linux has this; elsewhere None."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: the child of a process with threads may take no lock.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            # It ended in between.
            os._exit(1)

    return prepare
