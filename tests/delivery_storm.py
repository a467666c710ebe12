"""A messenger that misbehaves in every way, and workers that die at every crash point: does each user get one message?

    python tests/delivery_storm.py --jobs 500 --kills 40 --kind async

The messenger takes messages and drops the connection, answers slowly, answers
200 with an error, refuses videos, rate-limits, and is down for a while. Some
users have a number that it refuses for good: theirs must be dead letters.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from kit import API_KEY, INSTANCE, TOKEN, phone
from videopoll import RedisVideoJobQueue
from videopoll.core.step import CRASH_POINTS
from videopoll.testing import EmbeddedRedis, FakeUltraMsg, FakeVideoApi, Reply
from worker_process import end, spawn

STRATEGY = {"interval_s": 1.0, "timeout_s": 300.0, "max_attempts": 300, "initial_delay_s": 0.1}
DELIVERY = {"backoff_base_s": 0.5, "backoff_cap_s": 4.0, "appear_within_s": 2.0, "max_attempts": 100}
REFUSED_EVERY = 25


@attrs.define
class Report:
    """What came of it."""

    kind: str
    jobs: int
    exactly_one: int
    none: int
    several: int
    refused_for_good: int
    dead_letters: int
    kills: int
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether every user got one message, or had a number that was refused for good."""
        return (
            self.several == 0
            and self.none == self.refused_for_good == self.dead_letters
            and self.exactly_one == self.jobs - self.refused_for_good
        )

    def __str__(self) -> str:
        """A line for each figure."""
        return "\n".join(f"{name.replace('_', ' '):>17}: {value}" for name, value in attrs.asdict(self).items())


def run(*, kind: str, jobs: int, kills: int, down_s: float) -> Report:
    """Deliver to everybody, and count what they got."""
    with (
        EmbeddedRedis() as server,
        FakeVideoApi(api_key=API_KEY, ready_after_polls=0) as api,
        FakeUltraMsg(token=TOKEN, instance_id=INSTANCE, visible_after_s=0.3) as messenger,
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "workers.log").open("wb") as log,
        RedisVideoJobQueue.from_url(server.url) as queue,
    ):
        misbehave(messenger, jobs)
        queue.enqueue_many(
            (f"job_{number}", f"conversation-{number}", {"channel": "ultramsg", "to": phone(number)})
            for number in range(jobs)
        )
        settings: dict[str, Any] = {
            "kind": kind,
            "url": server.url,
            "prefix": "video",
            "api_url": api.url,
            "api_key": API_KEY,
            "ultramsg_url": messenger.url,
            "factory_url": messenger.url,
            "instance": INSTANCE,
            "token": TOKEN,
            "lease_s": 2.0,
            "strategy": STRATEGY,
            "delivery": DELIVERY,
            "log": log,
        }
        points = itertools.cycle(CRASH_POINTS)
        started_s = time.monotonic()
        workers = [spawn(crash_at=next(points), **settings) for _ in range(2)]
        killed, down_at_s = 0, started_s + 3
        try:
            while not over(queue) or killed < min(kills, 1):
                for place, worker in enumerate(workers):
                    if worker.poll() is not None:
                        killed += 1
                        crash = {"crash_at": next(points)} if killed + len(workers) <= kills else {}
                        workers[place] = spawn(**crash, **settings)
                if down_at_s and time.monotonic() > down_at_s:
                    messenger.stop()
                    time.sleep(down_s)
                    messenger.start()
                    down_at_s = 0.0
                if time.monotonic() - started_s > 400:
                    break
                time.sleep(0.05)
            seconds = time.monotonic() - started_s
        finally:
            for worker in workers:
                end(worker)
        got = Counter(message.to for message in messenger.messages)
        counts = [got[phone(number)] for number in range(jobs)]
        return Report(
            kind=kind,
            jobs=jobs,
            exactly_one=sum(count == 1 for count in counts),
            none=sum(count == 0 for count in counts),
            several=sum(count > 1 for count in counts),
            refused_for_good=len(range(0, jobs, REFUSED_EVERY)),
            dead_letters=queue.counts().dead,
            kills=killed,
            seconds=round(seconds, 1),
        )


def misbehave(messenger: FakeUltraMsg, jobs: int) -> None:
    """Let the messenger fail in every way that a messenger can."""
    bad = {phone(number) for number in range(0, jobs, REFUSED_EVERY)}
    no_such_user = Reply.json({"error": [{"to": "invalid phone number"}]})
    messenger.fail_every(1, no_such_user, path="/messages/", when=lambda request: request.body.get("to") in bad)
    for nth, reply, path in (
        (7, Reply.dropped(accept=True), "/messages/"),
        (11, Reply.dropped(), "/messages/"),
        (13, Reply.json({"error": "something went wrong"}), "/messages/video"),
        (17, Reply.fault(429, retry_after=1), "/messages/"),
        (19, attrs.evolve(Reply.slow(1.0), accept=True), "/messages/"),
        (23, Reply.fault(503), "/messages/"),
    ):
        messenger.fail_every(nth, reply, path=path, when=lambda request: request.body.get("to") not in bad)
    for number in range(3, jobs, 10):
        messenger.refuse_videos(to=phone(number))


def over(queue: RedisVideoJobQueue) -> bool:
    """Whether every job has ended."""
    counts = queue.counts()
    return not (counts.queued + counts.scheduled + counts.in_flight + counts.deliveries)


def main() -> int:
    """Run it from the command line; 0 if every user got what they should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--down-s", type=float, default=60.0, help="how long the messenger is down")
    parser.add_argument("--kind", choices=["sync", "async", "both"], default="both")
    chosen = parser.parse_args()
    fine = True
    for kind in ("sync", "async") if chosen.kind == "both" else (chosen.kind,):
        report = run(kind=kind, jobs=chosen.jobs, kills=chosen.kills, down_s=chosen.down_s)
        print(report, "\n")
        fine = fine and report.fine
    print("each user got one message" if fine else "NOT as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
