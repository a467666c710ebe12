"""Transports through the environment's proxies, over plain httpx clients; what is exempt goes directly."""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import httpx

from videopoll._http.prepare import KEEP_ALIVE_S
from videopoll._http.tls import tls_context
from videopoll._http.transports.base import AsyncTransport, Transport
from videopoll._http.transports.httpx import AsyncHttpxTransport, HttpxTransport

if TYPE_CHECKING:
    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.proxies import Proxies
    from videopoll._http.values import HttpFailure, HttpReply

_Direct = TypeVar("_Direct")
_Through = TypeVar("_Through")


class _ByProxy(abc.ABC, Generic[_Direct, _Through]):
    """Says what carries a request: its proxy's client, opened for its first request, or our own connections."""

    def __init__(self, max_connections: int, proxies: Proxies, direct: _Direct) -> None:
        self._limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S)
        self._proxies, self._direct = proxies, direct
        self._lock = threading.Lock()
        self._through: dict[str, _Through] = {}

    def _carrier(self, prepared: PreparedRequest) -> _Direct | _Through:
        proxy = self._proxies.of(prepared.origin)
        if proxy is None:
            return self._direct
        with self._lock:
            if proxy not in self._through:
                self._through[proxy] = self._open(proxy)
            return self._through[proxy]

    @abc.abstractmethod
    def _open(self, proxy: str) -> _Through: ...


class ProxyTransport(_ByProxy[Transport, HttpxTransport]):
    """Threads."""

    def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        return self._carrier(prepared).exchange(prepared)

    def _open(self, proxy: str) -> HttpxTransport:
        client = httpx.Client(proxy=proxy, limits=self._limits, verify=tls_context(), trust_env=False)
        return HttpxTransport(client, own=True)

    def close(self) -> None:
        for transport in (self._direct, *self._through.values()):
            transport.close()


class AsyncProxyTransport(_ByProxy[AsyncTransport, AsyncHttpxTransport]):
    """The tasks of one event loop."""

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        return await self._carrier(prepared).exchange(prepared)

    def _open(self, proxy: str) -> AsyncHttpxTransport:
        client = httpx.AsyncClient(proxy=proxy, limits=self._limits, verify=tls_context(), trust_env=False)
        return AsyncHttpxTransport(client, own=True)

    async def close(self) -> None:
        for transport in (self._direct, *self._through.values()):
            await transport.close()
