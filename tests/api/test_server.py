"""What is common to all routes: token, CORS, unknown paths, limits, errors. http-api.md section 2."""

import asyncio

import pytest

from tests.api.calls import OK, Api
from tests.service.stack import Stack
from wukong.api.server import ApiOptions, ApiServer, build_app
from wukong.errors import RequestRefused

CREATE = {"channel_id": "g", "channel_type": 2}


async def with_options(options: ApiOptions, *, timeout_ms: int = 2_000) -> Api:
    return Api(await Stack(timeout_ms=timeout_ms).start(), options)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/"),
        ("GET", "/message/send"),
        ("POST", "/health"),
        ("PUT", "/channel"),
        ("DELETE", "/channel"),
        ("HEAD", "/health"),
        ("POST", "/channel/nope"),
        ("GET", "/conversations"),
        ("POST", "/message/search"),
        ("POST", "/message/revoke"),
        ("POST", "/streammessage/start"),
    ],
)
async def test_unknown_paths_and_wrong_methods_are_not_found_in_plain_text(api: Api, method: str, path: str) -> None:
    answer = await api.call(method, path, raw=b"{}")
    assert (answer.status, answer.content_type) == (404, "text/plain")
    assert answer.body == ("" if method == "HEAD" else "404 page not found")


@pytest.mark.parametrize("path", ["/message/send", "/health", "/nope"])
async def test_options_are_answered_for_any_path_without_a_body(api: Api, path: str) -> None:
    answer = await api.call("OPTIONS", path)
    assert (answer.status, answer.body) == (204, "")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "token" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS, GET, PUT,DELETE,PATCH"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/nope"), ("POST", "/channel"), ("GET", "/metrics")]
)
async def test_every_answer_has_the_cors_headers(api: Api, method: str, path: str) -> None:
    assert (await api.call(method, path)).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/health"), ("POST", "/channel"), ("GET", "/nope"), ("OPTIONS", "/channel"), ("GET", "/metrics")],
)
@pytest.mark.parametrize("token", [None, "", "wrong", "secre", "secret1", "é"])
async def test_without_the_manager_token_everything_is_401_with_nothing_in_it(
    method: str, path: str, token: str | None
) -> None:
    async with await with_options(ApiOptions(manager_token="secret")) as api:
        headers = None if token is None else {"token": token}
        answer = await api.call(method, path, headers=headers)
        assert (answer.status, answer.body) == (401, "")
        assert "access-control-allow-origin" not in answer.headers


async def test_with_the_manager_token_everything_is_as_usual() -> None:
    async with await with_options(ApiOptions(manager_token=" secret ")) as api:
        headers = {"Token": "secret"}
        assert (await api.call("GET", "/health", headers=headers)).body == {"status": "ok"}
        assert (await api.call("POST", "/channel", CREATE, headers=headers)).body == OK
        assert (await api.call("GET", "/nope", headers=headers)).status == 404
        assert (await api.call("OPTIONS", "/channel", headers=headers)).status == 204


async def test_a_blank_manager_token_is_none() -> None:
    async with await with_options(ApiOptions(manager_token="  ")) as api:
        assert (await api.call("GET", "/health")).status == 200


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "nonsense"}])
async def test_the_content_type_of_a_request_is_not_looked_at(api: Api, headers: dict[str, str]) -> None:
    assert (await api.call("POST", "/channel", CREATE, headers=headers)).body == OK


async def test_answers_and_refusals_are_json_in_utf_8(api: Api) -> None:
    assert (await api.call("POST", "/channel", CREATE)).content_type == "application/json; charset=utf-8"
    assert (await api.call("POST", "/channel", {})).content_type == "application/json; charset=utf-8"


async def test_a_body_over_the_limit_is_refused_and_nothing_is_changed() -> None:
    async with await with_options(ApiOptions(body_limit_bytes=1_000)) as api:
        large = {**CREATE, "subscribers": [f"user-{n}" for n in range(200)]}
        answer = await api.call("POST", "/channel", large)
        assert answer.status == 413
        assert answer.body["status"] == 413
        assert "1000" in answer.body["msg"]
        assert api.stack.node.state_of("g").head(b"\x02\x00\x01g") is None
        assert await api.post("/channel", CREATE) == OK


