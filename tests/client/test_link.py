import asyncio
from collections.abc import Sequence

import pytest

from tests.client.small_server import SmallServer
from wukong.client.errors import ConnectionLost, Kicked
from wukong.client.link import Link
from wukong.client.wire import ClientWire
from wukong.errors import ProtocolError
from wukong.protocol.codec import encode
from wukong.protocol.packets import Disconnect, Pong


class Recorder:
    """A transport that keeps what is written; received is what it gives, one piece a call."""

    def __init__(self, *received: bytes) -> None:
        self.received = list(received)
        self.writes: list[list[bytes]] = []
        self.closed = False

    async def receive(self) -> bytes:
        return self.received.pop(0) if self.received else b""

    async def send(self, frames: Sequence[bytes]) -> None:
        self.writes.append(list(frames))

    async def close(self) -> None:
        self.closed = True


def link_over(transport: Recorder) -> Link:
    return Link(transport, ClientWire(handshake=None), 1)


async def test_frames_of_one_turn_leave_in_one_write() -> None:
    transport = Recorder()
    link = link_over(transport)
    writing = asyncio.create_task(link.write_frames())
    for frame in (b"a", b"b"):
        link.write(frame)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    link.write(b"c")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    assert transport.writes == [[b"a", b"b"], [b"c"]]


async def test_what_is_queued_is_written_before_the_end() -> None:
    transport = Recorder()
    link = link_over(transport)
    link.write(b"a")
    await link.close()
    assert (transport.writes, transport.closed) == ([[b"a"]], True)


async def test_the_end_of_the_stream_is_the_end_of_the_connection() -> None:
    link = link_over(Recorder(b"\x80"))
    assert await link.next_events() == [Pong()]
    with pytest.raises(ConnectionLost):
        await link.next_events()


async def test_a_kick_instead_of_an_answer_is_a_kick() -> None:
    link = link_over(Recorder(encode(Disconnect(12, "away"), 5)))
    with pytest.raises(Kicked, match="away"):
        await link._await_connack()


async def test_any_other_first_answer_breaks_the_protocol() -> None:
    link = link_over(Recorder(b"\x80"))
    with pytest.raises(ProtocolError, match="not CONNACK"):
        await link._await_connack()


async def test_what_comes_right_behind_the_connack_is_not_lost(server: SmallServer) -> None:
    arrived = asyncio.Event()

    async def push_at_login() -> None:
        session = await server.until_logged_in("a")
        await session.write_raw(b"\x80\x80")
        arrived.set()

    pushing = asyncio.create_task(push_at_login())
    link = await Link.open(
        server.tcp,
        transport="tcp",
        tls=None,
        encrypt=True,
        uid="a",
        token="",
        device_id="d",
        device_flag=0,
        now_ms=0,
        number=1,
        timeout_s=5,
    )
    await arrived.wait()
    await pushing
    events = await link.next_events()
    while len(events) < 2:
        events += await link.next_events()
    assert events == [Pong(), Pong()]
    await link.close()
