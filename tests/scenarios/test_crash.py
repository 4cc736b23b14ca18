"""Killed under load, again and again, a server loses nothing it acknowledged and doubles nothing. Scenario S11.

WUKONG_CRASH_CYCLES: how many lives; scripts/soak-kill runs 200 of them.
"""

import os
import random
from pathlib import Path

import pytest

from tests.scenarios.crash import run

CYCLES = int(os.environ.get("WUKONG_CRASH_CYCLES", "8"))


@pytest.mark.timeout(60 + 30 * CYCLES)
async def test_s11_kill_after_kill_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    soak = await run(tmp_path, CYCLES, seed)
    print(soak.figures.table())
    assert soak.figures.counts["cycles"] == CYCLES
    assert soak.figures.counts["without an answer"] > 0, "the kills hit nothing that was under way"
