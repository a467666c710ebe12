"""Whatever a library raises comes back from `videopoll._http` as a failure: no error of its own gets through."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import inspect
import os
from unittest.mock import MagicMock

import httpcore
import httpx
import pytest
from packaging.requirements import Requirement

from test_http import GIVEN, OWN, World, answering, failure, get, response, serve  # noqa: F401 - a fixture
from videopoll._http import Http, HttpReply
from videopoll._http.prepare import Reading

aiohttp = pytest.importorskip("aiohttp")

LIBRARIES = ("aiohttp.", "httpcore", "httpx")
PROXIED = tuple(f"{name}, by a proxy" for name in OWN)


class NewError(Exception):
    """What no version of a library that we know raises."""


def errors_of(*modules):
    """Return an instance of each exception class that these modules name."""
    found = {each for module in modules for each in vars(module).values() if inspect.isclass(each)}
    errors = [each for each in found if issubclass(each, Exception) and each.__module__.startswith(LIBRARIES)]
    return [made(each) for each in sorted(errors, key=lambda each: (each.__module__, each.__qualname__))]


def made(error):
    anything = MagicMock()
    for arguments in [(), ("it broke",), (anything, OSError(111, "refused")), (anything,) * 4]:
        with contextlib.suppress(TypeError):
            return error(*arguments)
    with contextlib.suppress(TypeError):
        return error("it broke", request=None, response=None)
    pytest.fail(f"how is a {error} made?")


ERRORS = errors_of(httpcore, httpx, aiohttp, aiohttp.http_exceptions, aiohttp.streams)


@pytest.fixture(params=[*OWN, *PROXIED, *GIVEN])
def world(request, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if "proxy" in request.param:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    return World(request.param.partition(",")[0])


def results_of(world, errors, request, monkeypatch, *where):
    """Send the request once for each error, which is raised in all these places."""
    results = {}
    for error in errors:

        def fail(*_, error=error, **__):
            raise error

        async def afail(*_, error=error, **__):
            raise error

        for owner, name in where:
            monkeypatch.setattr(owner, name, afail if inspect.iscoroutinefunction(getattr(owner, name)) else fail)
        try:
            [results[error]] = world.run(request)
        except Exception as escaped:  # noqa: BLE001 - the test looks at them
            results[error] = escaped
    return results


def test_the_walk_meets_every_library():
    """A library that moves its errors elsewhere would leave nothing to test."""
    names = {type(error).__module__.partition(".")[0]: type(error).__name__ for error in ERRORS}
    assert set(names) == {"httpcore", "httpx", "aiohttp"}
    assert len(ERRORS) > 60
    assert {"ConnectionNotAvailable", "UnsupportedProtocol", "CookieConflict"} <= {type(one).__name__ for one in ERRORS}


def test_an_error_before_the_request_goes_out_is_a_failure(world, monkeypatch):
    """It may be any: with our own connections, nothing was sent, whatever it is called."""
    connecting = (
        (httpcore.HTTPConnection, "handle_request"),
        (httpcore.AsyncHTTPConnection, "handle_async_request"),
        (httpcore.ConnectionPool, "handle_request"),
        (httpcore.AsyncConnectionPool, "handle_async_request"),
        (aiohttp.BaseConnector, "connect"),
    )

    results = results_of(world, ERRORS, get("http://192.0.2.1/"), monkeypatch, *connecting)

    assert [error for error, result in results.items() if isinstance(result, Exception)] == []
    if world.name in OWN:
        assert [error for error, result in results.items() if not failure(result).surely_not_sent] == []


def test_an_error_while_the_reply_is_read_is_a_failure(world, serve, monkeypatch):  # noqa: F811
    """The request was sent, whatever the error is called: a connect timeout after that proves nothing."""
    server = serve(answering(response()))
    if "HTTP_PROXY" in os.environ:
        monkeypatch.setenv("HTTP_PROXY", server.url)

    results = results_of(world, ERRORS, get(server.url), monkeypatch, (Reading, "read"), (Reading, "aread"))

    assert [error for error, result in results.items() if isinstance(result, Exception)] == []
    if world.name in OWN:
        assert [error for error, result in results.items() if failure(result).surely_not_sent] == []


@pytest.mark.parametrize("name", OWN)
def test_an_error_that_nobody_foresaw_is_a_failure_of_our_own_connections(name, serve, monkeypatch):  # noqa: F811
    """A version to come may raise what none raises today."""
    errors = [NewError(), UnicodeError(), RuntimeError(), ValueError()]
    server = serve(answering(response()))

    results = results_of(World(name), errors, get(server.url), monkeypatch, (Reading, "read"), (Reading, "aread"))

    assert [error for error, result in results.items() if failure(result).surely_not_sent] == []


def test_an_error_of_a_hook_is_the_hosts_own():
    """It is a bug of the host, which has to see it."""

    def hook(_):
        raise NewError

    async def ahook(_):
        raise NewError

    async def main():
        async with httpx.AsyncClient(event_hooks={"request": [ahook]}) as client:
            await Http(async_client=client).asend(get("http://192.0.2.1/"))

    with pytest.raises(NewError), httpx.Client(event_hooks={"request": [hook]}) as client:
        Http(client=client).send(get("http://192.0.2.1/"))
    with pytest.raises(NewError):
        asyncio.run(main())


@pytest.mark.parametrize("name", OWN)
def test_a_connection_that_cannot_be_closed_does_not_cost_the_reply(name, serve, monkeypatch):  # noqa: F811
    """The reply is there: to lose it would poll again, or send a message twice."""
    server = serve(answering(response(b"{}", Connection="close")))
    closing = ((httpcore.HTTPConnection, "close"), (httpcore.AsyncHTTPConnection, "aclose"))

    results = results_of(World(name), [OSError("in the way")], get(server.url), monkeypatch, *closing)

    assert [type(result) for result in results.values()] == [HttpReply]


def test_the_versions_of_httpx_that_are_allowed_pin_httpcore_to_one():
    """Our own connections stand on its names, though it is no dependency of ours: httpx keeps them what they are."""
    [needed] = [Requirement(one) for one in importlib.metadata.requires("httpx") or [] if one.startswith("httpcore")]
    assert needed.specifier.contains("1.0.9")
    assert not needed.specifier.contains("2.0.0")
