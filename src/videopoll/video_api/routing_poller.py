"""Several video APIs in one worker: each job is asked about at the one that it was started at."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, cast

import attrs

from videopoll._calling import aclose_parts, close_parts, in_thread, is_async
from videopoll._reasons import own, quoting, shown_name
from videopoll.clock import Clock
from videopoll.core.accounts import api_account
from videopoll.core.brakes import Brakes
from videopoll.core.flow import adrive, call, do, drive
from videopoll.errors import ConfigurationError
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.checks import check_callable, check_kinds, check_texts, mapped
from videopoll.jobs.video import FailureReason
from videopoll.observations import Fault, FaultKind, NotAsked, Observation, VideoFailed
from videopoll.observe.redact import redact
from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription
from videopoll.video_api.http_poller import HttpVideoPoller

if TYPE_CHECKING:
    from videopoll.core.flow import Call, Flow
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.video import BucketObject, LockedLink
    from videopoll.observations import Downloaded
    from videopoll.protocols import AsyncVideoPoller, VideoPoller, VideoSink

__all__ = ["RoutingPoller"]

Poller: TypeAlias = "VideoPoller | AsyncVideoPoller"
Credentials: TypeAlias = "Callable[[VideoJob], str | Awaitable[str | None] | None]"

SHORTEST_POLL_S = 1.0
"""Seconds that are left for a poll at least, however long the host took to give its key."""


class RoutingPoller:
    """Asks about each job at the video API that it names, with a pause of its own for each account.

    ::

        from videopoll.video_api.apis import FAL, KLING

        poller = RoutingPoller(
            {
                "fal": HttpVideoPoller(FAL, api_key=os.environ["FAL_KEY"]),
                "kling": HttpVideoPoller(KLING, api_key=os.environ["KLING_API_KEY"]),
            }
        )

    A job whose API is not here fails for its user, and becomes a dead letter that says
    which are here: the video may have been paid for. Redrive it when the API is set up.

    An API that answers 429 is left alone for a while, by key, and holds up no other:
    its jobs wait without using up their attempts. All workers of the queue heed it.

    Args:
        pollers: The pollers by name, sync and async ones. With `credentials` also
            descriptions of APIs, which take their keys from there.
        by: Which name a job has: a field of its metadata, or a function of the job that
            waits for nothing. It may give None.
        default: The name for jobs that have none.
        credentials: Gives the key for a job, where not all have the same; a function or
            a coroutine function. It is asked anew for each poll. None is the poller's own.
            Under asyncio a plain function runs in a thread. Each poller must have a
            method ``with_key(key)`` that gives a poller, as `HttpVideoPoller` has.
        strategies: Polling strategies by name, in place of those that the descriptions
            advise. Jobs of other pollers have the runner's.

    Raises:
        ConfigurationError: There is no poller, or a part is of the wrong kind.
    """

    holds_back: ClassVar[bool] = True
    """Each account is paused by itself: the worker goes on after a 429."""

    def __init__(
        self,
        pollers: Mapping[str, Poller | ApiDescription],
        *,
        by: str | Callable[[VideoJob], str | None] = "provider",
        default: str | None = None,
        credentials: Credentials | None = None,
        strategies: Mapping[str, PollingStrategy] | None = None,
    ) -> None:
        if not isinstance(pollers, Mapping) or not pollers:
            msg = "RoutingPoller needs at least one poller, in a mapping from the name of its API"
            raise ConfigurationError(msg)
        if credentials is not None:
            check_callable(credentials, "RoutingPoller.credentials", "the job")
        self._pollers = {name: _checked(name, one, keyless=credentials is not None) for name, one in pollers.items()}
        if not isinstance(by, str):
            check_callable(by, "RoutingPoller.by", "the job")
        if is_async(by):
            msg = "RoutingPoller.by must be a plain function: what has to be waited for is for `credentials`"
            raise ConfigurationError(msg)
        strategies = mapped(strategies, "RoutingPoller.strategies")
        check_kinds("RoutingPoller.strategies", PollingStrategy, **strategies)
        check_texts("RoutingPoller", default=default)
        for what, names in (("default", () if default is None else (default,)), ("strategies", strategies)):
            if unknown := sorted(set(names) - self._pollers.keys()):
                msg = f"RoutingPoller.{what} names {', '.join(unknown)}, which is not among its pollers: {self._known}"
                raise ConfigurationError(msg)
        # Of those keys that are the pollers' own.
        self._accounts = {name: api_account(name, _own_account(one)) for name, one in self._pollers.items()}
        self._by = by
        self._default = default
        self._credentials = credentials
        advised = {name: getattr(one, "strategy", None) for name, one in self._pollers.items()} | strategies
        self._strategies = {name: one for name, one in advised.items() if isinstance(one, PollingStrategy)}
        self._clock = Clock()
        self.brakes: Brakes = Brakes(self._now_s)
        """Which accounts are left alone, and how many requests each has under way; a runner tells its fleet of it."""
        self.keeps_time: bool = credentials is None and all(
            getattr(one, "keeps_time", False) is True for one in self._pollers.values()
        )
        """Whether `apoll` ends within its time by itself; see `VideoApiPoller.keeps_time`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._known})"

    @property
    def async_only(self) -> bool:
        """Whether it takes an `AsyncRunner`: `credentials` or a poller is asynchronous."""
        return is_async(self._credentials) or any(
            getattr(one, "async_only", False) or is_async(getattr(one, "poll", None)) for one in self._pollers.values()
        )

    @property
    def apis(self) -> dict[str, str]:
        """Where the APIs are that say so, by the names of their pollers."""
        urls = {name: getattr(one, "base_url", None) for name, one in self._pollers.items()}
        return {name: url for name, url in urls.items() if isinstance(url, str)}

    @property
    def strategies(self) -> tuple[PollingStrategy, ...]:
        """The polling strategies that jobs may have."""
        return tuple(self._strategies.values())

    def strategy_of(self, job: VideoJob) -> PollingStrategy | None:
        """Return the polling strategy of a job's API; None for the runner's.

        Raises:
            Exception: Whatever `by` raises.
        """
        name = self._name_of(job)
        return None if name is None else self._strategies.get(name)

    def use_clock(self, clock: Clock) -> None:
        """Go by this clock: that of a runner that has one of its own, as in tests."""
        self._clock = clock

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask the job's API about it once, within `timeout_s` seconds.

        Raises:
            TypeError: `credentials` or the poller is asynchronous.
            Exception: Whatever the poller raises.
        """
        return drive(self._ask(job, timeout_s, _poll_of), call)

    async def apoll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask the job's API about it once, within `timeout_s` seconds, by the poller's asyncio side where it has one.

        Raises:
            Exception: Whatever the poller raises.
        """
        return await adrive(self._ask(job, timeout_s, _apoll_of), _acall)

    @property
    def may_lock(self) -> bool:
        """Whether one of the APIs may finish with a video that only its key opens: then a runner needs a publisher."""
        return any(getattr(one, "may_lock", False) is True for one in self._pollers.values())

    def download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | Observation:
        """Write a video that only its key opens to `file`, by the job's poller; see `videopoll.protocols.VideoDownload`.

        Raises:
            Exception: Whatever the poller raises.
        """
        return drive(self._download(job, place, file, timeout_s, "download"), call)

    async def adownload(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | Observation:
        """Write a video that only its key opens to `file`, by the job's poller: by its asyncio side where it has one.

        Raises:
            Exception: Whatever the poller raises.
        """
        return await adrive(self._download(job, place, file, timeout_s, "adownload", "download"), _acall)

    def close(self) -> None:
        """Close the pollers that can be closed; they may be used again."""
        close_parts(self._pollers.values())

    async def aclose(self) -> None:
        """Close the pollers that can be closed, both their sides."""
        await aclose_parts(self._pollers.values())

    def _now_s(self) -> float:
        return self._clock.monotonic_s()

    def _ask(self, job: VideoJob, timeout_s: float, side: Callable[[Poller], Poll]) -> Flow[Observation]:
        began_s = self._now_s()
        route = yield from self._find(job)
        if not isinstance(route, _Route):
            return route
        if wait_s := self.brakes.held_s(route.account) or self.brakes.enter(route.account):
            return NotAsked(wait_s)
        asked_s = self._now_s()
        try:
            left_s = max(SHORTEST_POLL_S, timeout_s - (asked_s - began_s))
            observation = cast("Observation", (yield from do(side(route.poller), job, timeout_s=left_s)))
        finally:
            self.brakes.leave(route.account, asked_s)
        strategy = self._strategies.get(route.name) or USUAL
        self.brakes.note(route.account, asked_s, observation, strategy)
        return observation

    def _download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, timeout_s: float, *sides: str
    ) -> Flow[Downloaded | Observation]:
        route = yield from self._find(job)
        if not isinstance(route, _Route):
            return route
        there = (getattr(route.poller, side, None) for side in sides)
        download = next((one for one in there if callable(one)), None)
        if download is None:
            return VideoFailed(own(f"the poller of {shown_name(route.name)} cannot open what only its API's key opens"))
        return cast("Downloaded | Observation", (yield from do(download, job, place, file, timeout_s=timeout_s)))

    def _find(self, job: VideoJob) -> Flow[_Route | Observation]:
        """Return where a job is asked for and with which key; or what it comes to that it can be asked for nowhere."""
        try:
            name = self._name_of(job)
        except Exception as error:  # noqa: BLE001 - a host's function may raise anything
            return _untold("by", error)
        if name is not None and not isinstance(name, str):
            return Fault(FaultKind.INTERNAL, own(f"RoutingPoller.by gave {type(name).__name__}, and no name"))
        poller = None if name is None else self._pollers.get(name)
        if name is None or poller is None:
            of = "no video API" if name is None else f"the video API {shown_name(name)}"
            told = own(f"the job names {of}; this worker has {self._known}")
            return VideoFailed(told, reason=FailureReason.NOT_CONFIGURED)
        if self._credentials is None:
            return _Route(name, poller, self._accounts[name])
        try:
            key = yield from do(self._credentials, job)
            if key is not None:
                poller = cast("_Keyed", poller).with_key(key)
        except Exception as error:  # noqa: BLE001 - as above
            return _untold("credentials", error)
        return _Route(name, poller, self._accounts[name] if key is None else api_account(name, key))

    def _name_of(self, job: VideoJob) -> str | None:
        found = job.metadata.get(self._by) if isinstance(self._by, str) else self._by(job)
        # A field may hold anything; only a text names an API.
        if isinstance(self._by, str) and not isinstance(found, str):
            found = None
        return cast("str | None", found) or self._default

    @property
    def _known(self) -> str:
        return ", ".join(sorted(self._pollers))


