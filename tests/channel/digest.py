"""`python -m tests.channel.digest SEED`: a digest of everything that comes out of applying one random log."""

import hashlib
import sys
from random import Random

from tests.channel.test_machine_batching import a_log, serial
from wukong.channel.state import encode


def digest(seed: str) -> str:
    run = serial(a_log(Random(seed), 600))
    found = hashlib.sha256()
    for key, value in sorted(run.rows().items()):
        found.update(key + value)
    for part in [*run.replies, *(encode(effect) for effect in run.effects)]:
        found.update(part)
    return found.hexdigest()


if __name__ == "__main__":
    print(digest(sys.argv[1]))
