"""The checkers: a correct record passes all of them, and each fault is found by the checker that is there for it."""

import math
import random
from collections.abc import Callable
from itertools import permutations

import pytest

from tests.cluster.record import NEVER, Attempt, Journal, Read, Stay, Stored, check, ghosts, is_linearizable
from tests.scenarios.judge import Change
from tests.support.wire import Message


def pushed(seq: int, at: float, *, message_id: int = 0, payload: bytes = b"") -> Message:
    return Message(at, 0, "a", "g", 2, f"n{seq}", message_id or 100 + seq, seq, 0, payload or b"p%d" % seq)


def change(value: bool, began: float, ok: float = NEVER) -> Change:
    return Change(lambda uid: value if uid == "u" else None, began, ok)


def correct() -> Journal:
    """u is added at 2..3 and removed at 8..9; a sends messages 1 to 5, each within a second, at 1, 4, 6, 7 and 10; the
    fourth is never answered, but stored. u is connected from 0 on and everything has arrived until 20."""
    journal = Journal()
    room = journal.room("g")
    room.history.changes += [change(True, 2, 3), change(False, 8, 9)]
    for seq, began in enumerate((1.0, 4.0, 6.0, 7.0, 10.0), 1):
        is_open = seq == 4
        room.attempts.append(
            Attempt("a", "g", f"n{seq}", b"p%d" % seq, began, *(() if is_open else (began + 0.5, seq, 100 + seq)))
        )
    room.attempts.append(Attempt("a", "g", "n6", b"p6", 11.0))  # neither answered nor stored
    for node in (1, 2, 3):
        room.stored[node] = [Stored(seq, 100 + seq, f"n{seq}", "a", b"p%d" % seq) for seq in range(1, 6)]
    room.reads += [
        Read(1, 0.5, 1, frozenset()),
        Read(2, 3.5, 4, frozenset("u")),
        Read(3, 8.2, 8.4, frozenset("u")),
        Read(3, 9.5, 10, frozenset()),
    ]
    journal.stays.append(Stay("u", 1, 0.0, [pushed(seq, seq) for seq in (2, 3, 4)], complete_until=20.0))
    return journal


def test_a_correct_record_has_no_fault() -> None:
    assert check(correct()) == {}


def lose(journal: Journal) -> None:
    for messages in journal.rooms["g"].stored.values():
        del messages[-1]


def lose_on_one_node(journal: Journal) -> None:
    del journal.rooms["g"].stored[3][-1]


def store_twice(journal: Journal) -> None:
    for messages in journal.rooms["g"].stored.values():
        messages.append(Stored(6, 106, "n5", "a", b"p5"))


def push_twice(journal: Journal) -> None:
    journal.stays[0].received = [*journal.stays[0].received, pushed(4, 9)]


def leave_a_gap(journal: Journal) -> None:
    for messages in journal.rooms["g"].stored.values():
        messages[-1] = messages[-1]._replace(seq=6)
    journal.rooms["g"].attempts[4].seq = 6


def acknowledge_another_seq(journal: Journal) -> None:
    journal.rooms["g"].attempts[1].seq = 3


def swap_on_one_node(journal: Journal) -> None:
    messages = journal.rooms["g"].stored[2]
    messages[2], messages[3] = messages[3]._replace(seq=3), messages[2]._replace(seq=4)


def order_against_time(journal: Journal) -> None:
    room = journal.rooms["g"]
    room.attempts[1].began, room.attempts[1].acked = 6.8, 6.9  # after the third was answered


def push_out_of_order(journal: Journal) -> None:
    journal.stays[0].received = [pushed(seq, seq) for seq in (3, 2, 4)]


def push_another_payload(journal: Journal) -> None:
    journal.stays[0].received = [pushed(2, 2), pushed(3, 3, payload=b"other"), pushed(4, 4)]


def push_what_is_not_stored(journal: Journal) -> None:
    journal.stays[0].received = [*journal.stays[0].received, pushed(9, 9)]


def miss_one(journal: Journal) -> None:
    journal.stays[0].received = [pushed(2, 2), pushed(4, 4)]


def miss_the_last(journal: Journal) -> None:
    journal.stays[0].received = [pushed(2, 2)]
    journal.rooms["g"].attempts[3].acked = 7.5


def miss_one_before_the_connection_broke(journal: Journal) -> None:
    miss_one(journal)
    journal.stays[0].complete_until = 0.0


def push_to_a_stranger(journal: Journal) -> None:
    journal.stays[0].received = [pushed(seq, seq) for seq in (1, 2, 3, 4)]


def push_to_one_who_left(journal: Journal) -> None:
    journal.stays[0].received = [pushed(seq, seq) for seq in (2, 3, 4, 5)]


def read_an_old_list(journal: Journal) -> None:
    journal.rooms["g"].reads.append(Read(2, 5, 5.1, frozenset()))


def read_back_and_forth(journal: Journal) -> None:
    # Both within the removal, but the second shows what was before the first.
    journal.rooms["g"].reads += [Read(1, 8.1, 8.2, frozenset()), Read(2, 8.3, 8.4, frozenset("u"))]


