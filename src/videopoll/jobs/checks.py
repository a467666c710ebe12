"""What a host hands in is refused where it is handed in: the text names the argument, and says what it got.

A number, and a short text in the place of one, is quoted. Of anything else the text tells the type alone, as it may
hold a secret.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.codec import is_number

__all__ = [
    "MAX_NAME_CHARS",
    "check_callable",
    "check_choice",
    "check_count",
    "check_fields",
    "check_flags",
    "check_kind",
    "check_kinds",
    "check_seconds",
    "check_texts",
    "given",
    "kind_name",
    "listed",
    "mapped",
    "quoted",
]

LONGEST_QUOTE = 60
"""Characters of a bad value that an error quotes."""

MAX_NAME_CHARS = 100
"""How much of the name of a host's class gets into an error, or a reason."""

KeyT = TypeVar("KeyT", bound=str)
PartT = TypeVar("PartT")


def kind_name(value: object) -> str:
    """Return what to call a thing of the wrong kind: the name of its type, or which class it is itself."""
    if isinstance(value, type):
        return f"the class {value.__name__[:MAX_NAME_CHARS]}"
    return type(value).__name__[:MAX_NAME_CHARS]


def quoted(value: object, *, text: bool = False) -> str:
    """Quote a bad value, without its thousands of digits.

    Args:
        value: What was handed in.
        text: Whether a text is wanted. Else it is said that this one is: an environment variable is one.
    """
    if isinstance(value, str):
        cut = repr(value[:LONGEST_QUOTE]) + ("…" if len(value) > LONGEST_QUOTE else "")
        return cut if text else f"{cut} (a string: convert it)"
    if value is None or isinstance(value, bool | float) or is_number(value):
        return repr(value)
    # Python writes no number of more than 4,300 digits.
    return "a number that is too large" if isinstance(value, int) else kind_name(value)


def given(value: PartT | None, kind: Callable[[], PartT], name: str) -> PartT:
    """Return what was handed in for a part's argument, or the default of its kind.

    Raises:
        ConfigurationError: It is of another kind.
    """
    if value is None:
        return kind()
    check_kind(name, value, cast("type", kind))
    return value


def check_kind(name: str, part: object, kind: type) -> None:
    """Refuse what is not of a kind.

    Raises:
        ConfigurationError: It is of another kind.
    """
    if not isinstance(part, kind):
        is_class = isinstance(part, type) and issubclass(part, kind)
        hint = ": build one of it, and hand that in" if is_class else ""
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        msg = f"{name} must be {article} {kind.__name__}, got {kind_name(part)}{hint}"
        raise ConfigurationError(msg)


def check_kinds(owner: str, kind: type, /, **parts: object) -> None:
    """Refuse what is neither None nor of a kind.

    Args:
        owner: Whose arguments they are, e.g. ``TelegramNotifier``; nothing if the names say enough.
        kind: Of which class they have to be.
        **parts: What was handed in, by the names of the arguments.

    Raises:
        ConfigurationError: One is of another kind.
    """
    for name, part in parts.items():
        if part is not None:
            check_kind(_name(owner, name), part, kind)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "bytes": bytes,
    "None": type(None),
    "Mapping": Mapping,
    # A list does as well where nothing is hashed.
    "tuple": (tuple, list),
    "frozenset": (frozenset, set),
}


def check_fields(value: attrs.AttrsInstance, **kinds: type) -> None:
    """Refuse an object whose fields do not hold what their annotations say.

    Args:
        value: The object, of a class of attrs whose annotations are texts.
        **kinds: Classes by the names that stand in the annotations; what has an unknown name may be anything.

    Raises:
        ConfigurationError: A field holds something else.
    """
    for field in attrs.fields(type(value)):
        held, said = getattr(value, field.name), str(field.type)
        if field.init and not _fits(held, said, _KINDS | kinds):
            msg = f"{type(value).__name__}.{field.name} must be {said}, got {kind_name(held)}"
            raise ConfigurationError(msg if not isinstance(held, tuple | list | Mapping) else f"{msg} of other things")


def _fits(value: object, said: str, kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    name, bracket, inner = said.partition("[")
    if "|" in name or "|" in inner.rpartition("]")[2]:
        return any(_fits(value, one, kinds) for one in _UNION.split(said))
    kind = kinds.get(name)
    if kind is None:
        return True
    if not isinstance(value, kind) or (isinstance(value, bool) and name in {"int", "float"}):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value):
        return False
    parts = inner.rpartition("]")[0].split(", ") if bracket else []
    if isinstance(value, Mapping) and len(parts) == 2:  # noqa: PLR2004 - of a key, and of what it leads to
        return all(_fits(key, parts[0], kinds) and _fits(one, parts[1], kinds) for key, one in value.items())
    if isinstance(value, tuple | list | frozenset | set) and parts:
        return all(_fits(one, parts[0], kinds) for one in value)
    return True


