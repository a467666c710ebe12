"""Draining: waiting until nothing is pending."""

from __future__ import annotations

import threading
import time

import pytest

from videopoll import RedisVideoJobQueue
from videopoll.errors import QueueUnavailableError
from videopoll.jobs.transition import Conclude
from videopoll.queue import operations
from videopoll.testing import unused_port


def test_a_queue_without_jobs_is_drained_at_once(bench):
    began_s = time.monotonic()

    counts = bench.call(bench.queue.drain(timeout_s=30))

    assert counts.pending == 0
    assert time.monotonic() - began_s < 5


def test_a_drain_comes_back_when_the_last_job_has_ended(bench, monkeypatch):
    monkeypatch.setattr(operations, "LOOK_EVERY_S", 0.05)
    bench.enqueue("job_1")
    counts, looked = operations.Operations.counts, threading.Event()

    def look(one):
        looked.set()
        return counts(one)

    monkeypatch.setattr(operations.Operations, "counts", look)

    def cancel():
        looked.wait(10)
        with RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix) as other:
            other.cancel("job_1")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    counts = bench.call(bench.queue.drain(timeout_s=30))
    canceller.join(10)

    assert counts.pending == 0


def test_a_drain_ends_with_its_time_and_says_what_is_left(bench):
    bench.bury("job_1")
    claim = bench.one("job_2")
    bench.apply(Conclude(claim, bench.entry(claim), 600, 60_000))
    bench.enqueue("job_3")

    counts = bench.call(bench.queue.drain(timeout_s=0))

    assert (counts.pending, counts.queued, counts.dead) == (2, 1, 1), "a dead letter is over"


def test_an_outage_is_waited_out_but_not_beyond_the_time(bench):
    queue = bench.another(f"redis://127.0.0.1:{unused_port()}/0")
    began_s = time.monotonic()

    with pytest.raises(QueueUnavailableError):
        bench.call(queue.drain(timeout_s=0.3))

    assert time.monotonic() - began_s >= 0.3
