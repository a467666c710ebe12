"""``videopoll worker``: builds the parts from options and environment, and runs them until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import importlib
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypedDict, cast

import typer

from videopoll._reasons import own
from videopoll.cli.logs import LogFormat, LogLevel, set_up_logging
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    DEFAULT_ULTRAMSG_URL,
    ULTRAMSG_TOKEN,
    WHATSAPP_FACTORY_TOKEN,
    ApiUrl,
    JobTtl,
    Prefix,
    RedisUrl,
    UltraMsgInstance,
    UltraMsgUrl,
    WhatsAppFactoryInstance,
    WhatsAppFactoryUrl,
    open_queue,
    secret,
    ttls_of,
)
from videopoll.cli.output import guarded
from videopoll.errors import ConfigurationError
from videopoll.events import Hook
from videopoll.messages import Message, NotSent, Recipient
from videopoll.notifiers import RoutingNotifier, UltraMsgNotifier, WhatsAppFactoryNotifier
from videopoll.observe.metrics import PrometheusHook
from videopoll.policies import LeasePolicy, PollingStrategy
from videopoll.queue.history import RedisHistory
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.texts import ENGLISH, SPANISH, Texts
from videopoll.video_api.poller import VideoApiPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.health_server import HealthServer
from videopoll.worker.runner import Runner

__all__ = [
    "NoChannelNotifier",
    "RunnerKind",
    "calm_garbage_collection",
    "load_resolver",
    "worker",
]

log = logging.getLogger(__name__)

NO_CHANNEL = (
    "no channel is configured, so no user gets anything: set --ultramsg-instance and VIDEOPOLL_ULTRAMSG_TOKEN,"
    " or --whatsapp-factory-url, --whatsapp-factory-instance and VIDEOPOLL_WHATSAPP_FACTORY_TOKEN"
)

GC_THRESHOLDS = (50_000, 20, 20)
"""What `gc.set_threshold` gets: new objects, and younger collections, between two looks."""

POLLING, CHANNELS, WORKER, OPERATING, LOGS = "Polling", "Channels", "Worker", "Health, metrics and history", "Log"


class RunnerKind(enum.StrEnum):
    """Which runner works."""

    ASYNC = "async"
    SYNC = "sync"


class RunnerOptions(TypedDict, total=False):
    """What both runners are built with."""

    strategy: PollingStrategy
    lease: LeasePolicy
    texts: Texts
    foreign_workers: bool
    recover: bool
    take_new: bool
    concurrency: int
    hooks: list[Hook]


class NoChannelNotifier:
    """Stands in while no channel is configured: outcomes wait, and become dead letters that can be redriven."""

    def notify(self, message: Message) -> NotSent:
        """Send nothing."""
        del message
        return NotSent(own(NO_CHANNEL))

    async def anotify(self, message: Message) -> NotSent:
        """Send nothing."""
        return self.notify(message)


@guarded
def worker(
    *,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    job_ttl: JobTtl = DEFAULT_JOB_TTL_S,
    api_url: ApiUrl = DEFAULT_API_URL,
    ultramsg_url: UltraMsgUrl = DEFAULT_ULTRAMSG_URL,
    ultramsg_instance: UltraMsgInstance = None,
    whatsapp_factory_url: WhatsAppFactoryUrl = None,
    whatsapp_factory_instance: WhatsAppFactoryInstance = None,
    resolver: Annotated[
        str | None,
        typer.Option(
            envvar="VIDEOPOLL_RESOLVER",
            metavar="PACKAGE.MODULE:FUNCTION",
            help="Your function that gives the Recipient of a conversation id; may be async (with --runner async)."
            " Without one, a job's metadata say 'channel' and 'to'.",
            rich_help_panel=CHANNELS,
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(
            envvar="VIDEOPOLL_LANGUAGE",
            help="What users read whose language is unknown: es or en.",
            rich_help_panel=CHANNELS,
        ),
    ] = "es",
    interval: Annotated[
        float,
        typer.Option(envvar="VIDEOPOLL_INTERVAL", help="Seconds between two polls of a job.", rich_help_panel=POLLING),
    ] = 10.0,
    timeout: Annotated[
        float,
        typer.Option(envvar="VIDEOPOLL_TIMEOUT", help="Seconds until a job is given up.", rich_help_panel=POLLING),
    ] = 300.0,
    initial_delay: Annotated[
        float,
        typer.Option(
            envvar="VIDEOPOLL_INITIAL_DELAY",
            help="Seconds from a job's start to its first poll.",
            rich_help_panel=POLLING,
        ),
    ] = 5.0,
    max_attempts: Annotated[
        int, typer.Option(envvar="VIDEOPOLL_MAX_ATTEMPTS", help="Polls of a job at most.", rich_help_panel=POLLING)
    ] = 30,
    runner: Annotated[
        RunnerKind,
        typer.Option(
            envvar="VIDEOPOLL_RUNNER", case_sensitive=False, help="asyncio, or threads.", rich_help_panel=WORKER
        ),
    ] = RunnerKind.ASYNC,
    concurrency: Annotated[
        int | None,
        typer.Option(
            envvar="VIDEOPOLL_CONCURRENCY",
            min=1,
            help="Polls at a time.",
            show_default="100; 16 with --runner sync",
            rich_help_panel=WORKER,
        ),
    ] = None,
    lease: Annotated[
        float,
        typer.Option(
            envvar="VIDEOPOLL_LEASE",
            help="Seconds until another worker takes up the jobs of one that died.",
            rich_help_panel=WORKER,
        ),
    ] = 12.0,
    foreign_workers: Annotated[
        bool,
        typer.Option(
            "--foreign-workers/--no-foreign-workers",
            envvar="VIDEOPOLL_FOREIGN_WORKERS",
            help="Whether workers of another kind share this Redis: then jobs that they lost are looked for every 30 s.",
            rich_help_panel=WORKER,
        ),
    ] = False,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover/--no-recover",
            envvar="VIDEOPOLL_RECOVER",
            help="Look with SCAN for jobs that have a record and stand nowhere: at the start, and every two minutes.",
            rich_help_panel=WORKER,
        ),
    ] = True,
    new_jobs: Annotated[
        bool,
        typer.Option(
            "--new-jobs/--no-new-jobs",
            envvar="VIDEOPOLL_NEW_JOBS",
            help="Take jobs from the list; without, finish what is scheduled and deliver what waits.",
            rich_help_panel=WORKER,
        ),
    ] = True,
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            envvar="VIDEOPOLL_HISTORY",
            help="Whether to keep in Redis what happens to jobs, for explain and watch: at most 20,000 entries, for a day.",
            rich_help_panel=OPERATING,
        ),
    ] = True,
    health_port: Annotated[
        int | None,
        typer.Option(
            envvar="VIDEOPOLL_HEALTH_PORT",
            min=0,
            max=65535,
            help="Answer GET /live and /ready here, for platforms that probe.",
            rich_help_panel=OPERATING,
        ),
    ] = None,
    health_host: Annotated[
        str,
        typer.Option(
            envvar="VIDEOPOLL_HEALTH_HOST",
            help="On which address; 0.0.0.0 lets other machines ask.",
            rich_help_panel=OPERATING,
        ),
    ] = "127.0.0.1",
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics/--no-metrics",
            envvar="VIDEOPOLL_METRICS",
            help="Give Prometheus metrics at GET /metrics of --health-port (the extra prometheus).",
            rich_help_panel=OPERATING,
        ),
    ] = False,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            envvar="VIDEOPOLL_LOG_LEVEL", case_sensitive=False, help="How much to write.", rich_help_panel=LOGS
        ),
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="VIDEOPOLL_LOG_FORMAT",
            case_sensitive=False,
            help="Readable lines, or JSON lines.",
            rich_help_panel=LOGS,
        ),
    ] = LogFormat.TEXT,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C, which drain it; another one, a second or more later, ends it at once.

    Secrets come from the environment only: VIDEOPOLL_API_KEY (needed),
    VIDEOPOLL_ULTRAMSG_TOKEN, VIDEOPOLL_WHATSAPP_FACTORY_TOKEN.

    \b
    export VIDEOPOLL_API_KEY=… VIDEOPOLL_ULTRAMSG_TOKEN=…
    videopoll worker --ultramsg-instance instance1150
    videopoll worker --resolver myshop.people:recipient_of --log-format json

    Start as many as you like on one Redis: each job is in the hands of one, and
    the jobs of one that dies go to the others.
    """  # noqa: D301 - a backspace keeps line ends in the help
    set_up_logging(log_level, log_format)
    if job_ttl <= timeout:
        msg = (
            f"a job would vanish from Redis (--job-ttl {job_ttl}) before it can time out (--timeout {timeout:g})."
            f" Raise --job-ttl here and wherever jobs are enqueued, e.g. to {2 * round(timeout)}, or lower --timeout."
        )
        raise ConfigurationError(msg)
    options = RunnerOptions(
        strategy=PollingStrategy(
            interval_s=interval, timeout_s=timeout, initial_delay_s=initial_delay, max_attempts=max_attempts
        ),
        lease=LeasePolicy.lasting(lease),
        texts=Texts({"es": SPANISH, "en": ENGLISH}, default=language),
        foreign_workers=foreign_workers,
        recover=recover,
        take_new=new_jobs,
    )
    if concurrency is not None:
        options["concurrency"] = concurrency
    api_key = secret(API_KEY)
    if api_key is None:
        msg = f"the video API needs a key: set {API_KEY} in the environment"
        raise ConfigurationError(msg)
    poller = VideoApiPoller(base_url=api_url, api_key=api_key)
    channels = _channels(
        ultramsg_url=ultramsg_url,
        ultramsg_instance=ultramsg_instance,
        whatsapp_factory_url=whatsapp_factory_url,
        whatsapp_factory_instance=whatsapp_factory_instance,
        resolving=resolver is not None,
    )
    notifier = _notifier(channels, resolver)
    ttls = ttls_of(job_ttl)
    if runner is RunnerKind.SYNC and isinstance(notifier, RoutingNotifier) and notifier.async_only:
        msg = f"--resolver {resolver} is an async function: use --runner async, or give a plain one"
        raise ConfigurationError(msg)
    with contextlib.ExitStack() as stack:
        operating = _Operating(
            stack, redis_url, prefix, history=history, metrics=metrics, address=(health_host, health_port)
        )
        options["hooks"] = operating.hooks
        calm_garbage_collection()
        if runner is RunnerKind.ASYNC:
            jobs = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix, ttls=ttls)
            asyncio.run(_run_async(jobs, poller, notifier, options, operating))
            return
        with (
            RedisVideoJobQueue.from_url(redis_url, prefix=prefix, ttls=ttls) as queue,
            Runner(queue, poller, notifier, **options) as running,
        ):
            operating.follow(running)
            running.run(handle_signals=True)


