"""The EasySDK for Python as published on PyPI (wukong-easy-sdk 0.1.0): JSON-RPC over WebSocket, on one node."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from wukong_easy_sdk import (
    WKIM,
    AuthOptions,
    ErrorCode,
    ReasonCode,
    WKIMChannelType,
    WKIMDeviceFlag,
    WKIMError,
    WKIMEvent,
    WKIMOptions,
)

from tests.compat.backend import MASTER, BackEnd
from tests.support.server import ServerProcess

PERSON, GROUP = WKIMChannelType.PERSON, WKIMChannelType.GROUP
DEVICE = WKIMDeviceFlag.DESKTOP
EVENT_TIMEOUT_S = 20
HEARTBEATS = 2


class User:
    """One client of the SDK and the events it told, in order. `expect` takes them out; kinds: of all so far."""

    def __init__(self, uid: str, url: str, token: str, *, options: WKIMOptions | None = None) -> None:
        self.uid = uid
        self.token = token
        self.sdk = WKIM.init(url, AuthOptions(uid=uid, token=token, device_flag=DEVICE), options)
        self.kinds: list[WKIMEvent] = []
        self._events: asyncio.Queue[tuple[WKIMEvent, Any]] = asyncio.Queue()
        for event in WKIMEvent:
            self.sdk.on(event, partial(self._note, event))

    def _note(self, event: WKIMEvent, value: Any) -> None:
        self.kinds.append(event)
        self._events.put_nowait((event, value))

    async def expect(self, event: WKIMEvent) -> Any:
        """What the next event of this kind carries; those before it are passed over."""
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            while True:
                kind, value = await self._events.get()
                if kind is event:
                    return value


Join = Callable[..., Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("easy"), {"tokenAuthOn": True})
    process.start()
    yield process
    process.stop()
    assert process.complaints() == []


@pytest.fixture
def backend(server: ServerProcess) -> Iterator[BackEnd]:
    with BackEnd(lambda uid: [server.http_url]) as serving:
        yield serving


@pytest.fixture
async def join(server: ServerProcess, backend: BackEnd) -> AsyncIterator[Join]:
    """Connect a user by name, with options of the SDK; the same name is the same user's other device."""
    run = uuid4().hex[:8]
    async with contextlib.AsyncExitStack() as stack:

        async def join(name: str, *, token: str = "", level: int = 0, **options: Any) -> User:
            uid = f"{name}-{run}"
            token = token or await asyncio.to_thread(backend.login, uid, device_flag=DEVICE, level=level)
            user = User(uid, server.ws_url, token, options=WKIMOptions(**options))
            stack.push_async_callback(user.sdk.destroy)
            result = await user.sdk.connect()
            assert result["reasonCode"] == ReasonCode.SUCCESS
            return user

        yield join


async def create_group(backend: BackEnd, *members: User) -> str:
    group = f"g{uuid4().hex[:8]}"
    body = {"channel_id": group, "channel_type": GROUP, "subscribers": [member.uid for member in members]}
    await asyncio.to_thread(backend.call, "", "/channel", body)
    return group


async def test_a_login_says_which_node_and_protocol_it_met(join: Join) -> None:
    result = await (await join("a")).expect(WKIMEvent.CONNECT)
    assert (result["serverVersion"], result["nodeId"]) == (5, 1001)
    assert abs(result["timeDiff"]) < 60_000


async def test_a_person_message_is_acknowledged_and_arrives(join: Join) -> None:
    a, b = await join("a"), await join("b")
    ack = await a.sdk.send(b.uid, PERSON, {"type": 1, "content": "hello 你好"}, client_msg_no="my-number")
    got = await b.expect(WKIMEvent.MESSAGE)
    assert ack["reasonCode"] == ReasonCode.SUCCESS
    assert (got["messageId"], got["messageSeq"]) == (ack["messageId"], ack["messageSeq"]) == (ack["messageId"], 1)
    assert (got["fromUid"], got["channelId"], got["channelType"]) == (a.uid, a.uid, PERSON)
    assert (got["clientMsgNo"], got["header"]) == ("my-number", {"redDot": True})
    assert got["payload"] == {"type": 1, "content": "hello 你好"}


async def test_the_senders_other_device_gets_a_copy_with_a_header(join: Join) -> None:
    a, b = await join("a"), await join("b")
    other = await join("a")
    await a.sdk.send(b.uid, PERSON, {"content": "from here"})
    got = await other.expect(WKIMEvent.MESSAGE)
    assert (got["fromUid"], got["channelId"], got["header"]) == (a.uid, b.uid, {})


async def test_a_group_message_reaches_a_member_added_a_moment_before(join: Join, backend: BackEnd) -> None:
    a, b = await join("a"), await join("b")
    group = await create_group(backend, a)
    body = {"channel_id": group, "channel_type": GROUP, "subscribers": [b.uid]}
    await asyncio.to_thread(backend.call, "", "/channel/subscriber_add", body)
    acks = await asyncio.gather(*(a.sdk.send(group, GROUP, {"n": number}) for number in range(100)))
    assert [ack["messageSeq"] for ack in acks] == list(range(1, 101))
    got = [await b.expect(WKIMEvent.MESSAGE) for _ in range(100)]
    assert [(row["messageSeq"], row["payload"]["n"]) for row in got] == [(n + 1, n) for n in range(100)]


