"""``videopoll worker``: builds the parts from options and environment, and runs them until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Annotated, TypeAlias, TypedDict

import typer

from videopoll.cli.channels import NoChannelNotifier, build_channels, build_notifier
from videopoll.cli.logs import LogFormat, LogLevel, set_up_logging
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    DEFAULT_ULTRAMSG_URL,
    ApiUrl,
    JobTtl,
    Prefix,
    RedisUrl,
    RunnerKind,
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
from videopoll.notifiers import RoutingNotifier
from videopoll.observe.metrics import PrometheusHook
from videopoll.policies import LeasePolicy, PollingStrategy
from videopoll.queue.history import RedisHistory
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.texts import ENGLISH, SPANISH, Texts
from videopoll.video_api.poller import VideoApiPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.health_server import HealthServer
from videopoll.worker.runner import Runner

__all__ = ["calm_garbage_collection", "worker"]

GC_THRESHOLDS = (50_000, 20, 20)
"""What `gc.set_threshold` gets: new objects, and younger collections, between two looks."""

POLLING, CHANNELS, WORKER, OPERATING, LOGS = "Polling", "Channels", "Worker", "Health, metrics and history", "Log"

Resolver: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="VIDEOPOLL_RESOLVER",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Your function that gives the Recipient of a conversation id; may be async (with --runner async)."
        " Without one, a job's metadata say 'channel' and 'to'.",
        rich_help_panel=CHANNELS,
    ),
]
Language: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="VIDEOPOLL_LANGUAGE",
        help="What users read whose language is unknown: es or en.",
        rich_help_panel=CHANNELS,
    ),
]
PollInterval: TypeAlias = Annotated[
    float,
    typer.Option(envvar="VIDEOPOLL_INTERVAL", help="Seconds between two polls of a job.", rich_help_panel=POLLING),
]
JobTimeout: TypeAlias = Annotated[
    float,
    typer.Option(envvar="VIDEOPOLL_TIMEOUT", help="Seconds until a job is given up.", rich_help_panel=POLLING),
]
InitialDelay: TypeAlias = Annotated[
    float,
    typer.Option(
        envvar="VIDEOPOLL_INITIAL_DELAY",
        help="Seconds from a job's start to its first poll.",
        rich_help_panel=POLLING,
    ),
]
MaxAttempts: TypeAlias = Annotated[
    int, typer.Option(envvar="VIDEOPOLL_MAX_ATTEMPTS", help="Polls of a job at most.", rich_help_panel=POLLING)
]
RunnerChoice: TypeAlias = Annotated[
    RunnerKind,
    typer.Option(envvar="VIDEOPOLL_RUNNER", case_sensitive=False, help="asyncio, or threads.", rich_help_panel=WORKER),
]
Concurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        envvar="VIDEOPOLL_CONCURRENCY",
        min=1,
        help="Polls at a time.",
        show_default="100; 16 with --runner sync",
        rich_help_panel=WORKER,
    ),
]
LeaseDuration: TypeAlias = Annotated[
    float,
    typer.Option(
        envvar="VIDEOPOLL_LEASE",
        help="Seconds until another worker takes up the jobs of one that died.",
        rich_help_panel=WORKER,
    ),
]
ForeignWorkers: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--foreign-workers/--no-foreign-workers",
        envvar="VIDEOPOLL_FOREIGN_WORKERS",
        help="Whether workers of another kind share this Redis: then jobs that they lost are looked for every 30 s.",
        rich_help_panel=WORKER,
    ),
]
RecoverLost: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--recover/--no-recover",
        envvar="VIDEOPOLL_RECOVER",
        help="Look with SCAN for jobs that have a record and stand nowhere: at the start, and every two minutes.",
        rich_help_panel=WORKER,
    ),
]
TakeNewJobs: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--new-jobs/--no-new-jobs",
        envvar="VIDEOPOLL_NEW_JOBS",
        help="Take jobs from the list; without, finish what is scheduled and deliver what waits.",
        rich_help_panel=WORKER,
    ),
]
KeepHistory: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--history/--no-history",
        envvar="VIDEOPOLL_HISTORY",
        help="Whether to keep in Redis what happens to jobs, for explain and watch: at most 20,000 entries, for a day.",
        rich_help_panel=OPERATING,
    ),
]
HealthPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        envvar="VIDEOPOLL_HEALTH_PORT",
        min=0,
        max=65535,
        help="Answer GET /live and /ready here, for platforms that probe.",
        rich_help_panel=OPERATING,
    ),
]
HealthHost: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="VIDEOPOLL_HEALTH_HOST",
        help="On which address; 0.0.0.0 lets other machines ask.",
        rich_help_panel=OPERATING,
    ),
]
ServeMetrics: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--metrics/--no-metrics",
        envvar="VIDEOPOLL_METRICS",
        help="Give Prometheus metrics at GET /metrics of --health-port (the extra prometheus).",
        rich_help_panel=OPERATING,
    ),
]
Level: TypeAlias = Annotated[
    LogLevel,
    typer.Option(envvar="VIDEOPOLL_LOG_LEVEL", case_sensitive=False, help="How much to write.", rich_help_panel=LOGS),
]
Format: TypeAlias = Annotated[
    LogFormat,
    typer.Option(
        envvar="VIDEOPOLL_LOG_FORMAT",
        case_sensitive=False,
        help="Readable lines, or JSON lines.",
        rich_help_panel=LOGS,
    ),
]


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
    resolver: Resolver = None,
    language: Language = "es",
    interval: PollInterval = 10.0,
    timeout: JobTimeout = 300.0,
    initial_delay: InitialDelay = 5.0,
    max_attempts: MaxAttempts = 30,
    runner: RunnerChoice = RunnerKind.ASYNC,
    concurrency: Concurrency = None,
    lease: LeaseDuration = 12.0,
    foreign_workers: ForeignWorkers = False,
    recover: RecoverLost = True,
    new_jobs: TakeNewJobs = True,
    history: KeepHistory = True,
    health_port: HealthPort = None,
    health_host: HealthHost = "127.0.0.1",
    metrics: ServeMetrics = False,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
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
    _check_lifetimes(job_ttl, timeout)
    if metrics and health_port is None:
        msg = "--metrics needs --health-port: metrics are served by the health endpoint"
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
    poller = _poller(api_url)
    channels = build_channels(
        ultramsg_url=ultramsg_url,
        ultramsg_instance=ultramsg_instance,
        whatsapp_factory_url=whatsapp_factory_url,
        whatsapp_factory_instance=whatsapp_factory_instance,
        resolving=resolver is not None,
    )
    notifier = build_notifier(channels, resolver)
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
            jobs = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix, ttls=ttls_of(job_ttl))
            asyncio.run(_run_async(jobs, poller, notifier, options, operating))
        else:
            queue = RedisVideoJobQueue.from_url(redis_url, prefix=prefix, ttls=ttls_of(job_ttl))
            _run(queue, poller, notifier, options, operating)


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


def _check_lifetimes(job_ttl: int, timeout: float) -> None:
    """Raise a ConfigurationError if a job's record would expire before its polling can end."""
    if job_ttl <= timeout:
        msg = (
            f"a job would vanish from Redis (--job-ttl {job_ttl}) before it can time out (--timeout {timeout:g})."
            f" Raise --job-ttl here and wherever jobs are enqueued, e.g. to {2 * round(timeout)}, or lower --timeout."
        )
        raise ConfigurationError(msg)


