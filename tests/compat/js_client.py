"""The published JavaScript SDK in Node: installed from npm by its lock file, and one process per user."""

import fcntl
import hashlib
import json
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.compat.backend import SLAVE, BackEnd

HERE = Path(__file__).parent / "js"
DISCONNECTED, CONNECTED, CONNECTING, FAILED, KICKED = range(5)
EVENT_TIMEOUT_S = 30.0
HEARTBEAT_MS = 60_000  # the SDK's own
_INSTALL_TIMEOUT_S = 100
_SHOWN_LINES = 40


def install() -> None:
    """Exactly what the lock file names, into node_modules, once for all test processes."""
    assert shutil.which("npm"), "the JavaScript SDK needs Node with npm"
    with (HERE / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = hashlib.sha256(lock.read()).hexdigest()
        stamp = HERE / "node_modules" / ".installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"npm cannot install the JavaScript SDK: {done.stderr[-2000:]}"
        stamp.write_text(wanted)


class JsClient:
    """One user, registered by the back end and connected to the address it gives. `expect` waits for events, in the
    order in which they came. token: of an earlier login."""

    def __init__(
        self,
        uid: str,
        backend: BackEnd,
        *,
        token: str = "",
        level: int = SLAVE,
        heartbeat_ms: int = HEARTBEAT_MS,
        expected_status: int = CONNECTED,
    ) -> None:
        self.uid = uid
        self.token = token
        self.backend = backend
        self.seen: list[dict[str, Any]] = []
        self.output: list[str] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            ["node", "client.mjs"],
            cwd=HERE,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.expect(event="ready")
            self.connect(token or backend.login(uid, level=level), heartbeat_ms=heartbeat_ms)
            self.expect(event="status", status=expected_status)
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            if line.startswith("@@"):
                self._events.put(json.loads(line[2:]))

    def do(self, verb: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        self._process.stdin.flush()

    def connect(self, token: str, *, heartbeat_ms: int = HEARTBEAT_MS) -> None:
        self.token = token
        self.do("connect", backend=self.backend.url, uid=self.uid, token=token, heartbeat=heartbeat_ms)

    def send(self, channel: str, kind: int, text: str) -> None:
        self.do("send", channel=channel, type=kind, text=text)

    def expect(self, **wanted: object) -> dict[str, Any]:
        """The next event with these values; those before it are passed over, and are in `seen`."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                shown = "".join(self.output[-_SHOWN_LINES:])
                raise AssertionError(f"{self.uid} never saw {wanted}\n{shown}") from None
            self.seen.append(event)
            if all(event.get(key) == value for key, value in wanted.items()):
                return event

    def state(self) -> dict[str, Any]:
        """Of its connection: status, whether it comes again by itself, whether it waits to do so."""
        self.do("state")
        return self.expect(event="state")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
