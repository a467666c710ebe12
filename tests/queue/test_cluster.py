"""A node of a Redis Cluster: what works, and what is said where it does not."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
import redis

from kit import until
from kit.bench import Bench
from videopoll.cli.commands.doctor import Mark, check_redis
from videopoll.errors import QueueRefusedError, QueueUnavailableError
from videopoll.queue.schema import Keys
from videopoll.testing import unused_port
from videopoll.testing.embedded import _require_binary

TRIES = 5
"""A port that was free a moment ago may be another server's by now."""


@pytest.fixture(scope="module")
def node(tmp_path_factory, redis_server):
    """A node that has half of the slots, and believes that another one has the rest."""
    for _ in range(TRIES):
        port = unused_port()
        command = [
            str(_require_binary(redis_server.name)),
            *("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(unused_port())),
            *("--dir", str(tmp_path_factory.mktemp("node")), "--save", ""),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with redis.Redis(port=port) as client:

            def answers():
                with contextlib.suppress(redis.ConnectionError):
                    return client.ping()

            until(lambda: answers() or process.poll() is not None, "it answers, or has ended")  # noqa: B023
            if process.poll() is None:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                until(
                    lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True),
                    "it is well",
                )
                break
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def on_node(node, kind, call):
    """A queue on the node."""
    with redis.Redis.from_url(node) as db:
        bench = Bench(kind, node, "video", call, db)
        yield bench
        for queue in bench.queues:
            call(queue.close())
        db.flushall()


def test_a_prefix_without_a_hash_tag_is_told_what_to_do(on_node):
    for action in (on_node.enqueue, on_node.claim, on_node.get, on_node.counts):
        with pytest.raises(
            QueueRefusedError, match=r"node of a cluster.* Make the prefix a hash tag, such as \{video\}"
        ):
            action()


def test_a_prefix_that_is_a_hash_tag_works(on_node):
    on_node.prefix = "{video}"

    assert on_node.finish(on_node.one()) == "delivered"
    assert on_node.call(on_node.queue.list_jobs()).jobs == ()


def test_a_slot_of_another_node_is_told(on_node):
    on_node.prefix = "{video}"
    on_node.queue  # noqa: B018 - built before the slot moves
    slot = on_node.db.execute_command("CLUSTER", "KEYSLOT", "{video}")
    on_node.db.execute_command("CLUSTER", "DELSLOTS", slot)
    try:
        with pytest.raises(QueueUnavailableError, match="Try again"):
            on_node.enqueue()
    finally:
        on_node.db.execute_command("CLUSTER", "ADDSLOTS", slot)


def test_doctor_tells_of_a_prefix_without_a_hash_tag(node):
    """Else only the refusals say it, of calls that an operator may not see."""
    findings = {one.check: one for one in check_redis(node, "video", clock=False)}

    assert findings["cluster"].mark is Mark.WRONG
    assert "--prefix '{video}'" in findings["cluster"].fix


@pytest.mark.parametrize("prefix", ["{video}", "shop:{video}", "{a}{b}"])
def test_doctor_notes_that_one_node_is_no_cluster(node, prefix):
    marks = {one.check: one.mark for one in check_redis(node, prefix, clock=False)}

    assert marks["cluster"] is Mark.NOTE, "a failover would not be followed"
    assert "queue" not in marks, "the scripts are refused"


@pytest.mark.parametrize("prefix", ["video", "{}", "{}{video}", "}video{", "{video"])
def test_what_looks_like_a_hash_tag_is_none(node, prefix):
    """The slot of a key goes by what stands in the first braces, if that is anything."""
    keys = Keys(prefix)
    with redis.Redis.from_url(node) as client:
        slots = {
            client.execute_command("CLUSTER", "KEYSLOT", key) for key in (keys.queue, keys.schedule, keys.job("a"))
        }

    assert len(slots) > 1
    assert not keys.in_one_slot


@pytest.mark.one_server("a cluster is no elsewhere")
def test_doctor_says_nothing_of_clusters_elsewhere(redis_url, prefix):
    assert "cluster" not in {one.check for one in check_redis(redis_url, prefix, clock=False)}
