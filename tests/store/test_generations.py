"""Generations: a slot is always in one whole generation, whatever was lost and wherever the process ended."""

import threading
from pathlib import Path

import pytest

from tests.store.conftest import Backend
from wukong.store.generations import META_PREFIX, Generations, slot_prefix
from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import prefix_end
from wukong.store.rocks import RocksStore

APPLIED = META_PREFIX + b"applied"


def rows(store: Store, slot: int, generation: int) -> list[bytes]:
    prefix = slot_prefix(slot, generation)
    return [key[len(prefix) :] for key, _ in store.scan(prefix, prefix_end(prefix))]


def test_the_prefix_is_slot_and_generation_in_byte_order() -> None:
    assert slot_prefix(0x0102, 0x03040506) == b"\x01\x02\x03\x04\x05\x06"
    assert slot_prefix(1, 0xFFFFFFFF) < slot_prefix(2, 0)
    assert slot_prefix(0xFFFE, 0xFFFFFFFF) < META_PREFIX


@pytest.mark.parametrize(("slot", "generation"), [(-1, 0), (0xFFFF, 0), (0, -1), (0, 1 << 32)])
def test_a_slot_or_generation_out_of_range_is_refused(slot: int, generation: int) -> None:
    with pytest.raises(ValueError, match="is not in 0"):
        slot_prefix(slot, generation)


def test_a_new_store_is_in_generation_0_everywhere(store: Store) -> None:
    generations = Generations(store)
    assert generations.current(7) == 0
    assert generations.staged(7) is None
    assert generations.prefix(7) == slot_prefix(7, 0)


def test_a_flip_changes_the_generation_and_the_extra_rows_at_once_and_for_good(backend: Backend) -> None:
    store = backend.store
    generations = Generations(store)
    store.write({generations.prefix(3) + b"old": b"", generations.prefix(4) + b"other": b""})
    staged = generations.stage(3)
    assert (staged, generations.current(3), generations.staged(3)) == (1, 0, 1)
    store.write({slot_prefix(3, staged) + b"new": b""})
    generations.flip(3, staged, {APPLIED: b"42"})
    assert (generations.current(3), generations.staged(3)) == (1, None)
    assert generations.prefix(3) == slot_prefix(3, 1)
    generations.drop(3, 0)

    store = backend.reopen()
    generations = Generations(store)
    assert (generations.prefix(3), generations.staged(3)) == (slot_prefix(3, 1), None)
    assert store.get(APPLIED) == b"42"
    assert (rows(store, 3, 0), rows(store, 3, 1), rows(store, 4, 0)) == ([], [b"new"], [b"other"])


def test_opening_removes_what_a_crash_left_between_flip_and_drop(backend: Backend) -> None:
    store = backend.store
    generations = Generations(store)
    for slot in (2, 3, 0xFFFE):
        store.write({slot_prefix(slot, 0) + b"old": b"", slot_prefix(slot, 9) + b"stray": b""})
    generations.flip(3, generations.stage(3))
    store.write({slot_prefix(3, 1) + b"new": b"", META_PREFIX + b"x": b"kept"})
    store = backend.reopen()
    Generations(store)
    assert (rows(store, 3, 0), rows(store, 3, 1), rows(store, 3, 9)) == ([], [b"new"], [])
    assert (rows(store, 2, 0), rows(store, 2, 9)) == ([b"old"], [])
    assert (rows(store, 0xFFFE, 0), rows(store, 0xFFFE, 9)) == ([b"old"], [])
    assert store.get(META_PREFIX + b"x") == b"kept"


def test_a_stage_survives_a_restart_and_can_still_be_flipped(backend: Backend) -> None:
    staged = Generations(backend.store).stage(5)
    backend.store.write({slot_prefix(5, staged) + b"half": b""})
    store = backend.reopen()
    generations = Generations(store)
    assert generations.staged(5) == staged
    assert rows(store, 5, staged) == [b"half"]
    generations.flip(5, staged)
    assert rows(store, 5, generations.current(5)) == [b"half"]


