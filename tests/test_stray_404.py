"""A 404 that is not the video API's word about the job does not end it: nor does its first one, if it has known the job."""

from __future__ import annotations

import json

import attrs
import pytest

from kit import FAST, until
from videopoll import events
from videopoll._http import HttpReply
from videopoll._reasons import told_or_withheld
from videopoll.core.polling import NextPoll, decide
from videopoll.jobs import Outcome, OutcomeKind, VideoJob
from videopoll.jobs.transition import PollWork
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoWorking
from videopoll.policies import PollingStrategy
from videopoll.queue.calls import _read_faults
from videopoll.testing import Reply
from videopoll.video_api.poller import read_reply

T0 = 1_757_157_518_000
JOB = VideoJob("job_1", "conversation-1", T0)
SPEC = PollingStrategy()


def at(seconds: float) -> int:
    """Give a time, in seconds after the job's start."""
    return T0 + round(seconds * 1000)


def read(body: object, status: int = 404, **headers: str):
    """Read one reply about job_1."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply("job_1", HttpReply(status=status, headers=headers, body=raw), 0.0)


# --- whose word it is ---

OTHERS = {
    "Go's router": b"404 page not found\n",
    "nginx": b"<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>",
    "Kubernetes ingress": b"default backend - 404",
    "Express": b"<!DOCTYPE html>\n<html><pre>Cannot GET /job/job_1</pre></html>",
    "a list": b"[]",
    "a string": b'"Not Found"',
    "null": b"null",
    "an empty object": b"{}",
    "FastAPI": {"detail": "Not Found"},
    "Kong": {"message": "no Route matched with those values"},
    "AWS": {"message": "Not Found"},
    "Azure": {"error": {"code": "404", "message": "Resource not found"}},
    "Nest": {"statusCode": 404, "message": "Cannot GET /job/job_1", "error": "Not Found"},
    "Flask": {
        "message": "The requested URL was not found on the server. If you entered the URL manually please check."
    },
    "Vercel": {"error": {"code": "404", "message": "The page could not be found"}},
    "Spring": {"timestamp": "2026-01-01T00:00:00Z", "status": 404, "error": "Not Found", "path": "/job/job_1"},
    "Railway": {"status": "error", "code": 404, "message": "Application not found", "request_id": "x"},
    "Cloudflare": {"cloudflare_error": True, "error": "no such job"},
}

OWN = {
    "the fake's": {"error": "Job not found"},
    "by id": {"jobId": "job_1", "error": "Not found"},
    "by status": {"status": "not_found"},
    "in a message": {"message": "No such video generation"},
    "in a detail": {"detail": "Unknown job"},
    "nested": {"error": {"code": "JOB_NOT_FOUND", "message": "job_1 does not exist"}},
    "in another language": {"error": "El trabajo no existe"},
    "without a body": b"",
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_a_404_in_the_words_of_another_is_a_fault(body):
    """A proxy that finds nobody behind it while the API is redeployed."""
    seen = read(body)
    assert isinstance(seen, Fault)
    assert seen.kind is FaultKind.SERVER
    assert "other words" in told_or_withheld(seen.detail)


@pytest.mark.parametrize("body", OWN.values(), ids=OWN)
def test_a_404_in_the_apis_own_words_is_about_the_job(body):
    assert read(body) == VideoMissing()


@pytest.mark.parametrize("status", [400, 410])
def test_a_refusal_in_the_words_of_another_ends_no_job(status):
    """nginx answers 400 to a header that is too large for it."""
    assert isinstance(read(b"<html>Request Header Or Cookie Too Large</html>", status), Fault)
    assert isinstance(read(b"MissingRecord", status), Fault)
    assert read({"error": "bad prompt"}, status) == VideoFailed("bad prompt")
    assert told_or_withheld(read({"error": "bad prompt"}, status).error) == f"HTTP {status}"
    assert str(status) in told_or_withheld(read(b"", status).error)


# --- what it comes to ---


def missing(seconds: float, due_s: float | None = None, **work: object) -> NextPoll | Outcome:
    """Judge a 404 of the API's own at a time."""
    options = {"attempts": 3, "faults": 0, "last_answer_ms": None, **work}
    return decide(PollWork(JOB, **options), at(due_s or seconds), VideoMissing(), at(seconds), SPEC)


