"""The command ``videopoll``. It needs the extra ``cli``; the library itself does not."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

NEEDED = frozenset({"typer", "rich", "click", "shellingham"})


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    # Imports make many objects and hardly any garbage: looking for it took a tenth of the time to a worker's first poll.
    gc.disable()
    try:
        from videopoll.cli.app import build_app  # noqa: PLC0415 - the library must work without the extra

        app = build_app(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        sys.stderr.write("The command line needs a few more packages: pip install 'videopoll[cli]'\n")
        sys.exit(2)
    finally:
        gc.enable()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show an emoji gets its code: no reason to fail.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    app(prog_name="videopoll")
