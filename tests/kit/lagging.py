"""A primary whose replica lags behind, and what is gone when it dies: `python -m kit.lagging` measures it.

The replica is fed through a line that holds back all bytes for a while, as a slow network or a busy replica
does. With a replica that only stands still nothing would be lost: its kernel has the bytes, and they outlive
the primary.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import attrs
import redis

from kit import open_world, phone, shut, until
from kit.fleets import Fleet, port_of_its_own
from kit.resp_proxy import RespProxy
from videopoll import RedisVideoJobQueue
from videopoll.errors import QueueError

if TYPE_CHECKING:
    import subprocess

HOST = "127.0.0.1"


class Line:
    """A way to a server on which what it says arrives late, and is lost where the line is cut.

    Args:
        port: The server's.
        lag_s: How late.
    """

    def __init__(self, port: int, lag_s: float) -> None:
        self._upstream, self._lag_s = port, lag_s
        self.port = port_of_its_own()
        self._listener = socket.create_server((HOST, self.port))
        self._open: list[socket.socket] = []
        self._is_cut = False
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Lose all that is on its way."""
        self._is_cut = True
        for one in (self._listener, *self._open):
            shut(one)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._upstream))
                self._open += [near, far]
                late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                for work in (
                    functools.partial(self._pass, near, far.sendall),
                    functools.partial(self._pass, far, lambda said, late=late: late.put((time.monotonic(), said))),
                    functools.partial(self._say, near, late),
                ):
                    threading.Thread(target=work, name="line", daemon=True).start()

    def _pass(self, source: socket.socket, to: Any) -> None:
        with contextlib.suppress(OSError):
            while said := source.recv(65536):
                to(said)
        with contextlib.suppress(OSError):
            to(b"")

    def _say(self, to: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                since_s, said = late.get()
                time.sleep(max(0.0, since_s + self._lag_s - time.monotonic()))
                if self._is_cut or not said:
                    return
                to.sendall(said)


@attrs.frozen
class Lost:
    """What a failover cost.

    Args:
        acknowledged: Jobs that were taken in before it.
        unknown: Those of them of which the new primary knows nothing.
        orphans: Those of which it knows the record, and which it has in no list.
        untold: Users of all jobs who got no message.
        doubled: Users who got more than one, where the channel can be asked what it has sent.
        doubled_unasked: The same, where it cannot.
        enqueue_ms: Milliseconds an enqueue, in the middle.
    """

    acknowledged: int
    unknown: int
    orphans: int
    untold: int
    doubled: int
    doubled_unasked: int
    enqueue_ms: float


@attrs.frozen
class Failover:
    """A primary dies while jobs are taken in and done, and its lagging replica takes its place.

    Args:
        kind: Which runner works.
        lag_s: How late its replica has what it writes.
        wait: Whether a producer calls ``WAIT 1 5000`` after each enqueue, and enqueues again if nobody has it.
        producers: How many, each in a thread.
        seconds: For how long they enqueue before the primary dies.
        pause_s: What a producer does else between two jobs.
    """

    kind: str = "sync"
    lag_s: float = 0.1
    wait: bool = False
    producers: int = 4
    seconds: float = 3.0
    pause_s: float = 0.02

    def run(self) -> Lost:
        """Return what was lost."""
        with Fleet() as fleet:
            primary, replica = fleet.add(), fleet.add()
            fleet.wait()
            with Line(primary.port, self.lag_s) as line, RespProxy(primary.port) as name:
                replica.ask("REPLICAOF", HOST, line.port)
                until(lambda: replica.db.info("replication")["master_link_status"] == "up", "it follows", 20)
                for world in open_world(self.kind, name.url, "video"):
                    return self._run_in(world, primary, replica, line, name)
        raise AssertionError

    def _run_in(self, world: Any, primary: Any, replica: Any, line: Line, name: RespProxy) -> Lost:
        producers = [_Producer(world, self, number) for number in range(self.producers)]
        workers: list[subprocess.Popen[bytes]] = [world.process() for _ in range(2)]
        try:
            for one in producers:
                one.start()
            until(lambda: len(world.ultramsg.messages) > 10, "the workers are at work", 60)
            time.sleep(self.seconds)
            # As when a machine dies, and its network card with it.
            line.cut()
            primary.kill()
            name.refuse()
            acknowledged = [job for one in producers for job in list(one.acknowledged)]
            replica.ask("REPLICAOF", "NO", "ONE")
            unknown, orphans = what_is_known(replica.db, acknowledged)
            name.upstream = replica.port
            name.accept()
            for one in producers:
                one.end()
            with RedisVideoJobQueue.from_url(name.url) as jobs:
                until(functools.partial(is_over, jobs), "all is done", 90)
        finally:
            for process in workers:
                process.kill()
                process.wait()
        told = {job: world.ultramsg.inbox(to) for one in producers for job, to in one.asked.items()}
        told |= {job: world.factory.inbox(to) for one in producers for job, to in one.unasked.items()}
        took = sorted(took_s for one in producers for took_s in one.took_s)
        return Lost(
            len(acknowledged),
            unknown,
            orphans,
            untold=sum(not told[job] for one in producers for job in one.acknowledged),
            doubled=sum(len(told[job]) > 1 for one in producers for job in one.asked),
            doubled_unasked=sum(len(told[job]) > 1 for one in producers for job in one.unasked),
            enqueue_ms=round(took[len(took) // 2] * 1000, 2),
        )


class _Producer(threading.Thread):
    """Enqueues one job after the other; one that was refused is enqueued again."""

    def __init__(self, world: Any, plan: Failover, number: int) -> None:
        super().__init__(name=f"producer-{number}")
        self._world, self._plan, self._number = world, plan, number
        self._over = threading.Event()
        self.acknowledged: list[str] = []
        self.asked: dict[str, str] = {}
        self.unasked: dict[str, str] = {}
        self.took_s: list[float] = []

    def end(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with RedisVideoJobQueue.from_url(self._world.url + "?max_connections=1", front_timeout_s=10.0) as jobs:
            number = 0
            while not self._over.is_set():
                number += 1
                job_id, to = f"p{self._number}_{number}", phone(self._number * 100_000 + number)
                self._world.api.job(job_id, ready_after_polls=1)
                asked = number % 2 == 0
                (self.asked if asked else self.unasked)[job_id] = to
                until(functools.partial(self._enqueued, jobs, job_id, to, asked=asked), "it is taken in", 60)
                time.sleep(self._plan.pause_s)

    def _enqueued(self, jobs: RedisVideoJobQueue, job_id: str, to: str, *, asked: bool) -> bool:
        metadata = {"channel": "ultramsg" if asked else "whatsapp_factory", "to": to}
        began_s = time.monotonic()
        with contextlib.suppress(QueueError, redis.RedisError):
            jobs.enqueue(job_id, conversation_id="c", metadata=metadata)
            # After a failover nobody is left to wait for.
            if self._plan.wait and not self._over.is_set() and jobs._front.execute_command("WAIT", 1, 5000) < 1:
                return False
            self.acknowledged.append(job_id)
            self.took_s.append(time.monotonic() - began_s)
            return True
        return False


def what_is_known(db: redis.Redis, job_ids: list[str]) -> tuple[int, int]:
    """Count the jobs of which a server knows nothing, and those of which it has a record that is nowhere listed."""
    listed = {
        *db.lrange("video:poll:queue", 0, -1),
        *db.zrange("video:poll:schedule", 0, -1),
        *db.zrange("video:poll:inflight", 0, -1),
        *db.zrange("video:poll:deliveries", 0, -1),
    }
    unknown = orphans = 0
    for job_id in job_ids:
        record, completed, outbox = db.mget(*(f"video:{what}:{job_id}" for what in ("job", "completed", "poll:outbox")))
        unknown += record is completed is outbox is None
        orphans += record is not None and job_id.encode() not in listed
    return unknown, orphans


def is_over(jobs: RedisVideoJobQueue) -> bool:
    with contextlib.suppress(QueueError):
        return not jobs.counts().pending
    return False


if __name__ == "__main__":
    for lag_s in [float(word) for word in sys.argv[1:]] or [0.0, 0.05, 0.5]:
        for wait in (False, True):
            for kind in ("sync", "async"):
                print(f"lag {lag_s} s, wait {wait}, {kind}:", Failover(kind, lag_s, wait=wait).run(), flush=True)
