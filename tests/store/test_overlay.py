"""The overlay: a step sees its own writes, and how a sequence is cut into commits can not be seen."""

import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import Backend
from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay, View, prefix_end

PREFIX = b"\x00\x01\x00\x00\x00\x07"
NEIGHBOURS = (b"\x00\x01\x00\x00\x00\x06\xff\xff", b"\x00\x01\x00\x00\x00\x08", b"\x00\x01\x00\x00", b"\xff\xff")

Rows = list[tuple[bytes, bytes]]


@pytest.fixture
def overlay(store: Store) -> Overlay:
    """Over a store whose neighbouring ranges are not empty: no view of PREFIX may ever show them."""
    store.write(dict.fromkeys(NEIGHBOURS, b"neighbour"))
    return Overlay(store)


def keys(rows: Rows) -> list[bytes]:
    return [key for key, _ in rows]


def test_a_view_reads_its_own_writes_before_the_commit(overlay: Overlay) -> None:
    view = overlay.view(PREFIX)
    view.put(b"a", b"1")
    view.put(b"b", b"")
    assert view.get(b"a") == b"1"
    assert view.get(b"b") == b""
    assert view.scan() == [(b"a", b"1"), (b"b", b"")]
    assert overlay.store.get(PREFIX + b"a") is None


def test_a_pending_deletion_hides_the_stored_row(overlay: Overlay) -> None:
    view = overlay.view(PREFIX)
    view.put(b"a", b"1")
    overlay.commit()
    view.delete(b"a")
    view.delete(b"never there")
    assert view.get(b"a") is None
    assert view.get_many([b"a", b"never there"]) == [None, None]
    assert view.scan() == []
    view.put(b"a", b"2")
    assert view.scan() == [(b"a", b"2")]


def test_get_many_mixes_pending_and_stored_rows_in_the_order_asked(overlay: Overlay) -> None:
    view = overlay.view(PREFIX)
    for key in (b"a", b"b", b"c"):
        view.put(key, b"stored " + key)
    overlay.commit()
    view.put(b"b", b"pending b")
    view.delete(b"c")
    assert view.get_many([b"c", b"a", b"x", b"b", b"a"]) == [None, b"stored a", None, b"pending b", b"stored a"]
    assert view.get_many([]) == []
    assert view.get_many([b"b"]) == [b"pending b"]


def test_commit_writes_one_batch_and_clears(overlay: Overlay) -> None:
    written: list[dict[bytes, bytes | None]] = []
    write = overlay.store.write

    def recording(changes: Mapping[bytes, bytes | None]) -> None:
        written.append(dict(changes))
        write(changes)

    overlay.store.write = recording  # type: ignore[method-assign]
    one, two = overlay.view(PREFIX), overlay.view(b"\x00\x02")
    one.put(b"a", b"1")
    two.put(b"a", b"2")
    one.delete(b"b")
    overlay.commit()
    overlay.commit()
    assert written == [{PREFIX + b"a": b"1", b"\x00\x02a": b"2", PREFIX + b"b": None}]
    assert overlay.changes == {}
    assert (one.get(b"a"), two.get(b"a")) == (b"1", b"2")


def test_changes_stay_when_the_store_refuses_them(overlay: Overlay) -> None:
    view = overlay.view(PREFIX)
    view.put(b"a", b"1")
    overlay.store.close()
    with pytest.raises(RuntimeError):
        overlay.commit()
    assert view.get(b"a") == b"1"


def test_discard_forgets_the_changes(overlay: Overlay) -> None:
    view = overlay.view(PREFIX)
    view.put(b"a", b"1")
    assert view.scan() == [(b"a", b"1")]
    overlay.discard()
    assert view.get(b"a") is None
    assert view.scan() == []


def test_views_do_not_see_each_other_or_the_neighbours(overlay: Overlay) -> None:
    one, two = overlay.view(PREFIX), overlay.view(PREFIX[:-1] + b"\x08")
    one.put(b"k", b"1")
    two.put(b"k", b"2")
    assert one.scan() == [(b"k", b"1")]
    assert two.scan() == [(b"", b"neighbour"), (b"k", b"2")]
    assert keys(one.scan(b"", b"\xff" * 4, reverse=True)) == [b"k"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 20])
def test_a_limited_scan_goes_on_behind_rows_deleted_in_this_step(overlay: Overlay, limit: int, reverse: bool) -> None:
    view = overlay.view(PREFIX)
    names = [b"%03d" % number for number in range(100)]
    for name in names:
        view.put(name, b"")
    overlay.commit()
    left = names[70:72] if reverse is False else names[28:30]
    for name in names[:70] if reverse is False else names[30:]:
        view.delete(name)
    expected = names[70:] if reverse is False else names[:30][::-1]
    assert keys(view.scan(limit=limit, reverse=reverse)) == expected[:limit]
    view.delete(left[0])
    assert keys(view.scan(limit=limit, reverse=reverse)) == [name for name in expected if name != left[0]][:limit]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_limited_scan_stops_within_the_pending_rows(overlay: Overlay, reverse: bool) -> None:
    view = overlay.view(PREFIX)
    view.put(b"m", b"stored")
    overlay.commit()
    for number in range(1000):
        view.put(b"a%03d" % number, b"")
        view.put(b"z%03d" % number, b"")
    expected = [b"z999", b"z998"] if reverse else [b"a000", b"a001"]
    assert keys(view.scan(limit=2, reverse=reverse)) == expected


