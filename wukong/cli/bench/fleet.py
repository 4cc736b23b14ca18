"""Generator processes and the pipes to them, from the side that gives the orders."""

import asyncio
import multiprocessing
import multiprocessing.connection
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from wukong.cli.bench.generator import Result, run_generator
from wukong.errors import WukongError

QUIET_S: Final = 3.0
STOP_TIMEOUT_S: Final = 5.0
ORDER_TIMEOUT_S: Final = 900.0


class GeneratorFailed(WukongError):
    """An order could not be carried out; the text says why."""


class Fleet:
    """`order` gives every process its part and waits for all of them. Use as an async context manager."""

    def __init__(self, processes_count: int) -> None:
        if not 1 <= processes_count <= 64:
            raise ValueError("between 1 and 64 processes")
        # Fresh interpreters: a fork would take the parent's loop and sockets along.
        context = multiprocessing.get_context("spawn")
        self._received = context.RawArray("Q", processes_count)
        self._pipes: list[multiprocessing.connection.Connection] = []
        self._processes = []
        for index in range(processes_count):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_generator, args=(index, self._received, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._threads = ThreadPoolExecutor(processes_count)

    def __len__(self) -> int:
        return len(self._pipes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            await asyncio.to_thread(process.join, STOP_TIMEOUT_S)
            if process.is_alive():
                process.kill()
        self._threads.shutdown(wait=False)

    @property
    def received_count(self) -> int:
        """RECVs counted by all processes since their reset."""
        return sum(self._received)

    # any: arguments are plain values for the pipe.
    async def order(self, name: str, parts: list[dict[str, Any] | None]) -> list[Result]:
        """One part per process; None leaves it out. Raises GeneratorFailed, TimeoutError."""
        loop = asyncio.get_running_loop()

        def ask(pipe: multiprocessing.connection.Connection, arguments: dict[str, Any]) -> tuple[bool, Any]:
            try:
                pipe.send((name, arguments))
                answer: tuple[bool, Any] = pipe.recv()
            except (EOFError, OSError):
                return False, "the generator process has ended"
            return answer

        async with asyncio.timeout(ORDER_TIMEOUT_S):
            answers = await asyncio.gather(
                *(
                    loop.run_in_executor(self._threads, ask, pipe, arguments)
                    for pipe, arguments in zip(self._pipes, parts, strict=True)
                    if arguments is not None
                )
            )
        for good, answer in answers:
            if not good:
                raise GeneratorFailed(f"{name}: {answer}")
        return [answer for _, answer in answers]

    async def order_all(self, name: str, **arguments: Any) -> list[Result]:  # any: as in `order`
        return await self.order(name, [arguments for _ in self._pipes])

    async def wait_for_deliveries(self, expected_count: int) -> None:
        """Until all have been counted, or none has come for QUIET_S."""
        loop = asyncio.get_running_loop()
        seen_count, quiet_since = -1, loop.time()
        while self.received_count < expected_count and loop.time() - quiet_since < QUIET_S:
            if self.received_count != seen_count:
                seen_count, quiet_since = self.received_count, loop.time()
            await asyncio.sleep(0.02)

    def split(self, total_count: int) -> list[int]:
        """total_count in parts as equal as can be."""
        share, rest = divmod(total_count, len(self))
        return [share + (index < rest) for index in range(len(self))]
