"""The jobs of the demo: how each is meant to go, and whether it did.

A result is computed from what the messengers received and from what Redis says
of the job, never from what the case expects.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState
from videopoll.jobs.outcome import OutcomeKind
from videopoll.jobs.views import JobView
from videopoll.testing import (
    FakeMessage,
    FakeProviders,
    FakeUltraMsg,
    FakeWhatsAppFactory,
    FolderPublisher,
    MessageKind,
    Reply,
)
from videopoll.video_api import Meaning

__all__ = ["API_KEY", "CASES", "INSTANCE", "TOKEN", "Case", "CaseResult", "World", "judge"]

API_KEY = "the-demo-has-no-secrets"
TOKEN = "the-demo-has-no-tokens"  # noqa: S105 - the local messengers' own
INSTANCE = "instance1150"

ULTRAMSG, FACTORY = "ultramsg", "whatsapp_factory"
FAL, VIDEOS = "fal", "videos"
CHANNELS = {ULTRAMSG: "UltraMsg", FACTORY: "WhatsApp Factory"}


@attrs.frozen
class World:
    """The video APIs, the messengers, and what publishes videos that only an API's key opens, on this machine."""

    providers: FakeProviders
    ultramsg: FakeUltraMsg
    factory: FakeWhatsAppFactory
    publisher: FolderPublisher | None = None


def _nothing(world: World, case: Case) -> None:
    """Leave all at its best."""


def _refuse_video(world: World, case: Case) -> None:
    world.ultramsg.refuse_videos(to=case.to)


def _lose_reply(world: World, case: Case) -> None:
    world.ultramsg.fail_next(
        Reply.dropped(accept=True),
        path="/messages/video",
        when=lambda request: request.body.get("to") == case.to,
    )


WORKS, DONE = Meaning.WORKING, Meaning.DONE


@attrs.frozen(kw_only=True)
class Case:
    """One job of the demo.

    Args:
        name: What is special about it.
        number: Makes its ids and its user's phone number.
        provider: Which video API makes it.
        steps: What the video API says of it, poll by poll.
        prepare: Tells the world how to behave.
        outcome: How its polling should end.
        kind: What its user should receive.
        channel: Over which messenger.
        language: The user's language.
    """

    name: str
    number: int
    provider: str = FAL
    steps: tuple[Meaning | Reply, ...] = (WORKS, WORKS, WORKS, DONE)
    prepare: Callable[[World, Case], None] = _nothing
    outcome: OutcomeKind = OutcomeKind.COMPLETED
    kind: MessageKind = "video"
    channel: str = ULTRAMSG
    language: str = "es"

    @property
    def job_id(self) -> str:
        """The id under which the job is kept: the video API's own, behind its name."""
        return f"{self.provider}:job-{self.number}"

    @property
    def conversation_id(self) -> str:
        """Whose video it is."""
        return f"conversation-{self.number}"

    @property
    def to(self) -> str:
        """The user's phone number: a fictitious one."""
        return f"54911555500{self.number:02d}"

    def begin(self, world: World) -> dict[str, JsonValue]:
        """Start the generation in this world, and return what is stored with the job."""
        self.prepare(world, self)
        started = world.providers.job(self.provider, *self.steps, api_id=f"job-{self.number}")
        return {"channel": self.channel, "to": self.to, "language": self.language, **started.metadata}


CASES: tuple[Case, ...] = (
    Case(name="done, over UltraMsg", number=1),
    Case(name="done, over WhatsApp Factory", number=2, provider=VIDEOS, channel=FACTORY, kind="text"),
    Case(name="refused as a video", number=3, provider=VIDEOS, prepare=_refuse_video, kind="text"),
    Case(name="UltraMsg's reply is lost", number=4, prepare=_lose_reply),
    Case(
        name="the API answers 503 twice",
        number=5,
        provider=VIDEOS,
        steps=(WORKS, Reply.fault(503), Reply.fault(503), WORKS, DONE),
        language="en",
    ),
    Case(
        name="a content filter refuses it",
        number=6,
        steps=(WORKS, WORKS, Meaning.MODERATED),
        outcome=OutcomeKind.FAILED,
        kind="text",
    ),
    Case(
        name="vanishes",
        number=7,
        provider=VIDEOS,
        steps=(WORKS, WORKS, Meaning.MISSING),
        outcome=OutcomeKind.NOT_FOUND,
        kind="text",
        channel=FACTORY,
        language="en",
    ),
    Case(name="never ends", number=8, steps=(WORKS,), outcome=OutcomeKind.TIMED_OUT, kind="text"),
)
"""A job for every end, with some trouble on the way."""


@attrs.frozen(kw_only=True)
class CaseResult:
    """What became of one job.

    Args:
        case: How it was meant to go.
        received: Each message that its user got, with the messenger's name.
        outcome: How its polling ended, by ``video:completed``.
        problems: What is not as it should be.
    """

    case: Case
    received: tuple[tuple[str, FakeMessage], ...]
    outcome: OutcomeKind | None
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the job ended as it should."""
        return not self.problems


def judge(world: World, case: Case, view: JobView | None) -> CaseResult:
    """Compare what a user received, and what Redis says, with what should be."""
    received = tuple(
        (name, message)
        for name, messenger in ((ULTRAMSG, world.ultramsg), (FACTORY, world.factory))
        for message in messenger.inbox(case.to)
    )
    outcome = view.outcome.kind if view is not None and view.outcome is not None else None
    problems = []
    if len(received) != 1:
        problems.append(f"{len(received)} messages instead of 1")
    else:
        ((channel, message),) = received
        if channel != case.channel:
            problems.append(f"came over {CHANNELS[channel]}")
        if message.kind != case.kind:
            problems.append(f"came as a {message.kind}")
        links = [world.providers.video_url(case.job_id), world.publisher and world.publisher.url]
        carried = any(link in (message.video or message.text) for link in links if link)
        if carried is not (case.outcome is OutcomeKind.COMPLETED):
            problems.append("has the video's link" if carried else "lacks the video")
    if outcome is not case.outcome:
        problems.append(f"ended as {outcome}")
    if view is None or view.state is not JobState.SETTLED or view.delivered is not True:
        problems.append("Redis does not call it delivered")
    return CaseResult(case=case, received=received, outcome=outcome, problems=tuple(problems))
