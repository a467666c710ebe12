"""Runs Lua scripts on Redis: one description, a sync and an async executor.

Owns the loading of ``lua/*.lua`` and the translation of the client's exceptions
into videopoll's. What each script is given and what its reply means is in
`videopoll.queue.calls`.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib import resources
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import attrs
from redis import exceptions as redis_errors

from videopoll._reasons import own
from videopoll.errors import QueueError, QueueRefusedError, QueueUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis
    import redis.asyncio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

TRANSIENT_PREFIXES = (
    "LOADING",
    "READONLY",
    "OOM",
    "UNBLOCKED",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "UNKILLABLE",
    "ASK",
    "MOVED",
)
"""Error replies that pass: a restart, a failover, a full memory, a slot on the move."""

_CODES = frozenset({*TRANSIENT_PREFIXES, "CROSSSLOT", "ERR", "EXECABORT", "NOAUTH", "NOPERM", "WRONGPASS", "WRONGTYPE"})
"""The codes of errors that are shown."""


@attrs.frozen
class Script:
    """One Lua file.

    Args:
        name: The file's name, without its ending.
        source: Its text.
        sha: The SHA-1 of it, by which Redis knows it.
    """

    name: str
    source: str = attrs.field(repr=False)
    sha: str = attrs.field(repr=False)

    @classmethod
    def load(cls, name: str) -> Script:
        """Read ``lua/{name}.lua`` from the package."""
        source = (resources.files("videopoll.queue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


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

    def words(self) -> list[str | bytes | int]:
        """Return the words after ``EVALSHA sha``."""
        return [len(self.keys), *self.keys, *self.args]


_IN_SCRIPT = re.compile(r"Error running script \(.*?\): (?:@user_script: ?\d+: )+-?")
"""What Redis 6.2 puts in front of the error of a command in a script. From 7.0 on the error comes as it is."""

_MOVED = ("READONLY", "MASTERDOWN", "UNBLOCKED")

_NO_RIGHTS = ("NOPERM", "The user executing the script can't")


def to_queue_error(error: Exception, doing: str) -> QueueError:
    """Translate an exception of the Redis client, saying what to do next."""
    return _queue_error(error, doing, _IN_SCRIPT.sub("", str(error), count=1))


def _queue_error(error: Exception, doing: str, text: str) -> QueueError:
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
        return QueueRefusedError(
            own(f"{doing}: Redis refused the credentials. Check the user and password of the URL.")
        )
    if isinstance(error, redis_errors.NoPermissionError) or text.startswith(_NO_RIGHTS):
        command = _COMMAND.search(text)
        which = f", {command[1]}" if command else ""
        return QueueRefusedError(
            own(
                f"{doing}: this Redis user may not run a command or use a key that videopoll needs"
                f" ({_codes(error, text)}{which}). Grant it access to the keys of the prefix."
            )
        )
    if isinstance(error, redis_errors.TimeoutError):
        return QueueUnavailableError(own(f"{doing}: Redis did not answer in time. Try again."))
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return QueueUnavailableError(own(f"{doing}: cannot reach Redis ({_why(error)}). Try again."))
    if text.lstrip("-").startswith(TRANSIENT_PREFIXES) or isinstance(
        error,
        # The client cuts the first word off these. MASTERDOWN is a ClusterDownError there, and MOVED an AskError.
        redis_errors.ReadOnlyError
        | redis_errors.OutOfMemoryError
        | redis_errors.TryAgainError
        | redis_errors.ClusterDownError
        | redis_errors.AskError,
    ):
        role = ", it is a replica" if has_moved(error) else ""
        return QueueUnavailableError(
            own(f"{doing}: Redis is not ready{role} ({_codes(error, text)}). Try again."), answered=True
        )
    about_data = isinstance(error, redis_errors.DataError) or text.startswith("WRONGTYPE")
    return QueueRefusedError(
        own(f"{doing}: Redis answered with an error: {_codes(error, text)}"), about_data=about_data
    )


def cause_of(error: Exception) -> Exception | None:
    """Return what a host may see behind a `QueueError`: not an answer of Redis, which may quote a prompt."""
    return None if isinstance(error, redis_errors.ResponseError) else error


def _codes(error: Exception, text: str) -> str:
    """Name an error of Redis by its type and the codes in its text, which may quote the arguments."""
    found = dict.fromkeys(code for code in _CODE.findall(text[:LOOKED_AT]) if code in _CODES)
    return ", ".join([type(error).__name__, *found])


def _why(error: Exception) -> str:
    """Return why there is no connection, without an address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else "its name cannot be looked up"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


LOOKED_AT = 300

_CODE = re.compile(r"[A-Z]{3,20}")
_COMMAND = re.compile(r"the '([a-z|]{1,30})' command")


def has_moved(error: Exception) -> bool:
    """Whether the server at the other end is no primary any more: its name may lead to another one by now."""
    text = _IN_SCRIPT.sub("", str(error), count=1)
    return isinstance(error, redis_errors.ReadOnlyError | redis_errors.MasterDownError) or text.startswith(_MOVED)


def let_go_if_moved(client: redis.Redis, error: Exception) -> bool:
    """Keep no idle connection to a server that is no primary any more; return whether it is that."""
    if not has_moved(error):
        return False
    client.connection_pool.disconnect(inuse_connections=False)
    return True


