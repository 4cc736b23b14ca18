"""Lanes of a message's events: states, contents, limits, and what they cost. http-api.md 10.1, traps 35 and 36."""

from typing import Any

import pytest

from tests.channel.slot import Slot
from wukong import limits
from wukong.channel import events
from wukong.channel.commands import (
    EVENT_CANCEL,
    EVENT_CLOSE,
    EVENT_DELTA,
    EVENT_ERROR,
    EVENT_FINISH,
    EVENT_LATE,
    EVENT_OPEN,
    EVENT_OTHER,
    EVENT_SNAPSHOT,
    EVENT_TOO_LONG,
    EVENT_TOO_MANY_LANES,
    Append,
    PostedEvent,
    PostEvent,
    Reply,
)
from wukong.channel.effects import EventPush
from wukong.channel.events import Content, LaneView, meta_of, stored_lanes
from wukong.channel.ids import ChannelId
from wukong.channel.state import channel_part

GROUP = ChannelId(2, "g")
PART = channel_part(GROUP)
NO = "m"


def event(kind: int, event_id: str = "e", key: str = "main", **more: Any) -> PostEvent:
    return PostEvent(
        more.pop("channel", GROUP), more.pop("number", NO), key, event_id, f"type {kind}", kind, "g", **more
    )


def delta(text: str, key: str = "main", **more: Any) -> PostEvent:
    return event(EVENT_DELTA, "d", key, text=text, **more)


def lanes(slot: Slot, number: str = NO) -> dict[str, LaneView]:
    meta = meta_of(slot.state, PART, number)
    return {} if meta is None else {view.key: view for view in meta.lanes}


def text_of(slot: Slot, key: str = "main", number: str = NO) -> str:
    content = lanes(slot, number)[key].content
    assert content is not None and content.is_text
    return content.data.decode()


def taken(reply: Reply) -> tuple[int, str]:
    assert reply.event is not None, reply
    return reply.event.seq, reply.event.status


def rows(slot: Slot, letter: bytes) -> list[bytes]:
    return [key for key in slot.rows() if key[:1] == letter]


# -- states --


def test_deltas_join_to_a_text_that_a_close_keeps() -> None:
    slot = Slot()
    assert taken(slot.do(delta("Hel"))) == (0, "open")
    assert taken(slot.do(delta("lo"))) == (0, "open")
    assert text_of(slot) == "Hello"
    assert taken(slot.do(event(EVENT_CLOSE, end_reason=3))) == (1, "closed")
    view = lanes(slot)["main"]
    assert (view.lane.status, view.lane.seq, view.lane.end_reason, text_of(slot)) == ("closed", 1, 3, "Hello")
    slot.restart()
    assert text_of(slot) == "Hello"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (EVENT_OPEN, "open"),
        (EVENT_OTHER, ""),
        (EVENT_SNAPSHOT, ""),
        (EVENT_CLOSE, "closed"),
        (EVENT_ERROR, "error"),
        (EVENT_CANCEL, "cancelled"),
        (EVENT_FINISH, "closed"),
    ],
)
def test_each_kind_leads_to_its_status_on_a_new_lane(kind: int, status: str) -> None:
    assert taken(Slot().do(event(kind, payload=b"{}"))) == (1, status)


@pytest.mark.parametrize("kind", [EVENT_OTHER, EVENT_SNAPSHOT])
def test_what_ends_nothing_leaves_the_status(kind: int) -> None:
    slot = Slot()
    slot.do(delta("x"))
    assert taken(slot.do(event(kind, payload=b"{}"))) == (1, "open")


def test_seqs_count_per_message_over_its_lanes() -> None:
    slot = Slot()
    assert [taken(slot.do(event(EVENT_CLOSE, key=key)))[0] for key in "abc"] == [1, 2, 3]
    assert taken(slot.do(event(EVENT_CLOSE, number="another")))[0] == 1
    assert taken(slot.do(event(EVENT_CLOSE, channel=ChannelId(3, "g"))))[0] == 1


@pytest.mark.parametrize("kind", [EVENT_CLOSE, EVENT_ERROR, EVENT_CANCEL])
def test_a_late_delta_is_refused_though_every_lane_has_ended(kind: int) -> None:
    slot = Slot()
    slot.do(delta("x"))
    slot.do(event(kind))
    slot.effects()
    assert slot.do(delta("y")) == Reply(EVENT_LATE)
    assert text_of(slot) == "x"
    assert slot.effects() == []
    assert taken(slot.do(delta("y", "another lane"))) == (0, "open")


