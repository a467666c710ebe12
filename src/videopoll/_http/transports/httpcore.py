"""Transports over our own connections, which are httpcore's: one for threads, one for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, cast

# No dependencies of their own: httpx brings both along, and pins httpcore to 1.*, so that its names stay what they are.
import anyio
import httpcore

from videopoll._http.pool import IdlePool
from videopoll._http.prepare import KEEP_ALIVE_S, Phase, Reading
from videopoll._http.tls import tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping

    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.values import HttpFailure, HttpReply


class HttpcoreTransport:
    """Threads, over our own connections."""

    def __init__(self, max_connections: int) -> None:
        self._slots = threading.Semaphore(max_connections)
        self._idle: IdlePool[_Connection] = IdlePool(max_connections)

    def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        if not self._slots.acquire(timeout=max(0.0, prepared.remaining_s())):
            return prepared.timed_out()
        prepared.phase = Phase.CONNECTING
        connection = None
        try:
            connection, stale = self._idle.take(prepared.origin)
            if prepared.request.public_only and connection is not None:
                # Who opened it may have been allowed to.
                stale.append(connection)
                connection = None
            _close(stale)
            connection = connection or _Connection(prepared)
            connection.network.prepared = prepared
            with contextlib.closing(connection.handle_request(_request(prepared))) as response:
                reading = Reading(prepared, response.status, response.headers)
                return reading.read(cast("Iterable[bytes]", response.stream))
        except Exception as error:  # noqa: BLE001 - see PreparedRequest.failure
            return prepared.failure(error, httpcore.TimeoutException)
        finally:
            _close(self._idle.put(prepared.origin, connection))
            self._slots.release()

    def close(self) -> None:
        _close(self._idle.close())


class AsyncHttpcoreTransport:
    """asyncio, over our own connections. The time is kept by the caller."""

    def __init__(self, max_connections: int) -> None:
        # This has anyio import what httpcore needs of it: else the first request does, and a child forked just then hangs.
        anyio.get_cancelled_exc_class()
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: IdlePool[httpcore.AsyncHTTPConnection] = IdlePool(max_connections)

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        async with self._slots:
            request, connection = _request(prepared), None
            opened: list[httpcore.AsyncNetworkStream] = []
            try:
                connection, stale = self._idle.take(prepared.origin)
                if prepared.request.public_only and connection is not None:
                    stale.append(connection)
                    connection = None
                guarded = prepared.may_send is not None
                prepared.phase = Phase.SENDING if connection and not guarded else Phase.CONNECTING
                await _aclose(stale)
                if connection is None or guarded:
                    request.extensions["trace"] = _noting(prepared, opened)
                connection = connection or httpcore.AsyncHTTPConnection(_origin(prepared), _tls(prepared), KEEP_ALIVE_S)
                async with contextlib.aclosing(await connection.handle_async_request(request)) as response:
                    reading = Reading(prepared, response.status, response.headers)
                    return await reading.aread(cast("AsyncIterable[bytes]", response.stream))
            except Exception as error:  # noqa: BLE001 - see PreparedRequest.failure
                return prepared.failure(error, httpcore.TimeoutException)
            finally:
                to_close = self._idle.put(prepared.origin, connection)
                await _aclose(to_close)
                if connection in to_close:
                    # httpcore forgets a socket whose TLS handshake was cancelled.
                    await _aclose(opened)

    async def close(self) -> None:
        await _aclose(self._idle.close())


def _close(opened: Iterable[_Connection]) -> None:
    for one in opened:
        with contextlib.suppress(Exception):  # The reply is there, or the failure is: neither may give way to this.
            one.close()


async def _aclose(opened: Iterable[httpcore.AsyncHTTPConnection | httpcore.AsyncNetworkStream]) -> None:
    for one in opened:
        with contextlib.suppress(Exception):
            await one.aclose()


def _origin(prepared: PreparedRequest) -> httpcore.Origin:
    scheme, host, port = prepared.origin
    return httpcore.Origin(scheme.encode(), host.encode(), port)


def _tls(prepared: PreparedRequest) -> ssl.SSLContext | None:
    return tls_context() if prepared.origin[0] == "https" else None


def _request(prepared: PreparedRequest) -> httpcore.Request:
    scheme, host, port = prepared.origin
    return httpcore.Request(
        prepared.request.method,
        httpcore.URL(scheme=scheme.encode(), host=host.encode(), port=port, target=prepared.target.encode()),
        headers=prepared.headers,
        content=prepared.content,
    )


def _noting(
    prepared: PreparedRequest, opened: list[httpcore.AsyncNetworkStream]
) -> Callable[[str, Mapping[str, object]], Awaitable[None]]:
    async def trace(event: str, info: Mapping[str, object]) -> None:
        if event == "connection.connect_tcp.complete":
            stream = cast("httpcore.AsyncNetworkStream", info["return_value"])
            opened.append(stream)
            peer = stream.get_extra_info("server_addr")
            prepared.check_address(peer[0] if peer else None)
        elif event == "http11.send_request_headers.started":
            prepared.check()
            prepared.phase = Phase.SENDING
        elif event == "http11.send_request_body.started":
            prepared.check()

    return trace


class _Connection(httpcore.HTTPConnection):
    """A connection for threads, with the network under it."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self.network = _Network(prepared)
        super().__init__(_origin(prepared), _tls(prepared), KEEP_ALIVE_S, network_backend=self.network)


class _Network(httpcore.NetworkBackend):
    """Sockets whose every step gets what is left of the request's time, so that the steps together keep to it."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self.prepared = prepared  # of the request that is using the connection

    def left_s(self, late: type[httpcore.TimeoutException]) -> float:
        left_s = self.prepared.remaining_s()
        if left_s <= 0:
            raise late
        return left_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: object = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError from error
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        for address in addresses:
            self.prepared.check_address(address)
        for number, address in enumerate(addresses, 1):
            # An address that swallows packets must leave time for the next one.
            share_s = self.left_s(httpcore.ConnectTimeout) / (len(addresses) - number + 1)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, share_s, local_address)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner, self._network = inner, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, self._network.left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        left_s = self._network.left_s(httpcore.WriteTimeout)
        if buffer:  # httpcore marks the end of a request, which has been written by then, with nothing.
            self._network.prepared.check()
        self._network.prepared.phase = Phase.SENDING
        self._inner.write(buffer, left_s)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left_s = self._network.left_s(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s), self._network)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
