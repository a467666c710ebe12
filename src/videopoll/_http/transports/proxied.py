"""Transports through the environment's proxies, over plain httpx clients; what is exempt goes directly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx

from videopoll._http.prepare import KEEP_ALIVE_S
from videopoll._http.tls import tls_context
from videopoll._http.transports.httpx import AsyncHttpxTransport, HttpxTransport

if TYPE_CHECKING:
    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.proxies import Proxies
    from videopoll._http.transports import AsyncTransport, Transport
    from videopoll._http.values import HttpFailure, HttpReply


class ProxyTransport:
    """Threads."""

    def __init__(self, max_connections: int, proxies: Proxies, direct: Transport) -> None:
        self._max_connections, self._proxies, self._direct = max_connections, proxies, direct
        self._lock = threading.Lock()
        self._through: dict[str, HttpxTransport] = {}

    def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        proxy = self._proxies.of(prepared.origin)
        return (self._direct if proxy is None else self._transport(proxy)).exchange(prepared)

    def _transport(self, proxy: str) -> HttpxTransport:
        with self._lock:
            if proxy not in self._through:
                client = httpx.Client(
                    proxy=proxy, limits=_limits(self._max_connections), verify=tls_context(), trust_env=False
                )
                self._through[proxy] = HttpxTransport(client, own=True)
            return self._through[proxy]

    def close(self) -> None:
        self._direct.close()
        for transport in self._through.values():
            transport.close()


class AsyncProxyTransport:
    """The tasks of one event loop."""

    def __init__(self, max_connections: int, proxies: Proxies, direct: AsyncTransport) -> None:
        self._max_connections, self._proxies, self._direct = max_connections, proxies, direct
        self._through: dict[str, AsyncHttpxTransport] = {}

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        proxy = self._proxies.of(prepared.origin)
        return await (self._direct if proxy is None else self._transport(proxy)).exchange(prepared)

    def _transport(self, proxy: str) -> AsyncHttpxTransport:
        if proxy not in self._through:
            client = httpx.AsyncClient(
                proxy=proxy, limits=_limits(self._max_connections), verify=tls_context(), trust_env=False
            )
            self._through[proxy] = AsyncHttpxTransport(client, own=True)
        return self._through[proxy]

    async def close(self) -> None:
        await self._direct.close()
        for transport in self._through.values():
            await transport.close()


def _limits(max_connections: int) -> httpx.Limits:
    return httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S)