async def test_flags_topic_and_setting_travel(join: Join) -> None:
    a, b = await join("a"), await join("b")
    await a.sdk.send(
        b.uid,
        PERSON,
        {},
        header={"noPersist": True, "redDot": False},
        setting={"receipt": True, "topic": True},
        topic="t",
    )
    got = await b.expect(WKIMEvent.MESSAGE)
    assert (got["header"], got["setting"], got["topic"]) == ({"noPersist": True}, {"receipt": True, "topic": True}, "t")
    assert got["messageSeq"] == 0


async def test_a_streamed_message_comes_in_events(join: Join, backend: BackEnd) -> None:
    a, b = await join("a"), await join("b")
    group = await create_group(backend, a, b)
    number = await asyncio.to_thread(backend.stream, group, GROUP, a.uid, ["你", "好"])
    message = await b.expect(WKIMEvent.MESSAGE)
    assert (message["clientMsgNo"], message["setting"]) == (number, {"stream": True})
    events = [await b.expect(WKIMEvent.CUSTOM_EVENT) for _ in range(3)]
    assert [event["type"] for event in events] == ["stream.delta", "stream.delta", "stream.close"]
    assert [event["id"] for event in events] == ["e0", "e1", "end"]
    assert [event["data"]["payload"]["delta"] for event in events[:2]] == ["你", "好"]
    assert {event["data"]["client_msg_no"] for event in events} == {number}


async def test_a_refused_message_is_an_error_with_its_reason_and_the_connection_lives_on(
    join: Join, backend: BackEnd
) -> None:
    a, b = await join("a"), await join("b")
    group = await create_group(backend, b)
    with pytest.raises(WKIMError) as refused:
        await a.sdk.send(group, GROUP, {"content": "may I?"})
    assert refused.value.code == ReasonCode.SUBSCRIBER_NOT_EXIST
    await a.sdk.send(b.uid, PERSON, {"content": "then so"})
    assert (await b.expect(WKIMEvent.MESSAGE))["payload"] == {"content": "then so"}


async def test_a_wrong_token_is_final(join: Join) -> None:
    with pytest.raises(WKIMError) as refused:
        await join("a", token="not the one")
    assert refused.value.code == ReasonCode.AUTH_FAIL


async def test_a_kick_is_final_and_says_so(join: Join, backend: BackEnd) -> None:
    a = await join("a")
    body = {"uid": a.uid, "device_flag": DEVICE}
    await asyncio.to_thread(backend.call, "", "/user/device_quit", body)
    assert (await a.expect(WKIMEvent.DISCONNECT))["reasonCode"] == ReasonCode.CONNECT_KICK
    assert (await a.expect(WKIMEvent.ERROR)).code == ReasonCode.CONNECT_KICK
    assert not a.sdk.is_connected
    with pytest.raises(WKIMError) as error:
        await a.sdk.send(a.uid, PERSON, {})
    assert error.value.code == ErrorCode.NOT_CONNECTED


async def test_a_new_master_device_takes_the_place_of_the_old_one(join: Join) -> None:
    old, peer = await join("a", level=MASTER), await join("b")
    new = await join("a", token=old.token)
    assert (await old.expect(WKIMEvent.DISCONNECT))["reasonCode"] == ReasonCode.CONNECT_KICK
    await peer.sdk.send(old.uid, PERSON, {"content": "for the new one"})
    assert (await new.expect(WKIMEvent.MESSAGE))["payload"] == {"content": "for the new one"}


async def test_a_connection_lives_through_its_heartbeats(join: Join) -> None:
    """The SDK's own interval, 25 s: a pong that it does not take for an answer ends the connection."""
    a, b = await join("a"), await join("b")
    await asyncio.sleep(a.sdk.options.ping_interval * HEARTBEATS + 2)
    assert a.sdk.is_connected and b.sdk.is_connected
    await a.sdk.send(b.uid, PERSON, {"content": "still here"})
    assert (await b.expect(WKIMEvent.MESSAGE))["payload"] == {"content": "still here"}
    # Connected once, and nothing since but messages.
    for user in (a, b):
        assert user.kinds[0] is WKIMEvent.CONNECT
        assert set(user.kinds[1:]) <= {WKIMEvent.MESSAGE, WKIMEvent.SEND_ACK}


async def test_many_quick_heartbeats_between_messages_are_answered(join: Join) -> None:
    a, b = await join("a", ping_interval=0.01, pong_timeout=5), await join("b")
    for number in range(100):
        await a.sdk.send(b.uid, PERSON, {"n": number})
    assert [(await b.expect(WKIMEvent.MESSAGE))["payload"]["n"] for _ in range(100)] == list(range(100))
    assert a.sdk.is_connected


async def test_it_comes_back_by_itself_after_a_crash(join: Join, server: ServerProcess) -> None:
    a, b = await join("a", reconnect_delay=0.2, max_reconnect_attempts=50), await join("b", max_reconnect_attempts=50)
    await a.sdk.send(b.uid, PERSON, {"n": 1})
    await asyncio.to_thread(server.kill)
    for user in (a, b):
        assert (await user.expect(WKIMEvent.DISCONNECT))["reasonCode"] == ErrorCode.CONNECTION_LOST
    # Where its clients look for it.
    server.run_with(server.directory / "wk.yaml")
    await asyncio.to_thread(server.wait_ready)
    for user in (a, b):
        await user.expect(WKIMEvent.CONNECT)
    ack = await a.sdk.send(b.uid, PERSON, {"n": 2})
    assert ack["messageSeq"] == 2
    assert (await b.expect(WKIMEvent.MESSAGE))["payload"] == {"n": 2}
