from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wukong.client.ordering import HOLES_LIMIT_COUNT, ChannelOrder


def order(position: int | None = 0) -> ChannelOrder[int]:
    return ChannelOrder(position)


def test_messages_in_order_come_out_at_once() -> None:
    channel = order()
    assert [channel.offer(seq, seq) for seq in (1, 2, 3)] == [[1], [2], [3]]
    assert (channel.position, channel.gap_end) == (3, None)


def test_a_repetition_is_told_from_a_message_that_has_to_wait() -> None:
    channel = order()
    channel.offer(1, 1)
    assert channel.offer(3, 3) == []
    assert channel.offer(3, 3) is None
    assert channel.offer(1, 1) is None


@pytest.mark.parametrize("arrival", list(permutations(range(1, 6))))
def test_whatever_the_order_of_arrival_the_order_of_release_is_that_of_the_seqs(arrival: tuple[int, ...]) -> None:
    channel = order()
    released = [each for seq in arrival for each in channel.offer(seq, seq) or ()]
    assert released == [1, 2, 3, 4, 5]


def test_an_own_message_closes_the_gap_it_left() -> None:
    channel = order()
    assert channel.offer(2, 2) == []
    assert channel.gap_end == 1
    assert channel.sent(1) == [2]
    assert (channel.position, channel.gap_end) == (2, None)


def test_an_own_message_is_not_released_when_it_arrives_too() -> None:
    channel = order()
    channel.sent(2)
    assert channel.offer(2, 2) is None
    assert channel.offer(1, 1) == [1]
    assert channel.position == 2


def test_what_is_skipped_does_not_block_what_follows() -> None:
    channel = order()
    channel.offer(3, 3)
    channel.offer(4, 4)
    channel.offer(7, 7)
    assert channel.skip(2) == [3, 4]
    assert channel.gap_end == 6
    assert channel.skip(6) == [7]


def test_skipping_releases_what_is_there_and_gives_up_the_rest() -> None:
    channel = order()
    for seq in (2, 4, 6):
        channel.offer(seq, seq)
    assert channel.skip(5) == [2, 4, 6]
    assert channel.position == 6


def test_a_skipped_message_that_comes_after_all_is_released_once() -> None:
    channel = order()
    channel.offer(3, 3)
    channel.skip(2)
    assert channel.offer(1, 1) == [1]
    assert channel.offer(1, 1) is None


def test_a_gap_over_the_limit_is_not_remembered() -> None:
    channel = order()
    channel.skip(HOLES_LIMIT_COUNT + 1)
    assert channel.offer(1, 1) is None


def test_without_a_position_everything_waits_until_the_start() -> None:
    channel = order(None)
    assert channel.offer(8, 8) == []
    assert channel.offer(7, 7) == []
    assert channel.gap_end is None
    assert channel.start() == [7, 8]


def test_a_start_does_not_jump_over_what_has_arrived() -> None:
    channel = order(None)
    channel.offer(7, 7)
    assert channel.start(9) == [7]


def test_a_start_behind_a_gap_leaves_the_gap_to_be_healed() -> None:
    channel = order(None)
    channel.offer(7, 7)
    assert channel.start(4) == []
    assert (channel.position, channel.gap_end) == (4, 6)


def test_a_second_start_changes_nothing() -> None:
    channel = order(5)
    assert channel.start(9) == []
    assert channel.position == 5


@given(st.lists(st.integers(1, 12), max_size=60), st.sets(st.integers(1, 12)))
def test_each_message_comes_out_once_and_own_ones_never(arrivals: list[int], own: set[int]) -> None:
    channel = order()
    released = []
    for seq in arrivals:
        if seq in own:
            released += channel.sent(seq)
        else:
            released += channel.offer(seq, seq) or ()
    released += channel.skip(12)
    assert released == sorted(set(arrivals) - own)
