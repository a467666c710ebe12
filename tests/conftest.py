"""What all tests share: real servers, keys of their own, and one suite for two worlds."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import re
import signal
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from kit import QUEUES, World, open_world
from kit.fleets import SLOT_OF_TESTS, Cluster, Watched, is_cluster, lead_clients_of_tests
from kit.resp_proxy import RespProxy
from kit.servers import take_named_servers
from kit.trouble import Trouble
from videopoll.testing import EmbeddedRedis, assert_no_keys_leaked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from videopoll.testing import ServerChoice

# How fast examples are made says how busy the machine is, and nothing about the code.
settings.register_profile("patient", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has its background jobs ignore Ctrl-C, and the commands that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _redis_servers() -> Iterator[dict[str, EmbeddedRedis]]:
    """The servers of this test process: started when first wanted, kept whatever the order of the tests is."""
    servers: dict[str, EmbeddedRedis] = {}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session", params=["valkey", "redis"])
def redis_server(request, require_server, _redis_servers) -> EmbeddedRedis:
    """A running server of each kind. Do not stop it: other tests use it, too."""
    fleet = request.config.getoption("--fleet")
    if fleet:
        return request.getfixturevalue("in_place_of_one_server")
    which = request.param
    if which not in _redis_servers:
        require_server(which)
        server = EmbeddedRedis(prefer=which)
        _redis_servers[which] = server
        server.start()
    return _redis_servers[which]


@pytest.fixture(scope="session")
def require_server() -> Callable[[ServerChoice], None]:
    """Call it with "valkey" or "redis" to skip a test whose server is not installed; in CI nothing may be skipped."""
    return _require_server


def _require_server(which: ServerChoice) -> None:
    if EmbeddedRedis.available(which):
        return
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"CI has to test on {which}, which is not installed", pytrace=False)
    pytest.skip(f"{which} is not installed")


@pytest.fixture(scope="session")
def cluster(require_server) -> Iterator[Cluster]:
    """Three masters with a replica each. A test that kills a node revives it."""
    require_server("redis")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def watched(require_server) -> Iterator[Watched]:
    """A primary, its replica, and three sentinels. A test that kills the primary revives it."""
    require_server("redis")
    with Watched() as watched:
        yield watched


@pytest.fixture(scope="session")
def in_place_of_one_server(request, require_server) -> Iterator[Any]:
    """The fleet on which all tests are to run; the clients of the tests themselves are led to whoever has the keys."""
    require_server("redis")
    # Some tests have the server stand still for seconds, which is no reason to fail over.
    made = {"cluster": Cluster, "sentinel": functools.partial(Watched, down_after_s=60.0)}
    with made[request.config.getoption("--fleet")]() as fleet, pytest.MonkeyPatch.context() as patch:
        lead_clients_of_tests(patch)
        yield fleet


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Another server, for a task queue's own keys."""
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server) -> str:
    """The URL of a running server."""
    return redis_server.url


@pytest.fixture
def prefix(redis_server) -> Iterator[str]:
    """A key prefix of the test's own. No key under it may be left without a time to live."""
    # In a cluster the slot of all tests is the same.
    name = f"{SLOT_OF_TESTS if is_cluster(redis_server.url) else ''}test-{uuid.uuid4().hex[:12]}"
    yield name
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        try:
            for used in (name, f"{{{name}}}"):  # it may have been used as a hash tag
                assert_no_keys_leaked(client, used)
        finally:
            if keys := list(client.scan_iter(match=f"*{name}*", count=1000)):
                client.delete(*keys)


@pytest.fixture(params=["sync", "async"])
def kind(request) -> str:
    """Which of two twins the test is about."""
    return request.param


