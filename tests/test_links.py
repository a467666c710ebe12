"""Links that end, and videos that only the API's key opens: nobody gets a dead link, and no paid video is lost."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import socket
import threading
import time

import attrs
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import API_KEY, shut
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    ConfigurationError,
    DeliveryPolicy,
    KeyTtls,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
)
from videopoll.core.delivery import (
    Done,
    GetLink,
    GiveUp,
    Later,
    LookUp,
    Send,
    after_link,
    after_lookup,
    after_send,
    next_delivery_action,
    open_outbox,
    resume_delivery,
)
from videopoll.jobs import (
    Asset,
    BucketObject,
    FailureReason,
    LockedLink,
    MessageForm,
    OutboxEntry,
    Outcome,
    OutcomeKind,
    PublicLink,
    VideoJob,
)
from videopoll.jobs.urls import is_public_https
from videopoll.messages import Delivered, LookupResult, NotSent, Refused, Unknown
from videopoll.observations import Downloaded, Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.video_api import HttpVideoPoller
from videopoll.video_api.apis import OPENROUTER
from videopoll.worker.publishing import BoundedFile

NOW_MS = 1_757_157_518_000
# A quarter of an hour, as the page says; not read from the code: its own constant cannot tell that it is too short.
NEAR_MS = 15 * 60 * 1000
JOB = VideoJob("job_1", "conversation-1", NOW_MS)
POLICY = DeliveryPolicy(jitter=0)
OLD, NEW = "https://files.example/old.mp4?sig=1", "https://files.example/new.mp4?sig=2"
LOCKED = Asset(LockedLink("https://api.example/v1/videos/job_1/content"))
FAULT = Fault(FaultKind.SERVER, "HTTP 503")
VIDEO = b"\x00\x00\x00\x18ftypmp42" + b"a video" * 1000


# --- the judgements ---


def outcome(ends_in_ms: float | None = None, *, refreshable: bool = False, more: tuple[Asset, ...] = ()) -> Outcome:
    """Give a finished video whose link ends in so long."""
    ends_ms = None if ends_in_ms is None else NOW_MS + ends_in_ms
    link = Asset(PublicLink(OLD, ends_ms))
    return Outcome(OutcomeKind.COMPLETED, NOW_MS, assets=(link, *more), refreshable=refreshable)


def entry(some: Outcome, **changes) -> OutboxEntry:
    return attrs.evolve(open_outbox(JOB, some, POLICY), **changes)


def next_of(some: Outcome, now_ms: int = NOW_MS, **options):
    return next_delivery_action(entry(some), now_ms, POLICY, **options)


@pytest.mark.parametrize("ends_in_ms", [None, NEAR_MS + 1, NEAR_MS, 1, 0, -1])
@pytest.mark.parametrize("refreshable", [True, False])
def test_a_link_is_asked_for_again_when_its_end_is_near_or_past(ends_in_ms, refreshable):
    action = next_of(outcome(ends_in_ms, refreshable=refreshable))

    if ends_in_ms is None or ends_in_ms > NEAR_MS or (ends_in_ms > 0 and not refreshable):
        assert isinstance(action, Send)
        assert action.entry.outcome.video_url == OLD
    elif refreshable:
        assert action == GetLink(entry(outcome(ends_in_ms, refreshable=True)))
    else:
        assert isinstance(action, Send)
        assert is_told_that_it_expired(action.entry)


def is_told_that_it_expired(told: OutboxEntry) -> bool:
    """Whether the user gets the text for it, and the operator is left what there was."""
    ended = told.outcome
    assert (ended.kind, ended.video_url, ended.assets) == (OutcomeKind.FAILED, None, ())
    assert ended.undeliverable_url in {OLD, LOCKED.place.url}
    assert told.form is MessageForm.TEXT
    return ended.reason is FailureReason.EXPIRED


def test_a_link_whose_end_nobody_knows_counts_as_living_for_an_hour():
    near_ms = NOW_MS + 3_600_000 - NEAR_MS
    assert isinstance(next_of(outcome(refreshable=True), near_ms - 1), Send)
    assert isinstance(next_of(outcome(refreshable=True), near_ms), GetLink)
    assert isinstance(next_of(outcome(), NOW_MS + 86_400_000), Send)


def test_a_link_that_was_given_just_now_is_sent_whatever_it_says_of_its_end():
    """Asking again would give the same; and the clock that it was told by may be wrong."""
    for refreshable in (True, False):
        assert isinstance(next_of(outcome(-1, refreshable=refreshable), fresh=True), Send)


def test_the_fresh_link_is_sent_and_what_else_there_was_stays():
    ready = VideoReady(assets=(Asset(PublicLink(NEW, lives_s=60)),))
    action = after_link(entry(outcome(0, refreshable=True), lookups=3), ready, NOW_MS, POLICY)

    assert isinstance(action, Send)
    assert action.entry.outcome.assets == (Asset(PublicLink(NEW, NOW_MS + 60_000)),)
    assert (action.entry.outcome.refreshable, action.entry.lookups) == (True, 0)


@pytest.mark.parametrize("answer", [FAULT, VideoMissing(), VideoWorking(), VideoFailed("no")])
def test_an_old_link_that_still_lives_is_sent_if_there_is_no_better_one(answer):
    action = after_link(entry(outcome(1000, refreshable=True)), answer, NOW_MS, POLICY)

    assert isinstance(action, Send)
    assert action.entry.outcome.video_url == OLD


def test_a_fault_is_tried_again_within_the_deliverys_limits_and_counts_as_no_send():
    action = after_link(entry(outcome(0, refreshable=True)), FAULT, NOW_MS, POLICY)
    assert isinstance(action, Later)
    assert (action.due_ms, action.entry.tries, action.entry.form) == (NOW_MS + 2000, 0, MessageForm.VIDEO)
    hinted = after_link(action.entry, attrs.evolve(FAULT, retry_after_s=90), NOW_MS, POLICY)
    assert hinted.due_ms == NOW_MS + 90_000

    late_ms = entry(outcome()).deadline_ms
    assert isinstance(after_link(entry(outcome(0, refreshable=True)), FAULT, late_ms, POLICY), Later), "not the first"
    told = after_link(entry(outcome(0, refreshable=True), lookups=2), FAULT, late_ms, POLICY)
    assert is_told_that_it_expired(told.entry)
    spent = after_link(entry(outcome(0, refreshable=True), lookups=39), FAULT, NOW_MS, POLICY)
    assert is_told_that_it_expired(spent.entry)


def test_an_api_that_does_not_know_the_job_any_more_is_believed_at_the_second_time():
    """The first may be a deployment's; and a look-up of the message before it says nothing of the job."""
    doubt = after_link(entry(outcome(0, refreshable=True)), VideoMissing(), NOW_MS, POLICY)
    assert isinstance(doubt, Later)
    assert is_told_that_it_expired(after_link(doubt.entry, VideoMissing(), NOW_MS, POLICY).entry)

    noted = entry(outcome(0, refreshable=True), sending_ms=NOW_MS - 60_000, tries=1, lookups=2)
    asked = after_lookup(noted, LookupResult.ABSENT, NOW_MS, POLICY)
    assert isinstance(asked, GetLink)
    assert isinstance(after_link(asked.entry, VideoMissing(), NOW_MS, POLICY), Later)


