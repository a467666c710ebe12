"""The operator's commands: where is this user's video, what is wrong, and what fixes it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
import redis
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from kit import API_KEY, INSTANCE, TOKEN, open_world, part, phone, until
from videopoll import AsyncRedisVideoJobQueue, DeliveryPolicy, PollingStrategy, RedisVideoJobQueue, Runner, events
from videopoll._reasons import own
from videopoll.cli import figures
from videopoll.cli.app import COMMANDS, build_app
from videopoll.cli.commands import doctor, watch
from videopoll.cli.commands.jobs import ListedState
from videopoll.cli.describe import describe_entry, message_in
from videopoll.cli.output import duration
from videopoll.jobs import FailureReason, HistoryEntry, HistoryEvent, JobState, MessageForm
from videopoll.messages import Accepted, MessageReceipt, NotSent, Refused
from videopoll.observations import FaultKind, VideoFailed, VideoWorking
from videopoll.policies import LeasePolicy
from videopoll.queue.history import RedisHistory
from videopoll.queue.schema import KEYS, Keys
from videopoll.testing import RecordingNotifier, Reply, ScriptedPoller, unused_port
from videopoll.worker import Health

SIGNED = "https://files.example/1.mp4?signature=very-secret"
SLOW = PollingStrategy(interval_s=60.0, initial_delay_s=0.0, backoff_base_s=30.0)


@pytest.fixture
def invoke(monkeypatch):
    """Call the command line in this process, with a clean environment."""
    for name in [name for name in os.environ if name.startswith("VIDEOPOLL_")]:
        monkeypatch.delenv(name)

    def call(*args):
        result = CliRunner().invoke(build_app([str(arg) for arg in args[:1]]), [str(arg) for arg in args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def cli(invoke, redis_url, prefix):
    """Call a command on the test's own keys."""
    return lambda command, *args: invoke(*command.split(), *args, "--redis-url", redis_url, "--prefix", prefix)


@pytest.fixture
def queue(redis_url, prefix):
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def keys(prefix):
    return Keys(prefix)


@pytest.fixture
def world(redis_url, prefix):
    """The outside world, with workers with threads."""
    yield from open_world("sync", redis_url, prefix)


@pytest.fixture
def hook(redis_url, prefix):
    with RedisHistory(redis_url, prefix=prefix) as hook:
        yield hook


def enqueue(queue, job_id, number=1):
    queue.enqueue(
        job_id, conversation_id="c_1", metadata={"channel": "ultramsg", "to": phone(number), "prompt": "a private wish"}
    )


def run_until_scheduled(world, queue, *job_ids, **options):
    """Let a worker poll jobs once, and end."""
    with world.worker(strategy=SLOW, **options):
        for job_id in job_ids:
            until(lambda job_id=job_id: queue.get(job_id).state is JobState.SCHEDULED, "it is scheduled")
    if "hooks" in options:
        for hook in options["hooks"]:
            hook.close()


class FollowedRunner:
    """What a heartbeat is read from."""

    worker_id = "video_worker_1"
    concurrency = 16
    polls_in_hand = 3
    sends_in_hand = 1

    def health(self) -> Health:
        """Be well."""
        return Health(healthy=True)


@pytest.mark.parametrize(
    "command", ["watch", "jobs", "explain", "poll-now", "drain", "hand-back", "doctor", "status", "show"]
)
def test_every_command_has_a_help_of_its_own_and_speaks_json(invoke, command):
    result = invoke(command, "--help")

    assert result.exit_code == 0
    assert "--json" in result.output
    assert "\\b" not in result.output


def test_errors_are_a_line_and_say_where_redis_was_looked_for(invoke):
    where = r"videopoll: Redis was looked for at redis://127\.0\.0\.1:\d+/0: .*\n"
    for command in (["jobs"], ["explain", "job_1"], ["poll-now", "job_1"], ["show", "job_1", "--live"]):
        result = invoke(*command, "--redis-url", f"redis://127.0.0.1:{unused_port()}/0")
        assert result.exit_code == 1, command
        assert re.fullmatch(rf"videopoll: .*cannot reach Redis.*\n{where}", result.stderr), command
        assert invoke(*command, "--redis-url", "http://x").exit_code == 2, command


# --- poll-now ---


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_job_is_polled_now(kind, call, redis_url, prefix, queue, world, client, keys):  # noqa: PLR0917 - fixtures
    enqueue(queue, "job_1")
    run_until_scheduled(world, queue, "job_1")
    assert queue.get("job_1").due_ms - queue.get("job_1").now_ms > 50_000
    twin = queue if kind == "sync" else AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix)

    assert call(twin.poll_now("job_1")) is True

    view = queue.get("job_1")
    assert view.due_ms <= view.now_ms
    assert call(twin.poll_now("job_2")) is False
    assert client.zscore(keys.schedule, "job_2") is None
    if kind == "async":
        call(twin.close())


def test_one_that_was_due_already_keeps_its_place(queue, client, keys):
    client.zadd(keys.schedule, {"job_1": 5})
    assert queue.poll_now("job_1") is True
    assert client.zscore(keys.schedule, "job_1") == 5


def test_poll_now_brings_the_video(cli, world, queue):
    world.api.job("job_1", Reply.processing(), Reply.completed(SIGNED))
    enqueue(queue, "job_1")
    with world.worker(strategy=SLOW) as worker:
        until(lambda: queue.get("job_1").state is JobState.SCHEDULED, "it waits for a minute")
        assert cli("poll-now job_1").stdout == "job_1\tdue\n"
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")


@pytest.mark.parametrize(("state", "said"), [("queued", "a worker takes it"), ("unknown", "there is no such job")])
def test_poll_now_says_why_it_cannot(cli, queue, state, said):
    if state == "queued":
        enqueue(queue, "job_1")

    result = cli("poll-now job_1")

    assert result.exit_code == 1
    assert said in result.stderr
    assert json.loads(cli("poll-now job_1 --json").stdout) == {"job_id": "job_1", "result": state}


# --- drain ---


def test_drain_waits_until_nothing_is_left(cli, world, queue):
    world.api.job("job_1", Reply.processing(), Reply.completed(SIGNED))
    enqueue(queue, "job_1")
    with world.worker():
        result = cli("drain --timeout 20 --json")

    assert result.exit_code == 0
    assert {"drained": True, "left": 0}.items() <= json.loads(result.stdout).items()
    assert len(world.ultramsg.inbox(phone(1))) == 1
    assert re.match(r"drained in \d", cli("drain").stdout)


