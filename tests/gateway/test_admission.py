"""Logins in progress, and those that wait."""

import asyncio
from collections.abc import Coroutine

from wukong.gateway.admission import Admission


class Applicant:
    def __init__(self, name: str, started: list[str]) -> None:
        self.name = name
        self.is_gone = False
        self.done = asyncio.Event()
        self._started = started

    def login(self) -> Coroutine[None, None, None] | None:
        return None if self.is_gone else self._login()

    async def _login(self) -> None:
        self._started.append(self.name)
        await self.done.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_logins_beyond_the_limit_start_in_order_as_others_end() -> None:
    started: list[str] = []
    admission = Admission(in_progress_limit=2, waiting_limit=10)
    applicants = [Applicant(name, started) for name in "abcde"]
    assert all(admission.admit(applicant) for applicant in applicants)
    await turns()
    assert started == ["a", "b"]
    assert (admission.in_progress, admission.waiting) == (2, 3)
    applicants[2].is_gone = True
    applicants[0].done.set()
    await turns()
    assert started == ["a", "b", "d"]
    for applicant in applicants:
        applicant.done.set()
    await turns()
    assert started == ["a", "b", "d", "e"]
    assert (admission.in_progress, admission.waiting) == (0, 0)


async def test_one_more_than_may_wait_is_not_admitted() -> None:
    started: list[str] = []
    admission = Admission(in_progress_limit=1, waiting_limit=1)
    applicants = [Applicant(name, started) for name in "abc"]
    assert [admission.admit(applicant) for applicant in applicants] == [True, True, False]
    for applicant in applicants:
        applicant.done.set()
    await turns()
    assert started == ["a", "b"]


async def test_drain_awaits_what_runs_and_starts_nothing_more() -> None:
    started: list[str] = []
    admission = Admission(in_progress_limit=1, waiting_limit=5)
    first, second = Applicant("a", started), Applicant("b", started)
    admission.admit(first)
    admission.admit(second)
    await turns()
    asyncio.get_running_loop().call_soon(first.done.set)
    await admission.drain(5.0)
    await turns()
    assert started == ["a"]
    assert admission.in_progress == 0
