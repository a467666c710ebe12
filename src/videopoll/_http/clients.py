"""Executors over httpx clients, the host's or those that go through the environment's proxies, and their faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import httpx

from videopoll._http.values import FailureKind, HttpFailure
from videopoll._http.wire import Reading, describe, user_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videopoll._http.values import HttpReply
    from videopoll._http.wire import Wire

CONNECT_SHARE = 0.9
"""The part of the time that an asyncio client may spend before the request goes out: its connect timeout must
come before the end of the total time, or a request that surely was not sent looks like one that may have been."""

_FAULTS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)


class ClientSide:
    """Threads, over an httpx client: the host's, or one that goes through the environment's proxies."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        wire.late = FailureKind.TIMEOUT  # It does not say how far it came.
        try:
            response = self._client.send(_request(self._client, wire), stream=True, follow_redirects=False)
            try:
                reading = _reading(wire, response)
                return reading.read(_was_read(response) if response.is_stream_consumed else response.iter_raw())
            finally:
                response.close()
        except _FAULTS as error:
            return _fault(error)

    def close(self) -> None:
        self._client.close()


class AsyncClientSide:
    """asyncio, over an httpx client: the host's, or one that goes through the environment's proxies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        wire.late = FailureKind.TIMEOUT
        try:
            request = _request(self._client, wire, CONNECT_SHARE)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                reading = _reading(wire, response)
                if response.is_stream_consumed:
                    return reading.read(_was_read(response))
                return await reading.aread(response.aiter_raw())
            finally:
                await response.aclose()
        except Exception as error:
            if isinstance(error, _FAULTS) or _is_aiohttp(error):  # httpx-aiohttp lets some of them through.
                return _fault(error)
            raise

    async def close(self) -> None:
        await self._client.aclose()


def _request(client: httpx.Client | httpx.AsyncClient, wire: Wire, connect_share: float = 1.0) -> httpx.Request:
    total_s = wire.remaining_s()
    first_s = total_s * connect_share
    headers = wire.headers
    if not client.headers.get("user-agent", "").startswith("python-httpx/"):
        # The host has chosen a name of its own.
        headers = tuple(header for header in headers if header != ("User-Agent", user_agent()))
    return client.build_request(
        wire.request.method,
        wire.request.url,
        headers=headers,
        content=wire.body or None,
        timeout=httpx.Timeout(total_s, connect=first_s, pool=first_s),
    )


def _reading(wire: Wire, response: httpx.Response) -> Reading:
    return Reading(wire, response.status_code, response.headers.raw, unpacked=response.is_stream_consumed)


def _was_read(response: httpx.Response) -> Iterator[bytes]:
    # A hook of the host may have read the body already.
    yield response.content


def _fault(error: Exception) -> HttpFailure:
    """Say what an error of a host's httpx client means; whatever is in doubt counts as sent."""
    for cause in (error, error.__cause__):
        if _is_aiohttp(cause):
            # httpx-aiohttp reports every broken connection as a connect timeout, which would prove that nothing was sent.
            return HttpFailure(kind=_aiohttp_kind(cause), detail=describe(cause))
    match error:
        case httpx.ConnectTimeout():
            kind = FailureKind.CONNECT_TIMEOUT
        case httpx.PoolTimeout():
            kind = FailureKind.POOL_TIMEOUT
        case httpx.TimeoutException():
            kind = FailureKind.TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError():
            kind = FailureKind.CONNECT
        case httpx.UnsupportedProtocol() | httpx.InvalidURL():
            kind = FailureKind.INVALID
        case _:
            kind = FailureKind.BROKEN
    return HttpFailure(kind=kind, detail=describe(error))


def _is_aiohttp(error: BaseException | None) -> TypeGuard[Exception]:
    return error is not None and type(error).__module__.startswith("aiohttp.")


def _aiohttp_kind(error: BaseException) -> FailureKind:
    import aiohttp  # noqa: PLC0415 (optional)

    match error:
        case aiohttp.ConnectionTimeoutError():
            return FailureKind.CONNECT_TIMEOUT
        case TimeoutError():
            return FailureKind.TIMEOUT
        case aiohttp.ClientConnectorError():
            return FailureKind.CONNECT
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return FailureKind.INVALID
        case _:
            return FailureKind.BROKEN
