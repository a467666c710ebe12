"""What carries a request: the transports that there are, and which one carries our own requests."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from videopoll._http.transports.base import AsyncTransport, Transport
from videopoll._http.transports.httpcore import AsyncHttpcoreTransport, HttpcoreTransport
from videopoll._http.transports.httpx import AsyncHttpxTransport, HttpxTransport
from videopoll._http.transports.proxied import AsyncProxyTransport, ProxyTransport

if TYPE_CHECKING:
    from videopoll._http.proxies import Proxies

__all__ = [
    "AsyncHttpxTransport",
    "AsyncTransport",
    "HttpxTransport",
    "Transport",
    "has_aiohttp",
    "open_async_transport",
    "open_transport",
]


def open_transport(max_connections: int, proxies: Proxies) -> Transport:
    """Return what carries requests in threads; connections are opened when they are needed."""
    direct = HttpcoreTransport(max_connections)
    return ProxyTransport(max_connections, proxies, direct) if proxies else direct


def open_async_transport(max_connections: int, proxies: Proxies, *, use_aiohttp: bool) -> AsyncTransport:
    """Return what carries requests of the running event loop."""
    direct: AsyncTransport
    if use_aiohttp:
        from videopoll._http.transports.aiohttp import AiohttpTransport  # noqa: PLC0415 (optional)

        direct = AiohttpTransport(max_connections)
    else:
        direct = AsyncHttpcoreTransport(max_connections)
    return AsyncProxyTransport(max_connections, proxies, direct) if proxies else direct


def has_aiohttp() -> bool:
    """Whether aiohttp can be used."""
    try:
        major, minor = importlib.metadata.version("aiohttp").split(".")[:2]
        return (int(major), int(minor)) >= (3, 10)  # Earlier ones do not tell a connect timeout from others.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
