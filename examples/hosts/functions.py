"""Functions that are called, answer, and are frozen until the next call, as on AWS Lambda.

`order` is behind a URL; `work` is called by a timer, every 10 s or every minute. Neither leaves anything running:
a thread that is frozen in the middle of a poll would wake up minutes later, with its lease gone.

    pip install videopoll
    cd examples/hosts
    python -c 'import functions; print(functions.order({"job": "job_1", "phone": "5491155550001"}, None))'
    python -c 'import functions; print(functions.work({}, None))'
"""

from __future__ import annotations

import os
import time
from typing import Any

from videopoll import QueueError, RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

# Once per instance of the function, not per call: the connections are used again. One that was closed
# while the instance was frozen is replaced.
queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "lambda-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
runner = Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg}), concurrency=8)

LONGEST_BATCH_S = 120.0
"""One batch may take as long as a request of a poll and a send of a video."""


def order(event: dict[str, str], context: Any) -> dict[str, Any]:
    phone = event["phone"]
    try:
        result = queue.enqueue(event["job"], conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})
    except QueueError:
        return {"statusCode": 503}
    return {"statusCode": 202, "body": result.value}


def work(event: dict[str, Any], context: Any) -> dict[str, int]:
    # No new batch begins that might be cut off. If one is all the same, its leases run out and the next call goes on.
    left_s = context.get_remaining_time_in_millis() / 1000 if context else 900
    until_s = time.monotonic() + left_s - LONGEST_BATCH_S
    polls = delivered = 0
    while (done := runner.run_once()).claimed:
        polls, delivered = polls + done.polls, delivered + done.delivered
        if time.monotonic() > until_s:
            break
    return {"polls": polls, "delivered": delivered}
