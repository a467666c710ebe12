"""What of the words that come from outside may be shown where nobody asked for them."""

from __future__ import annotations

__all__ = ["shown_word"]

LONGEST_WORD = 30

NO_WORD = "(no plain word)"


def shown_word(word: str) -> str:
    """Return a status word of an API if it looks like one: letters, ``_`` and ``-``, at most 30; else a word of ours."""
    plain = len(word) <= LONGEST_WORD and word.replace("_", "").replace("-", "").isalpha()
    return word if plain else NO_WORD
