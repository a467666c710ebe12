"""Tasks that order videos, and a worker of ours in each process of Celery's.

    pip install videopoll 'celery[redis]'
    cd examples/hosts
    celery -A celery_app worker --concurrency 2 &
    python -c 'import celery_app; celery_app.order_video.delay("job_1", "5491155550001")'

The tasks end at once: nobody waits in a task for a video.
"""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

app = Celery("celery_app", broker=os.environ.get("BROKER_URL", os.environ["REDIS_URL"]))

# Built before Celery forks its processes; connections are opened in each of them.
queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "celery-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
runner = Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg}), concurrency=4)


@app.task
def order_video(job_id: str, phone: str) -> None:
    queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})


@worker_process_init.connect
def start(**_: object) -> None:
    runner.start()


@worker_process_shutdown.connect
def stop(**_: object) -> None:
    with queue, runner:
        runner.stop()
