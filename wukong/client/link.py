"""One connection from login to its end: a transport and the protocol's client half, with a queue of frames to write.

Frames are queued by plain calls and written by one task, so what is sent in one turn of the loop leaves in one write.
"""

import asyncio
import contextlib
import ssl
from typing import Final

from wukong.client.errors import ConnectionLost, Kicked, LoginRefused
from wukong.client.transport import Transport, open_transport
from wukong.client.wire import ClientWire, WireEvent
from wukong.errors import ProtocolError
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import LATEST_VERSION, Connack, Disconnect
from wukong.protocol.reasons import ReasonCode

FLUSH_TIMEOUT_S: Final = 1.0


class Link:
    """number: tells the connections of a client apart. The events of `next_events` come in the order of the wire.

    The queue of frames has no limit of its own: it holds acknowledgements of what was read and SENDs in flight, and
    both are limited.
    """

    def __init__(self, transport: Transport, wire: ClientWire, number: int) -> None:
        self._transport = transport
        self.wire = wire
        self.number = number
        self._frames: list[bytes] = []
        self._wake = asyncio.Event()
        self._early: list[WireEvent] = []
        self.last_received = asyncio.get_running_loop().time()

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        transport: str,
        tls: ssl.SSLContext | None,
        encrypt: bool,
        uid: str,
        token: str,
        device_id: str,
        device_flag: int,
        now_ms: int,
        number: int,
        timeout_s: float,
    ) -> "Link":
        """Connect and log in within timeout_s. Raises LoginRefused, ConnectionLost, ProtocolError, OSError,
        TimeoutError."""
        wire = ClientWire(handshake=ClientHandshake() if encrypt else None, version=LATEST_VERSION)
        connect_frame = wire.connect_frame(
            uid=uid, token=token, device_id=device_id, device_flag=device_flag, now_ms=now_ms
        )
        async with asyncio.timeout(timeout_s):
            link = cls(await open_transport(address, transport, tls=tls, timeout_s=timeout_s), wire, number)
            try:
                await link._transport.send([connect_frame])
                await link._await_connack()
            except BaseException:
                await link._transport.close()
                raise
        return link

    async def _await_connack(self) -> None:
        while not self.wire.logged_in:
            data = await self._transport.receive()
            if not data:
                raise ConnectionLost("closed without an answer to CONNECT")
            self._early += self.wire.receive_data(data)
            if self._early and isinstance(self._early[0], Disconnect):
                raise Kicked(self._early[0].reason_code, self._early[0].reason)
            if self._early and not isinstance(self._early[0], Connack):
                raise ProtocolError("the first answer is not CONNACK")
            if self._early and isinstance(self._early[0], Connack):
                if self._early[0].reason_code != ReasonCode.SUCCESS:
                    raise LoginRefused(self._early[0].reason_code)
                del self._early[0]

    async def next_events(self) -> list[WireEvent]:
        """Raises ConnectionLost when the peer has closed, ProtocolError, OSError."""
        if self._early:
            events, self._early = self._early, []
            return events
        data = await self._transport.receive()
        self.last_received = asyncio.get_running_loop().time()
        if not data:
            raise ConnectionLost("the server closed the connection")
        return self.wire.receive_data(data)

    def write(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._wake.set()

    async def write_frames(self) -> None:
        """The writing task; ends with the connection. Raises OSError or ConnectionLost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            frames, self._frames = self._frames, []
            await self._transport.send(frames)

    async def close(self) -> None:
        """Write what is queued, if it goes quickly, and close. Call it when the writing task has ended."""
        if self._frames:
            with contextlib.suppress(OSError, TimeoutError, ConnectionLost):
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self._transport.send(self._frames)
        await self._transport.close()
