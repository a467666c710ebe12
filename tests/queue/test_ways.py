"""The ways to a server: TLS with a private authority and certificates of clients, and a socket of the file system."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from typer.testing import CliRunner

from kit import shut, until
from kit.bench import Bench
from kit.fleets import Cluster, Fleet, port_of_its_own
from kit.tls import Authority
from videopoll import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.cli.app import build_app
from videopoll.errors import QueueError, QueueUnavailableError


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """The authority of a company."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority):
    """What the server has, and a client of it."""
    return {"server": authority.issue("server"), "client": authority.issue("client")}


def tls_options(authority, files, port) -> list[str]:
    certificate, key = files["server"]
    return [
        *("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(authority.ca), "--tls-auth-clients", "yes", "--tls-replication", "yes"),
    ]


@pytest.fixture(scope="module")
def secure(authority, files, require_server):
    """A server that talks TLS alone, and only to clients with a certificate."""
    require_server("redis")
    with Fleet() as fleet:
        port = port_of_its_own()
        server = fleet.add(*tls_options(authority, files, port))
        fleet.wait()
        yield f"rediss://127.0.0.1:{port}/0", server


@pytest.fixture
def on(kind, call):
    """Build a queue on a URL."""
    benches = []

    def build(url, prefix="video", db=None):
        bench = Bench(kind, url, prefix, call, db)
        benches.append(bench)
        return bench

    yield build
    for bench in benches:
        for queue in bench.queues:
            call(queue.close())


def with_files(url, authority, files):
    certificate, key = files["client"]
    return f"{url}?ssl_ca_certs={authority.ca}&ssl_certfile={certificate}&ssl_keyfile={key}"


def test_a_private_authority_and_a_clients_certificate_stand_in_the_url(on, secure, authority, files):
    bench = on(with_files(secure[0], authority, files))

    assert bench.enqueue() == "created"
    assert bench.counts().queued == 1
    secure[1].db.flushall()


def test_without_them_there_is_no_connection(on, secure, authority, files, tmp_path):
    """Neither with nobody's certificate, nor trusting the system's authorities, nor another server's name."""
    other = Authority(tmp_path)
    for url, why in (
        (secure[0], "its certificate is not trusted: "),
        (f"{secure[0]}?ssl_ca_certs={authority.ca}", ""),
        (with_files(secure[0], other, files), "its certificate is not trusted: "),
        (with_files(secure[0].replace("127.0.0.1", "localhost"), authority, files), "Hostname mismatch"),
    ):
        with pytest.raises(QueueUnavailableError, match="cannot reach Redis") as raised:
            on(url).enqueue()
        assert why in str(raised.value)
        assert "at this port" not in str(raised.value)
        assert "localhost" not in str(raised.value)


def test_a_url_of_the_wrong_scheme_is_told_the_other(kind, call, secure):
    """One side waits for a handshake, the other hangs up: neither says why."""
    queues = {"sync": RedisVideoJobQueue, "async": AsyncRedisVideoJobQueue}
    for url, advice in (
        (f"rediss://127.0.0.1:{secure[1].port}/0", "does not speak TLS at this port, write redis://"),
        (secure[0].replace("rediss", "redis"), "speaks TLS at this port, write rediss://"),
    ):
        queue = queues[kind].from_url(url, front_timeout_s=0.5)
        with pytest.raises(QueueUnavailableError, match=advice):
            call(queue.counts())
        call(queue.close())


@pytest.mark.parametrize(
    ("scheme", "answer", "told"),
    [
        ("redis", b"\x15\x03\x01\x00\x02\x02\x46\r\n", "what answers is no Redis, or wants TLS"),
        ("redis", b"HTTP/1.1 400 Bad Request\r\n", "what answers is no Redis, or wants TLS"),
        ("rediss", b"-ERR Protocol error\r\n", "does not speak TLS at this port, write redis://"),
    ],
)
def test_a_port_where_something_else_answers_is_told_as_such(kind, call, scheme, answer, told):
    """A proxy, a server of another protocol, one that answers with an alert of TLS, or that knows none."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_answer, args=(other, answer), daemon=True).start()
        queues = {"sync": RedisVideoJobQueue, "async": AsyncRedisVideoJobQueue}
        queue = queues[kind].from_url(f"{scheme}://127.0.0.1:{other.getsockname()[1]}/0")
        with pytest.raises(QueueError, match=told):
            call(queue.counts())
        call(queue.close())
        shut(other)


def _answer(server, answer):
    """Answer whoever comes, and hang up."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(2000)
            connection.sendall(answer)


def test_the_command_line_has_options_for_them(secure, authority, files):
    certificate, key = files["client"]
    given = ["--redis-url", secure[0], "--redis-ca", str(authority.ca), "--redis-cert", str(certificate)]
    result = CliRunner().invoke(
        build_app(), ["enqueue", "job_1", "--conversation", "c", *given, "--redis-key", str(key)]
    )
    assert result.exit_code == 0, result.output

    variables = {"VIDEOPOLL_REDIS_CA": str(authority.ca), "VIDEOPOLL_REDIS_CERT": str(certificate)}
    shown = CliRunner().invoke(
        build_app(),
        ["show", "job_1", "--json"],
        env={**variables, "VIDEOPOLL_REDIS_URL": secure[0], "VIDEOPOLL_REDIS_KEY": str(key)},
    )
    assert json.loads(shown.stdout)["state"] == "queued"
    secure[1].db.flushall()


def test_the_options_of_tls_want_a_url_of_tls(tmp_path):
    result = CliRunner().invoke(build_app(), ["status", "--redis-ca", str(tmp_path / "ca.pem")])

    assert result.exit_code == 2
    assert "write rediss://" in result.output


def test_a_cluster_talks_tls_from_one_node_to_the_next(on, authority, files, require_server):
    """The nodes that are asked, and the one that has the keys."""
    require_server("redis")
    certificate, key = files["server"]
    options = (
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(authority.ca)),
        *("--tls-auth-clients", "yes", "--tls-cluster", "yes"),
    )
    with Cluster(masters=3, replicas=False, options=options, tls=True) as cluster:
        bench = on(with_files(cluster.tls_url, authority, files), "{video}")
        assert bench.enqueue() == "created"
        cluster.move("{video}")
        assert bench.enqueue("job_2") == "created"
        assert bench.counts().queued == 2


def test_a_socket_of_the_file_system_is_one_more_way(on, require_server):
    require_server("redis")
    with Fleet() as fleet:
        path = fleet.folder / "redis.sock"
        server = fleet.add("--unixsocket", str(path))
        fleet.wait()
        until(path.exists, "the socket is there")
        bench = on(f"unix://{path}?db=3", db=server.db)
        assert bench.finish(bench.one()) == "delivered"
        assert f"{path}/3" in repr(bench.queue)
