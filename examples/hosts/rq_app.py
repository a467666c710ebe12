"""RQ: one job orders a video, and a job that comes back every few seconds does a batch.

    pip install videopoll rq
    cd examples/hosts
    python rq_app.py job_1 5491155550001
    rq worker --url $REDIS_URL --with-scheduler

RQ forks a process for each job, and its threads end with it: `run_once()` is what works there, not `start()`.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import redis
from rq import Queue

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

EVERY_S = 2

queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "rq-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
runner = Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg}))


def rq_queue() -> Queue:
    return Queue(connection=redis.Redis.from_url(os.environ.get("BROKER_URL", os.environ["REDIS_URL"])))


def order_video(job_id: str, phone: str) -> None:
    queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})
    rq_queue().enqueue("rq_app.work")


def work() -> None:
    while runner.run_once().claimed:
        pass
    if queue.counts().pending:
        rq_queue().enqueue_in(timedelta(seconds=EVERY_S), "rq_app.work")


if __name__ == "__main__":
    rq_queue().enqueue("rq_app.order_video", *sys.argv[1:3])