def test_after_a_finish_no_lane_takes_deltas_but_an_open_one_can_be_closed() -> None:
    slot = Slot()
    slot.do(delta("x"))
    slot.do(event(EVENT_FINISH, key=events.FINISH_LANE))
    meta = meta_of(slot.state, PART, NO)
    assert meta is not None and meta.finished and meta.seq == 1
    assert [view.key for view in meta.lanes] == ["main"], "the reserved lane is not shown"
    for key in ("main", "new"):
        assert slot.do(delta("y", key)).reason == EVENT_LATE
    assert taken(slot.do(event(EVENT_CLOSE))) == (2, "closed")


@pytest.mark.parametrize("kind", [EVENT_CLOSE, EVENT_SNAPSHOT, EVENT_OTHER, EVENT_CANCEL])
def test_an_ended_lane_answers_stored_events_with_its_state_and_pushes_them(kind: int) -> None:
    slot = Slot()
    slot.do(delta("x"))
    slot.do(event(EVENT_CLOSE, "first"))
    before = lanes(slot)
    slot.effects()
    reply = slot.do(event(kind, "second", payload=b"{}"))
    assert (taken(reply), reply.duplicate) == ((1, "closed"), True)
    assert lanes(slot) == before
    (push,) = slot.effects()
    assert isinstance(push, EventPush)
    assert (push.event_id, push.seq, push.status) == ("second", 1, "closed")


def test_the_same_event_again_changes_nothing_and_is_pushed_again() -> None:
    slot = Slot()
    slot.do(event(EVENT_SNAPSHOT, "e1", payload=b'{"n":1}'))
    reply = slot.do(event(EVENT_SNAPSHOT, "e1", payload=b'{"n":2}'))
    assert (taken(reply), reply.duplicate) == ((1, ""), True)
    assert lanes(slot)["main"].content == Content(False, b'{"n":1}')
    assert len(slot.effects()) == 2
    assert taken(slot.do(event(EVENT_SNAPSHOT, "e2", payload=b'{"n":2}'))) == (2, "")


def test_deltas_are_not_told_apart_by_their_id() -> None:
    slot = Slot()
    slot.do(delta("a"))
    slot.do(delta("a"))
    assert text_of(slot) == "aa"


# -- contents --


def test_a_delta_that_is_no_text_replaces_the_snapshot_but_never_a_text() -> None:
    slot = Slot()
    for payload in (b'{"n":1}', b'{"n":2}', b""):
        slot.do(event(EVENT_DELTA, payload=payload))
    assert lanes(slot)["main"].content == Content(False, b'{"n":2}')
    slot.do(delta(""))
    assert lanes(slot)["main"].content == Content(False, b'{"n":2}')
    slot.do(delta("text"))
    slot.do(event(EVENT_DELTA, payload=b'{"n":3}'))
    assert text_of(slot) == "text"


def test_a_snapshot_replaces_a_text_and_deltas_go_on_behind_it() -> None:
    slot = Slot()
    slot.do(delta("draft"))
    slot.do(event(EVENT_SNAPSHOT, "s", text="whole", content=b'{"kind":"text","lang":"en"}'))
    slot.do(delta("!"))
    assert lanes(slot)["main"].content == Content(True, b"whole!", b'{"kind":"text","lang":"en"}')
    slot.do(event(EVENT_SNAPSHOT, "t", payload=b"[1]"))
    assert lanes(slot)["main"].content == Content(False, b"[1]")
    slot.do(event(EVENT_SNAPSHOT, "u"))
    assert lanes(slot)["main"].content == Content(False, b"[1]"), "one without a payload says nothing"


def test_an_ends_own_snapshot_counts_where_there_is_none() -> None:
    slot = Slot()
    slot.do(event(EVENT_CLOSE, key="a", text="own"))
    slot.do(event(EVENT_CLOSE, key="b", content=b"[2]"))
    slot.do(delta("joined", "c"))
    slot.do(event(EVENT_CLOSE, key="c", text="own"))
    slot.do(event(EVENT_CLOSE, key="d", payload=b'{"other":1}'))
    contents = {key: view.content for key, view in lanes(slot).items()}
    assert contents == {
        "a": Content(True, b"own"),
        "b": Content(False, b"[2]"),
        "c": Content(True, b"joined"),
        "d": None,
    }


def test_lanes_and_numbers_that_begin_alike_do_not_meet() -> None:
    slot = Slot()
    for number in ("m", "ma", "m\x00"):
        for key in ("k", "k\x00", "kk", "k" + "\x00" * 4):
            slot.do(delta(f"{number} {key}", key, number=number))
    for number in ("m", "ma", "m\x00"):
        for key in ("k", "k\x00", "kk", "k" + "\x00" * 4):
            assert text_of(slot, key, number) == f"{number} {key}"


# -- who --


