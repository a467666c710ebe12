"""There will be no video: the user is told that too, once, and never why the API says so."""

from __future__ import annotations

from videopoll import PollingStrategy
from videopoll.jobs import OutcomeKind
from videopoll.observations import VideoFailed, VideoMissing, VideoWorking
from videopoll.testing import Sandbox


def test_the_generation_fails():
    with Sandbox() as sandbox:
        sandbox.poller.job("job_1", VideoFailed("RAI_FILTERED at veo.py:12"))
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        message = sandbox.assert_delivered_once("job_1", outcome="failed")
        assert message.text.startswith("😔 Hubo un problema generando tu video"), (
            "Spanish, unless the host says otherwise"
        )
        assert "RAI_FILTERED" not in message.text, "the API's words are the operator's"
        assert "RAI_FILTERED" in sandbox.queue.get("job_1").outcome.error


def test_the_generation_does_not_end():
    """After five minutes or thirty polls nobody waits any longer."""
    with Sandbox() as sandbox:
        sandbox.poller.job("job_1", VideoWorking())
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        sandbox.assert_delivered_once("job_1", outcome=OutcomeKind.TIMED_OUT)
        assert len(sandbox.poller.polls) == PollingStrategy().max_attempts == 30


def test_the_api_knows_no_such_job():
    """It may not know it yet: only after a while is that an answer."""
    with Sandbox() as sandbox:
        sandbox.poller.job("job_1", VideoMissing())
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        sandbox.assert_delivered_once("job_1", outcome="not_found")
        assert len(sandbox.poller.polls) > 1


def test_the_user_has_changed_her_mind():
    """A cancelled job is polled no more, and nobody hears of it."""
    with Sandbox() as sandbox:
        sandbox.queue.enqueue("job_1", conversation_id="maria")

        assert sandbox.queue.cancel("job_1") == "cancelled"
        sandbox.run_until_settled()

        assert sandbox.poller.polls == ()
        assert sandbox.notifier.messages == ()
