"""Storms over a channel that accepts messages and tells later, by receipts, what became of them.

Receipts come doubled, out of order, before the reply to the send and long after it, while
workers die, freeze and stop, and while Redis is away. Each user gets one message, or there
is a dead letter; and what the channel has told is known.
"""

from __future__ import annotations

import pytest

from storm.fleet import run
from storm.model import judge
from storm.mutants import Mutant
from storm.plan import telling_plan_of
from storm.shrink import kinds_of

SEEDS = range(1, 17)
CHUNKS = [SEEDS[first : first + 4] for first in range(0, len(SEEDS), 4)]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_a_storm_with_receipts_does_nothing_that_is_not_allowed(seeds):
    failed = {seed: wrongs for seed in seeds if (wrongs := judge(run(telling_plan_of(seed))))}

    assert not failed, "\n".join(f"{telling_plan_of(seed)}\n  {'; '.join(wrongs)}" for seed, wrongs in failed.items())


MUTANTS = {
    15: Mutant(
        "the watch does not look for receipts that were here first",
        6,
        "watch.lua",
        "if came and string.sub(came, 1, 5) ~= 'sent:' then",
        "if false then",
    ),
    3: Mutant(
        "receipts of unknown messages are not kept",
        6,
        "keep_receipts.lua",
        "redis.call('HSET', early, name, kind .. ':' .. receipt)",
        "",
    ),
    10: Mutant(
        "whoever takes a send of unknown fate over looks for no receipt",
        5,
        "queue.receipts",
        "if not isinstance(claim.work, SendWork) or claim.work.entry.sending_ms is None:",
        "if not isinstance(claim.work, SendWork) or claim.work.entry.accepted is None:",
    ),
}
"""What is taken out, by the seed of a storm that finds it."""


@pytest.mark.parametrize("seed", MUTANTS, ids=lambda seed: MUTANTS[seed].name)
def test_the_storm_notices_when_a_receipt_is_not_heard(seed):
    assert judge(run(telling_plan_of(seed))) == []
    with MUTANTS[seed].applied():
        assert kinds_of(judge(run(telling_plan_of(seed)))) & {"untold", "unheard"}
