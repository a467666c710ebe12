"""The log: the specification's lines with their fields, and nothing secret in it, at any level and of any logger."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
import redis

from kit import API_KEY, INSTANCE, TOKEN, open_world, phone, until
from videopoll import LeasePolicy, PollingStrategy, events
from videopoll.observe.log_setup import JsonFormatter
from videopoll.queue.history import RedisHistory
from videopoll.testing import Reply

PROMPT = "a private wish of the user"
SIGNATURE = "very-secret-signature"
SIGNED = f"https://files.example/video-of-the-user.mp4?signature={SIGNATURE}"


@pytest.fixture
def lines():
    """Everything that any logger says, as JSON lines with every field."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    touched = {root: root.level}
    # Loggers with a level of their own would keep quiet.
    for name in list(root.manager.loggerDict):
        logger = logging.getLogger(name)
        touched[logger] = logger.level
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    for logger, level in touched.items():
        logger.setLevel(level)


def numbers(*wanted):
    return [phone(number) for number in wanted]


def test_a_full_run_at_debug_tells_no_secret(world, lines, redis_url, prefix):
    """Over both channels, with trouble on the way, a cancel, a wrong key and a dead letter."""
    world.api.job("job_1", Reply.processing(), Reply.fault(503), Reply.completed(SIGNED))
    world.api.job("job_2", Reply.failed(f"see {SIGNED}"))
    world.api.job("job_3", Reply.processing("dancing"), Reply.completed(SIGNED))
    world.api.job("job_4", Reply.completed(SIGNED))
    world.api.job("job_5", Reply.garbage(f"{PROMPT} {SIGNED}".encode()), Reply.completed(SIGNED))
    world.ultramsg.refuse_videos(phone(4))
    world.ultramsg.fail_next(Reply.fault(500), path="/messages/video")
    with RedisHistory(redis_url, prefix=prefix) as hook, world.queue(hooks=[hook]) as queue:
        for number in range(1, 7):
            channel = "whatsapp_factory" if number == 3 else "ultramsg"
            metadata = {"channel": channel, "to": phone(number), "prompt": PROMPT}
            queue.enqueue(f"job_{number}", conversation_id=f"c_{number}", metadata={} if number == 6 else metadata)
        queue.cancel("job_6")
        queue.enqueue("job_7", conversation_id="c_7", metadata={"prompt": PROMPT})
        world.api.job("job_7", Reply.completed(SIGNED))
        worker = world.worker(hooks=[hook])
        with worker:
            hook.follow(worker.runner)
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 5, "all are told")
            until(lambda: worker.recorder.of(events.JobDeadLettered, "job_7"), "one is a dead letter")
            world.api.api_key = "another key"
            queue.enqueue("job_8", conversation_id="c_8", metadata={"channel": "ultramsg", "to": phone(8)})
            until(lambda: worker.recorder.of(events.JobPolled, "job_8"), "the key is refused")

    told = lines()
    text = json.dumps(told, ensure_ascii=False)
    for secret in (API_KEY, TOKEN, PROMPT, SIGNATURE, "video-of-the-user", *numbers(1, 2, 3, 4, 5, 7, 8)):
        assert secret not in text, next(line for line in told if secret in json.dumps(line))
    assert len(told) > 30


def test_the_lines_of_the_specification_and_their_fields(world, lines):
    """From the worker's start to its stop."""
    world.api.job("job_1", Reply.processing(), Reply.completed(SIGNED))
    metadata = {"channel": "ultramsg", "to": phone(1)}
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="68bb3c35", metadata=metadata)
        worker = world.worker()
        with worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
    worker_id = worker.runner.worker_id

    told = [line for line in lines() if line["logger"] == "videopoll.jobs" and line["level"] != "debug"]

    assert [line["message"] for line in told] == [
        "📥 Video job enqueued for background polling: job_1",
        f"🚀 Starting video polling worker: {worker_id}",
        "🎬 Processing video job from queue: job_1",
        "🔍 [job_1] Polling video status (attempt 1, elapsed: 0s): processing",
        "🔍 [job_1] Polling video status (attempt 2, elapsed: 0s): completed",
        "✅ [job_1] Video generation completed",
        "🎥 Video notification sent successfully for conversation: 68bb3c35",
        f"👋 Stopped video polling worker: {worker_id} (0 jobs given back)",
    ]
    polled = told[3]
    assert (polled["event"], polled["job_id"], polled["attempt"], polled["worker_id"]) == (
        "JobPolled",
        "job_1",
        1,
        worker_id,
    )
    assert polled["took_s"] >= 0
    assert polled["lag_s"] >= 0


