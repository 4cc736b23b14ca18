"""Virtual time: one queue for everything that happens, and for each simulated process an event loop on it.

`Scheduler` runs callbacks in one order that follows from the calls alone: what is due now in the order in which it was
asked for, then the timer that is due next. A `ProcessLoop` is what asyncio's futures and tasks of one process see: it
can be held (the process stands still, its callbacks wait), killed (nothing of it ever runs again, not even `finally`)
and given a clock that runs at another speed. There are no threads, no sockets and no real time.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

# So many callbacks at one instant are a loop that never waits for anything.
SPIN_LIMIT = 400_000


class Spin(AssertionError):
    """Somebody goes round without waiting."""


class Handle:
    """One callback to come, cancellable; what asyncio knows as Handle and TimerHandle."""

    __slots__ = ("args", "callback", "loop", "own_when")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: "ProcessLoop | None", own_when: float = 0.0
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.loop = loop
        self.own_when = own_when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        """On the clock of its loop."""
        return self.own_when


class Scheduler:
    """now: seconds since the world began. steps: callbacks run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0

    def soon(self, callback: Callable[..., object], *args: Any, loop: "ProcessLoop | None" = None) -> Handle:
        handle = Handle(callback, args, loop)
        self._ready.append(handle)
        return handle

    def at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        loop: "ProcessLoop | None" = None,
        own_when: float = 0.0,
    ) -> Handle:
        handle = Handle(callback, args, loop, own_when)
        self._count += 1
        heapq.heappush(self._timers, (max(when, self.now), self._count, handle))
        return handle

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.at(self.now + seconds, callback, *args)

    def put_back(self, handles: "deque[Handle]") -> None:
        """What was held runs next, in its order."""
        self._ready.extendleft(reversed(handles))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Everything up to and including `until`, or until stop() says so. Raises what world events raise."""
        ready, timers = self._ready, self._timers
        set_running = asyncio._set_running_loop
        current: ProcessLoop | None = None
        spin = 0
        try:
            while True:
                if not ready:
                    if stop is not None and stop():
                        return
                    if not timers or timers[0][0] > until:
                        self.now = max(self.now, until)
                        return
                    if timers[0][0] > self.now:
                        spin = 0
                    self.now, _, handle = heapq.heappop(timers)
                else:
                    handle = ready.popleft()
                callback = handle.callback
                if callback is None:
                    continue
                loop = handle.loop
                if loop is not None and loop.state is not RUNS:
                    if loop.state is HELD:
                        loop.waiting.append(handle)
                    continue
                self.steps += 1
                spin += 1
                if spin > SPIN_LIMIT:
                    raise Spin(f"{SPIN_LIMIT} callbacks at {self.now:.3f} s, the last one {callback}")
                if loop is not current:
                    set_running(loop)
                    current = loop
                if loop is None:
                    callback(*handle.args)
                    continue
                try:
                    callback(*handle.args)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    loop.report(f"a callback raised {error!r}", error)
        finally:
            set_running(None)


RUNS, HELD, DEAD = "runs", "held", "dead"


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one life of one process. faults: called with (text, exception or None) for whatever asyncio
    would log as unhandled. rate: seconds of its clock per second of the world; start_s: what its clock shows at first.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        name: str,
        faults: Callable[[str, BaseException | None], None],
        *,
        rate: float = 1.0,
        start_s: float = 0.0,
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.state = RUNS
        self.waiting: deque[Handle] = deque()
        self.held_since = -1.0
        self._faults = faults
        self._rate = rate
        self._start_s = start_s
        self._born = scheduler.now
        self.tasks: list[asyncio.Task[Any]] = []

    # -- what the world does to it

    def hold(self) -> None:
        if self.state is RUNS:
            self.state = HELD
            self.held_since = self.scheduler.now

    def resume(self) -> None:
        """As a selector does it: first what has arrived meanwhile, then the timers that are due."""
        if self.state is HELD:
            self.state = RUNS
            timers = [handle for handle in self.waiting if handle.own_when]
            self.scheduler.put_back(deque([*(handle for handle in self.waiting if not handle.own_when), *timers]))
            self.waiting = deque()

    def kill(self) -> None:
        """Nothing of it runs again. Its tasks stay as they are: keep them, or their `finally` runs when they go."""
        self.state = DEAD
        self.waiting.clear()

    def report(self, text: str, error: BaseException | None = None) -> None:
        if self.state is not DEAD:
            self._faults(f"{self.name}: {text}", error)

    # -- what asyncio asks of it

    def time(self) -> float:
        return self._start_s + (self.scheduler.now - self._born) * self._rate

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:  # type: ignore[override]
        return self.scheduler.soon(callback, *args, loop=self)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:  # type: ignore[override]
        return self.call_at(self.time() + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:  # type: ignore[override]
        world = self._born + (when - self._start_s) / self._rate
        return self.scheduler.at(world, callback, *args, loop=self, own_when=when)

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None) -> Any:  # type: ignore[override]
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "task")
        # A killed process leaves tasks that never end; that is no fault of theirs.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks.append(task)
        return task

    def sweep(self) -> None:
        """Tell of tasks that ended with an exception nobody asked for, and forget those that ended. Between two runs of
        the scheduler: whoever waits for them has asked by then."""
        if self.state is not RUNS:
            return
        for task in self.tasks:
            if task.done() and task._log_traceback:  # type: ignore[attr-defined]
                error = task.exception()
                if error is not None:
                    self.report(f"the task {task.get_name()} ended with {error!r}", error)
        self.tasks = [task for task in self.tasks if not task.done()]

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """No thread: the work is done at one moment, a little later."""
        future = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.scheduler.at(self.scheduler.now + 0.001, work, loop=self)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.state is RUNS

    def is_closed(self) -> bool:
        return self.state is DEAD

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.report(f"{context.get('message')}: {error!r}", error)

    def _timer_handle_cancelled(self, handle: Handle) -> None:
        """Nothing to clean up: cancelled timers are passed over when they are due."""


class ProcessClock:
    """The clock of one node: its loop's monotonic time, and a wall clock that can be set. wall_ms: what it showed, or
    would have shown, when the world began."""

    def __init__(self, loop: ProcessLoop, wall_ms: int) -> None:
        self._loop = loop
        self._offset_ms = wall_ms

    def jump(self, ms: int) -> None:
        """Somebody sets the wall clock; the monotonic one does not notice."""
        self._offset_ms += ms

    def now_ms(self) -> int:
        return self._offset_ms + int(self._loop.scheduler.now * 1000)

    def monotonic(self) -> float:
        return self._loop.time()
