"""Callbacks of video APIs: who signed them, and that they change nothing but the moment of a poll."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from email.message import Message

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import FAST, until
from kit.forks import every_lock_held, fork, in_child
from videopoll import AsyncRedisVideoJobQueue, ConfigurationError, RedisVideoJobQueue, WebhookNotifier, events
from videopoll.jobs import OutcomeKind
from videopoll.observe.metrics import Measurement, measure
from videopoll.testing import FakeServer, Reply, build_job, build_message
from videopoll.video_api import Callback, Doorbell, HttpVideoPoller, Ring, RingResult, Signing
from videopoll.video_api.apis import ALL, FAL, KLING, OPENROUTER, REPLICATE
from videopoll.video_api.callbacks import (
    CallbackRefused,
    CallbackVerified,
    keys_of,
    keys_of_jwks,
    verify_callback,
)

NOW_S = 1_757_157_518
URL = "https://files.example/1.mp4"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
OTHER = "whsec_" + base64.b64encode(b"another-secret-of-theirs").decode()


# --- as the APIs sign ---


def replicate(body: bytes, secret: str = SECRET, now_s: float = NOW_S) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"msg_1.{int(now_s)}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(int(now_s)), "Webhook-Signature": f"v1,{signature}"}


def openrouter(body: bytes, secret: str = SECRET, now_s: float = NOW_S) -> dict[str, str]:
    signed = f"{int(now_s)},".encode() + body
    return {"X-OpenRouter-Signature": f"t={int(now_s)},v1={hmac.new(secret.encode(), signed, 'sha256').hexdigest()}"}


def fal_keys(seed: bytes = b"fal"):
    ed25519 = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.ed25519", reason="needs the extra callbacks"
    )
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())


def public(key) -> str:
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()


def fal(body: bytes, key=None, now_s: float = NOW_S) -> dict[str, str]:
    signed = "\n".join(("req-1", "user-1", str(int(now_s)), hashlib.sha256(body).hexdigest()))
    return {
        "X-Fal-Webhook-Request-Id": "req-1",
        "X-Fal-Webhook-User-Id": "user-1",
        "X-Fal-Webhook-Timestamp": str(int(now_s)),
        "X-Fal-Webhook-Signature": (key or fal_keys()).sign(signed.encode()).hex(),
    }


BODIES = {
    "replicate": {"id": "job_1", "status": "succeeded", "output": URL},
    "openrouter": {"type": "video.generation.completed", "data": {"id": "job_1", "status": "completed"}},
    "fal": {"request_id": "job_1", "gateway_request_id": "job_9", "status": "OK", "payload": {}},
}
SIGNERS = {"replicate": replicate, "openrouter": openrouter, "fal": fal}
EACH = pytest.mark.parametrize("name", SIGNERS)


def body_of(name: str) -> bytes:
    return json.dumps(BODIES[name]).encode()


def keys_for(name: str) -> tuple[bytes, ...]:
    return keys_of(ALL[name], public(fal_keys()) if name == "fal" else SECRET)


def verify(name: str, headers, body: bytes, *, now_s: float = NOW_S, keys=None):
    return verify_callback(ALL[name], headers, body, keys_for(name) if keys is None else keys, now_s=now_s)


def test_every_description_with_callbacks_is_signed_here():
    assert {name for name, api in ALL.items() if api.callback is not None} == SIGNERS.keys()


@EACH
def test_a_callback_of_the_api_gives_the_id_of_its_job(name):
    body = body_of(name)
    headers = SIGNERS[name](body)

    assert verify(name, headers, body) == CallbackVerified("job_1")
    assert verify(name, [(key.lower().encode(), value.encode()) for key, value in headers.items()], body) == (
        CallbackVerified("job_1")
    )


@EACH
def test_the_headers_of_the_standard_librarys_server_are_read(name):
    headers = Message()
    for header, value in SIGNERS[name](body_of(name)).items():
        headers[header] = value
    assert verify(name, headers, body_of(name)) == CallbackVerified("job_1")


def test_the_signature_of_our_own_webhooks_is_taken_too():
    """Two sides of one standard, written apart."""
    message = build_message(job=build_job("job_1"))
    request = WebhookNotifier("https://x.example", secret=[OTHER, SECRET], clock=lambda: NOW_S).build(message)
    api = attrs.evolve(REPLICATE, callback=Callback(signing=Signing.STANDARD_WEBHOOKS, id="data.jobId"))

    assert verify_callback(api, request.headers, request.content, keys_for("replicate"), now_s=NOW_S) == (
        CallbackVerified("job_1")
    )


def test_the_published_example_of_the_standard_fits():
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    api = attrs.evolve(REPLICATE, callback=Callback(signing=Signing.STANDARD_WEBHOOKS, id="test"))
    keys = keys_of(api, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    verified = verify_callback(api, headers, b'{"test": 2432232314}', keys, now_s=1614265330)
    assert verified == CallbackVerified("2432232314")


@EACH
def test_a_callback_is_good_for_five_minutes_before_and_after(name):
    body = body_of(name)
    headers = SIGNERS[name](body)
    for off_s, verified in ((-301, False), (-300, True), (300, True), (301, False)):
        told = verify(name, headers, body, now_s=NOW_S + off_s)
        assert isinstance(told, CallbackVerified) is verified
        assert verified or "300 s" in told.reason


@EACH
def test_any_change_of_the_body_is_found(name):
    body = body_of(name)
    headers = SIGNERS[name](body)
    for changed in (body + b" ", body[:-1], body.replace(b"job_1", b"job_2"), b"", b"[" * 1000):
        assert verify(name, headers, changed).reason == "its signature does not fit"


@EACH
def test_any_change_of_a_header_is_found(name):
    body = body_of(name)
    headers = SIGNERS[name](body)
    for header, value in headers.items():
        for changed in ("", "x", value[:-2], value + "x", value.replace("1", "2"), "\x00", "é", "v1", "9" * 5000):
            told = verify(name, {**headers, header: changed}, body)
            assert isinstance(told, CallbackRefused) or changed == value, (header, changed)
        told = verify(name, {other: value for other, value in headers.items() if other != header}, body)
        assert told.http_status == 401
        assert isinstance(verify(name, [*headers.items(), (header, value)], body), CallbackRefused)


@EACH
def test_a_stranger_cannot_sign(name):
    body = body_of(name)
    headers = fal(body, fal_keys(b"stranger")) if name == "fal" else SIGNERS[name](body, OTHER)
    assert verify(name, headers, body).http_status == 401


@pytest.mark.parametrize("name", ["replicate", "openrouter"])
def test_one_of_several_secrets_and_signatures_is_enough_while_they_change(name):
    body = body_of(name)
    for secret in (SECRET, OTHER):
        keys = keys_of(ALL[name], [OTHER, SECRET])
        assert isinstance(verify(name, SIGNERS[name](body, secret), body, keys=keys), CallbackVerified)

    headers = replicate(body)
    both = replicate(body, OTHER)["Webhook-Signature"] + " v1a,xyz " + headers["Webhook-Signature"]
    assert isinstance(
        verify("replicate", {**headers, "Webhook-Signature": both}, body_of("replicate")), CallbackVerified
    ) is (name == "replicate")


def test_a_signature_of_another_version_does_not_count():
    body = body_of("replicate")
    headers = replicate(body)
    later = headers["Webhook-Signature"].replace("v1,", "v2,")
    assert isinstance(verify("replicate", {**headers, "Webhook-Signature": later}, body), CallbackRefused)


@EACH
@pytest.mark.parametrize(
    "told", [b"", b"null", b"[]", b"7", b"\xff", b"{}", b'{"id": {}}', b'{"id": ""}', b"[" * 90_000]
)
def test_a_body_that_names_no_job_is_refused_though_it_is_signed(name, told):
    assert verify(name, SIGNERS[name](told), told) == CallbackRefused("its body names no job", 400)


@EACH
def test_a_body_that_is_too_large_is_not_even_looked_at(name):
    body = b" " * 1_000_001
    assert verify(name, SIGNERS[name](body), body).http_status == 413


def test_a_callback_about_a_job_that_is_worked_on_says_so():
    body = json.dumps({"id": "job_1", "status": "processing"}).encode()
    assert verify("replicate", replicate(body), body) == CallbackVerified("job_1", working=True)


TEXT = st.text(max_size=60) | st.sampled_from(["v1,", "t=1,v1=", str(NOW_S), "v1," * 50, "a" * 128])


@EACH
@given(data=st.data())
def test_whatever_comes_is_refused_and_raises_nothing(name, data):
    names = [header.lower() for header in SIGNERS[name](b"")]
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from([*names, "x"]) | TEXT, TEXT | st.binary(max_size=60)), max_size=8)
    )
    body = data.draw(st.binary(max_size=200))
    for headers in (pairs, dict(pairs)):
        assert isinstance(verify(name, headers, body), CallbackRefused)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!", "x", [], [SECRET, ""], None, 7, "short"])
def test_a_secret_that_cannot_be_one_is_refused_and_not_quoted(secret):
    for api in (REPLICATE, FAL):
        with pytest.raises(ConfigurationError) as caught:
            keys_of(api, secret)
        assert "short" not in str(caught.value)


def test_a_body_that_was_parsed_already_is_a_mistake_of_the_host():
    with pytest.raises(ConfigurationError, match="must be the bytes as they came"):
        verify("replicate", {}, {"id": "job_1"})
    with pytest.raises(ConfigurationError, match="leave it to the polls"):
        verify_callback(KLING, {}, b"", [b"k"], now_s=NOW_S)


@pytest.mark.parametrize("document", [None, [], {}, {"keys": 7}, {"keys": [None, {}, {"kty": "RSA", "x": "abc"}]}])
def test_a_key_set_without_a_key_gives_none(document):
    assert keys_of_jwks(document) == ()


# --- the doorbell, over real servers and both queues ---


SPARSE = attrs.evolve(FAST, interval_s=30.0, timeout_s=200.0)
SETTLED = attrs.evolve(FAST, interval_s=0.4, timeout_s=60.0, max_attempts=3)


@pytest.fixture
def queue(kind, redis_url, prefix, call):
    """The queue of either kind that a doorbell hangs on."""
    made = (RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue).from_url(redis_url, prefix=prefix)
    yield made
    call(made.close())


@pytest.fixture
def heard():
    return []


@pytest.fixture
def ring(kind, queue, call, heard, idle_at_most):
    """Ring for a job as Replicate does, now."""
    idle_at_most(0.1)
    bell = Doorbell(queue, REPLICATE, secret=SECRET, hooks=[heard.append], clock=lambda: NOW_S)

    def once(job_id: str = "job_1", status: str = "succeeded", secret: str = SECRET, now_s: float = NOW_S) -> Ring:
        body = json.dumps({"id": job_id, "status": status}).encode()
        headers = replicate(body, secret, now_s)
        return call((bell.ring if kind == "sync" else bell.aring)(headers, body))

    return once


@pytest.fixture
def api():
    with FakeServer() as server:
        yield server


def poller(api):
    return HttpVideoPoller(REPLICATE, api_key="k", base_url=api.url)


WORKING, DONE = Reply.json({"status": "processing"}), Reply.json({"status": "succeeded", "output": URL})


def test_a_callback_brings_the_video_though_polls_are_sparse(world, api, ring):
    """Under the name of a start through the description."""
    api.route("GET", "/predictions/job_1", WORKING, DONE)
    world.enqueue("replicate:job_1", provider="replicate", operation={"id": "job_1"})

    with world.worker(poller=poller(api), strategy=SPARSE) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it was polled in its turn")
        until(lambda: ring().result is RingResult.RUNG, "the bell finds it scheduled")
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

    assert [one.attempt for one in worker.recorder.of(events.JobPolled)] == [1, 1]


def test_a_job_under_the_apis_own_id_is_found_too(world, api, ring):
    api.route("GET", "/predictions/job_1", WORKING, DONE)
    world.enqueue("job_1")

    with world.worker(poller=poller(api), strategy=SPARSE) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it was polled in its turn")
        until(lambda: ring() == Ring(RingResult.RUNG, job_id="job_1"), "the bell finds it scheduled")
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")


def test_a_callback_that_comes_again_and_again_uses_up_no_attempts(world, api, ring):
    """Whoever gets hold of one may send it as often as they like for five minutes."""
    api.route("GET", "/predictions/job_1", *[WORKING] * 12, DONE)
    world.enqueue("job_1")
    few = attrs.evolve(SPARSE, max_attempts=3)

    with world.worker(poller=poller(api), strategy=few) as worker:
        for polls in range(1, 13):
            until(lambda polls=polls: len(worker.recorder.of(events.JobPolled)) >= polls, "it was polled")
            until(lambda: ring().result is RingResult.RUNG, "the bell finds it scheduled again")
            ring()
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

    assert worker.recorder.of(events.JobConcluded)[0].outcome is OutcomeKind.COMPLETED


def noise(ring):
    """What may come beside a genuine callback; none of it moves a poll."""
    ring(secret=OTHER)
    ring(now_s=NOW_S - 301)
    ring(status="processing")
    ring("job_of_somebody_else")
    ring("id with spaces")


def test_forged_late_and_foreign_callbacks_move_nothing(world, api, ring, heard):
    api.route("GET", "/predictions/job_1", WORKING)
    world.enqueue("job_1")

    with world.worker(poller=poller(api), strategy=SPARSE) as worker, world.queue() as look:
        until(lambda: worker.recorder.of(events.JobPolled), "it was polled in its turn")
        until(lambda: look.get("job_1").due_ms, "it waits for its next poll")
        before = look.get("job_1")
        noise(ring)
        after = look.get("job_1")

    assert (after.due_ms, after.attempts) == (before.due_ms, before.attempts)
    assert [one.result for one in heard] == ["refused", "refused", "working", "nothing", "nothing"]
    assert len(worker.recorder.of(events.JobPolled)) == 1


@pytest.mark.parametrize("when", ["never", "before the enqueue", "while it goes on", "after the end", "all the time"])
def test_the_same_comes_of_a_job_whenever_a_callback_comes(world, api, ring, when):
    """Early, lost, doubled, late: one poll after another says what there is, and the user hears once."""
    api.route("GET", "/predictions/job_1", WORKING, WORKING, DONE)
    if when in {"before the enqueue", "all the time"}:
        assert ring().result is RingResult.NOTHING
    to = world.enqueue("job_1")

    with world.worker(poller=poller(api), strategy=SETTLED) as worker, world.queue() as look:

        def delivered() -> bool:
            if when in {"while it goes on", "all the time"}:
                ring()
                noise(ring)
            return bool(worker.recorder.of(events.JobDelivered))

        until(delivered, "the user has the video")
        ended = look.get("job_1")
        if when in {"after the end", "all the time"}:
            assert ring().result is RingResult.NOTHING
        assert look.get("job_1").outcome == ended.outcome

    assert ended.outcome.kind is OutcomeKind.COMPLETED
    assert len(world.ultramsg.inbox(to)) == 1
    assert len([one for one in api.requests if one.path == "/predictions/job_1"]) == 3


def test_what_a_callback_says_is_not_believed(world, api, ring):
    """The poll stays the truth."""
    api.route("GET", "/predictions/job_1", WORKING, Reply.json({"status": "failed", "error": "no"}))
    world.enqueue("job_1")
    with world.worker(poller=poller(api), strategy=SPARSE) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it was polled in its turn")
        until(lambda: ring(status="succeeded").result is RingResult.RUNG, "the bell finds it")
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has heard")
    assert worker.recorder.of(events.JobConcluded)[0].outcome is OutcomeKind.FAILED


# --- keys that the API publishes ---


@pytest.fixture
def bell(kind, queue, call, api):
    """A doorbell for fal, whose keys a server of ours publishes; and the time it goes by."""
    time_s = [float(NOW_S)]
    fals = attrs.evolve(FAL, callback=attrs.evolve(FAL.callback, keys_url=f"{api.url}/jwks.json"))
    made = Doorbell(queue, fals, clock=lambda: time_s[0])

    def once(key=None, after_s: float = 0) -> Ring:
        time_s[0] += after_s
        body = body_of("fal")
        return call((made.ring if kind == "sync" else made.aring)(fal(body, key, time_s[0]), body))

    once.door = made
    yield once
    made.close()
    call(made.aclose())


def jwks(*keys) -> Reply:
    return Reply.json({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public(key)} for key in keys]})


def test_the_keys_of_fal_are_fetched_once_and_kept_for_a_day(bell, api):
    api.route("GET", "/jwks.json", jwks(fal_keys()))
    for after_s in (0, 1, 86_000):
        assert bell(after_s=after_s) == Ring(RingResult.NOTHING)
    assert len(api.requests) == 1
    bell(after_s=1000)
    assert len(api.requests) == 2


def test_forged_callbacks_make_no_more_than_a_fetch_in_five_minutes(bell, api):
    api.route("GET", "/jwks.json", jwks(fal_keys()))
    stranger = fal_keys(b"new")
    for _ in range(20):
        assert bell(stranger, after_s=20).http_status == 401
    assert len(api.requests) == 2


def test_changed_keys_are_found(bell, api):
    new = fal_keys(b"new")
    api.route("GET", "/jwks.json", jwks(fal_keys()), jwks(new))
    assert bell().http_status == 204
    assert bell(new, after_s=10).http_status == 401
    assert bell(new, after_s=300).http_status == 204


@pytest.mark.parametrize("reply", [Reply.fault(503), Reply.garbage(), Reply.json({"keys": []}), Reply.redirect("/x")])
def test_keys_that_cannot_be_had_are_asked_for_later_and_the_api_calls_again(bell, api, reply):
    api.route("GET", "/jwks.json", reply, jwks(fal_keys()))
    assert bell().http_status == 503
    assert bell(after_s=299).http_status == 503
    assert bell(after_s=2).http_status == 204


@pytest.fixture
def keys_take(api):
    """Have the keys come after so many seconds."""
    return lambda seconds: api.route("GET", "/jwks.json", attrs.evolve(jwks(fal_keys()), delay_s=seconds))


def test_the_first_callbacks_of_a_process_may_come_all_at_once(kind, bell, call, keys_take):
    """All but one were told to come again."""
    keys_take(0.2)
    body = body_of("fal")
    headers = fal(body)

    async def together():
        return await asyncio.gather(*(bell.door.aring(headers, body) for _ in range(20)))

    if kind == "sync":
        with ThreadPoolExecutor(20) as threads:
            rings = list(threads.map(lambda _: bell.door.ring(headers, body), range(20)))
    else:
        rings = call(together())
    assert {ring.http_status for ring in rings} == {204}


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_a_callback_whose_request_is_cancelled_while_keys_are_fetched_costs_no_other_one(bell, call, api, keys_take):
    """The door was closed for five minutes."""
    keys_take(0.2)
    body = body_of("fal")

    async def cancelled():
        ringing = asyncio.create_task(bell.door.aring(fal(body), body))
        await asyncio.to_thread(until, lambda: api.requests, "the keys are asked for")
        ringing.cancel()
        await asyncio.wait([ringing])

    call(cancelled())
    assert bell(after_s=1).http_status == 204


# --- in a forked child ---


def rung_there(kind, bell):
    """Ring in a forked child, and give what to answer."""
    body = body_of("fal")
    headers = fal(body)
    ring = bell.door.ring(headers, body) if kind == "sync" else asyncio.run(bell.door.aring(headers, body))
    return [ring.http_status, ring.result.value]


def test_a_doorbell_works_in_a_child_that_is_forked_while_others_ring(kind, bell, keys_take):
    keys_take(0)
    assert bell().result is RingResult.NOTHING

    with every_lock_held(bell.door) as held:
        _, told = fork(lambda: rung_there(kind, bell))
    assert told() == [204, "nothing"]
    assert held
    assert bell().http_status == 204


def test_a_child_that_is_forked_while_its_parent_fetches_keys_fetches_them_itself(kind, bell, api, keys_take):
    """It had none, and took them for fetched a moment ago: it asked all APIs to come again, for five minutes."""
    keys_take(0.5)
    ringing = threading.Thread(target=bell)
    ringing.start()
    until(lambda: api.requests, "the keys are asked for")

    assert in_child(lambda: rung_there(kind, bell)) == [204, "nothing"]
    ringing.join()
    assert bell().http_status == 204


# --- building one, and what it tells ---


@pytest.mark.parametrize(
    ("api", "options", "error", "said"),
    [
        (KLING, {"secret": SECRET}, ConfigurationError, "leave it to the polls"),
        (REPLICATE, {}, ConfigurationError, "give Doorbell its secret"),
        (OPENROUTER, {"secret": ""}, ConfigurationError, "the text that the API's settings show"),
        (REPLICATE, {"secret": "whsec_x"}, ConfigurationError, "bytes in base64"),
        (FAL, {"secret": "abc"}, ConfigurationError, "32 bytes in base64url"),
    ],
)
def test_a_doorbell_that_cannot_work_is_refused_when_it_is_built(api, options, error, said):
    with pytest.raises(error, match=said):
        Doorbell(RedisVideoJobQueue.from_url("redis://h"), api, **options)


def test_fal_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"videopoll\[callbacks\]"):
        Doorbell(RedisVideoJobQueue.from_url("redis://h"), FAL)


def test_the_wrong_side_for_a_queue_is_told(call):
    body = body_of("replicate")
    blocking = Doorbell(RedisVideoJobQueue.from_url("redis://h"), REPLICATE, secret=SECRET)
    awaited = Doorbell(AsyncRedisVideoJobQueue.from_url("redis://h"), REPLICATE, secret=SECRET)
    with pytest.raises(ConfigurationError, match=r"await Doorbell\.aring"):
        awaited.ring({}, body)
    with pytest.raises(ConfigurationError, match=r"call Doorbell\.ring"):
        call(blocking.aring({}, body))


def test_a_refusal_is_logged_and_counted_without_what_came(kind, ring, heard, caplog):
    with caplog.at_level(logging.INFO, "videopoll.jobs"):
        told = ring("a-prompt-or-a-name", secret=OTHER)

    assert (told.result, told.http_status, told.reason) == (RingResult.REFUSED, 401, "its signature does not fit")
    assert "its signature does not fit" in caplog.text
    assert not any(word in caplog.text + repr(told) + repr(heard) for word in ("a-prompt", SECRET, OTHER, "v1,"))
    assert measure(heard[0]) == (Measurement("callbacks", labels={"provider": "replicate", "result": "refused"}),)


def test_a_doorbell_shows_no_secret():
    bell = Doorbell(RedisVideoJobQueue.from_url("redis://h"), REPLICATE, secret=SECRET)
    with contextlib.closing(bell):
        assert repr(bell) == "Doorbell('replicate')"
