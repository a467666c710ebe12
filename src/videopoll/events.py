"""What happens to jobs, as frozen records: one stream for hooks, logs and metrics.

A hook is any callable that takes an event. It is called on the thread or event
loop where the event happened, so it should be quick. An exception in a hook is
logged, and the worker goes on.

Events carry codes and our own texts only: a text from an API, a channel or a host's
part may hold a prompt, a phone number, a token or a URL. ``videopoll explain`` and
``videopoll dead show`` print those texts; after `show_texts` events carry them, too.
The URL of a video is in no event, but for a hook that asks for it: see `with_outcome`.
"""

from __future__ import annotations

import abc
import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._reasons import show_texts, trace_of
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_callable, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.jobs.outcome import MessageForm, Outcome, OutcomeKind
    from videopoll.jobs.video import FailureReason
    from videopoll.observations import FaultKind

__all__ = [
    "AccountHeldBack",
    "CallbackReceived",
    "ChannelHeldBack",
    "Event",
    "Hook",
    "JobAccepted",
    "JobCancelled",
    "JobClaimed",
    "JobConcluded",
    "JobDeadLettered",
    "JobDelivered",
    "JobEnqueued",
    "JobPolled",
    "JobsRecovered",
    "LeaseLost",
    "LinkTried",
    "ReceiptReceived",
    "RedisLost",
    "RedisRegained",
    "SendTried",
    "WorkerStarted",
    "WorkerStopped",
    "show_texts",
    "with_outcome",
]

log: logging.Logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Event:
    """The base of all events.

    Args:
        worker_id: The worker; empty for an event of a producer.
    """

    worker_id: str = ""


@attrs.frozen(kw_only=True)
class WorkerStarted(Event):
    """A runner began to claim jobs."""


@attrs.frozen(kw_only=True)
class WorkerStopped(Event):
    """A runner stopped and released `given_back` unfinished jobs."""

    given_back: int = 0


@attrs.frozen(kw_only=True)
class JobsRecovered(Event):
    """A worker enqueued `count` jobs again that had a record and were in no queue."""

    count: int


@attrs.frozen(kw_only=True)
class RedisLost(Event):
    """Redis does not answer, or refuses commands. The worker waits and tries again."""

    reason: str


@attrs.frozen(kw_only=True)
class RedisRegained(Event):
    """Redis answers again, after `after_s` seconds."""

    after_s: float


@attrs.frozen(kw_only=True)
class JobEnqueued(Event):
    """A producer enqueued a new job."""

    job_id: str
    conversation_id: str


@attrs.frozen(kw_only=True)
class CallbackReceived(Event):
    """A video API called back, or somebody in its name.

    Args:
        provider: The name of the API's description.
        result: What came of it: ``rung``, ``nothing``, ``working`` or ``refused``. See `videopoll.video_api.RingResult`.
        job_id: The job whose next poll is due now; None if there is none.
        reason: Why it was refused; None if it was not.
    """

    provider: str
    result: str
    job_id: str | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class JobCancelled(Event):
    """A producer cancelled a job."""

    job_id: str


@attrs.frozen(kw_only=True)
class JobClaimed(Event):
    """A worker claimed a job for its first poll, or took it over from a dead worker."""

    job_id: str
    taken_over: bool


@attrs.frozen(kw_only=True)
class JobPolled(Event):
    """A worker polled the video API for a job.

    Args:
        job_id: The job.
        attempt: The number of this poll, from 1.
        elapsed_s: Seconds since the job started.
        lag_s: Seconds by which the poll began late.
        took_s: Seconds that the poll took.
        status: The API's status word, if it looks like one (letters, ``_`` and ``-``, at most 30), or the kind of fault.
        known: Whether videopoll knows that status word.
        fault: The kind of fault; None if the API answered.
        detail: Our description of the fault; None if the API answered.
        next_s: Seconds until the next poll; None if this was the last.
        progress: How much of the video is done, from 0 to 1, if the API told.
        queue_position: Its place in the API's own queue, if the API told; 0 is the next.
        provider: The video API that the job's metadata name, if the name is a plain one.
    """

    job_id: str
    attempt: int
    elapsed_s: float
    lag_s: float
    took_s: float
    status: str
    known: bool = True
    fault: FaultKind | None = None
    detail: str | None = None
    next_s: float | None = None
    progress: float | None = None
    queue_position: int | None = None
    provider: str | None = None


