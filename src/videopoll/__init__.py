"""videopoll: wait for AI-generated videos, and deliver them."""

from __future__ import annotations

from videopoll.async_runner import AsyncRunner
from videopoll.errors import (
    ConfigurationError,
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
from videopoll.jobs import Form, JobState, Outcome, OutcomeKind, VideoJob
from videopoll.messages import Delivered, Message, NotSent, Receipt, Recipient, Refused, Sighting, Unknown
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
from videopoll.poller import VideoApiPoller
from videopoll.protocols import (
    AsyncNotifier,
    AsyncVideoJobQueue,
    AsyncVideoPoller,
    Notifier,
    VideoJobQueue,
    VideoPoller,
)
from videopoll.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.runner import Runner
from videopoll.words import ENGLISH, SPANISH, Words, WordSet
from videopoll.work import CancelResult, DeadLetter, EnqueueResult, JobView, QueueCounts

__version__ = "0.1.0"

__all__ = [
    "ENGLISH",
    "SPANISH",
    "AppriseNotifier",
    "AsyncNotifier",
    "AsyncRedisVideoJobQueue",
    "AsyncRunner",
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
    "Form",
    "HttpNotifier",
    "InvalidJobError",
    "JobNotFoundError",
    "JobState",
    "JobView",
    "KeyTtls",
    "LeasePolicy",
    "Message",
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
    "Runner",
    "Sighting",
    "SilentNotifier",
    "UltraMsgNotifier",
    "Unknown",
    "VideoApiPoller",
    "VideoCheck",
    "VideoFailed",
    "VideoJob",
    "VideoJobQueue",
    "VideoMissing",
    "VideoPoller",
    "VideoReady",
    "VideoWorking",
    "VideopollError",
    "WebhookNotifier",
    "WhatsAppFactoryNotifier",
    "WordSet",
    "Words",
]
