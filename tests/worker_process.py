"""A worker in a process of its own, to be killed: `python worker_process.py '{"kind": "async", ...}'`.

With `crash_at` it kills itself, once, when a job comes to that point. With
`chaos` its waits are those of the chaos run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    DeliveryPolicy,
    LeasePolicy,
    PollingStrategy,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
    WhatsAppFactoryNotifier,
)


def spawn(**settings: Any) -> subprocess.Popen[bytes]:
    """Start a worker process; its log goes to this process's standard error."""
    log = settings.pop("log", None)
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), json.dumps(settings)], stderr=log, start_new_session=True
    )


def main(settings: dict[str, Any]) -> None:
    """Work until SIGTERM."""
    logging.basicConfig(level=settings.get("log_level", "ERROR"), format="%(asctime)s %(process)d %(message)s")
    poller = VideoApiPoller(base_url=settings["api_url"], api_key=settings["api_key"])
    line = {"instance_id": settings["instance"], "token": settings["token"]}
    notifier = RoutingNotifier.from_metadata(
        {
            "ultramsg": UltraMsgNotifier(base_url=settings["ultramsg_url"], **line),
            "whatsapp_factory": WhatsAppFactoryNotifier(base_url=settings["factory_url"], **line),
        }
    )
    options: dict[str, Any] = {
        "strategy": PollingStrategy(**settings["strategy"]),
        "delivery": DeliveryPolicy(**settings["delivery"]),
        "lease": LeasePolicy.lasting(settings["lease_s"]),
        "foreign_workers": settings.get("foreign_workers", False),
    }

    def crash(point: str, _job_id: str) -> None:
        if point == settings.get("crash_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    if settings["kind"] == "sync":
        queue = RedisVideoJobQueue.from_url(settings["url"], prefix=settings["prefix"])
        with queue, Runner(queue, poller, notifier, **options) as runner:
            runner.shop.probe = crash
            runner.run(handle_signals=True)
    else:

        async def work() -> None:
            queue = AsyncRedisVideoJobQueue.from_url(settings["url"], prefix=settings["prefix"])
            async with queue, AsyncRunner(queue, poller, notifier, **options) as runner:
                runner.shop.probe = crash
                await runner.run(handle_signals=True)

        asyncio.run(work())


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """End a worker process, however it is, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    process.wait(30)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
