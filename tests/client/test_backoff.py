from random import Random

import pytest

from wukong.client.backoff import Backoff


def test_the_bound_doubles_with_every_failure_up_to_the_cap() -> None:
    backoff = Backoff(base_s=0.5, cap_s=3.0)
    assert [backoff.bound_s(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_the_wait_is_spread_over_the_whole_range_below_the_bound() -> None:
    backoff = Backoff(base_s=1.0, cap_s=8.0)
    random = Random(1)
    delays = [backoff.delay_s(3, random) for _ in range(2_000)]
    assert 0.0 <= min(delays) < 0.1
    assert 3.9 < max(delays) <= 4.0
    assert 1.8 < sum(delays) / len(delays) < 2.2


@pytest.mark.parametrize(("base_s", "cap_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_back_off_that_would_not_wait_or_never_grow_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="base_s"):
        Backoff(base_s=base_s, cap_s=cap_s)


def test_no_attempt_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts_limit"):
        Backoff(attempts_limit=0)
