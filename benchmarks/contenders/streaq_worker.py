"""streaq: a poll that finds no video raises `StreaqRetry`, which puts the task back for an interval."""

from __future__ import annotations

from common import Scenario, client_of, run, scenario, tell_ready
from streaq import Worker
from streaq.types import StreaqRetry


async def main(scene: Scenario) -> None:
    worker = Worker(redis_url=scene.redis_url, concurrency=scene.concurrency, handle_signals=False)
    client = client_of(scene)

    @worker.task(max_tries=None, ttl=0, silent=True)
    async def poll(job_id: str) -> None:
        url = await client.ask(job_id)
        if url is None:
            raise StreaqRetry("not yet", delay=scene.interval_s)
        await client.send(url)

    ids = scene.job_ids()
    async with worker:
        tasks = [
            poll.enqueue(job_id).start(delay=scene.interval_s * (1 + number) / len(ids))
            for number, job_id in enumerate(ids)
        ]
        for first in range(0, len(tasks), 500):
            await worker.enqueue_many(tasks[first : first + 500])
    tell_ready()
    await worker.run_async()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
