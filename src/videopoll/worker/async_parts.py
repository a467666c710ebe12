"""A host's poller and notifier as `AsyncRunner` calls them: asyncio ones as they are, sync ones in threads."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from videopoll._calling import SYNC_PARTS, DaemonThreads, is_async, send_in_time
from videopoll._reasons import own
from videopoll.core.deadlines import Deadlines
from videopoll.core.effects import LookUpMessage, PollApi, PublishVideo, SendMessage
from videopoll.core.flow import acall, adrive
from videopoll.messages import LookupResult, NotSent
from videopoll.worker.host_parts import (
    as_lookup_answer,
    as_observation,
    as_receipt,
    check_call,
    check_part,
    is_for_us,
    look_up_failed,
    notifier_failed,
    poller_failed,
    publisher_failed,
)
from videopoll.worker.hung import GUARD_S, not_back, poller_not_back
from videopoll.worker.publishing import publishing

if TYPE_CHECKING:
    from videopoll.core.deadlines import Deadline
    from videopoll.core.effects import Answer
    from videopoll.jobs.job import VideoJob
    from videopoll.messages import Message
    from videopoll.observations import Observation
    from videopoll.protocols import AsyncNotifier, AsyncPublisher, AsyncVideoPoller, Notifier, Publisher, VideoPoller
    from videopoll.worker.state import WorkerState

__all__ = ["AsyncParts", "resolve"]


class AsyncParts:
    """Calls a host's poller and notifier, within their time limits, and reads what comes back.

    Args:
        state: What the worker holds.
        poller: Asks the video API, sync or asyncio.
        notifier: Brings outcomes to users, sync or asyncio.
        publisher: Publishes videos, sync or asyncio; None if there is none.
    """

    def __init__(
        self,
        state: WorkerState,
        poller: AsyncVideoPoller | VideoPoller,
        notifier: AsyncNotifier | Notifier,
        publisher: AsyncPublisher | Publisher | None = None,
    ) -> None:
        self._state = state
        self._poller = poller
        self._notifier = notifier
        self._deadlines = Deadlines()
        self._threads = (
            DaemonThreads(state.concurrency, "videopoll-poll"),
            DaemonThreads(state.delivery_concurrency, "videopoll-send"),
        )
        self.poll: Callable[[PollApi], Awaitable[Observation]] = self._poller_call()
        self._download = self._method(poller, "download")
        if publisher is not None:
            check_part(publisher, "publisher", "publish", "apublish")
        self._publish = None if publisher is None else self._method(publisher, "publish")
        self._notify = self._notifier_call("notify")
        looks_up = any(getattr(notifier, one, None) is not None for one in ("look_up", "alook_up"))
        self._look_up = self._notifier_call("look_up") if looks_up else None

    @property
    def hung(self) -> int:
        """How many calls of sync parts were left to themselves."""
        return sum(threads.hung for threads in self._threads)

    def open(self) -> None:
        """Make the tasks that are started from here on, in this event loop, use the threads for sends."""
        SYNC_PARTS.set(self._threads[1])
        self._deadlines = Deadlines()

    def close(self) -> None:
        """End the threads that are idle; the next run gets new ones."""
        for threads in self._threads:
            threads.close()
        polls, sends = self._threads
        self._threads = polls.renewed(), sends.renewed()

    def sends_in_thread(self, task: asyncio.Task[None]) -> bool:
        """Whether a sync channel works on this task's send: it goes on in its thread, as under `Runner`."""
        return self._threads[1].runs_for(task)

    async def send(self, effect: SendMessage) -> Answer:
        """Return what became of a send."""
        limit_s = self._state.delivery.send_timeout_s
        limit = self._limit(limit_s)
        try:
            with limit:
                return as_receipt(await self._notify(effect.message))
        except BaseException as error:
            if is_for_us(error):
                raise
            if not (isinstance(error, TimeoutError) and limit.expired):
                return notifier_failed(error)
            if self._threads[1].never_began(asyncio.current_task()):
                reason = f"no thread was free for it within {limit_s:g} s: others hang in their sends"
                return NotSent(own(reason), counts=False, channel_fault=False)
            return not_back(effect, limit_s)

    async def look_up(self, effect: LookUpMessage) -> Answer:
        """Return whether the channel has a message."""
        if self._look_up is None:
            return LookupResult.CANNOT_TELL
        found: object
        try:
            with self._limit(self._state.delivery.send_timeout_s):
                found = await self._look_up(effect.message)
        except BaseException as error:
            if is_for_us(error):
                raise
            found = look_up_failed(error)
        return as_lookup_answer(found)

    async def publish(self, effect: PublishVideo) -> Answer:
        """Return the observation with the link to a published video, or why there is none."""
        limit = self._limit(effect.timeout_s + GUARD_S)
        try:
            with limit:
                return await adrive(publishing(effect, self._download, self._publish), acall)
        except BaseException as error:
            if is_for_us(error):
                raise
            late = isinstance(error, TimeoutError) and limit.expired
            return poller_not_back(effect) if late else publisher_failed(error)

    def _limit(self, seconds: float) -> Deadline:
        """Return a context that raises `TimeoutError` after so many seconds."""
        return self._deadlines.at(time.monotonic() + seconds)

    def _method(self, part: object, name: str) -> Callable[..., Awaitable[object]] | None:
        """Return a coroutine function that calls a method of a part, if it has one: a sync one in a thread."""
        own = getattr(part, f"a{name}", None)
        call = getattr(part, name, None) if own is None else own
        if call is None:
            return None
        check_call(part, name if own is None else f"a{name}")
        if own is not None or is_async(call):
            return cast("Callable[..., Awaitable[object]]", call)

        async def in_thread(*arguments: object, **options: object) -> object:
            return await resolve(await self._threads[1].run(functools.partial(call, *arguments, **options)))

        return in_thread

    def _poller_call(self) -> Callable[[PollApi], Awaitable[Observation]]:
        """Return a coroutine function that calls this poller."""
        check_part(self._poller, "poller", "poll", "apoll")
        own = getattr(self._poller, "apoll", None)
        check_call(self._poller, "poll" if own is None else "apoll")
        if own is not None:
            if getattr(self._poller, "keeps_time", False) is True:
                # A second watch would take a fiftieth of a poll's time.
                return functools.partial(self._ask, own, guard=False)

            async def with_threads(job: VideoJob, *, timeout_s: float) -> object:
                # Plain functions that it calls must not take the places of sends.
                before = SYNC_PARTS.set(self._threads[0])
                try:
                    return await own(job, timeout_s=timeout_s)
                finally:
                    SYNC_PARTS.reset(before)

            return functools.partial(self._ask, with_threads)
        poll = cast("Callable[..., Awaitable[object]]", self._poller.poll)
        if is_async(self._poller.poll):
            return functools.partial(self._ask, poll)

        async def in_thread(job: VideoJob, *, timeout_s: float) -> object:
            return await resolve(await self._threads[0].run(functools.partial(poll, job, timeout_s=timeout_s)))

        return functools.partial(self._ask, in_thread)

    async def _ask(self, poll: Callable[..., Awaitable[object]], effect: PollApi, *, guard: bool = True) -> Observation:
        """Ask the poller, and cut it off if it does not keep to its time."""
        limit = None
        try:
            if not guard:
                return as_observation(await poll(effect.job, timeout_s=effect.timeout_s))
            with self._limit(effect.timeout_s + GUARD_S) as limit:
                return as_observation(await poll(effect.job, timeout_s=effect.timeout_s))
        except BaseException as error:
            if is_for_us(error):
                raise
            if isinstance(error, TimeoutError) and limit is not None and limit.expired:
                return poller_not_back(effect)
            return poller_failed(error)

    def _notifier_call(self, method: str) -> Callable[[Message], Awaitable[object]]:
        """Return a coroutine function that calls this method of the notifier."""
        check_part(self._notifier, "notifier", method, f"a{method}")
        own = getattr(self._notifier, f"a{method}", None)
        if own is not None:
            check_call(self._notifier, f"a{method}")
            return cast("Callable[[Message], Awaitable[object]]", own)
        call = getattr(self._notifier, method)
        check_call(self._notifier, method)
        if is_async(call):
            return cast("Callable[[Message], Awaitable[object]]", call)
        if method == "notify":
            call = functools.partial(send_in_time, call)

        async def in_thread(message: Message) -> object:
            return await resolve(await self._threads[1].run(functools.partial(call, message)))

        return in_thread


async def resolve(result: object) -> object:
    """Return a sync part's result, also if it is to be awaited after all."""
    return await result if inspect.isawaitable(result) else result
