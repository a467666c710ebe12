"""The health endpoint tells the truth: of a good worker, a stuck one, a stopping one, and one without its Redis."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import httpx
import pytest

from kit import API_KEY, open_world, phone, until
from videopoll import (
    ConfigurationError,
    LeasePolicy,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    VideoApiPoller,
    VideoWorking,
    events,
)
from videopoll._engine import Health
from videopoll.embedded import EmbeddedRedis
from videopoll.health import HealthServer

STUCK_LOOP = "the worker's loop has not moved"


class Probed:
    """A runner as far as a probe sees it."""

    worker_id = "video_worker_1"
    stopping = False

    def __init__(self, *problems):
        self.problems = problems

    def health(self):
        return Health(not self.problems, self.problems)


def get(server, path):
    return httpx.get(f"{server.url}{path}", timeout=10)


def test_a_good_worker_is_live_and_ready(world):
    worker = world.worker()
    with worker, HealthServer(worker.runner, 0) as server:
        live, ready = get(server, "/live"), get(server, "/ready")

    assert live.status_code == ready.status_code == 200
    assert ready.json() == {"ok": True, "worker": worker.runner.worker_id, "problems": []}
    assert ready.headers["cache-control"] == "no-store"


def test_a_worker_whose_redis_is_gone_is_live_and_not_ready(kind, request, require_server):
    """Restarting it would not bring Redis back."""
    require_server("valkey")
    with EmbeddedRedis() as redis_server:
        for world in open_world(kind, redis_server.url, "video"):
            worker = world.worker()
            with worker, HealthServer(worker.runner, 0) as server:
                until(lambda: get(server, "/ready").status_code == 200, "it is ready")
                redis_server.close()
                until(lambda: get(server, "/ready").status_code == 503, "it is not ready any more")
                assert "Redis cannot be used" in get(server, "/ready").json()["problems"][0]
                assert get(server, "/live").status_code == 200
                worker.runner.request_stop()


def test_a_wrong_key_is_not_ready(world):
    world.api.api_key = "another one"
    worker = world.worker()
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
    with worker, HealthServer(worker.runner, 0) as server:
        until(lambda: worker.recorder.of(events.JobPolled), "it has polled")
        answer = until(lambda: (one := get(server, "/ready")).status_code == 503 and one, "it is not ready")
        assert "check the API key" in answer.json()["problems"][0]
        assert API_KEY not in answer.text
        world.api.api_key = API_KEY
        until(lambda: get(server, "/ready").status_code == 200, "the right key makes it ready again")


def test_a_stuck_event_loop_is_neither(world, monkeypatch):
    """The endpoint answers from a thread of its own, also when the worker's loop does not."""
    monkeypatch.setattr("videopoll._engine.LONGEST_IDLE_S", 0.0)
    release = threading.Event()

    class Stuck:
        async def poll(self, job, *, timeout_s):
            release.wait(20)  # a host's part that blocks the loop
            return VideoWorking()

    worker = world.worker(kind="async", poller=Stuck(), lease=LeasePolicy.lasting(1.0))
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
    try:
        with worker, HealthServer(worker.runner, 0) as server:
            until(lambda: get(server, "/live").status_code == 503, "the loop is found to be stuck")
            assert get(server, "/live").json()["problems"][0].startswith(STUCK_LOOP)
            assert get(server, "/ready").status_code == 503
            release.set()
            until(lambda: get(server, "/live").status_code == 200, "it moves again")
    finally:
        release.set()


def test_the_text_of_a_stuck_loop_is_that_of_the_engine(monkeypatch):
    """Liveness hangs on it."""
    runner = Runner(RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())
    monkeypatch.setattr(runner, "_beat_s", time.monotonic() - 1000)

    (problem,) = runner.health().problems
    assert problem.startswith(STUCK_LOOP)


def test_a_stopping_worker_is_live_and_not_ready():
    runner = Probed()
    with HealthServer(runner, 0) as server:
        runner.stopping = True
        assert get(server, "/live").status_code == 200
        answer = get(server, "/ready")
    assert answer.status_code == 503
    assert "stopping" in answer.json()["problems"][0]


def test_something_that_hangs_is_live_and_not_ready():
    with HealthServer(Probed("2 polls or sends do not come back"), 0) as server:
        assert (get(server, "/live").status_code, get(server, "/ready").status_code) == (200, 503)


def test_other_paths_are_not_found_and_say_what_there_is():
    with HealthServer(Probed(), 0) as server:
        assert get(server, "/").status_code == 404
        assert get(server, "/metrics").json() == {"paths": ["/live", "/ready"]}
        assert get(server, "/ready/?verbose").status_code == 200
        assert httpx.head(f"{server.url}/live").status_code == 200
        assert httpx.post(f"{server.url}/live").status_code == 501


def test_metrics():
    prometheus = pytest.importorskip("prometheus_client")
    from videopoll.metrics import PrometheusHook

    hook = PrometheusHook(prometheus.CollectorRegistry())
    hook(events.LeaseLost(job_id="job_1"))
    with HealthServer(Probed(), 0, registry=hook.registry) as server:
        answer = get(server, "/metrics")
    assert "videopoll_leases_lost_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_probe_that_says_nothing_holds_up_no_other(monkeypatch):
    with (
        HealthServer(Probed(), 0) as server,
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        assert get(server, "/live").status_code == 200


def test_a_port_that_is_taken_is_told_when_it_is_given():
    with HealthServer(Probed(), 0) as server, pytest.raises(ConfigurationError, match="choose another port"):
        HealthServer(Probed(), server.port)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        HealthServer(Probed(), 70_000)


def test_it_listens_on_ipv6_too():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = HealthServer(Probed(), 0, "::1")
    except ConfigurationError:
        pytest.skip("no IPv6 on this machine")
    with server:
        assert get(server, "/live").status_code == 200


def test_it_listens_only_to_this_machine_by_default():
    with HealthServer(Probed(), 0) as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_it_does_not_need_the_event_loop():
    """A host may build it inside of one."""

    async def main():
        with HealthServer(Probed(), 0) as server:
            return await asyncio.to_thread(get, server, "/live")

    assert asyncio.run(main()).status_code == 200
