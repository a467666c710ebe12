"""A host's notifier that holds another one, and what it hides of it.

The usual wrapper (store the URL, then send) has `notify` alone. Without the inner notifier's
`look_up` nobody asks the channel after a lost reply, and the message is sent a second time.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import types
from itertools import islice
from typing import TYPE_CHECKING, cast

from videopoll.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["check_notifier", "hidden_behind", "warn_of_hidden_look_up"]

log: logging.Logger = logging.getLogger(__name__)

DEPTH = 3
"""How far is looked: at what the notifier holds, what that holds, and once more (`CallbackNotifier(service.send)`)."""

MOST_LOOKED_AT = 200
"""Objects that are looked behind, at most, and attributes of each."""

LOOK_UPS = ("look_up", "alook_up")


def check_notifier(notifier: object, name: str) -> None:
    """Refuse what is no notifier.

    Raises:
        ConfigurationError: It is a class, or has no method `notify`.
    """
    if isinstance(notifier, type) or not callable(getattr(notifier, "notify", None)):
        why = "it is a class: build one of it" if isinstance(notifier, type) else "it has no method 'notify'"
        msg = f"{name} is no notifier: {why}"
        raise ConfigurationError(msg)


def warn_of_hidden_look_up(notifier: object) -> None:
    """Log a warning if a notifier cannot be asked for its messages, and holds one that can."""
    hidden = hidden_behind(notifier)
    if hidden is not None:
        log.warning(
            "%s has no look_up, and holds a %s that has one: a message whose reply was lost cannot be looked up, and is"
            " sent twice. Pass look_up on (alook_up, too), or use videopoll.notifiers.TeeNotifier",
            type(notifier).__name__,
            hidden,
        )


def hidden_behind(notifier: object) -> str | None:
    """Return the class of a notifier whose look-up this one hides, as far as it can be seen; else None.

    What can be seen: what the object has in its attributes, in lists and mappings there, and what its
    functions use: closures, objects of bound methods, arguments of `functools.partial`, globals. What a
    function fetches when it is called (from a container, a request, an import) cannot.
    """
    if any(_has(notifier, name) for name in LOOK_UPS):
        return None
    seen, level = {id(notifier)}, [notifier]
    for _ in range(DEPTH):
        below: list[object] = []
        for held in (one for part in level[:MOST_LOOKED_AT] for one in islice(_held_by(part), MOST_LOOKED_AT)):
            if id(held) in seen:
                continue
            seen.add(id(held))
            if _has(held, "notify") and any(_has(held, name) for name in LOOK_UPS):
                return str(type(held).__name__)
            if not issubclass(type(held), _PLAIN):
                below.append(held)
        level = below
    return None


# Always by the true type: a proxy of a host's (Flask's, Django's) makes its object when it is asked for its class,
# and a mock has every attribute.


def _has(part: object, method: str) -> bool:
    return not issubclass(type(part), type) and callable(getattr(type(part), method, None))


def _held_by(part: object) -> Iterator[object]:
    """Yield what an object holds. Nothing of the host's is called."""
    kind = type(part)
    if issubclass(kind, dict):
        yield from list(dict.values(cast("dict[object, object]", part)))
    elif issubclass(kind, list | tuple | set | frozenset):
        yield from list(cast("Iterable[object]", part))
    elif issubclass(kind, types.MethodType):
        method = cast("types.MethodType", part)
        yield from (method.__self__, method.__func__)
    elif issubclass(kind, functools.partial):
        made = cast("functools.partial[object]", part)
        yield from (made.func, *made.args, *made.keywords.values())
    elif issubclass(kind, types.FunctionType):
        function = cast("types.FunctionType", part)
        with contextlib.suppress(Exception):
            used = inspect.getclosurevars(function)
            yield from (*used.nonlocals.values(), *used.globals.values(), *(function.__defaults__ or ()))
    else:
        yield from _attributes(part)


def _attributes(part: object) -> Iterator[object]:
    with contextlib.suppress(Exception):
        yield from list(cast("dict[str, object]", object.__getattribute__(part, "__dict__")).values())
    for kind in type(part).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with contextlib.suppress(Exception):
                yield object.__getattribute__(part, name)
    for name in ("notify", "anotify", "__call__"):
        method = getattr(type(part), name, None)
        if isinstance(method, types.FunctionType):
            yield method


_PLAIN = (str, bytes, bytearray, int, float, complex, type, types.ModuleType, type(None))
"""What holds nothing."""
