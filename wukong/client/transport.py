"""A byte stream to the server, over TCP or WebSocket, behind one small interface."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Final, Protocol

import aiohttp

from wukong.client.errors import ConnectionLost

READ_BYTES: Final = 65_536
WEBSOCKET_MESSAGE_LIMIT_BYTES: Final = 2 * 1024 * 1024
CLOSE_TIMEOUT_S: Final = 2.0


class Transport(Protocol):
    async def receive(self) -> bytes:
        """Some bytes that came; b"" when the peer has closed. Nothing is read from the socket ahead of need but a
        small buffer, so a caller that does not call stops the peer."""
        ...

    async def send(self, frames: Sequence[bytes]) -> None:
        """Write whole frames in order; returns when there is room for more. Raises OSError or ConnectionLost."""
        ...

    async def close(self) -> None:
        """Never raises for a connection that is gone already; takes two seconds at most."""
        ...


class TcpTransport:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        return await self._reader.read(READ_BYTES)

    async def send(self, frames: Sequence[bytes]) -> None:
        self._writer.write(b"".join(frames))
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


class WebSocketTransport:
    """One frame in one binary message, as the server does it (wkproto.md, 9)."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._socket = socket

    async def receive(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
            elif message.type is aiohttp.WSMsgType.TEXT:
                data = message.data.encode()
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise ConnectionLost(f"WebSocket error: {message.data}")
            else:
                return b""
            if data:
                return data

    async def send(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            await self._socket.send_bytes(frame)

    async def close(self) -> None:
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
        await self._session.close()


async def open_transport(
    address: str, transport: str, *, tls: ssl.SSLContext | None = None, timeout_s: float = 10.0
) -> Transport:
    """Connect. address and transport as `split_address` takes them; tls: for wss:// only. Raises OSError or
    TimeoutError."""
    kind, place = split_address(address, transport)
    async with asyncio.timeout(timeout_s):
        if kind == "ws":
            return await _open_websocket(place, tls)
        host, port = host_and_port(place)
        return TcpTransport(*await asyncio.open_connection(host, port, limit=READ_BYTES))


async def _open_websocket(url: str, tls: ssl.SSLContext | None) -> Transport:
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
    try:
        socket = await session.ws_connect(
            url,
            ssl=tls or True,
            max_msg_size=WEBSOCKET_MESSAGE_LIMIT_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
        )
    except aiohttp.ClientError as fault:
        await session.close()
        if isinstance(fault, OSError):
            raise
        raise ConnectionLost(f"no WebSocket at {url}: {fault}") from fault
    except BaseException:
        await session.close()
        raise
    return WebSocketTransport(session, socket)


def split_address(address: str, transport: str) -> tuple[str, str]:
    """("tcp", "host:port") or ("ws", url). address: "host:port", tcp://host:port, or a ws:// or wss:// URL, which
    decides by itself; transport "ws" makes a URL of a bare "host:port". Raises ValueError for anything else."""
    if address.startswith(("ws://", "wss://")):
        return "ws", address
    address = address.removeprefix("tcp://")
    if "://" in address:
        raise ValueError(f"{address!r} is neither host:port nor a ws:// or wss:// URL")
    host_and_port(address)
    if transport == "ws":
        return "ws", f"ws://{address}"
    if transport != "tcp":
        raise ValueError(f"transport {transport!r} is neither tcp nor ws")
    return "tcp", address


def host_and_port(address: str) -> tuple[str, int]:
    """host:port or [v6]:port. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
