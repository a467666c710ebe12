"""The storm's Redis: fakeredis, which runs our scripts as they are, behind a network and with troubles of its own."""

from __future__ import annotations

import contextlib
import contextvars
import time as real_time
from typing import TYPE_CHECKING, Any, Self

import fakeredis
import fakeredis._helpers
import fakeredis._socket._base
import fakeredis.commands_mixins.scripting_mixin as scripting
import fakeredis.commands_mixins.server_mixin
import redis
import redis.asyncio
from fakeredis._helpers import SimpleError
from redis import exceptions as errors
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from storm.kernel import PROCESS, START_S, Kernel, Process, Thread, Waiting
from videopoll.queue import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITES = frozenset(b"SET ZADD HSET LPUSH RPUSH DEL HDEL ZREM LTRIM EXPIRE PEXPIRE LREM GETEX BLMOVE LMOVE".split())
FED = frozenset(b"SET ZADD HSET LPUSH RPUSH BLMOVE LMOVE".split())
"""What a full server refuses."""
PENDING = ("video:poll:queue", "video:poll:schedule", "video:poll:inflight", "video:poll:deliveries")
FULL = "OOM command not allowed when used memory > 'maxmemory'."
OF_A_HOLDER = frozenset({"conclude", "begin_send", "redeliver", "watch", "settle", "reschedule", "release", "renew"})
"""What a worker writes about jobs in its hands."""
REFUSED_WRITE = "this user has no permissions to access one of the keys used as arguments"


class _RedisTime:
    """`time` as fakeredis sees it: the one place where Redis's clock is moved."""

    server: RedisServer | None = None

    def time(self) -> float:
        return real_time.time() if self.server is None else self.server.unix_s

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


REDIS_TIME = _RedisTime()


@contextlib.contextmanager
def moved_clock(server: RedisServer) -> Iterator[None]:
    """Let fakeredis run on the storm's clock, and its scripts meet the storm's troubles."""
    modules = (fakeredis._helpers, fakeredis._socket._base, fakeredis.commands_mixins.server_mixin)
    call = scripting.ScriptingCommandsMixin._lua_redis_call
    for module in modules:
        module.time = REDIS_TIME
    REDIS_TIME.server = server
    scripting.ScriptingCommandsMixin._lua_redis_call = server.inside_script(call)
    try:
        yield
    finally:
        scripting.ScriptingCommandsMixin._lua_redis_call = call
        REDIS_TIME.server = None
        for module in modules:
            module.time = real_time