def test_the_author_is_as_given_then_as_of_the_message_then_the_system_account() -> None:
    slot = Slot()
    assert slot.do(delta("x")).event == PostedEvent(0, "open", "____system", 0)
    sent = slot.do(Append(GROUP, False, "bot", b"answer", NO, setting=2, trusted=True))
    assert slot.do(delta("x")).event == PostedEvent(0, "open", "bot", sent.message_id)
    assert slot.do(delta("x", from_uid="given", message_id=5)).event == PostedEvent(0, "open", "given", 5)
    assert slot.do(delta("x")).event == PostedEvent(0, "open", "given", 5), "as it was given before"
    assert slot.do(delta("x", number="other", message_id=-1)).event == PostedEvent(0, "open", "____system", -1)


def test_a_push_says_what_was_given_and_what_became_of_the_lane() -> None:
    slot = Slot()
    slot.do(PostEvent(GROUP, NO, "k", "e", " Custom", 0, "shown", "u", 4, "private", 9, b"[]"))
    assert slot.effects() == [EventPush(GROUP, "shown", NO, "k", "e", " Custom", "u", 4, 1, "", "private", 9, b"[]")]
    lane = lanes(slot)["k"].lane
    assert (lane.event_type, lane.visibility, lane.occurred_at) == ("custom", "private", 9)
    slot.do(event(EVENT_OTHER, "later", "k"))
    assert lanes(slot)["k"].lane.occurred_at == slot.state.now_ms, "the log's time where none was given"


# -- reading stored lanes --


def page(slot: Slot, **asked: Any) -> tuple[list[tuple[int, str]], bool]:
    asked = {"after_seq": 0, "include_private": False, "limit": 200} | asked
    views, more = stored_lanes(slot.state, PART, NO, **asked)
    return [(view.lane.seq, view.key) for view in views], more


def test_stored_lanes_come_in_the_order_of_their_last_events() -> None:
    slot = Slot()
    slot.do(delta("only deltas", "d"))
    for number, key in enumerate("abca"):
        slot.do(event(EVENT_OTHER, f"e{number}", key))
    slot.do(event(EVENT_OTHER, "secret", "p", visibility="private"))
    slot.do(event(EVENT_OTHER, "secret", "r", visibility="restricted"))
    assert page(slot) == ([(2, "b"), (3, "c"), (4, "a")], False)
    assert page(slot, limit=2) == ([(2, "b"), (3, "c")], True)
    assert page(slot, after_seq=3) == ([(4, "a")], False)
    assert page(slot, key="c") == ([(3, "c")], False)
    assert page(slot, key="nothing") == ([], False)
    assert page(slot, include_private=True, after_seq=4) == ([(5, "p"), (6, "r")], False)
    assert page(slot, content_limit_bytes=0) == ([(2, "b"), (3, "c"), (4, "a")], False)


def test_a_page_of_stored_lanes_ends_at_its_size_but_has_one() -> None:
    slot = Slot()
    for key in "abc":
        slot.do(event(EVENT_CLOSE, key=key, text="x" * 100))
    assert page(slot, content_limit_bytes=250) == ([(1, "a"), (2, "b")], True)
    assert page(slot, content_limit_bytes=1) == ([(1, "a")], True)


def test_contents_beyond_the_limit_are_left_out_of_a_messages_lanes() -> None:
    slot = Slot()
    for key in "abc":
        slot.do(delta("x" * 100, key))
    meta = meta_of(slot.state, PART, NO, content_limit_bytes=250)
    assert meta is not None
    assert [view.content is not None for view in meta.lanes] == [True, True, False]
    assert [view.content_bytes for view in meta.lanes] == [100] * 3
    meta = meta_of(slot.state, PART, NO, full=False)
    assert meta is not None and not any(view.content for view in meta.lanes)
    assert meta_of(slot.state, PART, "unknown") is None


# -- limits --


def test_a_lane_that_is_full_refuses_text_and_stays_as_it_was() -> None:
    slot = Slot()
    piece = "x" * (limits.MAX_EVENT_PAYLOAD_BYTES - 1)
    while len(text_of(slot) if lanes(slot) else "") + len(piece) <= limits.MAX_EVENT_LANE_BYTES:
        assert slot.do(delta(piece)).reason == 1
    slot.effects()
    before = slot.rows()
    assert slot.do(delta(piece)) == Reply(EVENT_TOO_LONG)
    assert slot.effects() == []
    changed = {key[:1] for key, value in slot.rows().items() if before.get(key) != value}
    assert changed <= {b"S", b"z"}
    assert taken(slot.do(delta("é"))) == (0, "open"), "what still fits is taken"


@pytest.mark.parametrize("field", ["payload", "content", "text", "error"])
def test_what_is_longer_than_a_payload_may_be_is_refused(field: str) -> None:
    size = limits.MAX_EVENT_PAYLOAD_BYTES + 1
    value: Any = b"x" * size if field in ("payload", "content") else "x" * size
    assert Slot().do(event(EVENT_CLOSE, **{field: value})).reason == 15


