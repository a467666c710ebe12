"""A job is polled until its video is ready, and its user is told once."""

from __future__ import annotations

from videopoll.jobs import JobState
from videopoll.observations import VideoReady, VideoWorking
from videopoll.testing import Sandbox


def test_a_job_is_polled_until_its_video_is_ready_and_its_user_is_told():
    # A sandbox is a queue in memory and a worker over it. Its poller answers what we say.
    with Sandbox() as sandbox:
        sandbox.poller.job("job_17", VideoWorking(), VideoWorking(), VideoReady("https://files.example/17.mp4"))

        # Somebody started a generation at the video API and got the id "job_17". Who waits for it is our own affair:
        # videopoll keeps the conversation's name and hands it back.
        sandbox.queue.enqueue("job_17", conversation_id="maria", metadata={"prompt": "a dancing fox"})
        assert sandbox.queue.get("job_17").state is JobState.QUEUED

        # Five seconds to the first poll, ten between two polls. The sandbox's clock is moved, nobody waits.
        sandbox.run_until_settled()

        assert len(sandbox.poller.polls) == 3
        message = sandbox.assert_delivered_once("job_17")
        assert message.conversation_id == "maria"
        assert message.video_url == "https://files.example/17.mp4"
        assert sandbox.queue.get("job_17").state is JobState.SETTLED


def test_the_same_id_twice_is_one_job():
    """A web request may be repeated: its user still gets one video."""
    with Sandbox() as sandbox:
        assert sandbox.queue.enqueue("job_17", conversation_id="maria") == "created"
        assert sandbox.queue.enqueue("job_17", conversation_id="maria") == "known"

        sandbox.run_until_settled()

        sandbox.assert_delivered_once("job_17")
        assert sandbox.queue.enqueue("job_17", conversation_id="maria") == "finished"
