"""Posting events and reading lanes back: what a payload means, whose chat is meant, pages, what messages show."""

import random
from typing import Any

import msgspec
import pytest

from tests.service.stack import Stack
from wukong.channel.commands import (
    EVENT_CLOSE,
    EVENT_DELTA,
    EVENT_ERROR,
    EVENT_FINISH,
    EVENT_OTHER,
    EVENT_SNAPSHOT,
    PostEvent,
)
from wukong.channel.effects import EventPush
from wukong.channel.ids import ChannelId, person_id
from wukong.errors import RequestRefused
from wukong.limits import MAX_EVENT_LANE_BYTES, MAX_EVENT_LANES, MAX_EVENT_PAYLOAD_BYTES
from wukong.service import events
from wukong.service.events import Meaning, kind_of, meaning_of


async def post(stack: Stack, event_type: str, payload: Any = None, **more: Any) -> tuple[str, int, str]:
    given = {"channel_id": "g", "channel_type": 2, "client_msg_no": "m", "event_id": "e"} | more
    data = b"" if payload is None else msgspec.json.encode(payload)
    key, posted = await stack.use_cases.events.post(event_type=event_type, payload=data, **given)
    return key, posted.seq, posted.status


async def say(stack: Stack, text: str, **more: Any) -> None:
    await post(stack, "stream.delta", {"kind": "text", "delta": text}, **more)


async def entries(stack: Stack, **more: Any) -> list[tuple[int, str, str, Any]]:
    given = {"channel_id": "g", "channel_type": 2, "client_msg_no": "m"} | more
    page = await stack.use_cases.events.sync(**given)
    return [(e.msg_event_seq, e.event_key, e.event_type, msgspec.json.decode(e.payload)) for e in page.events]


def pushes(stack: Stack) -> list[EventPush]:
    return [effect for effect in stack.effects if isinstance(effect, EventPush)]


# -- what a payload means --

TEXT = {"kind": "text", "text": "t"}


@pytest.mark.parametrize(
    ("kind", "payload", "meaning"),
    [
        (EVENT_DELTA, {"kind": "text", "delta": "x"}, Meaning("x")),
        (EVENT_DELTA, {"kind": "text", "delta": "", "more": 1}, Meaning("")),
        (EVENT_DELTA, {"kind": "text", "delta": 5}, Meaning()),
        (EVENT_DELTA, {"kind": "text", "text": "x"}, Meaning()),
        (EVENT_DELTA, {"kind": "image", "delta": "x"}, Meaning()),
        (EVENT_DELTA, "x", Meaning()),
        (EVENT_DELTA, [1], Meaning()),
        (EVENT_DELTA, 5, Meaning()),
        (EVENT_SNAPSHOT, TEXT, Meaning("t")),
        (EVENT_SNAPSHOT, {"kind": "text", "text": ""}, Meaning("", b'{"kind":"text"}')),
        (EVENT_SNAPSHOT, {"text": "t", "kind": "text", "n": 1}, Meaning("t", b'{"kind":"text","n":1}')),
        (EVENT_SNAPSHOT, {"kind": "text", "text": 5}, Meaning()),
        (EVENT_SNAPSHOT, {"n": 1}, Meaning()),
        (EVENT_CLOSE, {"end_reason": 3, "error": "e"}, Meaning(end_reason=3, error="e")),
        (EVENT_CLOSE, {"end_reason": "3", "error": 5}, Meaning(end_reason=3)),
        (EVENT_CLOSE, {"end_reason": 2.9}, Meaning(end_reason=2)),
        (EVENT_CLOSE, {"end_reason": 256}, Meaning()),
        (EVENT_CLOSE, {"end_reason": -1}, Meaning()),
        (EVENT_CLOSE, {"end_reason": True}, Meaning()),
        (EVENT_CLOSE, {"end_reason": None}, Meaning()),
        (EVENT_CLOSE, {"snapshot": TEXT}, Meaning("t")),
        (EVENT_ERROR, {"snapshot": [1], "error": "e"}, Meaning(content=b"[1]", error="e")),
        (EVENT_FINISH, {"snapshot": None}, Meaning()),
        (EVENT_OTHER, {"kind": "text", "delta": "x", "snapshot": TEXT, "error": "e"}, Meaning()),
        (EVENT_CLOSE, None, Meaning()),
    ],
)
def test_a_payload_is_read_for_its_kind(kind: int, payload: Any, meaning: Meaning) -> None:
    assert meaning_of(kind, msgspec.json.encode(payload)) == meaning


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_means_nothing(payload: bytes) -> None:
    assert meaning_of(EVENT_DELTA, payload) == Meaning()


