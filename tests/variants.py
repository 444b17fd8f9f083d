# SPDX-License-Identifier: GPL-2.0-only
"""Builds of the module that are not the one people get: in a copy of its sources."""

import os
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MODULE = "scoutfs_fence.ko"


def copy_sources(folder: Path) -> None:
    """Nothing that a build left, so that nothing is taken for up to date."""
    for name in ("Kbuild", "VERSION"):
        shutil.copy(TOP / name, folder)
    for part in ("include", "src"):
        ignored = shutil.ignore_patterns("*.o", ".*.cmd", "*_generated.rs")
        shutil.copytree(TOP / part, folder / part, ignore=ignored)


def build(kdir: Path, folder: Path, *variables: str) -> tuple[bool, str]:
    """Builds what is in a folder; whether that worked, and its output."""
    environment = {name: os.environ[name] for name in os.environ if "MAKE" not in name}
    made = subprocess.run(
        ["make", "-C", kdir, f"M={folder}", *variables, "modules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    return made.returncode == 0, made.stdout
