"""Runs storms from the command line.

nox -s storm -- --minutes 60     fresh seeds, each of them printed
nox -s storm -- --seeds 1 2 3    these; one that fails is shrunk to what makes it fail
nox -s storm -- --mutants        within how many seeds each mutant is found
nox -s storm -- --real --minutes 60   the same plans with real processes and servers, several side by side
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from storm.fleet import run
from storm.model import judge
from storm.mutants import AT_MOST, MUTANTS, Mutant, seeds_to_find
from storm.plan import LARGE, plan_of
from storm.real import SCALE, SERVERS, run_real
from storm.shrink import as_code, kinds_of, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FIRST_SEED = 1
"""The mutants are looked for in the storms of the seeds from here on."""


def one_storm(seed: int) -> tuple[int, list[str], float, dict[str, int]]:
    """Carry out the storm of a seed: what went wrong, the seconds of its life, and its faults."""
    story = run(plan_of(seed))
    return seed, judge(story), story.over_s, dict(story.made)


@attrs.frozen
class RealStorm:
    """How to carry storms out for real."""

    scale: float
    server: str
    plan: str
    mutant: str = ""

    def run(self, seed: int) -> tuple[int, list[str], float, dict[str, int]]:
        """Carry the storm of a seed out, and tell of it."""
        began_s = time.monotonic()
        mutant = next((one for one in MUTANTS if one.name == self.mutant), None)
        plan = LARGE[self.plan](seed) if self.plan else plan_of(seed)
        story = run_real(plan, scale=self.scale, server=self.server, mutant=mutant)
        wrongs, took_s = judge(story), time.monotonic() - began_s
        options = f"{f' --plan {self.plan}' if self.plan else ''}{f' --server {self.server}' if self.server else ''}"
        starved_s = sum((b - a) * self.scale for life in story.lives for a, b in life.starved)
        print(
            f"seed {seed} on {story.server}: {story.over_s:.0f} s of a fleet's life in {took_s:.0f} s,"
            f" {len(story.sent)} sends, {len(story.lives)} workers, starved for {starved_s:.1f} s:"
            f" {'; '.join(wrongs) or 'all was well'}   (replay: --real --seeds {seed}{options})",
            flush=True,
        )
        if wrongs and not mutant:
            trace = Path(tempfile.gettempdir(), f"storm-{seed}.txt")
            told = (f"{at_s:.6f} {worker} {event}" for at_s, worker, event in story.told_of)
            trace.write_text("\n".join([str(plan), *sorted((*story.trace, *told), key=_at_s), *wrongs]))
            print(f"seed {seed} FAILED; its plan and what happened: {trace}", flush=True)
        return seed, wrongs, story.over_s, dict(story.made)


def _at_s(line: str) -> float:
    return float(line.partition(" ")[0])


def tell_failure(seed: int, wrongs: list[str]) -> None:
    """Print a failing storm, and the smallest one that still fails."""
    small = shrink(plan_of(seed), kinds_of(wrongs))
    print(f"\nseed {seed} FAILED: {'; '.join(wrongs)}\n\nshrunk:\n{small}\n\n{as_code(small)}\n", flush=True)


def storms(
    seeds: Iterable[int],
    minutes: float | None,
    processes: int,
    *,
    quiet: bool,
    carry_out: Callable[[int], tuple[int, list[str], float, dict[str, int]]] = one_storm,
) -> int:
    """Run storms until the seeds or the minutes are used up; give how many failed."""
    until_s = time.monotonic() + 60 * minutes if minutes else float("inf")
    count, life_s, failed, made = 0, 0.0, 0, dict[str, int]()
    seeds, real = iter(seeds), carry_out is not one_storm
    with ProcessPoolExecutor(processes) as pool:
        running = {pool.submit(carry_out, seed) for seed in itertools.islice(seeds, processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for seed, wrongs, over_s, faults in (one.result() for one in done):
                count, life_s, failed = count + 1, life_s + over_s, failed + bool(wrongs)
                for kind, times in faults.items():
                    made[kind] = made.get(kind, 0) + times
                if not quiet and not real:
                    print("seed", seed, flush=True)
                if wrongs and not real:
                    tell_failure(seed, wrongs)
            if time.monotonic() < until_s:
                running |= {pool.submit(carry_out, seed) for seed in itertools.islice(seeds, len(done))}
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


def real_mutant(names: list[str], how: RealStorm, processes: int) -> int:
    """Look for mutants in real storms, one after the other; give how many are not found."""
    missed = 0
    for mutant in (one for one in MUTANTS if any(name in one.name for name in names)):
        seeds, found = range(FIRST_SEED, FIRST_SEED + AT_MOST), False
        for first in range(0, len(seeds), processes):
            with ProcessPoolExecutor(processes) as pool:
                with_it = list(pool.map(attrs.evolve(how, mutant=mutant.name).run, seeds[first : first + processes]))
            found = any(wrongs for _, wrongs, _, _ in with_it)
            if found:
                break
        missed += not found
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
    parser.add_argument("--processes", type=int, help="how many storms side by side")
    parser.add_argument("--real", action="store_true", help="with real processes and servers")
    parser.add_argument("--server", choices=SERVERS, default="", help="which server; otherwise the seed chooses")
    parser.add_argument("--scale", type=float, default=SCALE, help="how many seconds a second of the plan takes")
    parser.add_argument("--plan", choices=LARGE, default="", help="the large storm of this kind")
    chosen = parser.parse_args()
    # A real storm waits most of the time.
    chosen.processes = chosen.processes or (os.cpu_count() or 1) * (4 if chosen.real else 1)
    if chosen.mutants is not None and chosen.real:
        return real_mutant(chosen.mutants, RealStorm(chosen.scale, chosen.server, chosen.plan), chosen.processes)
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
    carry_out = RealStorm(chosen.scale, chosen.server, chosen.plan).run if chosen.real else one_storm
    quiet = bool(chosen.range)
    return min(1, storms(chosen.seeds or seeds, chosen.minutes, chosen.processes, quiet=quiet, carry_out=carry_out))


if __name__ == "__main__":
    sys.exit(main())
