"""A channel that sends nothing, for hosts that read ``video:completed`` themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll.messages import Delivered

if TYPE_CHECKING:
    from videopoll.messages import Message

__all__ = ["SilentNotifier"]


class SilentNotifier:
    """Sends nothing, and calls every message delivered."""

    def notify(self, message: Message) -> Delivered:
        """Do nothing."""
        del message
        return Delivered(detail="nothing is sent here")

    async def anotify(self, message: Message) -> Delivered:
        """Do nothing."""
        return self.notify(message)
