"""The OpenAI tool: documented answers to everything, one generation a call, and never an exception."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import API_KEY, INSTANCE, TOKEN, phone
from videopoll import (
    AsyncRedisVideoJobQueue,
    CallbackNotifier,
    ConfigurationError,
    Message,
    OutcomeKind,
    PollingStrategy,
    RedisVideoJobQueue,
    RoutingNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
    VideoJob,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
)
from videopoll.core.polling import Ask, NextPoll, before_poll, decide
from videopoll.jobs import MessageForm, Outcome
from videopoll.jobs.transition import PollWork
from videopoll.messages import AcknowledgementMessage
from videopoll.testing import (
    FakeUltraMsg,
    FakeVideoApi,
    FakeWhatsAppFactory,
    Reply,
    async_wait_until,
    unused_port,
    wait_until,
)
from videopoll.tool import VideoGeneratorTool, answers, video_generator_tool
from videopoll.video_api import GenerationErrorCode, GenerationFinished, GenerationStarted, VideoApiGenerator

POST = "/generate-video"
PROMPT = "Video vertical para TikTok de persona bailando"
ARGUMENTS = {
    "prompt": PROMPT,
    "imageFileId": "0123456789abcdef0123456789abcdef",
    "aspectRatio": None,
    "negativePrompt": None,
    "modelSelected": 3,
    "messageToUser": "Generando tu video vertical, tardará 1-2 minutos...",
}
CONVERSATION = "68bb3c3585425ee98e9f4f12"
FILES = "https://files.example/file/"
ERROR_FIELDS = {"success", "error", "error_code", "message", "may_have_started", "retries_used"}


@pytest.fixture
def api():
    with FakeVideoApi(api_key=API_KEY) as api:
        yield api


class Host:
    """A host of either kind: one tool, and plain calls to it."""

    def __init__(self, kind, api, url, prefix, call):
        self.kind, self.api, self.url, self.prefix, self._call = kind, api, url, prefix, call
        self._parts = []

    def tool(self, *, url=None, generator=None, mixed=False, **options):
        sync = self.kind == "sync" or mixed
        queue = (RedisVideoJobQueue if sync else AsyncRedisVideoJobQueue).from_url(
            url or self.url, prefix=self.prefix, front_timeout_s=0.5
        )
        self._parts.append(queue)
        generator = generator or VideoApiGenerator(
            base_url=self.api.url, api_key=API_KEY, timeout_s=2, retry_waits_s=(0.01, 0.02)
        )
        self._parts.append(generator)
        return VideoGeneratorTool(queue, generator, **{"file_url": FILES, **options})

    def ask(self, tool, arguments=ARGUMENTS, conversation_id=CONVERSATION, **options):
        method = tool.call if self.kind == "sync" else tool.acall
        answer = self._call(method(arguments, conversation_id=conversation_id, **options))
        json.dumps(answer, allow_nan=False)
        return answer

    def record(self, job_id):
        with redis.Redis.from_url(self.url) as client:
            raw = client.get(f"{self.prefix}:job:{job_id}")
        return None if raw is None else json.loads(raw)

    def close(self):
        for part in self._parts:
            self._call(part.close())
            if hasattr(part, "aclose"):
                self._call(part.aclose())


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def host(kind, api, redis_url, prefix, call):
    host = Host(kind, api, redis_url, prefix, call)
    yield host
    host.close()


def is_error(answer, code, *, may_have_started=False):
    assert set(answer) == ERROR_FIELDS
    assert answer["success"] is False
    assert answer["error_code"] == code
    assert answer["may_have_started"] is may_have_started
    assert answer["error"]
    assert answer["message"]
    return True


# --- the documented answers ---


def test_the_answer_of_the_asynchronous_path_is_the_documented_one(host):
    answer = host.ask(host.tool())

    (job_id,) = host.api.generated
    message, reason = answer.pop("message"), answer.pop("model_selection_reason")
    assert "1 to 2 minutes" in message
    assert "Switched from Veo 3 to Veo 2" in reason
    assert answer == {
        "success": True,
        "job_id": job_id,
        "status_url": f"/job/{job_id}",
        "polling_status": "Job enqueued for background polling - you will receive the video when ready",
        "processing_mode": "async",
        "video_url": None,
        "estimated_time": "1-2 minutes",
        "model_used": "veo-2.0-generate-001",
        "version_used": 2,
        "aspect_ratio": "9:16",
        "auto_switch_applied": True,
        "retries_used": 0,
    }
    assert host.api.requests[0].body["imageUrl"] == FILES + ARGUMENTS["imageFileId"]


def test_the_documented_metadata_are_stored_with_the_job(host):
    long = {**ARGUMENTS, "prompt": PROMPT * 10, "negativePrompt": "lluvia"}
    answer = host.ask(host.tool(), json.dumps(long), metadata={"channel": "ultramsg", "to": phone(1), "model": "x"})

    record = host.record(answer["job_id"])
    assert record.pop("startTime") > 1_000_000_000_000
    assert record == {
        "jobId": answer["job_id"],
        "conversationId": CONVERSATION,
        "status": "polling",
        "prompt": (PROMPT * 10)[:100],
        "model": "veo-2.0-generate-001",
        "version": 2,
        "aspectRatio": "9:16",
        "hasNegativePrompt": True,
        "channel": "ultramsg",
        "to": phone(1),
    }


def test_a_finished_video_is_given_at_once_and_nothing_is_queued(host):
    answer = host.ask(host.tool(mode="sync"))

    (job_id,) = host.api.generated
    assert answer["success"] is True
    assert answer["video_url"] == answer["download_url"] == host.api.video_url(job_id)
    assert "polling_status" not in answer
    assert host.record(job_id) is None


@pytest.mark.parametrize(
    ("reply", "code", "in_doubt"),
    [
        (Reply.fault(400), "INVALID_REQUEST", False),
        (Reply.fault(401), "AUTHENTICATION_ERROR", False),
        (Reply.fault(413), "FILE_TOO_LARGE", False),
        (Reply.fault(429), "RATE_LIMITED", False),
        (Reply.fault(503), "SERVICE_UNAVAILABLE", False),
        (Reply.fault(500), "API_ERROR", True),
        (Reply.garbage(), "API_ERROR", True),
        (Reply.hang(accept=True), "TIMEOUT", True),
        (Reply.dropped(accept=True), "CONNECTION_ERROR", True),
    ],
    ids=["400", "401", "413", "429", "503", "500", "garbage", "hangs", "drops"],
)
def test_every_fault_of_the_api_is_a_documented_error(host, reply, code, in_doubt):
    host.api.fail_every(1, reply, path=POST)
    generator = VideoApiGenerator(base_url=host.api.url, api_key=API_KEY, timeout_s=0.4, retry_waits_s=(0.01, 0.02))

    answer = host.ask(host.tool(generator=generator))

    assert is_error(answer, code, may_have_started=in_doubt)
    assert ("may be" in answer["message"]) == in_doubt
    assert answer["retries_used"] == (2 if code in {"RATE_LIMITED", "SERVICE_UNAVAILABLE"} else 0)
    assert len(host.api.generated) <= 1


def test_an_unreachable_api_is_a_connection_error(host):
    host.api.stop()

    assert is_error(host.ask(host.tool()), "CONNECTION_ERROR")


def test_neither_the_providers_words_nor_secrets_reach_the_model(host, caplog):
    host.api.fail_every(1, Reply.json({"error": f"provider says no to {PROMPT} with {API_KEY}"}, status=400), path=POST)

    with caplog.at_level(logging.DEBUG, "videopoll"):
        answer = host.ask(host.tool())

    assert "provider" not in json.dumps(answer)
    for secret in (API_KEY, PROMPT):
        assert secret not in json.dumps(answer)
        assert secret not in caplog.text


# --- bad input ---

BAD = {
    "no JSON": "{prompt:",
    "a list": "[1]",
    "null": "null",
    "empty": "",
    "deep": "[" * 100_000,
    "no prompt": {},
    "short": {"prompt": "x" * 19},
    "spaces": {"prompt": " " * 30},
    "long": {"prompt": "x" * 1001},
    "surrogate": {"prompt": "\ud800" * 30},
    "escaped surrogate": '{"prompt": "' + "\\ud800" * 30 + '"}',
    "number": {"prompt": 5},
    "image": {"prompt": PROMPT, "imageFileId": "../../etc/passwd"},
    "image upper": {"prompt": PROMPT, "imageFileId": "A" * 32},
    "image line": {"prompt": PROMPT, "imageFileId": "a" * 32 + "\n"},
    "ratio": {"prompt": PROMPT, "aspectRatio": "1:1"},
    "model": {"prompt": PROMPT, "modelSelected": "3"},
    "model true": {"prompt": PROMPT, "modelSelected": True},
    "negative": {"prompt": PROMPT, "negativePrompt": "x" * 501},
    "message": {"prompt": PROMPT, "messageToUser": 5},
    "unknown": {"prompt": PROMPT, "mode": "sync"},
    "bytes": b"{}",
    "none": None,
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_bad_arguments_start_nothing(host, arguments):
    told = []
    answer = host.ask(host.tool(tell_user=lambda *args: told.append(args)), arguments)

    assert is_error(answer, "INVALID_REQUEST")
    assert not host.api.requests
    assert not told


@pytest.mark.parametrize(
    "arguments",
    [{"prompt": "x" * 20}, {"prompt": "x" * 1000, "negativePrompt": "", "messageToUser": ""}, {**ARGUMENTS}],
)
def test_optional_arguments_may_be_missing(host, arguments):
    assert host.ask(host.tool(), arguments)["success"] is True


def test_without_a_file_storage_the_tool_takes_no_images(host):
    tool = host.tool(file_url=None)

    assert "imageFileId" not in tool.parameters()["properties"]
    assert is_error(host.ask(tool), "INVALID_REQUEST")


@pytest.mark.parametrize(
    "options",
    [
        {"conversation_id": ""},
        {"conversation_id": "a b"},
        {"conversation_id": None},
        {"metadata": {"jobId": "job_2"}},
        {"metadata": {"status": "completed"}},
        {"metadata": {"x": object()}},
        {"metadata": {"x": "y" * 20_000}},
        {"metadata": 5},
        {"conversation_id": None, "call_id": "call_1"},
        {"conversation_id": object(), "call_id": "call_1"},
        {"call_id": "\ud800", "metadata": {"startTime": 0}},
    ],
)
def test_what_cannot_be_stored_is_refused_before_it_costs_anything(host, options):
    assert is_error(host.ask(host.tool(), **options), "TOOL_ERROR")
    assert not host.api.requests


class CountingGenerator:
    def __init__(self):
        self.asked = []

    def generate(self, request):
        self.asked.append(request)
        return GenerationStarted(job_id="job_1")


class ListQueue:
    def __init__(self):
        self.jobs = []

    def enqueue(self, job_id, *, conversation_id, metadata=None):
        self.jobs.append((job_id, conversation_id, metadata))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_good = {
    "prompt": st.text(min_size=20, max_size=1000),
    "imageFileId": st.none() | st.text("0123456789abcdef", min_size=32, max_size=32),
    "aspectRatio": st.sampled_from(["9:16", "16:9", None]),
    "negativePrompt": st.none() | st.text(max_size=500),
    "modelSelected": st.sampled_from([2, 3, None]),
    "messageToUser": st.none() | st.text(max_size=50),
}
_near = st.fixed_dictionaries({}, optional={name: good | _json for name, good in _good.items()})
_arguments = st.text() | _json | _near | st.dictionaries(st.sampled_from([*_good, "extra"]), _json)


def is_good(value):
    """Say independently of the tool whether arguments keep to its contract."""
    if not isinstance(value, dict) or set(value) - set(_good):
        return False

    def text(name, low, high):
        item = value.get(name)
        if item is None or (isinstance(item, str) and not item.strip()):
            return low == 0
        return (
            isinstance(item, str) and low <= len(item.strip()) and len(item) <= high and item.isascii() | _is_utf8(item)
        )

    file_id, ratio, model = value.get("imageFileId"), value.get("aspectRatio"), value.get("modelSelected")
    return (
        text("prompt", 20, 1000)
        and text("negativePrompt", 0, 500)
        and text("messageToUser", 0, 10**9)
        and (
            file_id is None
            or (isinstance(file_id, str) and len(file_id) == 32 and set(file_id) <= set("0123456789abcdef"))
        )
        and (ratio is None or ratio in ("9:16", "16:9"))
        and (model is None or (type(model) is int and model in (2, 3)))
    )


def _is_utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=_arguments, as_text=st.booleans(), asynchronous=st.booleans())
def test_no_arguments_raise_and_bad_ones_never_start_a_generation(caplog, arguments, as_text, asynchronous):
    caplog.set_level(logging.CRITICAL)
    generator, queue = CountingGenerator(), ListQueue()
    tool = VideoGeneratorTool(queue, generator, file_url=FILES, tell_user=lambda *_: None)
    given_arguments = json.dumps(arguments) if as_text else arguments
    if asynchronous:
        answer = asyncio.run(tool.acall(given_arguments, conversation_id="c"))
    else:
        answer = tool.call(given_arguments, conversation_id="c")

    json.dumps(answer, allow_nan=False)
    if isinstance(given_arguments, str):
        try:
            arguments = json.loads(given_arguments)
        except ValueError:
            arguments = None
    good = is_good(arguments)
    assert answer["success"] is good
    assert len(generator.asked) == len(queue.jobs) == int(good)
    assert good or is_error(answer, "INVALID_REQUEST")


# --- Redis and the queue ---


def test_a_failed_enqueue_does_not_fail_the_tool(host, caplog):
    untracked = []
    tool = host.tool(url=f"redis://127.0.0.1:{unused_port()}/0", on_untracked=untracked.append)

    answer = host.ask(tool, metadata={"to": phone(1)})

    assert answer["success"] is True
    assert answer["job_id"] == host.api.generated[0]
    assert "cannot be followed automatically" in answer["polling_status"]
    assert "cannot be followed automatically" in answer["message"]
    (lost,) = untracked
    assert (lost.job_id, lost.conversation_id) == (answer["job_id"], CONVERSATION)
    assert lost.metadata["to"] == phone(1)
    assert "QueueUnavailableError" in lost.reason
    assert phone(1) not in repr(lost)
    assert answer["job_id"] in caplog.text


def test_a_hook_that_fails_does_not_fail_the_tool(host):
    def hook(_):
        raise RuntimeError

    assert host.ask(host.tool(url=f"redis://127.0.0.1:{unused_port()}/0", on_untracked=hook))["success"] is True


def test_the_same_call_twice_starts_one_video_and_gives_one_answer(host):
    tool, told = host.tool(tell_user=lambda *_: told.append(1)), []
    first = host.ask(tool, call_id="call_1")

    assert host.ask(host.tool(), call_id="call_1") == first
    assert host.ask(tool, json.dumps(ARGUMENTS), call_id="call_1") == first
    assert len(host.api.generated) == len(told) == 1


def test_calls_of_other_ids_and_conversations_are_their_own(host):
    """Some servers number their calls from zero: an id means something within its conversation only."""
    tool = host.tool()
    answers = [host.ask(tool, conversation_id=who, call_id=which) for who in "ab" for which in ("0", "1")]

    assert len({answer["job_id"] for answer in answers}) == 4


def test_the_same_id_in_the_next_turn_with_another_prompt_is_another_call(host):
    """Some servers number their calls from zero in each turn: "videoGenerator:0" is every first call."""
    tool, told = host.tool(tell_user=lambda *_: told.append(1)), []
    first = host.ask(tool, call_id="videoGenerator:0")
    second = host.ask(
        tool, {**ARGUMENTS, "prompt": "Un perro corre por la playa al atardecer"}, call_id="videoGenerator:0"
    )

    assert second["success"] is True
    assert [first["job_id"], second["job_id"]] == host.api.generated
    assert len(told) == 2
    assert host.record(second["job_id"]) is not None
    assert host.ask(tool, call_id="videoGenerator:0") == first  # the first one is still known
    assert len(host.api.generated) == 2


def test_equal_arguments_are_equal_however_they_are_written(host):
    tool = host.tool()
    first = host.ask(tool, json.dumps(ARGUMENTS), call_id="call_1")
    turned = {name: ARGUMENTS[name] for name in reversed(ARGUMENTS)}
    short = {name: value for name, value in ARGUMENTS.items() if value is not None}

    for arguments in (
        turned,
        json.dumps(turned, indent=2, ensure_ascii=False),
        short,
        {**short, "negativePrompt": " "},
    ):
        assert host.ask(tool, arguments, call_id="call_1") == first
    assert len(host.api.generated) == 1


def test_arguments_that_start_nothing_use_up_no_id(host):
    tool = host.tool()
    for arguments in ("{}", '{"prompt"', None):
        assert is_error(host.ask(tool, arguments, call_id="call_1"), "INVALID_REQUEST")

    assert host.ask(tool, call_id="call_1")["success"] is True


def test_a_call_that_surely_started_nothing_may_soon_be_made_again(host, monkeypatch):
    monkeypatch.setattr(video_generator_tool, "NOTHING_STARTED_KEPT_S", 0.5)
    tool = host.tool()
    host.api.fail_every(1, Reply.fault(400), path=POST)
    first = host.ask(tool, call_id="call_1")
    asked = len(host.api.requests)
    assert host.ask(tool, call_id="call_1") == first
    assert len(host.api.requests) == asked

    host.api.heal()
    with redis.Redis.from_url(host.url) as client:
        wait_until(lambda: not client.keys(f"{host.prefix}:tool:*"), describe="the answer is forgotten")
    assert host.ask(tool, call_id="call_1")["success"] is True


def test_a_call_that_may_have_started_something_is_not_made_again(host, monkeypatch):
    monkeypatch.setattr(video_generator_tool, "NOTHING_STARTED_KEPT_S", 0.0)
    tool = host.tool()
    host.api.fail_next(Reply.dropped(accept=True), path=POST)
    first = host.ask(tool, call_id="call_1")

    assert is_error(first, "CONNECTION_ERROR", may_have_started=True)
    assert host.ask(tool, call_id="call_1") == first
    assert len(host.api.generated) == 1


@pytest.mark.parametrize("call_id", [None, "", "  "])
def test_an_empty_id_names_no_call(host, call_id):
    tool = host.tool()
    answers = [host.ask(tool, call_id=call_id) for _ in range(2)]

    assert answers[0]["job_id"] != answers[1]["job_id"]


@pytest.mark.parametrize("call_id", [0, 7, uuid.UUID(int=1)])
def test_an_id_that_is_no_text_is_an_id_all_the_same(host, call_id):
    tool = host.tool()

    assert host.ask(tool, call_id=call_id) == host.ask(tool, call_id=call_id)
    assert len(host.api.generated) == 1


def ask_at_once(host, tool, ids, **options):
    """Make several calls at the same time."""
    if host.kind == "sync":
        with ThreadPoolExecutor(len(ids)) as pool:
            return list(pool.map(lambda call_id: host.ask(tool, call_id=call_id, **options), ids))

    async def together():
        calls = [tool.acall(ARGUMENTS, conversation_id=CONVERSATION, call_id=call_id, **options) for call_id in ids]
        return await asyncio.gather(*calls)

    return host._call(together())


@pytest.mark.parametrize("ids", [["call_1", "call_2", "call_3"], [None, None, None]], ids=["ids", "no ids"])
@pytest.mark.parametrize("together", [True, False], ids=["together", "one after another"])
def test_one_wish_with_three_ids_is_paid_once_where_the_host_wants_that(host, ids, together):
    tool = host.tool(same_wish_s=60)
    host.api.fail_every(1, Reply.slow(0.2), path=POST)
    answers = ask_at_once(host, tool, ids) if together else [host.ask(tool, call_id=call_id) for call_id in ids]

    assert len(host.api.generated) == 1
    assert [answer["job_id"] for answer in answers] == host.api.generated * 3
    if ids[0] is not None:
        # Each id has the answer for as long as the first one has.
        with redis.Redis.from_url(host.url) as client:
            assert len([key for key in client.keys(f"{host.prefix}:tool:*") if client.ttl(key) > 60]) == 3


def test_by_default_each_id_is_a_call_of_its_own(host):
    tool = host.tool()
    answers = ask_at_once(host, tool, ["call_1", "call_2", "call_3"])

    assert len({answer["job_id"] for answer in answers}) == 3


def test_one_wish_of_two_conversations_and_one_wish_after_its_time_are_paid_for_each(host):
    tool = host.tool(same_wish_s=0.5)
    host.ask(tool, call_id="call_1", conversation_id="a")
    host.ask(tool, call_id="call_1", conversation_id="b")
    host.ask(tool, {**ARGUMENTS, "aspectRatio": "16:9"}, call_id="call_2", conversation_id="a")
    assert len(host.api.generated) == 3

    with redis.Redis.from_url(host.url) as client:
        wait_until(lambda: len(client.keys(f"{host.prefix}:tool:*")) == 3, describe="the wishes are forgotten")
    host.ask(tool, call_id="call_3", conversation_id="a")
    assert len(host.api.generated) == 4


@pytest.mark.parametrize("options", [{"same_wish_s": -1}, {"same_wish_s": float("nan")}, {"grace_s": "20"}])
def test_times_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigurationError, match=rf"VideoGeneratorTool\.{next(iter(options))} must be"):
        VideoGeneratorTool(ListQueue(), CountingGenerator(), **options)


def test_the_answer_is_kept_for_the_ttl_of_the_audit_trail_under_a_hashed_name(host):
    hostile = "call *?[]\n" + "x" * 10_000
    host.ask(host.tool(), call_id=hostile)

    with redis.Redis.from_url(host.url, decode_responses=True) as client:
        (key,) = client.keys(f"{host.prefix}:tool:*")
        assert 7100 < client.ttl(key) <= 7200
    digest = key.removeprefix(f"{host.prefix}:tool:")
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")


def test_two_calls_at_once_with_one_id_start_one_video(host):
    host.api.fail_every(1, Reply.slow(0.5), path=POST)
    answers = []
    if host.kind == "sync":
        tool = host.tool()
        threads = [threading.Thread(target=lambda: answers.append(host.ask(tool, call_id="call_1"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        tool = host.tool()

        async def both():
            return await asyncio.gather(
                *(tool.acall(ARGUMENTS, conversation_id=CONVERSATION, call_id="call_1") for _ in range(3))
            )

        answers = host._call(both())

    assert len(host.api.generated) == 1
    assert answers[0]["success"] is True
    assert answers.count(answers[0]) == 3


def test_a_call_whose_first_answer_does_not_come_is_not_made_again(host, monkeypatch):
    """Its process may have died around the generation: asking again could pay twice."""
    monkeypatch.setattr(video_generator_tool, "CALL_WAIT_S", 0.2)
    tool = host.tool()
    host.ask(tool, call_id="call_1")
    with redis.Redis.from_url(host.url) as client:
        (key,) = client.keys(f"{host.prefix}:tool:*")
        client.set(key, '{"answer":null}', keepttl=True)

    answer = host.ask(tool, call_id="call_1")

    assert is_error(answer, "TOOL_ERROR", may_have_started=True)
    assert len(host.api.generated) == 1


def test_while_redis_is_away_a_call_with_an_id_still_works_and_the_log_says_so(host, caplog):
    tool = host.tool(url=f"redis://127.0.0.1:{unused_port()}/0")

    answer = host.ask(tool, call_id="call_1")

    assert answer["success"] is True
    assert len(host.api.generated) == 1
    assert "Redis cannot tell whether this call was made before" in caplog.text


def test_a_queue_of_the_host_cannot_tell_repetitions_and_the_log_says_so(caplog):
    generator = CountingGenerator()
    tool = VideoGeneratorTool(ListQueue(), generator)

    answers = [tool.call({"prompt": PROMPT}, conversation_id="c", call_id="call_1") for _ in range(2)]

    assert [answer["success"] for answer in answers] == [True, True]
    assert "would not be noticed" in caplog.text


# --- telling the user ---


def test_the_user_is_told_before_the_generation_starts(host):
    seen = []
    host.ask(host.tool(tell_user=lambda *args: seen.append((*args, len(host.api.requests)))))

    assert seen == [(CONVERSATION, ARGUMENTS["messageToUser"], 0)]


@pytest.mark.parametrize("error", [RuntimeError("boom"), OSError(), NotImplementedError()])
def test_a_user_who_cannot_be_told_gets_the_video_all_the_same(host, caplog, error):
    def tell(*_):
        raise error

    assert host.ask(host.tool(tell_user=tell))["success"] is True
    assert "could not be told" in caplog.text
    assert ARGUMENTS["messageToUser"] not in caplog.text


def test_the_message_goes_out_over_whatsapp(host):
    """The channel of the end is the channel of the beginning: the same notifier serves both."""
    with FakeUltraMsg(token=TOKEN, instance_id=INSTANCE) as ultramsg, FakeWhatsAppFactory(token=TOKEN) as factory:
        notifier = RoutingNotifier.from_metadata(
            {
                "ultramsg": UltraMsgNotifier(base_url=ultramsg.url, instance_id=INSTANCE, token=TOKEN),
                "whatsapp_factory": WhatsAppFactoryNotifier(base_url=factory.url, instance_id=INSTANCE, token=TOKEN),
            }
        )
        tool = host.tool(notifier=notifier)
        for number, channel in enumerate(("ultramsg", "whatsapp_factory")):
            assert host.ask(tool, metadata={"channel": channel, "to": phone(number)})["success"] is True
        host._call(notifier.aclose())

        (first,), (second,) = ultramsg.inbox(phone(0)), factory.inbox(phone(1))
        assert first.kind == second.kind == "text"
        assert first.text == second.text == ARGUMENTS["messageToUser"]
        assert first.reference_id.startswith("vp-told-")


def test_a_messenger_that_refuses_is_logged_and_ignored(host, caplog):
    with FakeUltraMsg(token="another") as ultramsg:
        notifier = RoutingNotifier.from_metadata(
            {"ultramsg": UltraMsgNotifier(base_url=ultramsg.url, instance_id=INSTANCE, token=TOKEN)}
        )
        answer = host.ask(host.tool(notifier=notifier), metadata={"channel": "ultramsg", "to": phone(1)})
        host._call(notifier.aclose())

    assert answer["success"] is True
    assert "could not be told at once" in caplog.text
    assert phone(1) not in caplog.text


def test_an_acknowledgement_knows_whom_it_is_for_and_that_there_is_no_outcome(host):
    """A host's own notifier sees whether a job has ended: an outcome that is none would pass for one."""
    seen = []
    host.ask(host.tool(notifier=CallbackNotifier(seen.append)), metadata={"seat": 7})

    (message,) = seen
    assert isinstance(message, AcknowledgementMessage)
    assert not isinstance(message, Message)
    assert not hasattr(message, "outcome")
    assert (message.conversation_id, message.metadata["seat"]) == (CONVERSATION, 7)
    assert (message.form, message.caption, message.video_url) == (MessageForm.TEXT, message.text, None)
    assert message.may_still_send()
    assert message.text not in repr(message)


