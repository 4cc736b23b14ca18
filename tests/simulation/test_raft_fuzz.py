"""500 random schedules without a violation, and proof that the fuzzer would see one.

A failing seed replays alone: python -m tests.simulation.raft_fuzz --seed N --schedules 1 --nodes K --verbose
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.raft.ablations import without
from tests.simulation.raft_fuzz import run_schedule

CHUNK = 25
CHUNKS = [(3, first) for first in range(0, 350, CHUNK)] + [(5, first) for first in range(0, 150, CHUNK)]

NOTICED = {
    "hold-answers": False,
    "own-durability": False,
    "log-matching": False,
    "verified-commit": False,
    "read-rounds": False,
    "install-intent": False,
    "learner-counts": True,
    "disk-check": True,
    "answer-disk": True,
}
"""Measures that random schedules miss soon, and whether it takes membership changes. For the others there are the
schedules made by hand."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("nodes", "first"), CHUNKS)
def test_random_schedules_violate_nothing(nodes: int, first: int) -> None:
    acknowledged = reads = 0
    made: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        result = run_schedule(seed, nodes)
        assert result.violations == [], f"seed {seed}, {nodes} nodes"
        acknowledged += result.acknowledged
        reads += result.reads
        made.update(result.members_made)
    # A fuzzer that does nothing finds nothing.
    assert acknowledged > 200 * CHUNK
    assert reads > 10 * CHUNK
    assert all(made[kind] > 0 for kind in ("learn", "add", "rem", "disk")), made


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("measure", "members"), NOTICED.items())
def test_the_fuzzer_notices_a_missing_measure(measure: str, members: bool) -> None:
    with without(measure):
        for seed in range(150):
            if run_schedule(seed, 3, members=members or None).violations:
                return
    pytest.fail(f"150 schedules without {measure} and no violation")


def test_a_seed_is_one_run_whatever_the_hash_seed() -> None:
    script = (
        "from tests.simulation.raft_fuzz import run_schedule as r;"
        "print([(x.acknowledged, x.reads, x.steps, x.violations) for x in (r(3, 3), r(4, 3), r(3, 5))])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1
