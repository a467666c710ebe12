"""Whether the link to a video may be sent as it is: pure functions.

What is delivered may be sent an hour after it was stored, or be redriven after
days, and links end. So before each send the link is looked at. What follows an
attempt to get another one is in `videopoll.core.delivery`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from videopoll.jobs.video import locked_video, public_link

if TYPE_CHECKING:
    from videopoll.jobs.outcome import Outcome

__all__ = ["LinkStep", "link_lives", "next_link_step"]

NEAR_END_S = 900.0
"""A link that ends sooner than this is renewed before it is sent. A messenger takes a message into a queue of its own
and fetches the video minutes later, and a user does not look at once. Shorter than the life of any link that an API is
known to give (an hour), so that a video that is sent at once needs no second request."""

ASSUMED_LIFE_S = 3600.0
"""How long a link lives, as far as is known, whose end the API does not tell but that can be had anew: the shortest life
that an API is known to give."""


class LinkStep(enum.Enum):
    """What has to be done about the link before a message is sent."""

    NOTHING = enum.auto()
    """It may be sent, or the message has none."""
    ASK_AGAIN = enum.auto()
    """The API gives a fresh one when it is asked again."""
    PUBLISH = enum.auto()
    """What only the API's key opens has to be put where everybody can fetch it."""
    TOO_LATE = enum.auto()
    """It has ended, and there is no other."""


def next_link_step(outcome: Outcome, now_ms: int, *, fresh: bool) -> LinkStep:
    """Decide what to do about the link of an outcome that is about to be sent.

    Args:
        outcome: What is to be sent.
        now_ms: The current time.
        fresh: Whether the link was asked for just now: asking again would give the same.
    """
    if not outcome.success:
        return LinkStep.NOTHING
    there = public_link(outcome.assets) is not None
    if there and (fresh or _left_ms(outcome, now_ms) > NEAR_END_S * 1000):
        return LinkStep.NOTHING
    if locked_video(outcome.assets) is not None:
        return LinkStep.PUBLISH
    if outcome.refreshable and not fresh:
        return LinkStep.ASK_AGAIN
    return LinkStep.NOTHING if there and link_lives(outcome, now_ms) else LinkStep.TOO_LATE


def link_lives(outcome: Outcome, now_ms: int) -> bool:
    """Return whether an outcome has a link, and its end is not past."""
    return public_link(outcome.assets) is not None and _left_ms(outcome, now_ms) > 0


def _left_ms(outcome: Outcome, now_ms: int) -> float:
    link = public_link(outcome.assets)
    ends_ms = None if link is None else link.ends_ms
    if ends_ms is None and outcome.refreshable:
        ends_ms = outcome.at_ms + round(ASSUMED_LIFE_S * 1000)
    return float("inf") if ends_ms is None else ends_ms - now_ms