async def first_line(request: bytes, options: ApiOptions) -> bytes:
    """The status line that a server answers to these bytes, while the connection stays open."""
    stack = await Stack().start()
    server = ApiServer(build_app(stack.use_cases, options))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    await server.stop()
    return line


async def test_a_body_over_the_limit_is_refused_before_it_comes() -> None:
    head = b"POST /channel HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"
    assert (await first_line(head, ApiOptions(body_limit_bytes=1_000))).startswith(b"HTTP/1.1 413 ")


async def test_a_body_over_the_limit_whose_length_is_not_told_is_refused_while_it_comes() -> None:
    head = b"POST /channel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = 20 * (b"64\r\n" + b" " * 100 + b"\r\n")
    assert (await first_line(head + chunks, ApiOptions(body_limit_bytes=1_000))).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wukong.api.request.BODY_TIMEOUT_S", 0.02)
    head = b"POST /channel HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    assert (await first_line(head, ApiOptions())).startswith(b"HTTP/1.1 408 ")


async def test_an_unavailable_log_is_503_in_the_shape_of_errors() -> None:
    async with await with_options(ApiOptions(), timeout_ms=20) as api:
        api.stack.log.hold = True
        answer = await api.call("POST", "/channel", CREATE)
        assert answer.status == 503
        assert answer.body.keys() == {"msg", "status"}
        assert answer.body["status"] == 503


async def test_a_stopped_node_is_503(api: Api) -> None:
    api.stack.node.shut()
    assert (await api.call("POST", "/channel", CREATE)).status == 503


async def test_a_refusal_may_have_another_number_in_its_body(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(*_: object, **__: object) -> None:
        raise RequestRefused("没有权限", code=403)

    monkeypatch.setattr(api.stack.use_cases.channels, "put", forbidden)
    answer = await api.call("POST", "/channel", CREATE)
    assert (answer.status, answer.body) == (400, {"msg": "没有权限", "status": 403})


async def test_a_fault_of_ours_is_500_and_leaves_the_server_alive(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api.stack.use_cases.channels, "put", broken)
    answer = await api.call("POST", "/channel", CREATE)
    assert (answer.status, answer.body["status"]) == (500, 500)
    assert "ZeroDivisionError" in caplog.text
    assert await api.get("/health") == {"status": "ok"}


async def test_a_caller_that_goes_away_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wukong.api")
    stack = await Stack().start()
    server = ApiServer(build_app(stack.use_cases, ApiOptions()))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /channel HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
    writer.transport.abort()
    async with asyncio.timeout(10):
        while "the caller went away" not in caplog.text:
            await asyncio.sleep(0.005)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    await server.stop()


async def test_a_lost_connection_of_ours_stays_a_fault_of_ours_while_the_caller_waits(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(api.stack.use_cases.channels, "put", broken)
    assert (await api.call("POST", "/channel", CREATE)).status == 500
    assert "ConnectionResetError" in caplog.text


async def test_more_requests_at_once_than_the_limit_get_503_and_the_others_their_answer() -> None:
    async with await with_options(ApiOptions(requests_limit=3)) as api:
        api.stack.log.hold = True
        waiting = [asyncio.create_task(api.call("POST", "/channel", CREATE)) for _ in range(3)]
        while len(api.stack.node._streams[api.stack.node.slot("g")].in_flight) < 3:
            await asyncio.sleep(0)
        assert (await api.call("GET", "/health")).status == 503
        api.stack.log.release()
        assert [answer.body for answer in await asyncio.gather(*waiting)] == [OK] * 3
        assert (await api.call("GET", "/health")).status == 200


async def test_a_server_on_port_0_tells_its_port_and_can_be_stopped() -> None:
    stack = await Stack().start()
    server = ApiServer(build_app(stack.use_cases, ApiOptions()))
    port = await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    await server.stop()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_in_use_is_an_error_and_leaves_nothing_behind() -> None:
    stack = await Stack().start()
    first = ApiServer(build_app(stack.use_cases, ApiOptions()))
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(OSError):
        await ApiServer(build_app(stack.use_cases, ApiOptions())).start("127.0.0.1", port)
    await first.stop()
