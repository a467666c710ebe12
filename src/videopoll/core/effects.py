"""What a job's step asks its runner to do, and what it is answered."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import Transition, TransitionResult
    from videopoll.jobs.video import Asset
    from videopoll.messages import LookupAnswer, Message, Receipt
    from videopoll.observations import Observation

__all__ = ["Answer", "Commit", "Effect", "LookUpMessage", "PollApi", "PublishVideo", "SendMessage", "Steps"]


@attrs.frozen
class PollApi:
    """Ask the video API; answered with an `Observation`."""

    job: VideoJob
    timeout_s: float


@attrs.frozen
class PublishVideo:
    """Put what only the API's key opens where everybody can fetch it; answered with an `Observation`.

    That is a `VideoReady` with the published link, or why there is none.
    """

    job: VideoJob
    locked: Asset
    timeout_s: float
    max_bytes: int


@attrs.frozen
class Commit:
    """Write a transition to the queue; answered with a `TransitionResult`, or with None at once if not to `wait`."""

    transition: Transition
    wait: bool = True


@attrs.frozen
class SendMessage:
    """Send a message; answered with a `Receipt`."""

    message: Message


@attrs.frozen
class LookUpMessage:
    """Ask the channel for a message; answered with a `LookupAnswer`, or the name of what came back instead."""

    message: Message


Effect: TypeAlias = PollApi | PublishVideo | Commit | SendMessage | LookUpMessage
Answer: TypeAlias = "Observation | TransitionResult | Receipt | LookupAnswer | str | None"
Steps: TypeAlias = Generator[Effect, Answer, None]
