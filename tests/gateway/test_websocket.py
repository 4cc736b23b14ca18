"""What only a WebSocket has: the upgrade, control frames, fragments, close codes, one packet per message."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.gateway.client import Client, Closed, upgrade_request, websocket_frame
from tests.gateway.conftest import World
from wukong.protocol.codec import encode
from wukong.protocol.packets import Connect, Ping, Pong, Sendack


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World("ws")
    await world.start(trusted=["127.0.0.1"], protocol={"encryption": False})
    yield world
    await world.stop()


async def bare(world: World, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["ws"])
    writer.write(request)
    return reader, writer


async def test_every_packet_is_one_binary_message(world: World) -> None:
    # The client of the suite insists on it.
    client = await world.logged_in()
    client.send_bytes(client.message(1) + encode(Ping(), 5) + client.message(2))
    packets = [await client.packet() for _ in range(3)]
    assert sorted(type(packet).__name__ for packet in packets) == ["Pong", "Sendack", "Sendack"]


async def test_packets_cut_into_fragments_and_text_messages_are_one_stream(world: World) -> None:
    client = await world.open()
    connect = encode(Connect(5, "alice", "", "d1"), 5)
    client.writer.write(websocket_frame(connect[:3], 0x02) + websocket_frame(b"are you there", 0x89))
    assert await client.next_message() == (0x8A, b"are you there")
    client.writer.write(websocket_frame(connect[3:9], 0x00) + websocket_frame(connect[9:], 0x80))
    await client.packet()
    # A PING of the protocol in a text message, of all things.
    client.writer.write(websocket_frame(encode(Ping(), 5), 0x81))
    assert await client.packet() == Pong()


async def test_the_upgrade_and_the_connect_may_come_together(world: World) -> None:
    connect = encode(Connect(5, "alice", "", "d1"), 5)
    reader, writer = await bare(world, upgrade_request() + websocket_frame(connect) + websocket_frame(b"\x70")[:3])
    await reader.readuntil(b"\r\n\r\n")
    client = Client("ws", reader, writer)
    world.clients.append(client)
    await client.packet()


async def test_the_upgrade_may_come_byte_by_byte(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["ws"])
    for byte in upgrade_request():
        writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    writer.close()


async def test_a_plain_http_request_is_told_what_this_port_is(world: World) -> None:
    reader, writer = await bare(world, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 426 ")
    writer.close()


async def test_json_in_a_binary_message_is_recognised_and_answered_in_text(world: World) -> None:
    client = await world.open()
    request = {"method": "connect", "id": "c", "params": {"uid": "eve", "deviceFlag": 1}}
    client.writer.write(websocket_frame(json.dumps(request).encode(), 0x82))
    assert (await client.json())["id"] == "c"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (websocket_frame(b"\x70", masked=False), 1002),
        (websocket_frame(b"\x70", 0xC2), 1002),
        (websocket_frame(b"\xff\xff", 0x81), 1007),
        (b"\x82\xff" + (1 << 21).to_bytes(8, "big") + bytes(4), 1009),
    ],
    # The frames hold a random mask, so they cannot name their tests.
    ids=["not masked", "compressed", "not UTF-8", "too large"],
)
async def test_bad_websocket_frames_are_closed_with_a_code(world: World, bad: bytes, code: int) -> None:
    client = await world.logged_in()
    client.writer.write(websocket_frame(b"\x70") + bad)
    assert await client.packet() == Pong()
    assert await client.closed() == code
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])


async def test_the_code_arrives_although_the_client_goes_on_sending(world: World) -> None:
    client = await world.logged_in()
    client.writer.write(b"\x82\xff" + (1 << 22).to_bytes(8, "big") + bytes(4))
    for _ in range(40):
        client.writer.write(bytes(100_000))
    with pytest.raises(Closed) as closed:
        await client.next_message()
    assert closed.value.code == 1009


async def test_messages_before_login_are_limited_more(world: World) -> None:
    client = await world.open()
    client.writer.write(b"\x82\xff" + (300_000).to_bytes(8, "big") + bytes(4))
    assert await client.closed() == 1009
    assert world.sessions.logins == {}


async def test_a_close_is_answered_with_its_code_and_the_socket_goes(world: World) -> None:
    client = await world.logged_in()
    client.writer.write(websocket_frame(client.message(1)) + websocket_frame((4001).to_bytes(2, "big") + b"bye", 0x88))
    with pytest.raises(Closed) as closed:
        while True:
            await client.next_message()
    assert closed.value.code == 4001
    assert await asyncio.wait_for(client.reader.read(), 10) == b""
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "alice")])
    assert len(world.sessions.sends) == 1


async def test_our_close_waits_for_the_clients_and_no_second_one_is_sent(world: World) -> None:
    client = await world.logged_in()
    world.gateway.drop(1)
    with pytest.raises(Closed):
        await client.next_message()
    client.writer.write(websocket_frame(b"x", 0x89) + websocket_frame((1013).to_bytes(2, "big"), 0x88))
    assert await asyncio.wait_for(client.reader.read(), 10) == b""


async def test_the_close_of_a_client_that_was_not_read_is_still_heard(world: World) -> None:
    world.sessions.congested = True
    client = await world.logged_in()
    client.send_bytes(client.message(1))
    while not world.gateway.counters.paused:
        await asyncio.sleep(0)
    world.gateway.drop(1)
    with pytest.raises(Closed):
        await client.next_message()
    client.writer.write(websocket_frame((1013).to_bytes(2, "big"), 0x88))
    assert await asyncio.wait_for(client.reader.read(), 10) == b""


async def test_a_client_that_does_not_answer_our_close_is_cut_off(world: World) -> None:
    client = await world.logged_in()
    world.gateway.drop(1)
    with pytest.raises(Closed):
        await client.next_message()
    assert world.gateway.connections == 1
    world.clock.advance(2.1)
    assert await asyncio.wait_for(client.reader.read(), 10) == b""


async def test_pings_below_the_protocol_keep_a_client_alive(world: World) -> None:
    client = await world.logged_in()
    for _ in range(5):
        world.clock.advance(100)
        await asyncio.sleep(0.05)
        client.writer.write(websocket_frame(b"", 0x89))
        assert await client.next_message() == (0x8A, b"")


async def test_the_address_comes_from_the_headers_of_a_trusted_proxy(world: World) -> None:
    client = await world.open(headers="X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\nX-Real-Port: 4444\r\n")
    await client.login()
    assert world.sessions.logins[1].peer == ("203.0.113.9", 4444)


async def test_headers_of_anybody_else_do_not_count() -> None:
    world = World("ws")
    await world.start(trusted=["10.0.0.0/8"])
    client = await world.open(headers="X-Forwarded-For: 203.0.113.9\r\n")
    await client.login()
    assert world.sessions.logins[1].peer[0] == "127.0.0.1"
    await world.stop()


async def test_a_proxy_header_inside_the_websocket_does_not_count(world: World) -> None:
    client = await world.open()
    client.send_bytes(b"PROXY TCP4 203.0.113.9 10.0.0.1 4444 5100\r\n" + encode(Connect(5, "alice", "", "d1"), 5))
    assert await client.closed() == 1002
    assert world.sessions.logins == {}


async def test_large_packets_come_and_go_in_one_message(world: World) -> None:
    client = await world.logged_in()
    client.send_bytes(client.message(1, bytes(32_767)))
    ack = await client.packet()
    assert isinstance(ack, Sendack)
    assert ack.reason_code == 1
