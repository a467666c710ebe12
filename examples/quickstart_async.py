"""The whole of videopoll with asyncio, on this machine alone: no Redis, no accounts and no network needed.

    pip install 'videopoll[embedded]'
    python examples/quickstart_async.py

The poller and the notifier are the same as in quickstart.py; only the queue and the runner are others.
"""

from __future__ import annotations

import asyncio

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    PollingStrategy,
    Recipient,
    RoutingNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
)
from videopoll.testing import EmbeddedRedis, FakeUltraMsg, FakeVideoApi, async_wait_until

PEOPLE = {"conversation-1": "5491155550001"}


async def recipient_of(conversation_id: str) -> Recipient:
    """Who gets the message? Under AsyncRunner it may be a coroutine function, or a plain one."""
    return Recipient(
        channel="ultramsg", to=PEOPLE[conversation_id], instance_id="instance1150", token="the-agents-token"
    )


async def main(redis_url: str, video_api: FakeVideoApi, ultramsg: FakeUltraMsg) -> None:
    poller = VideoApiPoller(base_url=video_api.url, api_key="the-api-key")
    notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=ultramsg.url)}, resolve=recipient_of)
    # The defaults poll after 5 s and then every 10 s.
    strategy = PollingStrategy(interval_s=0.5, timeout_s=20, initial_delay_s=0.2)

    async with (
        AsyncRedisVideoJobQueue.from_url(redis_url) as queue,
        AsyncRunner(queue, poller, notifier, strategy=strategy) as runner,
    ):
        runner.start()  # in a process of its own: await runner.run(handle_signals=True)

        await queue.enqueue("job_1757157518747_grhexcfhk", conversation_id="conversation-1", metadata={"version": 2})

        (message,) = await async_wait_until(
            lambda: ultramsg.inbox(PEOPLE["conversation-1"]), describe="the video arrives"
        )

    print(f"The user received a {message.kind}: {message.text}")
    print(message.video)


# In production: your Redis, the video API, and UltraMsg.
with (
    EmbeddedRedis() as server,
    FakeVideoApi(api_key="the-api-key", ready_after_s=2) as fake_video_api,
    FakeUltraMsg(token="the-agents-token") as fake_ultramsg,
):
    asyncio.run(main(server.url, fake_video_api, fake_ultramsg))
