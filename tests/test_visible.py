"""A runner that a host embeds is seen by operators, without being told to."""

from __future__ import annotations

import json
import threading

import pytest
import redis
import redis.asyncio
from typer.testing import CliRunner

from kit import FAST, until
from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, RedisVideoJobQueue, Runner, SilentNotifier
from videopoll.cli import figures
from videopoll.cli.app import build_app
from videopoll.jobs import HistoryEvent
from videopoll.queue.connect import client_beside, client_of
from videopoll.queue.history import RedisHistory
from videopoll.queue.schema import Keys
from videopoll.testing import Reply, ScriptedPoller, unused_port


@pytest.fixture
def client(redis_url):
    """A look at the server from outside."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def keys(prefix):
    """The keys of the test's queue."""
    return Keys(prefix)


@pytest.fixture
def queue(redis_url, prefix):
    """A producer's queue."""
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def status(monkeypatch, redis_url, prefix):
    """Call ``videopoll status --json --check``; give its exit code and what it says."""
    for name in ("VIDEOPOLL_API_URL", "VIDEOPOLL_REDIS_URL", "VIDEOPOLL_PREFIX"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        command = ["status", "--json", "--check", "--no-scan", "--redis-url", redis_url, "--prefix", prefix]
        result = CliRunner().invoke(build_app(command), [*command, *arguments])
        return result.exit_code, json.loads(result.stdout)

    return call


def history_threads():
    """Return the threads that write histories."""
    return [thread for thread in threading.enumerate() if thread.name == "videopoll-history"]


def test_an_embedded_runner_shows_up_and_what_it_does_is_told(world, queue, client, keys, status):
    """In status with its API, and in explain and watch with its jobs; not any more when it has stopped."""
    world.api.job("job_1", Reply.completed("https://files.example/1.mp4"))
    queue.enqueue("job_1", conversation_id="c")
    with world.worker(notifier=SilentNotifier(), visible=True) as worker:
        (seen,) = until(queue.workers, "it beats")
        until(lambda: any(one.event is HistoryEvent.DELIVERED for one in queue.history("job_1")), "its story")
        code, told = status()

    assert (seen.worker_id, seen.alive, seen.video_api) == (worker.runner.worker_id, True, world.api.url)
    assert (code, told["workers_alive"], told["video_api"]["healthy"]) == (0, 1, True)
    assert {one.worker_id for one in queue.history("job_1")} == {worker.runner.worker_id}
    assert queue.workers() == ()
    assert history_threads() == []


def test_one_argument_turns_it_off(world, queue, client, keys):
    """Then nothing is written, and no thread is there for it."""
    world.api.job("job_1", Reply.completed("https://files.example/1.mp4"))
    queue.enqueue("job_1", conversation_id="c")
    with world.worker(notifier=SilentNotifier(), visible=False):
        until(lambda: client.exists(keys.completed("job_1")) and not client.exists(keys.outbox("job_1")), "its end")
        assert history_threads() == []

    assert not client.exists(keys.history, keys.workers, keys.loads)


def test_a_history_that_a_host_gives_takes_its_place(world, queue, client, keys):
    """Else each thing would be told twice."""
    world.api.job("job_1", Reply.completed("https://files.example/1.mp4"))
    queue.enqueue("job_1", conversation_id="c")
    with (
        RedisHistory(world.url, prefix=world.prefix) as own,
        world.worker(notifier=SilentNotifier(), visible=True, hooks=[own]),
    ):
        until(lambda: any(one.event is HistoryEvent.DELIVERED for one in queue.history("job_1")), "its story")
        assert len(history_threads()) == 1

    steps = [one.event for one in queue.history("job_1")]
    assert len(steps) == len(set(steps))


def one_batch(world, call, **options):
    """Do one batch with a runner of the world's kind, as a cron job does; give what it did."""
    twins = {"sync": (RedisVideoJobQueue, Runner), "async": (AsyncRedisVideoJobQueue, AsyncRunner)}
    of_queue, of_runner = twins[world.kind]
    queue = of_queue.from_url(world.url, prefix=world.prefix)
    try:
        return call(of_runner(queue, ScriptedPoller(), SilentNotifier(), strategy=FAST, **options).run_once())
    finally:
        call(queue.close())


def test_a_single_batch_has_told_its_story_when_it_returns(world, queue, call):
    """For explain; status knows of no worker, as none is left."""
    queue.enqueue("job_1", conversation_id="c")

    until(lambda: one_batch(world, call).delivered, "a batch delivers it")

    events = [one.event for one in queue.history("job_1")]
    assert (events[0], events[-1]) == (HistoryEvent.TAKEN, HistoryEvent.DELIVERED)
    assert queue.workers() == ()
    assert history_threads() == []


def test_a_single_batch_tells_nothing_if_it_is_not_to(world, queue, call, client, keys):
    queue.enqueue("job_1", conversation_id="c")

    until(lambda: one_batch(world, call, visible=False).delivered, "a batch delivers it")

    assert not client.exists(keys.history, keys.workers, keys.loads)


def test_a_single_batch_with_nothing_to_do_costs_no_connection_more(world, call, client):
    """A cron job comes every few seconds, and most of the time in vain."""
    before = client.info("stats")["total_connections_received"]
    one_batch(world, call, visible=False)
    between = client.info("stats")["total_connections_received"]
    one_batch(world, call)

    assert client.info("stats")["total_connections_received"] - between == between - before


def test_a_runner_that_starts_again_is_seen_again(world, queue):
    """Each run has a history of its own."""
    for _ in range(2):
        with world.worker(notifier=SilentNotifier(), visible=True):
            until(queue.workers, "it beats")
        assert queue.workers() == ()


def test_a_user_without_the_rights_is_told_once_and_works_on(world, queue, client, keys, caplog):
    """No job needs it."""
    client.acl_setuser(
        f"user-{world.prefix}",
        enabled=True,
        passwords=["+secret"],
        keys=[f"{world.prefix}:*"],
        commands=["+@all", "-xadd"],
    )
    plain, world.url = world.url, world.url.replace("redis://", f"redis://user-{world.prefix}:secret@")
    ids = [f"job_{number}" for number in range(5)]
    try:
        with world.worker(notifier=SilentNotifier(), visible=True):
            until(queue.workers, "it beats: that it may")
            for one in ids:
                world.api.job(one, Reply.completed("https://files.example/1.mp4"))
                queue.enqueue(one, conversation_id="c")
                until(lambda one=one: client.exists(keys.completed(one)), "its end")
            until(lambda: "The history is not written" in caplog.text, "the warning")
    finally:
        world.url = plain
        client.acl_deluser(f"user-{world.prefix}")

    assert caplog.text.count("The history is not written") == 1
    assert not client.exists(keys.history)


def test_a_redis_that_is_away_does_not_hold_up_the_end(trouble):
    """What was to be told is lost then, and nothing else."""
    with trouble.world.worker(visible=True) as worker:
        until(history_threads, "the history")
        trouble.server.stop()
        worker.stop(timeout_s=20)
    trouble.server.start()


@pytest.mark.parametrize("of", [redis, redis.asyncio])
def test_a_client_beside_a_hosts_goes_to_the_same_place(of, redis_url):
    """With its credentials and certificates, and with none of its pool's habits."""
    pool = of.BlockingConnectionPool.from_url(
        "rediss://user:secret@redis.example:7777/3?ssl_ca_certs=/ca.pem&client_name=mine", max_connections=7
    )
    beside = client_beside(of.Redis.from_pool(pool), 4.0).connection_pool

    assert beside.connection_class is redis.SSLConnection
    wanted = {"host": "redis.example", "port": 7777, "db": 3, "username": "user", "password": "secret"}
    wanted |= {"ssl_ca_certs": "/ca.pem", "socket_timeout": 4.0}
    assert wanted.items() <= beside.connection_kwargs.items()
    assert beside.max_connections != 7


@pytest.mark.parametrize("of", [redis, redis.asyncio])
def test_a_client_beside_one_of_sentinel_asks_the_same_sentinels(of):
    """With their user and the server's, each at its own."""
    manager = of.Sentinel([("h1", 1), ("h2", 2)], sentinel_kwargs={"password": "theirs"}, password="own", db=3)
    beside = client_beside(manager.master_for("mymaster"), 1.0)

    options = beside.connection_pool.connection_kwargs
    assert (options["password"], options["db"]) == ("own", 3)
    route = options["route"]
    assert (route.first_nodes, route.service) == ((("h1", 1), ("h2", 2)), "mymaster")
    # redis-py 5 says the protocol, too.
    assert {name: value for name, value in route.options.items() if name != "protocol"} == {"password": "theirs"}


def test_where_a_client_leads_that_opens_its_connections_in_a_way_of_its_own_is_not_known():
    """A host with such a client gives its runner a history itself."""

    class Own(redis.Connection):
        pass

    assert client_beside(redis.Redis.from_pool(redis.ConnectionPool(connection_class=Own)), 1.0) is None


def test_a_queue_on_a_hosts_client_offers_a_history(redis_url, prefix):
    """It writes to the same server, under the same prefix."""
    with (
        client_of(redis_url, Keys(prefix), 1.0) as own,
        RedisVideoJobQueue(own, prefix=prefix).open_history() as history,
    ):
        assert history is not None
        assert repr(history) == f"RedisHistory(prefix={prefix!r})"


def test_a_job_that_nobody_takes_is_a_problem_also_without_any_worker(queue, client, keys, status):
    """None was ever there, or none that tells of itself: the list alone shows it."""
    queue.enqueue("job_1", conversation_id="c")
    assert status()[0] == 0

    record = json.loads(client.get(keys.job("job_1")))
    record["startTime"] -= 1000 * (figures.LATE_S + 5)
    client.set(keys.job("job_1"), json.dumps(record), ex=600)
    code, told = status()

    assert code == 1
    assert "there is no worker at all: start one" in told["problems"][0]


def test_a_video_api_that_nobody_polls_is_not_asked(status):
    """A host with a poller of its own has nothing to do with it."""
    code, told = status()

    assert code == 0
    assert told["video_api"]["healthy"] is None
    assert "not asked" in told["video_api"]["detail"]


def test_the_video_api_that_a_worker_polls_is_asked(world, queue, client, keys, status):
    """It is down, and the worker has not noticed yet."""
    with world.worker(notifier=SilentNotifier(), visible=True):
        until(queue.workers, "it beats")
        load = json.loads(client.hvals(keys.loads)[0])
        load["video_api"] = f"http://127.0.0.1:{unused_port()}"
        client.hset(keys.loads, client.hkeys(keys.loads)[0], json.dumps(load))
        code, told = status()

    assert code == 1
    assert told["problems"][0].startswith("video API: ")
