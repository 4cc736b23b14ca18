"""How a request reaches the back end: gRPC, as `wkhook.WebhookService.SendWebhook`. http-api.md 16.1.

grpcio is optional: `pip install 'wukong-im[grpc]'`. Its two messages have two fields each, so they are written and read
here by hand (protobuf's encoding: a key of field number and wire type, then a varint, or a length and bytes).
"""

from collections.abc import Iterator, Mapping

from wukong.errors import ConfigError
from wukong.limits import KIB
from wukong.webhook.transport import DeliveryFailed

METHOD = "/wkhook.WebhookService/SendWebhook"
CALL_TIMEOUT_S = 10.0
ANSWER_LIMIT_BYTES = 64 * KIB
_SUCCESS = 1
_OPTIONS = (
    ("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),
    # The sender spreads attempts itself; a channel must not lie in wait for two minutes behind them.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
)


class GrpcTransport:
    """One plaintext channel to `host:port`, on which all calls run at the same time. Raises ConfigError if grpcio is
    not installed. Headers go as metadata, in lower case."""

    def __init__(self, address: str) -> None:
        try:
            from grpc import RpcError, aio
        except ImportError:
            raise ConfigError(
                ["webhook.grpcAddr: gRPC is not installed; run pip install 'wukong-im[grpc]', or use webhook.httpAddr"]
            ) from None
        self.name = f"grpc://{address}"
        self._error = RpcError
        self._channel = aio.insecure_channel(address, options=_OPTIONS)
        self._call = self._channel.unary_unary(METHOD)

    async def post(self, event: str, body: bytes, headers: Mapping[str, str]) -> None:
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        try:
            answer = await self._call(encode_request(event, body), timeout=CALL_TIMEOUT_S, metadata=metadata)
        except self._error as error:
            code = getattr(error, "code", lambda: None)()
            raise DeliveryFailed(f"gRPC {getattr(code, 'name', 'error')}") from error
        if read_status(answer) != _SUCCESS:
            raise DeliveryFailed("the back end answered with an error", refused=True)

    async def close(self) -> None:
        await self._channel.close(grace=None)


def encode_request(event: str, data: bytes) -> bytes:
    """EventReq {string event = 1; bytes data = 2}."""
    name = event.encode()
    return b"\x0a" + _varint(len(name)) + name + b"\x12" + _varint(len(data)) + data


def read_status(answer: bytes) -> int:
    """status of EventResp {EventStatus status = 1; bytes data = 2}: 1 success; 0 error, or unreadable."""
    status = 0
    try:
        for field, value in _fields(answer):
            if field == 1 and isinstance(value, int):
                status = value
    except (ValueError, IndexError):
        return 0
    return status


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields, for varints and lengths of bytes; others raise ValueError."""
    at = 0
    while at < len(raw):
        key, at = _read_varint(raw, at)
        value, at = _read_varint(raw, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2 and at + value <= len(raw):
            yield key >> 3, raw[at : at + value]
            at += value
        else:
            raise ValueError("not a field of this message")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("not a varint")
