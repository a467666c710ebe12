"""Jobs and what becomes of them: values without I/O."""

from __future__ import annotations

from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.views import CancelResult, EnqueueResult, HandedBack, Health, JobView, QueueCounts, RunSummary

__all__ = [
    "CancelResult",
    "DeadLetter",
    "EnqueueResult",
    "HandedBack",
    "Health",
    "JobState",
    "JobView",
    "JsonValue",
    "MessageForm",
    "OutboxEntry",
    "Outcome",
    "OutcomeKind",
    "QueueCounts",
    "RunSummary",
    "VideoJob",
]