Poll: TypeAlias = "Callable[..., Observation | Awaitable[Observation]]"

USUAL = PollingStrategy()
"""It bounds the pauses of APIs that have no strategy of their own."""


class _Keyed(Protocol):
    def with_key(self, key: str) -> Poller: ...


@attrs.frozen
class _Route:
    name: str
    poller: Poller
    account: str


def _own_account(poller: Poller) -> str | None:
    account = getattr(poller, "account", None)
    return account if isinstance(account, str) else None


def _poll_of(poller: Poller) -> Poll:
    return poller.poll


def _apoll_of(poller: Poller) -> Poll:
    own_side: Poll | None = getattr(poller, "apoll", None)
    return poller.poll if own_side is None else own_side


async def _acall(effect: Call) -> object:
    """Carry out a call under asyncio: a plain function's in a thread."""
    found = effect() if is_async(effect) else await in_thread(effect)
    return await found if inspect.isawaitable(found) else found


def _untold(function: str, error: Exception) -> Fault:
    reason = quoting(f"RoutingPoller.{function} raised {type(error).__name__}", redact(bounded_detail(error)))
    return Fault(FaultKind.INTERNAL, reason)


def _checked(name: object, poller: Poller | ApiDescription, *, keyless: bool) -> Poller:
    """Return the poller of a name; one is made for a description.

    Raises:
        ConfigurationError: It is none, or cannot take keys though it has to.
    """
    if not isinstance(name, str) or not name:
        msg = f"RoutingPoller names its pollers by texts, got {type(name).__name__}"
        raise ConfigurationError(msg)
    if isinstance(poller, ApiDescription):
        if not keyless:
            msg = f"RoutingPoller needs a key for {name!r}: give it HttpVideoPoller({name.upper()}, api_key=…), or credentials"
            raise ConfigurationError(msg)
        return HttpVideoPoller(poller, api_key=_no_key)
    if isinstance(poller, type) or not callable(getattr(poller, "poll", None)):
        why = "it is a class: build one of it" if isinstance(poller, type) else "it has no method 'poll'"
        msg = f"the poller {name!r} of RoutingPoller is none: {why}"
        raise ConfigurationError(msg)
    if keyless and not callable(getattr(poller, "with_key", None)):
        msg = f"the poller {name!r} of RoutingPoller cannot take a key from credentials: it has no method 'with_key'"
        raise ConfigurationError(msg)
    return poller


def _no_key() -> str:
    msg = "RoutingPoller.credentials gave no key for this job"
    raise ConfigurationError(msg)
