"""What a node writes: which of its lines an onlooker wants to see, and a file with all of them. Pure but for the file.

Shown are warnings, errors and what is no log line (a traceback, a fault before logging began), at most LINES_LIMIT in
PERIOD_S; the rest is counted. The file is renamed to NAME.1 at FILE_LIMIT_BYTES, and the older NAME.1 is lost.
"""

import re
from pathlib import Path
from typing import Final

LINE_LIMIT_BYTES: Final = 16 * 1024
LINES_LIMIT: Final = 20
PERIOD_S: Final = 10.0
FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
TAIL_LINES: Final = 8

_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d+ ([A-Z]+) (.*)$", re.DOTALL)
_QUIET: Final = {"DEBUG", "INFO"}


class Lines:
    """Bytes of a stream to lines. A longer line than LINE_LIMIT_BYTES comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_LIMIT_BYTES:
            whole.append(self._rest)
            self._rest = b""
        return [each.decode(errors="replace").rstrip("\r") for each in whole]

    def end(self) -> list[str]:
        """What stands behind the last line end."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


class Watcher:
    """Chooses the lines to show. verbose: all of them. expects_warnings: they are no news, as while a cluster starts or
    stops: then every node misses others."""

    def __init__(self, *, verbose: bool = False, expects_warnings: bool = False) -> None:
        self.expects_warnings = expects_warnings
        self._verbose = verbose
        # What comes before the first log line is a fault.
        self._level = "ERROR"
        self._period_began = 0.0
        self._shown_count = 0
        self.tail: list[str] = []

    def look(self, line: str, now_s: float) -> list[str]:
        """The lines to show for one of the node's: none, one, or one that says how many were left out before."""
        self.tail = [*self.tail[1 - TAIL_LINES :], line]
        found = _STAMP.match(line)
        if found:
            self._level = found[2]
            line = f"{found[1]} {found[2]} {found[3]}"
        if not line.strip() or (self._is_quiet() and not self._verbose):
            return []
        shown: list[str] = []
        if now_s - self._period_began >= PERIOD_S:
            left_out = self._shown_count - LINES_LIMIT
            if left_out > 0:
                shown.append(f"... {left_out:,} more lines; the node's log file has them")
            self._period_began, self._shown_count = now_s, 0
        self._shown_count += 1
        if self._verbose or self._shown_count <= LINES_LIMIT:
            shown.append(line)
        return shown

    def _is_quiet(self) -> bool:
        return self._level in _QUIET or (self.expects_warnings and self._level == "WARNING")


class LogFile:
    """All lines. A disk that refuses them is not the node's affair: they are lost."""

    def __init__(self, path: Path, *, limit_bytes: int = FILE_LIMIT_BYTES) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._file = path.open("ab")
        self._size_bytes = path.stat().st_size

    def write(self, data: bytes) -> None:
        try:
            if self._size_bytes + len(data) > self._limit_bytes:
                self._file.close()
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                self._file = self.path.open("ab")
                self._size_bytes = 0
            self._file.write(data)
            self._file.flush()
            self._size_bytes += len(data)
        except (OSError, ValueError):
            return

    def close(self) -> None:
        self._file.close()
