"""What a transport is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from videopoll._http.prepare import PreparedRequest
    from videopoll._http.values import HttpFailure, HttpReply

__all__ = ["AsyncTransport", "Transport"]


class Transport(Protocol):
    """Carries out one exchange after the other, in any number of threads."""

    def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure: ...
    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same for the tasks of one event loop."""

    async def exchange(self, prepared: PreparedRequest) -> HttpReply | HttpFailure: ...
    async def close(self) -> None: ...
