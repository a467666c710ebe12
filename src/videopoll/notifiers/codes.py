"""What a channel's own error codes mean: a table for each channel, and one rule for what follows from a meaning."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from videopoll.messages import NotSent, Refused

if TYPE_CHECKING:
    from videopoll.jobs.outcome import MessageForm

__all__ = ["CodeMeaning", "CodeTable", "receipt_for_code", "receipt_for_meaning"]


class CodeMeaning(enum.Enum):
    """What a code of a channel says about a message that it did not take, or could not deliver."""

    RATE = "rate"
    """Too much at once: the same message later."""
    PASSING = "passing"
    """The channel has a fault that passes: the same message later."""
    VIDEO = "video"
    """The file, its link or its type: another form may go through."""
    QUOTE = "quote"
    """The message that is quoted: without it, this one may go through."""
    WINDOW = "window"
    """The user has not written for too long: only an approved template goes through."""
    RECIPIENT = "recipient"
    """This user gets nothing in any form."""
    CONTENT = "content"
    """These words or this template are refused in any form."""
    CREDENTIALS = "credentials"
    """The key or its rights: all messages of the account are held back until somebody puts it right."""
    ACCOUNT = "account"
    """The sending account is blocked or has not paid: the same."""


CodeTable: TypeAlias = Mapping[int | str, CodeMeaning]
"""The codes of a channel, as it writes them."""


def receipt_for_code(
    table: CodeTable,
    code: object,
    reason: str,
    *,
    then: MessageForm | None = None,
    retry_after_s: float | None = None,
) -> NotSent | Refused | None:
    """Return what a channel's code says of the message; None for a code that the table does not have.

    Args:
        table: What the channel's codes mean.
        code: What the channel gave as its code, whatever that is.
        reason: What it said, for the operator. No secrets.
        then: The form to try next where another may go through (`CodeMeaning.VIDEO`, `CodeMeaning.WINDOW`).
        retry_after_s: How long it asked to wait, in seconds, where it is tried again.
    """
    meaning = table.get(code) if isinstance(code, int | str) and not isinstance(code, bool) else None
    return None if meaning is None else receipt_for_meaning(meaning, reason, then=then, retry_after_s=retry_after_s)


def receipt_for_meaning(
    meaning: CodeMeaning, reason: str, *, then: MessageForm | None = None, retry_after_s: float | None = None
) -> NotSent | Refused:
    """Return what follows from a meaning, for a channel that has words in the place of codes. See `receipt_for_code`."""
    match meaning:
        case CodeMeaning.RATE:
            # A text is as much at once as a video.
            return NotSent(reason, retry_after_s, channel_fault=False)
        case CodeMeaning.PASSING:
            return NotSent(reason, retry_after_s)
        case CodeMeaning.VIDEO:
            return Refused(reason, then=then)
        case CodeMeaning.QUOTE:
            return Refused(reason, try_unquoted=True)
        case CodeMeaning.WINDOW:
            return Refused(reason, try_text=False, then=then)
        case CodeMeaning.RECIPIENT | CodeMeaning.CONTENT:
            return Refused(reason, try_text=False)
        case CodeMeaning.CREDENTIALS | CodeMeaning.ACCOUNT:
            return NotSent(reason, retry_after_s, channel_fault=False, account_fault=True)