def test_a_webhook_never_reports_the_beginning_as_an_end(host, caplog):
    with FakeUltraMsg() as receiver:
        notifier = WebhookNotifier(receiver.url, secret="whsec_" + "A" * 32)
        assert host.ask(host.tool(notifier=notifier))["success"] is True
        host._call(notifier.aclose())

        assert not receiver.requests
    assert "could not be told at once" in caplog.text


# --- parts of the host ---


def test_under_asyncio_plain_parts_run_in_threads(api, redis_url, prefix, call):
    host = Host("async", api, redis_url, prefix, call)
    where = []
    tool = host.tool(mixed=True, tell_user=lambda *_: where.append(threading.current_thread()))

    assert host.ask(tool, call_id="call_1")["success"] is True
    assert where[0] is not threading.main_thread()
    assert host.record(api.generated[0]) is not None
    host.close()


def test_asynchronous_parts_work_under_asyncio(api, redis_url, prefix, call):
    host = Host("async", api, redis_url, prefix, call)
    told = []

    async def tell(conversation_id, text):
        await asyncio.sleep(0)
        told.append(text)

    assert host.ask(host.tool(tell_user=tell))["success"] is True
    assert told == [ARGUMENTS["messageToUser"]]
    host.close()


def test_asynchronous_parts_in_a_plain_call_start_nothing_and_the_log_says_what_to_do(api, caplog):
    async def tell(*_):
        pytest.fail("it cannot be awaited")

    generator = CountingGenerator()
    for tool in (
        VideoGeneratorTool(ListQueue(), generator, tell_user=tell),
        VideoGeneratorTool(AsyncRedisVideoJobQueue.from_url("redis://127.0.0.1:1"), generator),
    ):
        assert is_error(tool.call({"prompt": PROMPT}, conversation_id="c"), "TOOL_ERROR")
    assert not generator.asked
    assert "use acall" in caplog.text


