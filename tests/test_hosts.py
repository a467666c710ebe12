"""The servers and task queues that hosts run in, each for real: a program of tests/hosts, with a worker embedded.

A host that is not installed is skipped. `nox -s hosts` has them all.
"""

from __future__ import annotations

import json
import os
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit import phone, until
from kit.hosts import LONG_S, environment, needs, running
from videopoll.testing import unused_port

HOSTS = Path(__file__).parent / "hosts"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def kind():
    """The twin that a host uses is its own matter."""
    return "sync"


@pytest.fixture
def host(world, broker, tmp_path):
    """``with host("-m", "gunicorn", …) as process`` runs a program of tests/hosts until it is told to stop."""
    base = environment(world, broker, tmp_path) | {
        "PYTHONPATH": os.pathsep.join([str(HOSTS), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "error::ResourceWarning",
    }

    @contextmanager
    def run(*arguments, tidy=True, **settings):
        with running(*arguments, log=tmp_path / "log", env=base | settings, at=tmp_path) as process:
            yield process
        told = process.told()
        # A host may leave its own sockets open; those to our servers are ours.
        servers = [url.rpartition(":")[2].partition("/")[0] for url in (world.url, world.api.url, world.ultramsg.url)]
        ours = [f"raddr=('127.0.0.1', {port})" for port in servers]
        assert not (tidy and any(address in told for address in ours)), told

    return run


def get(port, query=""):
    """Ask a host's application."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{query}", timeout=10) as response:
        return json.load(response)


def get_when_up(port, query=""):
    def ask():
        try:
            return get(port, query)
        except OSError:
            return None

    return until(ask, "it answers", LONG_S)


def workers_of(port, count):
    """Return what each of so many processes of a server says of its worker."""
    told = {}

    def ask():
        answer = get_when_up(port)
        told[answer["pid"]] = answer
        return len(told) >= count

    until(ask, f"{count} processes answer", LONG_S)
    return list(told.values())


def delivered_once(world, user):
    """Whether a user has got the video: one message."""
    until(lambda: world.ultramsg.inbox(phone(user)), "the video arrives", LONG_S)
    return len(world.ultramsg.inbox(phone(user))) == 1


# --- web servers ---

GUNICORN = ("-m", "gunicorn", "wsgi_app:application", "-c", "python:gunicorn_conf", "--workers", "2")


@needs("gunicorn")
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorn_runs_a_worker_in_each_of_its_processes(world, host, preload):
    port = unused_port()
    with host(*GUNICORN, *preload, "--bind", f"127.0.0.1:{port}"):
        told = workers_of(port, 2)
        for user in range(6):
            get(port, f"?job=job_{user}&user={phone(user)}")
        assert all(delivered_once(world, user) for user in range(6))

    assert len({one["worker"] for one in told}) == 2
    assert [one["problems"] for one in told] == [[], []]


@needs("gunicorn")
def test_gunicorn_with_a_worker_started_before_the_fork_says_so(world, host):
    """It runs in the one process that forks the others, and each of those tells that it does not run there."""
    port = unused_port()
    # What the first process has in use when it forks is open in each of the others until they end.
    with host(*GUNICORN, "--preload", "--bind", f"127.0.0.1:{port}", START="at import", tidy=False):
        told = workers_of(port, 2)

    assert all("call start() after the fork" in one["problems"][0] for one in told)


@needs("gunicorn", "gevent")
def test_gunicorn_with_gevent_runs_a_worker_in_each_of_its_processes(world, host):
    port = unused_port()
    with host(*GUNICORN, "--worker-class", "gevent", "--bind", f"127.0.0.1:{port}"):
        told = workers_of(port, 2)
        for user in range(4):
            get(port, f"?job=job_{user}&user={phone(user)}")
        assert all(delivered_once(world, user) for user in range(4))

    assert [one["problems"] for one in told] == [[], []]


UVICORN = ("-m", "uvicorn", "asgi_app:application", "--app-dir", str(HOSTS), "--log-level", "warning")


@needs("uvicorn")
@pytest.mark.parametrize("processes", [1, 2])
def test_uvicorn_runs_a_worker_in_each_of_its_processes(world, host, processes):
    port = unused_port()
    with host(*UVICORN, "--workers", str(processes), "--port", str(port)):
        told = workers_of(port, processes)
        for user in range(6):
            get(port, f"?job=job_{user}&user={phone(user)}")
        assert all(delivered_once(world, user) for user in range(6))

    assert len({one["worker"] for one in told}) == processes
    assert [one["problems"] for one in told] == [[]] * processes


@needs("uvicorn")
def test_uvicorn_with_reload_stops_the_worker_and_starts_a_new_one(world, host, tmp_path):
    port, module = unused_port(), tmp_path / "module.py"
    module.touch()
    with host(*UVICORN, "--reload", "--reload-dir", str(tmp_path), "--port", str(port)):
        before = get_when_up(port, f"?job=job_1&user={phone(1)}")
        assert delivered_once(world, 1)
        later_s = module.stat().st_mtime + 60
        os.utime(module, (later_s, later_s))
        after = until(
            lambda: (told := get_when_up(port)) and told["pid"] != before["pid"] and told, "it is new", LONG_S
        )
        get(port, f"?job=job_2&user={phone(2)}")
        assert delivered_once(world, 2)

    assert after["worker"] != before["worker"]


# --- task queues ---


def celery(pool, *more):
    return ("-m", "celery", "-A", "celery_app", "worker", "--pool", pool, "--loglevel", "WARNING", *more)


@needs("celery")
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", pytest.param("gevent", marks=needs("gevent"))])
def test_celery_runs_a_worker_in_the_background_of_its_processes(world, host, pool):
    more = () if pool == "solo" else ("--concurrency", "2")
    with host(*celery(pool, *more), POOL=pool, RUNNER="background"):
        for user in range(3):
            with host(str(HOSTS / "celery_app.py"), f"job_{user}", phone(user), POOL=pool, RUNNER="") as caller:
                assert caller.wait(LONG_S) == 0
        assert all(delivered_once(world, user) for user in range(3))


@needs("celery")
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", pytest.param("gevent", marks=needs("gevent"))])
def test_celery_does_a_batch_at_a_time(world, host, pool):
    """As its beat would have it do."""
    more = () if pool == "solo" else ("--concurrency", "2")
    with host(*celery(pool, *more), POOL=pool, RUNNER="batches"):
        with host(str(HOSTS / "celery_app.py"), "job_1", phone(1), POOL=pool, RUNNER="") as caller:
            assert caller.wait(LONG_S) == 0

        def arrives():
            with host(str(HOSTS / "celery_app.py"), POOL=pool, RUNNER="batches") as caller:
                assert caller.wait(LONG_S) == 0
            return world.ultramsg.inbox(phone(1))

        until(arrives, "the video arrives", LONG_S)
        assert delivered_once(world, 1)


@needs("rq")
def test_the_work_horse_of_rq_enqueues_and_does_batches(world, host):
    """It is forked for each job, from a process that has a connection open."""
    with host(str(HOSTS / "rq_app.py"), "job_1", phone(1)) as process:
        assert process.wait(LONG_S) == 0

    assert delivered_once(world, 1)
    assert "finished finished" in process.told()


@needs("arq")
def test_arq_runs_a_worker_from_its_start_to_its_end(world, host):
    with host("-m", "arq", "arq_app.WorkerSettings"):
        with host(str(HOSTS / "arq_app.py"), "job_1", phone(1)) as caller:
            assert caller.wait(LONG_S) == 0
        assert delivered_once(world, 1)


@needs("gevent")
def test_a_worker_runs_where_gevent_has_replaced_threads(world, host):
    with host(str(HOSTS / "gevent_app.py"), "job_1", phone(1)) as process:
        assert process.wait(LONG_S) == 0

    assert delivered_once(world, 1)
    assert "completed ()" in process.told()


# --- processes of one's own, notebooks ---


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_of_multiprocessing_run_a_worker_each(world, host, method):
    users = [phone(user) for user in (1, 2)]
    with host("-W", "ignore::DeprecationWarning", str(HOSTS / "processes.py"), method, *users) as process:
        assert process.wait(LONG_S) == 0

    assert all(delivered_once(world, user) for user in (1, 2))
    told = [line.split() for line in process.told().splitlines() if line.startswith("video_worker")]
    assert [kind for _, kind in told] == ["completed", "completed"]
    assert len({name for name, _ in told}) == 2


@needs("ipykernel", "nbclient")
def test_a_notebook_runs_a_worker_in_its_own_event_loop(world, host):
    with host(str(HOSTS / "notebook.py"), "job_1", phone(1)) as process:
        assert process.wait(LONG_S) == 0

    assert delivered_once(world, 1)
    assert process.told().split()[-3:] == ["completed", "()", "0"]


# --- the table ---

TESTS = {
    "gunicorn": test_gunicorn_runs_a_worker_in_each_of_its_processes,
    "gunicorn with `--preload`": test_gunicorn_runs_a_worker_in_each_of_its_processes,
    "gunicorn with `--preload`, and `start()` where the module is imported": (
        test_gunicorn_with_a_worker_started_before_the_fork_says_so
    ),
    "gunicorn with `--worker-class gevent`": test_gunicorn_with_gevent_runs_a_worker_in_each_of_its_processes,
    "uvicorn, and uvicorn with `--workers`": test_uvicorn_runs_a_worker_in_each_of_its_processes,
    "uvicorn with `--reload`": test_uvicorn_with_reload_stops_the_worker_and_starts_a_new_one,
    "Celery, prefork pool": test_celery_runs_a_worker_in_the_background_of_its_processes,
    "Celery, pools of threads and gevent, and solo": test_celery_runs_a_worker_in_the_background_of_its_processes,
    "Celery beat, any pool": test_celery_does_a_batch_at_a_time,
    "RQ": test_the_work_horse_of_rq_enqueues_and_does_batches,
    "arq": test_arq_runs_a_worker_from_its_start_to_its_end,
    "a program of gevent's": test_a_worker_runs_where_gevent_has_replaced_threads,
    "`multiprocessing`: spawn, forkserver, fork": test_processes_of_multiprocessing_run_a_worker_each,
    "Jupyter": test_a_notebook_runs_a_worker_in_its_own_event_loop,
}


def test_the_table_of_the_docs_has_a_row_for_each_host_that_is_tested():
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")
    table = page.partition("| host | ")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]

    assert rows == list(TESTS)
