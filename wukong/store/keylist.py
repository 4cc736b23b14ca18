"""A sorted list of keys that grows by bursts of new ones."""

from bisect import insort
from collections.abc import Collection


def add_keys(keys: list[bytes], new: Collection[bytes]) -> None:
    """Put `new`, none of them in `keys`, into the sorted list `keys`.

    Inserting one costs about 0.4 µs and the move of what is behind it (0.15 µs per 1000 keys); a sort compares every
    key once (15 µs per 1000 keys). The two meet at 27 new keys in 1,000 and near 100 in any larger list.
    """
    if len(new) * (2700 + len(keys)) < 100 * len(keys):
        for key in new:
            insort(keys, key)
    else:
        keys.extend(new)
        keys.sort()
