"""Lua scripts on Redis as flows: one description, which threads and asyncio carry out alike.

Owns the loading of ``lua/*.lua``, and when a call is made again. What each script is
given and what its reply means is in `videopoll.queue.calls`; what an error of the
client means is in `videopoll.queue.errors`.

A flow calls the methods of a client that is typed as the sync one. The asyncio
client has the same methods, whose results `arun` awaits.
"""

from __future__ import annotations

import functools
import hashlib
import pkgutil
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, cast

import attrs
from redis import exceptions as redis_errors

from videopoll._reasons import own
from videopoll.core.flow import acall_unchecked, adrive, call_unchecked, do, drive
from videopoll.errors import QueueUnavailableError
from videopoll.queue.errors import (
    REDIS_ERRORS,
    has_moved,
    is_alone,
    is_broken,
    is_cut_off,
    is_full,
    is_undone,
    raise_if_of_other_loop,
    raise_queue_error,
)
from videopoll.queue.routes import forget_route, route_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis

    from videopoll.core.flow import Flow

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


_DOING = {"layout": "looking for partitions", "inspect": "looking a job up"}
"""What errors call scripts whose names say nothing to whoever has not read them."""


@attrs.frozen
class Script:
    """One Lua file, or one behind others whose functions it uses.

    Args:
        name: The file's name, without its ending.
        source: The text.
        sha: The SHA-1 of it, by which Redis knows it.
    """

    name: str
    source: str = attrs.field(repr=False)
    sha: str = attrs.field(repr=False)

    @property
    def doing(self) -> str:
        """What an error says was being done."""
        return _DOING.get(self.name, self.name.replace("_", " "))

    @classmethod
    def load(cls, name: str, *before: str) -> Script:
        """Read ``lua/{name}.lua`` from the package, behind the text of those that stand `before` it."""
        source = "".join(_text(f"lua/{one}.lua") for one in (*before, name))
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _text(path: str) -> str:
    # Not importlib.resources: it brings tempfile, zipfile and, with Python 3.15, three compressions.
    text = pkgutil.get_data("videopoll.queue", path)
    if text is None:
        msg = f"{path} cannot be read from where videopoll was imported: install its wheel"
        raise FileNotFoundError(msg)
    return text.decode()


@attrs.frozen
class ScriptCall(Generic[T_co]):
    """One run of a script: its keys and arguments, and how to read the reply.

    Args:
        script: Which script.
        keys: Its keys.
        args: Its arguments.
        parse: Turns the raw reply into a value.
        repeatable: Whether running it twice gives the same answer. Only such a
            call is repeated when its connection broke; a claim whose reply was
            lost is covered by its lease.
    """

    script: Script
    keys: tuple[str | bytes, ...] = attrs.field(repr=False)
    args: tuple[str | bytes | int, ...] = attrs.field(repr=False)
    parse: Callable[[object], T_co] = attrs.field(repr=False)
    repeatable: bool = True

    def words(self) -> tuple[str | bytes | int, ...]:
        """Return the words after ``EVALSHA sha``."""
        return (len(self.keys), *self.keys, *self.args)


def run(flow: Flow[T]) -> T:
    """Carry out a flow over a sync client.

    Raises:
        QueueUnavailableError: Redis is away.
        QueueRefusedError: Redis says no.
    """
    return drive(flow, _call)


def _call(effect: Callable[[], object]) -> object:
    try:
        return call_unchecked(effect)
    except ValueError as error:
        if str(error) != _CLOSED_MEANWHILE:
            raise
        # redis-py 5 raises this when another thread closes the connection on which this one waits for an answer.
        msg = "the connection was closed meanwhile"
        raise redis_errors.ConnectionError(msg) from None


_CLOSED_MEANWHILE = "I/O operation on closed file."


async def arun(flow: Flow[T]) -> T:
    """Carry out a flow over an asyncio client; the asyncio side of `run`."""
    try:
        return await adrive(flow, acall_unchecked)
    except RuntimeError as error:
        raise_if_of_other_loop(error)
        raise


