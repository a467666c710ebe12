"""A Celery application: tasks that enqueue, and a worker in each of its processes. Run as a program it calls a task."""

from __future__ import annotations

import os
import sys

import parts
from celery import Celery
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown

app = Celery("celery_app", broker=parts.BROKER_URL)
app.conf.task_default_queue = parts.PREFIX

# Composed when the module is imported: before a prefork pool forks.
queue, runner = parts.threads()


def start(**_):
    if os.environ["RUNNER"] == "background":
        runner.start()


def stop(**_):
    runner.stop()
    for part in (parts.poller, parts.notifier, queue):
        part.close()


if os.environ["POOL"] == "prefork":
    worker_process_init.connect(start)
    worker_process_shutdown.connect(stop)
else:
    worker_init.connect(start)
    worker_shutdown.connect(stop)


@app.task
def enqueue(job_id, user):
    queue.enqueue(job_id, conversation_id="c", metadata=parts.metadata(user))


@app.task
def batch():
    """What Celery beat calls every few seconds: a second batch may begin before the first has ended."""
    if os.environ["RUNNER"] == "batches":
        parts.Runner(queue, parts.poller, parts.notifier, **parts.fast).run_once()


if __name__ == "__main__":
    if sys.argv[1:]:
        enqueue.delay(*sys.argv[1:])
    else:
        batch.delay()
