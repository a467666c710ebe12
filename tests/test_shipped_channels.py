"""Channels that the command line builds by their name: Evolution API, Twilio and Discord, from the environment alone."""

from __future__ import annotations

import attrs
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from videopoll.cli.commands.doctor import check_channels
from videopoll.cli.shipped import build_shipped, problem_of
from videopoll.errors import ConfigurationError
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, Delivered, Recipient
from videopoll.testing import (
    FakeDiscord,
    FakeEvolution,
    FakeTwilio,
    FakeVideoApi,
    FakeWhatsAppCloud,
    Reply,
    build_message,
    build_outcome,
)

SID, CONTENT, NOTICE = "AC" + "0a" * 16, "HX" + "0d" * 16, "HX" + "0e" * 16
ENVIRONMENTS = {
    "evolution": {
        "EVOLUTION_URL": "https://evolution.example",
        "EVOLUTION_INSTANCE": "My shop 2.0",
        "EVOLUTION_API_KEY": "k",
    },
    "twilio": {"TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": "t", "TWILIO_FROM": "whatsapp:+14155238886"},
    "twilio_sms": {"TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": "t", "TWILIO_SMS_FROM": "My Shop"},
    "telegram": {"TELEGRAM_TOKEN": "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"},
    "whatsapp_cloud": {"WHATSAPP_CLOUD_TOKEN": "t", "WHATSAPP_CLOUD_NUMBER_ID": "1065"},
    "discord": {"DISCORD_TOKEN": "t"},
    "discord_webhook": {"DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/100000000000000001/token"},
}


def built(monkeypatch, name, **changes):
    for variable, value in (ENVIRONMENTS[name] | changes).items():
        monkeypatch.setenv(f"VIDEOPOLL_{variable}", value)
    return build_shipped(name, resolving=False)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_variable_that_is_missing_is_named(monkeypatch, name):
    for missing in ENVIRONMENTS[name]:
        with pytest.raises(ConfigurationError, match=missing):
            built(monkeypatch, name, **{missing: " "})
    assert built(monkeypatch, name)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_variables_of_the_right_form_have_no_problem_and_nobody_is_asked(monkeypatch, name):
    built(monkeypatch, name)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody was asked"))
    assert problem_of(name, resolving=False) is None


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("telegram", "TELEGRAM_TOKEN", "s3cr3t of a bot"),
        ("whatsapp_cloud", "WHATSAPP_CLOUD_NUMBER_ID", "+54 9 11 5555-0000"),
        ("whatsapp_cloud", "WHATSAPP_CLOUD_TOKEN", "s3cr3t\nand more"),
        ("evolution", "EVOLUTION_INSTANCE", "shop/2"),
        ("evolution", "EVOLUTION_API_KEY", "s3cr3t\nand more"),
        ("twilio", "TWILIO_ACCOUNT_SID", "SK" + "0" * 32),
        ("twilio", "TWILIO_FROM", "My Shop"),
        ("twilio_sms", "TWILIO_ACCOUNT_SID", "s3cr3t"),
        ("discord", "DISCORD_TOKEN", "s3cr3t\nand more"),
        ("discord_webhook", "DISCORD_WEBHOOK_URL", "https://discord.com/api/webhooks/s3cr3t"),
    ],
)
def test_doctor_finds_a_variable_of_the_wrong_form_and_tells_no_secret(monkeypatch, name, variable, value):
    for given, right in (ENVIRONMENTS[name] | {variable: value}).items():
        monkeypatch.setenv(f"VIDEOPOLL_{given}", right)
    # Those that have all that they need are looked at without being named.
    found = {one.check: one for one in check_channels([])}[f"channel {name}"]
    assert (found.mark, found.fix) == ("wrong", "look at its variables: videopoll channels lists them")
    assert "s3cr3t" not in repr(found)


