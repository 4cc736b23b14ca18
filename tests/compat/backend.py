"""An application's own back end, as far as its clients need one: it registers their tokens, and hands their questions
on to our HTTP API under the name that the token proves. Clients never call our API themselves.
"""

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

WEB = 1
SLAVE, MASTER = 0, 1
_TIMEOUT_S = 20


class Refused(Exception):
    """The API's answer was no success. status: of HTTP."""

    def __init__(self, path: str, status: int, body: str) -> None:
        super().__init__(f"{path}: {status} {body[:300]}")
        self.status = status


class BackEnd:
    """Serves on loopback inside a `with`. api_urls: the nodes as of now, the preferred one of a user first; the first
    that answers serves."""

    def __init__(self, api_urls: Callable[[str], Iterable[str]]) -> None:
        self._api_urls = api_urls
        self._uid_of: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    # What the application's own code calls ---------------------------------------------------------------------------

    def login(self, uid: str, *, device_flag: int = WEB, level: int = SLAVE) -> str:
        """The token for a device of his, a new one each time. As a master he takes the place of his others there."""
        token = uuid4().hex
        body = {"uid": uid, "token": token, "device_flag": device_flag, "device_level": level}
        self.call(uid, "/user/token", body)
        self._uid_of[token] = uid
        return token

    def stream(self, channel_id: str, channel_type: int, from_uid: str, deltas: list[str]) -> str:
        """A text message that comes bit by bit, from its beginning to its end. Returns its client_msg_no."""
        number = uuid4().hex
        body = {"channel_id": channel_id, "channel_type": channel_type, "from_uid": from_uid, "client_msg_no": number}
        content = base64.b64encode(b'{"type":1,"content":""}').decode()
        self.call("", "/message/send", {**body, "header": {"red_dot": 1}, "payload": content, "is_stream": 1})
        for count, delta in enumerate(deltas):
            payload = {"kind": "text", "delta": delta}
            event = {"event_id": f"e{count}", "event_type": "stream.delta", "payload": payload}
            self.call("", "/message/event", {**body, **event})
        self.call("", "/message/event", {**body, "event_id": "end", "event_type": "stream.close", "payload": {}})
        return number

    def call(self, uid: str, path: str, body: object = None) -> Any:
        """POST, or GET without a body, on the first node that answers. Raises Refused; OSError when none answers."""
        last: OSError | None = None
        for url in self._api_urls(uid):
            data = None if body is None else json.dumps(body).encode()
            try:
                with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=_TIMEOUT_S) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    raise Refused(path, error.code, error.read().decode(errors="replace")) from None
            except OSError as error:
                last = error
        raise last or OSError("there is no node")

    # What its clients ask --------------------------------------------------------------------------------------------

    def answer(self, path: str, uid: str, body: dict[str, Any]) -> Any:
        match path:
            case "/address":
                return self.call(uid, f"/route?uid={uid}")
            case "/conversations":
                rows = self.call(uid, "/conversation/sync", {"uid": uid, "version": 0, "last_msg_seqs": "", **body})
                for row in rows:
                    _open(row["recents"])
                return rows
            case "/messages":
                page = self.call(uid, "/channel/messagesync", {"login_uid": uid, **body})
                _open(page["messages"])
                return page
        raise Refused(path, 404, "no such question")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        back_end = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = 200, None
                try:
                    answer = back_end.answer(self.path, back_end._uid_of[self.headers["token"]], body)
                except KeyError:
                    status = 401
                except Refused as refused:
                    status = refused.status
                except OSError:
                    status = 503
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _open(rows: list[dict[str, Any]]) -> None:
    """Payloads as what they say, instead of base64."""
    for row in rows:
        row["payload"] = json.loads(base64.b64decode(row["payload"]))
