"""Runs recorded cases against a server: what a client and a back end see, step by step.

A case is a list of steps, each with what is expected beside it; `http/README.md` describes them. Steps with `only` for
another flavour than ours are passed over. A case owns its ids, so many cases run against one server at the same time.
"""

import http.client
import itertools
import json
import random
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.compat.matching import FLAVOUR, Mismatch, Scope, fill, match, match_any_order, short
from tests.compat.reference_client import (
    DISCONNECT,
    PING,
    Client,
    Frame,
    JsonClient,
    Options,
    Tcp,
    WebSocket,
    put_frame,
    put_text,
)
from tests.support.webhooks import WebhookReceiver

DEFAULT_TIMEOUT_MS = 3_000
_HTTP_TIMEOUT_S = 30
_LETTERS = "abcdefghijkmnpqrstuvwxyz"
_LOGGED_IN = {"connack": {"$open": True, "reason_code": 1}}

# Any: cases are JSON.
Case = dict[str, Any]
Wish = Any


class Target(NamedTuple):
    """Where a server listens; tcp and ws as host:port."""

    http_host: str
    http_port: int
    tcp: str
    ws: str


class Run:
    """One case against a server, or the nodes of a cluster: each request and each connection goes to the next of them.
    seed makes its ids and draws who is first, for a run that can be repeated."""

    def __init__(
        self, case: Case, targets: Sequence[Target], seed: int, webhooks: WebhookReceiver | None = None
    ) -> None:
        self.case = case
        self._webhooks = webhooks
        self.chance = random.Random(seed)
        run = self.chance.choice(_LETTERS) + "".join(self.chance.choices(_LETTERS + "23456789", k=7))
        self.scope: Scope = {"run": run, "i": "", "vars": {}}
        first = self.chance.randrange(len(targets))
        self._targets = itertools.cycle([*targets[first:], *targets[:first]])
        self._next_target()
        self.clients: dict[str, Client] = {}
        self.place = "start"

    def run(self) -> list[str]:
        """Lines that say why the case failed; none when it passed."""
        try:
            self._steps(self.case["steps"], "step ")
        except Mismatch as mismatch:
            return mismatch.lines
        except Exception as error:  # one broken case must not hide the others
            return [f"{self.place}: {type(error).__name__}: {error}"]
        finally:
            for client in self.clients.values():
                client.transport.close()
        return []

    def _steps(self, steps: list[Any], prefix: str) -> None:
        for number, step in enumerate(steps, 1):
            self.place = f"{prefix}{number}"
            if step.get("only", FLAVOUR) != FLAVOUR:
                continue
            if "repeat" in step:
                for n in range(1, step["repeat"] + 1):
                    self.scope["i"] = n
                    self._steps(step["steps"], f"{prefix}{number} (i={n}) ")
                continue
            kind = next(key for key in step if hasattr(self, f"do_{key}"))
            act: Callable[[Any, Wish], None] = getattr(self, f"do_{kind}")
            options = fill(step[kind], self.scope)
            try:
                act(options, step.get("expect"))
            except Mismatch as mismatch:
                head = f"{self.place} {kind} {short(options)}"
                raise Mismatch([head, *("    " + line for line in mismatch.lines)]) from None

    def _check(self, expected: Wish, got: Any) -> None:
        differences = match(expected, got, self.scope)
        if differences:
            raise Mismatch(differences)

    def _next_target(self) -> Target:
        """Whom the next request or connection goes to. What is expected of it may name this node's addresses."""
        target = next(self._targets)
        self.scope["options"] = {"tcp": target.tcp, "ws": target.ws}
        return target

    # -- HTTP --

    def _request(self, options: Options) -> dict[str, Any]:
        target = self._next_target()
        link = http.client.HTTPConnection(target.http_host, target.http_port, timeout=_HTTP_TIMEOUT_S)
        path = options["path"] + ("?" + urllib.parse.urlencode(options["query"]) if "query" in options else "")
        headers = dict(options.get("headers", {}))
        body = None
        if "raw" in options:
            body = options["raw"].encode()
        elif "body" in options:
            body = json.dumps(options["body"], ensure_ascii=False).encode()
            headers.setdefault("Content-Type", "application/json")
        try:
            link.request(options.get("method", "POST"), path, body, headers)
            answer = link.getresponse()
            text = answer.read().decode("utf-8", "replace")
        finally:
            link.close()
        got: dict[str, Any] = {
            "status": answer.status,
            "content_type": answer.headers.get("Content-Type", ""),
            "text": text,
            "headers": {name.lower(): value for name, value in answer.headers.items()},
        }
        try:
            got["body"] = json.loads(text)
        except ValueError:
            return got
        return got

    def _check_http(self, wish: Wish, got: dict[str, Any]) -> None:
        wish = {"status": 200, **(wish or {})}
        if "body" in wish and "body" not in got:
            raise Mismatch([f"$.body: expected JSON, got status {got['status']} {short(got['text'])}"])
        differences: list[str] = []
        for key, value in wish.items():
            expected = {"$open": True, **value} if key == "headers" else value
            differences += match(expected, got[key], self.scope, "$." + key)
        if differences:
            raise Mismatch([*differences, f"(answer: {got['status']} {got['text'][:600]})"])

    def do_http(self, options: Options, wish: Wish) -> None:
        self._check_http(wish, self._request(options))

    def do_http_until(self, options: Options, wish: Wish) -> None:
        """Repeats the request until the answer is as expected."""
        deadline = time.monotonic() + options.get("timeout_ms", DEFAULT_TIMEOUT_MS) / 1000
        while True:
            got, bound = self._request(options), dict(self.scope["vars"])
            try:
                self._check_http(wish, got)
            except Mismatch:
                if time.monotonic() >= deadline:
                    raise
                self.scope["vars"] = bound
                time.sleep(0.1)
            else:
                return

    # -- sockets --

    def _client(self, options: Options) -> Client:
        return self.clients[options["as"]]

    def _open(self, options: Options, kind: type[Client] = Client) -> Client:
        target = self._next_target()
        transport: Tcp
        if options.get("transport") == "ws":
            transport = WebSocket(target.ws, options.get("ws_path", "/"))
        else:
            transport = Tcp(target.tcp)
        before = self.clients.get(options["as"])
        if before is not None:
            before.transport.close()
        client = self.clients[options["as"]] = kind(transport, f"{options['as']}-{self.scope['run']}")
        return client

    def do_connect(self, options: Options, wish: Wish) -> None:
        options = {"device_id": f"dev-{options['as']}-{self.scope['run']}", **options}
        wish = _LOGGED_IN if wish is None else wish
        is_unanswered = wish.get("connack") is None
        client = self._open(options)
        client.connect(options)
        wait_ms = wish.get("closed_within_ms", 1_000) if is_unanswered else options.get("timeout_ms", 1_500)
        frame = client.take("connack", wait_ms / 1000)
        if is_unanswered:
            if frame is not None:
                raise Mismatch([f"expected no CONNACK, got {short(frame)}"])
        elif frame is None:
            raise Mismatch(["no CONNACK" + (", closed" if client.transport.closed else "")])
        else:
            self._check(wish["connack"], frame)
        if "closed_within_ms" in wish:
            self._wait_closed(client, wish["closed_within_ms"])

    def do_open(self, options: Options, wish: Wish) -> None:
        """Connects the socket and sends nothing yet; "json": true for a JSON-RPC connection."""
        self._open(options, JsonClient if options.get("json") else Client)

    def do_bytes(self, options: Options, wish: Wish) -> None:
        data = bytes.fromhex(options["hex"]) if "hex" in options else options["text"].encode()
        self._client(options).transport.write(data * options.get("times", 1))

    def do_send(self, options: Options, wish: Wish) -> None:
        client = self._client(options)
        seq, number = client.send(options)
        self.scope["vars"]["last_client_msg_no"] = number
        if "bind_client_msg_no" in options:
            self.scope["vars"][options["bind_client_msg_no"]] = number
        if wish is not None and wish.get("sendack", "") is None:
            return
        ack = client.take("sendack", options.get("timeout_ms", DEFAULT_TIMEOUT_MS) / 1000)
        if ack is None:
            raise Mismatch(["no SENDACK" + (", closed" if client.transport.closed else "")])
        self._check(seq, ack.pop("client_seq"))
        self._check({"$open": True, "reason_code": 1} if wish is None else wish["sendack"], ack)

    def do_burst(self, options: Options, wish: Wish) -> None:
        """Every client of "as" writes `count` SENDs without waiting; then all answers are collected, and what each
        client of "to" received."""
        senders = [self.clients[name] for name in options["as"]]
        for number in range(options["count"]):
            for client in senders:
                client.send({**options, "payload": f"{client.name}-{number}"})
        deadline = time.monotonic() + options.get("timeout_ms", 15_000) / 1000

        def collect(client: Client, kind: str, count: int) -> list[Frame]:
            frames: list[Frame] = []
            while len(frames) < count and (frame := client.take(kind, max(deadline - time.monotonic(), 0.001))):
                frames.append(frame)
            return frames

        acks = [collect(client, "sendack", options["count"]) for client in senders]
        seqs = [ack["message_seq"] for some in acks for ack in some]
        got: dict[str, Any] = {
            "acked": len(seqs),
            "reason_codes": sorted({ack["reason_code"] for some in acks for ack in some}),
            "acks_in_order": all(
                _ascend([ack[name] for ack in some]) for some in acks for name in ("client_seq", "message_seq")
            ),
            "message_seqs": [min(seqs, default=0), max(seqs, default=0)],
            "distinct": len(set(seqs)),
            "received": {},
        }
        for name in options.get("to", []):
            frames = collect(self.clients[name], "recv", options["count"] * len(senders))
            seen = [frame["message_seq"] for frame in frames]
            got["received"][name] = {"count": len(seen), "distinct": len(set(seen)), "ascending": _ascend(seen)}
        self._check(wish, got)

    def _frame(self, options: Options, kind: str, wish: Wish) -> Frame:
        client = self._client(options)
        got = client.take(kind, options.get("timeout_ms", DEFAULT_TIMEOUT_MS) / 1000)
        if got is None:
            waiting = [name for name, _ in client.inbox]
            closed = ", closed" if client.transport.closed else ""
            raise Mismatch([f"no {kind.upper()} arrived at {options['as']}{closed}; waiting there: {waiting}"])
        if wish is not None:
            self._check(wish, got)
        return got

    def do_recv(self, options: Options, wish: Wish) -> None:
        got = self._frame(options, "recv", wish)
        if options.get("ack"):
            self._client(options).recvack({**dict.fromkeys(got["flags"], True), **got})

    def do_recv_set(self, options: Options, wish: Wish) -> None:
        """As many RECVs as are expected, in any order."""
        client = self._client(options)
        got: list[Frame] = []
        deadline = time.monotonic() + options.get("timeout_ms", DEFAULT_TIMEOUT_MS) / 1000
        while len(got) < len(wish) and (frame := client.take("recv", max(deadline - time.monotonic(), 0.001))):
            got.append(frame)
        differences = match_any_order(wish, got, self.scope)
        if differences:
            raise Mismatch(differences)

    def do_event(self, options: Options, wish: Wish) -> None:
        self._frame(options, "event", wish)

    def do_expect_disconnect(self, options: Options, wish: Wish) -> None:
        self._frame(options, "disconnect", wish)

    def do_ping(self, options: Options, wish: Wish) -> None:
        self._client(options).transport.write(bytes([PING << 4]))
        self._frame(options, "pong", None)

    def do_pong(self, options: Options, wish: Wish) -> None:
        self._frame(options, "pong", None)

    def do_connack(self, options: Options, wish: Wish) -> None:
        self._frame(options, "connack", wish)

    def do_sendack(self, options: Options, wish: Wish) -> None:
        self._frame(options, "sendack", wish)

    def do_recvack(self, options: Options, wish: Wish) -> None:
        self._client(options).recvack(options)

    def do_disconnect(self, options: Options, wish: Wish) -> None:
        body = bytes([options.get("reason_code", 0)]) + put_text(options.get("reason", ""))
        self._client(options).transport.write(put_frame(DISCONNECT, 0, body))

    def do_close(self, options: Options, wish: Wish) -> None:
        self._client(options).transport.close()

    def do_expect_nothing(self, options: Options, wish: Wish) -> None:
        """No frame comes, none was waiting, and the connection stays."""
        client = self._client(options)
        deadline = time.monotonic() + options.get("within_ms", 700) / 1000
        while time.monotonic() < deadline and not client.transport.closed:
            client.poll(deadline - time.monotonic())
        if client.inbox:
            raise Mismatch([f"expected no frame, got {name} {short(frame)}" for name, frame in client.inbox])
        if client.transport.closed and not options.get("may_close"):
            raise Mismatch(["the connection was closed"])

    def do_expect_closed(self, options: Options, wish: Wish) -> None:
        self._wait_closed(self._client(options), options.get("within_ms", 3_000), options.get("not_before_ms", 0))

    def do_expect_open(self, options: Options, wish: Wish) -> None:
        self.do_ping(options, wish)

    def _wait_closed(self, client: Client, within_ms: float, not_before_ms: float = 0) -> None:
        start = time.monotonic()
        while not client.transport.closed:
            left = within_ms / 1000 - (time.monotonic() - start)
            if left <= 0:
                raise Mismatch([f"still open after {within_ms} ms"])
            client.poll(left)
        took_ms = (time.monotonic() - start) * 1000
        if took_ms < not_before_ms:
            raise Mismatch([f"closed after {took_ms:.0f} ms, expected not before {not_before_ms} ms"])

    # -- JSON-RPC --

    def do_json_connect(self, options: Options, wish: Wish) -> None:
        """Logs in by JSON-RPC with the given params; expects the whole response object."""
        params = {"deviceId": f"dev-{options['as']}-{self.scope['run']}", "deviceFlag": 0, "token": ""}
        message = {
            "jsonrpc": "2.0",
            "method": "connect",
            "id": options.get("id", "connect-1"),
            "params": params | options["params"],
        }
        client = self._open(options, JsonClient)
        client.transport.write(json.dumps(message).encode(), text=True)
        got = client.take("json", options.get("timeout_ms", 1_500) / 1000)
        if got is None:
            raise Mismatch(["no answer to connect" + (", closed" if client.transport.closed else "")])
        self._check({"$open": True, "result": {"$open": True, "reasonCode": 1}} if wish is None else wish, got)

    def do_json_send(self, options: Options, wish: Wish) -> None:
        text = options["text"] if "text" in options else json.dumps(options["message"], ensure_ascii=False)
        self._client(options).transport.write(text.encode(), text=not options.get("binary"))

    def do_json_recv(self, options: Options, wish: Wish) -> None:
        self._frame(options, "json", wish)

    def do_ws_kind(self, options: Options, wish: Wish) -> None:
        """Whether the last WebSocket message from the server was "text" or "binary"."""
        self._check(wish, self._client(options).transport.kinds[-1])

    # -- webhooks --

    def do_webhook(self, options: Options, wish: Wish) -> None:
        """As many items of this event that match as are wanted, and after a pause no more."""
        assert self._webhooks is not None
        wanted, before = options.get("count", 1), dict(self.scope["vars"])
        deadline = time.monotonic() + options.get("timeout_ms", 6_000) / 1000
        while True:
            found, closest = 0, ["nothing arrived"]
            for item in self._webhooks.items(options["event"]):
                if found < wanted:
                    self.scope["vars"] = dict(before)
                differences = match(wish, item, self.scope)
                found += not differences
                if differences and (closest == ["nothing arrived"] or len(differences) < len(closest)):
                    closest = differences
            if found >= wanted or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if found != wanted:
            raise Mismatch([f"{found} matching {options['event']}, expected {wanted}; closest:", *closest])

    def do_no_webhook(self, options: Options, wish: Wish) -> None:
        assert self._webhooks is not None
        time.sleep(options.get("within_ms", 1_500) / 1000)
        for item in self._webhooks.items(options["event"]):
            if not match(wish, item, {**self.scope, "vars": dict(self.scope["vars"])}):
                raise Mismatch([f"unexpected {options['event']}: {short(item)}"])

    # -- time --

    def do_sleep_ms(self, milliseconds: int, wish: Wish) -> None:
        time.sleep(milliseconds / 1000)

    def do_align_second(self, options: Options, wish: Wish) -> None:
        """Waits for the beginning of a second, for cases that compare times in seconds."""
        time.sleep(1.0 - time.time() % 1.0 + 0.01)


def _ascend(numbers: list[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))
