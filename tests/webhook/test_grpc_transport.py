"""gRPC's messages are written by hand: they are compared with what protobuf's encoding says they are."""

import sys
from concurrent import futures
from typing import Any

import pytest

from tests.support.server import free_ports
from wukong.errors import ConfigError
from wukong.webhook import grpc_transport
from wukong.webhook.grpc_transport import GrpcTransport, encode_request, read_status
from wukong.webhook.transport import DeliveryFailed


def test_a_request_is_two_fields_with_their_lengths() -> None:
    assert encode_request("msg.notify", b"[]") == b"\x0a\x0amsg.notify\x12\x02[]"
    # 300 is 0xAC 0x02 as a varint.
    assert encode_request("e", b"x" * 300) == b"\x0a\x01e\x12\xac\x02" + b"x" * 300


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"\x08\x01", 1),
        (b"\x08\x01\x12\x02ok", 1),
        (b"\x12\x02ok\x08\x01", 1),
        (b"", 0),
        (b"\x08\x00", 0),
        (b"\x08\x02", 2),
        (b"\x12\x05ok", 0),
        (b"\x08", 0),
        (b"\x0d\x01\x00\x00\x00", 0),
        (b"\xff" * 20, 0),
    ],
)
def test_an_answer_is_success_by_its_first_field(answer: bytes, status: int) -> None:
    assert read_status(answer) == status


async def test_a_call_reaches_the_service_with_its_headers() -> None:
    grpc = pytest.importorskip("grpc")
    took: list[tuple[bytes, dict[str, Any]]] = []
    answers = [b"\x08\x01", b"\x08\x00"]

    def take(request: bytes, context: Any) -> bytes:
        took.append((request, dict(context.invocation_metadata())))
        if not answers:
            context.abort(grpc.StatusCode.INTERNAL, "a text of the back end")
        return answers.pop(0)

    backend = grpc.server(futures.ThreadPoolExecutor(1))
    methods = {"SendWebhook": grpc.unary_unary_rpc_method_handler(take)}
    backend.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("wkhook.WebhookService", methods),))
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    sent = GrpcTransport(f"127.0.0.1:{port}")
    try:
        await sent.post("msg.notify", b"[]", {"X-Wukong-Id": "7"})
        assert took[0][0] == encode_request("msg.notify", b"[]")
        assert took[0][1]["x-wukong-id"] == "7"
        with pytest.raises(DeliveryFailed, match="answered with an error"):
            await sent.post("msg.notify", b"[]", {})
        with pytest.raises(DeliveryFailed, match=r"^gRPC INTERNAL$"):
            await sent.post("msg.notify", b"[]", {})
    finally:
        await sent.close()
        backend.stop(None).wait()


async def test_nobody_there_is_a_failure() -> None:
    pytest.importorskip("grpc")
    (port,) = free_ports(1)
    sent = GrpcTransport(f"127.0.0.1:{port}")
    with pytest.raises(DeliveryFailed, match="UNAVAILABLE"):
        await sent.post("msg.notify", b"[]", {})
    await sent.close()


def test_without_the_package_the_operator_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match=r"pip install 'wukong-im\[grpc\]'"):
        GrpcTransport("127.0.0.1:1")
    assert grpc_transport.METHOD == "/wkhook.WebhookService/SendWebhook"
