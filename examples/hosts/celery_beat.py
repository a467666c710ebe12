"""No worker that runs all the time: Celery's beat does a batch of polls and sends every few seconds.

    pip install videopoll 'celery[redis]'
    cd examples/hosts
    celery -A celery_beat worker --beat &
    python -c 'import celery_beat; celery_beat.order_video.delay("job_1", "5491155550001")'

What one batch began is finished when it ends. A job is polled as often as beat comes round.
"""

from __future__ import annotations

import os

from celery import Celery

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

EVERY_S = 5.0

app = Celery("celery_beat", broker=os.environ.get("BROKER_URL", os.environ["REDIS_URL"]))
# A batch that has waited for longer than this in Celery's own queue is not needed any more: the next one is there.
app.conf.beat_schedule = {
    "videos": {"task": "celery_beat.work", "schedule": EVERY_S, "options": {"expires": EVERY_S}},
}

queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "beat-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
runner = Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg}))


@app.task
def order_video(job_id: str, phone: str) -> None:
    queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})


@app.task(ignore_result=True)
def work() -> None:
    while runner.run_once().claimed:
        pass
