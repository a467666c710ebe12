"""Several requests for one message: what each step's failure means, what is kept, and what may be downloaded."""

from __future__ import annotations

import contextlib
import socket

import attrs
import pytest

from videopoll import ConfigurationError, NotSentError, Recipient, RefusedError
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, Delivered, Found, LookupResult, NotSent, Refused, RepeatSafe, Unknown
from videopoll.notifiers import (
    Ask,
    Fetch,
    HttpNotifier,
    HttpRequest,
    Keep,
    Part,
    Post,
    StepFailedError,
    receipt_for_status,
)
from videopoll.testing import FakeServer, Reply, build_message, build_outcome

VIDEO = bytes(range(256)) * 4000  # more than what is read at once
TO = Recipient(channel="postbox", to="4242")


class Postbox(HttpNotifier):
    """Three steps, as with a messenger that takes uploads: open, upload, and only then post."""

    forms = frozenset({MessageForm.UPLOAD, MessageForm.TEXT})

    def __init__(self, url, *, trusted_hosts=("127.0.0.1",), max_bytes=2_000_000):
        super().__init__(trusted_hosts=trusted_hosts)
        self.url = url
        self.max_bytes = max_bytes
        self.closed = []
        self.files = []

    def secrets(self):
        return ("k-secret",)

    def exchange(self, message):
        try:
            media = message.prepared.get("media")
            if media is None:
                video = yield from Fetch(message.video_url, max_bytes=self.max_bytes)
                self.files.append(video.file)
                reply = yield from Ask(self.request("upload", video))
                refused = receipt_for_status(reply)
                if refused is not None:
                    return refused
                media = reply.json()["media"]
                yield from Keep({"media": media})
            reply = yield from Post(self.request("post", media))
            moved = reply.json()
            if isinstance(moved, dict) and "moved" in moved:
                reply = yield from Post(self.request(moved["moved"], media))
            return receipt_for_status(reply) or Delivered(reply.json()["id"])
        finally:
            self.closed.append(message.reference)

    def request(self, call, what):
        url = f"{self.url}/{call}"
        if isinstance(what, str):
            return HttpRequest(method="POST", url=url, json={"media": what}, timeout_s=20)
        parts = [
            Part(name="key", content="k-secret"),
            Part(name="file", content=what.file, filename='a "video".mp4', media_type=what.media_type),
        ]
        return HttpRequest(method="POST", url=url, parts=parts, timeout_s=20)


class World:
    """A storage, a messenger, and one side of the channel."""

    def __init__(self, kind, call, stack):
        self.kind, self.call = kind, call
        self.storage, self.service = (stack.enter_context(FakeServer()) for _ in range(2))
        self.storage.route("GET", "/1.mp4", Reply(body=VIDEO, headers={"content-type": "video/mp4"}))
        self.service.route("POST", "/upload", Reply.json({"media": "m-1"}))
        self.service.route("POST", "/post", Reply.json({"id": "7"}))
        self.service.route("POST", "/post2", Reply.json({"id": "8"}))
        self.channel = Postbox(self.service.url)

    @property
    def calls(self):
        return [request.path.strip("/") for request in self.service.requests]

    def message(self, **changes):
        outcome = build_outcome(video_url=changes.pop("url", f"{self.storage.url}/1.mp4?sig=1"))
        return attrs.evolve(build_message(outcome, form="upload", recipient=TO), **changes)

    def send(self, channel=None, **changes):
        channel, message = channel or self.channel, self.message(**changes)
        if self.kind == "sync":
            receipt = channel.notify(message)
            channel.close()
        else:
            receipt = self.call(channel.anotify(message))
            self.call(channel.aclose())
        return receipt


@pytest.fixture
def world(kind, call):
    with contextlib.ExitStack() as stack:
        yield World(kind, call, stack)


