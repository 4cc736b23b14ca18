"""/message/event, /message/eventsync, and lanes in history and conversations. http-api.md section 10."""

import base64
from typing import Any

import pytest

from tests.api.calls import Api
from wukong.channel.effects import EventPush

EVENT = {"channel_id": "g", "channel_type": 2, "client_msg_no": "m", "event_id": "e", "event_type": "stream.delta"}
WHICH = {"channel_id": "g", "channel_type": 2, "client_msg_no": "m"}


async def post(api: Api, event_type: str = "stream.delta", payload: Any = None, **more: Any) -> Any:
    body = await api.post("/message/event", EVENT | {"event_type": event_type, "payload": payload} | more)
    assert body.keys() == {"data", "status"} and body["status"] == 200
    return body["data"]


async def say(api: Api, text: str, **more: Any) -> None:
    await post(api, payload={"kind": "text", "delta": text}, **more)


async def sync(api: Api, **more: Any) -> Any:
    body = await api.post("/message/eventsync", WHICH | more)
    assert body.keys() == {"data", "status"} and body["status"] == 200
    return body["data"]


def pushes(api: Api) -> list[EventPush]:
    return [effect for effect in api.stack.effects if isinstance(effect, EventPush)]


# -- /message/event --


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("channel_id", "channel_id不能为空！"),
        ("client_msg_no", "client_msg_no不能为空！"),
        ("event_id", "event_id不能为空！"),
        ("event_type", "event_type不能为空！"),
    ],
)
async def test_what_an_event_needs_is_asked_for_in_order(api: Api, missing: str, text: str) -> None:
    assert await api.refused("/message/event", EVENT | {missing: " "}) == text
    names = list(EVENT)
    later = dict.fromkeys(names[names.index(missing) :], None)
    assert await api.refused("/message/event", EVENT | later) == text


@pytest.mark.parametrize("path", ["/message/event", "/message/eventsync"])
async def test_a_malformed_body_is_refused_in_the_decoders_words(api: Api, path: str) -> None:
    assert await api.refused(path, raw=b"{") == "unexpected EOF"


@pytest.mark.parametrize("headers", [5, "x", [], {"a": 1}])
async def test_headers_are_texts(api: Api, headers: Any) -> None:
    assert "cannot unmarshal" in await api.refused("/message/event", EVENT | {"headers": headers})


async def test_headers_are_taken_and_shown_nowhere(api: Api) -> None:
    await post(api, "note", headers={"a": "b", "c": None})
    assert "headers" not in (await sync(api))["events"][0]


async def test_an_event_is_answered_with_the_state_of_its_lane(api: Api) -> None:
    expected = {
        "client_msg_no": "m",
        "event_key": "main",
        "event_id": "e",
        "msg_event_seq": 0,
        "stream_status": "open",
        "channel_id": "g",
        "channel_type": 2,
        "from_uid": "____system",
    }
    assert await post(api) == expected
    answer = await post(api, "stream.error", event_id="f", from_uid="bot", event_key="k")
    changed = {"event_id": "f", "event_key": "k", "from_uid": "bot", "msg_event_seq": 1, "stream_status": "error"}
    assert answer == expected | changed


async def test_a_late_delta_and_a_payload_over_the_limit_are_refused(api: Api) -> None:
    await post(api, "stream.close")
    assert await api.refused("/message/event", EVENT) == "stream closed"
    assert "the limit is" in await api.refused("/message/event", EVENT | {"payload": "x" * 300_000})


@pytest.mark.parametrize(
    ("raw", "pushed"),
    [
        (b'{"b": 1.0, "a": [null, true]}', b'{"b":1.0,"a":[null,true]}'),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b'"x"', b'"x"'),
        (b"false", b"false"),
        (b"null", b""),
        (rb'{"kind":"text","delta":"\ud83d"}', '{"kind":"text","delta":"\ufffd"}'.encode()),
    ],
)
async def test_a_payload_is_pushed_as_it_was_sent(api: Api, raw: bytes, pushed: bytes) -> None:
    body = b'{"channel_id":"g","channel_type":2,"client_msg_no":"m","event_id":"e","event_type":"x","payload":%s}' % raw
    await api.post("/message/event", raw=body)
    assert pushes(api)[0].payload == pushed


