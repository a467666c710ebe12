"""Videos that are uploaded to WhatsApp's Cloud API: what is fetched, uploaded, kept and used again."""

from __future__ import annotations

import asyncio
import os

import attrs
import pytest

from kit.cloud import TEMPLATES, TOKEN, message, notifier_for
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, NotSent, Refused, Unknown
from videopoll.testing import FakeServer, FakeWhatsAppCloud, Reply
from videopoll.testing.multipart import parts_of

FILE = os.urandom(300_000)
DAY_S = 86_400


@pytest.fixture
def cloud():
    with FakeWhatsAppCloud(token=TOKEN, number_id="1065", templates=TEMPLATES) as fake:
        yield fake


@pytest.fixture
def storage():
    with FakeServer() as server:
        server.route("GET", "/1.mp4", Reply(status=200, body=FILE, headers={"Content-Type": "video/mp4"}))
        yield server


@pytest.fixture(params=["notify", "anotify"])
def send(request, cloud):
    """Send a message with the method for threads, or with the one for asyncio."""

    def play(what, **options):
        notifier = notifier_for(cloud, trusted_hosts=("127.0.0.1",), **options)
        if request.param == "notify":
            try:
                return notifier.notify(what)
            finally:
                notifier.close()

        async def play():
            try:
                return await notifier.anotify(what)
            finally:
                await notifier.aclose()

        return asyncio.run(play())

    return play


def upload(storage, **options):
    return message(MessageForm.UPLOAD, url=f"{storage.url}/1.mp4?signature=s3cr3t", **options)


def paths(server):
    return [request.path.rpartition("/")[2] for request in server.requests]


def test_the_file_is_fetched_and_uploaded_and_its_id_is_sent(cloud, storage, send):
    receipt = send(upload(storage))

    assert isinstance(receipt, Accepted)
    assert receipt.form is MessageForm.UPLOAD
    assert paths(storage) == ["1.mp4"]
    assert paths(cloud) == ["media", "messages"]
    parts = parts_of(cloud.requests[0].headers["content-type"], cloud.requests[0].raw)
    assert parts["messaging_product"].text == "whatsapp"
    assert (parts["file"].filename, parts["file"].content_type) == ("video.mp4", "video/mp4")
    assert cloud.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert cloud.messages[0].kind == "video"
    assert cloud.messages[0].file == FILE
    assert cloud.messages[0].text
    (media_id,) = cloud.uploads
    assert receipt.prepared["media"] == media_id


def test_a_host_may_have_each_video_uploaded(cloud, storage, send):
    receipt = send(attrs.evolve(upload(storage), form=MessageForm.VIDEO), upload=True)
    assert (type(receipt), receipt.form) == (Accepted, MessageForm.UPLOAD)
    assert cloud.messages[0].file == FILE


def test_and_that_of_a_template_which_goes_by_its_link_if_it_cannot_be(cloud, storage, send):
    what = attrs.evolve(upload(storage), form=MessageForm.TEMPLATE)
    assert isinstance(send(what, upload=True), Accepted)
    storage.fail_every(1, Reply.fault(404))
    assert isinstance(send(what, upload=True), Accepted)
    assert [(one.kind, one.file, one.video) for one in cloud.messages] == [
        ("template", FILE, None),
        ("template", None, what.video_url),
    ]


def test_what_was_uploaded_is_used_again(cloud, storage, send):
    cloud.fail(131000, kinds={"video"}, times=1)
    first = send(upload(storage))
    assert isinstance(first, NotSent)
    again = send(attrs.evolve(upload(storage), prepared=first.prepared))
    assert isinstance(again, Accepted)
    assert paths(cloud) == ["media", "messages", "messages"]
    assert paths(storage) == ["1.mp4"]


@pytest.mark.parametrize(
    ("days", "number", "uploads"), [(28, "1065", 1), (30, "1065", 2), (-1, "1065", 1), (1, "another", 2)]
)
def test_it_is_used_for_less_than_thirty_days_and_by_its_own_number(  # noqa: PLR0917
    cloud, storage, send, days, number, uploads
):
    first = send(upload(storage), clock=lambda: 1_757_157_600.0)
    kept = {**first.prepared, "number": number}
    send(attrs.evolve(upload(storage), prepared=kept), clock=lambda: 1_757_157_600.0 + days * DAY_S)
    assert len(cloud.uploads) == uploads


@pytest.mark.parametrize("kept", [{"media": 7}, {"media": "1"}, {"media": "1", "number": "1065", "at": "x"}, {"at": 1}])
def test_what_is_kept_and_makes_no_sense_is_prepared_anew(cloud, storage, send, kept):
    assert isinstance(send(attrs.evolve(upload(storage), prepared=kept)), Accepted)
    assert len(cloud.uploads) == 1


