"""Every error that videopoll raises.

::

    VideopollError
    ├── ConfigurationError (ValueError)     a part was built with values, or used in a place, that cannot work
    ├── InvalidJobError (ValueError)        the call named a job that cannot be accepted
    ├── JobNotFoundError (LookupError)      there is no such job, or it came to nothing
    ├── InvalidGenerationError (ValueError) the call asked for a video that the API cannot make
    ├── QueueError                          Redis
    │   ├── QueueUnavailableError           ... cannot be reached, or is not ready: try again
    │   │   └── PartitionsAwayError         ... of some partitions, and what the others say is there
    │   └── QueueRefusedError               ... answers, and says no: an operator has to act
    ├── BadSignatureError                   what came to an endpoint is not from whom it says
    └── NotifierError                       raised by a notifier to say what became of its message
        ├── NotSentError                    surely nothing was sent: videopoll tries again
        └── RefusedError                    the channel refused this message for good

Which one to expect is part of each method's docstring. Errors never carry a
token, a signed URL, a phone number or a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videopoll.jobs.outcome import MessageForm

__all__ = [
    "BadSignatureError",
    "ConfigurationError",
    "InvalidGenerationError",
    "InvalidJobError",
    "JobNotFoundError",
    "NotSentError",
    "NotifierError",
    "PartitionsAwayError",
    "QueueError",
    "QueueRefusedError",
    "QueueUnavailableError",
    "RefusedError",
    "RunnerError",
    "VideopollError",
]


class VideopollError(Exception):
    """The root of the tree: catch this to catch everything of videopoll."""


class ConfigurationError(VideopollError, ValueError):
    """A part was built with values, or used in a place, that cannot work; the text says what to change."""


class InvalidJobError(VideopollError, ValueError):
    """A job id, conversation id or metadata that cannot be stored; the text says why."""


class InvalidGenerationError(VideopollError, ValueError):
    """A generation was asked for with values that the video API cannot take; the text says which. Nothing was sent."""


class JobNotFoundError(VideopollError, LookupError):
    """There is no job with this id, or what stood under it was none."""


class QueueError(VideopollError):
    """Redis did not do what was asked."""


class QueueUnavailableError(QueueError):
    """Redis cannot be reached, did not answer in time, or is loading or failing over.

    The same call may be made again: enqueueing is idempotent by job id.

    Args:
        text: What happened.
        answered: Whether Redis answered, and said that it cannot do it now: it is
            full, a replica, loading, busy.
    """

    def __init__(self, text: str = "", *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class PartitionsAwayError(QueueUnavailableError):
    """Some partitions of the queue did not answer, or said no; what was asked is known of the others alone.

    Args:
        text: What happened.
        partitions: Which those are, by their numbers from 0.
        known: What those that answered come to: of the type that the call returns.
        refused: Whether one of them said no, so that waiting does not cure it.
    """

    def __init__(
        self, text: str = "", *, partitions: tuple[int, ...] = (), known: object = None, refused: bool = False
    ) -> None:
        super().__init__(text)
        self.refused: bool = refused
        self.partitions: tuple[int, ...] = partitions
        self.known: object = known


class QueueRefusedError(QueueError):
    """Redis answered with an error that waiting does not cure (permissions, wrong type, version).

    Args:
        text: What happened.
        about_data: Whether it is about the data of the jobs in question, and not about Redis.
    """

    def __init__(self, text: str = "", *, about_data: bool = False) -> None:
        super().__init__(text)
        self.about_data = about_data


class RunnerError(VideopollError, RuntimeError):
    """A runner cannot do this now: it is running already, or has not ended in time; the text says what to do."""


class BadSignatureError(VideopollError):
    """A request to an endpoint of the host bears no signature of the channel it claims to come from.

    Nothing in it was looked at. Answer it with 401, and raise no alarm: anybody can send such requests.
    """


class NotifierError(VideopollError):
    """Raised by a notifier to say what became of its message.

    Any other exception out of a notifier means that nobody knows whether the
    message went out.
    """


class NotSentError(NotifierError):
    """Surely nothing was sent (refused connection, rate limit): try again later.

    Args:
        reason: What happened, for the operator. No secrets.
        retry_after_s: How long the channel asked to wait, in seconds.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class RefusedError(NotifierError):
    """The channel refused this message for good (bad number, bad token, unsupported file).

    Args:
        reason: What the channel said, for the operator. No secrets.
        try_text: Whether the same words as a text with a link may still go through.
        then: The form to try next; see `videopoll.messages.Refused`.
    """

    def __init__(self, reason: str, *, try_text: bool = True, then: MessageForm | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.try_text = try_text
        self.then = then