def test_the_channel_is_asked_for_an_earlier_message_before_any_link_is():
    """The user may have the video already."""
    assert isinstance(next_delivery_action(entry(outcome(-1), sending_ms=NOW_MS, tries=1), NOW_MS, POLICY), LookUp)


def test_what_is_locked_is_published_and_published_again_when_that_link_ends():
    locked = Outcome(OutcomeKind.COMPLETED, NOW_MS, assets=(LOCKED,))
    first = next_of(locked, fresh=True)
    assert first == GetLink(entry(locked), LOCKED)

    ready = VideoReady(assets=(Asset(PublicLink(OLD, lives_s=3600)),))
    sent = after_link(first.entry, ready, NOW_MS, POLICY)
    assert isinstance(sent, Send)
    assert sent.entry.outcome.video_url == OLD
    again = next_of(sent.entry.outcome, NOW_MS + 3_600_000)
    assert again.locked == LOCKED
    renewed = after_link(again.entry, VideoReady(NEW), NOW_MS, POLICY)
    assert [one.place for one in renewed.entry.outcome.assets] == [PublicLink(NEW), LOCKED.place]


def test_a_link_that_is_asked_for_again_may_be_a_locked_one():
    action = after_link(entry(outcome(0, refreshable=True)), VideoReady(assets=(LOCKED,)), NOW_MS, POLICY)
    assert (type(action), action.locked) == (GetLink, LOCKED)


