"""videopoll with asyncio: `AsyncRunner`, with the poller and the notifier as the README composes them."""

from __future__ import annotations

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
from videopoll.video_api import ApiDescription, Certainty, HttpVideoPoller, Meaning

DESCRIBED = ApiDescription(
    name="benchmark",
    base_url=None,
    poll="{base}/job/{id}",
    auth_header="X-API-Key",
    auth_prefix="",
    id="jobId",
    words={"processing": Meaning.WORKING, "completed": Meaning.DONE},
    video="videoUrl",
    source="world.py",
    checked="2026-11-29",
    certainty=Certainty.READ,
)
"""The same API as that of `VideoApiPoller`, as far as the benchmark goes, as data."""


async def recipient_of(conversation_id: str) -> Recipient:
    return Recipient(channel="ultramsg", to="5491155550001", instance_id="instance1150", token="a-token")


def strategy_of(scene: Scenario) -> PollingStrategy:
    """Poll for as long as the benchmark lasts."""
    delay_s = scene.options.get("initial_delay_s", 0.0)
    return PollingStrategy(interval_s=scene.interval_s, initial_delay_s=delay_s, timeout_s=590, max_attempts=1_000_000)


def poller_of(scene: Scenario) -> VideoApiPoller | HttpVideoPoller:
    """Give the poller over the transport that the scenario asks for."""
    if scene.transport == "httpx-aiohttp":
        import httpx
        from httpx_aiohttp import AiohttpTransport

        limits = httpx.Limits(max_connections=scene.concurrency, keepalive_expiry=30)
        client = httpx.AsyncClient(transport=AiohttpTransport(limits=limits))
        return VideoApiPoller(base_url=scene.world_url, api_key="a-key", async_client=client)
    transport = "aiohttp" if scene.transport == "aiohttp" else "httpx"
    if scene.described:
        return HttpVideoPoller(
            DESCRIBED,
            base_url=scene.world_url,
            api_key="a-key",
            transport=transport,
            max_connections=scene.concurrency,
        )
    return VideoApiPoller(
        base_url=scene.world_url, api_key="a-key", transport=transport, max_connections=scene.concurrency
    )


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
            delivery_concurrency=scene.concurrency if scene.options.get("equal_places") else None,
        ) as runner,
    ):
        await queue.enqueue_many((job_id, f"conversation-{job_id}", {}) for job_id in scene.job_ids())
        tell_ready()
        await runner.run()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
