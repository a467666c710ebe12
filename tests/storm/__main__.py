"""Runs storms from the command line.

nox -s storm -- --minutes 60     fresh seeds, each of them printed
nox -s storm -- --seeds 1 2 3    these
nox -s storm -- --mutants        within how many seeds each mutant is found
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from storm.fleet import run
from storm.model import judge
from storm.plan import plan_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="storm", description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--range", type=int, nargs=2)
    chosen = parser.parse_args()
    until_s = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
    fresh = random.SystemRandom()
    seeds = chosen.seeds or (range(*chosen.range) if chosen.range else iter(lambda: fresh.randrange(2**31), None))
    count, hours, bad = 0, 0.0, 0
    for seed in seeds:
        plan = plan_of(seed)
        story = run(plan)
        wrongs = judge(story)
        count, hours = count + 1, hours + story.over_s / 3600
        if wrongs:
            bad += 1
            print(f"seed {seed}: " + "; ".join(wrongs[:3]), flush=True)
        if until_s is not None and time.monotonic() > until_s:
            break
    print(f"{count} storms, {hours:.1f} hours of a fleet's life, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