def test_each_step_gets_what_came_of_it_and_the_last_one_tells(world):
    receipt = world.send()

    assert (receipt, receipt.prepared, receipt.form) == (Delivered("7"), {"media": "m-1"}, MessageForm.UPLOAD)
    assert world.calls == ["upload", "post"]
    upload = world.service.requests[0]
    assert VIDEO in upload.raw
    assert int(upload.headers["content-length"]) == len(upload.raw)
    assert b'name="key"\r\n\r\nk-secret\r\n' in upload.raw
    assert b'filename="a %22video%22.mp4"\r\nContent-Type: video/mp4\r\n\r\n' in upload.raw
    assert "transfer-encoding" not in upload.headers


def test_what_was_kept_saves_the_steps_before(world):
    assert world.send(prepared={"media": "m-0"}) == Delivered("7")
    assert world.calls == ["post"]
    assert not world.storage.requests


@pytest.mark.parametrize("trouble", [Reply.dropped(accept=True), Reply.fault(500), Reply.garbage(b"<html>")], ids=str)
def test_what_fails_before_the_post_was_surely_not_sent(world, trouble):
    """Nobody asks a channel what became of a message that it never got, and at most once may try again."""
    world.service.fail_next(trouble)
    receipt = world.send()

    assert isinstance(receipt, NotSent | Refused), receipt
    assert world.calls == ["upload"]
    assert world.channel.closed, "its finally ran"


def test_what_fails_in_the_post_is_unknown_and_what_was_kept_is_in_the_receipt(world):
    world.service.fail_next(Reply.dropped(accept=True), when=lambda request: request.path == "/post")
    receipt = world.send()

    assert isinstance(receipt, Unknown)
    assert receipt.prepared == {"media": "m-1"}
    assert world.channel.closed


def test_a_post_may_follow_one_that_surely_sent_nothing(world):
    world.service.route("POST", "/post", Reply.json({"moved": "post2"}, status=400))
    assert world.send() == Delivered("8")


def test_a_post_never_follows_one_that_may_have_sent_something(world):
    """A channel with a mistake must not send twice."""
    world.service.route("POST", "/post", Reply.json({"moved": "post2"}))
    assert isinstance(world.send(), Unknown)
    assert world.calls == ["upload", "post"]


def test_a_send_that_may_not_begin_any_more_does_not_begin(world):
    """The lease may end while the video is downloaded."""

    class Permit:
        def holds(self):
            return False

    receipt = world.send(_permit=Permit())
    assert isinstance(receipt, NotSent)
    assert not receipt.counts
    assert world.calls == ["upload"], "the preparation does no harm"


@pytest.mark.parametrize("trouble", [None, Reply.fault(500), Reply.dropped()], ids=str)
def test_the_downloaded_file_is_gone_at_the_end_whatever_it_is(world, trouble):
    """Hundreds of videos a day would fill the disk."""
    if trouble is not None:
        world.service.fail_next(trouble)
    world.send()

    assert [file.closed for file in world.channel.files] == [True]


class KilledError(BaseException):
    """As Ctrl-C, or the end of a task."""


@pytest.mark.parametrize("path", ["/upload", "/post"])
def test_a_send_that_is_killed_in_a_step_leaves_nothing_open_and_the_next_one_goes_through(world, path):
    carry = world.channel._http

    def die(request, **kwargs):
        if request.url.endswith(path):
            raise KilledError

    class Dying:
        def send(self, request, **kwargs):
            return die(request) or carry.send(request, **kwargs)

        async def asend(self, request, **kwargs):
            return die(request) or await carry.asend(request, **kwargs)

        def close(self):
            carry.close()

        async def aclose(self):
            await carry.aclose()

    world.channel._http = Dying()
    with pytest.raises(KilledError):
        world.send()
    assert [file.closed for file in world.channel.files] == [True]
    assert world.channel.closed, "its finally ran"

    world.channel._http = carry
    assert world.send() == Delivered("7")
    assert world.calls.count("post") == 1


# --- mistakes of channels ---


def ending_with(value):
    class Odd(Postbox):
        def exchange(self, message):
            yield from Keep({})
            if isinstance(value, Exception):
                raise value
            return value

    return Odd


