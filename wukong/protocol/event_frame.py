"""One EVENT on its way to many connections, encoded once per form (wkproto.md, 3.10 and 7.7)."""

from wukong.protocol import jsonrpc
from wukong.protocol.codec import encode
from wukong.protocol.packets import LATEST_VERSION, Event


class SharedEvent:
    """The binary layout does not depend on the version, and nothing is encrypted. An empty id is refused: clients
    choke on it."""

    __slots__ = ("_frame", "_json_text", "packet")

    def __init__(self, packet: Event) -> None:
        if not packet.id:
            raise ValueError("an event has an id")
        self.packet = packet
        self._frame = b""
        self._json_text = b""

    def frame(self) -> bytes:
        """For WKProto connections of version 5 and up; older clients break on the packet type."""
        if not self._frame:
            self._frame = encode(self.packet, LATEST_VERSION)
        return self._frame

    def json_text(self) -> bytes:
        """The `event` notification."""
        if not self._json_text:
            self._json_text = jsonrpc.encode_event(self.packet)
        return self._json_text
