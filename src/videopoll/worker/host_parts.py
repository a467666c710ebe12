"""A host's parts as a runner meets them: of which kind they are, and what comes back from them.

Whatever a poller or a notifier gives or raises becomes a value here, so that a
mistake of a host's costs a back-off, and not the worker.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
from typing import cast

from videopoll._calling import is_async
from videopoll._reasons import Reason, own, quoting, trace_of
from videopoll.errors import ConfigurationError
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.checks import MAX_NAME_CHARS, kind_name
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupAnswer,
    LookupResult,
    NotSent,
    Receipt,
    Refused,
    RepeatSafe,
    Unknown,
    receipt_for_error,
)
from videopoll.observations import Fault, FaultKind, Observation, VideoReady, checked_ready
from videopoll.observe.redact import redact

__all__ = [
    "as_lookup_answer",
    "as_observation",
    "as_receipt",
    "check_call",
    "check_part",
    "check_publisher",
    "is_for_us",
    "kind_of",
    "look_up_failed",
    "notifier_failed",
    "poller_failed",
    "publisher_failed",
    "refuse_async",
    "resume",
    "trace_of",
    "was_cancelled",
]

log: logging.Logger = logging.getLogger(__name__)


def refuse_async(part: object, method: str, name: str) -> None:
    """Refuse an asyncio part in the threaded runner.

    Raises:
        ConfigurationError: It has to be awaited (the text names `AsyncRunner`), or cannot be called as a runner calls it.
    """
    check_part(part, name, method)
    if is_async(getattr(part, method)) or getattr(part, "async_only", False):
        msg = f"{type(part).__name__} is an asyncio {name}: Runner works with threads, use AsyncRunner for it"
        raise ConfigurationError(msg)
    if method in _CALLS:
        check_call(part, method)


def check_part(part: object, name: str, *methods: str) -> None:
    """Refuse what cannot be a part.

    Args:
        part: What was handed in.
        name: For which argument.
        *methods: What it must have, one of them; the error names the first.

    Raises:
        ConfigurationError: It is a class, or has none of the methods.
    """
    if isinstance(part, type):
        msg = f"{part.__name__} is a class: build one of it, and hand that in as the {name}"
        raise ConfigurationError(msg)
    if not any(callable(getattr(part, one, None)) for one in methods):
        hint = ""
        if name == "queue":
            hint = ": build one with RedisVideoJobQueue, or with AsyncRedisVideoJobQueue for AsyncRunner"
        elif name == "notifier" and callable(part):
            hint = ": CallbackNotifier makes one of it"
        msg = f"the {name} must have a method {methods[0]}(), got {kind_name(part)}{hint}"
        raise ConfigurationError(msg)


def check_call(part: object, method: str) -> None:
    """Refuse a poller or a notifier that cannot be called as a runner calls it.

    Raises:
        ConfigurationError: Its method takes other arguments.
    """
    arguments, options, wanted = _CALLS[method.removeprefix("a")]
    try:
        signature = inspect.signature(getattr(part, method))
    except (TypeError, ValueError):
        # Not every callable tells: the first call will.
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError:
        takes = ", ".join(signature.parameters) or "nothing"
        msg = (
            f"{type(part).__name__}.{method} is called as {method}({wanted}): let it take these arguments, not {takes}"
        )
        raise ConfigurationError(msg) from None


_LIMITED = {"timeout_s": 1.0}

_CALLS: dict[str, tuple[tuple[str, ...], dict[str, float], str]] = {
    "poll": (("",), _LIMITED, "job, timeout_s=seconds"),
    "notify": (("",), {}, "message"),
    "look_up": (("",), {}, "message"),
    "download": (("", "", ""), _LIMITED, "job, place, file, timeout_s=seconds"),
    "publish": (("",), _LIMITED, "video, timeout_s=seconds"),
}
"""How the methods of a host's parts are called: arguments, options, and both in words."""


def check_publisher(poller: object, publisher: object) -> None:
    """Refuse a publisher that would never get a video, and warn of videos that no publisher gets.

    Raises:
        ConfigurationError: The poller cannot download.
    """
    if publisher is not None:
        if not callable(getattr(poller, "download", None)) and not callable(getattr(poller, "adownload", None)):
            msg = (
                f"a publisher gets what the poller downloads, and {type(poller).__name__} has no method download():"
                " give it one, see videopoll.protocols.VideoDownload, or leave the publisher out"
            )
            raise ConfigurationError(msg)
    elif getattr(poller, "may_lock", False) is True:
        log.warning(
            "This video API may finish with videos that only its key opens, and the worker has no publisher: their users"
            " would hear that there is none. Give the runner a publisher (videopoll worker --publisher)"
        )


def as_observation(value: object) -> Observation:
    """Check what a poller gave back; a video's URL that must not be handed on becomes what it comes to."""
    if isinstance(value, VideoReady):
        return checked_ready(value)
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


def publisher_failed(error: BaseException) -> Fault:
    """Make a fault of an exception out of a publisher."""
    log.error("The publisher raised an exception; it counts as a passing fault\n%s", trace_of(error))
    return Fault(FaultKind.INTERNAL, _quoting(f"the publisher raised {kind_of(error)}", error))


