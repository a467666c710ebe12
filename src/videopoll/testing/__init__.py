"""The outside world on localhost, for your tests and ours.

::

    from videopoll.testing import FakeUltraMsg, FakeVideoApi, Reply, wait_until

    with FakeVideoApi(api_key="secret") as api, FakeUltraMsg(token="token") as messenger:
        api.job("job_1", Reply.fault(503), Reply.completed("https://files.example/1.mp4"))
        ...  # point your worker at api.url and messenger.url
        wait_until(lambda: messenger.inbox("5491155550000"), describe="the user has the video")

The fakes are real HTTP servers, so that what is tested is what runs. They need
no test framework. `videopoll.testing.embedded.EmbeddedRedis` is the same for Redis.
"""

from __future__ import annotations

from videopoll.testing._contract import NotifierContract, PlainNotifierContract
from videopoll.testing._messengers import FakeMessage, FakeUltraMsg, FakeWhatsAppFactory, MessageKind
from videopoll.testing._openai import FakeOpenAI
from videopoll.testing._servers import FakeServer, ReceivedRequest, Reply
from videopoll.testing._video_api import FakeVideoApi
from videopoll.testing._waiting import async_wait_until, wait_until
from videopoll.testing.embedded import unused_port

__all__ = [
    "FakeMessage",
    "FakeOpenAI",
    "FakeServer",
    "FakeUltraMsg",
    "FakeVideoApi",
    "FakeWhatsAppFactory",
    "MessageKind",
    "NotifierContract",
    "PlainNotifierContract",
    "ReceivedRequest",
    "Reply",
    "async_wait_until",
    "unused_port",
    "wait_until",
]