@pytest.mark.parametrize("result", [None, "job_1", RuntimeError("secret prompt")])
def test_a_generator_of_the_host_that_misbehaves_may_have_started_something(kind, result, call):
    class Generator:
        def generate(self, _):
            if isinstance(result, Exception):
                raise result
            return result

    tool = VideoGeneratorTool(ListQueue(), Generator())
    method = tool.call if kind == "sync" else tool.acall

    assert is_error(call(method({"prompt": PROMPT}, conversation_id="c")), "TOOL_ERROR", may_have_started=True)


def test_a_cancelled_call_still_follows_its_video(api, redis_url, prefix, call):
    """The video was paid for: it is enqueued, whatever became of the chat."""
    host = Host("async", api, redis_url, prefix, call)
    api.fail_every(1, Reply.slow(0.3), path=POST)
    tool = host.tool()

    async def main():
        task = asyncio.create_task(tool.acall(ARGUMENTS, conversation_id=CONVERSATION))
        await async_wait_until(lambda: api.requests, describe="the generation begins")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await async_wait_until(lambda: not tool._running, describe="the call ends")

    call(main())
    assert host.record(api.generated[0])["conversationId"] == CONVERSATION
    host.close()


# --- interruptions ---


SHORT = {"prompt": PROMPT, "messageToUser": "Ya va..."}


