"""``python -m videopoll``: the same as the command ``videopoll``."""

from __future__ import annotations

from videopoll.cli import main

if __name__ == "__main__":
    main()
