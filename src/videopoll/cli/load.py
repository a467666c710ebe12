"""Imports what an option names in the host's own code: ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

from videopoll.errors import ConfigurationError

__all__ = ["HostFunction", "call_function", "load", "load_function"]

HostFunction: TypeAlias = Callable[..., object]


def load(option: str, name: str) -> object:
    """Import what a host's module has, e.g. ``myshop.people:recipient_of``; also from the working directory.

    Args:
        option: The option that names it, for the error's text.
        name: The module and the name in it, with a colon in between.

    Returns:
        What the module has under that name; None if it has nothing.

    Raises:
        ConfigurationError: There is no such module.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        msg = f"{option} looks like package.module:function, got {name!r}"
        raise ConfigurationError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        msg = f"{option}: {module_name!r} cannot be imported ({type(error).__name__}: {error})"
        raise ConfigurationError(msg) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    return found


def load_function(option: str, name: str) -> HostFunction:
    """Import the host's function; see `load`.

    Raises:
        ConfigurationError: There is no such function.
    """
    found = load(option, name)
    if not callable(found):
        module_name, _, attribute = name.partition(":")
        msg = f"{option}: {module_name!r} has no function {attribute!r}"
        raise ConfigurationError(msg)
    return cast("HostFunction", found)


def call_function(option: str, name: str) -> object:
    """Import the host's function, and return what it builds.

    Raises:
        ConfigurationError: There is no such function, or it raised.
    """
    build = load_function(option, name)
    try:
        return build()
    except ConfigurationError:
        raise
    except Exception as error:
        msg = f"{option}: {name} raised {type(error).__name__}: {error}"
        raise ConfigurationError(msg) from error
