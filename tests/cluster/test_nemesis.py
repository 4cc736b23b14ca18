"""Faults of nodes and links under load: nothing acknowledged is lost or doubled, nobody is missed, nobody is stuck.

WUKONG_NEMESIS_CYCLES: how many faults; scripts/soak-cluster does 200 of them.
"""

import os
import random
from pathlib import Path

import pytest

from tests.cluster.nemesis import FAULTS, deck, line, run

CYCLES = int(os.environ.get("WUKONG_NEMESIS_CYCLES", "6"))
# What a change must pass: one of each family. The long run draws from all.
SHORT = ["kill-leader", "pause-leader", "silence-leader", "mute", "kill-all", "planned-stop"]


@pytest.mark.timeout(120 + 60 * CYCLES)
async def test_whatever_breaks_nothing_is_lost_and_nobody_is_missed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    names = deck(random.Random(seed), SHORT if len(SHORT) >= CYCLES else list(FAULTS), CYCLES)
    nemesis = await run(tmp_path, names, seed, report=lambda row: print(line(row)))
    assert nemesis.faults == [], "\n".join(nemesis.faults[:20])
    assert nemesis.totals["cycles"] == CYCLES
    for what in ("acknowledged", "changes", "reads"):
        assert nemesis.totals[what] > 10 * CYCLES, f"the load did nothing: {nemesis.totals}"
