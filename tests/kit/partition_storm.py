"""A storm in which the number of partitions is raised twice: workers are killed, and producers of all numbers double their jobs.

``python -m kit.partition_storm 4`` runs four for each runner.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import attrs

from kit.fleet_storm import Producer, crew, settled
from videopoll.testing import EmbeddedRedis

PREFIX = "{raise}"


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
        with crew(self.kind, url, PREFIX, self.jobs, self.workers, partitions=self.serve) as workers:
            producers = [
                self._producer(url, choose, 2),
                self._producer(url, choose, 2, begin_s=0.3, forgets=True),
                self._producer(url, choose, 3, begin_s=0.4),
                self._producer(url, choose, 5, begin_s=0.8),
            ]
            for producer in producers:
                producer.start()
            for _ in range(self.kills):
                time.sleep(choose.uniform(0.2, 0.6))
                workers.kill_one(choose)
            for producer in producers:
                producer.join()
            dead = settled(url, PREFIX, 60, partitions=5)
        return workers.told(self.jobs) | {"dead letters": dead}

    def _producer(self, url: str, choose: random.Random, partitions: int, **more: Any) -> Producer:
        """Return one that is configured with so many partitions, and hands all jobs in, in an order of its own."""
        order = choose.sample(range(self.jobs), self.jobs)
        return Producer(url, order, PREFIX, 0.01, partitions=partitions, **more)


if __name__ == "__main__":
    for seed in range(int(sys.argv[1])):
        for kind in ("sync", "async"):
            with EmbeddedRedis() as server:
                print(kind, seed, RaiseStorm(kind, 200, workers=3, kills=8, seed=seed).run(server.url), flush=True)
