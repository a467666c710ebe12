"""Jobs and what becomes of them: values without I/O."""

from __future__ import annotations

from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.video import Asset, AssetKind, BucketObject, FailureReason, LockedLink, PublicLink, VideoFile
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
    ReceiptCounts,
    RunSummary,
    WorkerInfo,
)

__all__ = [
    "Asset",
    "AssetKind",
    "BucketObject",
    "CancelResult",
    "DeadLetter",
    "EnqueueResult",
    "FailureReason",
    "HandedBack",
    "Health",
    "HistoryEntry",
    "HistoryEvent",
    "JobPage",
    "JobState",
    "JobView",
    "JsonValue",
    "ListedJob",
    "LockedLink",
    "MessageForm",
    "OutboxEntry",
    "Outcome",
    "OutcomeKind",
    "PublicLink",
    "QueueCounts",
    "ReceiptCounts",
    "RunSummary",
    "VideoFile",
    "VideoJob",
    "WorkerInfo",
]
