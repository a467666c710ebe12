"""arq: a poll that finds no video raises `Retry`, which puts the job back for an interval."""

from __future__ import annotations

from arq import Retry, Worker, func
from arq.connections import RedisSettings, create_pool
from common import Scenario, client_of, run, scenario, tell_ready


async def main(scene: Scenario) -> None:
    client = client_of(scene)

    async def poll(_ctx: dict, job_id: str) -> None:
        url = await client.ask(job_id)
        if url is None:
            raise Retry(defer=scene.interval_s)
        await client.send(url)

    settings = RedisSettings.from_dsn(scene.redis_url)
    pool = await create_pool(settings)
    ids = scene.job_ids()
    for number, job_id in enumerate(ids):
        await pool.enqueue_job("poll", job_id, _job_id=job_id, _defer_by=scene.interval_s * number / len(ids))
    worker = Worker(
        functions=[func(poll, name="poll", max_tries=1_000_000, keep_result=0)],
        redis_pool=pool,
        max_jobs=scene.concurrency,
        max_tries=1_000_000,
        keep_result=0,
        # A tuned user's: with the default of 0.5 s a place waits for as long as ten polls take.
        poll_delay=0.05,
        handle_signals=False,
    )
    tell_ready()
    await worker.async_run()


if __name__ == "__main__":
    scene = scenario()
    run(main(scene), scene.loop)
