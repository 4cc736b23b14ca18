"""Turns of the loop shared among sessions with something to write."""

import asyncio

from tests.gateway.fakes import FakeClock
from wukong.gateway.outbox import Outbox


class Session:
    """Has `left` frames; writing one takes `cost_s` on the clock."""

    def __init__(self, name: str, left: int, log: list[tuple[str, int]], clock: FakeClock, cost_s: float = 0.0) -> None:
        self.name = name
        self.left = left
        self._log = log
        self._clock = clock
        self._cost_s = cost_s

    def flush(self, limit_count: int) -> bool:
        count = min(self.left, limit_count)
        self.left -= count
        self._clock.advance(count * self._cost_s)
        self._log.append((self.name, count))
        return self.left > 0


def an_outbox(clock: FakeClock, *, sessions_limit: int = 100, direct_limit: int = 4) -> Outbox:
    loop = asyncio.get_running_loop()
    return Outbox(loop=loop, clock=clock, slice_s=0.002, sessions_limit=sessions_limit, direct_limit=direct_limit)


async def until_empty(outbox: Outbox) -> int:
    """How many turns of the loop that took."""
    turns = 0
    while len(outbox):
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_everything_of_one_turn_is_written_in_the_next() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock)
    for name in "abc":
        outbox.mark(Session(name, 5, log, clock))
    assert log == []
    assert await until_empty(outbox) == 1
    assert log == [("a", 5), ("b", 5), ("c", 5)]


async def test_a_session_with_much_lets_the_others_have_their_turns() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock)
    outbox.mark(Session("much", 150, log, clock))
    outbox.mark(Session("little", 1, log, clock))
    await until_empty(outbox)
    assert log == [("much", 64), ("little", 1), ("much", 64), ("much", 22)]


async def test_a_slice_ends_when_its_time_is_over() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock)
    for index in range(10):
        outbox.mark(Session(str(index), 1, log, clock, cost_s=0.0011))
    assert await until_empty(outbox) == 5
    assert [name for name, _ in log] == [str(index) for index in range(10)]


async def test_a_slice_ends_after_so_many_sessions() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock, sessions_limit=3)
    for index in range(10):
        outbox.mark(Session(str(index), 1, log, clock))
    assert await until_empty(outbox) == 4


async def test_direct_writes_come_back_when_the_queue_is_empty() -> None:
    clock = FakeClock()
    outbox = an_outbox(clock, direct_limit=4)
    outbox.direct_left = 0
    outbox.mark(Session("a", 1, [], clock))
    await until_empty(outbox)
    assert outbox.direct_left == 4


async def test_a_session_that_fails_does_not_silence_the_others() -> None:
    class Broken(Session):
        def flush(self, limit_count: int) -> bool:
            raise RuntimeError("a bug")

    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock)
    outbox.mark(Broken("broken", 1, log, clock))
    outbox.mark(Session("fine", 1, log, clock))
    await until_empty(outbox)
    assert log == [("fine", 1)]


async def test_a_session_marked_by_a_write_of_another_has_its_turn() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock)
    late = Session("late", 1, log, clock)

    class Marks(Session):
        def flush(self, limit_count: int) -> bool:
            outbox.mark(late)
            return super().flush(limit_count)

    outbox.mark(Marks("first", 1, log, clock))
    await until_empty(outbox)
    assert log == [("first", 1), ("late", 1)]


async def test_who_waits_for_what_is_ready_is_called_when_that_had_its_turn() -> None:
    clock, log = FakeClock(), list[tuple[str, int]]()
    outbox = an_outbox(clock, sessions_limit=2)
    for name in "abc":
        outbox.mark(Session(name, 1, log, clock))
    outbox.when_written(lambda: log.append(("written", 0)))
    outbox.mark(Session("later", 1, log, clock))
    assert ("written", 0) not in log
    await until_empty(outbox)
    assert [name for name, _ in log] == ["a", "b", "c", "written", "later"]


async def test_where_nothing_waits_everything_is_written() -> None:
    called: list[int] = []
    an_outbox(FakeClock()).when_written(lambda: called.append(1))
    assert called == [1]
