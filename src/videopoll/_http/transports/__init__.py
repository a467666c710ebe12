"""What carries a request: the transports that there are, and which one carries our own requests.

Each is imported when the first one is opened: httpx, httpcore and aiohttp take a
twentieth to a fifth of a second each, and a process needs one of them.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from videopoll.core.belonging import NO_FORK
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import kind_name

if TYPE_CHECKING:
    import httpx

    from videopoll._http.proxies import Proxies
    from videopoll._http.transports.base import AsyncTransport, Transport

__all__ = ["has_aiohttp", "open_async_transport", "open_transport", "over_async_client", "over_client"]


def over_client(client: httpx.Client) -> Transport:
    """Return what carries requests in threads over a host's client.

    Raises:
        ConfigurationError: It is none of httpx's for threads.
    """
    import httpx  # noqa: PLC0415 - who hands in a client of it has imported it

    from videopoll._http.transports.httpx import HttpxTransport  # noqa: PLC0415

    _check_client("client", client, httpx.Client, "async_client", httpx.AsyncClient)
    return HttpxTransport(client)


def over_async_client(client: httpx.AsyncClient) -> AsyncTransport:
    """Return what carries requests of event loops over a host's client.

    Raises:
        ConfigurationError: It is none of httpx's for asyncio.
    """
    import httpx  # noqa: PLC0415 - who hands in a client of it has imported it

    from videopoll._http.transports.httpx import AsyncHttpxTransport  # noqa: PLC0415

    _check_client("async_client", client, httpx.AsyncClient, "client", httpx.Client)
    return AsyncHttpxTransport(client)


def _check_client(name: str, client: object, kind: type, other: str, twin: type) -> None:
    if not isinstance(client, kind):
        hint = f": it goes into {other}" if isinstance(client, twin) else ""
        msg = f"{name} must be an httpx.{kind.__name__}, got {kind_name(client)}{hint}"
        raise ConfigurationError(msg)


def open_transport(max_connections: int, proxies: Proxies) -> Transport:
    """Return what carries requests in threads; connections are opened when they are needed."""
    with NO_FORK:
        from videopoll._http.transports.httpcore import HttpcoreTransport  # noqa: PLC0415

        direct = HttpcoreTransport(max_connections)
        if not proxies:
            return direct
        from videopoll._http.transports.proxied import ProxyTransport  # noqa: PLC0415

        return ProxyTransport(max_connections, proxies, direct)


def open_async_transport(max_connections: int, proxies: Proxies, *, use_aiohttp: bool) -> AsyncTransport:
    """Return what carries requests of the running event loop."""
    direct: AsyncTransport
    with NO_FORK:
        if use_aiohttp:
            from videopoll._http.transports.aiohttp import AiohttpTransport  # noqa: PLC0415

            direct = AiohttpTransport(max_connections)
        else:
            from videopoll._http.transports.httpcore import AsyncHttpcoreTransport  # noqa: PLC0415

            direct = AsyncHttpcoreTransport(max_connections)
        if not proxies:
            return direct
        from videopoll._http.transports.proxied import AsyncProxyTransport  # noqa: PLC0415

        return AsyncProxyTransport(max_connections, proxies, direct)


def has_aiohttp() -> bool:
    """Whether aiohttp can be used."""
    try:
        major, minor = importlib.metadata.version("aiohttp").split(".")[:2]
        return (int(major), int(minor)) >= (3, 10)  # Earlier ones do not tell a connect timeout from others.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
