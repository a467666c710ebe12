"""``videopoll worker``: builds the parts from options and environment, and runs them until a signal comes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypedDict, TypeVar, cast

import attrs
import typer

from videopoll._calling import is_async
from videopoll.cli.channels import build_channels, build_notifier
from videopoll.cli.load import call_function
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    DEFAULT_ULTRAMSG_URL,
    ApiUrl,
    JobTtl,
    OwnChannels,
    Partitions,
    Prefix,
    Providers,
    RedisUrl,
    RunnerKind,
    Serve,
    UltraMsgInstance,
    UltraMsgUrl,
    WhatsAppFactoryInstance,
    WhatsAppFactoryUrl,
    secret,
    served,
    ttls_of,
)
from videopoll.cli.output import guarded
from videopoll.cli.providers import described, job_ttl_for, open_poller
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_seconds
from videopoll.notifiers import RoutingNotifier
from videopoll.observe.log_setup import LogFormat, LogLevel, set_up_logging
from videopoll.policies import LeasePolicy, PollingStrategy
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.texts import ENGLISH, SPANISH, Texts
from videopoll.video_api.poller import VideoApiPoller
from videopoll.video_api.routing_poller import RoutingPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner
from videopoll.worker.serve import serve as serve_runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from videopoll.cli.channels import NoChannelNotifier
    from videopoll.policies import KeyTtls
    from videopoll.protocols import AsyncPublisher, AsyncVideoPoller, Publisher, VideoPoller
    from videopoll.video_api.description import ApiDescription
    from videopoll.worker.serve import App, Built


__all__ = ["worker"]

Q = TypeVar("Q", RedisVideoJobQueue, AsyncRedisVideoJobQueue)

POLLING, CHANNELS, WORKER, OPERATING, LOGS = "Polling", "Channels", "Worker", "Health, metrics and history", "Log"

OwnApp: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--app",
        envvar="VIDEOPOLL_APP",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Your function that builds the whole Runner or AsyncRunner, from parts of your own."
        " Then only the options on health, metrics and the log count here.",
        rich_help_panel=WORKER,
    ),
]
OwnPoller: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--poller",
        envvar="VIDEOPOLL_POLLER",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Your function that builds a poller of your own, for another video API.",
        rich_help_panel=POLLING,
    ),
]
OwnPublisher: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--publisher",
        envvar="VIDEOPOLL_PUBLISHER",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Your function that builds what puts videos where everybody can fetch them that only the API's key opens.",
        rich_help_panel=CHANNELS,
    ),
]
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
DeliveryConcurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        envvar="VIDEOPOLL_DELIVERY_CONCURRENCY",
        min=1,
        help="Messages sent at a time.",
        show_default="as many as polls",
        rich_help_panel=WORKER,
    ),
]
AccountConcurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        envvar="VIDEOPOLL_ACCOUNT_CONCURRENCY",
        min=1,
        help="Requests at a time, at most, to one account of a video API: by all workers together,"
        " each of which has an equal share. Without it, as many as they have places.",
        rich_help_panel=POLLING,
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
        help="Whether operators see the worker: a heartbeat for status and doctor,"
        " and what happens to jobs for explain and watch: at most 20,000 entries, for a day.",
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
    ctx: typer.Context,
    *,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    serve: Serve = None,
    job_ttl: JobTtl = DEFAULT_JOB_TTL_S,
    app: OwnApp = None,
    provider: Providers = None,
    poller: OwnPoller = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    channel: OwnChannels = None,
    publisher: OwnPublisher = None,
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
    delivery_concurrency: DeliveryConcurrency = None,
    account_concurrency: AccountConcurrency = None,
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

    Secrets come from the environment only: VIDEOPOLL_API_KEY (needed without --provider and --poller),
    VIDEOPOLL_ULTRAMSG_TOKEN, VIDEOPOLL_WHATSAPP_FACTORY_TOKEN, and for each --channel what
    videopoll channels lists.

    With --provider each job is asked about at the API that its metadata name; the key of
    each is in the variable that videopoll providers lists, e.g. FAL_KEY. Jobs that name none
    go to --poller, or to the API of VIDEOPOLL_API_KEY, where there is one.

    \b
    export VIDEOPOLL_API_KEY=… VIDEOPOLL_ULTRAMSG_TOKEN=…
    videopoll worker --ultramsg-instance instance1150
    videopoll worker --channel telegram
    videopoll worker --provider fal --provider replicate
    videopoll worker --provider openrouter --publisher myshop.videos:build
    videopoll worker --resolver myshop.people:recipient_of --log-format json
    videopoll worker --app myshop.worker:build --health-port 8080

    Start as many as you like on one Redis: each job is in the hands of one, and
    the jobs of one that dies go to the others.
    """  # noqa: D301 - a backspace keeps line ends in the help
    # Before the parts are built: what they warn of belongs into the log.
    set_up_logging(log_level, log_format)
    if metrics and health_port is None:
        msg = "--metrics needs --health-port: metrics are served by the health endpoint"
        raise ConfigurationError(msg)

    def serve_app(build: App) -> None:
        serve_runner(
            build,
            health_port=health_port,
            health_host=health_host,
            metrics=metrics,
            log_level=log_level,
            log_format=log_format,
        )

    if app is not None:
        _check_alone(ctx)
        serve_app(lambda: cast("Built", call_function("--app", app)))
        return
    apis = [described(name) for name in provider or ()]
    _check_names(apis)
    if apis:
        _check_providers(ctx, foreign_workers=foreign_workers, others=_asks_others(poller))
        job_ttl = job_ttl if _given(ctx, "job_ttl") else job_ttl_for(apis)
    for api in apis:
        _check_lifetimes(job_ttl, api.strategy.timeout_s, f"{api.name} is polled for")
    if not apis or _asks_others(poller):
        _check_lifetimes(job_ttl, timeout, "--timeout")
    options = RunnerOptions(
        publisher=None if publisher is None else _publisher(publisher, runner),
        strategy=PollingStrategy(
            interval_s=interval, timeout_s=timeout, initial_delay_s=initial_delay, max_attempts=max_attempts
        ),
        lease=LeasePolicy.lasting(lease),
        texts=Texts({"es": SPANISH, "en": ENGLISH}, default=language),
        foreign_workers=foreign_workers,
        recover=recover,
        take_new=new_jobs,
        visible=history,
        concurrency=concurrency,
        delivery_concurrency=delivery_concurrency,
        account_concurrency=account_concurrency,
    )
    asking = _poller(api_url, poller) if not apis or _asks_others(poller) else None
    channels = build_channels(
        ultramsg_url=ultramsg_url,
        ultramsg_instance=ultramsg_instance,
        whatsapp_factory_url=whatsapp_factory_url,
        whatsapp_factory_instance=whatsapp_factory_instance,
        resolving=resolver is not None,
        hosts=channel or (),
    )
    notifier = build_notifier(channels, resolver)
    if runner is RunnerKind.SYNC:
        _check_sync(asking, poller, notifier, resolver)
    routed = _routed(apis, asking)
    parts = _Parts(_Place(redis_url, prefix, ttls_of(job_ttl), partitions, served(serve)), routed, notifier, options)
    serve_app(parts.async_app if runner is RunnerKind.ASYNC else parts.app)


