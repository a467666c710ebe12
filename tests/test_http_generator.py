"""Generations at described video APIs: what is asked for, what its answers come to, and what a poll needs of them."""

from __future__ import annotations

import json

import attrs
import pytest

from videopoll._http import HttpReply
from videopoll.errors import InvalidJobError
from videopoll.jobs import VideoJob
from videopoll.observations import Fault, FaultKind, VideoMissing, VideoWorking
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import GenerationStarted
from videopoll.video_api.apis import FAL, REPLICATE, VIDEOS
from videopoll.video_api.http_poller import read_answer
from videopoll.video_api.operation import api_id_of, job_id_of

BASE = "https://api.example/v1"
NOW_S = 1_757_157_518.0
PROMPT = "A red fox walks through fresh snow at dawn"


def job_of(started):
    return VideoJob(started.job_id, "user", round(NOW_S * 1000), started.metadata)


def reply(body, status=200, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status=status, headers={"content-type": "application/json", **headers}, body=raw)


# --- the job of a generation ---


def test_a_job_of_a_provider_is_named_after_both_and_knows_what_its_api_calls_it():
    started = GenerationStarted.of("fal", "r-1", status_url="https://queue.fal.run/m/requests/r-1/status")
    assert started.job_id == "fal:r-1"
    assert started.metadata == {
        "provider": "fal",
        "operation": {"id": "r-1", "status_url": "https://queue.fal.run/m/requests/r-1/status"},
    }
    assert "queue.fal.run" not in repr(started)


def test_a_job_without_a_provider_is_called_as_its_api_calls_it():
    started = GenerationStarted(job_id="job_1")
    assert (started.job_id, started.metadata) == ("job_1", {})
    assert api_id_of(job_of(started)) == "job_1"


def test_equal_ids_of_two_providers_are_two_jobs():
    assert GenerationStarted.of("fal", "1").job_id != GenerationStarted.of("xai", "1").job_id


@pytest.mark.parametrize("api_id", ["projects/p/locations/l/operations/1", "video_" + "x" * 350, "x" * 512, "ñ?#%2e"])
def test_an_id_of_any_length_is_asked_for_as_the_api_gave_it(api_id):
    started = GenerationStarted.of("videos", api_id)
    job = job_of(started)
    assert len(started.job_id) <= 512
    assert started.job_id == job_id_of("videos", api_id)
    assert api_id_of(job) == api_id
    assert VIDEOS.url(VIDEOS.poll, BASE, job) == VIDEOS.url(
        VIDEOS.poll, BASE, attrs.evolve(job, job_id=api_id, metadata={})
    )


@pytest.mark.parametrize("api_id", ["", "a b", "..", "x" * 513, "a\nb", "\ud800"])
def test_an_id_that_none_can_be_is_refused(api_id):
    with pytest.raises(InvalidJobError, match="the API's id"):
        GenerationStarted.of("videos", api_id)


def test_an_answer_is_that_of_a_job_by_the_id_of_the_api():
    job = job_of(GenerationStarted.of("replicate", "p-1"))
    assert REPLICATE.url(REPLICATE.poll, BASE, job) == f"{BASE}/predictions/p-1"
    working = read_answer(REPLICATE, BASE, job, reply({"id": "p-1", "status": "starting"}), NOW_S)
    assert type(working) is VideoWorking
    other = read_answer(REPLICATE, BASE, job, reply({"id": "replicate:p-1", "status": "starting"}), NOW_S)
    assert (type(other), other.kind) == (Fault, FaultKind.MALFORMED)
    # A router's words, but for the id that it names.
    gone = reply({"id": "p-1", "error": "not found"}, 404)
    assert read_answer(REPLICATE, BASE, job, gone, NOW_S) == VideoMissing()


@pytest.mark.parametrize("operation", [None, "x", [], {}, {"id": None}, {"id": 7}, {"id": ""}])
def test_an_operation_without_an_id_leaves_the_jobs_own(operation):
    assert api_id_of(VideoJob("job_1", "user", 0, {"operation": operation})) == "job_1"


# --- the tool ---


@attrs.define
class Kept:
    jobs: list = attrs.field(factory=list)

    def enqueue(self, job_id, *, conversation_id, metadata):
        self.jobs.append((job_id, conversation_id, metadata))


def test_the_tool_hands_on_what_a_poll_needs(kind, call):
    class Generator:
        def generate(self, request):
            return GenerationStarted.of("fal", "r-1", status_url="https://queue.fal.run/x")

    queue = Kept()
    tool = VideoGeneratorTool(queue, Generator())
    ask = tool.call if kind == "sync" else tool.acall
    answer = call(ask({"prompt": PROMPT}, conversation_id="c", metadata={"to": "1", "operation": "mine"}))

    assert answer["job_id"] == "fal:r-1"
    ((job_id, _, metadata),) = queue.jobs
    assert job_id == "fal:r-1"
    assert metadata["to"] == "1"
    assert (metadata["provider"], metadata["operation"]) == (
        "fal",
        {"id": "r-1", "status_url": "https://queue.fal.run/x"},
    )
    job = VideoJob(job_id, "c", 0, metadata)
    assert FAL.url(FAL.poll, "https://queue.fal.run", job) == "https://queue.fal.run/x"
