"""The memory of pushes: what goes in comes out, the oldest goes first and as a whole, and bytes are bounded."""

import pytest

from wukong.channel.ids import ChannelId
from wukong.dispatch.deliveries import (
    CLIENT_CLOSED,
    ENDED_BYTES,
    FENCED,
    PAGES,
    SLOW,
    Deliveries,
    Mark,
    Page,
    Push,
    marked_as,
)
from wukong.limits import KIB, MIB
from wukong.session.registry import LocalSession

GROUP = ChannelId(2, "g")
ID = (1 << 62) + 5


def session(number: int) -> LocalSession:
    return LocalSession(
        number,
        f"u{number}",
        device_flag=1,
        device_id="d",
        version=5,
        via_json=False,
        peer=("192.0.2.1", 1),
        opened_ms=1_700_000_000_000,
    )


def kept(deliveries: Deliveries) -> list[Push]:
    return [push for page in deliveries.pages() for push in pushes(page)]


def pushes(page: Page) -> list[Push]:
    ids = dict.fromkeys(page.pushes[::4])
    return [push for message_id in ids for push in page.pushes_of(message_id)]


def test_a_push_is_found_by_its_id_with_all_that_came_back() -> None:
    deliveries = Deliveries(MIB)
    sessions, own = [3, 4], [9]
    deliveries.pushed(ID, GROUP, sessions, 1_000)
    deliveries.pushed(ID, GROUP, own, 1_000)
    deliveries.pushed(ID + 1, GROUP, [3], 1_001)
    deliveries.acknowledged(ID, 4, 1_020)
    deliveries.acknowledged(ID + 1, 3, 1_021)
    deliveries.repeated(ID, 3, 61_000)
    deliveries.acknowledged(ID, 3, 61_007)
    (page,) = deliveries.pages()
    assert page.pushes_of(ID) == [Push(ID, GROUP, 1_000, [3, 4]), Push(ID, GROUP, 1_000, [9])]
    assert page.pushes_of(ID)[0].sessions is sessions
    assert page.acknowledged_of(ID) == [Mark(4, 1_020), Mark(3, 61_007)]
    assert page.repeated_of(ID) == [Mark(3, 61_000)]
    assert page.pushes_of(ID + 2) == []
    assert deliveries.forgotten_ms == -1


def test_a_session_of_any_number_is_found_under_its_mark() -> None:
    deliveries = Deliveries(MIB)
    for number in (1, (1 << 22) - 1, 1 << 22, (1 << 30) + 7):
        deliveries.acknowledged(ID, number, (1 << 42) - 1)
    (page,) = deliveries.pages()
    assert page.acknowledged_of(ID) == [
        Mark(marked_as(number), (1 << 42) - 1) for number in (1, (1 << 22) - 1, 1 << 22, (1 << 30) + 7)
    ]


@pytest.mark.parametrize("receivers", [1, 100])
def test_at_the_limit_the_oldest_pushes_are_forgotten_and_when_is_told(receivers: int) -> None:
    deliveries = Deliveries(64 * KIB)
    for number in range(5_000):
        deliveries.pushed(number, GROUP, list(range(receivers)), number)
        for each in range(receivers):
            deliveries.acknowledged(number, each, number)
    left = kept(deliveries)
    assert left[-1].message_id == 4_999
    assert [push.message_id for push in left] == list(range(left[0].message_id, 5_000))
    # What is forgotten had come up to then, and nothing of that time is left for which somebody might look.
    assert deliveries.forgotten_ms in (left[0].at_ms - 1, left[0].at_ms)
    assert len(deliveries.pages()) == PAGES


def test_marks_alone_are_bounded_too() -> None:
    deliveries = Deliveries(64 * KIB)
    deliveries.pushed(ID, GROUP, [1], 0)
    for number in range(20_000):
        deliveries.acknowledged(ID, number, number)
        deliveries.repeated(ID, number, number)
    marks = sum(len(page.acknowledged) + len(page.repeated) for page in deliveries.pages())
    assert 8 * marks <= 64 * KIB
    assert deliveries.forgotten_ms > 0
    assert kept(deliveries) == []


def test_ended_sessions_are_kept_up_to_their_share_the_newest() -> None:
    room = MIB // 8 // ENDED_BYTES
    deliveries = Deliveries(MIB)
    for number in range(room):
        deliveries.ended(session(number), 100 + number, CLIENT_CLOSED)
    deliveries.ended(session(room), 5_000, SLOW, "too slow")
    ended = list(deliveries.ended_sessions())
    assert [each.number for each in ended] == list(range(1, room + 1))
    last = ended[-1]
    assert (last.uid, last.device_flag, last.opened_ms, last.ended_ms) == (f"u{room}", 1, 1_700_000_000_000, 5_000)
    assert (last.why, last.text) == (SLOW, "too slow")


def test_of_all_sessions_at_once_as_many_are_kept_as_there_is_room_for() -> None:
    room = MIB // 8 // ENDED_BYTES
    deliveries = Deliveries(MIB)
    deliveries.all_ended(map(session, range(3)), 7, FENCED)
    assert [each.number for each in deliveries.ended_sessions()] == [0, 1, 2]
    deliveries.all_ended(map(session, range(10, 10 + 2 * room)), 9, FENCED)
    assert [each.number for each in deliveries.ended_sessions()] == list(range(10 + room, 10 + 2 * room))


def test_long_ids_count_for_what_they_take() -> None:
    limit, letters = 16 * MIB, 30_000
    deliveries = Deliveries(limit)
    for number in range(1_000):
        deliveries.pushed(number, ChannelId(2, f"{number:0{letters}}"), [1], number)
        over = session(number)
        over.uid = over.device_id = f"{number:0{letters}}"
        deliveries.ended(over, number, SLOW)
    assert 0 < sum(len(push.channel.id) for push in kept(deliveries)) <= limit
    uids = [each.uid for each in deliveries.ended_sessions()]
    assert uids[-1:] == [f"{999:0{letters}}"]
    assert 2 * letters * len(uids) <= limit // 8
    for number in range(1_000, 6_000):
        deliveries.ended(session(number), number, SLOW)
    assert len(list(deliveries.ended_sessions())) == limit // 8 // ENDED_BYTES
