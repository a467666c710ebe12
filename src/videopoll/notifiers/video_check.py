"""An optional look at a video before it is handed to a channel that has limits.

One ``HEAD`` request of at most 2 s, to hosts that the operator has named and to
no other: the URL comes from outside. What cannot be learnt is no reason not to send.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import Reason, own
from videopoll.errors import ConfigurationError
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import Refused
from videopoll.notifiers.exchange import Ask, Step, StepFailedError
from videopoll.notifiers.hosts import host_names

if TYPE_CHECKING:
    from videopoll.messages import Message

__all__ = ["VideoCheck"]

HEAD_TIMEOUT_S = 2.0
WHATSAPP_MAX_BYTES = 16 * 1024 * 1024
WHATSAPP_TYPES = frozenset({"video/mp4", "video/3gpp", "video/quicktime"})

OTHER_TYPE = "the file is of a type that the channel does not take as a video"

# Storages give this to files whose type they do not know.
_SAYS_NOTHING = frozenset({"application/octet-stream", "binary/octet-stream", ""})


def _hosts(hosts: Iterable[str]) -> frozenset[str]:
    return host_names(hosts, "VideoCheck.hosts")


@attrs.frozen
class VideoCheck:
    """Asks a file's host for its size and type; what the channel would not take goes as a link at once.

    Args:
        hosts: The only hosts that may be asked, e.g. ``{"files.api-ai-mvp.com"}``.
        max_bytes: The channel's limit; WhatsApp's is 16 MB.
        types: The content types that the channel takes.

    Raises:
        ConfigurationError: `hosts` is empty or a string, or `max_bytes` is not positive.
    """

    hosts: frozenset[str] = attrs.field(converter=_hosts)
    max_bytes: int = WHATSAPP_MAX_BYTES
    types: frozenset[str] = attrs.field(default=WHATSAPP_TYPES, converter=frozenset)

    def __attrs_post_init__(self) -> None:
        if not self.hosts:
            msg = "VideoCheck.hosts must name at least one host that may be asked"
            raise ConfigurationError(msg)
        if self.max_bytes <= 0:
            msg = f"VideoCheck.max_bytes must be more than 0, got {self.max_bytes}"
            raise ConfigurationError(msg)

    def look(self, message: Message) -> Generator[Step, object, Refused | None]:
        """Ask for the video, where there is one and its host may be asked; return why the channel would not take it."""
        url = message.video_url
        if message.form is not MessageForm.VIDEO or not url or urlsplit(url).hostname not in self.hosts:
            return None
        try:
            reply = yield from Ask(HttpRequest(method="HEAD", url=url, timeout_s=HEAD_TIMEOUT_S))
        except StepFailedError:
            return None
        return self._refusal(reply)

    def _refusal(self, reply: HttpReply) -> Refused | None:
        if not reply.is_success:
            return None
        length = reply.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.max_bytes:
            return Refused(own(f"the video has {int(length[:20])} bytes, the channel takes {self.max_bytes}"))
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in self.types and kind not in _SAYS_NOTHING:
            return Refused(Reason(f"the file is {kind[:50]!r}, which the channel does not take as a video", OTHER_TYPE))
        return None