def test_a_file_that_meta_has_lost_is_uploaded_again_at_once(cloud, storage, send):
    first = send(upload(storage))
    cloud.forget_media()
    again = send(attrs.evolve(upload(storage), prepared=first.prepared))
    assert isinstance(again, Accepted)
    assert paths(cloud)[2:] == ["messages", "media", "messages"]
    assert again.prepared["media"] in cloud.uploads


@pytest.mark.parametrize(("form", "kind"), [(MessageForm.DOCUMENT, "document"), (MessageForm.TEMPLATE, "template")])
def test_other_forms_use_the_file_that_is_there_and_the_link_if_it_is_lost(cloud, storage, send, form, kind):
    first = send(upload(storage))
    what = attrs.evolve(upload(storage), form=form, prepared=first.prepared)
    assert isinstance(send(what), Accepted)
    assert (cloud.messages[1].kind, cloud.messages[1].file) == (kind, FILE)
    cloud.forget_media()
    receipt = send(what)
    assert isinstance(receipt, Accepted)
    assert receipt.prepared == {}
    assert (cloud.messages[2].kind, cloud.messages[2].video) == (kind, what.video_url)


def test_a_video_by_its_link_needs_no_upload_and_uses_none(cloud, storage, send):
    send(attrs.evolve(upload(storage), form=MessageForm.VIDEO))
    assert paths(cloud) == ["messages"]
    assert storage.requests == []
    kept = send(upload(storage)).prepared
    send(attrs.evolve(upload(storage), form=MessageForm.VIDEO, prepared=kept))
    assert cloud.messages[-1].video == upload(storage).video_url


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply.dropped(accept=True), NotSent),
        (Reply.garbage(status=500), NotSent),
        (Reply.garbage(status=200), NotSent),
        (Reply.json({}), NotSent),
        (Reply.fault(503), NotSent),
        (Reply.garbage(status=413), Refused),
        (Reply.json({"error": {"code": 131053, "message": "(#131053) Media upload error"}}, status=400), Refused),
        (Reply.json({"error": {"code": 100, "message": "(#100) Invalid parameter"}}, status=400), Refused),
        (Reply.json({"error": {"code": 999_999}}, status=500), NotSent),
    ],
)
def test_an_upload_that_comes_to_nothing_sent_nothing(cloud, storage, send, reply, kind):
    cloud.reply_with(reply, path="/media")
    receipt = send(upload(storage))
    assert isinstance(receipt, kind)
    assert kind is NotSent or receipt.try_text
    assert paths(cloud) == ["media"]


def test_a_wrong_token_at_the_upload_holds_the_account_back(cloud, storage, send):
    cloud.fail(190, kinds={"upload"}, status=401)
    assert send(upload(storage)).account_fault


def test_a_message_whose_reply_is_lost_is_of_unknown_fate_and_keeps_its_file(cloud, storage, send):
    cloud.reply_with(Reply.dropped(accept=True), path="/messages")
    receipt = send(upload(storage))
    assert isinstance(receipt, Unknown)
    assert receipt.prepared["media"] in cloud.uploads


@pytest.mark.parametrize(
    ("reply", "kind"), [(Reply.fault(503), NotSent), (Reply.dropped(), NotSent), (Reply.fault(404), Refused)]
)
def test_a_file_that_cannot_be_fetched_is_not_uploaded(cloud, storage, send, reply, kind):
    storage.fail_every(1, reply)
    assert isinstance(send(upload(storage)), kind)
    assert cloud.requests == []


def test_a_file_beyond_sixteen_megabytes_goes_as_its_link(cloud, storage, send):
    storage.route("GET", "/1.mp4", Reply(status=200, body=bytes(16 * 1024 * 1024 + 1)))
    receipt = send(upload(storage))
    assert (type(receipt), receipt.try_text, receipt.then) == (Refused, True, None)
    assert cloud.requests == []


def test_nothing_is_fetched_from_inside_the_network_unless_the_host_says_so(cloud, storage):
    notifier = notifier_for(cloud)
    receipt = notifier.notify(upload(storage))
    notifier.close()
    assert (type(receipt), receipt.try_text) == (Refused, True)
    assert storage.requests == []


def test_nothing_is_fetched_for_an_address_that_names_nobody(cloud, storage, send):
    assert isinstance(send(upload(storage, to="US.13491208655302741918")), Refused)
    assert storage.requests == cloud.requests == []
