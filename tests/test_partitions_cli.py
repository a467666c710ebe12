"""The command line on a queue of several partitions: it is one queue, and `videopoll partitions` shows what it is made of."""

from __future__ import annotations

import json
import os

import pytest
import redis
from typer.testing import CliRunner

from kit import until
from videopoll import LeasePolicy, PollingStrategy, RedisVideoJobQueue
from videopoll.cli.app import build_app
from videopoll.cli.commands.doctor import check_redis
from videopoll.queue.history import RedisHistory
from videopoll.queue.layout import homes, prefix_of

FIXED_KEYS = 20
IDS = [f"job_{number}" for number in range(30)]


@pytest.fixture
def tag(prefix):
    """A hash tag of the test's own."""
    return f"{{{prefix}}}"


@pytest.fixture
def cli(monkeypatch, redis_url, tag):
    """Call a command on the test's own keys, with a clean environment; nobody says how many partitions there are."""
    for name in [name for name in os.environ if name.startswith("VIDEOPOLL_")]:
        monkeypatch.delenv(name)

    def call(*args, code=0):
        words = [*args, "--redis-url", redis_url, "--prefix", tag]
        result = CliRunner().invoke(build_app(words[:1]), words)
        assert result.exit_code == code, result.output
        return result.stdout

    return call


@pytest.fixture
def queue(redis_url, tag):
    """A queue of three partitions."""
    with RedisVideoJobQueue.from_url(redis_url, prefix=tag, partitions=3) as queue:
        yield queue


class Idle:
    """What a heartbeat is read from."""

    worker_id, concurrency, polls_in_hand, sends_in_hand, stopping = "worker_1", 1, 0, 0, False

    def health(self):
        """Say that all is well."""
        from videopoll.jobs.views import Health

        return Health(healthy=True)


def test_every_command_sees_all_partitions_as_one(cli, queue):
    """Nobody has to say how many there are: Redis knows."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    assert json.loads(cli("status", "--json"))["queued"] == 30
    for job_id in IDS:
        assert job_id in cli("show", job_id, "--json")
    cli("cancel", IDS[0])
    assert queue.get(IDS[0]).state.value == "settled"
    assert "known" in cli("enqueue", IDS[1], "--conversation", "c")


def test_partitions_shows_each(cli, queue, tag):
    """Where it is, what is in it, who serves it."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    rows = json.loads(cli("partitions", "--json"))
    assert [row["prefix"] for row in rows] == [prefix_of(tag, one) for one in range(3)]
    assert sum(row["pending"] for row in rows) == 30
    assert tag[:-1] in cli("partitions")


def test_raising_tells_every_partition_and_its_jobs_stay(cli, queue, redis_url, tag):
    """Producers learn it with their next job."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    assert [row["knows"] for row in json.loads(cli("partitions", "--raise-to", "5", "--json"))] == [5] * 5
    assert {result.value for result in queue.enqueue_many([(job_id, "c", None) for job_id in IDS])} == {"known"}
    assert "partitions=5" in repr(queue)
    assert (
        "never be fewer"
        in CliRunner()
        .invoke(build_app(["partitions"]), ["partitions", "--raise-to", "2", "--redis-url", redis_url, "--prefix", tag])
        .stderr
    )


def test_doctor_tells_of_a_partition_that_nobody_serves(cli, queue, redis_url, tag):
    """A worker with --serve, and one partition more than it names."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    wrong = {one.check: one for one in check_redis(redis_url, tag)}
    assert all(prefix_of(tag, number) in wrong for number in range(3))
    histories = [RedisHistory(redis_url, prefix=prefix_of(tag, number)) for number in (0, 2)]
    for history in histories:
        history.follow(Idle())
    until(lambda: sum(len(queue.partitions[number].workers()) for number in (0, 2)) == 2, "they tell of themselves")
    found = {one.check: one for one in check_redis(redis_url, tag)}
    assert (prefix_of(tag, 0) in found, prefix_of(tag, 1) in found, prefix_of(tag, 2) in found) == (False, True, False)
    assert "--serve 1" in found[prefix_of(tag, 1)].fix
    for history in histories:
        history.close()


def test_doctor_looks_at_the_fixed_keys_of_each_partition(cli, queue, redis_url, tag):
    """What another program writes may be in the way of any of them."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    fixed = [one.found for one in check_redis(redis_url, tag) if one.check == "keys"]
    key = f"{prefix_of(tag, 2)}:poll:schedule"
    with redis.Redis.from_url(redis_url) as client:
        client.set(key, "not a sorted set", ex=60)
        wrong = [one.found for one in check_redis(redis_url, tag) if one.check == "keys"]
    assert fixed == [f"{3 * FIXED_KEYS} fixed keys have their types"]
    assert wrong == [f"{key} is a string, not a sorted set"]


def test_explain_tells_of_the_workers_that_serve_the_partition_of_the_job(cli, queue, redis_url, tag):
    """One that lives and serves others is no help to it."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    here, there = (next(one for one in IDS if homes(one, 3)[-1] == number) for number in (0, 2))
    history = RedisHistory(redis_url, prefix=prefix_of(tag, 0))
    history.follow(Idle())
    until(queue.workers, "it tells of itself")
    assert "No worker" not in cli("explain", here)
    assert f"No worker is known to be alive and to serve {prefix_of(tag, 2)}" in cli("explain", there)
    history.close()


def test_a_drain_and_a_look_at_dead_letters_know_of_all_partitions(cli, queue, redis_url, tag):
    """Nothing is drained while one of them has a job."""
    last = next(one for one in IDS if homes(one, 3)[-1] == 2)
    queue.enqueue(last, conversation_id="c")
    assert json.loads(cli("drain", "--timeout", "0", "--json", code=1))["left"] == 1
    assert [one["job_id"] for one in json.loads(cli("jobs", "--json"))] == [last]


def test_doctor_tells_of_partitions_that_know_another_number(cli, queue, redis_url, tag):
    """A raise that one of them missed."""
    cli("partitions", "--raise-to", "3")
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{prefix_of(tag, 2)}:poll:layout", "2:1")
        found = {one.check: one for one in check_redis(redis_url, tag)}
        client.delete(*(f"{prefix_of(tag, one)}:poll:layout" for one in range(3)))
    assert "--raise-to 3" in found[prefix_of(tag, 2)].fix


def test_the_rights_of_all_partitions_are_printed(cli):
    """And of no other prefix."""
    assert (
        "~{shop:1}:*"
        in CliRunner().invoke(build_app(["acl"]), ["acl", "--prefix", "{shop}", "--partitions", "2"]).stdout
    )


@pytest.mark.parametrize("given", ["0;1", "", "-1", "one"])
def test_serve_takes_numbers(given):
    """From 0, with commas."""
    result = CliRunner().invoke(build_app(["worker"]), ["worker", "--serve", given], env={"VIDEOPOLL_API_KEY": "k"})
    assert result.exit_code != 0
    assert "--serve" in result.output


def test_a_claim_of_a_worker_that_serves_some_is_of_those(queue, redis_url, tag):
    """What --serve hands over."""
    queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
    with RedisVideoJobQueue.from_url(redis_url, prefix=tag, partitions=3, serve=(1,)) as one:
        batch = one.claim(
            worker_id="w", polls=99, sends=0, strategy=PollingStrategy(initial_delay_s=0), lease=LeasePolicy()
        )
    assert 0 < len(batch.claims) < 30
