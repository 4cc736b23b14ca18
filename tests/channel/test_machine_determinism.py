"""The same log gives the same bytes in every process, whatever the order of its sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", ["one", "two"])
def test_two_processes_with_different_hash_seeds_agree_on_every_byte(seed: str) -> None:
    digests = []
    for hash_seed in ("0", "1", "4242"):
        run = subprocess.run(
            [sys.executable, "-m", "tests.channel.digest", seed],
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        digests.append(run.stdout.strip())
    assert len(digests[0]) == 64
    assert set(digests) == {digests[0]}
