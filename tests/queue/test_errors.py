"""Errors: what a queue says of a Redis that is away, refuses, or has forgotten its scripts."""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from typing import Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit import shut
from kit.bench import KINDS, Bench
from videopoll import QueueUnavailableError, RedisVideoJobQueue
from videopoll.errors import QueueRefusedError
from videopoll.jobs.views import EnqueueResult
from videopoll.queue.errors import of_a_cluster
from videopoll.testing import unused_port


def test_a_redis_that_is_away_is_told_within_a_second(kind, call):
    """An enqueue in a web request fails fast, with a clear error."""
    bench = Bench(kind, f"redis://127.0.0.1:{unused_port()}/0", "video", call, None)
    actions = [
        bench.enqueue,
        bench.claim,
        bench.get,
        bench.counts,
        lambda: call(bench.queue.cancel("job_1")),
        lambda: call(bench.queue.recover(idle_s=0)),
        lambda: call(bench.queue.dead_letters.list()),
        lambda: call(bench.queue.dead_letters.redrive("job_1")),
        lambda: call(bench.queue.wait_for_work(5)),
    ]
    for action in actions:
        started_s = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="cannot reach Redis"):
            action()
        assert time.monotonic() - started_s < 1
    call(bench.queue.close())


def test_a_redis_that_does_not_answer_is_told_in_time(kind, call):
    """A frozen server is worse than none: the host chooses how long to wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bench = Bench(kind, f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "video", call, None)
        bench.options["front_timeout_s"] = 0.2
        started_s = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="did not answer in time"):
            bench.enqueue()
        assert time.monotonic() - started_s < 1.5
        call(bench.queue.close())


def test_a_number_of_a_database_that_is_not_there_is_told(kind, call, redis_url):
    bench = Bench(kind, f"{redis_url.rpartition('/')[0]}/99999", "video", call, None)
    with pytest.raises(QueueRefusedError, match=r"^counts?.*: this Redis has no database of the number at the end"):
        bench.counts()
    call(bench.queue.close())


class Grumpy:
    """A server that answers every script, scan and read with the same error, and counts them."""

    def __init__(self, error: str, *, hang_up: bool = False) -> None:
        self._reply = b"" if hang_up else f"-{error}\r\n".encode()
        self.scripts = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0?protocol=2"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                for command in re.findall(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)", data):
                    if command.upper() in {b"EVALSHA", b"EVAL"}:
                        self.scripts += 1
                        if not self._reply:
                            return
                        connection.sendall(self._reply)
                    else:
                        connection.sendall(b"+OK\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shut(self._socket)


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script.",
        "ERR Script attempted to access a non local key in a cluster node script: 95c6, on @user_script:212.",
        "ERR Unable to execute command 'mget' in script because undeclared keys were accessed during rehashing of the slot",
    ],
    ids=lambda error: error.split()[0] if not error.startswith("ERR") else error[4:20],
)
def test_an_error_that_passes_says_try_again(kind, call, error):
    """Restarts and failovers are waited out by the worker; a person need not act."""
    with Grumpy(error) as server:
        bench = Bench(kind, server.url, "video", call, None)
        for action in (bench.enqueue, bench.claim):
            with pytest.raises(QueueUnavailableError, match="Try again"):
                action()
        call(bench.queue.close())


@pytest.mark.parametrize(
    "error", ["WRONGTYPE Operation against a key", "ERR unknown command 'EVALSHA'", "NOPERM no permissions"]
)
def test_an_error_that_does_not_pass_says_no(kind, call, error):
    """An operator has to act."""
    with Grumpy(error) as server:
        bench = Bench(kind, server.url, "video", call, None)
        for action in (bench.enqueue, bench.claim):
            with pytest.raises(QueueRefusedError):
                action()
        call(bench.queue.close())


def test_a_claim_whose_reply_was_lost_is_not_run_twice_and_an_enqueue_is(kind, call):
    """The lost claim's lease covers it; the enqueue gives the same answer twice."""
    with Grumpy("", hang_up=True) as server:
        bench = Bench(kind, server.url, "video", call, None)
        with pytest.raises(QueueUnavailableError):
            bench.claim()
        assert server.scripts == 1
        with pytest.raises(QueueUnavailableError):
            bench.enqueue()
        assert server.scripts == 3
        call(bench.queue.close())


