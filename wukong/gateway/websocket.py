"""A client on a WebSocket, with or without TLS: HTTP upgrade first, then one packet in one message.

All that comes in messages is one byte stream (frames.py). What leaves is one message per packet, because SDKs lose
packets otherwise (wkproto.md, section 9); the messages that become ready together still leave in one write.
"""

from wukong.dispatch.deliveries import CLIENT_CLOSED, PROTOCOL_ERROR
from wukong.errors import ProtocolError
from wukong.gateway.endpoint import Endpoint
from wukong.gateway.frames import BINARY, CLOSE, TEXT, CloseCode, FrameReader, close_frame, frame_header
from wukong.gateway.hub import Hub
from wukong.gateway.link import HANDSHAKE, OPENING
from wukong.gateway.upgrade import UpgradeRefused, accept_response, read_request
from wukong.protocol import proxy
from wukong.protocol.crypto import ServerHandshake

_PACKET_HEADER_BYTES = 5


class WebSocketEndpoint(Endpoint):
    __slots__ = ("_from_proxy", "_head", "_reader")

    kind = "ws"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        # The start of the HTTP request, until it is complete.
        self._head = b""
        self._reader: FrameReader | None = None
        self._from_proxy = False

    def _begin(self, *, from_proxy: bool) -> None:
        # Inside the WebSocket a PROXY header never counts: there the client speaks, whoever carries it.
        super()._begin(from_proxy=False)
        self._from_proxy = from_proxy

    # Bytes in --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if self.is_condemned:
            self.drop()
        if reader is None:
            self._read_upgrade(data)
            return
        if reader.fault is not None and data[0] == CLOSE:
            # Out of step with a client that broke the rules; this looks like its CLOSE, and nothing more is to come.
            self._transport.close()
            return
        stream = reader.receive_data(data)
        if stream:
            super().data_received(stream)
        else:
            self._last_read_at = self._hub.monotonic()
        if reader.replies or reader.is_closed:
            self._control(reader)

    def _control(self, reader: FrameReader) -> None:
        """A PING, a CLOSE, or a bad frame has come."""
        replies, reader.replies = reader.replies, b""
        # After our own CLOSE nothing may follow. Whoever does not read gets no PONG either: it must not pile up.
        if replies and not self.is_closing and not self._write_paused:
            self._transport.write(replies)
        if not reader.is_closed:
            return
        if reader.fault is not None:
            if not self.is_closing:
                self._hub.counters.protocol_errors += 1
                self.close(reader.fault, PROTOCOL_ERROR)
        elif self.is_closing:
            # Both have said CLOSE.
            self._transport.close()
        else:
            # Its CLOSE has been answered already.
            self._reader = None
            self.close(CloseCode.NORMAL, CLIENT_CLOSED)

    def _read_upgrade(self, data: bytes) -> None:
        if self._phase is not OPENING and self._phase is not HANDSHAKE:
            return
        self._first_byte()
        data = self._head + data
        self._head = b""
        try:
            if self._from_proxy and proxy.may_be_header(data):
                header = proxy.read_header(data)
                if header is None:
                    self._head = data
                    return
                self._from_proxy = False
                if header.source is not None:
                    self.peer = header.source.host, header.source.port
                data = data[header.size_bytes :]
            request = read_request(data)
        except ProtocolError:
            self._hub.counters.protocol_errors += 1
            self.close(CloseCode.PROTOCOL_ERROR, PROTOCOL_ERROR)
            return
        except UpgradeRefused as refused:
            self._hub.counters.protocol_errors += 1
            self._transport.write(refused.response)
            self.close(CloseCode.PROTOCOL_ERROR, PROTOCOL_ERROR)
            return
        if request is None:
            self._head = data
            return
        self.peer = self._hub.trusted_proxies.client_of(self.peer, request.headers)
        self._transport.write(accept_response(request.key))
        self._reader = FrameReader(limit_bytes=self._hub.connection_options.login_limit_bytes)
        if len(data) > request.size_bytes:
            self.data_received(data[request.size_bytes :])

    def _open(self, handshake: ServerHandshake | None) -> None:
        super()._open(handshake)
        if self._reader is not None:
            self._reader.limit_bytes = self._hub.connection_options.frame_limit_bytes + _PACKET_HEADER_BYTES

    # Bytes out -------------------------------------------------------------------------------------------------------

    def _write(self, frame: bytes) -> None:
        self._transport.write(frame_header(TEXT if self._connection.is_json else BINARY, len(frame)) + frame)

    def _write_many(self, frames: list[bytes]) -> None:
        first = TEXT if self._connection.is_json else BINARY
        pieces = []
        for frame in frames:
            pieces.append(frame_header(first, len(frame)))
            pieces.append(frame)
        self._transport.write(b"".join(pieces))

    def _hang_up(self, code: CloseCode) -> None:
        if self._reader is None:
            self._transport.close()
            return
        self._transport.write(close_frame(code))
        # The client closes in turn; a socket that goes with unread bytes in it would be reset, and the CLOSE lost.
        self._resume_reading()


class SecureWebSocketEndpoint(WebSocketEndpoint):
    __slots__ = ()

    kind = "wss"
