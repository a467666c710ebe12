"""The parts that a host composes, as protocols.

Each comes as a pair: one for threads, one for asyncio. The poller and the
notifiers of videopoll satisfy both (their asyncio methods begin with ``a``), so
one composition runs under either runner.

A part may have more abilities than its one method: `MessageLookup` of a notifier,
`VideoDownload` of a poller. They are found by their methods.

A part of your own needs one side only. `videopoll.AsyncRunner` takes both, and
runs sync parts in a bounded pool of threads; `videopoll.Runner` takes sync parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict, Unpack, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from videopoll.errors import QueueError
    from videopoll.events import Event
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import ClaimBatch, Transition, TransitionResult
    from videopoll.jobs.video import BucketObject, LockedLink, PublicLink, VideoFile
    from videopoll.jobs.views import EnqueueResult, Health, JobView
    from videopoll.messages import LookupAnswer, Message, Receipt
    from videopoll.observations import Downloaded, Fault, Observation, VideoFailed, VideoMissing
    from videopoll.policies import KeyTtls, LeasePolicy, PollingStrategy

__all__ = [
    "AsyncNotifier",
    "AsyncPublisher",
    "AsyncVideoDownload",
    "AsyncVideoJobQueue",
    "AsyncVideoPoller",
    "ClaimOptions",
    "Notifier",
    "OwnStrategies",
    "Publisher",
    "RecoverOptions",
    "RunnerHistory",
    "RunnerStatus",
    "VideoDownload",
    "VideoJobQueue",
    "VideoPoller",
    "VideoSink",
]


class VideoPoller(Protocol):
    """Polls a video API for one job."""

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Return what the API answers about the job, within `timeout_s` seconds.

        An exception counts as a passing fault (`FaultKind.INTERNAL`), and so does anything that is
        not an observation. Observations convert their values: a URL may be an object of an HTTP
        library, `retry_after_s` the string "60". A URL that must not be delivered ends the job as failed.
        """
        ...


class AsyncVideoPoller(Protocol):
    """The asyncio side of `VideoPoller`."""

    async def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Return what the API answers about the job, within `timeout_s` seconds."""
        ...


class OwnStrategies(Protocol):
    """An optional part of a poller of several video APIs: each job has the strategy of its own."""

    @property
    def strategies(self) -> tuple[PollingStrategy, ...]:
        """All that there are."""
        ...

    def strategy_of(self, job: VideoJob) -> PollingStrategy | None:
        """Return the one of a job, or None for the runner's. It must not wait for anything."""
        ...


class Notifier(Protocol):
    """Sends messages to users over one channel."""

    def notify(self, message: Message) -> Receipt | None:
        """Send the message once, in the form it asks for.

        Returns:
            The receipt; None counts as delivered.

        Raises:
            NotSentError: Surely nothing was sent; the worker tries again.
            RefusedError: The channel refused the message for good.
            Exception: Any other exception means that the message may have gone out.
        """
        ...


class AsyncNotifier(Protocol):
    """The asyncio side of `Notifier`."""

    async def notify(self, message: Message) -> Receipt | None:
        """Send the message once, in the form it asks for."""
        ...


@runtime_checkable
class MessageLookup(Protocol):
    """An optional part of a notifier: a channel that can be asked about its messages."""

    def look_up(self, message: Message) -> LookupAnswer:
        """Return whether the channel has the message with this reference.

        Raises:
            Exception: Counts as `LookupResult.NO_ANSWER`.
        """
        ...


@runtime_checkable
class AsyncMessageLookup(Protocol):
    """The asyncio side of `MessageLookup`."""

    async def look_up(self, message: Message) -> LookupAnswer:
        """Return whether the channel has the message with this reference."""
        ...


class VideoSink(Protocol):
    """Where a video is written that is downloaded."""

    @property
    def max_bytes(self) -> int:
        """The most bytes that it takes."""
        ...

    def write(self, data: bytes, /) -> int:
        """Write the next bytes. Returns their number.

        Raises:
            ValueError: They are more than `max_bytes` all in all.
        """
        ...


