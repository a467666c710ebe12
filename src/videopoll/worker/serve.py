"""A worker as a process of its own: `serve` gives a host's runner all that ``videopoll worker`` gives its own.

The host's function builds the runner from its own parts; `serve` adds what an
operator wants of a process: the log, the health endpoint, metrics, signals, a
calmer garbage collector, and an orderly end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias, cast

from videopoll.errors import ConfigurationError, QueueUnavailableError
from videopoll.jobs.checks import check_choice, check_flags, kind_name
from videopoll.observe.log_setup import LogFormat, LogLevel, set_up_logging
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from videopoll.jobs.views import QueueCounts
    from videopoll.observe.metrics import Counts

__all__ = ["App", "calm_garbage_collection", "observed", "serve"]

GC_THRESHOLDS = (50_000, 20, 20)
"""What `gc.set_threshold` gets: new objects, and younger collections, between two looks."""

COUNTING_S = 5.0
"""Seconds that the event loop has to count the jobs for a metric."""

Built: TypeAlias = (
    Runner
    | AsyncRunner
    | AbstractContextManager[Runner]
    | AbstractAsyncContextManager[AsyncRunner]
    | Awaitable[AsyncRunner]
)
"""What an app may return."""

App: TypeAlias = Callable[[], Built]
"""A host's function that builds its runner: a plain or an async one, or a (an async) context manager."""


def serve(
    app: App,
    *,
    health_port: int | None = None,
    health_host: str = "127.0.0.1",
    metrics: bool = False,
    log_level: LogLevel | str | None = LogLevel.INFO,
    log_format: LogFormat | str = LogFormat.TEXT,
) -> None:
    """Build a runner with `app`, and run it until SIGTERM or Ctrl-C.

    ::

        @contextlib.asynccontextmanager
        async def app() -> AsyncIterator[AsyncRunner]:
            async with AsyncRedisVideoJobQueue.from_url(url) as queue:
                yield AsyncRunner(queue, MyPoller(), MyNotifier())

        serve(app, health_port=8080)

    The first signal drains: nothing more is claimed, and what is in hand has the
    runner's `grace_s` to end. Another one that comes a second or more later ends
    the process at once. Call it on the main thread of a process that does nothing else.

    Args:
        app: Builds the runner. It may return one, or a context manager that gives
            one and closes what the host opened. It may be async, with an `AsyncRunner`.
        health_port: Where to answer ``GET /live`` and ``/ready``; see
            `videopoll.worker.health_server.HealthServer`. None: nowhere.
        health_host: On which address.
        metrics: Whether ``/metrics`` answers there, too (the extra ``prometheus``).
        log_level: The least level of videopoll's log, which goes to standard error;
            None leaves the log to the host.
        log_format: ``text``, or ``json`` for one JSON object a line.

    Raises:
        ConfigurationError: The app raised, or returned something else; or an option cannot work.
    """
    if not callable(app):
        msg = f"the app must be a function that builds the runner, got {kind_name(app)}: hand in the function itself"
        raise ConfigurationError(msg)
    check_flags("serve", metrics=metrics)
    _check(log_level, log_format)
    if metrics and health_port is None:
        msg = "metrics need a health port: they are served by the health endpoint"
        raise ConfigurationError(msg)
    if log_level is not None:
        set_up_logging(LogLevel(log_level), LogFormat(log_format))
    with _told():
        built = app()
    calm_garbage_collection()

    def watched(runner: Runner | AsyncRunner) -> AbstractContextManager[None]:
        return observed(runner, health_port=health_port, health_host=health_host, metrics=metrics)

    if isinstance(built, AbstractContextManager):
        _run(built, watched)
    elif isinstance(built, Awaitable | AbstractAsyncContextManager):
        asyncio.run(_run_async(built, watched))
    else:
        raise _no_runner(built)


Watched: TypeAlias = Callable[[Runner | AsyncRunner], AbstractContextManager[None]]


def _run(built: AbstractContextManager[Runner], watched: Watched) -> None:
    with contextlib.ExitStack() as stack:
        with _told():
            runner = stack.enter_context(built)
        if not isinstance(runner, Runner):
            raise _no_runner(runner)
        stack.enter_context(runner)
        stack.enter_context(watched(runner))
        runner.run(handle_signals=True)