async def alet_go_if_moved(client: redis.asyncio.Redis, error: Exception) -> bool:
    """Keep no idle connection to a server that is no primary any more; the async side of `let_go_if_moved`."""
    if not has_moved(error):
        return False
    await client.connection_pool.disconnect(inuse_connections=False)
    return True


def run(client: redis.Redis, call: ScriptCall[T]) -> T:
    """Run a script over a sync client.

    Raises:
        QueueUnavailableError: Redis is away; a repeatable call may be made again.
        QueueRefusedError: Redis says no.
    """
    execute = cast("Callable[..., object]", client.execute_command)
    for last in (False, True):
        try:
            try:
                reply = execute("EVALSHA", call.script.sha, *call.words())
            except redis_errors.NoScriptError:
                # Nothing has run: the server was restarted, or its scripts were flushed.
                reply = execute("EVAL", call.script.source, *call.words())
            return _parse(call, reply)
        except (redis_errors.RedisError, OSError) as error:
            # A pooled connection may have died unnoticed, or lead to a server that is a replica by now, and so
            # has written nothing: one fresh try, where that is safe.
            moved = let_go_if_moved(client, error)
            if last or not (moved or (call.repeatable and _is_broken(error))):
                raise to_queue_error(error, call.script.name) from cause_of(error)
    raise AssertionError


async def arun(client: redis.asyncio.Redis, call: ScriptCall[T]) -> T:
    """Run a script over an asyncio client; the async side of `run`."""
    execute = cast("Callable[..., Awaitable[object]]", client.execute_command)
    for last in (False, True):
        try:
            try:
                reply = await execute("EVALSHA", call.script.sha, *call.words())
            except redis_errors.NoScriptError:
                reply = await execute("EVAL", call.script.source, *call.words())
            return _parse(call, reply)
        except (redis_errors.RedisError, OSError) as error:
            moved = await alet_go_if_moved(client, error)
            if last or not (moved or (call.repeatable and _is_broken(error))):
                raise to_queue_error(error, call.script.name) from cause_of(error)
    raise AssertionError


def run_all(client: redis.Redis, calls: Sequence[ScriptCall[T]]) -> list[T]:
    """Run several scripts in one round trip; all of them must be repeatable.

    Raises:
        QueueUnavailableError: Redis is away; all of them may be made again.
        QueueRefusedError: Redis says no to one of them.
    """
    if len(calls) == 1:
        return [run(client, calls[0])]
    pipe = client.pipeline(transaction=False)
    add = cast("Callable[..., object]", pipe.execute_command)
    for call in calls:
        add("EVALSHA", call.script.sha, *call.words())
    try:
        with pipe:
            replies = pipe.execute(raise_on_error=False)
    except (redis_errors.RedisError, OSError) as error:
        if not _is_broken(error):
            raise to_queue_error(error, calls[0].script.name) from cause_of(error)
        # One after the other: the first one finds out whether there is a connection to be had.
        return [run(client, call) for call in calls]
    return [
        run(client, call) if _is_undone(reply) else _read(call, reply)
        for call, reply in zip(calls, replies, strict=True)
    ]


async def arun_all(client: redis.asyncio.Redis, calls: Sequence[ScriptCall[T]]) -> list[T]:
    """Run several scripts in one round trip over an asyncio client; the async side of `run_all`."""
    if len(calls) == 1:
        return [await arun(client, calls[0])]
    pipe = client.pipeline(transaction=False)
    add = cast("Callable[..., object]", pipe.execute_command)
    for call in calls:
        add("EVALSHA", call.script.sha, *call.words())
    try:
        async with pipe:
            replies = await pipe.execute(raise_on_error=False)
    except (redis_errors.RedisError, OSError) as error:
        if not _is_broken(error):
            raise to_queue_error(error, calls[0].script.name) from cause_of(error)
        return [await arun(client, call) for call in calls]
    return [
        await arun(client, call) if _is_undone(reply) else _read(call, reply)
        for call, reply in zip(calls, replies, strict=True)
    ]


def _is_undone(reply: object) -> bool:
    """Whether a script has surely not run, and may where it is sent next."""
    return isinstance(reply, redis_errors.NoScriptError) or (isinstance(reply, Exception) and has_moved(reply))


def _read(call: ScriptCall[T], reply: object) -> T:
    if isinstance(reply, redis_errors.RedisError):
        raise to_queue_error(reply, call.script.name) from cause_of(reply)
    return _parse(call, reply)


def _parse(call: ScriptCall[T], reply: object) -> T:
    """Read a reply of which nothing is sure: a proxy, or another kind of server, may answer in a shape of its own."""
    try:
        return call.parse(reply)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        msg = (
            f"{call.script.name}: the reply cannot be read ({type(error).__name__}): check that Redis or Valkey itself"
            " answers at this address, and that nothing in between changes its replies. Try again."
        )
        raise QueueUnavailableError(own(msg)) from None


def _is_broken(error: Exception) -> bool:
    return isinstance(error, redis_errors.ConnectionError | OSError) and not isinstance(
        error, redis_errors.TimeoutError | redis_errors.AuthenticationError | redis_errors.BusyLoadingError
    )
