"""Which executors there are, and which one carries our own requests."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Protocol
from urllib.request import getproxies

import httpx

from videopoll._http.clients import AsyncClientSide, ClientSide
from videopoll._http.core import AsyncCoreSide, CoreSide
from videopoll._http.tls import tls_context
from videopoll._http.wire import KEEP_ALIVE_S

if TYPE_CHECKING:
    from videopoll._http.values import HttpFailure, HttpReply
    from videopoll._http.wire import Wire

__all__ = ["AsyncClientSide", "AsyncSide", "ClientSide", "Side", "has_aiohttp", "open_async_side", "open_side"]


class Side(Protocol):
    """Carries out one exchange after the other, in any number of threads."""

    def exchange(self, wire: Wire) -> HttpReply | HttpFailure: ...
    def close(self) -> None: ...


class AsyncSide(Protocol):
    """The same for the tasks of one event loop."""

    async def exchange(self, wire: Wire) -> HttpReply | HttpFailure: ...
    async def close(self) -> None: ...


def open_side(max_connections: int) -> Side:
    """Give what carries requests in threads; connections are opened when they are needed."""
    if _has_proxies():
        return ClientSide(httpx.Client(limits=_limits(max_connections), verify=tls_context()))
    return CoreSide(max_connections)


def open_async_side(max_connections: int, *, use_aiohttp: bool) -> AsyncSide:
    """Give what carries requests of the running event loop."""
    if _has_proxies():
        return AsyncClientSide(httpx.AsyncClient(limits=_limits(max_connections), verify=tls_context()))
    if use_aiohttp:
        from videopoll._http.aio import AiohttpSide  # noqa: PLC0415 (optional)

        return AiohttpSide(max_connections)
    return AsyncCoreSide(max_connections)


def has_aiohttp() -> bool:
    """Whether aiohttp can be used."""
    try:
        major, minor = importlib.metadata.version("aiohttp").split(".")[:2]
        return (int(major), int(minor)) >= (3, 10)  # Earlier ones do not tell a connect timeout from others.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def _has_proxies() -> bool:
    return not {"http", "https", "all"}.isdisjoint(getproxies())


def _limits(max_connections: int) -> httpx.Limits:
    return httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S)
