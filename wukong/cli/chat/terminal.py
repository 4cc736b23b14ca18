"""Where a chat is shown: lines above, the line being typed below; or plain lines when it is no terminal."""

import asyncio
import contextlib
import os
import shutil
import sys
import termios
import unicodedata
from types import TracebackType
from typing import Final, Protocol, Self

from wukong.cli.chat.line_editor import LineEditor, Quit

READ_BYTES: Final = 4_096
LINE_LIMIT_BYTES: Final = 1 << 20
QUEUE_LIMIT_COUNT: Final = 1_000

ERASE_LINE: Final = "\r\x1b[2K"
STYLES: Final = {"own": "\x1b[2m", "note": "\x1b[33m", "fault": "\x1b[31m", "": ""}
RESET: Final = "\x1b[0m"


def harmless(text: str) -> str:
    """Text of somebody else without control characters: they could move the cursor or fake a line. Line breaks become
    a sign, directions of writing cannot be turned."""
    return "".join(_harmless_letter(letter) for letter in text.replace("\r\n", "\n"))


def _harmless_letter(letter: str) -> str:
    if letter == "\n":
        return " ⏎ "
    if unicodedata.category(letter) in ("Cc", "Cs") or letter in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e":
        return "·"
    if letter in "\u2066\u2067\u2068\u2069":
        return "·"
    return letter


class Terminal(Protocol):
    """prompt: shown before the line being typed. Use as a context manager."""

    prompt: str

    def show(self, line: str, style: str = "") -> None:
        """A line above the one being typed. style: "own", "note", "fault" or plain."""
        ...

    async def next_line(self) -> str | None:
        """What the user typed; None at the end of input."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainTerminal:
    """Standard input and output that are no terminal. What is not read yet waits in the pipe; a line over
    LINE_LIMIT_BYTES ends the input."""

    def __init__(self) -> None:
        self.prompt = ""
        self._reader: asyncio.StreamReader | None = None
        self._pipe: asyncio.BaseTransport | None = None

    def show(self, line: str, style: str = "") -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    async def next_line(self) -> str | None:
        if self._reader is None:
            self._reader = await self._open()
        try:
            line = await self._reader.readline()
        except ValueError:
            self.show(f"a line over {LINE_LIMIT_BYTES} bytes", "fault")
            return None
        return line.decode(errors="replace").rstrip("\r\n") if line else None

    async def _open(self) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
        try:
            loop = asyncio.get_running_loop()
            self._pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        except ValueError:
            # A file: it never makes anybody wait.
            reader.feed_data(sys.stdin.buffer.read())
            reader.feed_eof()
        return reader

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipe is not None:
            self._pipe.close()


class LiveTerminal:
    """A terminal in raw input mode. Restores it at the end."""

    def __init__(self) -> None:
        self._prompt = ""
        self._editor = LineEditor()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(QUEUE_LIMIT_COUNT)
        self._input = sys.stdin.fileno()
        self._saved = termios.tcgetattr(self._input)

    @property
    def prompt(self) -> str:
        return self._prompt

    @prompt.setter
    def prompt(self, text: str) -> None:
        self._prompt = text
        self._draw()

    def __enter__(self) -> Self:
        mode = termios.tcgetattr(self._input)
        # No line mode, no echo, no signals from keys: all keys come here. Output stays as it is.
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        mode[0] &= ~(termios.IXON | termios.ICRNL)
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)
        asyncio.get_running_loop().add_reader(self._input, self._read)
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._input)
        self._write(ERASE_LINE)
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)

    def show(self, line: str, style: str = "") -> None:
        self._write(f"{ERASE_LINE}{STYLES[style]}{line}{RESET if style else ''}\n")
        self._draw()

    async def next_line(self) -> str | None:
        return await self._lines.get()

    def _read(self) -> None:
        try:
            data = os.read(self._input, READ_BYTES)
        except OSError:
            data = b""
        finished = self._editor.feed(data) if data else [Quit.QUIT]
        for each in finished:
            # At the limit further lines are lost; nobody types so many before the first is taken.
            with contextlib.suppress(asyncio.QueueFull):
                self._lines.put_nowait(None if isinstance(each, Quit) else each)
        self._draw()

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns
        prompt = self._prompt[: max(0, width // 2)]
        visible, cursor = self._editor.visible(max(8, width - len(prompt) - 1))
        column = len(prompt) + cursor
        move = f"\r\x1b[{column}C" if column else "\r"
        self._write(f"{ERASE_LINE}{prompt}{visible}{move}")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def open_terminal() -> Terminal:
    return LiveTerminal() if sys.stdin.isatty() and sys.stdout.isatty() else PlainTerminal()
