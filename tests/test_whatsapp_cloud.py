"""WhatsApp's Cloud API as a channel: requests, codes, receipts, and its fake."""

from __future__ import annotations

import os

import httpx
import pytest

from videopoll import RefusedError
from videopoll.notifiers import whatsapp_number
from videopoll.testing.multipart import parts_of

# --- addresses ---


@pytest.mark.parametrize(
    "to", ["5491155550000", "+54 9 11 5555-0000", " +54.911.5555.0000 ", "5491155550000@c.us", "٥٤٩١١٥٥٥٥٠٠٠٠"]
)
def test_a_phone_number_becomes_its_digits(to):
    assert whatsapp_number(to) == "5491155550000"


@pytest.mark.parametrize(
    "to",
    [
        "US.13491208655302741918",  # Meta's id of a user
        "US.1349120865530",
        "13491208655302741918",  # without its country
        "Y2FwaV9ncm91cDoxNzA1NTU1MDEzOToxMjAzNjM0MDQ2OTQyMzM4MjAZD",  # Meta's id of a group
        "120363025246125486@g.us",
        "5491155550000-1612345678@g.us",
        "123456789012345@lid",
        "5491155550000:12@s.whatsapp.net",
        "whatsapp:+5491155550000",
        "+44 (0) 7911 123456",
        "005491155550000",
        "5491155550000,5491155550001",
        "",
    ],
)
def test_whatever_is_no_phone_number_is_refused_and_no_digits_are_taken_out_of_it(to):
    with pytest.raises(RefusedError) as refused:
        whatsapp_number(to)
    assert not refused.value.try_text
    assert str(refused.value).startswith("the recipient's address ")
    assert "chat id" not in str(refused.value)


# --- what the fakes read ---


def test_a_form_with_files_is_read_as_another_library_wrote_it():
    video = os.urandom(100_000) + b"\r\n--boundary--\r\n" + bytes(range(256)) + b"\n"
    request = httpx.Request(
        "POST", "http://x/", data={"messaging_product": "whatsapp"}, files={"file": ("video.mp4", video, "video/mp4")}
    )
    parts = parts_of(request.headers["content-type"], request.read())
    assert parts["file"].content == video
    assert (parts["file"].filename, parts["file"].content_type) == ("video.mp4", "video/mp4")
    assert (parts["messaging_product"].text, parts["messaging_product"].content_type) == ("whatsapp", None)
    assert parts_of("application/json", b"{}") == {}
