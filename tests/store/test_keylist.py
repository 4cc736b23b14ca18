"""Sorted key lists."""

import random

import pytest

from wukong.store.keylist import add_keys


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 5), (1000, 1), (1000, 27), (1000, 28), (1000, 900)])
def test_the_list_is_sorted_after_few_and_after_many_new_keys(old: int, new: int) -> None:
    numbers = random.Random(old + new).sample(range(10_000), old + new)
    every = [b"%04d" % number for number in numbers]
    keys = sorted(every[:old])
    add_keys(keys, every[old:])
    assert keys == sorted(every)