_UNION = re.compile(r" \| (?![^\[]*\])")
"""Between the kinds of an annotation, outside of brackets."""


def check_flags(owner: str, /, **flags: object) -> None:
    """Refuse what is neither True nor False: the text of a variable that says ``false`` would be true.

    Raises:
        ConfigurationError: One of them is neither.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            msg = f"{_name(owner, name)} is True or False, got {quoted(flag)}"
            raise ConfigurationError(msg)


def check_choice(name: str, value: object, *choices: str | int) -> None:
    """Refuse what is none of some texts and numbers.

    Raises:
        ConfigurationError: It is none.
    """
    kind = str if isinstance(choices[0], str) else int
    if not isinstance(value, kind) or isinstance(value, bool) or value not in choices:
        msg = f"{name} must be one of {', '.join(map(str, choices))}, got {quoted(value, text=kind is str)}"
        raise ConfigurationError(msg)


def check_texts(owner: str, /, **texts: object) -> None:
    """Refuse what is neither None nor a text with something in it. None of them is quoted: keys are such texts.

    Raises:
        ConfigurationError: One of them is neither.
    """
    for name, text in texts.items():
        if text is not None and (not isinstance(text, str) or not text):
            got = "an empty one: leave it out" if text == "" else kind_name(text)
            msg = f"{_name(owner, name)} must be a text, got {got}"
            raise ConfigurationError(msg)


def mapped(value: Mapping[KeyT, PartT] | None, name: str, *, needed: bool = False) -> dict[KeyT, PartT]:
    """Return what a mapping from texts holds; nothing for None, unless it is needed.

    Raises:
        ConfigurationError: It is no mapping, or one of its keys is no text.
    """
    if value is None and not needed:
        return {}
    if not isinstance(value, Mapping):
        msg = f"{name} must be a mapping, got {kind_name(value)}"
        raise ConfigurationError(msg)
    for key in value:
        if not isinstance(key, str):
            msg = f"{name} must have texts as its keys, got {quoted(key)}"
            raise ConfigurationError(msg)
    return dict(value)


def listed(value: Iterable[PartT], name: str, what: str) -> tuple[PartT, ...]:
    """Return what a collection holds.

    Args:
        value: The collection.
        name: The argument that it was handed in for.
        what: What it is to hold, in the plural.

    Raises:
        ConfigurationError: It is none, or a text, whose letters would be taken for what it holds.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        hint = "" if value is None or isinstance(value, Mapping) else ": put it into a list"
        msg = f"{name} must be a list of {what}, got {kind_name(value)}{hint}"
        raise ConfigurationError(msg)
    return tuple(value)


def check_callable(function: object, owner: str, argument: str) -> None:
    """Refuse what is no function.

    Raises:
        ConfigurationError: It cannot be called, or is a class: each call would build another one.
    """
    if isinstance(function, type) or not callable(function):
        msg = f"{owner} must be a function of {argument}, got {kind_name(function)}"
        if inspect.iscoroutine(function):
            msg += ": leave out the parentheses behind its name"
        raise ConfigurationError(msg)


def check_seconds(name: str, value: object, *, above: float | None = None, low: float | None = None) -> None:
    """Refuse what is no finite number of seconds, or not more than `above`, or less than `low`.

    Raises:
        ConfigurationError: It is none, or out of these bounds.
    """
    if not is_number(value):
        msg = f"{name} must be a finite number of seconds, got {quoted(value)}"
        raise ConfigurationError(msg)
    if (above is not None and value <= above) or (low is not None and value < low):
        bound = f"more than {above:g}" if above is not None else f"at least {low:g}"
        msg = f"{name} must be {bound}, got {value:g}"
        raise ConfigurationError(msg)


def check_count(name: str, value: object, *, low: int = 1) -> None:
    """Refuse what is no whole number of at least `low`, or larger than Redis can count.

    Raises:
        ConfigurationError: It is none, or out of these bounds.
    """
    if type(value) is not int or value < low or not is_number(value):
        msg = f"{name} must be a whole number of at least {low}, got {quoted(value)}"
        raise ConfigurationError(msg)


def _name(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name