def as_receipt(value: object) -> Receipt:
    """Check what a notifier gave back; None counts as delivered.

    The message may have gone out: whatever cannot be read is of unknown fate, and nothing
    raises here or later on. So a receipt is made anew from its fields, which are converted.
    """
    if value is None:
        return Delivered()
    try:
        receipt = _made_anew(value)
    except BaseException as error:  # noqa: BLE001 - a host's class may do anything when it is looked at
        return Unknown(own(f"the notifier returned {kind_of(value)}, which cannot be read: {kind_of(error)}"))
    if receipt is not None:
        return receipt
    if close_if_coroutine(value):
        return Unknown(own("the notifier returned a coroutine: use AsyncRunner for asyncio notifiers"))
    return Unknown(own(f"the notifier returned {kind_of(value)}, which is no Receipt"))


def _made_anew(value: object) -> Receipt | None:
    # By its true type: a host's object may say that it is of another class.
    kind = type(value)
    if issubclass(kind, Delivered):
        done = cast("Delivered", value)
        known = Accepted if issubclass(kind, Accepted) else Delivered
        return known(done.message_id, done.detail, done.form, channel=done.channel, prepared=done.prepared)
    if issubclass(kind, NotSent):
        held = cast("NotSent", value)
        return NotSent(
            held.reason,
            held.retry_after_s,
            counts=held.counts,
            channel_fault=held.channel_fault,
            account_fault=held.account_fault,
            waits=held.waits,
            channel=held.channel,
            prepared=held.prepared,
        )
    if issubclass(kind, Refused):
        no = cast("Refused", value)
        return Refused(
            no.reason,
            no.try_text,
            try_unquoted=no.try_unquoted,
            then=no.then,
            channel=no.channel,
            prepared=no.prepared,
        )
    if issubclass(kind, Unknown):
        lost = cast("Unknown", value)
        return Unknown(lost.reason, channel=lost.channel, prepared=lost.prepared)
    return None


def as_lookup_answer(value: object) -> LookupAnswer | str:
    """Check what a notifier's look-up gave back; the name of its type for what is no `LookupAnswer`."""
    kind = type(value)
    if kind is LookupResult:
        return cast("LookupResult", value)
    try:
        if issubclass(kind, Found):
            found = cast("Found", value)
            return Found(found.message_id, found.form, accepted=found.accepted)
        if issubclass(kind, Failed):
            failed = cast("Failed", value)
            return Failed(failed.reason, then=failed.then, try_text=failed.try_text)
        if issubclass(kind, RepeatSafe):
            return RepeatSafe(cast("RepeatSafe", value).within_s)
    except Exception:  # noqa: BLE001 - a host's class may do anything when it is looked at
        return kind_of(value)
    close_if_coroutine(value)
    return kind_of(value)


def close_if_coroutine(value: object) -> bool:
    """Close a coroutine that nobody will await; whether it was one."""
    if not isinstance(value, types.CoroutineType):
        return False
    value.close()
    return True


def kind_of(value: object) -> str:
    """Name the type of a host's object."""
    try:
        return str(type(value).__name__)[:MAX_NAME_CHARS]
    except Exception:  # noqa: BLE001 - a metaclass of a host's may do anything
        return "something"


def notifier_failed(error: BaseException) -> Receipt:
    """Make a receipt of an exception out of a notifier."""
    try:
        receipt = receipt_for_error(error) if isinstance(error, Exception) else None
    except Exception as unread:  # noqa: BLE001 - as above: the exception may be a host's subclass of ours
        return Unknown(own(f"the notifier raised {kind_of(error)}, which cannot be read: {kind_of(unread)}"))
    if receipt is not None:
        return receipt
    log.error("The notifier raised an exception; the message may have gone out\n%s", trace_of(error))
    return Unknown(_quoting(f"the notifier raised {kind_of(error)}", error))


def look_up_failed(error: BaseException) -> LookupResult:
    """Return the lookup result that stands for an exception out of a notifier's look-up."""
    log.error("The notifier could not look a message up\n%s", trace_of(error))
    return LookupResult.NO_ANSWER


def _quoting(told: str, error: BaseException) -> Reason:
    return quoting(told, redact(bounded_detail(error)))


def was_cancelled() -> bool:
    """Whether our own task is being cancelled; otherwise the cancellation came out of a host's part."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_for_us(error: BaseException) -> bool:
    """Whether what comes out of a host's part is meant for its worker: Ctrl-C, our task's own end or cancellation.

    Anything else is an answer of that part's, whatever its type.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    try:
        # A coroutine that is closed from outside runs in no task.
        return was_cancelled() or (isinstance(error, GeneratorExit) and asyncio.current_task() is None)
    except RuntimeError:
        return True


def resume() -> None:
    """Take back the cancellations of our own task: it goes on, and the next one counts anew."""
    task = asyncio.current_task()
    while task is not None and task.uncancel():
        pass
