"""Not run: mypy and pyright read it, and fail if the public types change.

An error that must stay an error is marked with the one that is expected; the
type checkers complain when it is none any more.
"""

from __future__ import annotations

from typing import assert_type

from openai import OpenAI

from videopoll import (
    AsyncNotifier,
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    AsyncVideoJobQueue,
    AsyncVideoPoller,
    CallbackNotifier,
    Message,
    Notifier,
    Recipient,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    SilentNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
    VideoJob,
    VideoJobQueue,
    VideoPoller,
    WhatsAppFactoryNotifier,
)
from videopoll.jobs import EnqueueResult, JobView
from videopoll.messages import Delivered, Receipt
from videopoll.observations import Observation, VideoReady
from videopoll.tool import VideoGeneratorTool


class MyNotifier:
    """A host's own channel for threads."""

    def notify(self, message: Message) -> None:
        print(message.text)


class MyAsyncNotifier:
    """A host's own channel for asyncio."""

    async def notify(self, message: Message) -> Receipt:
        return Delivered(message.reference)


class MyPoller:
    """A host's own poller for threads."""

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        return VideoReady(f"https://files.example/{job.job_id}.mp4")


class MyAsyncPoller:
    """A host's own poller for asyncio."""

    async def poll(self, job: VideoJob, *, timeout_s: float) -> VideoReady:
        return VideoReady(f"https://files.example/{job.job_id}.mp4")


def recipient_of(conversation_id: str) -> Recipient:
    """A host's own directory."""
    return Recipient(channel="ultramsg", to=conversation_id)


async def arecipient_of(conversation_id: str) -> Recipient:
    """The same for asyncio."""
    return recipient_of(conversation_id)


queue = RedisVideoJobQueue.from_url("redis://127.0.0.1")
aqueue = AsyncRedisVideoJobQueue.from_url("redis://127.0.0.1")
poller = VideoApiPoller(api_key="key")
notifier = RoutingNotifier(
    {"ultramsg": UltraMsgNotifier(), "factory": WhatsAppFactoryNotifier(base_url="https://factory.example")},
    resolve=recipient_of,
)

# The parts that ship satisfy the protocols.
a_queue: VideoJobQueue = queue
an_async_queue: AsyncVideoJobQueue = aqueue
a_poller: VideoPoller = poller
some_notifiers: list[Notifier] = [notifier, UltraMsgNotifier(), SilentNotifier(), MyNotifier()]
some_async_notifiers: list[AsyncNotifier] = [MyAsyncNotifier()]
an_async_poller: AsyncVideoPoller = MyAsyncPoller()

# One composition, two runners.
assert_type(Runner(queue, poller, notifier), Runner)
assert_type(AsyncRunner(aqueue, poller, notifier), AsyncRunner)

# AsyncRunner takes a host's sync and asyncio parts.
AsyncRunner(aqueue, MyPoller(), MyNotifier())
AsyncRunner(aqueue, MyAsyncPoller(), MyAsyncNotifier())
RoutingNotifier({"mine": MyAsyncNotifier()}, resolve=arecipient_of)

# Runner takes sync parts only.
Runner(queue, MyPoller(), MyNotifier())
Runner(queue, MyAsyncPoller(), MyNotifier())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Runner(queue, MyPoller(), MyAsyncNotifier())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Runner(aqueue, MyPoller(), MyNotifier())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
AsyncRunner(queue, MyPoller(), MyNotifier())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

assert_type(queue.enqueue("job_1", conversation_id="c", metadata={"prompt": "a cat"}), EnqueueResult)
assert_type(queue.get("job_1"), JobView | None)
queue.enqueue("job_1", conversation_id="c", metadata={"when": object()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def in_asyncio() -> None:
    """The same, awaited."""
    assert_type(await aqueue.enqueue("job_1", conversation_id="c"), EnqueueResult)
    assert_type(await aqueue.get("job_1"), JobView | None)


CallbackNotifier(lambda message: print(message.text))


def schemas(client: OpenAI, tool: VideoGeneratorTool) -> None:
    client.responses.create(model="m", input="said", tools=[tool.schema_responses()])
    client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "said"}], tools=[tool.schema_chat()]
    )
