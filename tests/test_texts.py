"""What a user reads, in which language, and how it is cut to a channel's limit."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll.errors import ConfigurationError
from videopoll.jobs import FailureReason, Outcome, OutcomeKind
from videopoll.texts import ENGLISH, SPANISH, SPANISH_AND_ENGLISH, Texts, cut

START_MS = 1_757_157_518_747
URL = "https://files.example/file/abc"

any_text = st.text(st.characters(codec=None), max_size=200)


def outcome(kind=OutcomeKind.COMPLETED, *, after_ms=45_000, error=None, reason=FailureReason.UNKNOWN):
    return Outcome(kind, START_MS + after_ms, video_url=URL, error=error, reason=reason)


def test_a_finished_video_is_announced_in_the_words_of_the_specification():
    notice = SPANISH_AND_ENGLISH.notice(outcome(), START_MS)
    assert notice == "🎥 ¡Tu video está listo! Se generó en 45 segundos."


def test_where_only_text_can_be_sent_the_link_follows_after_an_empty_line():
    notice = SPANISH_AND_ENGLISH.notice(outcome(), START_MS, link=URL)
    assert notice == f"🎥 ¡Tu video está listo! Se generó en 45 segundos.\n\n🔗 Video: {URL}"


@pytest.mark.parametrize(
    ("after_ms", "spanish", "english"),
    [
        (-5000, "1 segundo", "1 second"),
        (0, "1 segundo", "1 second"),
        (1400, "1 segundo", "1 second"),
        (1500, "2 segundos", "2 seconds"),
        (60_000, "60 segundos", "60 seconds"),
        (65_000, "65 segundos", "65 seconds"),
        (120_000, "2 minutos", "2 minutes"),
        (121_000, "121 segundos", "121 seconds"),
        (180_499, "3 minutos", "3 minutes"),
    ],
)
def test_durations_follow_the_language(after_ms, spanish, english):
    """Seconds up to two minutes, then whole minutes where they are whole; never zero."""
    ended = outcome(after_ms=after_ms)
    assert SPANISH_AND_ENGLISH.notice(ended, START_MS) == f"🎥 ¡Tu video está listo! Se generó en {spanish}."
    assert (
        SPANISH_AND_ENGLISH.notice(ended, START_MS, "en") == f"🎥 Your video is ready! It took {english} to generate."
    )


FAILURES = [kind for kind in OutcomeKind if kind not in {OutcomeKind.COMPLETED, OutcomeKind.CANCELLED}]


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_told_in_one_sentence_and_never_in_the_providers_words(kind):
    ended = outcome(kind, error="Internal error 0xDEAD at veo-3")
    notice = SPANISH_AND_ENGLISH.notice(ended, START_MS)
    assert notice == f"😔 Hubo un problema generando tu video: {SPANISH.reason(ended)}. Por favor intenta nuevamente."
    assert "0xDEAD" not in notice


@pytest.mark.parametrize("texts", [SPANISH, ENGLISH])
def test_each_way_to_fail_has_a_reason_of_its_own(texts):
    assert len({texts.reason(outcome(kind)) for kind in FAILURES}) == len(FAILURES)
    told = {texts.reason(outcome(OutcomeKind.FAILED, reason=reason)) for reason in FailureReason}
    assert len(told) == len(FailureReason)


def test_a_language_without_a_text_for_a_reason_says_that_it_failed():
    """A host's own texts go on working when an API tells more than they knew of."""
    texts = attrs.evolve(SPANISH, moderated_reason=None)
    assert texts.reason(outcome(OutcomeKind.FAILED, reason=FailureReason.MODERATED)) == SPANISH.failed_reason


def test_how_a_job_ended_goes_before_why_the_api_failed_it():
    ended = outcome(OutcomeKind.TIMED_OUT, reason=FailureReason.MODERATED)
    assert SPANISH.reason(ended) == SPANISH.timed_out_reason


def test_a_cancelled_job_has_its_own_sentence():
    assert SPANISH_AND_ENGLISH.notice(outcome(OutcomeKind.CANCELLED), START_MS) == SPANISH.cancelled


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (None, SPANISH),
        ("", SPANISH),
        ("en", ENGLISH),
        ("EN", ENGLISH),
        ("en-US", ENGLISH),
        ("en_GB", ENGLISH),
        ("en-Latn-US", ENGLISH),
        ("es-419", SPANISH),
        ("fr", SPANISH),
        ("-", SPANISH),
        ("english", SPANISH),
    ],
)
def test_an_unknown_language_falls_back_to_its_main_language_and_then_to_the_default(language, expected):
    assert SPANISH_AND_ENGLISH.of(language) is expected


