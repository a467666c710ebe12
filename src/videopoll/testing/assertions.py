"""Assertions about what a user got."""

from __future__ import annotations

from videopoll.jobs.outcome import OutcomeKind
from videopoll.messages import Message
from videopoll.testing.parts import RecordingNotifier, SendAttempt

__all__ = ["assert_delivered_once"]


def assert_delivered_once(
    notifier: RecordingNotifier, job_id: str, *, outcome: OutcomeKind = OutcomeKind.COMPLETED
) -> Message:
    """Check that the user of a job got exactly one message about it, with this outcome.

    Attempts that the notifier did not accept may have gone before.

    Args:
        notifier: What the worker sent with.
        job_id: The video API's id of the job.
        outcome: How the job should have ended; ``"failed"`` is as good as `OutcomeKind.FAILED`.

    Returns:
        The message, for further checks, e.g. of its text.

    Raises:
        AssertionError: The user got no message, several, or one about another outcome. The text
            lists what was tried, without addresses and texts.
    """
    attempts = [
        one for one in notifier.attempts if isinstance(one.message, Message) and one.message.job.job_id == job_id
    ]
    delivered = [one.message for one in attempts if one.delivered and isinstance(one.message, Message)]
    # Not the statement: it would vanish under "python -O", and pytest does not explain it in a library.
    if len(delivered) != 1:
        tried = "; ".join(map(_shown, attempts)) or "no send was tried"
        msg = f"the user of {job_id} got {len(delivered)} messages instead of 1 ({tried})"
        raise AssertionError(msg)
    (message,) = delivered
    if message.outcome.kind != outcome:
        msg = f"the user of {job_id} was told {message.outcome.kind.value}, not {OutcomeKind(outcome).value}"
        raise AssertionError(msg)
    return message


def _shown(attempt: SendAttempt) -> str:
    result = type(attempt.result).__name__
    return f"send {attempt.message.attempt} as {attempt.message.form.value}: {result}"
