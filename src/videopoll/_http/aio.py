"""The executor over aiohttp, which is optional: asyncio, several times as fast as httpx."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import aiohttp.http_exceptions
import yarl

from videopoll._http.tls import tls_context
from videopoll._http.values import FailureKind
from videopoll._http.wire import KEEP_ALIVE_S, Reading

if TYPE_CHECKING:
    from types import SimpleNamespace

    from videopoll._http.values import HttpFailure, HttpReply
    from videopoll._http.wire import Wire

_FAULTS = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError)


LONGEST_SEND_S = 30.0
"""How long closing waits for requests of others: the longest that a shipped channel takes."""


class AiohttpSide:
    """asyncio, over aiohttp. The time is kept by the caller."""

    def __init__(self, max_connections: int) -> None:
        self._slots = asyncio.Semaphore(max_connections)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        noting = aiohttp.TraceConfig()
        noting.on_request_headers_sent.append(_note_headers)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[noting],
        )

    async def exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._exchange(wire)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _exchange(self, wire: Wire) -> HttpReply | HttpFailure:
        async with self._slots:
            wire.late = FailureKind.CONNECT_TIMEOUT
            try:
                async with self._session.request(
                    wire.request.method,
                    # A URL that is parsed afresh would be normalised: "%2E%2E" would climb the path.
                    yarl.URL(wire.request.url, encoded=True),
                    headers=wire.headers,
                    data=wire.body or None,
                    allow_redirects=False,
                    ssl=tls_context() if wire.origin[0] == "https" else True,
                    trace_request_ctx=wire,
                ) as response:
                    reading = Reading(wire, response.status, response.raw_headers)
                    result = await reading.aread(response.content.iter_any())
                    if reading.refusal:
                        response.close()
                    return result
            except TimeoutError:
                return wire.timed_out()
            except _FAULTS as error:
                return wire.broke(error)

    async def close(self) -> None:
        # Another runner may be in the middle of a send over the same notifier: its message would be doubled.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), LONGEST_SEND_S)
        await self._session.close()


async def _note_headers(_: object, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.late = FailureKind.TIMEOUT
