"""A back end that takes webhook requests, and can be made to fail: by HTTP in a thread of its own.

What it has taken, it answered 200 for; `requests` holds those, in the order in which they were answered.
"""

import contextlib
import http.server
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.server import free_ports


class Request(NamedTuple):
    """headers: names in lower case. at: when it came, seconds since 1970."""

    event: str
    body: bytes
    headers: Mapping[str, str]
    path: str
    at: float

    @property
    def items(self) -> list[Any]:
        """Elements of an array, or the one object."""
        data = json.loads(self.body)
        return data if isinstance(data, list) else [data]


class WebhookReceiver:
    """Listens from the start on, on a port that stays the same over `close` and `open`, but for `move`.

    answer: called with each request in a thread of its own; the status to give, 200 by default. It may wait.
    concurrent: the most requests that were worked on at once."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.answer: Callable[[Request], int] = lambda request: 200
        self.requests: list[Request] = []
        self.tries = 0
        self.concurrent = 0
        self._busy = 0
        self._lock = threading.Condition()
        self._server: _Server | None = None
        self.open()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    # -- life

    def open(self) -> None:
        assert self._server is None
        self._server = _Server(("127.0.0.1", self.port), self._take)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Like a killed process: its connections end without an answer, nobody listens."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()

    def move(self) -> None:
        """To another port; closed before and after."""
        assert self._server is None
        (self.port,) = free_ports(1)

    # -- what came

    def _take(self, request: Request) -> int:
        with self._lock:
            self.tries += 1
            self._busy += 1
            self.concurrent = max(self.concurrent, self._busy)
        try:
            status = self.answer(request)
        finally:
            with self._lock:
                self._busy -= 1
        with self._lock:
            if status == 200:
                self.requests.append(request)
            self._lock.notify_all()
        return status

    def items(self, event: str) -> list[Any]:
        with self._lock:
            return [item for request in self.requests if request.event == event for item in request.items]

    def wait(self, done: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        """Until done, which is asked again whenever something came; whether it is."""
        deadline = time.monotonic() + timeout_s
        while not done():
            with self._lock:
                self._lock.wait(0.1)
            if time.monotonic() > deadline:
                return done()
        return True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], take: Callable[[Request], int]) -> None:
        self._sockets: set[socket.socket] = set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = take(Request(query.get("event", [""])[0], body, headers, self.path, time.time()))
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    body = b"" if status == 204 else b"{}"
                    if body:
                        self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the server under test may be killed in the middle

    def cut(self) -> None:
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def webhook_receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    try:
        yield receiver
    finally:
        receiver.close()
