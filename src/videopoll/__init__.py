"""videopoll: wait for AI-generated videos, and deliver them."""

from __future__ import annotations

from videopoll.errors import (
    ConfigurationError,
    NotSentError,
    QueueError,
    QueueUnavailableError,
    RefusedError,
    VideopollError,
)
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import Outcome, OutcomeKind
from videopoll.messages import Message, Recipient
from videopoll.notifiers import (
    CallbackNotifier,
    RoutingNotifier,
    SilentNotifier,
    UltraMsgNotifier,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
)
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
from videopoll.video_api.poller import VideoApiPoller
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner

__version__ = "0.1.0"

__all__ = [
    "AsyncNotifier",
    "AsyncRedisVideoJobQueue",
    "AsyncRunner",
    "AsyncVideoJobQueue",
    "AsyncVideoPoller",
    "CallbackNotifier",
    "ConfigurationError",
    "DeadLetterPolicy",
    "DeliveryPolicy",
    "KeyTtls",
    "LeasePolicy",
    "Message",
    "NotSentError",
    "Notifier",
    "OnUnknown",
    "Outcome",
    "OutcomeKind",
    "PollingStrategy",
    "QueueError",
    "QueueUnavailableError",
    "Recipient",
    "RedisVideoJobQueue",
    "RefusedError",
    "RoutingNotifier",
    "Runner",
    "SilentNotifier",
    "UltraMsgNotifier",
    "VideoApiPoller",
    "VideoJob",
    "VideoJobQueue",
    "VideoPoller",
    "VideopollError",
    "WebhookNotifier",
    "WhatsAppFactoryNotifier",
]
