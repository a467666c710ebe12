"""All that a test of an app needs, put together: a queue in memory, a worker, its parts, and a clock that moves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from videopoll.core.flow import acall, adrive, call, do, drive
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_seconds, kind_name, listed
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

MOST_LEFT_SHOWN = 5
"""Jobs that are left somewhere, and named."""


class _World(Generic[QueueT, RunnerT, PollerT, NotifierT, PublisherT]):
    """What both sandboxes are made of."""

    _new_queue: Callable[..., QueueT]
    _new_runner: Callable[..., RunnerT]
    _entered_with: str

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
        self._poller: object = ScriptedPoller() if poller is None else poller
        self._notifier: object = RecordingNotifier() if notifier is None else notifier
        self._client = self.server.client()
        self._moved_s = 0.0
        self._in_use = False
        hooks = listed(hooks, "hooks", "functions of an event")
        ttls = KeyTtls.outliving(*strategies_of(strategy, poller))
        self.queue: QueueT = self._new_queue(self.server, ttls=ttls, delivery=delivery, hooks=hooks)
        self.runner: RunnerT = self._new_runner(
            self.queue,
            self._poller,
            self._notifier,
            publisher=publisher,
            strategy=strategy,
            lease=lease,
            delivery=delivery,
            texts=texts,
            hooks=hooks,
            clock=self.clock,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._poller!r} {self._notifier!r}>"

    @property
    def poller(self) -> ScriptedPoller:
        """The scripted poller: a new one, or yours.

        Raises:
            ConfigurationError: This sandbox polls with another poller of yours, which no script can reach.
        """
        if not isinstance(self._poller, ScriptedPoller):
            msg = (
                f"this sandbox polls with your {kind_name(self._poller)}, and has no ScriptedPoller: say in your own what"
                " it answers"
            )
            raise ConfigurationError(msg)
        return self._poller

    @property
    def notifier(self) -> RecordingNotifier:
        """The recording notifier: a new one, or yours.

        Raises:
            ConfigurationError: This sandbox sends with another notifier of yours, which is to be looked at instead.
        """
        if not isinstance(self._notifier, RecordingNotifier):
            msg = (
                f"this sandbox sends with your {kind_name(self._notifier)}, and has no RecordingNotifier: look at what"
                " your own has sent, or at one that it sends with, by assert_delivered_once(recording, job_id)"
            )
            raise ConfigurationError(msg)
        return self._notifier

    def assert_delivered_once(self, job_id: str, *, outcome: OutcomeKind | str = "completed") -> Message:
        """Check that the user of a job got exactly one message, with this outcome, and return it.

        See `videopoll.testing.assert_delivered_once`. It looks at what `notifier` was asked to send.

        Raises:
            AssertionError: The user got no message, several, or one about another outcome.
            ConfigurationError: This sandbox sends with a notifier of yours that is no `RecordingNotifier`.
        """
        return assert_delivered_once(self.notifier, job_id, outcome=outcome)

    def _open(self, opened: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        opened.enter_context(self.clock)
        opened.callback(self._client.close)
        self._in_use = True
        opened.callback(setattr, self, "_in_use", False)  # noqa: FBT003 - of setattr

    def _settle(self, run_once: Callable[[], RunSummary | Awaitable[RunSummary]], within_s: float) -> Flow[None]:
        check_seconds("within_s", within_s, low=0)
        if not self._in_use:
            # Its clock would move, and the time of its queue would not.
            msg = f"this sandbox is not in use: do that inside of `{self._entered_with} sandbox:`"
            raise ConfigurationError(msg)
        if self.runner._under_way is not None:  # noqa: SLF001 - health tells of trouble, not of this
            msg = (
                "the runner of this sandbox is running already: run_until_settled runs it, so leave runner.start() out"
            )
            raise ConfigurationError(msg)
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
            left = [
                ("waiting to be taken", client.lrange(keys.queue, 0, -1)),
                ("polled again later", client.zrange(keys.schedule, 0, -1)),
                ("sent again later", client.zrange(keys.deliveries, 0, -1)),
                ("in a worker's hands", client.zrange(keys.inflight, 0, -1)),
            ]
            shown = "; ".join(f"{where}: {_some(cast('list[bytes]', ids))}" for where, ids in left if ids)
            msg = (
                f"jobs are left after {within_s:g} s of the sandbox's clock ({shown}): let them end, or raise within_s"
            )
            raise AssertionError(msg)
        self.clock.move(wait_s)
        return True


def _some(ids: list[bytes]) -> str:
    more = len(ids) - MOST_LEFT_SHOWN
    return ", ".join(one.decode() for one in ids[:MOST_LEFT_SHOWN]) + (f" and {more} more" if more > 0 else "")


class Sandbox(_World[RedisVideoJobQueue, Runner, VideoPoller, Notifier, Publisher]):
    """A queue in memory with a worker over it: a job's whole life in milliseconds. For threads.

    ::

        with Sandbox() as sandbox:
            order_video(sandbox.queue, customer="42")  # your app
            sandbox.run_until_settled()
            message = sandbox.assert_delivered_once("job_1")

    Its parts are attributes: `queue`, `runner`, `poller` (a `ScriptedPoller`), `notifier` (a
    `RecordingNotifier`), `clock` (a `MovableClock`), and `server` (a `MemoryServer`, for a client
    that looks at keys). With a poller or notifier of your own that is of another class, there is
    no `poller`, or no `notifier`: asking for it is a `ConfigurationError`.
    One sandbox at a time can be in use in a process, as it moves the time.
    At its end it stops the worker and closes the parts, yours too, as the runner does.

    Args:
        poller: Your own poller; a new `ScriptedPoller` by default.
        notifier: Your own notifier; a new `RecordingNotifier` by default.
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
    _entered_with = "with Sandbox() as"

    def run_until_settled(self, *, within_s: float = 7200.0) -> None:
        """Run the worker on what is due and move the clock to what is due next, until every job has ended.

        Args:
            within_s: How far the clock may be moved, in seconds.

        Raises:
            AssertionError: Jobs are left after that time. The text names them, and says where they are.
            ConfigurationError: The sandbox is not in use, or its runner was started.
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
    _entered_with = "async with AsyncSandbox() as"

    async def run_until_settled(self, *, within_s: float = 7200.0) -> None:
        """Run the worker on what is due and move the clock to what is due next, until every job has ended.

        Args:
            within_s: How far the clock may be moved, in seconds.

        Raises:
            AssertionError: Jobs are left after that time. The text names them, and says where they are.
            ConfigurationError: The sandbox is not in use, or its runner was started.
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