@pytest.mark.parametrize(
    ("ends", "receipt"),
    [
        (Unknown("who knows"), NotSent("who knows")),
        (NotSent("busy", 7), NotSent("busy", 7)),
        (Refused("no"), Refused("no")),
        (RefusedError("bad number", try_text=False), Refused("bad number", try_text=False)),
        (NotSentError("wait", retry_after_s=3), NotSent("wait", 3)),
        (KeyError("media"), Refused("KeyError: 'media'", try_text=False)),
        (Delivered("7"), Refused("the channel posted nothing, and gave Delivered", try_text=False)),
        (None, Refused("the channel posted nothing, and gave no receipt", try_text=False)),
    ],
    ids=str,
)
def test_what_ends_without_a_post_was_not_sent(world, ends, receipt):
    assert world.send(ending_with(ends)(world.service.url)) == receipt


@pytest.mark.parametrize("ends", [KeyError("id"), None, "sent"], ids=str)
def test_what_ends_with_a_mistake_after_the_post_is_unknown(world, ends):
    class Odd(Postbox):
        def exchange(self, message):
            yield from Post(self.request("post", "m"))
            if isinstance(ends, Exception):
                raise ends
            return ends

    assert isinstance(world.send(Odd(world.service.url)), Unknown)


@pytest.mark.parametrize(
    ("status", "may_have_sent"), [(200, True), (500, True), (408, True), (302, True), (400, False)]
)
def test_a_step_that_fails_after_the_post_says_that_nothing_was_sent_only_if_the_post_was_refused(
    world, status, may_have_sent
):
    class Thorough(Postbox):
        def exchange(self, message):
            yield from Post(self.request("post", "m"))
            yield from self.step
            return Delivered("7")

    channel = Thorough(world.service.url)
    world.service.route("POST", "/post", Reply.json({"id": "7"}, status=status))
    world.service.route("POST", "/upload", Reply.dropped())
    for step, otherwise in (
        (Ask(channel.request("upload", "is it there?")), NotSent),
        (Fetch("https://10.0.0.1/1.mp4", max_bytes=1), Refused),
        (Ask(HttpRequest(method="GET", url="http://127.0.0.1:1/", timeout_s=5)), NotSent),
    ):
        channel.step = step
        receipt = world.send(channel)
        assert isinstance(receipt, Unknown if may_have_sent else otherwise), receipt


def test_a_channel_may_go_on_when_a_step_fails(world):
    class Careless(Postbox):
        def exchange(self, message):
            try:
                yield from Ask(self.request("upload", "state?"))
            except StepFailedError:
                pass
            return receipt_for_status((yield from Post(self.request("post", "m")))) or Delivered()

    world.service.fail_next(Reply.dropped())
    assert world.send(Careless(world.service.url)) == Delivered()


def test_a_channel_without_requests_is_told_when_it_is_built():
    class Half(HttpNotifier):
        def build(self, message):
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="both build"):
        Half()
    with pytest.raises(ConfigurationError, match="trusted_hosts must be a list of host names"):
        Postbox("http://x", trusted_hosts="files.example")


@pytest.mark.parametrize("kept", [{"x": "y" * 2048}, {"x": object()}])
def test_what_cannot_be_kept_is_told_to_the_author(kept):
    with pytest.raises(ValueError, match="2048 bytes"):
        Keep(kept)


@pytest.mark.parametrize("given", [f"wamid-{TO.to}", "w" * 240], ids=["with the number", "long"])
def test_an_id_that_cannot_be_stored_as_it_is_is_none_so_that_receipts_find_the_message_by_its_reference(world, given):
    class Careful(Postbox):
        def exchange(self, message):
            yield from Post(self.request("post", "m"))
            return Accepted(given)

    receipt = world.send(Careful(world.service.url))
    assert (receipt, receipt.message_id) == (Accepted(), None)


def test_a_channel_that_makes_one_message_of_repeats_says_so(world):
    class Nonce(Postbox):
        repeats_are_safe_s = 60.0

    assert Nonce(world.service.url).look_up(world.message()) == RepeatSafe(60)
    assert world.channel.look_up(world.message()) is LookupResult.CANNOT_TELL


def test_a_found_id_shows_no_secret(world):
    class Telling(Postbox):
        def build_look_up(self, message):
            return HttpRequest(method="POST", url=f"{self.url}/post", json={}, timeout_s=20)

        def read_look_up(self, reply, message):
            return Found("k-secret/7")

    channel = Telling(world.service.url)
    assert "k-secret" not in channel.look_up(world.message()).message_id
    channel.close()


