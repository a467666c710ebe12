"""The bare poller of videopoll in threads: as many as there may be polls at a time, and no queue."""

from __future__ import annotations

import itertools
import threading

import attrs
from common import Scenario, scenario, tell_ready

from videopoll import VideoApiPoller, VideoJob


def main(scene: Scenario) -> None:
    ids = itertools.cycle(scene.job_ids())
    poller = VideoApiPoller(
        base_url=scene.world_url, api_key="a-key", transport="httpx", max_connections=scene.concurrency
    )
    template = VideoJob("job", "conversation", 1_757_157_518_747)

    def ask_on() -> None:
        while True:
            poller.poll(attrs.evolve(template, job_id=next(ids)), timeout_s=15)

    tell_ready()
    threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(scene.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(scenario())
