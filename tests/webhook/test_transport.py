"""HTTP as a back end sees it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.webhooks import Request, WebhookReceiver, webhook_receiver
from wukong.webhook import transport
from wukong.webhook.transport import DeliveryFailed, HttpTransport, event_url


@pytest.fixture
def receiver() -> AsyncIterator[WebhookReceiver]:  # type: ignore[misc]
    with webhook_receiver() as opened:
        yield opened  # type: ignore[misc]


@pytest.fixture
async def sent(receiver: WebhookReceiver) -> AsyncIterator[HttpTransport]:
    made = HttpTransport(receiver.address, connections=4)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://h/hook", "http://h/hook?event=msg.notify"),
        # Trap 49
        ("http://h/hook?key=v", "http://h/hook?key=v&event=msg.notify"),
        ("http://h", "http://h?event=msg.notify"),
        ("http://h/a#b", "http://h/a?event=msg.notify#b"),
    ],
)
def test_the_event_is_the_last_parameter(address: str, url: str) -> None:
    assert event_url(address, "msg.notify") == url


async def test_a_request_is_a_post_of_json(sent: HttpTransport, receiver: WebhookReceiver) -> None:
    await sent.post("msg.notify", b'["x"]', {"X-Wukong-Id": "7"})
    (request,) = receiver.requests
    assert (request.path, request.body) == ("/hook?event=msg.notify", b'["x"]')
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-wukong-id"] == "7"


@pytest.mark.parametrize("status", [201, 204, 302, 400, 500])
async def test_only_status_200_is_success(sent: HttpTransport, receiver: WebhookReceiver, status: int) -> None:
    # Trap 50
    receiver.answer = lambda request: status
    with pytest.raises(DeliveryFailed, match=f"HTTP {status}"):
        await sent.post("msg.notify", b"[]", {})
    assert receiver.tries == 1


async def test_nobody_there_is_a_failure(sent: HttpTransport, receiver: WebhookReceiver) -> None:
    receiver.close()
    with pytest.raises(DeliveryFailed):
        await sent.post("msg.notify", b"[]", {})


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(
    sent: HttpTransport, receiver: WebhookReceiver
) -> None:
    await sent.post("msg.notify", b"[]", {})
    receiver.close()
    receiver.open()
    await sent.post("msg.notify", b"[]", {})
    assert len(receiver.requests) == 2


async def test_an_answer_that_does_not_come_is_a_failure(
    receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEADERS_TIMEOUT_S", 0.1)

    def late(request: Request) -> int:
        time.sleep(0.5)
        return 200

    receiver.answer = late
    sent = HttpTransport(receiver.address, connections=4)
    with pytest.raises(DeliveryFailed, match="no answer in time"):
        await sent.post("msg.notify", b"[]", {})
    await sent.close()


async def test_an_answer_without_an_end_is_not_read_to_it(unused_tcp_port_factory: object = None) -> None:
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        except OSError:
            writer.transport.abort()
            gone.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sent = HttpTransport(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", connections=1)
    async with asyncio.timeout(5):
        await sent.post("msg.notify", b"[]", {})
        await sent.close()
        await gone.wait()
    server.close()


async def test_its_name_holds_no_path_and_no_credentials() -> None:
    sent = HttpTransport("http://user:password@h:80/token?key=secret", connections=1)
    assert sent.name == "http://h:80"
    await sent.close()
