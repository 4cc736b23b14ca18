"""One line that says what is going on and for how long, on a terminal; plain lines elsewhere."""

import threading
import time
from types import TracebackType
from typing import Final, Self, TextIO

PERIOD_S: Final = 0.5


class Progress:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self.prefix = ""
        self._text = ""
        self._since = time.monotonic()
        self._stop = threading.Event()
        # A thread of its own: the line goes on while the loop is busy.
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def say(self, text: str) -> None:
        self._text = self.prefix + text
        self._since = time.monotonic()
        if not self._is_live:
            self._stream.write(f"{self._text}\n")
            self._stream.flush()

    def _tick(self) -> None:
        while not self._stop.wait(PERIOD_S):
            if self._text:
                self._stream.write(f"\r\x1b[2K{self._text} ({time.monotonic() - self._since:.0f} s)")
                self._stream.flush()

    def __enter__(self) -> Self:
        if self._is_live:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._is_live:
            self._thread.join()
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
