"""The machine's variables for proxies and certificates: read right, or refused when a part is built; never at each request."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from test_http import OWN, Server, World, answering, get, response
from videopoll import ConfigurationError, UltraMsgNotifier, VideoApiPoller
from videopoll._http import Http, HttpFailure, HttpReply, HttpRequest
from videopoll._http.proxies import read_proxies
from videopoll.video_api import VideoApiGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper() in NAMES]:
        monkeypatch.delenv(name)


@pytest.fixture(params=OWN)
def own_world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(talk: Callable[[Server, socket.socket], None]) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def proxy(serve):
    return serve(answering(response(b'"proxied"')))


@pytest.fixture
def api(serve):
    return serve(answering(response(b'"direct"')))


def json_of(result: HttpReply | HttpFailure) -> object:
    assert isinstance(result, HttpReply), result
    return result.json()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_carries_requests(own_world, proxy, api, monkeypatch, name):
    """In many networks it is the only way out; with a scheme in its URL or without."""
    for url in (proxy.url, proxy.url.removeprefix("http://"), f" {proxy.url}/ "):
        monkeypatch.setenv(name, url)
        assert json_of(own_world.run(get(f"{api.url}/x"))[0]) == "proxied"
    assert proxy.requests[0].startswith(f"GET {api.url}/x HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_is_asked_for_a_tunnel_for_https(own_world, serve, monkeypatch, name):
    """What it answers to that proves that the request itself was never sent."""
    proxy = serve(answering(response(b"", "407 Proxy Authentication Required")))
    monkeypatch.setenv(name, proxy.url)
    [result] = own_world.run(get("https://api.example.invalid/x"))
    assert proxy.requests[0].startswith(b"CONNECT api.example.invalid:443 HTTP/1.1\r\n")
    assert isinstance(result, HttpFailure)
    assert result.surely_not_sent


def test_a_proxy_for_the_other_scheme_is_not_asked(own_world, api, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert json_of(own_world.run(get(api.url))[0]) == "direct"


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(
    ("exempt", "goes"),
    [
        ("127.0.0.1", "direct"),
        ("127.0.0.0/8", "direct"),
        ("10.0.0.0/8, 127.0.0.1/8 fd00::/8", "direct"),
        ("fd00::/8", "proxied"),
        ("::1/128,127.0.0.1", "direct"),
        ("[fd00::]/8,[::1],[::1]:8080,fe80::1%eth0", "proxied"),
        ("128.0.0.0/8", "proxied"),
        ("http://127.0.0.1", "direct"),
        ("https://127.0.0.1", "proxied"),
        ("all://127.0.0.1", "direct"),
        ("127.0.0.1:{port}", "direct"),
        ("127.0.0.1:1", "proxied"),
        ("*", "direct"),
        ("x, *", "direct"),
        ("localhost", "proxied"),
        ("", "proxied"),
        (",, ,", "proxied"),
    ],
)
def test_what_needs_no_proxy_goes_directly(own_world, proxy, api, monkeypatch, name, exempt, goes):  # noqa: PLR0917
    """Addresses, networks of both kinds, ports and schemes; httpx raises at each request for a network of IPv6."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv(name, exempt.format(port=api.port))
    assert json_of(own_world.run(get(api.url))[0]) == goes


@pytest.mark.parametrize(
    ("exempt", "origin", "direct"),
    [
        ("example.com", ("https", "example.com", 443), True),
        ("example.com", ("https", "www.Example.com.", 443), True),
        ("Example.com", ("https", "notexample.com", 443), False),
        (".example.com", ("https", "www.example.com", 443), True),
        (".example.com", ("https", "example.com", 443), False),
        ("*.example.com", ("https", "www.example.com", 443), True),
        ("example.com:8443", ("https", "example.com", 8443), True),
        ("example.com:8443", ("https", "example.com", 443), False),
        ("localhost", ("http", "localhost", 80), True),
        ("localhost", ("http", "www.localhost", 80), False),
        ("fd00::/8", ("http", "fd12::1", 80), True),
        ("::1", ("http", "::1", 8080), True),
        ("[::1]:80", ("http", "::1", 8080), False),
        ("fd00::/8", ("http", "fd00.example", 80), False),
        ("10.1.2.3/8", ("http", "10.9.9.9", 80), True),
    ],
)
def test_names_and_networks_that_need_no_proxy(exempt, origin, direct):
    proxies = read_proxies(lambda: {"all": "http://proxy:3128", "no": exempt})
    assert proxies.of(origin) == (None if direct else "http://proxy:3128")