def test_drain_gives_up_in_time_and_says_what_is_left(cli, queue):
    enqueue(queue, "job_1")

    result = cli("drain --timeout 0")

    assert result.exit_code == 1
    assert "not drained: 1 to be taken, 0 scheduled" in result.stderr
    assert json.loads(cli("drain --timeout 0 --json").stdout)["left"] == 1


def test_drain_sits_out_a_redis_that_is_away(invoke):
    result = invoke("drain", "--timeout", "0", "--redis-url", f"redis://127.0.0.1:{unused_port()}/0")

    assert result.exit_code == 1
    assert "cannot reach Redis" in result.stderr


# --- hand-back ---


def test_a_hand_back_says_what_it_did_and_what_it_could_not(cli, queue, world, client, keys):
    enqueue(queue, "scheduled_1")
    run_until_scheduled(world, queue, "scheduled_1")
    enqueue(queue, "held_1")
    queue.claim(polls=1, sends=0, worker_id="w_1", strategy=SLOW, lease=LeasePolicy())
    client.zadd(keys.schedule, {f"gone_{number:02}": 1 for number in range(22)} | {"locked_1": 1, "ended_1": 1})
    enqueue(queue, "locked_1")
    client.set(keys.lock("locked_1"), "theirs", ex=60)
    client.set(keys.completed("ended_1"), '{"success":true}', ex=60)
    enqueue(queue, "cancelled_1")
    queue.cancel("cancelled_1", notify=True)

    told = cli("hand-back")

    assert told.exit_code == 1
    assert "handed back: 1\n" in told.stdout
    assert "ended by them: 1\n" in told.stdout
    assert "without a record: 22\n" in told.stdout
    assert "gone_00 has no record any more" in told.stderr
    assert "and 2 more" in told.stderr
    assert "1 under the lock of another worker: hand back again in a minute" in told.stderr
    assert "1 in the hands of videopoll's workers: stop them" in told.stderr
    assert "1 to be delivered, which only videopoll's workers can" in told.stderr
    named = re.findall(r"--state (\w+)", told.stderr)
    assert named
    assert set(named) <= {state.value for state in ListedState}
    again = cli("hand-back --json")
    assert again.exit_code == 1
    left = {"handed": 0, "gone": [], "locked": 1, "in_hand": 1, "sends": 1, "complete": False}
    assert left.items() <= json.loads(again.stdout).items()


def test_a_hand_back_that_leaves_nothing_is_exit_code_0(cli):
    told = cli("hand-back")

    assert (told.exit_code, told.stderr) == (0, "")


# --- jobs ---


def test_a_listed_job_says_whose_it_is(cli, client, queue, keys):
    tenants = RedisVideoJobQueue(client, prefix=keys.prefix, tenant_key="brand")
    tenants.enqueue("job_1", conversation_id="c_1", metadata={"brand": "acme"})
    enqueue(queue, "job_2")

    told = {row["job_id"]: row["tenant"] for row in json.loads(cli("jobs --json").stdout)}

    assert told == {"job_1": "acme", "job_2": None}


def test_jobs_are_listed_by_place(cli, queue, world):
    for number in range(3):
        enqueue(queue, f"scheduled_{number}")
    run_until_scheduled(world, queue, *(f"scheduled_{number}" for number in range(3)))
    enqueue(queue, "queued_1")
    enqueue(queue, "held_1")
    claimed = queue.claim(polls=9, sends=0, worker_id="w_1", strategy=SLOW, lease=LeasePolicy())
    enqueue(queue, "queued_2")
    assert {claim.job_id for claim in claimed.claims} == {"held_1", "queued_1"}
    enqueue(queue, "cancelled_1")
    queue.cancel("cancelled_1", notify=True)

    told = {row["job_id"]: row for row in json.loads(cli("jobs --json").stdout)}

    assert {job_id: row["state"] for job_id, row in told.items()} == {
        "held_1": "polling",
        "queued_1": "polling",
        "cancelled_1": "outbox",
        "scheduled_0": "scheduled",
        "scheduled_1": "scheduled",
        "scheduled_2": "scheduled",
        "queued_2": "queued",
    }
    assert told["held_1"]["worker"] == "w_1"
    assert told["scheduled_0"]["polls"] == 1
    assert told["cancelled_1"]["outcome"] == "cancelled"
    assert [line.split("\t")[0] for line in cli("jobs --state queued").stdout.splitlines()] == ["queued_2"]
    assert len(json.loads(cli("jobs --worker w_1 --json").stdout)) == 2
    assert json.loads(cli("jobs --older-than 60 --json").stdout) == []
    assert "poll in" in cli("jobs --state scheduled").stdout
    limited = cli("jobs --limit 2")
    assert len(limited.stdout.splitlines()) == 2
    assert "raise --limit" in limited.stderr
    assert phone(1) not in cli("jobs").output


def test_dead_jobs_are_listed_with_their_reason(cli, world, queue):
    queue.enqueue("job_1", conversation_id="c")
    world.api.job("job_1", Reply.completed(SIGNED))
    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is dead")

    (row,) = json.loads(cli("jobs --state dead --json").stdout)
    assert (row["state"], row["outcome"]) == ("dead", "completed")
    assert "channel" in row["reason"]


def test_settled_jobs_are_listed_the_last_one_first(cli, world, queue, client, keys):
    """They stand in no list: they are looked for among all keys."""
    for number, reply in enumerate((Reply.completed(SIGNED), Reply.failed("no such style"))):
        enqueue(queue, f"job_{number}", number)
        world.api.job(f"job_{number}", reply)
        with world.worker() as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
    client.set(keys.completed("foreign"), b'{"success":true,"completedAt":1,"processingTime":1e300}', ex=60)
    client.set(keys.completed("gar\nbage"), b"{", ex=60)
    client.lpush(keys.completed("no text"), "x")
    enqueue(queue, "waiting")

    told = json.loads(cli("jobs --state settled --json").stdout)

    assert [(one["job_id"], one["outcome"], one["delivered"]) for one in told[:3]] == [
        ("job_1", "failed", True),
        ("job_0", "completed", True),
        ("foreign", "completed", None),
    ]
    assert [one["job_id"] for one in told[3:]] == ["gar\nbage"]
    assert told[0]["start_ms"] <= told[0]["at_ms"]
    first, second = cli("jobs --state settled --limit 2").stdout.splitlines()
    assert first.startswith("job_1\tsettled\t")
    assert "user told" in first
    assert "no such style" in first
    assert "completed" in second
    assert json.loads(cli("jobs --state settled --older-than 3600 --json").stdout) == []
    everything = cli("jobs --state settled --state queued").stdout
    assert "waiting" in everything
    assert SIGNED not in everything
    client.delete(keys.completed("no text"))


