"""The simulation of whole nodes, as far as it runs with every change: fixed seeds, new ones, and the planted bugs.

More, outside: python -m tests.simulation.cluster_sim --first 1000 --count 500 --nodes 3
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.cluster_sim import Result, hunt, replay_command, run_seed

# Seconds of the processor are counted below; a machine that is busy otherwise may take many times as long.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
FIXED = [(1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 5)]

# Drawn in the test: processes that share the tests have to agree on their names.
NEW_SEEDS = 10


def told(result: Result, bug: str = "") -> str:
    lines = [f"{violation.at:.3f} s  {violation.rule}: {violation.text}" for violation in result.violations[:5]]
    return "\n".join([replay_command(result, bug), *lines])


@pytest.mark.parametrize(("seed", "nodes"), FIXED)
def test_a_cluster_keeps_its_promises_whatever_fails(seed: int, nodes: int) -> None:
    result = run_seed(seed, nodes)
    assert result.violations == [], told(result)
    assert result.is_enough, result


@pytest.mark.parametrize("number", range(NEW_SEEDS))
def test_a_cluster_keeps_its_promises_with_a_seed_nobody_has_seen(number: int) -> None:
    first = int(os.environ.get("CLUSTER_SIM_FIRST", "0"))
    seed = first + number if first else random.SystemRandom().randrange(10**6, 10**9)
    print(f"seed {seed}")
    result = run_seed(seed, 3)
    assert result.violations == [], told(result)
    assert result.is_enough, result


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    result, tries = hunt(bug)
    assert result.violations, f"not found with {tries} seeds; look for more: --first 1 --count 50 --bug {bug}"


def test_a_seed_is_one_run_whatever_the_hashes_of_strings() -> None:
    hashes = set()
    for seed in ("1", "2"):
        finished = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tests.simulation.cluster_sim import run_seed\n"
                "result = run_seed(5, 3, least=False, episodes=1)\n"
                "print(result.trace_hash, result.commands, result.counts)",
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=100,
        )
        hashes.add(finished.stdout)
    assert len(hashes) == 1, hashes