def _poller(api_url: str) -> VideoApiPoller:
    api_key = secret(API_KEY)
    if api_key is None:
        msg = f"the video API needs a key: set {API_KEY} in the environment"
        raise ConfigurationError(msg)
    return VideoApiPoller(base_url=api_url, api_key=api_key)


class _Operating:
    """What an operator sees of a worker: the history, the metrics, the health endpoint; closed with the stack."""

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
            counting = stack.enter_context(open_queue(redis_url, prefix))
            try:
                self._prometheus = PrometheusHook(counts=counting.counts)
            except ImportError as error:
                raise ConfigurationError(str(error)) from error
            self.hooks.append(self._prometheus)

    def follow(self, running: Runner | AsyncRunner) -> None:
        """Report the heartbeats and the health of this runner from now on."""
        if self._history is not None:
            self._history.follow(running)
        if self._port is not None:
            registry = self._prometheus.registry if self._prometheus else None
            self._stack.enter_context(HealthServer(running, self._port, self._host, registry=registry))


def _run(
    queue: RedisVideoJobQueue,
    poller: VideoApiPoller,
    notifier: RoutingNotifier | NoChannelNotifier,
    options: RunnerOptions,
    operating: _Operating,
) -> None:
    with queue, Runner(queue, poller, notifier, **options) as running:
        operating.follow(running)
        running.run(handle_signals=True)


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
    """Make Python look for cyclic garbage less often. Only the owner of a process should call this.

    A worker holds tens of thousands of short-lived objects, and makes
    hardly any cycles. With Python's defaults a fifth of its time goes into looking
    for them, in pauses of up to 50 ms (`docs/explanation/speed.md` has the figures).
    """
    gc.collect()
    # What is there by now stays for good: no later look has to go through it.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
