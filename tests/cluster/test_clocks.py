"""A wall clock far ahead of the others' is not believed."""

import pytest

from wukong.cluster.clocks import Clocks

DAY_MS = 86_400_000


class Wall:
    def __init__(self) -> None:
        self.ms = 10 * DAY_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("others", "ahead"),
    [
        ([], 0),
        ([-DAY_MS], 0),
        ([-DAY_MS, -DAY_MS], DAY_MS),
        ([-DAY_MS, 0], 0),
        ([DAY_MS, DAY_MS], 0),
        ([-9_000, -9_000], 0),
        ([-11_000, -12_000], 11_000),
        ([-DAY_MS, -DAY_MS, 0, 0], 0),
        ([-DAY_MS, -DAY_MS, -DAY_MS, 0], DAY_MS),
    ],
)
def test_only_a_clock_ahead_of_a_majority_is_corrected(others: list[int], ahead: int) -> None:
    wall = Wall()
    clocks = Clocks(wall)
    for node, difference in enumerate(others, 2):
        clocks.heard(node, wall.ms + difference)
    assert clocks.ahead_ms == ahead
    assert clocks.now_ms() == wall.ms - ahead


def test_a_clock_that_was_set_right_is_believed_again() -> None:
    wall = Wall()
    clocks = Clocks(wall)
    right = wall.ms - DAY_MS
    clocks.heard(2, right)
    clocks.heard(3, right)
    assert clocks.now_ms() == right
    wall.ms = right + 1_000
    clocks.heard(2, right + 1_000)
    clocks.heard(3, right + 1_000)
    assert (clocks.ahead_ms, clocks.now_ms()) == (0, wall.ms)


def test_nodes_that_are_gone_do_not_count() -> None:
    wall = Wall()
    clocks = Clocks(wall)
    for node in (2, 3):
        clocks.heard(node, wall.ms - DAY_MS)
    clocks.forget(3)
    assert clocks.ahead_ms == 0