def test_a_new_stage_drops_the_unfinished_one_and_takes_a_new_number(store: Store) -> None:
    generations = Generations(store)
    first = generations.stage(5)
    store.write({slot_prefix(5, first) + b"half": b""})
    second = generations.stage(5)
    assert second == first + 1
    assert rows(store, 5, first) == []
    generations.drop(5, second)
    assert generations.staged(5) is None
    generations = Generations(store)
    assert generations.staged(5) is None
    assert generations.stage(5) == second + 1


def test_a_flip_has_reached_the_disk_when_it_returns() -> None:
    store = MemoryStore()
    generations = Generations(store)
    generations.flip(5, generations.stage(5))
    assert store.unflushed == 0


def test_only_the_staged_generation_can_be_flipped_to(store: Store) -> None:
    generations = Generations(store)
    with pytest.raises(ValueError, match="not staged"):
        generations.flip(5, 1)
    old = generations.stage(5)
    generations.stage(5)
    with pytest.raises(ValueError, match="not staged"):
        generations.flip(5, old)


def test_the_stages_that_a_crash_left_are_known(backend: Backend) -> None:
    generations = Generations(backend.store)
    for slot in (7, 3):
        generations.stage(slot)
    generations.flip(7, 1)
    assert Generations(backend.reopen()).staged_slots() == [3]


def test_a_flip_in_another_thread_leaves_no_old_prefix_behind_and_writes_go_on(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    generations = Generations(store)
    ended = threading.Event()

    def install() -> None:
        try:
            for _ in range(200):
                generations.flip(1, generations.stage(1))
        finally:
            ended.set()

    thread = threading.Thread(target=install)
    thread.start()
    written = 0
    while not ended.is_set():
        written += 1
        store.write({generations.prefix(2) + b"%06d" % written: b""})
        # An old one is given out for a moment at most.
        assert slot_prefix(1, 0) <= generations.prefix(1) <= slot_prefix(1, 200)
    thread.join(10)
    assert (generations.current(1), generations.prefix(1)) == (200, slot_prefix(1, 200))
    assert len(rows(store, 2, 0)) == written
    store.close()


def test_the_current_generation_can_not_be_dropped(store: Store) -> None:
    generations = Generations(store)
    with pytest.raises(ValueError, match="current"):
        generations.drop(5, 0)


def install(store: Store) -> None:
    """A snapshot comes in: slot 1 goes from two old rows at applied index 10 to three new ones at 20."""
    generations = Generations(store)
    staged = generations.stage(1)
    for key in (b"x", b"y", b"z"):
        store.write({slot_prefix(1, staged) + key: b""})
    generations.flip(1, staged, {APPLIED: b"20"})
    generations.drop(1, staged - 1)


class CutShort(Exception):
    """The process ended here."""


class EndingStore(MemoryStore):
    """Ends after a number of batches; `flush` does not reach the disk, so every suffix can be lost."""

    batches_left = 0

    def flush(self) -> None:
        pass

    def write(self, changes: object) -> None:
        self._count()
        super().write(changes)  # type: ignore[arg-type]

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._count()
        super().delete_range(start, end)

    def _count(self) -> None:
        if self.batches_left == 0:
            raise CutShort
        self.batches_left -= 1


@pytest.mark.parametrize("batches", range(8))
def test_wherever_an_install_ends_and_whatever_is_lost_the_slot_is_whole(batches: int) -> None:
    for lost in range(batches + 1):
        store = EndingStore({slot_prefix(1, 0) + b"a": b"", slot_prefix(1, 0) + b"b": b"", APPLIED: b"10"})
        store.batches_left = batches
        try:
            install(store)
        except CutShort:
            pass
        else:
            assert batches >= 6
        store.lose(min(lost, store.unflushed))
        after = store.reopen()
        generations = Generations(after)
        state = (rows(after, 1, generations.current(1)), after.get(APPLIED))
        assert state in (([b"a", b"b"], b"10"), ([b"x", b"y", b"z"], b"20"))
        if batches - lost < 5:
            assert state[1] == b"10"
        install(after)
        assert rows(after, 1, Generations(after).current(1)) == [b"x", b"y", b"z"]
