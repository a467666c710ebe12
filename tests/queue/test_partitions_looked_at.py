"""Who looks at a queue of which a partition is away sees the others, and is told which is missing."""

from __future__ import annotations

import json
import os
import time
import uuid

import attrs
import prometheus_client
import pytest
import redis
from redis.crc import key_slot
from typer.testing import CliRunner

from kit import until
from kit.fleets import SLOTS, Cluster
from videopoll.cli.app import build_app
from videopoll.errors import PartitionsAwayError, QueueUnavailableError
from videopoll.observe.metrics import PrometheusHook
from videopoll.queue.layout import homes, prefix_of
from videopoll.queue.partitioned_queue import AsyncPartitionedQueue, PartitionedQueue
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.testing import EmbeddedRedis

IDS = [f"job_{number}" for number in range(20)]
THERE = {number: [job_id for job_id in IDS if homes(job_id, 2)[-1] == number] for number in (0, 1)}


@attrs.define
class Pair:
    """Two servers with a partition on each."""

    servers: list[EmbeddedRedis]
    kind: str

    def queue(self, kind=None, partitions=2):
        """Build a queue of both."""
        cls, one = {
            "sync": (PartitionedQueue, RedisVideoJobQueue),
            "async": (AsyncPartitionedQueue, AsyncRedisVideoJobQueue),
        }[kind or self.kind]

        def make(number):
            prefix = prefix_of("{video}", number)
            return one.from_url(self.servers[min(number, 1)].url, prefix=prefix, front_timeout_s=1.0)

        return cls(make, partitions, None)


@pytest.fixture
def pair(kind):
    """Two servers of their own, with jobs."""
    with EmbeddedRedis() as first, EmbeddedRedis() as second:
        pair = Pair([first, second], kind)
        with pair.queue("sync") as queue:
            queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
            queue.announce()
        yield pair
        for server in (first, second):
            server.resume() if server.running else None


@pytest.fixture
def queue(pair, call):
    """A queue of the kind that is tested."""
    queue = pair.queue()
    yield queue
    call(queue.close())


@pytest.mark.parametrize("away", [0, 1])
def test_what_is_known_of_the_others_is_in_the_error(pair, queue, call, away):
    """Nobody takes it for the whole, and nobody has to do without it."""
    pair.servers[away].kill()
    rest = THERE[1 - away]
    looks = {
        "counts": (queue.counts, lambda known: known.queued == len(rest)),
        "list_jobs": (queue.list_jobs, lambda known: {job.job_id for job in known.jobs} == set(rest)),
        "history": (queue.history, lambda known: known == ()),
        "workers": (queue.workers, lambda known: known == ()),
        "held_accounts": (queue.held_accounts, lambda known: known == {}),
        "dead_letters.list": (queue.dead_letters.list, lambda known: known == []),
        "hand_back": (queue.hand_back, lambda known: known.complete),
    }
    for name, (look, is_known) in looks.items():
        with pytest.raises(PartitionsAwayError, match="1 of 2 partitions did not answer") as raised:
            call(look())
        assert raised.value.partitions == (away,), name
        assert is_known(raised.value.known), name
        assert f"({prefix_of('{video}', away)})" in str(raised.value)
    pair.servers[away].start()
    until(lambda: _answers(call, queue), "all is well when it is back")


def _answers(call, queue):
    try:
        return call(queue.counts()) is not None
    except QueueUnavailableError:
        return False


def test_while_the_first_is_away_the_others_tell_how_many_there_are(pair, queue, call):
    """Else those that came since would be left out, and nobody told of it."""
    new = next(one for one in (f"new_{number}" for number in range(100)) if homes(one, 3)[-1] == 2)
    with pair.queue("sync", partitions=3) as more:
        more.announce()
        more.enqueue(new, conversation_id="c")
    pair.servers[0].kill()
    with pytest.raises(PartitionsAwayError, match="1 of 3 partitions") as raised:
        call(queue.list_jobs())
    assert {job.job_id for job in raised.value.known.jobs} == {*THERE[1], new}


def test_where_nobody_answers_that_is_said(pair, queue, call):
    """As of one server."""
    for server in pair.servers:
        server.kill()
    with pytest.raises(QueueUnavailableError, match="cannot reach Redis") as raised:
        call(queue.counts())
    assert not isinstance(raised.value, PartitionsAwayError)


def test_a_drain_is_not_done_while_a_partition_cannot_be_asked(pair, queue, call):
    """Its jobs may be many, though the others have none."""
    pair.servers[1].kill()
    with redis.Redis.from_url(pair.servers[0].url) as client:
        client.flushall()
    with pytest.raises(PartitionsAwayError) as raised:
        call(queue.drain(timeout_s=0.2))
    assert raised.value.known.pending == 0


