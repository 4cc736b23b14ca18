"""Rounds of ReadIndex: who is called, with what, and exactly once."""

from wukong.raft.reads import ReadRounds


def rounds(limit: int = 10) -> ReadRounds:
    return ReadRounds(limit_count=limit, timeout_s=1.0, first_id=1)


def two_of_three(others: int) -> bool:
    return others >= 1


def test_reads_that_wait_share_one_round() -> None:
    reads, got = rounds(), list[int | None]()
    reads.wait(got.append)
    reads.wait(got.append)
    number = reads.start_round(1, 42, 0.0)
    assert not reads.has_waiting
    reads.confirmed(2, number, 1, two_of_three)
    reads.confirmed(3, number, 1, two_of_three)
    assert got == [42, 42]
    assert reads.is_empty


def test_one_voice_counts_once() -> None:
    reads, got = rounds(), list[int | None]()
    reads.wait(got.append)
    number = reads.start_round(1, 42, 0.0)
    for _ in range(3):
        reads.confirmed(2, number, 1, lambda others: others >= 2)
    assert got == []


def test_a_confirmed_round_confirms_the_earlier_ones_and_not_the_later() -> None:
    reads = rounds()
    got: list[tuple[str, int | None]] = []
    numbers = []
    for name, index in (("first", 1), ("second", 2), ("third", 3)):
        reads.wait(lambda at, name=name: got.append((name, at)))  # type: ignore[misc]
        numbers.append(reads.start_round(1, index, 0.0))
    reads.confirmed(2, numbers[1], 1, two_of_three)
    assert got == [("first", 1), ("second", 2)]


def test_answers_of_another_term_or_to_unknown_rounds_are_ignored() -> None:
    reads, got = rounds(), list[int | None]()
    reads.wait(got.append)
    number = reads.start_round(2, 42, 0.0)
    reads.confirmed(2, number, 1, two_of_three)
    reads.confirmed(2, number + 1, 2, two_of_three)
    assert got == []


def test_when_leadership_ends_everybody_is_told() -> None:
    reads, got = rounds(), list[int | None]()
    reads.wait(got.append)
    reads.start_round(2, 42, 0.0)
    reads.wait(got.append)
    reads.leadership(None, 3, 0.1)
    assert got == [None, None]


def test_rounds_of_an_earlier_term_and_rounds_without_answer_end() -> None:
    reads, got = rounds(), list[int | None]()
    reads.wait(got.append)
    reads.start_round(2, 42, 0.0)
    reads.leadership(2, 1, 0.9)
    assert got == []
    reads.leadership(2, 1, 1.1)
    assert got == [None]
    reads.wait(got.append)
    reads.start_round(2, 43, 2.0)
    reads.leadership(3, 1, 2.0)
    assert got == [None, None]


def test_a_forwarded_read_ends_with_its_leaders_answer_a_new_leader_or_its_time() -> None:
    reads, got = rounds(), list[int | None]()
    number = reads.forward(3, 0.0, got.append)
    assert number is not None
    reads.answered(2, number, 7)
    assert got == []
    reads.answered(3, number, 7)
    assert got == [7]
    reads.forward(3, 0.0, got.append)
    reads.leadership(None, 2, 0.1)
    assert got == [7, None]
    reads.forward(3, 0.0, got.append)
    reads.leadership(None, 3, 1.5)
    assert got == [7, None, None]


def test_at_the_limit_a_read_fails_at_once() -> None:
    reads, got = rounds(limit=2), list[int | None]()
    reads.wait(got.append)
    reads.forward(3, 0.0, got.append)
    reads.wait(got.append)
    assert reads.forward(3, 0.0, got.append) is None
    assert got == [None, None]
    reads.fail_led()
    reads.wait(got.append)
    assert got == [None, None, None]
    assert reads.has_waiting


def test_what_was_asked_of_a_node_that_is_gone_fails_at_once() -> None:
    reads, got = rounds(), list[int | None]()
    reads.forward(3, 0.0, got.append)
    reads.forward(2, 0.0, got.append)
    reads.lost(3)
    assert got == [None]
    assert not reads.is_empty
