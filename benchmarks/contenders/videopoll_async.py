"""videopoll with asyncio: `AsyncRunner`, with the poller and the notifier as the README composes them."""

from __future__ import annotations

import asyncio
import time

from common import Scenario, run, scenario, tell_ready

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    PollingStrategy,
    Recipient,
    RoutingNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
)


async def recipient_of(conversation_id: str) -> Recipient:
    return Recipient(channel="ultramsg", to="5491155550001", instance_id="instance1150", token="a-token")


def strategy_of(scene: Scenario) -> PollingStrategy:
    """Poll for as long as the benchmark lasts."""
    delay_s = scene.options.get("initial_delay_s", 0.0)
    return PollingStrategy(interval_s=scene.interval_s, initial_delay_s=delay_s, timeout_s=590, max_attempts=1_000_000)


def poller_of(scene: Scenario) -> VideoApiPoller:
    """Give the poller over the transport that the scenario asks for."""
    if scene.transport == "httpx-aiohttp":
        import httpx
        from httpx_aiohttp import AiohttpTransport

        limits = httpx.Limits(max_connections=scene.concurrency, keepalive_expiry=30)
        client = httpx.AsyncClient(transport=AiohttpTransport(limits=limits))
        return VideoApiPoller(base_url=scene.world_url, api_key="a-key", async_client=client)
    transport = "aiohttp" if scene.transport == "aiohttp" else "httpx"
    return VideoApiPoller(
        base_url=scene.world_url, api_key="a-key", transport=transport, max_connections=scene.concurrency
    )


async def enqueue(queue: AsyncRedisVideoJobQueue, scene: Scenario) -> None:
    """Take the jobs in; spread evenly over an interval if the scenario says so, a few every 10 ms."""
    ids = scene.job_ids()
    spread_s = scene.options.get("spread_s", 0.0)
    size = max(1, round(len(ids) * 0.01 / spread_s)) if spread_s else 1000
    began_s = time.monotonic()
    for first in range(0, len(ids), size):
        await queue.enqueue_many((job_id, f"conversation-{job_id}", {}) for job_id in ids[first : first + size])
        await asyncio.sleep(max(0.0, began_s + spread_s * first / len(ids) - time.monotonic()))


async def main(scene: Scenario) -> None:
    notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=scene.world_url)}, resolve=recipient_of)
    async with (
        AsyncRedisVideoJobQueue.from_url(scene.redis_url) as queue,
        AsyncRunner(
            queue,
            poller_of(scene),
            notifier,
            strategy=strategy_of(scene),
            concurrency=scene.concurrency,
        ) as runner,
    ):
        if scene.options.get("spread_s"):
            # Jobs come in while the worker works.
            runner.start()
        await enqueue(queue, scene)
        runner.start()
        tell_ready()
        await asyncio.Event().wait()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