def test_types_are_compared_in_lower_case() -> None:
    assert kind_of(" Stream.DELTA ") == EVENT_DELTA
    assert kind_of("stream.deltas") == EVENT_OTHER


# -- posting --


async def test_delta_delta_close_is_one_text_and_a_repeat_is_harmless(stack: Stack) -> None:
    """behaviour.md section 21, check 17."""
    await say(stack, "Hel", event_id="e1")
    await say(stack, "lo", event_id="e2")
    assert await entries(stack) == []
    for _ in range(2):
        assert await post(stack, "stream.close", event_id="e3") == ("main", 1, "closed")
    with pytest.raises(RequestRefused, match=r"^stream closed$"):
        await say(stack, "!", event_id="e4")
    assert await entries(stack) == [(1, "main", "stream.close", {"kind": "text", "text": "Hello"})]
    assert [(push.event_id, push.status) for push in pushes(stack)] == [
        ("e1", "open"),
        ("e2", "open"),
        ("e3", "closed"),
        ("e3", "closed"),
    ]


async def test_any_text_comes_out_as_it_went_in(stack: Stack) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chooser = random.Random(seed)
    parts = ["".join(chooser.choices('aé用🙂"\\\n\x00 ', k=chooser.randint(0, 30))) for _ in range(200)]
    for part in parts:
        await say(stack, part)
    await post(stack, "stream.close")
    assert await entries(stack) == [(1, "main", "stream.close", {"kind": "text", "text": "".join(parts)})]


async def test_a_finish_has_its_own_lane_whatever_key_is_given(stack: Stack) -> None:
    assert await post(stack, "stream.finish", event_key="main") == ("__finish__", 1, "closed")
    assert await post(stack, "stream.close", event_key=" ") == ("main", 2, "closed")


@pytest.mark.parametrize(
    ("event_type", "status"),
    [("stream.close", "closed"), ("stream.cancel", "cancelled"), ("stream.error", "error"), ("note", "")],
)
async def test_a_lane_without_a_content_shows_its_end(stack: Stack, event_type: str, status: str) -> None:
    await post(stack, event_type, {"error": "is gone", "end_reason": 2})
    reason = 0 if event_type == "note" else 2
    assert await entries(stack) == [(1, "main", event_type, {"end_reason": reason, "status": status})]


async def test_a_snapshot_is_shown_as_it_was_sent(stack: Stack) -> None:
    sent = {"lang": "en", "kind": "text", "text": "whole"}
    await post(stack, "stream.snapshot", sent)
    assert await entries(stack) == [(1, "main", "stream.snapshot", sent)]
    await say(stack, "!")
    assert await entries(stack) == [(1, "main", "stream.snapshot", sent | {"text": "whole!"})]


async def test_limits_are_refused_with_a_text(stack: Stack) -> None:
    with pytest.raises(RequestRefused, match=f"the limit is {MAX_EVENT_PAYLOAD_BYTES}"):
        await post(stack, "stream.delta", "x" * MAX_EVENT_PAYLOAD_BYTES)
    piece = "x" * (MAX_EVENT_PAYLOAD_BYTES - 100)
    with pytest.raises(RequestRefused, match=f"{MAX_EVENT_LANE_BYTES} bytes at most"):
        for _ in range(5):
            await say(stack, piece)
    for number in range(MAX_EVENT_LANES - 1):
        await say(stack, "x", event_key=f"k{number}")
    with pytest.raises(RequestRefused, match=f"{MAX_EVENT_LANES} streams at most"):
        await say(stack, "x", event_key="one more")
    for name in ("channel_id", "client_msg_no", "event_id", "event_key", "from_uid", "visibility"):
        with pytest.raises(RequestRefused, match="an id of"):
            await say(stack, "x", **{name: "y" * 40_000})


async def test_the_command_suffix_names_the_channel_itself(stack: Stack) -> None:
    await post(stack, "stream.close", channel_id="g____cmd")
    assert pushes(stack)[0].channel == ChannelId(2, "g")
    assert pushes(stack)[0].shown_id == "g____cmd"


