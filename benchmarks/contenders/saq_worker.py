"""saq: a poll that finds no video enqueues the next one, an interval later.

Its own retry would do as well, and would log a traceback for each poll.
"""

from __future__ import annotations

import time

from common import Scenario, client_of, run, scenario, tell_ready
from saq import Queue, Worker


async def main(scene: Scenario) -> None:
    client = client_of(scene)
    queue = Queue.from_url(scene.redis_url)
    await queue.connect()

    async def poll(_ctx: dict, *, job_id: str) -> None:
        url = await client.ask(job_id)
        if url is None:
            await queue.enqueue("poll", job_id=job_id, ttl=-1, scheduled=time.time() + scene.interval_s)
        else:
            await client.send(url)

    ids = scene.job_ids()
    now_s = time.time()
    for number, job_id in enumerate(ids):
        due_s = now_s + scene.interval_s * number / len(ids)
        await queue.enqueue("poll", job_id=job_id, ttl=-1, scheduled=due_s)
    worker = Worker(queue, functions=[("poll", poll)], concurrency=scene.concurrency)
    tell_ready()
    await worker.start()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