def test_a_stored_locked_video_is_taken_up_by_another_worker():
    stored = entry(Outcome(OutcomeKind.COMPLETED, NOW_MS, assets=(LOCKED,)))
    read = OutboxEntry.from_json("job_1", stored.to_json().encode())
    assert resume_delivery(read, NOW_MS, taken_over=True) == stored


links = st.one_of(st.none(), st.integers(-4_000_000, 4_000_000))
answers = st.sampled_from(
    [FAULT, VideoMissing(), VideoWorking(), VideoFailed("no"), VideoReady(NEW), VideoReady(assets=(LOCKED,))]
)
receipts = st.sampled_from([Delivered(), NotSent("busy"), NotSent("off", counts=False), Refused("no"), Unknown("lost")])


@given(links, st.booleans(), st.booleans(), st.lists(answers, min_size=1), st.lists(receipts, min_size=1))
def test_any_delivery_ends_and_no_link_is_sent_that_has_ended_unless_it_was_just_given(
    ends_in_ms, refreshable, locked, got, receipts
):
    policy = DeliveryPolicy(max_attempts=6, deadline_s=60)
    some = outcome(ends_in_ms, refreshable=refreshable, more=(LOCKED,) if locked else ())
    now_ms, action, given_ms = NOW_MS, next_delivery_action(open_outbox(JOB, some, policy), NOW_MS, policy), None
    for number in range(2000):
        now_ms += 500
        match action:
            case GetLink():
                answer = got[number % len(got)]
                if action.locked is not None and answer == VideoReady(assets=(LOCKED,)):
                    answer = FAULT
                given_ms = now_ms if isinstance(answer, VideoReady) else given_ms
                action = after_link(action.entry, answer, now_ms, policy)
            case Send():
                sent = action.entry.outcome
                place = sent.assets[0].place if sent.success else None
                lives = (
                    place is None or place.ends_ms is None or place.ends_ms > now_ms - 500 or given_ms == now_ms - 500
                )
                assert lives, "a dead link"
                action = after_send(action.entry, receipts[number % len(receipts)], now_ms, policy)
            case LookUp():
                action = after_lookup(action.entry, LookupResult.ABSENT, now_ms, policy)
            case Later():
                now_ms = max(now_ms, action.due_ms)
                action = next_delivery_action(action.entry, now_ms, policy)
            case Done() | GiveUp():
                return
    free = any(isinstance(receipt, NotSent) and not receipt.counts for receipt in receipts)
    assert free, "the delivery does not end"


# --- downloads ---


HAS_AIOHTTP = importlib.util.find_spec("aiohttp") is not None
WAYS = ("threads", "asyncio over httpx", *["asyncio over aiohttp"] * HAS_AIOHTTP, "a client of the host's")


def download(way: str, api: str, file, *, timeout_s: float = 5.0, place=None, **options):
    poller = HttpVideoPoller(
        OPENROUTER,
        api_key=API_KEY,
        base_url=f"{api}/v1",
        transport="aiohttp" if way.endswith("aiohttp") else "httpx",
        client=httpx.Client(trust_env=False) if way.startswith("a client") else None,
        **options,
    )
    place = place or LockedLink(f"{api}/v1/videos/job_1/content")
    if way in {"threads", "a client of the host's"}:
        return poller.download(JOB, place, file, timeout_s=timeout_s)

    async def run():
        try:
            return await poller.adownload(JOB, place, file, timeout_s=timeout_s)
        finally:
            await poller.aclose()

    return asyncio.run(run())


