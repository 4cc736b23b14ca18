"""Adds what the simulation ran to docs/proof.md, and knows what was run there before.

Two tables between markers: one line for each commit and number of nodes, and what went wrong by kind, over all runs.
A seed counts once for a commit; a run that was broken off goes on where it stopped.
"""

import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.simulation.cluster_sim import Result

ROOT = Path(__file__).parents[2]
PROOF = ROOT / "docs/proof.md"
BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
BUGS_BEGIN, BUGS_END = "<!-- bugs: begin -->", "<!-- bugs: end -->"
FAULT = "fault: "

_HEAD = (
    "| commit | nodes | seeds | commands | faults | leader changes | snapshots | simulated | processor | failed |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def present_commit() -> str:
    """Short name of the tree that runs; with a + if the server in it is changed."""

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout

    return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", "wukong") else "")


def show_ranges(numbers: Iterable[int]) -> str:
    """1-3, 7"""
    parts: list[str] = []
    run: list[int] = []
    for number in [*sorted(numbers), None]:
        if run and (number is None or number != run[-1] + 1):
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
            run = []
        if number is not None:
            run.append(number)
    return ", ".join(parts)


def read_ranges(text: str) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        if part.strip():
            first, _, last = part.strip().partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


class Line(NamedTuple):
    """All runs of one commit with so many nodes."""

    seeds: frozenset[int] = frozenset()
    commands: int = 0
    faults: int = 0
    leader_changes: int = 0
    snapshots: int = 0
    simulated_s: float = 0.0
    real_s: float = 0.0
    failed: frozenset[int] = frozenset()

    def with_result(self, result: Result) -> "Line":
        return Line(
            self.seeds | {result.seed},
            self.commands + result.commands,
            self.faults + result.faults,
            self.leader_changes + result.leader_changes,
            self.snapshots + result.snapshots,
            self.simulated_s + result.simulated_s,
            self.real_s + result.real_s,
            self.failed | ({result.seed} if result.violations else frozenset()),
        )


class Proof:
    """The two tables. lines: by (commit, nodes), in the order of the file."""

    def __init__(self, text: str) -> None:
        head, begin, rest = text.partition(BEGIN)
        if not begin:
            head, rest = text.rstrip() + "\n\n", END + "\n"
        inner, _, self._tail = rest.partition(END)
        self._head = head
        self.lines: dict[tuple[str, int], Line] = {}
        self.kinds: Counter[str] = Counter()
        for row in inner.splitlines():
            cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
            if len(cells) == 10 and cells[1].isdigit():
                self.lines[cells[0], int(cells[1])] = Line(
                    frozenset(read_ranges(cells[2])),
                    *(int(cell.replace(",", "")) for cell in cells[3:7]),
                    *(_seconds(cell) for cell in cells[7:9]),
                    frozenset(read_ranges(cells[9])),
                )
            elif len(cells) == 2 and cells[1].replace(",", "").isdigit():
                self.kinds[cells[0]] = int(cells[1].replace(",", ""))

    def add(self, commit: str, result: Result) -> None:
        key = commit, result.nodes
        self.lines[key] = self.lines.get(key, Line()).with_result(result)
        for kind, count in result.counts.items():
            if kind.startswith(FAULT):
                self.kinds[kind.removeprefix(FAULT)] += count

    def render(self) -> str:
        rows = [
            f"| {commit} | {nodes} | {show_ranges(line.seeds)} | {line.commands:,} | {line.faults:,} | "
            f"{line.leader_changes:,} | {line.snapshots:,} | {line.simulated_s / 3600:.3f} h | "
            f"{line.real_s / 3600:.3f} h | {show_ranges(line.failed)} |"
            for (commit, nodes), line in self.lines.items()
        ]
        kinds = [f"| {kind} | {count:,} |" for kind, count in sorted(self.kinds.items())]
        tables = "\n".join([*_HEAD, *rows, "", "| fault | times |", "|---|---|", *kinds])
        return f"{self._head}{BEGIN}\n{tables}\n{END}{self._tail}"


def record_score(found: Mapping[str, tuple[str, Sequence[str]]], path: Path = PROOF) -> None:
    """bug -> (what it does, rules that found it). Replaces the last score."""
    head, begin, rest = path.read_text().partition(BUGS_BEGIN)
    _, _, tail = rest.partition(BUGS_END)
    assert begin, f"{path} has no place for it"
    rows = [
        f"| {bug} | {' '.join(what.split())} | {', '.join(rules) or 'MISSED'} |" for bug, (what, rules) in found.items()
    ]
    caught = sum(bool(rules) for _, rules in found.values())
    table = "\n".join([f"{caught} of {len(found)}.", "", "| bug | what it does | found by |", "|---|---|---|", *rows])
    path.write_text(f"{head}{BUGS_BEGIN}\n{table}\n{BUGS_END}{tail}")


def _seconds(cell: str) -> float:
    return float(cell.removesuffix("h")) * 3600


def record(commit: str, result: Result, path: Path = PROOF) -> None:
    proof = Proof(path.read_text() if path.exists() else "# What was run\n")
    proof.add(commit, result)
    path.write_text(proof.render())


def recorded(commit: str, nodes: int, path: Path = PROOF) -> frozenset[int]:
    """Seeds that count already for this commit."""
    if not path.exists():
        return frozenset()
    return Proof(path.read_text()).lines.get((commit, nodes), Line()).seeds