@attrs.frozen
class _Place:
    """Where the jobs are."""

    url: str = attrs.field(repr=False)
    prefix: str
    ttls: KeyTtls
    partitions: int | None
    serve: tuple[int, ...] | None

    def open(self, kind: type[Q]) -> Q:
        return kind.from_url(self.url, prefix=self.prefix, ttls=self.ttls, partitions=self.partitions, serve=self.serve)


@attrs.frozen
class _Parts:
    """What the options say, as an app for `serve`."""

    place: _Place
    poller: VideoPoller | AsyncVideoPoller
    notifier: RoutingNotifier | NoChannelNotifier
    options: RunnerOptions

    @contextlib.contextmanager
    def app(self) -> Iterator[Runner]:
        with self.place.open(RedisVideoJobQueue) as queue:
            # Checked before: an async poller is refused with --runner sync.
            yield Runner(queue, cast("VideoPoller", self.poller), self.notifier, **self.options)

    @contextlib.asynccontextmanager
    async def async_app(self) -> AsyncIterator[AsyncRunner]:
        async with self.place.open(AsyncRedisVideoJobQueue) as queue:
            yield AsyncRunner(queue, self.poller, self.notifier, **self.options)


class RunnerOptions(TypedDict, total=False):
    """What both runners are built with."""

    publisher: Publisher | AsyncPublisher | None
    strategy: PollingStrategy
    lease: LeasePolicy
    texts: Texts
    foreign_workers: bool
    recover: bool
    take_new: bool
    visible: bool
    concurrency: int | None
    delivery_concurrency: int | None
    account_concurrency: int | None


OF_THE_PROCESS = frozenset({"app", "health_port", "health_host", "metrics", "log_level", "log_format"})
"""The options that count beside `--app`."""


OF_OTHER_APIS = frozenset({"api_url", "interval", "timeout", "initial_delay", "max_attempts"})
"""The options about jobs that name no provider."""


def _source(ctx: typer.Context, name: str) -> str | None:
    return getattr(ctx.get_parameter_source(name), "name", None)


def _given(ctx: typer.Context, name: str) -> bool:
    """Whether a host has set an option, on the command line or in the environment."""
    return _source(ctx, name) in {"COMMANDLINE", "ENVIRONMENT"}


def _on_command_line(ctx: typer.Context) -> list[tuple[str, str]]:
    """Return the names of the options that the command line has, and how they are written."""
    names = [(option.name, option.opts[0]) for option in ctx.command.params if option.name]
    return [(name, written) for name, written in names if _source(ctx, name) == "COMMANDLINE"]