class Raw:
    """A server that writes what it likes."""

    def __init__(self, head: str, chunk: bytes = b"", pause_s: float = 0.0, times: int = 1) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()
        self._talk = (head, chunk, pause_s, times)
        self.written = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        head, chunk, pause_s, times = self._talk
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{head}\r\n\r\n".encode())
                for _ in range(times):
                    connection.sendall(chunk)
                    self.written += len(chunk)
                    if self._over.wait(pause_s):
                        return
        except OSError:
            return

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        shut(self._listener)
        self._thread.join(5)


FOREVER = 10_000_000
MEGABYTE = b"x" * 1_000_000


@pytest.mark.parametrize("way", WAYS)
def test_an_endless_video_is_cut_off_at_its_limit(way):
    file = BoundedFile(io.BytesIO(), 3_000_000)
    with Raw("Connection: close", MEGABYTE, 0, FOREVER) as server:
        got = download(way, server.url, file)

    assert (type(got), got.error) == (VideoFailed, "the video was made, but has more than 3000000 bytes")
    assert file.size <= 3_000_000


@pytest.mark.parametrize("way", WAYS)
def test_a_huge_video_is_not_even_begun(way):
    file = BoundedFile(io.BytesIO(), 3_000_000)
    with Raw("Content-Length: 3000001", MEGABYTE, 0, 4) as server:
        got = download(way, server.url, file)

    assert (type(got), file.size) == (VideoFailed, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_video_ends_with_its_time(way):
    began_s = time.monotonic()
    with Raw("Content-Length: 100000", b"x", 0.05, FOREVER) as server:
        got = download(way, server.url, BoundedFile(io.BytesIO(), 3_000_000), timeout_s=0.6)

    assert (type(got), got.kind) == (Fault, FaultKind.TIMEOUT)
    assert time.monotonic() - began_s < 4


@pytest.mark.parametrize("way", WAYS)
def test_a_video_that_ends_too_early_is_none(way):
    with Raw("Content-Length: 5000000", MEGABYTE, 0, 2) as server:
        got = download(way, server.url, BoundedFile(io.BytesIO(), 9_000_000))

    assert (type(got), got.kind) == (Fault, FaultKind.CONNECTION)


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_video_is_written_piece_by_piece(way):
    file = io.BytesIO()
    into = BoundedFile(file, 9_000_000)
    with Raw("Content-Length: 5000000", MEGABYTE, 0, 5) as server:
        got = download(way, server.url, into)

    assert got == Downloaded("video/mp4")
    assert file.getvalue() == MEGABYTE * 5


def test_a_file_that_cannot_be_written_is_a_passing_fault():
    class Full:
        max_bytes = 100

        def write(self, data):
            raise OSError(28, "No space left on device")

    with Raw("Content-Length: 4", b"abcd") as server:
        got = download("threads", server.url, Full())

    assert (type(got), got.detail) == (Fault, "not stored: OSError: No space left on device")


def served(talk):
    """Give clients whose requests are answered by a function, without a network."""
    seen = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return talk(request)

    transport = httpx.MockTransport(handle)
    return seen, {"client": httpx.Client(transport=transport), "async_client": httpx.AsyncClient(transport=transport)}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_redirect_to_a_public_address_is_followed_without_the_key(kind):
    """So APIs hand out signed links of their storage."""

    def talk(request):
        if request.url.host == "openrouter.ai":
            return httpx.Response(302, headers={"Location": "https://storage.example.com/1.mp4?sig=1"})
        return httpx.Response(200, content=VIDEO, headers={"Content-Type": "video/mp4"})

    seen, clients = served(talk)
    poller = HttpVideoPoller(OPENROUTER, api_key=API_KEY, **clients)
    file, place = io.BytesIO(), LockedLink("https://openrouter.ai/api/v1/videos/job_1/content")
    into = BoundedFile(file, 10_000_000)
    if kind == "sync":
        got = poller.download(JOB, place, into, timeout_s=5)
    else:
        got = asyncio.run(poller.adownload(JOB, place, into, timeout_s=5))

    assert (got, file.getvalue()) == (Downloaded("video/mp4"), VIDEO)
    assert [API_KEY in request.headers.get("authorization", "") for request in seen] == [True, False]


def test_redirects_without_end_are_not_followed_for_ever():
    seen, clients = served(lambda request: httpx.Response(302, headers={"Location": f"{request.url}1"}))
    poller = HttpVideoPoller(OPENROUTER, api_key=API_KEY, **clients)
    place = LockedLink("https://openrouter.ai/api/v1/videos/job_1/content")

    got = poller.download(JOB, place, BoundedFile(io.BytesIO(), 100), timeout_s=5)

    assert (type(got), len(seen)) == (Fault, 4)
    assert [API_KEY in request.headers.get("authorization", "") for request in seen] == [True, False, False, False]


HOSTILE_LOCATIONS = (
    "//[",
    "https://[::1",
    "https://[v1.x]/1.mp4",
    "https://\u2100.example/",
    "https://a.example:99999/",
    "https://a..example/1.mp4",
    "https://xn--a.example/1.mp4",
    "https://[64:ff9b::7f00:1]/1.mp4",
    "//10.0.0.1/1.mp4",
    "javascript:alert(1)",
    "https://" + "a" * 10_000 + ".example/",
    "https:",
    "?" * 9000,
)


@pytest.mark.parametrize("location", HOSTILE_LOCATIONS)
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_redirect_to_what_is_no_public_address_is_a_fault(kind, location):
    assert_no_more_than_a_fault(kind, location)


@given(st.from_regex(r"(https?:)?/{0,3}(xn--)?[\[\]@:%.a-z0-9\\#?\u2100 ]{0,12}", fullmatch=True))
def test_no_location_raises(location):
    assert_no_more_than_a_fault("sync", location)


def assert_no_more_than_a_fault(kind, location):
    def talk(request):
        if request.url.path.endswith("/content"):
            return httpx.Response(302, headers=[(b"Location", location.encode())])
        return httpx.Response(404)

    seen, clients = served(talk)
    poller = HttpVideoPoller(OPENROUTER, api_key=API_KEY, **clients)
    place, into = LockedLink("https://openrouter.ai/api/v1/videos/job_1/content"), BoundedFile(io.BytesIO(), 100)
    if kind == "sync":
        got = poller.download(JOB, place, into, timeout_s=5)
    else:
        got = asyncio.run(poller.adownload(JOB, place, into, timeout_s=5))

    assert isinstance(got, Fault | VideoFailed)
    # The later requests are to public addresses, and without the key.
    assert all(is_public_https(str(request.url)) for request in seen)
    assert not any(API_KEY in request.headers.get("authorization", "") for request in seen[1:])


@pytest.mark.parametrize(
    "place",
    [
        LockedLink("https://elsewhere.example/v1/videos/job_1/content"),
        LockedLink("https://openrouter.ai:99999/1.mp4"),
        LockedLink("https://["),
        LockedLink("https://openrouter.ai@elsewhere.example/1.mp4"),
        BucketObject("s3://bucket/1.mp4"),
    ],
)
def test_the_key_goes_nowhere_but_to_its_own_origin(place):
    seen, clients = served(lambda _: httpx.Response(200, content=VIDEO))
    poller = HttpVideoPoller(OPENROUTER, api_key=API_KEY, **clients)

    got = poller.download(JOB, place, BoundedFile(io.BytesIO(), 100), timeout_s=5)

    assert isinstance(got, Fault | VideoFailed)
    assert not seen


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://storage.example.com/1.mp4?sig=1", True),
        ("https://1.1.1.1/1.mp4", True),
        ("https://[2606:4700::1111]/1.mp4", True),
        ("http://storage.example.com/1.mp4", False),
        ("https://127.0.0.1/1.mp4", False),
        ("https://10.0.0.1/1.mp4", False),
        ("https://[::1]/1.mp4", False),
        ("https://[::ffff:10.0.0.1]/1.mp4", False),
        ("https://[::ffff:8.8.8.8]/1.mp4", False),
        ("https://[::10.0.0.1]/1.mp4", False),
        ("https://[64:ff9b::7f00:1]/1.mp4", False),
        ("https://[64:ff9b::10.0.0.1]/1.mp4", False),
        ("https://[64:ff9b:1::7f00:1]/1.mp4", False),
        ("https://[2002:7f00:1::]/1.mp4", False),
        ("https://[2002:0a00:0001::1]/1.mp4", False),
        ("https://[2001:0:7f00:1::]/1.mp4", False),
        ("https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/1.mp4", False),
        ("https://[2606:4700::5efe:10.0.0.1]/1.mp4", False),
        ("https://[2606:4700::200:5efe:a00:1]/1.mp4", False),
        ("https://[fec0::1]/1.mp4", False),
        ("https://[fe80::1%25eth0]/1.mp4", False),
        ("https://[ff0e::1]/1.mp4", False),
        ("https://224.0.0.1/1.mp4", False),
        ("https://100.64.0.1/1.mp4", False),
        ("https://10.0.0.1./1.mp4", False),
        ("https://10.0.0.1.nip.io/1.mp4", True),
        ("https://169.254.169.254/latest", False),
        ("https://2130706433/1.mp4", False),
        ("https://0x7f.1/1.mp4", False),
        ("https://127.1/1.mp4", False),
        ("https://localhost/1.mp4", False),
        ("https://localhost./1.mp4", False),
        ("https://metadata.google.internal/1.mp4", False),
        ("https://redis/1.mp4", False),
        ("https://user:pass@storage.example.com/1.mp4", False),
        ("ftp://storage.example.com/1.mp4", False),
        ("", False),
    ],
)
def test_what_counts_as_a_public_https_address(url, public):
    assert is_public_https(url) is public


