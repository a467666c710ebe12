"""A message is sent again until it has arrived, and never after it may have arrived without asking first."""

from __future__ import annotations

from videopoll.jobs import JobState
from videopoll.messages import NotSent, Refused
from videopoll.testing import Sandbox


def test_a_busy_messenger_gets_the_message_later():
    """The outcome is kept in the outbox; the video API is not asked again."""
    with Sandbox() as sandbox:
        sandbox.notifier.answer_next(NotSent("busy"), NotSent("busy"))
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        sandbox.assert_delivered_once("job_1")
        assert [attempt.delivered for attempt in sandbox.notifier.attempts] == [False, False, True]
        assert sandbox.poller.polls == ("job_1",)


def test_what_is_refused_for_good_is_a_dead_letter_that_a_person_can_redrive():
    with Sandbox() as sandbox:
        sandbox.notifier.answer_next(Refused("no such number", try_text=False))
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()

        assert sandbox.queue.get("job_1").state is JobState.DEAD
        (letter,) = sandbox.queue.dead_letters.list()
        assert "no such number" in letter.reason

        # The number has been corrected in the host's database.
        assert sandbox.queue.dead_letters.redrive("job_1")
        sandbox.run_until_settled()
        sandbox.assert_delivered_once("job_1")
