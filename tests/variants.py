# SPDX-License-Identifier: GPL-2.0-only
"""Variant builds of the module, in a copy of its sources."""

import os
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MODULE = "scoutfs_fence.ko"


def copy_sources(folder: Path) -> None:
    """Copies sources but no build products, which make would consider up to date."""
    for name in ("Kbuild", "VERSION"):
        shutil.copy(TOP / name, folder)
    for part in ("include", "src"):
        ignored = shutil.ignore_patterns("*.o", ".*.cmd", "*_generated.rs")
        shutil.copytree(TOP / part, folder / part, ignore=ignored)


def build(kdir: Path, folder: Path, *variables: str) -> tuple[bool, str]:
    """Builds a folder; returns whether the build succeeded, and its output."""
    environment = {name: os.environ[name] for name in os.environ if "MAKE" not in name}
    made = subprocess.run(
        ["make", "-C", kdir, f"M={folder}", *variables, "modules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    return made.returncode == 0, made.stdout
