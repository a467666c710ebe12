"""The numbers that messengers publish, as they publish them: written out here, so that one that changes is noticed."""

from __future__ import annotations

import pytest

from videopoll.core.accounts import IN_A_ROW, LONGEST_PAUSE_S, SHARE
from videopoll.jobs import MessageForm
from videopoll.notifiers import (
    DiscordNotifier,
    DiscordWebhookNotifier,
    EvolutionNotifier,
    TelegramNotifier,
    TwilioNotifier,
    UltraMsgNotifier,
    WhatsAppCloudNotifier,
    discord,
    evolution,
    telegram,
    twilio,
    ultramsg,
    whatsapp_cloud,
)
from videopoll.queue import watch_calls

VIDEO, UPLOAD = MessageForm.VIDEO, MessageForm.UPLOAD
MEGABYTE = 1_048_576


@pytest.mark.parametrize(
    ("channel", "gap_s", "safe_s"),
    [
        (WhatsAppCloudNotifier, 6, 0),
        (TelegramNotifier, 1, 0),
        (DiscordNotifier, 0, 120),
        (DiscordWebhookNotifier, 0, 0),
        (TwilioNotifier, 0, 0),
        (EvolutionNotifier, 0, 0),
        (UltraMsgNotifier, 0, 0),
    ],
)
def test_gaps_between_messages_and_the_time_in_which_a_repeat_is_safe(channel, gap_s, safe_s):
    assert (channel.gap_s, channel.repeats_are_safe_s) == (gap_s, safe_s)


@pytest.mark.parametrize(
    ("channel", "largest", "containers"),
    [
        (WhatsAppCloudNotifier, {VIDEO: 16 * MEGABYTE, UPLOAD: 16 * MEGABYTE}, {"mp4", "3gp"}),
        (TelegramNotifier, {VIDEO: 20_000_000, UPLOAD: 50_000_000}, None),
        (TwilioNotifier, {VIDEO: 16 * MEGABYTE}, None),
        (EvolutionNotifier, {VIDEO: 16 * MEGABYTE}, {"mp4", "3gp", "mov"}),
        (UltraMsgNotifier, {VIDEO: 16 * MEGABYTE}, {"mp4", "3gp", "mov"}),
    ],
)
def test_the_largest_videos_and_their_containers(channel, largest, containers):
    limits = channel.video_limits
    assert {form: limits.max_bytes[form] for form in largest} == largest
    if containers is not None:
        assert set(limits.containers) == containers


@pytest.mark.parametrize(
    ("module", "caption", "text"),
    [
        (whatsapp_cloud, 1024, 4096),
        (telegram, 1024, 4096),
        (evolution, 1024, 4096),
        (ultramsg, 1024, 4096),
        (twilio, 1024, 1600),
        (discord, None, 2000),
    ],
)
def test_the_longest_captions_and_texts(module, caption, text):
    assert (getattr(module, "CAPTION_LIMIT", None), module.TEXT_LIMIT) == (caption, text)


def test_what_else_a_channel_counts_on():
    assert discord.MAX_UPLOAD_BYTES == 10 * MEGABYTE
    assert whatsapp_cloud.UPLOAD_LIVES_S == 29 * 24 * 3600
    assert (watch_calls.MOST_EARLY, watch_calls.EARLY_S) == (10_000, 600)
    assert (IN_A_ROW, LONGEST_PAUSE_S, SHARE) == (3, 300, 3)
