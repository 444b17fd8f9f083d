# SPDX-License-Identifier: GPL-2.0-only
"""The agent scoutfs-fenced; main.py begins with a map of it."""

from __future__ import annotations

from pathlib import Path


def version() -> str:
    """The version of module and agent, from the file VERSION beside this package."""
    path = Path(__file__).resolve().parents[1] / "VERSION"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "of unknown version"
