"""An RQ worker that has imported its jobs before it forks a work horse for each. Run as a program it works until it has none."""

from __future__ import annotations

import sys

import parts
import redis
from rq import Queue, Worker

queue, runner = parts.threads()


def enqueue(job_id, user):
    queue.enqueue(job_id, conversation_id="c", metadata=parts.metadata(user))


def batch():
    while (view := queue.get(sys.argv[1])) is None or view.outcome is None or not view.delivered:
        runner.run_once()


if __name__ == "__main__":
    import rq_app

    # A connection that is open when the work horse is forked.
    rq_app.queue.counts()
    connection = redis.Redis.from_url(parts.BROKER_URL)
    jobs = Queue(parts.PREFIX, connection=connection)
    jobs.enqueue(rq_app.enqueue, *sys.argv[1:])
    jobs.enqueue(rq_app.batch)
    Worker([jobs], connection=connection).work(burst=True)
    print(*(jobs.fetch_job(one).get_status().value for one in jobs.finished_job_registry.get_job_ids()))
