"""Every route with a body reads it as leniently as a Go server does, and refuses in the documented shape.

http-api.md 2.4 and 2.6; 21, no 4 and 5. The routes are those of the table that the API's document is made from.
"""

import json
import typing
from typing import Any

import pytest

from tests.api.calls import OK, Answer, Api
from wukong.api.openapi import OPERATIONS, Operation

# Logins have their own rules; of /cluster not every node has the routes; bodies of our own routes are read strictly.
ELSEWHERE = ("/cluster", "/manager", "/retention", "/erase")
WITH_BODY = [operation for operation in OPERATIONS if operation.body and not operation.path.startswith(ELSEWHERE)]
WITH_FIELDS = [operation for operation in WITH_BODY if operation.body != list[str]]

EXAMPLES: dict[str, Any] = {
    "channel_id": "g",
    "channel_type": 2,
    "login_uid": "a",
    "uid": "a",
    "from_uid": "a",
    "uids": ["a", "b"],
    "payload": "eyJ0eXBlIjoxfQ==",
    "client_msg_no": "n1",
    "client_msg_nos": ["n1"],
    "token": "t",
    "event_id": "e1",
    "event_type": "stream.delta",
    "conn_id": 9,
    "limit": 5,
    "msg_count": 5,
    "last_message_seq": 1,
    "message_seqs": [1],
    "channels": [{"channel_id": "g", "channel_type": 2}],
}


def path_of(operation: Operation) -> str:
    return operation.path


def example(operation: Operation) -> Any:
    """A body that the route takes."""
    if operation.body == list[str]:
        return ["a", "b"]
    fields = typing.get_type_hints(operation.body)
    found = {name: value for name, value in EXAMPLES.items() if name in fields}
    if "subscribers" in fields and operation.path != "/message/send":
        found["subscribers"] = ["a", "b"]
    return found


def without_numbers(answer: Answer) -> Any:
    """What is equal for equal requests: not the ids that are given out, nor what counts events."""
    body = answer.body
    if isinstance(body, dict) and "data" in body:
        return answer.status, body["data"].keys()
    return answer.status, body


async def prepare(api: Api) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": ["a", "b"]})


@pytest.mark.parametrize("operation", WITH_BODY, ids=path_of)
async def test_a_plain_body_is_taken(api: Api, operation: Operation) -> None:
    await prepare(api)
    answer = await api.call(operation.method, operation.path, example(operation))
    assert answer.status == 200, answer


@pytest.mark.parametrize("operation", WITH_BODY, ids=path_of)
async def test_bytes_behind_the_body_and_its_content_type_are_not_looked_at(api: Api, operation: Operation) -> None:
    await prepare(api)
    text = json.dumps(example(operation)).encode()
    plain = without_numbers(await api.call(operation.method, operation.path, raw=text))
    for raw in (text + b"\n", text + b" trailing", text + b"{}{", b" \r\n\t" + text):
        assert without_numbers(await api.call(operation.method, operation.path, raw=raw)) == plain, raw
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "nonsense", "application/json;charset=x"):
        headers = {"Content-Type": content_type}
        answer = await api.call(operation.method, operation.path, raw=text, headers=headers)
        assert without_numbers(answer) == plain, content_type


@pytest.mark.parametrize("operation", WITH_FIELDS, ids=path_of)
async def test_letter_case_of_keys_and_unknown_fields_are_not_looked_at(api: Api, operation: Operation) -> None:
    await prepare(api)
    body = example(operation)
    plain = without_numbers(await api.call(operation.method, operation.path, body))
    upper = {name.upper(): value for name, value in body.items()}
    title = {name.title(): value for name, value in body.items()}
    more = {"setting": 64, "stream_no": "", "larges": [], "device_uuid": "d", "nothing": {"a": None}, **body}
    for other in (upper, title, more):
        assert without_numbers(await api.call(operation.method, operation.path, other)) == plain, other


@pytest.mark.parametrize("operation", WITH_FIELDS, ids=path_of)
async def test_null_for_a_field_is_the_same_as_leaving_it_out(api: Api, operation: Operation) -> None:
    await prepare(api)
    body = example(operation)
    for name in typing.get_type_hints(operation.body):
        rest = {key: value for key, value in body.items() if key != name}
        absent = without_numbers(await api.call(operation.method, operation.path, rest))
        null = without_numbers(await api.call(operation.method, operation.path, {**rest, name: None}))
        assert null == absent, name


