"""What every store promises (wukong/store/interface.py), over RocksDB and over the twin in memory."""

import random
from collections.abc import Mapping

import pytest

from tests.store.conftest import Backend
from wukong.store.interface import Store

Rows = list[tuple[bytes, bytes]]


def model_scan(model: Mapping[bytes, bytes], start: bytes, end: bytes, limit: int | None, reverse: bool) -> Rows:
    rows = sorted((item for item in model.items() if start <= item[0] < end), reverse=reverse)
    return rows if limit is None else rows[:limit]


def some_key(chance: random.Random) -> bytes:
    """Short keys over few letters, so that they collide, and over 00 and FF, where byte order is easily got wrong."""
    return bytes(chance.choices(b"\x00\x01ab\xfe\xff", k=chance.randint(1, 4)))


def everything(store: Store) -> Rows:
    return store.scan(b"", b"\xff" * 8)


def test_an_absent_key_is_none(store: Store) -> None:
    assert store.get(b"absent") is None
    assert store.get_many([b"absent", b"gone"]) == [None, None]
    assert store.get_many([]) == []


def test_what_is_written_is_read(store: Store) -> None:
    store.write({b"a": b"1", b"b": b"", b"\x00\xff": b"\x00" * 1000})
    assert store.get(b"a") == b"1"
    assert store.get(b"b") == b""
    assert store.get_many([b"b", b"x", b"a", b"a", b"\x00\xff"]) == [b"", None, b"1", b"1", b"\x00" * 1000]


def test_none_deletes_and_a_later_write_brings_back(store: Store) -> None:
    store.write({b"a": b"1", b"b": b"2"})
    store.write({b"a": None, b"never there": None})
    assert store.get(b"a") is None
    assert everything(store) == [(b"b", b"2")]
    store.write({b"a": b"3"})
    assert everything(store) == [(b"a", b"3"), (b"b", b"2")]


def test_an_empty_batch_changes_nothing(store: Store) -> None:
    store.write({})
    assert everything(store) == []


def test_a_later_batch_wins(store: Store) -> None:
    for number in range(100):
        store.write({b"k": b"%d" % number, b"n%d" % number: b""})
    assert store.get(b"k") == b"99"
    assert len(everything(store)) == 101


def test_a_scan_takes_start_and_leaves_out_end(store: Store) -> None:
    store.write({bytes([letter]): b"" for letter in b"abcdef"})
    assert [key for key, _ in store.scan(b"b", b"e")] == [b"b", b"c", b"d"]
    assert [key for key, _ in store.scan(b"b", b"e", reverse=True)] == [b"d", b"c", b"b"]
    assert [key for key, _ in store.scan(b"b", b"e", limit=2)] == [b"b", b"c"]
    assert [key for key, _ in store.scan(b"b", b"e", limit=2, reverse=True)] == [b"d", b"c"]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_empty_range_or_limit_gives_nothing(store: Store, reverse: bool) -> None:
    store.write({b"a": b"", b"b": b"", b"c": b""})
    assert store.scan(b"b", b"b", reverse=reverse) == []
    assert store.scan(b"c", b"a", reverse=reverse) == []
    assert store.scan(b"a", b"c", limit=0, reverse=reverse) == []
    assert store.scan(b"bb", b"c", reverse=reverse) == []


def test_a_scan_sees_one_moment(store: Store) -> None:
    store.write({b"a": b"1", b"b": b"1"})
    rows = store.scan(b"a", b"c")
    store.write({b"a": b"2", b"b": None})
    assert rows == [(b"a", b"1"), (b"b", b"1")]


def test_a_compaction_changes_nothing_that_is_read(store: Store) -> None:
    store.write({b"%03d" % number: b"x" for number in range(300)})
    store.write({b"%03d" % number: None for number in range(0, 300, 2)})
    before = everything(store)
    view = store.snapshot(b"\xff")
    store.write({b"001": None})
    for start, end in ((b"", b"\xff"), (b"1", b"1"), (b"2", b"1")):
        store.compact(start, end)
    assert everything(store) == before[1:]
    assert view.scan(b"", b"\xff") == before
    view.close()