def test_scans_between_many_writes_stay_sorted(overlay: Overlay) -> None:
    chance, view, names = random.Random(4), overlay.view(PREFIX), set[bytes]()
    for _ in range(600):
        for _ in range(chance.choice((0, 1, 1, 2, 90))):
            names.add(name := chance.randbytes(3))
            view.put(name, b"")
        start = chance.randbytes(1)
        assert keys(view.scan(start, limit=3)) == sorted(name for name in names if name >= start)[:3]
    assert keys(view.scan()) == sorted(names)


def test_the_end_of_a_prefix_is_above_all_its_keys() -> None:
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(PREFIX) == PREFIX[:-1] + b"\x08"
    for prefix in (b"", b"\xff\xff"):
        with pytest.raises(ValueError, match="no key follows"):
            prefix_end(prefix)


# Equivalence: the same operations, applied directly and through an overlay with commits anywhere between them.

KEYS = st.binary(max_size=2).map(lambda raw: bytes(b"\x00ab\xff"[byte % 4] for byte in raw))
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=2)),
    st.tuples(st.just("delete"), KEYS, st.none()),
    st.tuples(st.just("get"), KEYS, st.none()),
    st.tuples(st.just("get_many"), st.lists(KEYS, max_size=4), st.none()),
    st.tuples(
        st.just("scan"),
        st.tuples(KEYS, st.none() | KEYS),
        st.tuples(st.none() | st.integers(0, 5), st.booleans()),
    ),
    st.tuples(st.just("commit"), st.none(), st.none()),
)


class Model:
    """The slow and obvious key-value store."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def scan(self, start: bytes, end: bytes | None, limit: int | None, reverse: bool) -> Rows:
        rows = sorted(row for row in self.rows.items() if start <= row[0] and (end is None or row[0] < end))
        return (rows[::-1] if reverse else rows)[:limit]


def run(view: View, model: Model, commit: Callable[[], None], operations: list[tuple[str, object, object]]) -> None:
    for name, what, more in operations:
        if name == "put":
            assert isinstance(what, bytes) and isinstance(more, bytes)
            view.put(what, more)
            model.rows[what] = more
        elif name == "delete":
            assert isinstance(what, bytes)
            view.delete(what)
            model.rows.pop(what, None)
        elif name == "get":
            assert isinstance(what, bytes)
            assert view.get(what) == model.rows.get(what)
        elif name == "get_many":
            assert isinstance(what, list)
            assert view.get_many(what) == [model.rows.get(key) for key in what]
        elif name == "scan":
            assert isinstance(what, tuple) and isinstance(more, tuple)
            (start, end), (limit, reverse) = what, more
            assert view.scan(start, end, limit=limit, reverse=reverse) == model.scan(start, end, limit, reverse)
        else:
            commit()


@settings(max_examples=400, deadline=None)
@given(st.lists(OPERATIONS, max_size=40))
def test_any_cut_into_commits_reads_and_ends_as_a_dict_does(operations: list[tuple[str, object, object]]) -> None:
    store = MemoryStore(dict.fromkeys(NEIGHBOURS, b"neighbour"))
    overlay, model = Overlay(store), Model()
    run(overlay.view(PREFIX), model, overlay.commit, operations)
    overlay.commit()
    assert dict(store.scan(PREFIX, prefix_end(PREFIX))) == {PREFIX + key: row for key, row in model.rows.items()}
    assert store.get_many(list(NEIGHBOURS)) == [b"neighbour"] * len(NEIGHBOURS)


@pytest.mark.parametrize("seed", range(6))
def test_the_final_store_does_not_depend_on_the_cuts(backend: Backend, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    overlay, model = Overlay(backend.store), Model()
    view = overlay.view(PREFIX)

    def key() -> bytes:
        return bytes(chance.choices(b"\x00abc\xff", k=chance.randint(0, 3)))

    def operation() -> tuple[str, object, object]:
        kind = chance.choices(("put", "delete", "get", "get_many", "scan"), (5, 2, 1, 1, 2))[0]
        if kind == "put":
            return kind, key(), chance.randbytes(chance.choice((0, 5, 500)))
        if kind == "get_many":
            return kind, [key() for _ in range(5)], None
        if kind == "scan":
            return kind, (key(), chance.choice((None, key()))), (chance.choice((None, 1, 4)), chance.random() < 0.5)
        return kind, key(), None

    direct = MemoryStore()
    for _ in range(60):
        operations = [operation() for _ in range(chance.randint(1, 60))]
        run(view, model, overlay.commit, operations)
        for kind, what, value in operations:
            if kind in ("put", "delete"):
                assert isinstance(what, bytes) and (value is None or isinstance(value, bytes))
                direct.write({PREFIX + what: value})
        overlay.commit()
    assert backend.store.scan(b"", b"\xff" * 8) == direct.scan(b"", b"\xff" * 8)
