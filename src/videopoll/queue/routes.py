"""Connections whose server is found out when they are opened: by asking sentinels, or the nodes of a cluster.

A route asks one node after the other until one knows. What it asks, and how it reads
the answer, is a sentinel's or a cluster's (`videopoll.queue.sentinel`, `videopoll.queue.cluster`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import redis
import redis.asyncio
from redis import exceptions as redis_errors

from videopoll.core.flow import adrive, drive
from videopoll.queue.errors import REDIS_ERRORS, RouteError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from videopoll.queue.address import Node

__all__ = ["PLAIN", "ROUTED", "Route", "forget_route", "route_of"]

BURST_S = 1.0
"""Connections that are opened within this time share an answer. What is older may be about a server that is gone."""

ASK_TIMEOUT_S = 1.0
"""Seconds that one node is waited for at most, for its connection and again for its answer; then the next is asked."""


class Route:
    """Who tells where a connection is to lead. Shared by the connections of a pool, in whatever thread or loop.

    Args:
        nodes: Whom to ask, at first.
        options: How to connect to them: user, password, certificates.
    """

    question: tuple[str | bytes, ...]
    """The command that is asked."""

    refusal: str
    """What is told when those who are asked refuse the user or the password."""

    stranger: str
    """What is told when those who answer are not what they were taken for."""

    silence: str
    """What is told when nobody answers."""

    def __init__(self, nodes: Sequence[Node], options: Mapping[str, object]) -> None:
        self.first_nodes: tuple[Node, ...] = tuple(nodes)
        self.options: dict[str, object] = dict(options)
        self._nodes = self.first_nodes
        self._found: tuple[float, Node] | None = None

    @property
    def shown(self) -> str:
        """The nodes, as a person may see them."""
        return ",".join(f"{host}:{port}" for host, port in self.first_nodes)

    def forget(self) -> None:
        """Ask again before the next connection, and somebody else first: what was found seems to be wrong.

        Who said so may be cut off from the others, together with the server that was found.
        """
        self._found = None
        self._nodes = (*self._nodes[1:], *self._nodes[:1])

    def lead_to(self, server: Node) -> None:
        """Lead the next connections to a server of which another has just said that it is the one."""
        self._found = (time.monotonic(), server)

    def find(self, limit_s: float) -> Generator[Node, object, Node]:
        """Yield whom to ask, get the reply, and return where the server is.

        Args:
            limit_s: Seconds after which no further node is asked.

        Raises:
            RouteError: Nobody knows.
        """
        began_s, found = time.monotonic(), self._found
        if found is not None and began_s - found[0] < BURST_S:
            return found[1]
        answer: Exception | None = None
        for node in self._nodes:
            try:
                reply = yield node
                server, nodes = self.read(reply, node)
            except (*REDIS_ERRORS, TypeError, ValueError, LookupError, AttributeError) as error:
                # What a node says weighs more than the silence of another.
                if answer is None or isinstance(error, RouteError | redis_errors.ResponseError):
                    answer = error
                if time.monotonic() - began_s > limit_s:
                    break
            else:
                # The one that knew is asked first next time, and the first ones are never forgotten.
                self._nodes = tuple(dict.fromkeys((node, *nodes, *self.first_nodes)))
                self.lead_to(server)
                return server
        if isinstance(answer, RouteError):
            raise answer
        raise self.explain(answer) from answer

    def read(self, reply: object, asked: Node) -> tuple[Node, Sequence[Node]]:
        """Read a reply: the server, and who else may be asked from now on.

        Raises:
            RouteError: It says that there is no such server.
        """
        raise NotImplementedError

    def explain(self, error: Exception | None) -> RouteError:
        """Return what is told when nobody could say where the server is; `error` weighs most of what was met."""
        if isinstance(error, _NO_ENTRY) or "NOAUTH" in str(error):
            return RouteError(self.refusal, refused=True)
        if isinstance(error, redis_errors.ResponseError):
            return RouteError(self.stranger, refused=True)
        return RouteError(self.silence)


_NO_ENTRY = (redis_errors.AuthenticationError, redis_errors.NoPermissionError)


class _Routed:
    """Mixed into a connection: it leads to where the route says when it is opened."""

    _plain: type
    """The class of the connections by which nodes are asked."""

    def __init__(self, *, route: Route, **options: object) -> None:
        super().__init__(**options)
        self._route = route

    def _asking(self, node: Node) -> Any:
        itself = cast("redis.Connection", self)
        timeout_s = min(ASK_TIMEOUT_S, itself.socket_timeout or ASK_TIMEOUT_S)
        return self._plain(
            host=node[0],
            port=node[1],
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=itself.retry,
            **self._route.options,
        )

    @property
    def _limit_s(self) -> float:
        return cast("redis.Connection", self).socket_timeout or ASK_TIMEOUT_S


class _SyncRouted(_Routed):
    def _connect(self) -> Any:
        itself = cast("Any", self)
        itself.host, itself.port = drive(self._route.find(self._limit_s), self._ask)
        try:
            return cast("Any", super())._connect()  # noqa: SLF001 - the one step of redis-py's that opens the socket
        except BaseException:
            self._route.forget()
            raise

    def _ask(self, node: Node) -> object:
        connection = self._asking(node)
        try:
            connection.connect()
            connection.send_command(*self._route.question)
            return connection.read_response()
        finally:
            connection.disconnect()


class _AsyncRouted(_Routed):
    async def _connect(self) -> None:
        itself = cast("Any", self)
        itself.host, itself.port = await adrive(self._route.find(self._limit_s), self._ask)
        try:
            await cast("Any", super())._connect()  # noqa: SLF001 - see above
        except BaseException:
            self._route.forget()
            raise

    async def _ask(self, node: Node) -> object:
        connection = self._asking(node)
        try:
            await connection.connect()
            await connection.send_command(*self._route.question)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)


class _Connection(_SyncRouted, redis.Connection):
    _plain = redis.Connection


class _SSLConnection(_SyncRouted, redis.SSLConnection):
    _plain = redis.SSLConnection


class _AsyncConnection(_AsyncRouted, redis.asyncio.Connection):
    _plain = redis.asyncio.Connection


class _AsyncSSLConnection(_AsyncRouted, redis.asyncio.SSLConnection):
    _plain = redis.asyncio.SSLConnection


ROUTED: dict[type, type] = {
    kind._plain: kind  # noqa: SLF001 - of this module
    for kind in (_Connection, _SSLConnection, _AsyncConnection, _AsyncSSLConnection)
}
"""The class of connection that follows a route, by the class that leads to one server."""

PLAIN: dict[type, type] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
    _AsyncConnection: _Connection,
    _AsyncSSLConnection: _SSLConnection,
}
PLAIN.update({kind: kind for kind in PLAIN.values()})
"""The sync class for each class of connection that is known: how a fake is opened, is not."""


def route_of(client: redis.Redis | redis.asyncio.Redis) -> Route | None:
    """Return the route that the connections of a client follow, if they do."""
    route = client.connection_pool.connection_kwargs.get("route")
    return route if isinstance(route, Route) else None


def forget_route(client: redis.Redis | redis.asyncio.Redis) -> None:
    """Forget where the server is: the next connection of a client with a route looks for it again."""
    route = route_of(client)
    if route is not None:
        route.forget()
