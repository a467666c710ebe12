"""How both queues on Redis are built, and what they tell of themselves; their calls are in `videopoll.queue.redis_queue`."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from typing_extensions import override

from videopoll.core.belonging import OfProcess
from videopoll.jobs.checks import check_seconds, listed
from videopoll.queue import calls
from videopoll.queue.connect import check_client, client_beside, shown_address
from videopoll.queue.history import TIMEOUT_S as HISTORY_TIMEOUT_S
from videopoll.queue.history import RedisHistory
from videopoll.queue.layout import prefix_of
from videopoll.queue.operations import Operations
from videopoll.queue.pools import MAX_CONNECTIONS, renew_locks
from videopoll.queue.schema import DEFAULT_PREFIX, Keys
from videopoll.queue.tool_calls import ToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Self

    import redis

    from videopoll.core.flow import Flow
    from videopoll.events import Hook
    from videopoll.policies import DeadLetterPolicy, DeliveryPolicy, KeyTtls

__all__ = ["BaseQueue"]

ClientT = TypeVar("ClientT")
ClusterT = TypeVar("ClusterT")
SeatsT = TypeVar("SeatsT")


FRONT_TIMEOUT_S = 2.0
"""Seconds that a producer's call waits, where nothing else is said."""

WORKER_TIMEOUT_S = 10.0
"""Seconds that a worker's call waits, where nothing else is said."""

BLOCKING_TIMEOUT_S = calls.LONGEST_BLOCK_S + 10
"""Seconds that the connection of an idle worker waits: longer than it blocks."""


