"""What the composition root does itself: entering the settings, letting go of clients, stopping in order."""

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from wukong.api.server import ApiServer
from wukong.app import Server
from wukong.channel.commands import Reply
from wukong.channel.state import Settings
from wukong.config import Config, cluster_settings, load_config
from wukong.errors import Unavailable


class FakeNode:
    """fails: how often the log is not available before it is."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.is_live = True
        self.slot_count = 1
        self.node_id = 1
        self.asked = 0
        self.settings = Settings()

    @property
    def states(self) -> list[Any]:
        return [self]

    async def settled(self, slot: int) -> None:
        if self.fails % 2:
            self.fails -= 1
            raise Unavailable("the copies are given up")

    async def execute(self, slot: int, command: Any) -> Reply:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise Unavailable("the outcome of the change is not known")
        self.settings = msgspec.msgpack.decode(command.settings, type=Settings)
        return Reply()

    async def copied(self, slot: int, version: int) -> None:
        pass


class FakeRuntime:
    def members(self, group: int) -> tuple[Any, ...]:
        return ()


def a_server(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> Server:
    monkeypatch.setattr("wukong.app.SETTINGS_RETRY_S", 0.0)
    monkeypatch.setattr("wukong.app.settings_version", lambda state: 0)
    server = Server(Config())
    server.node = cast("Any", node)
    server.runtime = cast("Any", FakeRuntime())
    return server


async def test_a_start_waits_for_the_log_to_take_the_settings_however_often_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = FakeNode(fails=5)
    await a_server(monkeypatch, node)._settle()
    assert node.settings == msgspec.convert(cluster_settings(Config()), Settings)


async def test_a_node_that_stops_does_not_go_on_asking_for_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    node = FakeNode(fails=1)
    node.is_live = False
    with pytest.raises(Unavailable):
        await a_server(monkeypatch, node)._settle()


async def test_a_start_that_fails_says_why_even_if_what_it_started_cannot_be_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Config())

    async def start() -> None:
        def broken() -> None:
            raise RuntimeError("broken on purpose")

        server._parts.callback(broken)
        raise Unavailable("the reason")

    monkeypatch.setattr(server, "_start_replica", start)
    with pytest.raises(Unavailable, match="the reason"):
        await server.start()
    assert "broken on purpose" in caplog.text


class Recorder:
    """Stands for each part of a server; `calls` says what was done to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def refuse_new(self, on: bool) -> None:
        self.calls.append(f"refuse {on}")

    def forget_all(self) -> None:
        self.calls.append("forget all")

    def close_all(self) -> None:
        self.calls.append("close all")

    async def hand_over_all(self) -> int:
        self.calls.append("hand over")
        return 0

    async def stop(self, timeout_s: float) -> None:
        self.calls.append("closing")
        await self.gate.wait()
        self.calls.append("closed")


async def test_leaderships_go_first_then_clients_and_requests_at_the_same_time_then_the_rest() -> None:
    parts = Recorder()
    server = Server(Config())
    server.gateway = server._api = server.controller = cast("Any", parts)
    server._parts.callback(lambda: parts.calls.append("log and store"))
    server._parts.push_async_callback(server._close_doors)
    parts.gate.clear()
    await server.stop(timeout_s=0.01)
    assert server.is_stuck
    assert parts.calls == ["refuse True", "hand over", "closing", "closing"]
    parts.gate.set()
    await server.stop(timeout_s=10)
    assert not server.is_stuck
    assert parts.calls[4:] == ["closed", "closed", "log and store"]


async def test_what_cannot_be_handed_over_or_closed_does_not_keep_the_rest_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    parts = Recorder()
    monkeypatch.setattr(parts, "hand_over_all", broken)
    monkeypatch.setattr(parts, "stop", broken)
    server = Server(Config())
    server.gateway = server._api = server.controller = cast("Any", parts)
    server._parts.callback(lambda: parts.calls.append("log and store"))
    server._parts.push_async_callback(server._close_doors)
    await server.stop(timeout_s=10)
    assert parts.calls == ["refuse True", "log and store"]
    assert caplog.text.count("RuntimeError: broken on purpose") == 3


async def test_a_log_that_does_not_answer_leaves_the_store_open_and_the_server_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, never = Recorder(), asyncio.Event()

    class Hanging:
        async def stop(self, timeout_s: float) -> bool:
            await never.wait()
            return True

    server = Server(Config())
    server.runtime = cast("Any", Hanging())
    server.store = cast("Any", parts)  # has neither flush nor close
    server._parts.push_async_callback(server._close_store)
    server._parts.push_async_callback(server._stop_log)
    await server.stop(timeout_s=0.01)
    assert server.is_stuck
    never.set()
    monkeypatch.setattr(parts, "flush", lambda: parts.calls.append("flush"), raising=False)
    monkeypatch.setattr(parts, "close", lambda: parts.calls.append("close"), raising=False)
    await server.stop(timeout_s=10)
    assert parts.calls == ["flush", "close"]
    assert not server.is_stuck


async def test_sessions_are_forgotten_before_their_sockets_are_closed() -> None:
    parts = Recorder()
    server = Server(Config())
    server.dispatcher = server.gateway = cast("Any", parts)
    server._close_clients("a test")
    assert parts.calls == ["forget all", "close all"]
    server.gateway = None
    server._close_clients("before it serves")
    assert parts.calls[2:] == ["forget all"]


async def test_a_good_answer_of_health_means_that_every_other_port_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anywhere = "127.0.0.1:0"
    keys = {
        "WK_DATADIR": str(tmp_path),
        "WK_HTTPADDR": anywhere,
        "WK_ADDR": f"tcp://{anywhere}",
        "WK_WSADDR": f"ws://{anywhere}",
        "WK_MANAGER_ADDR": anywhere,
        "WK_DEMO_ON": "true",
        "WK_DEMO_ADDR": anywhere,
    }
    config, _ = load_config(None, keys, embedded=True)
    server = Server(config)
    opened: list[int] = []
    start = ApiServer.start

    async def noted(self: ApiServer, host: str, port: int) -> int:
        opened.append(await start(self, host, port))
        return opened[-1]

    monkeypatch.setattr(ApiServer, "start", noted)
    try:
        await server.start()
        assert opened == [server.manager_port, server.demo_port, server.http_port]
    finally:
        await server.stop()
