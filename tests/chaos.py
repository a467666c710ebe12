"""Kill storms: many jobs, a few workers that keep being killed and frozen, a Redis that restarts, an API that fails.

    python tests/chaos.py --jobs 1000 --kills 100 --stops 3 --restarts 2

prints how many jobs there were, how many were delivered, lost and doubled, and
how long it took after the last fault until everything was delivered.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kit import API_KEY, INSTANCE, TOKEN, phone
from videopoll import LeasePolicy, QueueError, RedisVideoJobQueue
from videopoll.testing import EmbeddedRedis, FakeUltraMsg, FakeVideoApi, Reply
from worker_process import end, spawn

if TYPE_CHECKING:
    import subprocess

WORKERS = ("sync", "async", "async")
STRATEGY = {
    "interval_s": 2.0,
    "timeout_s": 300.0,
    "max_attempts": 300,
    "initial_delay_s": 0.5,
    "backoff_base_s": 0.5,
    "backoff_cap_s": 4.0,
}
"""Faster than the defaults, with room for the faults that are provoked."""

DELIVERY = {"backoff_base_s": 1.0, "backoff_cap_s": 8.0, "appear_within_s": 3.0}


@attrs.define
class Report:
    """What came of a storm."""

    jobs: int
    delivered: int
    lost: int
    doubled: int
    dead_letters: int
    kills: int
    stops: int
    restarts: int
    api_faults: int
    storm_s: float
    recovery_s: float

    def __str__(self) -> str:
        """A line for each figure."""
        return "\n".join(f"{name.replace('_', ' '):>14}: {value}" for name, value in attrs.asdict(self).items())


class Storm:
    """One run: jobs go in all the while, and faults come at random."""

    def __init__(self, *, jobs: int, kills: int, stops: int, restarts: int, seconds: float, seed: int) -> None:
        self.jobs = jobs
        self.seconds = seconds
        self.random = random.Random(seed)
        self.faults = ["kill"] * kills + ["stop"] * stops + ["restart"] * restarts
        self.random.shuffle(self.faults)
        self.kills, self.stops, self.restarts = kills, stops, restarts
        self.lease_s = LeasePolicy().duration_s
        self.processes: list[subprocess.Popen[bytes]] = []
        self.last_fault_s = time.monotonic()
        self.dead_letters = 0
        self.frozen: list[threading.Thread] = []

    def run(self) -> Report:
        """Carry it out."""
        with (
            EmbeddedRedis(append_only=True) as server,
            FakeVideoApi(api_key=API_KEY, ready_after_polls=2) as api,
            FakeUltraMsg(token=TOKEN, instance_id=INSTANCE) as messenger,
            tempfile.TemporaryDirectory() as folder,
            Path(folder, "workers.log").open("wb") as log,
        ):
            self.server = server
            api.fail_every(10, Reply.fault(503))
            self.settings: dict[str, Any] = {
                "url": server.url,
                "prefix": "video",
                "api_url": api.url,
                "api_key": API_KEY,
                "ultramsg_url": messenger.url,
                "factory_url": messenger.url,
                "instance": INSTANCE,
                "token": TOKEN,
                "lease_s": self.lease_s,
                "strategy": STRATEGY,
                "delivery": DELIVERY,
                "log": log,
            }
            self.processes = [spawn(kind=kind, **self.settings) for kind in WORKERS]
            try:
                started_s = time.monotonic()
                producer = threading.Thread(target=self._produce, daemon=True)
                producer.start()
                self._make_trouble(started_s)
                producer.join()
                recovered_s = self._settle_down()
                for thread in self.frozen:
                    thread.join()
                return self._report(
                    messenger, api, self.last_fault_s - started_s, max(0.0, recovered_s - self.last_fault_s)
                )
            finally:
                for process in self.processes:
                    end(process)

    def _produce(self) -> None:
        """Take jobs in, evenly, up to the last fault and beyond; a host tries again when Redis is away."""
        with RedisVideoJobQueue.from_url(self.server.url) as queue:
            for number in range(self.jobs):
                while True:
                    try:
                        queue.enqueue(
                            f"job_{number}",
                            conversation_id=f"conversation-{number}",
                            metadata={"channel": "ultramsg", "to": phone(number)},
                        )
                        break
                    except QueueError:
                        time.sleep(0.1)
                time.sleep(self.seconds / self.jobs)

    def _make_trouble(self, started_s: float) -> None:
        for number, fault in enumerate(self.faults, 1):
            time.sleep(max(0.0, started_s + self.seconds * number / len(self.faults) - time.monotonic()))
            if fault == "restart":
                self.server.restart()
            elif fault == "kill":
                place = self.random.randrange(len(self.processes))
                end(self.processes[place])
                self.processes[place] = spawn(kind=WORKERS[place], **self.settings)
            else:
                self._freeze(self.random.randrange(len(self.processes)))
            self.last_fault_s = time.monotonic()

    def _freeze(self, place: int) -> None:
        """Freeze a worker past its lease, beside the other faults; it is not killed meanwhile but replaced."""
        process, kind = self.processes[place], WORKERS[place]
        process.send_signal(signal.SIGSTOP)
        self.processes[place] = spawn(kind=kind, **self.settings)

        def thaw() -> None:
            time.sleep(self.lease_s * 1.3)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            time.sleep(2.0)
            end(process, signal.SIGTERM)

        thread = threading.Thread(target=thaw, daemon=True)
        thread.start()
        self.frozen.append(thread)

    def _settle_down(self, limit_s: float = 90.0) -> float:
        """Wait until every job is settled, and tell when that was."""
        until_s = time.monotonic() + limit_s
        with RedisVideoJobQueue.from_url(self.server.url) as queue:
            while time.monotonic() < until_s:
                with contextlib.suppress(QueueError):
                    counts = queue.counts()
                    if not (counts.queued + counts.scheduled + counts.in_flight + counts.deliveries):
                        break
                time.sleep(0.05)
            recovered_s = time.monotonic()
            self.dead_letters = queue.counts().dead
            for letter in queue.dead_letters.list():
                print("dead letter:", letter.job_id, letter.reason, file=sys.stderr)
        return recovered_s

    def _report(self, messenger: FakeUltraMsg, api: FakeVideoApi, storm_s: float, recovery_s: float) -> Report:
        got = Counter(message.to for message in messenger.messages)
        return Report(
            jobs=self.jobs,
            delivered=sum(phone(number) in got for number in range(self.jobs)),
            lost=sum(phone(number) not in got for number in range(self.jobs)),
            doubled=sum(count > 1 for count in got.values()),
            dead_letters=self.dead_letters,
            kills=self.kills,
            stops=self.stops,
            restarts=self.restarts,
            api_faults=len(api.requests) - sum(len(api.polls(f"job_{number}")) for number in range(self.jobs)),
            storm_s=round(storm_s, 1),
            recovery_s=round(recovery_s, 1),
        )


def main() -> int:
    """Run a storm from the command line; 0 if nothing was lost or doubled and recovery was quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long the faults go on")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}: {chosen.jobs} jobs, {', '.join(WORKERS)} workers, {chosen.seconds:g} s of faults")
    report = Storm(**vars(chosen)).run()
    print(report)
    fine = report.lost == 0 and report.doubled == 0 and report.recovery_s <= 15
    print("nothing was lost, nothing came twice" if fine else "NOT as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
