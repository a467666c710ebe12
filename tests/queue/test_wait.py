"""Waiting for a result without a messenger."""

from __future__ import annotations

import threading
import time

import pytest

from videopoll import AsyncRedisVideoJobQueue, OutcomeKind, RedisVideoJobQueue, SilentNotifier
from videopoll.errors import JobNotFoundError
from videopoll.testing import Reply


@pytest.fixture
def queue(kind, call, redis_url, prefix):
    """A queue of either kind."""
    twin = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    queue = twin.from_url(redis_url, prefix=prefix)
    yield queue
    call(queue.close())


def test_a_host_gets_the_outcome_as_soon_as_it_is_known(world, queue, call):
    """Well before the next look at the keys: the end of the polling is published."""
    world.api.job("job_1", Reply.completed("https://files.example/1.mp4"))
    call(queue.enqueue("job_1", conversation_id="c"))

    with world.worker(notifier=SilentNotifier()):
        outcome = call(queue.wait("job_1", timeout_s=10))

    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.video_url == "https://files.example/1.mp4"


def test_the_outcome_of_a_job_that_has_ended_is_there_at_once(world, queue, call):
    """The audit trail tells it, for two hours."""
    world.api.job("job_1", Reply.failed("no"))
    call(queue.enqueue("job_1", conversation_id="c"))
    with world.worker(notifier=SilentNotifier()):
        call(queue.wait("job_1", timeout_s=10))

    outcome = call(queue.wait("job_1", timeout_s=0))

    assert outcome.kind is OutcomeKind.FAILED


def test_an_unknown_job_is_told_instead_of_waited_for(queue, call):
    """A typing error in an id must not hang a request."""
    with pytest.raises(JobNotFoundError, match="job_1 is not known"):
        call(queue.wait("job_1", timeout_s=10))


def test_a_wait_that_is_over_gives_none(queue, call):
    """The job goes on; the host may wait again."""
    call(queue.enqueue("job_1", conversation_id="c"))

    assert call(queue.wait("job_1", timeout_s=0.05)) is None


def test_a_cancelled_job_ends_the_wait(kind, queue, call, redis_url, prefix):
    """Whoever waits hears of every end."""
    call(queue.enqueue("job_1", conversation_id="c"))
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as other:
        canceller = threading.Timer(0.3, lambda: other.cancel("job_1"))
        canceller.start()
        started_s = time.monotonic()
        outcome = call(queue.wait("job_1", timeout_s=10))
        canceller.join()

    assert outcome.kind is OutcomeKind.CANCELLED
    assert time.monotonic() - started_s < 5
