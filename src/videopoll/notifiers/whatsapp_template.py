"""Templates of WhatsApp, which go to users who have not written for 24 hours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_flags, check_texts
from videopoll.texts import cut

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["NO_NOTICE_TEMPLATE", "NO_TEMPLATE", "WhatsAppTemplate"]

PARAMETER_LIMIT = 1024

_ONLY = "the user has not written for 24 hours, so that only a template goes through: give the notifier"
NO_TEMPLATE: str = f"{_ONLY} one that has a video in its header"
NO_NOTICE_TEMPLATE: str = f"{_ONLY} a notice_template, for messages without a video"


@attrs.frozen
class WhatsAppTemplate:
    """A template that Meta has approved, for users who have not written for 24 hours.

    It has a video in its header, or none if it is for notices: messages without a video. Its body
    has no variable, or the one that `caption` says.

    Args:
        name: Its name, e.g. ``"video_ready"``.
        language: The code of its language, e.g. ``"es"``.
        caption: Whether its body has one variable, for the caption of the video, or the notice.

    Raises:
        ConfigurationError: No template has such a name or language.
    """

    name: str
    language: str
    caption: bool = False

    def __attrs_post_init__(self) -> None:
        check_texts("WhatsAppTemplate", name=self.name or "", language=self.language or "")
        check_flags("WhatsAppTemplate", caption=self.caption)
        if not re.fullmatch(r"[a-z0-9_]{1,512}", self.name) or not re.fullmatch(
            r"[A-Za-z]{2,3}(_[A-Za-z]{2,4})?", self.language
        ):
            msg = (
                "a WhatsAppTemplate has a name of lower-case letters, digits and '_', and a language such as 'es' or"
                f" 'pt_BR', got {self.name!r} and {self.language!r}"
            )
            raise ConfigurationError(msg)

    def to_fields(self, message: Message, video: dict[str, JsonValue] | None) -> dict[str, JsonValue]:
        """Return the template as it stands in a request; without a header if there is no video."""
        components: list[JsonValue] = []
        if video is not None:
            components.append({"type": "header", "parameters": [{"type": "video", "video": video}]})
        if self.caption:
            # A parameter is one line, without five spaces in a row.
            words = cut(" ".join(message.caption.split()), PARAMETER_LIMIT)
            components.append({"type": "body", "parameters": [{"type": "text", "text": words}]})
        fields: dict[str, JsonValue] = {"name": self.name, "language": {"code": self.language}}
        return {**fields, "components": components} if components else fields