class _Operating:
    """What tells the operator of a worker: the history, the metrics, the health endpoint; closed with the stack."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        redis_url: str,
        prefix: str,
        *,
        history: bool,
        metrics: bool,
        address: tuple[str, int | None],
    ) -> None:
        self.hooks: list[Hook] = []
        self._stack = stack
        self._host, self._port = address
        self._history = stack.enter_context(RedisHistory(redis_url, prefix=prefix)) if history else None
        self._prometheus: PrometheusHook | None = None
        if self._history is not None:
            self.hooks.append(self._history)
        if metrics:
            if self._port is None:
                msg = "--metrics are given at the health endpoint: set --health-port, too"
                raise ConfigurationError(msg)
            counting = stack.enter_context(open_queue(redis_url, prefix))
            try:
                self._prometheus = PrometheusHook(counts=counting.counts)
            except ImportError as error:
                raise ConfigurationError(str(error)) from error
            self.hooks.append(self._prometheus)

    def follow(self, running: Runner | AsyncRunner) -> None:
        """Tell of this runner from now on."""
        if self._history is not None:
            self._history.follow(running)
        if self._port is not None:
            registry = self._prometheus.registry if self._prometheus else None
            self._stack.enter_context(HealthServer(running, self._port, self._host, registry=registry))


async def _run_async(
    queue: AsyncRedisVideoJobQueue,
    poller: VideoApiPoller,
    notifier: RoutingNotifier | NoChannelNotifier,
    options: RunnerOptions,
    operating: _Operating,
) -> None:
    async with queue, AsyncRunner(queue, poller, notifier, **options) as running:
        operating.follow(running)
        await running.run(handle_signals=True)


def calm_garbage_collection() -> None:
    """Let Python look for cyclic garbage less often; for whoever owns the process.

    A worker has tens of thousands of short-lived objects in hand, and makes
    hardly any cycles. With Python's defaults a fifth of its time goes into looking
    for them, in pauses of up to 50 ms (`docs/explanation/speed.md` has the figures).
    """
    gc.collect()
    # What is there by now stays for good: no later look has to go through it.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _channels(
    *,
    ultramsg_url: str,
    ultramsg_instance: str | None,
    whatsapp_factory_url: str | None,
    whatsapp_factory_instance: str | None,
    resolving: bool,
) -> dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier]:
    """Build the channels that have what they need; with a resolver, the recipient may bring instance and token."""
    channels: dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier] = {}
    token = secret(ULTRAMSG_TOKEN)
    if resolving or (ultramsg_instance and token):
        channels["ultramsg"] = UltraMsgNotifier(base_url=ultramsg_url, instance_id=ultramsg_instance, token=token)
    elif ultramsg_instance or token:
        log.warning("UltraMsg is left out: it needs both --ultramsg-instance and %s", ULTRAMSG_TOKEN)
    token = secret(WHATSAPP_FACTORY_TOKEN)
    if whatsapp_factory_url and (resolving or (whatsapp_factory_instance and token)):
        channels["whatsapp_factory"] = WhatsAppFactoryNotifier(
            base_url=whatsapp_factory_url, instance_id=whatsapp_factory_instance, token=token
        )
    elif whatsapp_factory_url or whatsapp_factory_instance or token:
        log.warning(
            "WhatsApp Factory is left out: it needs --whatsapp-factory-url, --whatsapp-factory-instance and %s",
            WHATSAPP_FACTORY_TOKEN,
        )
    return channels


def _notifier(
    channels: dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier], resolver: str | None
) -> RoutingNotifier | NoChannelNotifier:
    if not channels:
        log.warning("%s%s", NO_CHANNEL[0].upper(), NO_CHANNEL[1:])
        return NoChannelNotifier()
    if resolver is None:
        return RoutingNotifier.from_metadata(channels)
    return RoutingNotifier(channels, resolve=load_resolver(resolver))


def load_resolver(name: str) -> Callable[[str], Recipient | Awaitable[Recipient]]:
    """Import the host's function; modules of the working directory are found, too.

    Raises:
        ConfigurationError: There is no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        msg = f"--resolver looks like package.module:function, got {name!r}"
        raise ConfigurationError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        msg = f"--resolver: {module_name!r} cannot be imported ({type(error).__name__}: {error})"
        raise ConfigurationError(msg) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        msg = f"--resolver: {module_name!r} has no function {attribute!r}"
        raise ConfigurationError(msg)
    return cast("Callable[[str], Recipient | Awaitable[Recipient]]", found)