def test_the_jobs_of_a_conversation_are_found_wherever_they_are(cli, world, queue):
    """A user asks after a video, and nobody knows the job's id."""
    queue.enqueue("ended_1", conversation_id="c_7", metadata={"channel": "ultramsg", "to": phone(1)})
    queue.enqueue("dead_1", conversation_id="c_7")
    for job_id in ("ended_1", "dead_1"):
        world.api.job(job_id, Reply.completed(SIGNED))
    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "one is delivered")
        until(lambda: worker.recorder.of(events.JobDeadLettered), "nobody knows where to send the other")
    queue.enqueue("waiting_1", conversation_id="c_7")
    queue.enqueue("another_1", conversation_id="c_8")

    told = json.loads(cli("jobs --conversation c_7 --json").stdout)

    assert [(one["job_id"], one["state"]) for one in told] == [
        ("waiting_1", "queued"),
        ("dead_1", "dead"),
        ("ended_1", "settled"),
    ]
    assert {one["conversation"] for one in told} == {"c_7"}
    assert [line.split("\t")[0] for line in cli("jobs --conversation c_8").stdout.splitlines()] == ["another_1"]
    assert cli("jobs --conversation c_9 --state queued").stdout == ""


def test_hostile_ids_stay_on_their_line(cli, client, keys):
    client.lpush(keys.queue, "gh\nost[bold]\udcff".encode("utf-8", "surrogateescape"))

    (line,) = cli("jobs").stdout.splitlines()
    assert line.startswith("gh\\nost[bold]\\udcff\t")


def test_no_command_uses_keys_or_needs_scan(invoke, world, queue, redis_url, prefix):
    """Only the counts of status scan, and they can be left out."""
    enqueue(queue, "job_1")
    with redis.Redis.from_url(redis_url) as admin:
        commands = ["+@all", "-scan", "-keys"]
        admin.acl_setuser(prefix, enabled=True, passwords=["+pw"], keys=[f"{prefix}:*"], commands=commands)
        try:
            url = redis_url.replace("redis://", f"redis://{prefix}:pw@")
            for command in (
                ["status", "--no-scan", "--api-url", world.api.url],
                ["jobs"],
                ["jobs", "--conversation", "c_1"],
                ["explain", "job_1"],
                ["show", "job_1"],
                ["watch", "--for", "0"],
            ):
                assert invoke(*command, "--redis-url", url, "--prefix", prefix).exit_code == 0, command
            result = invoke("jobs", "--conversation", "c_1", "--redis-url", url, "--prefix", prefix)
            assert "job_1" in result.stdout
            assert "jobs that have ended are left out" in result.stderr
            assert invoke("jobs", "--state", "settled", "--redis-url", url, "--prefix", prefix).exit_code == 1
            for command in (["poll-now", "job_1"], ["drain", "--timeout", "0"], ["hand-back"], ["doctor"]):
                result = invoke(*command, "--redis-url", url, "--prefix", prefix)
                assert "NOPERM" not in result.output, command
                assert "may not run" not in result.output, command
            assert "lost jobs\tare not looked for: this user may not SCAN" in result.stdout
        finally:
            admin.acl_deluser(prefix)


# --- status ---


def test_status_tells_of_workers_the_oldest_job_and_the_lag(cli, world, queue, client, keys, hook):  # noqa: PLR0917 - fixtures
    enqueue(queue, "job_1")
    enqueue(queue, "job_2")
    run_until_scheduled(world, queue, "job_1", "job_2")
    client.zadd(keys.schedule, {"job_1": queue.counts().now_ms - 5_000})
    hook.follow(FollowedRunner())
    until(queue.workers, "it beats")

    told = json.loads(cli("status --json --check --no-scan --api-url", world.api.url).stdout)
    plain = cli("status --no-scan --api-url", world.api.url).stdout

    assert told["oldest"]["job_id"] == "job_1"
    assert told["oldest"]["age_s"] > 0
    assert 4.5 < told["lag_s"] < 15
    assert told["workers_alive"] == 1
    assert told["workers"][0]["version"]
    assert told["problems"] == []
    assert re.search(r"^worker video_worker_1: 0\.\S+ sync, 3 of 16 polls, 1 sends, up ", plain, re.MULTILINE)
    assert re.search(r"^oldest job: job_1, .* old, scheduled$", plain, re.MULTILINE)


def test_status_counts_the_keys_of_all_partitions(cli, redis_url, prefix):
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix, partitions=3) as spread:
        spread.enqueue_many((f"job_{n}", "c", {}) for n in range(20))
        assert json.loads(cli("status --json").stdout)["active"] == 20

        for n in range(15):
            spread.cancel(f"job_{n}")
    told = json.loads(cli("status --json").stdout)
    assert (told["active"], told["completed"], told["counted_all_keys"]) == (5, 15, True)


def test_status_check_fails_when_all_workers_died_or_polls_are_late(cli, world, queue, client, keys):
    enqueue(queue, "job_1")
    now_ms = queue.counts().now_ms
    client.zadd(keys.workers, {"dead": now_ms - 60_000})
    client.expire(keys.workers, 60)

    result = cli("status --check --no-scan --api-url", world.api.url)
    assert result.exit_code == 1
    assert "jobs wait and no worker is alive: start one" in result.stderr

    client.delete(keys.workers)
    client.zadd(keys.schedule, {"job_2": now_ms - 1000 * (figures.LATE_S + 5)})
    result = cli("status --check --no-scan --json --api-url", world.api.url)
    assert result.exit_code == 1
    assert "polls are late by" in json.loads(result.stdout)["problems"][0]


# --- show --live ---


