"""The health endpoint tells the truth: of a good worker, a stuck one, a stopping one, and one without its Redis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from kit import API_KEY, open_world, until
from videopoll import (
    ConfigurationError,
    LeasePolicy,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    VideoApiPoller,
    events,
)
from videopoll.jobs.views import Health
from videopoll.observations import VideoWorking
from videopoll.testing import EmbeddedRedis
from videopoll.worker import health_server
from videopoll.worker.health_server import HealthServer

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
    world.enqueue()
    with worker, HealthServer(worker.runner, 0) as server:
        until(lambda: worker.recorder.of(events.JobPolled), "it has polled")
        answer = until(lambda: (one := get(server, "/ready")).status_code == 503 and one, "it is not ready")
        assert "check the API key" in answer.json()["problems"][0]
        assert API_KEY not in answer.text
        world.api.api_key = API_KEY
        until(lambda: get(server, "/ready").status_code == 200, "the right key makes it ready again")


def test_a_stuck_event_loop_is_neither(world, idle_at_most):
    """The endpoint answers from a thread of its own, also when the worker's loop does not."""
    idle_at_most(0.0)
    release = threading.Event()

    class Stuck:
        async def poll(self, job, *, timeout_s):
            release.wait(20)  # a host's part that blocks the loop
            return VideoWorking()

    worker = world.worker(kind="async", poller=Stuck(), lease=LeasePolicy.lasting(1.0))
    world.enqueue()
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
    monkeypatch.setattr(runner._state.vitals, "_ticked_s", time.monotonic() - 1000)

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
    from videopoll.observe.metrics import PrometheusHook

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


def test_three_hundred_slow_connections_cost_the_worker_nothing_and_hold_up_no_probe():
    """They used up its file descriptors, and with them its polls and sends."""
    with HealthServer(Probed(), 0) as server, contextlib.ExitStack() as stack:
        before = descriptors()
        slow = []
        for _ in range(300):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            one.sendall(b"GET /live HTTP/1.1\r\n")
            slow.append(one)
        assert get(server, "/live").status_code == 200
        # Each has an end here, and one there while it is open.
        assert descriptors() - before - len(slow) <= health_server.MOST_OPEN + 4
        until(lambda: all(ended(one) for one in slow), "each of them is hung up on", 60)
        assert get(server, "/ready").status_code == 200


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def ended(connection):
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_request_that_trickles_in_has_a_time_limit_as_a_whole(monkeypatch):
    """Each byte came within the limit of a read, and the request never ended."""
    monkeypatch.setattr(health_server, "PROBE_S", 0.5)
    with HealthServer(Probed(), 0) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET /live HTTP/1.1\r\n")

        def trickle():
            with contextlib.suppress(OSError):
                slow.sendall(b"x")
            return ended(slow)

        until(trickle, "it is hung up on", 30)


def test_a_request_without_an_end_is_read_up_to_a_bound():
    with (
        HealthServer(Probed(), 0) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as greedy,
    ):
        greedy.sendall(b"GET /live HTTP/1.1\r\nx: " + b"x" * health_server.MOST_BYTES)
        assert b" 431 " in greedy.recv(1000)


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\x00\r\n\r\n", b"\x16\x03\x01\x02\x00\n\n"]
)
def test_what_is_no_request_is_refused_and_the_next_one_is_answered(request_):
    with HealthServer(Probed(), 0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as strange:
            strange.sendall(request_)
            assert b" 400 " in strange.recv(1000)
        assert get(server, "/live").status_code == 200


def test_metrics_that_wait_for_redis_hold_up_no_probe():
    prometheus = pytest.importorskip("prometheus_client")
    release, collecting = threading.Event(), []

    class Waiting:
        def describe(self):
            return []

        def collect(self):
            collecting.append(1)
            release.wait(60)
            return []

    registry = prometheus.CollectorRegistry()
    registry.register(Waiting())
    with HealthServer(Probed(), 0, registry=registry) as server:
        scrapes = [threading.Thread(target=get, args=(server, "/metrics")) for _ in range(health_server.MOST_METRICS)]
        for one in scrapes:
            one.start()
        try:
            until(lambda: len(collecting) == health_server.MOST_METRICS, "they are being made", 30)
            assert get(server, "/metrics").status_code == 503
            assert get(server, "/live").status_code == 200
        finally:
            release.set()
        for one in scrapes:
            one.join(30)
        until(lambda: get(server, "/metrics").status_code == 200, "there is a place again")


def test_a_runner_whose_health_raises_ends_no_endpoint():
    class Broken(Probed):
        broken = True

        def health(self):
            if self.broken:
                raise ZeroDivisionError
            return super().health()

    runner = Broken()
    with HealthServer(runner, 0) as server:
        assert get(server, "/live").status_code == 500
        runner.broken = False
        assert get(server, "/live").status_code == 200