def shut_down_in_the_middle(run, tool, begun, **options):
    """Make a call and, once `begun`, do what ``asyncio.run`` does at its end: cancel all tasks and wait for them."""

    async def main():
        begins = asyncio.create_task(tool.acall(SHORT, conversation_id=CONVERSATION, **options))
        await async_wait_until(begun, describe="the call has come so far")
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        assert begins.cancelled()
        assert not tool._running

    run(main())


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("mixed", [False, True], ids=["async queue", "plain queue"])
def test_a_loop_that_shuts_down_waits_for_a_video_that_is_paid_for(api, redis_url, prefix, call, *, transport, mixed):
    pytest.importorskip(transport)
    host = Host("async", api, redis_url, prefix, call)
    api.fail_every(1, Reply.slow(0.5), path=POST)
    generator = VideoApiGenerator(base_url=api.url, api_key=API_KEY, timeout_s=20, transport=transport)
    tool = host.tool(generator=generator, mixed=mixed)

    shut_down_in_the_middle(call, tool, lambda: api.requests, call_id="call_1")

    assert host.record(api.generated[0])["conversationId"] == CONVERSATION
    answer = host.ask(host.tool(), SHORT, call_id="call_1")
    assert answer["job_id"] == api.generated[0]
    host.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
def test_the_end_of_a_program_waits_for_a_video_that_is_paid_for(asynchronous):
    begun, queue = threading.Event(), ListQueue()

    class Generator:
        def generate(self, _):
            begun.set()
            time.sleep(0.3)
            return GenerationStarted(job_id="job_1")

    class AsyncGenerator:
        async def generate(self, _):
            begun.set()
            async with asyncio.timeout(20):
                await asyncio.sleep(0.3)
            return GenerationStarted(job_id="job_1")

    tool = VideoGeneratorTool(queue, AsyncGenerator() if asynchronous else Generator())

    async def main():
        task = asyncio.create_task(tool.acall({"prompt": PROMPT}, conversation_id=CONVERSATION))
        await async_wait_until(begun.is_set, describe="the generation begins")
        return task

    assert asyncio.run(main()).cancelled()
    assert [job_id for job_id, *_ in queue.jobs] == ["job_1"]


