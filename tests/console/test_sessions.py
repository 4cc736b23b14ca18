"""Logins of the console: random, ending, bounded; and failed ones are counted."""

from tests.service.stack import FakeClock
from wukong.console.sessions import (
    FAILING_ADDRESSES_LIMIT_COUNT,
    FAILURES_LIMIT_COUNT,
    FAILURES_S,
    LIFE_S,
    SESSIONS_LIMIT_COUNT,
    Failures,
    Sessions,
    Visitor,
)


def test_a_login_is_found_by_its_id_alone() -> None:
    sessions = Sessions(FakeClock())
    first, second = sessions.begin(Visitor("a", True, True)), sessions.begin(Visitor("b", False, False))
    assert first != second
    assert len(first) >= 43
    found = sessions.find(first)
    assert found is not None
    assert (found.name, found.may_write) == ("a", True)
    for wrong in ("", "x", first[:-1], first + "x", "y" * 10_000, "\udcff"):
        assert sessions.find(wrong) is None


def test_a_login_ends_by_logout_and_by_time() -> None:
    clock = FakeClock()
    sessions = Sessions(clock)
    first, second = sessions.begin(Visitor("a", True, True)), sessions.begin(Visitor("b", True, True))
    sessions.end(first)
    assert sessions.find(first) is None
    assert sessions.find(second) is not None
    clock.ms += int(LIFE_S * 1000)
    assert sessions.find(second) is None


def test_for_one_login_too_many_the_oldest_ends() -> None:
    sessions = Sessions(FakeClock())
    made = [sessions.begin(Visitor(str(n), False, False)) for n in range(SESSIONS_LIMIT_COUNT + 1)]
    assert sessions.find(made[0]) is None
    assert all(sessions.find(each) for each in made[1:])


def test_what_is_kept_is_no_login() -> None:
    sessions = Sessions(FakeClock())
    made = sessions.begin(Visitor("a", True, True))
    assert made not in repr(vars(sessions))


def test_an_address_that_fails_often_waits_a_minute() -> None:
    clock = FakeClock()
    failures = Failures(clock)
    for _ in range(FAILURES_LIMIT_COUNT):
        assert not failures.are_too_many("a")
        failures.note("a")
    assert failures.are_too_many("a")
    assert not failures.are_too_many("b")
    clock.ms += int(FAILURES_S * 1000)
    assert not failures.are_too_many("a")
    failures.note("a")
    failures.forgive("a")
    assert not failures.are_too_many("a")


def test_no_more_addresses_are_remembered_than_the_limit() -> None:
    failures = Failures(FakeClock())
    for n in range(FAILING_ADDRESSES_LIMIT_COUNT + 10):
        failures.note(str(n))
    assert len(failures._counts) == FAILING_ADDRESSES_LIMIT_COUNT
