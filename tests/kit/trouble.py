"""A world whose Redis makes trouble: a server of its own behind a proxy, and users who must be told once all the same.

The users are on a channel that cannot be asked about its messages, so a send
whose note was lost would come twice.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

import attrs
import redis

from kit import QUEUES, phone, until
from videopoll import LeasePolicy, RedisVideoJobQueue, events

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from kit import Worker, World
    from kit.resp_proxy import RespProxy
    from videopoll.testing import EmbeddedRedis

BRISK = LeasePolicy.lasting(1.2)


@attrs.define
class Trouble:
    """A world with a server that may fail, behind a proxy that makes it fail."""

    world: World
    server: EmbeddedRedis
    proxy: RespProxy
    users: dict[str, str] = attrs.field(factory=dict)

    @property
    def client(self) -> redis.Redis:
        """A client that goes round the proxy."""
        return redis.Redis.from_url(self.server.url, decode_responses=True)

    def enqueue(self, *job_ids: str) -> None:
        """Take jobs in, round the proxy."""
        with self.queue() as queue:
            queue.enqueue_many([self.job(job_id) for job_id in job_ids])

    def queue(self) -> RedisVideoJobQueue:
        """A queue of as many partitions as the workers know, round the proxy."""
        return RedisVideoJobQueue.from_url(self.server.url, prefix=self.world.prefix, **QUEUES)

    def job(self, job_id: str) -> tuple[str, str, dict[str, Any]]:
        """Give a job a user of its own."""
        number = len(self.users) + 1
        self.users[job_id] = phone(number)
        return job_id, f"conversation-{number}", {"channel": "whatsapp_factory", "to": phone(number)}

    def worker(self, **options: Any) -> Worker:
        """Build a worker behind the proxy that tells a dead server soon."""
        options.setdefault("lease", BRISK)
        options.setdefault("queue_options", {"worker_timeout_s": 1.0})
        return self.world.worker(**options)

    def told(self) -> dict[str, int]:
        """Count each user's messages."""
        return {job_id: len(self.world.factory.inbox(to)) for job_id, to in self.users.items()}

    def all_told_once(self, worker: Worker, timeout_s: float = 30.0) -> None:
        """Wait until every job is settled, and check that each user has one message."""
        until(lambda: all(self.told().values()), "every user has a message", timeout_s)
        with self.queue() as queue:
            until(lambda: not queue.counts().in_flight, "nothing is in flight", timeout_s)
        start = re.compile(rf"{self.world.prefix}:(\d+:)?")
        with self.client as client:
            left = {start.sub("", key) for key in client.scan_iter(match=f"{self.world.prefix}:*")}
        assert {key.split(":")[0] for key in left - {"poll:layout"}} <= {"completed"}
        assert self.told() == dict.fromkeys(self.users, 1)
        assert not worker.recorder.of(events.JobDeadLettered)

    def loss_is_told_once(self, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        """Wait until the worker is well again; the loss was one event and one line, and so was its end.

        A second, short one may follow: a pooled connection that died in the outage shows that when it is used next.
        """
        until(lambda: worker.runner.health().healthy, "the worker is well again")
        told = len(worker.recorder.of(events.RedisLost))
        assert told == len(worker.recorder.of(events.RedisRegained)) <= 2
        assert all(event.after_s < 1 for event in worker.recorder.of(events.RedisRegained)[1:])
        lines = [record for record in caplog.records if "🔌 Redis" in record.message]
        assert [record.levelname for record in lines] == ["ERROR", "WARNING"] * told, [one.message for one in lines]


def is_lost(worker: Worker) -> None:
    """Wait until the worker says that it cannot use Redis."""
    until(lambda: worker.recorder.of(events.RedisLost), "the loss is told")
    until(lambda: any("Redis" in problem for problem in worker.runner.health().problems), "it is unhealthy")


def jobs(count: int, start: str = "job") -> list[str]:
    return [f"{start}_{number}" for number in range(count)]


@contextlib.contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Take at least so long: the trouble has to last a while to be worth its name."""
    until_s = time.monotonic() + seconds
    yield
    until(lambda: time.monotonic() >= until_s, "the time is over", seconds + 5)
