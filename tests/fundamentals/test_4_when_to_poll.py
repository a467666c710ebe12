"""When a job is polled: a strategy of one's own, and what a fault of the API changes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from videopoll import ConfigurationError, PollingStrategy
from videopoll.events import JobPolled
from videopoll.observations import Fault, FaultKind, VideoReady, VideoWorking
from videopoll.testing import Sandbox


class PollTimes:
    """A hook: hears of every event. This one notes, by the sandbox's clock, when a poll was made."""

    def __init__(self) -> None:
        self.clock = None
        self.at_s = []

    def __call__(self, event):
        if isinstance(event, JobPolled):
            self.at_s.append(self.clock.monotonic_s())

    @property
    def gaps_s(self):
        return [round(later - earlier) for earlier, later in pairwise(self.at_s)]


def poll_times(*answers, strategy=None):
    times = PollTimes()
    with Sandbox(strategy=strategy, hooks=[times]) as sandbox:
        times.clock = sandbox.clock
        times.at_s.append(sandbox.clock.monotonic_s())
        sandbox.poller.job("job_1", *answers)
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()
        sandbox.assert_delivered_once("job_1")
    return times.gaps_s


READY = VideoReady("https://files.example/1.mp4")
BUSY = Fault(FaultKind.SERVER, "HTTP 503")


def test_by_default_after_five_seconds_and_then_every_ten():
    assert poll_times(VideoWorking(), VideoWorking(), READY) == [5, 10, 10]


def test_as_the_strategy_says():
    """Every number is an argument of a frozen class."""
    patient = PollingStrategy(initial_delay_s=60, interval_s=20)

    assert poll_times(VideoWorking(), VideoWorking(), READY, strategy=patient) == [60, 20, 20]


def test_after_a_fault_sooner_and_then_ever_later():
    """Faults in a row are counted, so that one late in a job's life costs five seconds and not a minute."""
    assert poll_times(VideoWorking(), BUSY, BUSY, BUSY, READY) == [5, 10, 5, 10, 20]


def test_when_the_api_says_how_long_it_is_heard():
    """And up to a second more: not all workers of a fleet come back at once."""
    throttled = Fault(FaultKind.THROTTLED, "HTTP 429", retry_after_s=30)

    first_s, pause_s = poll_times(throttled, READY)
    assert first_s == 5
    assert pause_s in {30, 31}


def test_what_cannot_work_is_refused_when_it_is_built():
    """With a sentence that says what to change."""
    with pytest.raises(ConfigurationError, match="must be longer than initial_delay_s"):
        PollingStrategy(initial_delay_s=60, timeout_s=30)
