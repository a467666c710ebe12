"""A job's step by hand: its context with a clock that stands still, and what it tells."""

from __future__ import annotations

from videopoll import DeliveryPolicy, LeasePolicy, PollingStrategy, VideoJob
from videopoll.clock import Clock, RedisClock
from videopoll.core.context import StepContext
from videopoll.core.effects import Commit, SendMessage
from videopoll.core.step import JobStep
from videopoll.jobs import Asset, MessageForm, OutboxEntry, Outcome, OutcomeKind, PublicLink
from videopoll.jobs.transition import BeginSend, Claim, Conclude, PollWork, SendWork, TransitionResult
from videopoll.observations import VideoReady
from videopoll.texts import SPANISH_AND_ENGLISH

START_MS = 1_757_157_518_747
NOW_MS = START_MS + 15_000
APPLIED = TransitionResult.APPLIED
KEEP_S = 90_000
"""How long an outbox entry is kept: an hour for its delivery, and a day."""
JOB = VideoJob("job_1", "c", START_MS)
URL = "https://files.example/1.mp4"
VIDEO = VideoReady(URL)
MADE = Outcome(OutcomeKind.COMPLETED, START_MS + 5000, video_url=URL)
ENDING = Outcome(OutcomeKind.COMPLETED, START_MS, assets=(Asset(PublicLink(URL, 1)),), refreshable=True)


class HandClock(Clock):
    """Stands still until it is moved."""

    now_s = 1000.0

    def monotonic_s(self):
        return self.now_s


class Chance:
    """Gives the same number from 0 to 1 each time."""

    def random(self):
        return 0.25


class Slots:
    """The places for sends of one worker."""

    def __init__(self, free):
        self.free = free

    def take(self, step):
        if not self.free:
            return False
        self.free -= 1
        step.sending = True
        return True


class Stage:
    """A step of one job that goes from effect to effect by hand, and all that it told.

    `told` has the events; `texts` what was told beside each: the whole reason, and the outcome.
    `passed` has the points at which a worker may die that were passed, `paused` the pauses of its polls.

    What it has does not refer to it, so that a step which a test leaves half-way ends with the test.
    """

    def __init__(self, *, places=1, entry=None, work=None, context=None, asked_s=None, due_ms=NOW_MS, **claim):
        self.told, self.texts, self.passed, self.paused = told, texts, passed, paused = [], [], [], []
        self.slots = Slots(places)
        self.clock = HandClock()

        def emit(event, *more):
            told.append(event)
            texts.append(more)

        self.context = StepContext(
            worker_id="w",
            emit=emit,
            pause_polling=paused.append,
            start_sending=self.slots.take,
            clock=RedisClock(self.clock),
            rng=Chance(),
            crash_point=lambda point, job_id: passed.append((point, job_id)),
            **{
                "strategy": PollingStrategy(),
                "lease": LeasePolicy(),
                "delivery": DeliveryPolicy(),
                "texts": SPANISH_AND_ENGLISH,
                **(context or {}),
            },
        )
        self.context.clock.set(NOW_MS)
        if entry is not None:
            work = SendWork(entry)
        elif work is None:
            work = PollWork(VideoJob("job_1", "c", START_MS), 2, 0, None)
        self.claim = Claim("job_1", "w:1", due_ms, work, **claim)
        self.step = JobStep(self.context, self.claim, asked_s)
        self.effects = self.step.steps()
        self.next(None)

    def next(self, answer, after_s=0.0):
        """Answer the last effect, some seconds after it was asked for, and take the next one; None at the end."""
        self.clock.now_s += after_s
        try:
            self.effect = self.effects.send(answer)
        except StopIteration:
            self.effect = None
        return self.effect

    def throw(self, error):
        """Have the last effect raise, and take the next one; None at the end."""
        try:
            self.effect = self.effects.throw(error)
        except StopIteration:
            self.effect = None
        return self.effect

    @property
    def written(self):
        assert isinstance(self.effect, Commit)
        return self.effect.transition


def entry(outcome=MADE, **more):
    """The delivery of an outcome, with nothing tried yet."""
    fields = {"form": MessageForm.VIDEO, "deadline_ms": START_MS + 3_600_000, **more}
    return OutboxEntry(job=JOB, outcome=outcome, **fields)


def sending(stage):
    """Take a step that delivers to its send, as soon as that is noted."""
    assert isinstance(stage.written, BeginSend | Conclude)
    assert isinstance(stage.next(APPLIED), SendMessage)
    return stage