FAULTS: list[tuple[Callable[[Journal], None], str]] = [
    (lose, "lost"),
    (lose_on_one_node, "lost"),
    (lose_on_one_node, "order"),
    (store_twice, "doubled"),
    (push_twice, "doubled"),
    (leave_a_gap, "gaps"),
    (acknowledge_another_seq, "lost"),
    (swap_on_one_node, "order"),
    (order_against_time, "order"),
    (push_out_of_order, "order"),
    (push_another_payload, "order"),
    (push_what_is_not_stored, "order"),
    (miss_one, "missed"),
    (miss_the_last, "missed"),
    (miss_one_before_the_connection_broke, "missed"),
    (push_to_a_stranger, "missed"),
    (push_to_one_who_left, "missed"),
    (read_an_old_list, "reads"),
    (read_back_and_forth, "reads"),
]


@pytest.mark.parametrize(("spoil", "checker"), FAULTS, ids=lambda each: getattr(each, "__name__", each))
def test_a_fault_is_found(spoil: Callable[[Journal], None], checker: str) -> None:
    journal = correct()
    spoil(journal)
    assert checker in check(journal)


def test_what_a_lost_connection_did_not_bring_is_no_fault() -> None:
    journal = correct()
    journal.stays[0].received = [pushed(2, 2)]
    journal.stays[0].complete_until = 0.0
    assert check(journal) == {}
    # The next connection takes over from its login on.
    journal.stays.append(Stay("u", 2, 5.5, [pushed(4, 8)], complete_until=20.0))
    assert "MISSED seq 3" in check(journal)["missed"][0]


def test_a_ghost_and_a_missing_session_are_faults() -> None:
    assert ghosts(1, {"a": 1}, {"a": 1}) == []
    assert ghosts(1, {"a": 1, "b": 1}, {"a": 1}) == ["node 1 lists 1 connections of b, there are 0"]
    assert ghosts(1, {"a": 2}, {"a": 1}) == ["node 1 lists 2 connections of a, there are 1"]
    assert ghosts(1, {}, {"a": 1}) == ["node 1 lists 0 connections of a, there are 1"]


LINEARIZABLE = [
    ("nothing happened", [], [], True),
    ("nothing was written, but it is there", [], [(True, 1, 2)], False),
    ("written before", [change(True, 1, 2)], [(True, 3, 4)], True),
    ("written before, not seen", [change(True, 1, 2)], [(False, 3, 4)], False),
    ("at the same time, seen or not", [change(True, 1, 4)], [(False, 2, 3), (True, 2, 3)], True),
    ("seen, then unseen", [change(True, 1, 9)], [(True, 2, 3), (False, 4, 5)], False),
    ("unseen, then seen", [change(True, 1, 9)], [(False, 2, 3), (True, 4, 5)], True),
    ("without an answer, seen late", [change(True, 1)], [(False, 2, 3), (True, 40, 41)], True),
    ("without an answer, seen and gone", [change(True, 1)], [(True, 2, 3), (False, 4, 5)], False),
    ("two of unknown outcome", [change(True, 1), change(False, 1)], [(True, 2, 3), (False, 4, 5)], True),
    ("one of unknown outcome counts once", [change(True, 1), change(False, 1)],
     [(True, 2, 3), (False, 4, 5), (True, 6, 7)], False),
    ("two changes at the same time", [change(True, 1, 5), change(False, 1, 5)], [(True, 6, 7)], True),
    ("and then one of them is the last", [change(True, 1, 5), change(False, 1, 5)],
     [(True, 6, 7), (False, 8, 9)], False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("writes", "reads", "expected"), [case[1:] for case in LINEARIZABLE], ids=[case[0] for case in LINEARIZABLE]
)
def test_reads_agree_with_changes_or_not(
    writes: list[Change], reads: list[tuple[bool, float, float]], expected: bool
) -> None:
    assert is_linearizable([(each.joins("u") is True, each) for each in writes], reads) is expected


def by_trying_all(writes: list[tuple[bool, Change]], reads: list[tuple[bool, float, float]]) -> bool:
    """The definition itself: some subset of the open writes, in some order."""
    everything = [(each.began, each.ok, True, value) for value, each in writes]
    everything += [(began, ended, False, value) for value, began, ended in reads]
    closed = [each for each in everything if each[1] != math.inf]
    open_writes = [each for each in everything if each[1] == math.inf]

    def fits(order: tuple[tuple[float, float, bool, bool], ...]) -> bool:
        value = False
        for index, (_, ended, is_write, wanted) in enumerate(order):
            if any(ended < 0 or later[1] < order[index][0] for later in order[index + 1 :]):
                return False
            if is_write:
                value = wanted
            elif value is not wanted:
                return False
        return True

    return any(
        fits(order)
        for count in range(2 ** len(open_writes))
        for order in permutations(closed + [each for bit, each in enumerate(open_writes) if count >> bit & 1])
    )


def test_the_search_agrees_with_trying_all_orders() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(300):

        def interval() -> tuple[float, float]:
            began = rng.uniform(0, 10)
            return began, began + rng.uniform(0.1, 5)

        writes = []
        for _ in range(rng.randint(1, 3)):
            value, (began, ended) = rng.random() < 0.5, interval()
            writes.append((value, change(value, began, NEVER if rng.random() < 0.3 else ended)))
        reads = [(rng.random() < 0.5, *interval()) for _ in range(rng.randint(1, 3))]
        expected = by_trying_all(writes, reads)
        outcomes.add(expected)
        assert is_linearizable(writes, reads) is expected, (writes, reads)
    assert outcomes == {True, False}
