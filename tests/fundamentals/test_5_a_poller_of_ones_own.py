"""Another video API: a class with one method that asks once, and says what the answer means."""

from __future__ import annotations

import httpx

from videopoll.observations import Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.testing import FakeServer, Reply, Sandbox


class TaskPoller:
    """Asks an API that calls its jobs tasks. When to ask again is not its affair."""

    def __init__(self, base_url):
        self._client = httpx.Client(base_url=base_url, trust_env=False)

    def poll(self, job, *, timeout_s):
        reply = self._client.get(f"/tasks/{job.job_id}", timeout=timeout_s)
        if not reply.is_success:
            return Fault(FaultKind.SERVER, f"HTTP {reply.status_code}")
        task = reply.json()
        match task["state"]:
            case "succeeded":
                return VideoReady(task["url"])
            case "failed":
                return VideoFailed(task["reason"])
            case state:
                return VideoWorking(state)

    def close(self):
        self._client.close()


def test_the_worker_asks_the_new_api():
    # A real HTTP server with a route. What has none is answered with 404.
    with FakeServer() as api:
        api.route(
            "GET",
            "/tasks/job_1",
            Reply.json({"state": "rendering"}),
            Reply.fault(502),
            Reply.json({"state": "succeeded", "url": "https://files.example/1.mp4"}),
        )
        with Sandbox(poller=TaskPoller(api.url)) as sandbox:
            sandbox.queue.enqueue("job_1", conversation_id="maria")
            sandbox.run_until_settled()
            message = sandbox.assert_delivered_once("job_1")

    assert message.video_url == "https://files.example/1.mp4"
    assert [request.path for request in api.requests] == ["/tasks/job_1"] * 3


def test_what_a_poller_raises_is_a_fault_like_any_other():
    """A bug in it, or a library that raises: the poll counts, and the next one comes after a pause."""
    with Sandbox() as sandbox:
        sandbox.poller.job("job_1", KeyError("state"), VideoReady("https://files.example/1.mp4"))
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        sandbox.assert_delivered_once("job_1")
        assert len(sandbox.poller.polls) == 2
