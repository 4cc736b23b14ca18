import random

from wukong.links.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_start_again_after_a_reset() -> None:
    backoff = Backoff(0.05, 1.0, random.Random(1))
    for _ in range(2):
        pauses = [backoff.next_s() for _ in range(8)]
        for pause, longest in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0), strict=True):
            assert longest / 2 <= pause <= longest
        backoff.reset()


def test_two_nodes_do_not_wait_equally_long() -> None:
    one, two = (Backoff(0.05, 1.0, random.Random(seed)) for seed in (1, 2))
    assert all(one.next_s() != two.next_s() for _ in range(10))
