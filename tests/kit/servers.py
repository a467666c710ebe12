"""Which servers the tests run on: those that are installed, unless the environment names others.

``VIDEOPOLL_REDIS_SERVER`` and ``VIDEOPOLL_VALKEY_SERVER`` are paths of binaries that stand for "redis" and "valkey" in
every test. ``VIDEOPOLL_NEWER_REDIS_SERVER`` is a Redis that the other one is upgraded to (`test_server_upgrades`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from videopoll.testing import embedded

if TYPE_CHECKING:
    from videopoll.testing import ServerChoice

VARIABLES = {"valkey": "VIDEOPOLL_VALKEY_SERVER", "redis": "VIDEOPOLL_REDIS_SERVER"}
NEWER_REDIS = "VIDEOPOLL_NEWER_REDIS_SERVER"


def named_binary(variable: str) -> Path | None:
    """Return the binary that a variable of the environment names, if it does.

    Raises:
        FileNotFoundError: There is none.
    """
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if not os.access(path, os.X_OK):
        msg = f"{variable} names {named}, which is no program"
        raise FileNotFoundError(msg)
    return path


def take_named_servers() -> None:
    """Have `EmbeddedRedis` and the fleets run the binaries that the environment names."""
    find = embedded._find_binary

    def find_named(prefer: ServerChoice) -> Path | None:
        # Where either will do, Valkey comes first.
        return named_binary(VARIABLES["valkey" if prefer == "auto" else prefer]) or find(prefer)

    embedded._find_binary = find_named
