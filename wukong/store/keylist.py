"""A sorted list of keys that grows by bursts of new ones."""

from bisect import insort
from collections.abc import Collection


def add_keys(keys: list[bytes], new: Collection[bytes]) -> None:
    """Put `new`, none of them in `keys`, into the sorted list `keys`.

    Single insertions move memory only (some µs at 10^5 keys); a sort compares every key once. Measured, the sort wins
    from about one new key in 24.
    """
    if len(new) * 24 < len(keys):
        for key in new:
            insort(keys, key)
    else:
        keys.extend(new)
        keys.sort()
