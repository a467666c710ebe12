"""Which executors there are, and which one carries our own requests."""

from __future__ import annotations

import importlib.metadata
import threading
from typing import TYPE_CHECKING, Protocol

import httpx

from videopoll._http.clients import AsyncClientSide, ClientSide
from videopoll._http.core import AsyncCoreSide, CoreSide
from videopoll._http.proxies import Proxies, read_proxies
from videopoll._http.tls import check_environment, tls_context
from videopoll._http.wire import KEEP_ALIVE_S

if TYPE_CHECKING:
    from videopoll._http.values import HttpFailure, HttpReply
    from videopoll._http.wire import Wire

__all__ = [
    "AsyncClientSide",
    "AsyncSide",
    "ClientSide",
    "Proxies",
    "Side",
    "check_environment",
    "has_aiohttp",
    "open_async_side",
    "open_side",
    "read_proxies",
]


class Side(Protocol):
    """Carries out one exchange after the other, in any number of threads."""

    def exchange(self, wire: Wire) -> HttpReply | HttpFailure: ...
    def close(self) -> None: ...


class AsyncSide(Protocol):
    """The same for the tasks of one event loop."""

    async def exchange(self, wire: Wire) -> HttpReply | HttpFailure: ...
    async def close(self) -> None: ...


def open_side(max_connections: int, proxies: Proxies) -> Side:
    """Return what carries requests in threads; connections are opened when they are needed."""
    direct = CoreSide(max_connections)
    return ProxiedSide(max_connections, proxies, direct) if proxies else direct


def open_async_side(max_connections: int, proxies: Proxies, *, use_aiohttp: bool) -> AsyncSide:
    """Return what carries requests of the running event loop."""
    direct: AsyncSide
    if use_aiohttp:
        from videopoll._http.aio import AiohttpSide  # noqa: PLC0415 (optional)

        direct = AiohttpSide(max_connections)
    else:
        direct = AsyncCoreSide(max_connections)
    return AsyncProxiedSide(max_connections, proxies, direct) if proxies else direct


class ProxiedSide:
    """Threads, through the environment's proxies, which carry a plain httpx client; what is exempt goes directly."""

    def __init__(self, max_connections: int, proxies: Proxies, direct: Side) -> None:
        self._max_connections, self._proxies, self._direct = max_connections, proxies, direct
        self._lock = threading.Lock()
        self._through: dict[str, ClientSide] = {}

    def exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        proxy = self._proxies.of(wire.origin)
        return (self._direct if proxy is None else self._side(proxy)).exchange(wire)

    def _side(self, proxy: str) -> ClientSide:
        with self._lock:
            if proxy not in self._through:
                client = httpx.Client(
                    proxy=proxy, limits=_limits(self._max_connections), verify=tls_context(), trust_env=False
                )
                self._through[proxy] = ClientSide(client, own=True)
            return self._through[proxy]

    def close(self) -> None:
        self._direct.close()
        for side in self._through.values():
            side.close()


class AsyncProxiedSide:
    """The same for the tasks of one event loop."""

    def __init__(self, max_connections: int, proxies: Proxies, direct: AsyncSide) -> None:
        self._max_connections, self._proxies, self._direct = max_connections, proxies, direct
        self._through: dict[str, AsyncClientSide] = {}

    async def exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        proxy = self._proxies.of(wire.origin)
        return await (self._direct if proxy is None else self._side(proxy)).exchange(wire)

    def _side(self, proxy: str) -> AsyncClientSide:
        if proxy not in self._through:
            client = httpx.AsyncClient(
                proxy=proxy, limits=_limits(self._max_connections), verify=tls_context(), trust_env=False
            )
            self._through[proxy] = AsyncClientSide(client, own=True)
        return self._through[proxy]

    async def close(self) -> None:
        await self._direct.close()
        for side in self._through.values():
            await side.close()


def has_aiohttp() -> bool:
    """Whether aiohttp can be used."""
    try:
        major, minor = importlib.metadata.version("aiohttp").split(".")[:2]
        return (int(major), int(minor)) >= (3, 10)  # Earlier ones do not tell a connect timeout from others.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def _limits(max_connections: int) -> httpx.Limits:
    return httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S)
