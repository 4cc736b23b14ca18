"""Timers of many entries, without waiting."""

import random

from wukong.gateway.wheel import Wheel


class Timer:
    """Due at `due`; `seen` is when it was acted on. `again`: what it says then."""

    def __init__(self, due: float, again: float | None = None) -> None:
        self.wheel_bucket = 0
        self.due = due
        self.again = again
        self.seen: list[float] = []
        self.checks = 0

    def check(self, now: float) -> float | None:
        self.checks += 1
        if now < self.due:
            return self.due
        self.seen.append(now)
        again, self.again = self.again, None
        if again is not None:
            self.due = again
        return again


def run(wheel: Wheel, begin: float, end: float, step: float = 0.25) -> None:
    now = begin
    while now < end:
        now += step
        while wheel.advance(now, 10):
            pass


def test_every_entry_is_due_at_its_time_and_at_most_two_ticks_late() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wheel = Wheel(tick_s=0.25, now=1000.0)
    timers = [Timer(1000.0 + chance.uniform(0, 400)) for _ in range(500)]
    for timer in timers:
        wheel.add(timer, timer.due)
    assert len(wheel) == 500
    assert set(wheel) == set(timers)
    run(wheel, 1000.0, 1401.0)
    assert len(wheel) == 0
    for timer in timers:
        assert len(timer.seen) == 1
        assert timer.due <= timer.seen[0] <= timer.due + 0.5


def test_a_limit_that_moves_on_with_every_read_costs_few_checks() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timer = Timer(180.0)
    wheel.add(timer, timer.due)
    now = 0.0
    while now < 3600:
        now += 0.25
        timer.due = now + 180.0
        wheel.advance(now, 10)
    assert timer.checks < 40
    run(wheel, now, now + 181)
    assert len(timer.seen) == 1


def test_an_earlier_deadline_moves_an_entry() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timer = Timer(180.0)
    wheel.add(timer, timer.due)
    timer.due = 2.0
    wheel.move(timer, timer.due)
    assert len(wheel) == 1
    run(wheel, 0.0, 3.0)
    assert 2.0 <= timer.seen[0] <= 2.5


def test_removed_entries_are_not_looked_at() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timer, other = Timer(1.0), Timer(1.0)
    wheel.add(timer, 1.0)
    wheel.add(other, 1.0)
    wheel.remove(timer)
    wheel.remove(timer)
    assert len(wheel) == 1
    run(wheel, 0.0, 2.0)
    assert timer.checks == 0
    assert len(other.seen) == 1


def test_an_entry_may_ask_to_be_looked_at_again() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timer = Timer(1.0, again=3.0)
    wheel.add(timer, 1.0)
    run(wheel, 0.0, 4.0)
    assert [round(seen) for seen in timer.seen] == [1, 3]
    assert len(wheel) == 0


def test_many_that_are_due_at_once_are_looked_at_in_portions() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timers = [Timer(1.0) for _ in range(25)]
    for timer in timers:
        wheel.add(timer, 1.0)
    calls = 1
    while wheel.advance(5.0, 10):
        calls += 1
    assert calls == 3
    assert all(len(timer.seen) == 1 for timer in timers)


def test_an_entry_that_leaves_while_it_waits_for_its_portion_is_left_alone() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timers = [Timer(1.0) for _ in range(5)]
    for timer in timers:
        wheel.add(timer, 1.0)
    assert wheel.advance(1.5, 2)
    for timer in timers:
        wheel.remove(timer)
    assert not wheel.advance(1.5, 10)
    assert sum(timer.checks for timer in timers) == 2
    assert len(wheel) == 0


def test_a_jump_of_the_clock_over_many_turns_sees_everybody() -> None:
    wheel = Wheel(tick_s=0.25, now=0.0)
    timers = [Timer(float(due)) for due in range(1, 2000, 13)]
    for timer in timers:
        wheel.add(timer, timer.due)
    while wheel.advance(100_000.0, 10):
        pass
    assert all(timer.seen for timer in timers)
