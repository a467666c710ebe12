"""A worker's parts for the tests of an app: a poller that answers as scripted, a notifier that remembers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_texts, kind_name, mapped
from videopoll.jobs.job import VideoJob
from videopoll.messages import BaseMessage, Delivered, Receipt
from videopoll.observations import Observation, VideoReady

__all__ = ["PollAnswer", "RecordingNotifier", "ScriptedPoller", "SendAttempt"]

PollAnswer: TypeAlias = Observation | Exception
"""What a scripted poll returns, or raises."""


def _misfit(answer: object) -> str:
    """Return what was handed in for an answer, and what to do about it."""
    hint = ""
    if isinstance(answer, type):
        hint = ": build one of it"
    elif isinstance(answer, list | tuple):
        hint = ": hand in what it holds one by one, with a star before it"
    return f"{kind_name(answer)}{hint}"


class ScriptedPoller:
    """A poller that answers as a test says, without a video API. For both runners.

    ::

        poller = ScriptedPoller({"job_1": [VideoWorking(), VideoReady("https://files.example/1.mp4")]})

    Args:
        answers: The answers by job id: one, or several in order. The last one is repeated. A job
            without answers is finished at its first poll, with a made-up URL.
    """

    def __init__(self, answers: Mapping[str, PollAnswer | Sequence[PollAnswer]] | None = None) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, deque[PollAnswer]] = {}
        self._polls: list[str] = []
        for job_id, some in mapped(answers, "ScriptedPoller.answers").items():
            self.job(job_id, *(some if isinstance(some, Sequence) else (some,)))

    def __repr__(self) -> str:
        return f"<ScriptedPoller polls={len(self._polls)}>"

    def job(self, job_id: str, *answers: PollAnswer) -> None:
        """Set how a job's polls are answered, in order; the last answer is repeated. Replaces an earlier script.

        Args:
            job_id: The video API's id of the job.
            answers: Observations to return, exceptions to raise; without any, the job is finished at its next poll.

        Raises:
            ConfigurationError: An answer is neither, or the id is no text.
        """
        check_texts("ScriptedPoller.job", job_id=job_id or "")
        for one in answers:
            if not isinstance(one, Observation | Exception):
                msg = f"an answer of ScriptedPoller is an observation or an exception, got {_misfit(one)}"
                raise ConfigurationError(msg)
        with self._lock:
            self._answers[job_id] = deque(answers)

    @property
    def polls(self) -> tuple[str, ...]:
        """The ids of the polled jobs, in order, one per poll."""
        return tuple(self._polls)

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Return, or raise, the next answer of the job."""
        del timeout_s
        with self._lock:
            self._polls.append(job.job_id)
            answers = self._answers.get(job.job_id)
            if not answers:
                return VideoReady(f"https://files.example/{job.job_id}.mp4")
            answer = answers.popleft() if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def apoll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Return, or raise, the next answer of the job."""
        return self.poll(job, timeout_s=timeout_s)


@attrs.frozen
class SendAttempt:
    """One message that a `RecordingNotifier` was asked to send.

    Args:
        message: The message.
        result: The receipt it answered with, or the exception it raised.
    """

    message: BaseMessage
    result: Receipt | Exception

    @property
    def delivered(self) -> bool:
        """Whether the message was accepted."""
        return isinstance(self.result, Delivered)


class RecordingNotifier:
    """A notifier that sends nothing and remembers every message. For both runners.

    It accepts each message, unless `answer_next` says otherwise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: list[SendAttempt] = []
        self._results: deque[Receipt | Exception] = deque()

    def __repr__(self) -> str:
        return f"<RecordingNotifier attempts={len(self._attempts)} delivered={len(self.messages)}>"

    def answer_next(self, *results: Receipt | Exception) -> None:
        """Answer the next messages with these, one each: receipts to return, exceptions to raise.

        Raises:
            ConfigurationError: One is neither.
        """
        for one in results:
            if not isinstance(one, Receipt | Exception):
                msg = f"an answer of RecordingNotifier is a receipt or an exception, got {_misfit(one)}"
                raise ConfigurationError(msg)
        with self._lock:
            self._results.extend(results)

    @property
    def attempts(self) -> tuple[SendAttempt, ...]:
        """Every message that was to be sent, in order, with its result."""
        with self._lock:
            return tuple(self._attempts)

    @property
    def messages(self) -> tuple[BaseMessage, ...]:
        """The accepted messages, in order: what users have read."""
        return tuple(attempt.message for attempt in self.attempts if attempt.delivered)

    def notify(self, message: BaseMessage) -> Receipt:
        """Remember the message, and return the receipt."""
        with self._lock:
            number = len(self._attempts) + 1
            result = self._results.popleft() if self._results else Delivered(f"message_{number}")
            self._attempts.append(SendAttempt(message, result))
        if isinstance(result, Exception):
            raise result
        return result

    async def anotify(self, message: BaseMessage) -> Receipt:
        """Remember the message, and return the receipt."""
        return self.notify(message)
