"""A small storm on a real cluster: workers are killed, a slot moves back and forth, and masters die.

``python -m kit.cluster_storm 8`` runs eight, and ``python -m kit.cluster_storm --lost`` measures what an asynchronous
replica loses.
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
import redis

from kit import open_world, until
from kit.fleets import Cluster
from videopoll import RedisVideoJobQueue
from videopoll.errors import QueueError

if TYPE_CHECKING:
    import subprocess

PREFIX = "{storm}"


def phone(number: int) -> str:
    return f"5491100{number:06d}"


class Producer(threading.Thread):
    """Enqueues jobs as a web application does that tries again when it is told to."""

    def __init__(self, url: str, ids: list[str]) -> None:
        super().__init__()
        self._url, self._ids = url, ids

    def run(self) -> None:
        with RedisVideoJobQueue.from_url(self._url, prefix=PREFIX) as queue:
            for number, job_id in enumerate(self._ids):
                until(functools.partial(self._enqueued, queue, number, job_id), "it is taken in", 60)
                time.sleep(0.02)

    def _enqueued(self, queue: RedisVideoJobQueue, number: int, job_id: str) -> bool:
        with contextlib.suppress(QueueError):
            queue.enqueue(job_id, conversation_id=f"c_{number}", metadata={"channel": "ultramsg", "to": phone(number)})
            return True
        return False


@attrs.frozen
class Storm:
    """What happens while jobs are done.

    Args:
        jobs: How many.
        workers: Processes of them.
        kills: SIGKILLs of workers.
        moves: Moves of the slot.
        failovers: Masters that are killed.
        seed: What it chooses by.
        synced: Whether a master's replica has caught up before the master is killed.
    """

    jobs: int = 200
    workers: int = 3
    kills: int = 6
    moves: int = 4
    failovers: int = 2
    seed: int = 0
    synced: bool = True

    def run(self, cluster: Cluster) -> dict[str, int]:
        """Return what users got."""
        choose = random.Random(self.seed)
        ids = [f"job_{number}" for number in range(self.jobs)]
        troubles = ["kill"] * self.kills + ["move"] * self.moves + ["crash"] * self.failovers
        choose.shuffle(troubles)
        for world in open_world("async" if self.seed % 2 else "sync", cluster.url, PREFIX):
            for job_id in ids:
                world.api.job(job_id, ready_after_polls=2)
            processes = [world.process() for _ in range(self.workers)]
            producer = Producer(cluster.url, ids)
            producer.start()
            for trouble in troubles:
                time.sleep(choose.uniform(0.2, 0.8))
                if trouble == "kill":
                    victim = choose.randrange(self.workers)
                    end(processes[victim])
                    processes[victim] = world.process()
                elif trouble == "move":
                    move = cluster.begin_move(PREFIX)
                    move.keys(choose.randrange(20) + 1)
                    time.sleep(choose.uniform(0, 0.3))
                    move.keys()
                    move.end()
                else:
                    if self.synced:
                        cluster.owner(PREFIX).sync(PREFIX)
                    with cluster.failed_over(PREFIX):
                        time.sleep(0.2)
            producer.join()
            with RedisVideoJobQueue.from_url(cluster.url, prefix=PREFIX) as queue:
                with contextlib.suppress(AssertionError):
                    until(functools.partial(is_over, queue), "all is delivered", 90)
                dead = queue.counts().dead
            for process in processes:
                end(process)
            told = [len(world.ultramsg.inbox(phone(number))) for number in range(self.jobs)]
        counts = {"told once": told.count(1), "lost": told.count(0), "doubled": sum(one > 1 for one in told)}
        return {"jobs": self.jobs, **counts, "dead letters": dead}


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def is_over(queue: RedisVideoJobQueue) -> bool:
    with contextlib.suppress(QueueError):
        return not queue.counts().pending
    return False


def lost_by_a_crash(*, wait: bool, lag_s: float, rounds: int, seconds: float = 0.5) -> tuple[int, int]:
    """Enqueue as fast as it goes, kill the master, and count acknowledged jobs that its replica does not know.

    Args:
        wait: Whether each enqueue is followed by ``WAIT 1 1000`` on its connection.
        lag_s: For how long the replica has got nothing when the master dies.
        rounds: How often.
        seconds: How long each time.

    Returns:
        Acknowledged and lost.
    """
    acknowledged = lost = 0
    with Cluster() as cluster:
        for round_ in range(rounds):
            sent: list[str] = []
            stop = threading.Event()

            def produce(round_: int = round_, sent: list[str] = sent, stop: threading.Event = stop) -> None:
                with RedisVideoJobQueue.from_url(cluster.url + "?max_connections=1", prefix=PREFIX) as queue:
                    number = 0
                    while not stop.is_set():
                        job_id = f"r{round_}_{number}"
                        number += 1
                        try:
                            queue.enqueue(job_id, conversation_id="c")
                            if wait and queue._front.execute_command("WAIT", 1, 1000) < 1:
                                return
                        except (QueueError, redis.RedisError):
                            return
                        sent.append(job_id)

            threads = [threading.Thread(target=produce)]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            replica = cluster.replica_of(PREFIX)
            if lag_s:
                replica.pause()
                time.sleep(lag_s)
            with cluster.failed_over(PREFIX, wait=False) as was:
                if lag_s:
                    replica.resume()
                until(functools.partial(cluster.taken_over, PREFIX, was), "a replica has taken over", 20)
                stop.set()
                for thread in threads:
                    thread.join()
                db = cluster.db(PREFIX)
                there = {
                    key.decode().rpartition(":")[2]
                    for key in db.scan_iter(match=f"{PREFIX}:job:r{round_}_*", count=1000)
                }
                acknowledged += len(sent)
                lost += len(set(sent) - there)
    return acknowledged, lost


if __name__ == "__main__":
    if "--lost" in sys.argv:
        for lag_s in (0.0, 0.1):
            for wait in (False, True):
                found = lost_by_a_crash(wait=wait, lag_s=lag_s, rounds=10)
                print(f"lag {lag_s} s, {'with' if wait else 'without'} WAIT: acknowledged, lost = {found}", flush=True)
    else:
        for seed in range(int(sys.argv[1])):
            with Cluster() as cluster:
                print(seed, Storm(seed=seed, synced="--unsynced" not in sys.argv).run(cluster), flush=True)