def test_a_regional_language_of_the_host_goes_before_its_main_language():
    rioplatense = attrs.evolve(SPANISH, failed="Uy: {reason}. Probá de nuevo.")
    texts = Texts({"es": SPANISH, "es_AR": rioplatense}, default="es")
    assert texts.of("es-ar") is rioplatense
    assert texts.of("es-MX") is SPANISH


def test_a_host_replaces_single_words():
    texts = Texts({"es": attrs.evolve(SPANISH, done="¡Listo {{:}} en {duration}!")}, default="es")
    assert texts.notice(outcome(), START_MS) == "¡Listo {:} en 45 segundos!"


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"done": "Listo en {seconds}."}, r"TextSet.done has the placeholder \{seconds\}.*\{duration\}"),
        ({"failed": "{reason.__class__}"}, "placeholder"),
        ({"failed": "{}"}, "placeholder"),
        ({"failed": "{reason!r}"}, "plainly"),
        ({"failed": "{reason:>99999999}"}, "plainly"),
        ({"done": "Listo {"}, "stray brace"),
        ({"link": "Mira el video"}, r"must contain \{url\}"),
        ({"cancelled": " "}, "at least one word"),
        ({"timed_out_reason": "tardó {duration}"}, "none"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_it_is_made(changes, hint):
    with pytest.raises(ConfigurationError, match=hint):
        attrs.evolve(SPANISH, **changes)


def test_a_default_without_words_is_refused():
    with pytest.raises(ConfigurationError, match="'pt', which is not among the languages: es"):
        Texts({"es": SPANISH}, default="pt")


# --- cutting --------------------------------------------------------------------------------------


def test_a_text_within_the_limit_stays_as_it_is():
    assert cut("hola", 4) == "hola"
    assert cut("", 1) == ""


def test_a_text_beyond_the_limit_ends_in_an_ellipsis():
    assert cut("uno dos tres", 8) == "uno dos…"


@pytest.mark.parametrize(
    "character",
    ["👩‍👩‍👧‍👦", "👍🏽", "🇦🇷", "e\u0301", "❤️", "🏴\U000e0067\U000e0062\U000e007f", "\u1112\u1161\u11ab"],
    ids=["family", "skin tone", "flag", "combining accent", "variation selector", "regional flag", "hangul"],
)
def test_a_visible_character_is_kept_whole_or_not_at_all(character):
    text = character * 40
    for limit in range(1, 80):
        kept = cut(text, limit).removesuffix("…")
        assert kept == character * (len(kept) // len(character))


def test_an_emoji_counts_as_the_messenger_counts_it():
    assert cut("🎥🎥🎥", 6) == "🎥🎥🎥"
    assert cut("🎥🎥🎥", 5) == "🎥🎥…"


def test_lone_surrogates_are_replaced_as_no_channel_can_encode_them():
    assert cut("a\ud83cb", 10) == "a\ufffdb"


def test_the_link_stays_whole_and_the_words_before_it_are_cut():
    assert cut(f"{'palabra ' * 50}\n\n🔗 Video: {URL}", 100, keep=URL).endswith(f"…\n\n🔗 Video: {URL}")
    assert cut(f"{'palabra ' * 50}{URL}", 100, keep=URL).endswith(f"pal…\n\n{URL}")


def test_what_follows_the_link_goes_first():
    assert cut(f"Mira: {URL} {'y más ' * 100}", 60, keep=URL) == f"Mira:\n\n{URL}"


def test_a_link_that_has_no_room_is_an_error_and_not_half_a_link():
    with pytest.raises(ValueError, match="longer than the 20 characters"):
        cut(f"Mira: {URL}", 20, keep=URL)


def utf16_units(text):
    return len(text.encode("utf-16-le")) // 2


@given(any_text, st.integers(1, 120))
def test_a_cut_text_always_fits_and_can_always_be_encoded(text, limit):
    short = cut(text, limit)
    assert utf16_units(short) <= limit
    assert short.encode() or not text


@given(any_text, any_text, st.integers(len(URL), 200))
def test_the_link_survives_any_words_around_it(before, after, limit):
    short = cut(before + URL + after, limit, keep=URL)
    assert URL in short
    assert utf16_units(short) <= limit


@given(st.integers(), st.integers(), st.sampled_from(OutcomeKind), st.none() | st.text())
def test_any_outcome_can_be_told_in_any_language(at_ms, start_ms, kind, language):
    assert SPANISH_AND_ENGLISH.notice(Outcome(kind, at_ms), start_ms, language)