def test_show_live_asks_the_video_api_and_changes_nothing(cli, world, queue, client, keys, monkeypatch):  # noqa: PLR0917 - fixtures
    monkeypatch.setenv("VIDEOPOLL_API_KEY", API_KEY)
    world.api.job("job_1", Reply.completed(SIGNED))
    enqueue(queue, "job_1")
    before = client.dump(keys.job("job_1")), client.lrange(keys.queue, 0, -1), client.keys(f"{keys.prefix}:*")

    told = json.loads(cli("show job_1 --live --json --api-url", world.api.url).stdout)

    assert told["live"] == "completed, https://files.example/1.mp4?•••"
    assert told["state"] == "queued"
    assert (client.dump(keys.job("job_1")), client.lrange(keys.queue, 0, -1), client.keys(f"{keys.prefix}:*")) == before
    world.api.job("job_9", Reply.vanished())
    assert "live: it does not know the job\n" in cli("show job_9 --live --api-url", world.api.url).stdout


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply.processing(), "processing"),
        (Reply.failed("no"), "failed (no)"),
        (Reply.fault(503), "no answer (HTTP 503)"),
    ],
)
def test_show_live_says_what_the_api_says(cli, world, queue, monkeypatch, reply, said):  # noqa: PLR0917 - fixtures
    monkeypatch.setenv("VIDEOPOLL_API_KEY", API_KEY)
    world.api.job("job_1", reply)
    enqueue(queue, "job_1")

    assert f"live: {said}\n" in cli("show job_1 --live --api-url", world.api.url).stdout


def test_show_live_without_a_key_says_what_to_set(cli, queue):
    enqueue(queue, "job_1")

    result = cli("show job_1 --live")

    assert result.exit_code == 2
    assert "set VIDEOPOLL_API_KEY" in result.stderr


# --- accounts that are held back ---


def test_operators_see_which_account_is_held_back_and_for_how_long(cli, queue):
    queue.enqueue("job_1", conversation_id="c")
    assert "held back" not in cli("status").stdout + cli("doctor").stdout + cli("explain job_1").stdout

    queue.brake({"fal:3f9a1c0b77d2e845": 30.0, "kling\x1b[2J:1": 20.0})

    for command in ("status", "doctor"):
        assert re.search(
            r"held back after a 429.* fal:3f9a1c0b77d2e845 for another (30|2\d)(\.\d)? s", cli(command).stdout
        )
    assert "leave an account of a video API alone after a 429" in cli("explain job_1").stdout
    assert "\x1b" not in cli("status").stdout + cli("explain job_1").stdout
    first, second = json.loads(cli("status --json").stdout)["held_accounts"]
    assert first["account"] == "fal:3f9a1c0b77d2e845"
    assert 0 < second["for_s"] < first["for_s"] <= 30


# --- explain ---


def test_explain_tells_the_whole_story(cli, world, queue, hook):
    world.api.job("job_1", Reply.processing(), Reply.fault(503), Reply.completed(SIGNED))
    world.ultramsg.refuse_videos(phone(1))
    enqueue(queue, "job_1")
    with world.worker(hooks=[hook]) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
    hook.close()

    plain, told = cli("explain job_1").stdout, json.loads(cli("explain job_1 --json").stdout)

    order = [
        "enqueued by a producer",
        "taken by a worker",
        "poll 1: processing, polled again",
        "poll 2: the video API is in trouble (HTTP 503), tried again",
        "poll 3: completed",
        "polling over after 3 polls: the video is ready",
        "send 1 as video: refused by the channel",
        "send 2 as text: accepted by the channel",
        "the user got a text message",
        "It has ended.",
        "The user was told, with a text message.",
    ]
    places_found = [plain.find(words) for words in order]
    assert -1 not in places_found, plain
    assert places_found == sorted(places_found)
    assert [one["step"] for one in told["story"]][:2] == ["enqueued", "taken"]
    assert told["now"]["delivered"] is True
    for secret in (phone(1), TOKEN, "signature", "wish"):
        assert secret not in plain


def test_explain_tells_why_a_message_failed_later_whoever_took_the_receipt(cli, world, queue, hook):
    """The process that takes receipts keeps no history here; the worker that sends the next form does."""
    sent = []

    def notify(message):
        sent.append(message.form.value)
        return Accepted(f"wamid.{len(sent)}")

    world.enqueue_ready()
    with world.worker(hooks=[hook], notifier=part("both", notify=notify)) as worker:
        until(lambda: worker.recorder.of(events.JobAccepted), "it is accepted")
        queue.receive_receipts(
            [MessageReceipt(kind="failed", message_id="wamid.1", reason="131053: no codec that plays")]
        )
        until(lambda: len(worker.recorder.of(events.JobAccepted)) == 2, "the text is accepted")
    hook.close()

    plain = cli("explain job_1").stdout
    order = ["send 1 as video: accepted", "send 1 as video: failed", "131053: no codec that plays", "send 2 as text"]
    places_found = [plain.find(words) for words in order]
    assert -1 not in places_found, plain
    assert places_found == sorted(places_found)


def test_explain_tells_one_reason_of_many_sends_once_and_whole(cli, world, queue):
    """A reason ends with what to do: nothing of it is cut off."""
    what_to_do = f"the gateway wants something put right {'first ' * 20}in its settings"
    world.enqueue_ready()
    notifier = part("both", notify=lambda _: NotSent(own(what_to_do)))
    with world.worker(
        notifier=notifier,
        delivery=DeliveryPolicy(max_attempts=3, video_attempts=3, backoff_base_s=0.05, backoff_cap_s=0.1),
    ):
        until(lambda: queue.counts().dead, "it is given up")

    plain = cli("explain job_1").stdout
    assert f"What went wrong: {what_to_do} (3 times)." in plain
    for command in ("dead show job_1", "show job_1"):
        assert f": {what_to_do} (3 times)\n" in cli(command).stdout


def test_a_story_tells_of_a_cancellation_by_somebody_who_keeps_no_history(cli, queue):
    enqueue(queue, "job_1")
    queue.cancel("job_1")

    plain = cli("explain job_1").stdout
    assert "How it ended: it was cancelled.\n" in plain
    assert plain.find("enqueued by a producer") < plain.find("\tcancelled\t")