BUILDERS = {
    "poller": lambda: VideoApiPoller(api_key="key"),
    "generator": lambda: VideoApiGenerator(api_key="key"),
    "notifier": UltraMsgNotifier,
    "over httpx": lambda: VideoApiPoller(api_key="key", transport="httpx"),
}


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "socks5://user:pa55word@127.0.0.1:1080") for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")],
        ("all_proxy", "socks5h://user:pa55word@127.0.0.1:1080"),
        ("HTTP_PROXY", "socks4://pa55word"),
        ("HTTPS_PROXY", "ftp://user:pa55word@proxy"),
        ("ALL_PROXY", "http://user:pa55word@proxy:port"),
        ("http_proxy", "http://user:pa55word@"),
        ("HTTP_PROXY", "http://[pa55word"),
        ("HTTP_PROXY", "http://pa55\nword"),
        ("NO_PROXY", "localhost,pa55word/8"),
        ("no_proxy", "10.0.0.0/99"),
        ("NO_PROXY", "fd00::/200"),
    ],
)
def test_a_variable_that_cannot_work_is_told_when_a_part_is_built(monkeypatch, builder, name, value):
    """And not by an exception out of every request: then a message that surely did not go out would be of unknown fate."""
    if value.startswith("socks5"):
        monkeypatch.setitem(sys.modules, "socksio", None)
    if name.upper() == "NO_PROXY":
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"the environment's {name.upper()}") as caught:
        BUILDERS[builder]()
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("SSL_CERT_FILE", None),
        ("SSL_CERT_FILE", b""),
        ("SSL_CERT_FILE", b"no certificate"),
        ("SSL_CERT_DIR", None),
        ("SSLKEYLOGFILE", None),
    ],
)
def test_certificates_that_cannot_be_used_are_told_when_a_part_is_built(monkeypatch, tmp_path, builder, name, content):
    """Otherwise every https request fails as if the network were down."""
    path = tmp_path / "missing" / "x.pem"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    monkeypatch.setenv(name, str(path))
    with pytest.raises(ConfigurationError, match=name):
        BUILDERS[builder]()


def test_variables_that_can_be_used_are_no_reason_to_refuse(monkeypatch, tmp_path):
    certifi = pytest.importorskip("certifi")
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,10.0.0.0/8,fd00::/8,::1,.svc,.cluster.local,169.254.169.254")
    for build in BUILDERS.values():
        assert "password" not in repr(build())


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "FTP_PROXY", "TRAVIS_APT_PROXY"])
def test_variables_of_other_programs_change_nothing(own_world, api, monkeypatch, name):
    monkeypatch.setenv(name, "socks5://nowhere")
    assert json_of(own_world.run(get(api.url))[0]) == "direct"


def test_a_client_of_the_host_is_used_whatever_the_environment_says(api, monkeypatch):
    """It may have been given because of that. What has none is a value, and surely was not sent."""
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:1080")
    with httpx.Client(trust_env=False) as client:
        http = Http(client=client)
        assert json_of(http.send(get(api.url))) == "direct"
        result = asyncio.run(http.asend(get(api.url)))
    assert isinstance(result, HttpFailure)
    assert result.surely_not_sent
    assert "ALL_PROXY" in result.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("trouble", ["refuses", "hangs", "hangs up"])
def test_what_the_proxy_never_got_was_surely_not_sent(own_world, serve, monkeypatch, scheme, trouble):
    """A message that surely did not go out is sent again at once; one of unknown fate is asked for first."""
    if trouble == "refuses":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused.getsockname()[1]}")
    elif trouble == "hangs":
        monkeypatch.setenv("ALL_PROXY", serve(lambda server, connection: server.over.wait(20)).url)
    else:
        monkeypatch.setenv("ALL_PROXY", serve(lambda server, connection: server.read_request(connection)).url)
    post = HttpRequest(method="POST", url=f"{scheme}://api.example.invalid/x", json={}, timeout_s=0.5)
    [result] = own_world.run(post)
    assert isinstance(result, HttpFailure)
    # Over http the proxy may have handed it on; over https it only ever saw the wish for a tunnel.
    assert result.surely_not_sent == (scheme == "https" or trouble == "refuses")


def test_a_socks_proxy_is_used_where_its_library_is(own_world, monkeypatch, serve, api):
    pytest.importorskip("socksio")
    spoken = threading.Event()

    def talk(server: Server, connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"\x05\x00")
        connection.recv(100)
        connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        spoken.set()
        while server.read_request(connection):
            connection.sendall(response(b'"proxied"'))

    monkeypatch.setenv("ALL_PROXY", serve(talk).url.replace("http", "socks5"))
    assert json_of(own_world.run(get(api.url))[0]) == "proxied"
    assert spoken.is_set()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("answer", [b"\x05\xff", b"\x04", b"nonsense"])
def test_a_socks_proxy_that_says_no_proves_that_nothing_was_sent(own_world, monkeypatch, serve, api, answer):
    pytest.importorskip("socksio")
    proxy = serve(lambda server, connection: (connection.recv(100), connection.sendall(answer)))
    monkeypatch.setenv("ALL_PROXY", proxy.url.replace("http", "socks5"))
    [result] = own_world.run(get(api.url))
    gc.collect()  # httpcore forgets the socket.
    assert isinstance(result, HttpFailure)
    assert result.surely_not_sent
