"""Names that a package exports without importing their modules before somebody asks for one (PEP 562)."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["export"]


def export(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    A submodule that was not imported is found too: ``import videopoll`` once brought them all.

    Args:
        package: The package's ``__name__``.
        names: What it exports, separated by spaces, by the module that has it.
    """
    homes = {name: module for module, exported in names.items() for name in exported.split()}

    def get(name: str) -> object:
        here = sys.modules[package]
        if name in homes:
            found: object = getattr(importlib.import_module(homes[name]), name)
            # From now on nobody asks here.
            setattr(here, name, found)
            return found
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=here)

    def list_names() -> list[str]:
        here = vars(sys.modules[package])
        # Without what this module's own imports left there.
        return sorted(
            {*homes, *(name for name, one in here.items() if name.startswith("_") or isinstance(one, types.ModuleType))}
        )

    return get, list_names
