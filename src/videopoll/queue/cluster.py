"""Redis Cluster: which node has the slot of a queue, and what to do while the slot moves.

All keys of a queue are in one slot, that of the hash tag in its prefix. So a queue needs no
client that knows a whole cluster, but one whose connections lead to whoever has the slot now.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, cast

import redis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.crc import key_slot
from typing_extensions import override

from videopoll.core.flow import acall_unchecked, adrive, call_unchecked, do, drive
from videopoll.errors import ConfigurationError
from videopoll.queue.errors import RouteError, of_a_cluster
from videopoll.queue.routes import ROUTED, Route, route_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from videopoll.core.flow import Call, Flow
    from videopoll.queue.address import Node
    from videopoll.queue.schema import Keys

    Sleep = Callable[[float], object]

__all__ = ["AsyncSlotClient", "ClusterRoute", "SlotClient", "check_prefix"]

PATIENCE_S = 2.0
"""Seconds that a call waits at most for a slot that moves, or for a cluster that chooses a new primary."""

PAUSE_S = 0.05


class ClusterRoute(Route):
    """Asks the nodes of a cluster which of them has a slot.

    Args:
        nodes: Some of them.
        options: How to connect to them.
        keys: The keys whose slot it is.
        remap: Says how a node is reached that is known by another name there, as redis-py's ``address_remap``.
    """

    question: tuple[str | bytes, ...] = ("CLUSTER", "SLOTS")
    refusal = (
        "the nodes of the cluster refuse the user or the password of the URL, or the user may not run CLUSTER SLOTS"
    )
    stranger = "the server is no node of a cluster: write redis:// in the URL in the place of redis+cluster://"

    def __init__(
        self,
        nodes: Sequence[Node],
        options: Mapping[str, object],
        keys: Keys,
        remap: Callable[[Node], Node] | None = None,
    ) -> None:
        super().__init__(nodes, options)
        self.silence: str = f"none of the {len(self.first_nodes)} nodes of the cluster can be asked who has the keys"
        self._slot = key_slot(keys.queue.encode())
        self._remap = remap

    def at(self, host: object, port: object, asked: Node) -> Node:
        """Return the node that a reply names, as it is reached from here."""
        text = host.decode() if isinstance(host, bytes) else host
        # A node that does not know its own name says nothing, and means the one that was asked.
        node = (text if isinstance(text, str) and text not in {"", "?"} else asked[0], int(cast("int", port)))
        return node if self._remap is None else self._remap(node)

    @property
    @override
    def shown(self) -> str:
        return f"cluster {super().shown}"

    @override
    def read(self, reply: object, asked: Node) -> tuple[Node, Sequence[Node]]:
        nodes: list[Node] = []
        owner: Node | None = None
        for first, last, *servers in cast("list[tuple[int, int, list[Any]]]", reply):
            those = [self.at(host, port, asked) for host, port, *_ in cast("list[Any]", servers)]
            nodes += those
            if int(first) <= self._slot <= int(last):
                owner = those[0]
        if owner is None:
            msg = f"no node of the cluster has the slot of the prefix ({self._slot})"
            raise RouteError(msg)
        return owner, nodes


def check_prefix(keys: Keys) -> None:
    """Refuse a prefix whose keys would be spread over a cluster.

    Raises:
        ConfigurationError: It has no hash tag.
    """
    if not keys.in_one_slot:
        msg = (
            "in a Redis Cluster all keys of a queue have to be in one slot: make the prefix a hash tag, such as"
            f" prefix='{{{keys.prefix.strip('{}')}}}', for workers and producers alike"
        )
        raise ConfigurationError(msg)


def _follow(
    client: redis.Redis | redis.asyncio.Redis, execute: Call, ask: Callable[[Node], object], sleep: Sleep
) -> Flow[object]:
    """Carry out one command, wherever the slot is. What a node refuses here, it has not begun.

    Args:
        client: Whose command it is.
        execute: Carries it out at the node that had the slot.
        ask: Carries it out at the node that is taking the slot over.
        sleep: Waits.
    """
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return (yield execute)
        except redis_errors.ResponseError as error:
            answer = of_a_cluster(error)
            if not isinstance(answer, _ELSEWHERE):
                raise
        if isinstance(answer, redis_errors.AskError) and not isinstance(answer, redis_errors.MovedError):
            # The keys of this command have moved already, others of the slot have not.
            try:
                return (yield functools.partial(ask, (answer.host, answer.port)))
            except redis_errors.ResponseError as error:
                answer = of_a_cluster(error)
                if not isinstance(answer, _ELSEWHERE):
                    raise
        if time.monotonic() > until_s:
            raise answer
        if isinstance(answer, redis_errors.MovedError | redis_errors.MasterDownError):
            yield from do(lambda: client.connection_pool.disconnect(inuse_connections=False))
            route = cast("ClusterRoute", route_of(client))
            route.forget()
            if isinstance(answer, redis_errors.MovedError):
                # The node that had the slot knows best; others may still name it.
                route.lead_to(route.at(answer.host, answer.port, route.first_nodes[0]))
        yield functools.partial(sleep, PAUSE_S)


_ELSEWHERE = (redis_errors.AskError, redis_errors.TryAgainError, redis_errors.ClusterDownError)
"""MOVED and ASK, TRYAGAIN while the keys of a slot are on two nodes, and CLUSTERDOWN while nobody has it."""


def _there(client: redis.Redis | redis.asyncio.Redis, node: Node) -> Any:
    """Return a connection to a node, on which a client may ask once."""
    pool = client.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in {"route", "host", "port"}}
    kind = next(plain for plain, routed in ROUTED.items() if routed is pool.connection_class)
    route = cast("ClusterRoute", route_of(client))
    host, port = route.at(*node, route.first_nodes[0])
    return kind(host=host, port=port, **options)


class SlotClient(redis.Redis):
    """A client whose connections follow a slot."""

    @override
    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Carry out a command, wherever the slot is."""
        execute = functools.partial(super().execute_command, *args, **options)
        return drive(_follow(self, execute, functools.partial(self._ask, args, options), time.sleep), call_unchecked)

    def _ask(self, words: tuple[Any, ...], options: dict[str, Any], node: Node) -> object:
        connection = _there(self, node)
        try:
            connection.connect()
            connection.send_command("ASKING")
            connection.read_response()
            connection.send_command(*words)
            return cast("Any", self).parse_response(connection, words[0], **options)
        finally:
            connection.disconnect()


class AsyncSlotClient(redis.asyncio.Redis):
    """The asyncio side of `SlotClient`."""

    @override
    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Carry out a command, wherever the slot is."""
        execute = functools.partial(super().execute_command, *args, **options)
        ask = functools.partial(self._ask, args, options)
        return await adrive(_follow(self, execute, ask, asyncio.sleep), acall_unchecked)

    async def _ask(self, words: tuple[Any, ...], options: dict[str, Any], node: Node) -> object:
        connection = _there(self, node)
        try:
            await connection.connect()
            await connection.send_command("ASKING")
            await connection.read_response()
            await connection.send_command(*words)
            return await self.parse_response(connection, words[0], **options)
        finally:
            await connection.disconnect(nowait=True)