@runtime_checkable
class VideoDownload(Protocol):
    """An optional part of a poller: it can open what only its API's key opens."""

    def download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | VideoMissing | VideoFailed | Fault:
        """Write the video at `place` to `file`, within `timeout_s` seconds.

        Anything else that is returned, and any exception, counts as a passing fault.

        Args:
            job: Whose video it is.
            place: Where the poller said that it is.
            file: Where to write it.
            timeout_s: Seconds for all of it.

        Returns:
            `Downloaded`, once all of it is written; `VideoMissing` if the API does not know it any
            more; `VideoFailed` if it can never be had; `Fault` if it may be had later.
        """
        ...


@runtime_checkable
class AsyncVideoDownload(Protocol):
    """The asyncio side of `VideoDownload`."""

    async def download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | VideoMissing | VideoFailed | Fault:
        """Write the video at `place` to `file`, within `timeout_s` seconds."""
        ...


class Publisher(Protocol):
    """Puts videos where everybody can fetch them, for those that only the API's key opens."""

    def publish(self, video: VideoFile, *, timeout_s: float) -> PublicLink:
        """Store the video, and return the link to it; within `timeout_s` seconds.

        It may be called again for the same video, with the same name: after a crash, or when the link
        that it gave has ended. An exception counts as a passing fault.

        Args:
            video: The video.
            timeout_s: Seconds for all of it.

        Returns:
            The link, and how long it works (`PublicLink.lives_s`).
        """
        ...


class AsyncPublisher(Protocol):
    """The asyncio side of `Publisher`."""

    async def publish(self, video: VideoFile, *, timeout_s: float) -> PublicLink:
        """Store the video, and return the link to it; within `timeout_s` seconds."""
        ...


class ClaimOptions(TypedDict):
    """How much a worker claims, and on what terms.

    Args:
        polls: The most jobs to lease for a poll.
        sends: The most jobs to lease for a delivery.
        strategy: The polling strategy: it says which jobs are overdue.
        lease: How long the leases last.
        foreign_workers: Whether workers of another kind share the queue; False by default.
        endings: The most overdue jobs to lease beyond `polls`: those that should have
            ended an interval ago are ended without a poll. None by default.
        look_from: The rank among the due jobs from which to look for overdue ones; 0 by default.
        take_new: Whether to lease jobs that were never polled; True by default.
        take_over: Whether to lease jobs whose lease has expired; True by default. False while
            their holders may still be running.
        in_hand: The ids of jobs that this worker still works on: it never takes
            over from itself.
        asked_ms: What the queue's clock should say, in Unix milliseconds. If it is more
            than `lease.renew_every_s` off, the queue stood still or its clock stepped,
            and the claim takes nothing over. None by default: it goes by the queue's clock alone.
    """

    polls: int
    sends: int
    strategy: PollingStrategy
    lease: LeasePolicy
    foreign_workers: NotRequired[bool]
    endings: NotRequired[int]
    look_from: NotRequired[int]
    take_new: NotRequired[bool]
    take_over: NotRequired[bool]
    in_hand: NotRequired[Collection[str]]
    asked_ms: NotRequired[int | None]


class RecoverOptions(TypedDict):
    """Which jobs count as lost, and how often somebody looks for them.

    Args:
        idle_s: A job counts as lost after this many seconds without a poll.
        initial_delay_s: Seconds from a job's start to its first poll; 5 by default.
        exclusive: Whether only one worker may do this in `every_s` seconds; False by default.
        every_s: See `exclusive`; 30 by default.
    """

    idle_s: float
    initial_delay_s: NotRequired[float]
    exclusive: NotRequired[bool]
    every_s: NotRequired[float]


class _KeepsRecords(Protocol):
    @property
    def ttls(self) -> KeyTtls:
        """How long records are kept."""
        ...


