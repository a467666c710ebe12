"""A process that dies loses nothing: its lease ends, another worker goes on, and nobody is told twice."""

from __future__ import annotations

import signal
import subprocess
import sys

from videopoll import RedisVideoJobQueue
from videopoll.jobs import JobState
from videopoll.testing import FakeUltraMsg, FakeVideoApi, wait_until

# A lease of a second, so that a dead worker's jobs are taken over soon; the default is twelve.
WORKER = """
import sys
from videopoll import (
    DeliveryPolicy, LeasePolicy, PollingStrategy, RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier,
    VideoApiPoller,
)
from videopoll.testing import die_at

redis_url, prefix, api_url, messenger_url, *point = sys.argv[1:]
line = UltraMsgNotifier(base_url=messenger_url, instance_id="instance1150", token="token")
with (
    RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue,
    Runner(
        queue,
        VideoApiPoller(base_url=api_url, api_key="key"),
        RoutingNotifier.from_metadata({"ultramsg": line}),
        strategy=PollingStrategy(initial_delay_s=0),
        lease=LeasePolicy.lasting(1.0),
        delivery=DeliveryPolicy(backoff_base_s=0.1, appear_within_s=0.5),
    ) as runner,
):
    if point:
        die_at(runner, point[0])
    runner.run(handle_signals=True)
"""


def test_a_worker_dies_between_the_send_and_its_note(redis_url, prefix):
    """The worst moment: the message is out, and nobody knows of it. UltraMsg can be asked whether it has it."""
    with (
        FakeVideoApi(api_key="key", ready_after_polls=0) as api,
        FakeUltraMsg(token="token", instance_id="instance1150") as messenger,
        RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue,
    ):
        maria = "5491155550001"
        queue.enqueue("job_1", conversation_id="maria", metadata={"channel": "ultramsg", "to": maria})
        worker = [sys.executable, "-c", WORKER, redis_url, prefix, api.url, messenger.url]

        dead = subprocess.run([*worker, "after_send"], timeout=60, check=False)
        assert dead.returncode == -signal.SIGKILL
        assert len(messenger.inbox(maria)) == 1
        assert queue.get("job_1").state is JobState.DELIVERING, "the dead worker still holds it"

        with subprocess.Popen(worker) as living:
            wait_until(lambda: queue.get("job_1").state is JobState.SETTLED, timeout_s=30, describe="it goes on")
            living.terminate()

        assert queue.get("job_1").delivered
        assert len(messenger.inbox(maria)) == 1
        assert living.returncode == 0
