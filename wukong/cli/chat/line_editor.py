"""The line being typed: keys in, finished lines out. Pure: reads no terminal and draws nothing.

Keys: letters of any language, Backspace, Delete, arrows, Home, End, Ctrl-A/E (start, end), Ctrl-U/K (delete before,
behind the cursor), Ctrl-W (delete a word), Up and Down (earlier lines), Enter, Ctrl-C and Ctrl-D (end). Others are
ignored.
"""

import codecs
from enum import Enum, auto
from typing import Final

from rich.cells import cell_len

LINE_LIMIT_CHARS: Final = 8_000
"""Longer lines do not grow: a message holds 32,767 bytes."""
HISTORY_LIMIT_COUNT: Final = 100


class Quit(Enum):
    """Ctrl-C, or Ctrl-D on an empty line."""

    QUIT = auto()


_ESCAPES: Final = {
    "[D": "left",
    "[C": "right",
    "[A": "up",
    "[B": "down",
    "[H": "home",
    "[F": "end",
    "OD": "left",
    "OC": "right",
    "OA": "up",
    "OB": "down",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[7~": "home",
    "[4~": "end",
    "[8~": "end",
    "[3~": "delete",
}
_CONTROLS: Final = {
    "\x01": "home",
    "\x02": "left",
    "\x05": "end",
    "\x06": "right",
    "\x0b": "kill",
    "\x0e": "down",
    "\x10": "up",
    "\x15": "clear",
    "\x17": "word",
    "\x08": "backspace",
    "\x7f": "backspace",
}


class LineEditor:
    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._escape: str | None = None
        self._history: list[str] = []
        self._history_at = 0

    def feed(self, data: bytes) -> list[str | Quit]:
        """What the keys finished: lines in order, perhaps the end."""
        finished: list[str | Quit] = []
        for letter in self._decoder.decode(data):
            if self._escape is not None:
                self._continue_escape(letter)
            elif letter == "\x1b":
                self._escape = ""
            elif letter in "\r\n":
                finished.append(self._finish())
            elif letter == "\x03" or (letter == "\x04" and not self.text):
                finished.append(Quit.QUIT)
            elif letter in _CONTROLS:
                self._act(_CONTROLS[letter])
            elif letter.isprintable() or letter == "\t":
                self._insert(" " if letter == "\t" else letter)
        return finished

    def _continue_escape(self, letter: str) -> None:
        assert self._escape is not None
        self._escape += letter
        # "[" and "O" only begin a sequence; it ends with a letter or "~". Alt with a key is a sequence of one.
        if len(self._escape) == 1 and letter in "[O":
            return
        if len(self._escape) > 1 and not (letter.isalpha() or letter == "~") and len(self._escape) < 16:
            return
        self._act(_ESCAPES.get(self._escape, ""))
        self._escape = None

    def _finish(self) -> str:
        line = self.text
        if line.strip() and (not self._history or self._history[-1] != line):
            self._history = [*self._history[-(HISTORY_LIMIT_COUNT - 1) :], line]
        self._history_at = len(self._history)
        self._put("")
        return line

    def _put(self, text: str) -> None:
        self.text = text
        self.cursor = len(text)

    def _insert(self, letter: str) -> None:
        if len(self.text) < LINE_LIMIT_CHARS:
            self.text = self.text[: self.cursor] + letter + self.text[self.cursor :]
            self.cursor += 1

    def _delete(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start

    def _act(self, action: str) -> None:
        match action:
            case "left":
                self.cursor = max(0, self.cursor - 1)
            case "right":
                self.cursor = min(len(self.text), self.cursor + 1)
            case "home":
                self.cursor = 0
            case "end":
                self.cursor = len(self.text)
            case "backspace":
                self._delete(max(0, self.cursor - 1), self.cursor)
            case "delete":
                self._delete(self.cursor, min(len(self.text), self.cursor + 1))
            case "clear":
                self._delete(0, self.cursor)
            case "kill":
                self._delete(self.cursor, len(self.text))
            case "word":
                before = self.text[: self.cursor].rstrip()
                self._delete(before.rfind(" ") + 1, self.cursor)
            case "up" | "down":
                self._walk(-1 if action == "up" else 1)

    def _walk(self, step: int) -> None:
        at = self._history_at + step
        if 0 <= at <= len(self._history):
            self._history_at = at
            self._put(self._history[at] if at < len(self._history) else "")

    def visible(self, width: int) -> tuple[str, int]:
        """The part of the line that fits so many cells, with the cursor in it, and the cursor's cell."""
        start = 0
        # The cursor needs a cell of its own behind the text.
        while cell_len(self.text[start : self.cursor]) > width - 1:
            start += 1
        end = len(self.text)
        while cell_len(self.text[start:end]) > width:
            end -= 1
        return self.text[start:end], cell_len(self.text[start : self.cursor])
