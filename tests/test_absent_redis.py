"""An absent Redis is no dead holder: whoever has a message out keeps its job through an outage, and tells its user once.

Redis goes away, stands still or has its clock moved while messages are on their
way. When it is back, every lease has ended. Those who hold them live, and say so
before anybody takes anything over, also from themselves.
"""

from __future__ import annotations

import attrs
import pytest

from kit import QUICK, until
from trouble import at_least, jobs
from videopoll import LeasePolicy, OnUnknown, events
from videopoll.testing import Reply

SENDS = 8
AWAY_S = 2.5
"""Twice as long as a lease lasts, and longer than a worker waits for an answer."""

LOADING = "LOADING Redis is loading the dataset in memory"


def sends_on_their_way(trouble, takes_s=0.6, **options):
    """Start a worker with places to spare, and wait until its requests are out, and not answered yet."""
    trouble.world.factory.fail_every(1, Reply.slow(takes_s))
    trouble.enqueue(*jobs(SENDS))
    worker = trouble.worker(delivery_concurrency=3 * SENDS, **options).start()
    until(lambda: len(trouble.world.factory.requests) == SENDS, "all sends are on their way")
    return worker


def sit_out(trouble, how: str, seconds: float = AWAY_S) -> None:
    """Have Redis away for longer than leases last."""
    make, end = {
        "stands still": (trouble.server.pause, trouble.server.resume),
        "refuses": (trouble.proxy.refuse, trouble.proxy.accept),
        "answers nothing": (trouble.proxy.mute, trouble.proxy.heal),
        "is restarted": (trouble.server.kill, trouble.server.start),
    }[how]
    with at_least(seconds):
        make()
    end()


@pytest.mark.parametrize("policy", list(OnUnknown))
@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_receipts_in_memory_while_redis_is_away_are_written_before_anything_is_claimed(trouble, how, policy):
    """Redis loads for a moment yet, as after a restart: the settlements must not be overtaken by claims."""
    delivery = attrs.evolve(QUICK, on_unknown=policy)
    worker = sends_on_their_way(trouble, delivery=delivery)
    for script in ("settle", "renew"):
        trouble.proxy.answer(script, LOADING, times=6)
    sit_out(trouble, how)
    trouble.all_told_once(worker)
    worker.stop()

    assert len(worker.recorder.of(events.JobDelivered)) == SENDS


@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_messages_that_are_out_when_redis_comes_back_are_not_sent_again_by_the_same_worker(trouble, how):
    """Their leases have ended, and the worker has places left: what is in its own hands it does not take over."""
    worker = sends_on_their_way(trouble, takes_s=AWAY_S + 1)
    trouble.proxy.answer("renew", LOADING, times=6)
    sit_out(trouble, how)
    trouble.all_told_once(worker)


@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_others_give_the_holders_time_to_renew_when_redis_is_back(trouble, how):
    """Workers without anything in hand have nothing to write first: they might be faster than the holder."""
    lease = LeasePolicy.lasting(3.0)
    worker = sends_on_their_way(trouble, takes_s=1.0, lease=lease)
    others = [trouble.worker(delivery_concurrency=SENDS, lease=lease).start() for _ in range(2)]
    sit_out(trouble, how, lease.duration_s + 1)
    trouble.all_told_once(worker)

    for one in [worker, *others]:
        assert not one.recorder.of(events.JobUndeliverable)
        assert not one.recorder.of(events.LeaseLost)
