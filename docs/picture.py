"""Make ``docs/assets/demo.svg``: what ``videopoll demo`` shows at its end, as a picture.

Run it after a change of the demo, with the extras ``cli`` and ``embedded``: ``python docs/picture.py``.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 112
PICTURE = Path(__file__).parent / "assets" / "demo.svg"
SHOW_CURSOR = "\x1b[?25h"
"""What a live table writes when it ends: all behind it stays on the screen."""


def main() -> None:
    """Run the demo, and draw its last screen."""
    shown = subprocess.run(
        [sys.executable, "-m", "videopoll", "demo"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
    ).stdout
    result = shown.rpartition(SHOW_CURSOR)[2].strip("\n")
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ videopoll demo", "bold"))
    console.print(Text.from_ansi(result))
    picture = console.export_svg(title="videopoll demo", unique_id="demo")
    # The font would be loaded from elsewhere; every browser has a font of its own.
    picture = re.sub(r"@font-face \{.*?\}\n?", "", picture, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    PICTURE.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
