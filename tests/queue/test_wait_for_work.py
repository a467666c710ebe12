"""Wait for work: an idle worker sleeps until an id comes in."""

from __future__ import annotations

import threading
import time

import redis

from kit import until
from kit.bench import decoded
from videopoll import (
    RedisVideoJobQueue,
)


def test_waiting_takes_nothing_away(bench):
    """Every id is claimed by a script, never popped into a worker's memory."""
    assert bench.call(bench.queue.wait_for_work(0.01)) is False
    bench.enqueue("job_1")
    bench.enqueue("job_2")
    assert bench.call(bench.queue.wait_for_work(5)) is True
    assert decoded(bench.db.lrange(bench.keys.queue, 0, -1)) == ["job_2", "job_1"]


def test_an_idle_worker_wakes_for_a_new_id(bench):
    """Within milliseconds, not at the next look."""
    woken: list[bool] = []
    waiting = bench.another() if bench.kind == "sync" else None
    other = RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix)

    def push_when_blocked() -> None:
        until(lambda: bench.db.info("clients")["blocked_clients"], "somebody waits")
        other.enqueue("job_1", conversation_id="c")

    with other:
        helper = threading.Thread(target=push_when_blocked)
        helper.start()
        started_s = time.monotonic()
        woken.append(bench.call((waiting or bench.queue).wait_for_work(30)))
        helper.join()
    assert woken == [True]
    assert time.monotonic() - started_s < 10


def test_an_interrupted_wait_ends_at_once(redis_url, prefix):
    """A deployment that stops does not sit out a blocking read."""
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue, redis.Redis.from_url(redis_url) as db:
        answers: list[bool] = []
        waiting = threading.Thread(target=lambda: answers.append(queue.wait_for_work(30)))
        waiting.start()
        until(lambda: db.info("clients")["blocked_clients"], "it waits")
        queue.interrupt()
        waiting.join(2)
        assert answers == [False]
        assert queue.wait_for_work(30) is False
        queue.resume()
        assert queue.wait_for_work(0.01) is False
