"""Partitions whose servers' clocks differ: a runner sees one clock, and each server its own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import attrs
import pytest

from videopoll import LeasePolicy, PollingStrategy
from videopoll.errors import QueueRefusedError, QueueUnavailableError
from videopoll.jobs.transition import Claim, ClaimBatch, MissingRecord, Redeliver, Release, Reschedule, TransitionResult
from videopoll.queue.operations import new_token
from videopoll.queue.rounds import Rounds
from videopoll.queue.schema import Keys
from videopoll.queue.scripts import run

AHEAD_MS = 7000
WANTED = {"polls": 10, "sends": 10, "strategy": PollingStrategy(), "lease": LeasePolicy()}


class Hand:
    """Makes one call after the other."""

    def all(self, kind, flows):
        """Answer for each."""
        answers = {}
        for number, flow in flows.items():
            try:
                answers[number] = run(flow)
            except (QueueUnavailableError, QueueRefusedError) as error:
                answers[number] = error
        return answers

    def wait_at_most(self, seconds):
        """Wait for nobody."""


@attrs.define
class Cell:
    """A partition that has one job, due a second ago by its own clock."""

    number: int
    ahead_ms: int
    asked: list = attrs.field(factory=list)
    written: list = attrs.field(factory=list)
    error: Exception | None = None
    keys: Keys = attrs.field(factory=lambda: Keys("x"))

    def now_ms(self) -> int:
        """Its clock."""
        return round(time.monotonic() * 1000) + 1_000_000 + self.ahead_ms

    def claim(self, worker_id, **wanted):
        """Lease the job."""
        self._fail()
        self.asked.append(wanted)
        now_ms = self.now_ms()
        claim = Claim(f"job_{self.number}", new_token(worker_id, self.number), now_ms - 1000, MissingRecord(False))
        return ClaimBatch((claim,), now_ms, next_poll_ms=now_ms + 5000, workers=self.number, brakes={"a": now_ms + 900})
        yield

    def apply(self, transitions):
        """Write."""
        self._fail()
        self.written += transitions
        return [TransitionResult.APPLIED] * len(transitions)
        yield

    def renew(self, claims, lease):
        """Renew."""
        self._fail()
        return [True] * len(claims)
        yield

    def _fail(self):
        if self.error is not None:
            raise self.error


@pytest.fixture
def cells():
    """Two partitions; the clock of the second is seven seconds ahead."""
    return [Cell(0, 0), Cell(1, AHEAD_MS)]


@pytest.fixture
def rounds(cells):
    """The rounds of runners over both."""

    def catch_up():
        return False
        yield

    return Rounds(SimpleNamespace(cells=cells, count=2, catch_up=catch_up), Hand(), None)


def claimed(rounds):
    """Claim once, and give the batch with its claims by job."""
    batch = run(rounds.claim("w", **WANTED))
    return batch, {claim.job_id: claim for claim in batch.claims}


def test_due_times_of_all_partitions_are_on_one_clock(rounds, cells):
    """A job that is a second late is a second late wherever it is."""
    batch, claims = claimed(rounds)
    assert {job_id: batch.now_ms - claim.due_ms for job_id, claim in claims.items()} == {
        "job_0": pytest.approx(1000, abs=50),
        "job_1": pytest.approx(1000, abs=50),
    }
    assert batch.next_poll_ms - batch.now_ms == pytest.approx(5000, abs=50)
    assert batch.brakes["a"] - batch.now_ms == pytest.approx(900, abs=50)
    assert batch.workers == 1


def test_what_is_written_is_due_by_the_clock_of_its_partition(rounds, cells):
    """In three seconds is in three seconds there, too."""
    batch, claims = claimed(rounds)
    due_ms = batch.now_ms + 3000
    writes = [
        *(Reschedule(claim, due_ms) for claim in claims.values()),
        *(Release(claim, due_ms) for claim in claims.values()),
        *(Redeliver(claim, None, 1, due_ms) for claim in claims.values()),
        Release(claims["job_1"]),
    ]
    assert set(run(rounds.apply(writes))) == {TransitionResult.APPLIED}
    for cell in cells:
        dues_ms = [one.due_ms for one in cell.written if one.due_ms is not None]
        assert dues_ms == [pytest.approx(cell.now_ms() + 3000, abs=50)] * 3


def test_each_server_is_asked_with_what_its_own_clock_should_say(rounds, cells):
    """Else a claim on the one would take nothing over for ever, and on the other whatever has stood still."""
    for _ in range(2):
        batch = run(rounds.claim("w", **WANTED, asked_ms=cells[0].now_ms()))
        for seen in rounds._seen["w"].values():
            seen.rung = True
    assert len(batch.claims) == 2
    for cell in cells:
        assert cell.asked[-1]["asked_ms"] == pytest.approx(cell.now_ms(), abs=50)


def test_a_write_that_failed_keeps_its_partition_alone_from_being_claimed_at(rounds, cells):
    """Until it is written."""
    _, claims = claimed(rounds)
    cells[1].error = QueueUnavailableError("away")
    first, second = run(rounds.apply([Reschedule(claim, 1) for claim in claims.values()]))
    assert first is TransitionResult.APPLIED
    assert isinstance(second, QueueUnavailableError)
    cells[1].error = None
    assert set(_again(rounds)) == {"job_0"}
    run(rounds.apply([Reschedule(claims["job_1"], 1)]))
    assert set(_again(rounds)) == {"job_0", "job_1"}


def test_of_leases_that_could_not_be_renewed_nothing_is_known(rounds, cells):
    """They are neither lost nor held; and nothing is claimed there before they are."""
    _, claims = claimed(rounds)
    held = [(claim.job_id, claim.token, True) for claim in claims.values()]
    cells[1].error = QueueUnavailableError("away")
    assert run(rounds.renew(held, LeasePolicy())) == [True, None]
    cells[1].error = None
    assert set(_again(rounds)) == {"job_0"}
    assert run(rounds.renew(held, LeasePolicy())) == [True, True]
    assert set(_again(rounds)) == {"job_0", "job_1"}
    cells[0].error = cells[1].error = QueueUnavailableError("away")
    with pytest.raises(QueueUnavailableError):
        run(rounds.renew(held, LeasePolicy()))


def test_an_error_about_the_data_of_a_job_is_raised_as_without_partitions(rounds, cells):
    """So that the one job is found."""
    _, claims = claimed(rounds)
    cells[1].error = QueueRefusedError("no", about_data=True)
    with pytest.raises(QueueRefusedError):
        run(rounds.apply([Reschedule(claim, 1) for claim in claims.values()]))


def _again(rounds):
    for seen in rounds._seen["w"].values():
        seen.rung = True
    return claimed(rounds)[1]


def test_what_is_in_hand_in_one_partition_alone_holds_no_other_back(rounds, cells):
    """Nobody says of its leases, and the runner does not take the whole queue for gone."""
    _, claims = claimed(rounds)
    cells[1].error = QueueUnavailableError("away")
    there = claims["job_1"]
    assert run(rounds.renew([(there.job_id, there.token, True)], LeasePolicy())) == [None]
    assert set(_again(rounds)) == {"job_0"}
