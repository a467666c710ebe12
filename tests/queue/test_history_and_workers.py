"""What a queue tells of its jobs' history and its workers, where workers keep a history."""

from __future__ import annotations

import pytest

from kit import until
from videopoll import events
from videopoll.errors import QueueUnavailableError
from videopoll.jobs import HistoryEvent
from videopoll.queue.history import RedisHistory
from videopoll.testing import unused_port
from videopoll.worker import Health


class Runner:
    """What a heartbeat is read from."""

    worker_id = "video_worker_1"
    concurrency = 16
    polls_in_hand = 3
    sends_in_hand = 1

    def health(self) -> Health:
        """Be well."""
        return Health(healthy=True)


@pytest.fixture
def hook(redis_url, prefix):
    with RedisHistory(redis_url, prefix=prefix) as hook:
        yield hook


def test_the_history_of_one_job_and_of_all(bench, hook):
    for job_id in ("job_1", "job_2"):
        hook(events.JobEnqueued(job_id=job_id, conversation_id="c"))
    hook(events.JobCancelled(job_id="job_1"))
    hook.close()

    of_one = bench.call(bench.queue.history("job_1"))
    of_all = bench.call(bench.queue.history())

    assert [entry.event for entry in of_one] == [HistoryEvent.ENQUEUED, HistoryEvent.CANCELLED]
    assert [(entry.job_id, entry.event) for entry in of_all] == [
        ("job_1", HistoryEvent.ENQUEUED),
        ("job_2", HistoryEvent.ENQUEUED),
        ("job_1", HistoryEvent.CANCELLED),
    ]
    assert bench.call(bench.queue.history(limit=1)) == of_all[-1:]
    assert bench.call(bench.queue.history("job_1", limit=1)) == of_one[-1:]
    assert bench.call(bench.queue.history("job_3")) == ()


def test_the_workers_that_are_there(bench, hook):
    assert bench.call(bench.queue.workers()) == ()
    hook.follow(Runner())

    (worker,) = until(lambda: bench.call(bench.queue.workers()), "it beats")

    assert (worker.worker_id, worker.alive, worker.polls_in_hand, worker.problems) == ("video_worker_1", True, 3, ())


def test_an_absent_redis_is_told(bench):
    queue = bench.another(f"redis://127.0.0.1:{unused_port()}/0")

    with pytest.raises(QueueUnavailableError, match=r"^reading the history: cannot reach"):
        bench.call(queue.history())
    with pytest.raises(QueueUnavailableError, match=r"^reading the workers: cannot reach"):
        bench.call(queue.workers())