def test_a_story_tells_of_receipts_that_somebody_took_who_keeps_no_history(cli, world, queue, hook):
    world.enqueue_ready()
    with world.worker(hooks=[hook], notifier=part("both", notify=lambda _: Accepted("wamid.1"))) as worker:
        until(lambda: worker.recorder.of(events.JobAccepted), "it is accepted")
        queue.receive_receipts([MessageReceipt(kind=kind, message_id="wamid.1") for kind in ("delivered", "read")])
    hook.close()

    plain = cli("explain job_1").stdout
    order = [
        "send 1 as video: accepted by the channel\t",
        "a receipt will tell whether the user gets a video message",
        "receipt of a video message: delivered, ",
        "receipt of a video message: read, ",
        "A receipt says so, and that they have read it.",
    ]
    places_found = [plain.find(words) for words in order]
    assert -1 not in places_found, plain
    assert places_found == sorted(places_found)


def test_explain_says_why_the_next_poll_is_when_it_is(cli, world, queue, hook):
    world.api.job("job_1", Reply.fault(503))
    world.api.job("job_2", Reply.processing())
    enqueue(queue, "job_1")
    enqueue(queue, "job_2")
    enqueue(queue, "job_3")
    run_until_scheduled(world, queue, "job_1", "job_2", "job_3", hooks=[hook])

    assert "because of the backoff after one fault. The last: HTTP 503." in cli("explain job_1").stdout
    assert "polled once an interval" in cli("explain job_2").stdout
    queue.poll_now("job_2")
    assert "It waits for its next poll" in cli("explain job_2").stdout


def test_explain_does_not_say_that_there_is_no_worker_where_it_may_not_look(cli, queue, client, keys):
    """Whoever is told so would start another one."""
    queue.enqueue("job_1", conversation_id="c")
    assert "No worker is known to be alive" in cli("explain job_1").stdout

    client.set(keys.history, "of another type", ex=60)
    result = cli("explain job_1")

    assert "the history cannot be read" in result.stderr
    assert "It waits in the list for a worker to take it." in result.stdout
    assert "No worker" not in result.stdout


def test_explain_does_not_call_a_job_working_that_the_api_does_not_know(cli, world, queue, hook):
    world.api.job("job_1", Reply.vanished())
    enqueue(queue, "job_1")
    run_until_scheduled(world, queue, "job_1", hooks=[hook])

    plain = cli("explain job_1").stdout
    assert "The video API says that it does not know the job, and is asked again before that is believed." in plain
    assert "still working" not in plain


def test_explain_and_show_tell_what_the_api_said_of_its_progress(cli, world, queue):
    enqueue(queue, "job_1")
    poller = ScriptedPoller({"job_1": [VideoWorking("queued", progress="0.4", queue_position=2)]})
    with world.worker(strategy=SLOW, poller=poller) as worker:
        until(lambda: queue.get("job_1").state is JobState.SCHEDULED, "it is scheduled")

    plain, shown = cli("explain job_1").stdout, json.loads(cli("show job_1 --json").stdout)

    assert "The video API said that 40% of it is done. In the API's own queue it has 2 before it." in " ".join(
        plain.split()
    )
    assert (shown["progress"], shown["place_in_the_apis_queue"]) == (0.4, 2)
    (polled,) = worker.recorder.of(events.JobPolled)
    assert (polled.progress, polled.queue_position) == (0.4, 2)


def test_show_tells_why_the_api_made_no_video(cli, world, queue):
    enqueue(queue, "job_1")
    poller = ScriptedPoller({"job_1": VideoFailed("a face was seen", reason=FailureReason.MODERATED)})
    with world.worker(poller=poller) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "its user has heard")

    assert json.loads(cli("show job_1 --json").stdout)["reason"] == "moderated"
    assert worker.recorder.of(events.JobConcluded)[0].reason is FailureReason.MODERATED
    assert "el filtro de contenido no lo permitió" in world.ultramsg.inbox(phone(1))[0].text


def test_explain_says_who_holds_a_job(cli, queue, client, keys, hook):
    enqueue(queue, "job_1")
    queue.claim(polls=1, sends=0, worker_id="video_worker_1", strategy=SLOW, lease=LeasePolicy())
    assert re.search(r"Held by video_worker_1, its lease ends in [\d.]+ s\.", cli("explain job_1").stdout)

    hook.follow(FollowedRunner())
    until(queue.workers, "it beats")
    assert re.search(r"ends in [\d.]+ s, alive on .+:\d+\.", cli("explain job_1").stdout)

    client.zadd(keys.workers, {"video_worker_1": queue.counts().now_ms - 60_000})
    assert "silent: another one takes over" in cli("explain job_1").stdout


def test_explain_of_a_job_that_waits_for_a_worker_or_for_another_kind_of_worker(cli, queue, client, keys):
    enqueue(queue, "job_1")
    client.set(keys.lock("job_1"), "node-worker", ex=60)

    told = cli("explain job_1").stdout

    assert "It waits in the list" in told
    assert "No worker is known to be alive: start one" in told
    assert "A worker of another kind has locked it" in told
    assert "The user has been told nothing yet." in told


@pytest.mark.parametrize("late_ms", [-60_000, 300])
def test_explain_of_a_job_that_has_no_worker_says_so_whenever_it_is_due(cli, queue, client, keys, late_ms):
    """It told of the initial delay alone, as if a worker would come then."""
    enqueue(queue, "job_1")
    client.delete(keys.queue)
    client.zadd(keys.schedule, {"job_1": queue.counts().now_ms - late_ms})

    told = cli("explain job_1").stdout

    assert told.count("No worker is known to be alive: start one with videopoll worker.") == 1
    assert ("because a first poll waits for the initial delay" in told) == (late_ms < 0)
    assert ("It is due already." in told) == (late_ms > 0)


def test_explain_of_a_job_that_waits_for_its_tenants_turn(cli, queue, client, keys):
    for number in (1, 2):
        cli(f"enqueue job_{number} --conversation c -m brand=acme --tenant-key brand")
        client.zadd(keys.schedule, {f"job_{number}": client.time()[0] * 1000 - 9000 + number})
    client.delete(keys.queue)
    queue.claim(polls=1, sends=1, worker_id="w", strategy=PollingStrategy(), lease=LeasePolicy())

    told = cli("explain job_2").stdout

    assert "late, after 0 polls" in told
    assert (
        "It is due already. No worker is known to be alive: start one with videopoll worker. Where more is due" in told
    )
    assert "its tenant, acme, has its turn" in told


