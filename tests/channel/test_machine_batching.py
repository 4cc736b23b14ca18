"""Any batching equals serial apply.

A log is a list of packs. The reference applies it serially: every command is a pack, an entry and a store batch of its
own. The other run cuts the same commands at random into packs, entries and batches, on some store, with some number of
channel heads in memory, and is restarted from the store after some batches.

What "equal" means: replies and effects are equal, byte for byte and in order. So are the rows, but for one number. A
member's interval holds the log indexes at which he joined and left, and where the entries' borders are is exactly what
is varied. So an index of the serial run (command k is entry k) is read as that of the entry which holds command k in
the cut run. A pack's time and its `done` belong to all its commands, so both runs give a command the same ones. After
that every row is equal: streams with their kept replies, times, ids, counts.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.channel.world import SLOT, World, make_lanes_small, make_retention_small, make_webhooks_small, random_steps
from wukong.channel.commands import NodeGone, Pack, decode_entry, encode_command, encode_entry, encode_pack
from wukong.channel.effects import Effect, NodeEnded, WebhookAdded
from wukong.channel.machine import apply_pack
from wukong.channel.state import State, UserRow, encode
from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay
from wukong.store.rocks import RocksStore

PREFIX = b"\x00\x05\x00\x00\x00\x09"
Rows = dict[bytes, bytes]

_decode_user = msgspec.msgpack.Decoder(UserRow).decode


def a_log(random: Random, count: int) -> list[Pack]:
    """Packs of several nodes with 1 to 8 commands, as some other run committed them."""
    steps = random_steps(random, count)
    # One node proposes several times in a row, so that its commands can be one pack.
    node = 1
    for at, step in enumerate(steps):
        if random.random() < 0.2:
            node = random.choice((1, 2, 600))
        steps[at] = step._replace(node=node)
    world = World(head_limit=4096)
    packs: list[Pack] = []
    commit = world._commit

    def recorded(*some: Pack) -> object:
        packs.extend(some)
        return commit(*some)

    world._commit = recorded  # type: ignore[method-assign, assignment]
    world.run([step for step in steps if step.kind not in ("check", "restart")])
    log: list[Pack] = []
    for pack in packs:
        last = log[-1] if log else None
        follows = (
            last is not None
            and (pack.node, pack.incarnation) == (last.node, last.incarnation)
            and pack.first == last.first + len(last.commands)
        )
        if last is not None and follows and random.random() < 0.85:
            log[-1] = msgspec.structs.replace(last, commands=last.commands + pack.commands)
        else:
            log.append(pack)
    return log


def pieces(pack: Pack, sizes: Callable[[], int]) -> list[Pack]:
    """The pack cut into packs with the same time and `done`."""
    cut = []
    at = 0
    while at < len(pack.commands):
        size = sizes()
        part = pack.commands[at : at + size]
        cut.append(msgspec.structs.replace(pack, first=pack.first + at, commands=part))
        at += size
    return cut


class Run:
    """One way to apply a log."""

    def __init__(self, store: Store, head_limit: int) -> None:
        self.store = store
        self.head_limit = head_limit
        self.replies: list[bytes] = []
        self.effects: list[Effect] = []
        self.woken: set[int] = set()
        self.refused: list[tuple[bool, bool]] = []
        self.open()

    def open(self) -> None:
        self.overlay = Overlay(self.store)
        self.state = State(SLOT, self.overlay.view(PREFIX), head_limit=self.head_limit)

    def apply(self, index: int, packs: list[Pack]) -> None:
        """One entry."""
        encoded = [
            encode_pack(p.node, p.incarnation, p.first, p.done, p.now_ms, [encode_command(c) for c in p.commands])
            for p in packs
        ]
        for pack in decode_entry(encode_entry(encoded)):
            outcome = apply_pack(self.state, index, pack)
            self.replies += [encode(reply) for reply in outcome.replies]
            refused = (outcome.resend_from > 0, outcome.fenced)
            self.refused += [refused] * (len(pack.commands) - len(outcome.replies))
        # The sender is woken once per pack, so how often depends on the cut.
        woken = {effect.kind for effect in self.state.effects if isinstance(effect, WebhookAdded)}
        self.effects += [effect for effect in self.state.effects if not isinstance(effect, WebhookAdded)]
        self.woken |= woken
        self.state.effects.clear()

    def rows(self) -> Rows:
        self.overlay.commit()
        return {key[len(PREFIX) :]: value for key, value in self.store.scan(PREFIX, PREFIX[:-1] + b"\x0a")}


def serial(log: list[Pack]) -> Run:
    run = Run(MemoryStore(), 4096)
    index = 0
    for pack in log:
        for piece in pieces(pack, lambda: 1):
            index += 1
            run.apply(index, [piece])
            run.overlay.commit()
    return run


def cut(log: list[Pack], random: Random, run: Run) -> list[int]:
    """Apply the log in random packs, entries and batches. Returns the entry of each command."""
    entry_of = [0]
    entry: list[Pack] = []

    def apply_entry() -> None:
        first = len(entry_of)
        for pack in entry:
            entry_of.extend([first] * len(pack.commands))
        run.apply(first, entry)
        entry.clear()
        if random.random() < 0.4:
            run.overlay.commit()
            if random.random() < 0.2:
                run.open()

    for pack in log:
        for piece in pieces(pack, lambda: random.randint(1, 8)):
            entry.append(piece)
            if random.random() < 0.4:
                apply_entry()
    if entry:
        apply_entry()
    return entry_of


def with_indexes(rows: Rows, entry_of: list[int]) -> Rows:
    """Member rows of the serial run with the indexes of the cut run."""
    mapped = dict(rows)
    for key, value in rows.items():
        if key[:1] == b"m":
            row = _decode_user(value)
            for interval in row.intervals:
                interval.from_index = entry_of[interval.from_index]
                interval.until_index = entry_of[interval.until_index]
            mapped[key] = encode(row)
    return mapped


def equal_to_serial(log: list[Pack], random: Random, run: Run) -> None:
    reference = serial(log)
    entry_of = cut(log, random, run)
    assert run.replies == reference.replies
    assert run.refused == reference.refused
    assert run.effects == reference.effects
    assert run.woken == reference.woken
    found, expected = run.rows(), with_indexes(reference.rows(), entry_of)
    differing = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert not differing, {key: (found.get(key), expected.get(key)) for key in sorted(differing)[:5]}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lanes_small(monkeypatch)
    make_webhooks_small(monkeypatch)
    make_retention_small(monkeypatch)


@pytest.mark.parametrize("head_limit", [0, 1, 4096])
@pytest.mark.parametrize("seed", range(8))
def test_any_cut_into_packs_entries_and_batches_equals_serial_apply(seed: int, head_limit: int) -> None:
    random = Random(f"{seed} {head_limit}")
    equal_to_serial(a_log(random, 400), random, Run(MemoryStore(), head_limit))


@pytest.mark.parametrize("head_limit", [0, 4096])
def test_the_same_on_the_store_on_disk(tmp_path: Path, head_limit: int) -> None:
    random = Random(f"disk {head_limit}")
    store = RocksStore(tmp_path / "store")
    try:
        equal_to_serial(a_log(random, 400), random, Run(store, head_limit))
    finally:
        store.close()


def test_one_batch_for_everything_equals_serial_apply() -> None:
    log = a_log(Random("one batch"), 400)
    reference, run = serial(log), Run(MemoryStore(), 4096)
    for index, pack in enumerate(log, start=1):
        run.apply(index, [pack])
    assert run.effects == reference.effects
    assert run.rows().keys() == reference.rows().keys()


def test_the_logs_of_this_test_hold_what_matters() -> None:
    log = a_log(Random("0 0"), 4_000)
    kinds = [{type(command).__name__ for command in pack.commands} for pack in log]
    assert max(len(pack.commands) for pack in log) >= 8
    assert any({"Append", "PutChannel", "RemoveMembers"} <= names for names in kinds)
    assert len({(pack.node, pack.incarnation) for pack in log}) > 3
    assert set(serial(log).refused) == {(True, False), (False, True)}, "a gap and an old incarnation"
    ends = [effect for effect in serial(log).effects if isinstance(effect, NodeEnded)]
    assert len(ends) > 3, "nodes end others and themselves"
    assert any(NodeGone(pack.node, pack.incarnation) in pack.commands[:-1] for pack in log), (
        "a node ends itself in the middle of a pack"
    )