def test_a_loop_that_shuts_down_while_redis_is_away_tells_of_the_video(api, redis_url, prefix, call):
    host = Host("async", api, redis_url, prefix, call)
    api.fail_every(1, Reply.slow(0.3), path=POST)
    untracked = []
    tool = host.tool(url=f"redis://127.0.0.1:{unused_port()}/0", on_untracked=untracked.append)

    shut_down_in_the_middle(call, tool, lambda: api.requests)

    assert [lost.job_id for lost in untracked] == api.generated
    host.close()


@pytest.mark.parametrize("stuck", ["generate", "enqueue"])
def test_a_shut_down_is_not_held_up_for_ever(call, caplog, stuck):
    begun, untracked = [], []

    class Stuck:
        async def generate(self, _):
            if stuck == "generate":
                begun.append(1)
                await asyncio.Event().wait()
            return GenerationStarted(job_id="job_1")

        async def enqueue(self, *_, **__):
            begun.append(1)
            await asyncio.Event().wait()

    tool = VideoGeneratorTool(Stuck(), Stuck(), on_untracked=untracked.append, grace_s=0.2)
    shut_down_in_the_middle(call, tool, lambda: begun)

    assert "at most 0.2 s" in caplog.text
    assert [lost.job_id for lost in untracked] == ["job_1"] * (stuck == "enqueue")