# --- at construction ---


class Plain:
    def poll(self, job, *, timeout_s):
        return VideoWorking()


class Opens(Plain):
    def download(self, job, place):
        return Downloaded()


class Publishes:
    def publish(self, video, *, timeout_s):
        return PublicLink(NEW)


class PublishesAsync:
    async def publish(self, video, *, timeout_s):
        return PublicLink(NEW)


class PublishesNothing:
    pass


class PublishesTimelessly:
    def publish(self, video):
        return PublicLink(NEW)


@pytest.mark.parametrize(
    ("runner", "poller", "publisher", "says"),
    [
        (Runner, Plain(), Publishes(), "Plain has no method download"),
        (AsyncRunner, Plain(), Publishes(), "Plain has no method download"),
        (Runner, Opens(), Publishes(), r"download is called as download\(job, place, file, timeout_s=seconds\)"),
        (AsyncRunner, Opens(), Publishes(), r"download is called as download\(job, place, file, timeout_s=seconds\)"),
        (Runner, Plain(), PublishesAsync(), "is an asyncio publisher: .* use AsyncRunner"),
        (Runner, Plain(), PublishesNothing(), r"the publisher must have a method publish\(\)"),
        (AsyncRunner, Plain(), PublishesTimelessly(), r"Plain has no method download"),
        (Runner, Plain(), PublishesTimelessly(), r"publish is called as publish\(video, timeout_s=seconds\)"),
        (Runner, Plain(), Publishes, "Publishes is a class"),
    ],
)
def test_parts_that_cannot_work_are_refused_when_the_runner_is_built(runner, poller, publisher, says):
    queue = (RedisVideoJobQueue if runner is Runner else AsyncRedisVideoJobQueue).from_url("redis://h")

    with pytest.raises(ConfigurationError, match=says):
        runner(queue, poller, SilentNotifier(), publisher=publisher)


@pytest.mark.parametrize("runner", [Runner, AsyncRunner])
def test_a_poller_that_may_lock_and_no_publisher_is_a_warning(runner, caplog):
    queue = (RedisVideoJobQueue if runner is Runner else AsyncRedisVideoJobQueue).from_url(
        "redis://h", ttls=KeyTtls(job_s=3600, attempts_s=3600)
    )
    runner(queue, HttpVideoPoller(OPENROUTER, api_key=API_KEY), SilentNotifier())
    assert "has no publisher" in caplog.text
    caplog.clear()
    runner(queue, HttpVideoPoller(OPENROUTER, api_key=API_KEY), SilentNotifier(), publisher=Publishes())
    runner(queue, Plain(), SilentNotifier())
    assert not caplog.text
