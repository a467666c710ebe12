"""The parts that a host composes, as protocols.

Each comes as a pair: one for threads, one for asyncio. The poller and the
notifiers that ship with videopoll satisfy both sides (their asyncio method has
an ``a`` in front), so that one composition runs under either runner.

A host's own part needs one side only. `videopoll.AsyncRunner` takes both (it
runs sync parts in a bounded pool of threads); `videopoll.Runner` takes the sync
side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import ClaimBatch, Transition, TransitionResult
    from videopoll.jobs.views import EnqueueResult, JobView
    from videopoll.messages import LookupResult, Message, Receipt
    from videopoll.observations import Observation
    from videopoll.policies import KeyTtls, LeasePolicy, PollingStrategy

__all__ = [
    "AsyncNotifier",
    "AsyncVideoJobQueue",
    "AsyncVideoPoller",
    "Notifier",
    "VideoJobQueue",
    "VideoPoller",
]


class VideoPoller(Protocol):
    """Asks a video API about one job."""

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask once, and answer within `timeout_s` seconds.

        An exception counts as a passing fault (`FaultKind.INTERNAL`), and so does whatever is no
        observation. The values of one are converted where it is built: a URL may be an object that says
        it, a hint the string "60"; NaN is no hint. A link that must not go out ends the job as failed.
        """
        ...


class AsyncVideoPoller(Protocol):
    """The asyncio side of `VideoPoller`."""

    async def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask once, and answer within `timeout_s` seconds."""
        ...


class Notifier(Protocol):
    """Brings one message to one user over one channel."""

    def notify(self, message: Message) -> Receipt | None:
        """Send the message once, in the form it asks for.

        Returns:
            What became of it; None counts as delivered.

        Raises:
            NotSentError: Surely nothing was sent; it will be tried again.
            RefusedError: The channel refused it for good.
            Exception: Anything else means that the message may or may not have gone out.
        """
        ...


class AsyncNotifier(Protocol):
    """The asyncio side of `Notifier`."""

    async def notify(self, message: Message) -> Receipt | None:
        """Send the message once, in the form it asks for."""
        ...


@runtime_checkable
class MessageFinder(Protocol):
    """An optional part of a notifier: a channel that can be asked about its messages."""

    def find(self, message: Message) -> LookupResult:
        """Say whether the channel has the message with this reference.

        Raises:
            Exception: Counts as `LookupResult.NO_ANSWER`.
        """
        ...


@runtime_checkable
class AsyncMessageFinder(Protocol):
    """The asyncio side of `MessageFinder`."""

    async def find(self, message: Message) -> LookupResult:
        """Say whether the channel has the message with this reference."""
        ...


class VideoJobQueue(Protocol):
    """Keeps jobs and their outcomes until they are settled.

    Producers use `enqueue`, `cancel` and `get`. The rest is for runners.
    Everything after a claim compares the claim's token: a worker that lost its
    lease changes nothing.
    """

    @property
    def ttls(self) -> KeyTtls:
        """How long records live."""
        ...

    def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Take a job in; the same id twice is one job."""
        ...

    def get(self, job_id: str) -> JobView | None:
        """Look a job up."""
        ...

    def claim(
        self,
        *,
        polls: int,
        sends: int,
        worker_id: str,
        strategy: PollingStrategy,
        lease: LeasePolicy,
        foreign_workers: bool = False,
        endings: int = 0,
        look_from: int = 0,
        take_new: bool = True,
        take_over: bool = True,
        in_hand: Collection[str] = (),
        asked_ms: int | None = None,
    ) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step, and at most so many jobs to be ended.

        With `endings`, a bounded number of jobs beyond the polls is looked at, from
        the rank `look_from` of those that are due: what should have ended an interval
        ago is leased to be ended without a poll. Whatever is seen lives on. Without
        `take_new`, ids in the list are left to others.

        With `take_over` off, jobs whose lease has ended are left to others: their
        holders may live. Those that are `in_hand`, as this worker still works on
        them, it never takes over from itself. `asked_ms` is what the queue's clock
        should say, in Unix milliseconds: a claim that is carried out more than
        `lease.renew_every_s` sooner or later by that clock takes nothing over, as
        the queue stood still, or its clock has stepped.
        """
        ...

    def apply(self, transitions: Sequence[Transition]) -> list[TransitionResult]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held."""
        ...

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> list[bool]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one."""
        ...

    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id may wait to be taken, at most so many seconds; say whether there may be one."""
        ...

    def interrupt(self) -> None:
        """Wake a `wait_for_work` in another thread, and let it not block any more."""
        ...

    def resume(self) -> None:
        """Let `wait_for_work` block again after an `interrupt`."""
        ...

    def recover(
        self, *, idle_s: float, initial_delay_s: float = 5.0, exclusive: bool = False, every_s: float = 30.0
    ) -> int:
        """Take up jobs that have a record and are nowhere else; return their number.

        With `exclusive`, one worker alone does so in `every_s` seconds.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class AsyncVideoJobQueue(Protocol):
    """The asyncio side of `VideoJobQueue`."""

    @property
    def ttls(self) -> KeyTtls:
        """How long records live."""
        ...

    async def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Take a job in; the same id twice is one job."""
        ...

    async def get(self, job_id: str) -> JobView | None:
        """Look a job up."""
        ...

    async def claim(
        self,
        *,
        polls: int,
        sends: int,
        worker_id: str,
        strategy: PollingStrategy,
        lease: LeasePolicy,
        foreign_workers: bool = False,
        endings: int = 0,
        look_from: int = 0,
        take_new: bool = True,
        take_over: bool = True,
        in_hand: Collection[str] = (),
        asked_ms: int | None = None,
    ) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step; see `VideoJobQueue.claim`."""
        ...

    async def apply(self, transitions: Sequence[Transition]) -> list[TransitionResult]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held."""
        ...

    async def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> list[bool]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one."""
        ...

    async def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id may wait to be taken, at most so many seconds; may be cancelled."""
        ...

    async def recover(
        self, *, idle_s: float, initial_delay_s: float = 5.0, exclusive: bool = False, every_s: float = 30.0
    ) -> int:
        """Take up jobs that have a record and are nowhere else; return their number.

        With `exclusive`, one worker alone does so in `every_s` seconds.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
