"""A service of your own that does something else, with the worker in its background.

    pip install videopoll
    echo 'job_1 5491155550001' | python examples/hosts/plain_thread.py

It reads orders from its input, a job and a phone number a line, and ends when all of them have their video.
"""

from __future__ import annotations

import os
import sys

from videopoll import RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "service"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)

with queue, Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg})) as runner:
    runner.start()
    for line in sys.stdin:
        job_id, phone = line.split()
        result = queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})
        print(f"{job_id}: {result}", flush=True)
    left = queue.drain(timeout_s=600).pending
    print("all are done" if not left else f"{left} are left for the next run")
