import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from wukong.cli.cluster.probe import ask, from_environment, reason_of


@contextmanager
def answering(status: int, body: bytes, token: str = "") -> Iterator[int]:
    """A server on a free port that answers every GET with this; 401 without the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("token", "") == token
            self.send_response(status if allowed else 401)
            self.end_headers()
            if allowed:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def test_a_healthy_node_has_no_reason() -> None:
    with answering(200, b'{"status":"ok"}') as port:
        assert ask("127.0.0.1", port) == ""


def test_a_node_that_cannot_serve_says_why() -> None:
    with answering(503, b'{"status":"error","message":"no leader is heard"}') as port:
        assert ask("127.0.0.1", port) == "no leader is heard"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, b'{"msg":"too many requests","status":503}', "too many requests"),
        (200, b'{"status":"error"}', "it answered 200"),
        (200, b"<html>", "it answered 200"),
        (200, b'"ok"', "it answered 200"),
        (500, b"", "it answered 500"),
        (401, b"", "it wants its managerToken"),
    ],
)
def test_only_a_clear_yes_is_healthy(status: int, body: bytes, reason: str) -> None:
    assert reason_of(status, body) == reason


def test_nobody_listening_is_a_reason(unused_address: str) -> None:
    host, _, port = unused_address.partition(":")
    assert ask(host, int(port)) == "nobody listens there"


def test_the_token_is_shown() -> None:
    with answering(200, b'{"status":"ok"}', token="open sesame") as port:
        assert ask("127.0.0.1", port) == "it wants its managerToken"
        assert ask("127.0.0.1", port, "open sesame") == ""


def test_the_node_is_found_by_its_environment(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert from_environment({}) == ("127.0.0.1", 5001, "")
    assert from_environment({"WK_HTTPADDR": "0.0.0.0:7001"}) == ("127.0.0.1", 7001, "")
    assert from_environment({"WK_HTTPADDR": "10.1.2.3:80", "WK_MANAGERTOKEN": "x"}) == ("10.1.2.3", 80, "x")
    assert from_environment({"WK_HTTPADDR": "[::1]:80"}) == ("::1", 80, "")
    assert from_environment({"WK_MANAGERTOKEN_FILE": str(token)}) == ("127.0.0.1", 5001, "secret")


def test_as_a_program_it_answers_by_its_exit_status() -> None:
    with answering(200, b'{"status":"ok"}') as port:
        assert _program(port) == (0, "healthy\n")
    assert _program(port) == (1, "nobody listens there\n")


def _program(port: int) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "wukong.cli.cluster.probe"],
        env={"WK_HTTPADDR": f"0.0.0.0:{port}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout
