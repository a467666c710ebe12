"""A storm in which the number of partitions is raised twice: workers are killed, and producers of all numbers double their jobs.

``python -m kit.partition_storm 4`` runs four for each runner.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import threading
import time
from typing import TYPE_CHECKING

import attrs

from kit import World, open_world, phone, until
from kit.fleet_storm import end, is_over, job_of, tally
from videopoll import RedisVideoJobQueue
from videopoll.errors import QueueError
from videopoll.testing import EmbeddedRedis

if TYPE_CHECKING:
    import subprocess

PREFIX = "{raise}"


class Producer(threading.Thread):
    """Enqueues all jobs in an order of its own, as a web application does whose configuration names so many partitions.

    Args:
        url: Where.
        partitions: The number that it is configured with.
        jobs: How many there are.
        begin_s: When it begins.
        forgets: Whether each job comes from a process that has just begun.
        choose: What it chooses by.
    """

    def __init__(
        self, url: str, partitions: int, jobs: int, begin_s: float, choose: random.Random, *, forgets: bool = False
    ) -> None:
        super().__init__(name=f"producer of {partitions}", daemon=True)
        self._open = functools.partial(RedisVideoJobQueue.from_url, url, prefix=PREFIX, partitions=partitions)
        self._numbers = choose.sample(range(jobs), jobs)
        self._begin_s, self._forgets = begin_s, forgets

    def run(self) -> None:
        """Enqueue."""
        time.sleep(self._begin_s)
        with self._open() as queue:
            for number in self._numbers:
                until(functools.partial(self._enqueued, queue, number), "it is taken in", 60)
                time.sleep(0.01)

    def _enqueued(self, queue: RedisVideoJobQueue, number: int) -> bool:
        user = {"channel": "ultramsg", "to": phone(number)}
        with contextlib.suppress(QueueError), self._open() if self._forgets else contextlib.nullcontext(queue) as used:
            used.enqueue(job_of(number), conversation_id=f"c_{number}", metadata=user)
            return True
        return False


@attrs.frozen
class RaiseStorm:
    """What happens while the number is raised from 2 to 3 to 5.

    Args:
        kind: Which runner works.
        jobs: How many.
        workers: Processes of them.
        serve: With how many partitions they are configured.
        kills: SIGKILLs of workers.
        seed: What it chooses by.
    """

    kind: str = "sync"
    jobs: int = 60
    workers: int = 2
    serve: int = 2
    kills: int = 4
    seed: int = 0

    def run(self, url: str) -> dict[str, int]:
        """Return what users got."""
        choose = random.Random(self.seed)
        told: list[int] = []
        for world in open_world(self.kind, url, PREFIX):
            for number in range(self.jobs):
                world.api.job(job_of(number), ready_after_polls=2)
            processes = [self._worker(world) for _ in range(self.workers)]
            producers = [
                Producer(url, 2, self.jobs, 0.0, choose),
                Producer(url, 2, self.jobs, 0.3, choose, forgets=True),
                Producer(url, 3, self.jobs, 0.4, choose),
                Producer(url, 5, self.jobs, 0.8, choose),
            ]
            try:
                for producer in producers:
                    producer.start()
                for _ in range(self.kills):
                    time.sleep(choose.uniform(0.2, 0.6))
                    victim = choose.randrange(self.workers)
                    end(processes[victim])
                    processes[victim] = self._worker(world)
                for producer in producers:
                    producer.join()
                with RedisVideoJobQueue.from_url(url, prefix=PREFIX, partitions=5) as queue:
                    until(functools.partial(is_over, queue), "all is delivered", 60)
                    dead = queue.counts().dead
            finally:
                for process in processes:
                    end(process)
            told = [len(world.ultramsg.inbox(phone(number))) for number in range(self.jobs)]
        return tally(told) | {"dead letters": dead}

    def _worker(self, world: World) -> subprocess.Popen[bytes]:
        return world.process(partitions=self.serve)


if __name__ == "__main__":
    for seed in range(int(sys.argv[1])):
        for kind in ("sync", "async"):
            with EmbeddedRedis() as server:
                print(kind, seed, RaiseStorm(kind, 200, workers=3, kills=8, seed=seed).run(server.url), flush=True)