def test_one_that_says_no_is_left_out_as_well(pair, call):
    """A user that a new node does not know yet. Waiting does not cure that."""
    with redis.Redis.from_url(pair.servers[1].url) as client:
        client.config_set("requirepass", "secret")
    queue = pair.queue()
    with pytest.raises(PartitionsAwayError, match="credentials") as raised:
        call(queue.counts())
    assert (raised.value.known.queued, raised.value.partitions) == (len(THERE[0]), (1,))
    began_s = time.monotonic()
    with pytest.raises(PartitionsAwayError, match="credentials"):
        call(queue.drain(timeout_s=30))
    assert time.monotonic() - began_s < 5
    call(queue.close())


def test_one_that_is_silent_holds_up_the_first_look_alone(pair, queue, call):
    """A page of several looks would take a limit for each of them."""
    pair.servers[0].pause()
    with pytest.raises(PartitionsAwayError):
        call(queue.counts())
    began_s = time.monotonic()
    for look in (queue.counts, queue.workers, queue.list_jobs, queue.history):
        with pytest.raises(PartitionsAwayError):
            call(look())
    assert time.monotonic() - began_s < 1.0


def test_the_gauge_is_missing_and_never_too_small(pair):
    """An alert on a number that shrank would not ring."""
    registry = prometheus_client.CollectorRegistry()
    with pair.queue("sync") as queue:
        PrometheusHook(registry, counts=queue.counts)
        assert registry.get_sample_value("videopoll_jobs", {"state": "queued"}) == len(IDS)
        pair.servers[1].kill()
        assert registry.get_sample_value("videopoll_jobs", {"state": "queued"}) is None


# --- the command line ---


@pytest.fixture(scope="module")
def cluster():
    """Three masters, of which two go on without the third."""
    with Cluster(masters=3, replicas=False, options=("--cluster-require-full-coverage", "no")) as cluster:
        yield cluster


@attrs.define
class Tool:
    """The command line on a queue of three partitions, and the server of one that is to go away."""

    cluster: Cluster
    prefix: str
    queue: RedisVideoJobQueue

    def server_of(self, number):
        """Return the server that has a partition."""
        slot = key_slot(prefix_of(self.prefix, number).encode())
        return self.cluster.servers[min(2, slot // (SLOTS // 3))]

    def __call__(self, *words, partitions=None, code=0):
        words = [*words, "--redis-url", self.cluster.url, "--prefix", self.prefix]
        words += [] if partitions is None else ["--partitions", str(partitions)]
        result = CliRunner().invoke(build_app(words[:1]), words)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def tool(cluster, monkeypatch):
    """A queue whose partitions are on a server each."""
    for name in [name for name in os.environ if name.startswith("VIDEOPOLL_")]:
        monkeypatch.delenv(name)
    tool = Tool(cluster, "", None)
    while len({server.port for server in map(tool.server_of, range(3))}) < 3:
        tool.prefix = f"{{{uuid.uuid4().hex[:8]}}}"
    with RedisVideoJobQueue.from_url(cluster.url, prefix=tool.prefix, partitions=3) as tool.queue:
        tool.queue.enqueue_many([(job_id, "c", None) for job_id in IDS])
        tool.queue.announce()
        yield tool
    for server in cluster.servers:
        server.start() if server.process is None else None
    until(cluster.is_well, "the cluster is well", 20)


@pytest.mark.parametrize("away", [0, 2])
def test_commands_that_look_show_the_others_and_say_which_is_away(tool, away):
    """And their exit code says that it is not the whole."""
    gone = [job_id for job_id in IDS if homes(job_id, 3)[-1] == away]
    rest = set(IDS) - set(gone)
    tool.server_of(away).kill()
    given = 3 if away == 0 else None
    name = prefix_of(tool.prefix, away)
    if away == 0:
        assert "--partitions N" in tool("jobs", code=1).stderr

    status = json.loads(tool("status", "--json", partitions=given).stdout)
    assert (status["queued"], status["partitions_away"]) == (len(rest), [away])
    assert (status["redis"]["healthy"], status["counted_all_keys"]) == (False, False)
    assert name in status["problems"][0]
    told = tool("status", "--check", partitions=given, code=1).stdout
    assert f"waiting to be taken: {len(rest)}" in told
    assert "Redis: down: " in told
    assert name in told

    listed = tool("jobs", "--json", partitions=given, code=1)
    assert {one["job_id"] for one in json.loads(listed.stdout)} == rest
    assert name in listed.stderr
    look = json.loads(tool("watch", "--json", "--for", "0", partitions=given).stdout.splitlines()[0])
    assert (look["queued"], look["partitions_away"]) == (len(rest), [away])
    assert name in tool("dead", "list", partitions=given, code=1).stderr
    drained = tool("drain", "--timeout", "0", "--json", partitions=given, code=1)
    assert json.loads(drained.stdout)["drained"] is False
    findings = json.loads(tool("doctor", "--json", partitions=given, code=1).stdout)["findings"]
    of_it = [one["found"] for one in findings if one["check"] == name]
    assert len(of_it) == 1
    assert "does not answer" in of_it[0]
    assert {"version", "keys"} <= {one["check"] for one in findings}
    kept = next(iter(rest))
    assert json.loads(tool("show", kept, "--json", partitions=given).stdout)["state"] == "queued"
    assert name in tool("explain", kept, partitions=given).stderr
