"""The public face of the package: `Http`, which picks a transport and keeps it."""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from videopoll._http import log_filter, proxies, tls, transports
from videopoll._http.prepare import prepare
from videopoll._http.values import FailureKind, HttpFailure
from videopoll.core.belonging import OfLoop, OfProcess, leave_to_parent
from videopoll.core.deadlines import Deadlines
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_count

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from videopoll._http.transports.base import Transport
    from videopoll._http.values import HttpReply, HttpRequest


class Http(OfProcess):
    """Carries out requests, in threads and under asyncio. Connections are opened when they are first needed.

    May be shared between threads and between event loops (each loop has
    connections of its own), and is usable again after it was closed, and in a
    forked process.

    The time limit of a request covers all of it. Two things are outside of our
    hands: in threads, the operating system's own time for looking up a name; and,
    in threads with a client of the host or a proxy, a server that sends its
    headers byte by byte, since httpx limits single reads there.

    Args:
        client: The host's httpx client for threads, with its own hooks, proxies
            and certificates. It is never closed here.
        async_client: The same for asyncio.
        max_reply_bytes: Larger replies are refused, before they are in memory.
        max_connections: Connections open at most, for threads and for each event
            loop. Further requests wait for one within their time. A host's
            clients have their own limits.
        transport: What carries asyncio requests without `async_client`: aiohttp
            (the extra ``fast``), httpx's own layer, or ``"auto"``: aiohttp if it is installed.

    Raises:
        ConfigurationError: A limit is less than 1, or a client is none of httpx's, or aiohttp is asked for and not
            installed, or httpcore is missing, or the environment names a proxy or
            certificates that cannot be used (not if both clients are given).
    """

    def __init__(
        self,
        *,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        max_reply_bytes: int = 1_000_000,
        max_connections: int = 100,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        check_count("max_reply_bytes", max_reply_bytes)
        check_count("max_connections", max_connections)
        check_choice("transport", transport, "auto", "httpx", "aiohttp")
        if importlib.util.find_spec("httpcore") is None:
            msg = "videopoll needs httpcore, which httpx 0.27 and 0.28 bring along: install one of them, or httpcore"
            raise ConfigurationError(msg)

        self._use_aiohttp = transport != "httpx" and transports.has_aiohttp()
        if transport == "aiohttp" and not self._use_aiohttp:
            msg = 'transport="aiohttp" needs aiohttp 3.10 or later: install videopoll[fast], or use transport="auto"'
            raise ConfigurationError(msg)
        self._trouble: str | None = None
        self._proxies = proxies.Proxies()
        try:
            if client is None or async_client is None:
                self._proxies = proxies.read_proxies()
                tls.check_environment()
        except ConfigurationError as error:
            if client is None and async_client is None:
                raise
            # The host may have given a client because of that, and need no other one.
            self._trouble = str(error)
        log_filter.install()
        self._max_reply_bytes, self._max_connections = max_reply_bytes, max_connections
        self._given = None if client is None else transports.over_client(client)
        self._async_given = None if async_client is None else transports.over_async_client(async_client)
        given, open_own = (
            self._async_given,
            functools.partial(
                transports.open_async_transport, max_connections, self._proxies, use_aiohttp=self._use_aiohttp
            ),
        )
        # Without `self`: neither of the two would be freed before the next collection.
        self._of_loop = OfLoop(lambda: (given or open_own(), Deadlines()))
        self._lock = threading.Lock()
        self._own: Transport | None = None
        self._begin_in_process()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_connections={self._max_connections})"

    def send(self, request: HttpRequest, *, may_send: Callable[[], bool] | None = None) -> HttpReply | HttpFailure:
        """Carry out `request` in this thread, within its `HttpRequest.timeout_s`.

        Args:
            request: What to ask for.
            may_send: Asked when the request's bytes are about to go out, after a
                connection is there; if it says no, nothing is sent.
        """
        prepared = prepare(request, self._max_reply_bytes, may_send)
        if isinstance(prepared, HttpFailure):
            return prepared
        if self._trouble is not None and self._given is None:
            return HttpFailure(kind=FailureKind.CONNECT, detail=self._trouble)
        with log_filter.suppress_client_logs():
            return self._transport().exchange(prepared)

    async def asend(
        self, request: HttpRequest, *, may_send: Callable[[], bool] | None = None
    ) -> HttpReply | HttpFailure:
        """Carry out `request` under asyncio, within its `HttpRequest.timeout_s`. The arguments are those of `send`."""
        prepared = prepare(request, self._max_reply_bytes, may_send)
        if isinstance(prepared, HttpFailure):
            return prepared
        if self._trouble is not None and self._async_given is None:
            return HttpFailure(kind=FailureKind.CONNECT, detail=self._trouble)
        with log_filter.suppress_client_logs():
            transport, deadlines = self._of_loop.here()
            try:
                with deadlines.at(prepared.deadline_s):
                    return await transport.exchange(prepared)
            except TimeoutError:
                return prepared.timed_out()

    def close(self) -> None:
        """Close our own connections for threads; one in use closes when its request ends."""
        with self._lock:
            transport, self._own = self._own, None
        if transport:
            transport.close()

    async def aclose(self) -> None:
        """Close our own connections of the running event loop."""
        transport, _ = self._of_loop.take() or (None, None)
        if transport and transport is not self._async_given:
            await transport.close()

    @override
    def _begin_in_child(self) -> None:
        # Two processes would read each other's replies.
        leave_to_parent(self._own)
        self._own, self._lock = None, threading.Lock()

    def _transport(self) -> Transport:
        if self._given:
            return self._given
        with self._lock:
            if self._own is None:
                self._own = transports.open_transport(self._max_connections, self._proxies)
            return self._own
