"""A partition whose server is away stops its own jobs, and nothing else; when it is back, they go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import contextmanager

import attrs
import pytest

from kit import Worker, part, until
from videopoll import DeliveryPolicy, LeasePolicy, PollingStrategy
from videopoll.errors import QueueUnavailableError
from videopoll.observations import VideoReady, VideoWorking
from videopoll.queue.hands import AsyncHands, Hands
from videopoll.queue.layout import homes
from videopoll.queue.partitioned_queue import AsyncPartitionedQueue, PartitionedQueue
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.testing import EmbeddedRedis

LEASE = LeasePolicy.lasting(3.0)
STRATEGY = PollingStrategy(interval_s=0.3, timeout_s=60, initial_delay_s=0, request_timeout_s=1)
IDS = [f"job_{number}" for number in range(100)]
HERE = [job_id for job_id in IDS if homes(job_id, 2)[-1] == 0]
THERE = [job_id for job_id in IDS if homes(job_id, 2)[-1] == 1]


@attrs.define
class Pair:
    """Two servers, a partition on each, and a worker whose users are counted."""

    kind: str
    servers: list[EmbeddedRedis]
    got: Counter = attrs.field(factory=Counter)
    ready: set = attrs.field(factory=set)
    sending: threading.Event = attrs.field(factory=threading.Event)

    def queue(self, kind: str = "sync"):
        """Build the queue of both."""
        cls, one = (
            (PartitionedQueue, RedisVideoJobQueue)
            if kind == "sync"
            else (AsyncPartitionedQueue, AsyncRedisVideoJobQueue)
        )
        return cls(lambda number: one.from_url(self.servers[number].url, front_timeout_s=1.0), 2, None)

    def enqueue(self, *job_ids: str) -> None:
        """Take jobs in."""
        with self.queue() as queue:
            for job_id in job_ids:
                queue.enqueue(job_id, conversation_id="c")

    def poll(self, job, *, timeout_s):
        """Give a video when it is ready."""
        return VideoReady("https://v.example/1.mp4") if job.job_id in self.ready else VideoWorking()

    def notify(self, message):
        """Count."""
        self.got[message.job.job_id] += 1

    @contextmanager
    def worker(self):
        """A worker of the kind that is tested."""
        parts = "sync" if self.kind == "sync" else "async"
        poller, notifier = part(parts, poll=self.poll), part(parts, notify=self.notify)
        worker = Worker(
            self.kind,
            "redis://unused",
            "unused",
            poller,
            notifier,
            lease=LEASE,
            strategy=STRATEGY,
            delivery=DeliveryPolicy(),
        )
        make = worker._make
        worker._make = lambda: _with_queue(make(), self.queue(self.kind))
        with worker:
            yield worker


def _with_queue(runner, queue):
    """Exchange the queue of a runner that was not used yet."""
    runner._queue = queue
    runner._open()
    return runner


@pytest.fixture
def pair(kind):
    """Two servers of their own."""
    with EmbeddedRedis() as first, EmbeddedRedis() as second:
        yield Pair(kind, [first, second])
        second.resume() if second.running else None


@pytest.mark.parametrize("how", ["stands still", "is killed"])
def test_the_others_go_on(pair, how):
    """New jobs there are taken, polled and delivered, and what is in hand there keeps its leases."""
    pair.enqueue(*HERE[:4], *THERE[:4])
    with pair.worker():
        pair.ready.update(HERE[:2], THERE[:2])
        until(lambda: len(pair.got) == 4, "both partitions are served")
        pair.servers[1].pause() if how == "stands still" else pair.servers[1].kill()
        pair.ready.update(HERE, THERE)
        pair.enqueue(*HERE[4:20])
        until(lambda: all(pair.got[job_id] for job_id in HERE[:20]), "the others go on", timeout_s=8)
        pair.servers[1].resume() if how == "stands still" else pair.servers[1].start()
        new = THERE[4:12]
        pair.enqueue(*new)
        there = (*THERE[:4], *new) if how == "stands still" else (*THERE[:2], *new)
        until(lambda: all(pair.got[job_id] for job_id in there), "its own go on when it is back", timeout_s=20)
    assert set(pair.got.values()) == {1}


def test_servers_that_answer_late_are_waited_for(kind, call):
    """A server may be busy for long: dropping every answer would be the end of all work."""
    hands = Hands() if kind == "sync" else AsyncHands()
    hands.wait_at_most(0.0)

    def late():
        yield (lambda: time.sleep(0.5)) if kind == "sync" else (lambda: asyncio.sleep(0.5))
        return "answered"

    def one():
        return call(hands.all("claim", {0: late()}))[0]

    assert isinstance(one(), QueueUnavailableError)
    # One that is overdue is not asked again; once it has answered, it is given the time.
    assert isinstance(one(), QueueUnavailableError)
    until(lambda: one() == "answered", "it is waited for")