class Call:
    """Gives the value of a plain call, and waits for that of an asynchronous one.

    One event loop serves all calls of a test, so that objects tied to a loop
    live from one call to the next. Tasks run only while a call waits.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def __call__(self, value: Any) -> Any:
        """Resolve a value or an awaitable."""
        return self._runner.run(_resolve(value)) if inspect.isawaitable(value) else value

    def close(self) -> None:
        """Cancel what is left, and close the loop."""
        self._runner.close()


async def _resolve(value: Any) -> Any:
    return await value


@pytest.fixture
def call() -> Iterator[Call]:
    """``call(queue.enqueue(...))`` gives the result, whichever twin the queue is."""
    call = Call()
    yield call
    call.close()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Take back what a command that ran in this process set up: its handler would write to a file that is closed then."""
    ours, package = logging.getLogger(), logging.getLogger("videopoll")
    before, level = set(ours.handlers), package.level
    yield
    for handler in [one for one in ours.handlers if type(one) is logging.StreamHandler and one not in before]:
        ours.removeHandler(handler)
    package.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """What a file of tests began ends with it: a thread that is left, or spins, would take its time from others."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(15)
    assert [thread for thread in left if thread.is_alive()] == []


@pytest.fixture
def idle_at_most(monkeypatch) -> Callable[[float], None]:
    """Call it with seconds: an idle worker of this process sleeps no longer than that."""
    return lambda seconds: monkeypatch.setattr("videopoll.worker.state.LONGEST_IDLE_S", seconds)


@pytest.fixture
def world(kind, redis_url, prefix) -> Iterator[World]:
    """The outside world: a video API, two messengers, and workers on demand."""
    yield from open_world(kind, redis_url, prefix)


@pytest.fixture(scope="module")
def own_servers() -> Iterator[list[EmbeddedRedis]]:
    """Servers of these tests' own; one that is still well after a test serves the next."""
    servers: list[EmbeddedRedis] = []
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def trouble(kind, own_servers) -> Iterator[Trouble]:
    """A world of its own, whose server may be stopped."""
    server = own_servers.pop() if own_servers else EmbeddedRedis(append_only=True)
    server.start()
    with RespProxy(server.port) as proxy:
        for world in open_world(kind, proxy.url, f"trouble-{uuid.uuid4().hex[:12]}"):
            yield Trouble(world, server, proxy)
            proxy.heal()
            proxy.accept()
    own_servers.append(server)


# What these test is not the scripts, which run over both servers elsewhere, or it takes minutes on each.
ONE_SERVER = {
    "test_answers",
    "test_bounds",
    "test_cli",
    "test_clock_steps",
    "test_described_apis",
    "test_discord",
    "test_end_to_end",
    "test_evolution",
    "test_example_hosts",
    "test_history",
    "test_hosts",
    "test_hosts_values",
    "test_kept",
    "test_line",
    "test_logs",
    "test_loops",
    "test_metrics",
    "test_operate",
    "test_places",
    "test_poison",
    "test_forks",
    "test_processes",
    "test_script_aborts",
    "test_secrets",
    "test_serve",
    "test_stops",
    "test_stray_404",
    "test_tool",
    "test_twilio",
    "test_whatsapp_lives",
}


def pytest_configure(config) -> None:
    take_named_servers()
    if config.getoption("--partitions"):
        QUEUES["partitions"] = config.getoption("--partitions")


def pytest_addoption(parser) -> None:
    parser.addoption("--all-servers", action="store_true", help="run every test on every server")
    parser.addoption("--partitions", type=int, help="build the queues of the tests with so many partitions")
    parser.addoption("--at-length", action="store_true", help="run the tests that wait for failovers, too")
    parser.addoption(
        "--fleet", choices=["cluster", "sentinel"], help="run the tests on a fleet in the place of a server"
    )


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out the second server where it would tell nothing new."""
    # Processes that share the tests compare names: an address in one would differ, and stop them all.
    unstable = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]{6,}", item.nodeid)]
    assert not unstable, f"give these tests an id without an address: {unstable[:3]}"
    if not config.getoption("--at-length"):
        at_length = {item for item in items if item.get_closest_marker("at_length")}
        config.hook.pytest_deselected(items=list(at_length))
        items[:] = [item for item in items if item not in at_length]
    if config.getoption("--fleet"):
        for item in items:
            if marker := item.get_closest_marker("one_server"):
                item.add_marker(pytest.mark.skip(f"not on a fleet: {marker.args[0]}"))
    if config.getoption("--all-servers"):
        return
    left_out = [
        item
        for item in items
        if (item.path.stem in ONE_SERVER or config.getoption("--fleet"))
        and hasattr(item, "callspec")
        and item.callspec.params.get("redis_server") == "valkey"
    ]
    if left_out and (os.environ.get("CI") or EmbeddedRedis.available("redis")):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
