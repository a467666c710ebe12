"""videopoll with threads: `Runner`, with the poller and the notifier as the README composes them."""

from __future__ import annotations

from common import Scenario, scenario, tell_ready
from videopoll_async import poller_of, strategy_of

from videopoll import Recipient, RedisVideoJobQueue, RoutingNotifier, Runner, UltraMsgNotifier


def recipient_of(conversation_id: str) -> Recipient:
    return Recipient(channel="ultramsg", to="5491155550001", instance_id="instance1150", token="a-token")


def main(scene: Scenario) -> None:
    notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=scene.world_url)}, resolve=recipient_of)
    with (
        RedisVideoJobQueue.from_url(scene.redis_url) as queue,
        Runner(queue, poller_of(scene), notifier, strategy=strategy_of(scene), concurrency=scene.concurrency) as runner,
    ):
        queue.enqueue_many((job_id, f"conversation-{job_id}", {}) for job_id in scene.job_ids())
        tell_ready()
        runner.run()


if __name__ == "__main__":
    main(scenario())
