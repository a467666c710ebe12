"""Keeps the answers of calls in Redis, so that a repeated call starts nothing; each method is one command."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar, cast

from videopoll.jobs.codec import Poison, dump, load_object
from videopoll.queue.errors import REDIS_ERRORS
from videopoll.queue.scripts import let_go_if_moved

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue
    from videopoll.queue.operations import Operations

    Answer: TypeAlias = dict[str, JsonValue]

__all__ = ["ToolCalls", "store_of"]

T = TypeVar("T")


class ToolCalls:
    """Keeps answers by call; from a queue's `tool_calls`. An exception means that Redis cannot be asked.

    Args:
        queue: Where they are kept.
        carry_out: Carries out a flow over the client of this queue, sync or async.
    """

    def __init__(self, queue: Operations, carry_out: Callable[[Flow[object]], object]) -> None:
        self._queue = queue
        self._carry_out = carry_out

    @property
    def kept_s(self) -> int:
        """How long an answer is kept, in seconds."""
        return self._queue.ttls.completed_s

    def key(self, name: str) -> str:
        """Return where the call of this name is noted."""
        return self._queue.keys.tool_call(name)

    def claim(self, key: str, ttl_s: float) -> Flow[bool]:
        """Note that the call is being carried out; False if that was noted before."""
        return self._do(self._set(key, None, ttl_s, new=True))

    def look(self, key: str) -> Flow[Answer | None]:
        """Return the answer that was kept; None while there is none."""
        return self._do(self._get(key))

    def keep(self, key: str, answer: Answer, ttl_s: float) -> Flow[bool]:
        """Note the answer."""
        return self._do(self._set(key, answer, ttl_s, new=False))

    def release(self, key: str) -> Flow[bool]:
        """Forget a call that was not carried out."""
        return self._do(self._delete(key))

    def _do(self, flow: Flow[T]) -> Flow[T]:
        return cast("T", (yield functools.partial(self._carry_out, flow)))

    def _set(self, key: str, answer: Answer | None, ttl_s: float, *, new: bool) -> Flow[bool]:
        ttl_ms = max(1, round(ttl_s * 1000))
        done = yield from self._command(lambda: self._queue.front.set(key, dump({"answer": answer}), nx=new, px=ttl_ms))
        return bool(done)

    def _get(self, key: str) -> Flow[Answer | None]:
        kept = cast("bytes | None", (yield from self._command(lambda: self._queue.front.get(key))))
        fields = load_object(kept) if kept is not None else Poison("gone")
        answer = None if isinstance(fields, Poison) else fields.get("answer")
        return answer if isinstance(answer, dict) else None

    def _delete(self, key: str) -> Flow[bool]:
        return bool((yield from self._command(lambda: self._queue.front.delete(key))))

    def _command(self, command: Callable[[], object]) -> Flow[object]:
        """Carry out a command, once more where the server that it reached is no primary any more."""
        try:
            return (yield command)
        except REDIS_ERRORS as error:
            if not (yield from let_go_if_moved(self._queue.front, error)):
                raise
        return (yield command)


def store_of(queue: object) -> ToolCalls | None:
    """Return the store beside a queue; None for a queue of the host, which may not be on Redis."""
    store = getattr(queue, "tool_calls", None)
    return store if isinstance(store, ToolCalls) else None
