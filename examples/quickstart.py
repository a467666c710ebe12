"""The whole of videopoll with threads, on this machine alone: no Redis, no accounts and no network needed.

pip install 'videopoll[embedded]'
python examples/quickstart.py
"""

from __future__ import annotations

from videopoll import (
    PollingStrategy,
    Recipient,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
)
from videopoll.testing import EmbeddedRedis, FakeUltraMsg, FakeVideoApi, wait_until

PEOPLE = {"conversation-1": "5491155550001"}


def recipient_of(conversation_id: str) -> Recipient:
    """Who gets the message? This is your database's part; it is asked when a message is about to be sent."""
    return Recipient(
        channel="ultramsg", to=PEOPLE[conversation_id], instance_id="instance1150", token="the-agents-token"
    )


with (
    # In production: your Redis, the video API, and UltraMsg.
    EmbeddedRedis() as server,
    FakeVideoApi(api_key="the-api-key", ready_after_s=2) as video_api,
    FakeUltraMsg(token="the-agents-token") as ultramsg,
):
    poller = VideoApiPoller(base_url=video_api.url, api_key="the-api-key")
    notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=ultramsg.url)}, resolve=recipient_of)
    # The defaults poll after 5 s and then every 10 s.
    strategy = PollingStrategy(interval_s=0.5, timeout_s=20, initial_delay_s=0.2)

    with (
        RedisVideoJobQueue.from_url(server.url) as queue,
        Runner(queue, poller, notifier, strategy=strategy) as runner,
    ):
        runner.start()  # in a process of its own: runner.run(handle_signals=True)

        queue.enqueue("job_1757157518747_grhexcfhk", conversation_id="conversation-1", metadata={"version": 2})

        (message,) = wait_until(lambda: ultramsg.inbox(PEOPLE["conversation-1"]), describe="the video arrives")

print(f"The user received a {message.kind}: {message.text}")
print(message.video)