@pytest.mark.parametrize("operation", WITH_BODY, ids=path_of)
async def test_null_as_a_body_is_the_same_as_an_empty_one(api: Api, operation: Operation) -> None:
    empty = "[]" if operation.body == list[str] else "{}"
    null = await api.call(operation.method, operation.path, raw=b"null")
    answer = await api.call(operation.method, operation.path, raw=empty.encode())
    if operation.path == "/route/batch":
        assert [each["uids"] for found in (null, answer) for each in found.body] == [None, []]
    else:
        assert (null.status, null.body) == (answer.status, answer.body)


@pytest.mark.parametrize("operation", WITH_BODY, ids=path_of)
async def test_what_is_no_body_is_refused_in_json(api: Api, operation: Operation) -> None:
    for raw in (b"", b" ", b"{", b"[", b"nonsense", b"1", b'"x"', b"true", b"\xff", b"[1]", b"'a'"):
        await api.refused(operation.path, raw=raw)


@pytest.mark.parametrize("operation", WITH_FIELDS, ids=path_of)
async def test_a_field_of_another_type_is_refused(api: Api, operation: Operation) -> None:
    await prepare(api)
    body = example(operation)
    for name, hint in typing.get_type_hints(operation.body).items():
        if name == "payload" and operation.path == "/message/event":
            continue  # it may be anything
        wrong: list[Any] = [True, {"a": 1}] if name != "header" else [True, "x", 1, []]
        if hint is int:
            wrong += ["1", 1.5, 1.0, 2**64, [1]]
        elif hint is str:
            wrong += [1, ["x"]]
        elif hint is bytes:
            wrong += [1, "no base64!", [256], [-1], [1.0], ["x"]]
        elif name != "header":
            wrong += [1, "x", [[]], [True]]
        for value in wrong:
            text = await api.refused(operation.path, {**body, name: value})
            assert "cannot unmarshal" in text or "base64" in text or text == "数据格式有误！", (name, value, text)


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        ("eHl6", "eHl6"),
        ("eH\nl6\r\n", "eHl6"),
        ("eA==", "eA=="),
        ([120, 121, 122], "eHl6"),
        ([120, None], "eAA="),
    ],
)
async def test_a_payload_may_have_line_breaks_or_be_an_array(api: Api, payload: Any, stored: str) -> None:
    await prepare(api)
    await api.post("/message/send", {"channel_id": "g", "channel_type": 2, "payload": payload})
    message = await api.get("/channel/last_message?channel_id=g&channel_type=2")
    assert message["payload"] == stored


@pytest.mark.parametrize("payload", ["eA", "eA=", "eA==x", "e_-=", "e A=="])
async def test_a_payload_without_padding_or_of_another_alphabet_is_refused(api: Api, payload: str) -> None:
    body = {"channel_id": "g", "channel_type": 2, "payload": payload}
    assert (await api.refused("/message/send", body)).startswith("illegal base64 data")


@pytest.mark.parametrize("value", [0, 2, -1, 7])
async def test_only_1_is_a_flag_that_is_on(api: Api, value: int) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "ban": value, "subscribers": ["a"]})
    assert await api.post("/channel", {"channel_id": "g", "channel_type": 2, "reset": value}) == OK
    assert (await api.get("/channel/subscribers?channel_id=g&channel_type=2"))["subscribers"] == ["a"]
    header = {"no_persist": value, "sync_once": value, "red_dot": value}
    await api.post("/message/send", {"channel_id": "g", "channel_type": 2, "payload": "eA==", "header": header})
    message = await api.get("/channel/last_message?channel_id=g&channel_type=2")
    assert message["header"] == {"no_persist": 0, "red_dot": 0, "sync_once": 0}


async def test_numbers_in_queries_that_are_none_count_as_zero(api: Api) -> None:
    await prepare(api)
    assert await api.get("/channel/max_message_seq?channel_id=g&channel_type=x") == {"message_seq": 0}
    assert (
        await api.refused("/message/byclientmsgno?channel_id=g&channel_type=1.0", method="GET") == "channel_type不能为0"
    )
    assert await api.get("/channel/whitelist") == []
