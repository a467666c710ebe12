"""The ways to a server: TLS with a private authority and certificates of clients, and a socket of the file system."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kit import until
from kit.bench import Bench
from kit.fleets import Cluster, Fleet, port_of_its_own
from kit.tls import Authority
from videopoll.cli.app import build_app
from videopoll.errors import QueueUnavailableError


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
    for url in (
        secure[0],
        f"{secure[0]}?ssl_ca_certs={authority.ca}",
        with_files(secure[0], other, files),
        with_files(secure[0].replace("127.0.0.1", "localhost"), authority, files),
    ):
        with pytest.raises(QueueUnavailableError, match="cannot reach Redis"):
            on(url).enqueue()


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
