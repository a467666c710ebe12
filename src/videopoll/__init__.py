"""videopoll: wait for AI-generated videos, and deliver them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll._lazy import export

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = export(
        __name__,
        {
            "videopoll.errors": "ConfigurationError NotSentError QueueError QueueUnavailableError RefusedError VideopollError",
            "videopoll.jobs.job": "VideoJob",
            "videopoll.jobs.outcome": "Outcome OutcomeKind",
            "videopoll.messages": "Message Recipient",
            "videopoll.notifiers": "CallbackNotifier RoutingNotifier SilentNotifier UltraMsgNotifier WebhookNotifier WhatsAppFactoryNotifier",
            "videopoll.policies": "DeadLetterPolicy DeliveryPolicy KeyTtls LeasePolicy OnUnknown PollingStrategy",
            "videopoll.protocols": "AsyncNotifier AsyncVideoJobQueue AsyncVideoPoller Notifier VideoJobQueue VideoPoller",
            "videopoll.queue.redis_queue": "AsyncRedisVideoJobQueue RedisVideoJobQueue",
            "videopoll.video_api.poller": "VideoApiPoller",
            "videopoll.worker.async_runner": "AsyncRunner",
            "videopoll.worker.runner": "Runner",
        },
    )

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
