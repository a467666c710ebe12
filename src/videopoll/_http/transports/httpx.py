"""Transports over httpx clients, the host's or those that go through the environment's proxies, and their faults."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from typing import TYPE_CHECKING, Generic, TypeGuard, TypeVar

import httpx

from videopoll._http.prepare import Phase, Reading, Streamed, describe, user_agent
from videopoll._http.values import FailureKind, HttpFailure
from videopoll.core.belonging import is_of_other_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.values import HttpReply

_Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)

CONNECT_SHARE = 0.9
"""The part of the time that an asyncio client may spend before the request goes out: its connect timeout must
come before the end of the total time, or a request that surely was not sent looks like one that may have been."""

_LIBRARIES = frozenset({"aiohttp", "anyio", "h11", "h2", "httpcore", "httpx", "httpx_aiohttp", "idna", "socksio"})
"""Whose errors come through a host's client, mapped to httpx's or not. Those of a hook of the host are the host's.
idna's: httpx reads where a redirect leads also if it does not go there."""

OTHER_LOOP = (
    "the httpx.AsyncClient that was given has connections of another event loop: give each loop a client of its own,"
    " or leave async_client out"
)


class _OverClient(Generic[_Client]):
    """An httpx client: the host's, or our own that goes through one of the environment's proxies."""

    def __init__(self, client: _Client, *, own: bool = False) -> None:
        self._client: _Client = client
        self._own = own

    def _request(
        self, prepared: PreparedRequest, trace: Callable[..., object], connect_share: float = 1.0
    ) -> httpx.Request:
        """Return a request in our client's terms; `trace` is told how far it comes."""
        # A host's client does not say how far it came.
        prepared.phase = Phase.CONNECTING if self._own else Phase.SENDING
        streamed = prepared.may_send is not None or not isinstance(prepared.body, bytes)
        total_s = prepared.remaining_s()
        first_s = total_s * connect_share
        headers = prepared.headers
        if not self._client.headers.get("user-agent", "").startswith("python-httpx/"):
            # The host has chosen a name of its own.
            headers = tuple(header for header in headers if header != ("User-Agent", user_agent()))
        prepared.check()
        request = self._client.build_request(
            prepared.request.method,
            prepared.request.url,
            headers=headers,
            content=prepared.content or None,
            timeout=httpx.Timeout(total_s, connect=first_s, pool=first_s),
            extensions={"trace": functools.partial(trace, prepared)} if self._own or prepared.may_send else {},
        )
        if streamed:
            request.stream = _Guarded(prepared)
        return request

    def _failure(self, prepared: PreparedRequest, error: Exception) -> HttpFailure:
        """Return what an error means; one of the host's own is raised."""
        if self._own or prepared.held_back or prepared.is_inside:
            return prepared.failure(error, httpx.TimeoutException)
        if _is_fault(error):
            return prepared.judged(_fault(error))
        if is_of_other_loop(error):
            return HttpFailure(kind=FailureKind.BROKEN, detail=OTHER_LOOP)
        raise error


class HttpxTransport(_OverClient[httpx.Client]):
    """Threads."""

    def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        try:
            if prepared.request.public_only:
                with contextlib.suppress(OSError, UnicodeError):
                    _check_found(prepared, socket.getaddrinfo(*prepared.origin[1:], type=socket.SOCK_STREAM))
            request = self._request(prepared, _note)
            with contextlib.closing(self._client.send(request, stream=True, follow_redirects=False)) as response:
                chunks = _was_read(response) if response.is_stream_consumed else response.iter_raw()
                return _reading(prepared, response).read(chunks)
        except Exception as error:  # noqa: BLE001 - it is judged, and raised again
            return self._failure(prepared, error)

    def close(self) -> None:
        self._client.close()


class AsyncHttpxTransport(_OverClient[httpx.AsyncClient]):
    """asyncio."""

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        try:
            if prepared.request.public_only:
                with contextlib.suppress(OSError, UnicodeError):
                    look_up = asyncio.get_running_loop().getaddrinfo
                    _check_found(prepared, await look_up(*prepared.origin[1:], type=socket.SOCK_STREAM))
            request = self._request(prepared, _anote, CONNECT_SHARE)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            async with contextlib.aclosing(response):
                if response.is_stream_consumed:
                    return _reading(prepared, response).read(_was_read(response))
                return await _reading(prepared, response).aread(response.aiter_raw())
        except Exception as error:  # noqa: BLE001 - it is judged, and raised again
            return self._failure(prepared, error)

    async def close(self) -> None:
        await self._client.aclose()


def _check_found(
    prepared: PreparedRequest, found: Iterable[tuple[object, object, object, str, tuple[object, ...]]]
) -> None:
    """Check what the host's name stands for; a name that only a proxy can look up passes."""
    for *_, address in found:
        prepared.check_address(address[0])


async def _anote(prepared: PreparedRequest, event: str, info: Mapping[str, object]) -> None:
    _note(prepared, event, info)


def _note(prepared: PreparedRequest, event: str, info: Mapping[str, object]) -> None:
    """Note that the request begins to go out; what is asked of the proxy itself before is no part of it."""
    if event.endswith(".send_request_headers.started") and getattr(info["request"], "method", b"") != b"CONNECT":
        prepared.check()
        prepared.phase = Phase.SENDING


class _Guarded(Streamed, httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that asks whether it may go out when it is about to: whatever the host's transport is, a connection is there."""


def _reading(prepared: PreparedRequest, response: httpx.Response) -> Reading:
    return Reading(prepared, response.status_code, response.headers.raw, unpacked=response.is_stream_consumed)


def _was_read(response: httpx.Response) -> Iterator[bytes]:
    # A hook of the host may have read the body already.
    yield response.content


def _is_fault(error: Exception) -> bool:
    return isinstance(error, OSError) or _is_of(error, _LIBRARIES)


def _is_of(error: BaseException, libraries: frozenset[str]) -> bool:
    return any(base.__module__.partition(".")[0] in libraries for base in type(error).__mro__)


def _fault(error: Exception) -> HttpFailure:
    """Return what an error of a host's httpx client means; whatever is in doubt counts as sent."""
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
    return error is not None and _is_of(error, frozenset({"aiohttp"}))


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
