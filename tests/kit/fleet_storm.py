"""A storm on a fleet of servers: workers are killed, slots move or primaries change places, and masters die.

``python -m kit.fleet_storm 4`` runs four on a cluster and four under Sentinel, for each runner. With ``--unsynced``
masters are killed without a look at their replicas. What a replica loses that lags is measured by `kit.lagging`.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs

from kit import World, open_world, phone, until
from kit.fleets import Cluster, Watched
from videopoll import RedisVideoJobQueue
from videopoll.errors import QueueError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

PREFIX = "{storm}"


class Producer(threading.Thread):
    """Enqueues jobs as a web application does that tries again when it is told to."""

    def __init__(self, url: str, numbers: range, prefix: str = PREFIX, pause_s: float = 0.02) -> None:
        super().__init__(name="producer", daemon=True)
        self._url, self._numbers, self._prefix, self._pause_s = url, numbers, prefix, pause_s

    def run(self) -> None:
        with RedisVideoJobQueue.from_url(self._url, prefix=self._prefix) as queue:
            for number in self._numbers:
                until(functools.partial(self._enqueued, queue, number), "it is taken in", 60)
                time.sleep(self._pause_s)

    def _enqueued(self, queue: RedisVideoJobQueue, number: int) -> bool:
        with contextlib.suppress(QueueError):
            user = {"channel": "ultramsg", "to": phone(number)}
            queue.enqueue(job_of(number), conversation_id=f"c_{number}", metadata=user)
            return True
        return False


@attrs.frozen
class Storm:
    """What happens while jobs are done.

    Args:
        kind: Which runner works.
        jobs: How many.
        workers: Processes of them.
        kills: SIGKILLs of workers.
        moves: How often the keys go to another server in peace: a slot that moves, or a primary that changes places.
        failovers: Masters that are killed.
        seed: What it chooses by.
        synced: Whether a master's replica has caught up before the master is killed.
        without: What is taken out of the workers (`kit.route_mutants`).
        patience_s: How long all of it may take after the last trouble.
    """

    kind: str = "sync"
    jobs: int = 200
    workers: int = 3
    kills: int = 6
    moves: int = 4
    failovers: int = 2
    seed: int = 0
    synced: bool = True
    without: str = ""
    patience_s: float = 90.0

    def run(self, fleet: Cluster | Watched) -> dict[str, int]:
        """Return what users got."""
        choose = random.Random(self.seed)
        troubles = ["kill"] * self.kills + ["move"] * self.moves + ["crash"] * self.failovers
        choose.shuffle(troubles)
        told: list[int] = []
        dead = 0
        for world in open_world(self.kind, fleet.url, PREFIX):
            for number in range(self.jobs):
                world.api.job(job_of(number), ready_after_polls=2)
            processes = [self._worker(world) for _ in range(self.workers)]
            try:
                # The trouble begins when they are at work, and before the work is done.
                Producer(fleet.url, range(1)).run()
                until(lambda: world.ultramsg.messages, "they are at work", 60)  # noqa: B023 - there is one world
                producer = Producer(fleet.url, range(1, self.jobs))
                producer.start()
                for trouble in troubles:
                    time.sleep(choose.uniform(0.2, 0.8))
                    if trouble == "kill":
                        victim = choose.randrange(self.workers)
                        end(processes[victim])
                        processes[victim] = self._worker(world)
                    elif trouble == "move":
                        fleet.hand_over(PREFIX, choose)
                    else:
                        with fleet.failed_over(PREFIX, "crash" if self.synced else "crash unsynced"):
                            time.sleep(0.2)
                producer.join()
                dead = settled(fleet.url, PREFIX, self.patience_s)
            finally:
                for process in processes:
                    end(process)
            told = [len(world.ultramsg.inbox(phone(number))) for number in range(self.jobs)]
        return tally(told) | {"dead letters": dead}

    def _worker(self, world: World) -> subprocess.Popen[bytes]:
        # Where it is to be stuck it says so again and again.
        return world.process(**({"without": self.without, "log_level": "CRITICAL"} if self.without else {}))


def job_of(number: int) -> str:
    return f"job_{number}"


def settled(url: str, prefix: str, patience_s: float) -> int:
    """Wait until nothing is left, or until patience ends; return how many dead letters there are."""
    with RedisVideoJobQueue.from_url(url, prefix=prefix) as queue:
        with contextlib.suppress(AssertionError):
            until(functools.partial(is_over, queue), "all is delivered", patience_s)
        return queue.counts().dead


def tally(told: list[int]) -> dict[str, int]:
    """Count users by what they got."""
    return {
        "jobs": len(told),
        "told once": told.count(1),
        "lost": told.count(0),
        "doubled": sum(one > 1 for one in told),
    }


def all_told_once(jobs: int) -> dict[str, int]:
    """Return what a storm has to give."""
    return {"jobs": jobs, "told once": jobs, "lost": 0, "doubled": 0, "dead letters": 0}


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def is_over(queue: RedisVideoJobQueue) -> bool:
    with contextlib.suppress(QueueError):
        return not queue.counts().pending
    return False


FLEETS: dict[str, Callable[[], Any]] = {"cluster": Cluster, "sentinel": Watched}


if __name__ == "__main__":
    for name, make in FLEETS.items():
        for seed in range(int(sys.argv[1])):
            for kind in ("sync", "async"):
                with make() as fleet:
                    storm = Storm(kind, seed=seed, synced="--unsynced" not in sys.argv)
                    print(name, kind, seed, storm.run(fleet), flush=True)
