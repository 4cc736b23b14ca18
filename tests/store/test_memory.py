"""The twin in memory forgets like a disk: the newest batches since the last flush, whole ones only."""

import random

import pytest

from wukong.store.memory import MemoryStore


def everything(store: MemoryStore) -> list[tuple[bytes, bytes]]:
    return store.scan(b"", b"\xff" * 8)


def test_losing_batches_takes_back_the_newest_whole_ones() -> None:
    store = MemoryStore()
    store.write({b"a": b"1", b"b": b"1"})
    store.write({b"a": b"2", b"c": b"2"})
    store.write({b"a": None, b"d": b"3"})
    assert store.unflushed == 3
    store.lose(1)
    assert everything(store) == [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")]
    store.lose(1)
    assert everything(store) == [(b"a", b"1"), (b"b", b"1")]
    store.lose(1)
    assert everything(store) == []
    assert store.unflushed == 0


def test_what_was_flushed_can_not_be_lost() -> None:
    store = MemoryStore()
    store.write({b"a": b"1"})
    store.flush()
    assert store.unflushed == 0
    store.write({b"a": None})
    store.lose(store.unflushed)
    assert everything(store) == [(b"a", b"1")]
    with pytest.raises(AssertionError):
        store.lose(1)


def test_a_lost_range_deletion_brings_its_rows_back() -> None:
    store = MemoryStore()
    rows: dict[bytes, bytes | None] = {b"%04d" % number: b"" for number in range(500)}
    store.write(rows)
    store.delete_range(b"0100", b"0400")
    assert len(everything(store)) == 200
    store.lose(1)
    assert [key for key, _ in everything(store)] == sorted(rows)


def test_a_killed_process_loses_nothing_and_its_store_object_is_dead() -> None:
    store = MemoryStore()
    store.write({b"a": b"1"})
    after = store.reopen()
    assert everything(after) == [(b"a", b"1")]
    assert after.unflushed == 1
    with pytest.raises(RuntimeError):
        store.get(b"a")
    after.lose(1)
    assert everything(after) == []


def test_a_closed_store_has_reached_the_disk() -> None:
    store = MemoryStore()
    store.write({b"a": b"1"})
    store.close()
    assert store.reopen().unflushed == 0


@pytest.mark.parametrize("seed", range(20))
def test_after_any_loss_the_store_is_as_it_was_after_some_batch_since_the_flush(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    store, history = MemoryStore(), [dict[bytes, bytes]()]
    for _ in range(300):
        draw = chance.random()
        if draw < 0.8:
            changes = {
                chance.randbytes(1): chance.choice((None, chance.randbytes(1))) for _ in range(chance.randint(1, 5))
            }
            store.write(changes)
            state = {**history[-1], **{key: value for key, value in changes.items() if value is not None}}
            history.append({key: value for key, value in state.items() if changes.get(key, value) is not None})
        elif draw < 0.9:
            store.flush()
            del history[:-1]
        else:
            count = chance.randint(0, store.unflushed)
            store.lose(count)
            del history[len(history) - count :]
        assert store.unflushed == len(history) - 1
        assert everything(store) == sorted(history[-1].items())
