import asyncio

import pytest

from wukong.client.inbox import Inbox, LaneKey
from wukong.client.message import Message

KEY: LaneKey = ("g", 2, False)


def message(seq: int, payload: bytes = b"") -> Message:
    return Message(
        channel_id="g",
        channel_type=2,
        from_uid="x",
        message_seq=seq,
        message_id=seq,
        client_msg_no="",
        timestamp=0,
        payload=payload,
    )


def inbox(*, limit_count: int = 10, lanes_limit_count: int = 100) -> tuple[Inbox, list[LaneKey]]:
    gaps: list[LaneKey] = []
    return Inbox(limit_count=limit_count, lanes_limit_count=lanes_limit_count, on_gap=gaps.append), gaps


async def taken(box: Inbox, count: int) -> list[int]:
    return [(await box.take()).message.message_seq for _ in range(count)]


async def test_a_new_channel_begins_with_the_first_message_that_comes() -> None:
    box, gaps = inbox()
    assert box.offer(KEY, message(7), 1)
    assert await taken(box, 1) == [7]
    assert gaps == []


async def test_a_new_channel_waits_while_it_is_being_decided_where_it_begins() -> None:
    box, gaps = inbox()
    box.deciding = True
    box.offer(KEY, message(7), 1)
    box.sent(KEY, 8)
    assert box.lanes[KEY].position is None
    box.start(KEY, 5)
    assert gaps == [KEY]
    box.offer(KEY, message(6), 0)
    assert await taken(box, 2) == [6, 7]
    assert box.lanes[KEY].position == 8


async def test_deciding_starts_the_channels_nobody_spoke_of() -> None:
    box, _ = inbox()
    box.deciding = True
    box.offer(KEY, message(7), 1)
    box.decide()
    assert await taken(box, 1) == [7]


async def test_messages_that_are_not_stored_do_not_wait_for_a_gap() -> None:
    box, gaps = inbox()
    box.start(KEY, 0)
    box.offer(KEY, message(2), 1)
    box.offer(KEY, message(0), 1)
    assert await taken(box, 1) == [0]
    assert gaps == [KEY]
    assert box.lanes[KEY].position == 0


async def test_a_command_and_a_message_with_the_same_seq_are_two() -> None:
    box, _ = inbox()
    assert box.offer(KEY, message(1), 1)
    assert box.offer(("g", 2, True), message(1), 1)
    assert not box.offer(KEY, message(1), 1)


async def test_room_ends_at_the_limit_and_ten_times_later_while_sending() -> None:
    box, _ = inbox(limit_count=3)
    for seq in range(1, 4):
        box.offer(KEY, message(seq), 1)
    assert not box.has_room(sending=False)
    assert box.has_room(sending=True)
    for seq in range(4, 31):
        box.offer(KEY, message(seq), 1)
    assert not box.has_room(sending=True)


async def test_messages_that_wait_behind_a_gap_take_room_too() -> None:
    box, _ = inbox(limit_count=2)
    box.start(KEY, 0)
    box.offer(KEY, message(3), 1)
    box.offer(KEY, message(4), 1)
    assert not box.has_room(sending=False)
    box.skip(KEY, 2)
    await taken(box, 2)
    assert box.has_room(sending=False)


async def test_whoever_waits_for_room_goes_on_when_a_message_is_taken() -> None:
    box, _ = inbox(limit_count=1)
    box.offer(KEY, message(1), 1)
    waiting = asyncio.create_task(box.wait_for_room(lambda: False))
    await asyncio.sleep(0)
    assert not waiting.done()
    await taken(box, 1)
    await waiting


async def test_whoever_waits_for_room_goes_on_when_a_send_begins() -> None:
    box, _ = inbox(limit_count=1)
    box.offer(KEY, message(1), 1)
    sending = False
    waiting = asyncio.create_task(box.wait_for_room(lambda: sending))
    await asyncio.sleep(0)
    sending = True
    box.nudge()
    await waiting


async def test_it_can_be_waited_for_that_the_application_has_everything() -> None:
    box, _ = inbox()
    box.offer(KEY, message(1), 1)
    box.offer(KEY, message(2), 1)
    waiting = asyncio.create_task(box.wait_until_taken())
    await taken(box, 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    await taken(box, 1)
    await waiting


async def test_the_channel_silent_for_longest_is_forgotten_at_the_limit() -> None:
    box, _ = inbox(lanes_limit_count=2)
    for name in ("a", "b", "a", "c"):
        box.offer((name, 2, False), message(1), 1)
        await box.take() if box._ready else None
    assert [key[0] for key in box.lanes] == ["a", "c"]


async def test_a_channel_with_messages_under_way_is_not_forgotten() -> None:
    box, _ = inbox(lanes_limit_count=1)
    box.offer(("a", 2, False), message(1), 1)
    box.offer(("b", 2, False), message(1), 1)
    assert {key[0] for key in box.lanes} == {"a", "b"}


async def test_the_error_comes_behind_the_last_message() -> None:
    box, _ = inbox()
    box.offer(KEY, message(1), 1)
    box.end(KeyError("why"))
    assert await taken(box, 1) == [1]
    with pytest.raises(KeyError):
        await box.take()


async def test_an_owner_who_closes_drops_what_is_left_and_positions_do_not_count_it() -> None:
    box, _ = inbox()
    box.start(KEY, 3)
    box.offer(KEY, message(4), 1)
    box.end(None)
    with pytest.raises(StopAsyncIteration):
        await box.take()
    assert box.lanes[KEY].position == 3
