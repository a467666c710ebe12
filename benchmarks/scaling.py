"""What a pending job costs: the time of a claim and of an enqueue beside many others, and memory."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import redis
from harness import job_id, open_redis

from videopoll import LeasePolicy, PollingStrategy, RedisVideoJobQueue
from videopoll.jobs.transition import Reschedule

if TYPE_CHECKING:
    from rich.console import Console

FAR_MS = 3_000_000
CLAIMED = 100
LEASE = LeasePolicy()
AT_ONCE = PollingStrategy(initial_delay_s=0)


class Pending:
    """A queue with many jobs that wait for their next poll."""

    def __init__(self, url: str, prefix: str) -> None:
        self.queue = RedisVideoJobQueue.from_url(url, prefix=prefix)
        self.db = redis.Redis.from_url(url)
        self.schedule = self.queue.keys.schedule
        self.made = 0

    def fill(self, count: int) -> None:
        """Take jobs in, claim each once, and put it on the schedule, as a worker does."""
        while self.made < count:
            last = min(self.made + 2000, count)
            self.queue.enqueue_many((job_id(one), f"68bb3c3585425ee98e{one:06d}", {}) for one in range(self.made, last))
            while self.db.llen(self.queue.keys.queue):
                self._poll(500)
            self.made = last

    def _poll(self, count: int) -> None:
        batch = self.queue.claim(polls=count, sends=1, worker_id="w", strategy=AT_ONCE, lease=LEASE)
        later = [Reschedule(claim, batch.now_ms + FAR_MS + place) for place, claim in enumerate(batch.claims)]
        self.queue.apply(later)

    def _spent_us(self) -> int:
        return self.db.info("commandstats").get("cmdstat_evalsha", {"usec": 0})["usec"]

    def claim_us(self) -> int:
        """Microseconds of Redis's time for a claim of 100 jobs that are due."""
        self.db.zadd(self.schedule, dict.fromkeys(self.db.zrange(self.schedule, 0, CLAIMED - 1), 1))
        before = self._spent_us()
        batch = self.queue.claim(polls=CLAIMED, sends=1, worker_id="w", strategy=AT_ONCE, lease=LEASE)
        spent = self._spent_us() - before
        assert len(batch.claims) == CLAIMED
        self.queue.apply([Reschedule(claim, batch.now_ms + FAR_MS) for claim in batch.claims])
        return spent

    def enqueue_us(self) -> int:
        """Microseconds of Redis's time for the enqueue of one job."""
        before = self._spent_us()
        self.queue.enqueue("job_1757157518747_grhexcfhk", conversation_id="c")
        spent = self._spent_us() - before
        self.queue.cancel("job_1757157518747_grhexcfhk")
        self.db.delete(self.queue.keys.completed("job_1757157518747_grhexcfhk"))
        return spent


def measure_scaling(which: str, console: Console, *, many: int, few: int = 1000, looks: int = 60) -> dict[str, float]:
    """Compare many pending jobs with few, in turns on one server."""
    with open_redis(which) as server, console.status(f"{many} pending jobs on {which}"):
        small, large = (Pending(server.url, prefix) for prefix in ("video", "large"))
        small.fill(few)
        before = small.db.info("memory")["used_memory"]
        large.fill(many)
        record = large.db.strlen(large.queue.keys.job(job_id(1)))
        memory = (small.db.info("memory")["used_memory"] - before) / many
        claims = [(small.claim_us(), large.claim_us()) for _ in range(looks)]
        enqueues = [(small.enqueue_us(), large.enqueue_us()) for _ in range(5 * looks)]
        return {
            "server": f"{server.name} {server.version}",
            "few": few,
            "many": many,
            "claim_us_few": statistics.median(a for a, _ in claims),
            "claim_us_many": statistics.median(b for _, b in claims),
            "enqueue_us_few": statistics.median(a for a, _ in enqueues),
            "enqueue_us_many": statistics.median(b for _, b in enqueues),
            "record_bytes": record,
            "bytes_beyond_record": memory - record,
        }
