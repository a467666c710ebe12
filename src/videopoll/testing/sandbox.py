"""All that a test of an app needs, put together: a queue in memory, a worker, its parts, and a clock that moves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from videopoll.core.flow import acall, adrive, call, do, drive
from videopoll.jobs.checks import listed
from videopoll.policies import KeyTtls
from videopoll.protocols import AsyncNotifier, AsyncPublisher, AsyncVideoPoller, Notifier, Publisher, VideoPoller
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.queue.schema import Keys
from videopoll.testing.assertions import assert_delivered_once
from videopoll.testing.clock import MovableClock
from videopoll.testing.memory import MemoryServer, async_memory_queue, memory_queue
from videopoll.testing.parts import RecordingNotifier, ScriptedPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner
from videopoll.worker.state import strategies_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from videopoll.core.flow import Flow
    from videopoll.events import Hook
    from videopoll.jobs.outcome import OutcomeKind
    from videopoll.jobs.views import RunSummary
    from videopoll.messages import Message
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.texts import Texts

__all__ = ["AsyncSandbox", "Sandbox"]

QueueT = TypeVar("QueueT", RedisVideoJobQueue, AsyncRedisVideoJobQueue)
RunnerT = TypeVar("RunnerT", Runner, AsyncRunner)
PollerT = TypeVar("PollerT")
NotifierT = TypeVar("NotifierT")
PublisherT = TypeVar("PublisherT")

STUCK_STEP_S = 1.0
"""How far the clock is moved when something is due and no worker may take it, e.g. because of a foreign lock."""


class _World(Generic[QueueT, RunnerT, PollerT, NotifierT, PublisherT]):
    """What both sandboxes are made of."""

    _new_queue: Callable[..., QueueT]
    _new_runner: Callable[..., RunnerT]

    def __init__(
        self,
        *,
        poller: PollerT | None = None,
        notifier: NotifierT | None = None,
        publisher: PublisherT | None = None,
        strategy: PollingStrategy | None = None,
        lease: LeasePolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        texts: Texts | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        self.server: MemoryServer = MemoryServer()
        self.clock: MovableClock = MovableClock()
        self.poller: ScriptedPoller = ScriptedPoller()
        self.notifier: RecordingNotifier = RecordingNotifier()
        self._client = self.server.client()
        self._moved_s = 0.0
        hooks = listed(hooks, "hooks", "functions of an event")
        ttls = KeyTtls.outliving(*strategies_of(strategy, poller))
        self.queue: QueueT = self._new_queue(self.server, ttls=ttls, delivery=delivery, hooks=hooks)
        self.runner: RunnerT = self._new_runner(
            self.queue,
            self.poller if poller is None else poller,
            self.notifier if notifier is None else notifier,
            publisher=publisher,
            strategy=strategy,
            lease=lease,
            delivery=delivery,
            texts=texts,
            hooks=hooks,
            clock=self.clock,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.poller!r} {self.notifier!r}>"

    def assert_delivered_once(self, job_id: str, *, outcome: OutcomeKind | str = "completed") -> Message:
        """Check that the user of a job got exactly one message, with this outcome, and return it.

        See `videopoll.testing.assert_delivered_once`. It looks at what `notifier` was asked to
        send, and so needs a sandbox without a notifier of your own.

        Raises:
            AssertionError: The user got no message, several, or one about another outcome.
        """
        return assert_delivered_once(self.notifier, job_id, outcome=outcome)

    def _open(self, opened: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        opened.enter_context(self.clock)
        opened.callback(self._client.close)

    def _settle(self, run_once: Callable[[], RunSummary | Awaitable[RunSummary]], within_s: float) -> Flow[None]:
        self._moved_s = 0.0
        summary = yield from do(run_once)
        while self._move(self.queue.keys, summary.claimed, within_s):
            summary = yield from do(run_once)

    def _move(self, keys: Keys, claimed: int, within_s: float) -> bool:
        """Move the clock to what is due next; False if nothing is left to do.

        Raises:
            AssertionError: It has been moved by more than `within_s`.
        """
        client, waits_s = self._client, [0.0] if self._client.llen(keys.queue) else []
        for key in (keys.schedule, keys.deliveries, keys.inflight):
            first = cast("list[tuple[bytes, float]]", client.zrange(key, 0, 0, withscores=True))
            waits_s += [due_ms / 1000 - self.clock.unix_s() for _, due_ms in first]
        if not waits_s:
            return False
        wait_s = max(0.0, min(waits_s)) or (0.0 if claimed else STUCK_STEP_S)
        self._moved_s += wait_s
        if self._moved_s > within_s:
            left = {name: client.zcard(getattr(keys, name)) for name in ("schedule", "deliveries", "inflight")}
            left["queue"] = client.llen(keys.queue)
            shown = ", ".join(f"{count} in {getattr(keys, name)}" for name, count in left.items() if count)
            msg = f"jobs are left after {within_s:g} s of the sandbox's clock: {shown}"
            raise AssertionError(msg)
        self.clock.move(wait_s)
        return True


class Sandbox(_World[RedisVideoJobQueue, Runner, VideoPoller, Notifier, Publisher]):
    """A queue in memory with a worker over it: a job's whole life in milliseconds. For threads.

    ::

        with Sandbox() as sandbox:
            order_video(sandbox.queue, customer="42")  # your app
            sandbox.run_until_settled()
            message = sandbox.assert_delivered_once("job_1")

    Its parts are attributes: `queue`, `runner`, `poller` (a `ScriptedPoller`), `notifier` (a
    `RecordingNotifier`), `clock` (a `MovableClock`), and `server` (a `MemoryServer`, for a client
    that looks at keys). One sandbox at a time can be in use in a process, as it moves the time.
    At its end it stops the worker and closes the parts, yours too, as the runner does.

    Args:
        poller: Your own poller; the runner then asks it instead of `poller`.
        notifier: Your own notifier; the runner then sends with it instead of `notifier`.
        publisher: Puts videos that only the API's key opens where everybody can fetch them; see `Runner`.
        strategy: When to poll, and when to give up.
        lease: How long a crash costs, at most.
        delivery: How hard to try to reach a user.
        texts: The texts that users get.
        hooks: Called with every event of the runner, and of the queue.

    Raises:
        ImportError: The extra ``testing`` is not installed.
        ConfigurationError: On ``with``: another sandbox or `MovableClock` is in use.
    """

    _new_queue = staticmethod(memory_queue)
    _new_runner = Runner

    def run_until_settled(self, *, within_s: float = 7200.0) -> None:
        """Run the worker on what is due and move the clock to what is due next, until every job has ended.

        Args:
            within_s: How far the clock may be moved, in seconds.

        Raises:
            AssertionError: Jobs are left after that time.
        """
        drive(self._settle(self.runner.run_once, within_s), call)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            self._open(opened)
            opened.enter_context(self.queue)
            opened.enter_context(self.runner)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


class AsyncSandbox(
    _World[
        AsyncRedisVideoJobQueue,
        AsyncRunner,
        AsyncVideoPoller | VideoPoller,
        AsyncNotifier | Notifier,
        AsyncPublisher | Publisher,
    ]
):
    """A queue in memory with a worker over it: a job's whole life in milliseconds. For asyncio.

    The same as `Sandbox`, used with ``async with`` and ``await sandbox.run_until_settled()``. It may be
    built outside of an event loop.

    Raises:
        ImportError: The extra ``testing`` is not installed.
        ConfigurationError: On ``async with``: another sandbox or `MovableClock` is in use.
    """

    _new_queue = staticmethod(async_memory_queue)
    _new_runner = AsyncRunner

    async def run_until_settled(self, *, within_s: float = 7200.0) -> None:
        """Run the worker on what is due and move the clock to what is due next, until every job has ended.

        Args:
            within_s: How far the clock may be moved, in seconds.

        Raises:
            AssertionError: Jobs are left after that time.
        """
        await adrive(self._settle(self.runner.run_once, within_s), acall)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opened:
            self._open(opened)
            await opened.enter_async_context(self.queue)
            await opened.enter_async_context(self.runner)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()