async def test_a_payload_that_is_nested_too_deeply_is_refused(api: Api) -> None:
    body = b'{"channel_id":"g","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert await api.refused("/message/event", raw=body) == "exceeded max depth"


async def test_every_field_of_an_event_has_its_effect(api: Api) -> None:
    await post(
        api,
        "Stream.Snapshot",
        [1],
        from_uid="bot",
        message_id=1 << 60,
        event_key="k",
        visibility="restricted",
        occurred_at=1_700_000_000_123,
    )
    (push,) = pushes(api)
    assert (push.event_type, push.from_uid, push.message_id) == ("Stream.Snapshot", "bot", 1 << 60)
    assert (push.visibility, push.occurred_at) == ("restricted", 1_700_000_000_123)
    [entry] = (await sync(api, include_private=1))["events"]
    assert entry == {
        "msg_event_seq": 1,
        "event_id": "e",
        "event_key": "k",
        "event_type": "stream.snapshot",
        "visibility": "restricted",
        "occurred_at": 1_700_000_000_123,
        "payload": [1],
    }


# -- /message/eventsync --


async def test_what_a_sync_needs_is_asked_for_in_order(api: Api) -> None:
    assert await api.refused("/message/eventsync", {"limit": -1}) == "channel_id不能为空！"
    assert await api.refused("/message/eventsync", {"channel_id": "g", "limit": -1}) == "client_msg_no不能为空！"
    assert await api.refused("/message/eventsync", WHICH | {"limit": -1}) == "limit不能为负数！"


async def test_a_message_without_events_has_an_empty_page(api: Api) -> None:
    empty = {"from_msg_event_seq": 4, "next_msg_event_seq": 4, "more": 0, "events": [], "filtered_by_event_key": "k"}
    assert await sync(api, from_msg_event_seq=4, event_key="k") == {"client_msg_no": "m"} | empty


async def test_pages_have_a_limit_a_filter_and_a_place_to_go_on(api: Api) -> None:
    for key in "abc":
        await post(api, "stream.close", event_key=key)
    page = await sync(api, limit=2)
    assert ([e["event_key"] for e in page["events"]], page["next_msg_event_seq"], page["more"]) == (["a", "b"], 2, 1)
    page = await sync(api, from_msg_event_seq=2, limit=1_000_000)
    assert ([e["event_key"] for e in page["events"]], page["next_msg_event_seq"], page["more"]) == (["c"], 3, 0)
    page = await sync(api, event_key="b")
    assert ([e["msg_event_seq"] for e in page["events"]], page["filtered_by_event_key"]) == ([2], "b")


@pytest.mark.parametrize(("flag", "shown"), [(1, 3), (0, 1), (2, 1)])
async def test_private_and_restricted_lanes_are_shown_only_when_asked_for(api: Api, flag: int, shown: int) -> None:
    for key in ("public", "private", "restricted"):
        await post(api, "stream.close", event_key=key, visibility=key)
    assert len((await sync(api, include_private=flag))["events"]) == shown
    assert len(pushes(api)) == 3, "the push is not filtered (trap 36)"


# -- history and conversations: 10.3 --


async def history(api: Api, **more: Any) -> list[Any]:
    body = {"login_uid": "u", "channel_id": "g", "channel_type": 2, "limit": 10} | more
    messages: list[Any] = (await api.post("/channel/messagesync", body))["messages"]
    return messages


async def recents(api: Api, **more: Any) -> list[Any]:
    [conversation] = await api.post("/conversation/sync", {"uid": "u", "msg_count": 10} | more)
    messages: list[Any] = conversation["recents"]
    return messages


