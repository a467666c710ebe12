"""An arq worker that runs a worker of ours from its start to its end. Run as a program it enqueues a job of arq's."""

from __future__ import annotations

import asyncio
import sys

import parts
from arq import create_pool
from arq.connections import RedisSettings


async def on_startup(ctx):
    ctx["queue"], ctx["runner"] = parts.tasks()
    ctx["runner"].start()


async def on_shutdown(ctx):
    await ctx["runner"].stop()
    await parts.poller.aclose()
    await parts.notifier.aclose()
    await ctx["queue"].close()


async def enqueue(ctx, job_id, user):
    await ctx["queue"].enqueue(job_id, conversation_id="c", metadata=parts.metadata(user))


class WorkerSettings:
    functions = (enqueue,)
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = RedisSettings.from_dsn(parts.BROKER_URL)
    queue_name = parts.PREFIX


async def main():
    pool = await create_pool(WorkerSettings.redis_settings, default_queue_name=WorkerSettings.queue_name)
    await pool.enqueue_job("enqueue", *sys.argv[1:])
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
