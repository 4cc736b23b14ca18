"""Counting how long things take."""

from random import Random

import pytest

from wukong.histogram import LATENCY_S, Histogram, quantile


def test_a_value_counts_in_the_step_whose_end_it_does_not_exceed() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.1, 99):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.total == pytest.approx(111.6)


def test_a_quantile_lies_evenly_inside_its_step() -> None:
    assert quantile((1, 2, 4), [0, 0, 10, 0], 0.5) == pytest.approx(3.0)
    assert quantile((1, 2, 4), [5, 5, 0, 0], 0.5) == pytest.approx(1.0)
    assert quantile((1, 2, 4), [5, 5, 0, 0], 1.0) == pytest.approx(2.0)


def test_nothing_has_no_quantile() -> None:
    assert quantile((1, 2), [0, 0, 0], 0.99) is None


def test_what_is_beyond_all_steps_counts_as_the_last_end() -> None:
    assert quantile((1, 2), [0, 0, 7], 0.5) == 2.0


def test_a_quantile_is_never_off_by_more_than_a_step() -> None:
    rng = Random(7)
    values = sorted(rng.lognormvariate(-4.5, 1.2) for _ in range(2_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.5, 0.9, 0.99):
        real = values[int(share * len(values)) - 1]
        low = max((bound for bound in LATENCY_S if bound < real), default=0.0)
        high = min(bound for bound in LATENCY_S if bound >= real)
        found = quantile(LATENCY_S, histogram.counts, share)
        assert found is not None
        assert low <= found <= high