def test_a_call_that_has_begun_nothing_ends_with_the_loop_and_may_be_made_again(api, redis_url, prefix, call):
    host = Host("async", api, redis_url, prefix, call)
    telling = []

    async def tell(*_):
        telling.append(1)
        if len(telling) == 1:
            await asyncio.Event().wait()

    tool = host.tool(tell_user=tell)
    shut_down_in_the_middle(call, tool, lambda: telling, call_id="call_1")

    assert not api.requests
    assert host.ask(host.tool(), SHORT, call_id="call_1")["success"] is True
    host.close()


def test_a_host_may_wait_for_the_calls_whose_callers_went_away(api, redis_url, prefix, call):
    host = Host("async", api, redis_url, prefix, call)
    api.fail_every(1, Reply.slow(0.3), path=POST)
    tool = host.tool()

    async def main():
        await tool.aclose()
        task = asyncio.create_task(tool.acall(ARGUMENTS, conversation_id=CONVERSATION))
        await async_wait_until(lambda: api.requests, describe="the generation begins")
        task.cancel()
        await tool.aclose()
        return host.record(api.generated[0])

    assert call(main()) is not None
    host.close()


@contextlib.contextmanager
def signalled(number, begun, *, taken_by=threading.main_thread):
    """Send this process a signal once `begun`, as a terminal or a process manager does."""

    def send():
        wait_until(begun, describe="the call has come so far")
        signal.pthread_kill(taken_by().ident, number)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["INT", "TERM"]
)
def test_an_interruption_waits_for_a_video_that_is_paid_for(api, redis_url, prefix, call, *, number, raised):
    host = Host("sync", api, redis_url, prefix, call)
    api.fail_every(1, Reply.slow(0.5), path=POST)
    tool = host.tool(generator=VideoApiGenerator(base_url=api.url, api_key=API_KEY, timeout_s=20))

    with signalled(number, lambda: api.requests), pytest.raises(raised):
        host.ask(tool, call_id="call_1")

    assert host.record(api.generated[0])["conversationId"] == CONVERSATION
    assert host.ask(tool, call_id="call_1")["job_id"] == api.generated[0]
    host.close()


