"""The transport over aiohttp, which is optional: asyncio, several times as fast as httpx."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING

import aiohttp
import yarl

from videopoll._http.prepare import KEEP_ALIVE_S, NotPublicError, Phase, Reading, Streamed, TooLateError
from videopoll._http.tls import tls_context
from videopoll.policies import LONGEST_SEND_S

if TYPE_CHECKING:
    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.values import HttpFailure, HttpReply


class AiohttpTransport:
    """asyncio, over aiohttp. The time is kept by the caller."""

    def __init__(self, max_connections: int) -> None:
        self._slots = asyncio.Semaphore(max_connections)
        self._max_connections = max_connections
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure:
        async with self._slots:
            prepared.phase = Phase.CONNECTING
            _connecting.set(prepared)
            # The body may be written a while after the headers: what has to ask asks once more before it.
            content = Streamed(prepared) if prepared.body and prepared.may_send else prepared.content
            try:
                async with self._session.request(
                    prepared.request.method,
                    # A URL that is parsed afresh would be normalised: "%2E%2E" would climb the path.
                    yarl.URL(prepared.request.url, encoded=True),
                    headers=prepared.headers,
                    data=content or None,
                    allow_redirects=False,
                    ssl=tls_context() if prepared.origin[0] == "https" else True,
                ) as response:
                    reading = Reading(prepared, response.status, response.raw_headers)
                    result = await reading.aread(response.content.iter_any())
                    if reading.refusal:
                        response.close()
                    return result
            except Exception as error:  # noqa: BLE001 - see PreparedRequest.failure
                return prepared.failure(error)

    async def close(self) -> None:
        # Another runner may be in the middle of a send over the same notifier: its message would be doubled.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SEND_S):
                for _ in range(self._max_connections):
                    await self._slots.acquire()
        await self._session.close()


_connecting: contextvars.ContextVar[PreparedRequest] = contextvars.ContextVar("videopoll_connecting")
"""The request that this task is about to send."""


class _Connector(aiohttp.TCPConnector):
    """Tells when a request has a connection: what fails from then on may have been sent.

    Its headers are written next, and nothing else happens in between: so whether it may go out is asked here.
    aiohttp's own tracing could tell, too, and takes a tenth of a poll's time.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        prepared = _connecting.get()
        try:
            # Also one that was kept: who asked for it first may have been allowed to.
            if prepared.request.public_only:
                prepared.check_address(_peer(connection))
            prepared.check()
        except (NotPublicError, TooLateError):
            connection.close()
            raise
        prepared.phase = Phase.SENDING
        return connection


def _peer(connection: aiohttp.connector.Connection) -> object:
    peer = connection.transport.get_extra_info("peername") if connection.transport else None
    return peer[0] if isinstance(peer, tuple) and peer else None
