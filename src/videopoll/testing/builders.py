"""Values as a worker makes them, for tests of a poller or a notifier of one's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_count, check_kinds, check_texts, mapped
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import MessageForm, Outcome, OutcomeKind
from videopoll.messages import Message, Recipient
from videopoll.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["build_job", "build_message", "build_outcome"]

VIDEO_URL = "https://files.example/video.mp4"


def build_job(
    job_id: str = "job_1",
    *,
    conversation_id: str = "conversation_1",
    metadata: Mapping[str, JsonValue] | None = None,
    start_ms: int | None = None,
) -> VideoJob:
    """Return a job, e.g. to poll.

    Args:
        job_id: The video API's id of the generation.
        conversation_id: The host's name for whom the video is for.
        metadata: What the producer added.
        start_ms: When it was enqueued, in Unix milliseconds; now by default.
    """
    check_texts("build_job", job_id=job_id or "", conversation_id=conversation_id or "")
    if start_ms is not None:
        check_count("build_job.start_ms", start_ms, low=0)
    return VideoJob(
        job_id, conversation_id, _now_ms() if start_ms is None else start_ms, mapped(metadata, "build_job.metadata")
    )


def build_outcome(
    kind: OutcomeKind | str = OutcomeKind.COMPLETED,
    *,
    video_url: str = VIDEO_URL,
    error: str | None = None,
    at_ms: int | None = None,
) -> Outcome:
    """Return how a job ended.

    Args:
        kind: Which end; ``"failed"`` is as good as `OutcomeKind.FAILED`.
        video_url: The video, if there is one.
        error: The operator's reason.
        at_ms: When that was known, in Unix milliseconds; now by default.
    """
    check_texts("build_outcome", video_url=video_url or "", error=error)
    if at_ms is not None:
        check_count("build_outcome.at_ms", at_ms, low=0)
    kind = kind_of_end(kind, "build_outcome.kind")
    return Outcome(
        kind,
        _now_ms() if at_ms is None else at_ms,
        video_url=video_url if kind is OutcomeKind.COMPLETED else None,
        error=error,
    )


def build_message(
    outcome: Outcome | OutcomeKind | str = OutcomeKind.COMPLETED,
    *,
    job: VideoJob | None = None,
    form: MessageForm | str | None = None,
    recipient: Recipient | None = None,
    language: str | None = None,
    texts: Texts | None = None,
) -> Message:
    """Return a message about the end of a job, e.g. to send it with a notifier of your own.

    Args:
        outcome: How the job ended, or only its kind.
        job: The job; `build_job()` by default.
        form: As a video or as a text; by default what a worker would try first.
        recipient: Whom it is for, as `RoutingNotifier` finds out.
        language: The language of the text.
        texts: The texts to choose from; Spanish and English by default.

    Raises:
        ConfigurationError: An argument is of the wrong kind, or there is no video to send in that form.
    """
    check_kinds("build_message", VideoJob, job=job)
    check_kinds("build_message", Recipient, recipient=recipient)
    check_kinds("build_message", Texts, texts=texts)
    check_texts("build_message", language=language)
    if form is not None:
        check_choice("build_message.form", form, *MessageForm)
    job = job or build_job()
    if not isinstance(outcome, Outcome):
        outcome = build_outcome(kind_of_end(outcome, "build_message.outcome"))
    if not outcome.success and form in {MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.DOCUMENT}:
        msg = f"build_message.form: a job that ended as {outcome.kind.value} has no video to send as {MessageForm(form).value}"
        raise ConfigurationError(msg)
    form = (MessageForm.VIDEO if outcome.success else MessageForm.TEXT) if form is None else MessageForm(form)
    message = Message(
        job=job, outcome=outcome, form=form, reference=job.reference, recipient=recipient, language=language
    )
    return message if texts is None else attrs.evolve(message, texts=texts)


def kind_of_end(kind: OutcomeKind | str, name: str) -> OutcomeKind:
    """Return the kind of an outcome.

    Raises:
        ConfigurationError: There is no such kind.
    """
    check_choice(name, kind, *OutcomeKind)
    return OutcomeKind(kind)


def _now_ms() -> int:
    return round(time.time() * 1000)
