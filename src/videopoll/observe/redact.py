"""Makes texts of others fit to be kept and shown: one short line without secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from videopoll._reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["one_line", "redact", "redacted", "without"]

MAX_REASON_CHARS = 200
"""How much of a provider's text gets into a receipt."""

SHORT_SECRET_CHARS = 4
"""A secret of fewer characters stays: nobody can tell it from a word or a status, which the operator needs."""

LONG_SECRET_CHARS = 6
"""A secret of so many characters goes wherever it stands, a shorter one where it stands alone."""

# Whatever comes out of a provider or a host's function may quote what went in.
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://\S+", re.IGNORECASE)
_CREDENTIAL = re.compile(
    r"((?:token|secret|password|api[_-]?key)[\"']?\s{0,3}[=:]\s{0,3}|\b(?:bearer|basic)\s{1,3})[^\s&,;}]+",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(r"\d(?:[\s().-]{0,2}\d){6,}")


def redact(text: str, *secrets: str | None) -> str:
    """Return a text of somebody else as one line of at most 200 characters, without secrets.

    The given secrets go, and so does whatever looks like a URL, a credential or a phone number.
    """
    text = without(text, secrets)
    text = _URL.sub("[url]", text)
    text = _CREDENTIAL.sub(r"\1[redacted]", text)
    text = _LONG_NUMBER.sub("[number]", text)
    return one_line(text)


def redacted(reason: str, *secrets: str | None) -> str:
    """Return a redacted reason; what of it is ours stays as it is."""
    cleaned = redact(reason, *secrets)
    return Reason(cleaned, reason.told) if isinstance(reason, Reason) else cleaned


def without(text: str, secrets: Iterable[str | None]) -> str:
    """Return the text without the given secrets, in whatever form they stand in it; very short ones stay."""
    # Its quoted form is no shorter than a secret itself.
    fit = {secret for secret in secrets if secret and SHORT_SECRET_CHARS <= len(secret) <= len(text)}
    for secret in sorted(fit, key=len, reverse=True):
        for form in (secret, quote(secret, safe="", errors="replace")):
            if form not in text:
                continue
            # In a word of the text, a short one stands by chance, and the word would be spoiled.
            alone = (r"(?<!\w)", r"(?!\w)") if len(form) < LONG_SECRET_CHARS else ("", "")
            text = re.sub(re.escape(form).join(alone), "[redacted]", text)
    return text


def one_line(text: str) -> str:
    """Return the text as one line of at most 200 printable characters."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"