# -- whose chat --


async def send(stack: Stack, sender: str, to: str, number: str = "m") -> int:
    sent = await stack.use_cases.messages.send(
        channel_id=to, channel_type=1, from_uid=sender, payload=b"?", flags=0, client_msg_no=number, setting=2
    )
    return sent.message_id


async def test_a_person_is_the_other_one_of_the_message_where_no_sender_is_named(stack: Stack) -> None:
    await send(stack, "____system", "u")
    message_id = await send(stack, "bot", "u")
    await send(stack, "stranger", "u", "another number")
    commands = []
    for _ in range(3):
        await say(stack, "x", channel_id="u", channel_type=1)
        commands.append(stack.commands(PostEvent))
    assert commands == [1, 2, 3]
    for push in pushes(stack):
        assert (push.channel, push.from_uid, push.message_id) == (
            ChannelId(1, person_id("bot", "u")),
            "bot",
            message_id,
        )
    await post(stack, "stream.close", channel_id="u", channel_type=1, from_uid="bot")
    assert len(await entries(stack, channel_id="u", channel_type=1)) == 1
    assert len(await entries(stack, channel_id=person_id("bot", "u"), channel_type=1)) == 1
    assert len(await entries(stack, channel_id="bot", channel_type=1, from_uid="u")) == 1
    assert await entries(stack, channel_id="u", channel_type=1, from_uid="stranger") == []


async def test_without_such_a_message_the_system_account_is_the_other_one(stack: Stack) -> None:
    await say(stack, "x", channel_id="u", channel_type=1)
    (push,) = pushes(stack)
    assert (push.channel, push.from_uid) == (ChannelId(1, person_id("____system", "u")), "____system")
    message_id = await send(stack, "____system", "u")
    await say(stack, "x", channel_id="u", channel_type=1)
    assert pushes(stack)[-1].message_id == message_id


async def test_the_log_alone_says_who_the_other_one_is(stack: Stack) -> None:
    await send(stack, "alice", "u")
    await say(stack, "x", channel_id="u", channel_type=1)
    stack.clock.ms += 1_000
    await send(stack, "carol", "u")
    await say(stack, "x", channel_id="u", channel_type=1)
    elsewhere = events.Events(stack.use_cases.replica)
    await elsewhere.post(
        channel_id="u", channel_type=1, client_msg_no="m", event_id="e", event_type="stream.delta", payload=b'{"a":1}'
    )
    assert [push.from_uid for push in pushes(stack)] == ["alice", "carol", "carol"]


# -- pages --


async def test_pages_follow_one_another_by_seq(stack: Stack) -> None:
    for key in "abc":
        await post(stack, "stream.close", event_key=key)
    page = await stack.use_cases.events.sync(channel_id="g", channel_type=2, client_msg_no="m", limit=2)
    assert (page.next_seq, page.more, [e.event_key for e in page.events]) == (2, True, ["a", "b"])
    page = await stack.use_cases.events.sync(channel_id="g", channel_type=2, client_msg_no="m", after_seq=2)
    assert (page.next_seq, page.more, [e.event_key for e in page.events]) == (3, False, ["c"])
    page = await stack.use_cases.events.sync(channel_id="g", channel_type=2, client_msg_no="m", after_seq=9)
    assert page == (9, False, [])


# -- what messages show --


async def a_stream(stack: Stack, number: str, text: str) -> None:
    await stack.use_cases.messages.send(
        channel_id="g", channel_type=2, from_uid="bot", payload=b"?", flags=0, client_msg_no=number, setting=2
    )
    await say(stack, text, client_msg_no=number)


async def test_contents_of_one_answer_are_limited_and_lanes_are_still_told(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ANSWER_CONTENT_BYTES", 250)
    await stack.use_cases.channels.add_members(ChannelId(2, "g"), ["u"], reset=False)
    for number in ("n1", "n2", "n3"):
        await a_stream(stack, number, "x" * 100)
    [conversation] = await stack.use_cases.conversations.sync("u", msg_count=10)
    metas = [msgspec.json.decode(msgspec.json.encode(shape.event_meta)) for shape in conversation.recents]
    assert [len(meta["events"]) for meta in metas] == [1, 1, 1]
    assert ["snapshot" in meta["events"][0] for meta in metas] == [True, True, False]
