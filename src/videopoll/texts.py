"""What a user reads, in each language, and how it is cut to a channel's limit.

Every sentence that a user gets from videopoll stands here. A host replaces any of them::

    formal = attrs.evolve(SPANISH, failed="No pudimos generar su video: {reason}.")
    texts = Texts({"es": formal, "en": ENGLISH}, default="es")

A provider's own error text is for the operator. A user reads one of the reasons of
a `TextSet` instead.
"""

from __future__ import annotations

import string
import unicodedata
from typing import TYPE_CHECKING

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_texts, kind_name, mapped
from videopoll.jobs.outcome import OutcomeKind
from videopoll.jobs.video import FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from videopoll.jobs.outcome import Outcome

__all__ = ["ENGLISH", "SPANISH", "SPANISH_AND_ENGLISH", "TextSet", "Texts", "cut"]

MINUTES_FROM_S = 120
"""Below two minutes a duration is given in seconds, as the specification does: 60 is "60 segundos"."""


def _template(*allowed: str, needed: str | None = None) -> Callable[[object, attrs.Attribute[str], object], None]:
    def check(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
        name = f"{type(instance).__name__}.{attribute.name}"
        if not isinstance(value, str) or not value.strip():
            msg = f"{name} must be a text with at least one word"
            raise ConfigurationError(msg)
        try:
            parts = list(string.Formatter().parse(value))
        except ValueError as error:
            msg = f"{name} has a stray brace ({error}): write {{{{ or }}}} for a brace that is meant as such"
            raise ConfigurationError(msg) from error
        used = [field for _, field, _, _ in parts if field is not None]
        known = " and ".join(f"{{{field}}}" for field in allowed) or "none"
        for field in used:
            if field not in allowed:
                msg = f"{name} has the placeholder {{{field}}}; those that it may have: {known}"
                raise ConfigurationError(msg)
        if any(spec or conversion for _, _, spec, conversion in parts):
            msg = f"{name} must use its placeholders plainly, without a conversion or a format: {known}"
            raise ConfigurationError(msg)
        if needed is not None and needed not in used:
            msg = f"{name} must contain {{{needed}}}, otherwise the user would never see it"
            raise ConfigurationError(msg)

    return check


_REASON = attrs.validators.optional(_template())


@attrs.frozen(kw_only=True)
class TextSet:
    """The texts of one language. Replace single ones with `attrs.evolve`.

    Args:
        done: The video is ready; may have ``{duration}``.
        link: The line that follows `done` where only text can be sent; has ``{url}``.
        failed: There will be no video; may have ``{reason}``, one of the reasons below.
        cancelled: The job was cancelled; only sent when the host wants it.
        failed_reason: The generation failed.
        timed_out_reason: It took longer than the deadline.
        not_found_reason: The video API does not know the job any more.
        attempts_exhausted_reason: The polls were used up.
        moderated_reason: A content filter refused it. This one and the next five are
            `failed_reason` in a language that does not have them.
        refused_input_reason: The API does not take the prompt, the image or a setting.
        cancelled_reason: Somebody cancelled it at the API.
        expired_reason: It waited too long at the API, or is gone there.
        out_of_credit_reason: The host's account at the API has no credit left. A user
            need not know that.
        not_configured_reason: The worker does not have the API of this job.
        second: One second; may have ``{n}``.
        seconds: Several seconds; has ``{n}``.
        minutes: Two or more whole minutes; has ``{n}``.

    Raises:
        ConfigurationError: A text is empty, or has a placeholder that is not filled in.
    """

    done: str = attrs.field(validator=_template("duration"))
    link: str = attrs.field(validator=_template("url", needed="url"))
    failed: str = attrs.field(validator=_template("reason"))
    cancelled: str = attrs.field(validator=_template())
    failed_reason: str = attrs.field(validator=_template())
    timed_out_reason: str = attrs.field(validator=_template())
    not_found_reason: str = attrs.field(validator=_template())
    attempts_exhausted_reason: str = attrs.field(validator=_template())
    second: str = attrs.field(validator=_template("n"))
    seconds: str = attrs.field(validator=_template("n", needed="n"))
    minutes: str = attrs.field(validator=_template("n", needed="n"))
    moderated_reason: str | None = attrs.field(default=None, validator=_REASON)
    refused_input_reason: str | None = attrs.field(default=None, validator=_REASON)
    cancelled_reason: str | None = attrs.field(default=None, validator=_REASON)
    expired_reason: str | None = attrs.field(default=None, validator=_REASON)
    out_of_credit_reason: str | None = attrs.field(default=None, validator=_REASON)
    not_configured_reason: str | None = attrs.field(default=None, validator=_REASON)

    def duration(self, seconds: int) -> str:
        """Return how long something took, as text: in seconds, or in whole minutes from two minutes on."""
        if seconds == 1:
            return self.second.format(n=1)
        if seconds >= MINUTES_FROM_S and seconds % 60 == 0:
            return self.minutes.format(n=seconds // 60)
        return self.seconds.format(n=seconds)

    def reason(self, outcome: Outcome) -> str:
        """Return the reason that a user reads when there is no video."""
        text = {
            OutcomeKind.TIMED_OUT: self.timed_out_reason,
            OutcomeKind.NOT_FOUND: self.not_found_reason,
            OutcomeKind.ATTEMPTS_EXHAUSTED: self.attempts_exhausted_reason,
        }.get(outcome.kind) or {
            FailureReason.MODERATED: self.moderated_reason,
            FailureReason.REFUSED_INPUT: self.refused_input_reason,
            FailureReason.CANCELLED: self.cancelled_reason,
            FailureReason.EXPIRED: self.expired_reason,
            FailureReason.OUT_OF_CREDIT: self.out_of_credit_reason,
            FailureReason.NOT_CONFIGURED: self.not_configured_reason,
        }.get(outcome.reason)
        return (text or self.failed_reason).format()


def _subtag(language: str) -> str:
    return language.strip().replace("_", "-").lower()


def _by_subtag(languages: Mapping[str, TextSet]) -> dict[str, TextSet]:
    known = mapped(languages, "Texts.languages", needed=True)
    for language, texts in known.items():
        if not isinstance(texts, TextSet):
            msg = f"Texts.languages has for {language!r} a {kind_name(texts)}: give a TextSet"
            raise ConfigurationError(msg)
    return {_subtag(language): texts for language, texts in known.items()}


def _known(language: str) -> str:
    check_texts("Texts", default=language)
    return _subtag(language or "")


@attrs.frozen
class Texts:
    """The texts of all languages that a host speaks.

    A language that is not among them falls back to its main language (``en-US``
    to ``en``), and then to the default.

    Args:
        languages: The texts by language tag, e.g. ``"es"`` or ``"pt-BR"``.
        default: The language for users whose own is unknown.

    Raises:
        ConfigurationError: The default is not among the languages.
    """

    languages: Mapping[str, TextSet] = attrs.field(converter=_by_subtag)
    default: str = attrs.field(converter=_known, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.default not in self.languages:
            have = ", ".join(sorted(self.languages)) or "none"
            msg = f"Texts.default is {self.default!r}, which is not among the languages: {have}"
            raise ConfigurationError(msg)

    def of(self, language: str | None) -> TextSet:
        """Return the texts of a language: of ``es-MX``, or else of ``es``, or else of the default."""
        tag = _subtag(language or self.default)
        while tag not in self.languages:
            tag, found, _ = tag.rpartition("-")
            if not found:
                return self.languages[self.default]
        return self.languages[tag]

    def notice(self, outcome: Outcome, start_ms: int, language: str | None = None, *, link: str | None = None) -> str:
        """Return the message that tells a user how the job ended.

        Args:
            outcome: The outcome of the job.
            start_ms: When the job started, in Unix milliseconds.
            language: The language of the user, such as ``"es"``; None for the default.
            link: The URL of the finished video, for a channel that sends text only.
        """
        texts = self.of(language)
        if outcome.kind is OutcomeKind.CANCELLED:
            return texts.cancelled.format()
        if not outcome.success:
            return texts.failed.format(reason=texts.reason(outcome))
        # "0 seconds" would read like a mistake, and clocks may differ.
        seconds = max(1, (outcome.at_ms - start_ms + 500) // 1000)
        done = texts.done.format(duration=texts.duration(seconds))
        return done if link is None else f"{done}\n\n{texts.link.format(url=link)}"


SPANISH = TextSet(
    done="🎥 ¡Tu video está listo! Se generó en {duration}.",
    link="🔗 Video: {url}",
    failed="😔 Hubo un problema generando tu video: {reason}. Por favor intenta nuevamente.",
    cancelled="🛑 La generación de tu video fue cancelada.",
    failed_reason="no se pudo completar la generación",
    timed_out_reason="la generación tardó más de lo esperado",
    not_found_reason="la solicitud expiró antes de que el video estuviera listo",
    attempts_exhausted_reason="el video no estuvo listo después de varios intentos",
    second="{n} segundo",
    seconds="{n} segundos",
    minutes="{n} minutos",
    moderated_reason="el filtro de contenido no lo permitió",
    refused_input_reason="el servicio no aceptó la descripción o la imagen",
    cancelled_reason="la generación fue cancelada por el servicio",
    expired_reason="el video ya no está disponible",
    out_of_credit_reason="el servicio no está disponible en este momento",
    not_configured_reason="este servicio de video no está disponible por ahora",
)
"""The texts of the specification; those for the reasons of other video APIs are ours."""

ENGLISH = TextSet(
    done="🎥 Your video is ready! It took {duration} to generate.",
    link="🔗 Video: {url}",
    failed="😔 There was a problem generating your video: {reason}. Please try again.",
    cancelled="🛑 The generation of your video was cancelled.",
    failed_reason="the generation could not be completed",
    timed_out_reason="the generation took longer than expected",
    not_found_reason="the request expired before the video was ready",
    attempts_exhausted_reason="the video was not ready after several attempts",
    second="{n} second",
    seconds="{n} seconds",
    minutes="{n} minutes",
    moderated_reason="the content filter did not allow it",
    refused_input_reason="the service did not accept the description or the image",
    cancelled_reason="the service cancelled the generation",
    expired_reason="the video is no longer available",
    out_of_credit_reason="the service is not available at the moment",
    not_configured_reason="this video service is not available for now",
)

SPANISH_AND_ENGLISH = Texts({"es": SPANISH, "en": ENGLISH}, default="es")
"""The default texts of a `Message`: Spanish, and English for users whose language it is."""


ELLIPSIS = "…"
_JOINER = "\u200d"


def _units(text: str) -> int:
    # Messengers count as JavaScript does, where an emoji has two units. That
    # is never less than the number of characters, so both kinds of limit hold.
    return len(text) + sum(character > "\uffff" for character in text)


def _continues(character: str, cluster: str) -> bool:
    """Whether a character belongs to the visible character before it."""
    if character == _JOINER or cluster.endswith(_JOINER):
        return True
    if unicodedata.category(character) in {"Mn", "Me", "Mc"}:
        return True
    if "\U0001f3fb" <= character <= "\U0001f3ff" or "\U000e0020" <= character <= "\U000e007f":
        return True  # skin tones, and the tags of regional flags
    if "\u1160" <= character <= "\u11ff":
        return True  # the vowel and the last consonant of a decomposed Hangul syllable
    # A national flag is a pair of regional indicators.
    return _is_regional(character) and len(cluster) == 1 and _is_regional(cluster)


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _clusters(text: str) -> Iterator[str]:
    """Yield what a reader takes for single characters, as far as the standard library knows them."""
    start = 0
    for end in range(1, len(text)):
        if not _continues(text[end], text[max(start, end - 2) : end]):
            yield text[start:end]
            start = end
    if text:
        yield text[start:]


def cut(text: str, limit: int, *, keep: str = "") -> str:
    """Shorten a text to a channel's limit, with an ellipsis where something is missing.

    No visible character is broken: an emoji of several code points stays whole
    or goes. Lone surrogates, which no channel can encode, become U+FFFD.

    Args:
        text: The text.
        limit: The most UTF-16 units that the result may have (an emoji has two or more).
        keep: A part of the text that stays whole, such as a link. Its line stays
            too where there is room; what follows it is the first to go.

    Raises:
        ValueError: There is no room for what must be kept.
    """
    text, keep = (value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for value in (text, keep))
    if _units(text) <= limit:
        return text
    at = text.rfind(keep) if keep else -1
    if at < 0:
        return _cut_text(text, limit)
    line_at = text.rfind("\n", 0, at) + 1
    tail_at = line_at if line_at > 0 and _units(text[line_at : at + len(keep)]) <= limit // 2 else at
    tail = text[tail_at : at + len(keep)]
    if _units(tail) > limit:
        msg = f"the link alone is longer than the {limit} characters that this channel takes"
        raise ValueError(msg)
    gap = "\n\n"
    head = _cut_text(text[:tail_at].rstrip(), limit - _units(tail) - len(gap))
    return f"{head}{gap}{tail}" if head else tail


def _cut_text(text: str, limit: int) -> str:
    """Shorten a text that has nothing to keep; empty if not even one character fits."""
    if _units(text) <= limit:
        return text
    room = limit - len(ELLIPSIS)
    end = 0
    for cluster in _clusters(text):
        room -= _units(cluster)
        if room < 0:
            break
        end += len(cluster)
    kept = text[:end].rstrip()
    return kept + ELLIPSIS if kept else ELLIPSIS[: max(0, limit)]
