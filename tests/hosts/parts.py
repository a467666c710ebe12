"""What every host of these programs composes: the queue, the poller and the notifier, with what its environment says."""

from __future__ import annotations

import os

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    DeliveryPolicy,
    PollingStrategy,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
)

REDIS_URL, PREFIX = os.environ["REDIS_URL"], os.environ["PREFIX"]
BROKER_URL = os.environ["BROKER_URL"]
"""Where a task queue of the host has its own keys."""

poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
notifier = RoutingNotifier.from_metadata(
    {
        "ultramsg": UltraMsgNotifier(
            base_url=os.environ["ULTRAMSG_URL"], instance_id="instance1150", token=os.environ["ULTRAMSG_TOKEN"]
        )
    }
)
fast = {
    "strategy": PollingStrategy(interval_s=0.2, initial_delay_s=0.05, timeout_s=60.0),
    "delivery": DeliveryPolicy(appear_within_s=0.5),
    "concurrency": 2,
    "delivery_concurrency": 2,
    "grace_s": 3.0,
}


def threads() -> tuple[RedisVideoJobQueue, Runner]:
    queue = RedisVideoJobQueue.from_url(REDIS_URL, prefix=PREFIX)
    return queue, Runner(queue, poller, notifier, **fast)


def tasks() -> tuple[AsyncRedisVideoJobQueue, AsyncRunner]:
    queue = AsyncRedisVideoJobQueue.from_url(REDIS_URL, prefix=PREFIX)
    return queue, AsyncRunner(queue, poller, notifier, **fast)


def metadata(user: str) -> dict[str, str]:
    return {"channel": "ultramsg", "to": user}
