"""A client on a TCP socket: the stream is the socket's."""

from wukong.gateway.endpoint import Endpoint
from wukong.gateway.frames import CloseCode


class TcpEndpoint(Endpoint):
    __slots__ = ()

    kind = "tcp"

    def _write(self, frame: bytes) -> None:
        self._transport.write(frame)

    def _write_many(self, frames: list[bytes]) -> None:
        self._transport.write(b"".join(frames))

    def _hang_up(self, code: CloseCode) -> None:
        self._transport.close()
