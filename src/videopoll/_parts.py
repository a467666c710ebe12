"""A host's parts as a runner meets them: of which kind they are, and what comes back from them.

Whatever a poller or a notifier gives or raises becomes a value here, so that a
mistake of a host's costs a back-off, and not the worker.
"""

from __future__ import annotations

import asyncio
import inspect
import logging

from videopoll._bounds import bounded_detail
from videopoll._reasons import Reason, own, quoting, trace_of
from videopoll._urls import readied_url
from videopoll.messages import Delivered, NotSent, Receipt, Unknown
from videopoll.notifiers.base import receipt_for_error, redact
from videopoll.observations import Fault, FaultKind, Observation, VideoReady, checked_video

__all__ = [
    "as_observation",
    "as_receipt",
    "is_async",
    "notifier_failed",
    "poller_failed",
    "refuse_async",
    "trace_of",
    "was_cancelled",
]

log = logging.getLogger(__name__)


def is_async(part: object, method: str) -> bool:
    """Whether `part`'s method has to be awaited."""
    return inspect.iscoroutinefunction(getattr(part, method, None))


def refuse_async(part: object, method: str, name: str) -> None:
    """Refuse an asyncio part in the threaded runner.

    Raises:
        TypeError: It has to be awaited; the text names `AsyncRunner`.
    """
    if not callable(getattr(part, method, None)):
        msg = f"the {name} must have a method {method}(), got {type(part).__name__}"
        raise TypeError(msg)
    if is_async(part, method) or getattr(part, "async_only", False):
        msg = f"{type(part).__name__} is an asyncio {name}: Runner works with threads, use AsyncRunner for it"
        raise TypeError(msg)


def as_observation(value: object) -> Observation:
    """Check what a poller gave back; a video's URL that must not be handed on becomes what it comes to."""
    if isinstance(value, VideoReady):
        # Most of the time it is ours, and checked already.
        if readied_url(value.video_url) == value.video_url:
            return value
        return checked_video(value.video_url, file_id=value.file_id, timestamp=value.timestamp)
    if isinstance(value, Observation):
        return value
    if inspect.iscoroutine(value):
        value.close()
        return Fault(FaultKind.INTERNAL, own("the poller returned a coroutine: use AsyncRunner for asyncio pollers"))
    return Fault(FaultKind.INTERNAL, own(f"the poller returned {type(value).__name__}, which is no Observation"))


def poller_failed(error: BaseException) -> Fault:
    """Make a fault of an exception out of a poller."""
    log.error("The poller raised an exception; it counts as a passing fault\n%s", trace_of(error))
    return Fault(FaultKind.INTERNAL, _quoting(f"the poller raised {type(error).__name__}", error))


def as_receipt(value: object) -> Receipt:
    """Check what a notifier gave back; None counts as delivered."""
    if value is None:
        return Delivered()
    if isinstance(value, Receipt):
        return value
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        return NotSent(own("the notifier returned an awaitable: use AsyncRunner for asyncio notifiers"))
    return Unknown(own(f"the notifier returned {type(value).__name__}, which is no Receipt"))


def notifier_failed(error: BaseException) -> Receipt:
    """Make a receipt of an exception out of a notifier."""
    receipt = receipt_for_error(error) if isinstance(error, Exception) else None
    if receipt is not None:
        return receipt
    log.error("The notifier raised an exception; the message may have gone out\n%s", trace_of(error))
    return Unknown(_quoting(f"the notifier raised {type(error).__name__}", error))


def _quoting(told: str, error: BaseException) -> Reason:
    return quoting(told, redact(bounded_detail(error)))


def was_cancelled() -> bool:
    """Whether our own task is being cancelled; otherwise the cancellation came out of a host's part."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