@attrs.frozen(kw_only=True)
class JobConcluded(Event):
    """The polling of a job ended; its delivery begins.

    Args:
        job_id: The job.
        conversation_id: The user.
        outcome: How it ended.
        elapsed_s: Seconds since the job started.
        attempts: Polls that it took.
        error: Our description of the failure; None for a video.
        reason: Why there is no video, if the API told; None for a video, or if nobody knows.
        full_outcome: The outcome with the video's URL, its file's id and all assets, for a hook that
            was made by `with_outcome`; None for all others. Kept out of ``repr``.
    """

    job_id: str
    conversation_id: str
    outcome: OutcomeKind
    elapsed_s: float
    attempts: int
    error: str | None = None
    reason: FailureReason | None = None
    full_outcome: Outcome | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class SendTried(Event):
    """A worker sent a message, looked an earlier one up at its channel, or heard from a receipt that it failed.

    Args:
        job_id: The job.
        conversation_id: The user.
        form: The form of the message.
        attempt: The number of the send, from 1.
        result: ``delivered``, ``accepted`` (a receipt will tell), ``waits`` (for its turn, or for
            an account that is held back), ``not_sent``, ``refused``, ``unknown``, the value of a
            `LookupResult`, or ``repeat_safe``.
        channel: The channel of a `RoutingNotifier`.
        took_s: Seconds that it took.
        reason: Our description of the failure; None for a success.
    """

    job_id: str
    conversation_id: str
    form: MessageForm
    attempt: int
    result: str
    took_s: float
    reason: str | None = None
    channel: str | None = None


@attrs.frozen(kw_only=True)
class LinkTried(Event):
    """A worker tried to get a link for a message: it asked the video API for a fresh one, or published the video.

    Args:
        job_id: The job.
        conversation_id: The user.
        how: ``renewed`` or ``published``.
        result: ``ok``; ``kept`` if the old link still lives and is sent; ``later`` if it is tried
            again; ``none`` if there is no video any more.
        took_s: Seconds that it took.
        reason: Our description of the failure; None for a success.
    """

    job_id: str
    conversation_id: str
    how: str
    result: str
    took_s: float
    reason: str | None = None


@attrs.frozen(kw_only=True)
class JobAccepted(Event):
    """A channel accepted the message about a job, and will tell by a receipt whether the user gets it.

    Args:
        job_id: The job.
        conversation_id: The user.
        outcome: The outcome that the message is about.
        form: The form of the message.
        attempts: Sends that it took.
        after_s: Seconds from the outcome to the acceptance.
        channel: The channel of a `RoutingNotifier`.
    """

    job_id: str
    conversation_id: str
    outcome: OutcomeKind
    form: MessageForm
    attempts: int
    after_s: float
    channel: str | None = None


@attrs.frozen(kw_only=True)
class ReceiptReceived(Event):
    """A channel told what became of a message that it had accepted. One that changes nothing is not reported.

    Args:
        job_id: The job.
        conversation_id: The user.
        kind: ``delivered``, ``read``, or ``failed``: then the delivery goes on.
        form: The form of the message.
        after_s: Seconds from the acceptance to the receipt.
        reason: Our description of the failure; None for a success.
        channel: The channel of a `RoutingNotifier`.
    """

    job_id: str
    conversation_id: str
    kind: str
    form: MessageForm
    after_s: float
    reason: str | None = None
    channel: str | None = None


@attrs.frozen(kw_only=True)
class JobDelivered(Event):
    """The user has the message about a job: the channel accepted it, or told so by a receipt where it sends receipts.

    Args:
        job_id: The job.
        conversation_id: The user.
        outcome: The outcome that the message is about.
        form: The form of the message.
        attempts: Sends that it took.
        after_s: Seconds from the outcome to the delivery.
        channel: The channel of a `RoutingNotifier`.
        full_outcome: The outcome as it was sent, with the URL that the user has, for a hook that was
            made by `with_outcome`; None for all others. Kept out of ``repr``.
    """

    job_id: str
    conversation_id: str
    outcome: OutcomeKind
    form: MessageForm
    attempts: int
    after_s: float
    channel: str | None = None
    full_outcome: Outcome | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class JobDeadLettered(Event):
    """A job became a dead letter: its data cannot be read, or its outcome cannot be delivered.

    Args:
        job_id: The job.
        reason: Our description of what is wrong.
        outcome: The outcome that cannot be delivered; None if the data cannot be read.
    """

    job_id: str
    reason: str
    outcome: OutcomeKind | None = None


@attrs.frozen(kw_only=True)
class ChannelHeldBack(Event):
    """A worker holds back all messages of one account of a channel for a while. Emitted once.

    The channel refused the account, or it is unknown of several messages in a row whether
    they went out: users may have them, and may get them again. Check the channel.

    Args:
        channel: The channel of a `RoutingNotifier`; None without one.
        messages: The number of messages in a row that led to this.
        pause_s: Seconds of the first pause. It doubles each time the next message ends the same way.
        refused: Whether the channel refused the account: its credentials, its plan, its instance.
    """

    channel: str | None
    messages: int
    pause_s: float
    refused: bool = False


