"""arq: a job that orders a video, and a worker of ours from the start of arq's worker to its end.

pip install videopoll arq
cd examples/hosts
arq arq_app.WorkerSettings &
python arq_app.py job_1 5491155550001
"""

from __future__ import annotations

import asyncio
import os
import sys

from arq import create_pool
from arq.connections import RedisSettings

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, RoutingNotifier, UltraMsgNotifier, VideoApiPoller

queue = AsyncRedisVideoJobQueue.from_url(os.environ["REDIS_URL"], prefix=os.environ.get("PREFIX", "arq-videos"))
poller = VideoApiPoller(base_url=os.environ["VIDEO_API_URL"], api_key=os.environ["VIDEO_API_KEY"])
ultramsg = UltraMsgNotifier(
    base_url=os.environ["ULTRAMSG_URL"], instance_id=os.environ["ULTRAMSG_INSTANCE"], token=os.environ["ULTRAMSG_TOKEN"]
)
runner = AsyncRunner(queue, poller, RoutingNotifier.from_metadata({"ultramsg": ultramsg}))


async def order_video(ctx: dict[str, object], job_id: str, phone: str) -> None:
    await queue.enqueue(job_id, conversation_id=phone, metadata={"channel": "ultramsg", "to": phone})


async def on_startup(ctx: dict[str, object]) -> None:
    runner.start()


async def on_shutdown(ctx: dict[str, object]) -> None:
    async with queue, runner:
        await runner.stop()


class WorkerSettings:
    functions = (order_video,)
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = RedisSettings.from_dsn(os.environ.get("BROKER_URL", os.environ["REDIS_URL"]))


async def main() -> None:
    pool = await create_pool(WorkerSettings.redis_settings)
    await pool.enqueue_job("order_video", *sys.argv[1:3])
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
