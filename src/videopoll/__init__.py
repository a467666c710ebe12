"""videopoll: wait for AI-generated videos, and deliver them."""

from __future__ import annotations

from videopoll.errors import (
    ConfigurationError,
    InvalidGenerationError,
    InvalidJobError,
    JobNotFoundError,
    NotifierError,
    NotSentError,
    QueueError,
    QueueRefusedError,
    QueueUnavailableError,
    RefusedError,
    VideopollError,
)
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, MessageForm, Outcome, OutcomeKind
from videopoll.jobs.views import CancelResult, EnqueueResult, Health, JobView, QueueCounts, RunSummary
from videopoll.messages import Delivered, LookupResult, Message, NotSent, Receipt, Recipient, Refused, Unknown
from videopoll.notifiers import (
    AppriseNotifier,
    CallbackNotifier,
    HttpNotifier,
    RoutingNotifier,
    SilentNotifier,
    UltraMsgNotifier,
    VideoCheck,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
)
from videopoll.observations import Fault, FaultKind, Observation, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.policies import DeadLetterPolicy, DeliveryPolicy, KeyTtls, LeasePolicy, OnUnknown, PollingStrategy
from videopoll.protocols import (
    AsyncNotifier,
    AsyncVideoJobQueue,
    AsyncVideoPoller,
    Notifier,
    VideoJobQueue,
    VideoPoller,
)
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.texts import ENGLISH, SPANISH, Texts, TextSet
from videopoll.tool import UntrackedJob, VideoGeneratorTool
from videopoll.video_api.generator import (
    AsyncVideoGenerator,
    Generation,
    GenerationErrorCode,
    GenerationFailed,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
    ModelChoice,
    VideoApiGenerator,
    VideoGenerator,
)
from videopoll.video_api.poller import VideoApiPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner

__version__ = "0.1.0"

__all__ = [
    "ENGLISH",
    "SPANISH",
    "AppriseNotifier",
    "AsyncNotifier",
    "AsyncRedisVideoJobQueue",
    "AsyncRunner",
    "AsyncVideoGenerator",
    "AsyncVideoJobQueue",
    "AsyncVideoPoller",
    "CallbackNotifier",
    "CancelResult",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetterPolicy",
    "Delivered",
    "DeliveryPolicy",
    "EnqueueResult",
    "Fault",
    "FaultKind",
    "Generation",
    "GenerationErrorCode",
    "GenerationFailed",
    "GenerationFinished",
    "GenerationRequest",
    "GenerationStarted",
    "GenerationUnknown",
    "Health",
    "HttpNotifier",
    "InvalidGenerationError",
    "InvalidJobError",
    "JobNotFoundError",
    "JobState",
    "JobView",
    "KeyTtls",
    "LeasePolicy",
    "LookupResult",
    "Message",
    "MessageForm",
    "ModelChoice",
    "NotSent",
    "NotSentError",
    "Notifier",
    "NotifierError",
    "Observation",
    "OnUnknown",
    "Outcome",
    "OutcomeKind",
    "PollingStrategy",
    "QueueCounts",
    "QueueError",
    "QueueRefusedError",
    "QueueUnavailableError",
    "Receipt",
    "Recipient",
    "RedisVideoJobQueue",
    "Refused",
    "RefusedError",
    "RoutingNotifier",
    "RunSummary",
    "Runner",
    "SilentNotifier",
    "TextSet",
    "Texts",
    "UltraMsgNotifier",
    "Unknown",
    "UntrackedJob",
    "VideoApiGenerator",
    "VideoApiPoller",
    "VideoCheck",
    "VideoFailed",
    "VideoGenerator",
    "VideoGeneratorTool",
    "VideoJob",
    "VideoJobQueue",
    "VideoMissing",
    "VideoPoller",
    "VideoReady",
    "VideoWorking",
    "VideopollError",
    "WebhookNotifier",
    "WhatsAppFactoryNotifier",
]
