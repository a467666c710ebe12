"""The bare client: as many loops as there may be polls at a time, each asking about one job after the other.

No queue, no schedule, no delivery: what a worker on this transport could reach
if all else cost nothing. `videopoll` as the transport is videopoll's own poller.
"""

from __future__ import annotations

import asyncio
import itertools

from common import Scenario, client_of, run, scenario, tell_ready


async def main(scene: Scenario) -> None:
    ids = itertools.cycle(scene.job_ids())
    if scene.transport.startswith("videopoll"):
        import attrs

        from videopoll import VideoApiPoller, VideoJob

        transport = "aiohttp" if scene.transport == "videopoll-fast" else "httpx"
        poller = VideoApiPoller(
            base_url=scene.world_url, api_key="k", transport=transport, max_connections=scene.concurrency
        )
        template = VideoJob("job", "conversation", 1_757_157_518_747)

        async def ask(job_id: str) -> object:
            return await poller.apoll(attrs.evolve(template, job_id=job_id), timeout_s=15)
    else:
        ask = client_of(scene).ask

    async def loop() -> None:
        while True:
            await ask(next(ids))

    tell_ready()
    await asyncio.gather(*(loop() for _ in range(scene.concurrency)))


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