def test_a_full_memory_is_told_and_passes(bench):
    """OOM command not allowed."""
    bench.enqueue("warm-up")
    before = bench.db.config_get("maxmemory")["maxmemory"]
    bench.db.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailableError, match="Try again"):
            bench.enqueue()
        with pytest.raises(QueueUnavailableError):
            bench.claim()
    finally:
        bench.db.config_set("maxmemory", before)
    assert bench.enqueue() is EnqueueResult.CREATED


@pytest.mark.parametrize("kind_of_key", ["set", "hash", "string"])
def test_a_queue_key_of_the_wrong_type_is_refused_before_anything_is_written(bench, kind_of_key):
    """No record without an id in the list."""
    if kind_of_key == "string":
        bench.db.set(bench.keys.queue, "x", ex=60)
    else:
        getattr(bench.db, KINDS[kind_of_key])(bench.keys.queue, *(["x", "y"] if kind_of_key == "hash" else ["x"]))
    with pytest.raises(QueueRefusedError, match="WRONGTYPE"):
        bench.enqueue()
    with pytest.raises(QueueRefusedError, match="WRONGTYPE"):
        bench.claim()
    assert bench.names() == {"poll:queue"}
    bench.db.delete(bench.keys.queue)


def test_flushed_scripts_are_loaded_again(bench):
    """A failover to a server that has never seen them."""
    bench.enqueue("job_0")
    bench.db.script_flush()
    (claim,) = bench.claim()
    bench.db.script_flush()
    assert bench.finish(claim) == "delivered"
    bench.db.script_flush()
    assert bench.enqueue() is EnqueueResult.CREATED


def test_a_node_that_has_not_the_keys_says_where_to_connect(kind, call):
    """It passes while a slot moves; otherwise it is the wrong node, or a prefix that is no hash tag."""
    with Grumpy("MOVED 3999 127.0.0.1:6381") as server:
        bench = Bench(kind, server.url, "video", call, None)
        with pytest.raises(
            QueueUnavailableError, match=r"another node .* hash tag, such as \{video\}, and write redis\+cluster"
        ):
            bench.enqueue()
        call(bench.queue.close())


def test_a_call_whose_connection_another_thread_closed_is_made_on_another_one(redis_url, prefix):
    """redis-py 5 says in words of Python's own that a connection was closed under the hands of whoever waits on it."""

    class ClosedOnce(redis.Redis):
        closed = False

        def execute_command(self, *words, **options):
            if not self.closed:
                self.closed = True
                with io.BytesIO() as buffer:
                    pass
                buffer.read()
            return super().execute_command(*words, **options)

    with ClosedOnce.from_url(redis_url, retry=Retry(NoBackoff(), 0)) as client:
        assert RedisVideoJobQueue(client, prefix=prefix).get("job_1") is None
        assert client.closed


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("MOVED 12182 h:7001", redis.exceptions.MovedError),
        ("ASK 12182 h:7001", redis.exceptions.AskError),
        ("TRYAGAIN Multiple keys request during rehashing of slot", redis.exceptions.TryAgainError),
        ("CLUSTERDOWN The cluster is down", redis.exceptions.ClusterDownError),
        ("MASTERDOWN Link with MASTER is down", redis.exceptions.MasterDownError),
        ("ERR no such thing", redis.exceptions.ResponseError),
    ],
)
def test_what_a_node_of_a_cluster_says_has_its_class_also_where_the_client_gives_it_none(said, kind):
    """redis-py 5 knows these in its own client of clusters alone."""
    found = of_a_cluster(redis.exceptions.ResponseError(said))

    assert type(found) is kind
    if issubclass(kind, redis.exceptions.AskError):
        assert (found.host, found.port) == ("h", 7001)