def let_go_if_moved(client: redis.Redis, error: Exception) -> Flow[bool]:
    """Keep no idle connection to a server that is no primary any more; return whether it is that.

    Where a server is looked for, one that is silent, gone or cut off counts as well: the others lead to the same one,
    and there may be another by now.
    """
    moved = has_moved(error)
    gone = (isinstance(error, _GONE) and not is_full(error)) or is_alone(error)
    if moved or (gone and route_of(client) is not None):
        forget_route(client)
        yield from do(lambda: client.connection_pool.disconnect(inuse_connections=False))
    return moved


_GONE = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


def read(
    client: redis.Redis, doing: str, method: Callable[P, T | Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> Flow[T]:
    """Read something from Redis, once again if a pooled connection died unnoticed.

    Args:
        client: The client that is asked.
        doing: What for, as an error says it.
        method: A method of the client, or a function that calls some.
        *args: Its arguments.
        **kwargs: Its arguments by name.

    Raises:
        QueueUnavailableError: Redis is away.
        QueueRefusedError: Redis says no.
    """
    for last in (False, True):
        try:
            return (yield from do(method, *args, **kwargs))
        except REDIS_ERRORS as error:
            moved = yield from let_go_if_moved(client, error)
            if last or not (moved or is_broken(error)):
                raise_queue_error(error, doing, client if last or not is_broken(error) else None)
    raise AssertionError


def evaluate(client: redis.Redis, call: ScriptCall[T]) -> Flow[T]:
    """Run a script.

    Raises:
        QueueUnavailableError: Redis is away; a repeatable call may be made again.
        QueueRefusedError: Redis says no.
    """
    execute = cast("Callable[..., object]", client.execute_command)
    words = call.words()
    for last in (False, True):
        try:
            try:
                reply = yield functools.partial(execute, "EVALSHA", call.script.sha, *words)
            except redis_errors.NoScriptError:
                # Nothing has run: the server was restarted, or its scripts were flushed.
                reply = yield functools.partial(execute, "EVAL", call.script.source, *words)
            return _parse(call, reply)
        except REDIS_ERRORS as error:
            # A pooled connection may have died unnoticed, or lead to a server that is a replica by now, and so
            # has written nothing: one fresh try, where that is safe.
            moved = yield from let_go_if_moved(client, error)
            if last or not (moved or (call.repeatable and (is_broken(error) or is_cut_off(error)))):
                raise_queue_error(error, call.script.doing, client if last or not is_broken(error) else None)
    raise AssertionError


def evaluate_all(client: redis.Redis, calls: Sequence[ScriptCall[T]]) -> Flow[list[T]]:
    """Run several scripts in one round trip; all of them must be repeatable.

    Raises:
        QueueUnavailableError: Redis is away; all of them may be made again.
        QueueRefusedError: Redis says no to one of them.
    """
    if len(calls) == 1:
        return [(yield from evaluate(client, calls[0]))]
    pipe = client.pipeline(transaction=False)
    add = cast("Callable[..., object]", pipe.execute_command)
    for call in calls:
        add("EVALSHA", call.script.sha, *call.words())
    try:
        replies = yield from do(lambda: pipe.execute(raise_on_error=False))
    except REDIS_ERRORS as error:
        if not is_broken(error):
            raise_queue_error(error, calls[0].script.doing)
        # One after the other: the first one finds out whether there is a connection to be had.
        replies = [redis_errors.NoScriptError()] * len(calls)
    results: list[T] = []
    for call, reply in zip(calls, replies, strict=True):
        # All of them are repeatable.
        again = isinstance(reply, Exception) and (is_undone(reply) or is_cut_off(reply))
        results.append((yield from evaluate(client, call)) if again else _read(call, reply))
    return results


def _read(call: ScriptCall[T], reply: object) -> T:
    if isinstance(reply, redis_errors.RedisError):
        raise_queue_error(reply, call.script.doing)
    return _parse(call, reply)


def _parse(call: ScriptCall[T], reply: object) -> T:
    """Read a reply of which nothing is sure: a proxy, or another kind of server, may answer in a shape of its own."""
    try:
        return call.parse(reply)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        msg = (
            f"{call.script.doing}: the reply cannot be read ({type(error).__name__}): check that Redis or Valkey itself"
            " answers at this address, and that nothing in between changes its replies. Try again."
        )
        raise QueueUnavailableError(own(msg)) from None