def test_recovery_after_a_restart_and_timeouts(world, lines):
    """A job that nobody has, one of a dead worker, and one that takes too long."""
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
        queue._client.delete(queue.keys.queue)  # a worker of another kind took it into its memory, and died
        queue.enqueue("job_2", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(2)})
        world.api.job("job_2", Reply.processing())
        lease = LeasePolicy.lasting(0.5)
        quick = PollingStrategy(interval_s=0.3, timeout_s=1.5, initial_delay_s=0.0)
        claimed = queue.claim(polls=1, sends=0, worker_id="dead", strategy=quick, lease=lease)
        assert [claim.job_id for claim in claimed.claims] == ["job_2"]
        worker = world.worker(strategy=quick)
        with worker:
            until(lambda: worker.recorder.of(events.JobDelivered, "job_2"), "its user is told of the timeout")

    told = [line["message"] for line in lines()]
    assert "♻️ Recovering 1 video jobs after restart" in told
    assert "♻️ Taking over video job from a dead worker: job_2" in told
    assert any(line.startswith("❌ [job_2] Video generation ended without a video: timed_out") for line in told)


@pytest.fixture
def async_world(redis_url, prefix):
    yield from open_world("async", redis_url, prefix)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_worker_command_at_debug_tells_no_secret(form, async_world):
    """The log of a real process, of all libraries that it loads."""
    world = async_world
    world.api.job("job_1", Reply.fault(503), Reply.completed(SIGNED))
    command = [sys.executable, "-m", "videopoll", "worker", "--log-level", "debug", "--log-format", form]
    command += [
        "--redis-url",
        world.url,
        "--prefix",
        world.prefix,
        "--api-url",
        world.api.url,
        "--initial-delay",
        "0.1",
    ]
    command += ["--ultramsg-url", world.ultramsg.url, "--ultramsg-instance", INSTANCE]
    command += ["--no-history"] if form == "text" else []
    env = os.environ | {"VIDEOPOLL_API_KEY": API_KEY, "VIDEOPOLL_ULTRAMSG_TOKEN": TOKEN}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr))
    reader.start()
    try:
        with world.queue() as queue:
            metadata = {"channel": "ultramsg", "to": phone(1), "prompt": PROMPT}
            queue.enqueue("job_1", conversation_id="c_1", metadata=metadata)
            until(lambda: queue.get("job_1").faults, "its fault is noted", 30)
            until(lambda: queue.poll_now("job_1"), "its next poll is made due at once")
            keys = queue.keys
        until(lambda: world.ultramsg.inbox(phone(1)), "the user has the video", 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()

    text = "".join(said)
    for secret in (API_KEY, TOKEN, PROMPT, SIGNATURE, "video-of-the-user", phone(1)):
        assert secret not in text
    if form == "json":
        assert {"JobTaken", "JobPolled", "JobDelivered"} <= {json.loads(line).get("event") for line in said}
    else:
        assert "🎥 Video notification sent successfully for conversation: c_1" in text
    with redis.Redis.from_url(world.url) as client:
        assert client.exists(keys.history) == (form == "json")


def test_an_error_text_of_the_api_is_not_logged(world, caplog):
    """An API may repeat the prompt, or the number, in its reason."""
    caplog.set_level("DEBUG")
    prompt, to = "a very private wish of somebody", phone(1)
    world.api.job("job_1", Reply.failed(f"cannot make {prompt!r} for {to} at https://files.example/x?sig=1"))
    with world.queue() as queue, world.worker() as worker:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": to, "prompt": prompt})
        until(lambda: worker.recorder.of(events.JobDelivered), "it has ended")

    assert "Video generation ended without a video: failed (in words of others, which videopoll explain shows)" in (
        caplog.text
    )
    for private in ("cannot make", prompt, to, "sig=1"):
        assert private not in caplog.text