@pytest.mark.parametrize("taken_by", [threading.main_thread, threading.current_thread], ids=["main", "another"])
def test_an_interruption_is_not_held_up_for_ever(caplog, taken_by):
    """The system may give a signal to any thread, and then nothing wakes the main one."""
    begun, release = threading.Event(), threading.Event()

    class Hanging:
        def generate(self, _):
            begun.set()
            release.wait(20)
            return GenerationStarted(job_id="job_1")

    tool = VideoGeneratorTool(ListQueue(), Hanging(), grace_s=0.2)
    with signalled(signal.SIGINT, begun.is_set, taken_by=taken_by), pytest.raises(KeyboardInterrupt):
        tool.call({"prompt": PROMPT}, conversation_id="c")
    release.set()
    assert "cannot be followed: the time is up" in caplog.text


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_a_part_that_is_interrupted_after_the_generation_is_called_again(kind, raised):
    """In the middle of the enqueue, which may be made twice."""
    queue, tries = ListQueue(), []

    class Interrupted:
        def enqueue(self, job_id, **options):
            tries.append(job_id)
            if len(tries) == 1:
                raise raised
            queue.enqueue(job_id, **options)

    outcome = interrupted_call(kind, VideoGeneratorTool(Interrupted(), CountingGenerator()))
    assert isinstance(outcome, raised)
    assert [job_id for job_id, *_ in queue.jobs] == ["job_1"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_a_video_that_cannot_be_enqueued_for_interruptions_is_told_of(kind, raised):
    untracked = []

    class Interrupted:
        def enqueue(self, *_, **__):
            raise raised

    tool = VideoGeneratorTool(Interrupted(), CountingGenerator(), on_untracked=untracked.append)
    assert isinstance(interrupted_call(kind, tool), raised)
    assert [lost.job_id for lost in untracked] == ["job_1"]


def interrupted_call(kind, tool):
    """Make a call in a process-like frame, and return what comes out of it."""
    try:
        if kind == "sync":
            return tool.call({"prompt": PROMPT}, conversation_id="c")
        return asyncio.run(tool.acall({"prompt": PROMPT}, conversation_id="c"))
    except BaseException as error:  # noqa: BLE001 - the interruption is what is looked at
        return error


def test_an_interruption_before_the_generation_starts_nothing_and_uses_up_no_id(api, redis_url, prefix, call):
    host = Host("sync", api, redis_url, prefix, call)
    told = []

    def tell(*_):
        told.append(1)
        if len(told) == 1:
            raise KeyboardInterrupt

    tool = host.tool(tell_user=tell)
    with pytest.raises(KeyboardInterrupt):
        host.ask(tool, call_id="call_1")
    assert not api.requests

    assert host.ask(tool, call_id="call_1")["success"] is True
    host.close()


def test_a_finished_video_of_the_hosts_generator_needs_no_queue(call):
    class Generator:
        async def generate(self, _):
            return GenerationFinished(video_url="https://files.example/1.mp4")

    queue = ListQueue()
    answer = call(VideoGeneratorTool(queue, Generator()).acall({"prompt": PROMPT}, conversation_id="c"))

    assert answer["download_url"] == "https://files.example/1.mp4"
    assert not queue.jobs


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": None},
        {"generator": None},
        {"notifier": object()},
        {"tell_user": "x"},
        {"on_untracked": "x"},
        {"notifier": CountingGenerator(), "tell_user": print},
        {"file_url": "files/"},
        {"mode": "later"},
        {"default_version": 4},
    ],
)
def test_a_tool_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        VideoGeneratorTool(**{"queue": ListQueue(), "generator": CountingGenerator(), **wrong})