@attrs.frozen(kw_only=True)
class AccountHeldBack(Event):
    """A worker leaves an account of a video API alone for a while, as the API answered 429.

    Each worker emits it: the one that was told, and the others when they learn of it.
    Once for a pause, and again if it is made longer.

    Args:
        account: The API and a hash of the key.
        pause_s: For how many seconds.
        learnt: Whether another worker was told.
    """

    account: str
    pause_s: float
    learnt: bool = False


@attrs.frozen(kw_only=True)
class LeaseLost(Event):
    """Another worker has taken a job over. This worker changed nothing and drops it."""

    job_id: str


Hook: TypeAlias = Callable[[Event], None]
"""A function of the host that gets every event of a runner."""


def with_outcome(hook: Hook) -> Hook:
    """Return a hook that gets `JobConcluded` and `JobDelivered` with their `full_outcome`, and so with the video's URL.

    For a host that stores, shows or passes on the URL, e.g. ``hooks=[with_outcome(store)]``. Other hooks,
    the log, the metrics and the history do not get it. A hook is called once, and an exception in it
    changes nothing: what must not be lost is stored by a `videopoll.notifiers.TeeNotifier`.

    Raises:
        ConfigurationError: The hook cannot be called, or would have to be awaited.
    """
    _check_hook(hook)
    return _WithOutcome(hook)


@attrs.frozen(eq=False)
class _WithOutcome:
    """A hook that may see the whole of an outcome."""

    hook: Hook

    def __call__(self, event: Event) -> None:
        self.hook(event)


class TextKeeper(abc.ABC):
    """A hook of videopoll that stores the whole text of an event's reason, for an operator who asks for it."""

    @abc.abstractmethod
    def keep(self, event: Event, text: str | None) -> None:
        """Store an event, and the whole text of its reason."""


def _check_hook(hook: object) -> None:
    check_callable(hook, "a hook", "an event")
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004 - not whether it can be called
        msg = "a hook must not be async, as it is called where the event happens: have it put the event into a queue"
        raise ConfigurationError(msg)


class _Called:
    """A hook, and how it is called: looked at once, and not at every event."""

    __slots__ = ("hook", "keep", "with_outcome")

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.keep = hook.keep if isinstance(hook, TextKeeper) else None
        self.with_outcome = isinstance(hook, _WithOutcome)


class Emitter:
    """Calls every hook with every event.

    Args:
        first: A hook of our own.
        hooks: Those of the host.

    Raises:
        ConfigurationError: One of them cannot be called, or would have to be awaited.
    """

    def __init__(self, first: Hook, hooks: Iterable[Hook]) -> None:
        self._hooks: tuple[_Called, ...] = (_Called(first),)
        for hook in listed(hooks, "hooks", "functions of an event"):
            self.add(hook)

    def add(self, hook: Hook) -> None:
        """Call this hook, too, from the next event on.

        Raises:
            ConfigurationError: It cannot be called, or would have to be awaited.
        """
        _check_hook(hook)
        # A new tuple: another thread may be going through the old one.
        self._hooks = (*self._hooks, _Called(hook))

    def remove(self, hook: Hook) -> None:
        """Call this hook no more."""
        self._hooks = tuple(one for one in self._hooks if one.hook is not hook)

    @property
    def keeps_history(self) -> bool:
        """Whether one of the hooks is a `TextKeeper`."""
        return any(one.keep is not None for one in self._hooks)

    def emit(self, event: Event, text: str | None = None, outcome: Outcome | None = None) -> None:
        """Call every hook, also after one that raised.

        Args:
            event: The event.
            text: The whole text of its reason. Only a `TextKeeper` gets it.
            outcome: What ended. Only a hook of `with_outcome` gets it.
        """
        for one in self._hooks:
            try:
                if one.keep is not None:
                    one.keep(event, text)
                elif one.with_outcome and isinstance(event, JobConcluded | JobDelivered):
                    one.hook(attrs.evolve(event, full_outcome=outcome))
                else:
                    one.hook(event)
            except KeyboardInterrupt:
                # Ctrl-C came while the hook ran: it is meant for the process.
                raise
            except BaseException as error:  # noqa: BLE001
                # Not only an Exception: a hook that raises SystemExit must not end the thread that it was called on.
                # Nor must a host's logging: what raises here after a send would have the message sent again.
                with contextlib.suppress(Exception):
                    log.error(  # noqa: TRY400 - the error's text is not ours
                        "An event hook failed on %s; the worker goes on\n%s", type(event).__name__, trace_of(error)
                    )