def _check_providers(ctx: typer.Context, *, foreign_workers: bool, others: bool) -> None:
    """Raise a ConfigurationError if the command line has options that `--provider` would pass over, or does not go with."""
    if foreign_workers:
        msg = (
            "--provider and --foreign-workers do not go together: workers of another kind would take these jobs, and not"
            " find them at their own API. Give the jobs of providers a --prefix of their own"
        )
        raise ConfigurationError(msg)
    given = [written for name, written in _on_command_line(ctx) if name in OF_OTHER_APIS]
    if given and not others:
        msg = (
            f"{', '.join(given)} would have no effect: each provider is polled as its description advises."
            f" Set {API_KEY} or --poller for jobs that name no provider, or leave it out"
        )
        raise ConfigurationError(msg)


def _check_names(apis: list[ApiDescription]) -> None:
    """Raise a ConfigurationError if two descriptions have one name: the jobs of one of them would go to the other."""
    named: dict[str, ApiDescription] = {}
    for api in apis:
        if api.name == OTHERS or named.setdefault(api.name, api) != api:
            what = "has the name of the API of jobs that name none" if api.name == OTHERS else "is there twice"
            msg = f"--provider: {api.name!r} {what}: give each description a name of its own"
            raise ConfigurationError(msg)


def _asks_others(poller: str | None) -> bool:
    """Whether jobs that name no provider can be asked about, too."""
    return poller is not None or secret(API_KEY) is not None


def _routed(
    apis: list[ApiDescription], others: VideoPoller | AsyncVideoPoller | None
) -> VideoPoller | AsyncVideoPoller:
    """Return the poller of all that was named."""
    if not apis:
        return cast("VideoPoller | AsyncVideoPoller", others)
    pollers: dict[str, VideoPoller | AsyncVideoPoller] = {api.name: open_poller(api) for api in apis}
    if others is not None:
        pollers[OTHERS] = others
    return RoutingPoller(pollers, default=None if others is None else OTHERS)


OTHERS = "default"
"""What the API is called of jobs that name none."""


def _check_alone(ctx: typer.Context) -> None:
    """Raise a ConfigurationError if the command line has options that `--app` would pass over in silence."""
    given = [written for name, written in _on_command_line(ctx) if name not in OF_THE_PROCESS]
    if given:
        msg = f"--app builds the whole runner, so {', '.join(given)} would have no effect: set it there, or leave --app out"
        raise ConfigurationError(msg)


def _check_lifetimes(job_ttl: int, timeout_s: float, whose: str) -> None:
    """Raise a ConfigurationError if a job's record would expire before its polling can end."""
    check_seconds(whose, timeout_s)
    if job_ttl <= timeout_s:
        unit, lower = ("", ", or lower --timeout") if whose.startswith("--") else (" s", "")
        msg = (
            f"a job would vanish from Redis (--job-ttl {job_ttl}) before it can time out ({whose} {timeout_s:g}{unit})."
            f" Raise --job-ttl here and wherever jobs are enqueued, e.g. to {2 * round(timeout_s)}{lower}."
        )
        raise ConfigurationError(msg)


def _check_sync(asking: object, poller: str | None, notifier: object, resolver: str | None) -> None:
    """Raise a ConfigurationError if a part of the host's needs asyncio."""
    if is_async(getattr(asking, "poll", None)):
        msg = f"--poller {poller} builds an async poller: use --runner async, or give a plain one"
        raise ConfigurationError(msg)
    if isinstance(notifier, RoutingNotifier) and notifier.async_only:
        whose = f"--resolver {resolver} is" if resolver is not None else "--channel builds"
        msg = f"{whose} an async {'function' if resolver is not None else 'notifier'}: use --runner async, or give a plain one"
        raise ConfigurationError(msg)


def _poller(api_url: str, own: str | None) -> VideoPoller | AsyncVideoPoller:
    if own is not None:
        return cast("VideoPoller | AsyncVideoPoller", call_function("--poller", own))
    api_key = secret(API_KEY)
    if api_key is None:
        msg = f"the video API needs a key: set {API_KEY} in the environment"
        raise ConfigurationError(msg)
    return VideoApiPoller(base_url=api_url, api_key=api_key)


def _publisher(own: str, runner: RunnerKind) -> Publisher | AsyncPublisher:
    found = call_function("--publisher", own)
    publish = getattr(found, "publish", None)
    if not callable(publish):
        msg = f"--publisher {own} builds {type(found).__name__}, which has no method publish(video, timeout_s=seconds)"
        raise ConfigurationError(msg)
    if runner is RunnerKind.SYNC and is_async(publish):
        msg = f"--publisher {own} builds an async publisher: use --runner async, or give a plain one"
        raise ConfigurationError(msg)
    return cast("Publisher | AsyncPublisher", found)