def test_explain_of_a_delivery_that_waits(cli, world, queue, hook):
    world.api.job("job_1", Reply.completed(SIGNED))
    world.ultramsg.stop()
    enqueue(queue, "job_1")
    with world.worker(hooks=[hook]) as worker:
        until(lambda: worker.recorder.of(events.SendTried), "a send was tried")
        until(lambda: queue.get("job_1").state is JobState.OUTBOX, "it waits for the next send")
        told = cli("explain job_1").stdout
    assert "How it ended: the video is ready." in told
    assert "What went wrong:" in told
    assert "The user has been told nothing yet." in told


def test_explain_of_a_dead_letter(cli, world, queue, hook):
    world.api.job("job_1", Reply.completed(SIGNED))
    queue.enqueue("job_1", conversation_id="c")
    with world.worker(hooks=[hook]) as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is dead")

    told = cli("explain job_1").stdout
    assert "It is a dead letter: " in told
    assert "videopoll dead redrive" in told
    assert "The user was NOT told." in told


def test_explain_with_live_and_of_unknown_jobs(cli, world, queue, hook, monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_API_KEY", API_KEY)
    enqueue(queue, "job_1")
    assert "The video API says at this moment: " in cli("explain job_1 --live --api-url", world.api.url).stdout
    result = cli("explain job_9")
    assert result.exit_code == 1
    assert "there is no job 'job_9'" in result.stderr
    hook(events.JobCancelled(job_id="job_8"))
    hook.close()
    assert "Redis has forgotten the job" in cli("explain job_8").stdout


def test_a_status_that_two_workers_met_is_told_once(redis_url, prefix, queue):
    for worker in ("w_1", "w_2"):
        with RedisHistory(redis_url, prefix=prefix) as hook:
            hook(_polled(worker))
    assert len(queue.history("job_1")) == 1


def _polled(worker):
    return events.JobPolled(
        worker_id=worker, job_id="job_1", attempt=1, elapsed_s=1.0, lag_s=0.0, took_s=0.1, status="x", next_s=1.0
    )


def test_every_step_and_every_fault_has_its_words():
    for event in HistoryEvent:
        said, _ = describe_entry(
            HistoryEntry(0, event, "job_1", "w", {"fault": "timeout", "status": "x", "result": "unknown"})
        )
        assert said
    for fault in FaultKind:
        said, _ = describe_entry(
            HistoryEntry(0, HistoryEvent.FAULT, "j", "w", {"fault": fault.value, "attempt": 1, "reason": "r"})
        )
        assert f": {fault.value} (" not in said


def test_jobs_of_a_conversation_are_found_while_they_are_watched(cli, world, queue):
    world.enqueue_ready()
    conversation = queue.get("job_1").job.conversation_id
    with world.worker(notifier=part("both", notify=lambda _: Accepted("wamid.1"))) as worker:
        until(lambda: worker.recorder.of(events.JobAccepted), "it is accepted")

    for options in (f"--conversation {conversation}", "--state watched"):
        assert re.match(r"job_1\twatched\t", cli(f"jobs {options}").stdout)


@pytest.mark.parametrize(
    ("command", "doing"),
    [
        ("status", "looking for partitions"),
        ("jobs", "looking for partitions"),
        ("explain job_1", "looking a job up"),
        ("dead list", "looking for partitions"),
    ],
)
def test_who_asks_a_redis_that_is_not_there_is_told_where_it_was_looked_for(invoke, command, doing):
    """At night, most often another one was meant. No password is shown."""
    place = f"127.0.0.1:{unused_port()}/0"
    told = invoke(*command.split(), "--redis-url", f"redis://user:pa%40ssword@{place}?protocol=3").output
    assert f"{doing}: cannot reach Redis" in told
    assert f"Redis was looked for at redis://{place}: --redis-url or VIDEOPOLL_REDIS_URL" in told
    assert "ssword" not in told


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_help_has_whole_paragraphs(command):
    """Typer keeps the line ends of a docstring, which suit no terminal; examples fit one of 80 columns."""
    made = get_command(build_app([command])).commands[command]
    for one in (made, *getattr(made, "commands", {}).values()):
        for paragraph in (one.help or "").split("\n\n"):
            lines = paragraph.split("\n")
            assert all(len(line) <= 78 for line in lines) if lines[0] == "\b" else len(lines) == 1, paragraph


# --- watch ---


@pytest.mark.parametrize("width", [80, 110])
def test_watch_shows_when_and_which_job_however_long_the_reason_is(hook, world, queue, width):
    world.enqueue_ready("job_with_a_name")
    why = "the gateway wants something put right " * 5
    with world.worker(hooks=[hook], notifier=part("both", notify=lambda _: Refused(own(why), try_text=False))):
        until(lambda: queue.counts().dead, "it is given up")
    hook.close()

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(watch._page(watch._look(queue, 20), queue.keys.prefix, 40))

    assert re.search(r"\d\d:\d\d:\d\d\.\d  job_with_a_name +became a dead letter: .*…", console.export_text())


def test_watch_in_a_pipe_tells_what_happens(cli, hook):
    hook(events.JobClaimed(job_id="job_1", taken_over=False))
    hook.close()

    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\tjob_1\ttaken by a worker\n", cli("watch --for 0.3 --every 0.2").stdout)
    lines = [json.loads(line) for line in cli("watch --for 0.3 --every 0.2 --json").stdout.splitlines()]
    assert [len(line["events"]) for line in lines] == [1] + [0] * (len(lines) - 1)
    assert lines[0]["queued"] == 0


def test_watch_says_that_redis_is_away(invoke):
    result = invoke("watch", "--for", "0", "--redis-url", f"redis://127.0.0.1:{unused_port()}/0")

    assert result.exit_code == 0
    assert "cannot reach Redis" in result.stderr


def test_a_ctrl_c_ends_watch_without_a_failure(redis_url, prefix, hook):
    hook(events.JobClaimed(job_id="job_1", taken_over=False))
    hook.close()
    process = subprocess.Popen(
        [sys.executable, "-m", "videopoll", "watch", "--redis-url", redis_url, "--prefix", prefix],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "job_1" in process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (0, "")


def test_a_worker_that_is_not_well_is_told_of(cli, world, redis_url, prefix, queue):
    """Redis and the video API are well, and yet no job can go on."""
    enqueue(queue, "job_1")
    world.api.job("job_1", Reply.fault(401))
    with RedisHistory(redis_url, prefix=prefix) as history, world.worker(hooks=[history]) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it is polled")
        history.follow(worker.runner)

        def look():
            told = json.loads(cli("status --json --no-scan", "--api-url", world.api.url).stdout)
            return told if told["workers"] else None

        told = until(look, "it beats")
        result = cli("status --check --no-scan", "--api-url", world.api.url)

    assert result.exit_code == 1
    assert "1 worker is not well: the video API refuses our key" in result.stderr
    assert (told["redis"]["healthy"], told["video_api"]["healthy"]) == (True, True)
    assert len(told["problems"]) == 1


# --- doctor ---


@pytest.fixture
def healthy(cli, world, monkeypatch):
    """Call doctor with everything right but the persistence of the tests' Redis."""
    monkeypatch.setenv("VIDEOPOLL_API_KEY", API_KEY)
    monkeypatch.setenv("VIDEOPOLL_ULTRAMSG_TOKEN", TOKEN)

    def call(*args, instance=INSTANCE):
        options = ["--api-url", world.api.url, "--ultramsg-url", world.ultramsg.url]
        options += ["--ultramsg-instance", instance] if instance else []
        result = cli("doctor --json", *options, *args)
        told = json.loads(result.stdout)
        assert result.exit_code == (0 if told["healthy"] else 1)
        return {finding["check"]: finding for finding in told["findings"]}

    return call


def test_doctor_finds_nothing_wrong_where_nothing_is(healthy):
    found = healthy()

    assert {name for name, finding in found.items() if finding["mark"] == "wrong"} <= {"persistence"}
    assert found["version"]["mark"] == "ok"
    assert found["API key"]["found"] == "accepted"
    assert found["UltraMsg"]["found"] == f"{INSTANCE} is authenticated"


@pytest.fixture
def own_poller(queue):
    """A host's own poller in a worker that can be seen, where nothing of the environment names a video API."""
    with Runner(queue, ScriptedPoller(), RecordingNotifier()) as runner:
        runner.start()
        until(queue.workers, "it is seen")
        yield


@pytest.mark.usefixtures("own_poller")
def test_doctor_asks_no_video_api_that_nobody_polls(cli, monkeypatch):
    """It called the key missing, and the address of the specification wrong, beside a host's own poller."""
    for name in ("VIDEOPOLL_API_KEY", "VIDEOPOLL_API_URL"):
        monkeypatch.delenv(name, raising=False)

    found = {one["check"]: one for one in json.loads(cli("doctor --json").stdout)["findings"]}

    assert "API key" not in found
    assert found["video API"]["mark"] == "note"
    assert found["video API"]["found"] == "not asked: no living worker says that it polls one"
    assert "a poller of your own cannot be asked" in found["video API"]["fix"]


def test_a_worker_that_has_stopped_is_not_said_to_have_told_nothing(cli, queue):
    """It had told of itself a second ago."""
    with Runner(queue, ScriptedPoller(), RecordingNotifier()) as runner:
        runner.start()
        until(queue.workers, "it is seen")
    until(lambda: not queue.workers(), "it has taken itself out")

    told = cli("status --no-scan").stdout

    assert "workers alive: none (those that have stopped, or are silent for an hour, are not counted)" in told


def test_one_poll_is_one_poll(cli, queue):
    runner = Runner(queue, ScriptedPoller(), RecordingNotifier(), strategy=PollingStrategy(initial_delay_s=0))
    enqueue(queue, "job_1")
    with runner:
        until(lambda: runner.run_once().polls, "it is polled")

    assert "polling over after 1 poll: the video is ready" in cli("explain job_1").stdout


def test_doctor_finds_a_wrong_key_and_an_offline_messenger(healthy, world, monkeypatch):
    world.ultramsg.online = False
    monkeypatch.setenv("VIDEOPOLL_API_KEY", "another-key")

    found = healthy()

    assert found["API key"]["mark"] == "wrong"
    assert "set VIDEOPOLL_API_KEY anew" in found["API key"]["fix"]
    assert found["UltraMsg"]["mark"] == "wrong"
    assert "QR code" in found["UltraMsg"]["fix"]
    assert "another-key" not in repr(found)


def test_doctor_finds_what_is_not_configured_or_does_not_fit(healthy, world, monkeypatch):
    assert "VIDEOPOLL_ULTRAMSG_TOKEN" in healthy(instance="instance9")["UltraMsg"]["fix"]
    monkeypatch.setenv("VIDEOPOLL_ULTRAMSG_TOKEN", "wrong-token")
    wrong = healthy()["UltraMsg"]
    assert (wrong["mark"], "wrong-token" in repr(wrong)) == ("wrong", False)
    assert "Wrong token" in wrong["found"]
    assert healthy(instance=None)["UltraMsg"]["found"] == "half configured"
    monkeypatch.delenv("VIDEOPOLL_ULTRAMSG_TOKEN")
    assert healthy(instance=None)["UltraMsg"]["mark"] == "note"
    monkeypatch.delenv("VIDEOPOLL_API_KEY")
    assert healthy()["API key"]["found"] == "VIDEOPOLL_API_KEY is not set"


def test_doctor_tries_the_key_of_whatsapp_factory_and_sends_nothing(healthy, world, monkeypatch):
    options = ["--whatsapp-factory-url", world.factory.url, "--whatsapp-factory-instance", INSTANCE]
    assert healthy()["WhatsApp Factory"]["mark"] == "note"
    assert "VIDEOPOLL_WHATSAPP_FACTORY_TOKEN" in healthy(*options)["WhatsApp Factory"]["fix"]

    monkeypatch.setenv("VIDEOPOLL_WHATSAPP_FACTORY_TOKEN", TOKEN)
    assert healthy(*options)["WhatsApp Factory"] == {
        "check": "WhatsApp Factory",
        "mark": "ok",
        "found": f"{INSTANCE} answers, and does not refuse the key",
        "fix": None,
    }
    assert "--whatsapp-factory-url" in healthy(*options[2:])["WhatsApp Factory"]["fix"]
    assert healthy(*options[:3], "another")["WhatsApp Factory"]["found"] == "another: HTTP 404"

    monkeypatch.setenv("VIDEOPOLL_WHATSAPP_FACTORY_TOKEN", "a-wrong-token")
    wrong = healthy(*options)["WhatsApp Factory"]
    assert (wrong["mark"], wrong["found"]) == ("wrong", f"{INSTANCE}: HTTP 401, the key is refused")
    assert "a-wrong-token" not in repr(wrong)
    assert world.factory.messages == []


@pytest.mark.parametrize("trouble", [Reply.fault(503), Reply.fault(429), Reply.dropped()])
def test_doctor_finds_whatsapp_factory_in_trouble(healthy, world, monkeypatch, trouble):
    monkeypatch.setenv("VIDEOPOLL_WHATSAPP_FACTORY_TOKEN", TOKEN)
    world.factory.fail_every(1, trouble)

    found = healthy("--whatsapp-factory-url", world.factory.url, "--whatsapp-factory-instance", INSTANCE)

    assert found["WhatsApp Factory"]["mark"] == "wrong"
    assert "sends are tried again meanwhile" in found["WhatsApp Factory"]["fix"]


def test_doctor_finds_that_the_world_is_down(invoke, monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_API_KEY", "key")
    down = f"http://127.0.0.1:{unused_port()}"

    result = invoke("doctor", "--redis-url", f"redis://127.0.0.1:{unused_port()}/0", "--api-url", down)

    assert result.exit_code == 1
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines[:2]] == [["wrong", "Redis"], ["wrong", "video API"]]
    assert "things to fix" in result.stderr


def test_doctor_finds_keys_of_wrong_types(healthy, client, keys):
    client.set(keys.schedule, "not a sorted set", ex=60)

    found = healthy("--no-clock")

    assert found["keys"]["mark"] == "wrong"
    assert f"{keys.schedule} is a string, not a sorted set" in found["keys"]["found"]
    assert "clock" not in found


def test_doctor_looks_at_every_fixed_key(healthy):
    fixed = [record for record in KEYS if "{" not in record.pattern.removeprefix("{prefix}")]
    assert healthy()["keys"]["found"].startswith(f"{len(fixed)} fixed keys")


class Server:
    """A Redis as far as doctor asks it."""

    def __init__(self, save="", **sections):
        self.sections, self.save = sections, save

    def info(self, section):
        return self.sections.get(section, {})

    def config_get(self, name):
        if self.save is None:
            msg = "unknown command"
            raise redis.ResponseError(msg)
        return {name: self.save}


def test_doctor_judges_redis():
    """What no test server can be made to be."""
    old = Server(server={"redis_version": "6.0.16"}, replication={"role": "slave"})
    assert [one.mark for one in doctor._check_server(old)] == [doctor.Mark.WRONG, doctor.Mark.WRONG]
    new = Server(server={"redis_version": "7.2.4", "valkey_version": "9.0.0"})
    assert doctor._check_server(new)[0].found == "Valkey 9.0.0"
    for limit, mark in ((0, doctor.Mark.NOTE), (100, doctor.Mark.WRONG)):
        memory = {"maxmemory": limit, "used_memory": 50, "maxmemory_policy": "allkeys-lru"}
        assert doctor._check_memory(Server(memory=memory))[0].mark is mark
    full = Server(memory={"maxmemory": 100, "used_memory": 95, "maxmemory_policy": "noeviction"})
    assert [one.check for one in doctor._check_memory(full)] == ["eviction", "memory"]
    for save, mark in (("", doctor.Mark.WRONG), ("3600 1", doctor.Mark.NOTE), (None, doctor.Mark.NOTE)):
        assert doctor._check_persistence(Server(save=save, persistence={"aof_enabled": 0}))[0].mark is mark
    failing = Server(persistence={"aof_enabled": 1, "aof_last_write_status": "err"})
    assert [one.mark for one in doctor._check_persistence(failing)] == [doctor.Mark.OK, doctor.Mark.WRONG]


# --- worker ---


@pytest.mark.parametrize("runner", ["async", "sync"])
def test_the_worker_keeps_a_history_tells_its_health_and_gives_metrics(  # noqa: PLR0917 - fixtures
    runner, cli, world, queue, redis_url, prefix
):
    pytest.importorskip("prometheus_client")
    port = unused_port()
    world.api.job("job_1", Reply.completed(SIGNED))
    command = [sys.executable, "-m", "videopoll", "worker", "--runner", runner, "--health-port", str(port), "--metrics"]
    command += ["--redis-url", redis_url, "--prefix", prefix, "--api-url", world.api.url, "--initial-delay", "0.1"]
    command += ["--ultramsg-url", world.ultramsg.url, "--ultramsg-instance", INSTANCE]
    env = os.environ | {"VIDEOPOLL_API_KEY": API_KEY, "VIDEOPOLL_ULTRAMSG_TOKEN": TOKEN}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        enqueue(queue, "job_1")
        until(lambda: world.ultramsg.inbox(phone(1)), "the user has the video", 30)
        assert httpx.get(f"http://127.0.0.1:{port}/ready", timeout=10).status_code == 200
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        until(lambda: [one.kind for one in queue.workers()] == [runner], "it beats")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    assert 'videopoll_jobs_concluded_total{outcome="completed"} 1.0' in metrics
    assert 'videopoll_jobs{state="dead"} 0.0' in metrics
    assert queue.history("job_1")[-1].event is HistoryEvent.DELIVERED
    assert queue.workers() == ()
    assert "Traceback" not in errors


@pytest.mark.parametrize("metrics", [True, False])
def test_the_worker_refuses_what_cannot_work(metrics, redis_url, prefix):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        args = ["--metrics"] if metrics else ["--health-port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "videopoll", "worker", *args, "--redis-url", redis_url, "--prefix", prefix],
            env=os.environ | {"VIDEOPOLL_API_KEY": "key"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 2
    assert ("--metrics needs --health-port" if metrics else "choose another port") in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 ms"), (0.85, "850 ms"), (4.24, "4.2 s"), (185, "3 min 5 s"), (7_800, "2 h 10 min"), (59.99, "60.0 s")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("form", list(MessageForm))
def test_every_form_of_a_message_has_words_for_it(form):
    assert re.fullmatch(r"(a|an) [a-z ]+", message_in(form.value))
    assert message_in("of\x1b tomorrow").startswith("a message (of")