# --- downloads ---


def test_a_file_over_the_channels_limit_goes_as_a_text(world):
    receipt = world.send(Postbox(world.service.url, max_bytes=len(VIDEO) - 1))

    assert isinstance(receipt, Refused)
    assert receipt.try_text
    assert not world.calls


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply.fault(404), Refused),
        (Reply.fault(403), Refused),
        (Reply.fault(503, retry_after=9), NotSent),
        (Reply.dropped(), NotSent),
        (Reply(body=b"", headers={"content-type": "video/mp4"}), NotSent),
        (Reply(body=b"<html>", headers={"content-type": "text/html"}), Refused),
        (Reply(status=302, headers={"location": "http://localhost/1.mp4"}), Refused),
        (Reply(status=302, headers={"location": "/1.mp4"}), Refused),
        (Reply(status=302, headers={"location": "//["}), Refused),
    ],
    ids=lambda one: str(getattr(one, "status", one)),
)
def test_what_cannot_be_downloaded_is_a_text_or_a_later_try(world, reply, kind):
    world.storage.route("GET", "/1.mp4", reply)
    receipt = world.send()

    assert isinstance(receipt, kind), receipt
    assert not world.calls
    assert "sig=1" not in str(receipt.reason)


@pytest.mark.parametrize("media_type", ["text/plain", "application/force-download", "application/octet-stream", ""])
def test_a_file_whose_type_says_nothing_is_known_by_its_bytes(world, media_type):
    headers = {"content-type": media_type} if media_type else {}
    video = b"\0\0\0\x18ftypmp42" + bytes(300_000)
    world.storage.route("GET", "/1.mp4", Reply(body=video, headers=headers))
    assert world.send() == Delivered("7")
    assert video in world.service.requests[0].raw

    world.storage.route("GET", "/1.mp4", Reply(body=b'{"error": "expired"}', headers=headers))
    assert isinstance(world.send(), Refused)


def test_a_redirect_is_not_followed_to_another_host_though_that_one_may_be_asked_too(world):
    """Who may redirect there has not been asked."""
    port = world.storage.url.rpartition(":")[2]
    world.storage.route("GET", "/2.mp4", Reply(status=302, headers={"location": f"http://localhost:{port}/1.mp4"}))
    channel = Postbox(world.service.url, trusted_hosts={"127.0.0.1", "localhost"})

    assert isinstance(world.send(channel, url=f"{world.storage.url}/2.mp4"), Refused)
    assert len(world.storage.requests) == 1


def test_a_redirect_is_followed_to_the_same_host(world):
    world.storage.route("GET", "/2.mp4", Reply(status=307, headers={"location": "/1.mp4"}))
    assert world.send(url=f"{world.storage.url}/2.mp4") == Delivered("7")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/1.mp4", "https://127.0.0.1:{port}/1.mp4", "https://localhost:{port}/1.mp4"]
)
def test_nothing_inside_is_asked_unless_the_host_lists_it(world, url):
    """A video's URL comes from outside: it must not make the worker read what only the worker can reach."""
    port = world.storage.url.rpartition(":")[2]
    receipt = world.send(Postbox(world.service.url, trusted_hosts=()), url=url.format(port=port))

    assert isinstance(receipt, Refused)
    assert receipt.try_text
    assert not world.storage.requests


def test_a_public_name_for_an_inner_address_is_not_asked(world, monkeypatch):
    """Whoever owns a name may let it stand for any address."""
    port = int(world.storage.url.rpartition(":")[2])
    looked_up = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        return looked_up("127.0.0.1" if host == "files.example.com" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    receipt = world.send(Postbox(world.service.url, trusted_hosts=()), url=f"https://files.example.com:{port}/1.mp4")

    # aiohttp looks at the address once the TLS handshake is done, which no request comes before.
    assert isinstance(receipt, Refused | NotSent)
    assert world.kind == "async" or "not public" in receipt.reason
    assert not world.storage.requests