async def ask(api: Api, number: str = "m", *, is_stream: int = 1) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": ["u"]})
    body = {"channel_id": "g", "channel_type": 2, "from_uid": "bot", "client_msg_no": number, "is_stream": is_stream}
    await api.post("/message/send", body | {"payload": base64.b64encode(b"?").decode()})


READS = pytest.mark.parametrize("read", [history, recents])
NEW = {"event_meta", "event_sync_hint", "stream_data", "end", "end_reason", "error"}


@READS
async def test_only_streams_have_lanes(api: Api, read: Any) -> None:
    await ask(api, is_stream=0)
    await say(api, "x")
    [message] = await read(api)
    assert not message.keys() & NEW


@READS
async def test_a_stream_without_events_says_so(api: Api, read: Any) -> None:
    await ask(api)
    [message] = await read(api)
    assert message["event_meta"] == {"has_events": False, "completed": False}
    assert message["event_sync_hint"] == {"client_msg_no": "m", "from_msg_event_seq": 0}
    assert not message.keys() & (NEW - {"event_meta", "event_sync_hint"})


@READS
async def test_an_open_stream_shows_its_text_so_far(api: Api, read: Any) -> None:
    await ask(api)
    await say(api, "Hel")
    await say(api, "lo")
    [message] = await read(api)
    assert message["event_meta"] == {
        "has_events": True,
        "completed": False,
        "event_count": 1,
        "open_event_count": 1,
        "events": [{"event_key": "main", "status": "open", "snapshot": {"kind": "text", "text": "Hello"}}],
    }
    assert base64.b64decode(message["stream_data"]) == b"Hello"
    assert not message.keys() & {"end", "end_reason", "error"}


@READS
async def test_a_finished_stream_shows_everything(api: Api, read: Any) -> None:
    await ask(api)
    await say(api, "Hello")
    await say(api, "think", event_key="thoughts")
    await post(api, "stream.error", {"end_reason": 4, "error": "boom"})
    await post(api, "stream.snapshot", {"n": 1}, event_key="tool")
    await post(api, "stream.finish")
    [message] = await read(api)
    assert message["event_meta"] == {
        "has_events": True,
        "completed": True,
        "event_version": 3,
        "last_msg_event_seq": 3,
        "event_count": 3,
        "open_event_count": 1,
        "events": [
            {
                "event_key": "main",
                "status": "error",
                "last_msg_event_seq": 1,
                "snapshot": {"kind": "text", "text": "Hello"},
                "end_reason": 4,
                "error": "boom",
            },
            {"event_key": "thoughts", "status": "open", "snapshot": {"kind": "text", "text": "think"}},
            {"event_key": "tool", "status": "", "last_msg_event_seq": 2, "snapshot": {"n": 1}},
        ],
    }
    assert base64.b64decode(message["stream_data"]) == b"Hello"
    assert (message["end"], message["end_reason"], message["error"]) == (1, 4, "boom")


@READS
async def test_basic_mode_leaves_out_the_snapshots_of_lanes(api: Api, read: Any) -> None:
    await ask(api)
    await say(api, "Hello")
    await post(api, "stream.close")
    [message] = await read(api, event_summary_mode="basic")
    lane = {"event_key": "main", "status": "closed", "last_msg_event_seq": 1}
    assert message["event_meta"]["events"] == [lane]
    assert (message["end"], base64.b64decode(message["stream_data"])) == (1, b"Hello")
    [message] = await read(api, event_summary_mode="anything")
    assert message["event_meta"]["events"] == [lane | {"snapshot": {"kind": "text", "text": "Hello"}}]


async def test_other_queries_show_no_lanes(api: Api) -> None:
    await ask(api)
    await say(api, "x")
    found = await api.post("/messages", {"channel_id": "g", "channel_type": 2, "message_seqs": [1]})
    one = await api.post("/message", {"channel_id": "g", "channel_type": 2, "client_msg_no": "m"})
    last = await api.get("/channel/last_message?channel_id=g&channel_type=2")
    for message in (*found["messages"], one, last):
        assert message["client_msg_no"] == "m"
        assert not message.keys() & NEW
