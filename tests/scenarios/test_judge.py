"""The judge itself: told what happened at which times, it must see what is right, wrong, and undecided."""

import math

import pytest

from tests.scenarios.judge import Change, History, Verdict


def history(*events: tuple[str, float, float]) -> History:
    """Events of user u: ("in" | "out", began, ok) and ("1", sent, acked) for a message with that seq."""
    made = History()
    for what, began, ended in events:
        if what.isdigit():
            made.sent(int(what), what.encode(), "a", began, ended)
        else:
            made.changes.append(Change({"u": what == "in"}.get, began, ended))
    return made


VERDICTS = [
    ("never added", [("1", 1, 2)], Verdict.MUST_NOT),
    ("added before", [("in", 1, 2), ("1", 3, 4)], Verdict.MUST),
    ("added after", [("1", 1, 2), ("in", 3, 4)], Verdict.MUST_NOT),
    ("the Ok came while the SEND was under way", [("in", 1, 3), ("1", 2, 4)], Verdict.EITHER),
    ("the call was made while the SEND was under way", [("1", 1, 3), ("in", 2, 4)], Verdict.EITHER),
    ("the outcome of the add is unknown", [("in", 1, math.inf), ("1", 3, 4)], Verdict.EITHER),
    ("an add of unknown outcome was made good", [("in", 1, math.inf), ("in", 2, 3), ("1", 4, 5)], Verdict.MUST),
    ("removed before", [("in", 1, 2), ("out", 3, 4), ("1", 5, 6)], Verdict.MUST_NOT),
    ("removed after", [("in", 1, 2), ("1", 3, 4), ("out", 5, 6)], Verdict.MUST),
    ("added again", [("in", 1, 2), ("out", 3, 4), ("in", 5, 6), ("1", 7, 8)], Verdict.MUST),
    ("add and remove overlapped", [("in", 1, 3), ("out", 2, 4), ("1", 5, 6)], Verdict.EITHER),
    (
        "overlapped, but removed for certain later",
        [("in", 1, 3), ("out", 2, 4), ("out", 5, 6), ("1", 7, 8)],
        Verdict.MUST_NOT,
    ),
    ("added twice at once", [("in", 1, 3), ("in", 2, 4), ("1", 5, 6)], Verdict.MUST),
]


@pytest.mark.parametrize(("events", "verdict"), [case[1:] for case in VERDICTS], ids=[case[0] for case in VERDICTS])
def test_a_verdict_follows_from_the_times(events: list[tuple[str, float, float]], verdict: Verdict) -> None:
    told = history(*events)
    assert told.verdict("u", told.messages[0]) is verdict
    stranger = told.verdict("somebody else", told.messages[0])
    assert stranger is Verdict.MUST_NOT


def test_a_message_that_must_come_and_does_not_is_a_fault() -> None:
    told = history(("in", 1, 2), ("1", 3, 4), ("2", 5, 6))
    assert told.judge("u", {1: b"1", 2: b"2"}) == []
    assert "MISSED seq 1" in told.judge("u", {2: b"2"})[0]


def test_a_message_of_a_time_without_membership_is_a_fault() -> None:
    told = history(("1", 1, 2), ("in", 3, 4), ("2", 5, 6), ("out", 7, 8), ("3", 9, 10))
    assert told.judge("u", [2]) == []
    assert "as a stranger" in told.judge("u", [1, 2])[0]
    assert "as a stranger" in told.judge("u", [2, 3])[0]


def test_a_hole_between_two_messages_that_may_come_is_a_fault() -> None:
    told = history(("in", 1, 9), ("1", 2, 3), ("2", 4, 5), ("3", 6, 7))
    for got in ([], [3], [2, 3], [1, 2, 3]):
        assert told.judge("u", got) == []
    assert "missed seq 2, but not seq 1" in told.judge("u", [1, 3])[0]


def test_a_hole_is_right_where_a_removal_and_an_add_may_lie() -> None:
    told = history(("in", 0, 1), ("out", 2, 9), ("in", 2, 9), ("1", 3, 4), ("2", 5, 6), ("3", 7, 8))
    assert told.judge("u", [1, 3]) == []


def test_a_reset_takes_and_gives_in_one_change() -> None:
    told = History()
    with told.resetting(["u", "v"]):
        pass
    with told.resetting(["v", "w"]):
        pass
    is_member = told.members()
    assert [is_member(uid) for uid in "uvwx"] == [False, True, True, False]


def test_a_call_that_fails_leaves_the_membership_open() -> None:
    told = History()
    with pytest.raises(ConnectionError), told.adding(["u"]):
        raise ConnectionError
    assert told.members()("u") is None


def test_another_payload_and_a_seq_nobody_sent_are_faults() -> None:
    told = history(("in", 1, 2), ("1", 3, 4))
    assert told.judge("u", {1: b"other"}) == ["u got another payload under seq 1"]
    assert told.judge("u", [1, 7]) == ["u got seq 7, which nobody sent"]