class RedisServer:
    """One Redis, and what is wrong with it at the moment."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.step_s = 0.0
        self.away_until_s = 0.0
        self.stalled_until_s = 0.0
        self.full_until_s = 0.0
        self.refusing_until_s = 0.0
        self.refusal = ""
        self.cut_off: dict[Process, float] = {}
        self.no_writes: dict[Process, float] = {}
        self.refused: list[tuple[float, str]] = []
        self.lose_replies: list[str] = []
        self.break_off: list[tuple[str, int]] = []
        self._breaking: int | None = None
        self._wrote = False
        self.names = {script.sha: script.name for script in calls.SCRIPTS}
        self.names |= {script.source: script.name for script in calls.SCRIPTS}
        self.listeners: list[Call] = []
        self.calls = 0
        self.on_served: Callable[[Process | None, list[str], Any], None] = lambda *_: None
        self.fired: list[str] = []
        self._memory = fakeredis.FakeServer(version=(7,))
        self._fake = fakeredis.FakeRedis(server=self._memory)
        self.stolen: list[str] = []
        self.away_now = self.stalled_now = False

    @property
    def unix_s(self) -> float:
        return START_S + self.kernel.now_s + self.step_s

    @property
    def troubled(self) -> bool:
        now_s = self.kernel.now_s
        ends = (self.away_until_s, self.stalled_until_s, self.full_until_s, self.refusing_until_s)
        return any(end_s > now_s for end_s in (*ends, *self.cut_off.values(), *self.no_writes.values()))

    def refuses(self, process: Process | None, name: str) -> bool:
        """Whether it refuses this write, because of who asks."""
        if process is None or name not in OF_A_HOLDER or self.no_writes.get(process, 0.0) <= self.kernel.now_s:
            return False
        self.refused.append((self.kernel.now_s, process.name))
        return True

    def name_of(self, words: tuple[Any, ...]) -> str:
        if words[0] in {"EVALSHA", "EVAL"}:
            return self.names.get(words[1], "script")
        return str(words[0]).lower()

    def look(self, *words: Any) -> Any:
        """Run a command as the judge does: at once, whatever is wrong."""
        return self._fake.execute_command(*words)

    def restart(self) -> None:
        """Forget the scripts, as a server does that was restarted; the data stay."""
        self._fake.script_flush()

    def inside_script(self, call: Any) -> Any:
        """Refuse what a full server refuses, and break a script off in its midst where the plan says so."""

        def lua_redis_call(socket: Any, runtime: Any, expected: Any, op: bytes, *args: Any) -> Any:
            word = op.upper()
            if word in WRITES:
                if word in FED and not self._wrote and self.full_until_s > self.kernel.now_s:
                    raise SimpleError(FULL)
                if self._breaking is not None:
                    if self._breaking <= 0:
                        raise SimpleError(FULL)
                    self._breaking -= 1
                self._wrote = True
            return call(socket, runtime, expected, op, *args)

        return lua_redis_call

    def leases(self) -> dict[bytes, tuple[bytes, float]]:
        """Who holds what, and until when."""
        stored = self._memory.dbs[0]
        tokens, ends = stored.get(b"video:poll:leases"), stored.get(b"video:poll:inflight")
        if tokens is None:
            return {}
        until = {} if ends is None else ends.value._bylex
        return {job_id: (token, until.get(job_id, 0.0)) for job_id, token in tokens.value._values.items()}

    def execute(self, words: tuple[Any, ...], caller: str = "") -> Any:
        """Run one command, and watch whether it touches a lease of somebody else; give its reply or exception."""
        if words[0] not in {"EVALSHA", "EVAL"}:
            return self._execute(words)
        before = self.leases()
        reply = self._execute(words)
        if before:
            after = self.leases()
            name, now_ms = self.name_of(words), self.unix_s * 1000
            for job_id, (token, end_ms) in before.items():
                mine = f":{caller}:".encode() in b":" + token.rpartition(b"_")[2] + b":"
                if after.get(job_id) == (token, end_ms) or mine or end_ms <= now_ms or name in {"cancel", "renew"}:
                    continue
                self.stolen.append(
                    f"{name} of {caller} touched the lease on {job_id.decode()} at {self.kernel.now_s:.2f} s"
                )
        return reply

    def _execute(self, words: tuple[Any, ...]) -> Any:
        self.calls += 1
        name = self.name_of(words)
        self._wrote, self._breaking = False, None
        if self.refusing_until_s > self.kernel.now_s and name not in {"inspect", "count"}:
            if self.refusal.startswith("READONLY"):
                return errors.ReadOnlyError(self.refusal.partition(" ")[2])
            if self.refusal.startswith("NOPERM"):
                return errors.NoPermissionError(self.refusal.partition(" ")[2])
            if self.refusal.startswith("WRONGPASS"):
                return errors.AuthenticationError(self.refusal)
            return errors.ResponseError(self.refusal)
        if name == "blmove" and self.full_until_s > self.kernel.now_s:
            return errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        for place, (wanted, writes) in enumerate(self.break_off):
            if wanted == name:
                self._breaking = writes
                del self.break_off[place]
                self.fired.append(f"break off {name}")
                break
        try:
            return self._fake.execute_command(*words)
        except (errors.RedisError, OSError) as error:
            return error
        finally:
            self._breaking = None

    def stored(self, key: str) -> Any:
        """Give what stands under a key, as fakeredis keeps it: looking costs nothing and changes nothing."""
        item = self._memory.dbs[0].get(key.encode())
        return None if item is None else item.value

    def has_work(self, key: str) -> bool:
        return bool(self.stored(key))

    @property
    def empty(self) -> bool:
        """Whether no job is anywhere on its way."""
        return not any(map(self.stored, PENDING))


class Call:
    """One round trip of a client: commands, on their way, waiting, served, answered."""

    def __init__(self, server: RedisServer, client: Any, commands: list[tuple[Any, ...]], timeout_s: float) -> None:
        self.server, self.kernel, self.client = server, server.kernel, client
        self.commands = commands
        self.process = PROCESS.get()
        self.names = [server.name_of(words) for words in commands]
        self.replies: list[Any] | None = None
        self.error: BaseException | None = None
        self.done = False
        self.served = False
        self.wake: Callable[[], None] = lambda: None
        self.block_s = float(commands[0][-1]) if self.names == ["blmove"] else None
        self._context = contextvars.copy_context()
        kernel = self.kernel
        self._timer = kernel.loop.call_later(timeout_s, self._finish, None, errors.TimeoutError("Timeout reading"))
        kernel.at(kernel.now_s + self._latency(), self._arrive)

    def _latency(self) -> float:
        return 0.0002 + 0.0008 * self.kernel.rng.random()

    def _arrive(self) -> None:
        server, now_s = self.server, self.kernel.now_s
        if self.process is not None and server.cut_off.get(self.process, 0.0) > now_s:
            return  # Nobody will ever answer: the client's own time limit ends it.
        if server.away_until_s > now_s:
            self._answer(None, errors.ConnectionError("Error 111 connecting: Connection refused."))
            return
        if server.stalled_until_s > now_s:
            # It stands in the server's buffer, and will be served, whether or not the client still waits.
            self.kernel.at(server.stalled_until_s + self._latency(), self._arrive)
            return
        if self.block_s is not None and not server.has_work(self.commands[0][1]):
            server.listeners.append(self)
            self.kernel.at(now_s + self.block_s, self._give_up_listening)
            return
        self._serve()

    def _give_up_listening(self) -> None:
        if self in self.server.listeners:
            self.server.listeners.remove(self)
            self._answer([None], None)

    def _serve(self) -> None:
        server = self.server
        if self.block_s is None:
            spring(self.process, self.names, "before it is served")
        caller = self.process.name if self.process is not None else ""
        replies = [
            errors.NoPermissionError(REFUSED_WRITE)
            if server.refuses(self.process, name)
            else server.execute(words, caller)
            for name, words in zip(self.names, self.commands, strict=True)
        ]
        self.served = True
        server.on_served(self.process, self.names, replies)
        if server.listeners and server.has_work(server.listeners[0].commands[0][1]):
            listeners, server.listeners = server.listeners, []
            for one in listeners:
                one._serve()
        if self.block_s is None:
            spring(self.process, self.names, "served")
        lost = next((name for name in self.names if name in server.lose_replies), None)
        if lost is not None:
            server.lose_replies.remove(lost)
            server.fired.append(f"lose reply of {lost}")
            self._answer(None, errors.ConnectionError("Connection closed by server."))
        else:
            self._answer(replies, None)

    def _answer(self, replies: list[Any] | None, error: BaseException | None) -> None:
        self.kernel.loop.call_at(
            self.kernel.now_s + self._latency(), self._finish, replies, error, context=self._context
        )

    def _finish(self, replies: list[Any] | None, error: BaseException | None) -> None:
        if self.done:
            return
        self.done = True
        self._timer.cancel()
        self.replies, self.error = replies, error
        if self.process is not None and not self.process.dead and self.block_s is None:
            spring(self.process, self.names, "answered")
            if self.process.dead:
                return
            if not self.process.awake:
                self.kernel.loop.call_soon(self.wake, context=self._context)
                return
        self.wake()

    def interrupt(self) -> None:
        if self in self.server.listeners:
            self.server.listeners.remove(self)
        self._finish(None, errors.ConnectionError("Connection closed."))

    # --- as threads and as tasks wait for it ---

    def result(self) -> list[Any]:
        while not self.done:
            waiting = Waiting(self.kernel)
            self.wake = waiting.wake
            waiting.wait()
        return self._replies()

    async def aresult(self) -> list[Any]:
        future = self.kernel.loop.create_future()
        self.wake = lambda: None if future.done() else future.set_result(None)
        if not self.done:
            await future
        return self._replies()

    def _replies(self) -> list[Any]:
        if self.error is not None:
            raise self.error
        assert self.replies is not None
        return self.replies


def spring(process: Process | None, names: list[str], phase: str) -> None:
    """Spring the first of a process's traps that waits for this."""
    if process is None or process.dead:
        return
    for place, trap in enumerate(process.traps):
        if trap.ready(names, phase):
            del process.traps[place]
            trap.spring(process)
            return


