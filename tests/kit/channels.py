"""What the tests of the channels share: a message, a job's whole life over one of them, and over a worker that dies."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from kit import QUICK, until
from kit.worker_process import channels_of
from videopoll import LeasePolicy, OutcomeKind, RoutingNotifier, VideoJob, events
from videopoll.jobs import MessageForm, Outcome
from videopoll.messages import Message, Recipient
from videopoll.testing import Reply

if TYPE_CHECKING:
    from kit import World

URL = "https://files.example/file/abc.mp4?signature=s3cr3t"
START_MS = 1_757_157_518_747
AT_MS = START_MS + 45_000
CAPTION = "🎥 ¡Tu video está listo! Se generó en 45 segundos."
TEXT = f"{CAPTION}\n\n🔗 Video: {URL}"
JOB = VideoJob("job_1757157518747_grhexcfhk", "68bb3c35", START_MS, {})
LEASE_S = 0.9

Channels = dict[str, tuple[str, dict[str, Any]]]
"""Channels by name: the name of a class in `videopoll.notifiers`, and its arguments."""


def message(to: str, form: MessageForm = MessageForm.VIDEO, *, url: str | None = URL, **changes: Any) -> Message:
    """Build the message about a finished video, or about a failure if there is no URL."""
    of_recipient = {name: changes.pop(name) for name in ("reply_to", "instance_id", "token") if name in changes}
    kind = OutcomeKind.COMPLETED if url else OutcomeKind.FAILED
    fields: dict[str, Any] = {
        "job": JOB,
        "outcome": Outcome(kind, AT_MS, video_url=url, error=None if url else "content policy"),
        "form": form,
        "reference": "vp-0123456789abcdef0123456789abcdef",
        "recipient": Recipient(channel="here", to=to, **of_recipient),
    }
    return Message(**(fields | changes))


def both(notifier: Any, method: str, what: Message) -> list[Any]:
    """Call a notifier's method and its twin; return what both say."""

    async def atwin() -> Any:
        try:
            return await getattr(notifier, f"a{method}")(what)
        finally:
            await notifier.aclose()

    try:
        return [getattr(notifier, method)(what), asyncio.run(atwin())]
    finally:
        notifier.close()


def routed(channels: Channels) -> RoutingNotifier:
    """Build a notifier over channels, which the jobs' metadata choose."""
    return RoutingNotifier.from_metadata(channels_of(channels))


def live(world: World, channels: Channels, to: str, *, die_at: str | None = None, **options: Any) -> Any:
    """Let a video be made and delivered over the one channel; return how the worker that did it told it.

    With `die_at` a first worker, a process of its own, is killed at that point.
    """
    [name] = channels
    url = options.pop("url", "https://files.example/1.mp4?signature=s3cr3t")
    world.enqueue("job_1", Reply.completed(url), channel=name, to=to, **options.pop("metadata", {}))
    if die_at is not None:
        assert world.process(channels=channels, crash_at=die_at).wait(20) == -signal.SIGKILL
    options.setdefault("delivery", QUICK)
    with (
        world.worker(notifier=routed(channels), lease=LeasePolicy.lasting(LEASE_S), **options) as worker,
        world.queue() as queue,
    ):
        told = worker.recorder.of
        until(lambda: told(events.JobDelivered) or told(events.JobDeadLettered), "the job has ended")
        return told(events.JobDelivered) or list(queue.dead_letters.list())


def assert_no_key_is_told(fake: Any, notifier: Any, what: Message, *keys: str) -> None:
    """Have the service quote the channel's own keys in all that it says, and see that no receipt does."""
    quoted = " ".join(keys)
    for status in (200, 400, 401, 403, 429, 500):
        fields = dict.fromkeys(("error", "message", "error_message"), quoted)
        reply = Reply.json({**fields, "status": status, "response": {"message": [quoted]}}, status=status)
        fake.reply_with(reply, reply)
        for receipt in both(notifier, "notify", what):
            said = f"{receipt!r} {getattr(receipt, 'reason', '')}"
            assert not [key for key in keys if key in said]