def test_a_message_has_a_limited_number_of_lanes_and_can_still_be_finished() -> None:
    slot = Slot()
    for number in range(limits.MAX_EVENT_LANES):
        assert slot.do(delta("x", f"k{number}")).reason == 1
    assert slot.do(delta("x", "one more")) == Reply(EVENT_TOO_MANY_LANES)
    assert slot.do(event(EVENT_CLOSE, key="one more")) == Reply(EVENT_TOO_MANY_LANES)
    assert "one more" not in lanes(slot)
    assert slot.do(delta("y", "k0")).reason == 1
    assert slot.do(event(EVENT_FINISH, key=events.FINISH_LANE)).reason == 1
    assert slot.do(delta("x", number="another message")).reason == 1


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1_023, 1_024, 1_025, 2_200])
def test_a_text_of_many_deltas_has_few_rows(count: int) -> None:
    slot = Slot()
    for number in range(count):
        slot.do(delta(f"{number} "))
    assert text_of(slot) == "".join(f"{number} " for number in range(count))
    assert len(rows(slot, b"T")) <= 1 + 31 + 31 + count // 1_024
    slot.do(event(EVENT_CLOSE))
    assert len(rows(slot, b"T")) == 2
    assert text_of(slot) == "".join(f"{number} " for number in range(count))


def test_a_delta_costs_what_it_brings_not_what_is_there() -> None:
    slot = Slot()
    slot.do(event(EVENT_SNAPSHOT, "s", text="x" * 200_000))
    written: list[int] = []
    put = slot.state.put
    slot.state.put = lambda key, value: (written.append(len(key) + len(value)), put(key, value))[1]  # type: ignore[assignment, func-returns-value]
    for _ in range(20):
        slot.do(delta("ten chars "))
    assert sum(written) / 20 < 600, "with the rows of stream and slot"


# -- the queue --


def queued(slot: Slot) -> int:
    assert slot.state.slot_row.open_lanes == len(rows(slot, b"E"))
    return len(rows(slot, b"E"))


def test_an_ended_lane_leaves_the_queue() -> None:
    slot = Slot()
    slot.do(delta("x", "a"))
    slot.do(delta("x", "b"))
    assert queued(slot) == 2
    slot.do(event(EVENT_CLOSE, key="a"))
    assert queued(slot) == 1
    slot.do(event(EVENT_SNAPSHOT, "s", "b", payload=b"[]"))
    assert queued(slot) == 1, "a snapshot ends nothing"


def test_a_lane_that_nobody_uses_is_joined_and_looks_as_before() -> None:
    slot = Slot()
    for text in "abc":
        slot.do(delta(text))
    before = lanes(slot)
    slot.now_ms += limits.EVENT_LANE_IDLE_MS + 2 * limits.MINUTE_MS
    slot.do(event(EVENT_OTHER, number="another"))
    assert queued(slot) == 0
    assert len(rows(slot, b"T")) == 2
    assert lanes(slot) == before
    slot.do(delta("d"))
    assert (text_of(slot), queued(slot)) == ("abcd", 1)


def test_a_lane_that_is_used_stays_in_the_queue() -> None:
    slot = Slot()
    for _ in range(40):
        slot.do(delta("x"))
        slot.now_ms += limits.MINUTE_MS
        assert queued(slot) == 1
        slot.do(event(EVENT_OTHER, number="another"))
    assert queued(slot) == 1


def test_two_lanes_leave_for_each_event_that_comes() -> None:
    slot = Slot()
    for number in range(10):
        slot.do(delta("x", number=f"m{number}"))
    slot.now_ms += limits.EVENT_LANE_IDLE_MS + 2 * limits.MINUTE_MS
    left = []
    for number in range(6):
        slot.do(event(EVENT_OTHER, f"e{number}", number="another"))
        left.append(queued(slot))
    assert left == [8, 6, 4, 2, 0, 0]


def test_beyond_the_limit_of_open_lanes_the_longest_unused_one_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_EVENT_LANES", 3)
    slot = Slot()
    for number in range(6):
        for text in "ab":
            slot.do(delta(text, number=f"m{number}"))
        slot.now_ms += 1
        assert queued(slot) == min(number + 1, 3)
    assert {key[-6:] for key in rows(slot, b"E")} == {f"m{number}main".encode() for number in (3, 4, 5)}
    assert [text_of(slot, number=f"m{number}") for number in range(6)] == ["ab"] * 6
    slot.do(delta("c", number="m0"))
    assert text_of(slot, number="m0") == "abc"
    slot.restart()
    assert queued(slot) == 3
