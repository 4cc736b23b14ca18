"""Whole nodes under random faults, one seed one run; see world.py for what is simulated and checkers.py for what must
hold.

    python -m tests.simulation.cluster_sim --seed 7 --nodes 3 [--bug NAME] [--verbose]
    python -m tests.simulation.cluster_sim --first 1 --count 100 --nodes 3 --record
    python -m tests.simulation.cluster_sim --score

A seed goes on, episode after episode, until it has done enough commands, faults and changes of leadership to count.
`--record` adds what was run to docs/proof.md.
"""

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.scenarios import judge as times
from tests.simulation.bugs import BUGS, HUNT, planted
from tests.simulation.checkers import Violation
from tests.simulation.faults import Faults
from tests.simulation.world import ErrorCatcher, World

COMMANDS = 2_000
FAULTS = 20
LEADER_CHANGES = 3
MOST_EPISODES = 25


class Result(NamedTuple):
    """What one seed did. leader_changes: leaderships begun after each group had its first. real_s: of the processor."""

    seed: int
    nodes: int
    violations: list[Violation]
    commands: int
    faults: int
    leader_changes: int
    counts: Counter[str]
    simulated_s: float
    real_s: float
    trace_hash: str
    snapshots: int

    @property
    def is_enough(self) -> bool:
        changes = LEADER_CHANGES if self.nodes > 1 else 0
        return self.commands >= COMMANDS and self.faults >= FAULTS and self.leader_changes >= changes

    @property
    def rules(self) -> list[str]:
        return sorted({violation.rule for violation in self.violations})


def run_seed(
    seed: int, nodes: int, *, least: bool = True, episodes: int = MOST_EPISODES, on_trace: Any = None
) -> Result:
    """One world. least: go on until it counts; else `episodes` are run. It ends with the first episode that violates
    something."""
    started = time.process_time()
    world = World(seed, nodes, on_trace=on_trace)
    faults = Faults(world)
    catcher = ErrorCatcher(world)
    product = logging.getLogger("wukong")
    level, propagates = product.level, product.propagate
    product.addHandler(catcher)
    product.setLevel(logging.ERROR)
    product.propagate = False
    gc_was_on = gc.isenabled()
    gc.disable()  # nothing of a dead process may wake up to be collected
    real_now = times.now

    def result() -> Result:
        return Result(
            seed,
            nodes,
            list(world.violations.found),
            world.counts["commands"],
            faults.count,
            max(0, world.leaders.changes - world.options.slots),
            world.counts,
            world.scheduler.now,
            time.process_time() - started,
            world.trace_hash,
            world.counts["snapshot installed"],
        )

    try:
        try:
            world.begin()
            for _ in range(episodes):
                if world.violations.found or (least and result().is_enough):
                    break
                world.episode(faults.episode)
        except AssertionError as error:
            if on_trace is not None:
                logging.getLogger(__name__).exception("assertion")
            world.violations.blame("faultless", f"assertion: {error!r}")
        return result()
    finally:
        times.now = real_now
        world.close()
        product.removeHandler(catcher)
        product.setLevel(level)
        product.propagate = propagates
        if gc_was_on:
            gc.enable()


def hunt(bug: str) -> tuple[Result, int]:
    """Plant a bug and look for it: the result of the last seed that was tried, and how many were."""
    tries = 0
    for seed, nodes in HUNT:
        tries += 1
        with planted(bug):
            result = run_seed(seed, nodes)
        if result.violations:
            break
    return result, tries


def score(bugs: Sequence[str]) -> dict[str, tuple[Result, int]]:
    """Hunts for all of them, and says how it went."""
    found = {}
    for bug in bugs:
        result, tries = found[bug] = hunt(bug)
        gc.collect()
        how = f"seed {result.seed}, {result.nodes} nodes: {', '.join(result.rules)}" if result.violations else "MISSED"
        print(f"{bug:26} {how} ({tries} tried)", flush=True)
    print(f"{sum(bool(result.violations) for result, _ in found.values())} of {len(found)} bugs found", flush=True)
    return found


def replay_command(result: Result, bug: str = "") -> str:
    return f"python -m tests.simulation.cluster_sim --seed {result.seed} --nodes {result.nodes}" + (
        f" --bug {bug}" if bug else ""
    )


def tell(result: Result, bug: str = "") -> None:
    verdict = "ok" if not result.violations else "FAILED"
    print(
        f"seed {result.seed}: {verdict}, {result.commands} commands, {result.faults} faults, "
        f"{result.leader_changes} changes of leadership, {result.snapshots} snapshots, "
        f"{result.simulated_s:.0f} s simulated, {result.real_s:.1f} s, trace {result.trace_hash}",
        flush=True,
    )
    for violation in result.violations[:12]:
        print(f"    {violation.at:9.3f} s  {violation.rule}: {violation.text[:600]}", flush=True)
    if result.violations:
        print(f"    {replay_command(result, bug)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--bug", default="", help="with one of the faults of bugs.py in the product")
    parser.add_argument("--score", action="store_true", help="plant every bug and look for it")
    parser.add_argument("--record", action="store_true", help="add the run to docs/proof.md")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args(arguments)
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.first, chosen.first + chosen.count)
    on_trace = None
    if chosen.verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        on_trace = print
    if chosen.score:
        found = score([chosen.bug] if chosen.bug else list(BUGS))
        if chosen.record:
            from tests.simulation import record

            record.record_score({bug: (BUGS[bug].__doc__ or "", result.rules) for bug, (result, _) in found.items()})
        return 0 if all(result.violations for result, _ in found.values()) else 1
    failed = 0
    total: Counter[str] = Counter()
    commit = ""
    if chosen.record and not chosen.bug:
        from tests.simulation import record

        commit = record.present_commit()
        seeds = [seed for seed in seeds if seed not in record.recorded(commit, chosen.nodes)]
    for seed in seeds:
        with planted(chosen.bug):
            result = run_seed(seed, chosen.nodes, on_trace=on_trace)
        tell(result, chosen.bug)
        failed += bool(result.violations)
        if commit:
            record.record(commit, result)
        total.update(result.counts)
        gc.collect()
    if len(seeds) > 1:
        print(f"{len(seeds)} seeds, {failed} failed; {dict(sorted(total.items()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