def test_delete_range_takes_start_and_leaves_end(store: Store) -> None:
    store.write({bytes([letter]): b"" for letter in b"abcdef"})
    store.delete_range(b"b", b"e")
    assert [key for key, _ in everything(store)] == [b"a", b"e", b"f"]
    store.write({b"c": b"again"})
    assert store.get(b"c") == b"again"


def test_deleting_an_empty_or_reversed_range_changes_nothing_and_the_store_goes_on(store: Store) -> None:
    store.write({b"a": b"1"})
    store.delete_range(b"a", b"a")
    store.delete_range(b"b", b"a")
    store.write({b"b": b"2"})
    assert everything(store) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("seed", range(8))
def test_random_batches_and_reads_agree_with_a_dict(backend: Backend, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    store, model = backend.store, dict[bytes, bytes]()
    for _ in range(400):
        action = chance.random()
        start, end = some_key(chance), some_key(chance)
        if action < 0.4:
            # Values large enough for the small buffers to be flushed and compacted several times.
            changes = {
                some_key(chance): None if chance.random() < 0.3 else chance.randbytes(chance.choice((0, 10, 2000)))
                for _ in range(chance.randint(1, 20))
            }
            store.write(changes)
            for key, value in changes.items():
                if value is None:
                    model.pop(key, None)
                else:
                    model[key] = value
        elif action < 0.45:
            store.delete_range(start, end)
            model = {key: value for key, value in model.items() if not start <= key < end}
        elif action < 0.48:
            store.flush()
        elif action < 0.49:
            store = backend.reopen()
        elif action < 0.7:
            keys = [some_key(chance) for _ in range(10)]
            assert store.get_many(keys) == [store.get(key) for key in keys] == [model.get(key) for key in keys]
        else:
            limit = chance.choice((None, 1, 2, 5, 50))
            reverse = chance.random() < 0.5
            expected = model_scan(model, start, end, limit, reverse)
            assert store.scan(start, end, limit=limit, reverse=reverse) == expected
    assert dict(everything(store)) == model


def test_all_is_there_after_close_and_open(backend: Backend) -> None:
    rows = {b"%06d" % number: b"%d" % number for number in range(2000)}
    backend.store.write(rows)
    backend.store.delete_range(b"000500", b"001000")
    store = backend.reopen()
    assert dict(everything(store)) == {key: value for key, value in rows.items() if not b"000500" <= key < b"001000"}


def test_a_checkpoint_is_a_store_of_its_own_that_later_writes_do_not_reach(backend: Backend) -> None:
    store, path = backend.store, backend.checkpoint_path()
    store.write({b"a": b"1", b"b": b"1"})
    store.flush()
    store.write({b"b": b"2"})
    store.checkpoint(path)
    store.write({b"a": None, b"c": b"3"})
    copy = backend.open_checkpoint(path)
    assert everything(copy) == [(b"a", b"1"), (b"b", b"2")]
    copy.write({b"d": b"4"})
    assert everything(store) == [(b"b", b"2"), (b"c", b"3")]


def test_a_checkpoint_onto_something_that_exists_is_refused(backend: Backend) -> None:
    store, path = backend.store, backend.checkpoint_path()
    store.checkpoint(path)
    with pytest.raises(FileExistsError, match="does not exist yet"):
        store.checkpoint(path)
    store.write({b"still": b"working"})


def test_a_view_shows_its_moment_whatever_happens_to_the_rows_later(backend: Backend) -> None:
    store = backend.store
    before = {b"%06d" % number: b"%d" % number * 20 for number in range(3000)}
    store.write(before)
    view = store.snapshot(b"\xff")
    store.write({b"000000": b"changed", b"000001": None, b"0000015": b"new"})
    store.delete_range(b"000100", b"003000")
    for number in range(20):  # enough for the small buffers to be flushed and compacted
        store.write({b"%06d" % key: b"later" * 20 + b"%d" % number for key in range(500)})
    store.flush()
    assert (view.get(b"000000"), view.get(b"000001"), view.get(b"0000015")) == (b"0" * 20, b"1" * 20, None)
    assert view.get(b"000200") == b"200" * 20
    assert view.scan(b"", b"\xff") == sorted(before.items())
    view.close()
    assert store.get(b"0000015") == b"new"
    assert store.get(b"002000") is None


def test_a_view_ends_where_it_was_told_to(store: Store) -> None:
    store.write({bytes([letter]): b"" for letter in b"abcdef"})
    view = store.snapshot(b"d")
    assert [key for key, _ in view.scan(b"b", b"f")] == [b"b", b"c"]
    assert (view.get(b"c"), view.get(b"d")) == (b"", None)


def test_a_view_is_read_in_slices_bounded_by_rows_and_bytes(store: Store) -> None:
    store.write({b"a": b"1" * 9, b"b": b"2" * 9, b"c": b"3" * 99, b"d": b"4", b"e": b"5"})
    view = store.snapshot(b"\xff")
    assert [key for key, _ in view.scan(b"a", b"z", limit=2)] == [b"a", b"b"]
    assert view.scan(b"a", b"z", limit=0) == []
    assert [key for key, _ in view.scan(b"a", b"z", limit_bytes=20)] == [b"a", b"b"]
    assert [key for key, _ in view.scan(b"a", b"z", limit_bytes=19)] == [b"a"]
    assert [key for key, _ in view.scan(b"b\0", b"z", limit_bytes=20)] == [b"c"], "a larger row comes alone"
    assert [key for key, _ in view.scan(b"c\0", b"e", limit_bytes=100)] == [b"d"]
    assert view.scan(b"z", b"a") == []


@pytest.mark.parametrize("seed", range(4))
def test_slices_and_look_ups_in_any_order_agree_with_a_dict(store: Store, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    model = {some_key(chance): chance.randbytes(chance.choice((0, 10, 200))) for _ in range(400)}
    store.write(model)
    view = store.snapshot(b"\xff" * 8)
    store.delete_range(b"", b"\xff" * 8)
    behind = b""
    for _ in range(600):
        if chance.random() < 0.2:
            key = some_key(chance)
            assert view.get(key) == model.get(key)
            continue
        start, end = (
            (behind if chance.random() < 0.5 else some_key(chance)),
            chance.choice((some_key(chance), b"\xff" * 8)),
        )
        limit, limit_bytes = chance.choice((None, 0, 1, 3, 50)), chance.choice((None, 1, 50, 500))
        expected: Rows = []
        size = 0
        for key, value in model_scan(model, start, end, limit, False):
            size += len(key) + len(value)
            if expected and limit_bytes is not None and size > limit_bytes:
                break
            expected.append((key, value))
        assert view.scan(start, end, limit=limit, limit_bytes=limit_bytes) == expected
        if expected:
            behind = expected[-1][0] + b"\0"


def test_a_view_that_was_closed_is_refused_and_closing_the_store_closes_its_views(backend: Backend) -> None:
    store = backend.store
    store.write({b"a": b"1"})
    closed, open_one = store.snapshot(b"b"), store.snapshot(b"b")
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="the view is closed"):
        closed.get(b"a")
    assert open_one.get(b"a") == b"1"
    backend.reopen()
    with pytest.raises(RuntimeError, match="the view is closed"):
        open_one.scan(b"a", b"b")
    open_one.close()


def test_a_closed_store_refuses_everything_but_a_second_close(store: Store) -> None:
    store.write({b"a": b"1"})
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.get(b"a")
    with pytest.raises(RuntimeError, match="closed"):
        store.get_many([b"a"])
    with pytest.raises(RuntimeError, match="closed"):
        store.scan(b"a", b"b")
    with pytest.raises(RuntimeError, match="closed"):
        store.write({b"a": b"2"})
    with pytest.raises(RuntimeError, match="closed"):
        store.delete_range(b"a", b"b")
    with pytest.raises(RuntimeError, match="closed"):
        store.flush()
    with pytest.raises(RuntimeError, match="closed"):
        store.checkpoint("/nowhere/at all")
    with pytest.raises(RuntimeError, match="closed"):
        store.snapshot(b"b")