def test_an_api_that_never_knew_the_job_is_believed_when_the_grace_is_over():
    assert missing(5).missing_ms == at(5)
    assert missing(15).kind is OutcomeKind.NOT_FOUND


def test_an_api_that_has_known_the_job_is_believed_at_the_second_time_in_a_row():
    """An interval after the first."""
    first = missing(25.2, due_s=25, known=True)
    assert first == NextPoll(at(35.2), 0, at(25.2), missing_ms=at(25.2))
    assert missing(35.2, missing_ms=first.missing_ms).kind is OutcomeKind.NOT_FOUND


def test_two_that_follow_each_other_at_once_are_one():
    """Somebody asked to poll now, or a late poll was followed by another."""
    again = missing(26, missing_ms=at(25))
    assert (again.missing_ms, again.due_ms) == (at(25), at(36))
    assert missing(35, missing_ms=at(25)).kind is OutcomeKind.NOT_FOUND


def test_an_answer_in_between_begins_anew_and_a_fault_does_not():
    work = PollWork(JOB, 4, 0, at(25), missing_ms=at(25))
    assert decide(work, at(35), VideoWorking(), at(35), SPEC).missing_ms is None
    assert decide(work, at(35), Fault(FaultKind.SERVER, "x"), at(35), SPEC).missing_ms == at(25)


def test_a_first_one_at_the_deadline_is_a_timeout():
    """It may come back: nobody knows."""
    assert missing(300, known=True).kind is OutcomeKind.TIMED_OUT


def test_a_clock_that_stepped_back_leaves_no_job_missing_for_ever():
    assert missing(25, missing_ms=at(700)).missing_ms == at(25)


@pytest.mark.parametrize(
    ("state", "read_as"),
    [
        (b"", (0, None, None, None)),
        (b"2:7", (2, 7, None, None)),
        (b"2:7:3", (2, 7, None, None)),
        (b"2:7:3:9", (2, 7, 9, None)),
        (b"0:7:::5", (0, 7, None, 5)),
        (b"0::3::5", (0, None, None, 5)),
        (b"0:7:::x", (0, None, None, None)),
        (b"0:7:::5:later:fields", (0, 7, None, 5)),
    ],
)
def test_what_is_remembered_is_read_whoever_wrote_it(state, read_as):
    assert _read_faults(state)[:4] == read_as


# --- whole workers ---

STEADY = attrs.evolve(FAST, interval_s=0.3, not_found_grace_s=0.05)


PROXY = Reply(status=404, body=b"404 page not found\n", headers={"content-type": "text/plain"})


@pytest.mark.parametrize(
    "stray",
    [[PROXY], [PROXY, PROXY, PROXY], [Reply.vanished()], [Reply.json({"detail": "Not Found"}, status=404)] * 3],
    ids=["one of a proxy", "three of a proxy", "one of the API", "three of a router"],
)
def test_a_video_arrives_though_a_404_came_while_the_api_was_redeployed(world, stray):
    """processing, processing, then that, then completed."""
    world.api.job("job_1", Reply.processing(), Reply.processing(), *stray, end=Reply.completed())
    to = world.enqueue()
    with world.worker(strategy=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the video arrives")
    assert [message.kind for message in world.ultramsg.inbox(to)] == ["video"]


def test_a_job_that_the_api_has_really_forgotten_ends_at_the_second_404(world):
    world.enqueue("job_1", Reply.processing(), Reply.vanished())
    with world.worker(strategy=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user hears")
    assert worker.recorder.of(events.JobConcluded)[0].outcome is OutcomeKind.NOT_FOUND
    assert [event.status for event in worker.recorder.of(events.JobPolled)] == ["processing", "not_found", "not_found"]


def test_a_job_that_the_api_never_knew_ends_when_the_grace_is_over(world):
    world.enqueue("job_1", Reply.vanished())
    with world.worker(strategy=attrs.evolve(STEADY, not_found_grace_s=0.2)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user hears")
    assert worker.recorder.of(events.JobConcluded)[0].outcome is OutcomeKind.NOT_FOUND
    assert len(worker.recorder.of(events.JobPolled)) <= 3
