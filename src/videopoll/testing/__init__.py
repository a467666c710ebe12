"""The outside world on localhost, for your tests and ours.

::

    from videopoll.testing import FakeUltraMsg, FakeVideoApi, Reply, wait_until

    with FakeVideoApi(api_key="secret") as api, FakeUltraMsg(token="token") as messenger:
        api.job("job_1", Reply.fault(503), Reply.completed("https://files.example/1.mp4"))
        ...  # point your worker at api.url and messenger.url
        wait_until(lambda: messenger.inbox("5491155550000"), describe="the user has the video")

The fakes are real HTTP servers, so that what is tested is what runs. They need
no test framework. `EmbeddedRedis` is the same for Redis: a real server, started and stopped for you.
"""

from __future__ import annotations

from videopoll.testing.assertions import assert_delivered_once, assert_no_keys_leaked
from videopoll.testing.builders import build_job, build_message, build_outcome
from videopoll.testing.clock import MovableClock
from videopoll.testing.contract import NotifierContract
from videopoll.testing.crashes import CRASH_POINTS, die_at
from videopoll.testing.discord import FakeDiscord
from videopoll.testing.embedded import EmbeddedRedis, ServerChoice, unused_port
from videopoll.testing.evolution import FakeEvolution
from videopoll.testing.memory import MemoryServer, async_memory_queue, memory_queue
from videopoll.testing.messengers import FakeMessage, FakeUltraMsg, FakeWhatsAppFactory, MessageKind
from videopoll.testing.openai import FakeOpenAI
from videopoll.testing.parts import PollAnswer, RecordingNotifier, ScriptedPoller, SendAttempt
from videopoll.testing.plain_contract import PlainNotifierContract
from videopoll.testing.poller_contract import VideoPollerContract
from videopoll.testing.providers import FakeProviders
from videopoll.testing.publisher import FolderPublisher
from videopoll.testing.sandbox import AsyncSandbox, Sandbox
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply
from videopoll.testing.telegram import FakeTelegram
from videopoll.testing.twilio import FakeTwilio
from videopoll.testing.video_api import FakeVideoApi
from videopoll.testing.waiting import async_wait_until, wait_until
from videopoll.testing.whatsapp_cloud import FakeWhatsAppCloud

__all__ = [
    "CRASH_POINTS",
    "AsyncSandbox",
    "EmbeddedRedis",
    "FakeDiscord",
    "FakeEvolution",
    "FakeMessage",
    "FakeOpenAI",
    "FakeProviders",
    "FakeServer",
    "FakeTelegram",
    "FakeTwilio",
    "FakeUltraMsg",
    "FakeVideoApi",
    "FakeWhatsAppCloud",
    "FakeWhatsAppFactory",
    "FolderPublisher",
    "MemoryServer",
    "MessageKind",
    "MovableClock",
    "NotifierContract",
    "PlainNotifierContract",
    "PollAnswer",
    "ReceivedRequest",
    "RecordingNotifier",
    "Reply",
    "Sandbox",
    "ScriptedPoller",
    "SendAttempt",
    "ServerChoice",
    "VideoPollerContract",
    "assert_delivered_once",
    "assert_no_keys_leaked",
    "async_memory_queue",
    "async_wait_until",
    "build_job",
    "build_message",
    "build_outcome",
    "die_at",
    "memory_queue",
    "unused_port",
    "wait_until",
]
