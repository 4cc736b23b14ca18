import asyncio
import contextlib

import pytest

from tests.client.small_server import SmallServer
from wukong.client.errors import ConnectionLost
from wukong.client.transport import host_and_port, open_transport, split_address


@pytest.mark.parametrize(
    ("address", "transport", "found"),
    [
        ("127.0.0.1:5100", "tcp", ("tcp", "127.0.0.1:5100")),
        ("tcp://im.example:5100", "tcp", ("tcp", "im.example:5100")),
        ("im.example:5200", "ws", ("ws", "ws://im.example:5200")),
        ("ws://im.example:5200/path", "tcp", ("ws", "ws://im.example:5200/path")),
        ("wss://im.example", "ws", ("ws", "wss://im.example")),
        ("[::1]:5100", "tcp", ("tcp", "[::1]:5100")),
    ],
)
def test_an_address_decides_the_transport(address: str, transport: str, found: tuple[str, str]) -> None:
    assert split_address(address, transport) == found


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "http://host:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|URL"):
        split_address(address, "tcp")


def test_a_transport_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="udp"):
        split_address("host:1", "udp")


def test_the_brackets_of_an_ipv6_address_are_taken_off() -> None:
    assert host_and_port("[::1]:5100") == ("::1", 5100)


async def test_a_server_that_is_no_websocket_server_is_told(server: SmallServer) -> None:
    with pytest.raises((ConnectionLost, OSError)):
        await open_transport(f"ws://{server.tcp}", "ws", timeout_s=2)


async def test_a_wrong_websocket_path_is_told(server: SmallServer) -> None:
    with pytest.raises(ConnectionLost, match="404"):
        await open_transport(server.ws + "/nothing", "ws")


async def test_closing_twice_is_as_good_as_once(server: SmallServer, transport: str) -> None:
    opened = await open_transport(server.tcp if transport == "tcp" else server.ws, transport)
    await opened.close()
    await opened.close()


async def test_a_place_that_does_not_answer_is_given_up() -> None:
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        gone.set()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError):
        await open_transport(f"ws://127.0.0.1:{port}", "ws", timeout_s=0.05)
    await gone.wait()
    listener.close()
    await listener.wait_closed()