class VideoJobQueue(_KeepsRecords, Protocol):
    """Stores jobs and their outcomes until they are settled.

    Producers use `enqueue` and `get`; the other methods are for runners. Every write
    after a claim compares the claim's token: a worker that lost its lease changes nothing.
    """

    def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Add a job. The same id twice is one job."""
        ...

    def get(self, job_id: str) -> JobView | None:
        """Return the state of a job, or None if the queue does not know it."""
        ...

    def claim(self, *, worker_id: str, **wanted: Unpack[ClaimOptions]) -> ClaimBatch:
        """Lease due jobs in one atomic step.

        Args:
            worker_id: The name of the worker.
            **wanted: How much is wanted, and on what terms.

        Returns:
            The claims, and the queue's time.
        """
        ...

    def apply(self, transitions: Sequence[Transition]) -> Sequence[TransitionResult | QueueError]:
        """Write transitions of claimed jobs, each only if its lease is still held.

        Returns:
            A result for each. An error in its place has this one tried again, while the others go on:
            for a queue of which only a part is away.
        """
        ...

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Sequence[bool | None]:
        """Renew leases, given as (job id, token, is polling). Returns False for each that is lost, None if that is not known."""
        ...

    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until the queue has an id, for at most `timeout_s` seconds. Returns True if there may be work."""
        ...

    def interrupt(self) -> None:
        """Wake a `wait_for_work` in another thread. It does not block again before `resume`."""
        ...

    def resume(self) -> None:
        """Allow `wait_for_work` to block again after an `interrupt`."""
        ...

    def recover(self, **wanted: Unpack[RecoverOptions]) -> int:
        """Enqueue jobs again that have a record and are in no queue. Returns their number."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncVideoJobQueue(_KeepsRecords, Protocol):
    """The asyncio side of `VideoJobQueue`."""

    async def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Add a job. The same id twice is one job."""
        ...

    async def get(self, job_id: str) -> JobView | None:
        """Return the state of a job, or None if the queue does not know it."""
        ...

    async def claim(self, *, worker_id: str, **wanted: Unpack[ClaimOptions]) -> ClaimBatch:
        """Lease due jobs in one atomic step; see `VideoJobQueue.claim`."""
        ...

    async def apply(self, transitions: Sequence[Transition]) -> Sequence[TransitionResult | QueueError]:
        """Write transitions of claimed jobs, each only if its lease is still held.

        Returns:
            A result for each. An error in its place has this one tried again, while the others go on:
            for a queue of which only a part is away.
        """
        ...

    async def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Sequence[bool | None]:
        """Renew leases, given as (job id, token, is polling). Returns False for each that is lost, None if that is not known."""
        ...

    async def wait_for_work(self, timeout_s: float) -> bool:
        """Wait until the queue has an id, for at most `timeout_s` seconds. May be cancelled."""
        ...

    async def recover(self, **wanted: Unpack[RecoverOptions]) -> int:
        """Enqueue jobs again that have a record and are in no queue. Returns their number."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class RunnerHistory(Protocol):
    """Keeps what a runner tells, and that it is alive, for operators.

    A queue that has a method ``open_history()`` is asked for one at the start of a
    run; it may return None. `videopoll.queue.history.RedisHistory` is one.
    """

    def __call__(self, event: Event) -> None:
        """Take an event."""
        ...

    def follow(
        self, runner: RunnerStatus, *, video_api: str | None = None, video_apis: Mapping[str, str] | None = None
    ) -> None:
        """Report from time to time that this runner is alive, and which video APIs it polls, until `close`.

        Only those are handed in that the runner's poller tells: the one, or several by their names.
        """
        ...

    def close(self, patience_s: float) -> bool:
        """End it; return whether that is done within so many seconds. May be called again."""
        ...


class RunnerStatus(Protocol):
    """What a runner tells of itself, for heartbeats and health probes. Both runners have it."""

    @property
    def worker_id(self) -> str:
        """The name of this worker in Redis, in the log and in events."""
        ...

    @property
    def concurrency(self) -> int:
        """Polls at a time, at most."""
        ...

    @property
    def polls_in_hand(self) -> int:
        """Jobs that are being polled now."""
        ...

    @property
    def sends_in_hand(self) -> int:
        """Jobs whose outcome is being sent now."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop, and has not ended yet."""
        ...

    def health(self) -> Health:
        """Return whether the worker is fit, and what is wrong with it."""
        ...