# --- schemas ---


def test_the_schemas_keep_to_strict_mode():
    """Strict mode: every property is required, optional ones take null, nothing else is allowed."""
    tool = VideoGeneratorTool(ListQueue(), CountingGenerator(), file_url=FILES)
    responses, chat = tool.schema_responses(), tool.schema_chat()

    assert responses["type"] == chat["type"] == "function"
    assert {**chat["function"], "type": "function"} == responses
    assert responses["name"] == "videoGenerator"
    assert responses["strict"] is True
    parameters = responses["parameters"]
    assert parameters["additionalProperties"] is False
    assert parameters["required"] == list(parameters["properties"]) == list(ARGUMENTS)
    for name, schema in parameters["properties"].items():
        assert ("null" in schema["type"]) == (name not in {"prompt", "messageToUser"})
        assert ("enum" in schema) == (name in {"aspectRatio", "modelSelected"})
        assert not {"minLength", "maxLength", "pattern", "default"} & set(schema)
    json.dumps(responses)


def test_a_schema_may_be_changed_without_changing_the_tool():
    tool = VideoGeneratorTool(ListQueue(), CountingGenerator())
    tool.parameters()["properties"]["prompt"]["type"] = "integer"

    assert tool.parameters()["properties"]["prompt"]["type"] == "string"


def test_every_error_code_of_the_contract_has_words():
    assert set(answers.SAID) == set(GenerationErrorCode)


def test_importing_the_library_imports_no_sdk():
    code = "import sys, videopoll, videopoll.tool, videopoll.video_api.generator; print({'openai', 'agents'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "set()"


def test_without_the_agents_sdk_the_tool_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "agents", None)
    tool = VideoGeneratorTool(ListQueue(), CountingGenerator())

    with pytest.raises(ImportError, match="pip install openai-agents"):
        tool.as_agents_tool(conversation_id_from=str)


def test_the_code_in_the_how_to_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "openai-tool.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^(<!-- needs: .*-->\n)?```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    namespace = {}
    for needs, code in blocks:
        if not needs or importlib.util.find_spec("agents"):
            exec(code, namespace)
    assert len(blocks) == 7
    assert namespace["answer"]["error_code"] == "INVALID_REQUEST"
    namespace["queue"].close()


# --- the timeline of the specification ---


def test_the_timeline_of_the_specification(host):
    """T+2 s the tool has answered; counted from the enqueue, polls at 5, 15, 25 … 65 s; 65 seconds in the caption."""
    host.api.fail_every(1, Reply.slow(0.2), path=POST)
    asked = time.monotonic()
    answer = host.ask(host.tool(), {**ARGUMENTS, "aspectRatio": "9:16"})
    assert time.monotonic() - asked < 2

    strategy, record = PollingStrategy(), host.record(answer["job_id"])
    job = VideoJob.from_record(answer["job_id"], json.dumps(record).encode(), record["startTime"])
    host.api.job(job.job_id, *[Reply.processing()] * 6, Reply.completed("https://files.api-ai-mvp.com/file/1"))
    poller = VideoApiPoller(base_url=host.api.url, api_key=API_KEY)

    polled_s, step, attempts = [], NextPoll(job.start_ms + round(strategy.initial_delay_s * 1000)), 0
    while isinstance(step, NextPoll):
        now_ms, attempts = step.due_ms, attempts + 1
        work = PollWork(job, attempts, step.faults, step.last_answer_ms)
        assert isinstance(before_poll(work, now_ms, strategy), Ask)
        polled_s.append((now_ms - job.start_ms) / 1000)
        step = decide(work, now_ms, poller.poll(job, timeout_s=5), now_ms, strategy)
    poller.close()

    assert polled_s == [5, 15, 25, 35, 45, 55, 65]
    assert isinstance(step, Outcome)
    assert step.kind is OutcomeKind.COMPLETED
    completed = step.to_completed(job)
    assert completed["completedAt"] - record["startTime"] == completed["processingTime"] == 65_000
    message = Message(job=job, outcome=step, form=MessageForm.VIDEO, reference=job.reference)
    assert message.caption == "🎥 ¡Tu video está listo! Se generó en 65 segundos."


def test_the_whole_way_to_the_users_phone(world):
    """A call of the tool, and the video arrives: the message first, then the video."""
    to = phone(7)
    with world.queue() as queue:
        generator = VideoApiGenerator(base_url=world.api.url, api_key=API_KEY)
        notifier = world.notifier()
        tool = VideoGeneratorTool(queue, generator, notifier=notifier, file_url=FILES)
        answer = tool.call(json.dumps(ARGUMENTS), conversation_id="c", metadata={"channel": "ultramsg", "to": to})
        generator.close()
        notifier.close()
    with world.worker():
        wait_until(lambda: len(world.ultramsg.inbox(to)) == 2, describe="the video arrives")

    early, video = world.ultramsg.inbox(to)
    assert early.text == ARGUMENTS["messageToUser"]
    assert video.video == world.api.video_url(answer["job_id"])
