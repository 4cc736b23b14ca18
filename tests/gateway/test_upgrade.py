"""The HTTP request that opens a WebSocket."""

import pytest

from wukong.gateway.upgrade import REQUEST_LIMIT_BYTES, UpgradeRefused, accept_response, read_request

# RFC 6455, section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

GOOD = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET /chat?x=1 HTTP/1.1", **changed: str | None) -> bytes:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1")


def test_a_request_is_read_when_it_is_complete() -> None:
    data = request()
    for at in range(len(data)):
        assert read_request(data[:at]) is None
    found = read_request(data + b"frames")
    assert found is not None
    assert found.size_bytes == len(data)
    assert found.headers["host"] == "server.example.com"
    response = accept_response(found.key)
    assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode() in response
    assert response.endswith(b"\r\n\r\n")
    assert b"Protocol:" not in response
    assert b"Extensions" not in response


@pytest.mark.parametrize(
    "changed",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE"},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Sec_WebSocket_Protocol": "chat"},
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        {"X_Empty": ""},
        {"X_Latin": "caf\xe9"},
    ],
)
def test_what_browsers_and_proxies_send_is_taken(changed: dict[str, str]) -> None:
    assert read_request(request(**changed)) is not None


def test_headers_may_repeat_and_come_in_any_case() -> None:
    data = request().replace(b"Upgrade: websocket", b"uPGRADE:\twebsocket  \r\nX-A: 1\r\nx-a: 2")
    found = read_request(data)
    assert found is not None
    assert found.headers["x-a"] == "1, 2"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("POST / HTTP/1.1"), "405"),
        (request("GET / HTTP/1.0"), "405"),
        (request("GET / HTTP/2.0"), "400"),
        (request("GET  / HTTP/1.1"), "400"),
        (request("hello"), "400"),
        (request(Upgrade=None), "426"),
        (request(Connection="keep-alive"), "426"),
        (request(Sec_WebSocket_Version="8"), "426"),
        (request(Sec_WebSocket_Key=None), "400"),
        (request(Sec_WebSocket_Key="short"), "400"),
        (request(Sec_WebSocket_Key="é" * 24), "400"),
        (request().replace(b"Host:", b"Host"), "400"),
        (request().replace(b"Host:", b" Host:"), "400"),
        (b"x" * REQUEST_LIMIT_BYTES, "431"),
        (request(X_Long="x" * REQUEST_LIMIT_BYTES), "431"),
    ],
)
def test_other_requests_are_refused_with_a_whole_answer(data: bytes, status: str) -> None:
    with pytest.raises(UpgradeRefused) as refused:
        read_request(data)
    head, _, body = refused.value.response.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
