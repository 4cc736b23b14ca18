"""Logins in progress are limited; CONNECTs beyond the limit wait for their turn, in order, in a bounded queue."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Protocol


class Applicant(Protocol):
    def login(self) -> Coroutine[None, None, None] | None:
        """The login, to be run as a task, or None if the client has gone meanwhile."""
        ...


class Admission:
    """Owns the login tasks. A task ends by itself, within the time limit of its connection, which cancels it; at stop
    `drain` awaits them."""

    def __init__(self, *, in_progress_limit: int, waiting_limit: int) -> None:
        self._in_progress_limit = in_progress_limit
        self._waiting_limit = waiting_limit
        self._waiting: deque[Applicant] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_progress(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def admit(self, applicant: Applicant) -> bool:
        """Start its login now or later. False: too many wait, nothing will happen."""
        if len(self._tasks) < self._in_progress_limit:
            self._start(applicant)
        elif len(self._waiting) < self._waiting_limit:
            self._waiting.append(applicant)
        else:
            return False
        return True

    def _start(self, applicant: Applicant) -> None:
        login = applicant.login()
        if login is None:
            return
        task = asyncio.get_running_loop().create_task(login)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        while self._waiting and len(self._tasks) < self._in_progress_limit:
            self._start(self._waiting.popleft())

    def end_all(self) -> None:
        """No login that was admitted so far comes to an end: those under way are cancelled, the others forgotten."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """After all connections were closed, which cancels their logins."""
        self._waiting.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