class _Pool:
    """What the queue uses of a client's pool of connections: what they would be, and to close them."""

    def __init__(self, real: Any) -> None:
        self.connection_class, self.connection_kwargs = real.connection_class, real.connection_kwargs
        self.waiting: list[Call] = []

    def disconnect(self, inuse_connections: bool = True) -> Any:
        for call in list(self.waiting):
            call.interrupt()
        return _Nothing()

    reset = disconnect


class _Nothing:
    def __await__(self) -> Any:
        return iter(())


class _Pipe:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    def execute_command(self, *words: Any, **_: object) -> _Pipe:
        self._commands.append(words)
        return self


class _SyncPipe(_Pipe):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        return self._client._trip(self._commands).result()


class _AsyncPipe(_Pipe):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await self._client._trip(self._commands).aresult()


class _Client:
    def _wire(self, server: RedisServer, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self.connection_pool = _Pool(self.connection_pool)

    def _trip(self, commands: list[tuple[Any, ...]]) -> Call:
        process = PROCESS.get()
        if process is not None and process.dead:
            # The rest of a killed process unwinds; it does nothing any more.
            msg = "dead"
            raise errors.ConnectionError(msg)
        return Call(self._server, self, commands, self._timeout_s)


class SyncClient(_Client, redis.Redis):
    """A `redis.Redis` whose commands go to the storm's server."""

    def __init__(self, server: RedisServer, timeout_s: float) -> None:
        redis.Redis.__init__(self, retry=Retry(NoBackoff(), 0))
        self._wire(server, timeout_s)

    def execute_command(self, *words: Any, **_: Any) -> Any:
        call = self._trip([words])
        self.connection_pool.waiting.append(call)
        try:
            reply = call.result()[0]
        finally:
            self.connection_pool.waiting.remove(call)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return _SyncPipe(self)


class AsyncClient(_Client, redis.asyncio.Redis):
    """A `redis.asyncio.Redis` whose commands go to the storm's server."""

    def __init__(self, server: RedisServer, timeout_s: float) -> None:
        redis.asyncio.Redis.__init__(self, retry=AsyncRetry(NoBackoff(), 0))
        self._wire(server, timeout_s)

    async def execute_command(self, *words: Any, **_: Any) -> Any:
        call = self._trip([words])
        self.connection_pool.waiting.append(call)
        try:
            reply = (await call.aresult())[0]
        finally:
            self.connection_pool.waiting.remove(call)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return _AsyncPipe(self)

    def __del__(self, *_: object) -> None:
        pass


__all__ = ["AsyncClient", "RedisServer", "SyncClient", "Thread", "moved_clock", "spring"]
