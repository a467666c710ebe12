"""What happens to jobs, as frozen records: one stream for hooks, logs and metrics.

A hook is any callable that takes an event. It is called on the thread or event
loop where the event happened, so it should be quick. A hook that raises is
logged and harms nothing.

Events carry codes and our own words only: what APIs, channels and a host's parts say
in words of their own may hold a prompt, a phone number, a token or a URL. ``videopoll
explain`` and ``videopoll dead show`` have those texts; `show_texts` has events carry them too.
"""

from __future__ import annotations

import abc
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._reasons import show_texts, trace_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.jobs.outcome import MessageForm, OutcomeKind
    from videopoll.observations import FaultKind

__all__ = [
    "ChannelHeldBack",
    "Event",
    "Hook",
    "JobCancelled",
    "JobClaimed",
    "JobConcluded",
    "JobDeadLettered",
    "JobDelivered",
    "JobEnqueued",
    "JobPolled",
    "JobsRecovered",
    "LeaseLost",
    "RedisLost",
    "RedisRegained",
    "SendTried",
    "WorkerStarted",
    "WorkerStopped",
    "show_texts",
]

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Event:
    """Anything that happened.

    Args:
        worker_id: In which worker; empty for what happened at a producer.
    """

    worker_id: str = ""


@attrs.frozen(kw_only=True)
class WorkerStarted(Event):
    """A runner began to claim jobs."""


@attrs.frozen(kw_only=True)
class WorkerStopped(Event):
    """A runner ended; `given_back` jobs were unfinished and handed back."""

    given_back: int = 0


@attrs.frozen(kw_only=True)
class JobsRecovered(Event):
    """Jobs that were in no worker's hands were taken up again."""

    count: int


@attrs.frozen(kw_only=True)
class RedisLost(Event):
    """Redis cannot be used: the worker waits and tries again."""

    reason: str


@attrs.frozen(kw_only=True)
class RedisRegained(Event):
    """Redis can be used again, after `after_s` seconds."""

    after_s: float


@attrs.frozen(kw_only=True)
class JobEnqueued(Event):
    """A producer took a new job in."""

    job_id: str
    conversation_id: str


@attrs.frozen(kw_only=True)
class JobCancelled(Event):
    """A host cancelled a job."""

    job_id: str


@attrs.frozen(kw_only=True)
class JobClaimed(Event):
    """A worker claimed a job for its first poll, or took it over from a dead worker."""

    job_id: str
    taken_over: bool


@attrs.frozen(kw_only=True)
class JobPolled(Event):
    """The video API was asked about a job.

    Args:
        job_id: Which job.
        attempt: Which poll of this job, from 1.
        elapsed_s: Seconds since the job started.
        lag_s: Seconds between the time when the poll was due and its start.
        took_s: Seconds that the poll took.
        status: The API's word, if it looks like one (letters, ``_`` and ``-``, at most 30), or the kind of fault.
        known: Whether the API's word is one that we know.
        fault: The kind of fault, if it was one.
        detail: What happened, if it was a fault, in our words.
        next_s: Seconds until the next poll; None if this was the last.
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


@attrs.frozen(kw_only=True)
class JobConcluded(Event):
    """The waiting for a video ended; its delivery begins."""

    job_id: str
    conversation_id: str
    outcome: OutcomeKind
    elapsed_s: float
    attempts: int
    error: str | None = None


@attrs.frozen(kw_only=True)
class SendTried(Event):
    """A message was handed to its channel, or the channel was asked about one.

    Args:
        job_id: Which job.
        conversation_id: Whose message.
        form: In which form.
        attempt: Which send, from 1.
        result: ``delivered``, ``not_sent``, ``refused``, ``unknown``, or what a look-up found.
        channel: Over which channel of a `RoutingNotifier`.
        took_s: Seconds that it took.
        reason: What happened, if it was no success, in our words.
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
class JobDelivered(Event):
    """A user got the outcome of a job.

    Args:
        job_id: Which job.
        conversation_id: Whose.
        outcome: What they were told.
        form: In which form.
        attempts: Sends that it took.
        after_s: Seconds from the outcome to the delivery.
        channel: Over which channel of a `RoutingNotifier`.
    """

    job_id: str
    conversation_id: str
    outcome: OutcomeKind
    form: MessageForm
    attempts: int
    after_s: float
    channel: str | None = None


@attrs.frozen(kw_only=True)
class JobDeadLettered(Event):
    """Something became a dead letter: an entry that is no job, or an outcome that cannot be delivered."""

    job_id: str
    reason: str
    outcome: OutcomeKind | None = None


@attrs.frozen(kw_only=True)
class ChannelHeldBack(Event):
    """An account of a channel is held back for a while. Told once.

    The channel refused the account, or the fate of message after message is unknown: users may
    have got these, and get them again. Look at what the channel answers.

    Args:
        channel: Which channel of a `RoutingNotifier`; None for one that stands alone.
        messages: So many of them, in a row.
        pause_s: Seconds of the first pause. It doubles while the message after it ends the same.
        refused: Whether the channel refused the account: its credentials, its plan, its instance.
    """

    channel: str | None
    messages: int
    pause_s: float
    refused: bool = False


@attrs.frozen(kw_only=True)
class LeaseLost(Event):
    """Another worker has taken a job over: this one changed nothing, and lets go of it."""

    job_id: str


Hook: TypeAlias = Callable[[Event], None]
"""What a host passes to a runner to hear of events."""


class TextKeeper(abc.ABC):
    """A hook of our own that keeps, beside an event, what others said about it, for who asks for it."""

    @abc.abstractmethod
    def keep(self, event: Event, text: str | None) -> None:
        """Take an event, and the whole text of its reason."""


class Emitter:
    """Gives each event to each hook."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)

    def emit(self, event: Event, text: str | None = None) -> None:
        """Call every hook, whatever the others did; `text` is for what an operator asks for, and no hook gets it."""
        for hook in self._hooks:
            try:
                if isinstance(hook, TextKeeper):
                    hook.keep(event, text)
                else:
                    hook(event)
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
