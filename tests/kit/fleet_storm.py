"""A storm on a fleet of servers: workers are killed, slots move or primaries change places, and masters die.

``python -m kit.fleet_storm 4`` runs four on a cluster, four on a cluster with a queue of several partitions, and four
under Sentinel, for each runner. With ``--unsynced`` masters are killed without a look at their replicas. What a replica loses that lags is measured by `kit.lagging`.
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
from videopoll.queue.layout import prefix_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator

PREFIX = "{storm}"


class Producer(threading.Thread):
    """Enqueues jobs as a web application does that tries again when it is told to.

    Args:
        url: Where.
        numbers: Which, in this order.
        prefix: Of the queue.
        pause_s: Seconds between two of them.
        begin_s: Seconds until the first.
        partitions: How many it knows of.
        forgets: Whether each job comes from a process that has just begun.
    """

    def __init__(
        self,
        url: str,
        numbers: Iterable[int],
        prefix: str = PREFIX,
        pause_s: float = 0.02,
        *,
        begin_s: float = 0.0,
        partitions: int | None = None,
        forgets: bool = False,
    ) -> None:
        super().__init__(name="producer", daemon=True)
        self._open = functools.partial(RedisVideoJobQueue.from_url, url, prefix=prefix, partitions=partitions)
        self._numbers, self._pause_s, self._begin_s, self._forgets = numbers, pause_s, begin_s, forgets

    def run(self) -> None:
        time.sleep(self._begin_s)
        with self._open() as queue:
            for number in self._numbers:
                until(functools.partial(self._enqueued, queue, number), "it is taken in", 60)
                time.sleep(self._pause_s)

    def _enqueued(self, queue: RedisVideoJobQueue, number: int) -> bool:
        user = {"channel": "ultramsg", "to": phone(number)}
        with contextlib.suppress(QueueError), self._open() if self._forgets else contextlib.nullcontext(queue) as used:
            used.enqueue(job_of(number), conversation_id=f"c_{number}", metadata=user)
            return True
        return False


@attrs.frozen
class Crew:
    """Workers in processes of their own, whose jobs are videos that are ready at the second poll.

    Args:
        world: The fakes around them.
        settings: What each is started with.
        processes: Those that live.
    """

    world: World
    settings: dict[str, Any]
    processes: list[subprocess.Popen[bytes]]

    def kill_one(self, choose: random.Random) -> None:
        """Kill a worker; another one comes in its place."""
        victim = choose.randrange(len(self.processes))
        end(self.processes[victim])
        self.processes[victim] = self.world.process(**self.settings)

    def told(self, jobs: int) -> dict[str, int]:
        """Count the users of so many jobs by what they got."""
        return tally([len(self.world.ultramsg.inbox(phone(number))) for number in range(jobs)])


@contextlib.contextmanager
def crew(kind: str, url: str, prefix: str, jobs: int, workers: int, **settings: Any) -> Iterator[Crew]:
    """Start so many workers for so many jobs, and end them all."""
    with contextlib.contextmanager(open_world)(kind, url, prefix) as world:
        for number in range(jobs):
            world.api.job(job_of(number), ready_after_polls=2)
        started = Crew(world, settings, [world.process(**settings) for _ in range(workers)])
        try:
            yield started
        finally:
            for process in started.processes:
                end(process)


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
        partitions: How many the queue has; the trouble is with any of them.
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
    partitions: int | None = None

    def run(self, fleet: Cluster | Watched) -> dict[str, int]:
        """Return what users got."""
        choose = random.Random(self.seed)
        troubles = ["kill"] * self.kills + ["move"] * self.moves + ["crash"] * self.failovers
        choose.shuffle(troubles)
        settings: dict[str, Any] = {} if self.partitions is None else {"partitions": self.partitions}
        if self.without:
            # Where it is to be stuck it says so again and again.
            settings |= {"without": self.without, "log_level": "CRITICAL"}
        with crew(self.kind, fleet.url, PREFIX, self.jobs, self.workers, **settings) as workers:
            # The trouble begins when they are at work, and before the work is done.
            Producer(fleet.url, range(1), partitions=self.partitions).run()
            until(lambda: workers.world.ultramsg.messages, "they are at work", 60)
            producer = Producer(fleet.url, range(1, self.jobs), partitions=self.partitions)
            producer.start()
            for trouble in troubles:
                time.sleep(choose.uniform(0.2, 0.8))
                victim = PREFIX if self.partitions is None else prefix_of(PREFIX, choose.randrange(self.partitions))
                if trouble == "kill":
                    workers.kill_one(choose)
                elif trouble == "move":
                    fleet.hand_over(victim, choose)
                else:
                    with fleet.failed_over(victim, "crash" if self.synced else "crash unsynced"):
                        time.sleep(0.2)
            producer.join()
            dead = settled(fleet.url, PREFIX, self.patience_s, self.partitions)
        return workers.told(self.jobs) | {"dead letters": dead}


def job_of(number: int) -> str:
    return f"job_{number}"


def settled(url: str, prefix: str, patience_s: float, partitions: int | None = None) -> int:
    """Wait until nothing is left, or until patience ends; return how many dead letters there are."""
    with RedisVideoJobQueue.from_url(url, prefix=prefix, partitions=partitions) as queue:
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


PARTITIONS = 5
"""Of a queue on a cluster of three masters: some are on one node."""


if __name__ == "__main__":
    for name, partitions in (("cluster", None), ("cluster", PARTITIONS), ("sentinel", None)):
        for seed in range(int(sys.argv[1])):
            for kind in ("sync", "async"):
                with FLEETS[name]() as fleet:
                    storm = Storm(kind, seed=seed, synced="--unsynced" not in sys.argv, partitions=partitions)
                    print(name, partitions or "", kind, seed, storm.run(fleet), flush=True)