async def _run_async(
    built: Awaitable[AsyncRunner] | AbstractAsyncContextManager[AsyncRunner], watched: Watched
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        with _told():
            entered = await built if isinstance(built, Awaitable) else built
            if not isinstance(entered, AbstractAsyncContextManager):
                raise _no_runner(entered)
            runner = await stack.enter_async_context(entered)
        if not isinstance(runner, AsyncRunner):
            raise _no_runner(runner)
        await stack.enter_async_context(runner)
        stack.enter_context(watched(runner))
        await runner.run(handle_signals=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what the host's app raises while it builds into a ConfigurationError."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        msg = f"the app raised {type(error).__name__}: {error}"
        raise ConfigurationError(msg) from error


@contextlib.contextmanager
def observed(
    runner: Runner | AsyncRunner,
    *,
    health_port: int | None = None,
    health_host: str = "127.0.0.1",
    metrics: bool = False,
    registry: CollectorRegistry | None = None,
) -> Iterator[None]:
    """Serve a runner's health, and its metrics, for as long as the block lasts.

    `serve` does it for a whole process; this is for a runner that lives in one that
    has other things to do. With an `AsyncRunner`, enter it in the runner's event loop.

    Args:
        runner: Whose health and metrics they are.
        health_port: Where to answer; None: nowhere.
        health_host: On which address.
        metrics: Whether to count with `videopoll.observe.metrics.PrometheusHook`, and to answer ``/metrics``.
        registry: Where the metrics go; Prometheus's own registry by default.

    Raises:
        ConfigurationError: The port is taken, or the extra ``prometheus`` is missing.
    """
    check_flags("observed", metrics=metrics)
    if not isinstance(runner, Runner | AsyncRunner):
        msg = f"observed takes a Runner or an AsyncRunner, got {kind_name(runner)}"
        raise ConfigurationError(msg)
    with contextlib.ExitStack() as stack:
        # Imported here: most workers start without either.
        if metrics:
            from videopoll.observe.metrics import PrometheusHook  # noqa: PLC0415

            counts = _counts_of(runner)
            try:
                hook = PrometheusHook(registry, counts=counts)
            except ImportError as error:
                raise ConfigurationError(str(error)) from error
            except ValueError as error:
                msg = "videopoll's metrics are in this registry already: give each runner of a process a registry of its own"
                raise ConfigurationError(msg) from error
            if counts is not None:
                # Nobody can be asked for the counts when the runner has ended.
                stack.callback(hook.registry.unregister, hook)
            registry = hook.registry
            runner.add_hook(hook)
        if health_port is not None:
            from videopoll.worker.health_server import HealthServer  # noqa: PLC0415

            stack.enter_context(HealthServer(runner, health_port, health_host, registry=registry if metrics else None))
        yield


def _counts_of(runner: Runner | AsyncRunner) -> Counts | None:
    """Return what counts the jobs in the runner's queue, for any thread; None if that queue cannot."""
    counts = getattr(runner._queue, "counts", None)  # noqa: SLF001 - the same room
    if not callable(counts):
        return None
    if isinstance(runner, Runner):
        return cast("Counts", counts)
    count = cast("Callable[[], Coroutine[object, object, QueueCounts]]", counts)
    loop = asyncio.get_running_loop()

    def ask() -> QueueCounts:
        try:
            return asyncio.run_coroutine_threadsafe(count(), loop).result(COUNTING_S)
        except (TimeoutError, RuntimeError) as error:
            msg = "the jobs cannot be counted: the event loop is busy or has ended"
            raise QueueUnavailableError(msg) from error

    return ask


def _check(log_level: LogLevel | str | None, log_format: LogFormat | str) -> None:
    if log_level is not None:
        check_choice("log_level", log_level, *LogLevel)
    check_choice("log_format", log_format, *LogFormat)


def _no_runner(found: object) -> ConfigurationError:
    return ConfigurationError(
        f"the app returned {type(found).__name__}: it must return a Runner or an AsyncRunner,"
        " or a context manager that gives one"
    )


def calm_garbage_collection() -> None:
    """Make Python look for cyclic garbage less often. Only the owner of a process should call this.

    A worker holds tens of thousands of short-lived objects, and makes
    hardly any cycles. With Python's defaults a fifth of its time goes into looking
    for them, in pauses of up to 50 ms (`docs/explanation/speed.md` has the figures).
    """
    gc.collect()
    # What is there by now stays for good: no later look has to go through it.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