def test_doctor_looks_at_channels_that_are_named_and_not_at_a_hosts_own(monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_TWILIO_ACCOUNT_SID", SID)
    assert check_channels([]) == []
    (found,) = check_channels(["twilio", "mine=package.module:function"])
    assert (found.mark, "VIDEOPOLL_TWILIO_AUTH_TOKEN" in found.found) == ("wrong", True)
    monkeypatch.setenv("VIDEOPOLL_RESOLVER", "package.module:function")
    assert [one.mark for one in check_channels(["twilio"])] == ["ok"]
    assert [one.mark for one in check_channels(["pigeon"])] == ["wrong"]


def sent(notifier, to, fake):
    notifier._base_url = fake.url if not isinstance(fake, FakeDiscord) else f"{fake.url}/api/v10"
    try:
        recipient = Recipient(channel="here", to=to)
        receipt = notifier.notify(build_message(build_outcome("completed"), recipient=recipient))
    finally:
        notifier.close()
    assert isinstance(receipt, Delivered)
    return receipt


def test_what_is_built_sends(monkeypatch):
    with FakeEvolution(token="k", instance_id="My shop 2.0") as evolution:
        sent(built(monkeypatch, "evolution", EVOLUTION_URL=evolution.url), "5491155550000", evolution)
    with FakeTwilio(account_sid=SID, auth_token="t") as twilio:
        sent(built(monkeypatch, "twilio"), "+5491155550000", twilio)
        sent(built(monkeypatch, "twilio_sms"), "+5491155550000", twilio)
        assert [(one.kind, one.to) for one in twilio.messages] == [
            ("video", "whatsapp:+5491155550000"),
            ("text", "+5491155550000"),
        ]
    with FakeDiscord(token="t", webhook_token="token") as discord:
        sent(built(monkeypatch, "discord"), "channel:200000000000000001", discord)
        url = f"{discord.url}/api/webhooks/100000000000000001/token"
        sent(built(monkeypatch, "discord_webhook", DISCORD_WEBHOOK_URL=url), "webhook:100000000000000001", discord)
        assert [one.to for one in discord.messages] == ["channel:200000000000000001", "webhook"]


def test_what_is_uploaded_may_come_from_a_private_storage_without_any_code(monkeypatch):
    video = bytes(range(256))
    message = build_message(
        build_outcome("completed", video_url="https://files.example/video.mp4"),
        form=MessageForm.VIDEO,
        recipient=Recipient(channel="here", to="5491155550000"),
    )
    with FakeWhatsAppCloud() as cloud, FakeVideoApi() as storage:
        storage.route("GET", "/video.mp4", Reply(status=200, body=video, headers={"Content-Type": "video/mp4"}))
        message = attrs.evolve(message, outcome=build_outcome("completed", video_url=f"{storage.url}/video.mp4"))
        more = {"WHATSAPP_CLOUD_BASE_URL": cloud.url, "WHATSAPP_CLOUD_UPLOAD": "true"}
        for trusted, there in (("other.internal", False), ("other.internal 127.0.0.1", True)):
            notifier = built(monkeypatch, "whatsapp_cloud", **more, TRUSTED_HOSTS=trusted)
            receipt = notifier.notify(message)
            notifier.close()
            assert isinstance(receipt, Accepted) is there, receipt
        assert [one.file for one in cloud.messages] == [video]
    with pytest.raises(ConfigurationError, match="VIDEOPOLL_WHATSAPP_CLOUD_UPLOAD is true or false"):
        built(monkeypatch, "whatsapp_cloud", WHATSAPP_CLOUD_UPLOAD="maybe")


@pytest.mark.parametrize("name", ["telegram", "discord", "discord_webhook", "whatsapp_cloud"])
def test_each_channel_that_uploads_takes_trusted_hosts(monkeypatch, name):
    with pytest.raises(ConfigurationError, match="trusted_hosts"):
        built(monkeypatch, name, TRUSTED_HOSTS="https://storage.internal/a")


def test_a_template_for_notices_is_named_when_it_cannot_work(monkeypatch):
    with pytest.raises(ConfigurationError, match="VIDEOPOLL_WHATSAPP_CLOUD_NOTICE_TEMPLATE looks like name:language"):
        built(monkeypatch, "whatsapp_cloud", WHATSAPP_CLOUD_NOTICE_TEMPLATE="no_video")


def test_twilio_has_its_template_and_callback(monkeypatch):
    more = {"TWILIO_CONTENT_SID": CONTENT, "TWILIO_STATUS_CALLBACK": "https://host.example/twilio"}
    more["TWILIO_NOTICE_CONTENT_SID"] = NOTICE
    with FakeTwilio(account_sid=SID, auth_token="t", content_sids=[NOTICE]) as twilio:
        notifier = built(monkeypatch, "twilio", **more)
        notifier._base_url = twilio.url
        recipient = Recipient(channel="here", to="+5491155550000")
        notice = build_message(build_outcome("failed"), form=MessageForm.TEMPLATE, recipient=recipient)
        assert isinstance(notifier.notify(notice), Accepted)
        notifier.close()
    with FakeTwilio(account_sid=SID, auth_token="t", content_sids=[CONTENT]) as twilio:
        assert isinstance(sent(built(monkeypatch, "twilio", **more), "+5491155550000", twilio), Accepted)
        assert [one.url.partition("?")[0] for one in twilio.callbacks()] == ["https://host.example/twilio"] * 2
    with pytest.raises(ConfigurationError, match="content_sid"):
        built(monkeypatch, "twilio", TWILIO_CONTENT_SID="HX1")
