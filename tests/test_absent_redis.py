"""An absent Redis is no dead holder: whoever has a message out keeps its job through an outage, and tells its user once.

Redis goes away, stands still or has its clock moved while messages are on their
way. When it is back, every lease has ended. Those who hold them live, and say so
before anybody takes anything over, also from themselves.
"""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
import time

import attrs
import pytest

from kit import QUICK, until
from kit.trouble import BRISK, at_least, is_lost, jobs
from kit.worker_process import end
from videopoll import LeasePolicy, OnUnknown, events
from videopoll.testing import EmbeddedRedis, Reply

SENDS = 8
AWAY_S = 2.5
"""Twice as long as a lease lasts, and longer than a worker waits for an answer."""

LOADING = "LOADING Redis is loading the dataset in memory"


def sends_on_their_way(trouble, takes_s=0.6, **options):
    """Start a worker with places to spare, and wait until its requests are out, and not answered yet."""
    trouble.world.factory.fail_every(1, Reply.slow(takes_s))
    trouble.enqueue(*jobs(SENDS))
    worker = trouble.worker(delivery_concurrency=3 * SENDS, **options).start()
    until(lambda: len(trouble.world.factory.requests) == SENDS, "all sends are on their way")
    return worker


def sit_out(trouble, how: str, seconds: float = AWAY_S) -> None:
    """Have Redis away for longer than leases last."""
    make, end = {
        "stands still": (trouble.server.pause, trouble.server.resume),
        "refuses": (trouble.proxy.refuse, trouble.proxy.accept),
        "answers nothing": (trouble.proxy.mute, trouble.proxy.heal),
        "is restarted": (trouble.server.kill, trouble.server.start),
    }[how]
    with at_least(seconds):
        make()
    end()


@pytest.mark.parametrize("policy", list(OnUnknown))
@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_receipts_in_memory_while_redis_is_away_are_written_before_anything_is_claimed(trouble, how, policy):
    """Redis loads for a moment yet, as after a restart: the settlements must not be overtaken by claims."""
    delivery = attrs.evolve(QUICK, on_unknown=policy)
    worker = sends_on_their_way(trouble, delivery=delivery)
    for script in ("settle", "renew"):
        trouble.proxy.answer(script, LOADING, times=6)
    sit_out(trouble, how)
    trouble.all_told_once(worker)
    worker.stop()

    assert len(worker.recorder.of(events.JobDelivered)) == SENDS


@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_messages_that_are_out_when_redis_comes_back_are_not_sent_again_by_the_same_worker(trouble, how):
    """Their leases have ended, and the worker has places left: what is in its own hands it does not take over."""
    worker = sends_on_their_way(trouble, takes_s=AWAY_S + 1)
    trouble.proxy.answer("renew", LOADING, times=6)
    sit_out(trouble, how)
    trouble.all_told_once(worker)


@pytest.mark.parametrize("how", ["stands still", "refuses", "answers nothing", "is restarted"])
def test_others_give_the_holders_time_to_renew_when_redis_is_back(trouble, how):
    """Workers without anything in hand have nothing to write first: they might be faster than the holder."""
    lease = LeasePolicy.lasting(3.0)
    worker = sends_on_their_way(trouble, takes_s=1.0, lease=lease)
    others = [trouble.worker(delivery_concurrency=SENDS, lease=lease).start() for _ in range(2)]
    sit_out(trouble, how, lease.duration_s + 1)
    trouble.all_told_once(worker)

    for one in [worker, *others]:
        assert not one.recorder.of(events.JobDeadLettered)
        assert not one.recorder.of(events.LeaseLost)


def test_a_worker_whose_renewals_fail_while_its_claims_work_sends_nothing_twice(trouble):
    """Its leases end while its message is on its way. It takes nothing more, and not its own job either."""
    trouble.proxy.answer(
        "renew", "NOPERM this user has no permissions to run the 'evalsha' command", times=float("inf")
    )
    worker = sends_on_their_way(trouble, takes_s=3 * BRISK.duration_s)
    with at_least(2 * BRISK.duration_s):
        is_lost(worker)
    trouble.proxy.heal()
    trouble.all_told_once(worker)


def test_a_worker_that_was_frozen_itself_goes_on_with_what_is_in_its_hands(trouble):
    """SIGSTOP, a laptop's lid, a paused VM: Redis was there all the time, and nobody else took the jobs over."""
    trouble.world.factory.fail_every(1, Reply.slow(1.0))
    trouble.enqueue(*jobs(SENDS))
    frozen = trouble.world.process(lease_s=BRISK.duration_s)
    try:
        until(lambda: len(trouble.world.factory.requests) == SENDS, "all sends are on their way")
        frozen.send_signal(signal.SIGSTOP)
        with at_least(AWAY_S):
            pass
        frozen.send_signal(signal.SIGCONT)
        with trouble.queue() as queue:
            until(lambda: not queue.counts().pending, "all are settled", 30)
    finally:
        end(frozen)

    assert trouble.told() == dict.fromkeys(trouble.users, 1)


MOVED_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *ahead_s;
__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("MOVED_CLOCK"), O_RDONLY);
  ahead_s = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
}
int gettimeofday(struct timeval *now, void *zone) {
  int answer = syscall(SYS_gettimeofday, now, zone);
  now->tv_sec += *ahead_s;
  return answer;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  int answer = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += *ahead_s;
  return answer;
}
time_t time(time_t *now) {
  struct timeval found;
  gettimeofday(&found, 0);
  if (now) *now = found.tv_sec;
  return found.tv_sec;
}
"""
"""Put in front of the C library, it moves the wall clock of one process."""


@pytest.fixture
def clock(tmp_path, monkeypatch, own_servers):
    """Return what moves the clock of the server that this test gets."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or the library is put in front in another way here")
    source, library, ahead = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "ahead"
    source.write_text(MOVED_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    ahead.write_bytes(bytes(8))
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("MOVED_CLOCK", str(ahead))
        server = EmbeddedRedis(append_only=True)
        server.start()
    kept, own_servers[:] = list(own_servers), [server]

    def move(seconds: int) -> None:
        # In its place: the server has the file in its memory, and dies if it is cut short for a moment.
        with ahead.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    yield move
    server.close()
    own_servers[:] = kept


@pytest.mark.parametrize("step_s", [60, -60])
def test_a_step_of_redis_clock_takes_no_job_from_a_worker_that_lives(clock, trouble, step_s):
    """All leases look ended at once, to the holder and to others: each claim tells how far the clock has moved."""
    lease = LeasePolicy.lasting(3.0)
    worker = sends_on_their_way(trouble, takes_s=3.0, lease=lease)
    others = [trouble.worker(delivery_concurrency=SENDS, lease=lease).start() for _ in range(2)]
    until(lambda: all(one.recorder.of(events.WorkerStarted) for one in others), "they are there")
    claims = trouble.proxy.commands.count("claim")
    until(lambda: trouble.proxy.commands.count("claim") > claims + 3, "they know Redis's clock")

    clock(step_s)
    with trouble.client as client:
        assert client.time()[0] - time.time() == pytest.approx(step_s, abs=10)
    trouble.enqueue("one_more")  # whoever hears the bell claims at once, before anybody renews
    trouble.all_told_once(worker)

    for one in [worker, *others]:
        assert not one.recorder.of(events.LeaseLost)
        assert not one.recorder.of(events.JobDeadLettered)
