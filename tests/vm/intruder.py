# SPDX-License-Identifier: GPL-2.0-only
"""
Tries to do to a request what only the host's root may do, and prints the results.

intruder.py DIRECTORY [SYSFS]    the request's directory; where to mount its own sysfs
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import kernel

SYSFS = Path("/sys")


def errno_of(action: Callable[..., object], *arguments: object) -> int:
    """The errno of an action, or 0 if it succeeded."""
    try:
        action(*arguments)
    except OSError as error:
        return error.errno or 255
    return 0


def write(path: Path, text: str, flags: int = 0) -> None:
    number = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(number, text.encode())
    finally:
        os.close(number)


def read(request: Path) -> None:
    for file in request.iterdir():
        file.read_text()


def attempts(request: Path, sysfs: Path) -> dict[str, Callable[[], object]]:
    """The actions to try on a request, as it appears in this sysfs."""
    timeout_ms = sysfs / kernel.TIMEOUT_MS.relative_to(SYSFS)
    tried: dict[str, Callable[[], object]] = {
        "set timeout_ms": partial(write, timeout_ms, "100"),
        "make a directory": (request / "intruder").mkdir,
        "remove the directory": request.rmdir,
    }
    # Before the mode changes below, which succeed for root.
    for file in ("fenced", "error"):
        tried[f"write {file}"] = partial(write, request / file, "1")
    for file in ("fenced", "error"):
        path = request / file
        tried |= {
            f"truncate {file}": partial(write, path, "", os.O_TRUNC),
            f"remove {file}": path.unlink,
            f"take {file}": partial(os.chown, path, os.getuid(), os.getgid()),
            f"open {file} to all": partial(path.chmod, 0o666),
        }
    return tried


def main(directory: str, own_sysfs: str = "") -> None:
    request = Path(directory)
    found = {
        "load a module": errno_of(kernel.load, kernel.LEADER_FILESYSTEM),
        "unload a module": errno_of(kernel.unload, kernel.FILESYSTEM),
        "the user id": os.getuid(),
        "read the request": errno_of(read, request),
    }
    found |= {name: errno_of(action) for name, action in attempts(request, SYSFS).items()}
    if own_sysfs:
        own = Path(own_sysfs)
        found["mount a sysfs"] = errno_of(kernel.mount, "sysfs", own, "")
        there = own / request.relative_to(SYSFS)
        found |= {
            f"{name} in its own sysfs": errno_of(action)
            for name, action in attempts(there, own).items()
        }
        found["read its own sysfs"] = errno_of(read, there)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