class BaseQueue(OfProcess, Generic[ClientT, ClusterT, SeatsT]):
    """What both twins are made of: how they are built. Theirs are the methods that wait for Redis."""

    _client_type: ClassVar[type]
    """The class of client that this twin takes."""

    _cluster_type: ClassVar[type]
    """The class of client of a whole cluster from which this twin makes its own."""

    _new_client: Callable[[str, Keys, float, int], ClientT]
    """Returns a client of a URL for some keys, with a time limit in seconds, and so many connections at most."""

    _new_client_of_cluster: Callable[[ClusterT, Keys, float], ClientT]
    """Returns a client to the node of a host's cluster that has the keys, with a time limit in seconds."""

    _new_seats: Callable[[ClientT], SeatsT]
    """Returns the places of the waits, which listen on a connection of this client."""

    _carry_out: Callable[[Flow[object]], object]
    """Carries out a flow over this twin's clients: the result, or what is to be awaited for it."""

    def __init__(
        self,
        client: ClientT | ClusterT,
        *,
        front: ClientT | None = None,
        blocking: ClientT | None = None,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
        tenant_key: str | None = None,
    ) -> None:
        keys = Keys(prefix)
        self._owned: tuple[ClientT, ...] = ()
        if isinstance(client, self._cluster_type):
            cluster = cast("ClusterT", client)
            own = [
                self._new_client_of_cluster(cluster, keys, limit_s)
                for limit_s in (WORKER_TIMEOUT_S, FRONT_TIMEOUT_S, BLOCKING_TIMEOUT_S)
            ]
            client, self._owned = own[0], tuple(own)
            front, blocking = front or own[1], blocking or own[2]
        for name, one in (("client", client), ("front", front), ("blocking", blocking)):
            if name == "client" or one is not None:
                check_client(one, self._client_type, type(self).__name__, name)
        self._client: ClientT = cast("ClientT", client)
        self._blocking: ClientT | None = blocking
        self._front: ClientT = self._client if front is None else front
        self._operations = Operations(
            cast("redis.Redis", self._client),
            cast("redis.Redis", self._front),
            keys=keys,
            ttls=ttls,
            dead_letters=dead_letters,
            delivery=delivery,
            hooks=hooks,
            tenant_key=tenant_key,
        )
        self._seats = self._new_seats(self._front)
        self._interrupted = threading.Event()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # A runner of the parent may just have been coming to its end.
        self._interrupted = threading.Event()
        # The clients see for themselves that they are in another process, but for what their threads held. A host's
        # are no exception: a web server that hangs in its first enqueue does not ask whose pool it was.
        for client in (self._client, self._front, self._blocking, *self._owned):
            if client is not None:
                renew_locks(client)
                renew_locks(cast("redis.Redis", client).connection_pool)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
        tenant_key: str | None = None,
        front_timeout_s: float = FRONT_TIMEOUT_S,
        worker_timeout_s: float = WORKER_TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
        partitions: int | None = None,
        serve: Collection[int] | None = None,
    ) -> Self:
        """Build a queue with connections of its own.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://`` for one server; ``redis+sentinel://host1,host2/service/0``
                for the one that sentinels name; ``redis+cluster://host1,host2`` for the nodes of a cluster. With
                ``rediss+`` all of them are asked over TLS.
            prefix: What every key starts with. In a cluster it has to be a hash tag, such as ``{video}``.
            ttls: How long the documented keys live.
            dead_letters: How many dead letters are kept, and how long.
            delivery: The delivery policy of notices that `cancel` and `redrive` start.
            hooks: Hear of jobs that are enqueued and cancelled here.
            tenant_key: The entry of the jobs' metadata that says whose a job is; see `RedisVideoJobQueue`.
            front_timeout_s: Seconds that a producer's call waits at most for one of
                the connections to be free, again for it to be opened, and again for
                the reply, before it fails.
            worker_timeout_s: The same for a worker's calls.
            max_connections: Connections that the calls of producers and operators hold
                at most; further calls wait for one. All calls of `wait` together hold
                one more, and a worker about five of its own. With partitions that is for each of them.
            partitions: How many partitions the queue has: ``{video}``, ``{video:1}``, ``{video:2}`` and so on, of which
                each may be at another node of a cluster, and each job is in one. The number may be raised while
                everything runs, never lowered; who has a smaller one learns the greater. With 1 it has the keys of a queue
                without partitions, and can grow.
            serve: The partitions from which a worker takes jobs, by number from 0; all by default, also those that
                come later.

        Raises:
            ConfigurationError: The URL cannot be read, has an option that does not exist, names certificates that
                cannot be used, or turns off the check of the server's certificate; it is a cluster's, and the prefix
                has no hash tag; or an argument cannot be what it is to be.
        """
        if partitions is not None or serve is not None:
            whole = Keys(prefix).prefix
            make = functools.partial(
                cls.from_url,
                url,
                ttls=ttls,
                dead_letters=dead_letters,
                delivery=delivery,
                tenant_key=tenant_key,
                hooks=listed(hooks, "hooks", "functions of an event"),
                front_timeout_s=front_timeout_s,
                worker_timeout_s=worker_timeout_s,
                max_connections=max_connections,
            )
            count = 1 if partitions is None else partitions
            return cast("Self", cls._of_partitions(lambda one: make(prefix=prefix_of(whole, one)), count, serve))
        keys = Keys(prefix)
        check_seconds("front_timeout_s", front_timeout_s, above=0)
        check_seconds("worker_timeout_s", worker_timeout_s, above=0)
        front = cls._new_client(url, keys, front_timeout_s, max_connections)
        worker, blocking, listening = (
            cls._new_client(url, keys, limit_s, MAX_CONNECTIONS)
            for limit_s in (worker_timeout_s, BLOCKING_TIMEOUT_S, front_timeout_s)
        )
        queue = cls(
            worker,
            front=front,
            blocking=blocking,
            prefix=prefix,
            ttls=ttls,
            dead_letters=dead_letters,
            delivery=delivery,
            hooks=hooks,
            tenant_key=tenant_key,
        )
        queue._owned = (worker, front, blocking, listening)
        # Beside the producers' connections: the one that stays taken would leave them one less, or none.
        queue._seats = cls._new_seats(listening)
        return queue

    @classmethod
    def _of_partitions(cls, make: Callable[[int], object], partitions: int, serve: Collection[int] | None) -> object:
        """Return this twin's queue of several partitions."""
        raise NotImplementedError

    def open_history(self) -> RedisHistory | None:
        """Return what keeps the stories of jobs and the heartbeat of a worker, on a connection of its own.

        None where a client of the host is used that says in no known way where it
        connects to: give the runner a `RedisHistory` among its hooks then.
        """
        client = client_beside(cast("redis.Redis", self._client), HISTORY_TIMEOUT_S)
        return None if client is None else RedisHistory(client, prefix=self.keys.prefix)

    @property
    def keys(self) -> Keys:
        """The names of this queue's keys."""
        return self._operations.keys

    @property
    def ttls(self) -> KeyTtls:
        """How long the keys live."""
        return self._operations.ttls

    @property
    def tool_calls(self) -> ToolCalls:
        """The answers of an agent's calls, by which `VideoGeneratorTool` starts nothing twice."""
        return ToolCalls(self._operations, self._carry_out)

    def __repr__(self) -> str:
        # Never the URL: it may hold a password.
        address = shown_address(self._operations.client)
        return f"{type(self).__name__}(prefix={self.keys.prefix!r}, redis={address!r})"
