"""Pages of documentation: their headings, links and code blocks; and a sandbox in which the blocks of a page are run.

The words behind a block's language say what a test does with it. Blocks of a page are run in order, in one folder:

    run          run it; it has to succeed
    serve        end what was started before, start it, and wait for the lines of the `text` block behind it
    serve beside the same, and what was started before goes on
    save NAME    write it into the folder under this name

A `text` block behind a block that is run holds lines of its output, in order; … stands for anything. The ports of the
defaults, 5001 to 5499 on 127.0.0.1, are moved to free ones, in blocks and in what is expected.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DEFAULT_BASE_PORT = 5000

_RUN_TIMEOUT_S = 90.0
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02
_FENCE = re.compile(r"^```(\w*)[ ]*(.*)$")
_RUNS = {"run", "serve"}


class PageFailed(AssertionError):
    """A block did not do what its page says."""


class Block(NamedTuple):
    """words: behind the language. line: of the opening fence, from 1. output: what it prints, as the page says."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    output: tuple[str, ...] = ()

    @property
    def is_run(self) -> bool:
        return bool(self.words) and self.words[0] in _RUNS


def blocks_of(page: str) -> list[Block]:
    found: list[Block] = []
    opened: tuple[str, tuple[str, ...], int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (fence[1], tuple(fence[2].split()), number), []
        elif opened is not None and line == "```":
            language, words, began = opened
            found.append(Block(language, words, "\n".join(lines) + "\n", began))
            opened = None
        elif opened is not None:
            lines.append(line)
    with_output: list[Block] = []
    for block in found:
        if block.language == "text" and with_output and with_output[-1].is_run:
            with_output[-1] = with_output[-1]._replace(output=tuple(block.text.splitlines()))
        else:
            with_output.append(block)
    return with_output


def prose_of(page: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def headings_of(page: str) -> list[tuple[int, str]]:
    """(level, text) of every heading."""
    found = re.findall(r"^(#{1,6}) +(.*?) *$", prose_of(page), re.MULTILINE)
    return [(len(marks), text) for marks, text in found]


def anchors_of(page: str) -> set[str]:
    """What a link to a part of the page may name, by GitHub's rule."""
    seen: Counter[str] = Counter()
    found = set()
    for _, text in headings_of(page):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def links_of(page: str) -> list[str]:
    """Targets of links as written; those of other sites are left out."""
    text = re.sub(r"`[^`\n]*`", "", prose_of(page))
    return [each for each in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", each)]


def is_told(lines: tuple[str, ...], said: str) -> bool:
    """Whether all lines were said, in this order. … stands for anything within a line."""
    position = 0
    for line in lines:
        pattern = ".*?".join(map(re.escape, re.split("…|\\.\\.\\.", line.strip())))
        match = re.compile(pattern).search(said, position)
        if match is None:
            return False
        position = match.end()
    return True


class Sandbox:
    """A folder in which a reader of a page stands after he has cloned the project. Ends what it has started."""

    def __init__(self, folder: Path, base_port: int) -> None:
        self.folder = folder
        self._base_port = base_port
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._assigned: list[str] = []
        self._count = 0
        self._make()

    def _make(self) -> None:
        listeners = {"HTTPADDR": "127.0.0.1:5001", "ADDR": "tcp://127.0.0.1:5100", "WSADDR": "ws://127.0.0.1:5200",
                     "MANAGER_ADDR": "127.0.0.1:5300", "CLUSTER_ADDR": "tcp://127.0.0.1:5400"}  # fmt: skip
        moved = " ".join(f"WK_{key}={self.moved(value)}" for key, value in listeners.items())
        python = shlex.quote(sys.executable)
        # The same program as in .venv/bin, told where to listen.
        wukong = f"""
            case "${{1:-}} ${{2:-}}" in
            serve\\ *) export {moved} ;;
            "cluster dev") set -- "$@" --base-port {self._base_port} ;;
            esac
            exec {python} -m wukong "$@"
        """
        self._script(self.folder / ".venv/bin/wukong", wukong)
        self._script(self.folder / ".venv/bin/python", f'exec {python} "$@"')
        for name in ("serve", "demo-missed-subscriber"):
            # As it is, but without making an environment, which here is there.
            text = (ROOT / "scripts" / name).read_text()
            prepared = re.sub(r"^source .*setup.*$", f"root={self.folder}", text, flags=re.MULTILINE)
            assert prepared != text
            self._script(self.folder / "scripts" / name, prepared)
        (self.folder / "examples").symlink_to(ROOT / "examples")
        javascript = ROOT / "tests/compat/js"
        (self.folder / "node_modules").symlink_to(javascript / "node_modules")
        (self.folder / "hooks.mjs").symlink_to(javascript / "hooks.mjs")
        (self.folder / "start.mjs").write_text(
            "import { register } from 'node:module'\n"
            "register('./hooks.mjs', import.meta.url)\n"
            "globalThis.WebSocket ??= (await import('ws')).WebSocket\n"
        )

    def _script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\nset -euo pipefail\n{text}\n")
        path.chmod(0o755)

    def moved(self, text: str) -> str:
        """With the ports of this sandbox."""

        def move(match: re.Match[str]) -> str:
            return f"127.0.0.1:{int(match[1]) - DEFAULT_BASE_PORT + self._base_port}"

        return re.sub(r"127\.0\.0\.1:(5[0-4]\d\d)\b", move, text)

    @property
    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WK_", "WUKONG_"))}
        return {
            **inherited,
            "PATH": f"{self.folder / '.venv/bin'}:{inherited['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "WUKONG_API": self.moved("http://127.0.0.1:5001"),
            "WUKONG_TCP": self.moved("127.0.0.1:5100"),
        }

    # -- blocks

    def do(self, block: Block) -> None:
        """What the words of a block say. Raises PageFailed."""
        match block.words:
            case ("run",):
                self._run(block)
            case ("serve",):
                self.end()
                self._serve(block)
            case ("serve", "beside"):
                self._serve(block)
            case ("save", name):
                (self.folder / name).write_text(self.moved(block.text))
            case ():
                pass
            case _:
                raise PageFailed(f"line {block.line}: nobody knows what to do with {' '.join(block.words)!r}")

    def _command(self, block: Block) -> list[str]:
        self._count += 1
        text = self.moved(block.text)
        if block.language == "sh":
            # What a block calls by a name, later blocks of the page know.
            before, self._assigned = self._assigned, self._assigned + re.findall(r"^\w+=\S*$", text, re.MULTILINE)
            return ["bash", "-euo", "pipefail", "-c", "\n".join([*before, text])]
        if block.language == "python":
            path = self.folder / f"block_{self._count}.py"
            path.write_text(text)
            return [sys.executable, str(path)]
        if block.language == "js":
            path = self.folder / f"block_{self._count}.mjs"
            path.write_text(text)
            return ["node", "--import", "./start.mjs", str(path)]
        raise PageFailed(f"line {block.line}: {block.language!r} cannot be run")

    def _run(self, block: Block) -> None:
        command = self._command(block)
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_RUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            said = (expired.output or b"").decode(errors="replace")
            raise PageFailed(f"line {block.line}: no end within {_RUN_TIMEOUT_S} s\n{said}") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise PageFailed(f"line {block.line}: exit status {done.returncode}\n{said}\n{self._logs()}")
        self._compare(block, said)

    def _serve(self, block: Block) -> None:
        command = self._command(block)
        log = self.folder / f"said-{self._count}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((process, log))
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._is_told(block, log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PageFailed(f"line {block.line}: it does not say what the page says\n{self._logs()}")
            time.sleep(_POLL_S)

    def _is_told(self, block: Block, said: str) -> bool:
        return is_told(tuple(map(self.moved, block.output)), said)

    def _compare(self, block: Block, said: str) -> None:
        if not self._is_told(block, said):
            wanted = "\n".join(map(self.moved, block.output))
            raise PageFailed(f"line {block.line}: the page says\n{wanted}\nand it says\n{said}")

    def _logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4_000:]}" for _, log in self._started)

    def end(self) -> None:
        """Ctrl-C to everything that was started, the last one first."""
        started, self._started = self._started, []
        for process, _ in reversed(started):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_TIMEOUT_S)
            # Also what a child of its own has left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def sandbox(folder: Path, base_port: int) -> Iterator[Sandbox]:
    made = Sandbox(folder, base_port)
    try:
        yield made
    finally:
        made.end()
