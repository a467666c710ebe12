"""Runs storms from the command line.

nox -s storm -- --minutes 60     fresh seeds, each of them printed
nox -s storm -- --seeds 1 2 3    these; one that fails is shrunk to what makes it fail
nox -s storm -- --mutants        within how many seeds each mutant is found
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from storm.fleet import run
from storm.model import judge
from storm.mutants import AT_MOST, MUTANTS, Mutant, seeds_to_find
from storm.plan import plan_of
from storm.shrink import as_code, kinds_of, shrink

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_SEED = 1
"""The mutants are looked for in the storms of the seeds from here on."""


def one_storm(seed: int) -> tuple[int, list[str], float, dict[str, int]]:
    """Carry out the storm of a seed: what went wrong, the seconds of its life, and its faults."""
    story = run(plan_of(seed))
    return seed, judge(story), story.over_s, dict(story.made)


def tell_failure(seed: int, wrongs: list[str]) -> None:
    """Print a failing storm, and the smallest one that still fails."""
    small = shrink(plan_of(seed), kinds_of(wrongs))
    print(f"\nseed {seed} FAILED: {'; '.join(wrongs)}\n\nshrunk:\n{small}\n\n{as_code(small)}\n", flush=True)


def storms(seeds: Iterable[int], minutes: float | None, processes: int, *, quiet: bool) -> int:
    """Run storms until the seeds or the minutes are used up; give how many failed."""
    until_s = time.monotonic() + 60 * minutes if minutes else float("inf")
    count, life_s, failed, made = 0, 0.0, 0, dict[str, int]()
    seeds = iter(seeds)
    with ProcessPoolExecutor(processes) as pool:
        while time.monotonic() < until_s and (some := list(itertools.islice(seeds, processes * 8))):
            for seed, wrongs, over_s, faults in pool.map(one_storm, some):
                count, life_s, failed = count + 1, life_s + over_s, failed + bool(wrongs)
                for kind, times in faults.items():
                    made[kind] = made.get(kind, 0) + times
                if wrongs:
                    tell_failure(seed, wrongs)
            if not quiet:
                print("seeds:", *some, flush=True)
    faults_made = ", ".join(f"{times} {kind}" for kind, times in sorted(made.items()))
    print(f"{count} storms, {life_s / 3600:.1f} hours of a fleet's life, {failed} failed; faults: {faults_made}")
    return failed


def look_for(mutant: Mutant) -> tuple[Mutant, tuple[int, int, list[str]] | None]:
    """Look for one mutant, in a process of its own."""
    return mutant, seeds_to_find(mutant, range(FIRST_SEED, FIRST_SEED + AT_MOST), {})


def mutants(names: list[str], processes: int) -> int:
    """Print within how many storms each mutant is found; give how many are not."""
    chosen = [one for one in MUTANTS if not names or any(name in one.name for name in names)]
    missed = 0
    print("| taken out | promise | storms to find it | as |\n| --- | --- | --- | --- |")
    with ProcessPoolExecutor(processes) as pool:
        for mutant, found in pool.map(look_for, chosen):
            missed += found is None and not mutant.covered
            count = (
                str(found[0]) if found else ("covered: " + mutant.covered if mutant.covered else f"NOT in {AT_MOST}")
            )
            kind = found[2][0].partition(":")[0] if found else ""
            print(f"| {mutant.name} | {mutant.promise} | {count} | {kind} |", flush=True)
    return missed


def main() -> int:
    """Do what the command line says; 0 if all was well."""
    parser = argparse.ArgumentParser(
        prog="storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="run fresh seeds for so long")
    parser.add_argument("--seeds", type=int, nargs="+", help="run these seeds")
    parser.add_argument(
        "--range", type=int, nargs=2, metavar=("FIRST", "LAST"), help="run the seeds from FIRST to LAST"
    )
    parser.add_argument(
        "--mutants", nargs="*", metavar="WORDS", help="look for the mutants, all or those with these words"
    )
    parser.add_argument("--trace", type=int, metavar="SEED", help="print all that happens in the storm of a seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    if chosen.mutants is not None:
        return min(1, mutants(chosen.mutants, chosen.processes))
    if chosen.trace is not None:
        story = run(plan_of(chosen.trace))
        print(story.plan, *story.trace, *(judge(story) or ["all was well"]), sep="\n")
        return 0
    fresh = random.SystemRandom()
    seeds: Iterable[int] = iter(lambda: fresh.randrange(2**31), None)
    if chosen.range:
        seeds = range(chosen.range[0], chosen.range[1] + 1)
    return min(1, storms(chosen.seeds or seeds, chosen.minutes, chosen.processes, quiet=bool(chosen.range)))


if __name__ == "__main__":
    sys.exit(main())
