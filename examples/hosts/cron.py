"""A program that cron starts and that ends: it does all that is due, and no more.

    pip install videopoll
    * * * * *  cd /srv/app && for n in 1 2 3 4 5 6; do python examples/hosts/cron.py; sleep 10; done

Two at once do no harm: each job is in the hands of one of them. One that is killed is made up for by the next,
when the leases of its jobs have run out.
"""

from __future__ import annotations

import os
import sys

from videopoll import QueueError, RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier, VideoApiPoller

queue = RedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "cron-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)

with queue, Runner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg})) as runner:
    polls = delivered = 0
    try:
        while (done := runner.run_once()).claimed:
            polls, delivered = polls + done.polls, delivered + done.delivered
    except QueueError as error:
        # The next run goes on.
        sys.exit(f"Redis: {error}")
    print(f"{polls} polls, {delivered} delivered, {queue.counts().pending} still waiting")
