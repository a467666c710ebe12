"""Another messenger: a class with one method that sends once, and says what became of it."""

from __future__ import annotations

from videopoll import Recipient, RoutingNotifier
from videopoll.jobs import JobState, MessageForm
from videopoll.messages import Delivered, Refused
from videopoll.testing import Sandbox, build_message


class Pigeons:
    """Brings texts; a video is too heavy."""

    def __init__(self):
        self.flights = []

    def notify(self, message):
        if message.form is MessageForm.VIDEO:
            return Refused("too heavy", try_text=True)
        self.flights.append((message.recipient.to, message.text))
        return Delivered(f"flight-{len(self.flights)}")


def test_a_message_alone():
    """Without a worker: build what it would call the notifier with."""
    pigeons = Pigeons()
    recipient = Recipient(channel="pigeon", to="tower 7")

    assert pigeons.notify(build_message(recipient=recipient)) == Refused("too heavy", try_text=True)
    assert pigeons.notify(build_message(form="text", recipient=recipient)) == Delivered("flight-1")


def test_users_of_different_channels():
    """Whom a conversation belongs to, and over which channel they are reached, is asked when a message is due."""
    pigeons = Pigeons()
    homes = {"maria": Recipient(channel="pigeon", to="tower 7", language="en")}
    notifier = RoutingNotifier({"pigeon": pigeons}, resolve=homes.get)

    with Sandbox(notifier=notifier) as sandbox:
        sandbox.queue.enqueue("job_1", conversation_id="maria")
        sandbox.run_until_settled()
        assert sandbox.queue.get("job_1").state is JobState.SETTLED

    # As the video was too heavy, the text with the link came instead.
    ((to, text),) = pigeons.flights
    assert to == "tower 7"
    assert text.startswith("🎥 Your video is ready!")
    assert "https://files.example/job_1.mp4" in text
