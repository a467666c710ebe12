"""Jobs and what becomes of them: values without I/O."""

from __future__ import annotations

from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.views import (
    CancelResult,
    EnqueueResult,
    HandedBack,
    Health,
    HistoryEntry,
    HistoryEvent,
    JobPage,
    JobView,
    ListedJob,
    QueueCounts,
    RunSummary,
    WorkerInfo,
)

__all__ = [
    "CancelResult",
    "DeadLetter",
    "EnqueueResult",
    "HandedBack",
    "Health",
    "HistoryEntry",
    "HistoryEvent",
    "JobPage",
    "JobState",
    "JobView",
    "JsonValue",
    "ListedJob",
    "MessageForm",
    "OutboxEntry",
    "Outcome",
    "OutcomeKind",
    "QueueCounts",
    "RunSummary",
    "VideoJob",
    "WorkerInfo",
]
