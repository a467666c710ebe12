"""docket: a poll is `Perpetual`, which puts itself back for an interval, until it finds a video."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from common import Scenario, client_of, run, scenario, tell_ready
from docket import Docket, Perpetual, Worker


async def main(scene: Scenario) -> None:
    client = client_of(scene)
    interval = timedelta(seconds=scene.interval_s)

    async def poll(job_id: str, perpetual: Perpetual = Perpetual(every=interval)) -> None:  # noqa: B008 - docket's way
        url = await client.ask(job_id)
        if url is not None:
            perpetual.cancel()
            await client.send(url)

    # Its default of 100 connections ends the worker with 400 tasks at a time.
    url = f"{scene.redis_url}?max_connections={4 * scene.concurrency}"
    async with Docket(name="benchmark", url=url, execution_ttl=timedelta(0)) as docket:
        docket.register(poll)
        ids = scene.job_ids()
        now = datetime.now(UTC)
        for number, job_id in enumerate(ids):
            await docket.add(poll, when=now + interval * number / len(ids), key=job_id)(job_id)
        async with Worker(docket, concurrency=scene.concurrency) as worker:
            tell_ready()
            await worker.run_forever()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
