"""What was run adds up in one document, over runs and commits."""

from collections import Counter
from pathlib import Path

from tests.simulation.checkers import Violation
from tests.simulation.cluster_sim import Result
from tests.simulation.record import Proof, read_ranges, record, record_score, recorded, show_ranges


def ran(seed: int, *, failed: bool = False) -> Result:
    violations = [Violation("R0", "missed", 1.0)] if failed else []
    return Result(seed, 3, violations, 2_000, 20, 3, Counter({"fault: kill": 2, "push": 9}), 36.0, 3.6, "0", 5)


def test_ranges_of_seeds_are_read_as_they_are_shown() -> None:
    assert show_ranges({1, 2, 3, 7, 9, 10}) == "1-3, 7, 9-10"
    assert read_ranges("1-3, 7, 9-10") == {1, 2, 3, 7, 9, 10}
    assert (show_ranges([]), read_ranges("")) == ("", set())


def test_runs_add_up_and_the_words_around_them_stay(tmp_path: Path) -> None:
    path = tmp_path / "proof.md"
    path.write_text("# Proof\n\n<!-- runs: begin -->\n<!-- runs: end -->\n\nThe end.\n")
    for seed in (1, 2, 3):
        record("abc", ran(seed), path)
    record("abc", ran(9, failed=True), path)
    record("def+", ran(1), path)
    text = path.read_text()
    assert text.startswith("# Proof\n\n<!-- runs: begin -->") and text.endswith("<!-- runs: end -->\n\nThe end.\n")
    assert "| abc | 3 | 1-3, 9 | 8,000 | 80 | 12 | 20 | 0.040 h | 0.004 h | 9 |" in text
    assert "| kill | 10 |" in text and "push" not in text
    assert recorded("abc", 3, path) == {1, 2, 3, 9}
    assert recorded("abc", 5, path) == frozenset()
    assert Proof(text).render() == text


def test_the_score_of_the_bugs_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "proof.md"
    path.write_text("# Proof\n\n<!-- bugs: begin -->\nold\n<!-- bugs: end -->\n\nThe end.\n")
    record_score({"one": ("Does\n    harm.", ["R0", "order"]), "two": ("More.", [])}, path)
    text = path.read_text()
    assert "1 of 2." in text and "| one | Does harm. | R0, order |" in text and "| two | More. | MISSED |" in text
    assert "old" not in text and text.endswith("<!-- bugs: end -->\n\nThe end.\n")
