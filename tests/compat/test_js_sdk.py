"""The JavaScript SDK as published on npm (wukongimjssdk 1.0.4, protocol 2) against this server: WebSocket, in Node."""

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from tests.support.server import ServerProcess

HERE = Path(__file__).parent / "js"
CONNECTED, KICKED = 1, 3
EVENT_TIMEOUT_S = 15.0


class JsClient:
    """One user in a Node process of his own; `expect` waits for events, in the order in which they came."""

    def __init__(self, uid: str, server: ServerProcess) -> None:
        self.uid = uid
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            ["node", "client.mjs"],
            cwd=HERE,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.expect(event="ready")
        self.do("connect", addr=server.ws_url, uid=uid, token="")
        self.expect(event="status", status=CONNECTED)

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

    def expect(self, **wanted: object) -> dict[str, Any]:
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.uid} never saw {wanted}\n{''.join(self.output[-40:])}") from None
            if all(event.get(key) == value for key, value in wanted.items()):
                return event

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def installed() -> None:
    """The SDK's packages, installed once beside the driver."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node with npm is not installed, so the JavaScript SDK cannot run here")
    if not (HERE / "node_modules" / "wukongimjssdk").exists():
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install the JavaScript SDK here: {done.stderr[-300:]}")


@pytest.fixture(scope="module")
def server(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("js"))
    process.start()
    yield process
    process.stop()
    assert process.complaints() == []


@pytest.fixture
def pair(server: ServerProcess) -> Iterator[tuple[JsClient, JsClient]]:
    run = uuid4().hex[:8]
    clients = JsClient(f"a{run}", server), JsClient(f"b{run}", server)
    yield clients
    for client in clients:
        client.close()


def post(server: ServerProcess, path: str, body: object) -> Any:
    with urlopen(Request(server.http_url + path, json.dumps(body).encode()), timeout=10) as answer:
        return json.load(answer)


def test_a_person_message_is_acknowledged_and_arrives(server: ServerProcess, pair: tuple[JsClient, JsClient]) -> None:
    a, b = pair
    a.do("send", channel=b.uid, type=1, text="hello")
    assert a.expect(event="sendack")["reason"] == 1
    got = b.expect(event="message")
    assert (got["from"], got["channel"], got["type"], got["seq"], got["text"]) == (a.uid, a.uid, 1, 1, "hello")


def test_a_group_message_reaches_a_member_added_a_moment_before(
    server: ServerProcess, pair: tuple[JsClient, JsClient]
) -> None:
    a, b = pair
    group = f"g{uuid4().hex[:8]}"
    post(server, "/channel", {"channel_id": group, "channel_type": 2, "subscribers": [a.uid]})
    post(server, "/channel/subscriber_add", {"channel_id": group, "channel_type": 2, "subscribers": [b.uid]})
    for number in range(1, 11):
        a.do("send", channel=group, type=2, text=f"m{number}")
    for number in range(1, 11):
        got = b.expect(event="message")
        assert (got["channel"], got["type"], got["seq"], got["text"]) == (group, 2, number, f"m{number}")


def test_a_refused_message_is_reported_with_its_reason(server: ServerProcess, pair: tuple[JsClient, JsClient]) -> None:
    a, _ = pair
    a.do("send", channel=f"g{uuid4().hex[:8]}", type=2, text="may I?")
    assert a.expect(event="sendack")["reason"] == 3


def test_a_connection_lost_without_a_frame_comes_back_by_itself(
    server: ServerProcess, pair: tuple[JsClient, JsClient]
) -> None:
    a, b = pair
    with urlopen(f"{server.http_url}/connz?uid={b.uid}", timeout=10) as answer:
        connections = json.load(answer)["connections"]
    post(server, "/conn/remove", {"uid": b.uid, "conn_id": connections[0]["id"]})
    b.expect(event="status", status=CONNECTED)
    a.do("send", channel=b.uid, type=1, text="again")
    assert b.expect(event="message")["text"] == "again"
