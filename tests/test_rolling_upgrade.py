"""Weeks of a rolling upgrade of our own in a few seconds: old and new workers and producers side by side, and killed.

The old ones are those of the first version that others ran. `test_earlier_version` looks at single steps of a later one.
"""

from __future__ import annotations

import random
import time

import pytest

from kit import phone, until
from kit.earlier import Earlier
from kit.fleet_storm import Producer, all_told_once, end, job_of, settled, tally
from videopoll.testing import Reply

FIRST = "67d12f6975085bb183dd22b280bce284e17b4e93"
JOBS = 100
PLAN = ("old", "new", "old", "new", "new", "old", "new", "old", "new", "new")
"""What comes in the place of each worker that is killed: forward, back again, and forward."""

pytestmark = [
    pytest.mark.at_length,
    # Which scripts meet does not depend on the server.
    pytest.mark.parametrize("redis_server", ["redis"], indirect=True),
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The code of the first version."""
    return Earlier.of(FIRST, tmp_path_factory.mktemp("first"))


def test_old_and_new_workers_and_producers_under_kills_lose_nothing_and_double_nothing(world, first, tmp_path):
    """Half of the jobs come from an old producer, and the workers change versions in both directions."""
    choose = random.Random(7)
    # Sends take their time, and each fifth is put off: they are taken over and gone on with by the other version.
    world.ultramsg._latency_s = 0.3
    world.ultramsg.fail_every(5, Reply.json({"sent": "false", "message": "throttled"}), path="messages/video")
    for number in range(JOBS):
        world.api.job(job_of(number), ready_after_polls=2)

    def worker(version):
        if version == "new":
            return world.process(lease_s=1.5)
        return first.worker(world, tmp_path / f"{time.monotonic()}.log", world.kind)

    workers = [worker("old"), worker("old"), worker("new")]
    old = first.producer(world, {job_of(number): phone(number) for number in range(JOBS // 2)}, 0.2)
    new = Producer(world.url, range(JOBS // 2, JOBS), world.prefix, 0.2)
    new.start()
    try:
        until(lambda: world.ultramsg.messages, "they are at work", 60)
        for version in PLAN:
            time.sleep(choose.uniform(0.1, 0.5))
            end(workers.pop(choose.randrange(len(workers))))
            workers.append(worker(version))
        world.ultramsg.heal()
        new.join()
        said, _ = old.communicate(timeout=60)
        dead = settled(world.url, world.prefix, 90)
    finally:
        old.kill()
        for one in workers:
            end(one)

    assert said.split() == ["created"] * (JOBS // 2)
    told = [len(world.ultramsg.inbox(phone(number))) for number in range(JOBS)]
    assert tally(told) | {"dead letters": dead} == all_told_once(JOBS)
